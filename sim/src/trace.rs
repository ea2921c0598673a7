//! The record of a run: one line per event, a rolling hash over all lines, and counters.
//!
//! A line is `virtual ms.us | process | kind | detail`. Two runs of a seed must give the same hash
//! (S1). If they differ, the first different line of two trace files shows where a source of
//! randomness was missed. Everything is thread-local: a run lives on one thread, and several runs
//! may be active in one process.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines kept for the watchdog.
const TAIL_LINES: usize = 40;
/// Lines kept from before the first broken promise.
const STORY_LINES: usize = 30;
/// The kinds of events in these lines.
const STORY_KINDS: [&str; 9] =
    ["fault", "does", "failed", "start", "crash", "ends", "leads", "calm", VIOLATION];
/// The kind of a broken promise's event.
pub const VIOLATION: &str = "VIOLATION";

/// Counters by name, e.g. `disk.torn_writes`.
pub type Counters = BTreeMap<&'static str, u64>;

/// The last lines of a run, shared with its watchdog.
pub(crate) type Tail = Arc<Mutex<VecDeque<String>>>;

#[derive(Default)]
struct Trace {
    start: Option<Instant>,
    /// Virtual microseconds of the latest event. Events after the end of the runtime get this time.
    last_us: u64,
    hasher: blake3::Hasher,
    lines: u64,
    file: Option<BufWriter<File>>,
    tail: Tail,
    counters: Counters,
    story: VecDeque<String>,
    /// A promise is broken, so no more story lines are added.
    told: bool,
    faults: Vec<(u32, String)>,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::new(Trace::default());
}

/// A summary of a finished run's trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// First 16 hex digits of the BLAKE3 of all lines.
    pub hash: String,
    pub lines: u64,
    pub counters: Counters,
    pub tail: Vec<String>,
    /// The last faults and actions up to the first broken promise.
    pub story: Vec<String>,
    /// Faults that happened: ordinal, time and description.
    pub faults: Vec<(u32, String)>,
}

/// Clears the previous run on this thread. A trace file begins with `head`.
pub(crate) fn reset(file: Option<&Path>, head: &str) -> std::io::Result<Tail> {
    let mut file = file.map(File::create).transpose()?.map(BufWriter::new);
    if let Some(file) = &mut file {
        writeln!(file, "{head}")?;
    }
    let tail = Tail::default();
    let fresh = Trace { file, tail: tail.clone(), ..Trace::default() };
    TRACE.with_borrow_mut(|trace| *trace = fresh);
    Ok(tail)
}

/// Marks virtual time zero; called inside the run's runtime.
pub(crate) fn start_clock() {
    TRACE.with_borrow_mut(|trace| trace.start = Some(Instant::now()));
}

/// Stops reading the clock, because outside the runtime it would be the machine's clock.
pub(crate) fn stop_clock() {
    let now = now_us();
    TRACE.with_borrow_mut(|trace| {
        trace.last_us = now;
        trace.start = None;
    });
}

/// Closes the run's trace and returns its summary.
pub(crate) fn finish() -> Summary {
    TRACE.with_borrow_mut(|trace| {
        if let Some(mut file) = trace.file.take() {
            let _ = file.flush();
        }
        Summary {
            hash: trace.hasher.finalize().to_hex()[..16].to_owned(),
            lines: trace.lines,
            counters: trace.counters.clone(),
            tail: trace.tail.lock().iter().cloned().collect(),
            story: std::mem::take(&mut trace.story).into(),
            faults: std::mem::take(&mut trace.faults),
        }
    })
}

/// Virtual microseconds since the run began.
pub fn now_us() -> u64 {
    TRACE.with_borrow(|trace| match trace.start {
        Some(start) => u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        None => trace.last_us,
    })
}

/// Records an event. It is part of the hash, so `detail` must depend only on the seed.
pub fn event(process: &str, kind: &str, detail: fmt::Arguments<'_>) {
    let line = stamp(process, kind, detail);
    TRACE.with_borrow_mut(|trace| {
        trace.hasher.update(line.as_bytes());
        trace.hasher.update(b"\n");
        trace.lines += 1;
        trace.tell(kind, &line);
        trace.keep(line);
    });
}

/// Records a fault of the plan.
pub fn fault(ordinal: u32, detail: fmt::Arguments<'_>) {
    event("world", "fault", format_args!("#{ordinal} {detail}"));
    let text = format!("{} ms: {detail}", now_us() / 1000);
    TRACE.with_borrow_mut(|trace| trace.faults.push((ordinal, text)));
}

/// Writes to the trace file and the tail, but not to the hash. For log lines and remarks.
pub fn remark(process: &str, kind: &str, detail: fmt::Arguments<'_>) {
    let line = stamp(process, kind, detail);
    TRACE.with_borrow_mut(|trace| trace.keep(line));
}

/// Adds to a counter of real events (S2: faults that never happen prove nothing).
pub fn count(name: &'static str, more: u64) {
    if more > 0 {
        TRACE.with_borrow_mut(|trace| *trace.counters.entry(name).or_default() += more);
    }
}

/// A counter's value in the current run.
pub fn counter(name: &str) -> u64 {
    TRACE.with_borrow(|trace| trace.counters.get(name).copied().unwrap_or(0))
}

/// A short fingerprint of bytes for a trace line.
pub fn fingerprint(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..8].to_owned()
}

fn stamp(process: &str, kind: &str, detail: fmt::Arguments<'_>) -> String {
    let us = now_us();
    format!("{}.{:03} | {process} | {kind} | {detail}", us / 1000, us % 1000)
}

impl Trace {
    fn tell(&mut self, kind: &str, line: &str) {
        if self.told || !STORY_KINDS.contains(&kind) {
            return;
        }
        if self.story.len() == STORY_LINES {
            self.story.pop_front();
        }
        self.story.push_back(line.to_owned());
        self.told = kind == VIOLATION;
    }

    fn keep(&mut self, line: String) {
        if let Some(file) = &mut self.file {
            // A full disk of the developer's machine must not change the run.
            let _ = writeln!(file, "{line}");
        }
        let mut tail = self.tail.lock();
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_covers_events_but_not_remarks_and_reset_forgets() {
        let run = |extra: bool, detail: u32| {
            reset(None, "").unwrap();
            event("n1", "free", format_args!("{detail}"));
            if extra {
                remark("n1", "log", format_args!("hello"));
            }
            count("faults", 1);
            finish()
        };
        let first = run(false, 1);
        assert_eq!(first.hash, run(true, 1).hash);
        assert_ne!(first.hash, run(false, 2).hash);
        assert_eq!((first.lines, first.counters["faults"]), (1, 1));
    }
}
