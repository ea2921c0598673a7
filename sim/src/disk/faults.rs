//! Faults that a scenario switches on: the failing operations, their place, and their number.

use std::io;

use crate::seed::Stream;
use crate::trace;

/// The operations that a fault affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Read,
    /// Bytes and lengths.
    Write,
    /// `sync` and `sync_dir`.
    Sync,
    /// Create, rename, remove, list.
    Names,
    Any,
}

/// An operation fails with EIO.
///
/// A failed sync of a file is modelled as in the worst case: the kernel drops the dirty pages. So
/// the bytes are still read back, a later sync succeeds, and a power cut removes them.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Affects paths with this prefix. "" means every path.
    pub prefix: String,
    pub on: On,
    pub probability: f64,
    /// Most times that the fault happens.
    pub times: Option<u32>,
}

#[derive(Default)]
pub(super) struct Faults {
    pub rules: Vec<Fault>,
    /// Bytes of space. `None` means enough for all runs.
    pub capacity: Option<u64>,
    /// Bytes that may be used, independent of the space that the disk reports.
    pub quota: Option<u64>,
    /// Jobs take this many times longer.
    pub slow: f64,
    /// Jobs do not end.
    pub stuck: bool,
    /// How many times the disk got stuck.
    pub stuck_times: u64,
    /// From this operation on, all operations fail.
    pub dead_from: Option<u64>,
    /// The next write to a path with this prefix is written one page further on.
    pub misdirect: Option<String>,
}

/// Space of a disk without a set capacity.
pub(super) const PLENTY: u64 = 1 << 40;

impl Faults {
    pub fn check(&mut self, op: u64, on: On, path: &str, chance: &mut Stream) -> io::Result<()> {
        if self.dead_from.is_some_and(|from| op >= from) {
            trace::count("disk.dead_ops", 1);
            return Err(eio());
        }
        for rule in &mut self.rules {
            let meant = rule.on == On::Any || rule.on == on;
            let left = rule.times.is_none_or(|times| times > 0);
            if meant && left && path.starts_with(&rule.prefix) && chance.chance(rule.probability) {
                rule.times = rule.times.map(|times| times - 1);
                trace::count(
                    match on {
                        On::Read => "disk.eio_read",
                        On::Write => "disk.eio_write",
                        On::Sync => "disk.eio_sync",
                        _ => "disk.eio_names",
                    },
                    1,
                );
                return Err(eio());
            }
        }
        Ok(())
    }

    /// Whether `used` bytes exceed a limit.
    pub fn is_full(&self, used: u64) -> bool {
        [self.capacity, self.quota].into_iter().flatten().any(|most| used > most)
    }

    pub fn has_bound(&self) -> bool {
        self.capacity.is_some() || self.quota.is_some()
    }
}

pub(super) fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

pub(super) fn enospc() -> io::Error {
    io::Error::from_raw_os_error(28)
}
