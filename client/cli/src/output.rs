//! Data to stdout, words to stderr; one JSON document where `--json` asks for it.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use bytesize::ByteSize;
use serde::Serialize;

use crate::exit::Failure;
use crate::foreign;

/// Where and in which form a verb speaks.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
    pub quiet: bool,
}

impl Output {
    /// Prints the verb's result: `document` as JSON, or `text` for people.
    pub fn result(
        &self,
        document: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.json {
            true => print(&encode(document)?),
            false => print(&foreign::lines(&text())),
        }
    }

    /// Words about what is happening. Nobody depends on them, so nobody hears if they fail.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", foreign::lines(text.as_ref()));
        }
    }

    pub fn is_terminal(&self) -> bool {
        std::io::stderr().is_terminal() && !self.json && !self.quiet
    }
}

/// A document as it is printed: its fields in alphabetical order, in which people find them, however
/// the code that makes it orders them.
pub fn encode(document: &impl Serialize) -> Result<String, Failure> {
    let document = serde_json::to_value(document).context("encode JSON")?;
    Ok(foreign::json(&format!("{document:#}")))
}

/// Writes a result to stdout. The reader of a pipe may have seen enough and gone; any other failed
/// write is a result that is lost, and an error.
pub fn print(text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    written(
        out.write_all(text.as_bytes())
            .and_then(|()| out.write_all(end.as_bytes()))
            .and_then(|()| out.flush()),
    )
}

/// What became of a write to stdout.
pub fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.context("write to stdout")?),
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

/// Lays rows out in columns separated by two spaces; the last column is not padded. A cell is one
/// line, whatever it holds.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| foreign::text(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width_of(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
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

/// The last millisecond that has four digits for its year.
const WALL_MS_MAX: u64 = 253_402_300_799_999;

/// A wall-clock label as `2026-11-21T19:20:00Z`. A clock may be wrong by any number of years.
pub fn wall_time(wall_ms: u64) -> String {
    let wall_ms = wall_ms.min(WALL_MS_MAX);
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(wall_ms);
    humantime::format_rfc3339_seconds(time).to_string()
}
