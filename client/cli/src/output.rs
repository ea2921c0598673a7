//! Data to stdout, words to stderr; one JSON document where `--json` asks for it.

use std::io::{IsTerminal, Write};

use bytesize::ByteSize;
use serde::Serialize;

/// Where and in which form a verb speaks.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
    pub quiet: bool,
}

impl Output {
    /// Prints the verb's result: `document` as JSON, or `text` for people. A closed pipe is not
    /// an error.
    pub fn result(&self, document: &impl Serialize, text: impl FnOnce() -> String) {
        let mut line = if self.json {
            serde_json::to_string_pretty(document)
                .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
        } else {
            text()
        };
        if line.is_empty() {
            return;
        }
        if !line.ends_with('\n') {
            line.push('\n');
        }
        let _ = std::io::stdout().write_all(line.as_bytes());
    }

    /// Words about what is happening.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
        }
    }

    pub fn is_terminal(&self) -> bool {
        std::io::stderr().is_terminal() && !self.json && !self.quiet
    }
}

/// `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    ByteSize::b(count).display().iec().to_string()
}

/// `1 file`, `2 files`.
pub fn plural(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Lays rows out in columns separated by two spaces; the last column is not padded.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width_of(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                let pad = widths[column].saturating_sub(cell.chars().count()) + 2;
                line.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A wall-clock label as `2026-11-21T19:20:00Z`.
pub fn wall_time(wall_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(wall_ms);
    humantime::format_rfc3339_seconds(time).to_string()
}
