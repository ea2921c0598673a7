//! Progress of long work: a bar with rate and time left on a terminal, a plain line every few
//! seconds elsewhere, nothing where silence was asked for.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::output::{Output, bytes};

/// How often a plain line is printed.
const LINE_PERIOD: Duration = Duration::from_secs(5);
/// How often the numbers are looked at.
pub const LOOK_PERIOD: Duration = Duration::from_millis(100);

pub struct Progress {
    output: Output,
    label: String,
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
}

impl Progress {
    pub fn new(output: Output, label: &str) -> Self {
        let bar = output.is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let form = "{prefix} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
            if let Ok(style) = ProgressStyle::with_template(form) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(label.to_owned());
            bar
        });
        let now = Instant::now();
        Self { output, label: label.to_owned(), bar, started: now, last_line: now }
    }

    /// Shows `done` of `total` bytes.
    pub fn show(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            return;
        }
        if self.output.json || self.last_line.elapsed() < LINE_PERIOD || total == 0 {
            return;
        }
        self.last_line = Instant::now();
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = done as f64 / seconds.max(0.001);
        let left = if rate > 0.0 { (total.saturating_sub(done)) as f64 / rate } else { 0.0 };
        self.output.say(format!(
            "{}: {} of {} ({}%), {}/s, {left:.0} s left",
            self.label,
            bytes(done),
            bytes(total),
            done * 100 / total,
            bytes(rate as u64),
        ));
    }

    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
