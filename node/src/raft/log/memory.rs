//! The log in memory: the file's content with the queued changes applied, and how much of it is
//! durable. No IO.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::raft::entry_bytes;
use crate::raft::log::file::{Change, LogFile};
use crate::raft::peers::promises::Promise;
use crate::raft::types::{Entry, LogId, Vote};

/// Recent entries kept decoded in memory, bytes. Replication and apply normally read only these.
/// Entries that are not durable yet are kept regardless of their size.
const RECENT_BYTES_MAX: usize = 16 << 20;

pub struct Recent {
    pub entry: Entry,
    pub bytes: usize,
    /// The sequence number of the change that added the entry.
    pub sequence: u64,
}

/// The log as openraft sees it: the file's content with the queued changes applied.
pub struct Memory {
    pub file: Option<Arc<LogFile>>,
    pub failed: Option<String>,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    /// Not passed to the committer yet.
    pub committed_unsaved: Option<LogId>,
    pub purged: Option<LogId>,
    /// Index of the first entry. If there is none, the index of the next one.
    pub first: u64,
    pub last: Option<LogId>,
    /// Contiguous, up to `last`. The entries from `first` to its first key are only in the file.
    pub recent: BTreeMap<u64, Recent>,
    pub recent_bytes: usize,
    pub sequence: u64,
    pub durable_sequence: u64,
    pub flushed: Flushed,
}

/// The durable state, which may have been acknowledged to others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    pub vote: Option<Vote>,
    /// Index of the last entry, or of the last purged one.
    pub last: Option<u64>,
    /// The last entry, unless it was truncated since.
    pub tail: Option<LogId>,
}

impl Flushed {
    /// The state that this node must never lose again.
    pub fn promise(&self) -> Option<Promise> {
        self.vote.map(|vote| Promise::new(vote, self.tail))
    }

    pub fn note(&mut self, change: &Change) {
        match change {
            Change::Vote(vote) => self.vote = Some(*vote),
            Change::Append(entries) => {
                let last = entries.last().map(|entry| entry.log_id);
                self.last = last.map(|last| last.index).or(self.last);
                self.tail = last.or(self.tail);
            }
            Change::TruncateFrom(index) => {
                self.last = self.last.min(index.checked_sub(1));
                self.tail = self.tail.filter(|tail| tail.index < *index);
            }
            Change::Purge(id) => {
                self.last = self.last.max(Some(id.index));
                self.tail = self.tail.max(Some(*id));
            }
            Change::Committed(_) => {}
        }
    }
}

impl Memory {
    pub fn refuse_if_failed(&self) -> io::Result<()> {
        match &self.failed {
            Some(why) => Err(io::Error::other(format!("the raft log has stopped: {why}"))),
            None => Ok(()),
        }
    }

    pub fn append(&mut self, entries: &[Entry], sequence: u64) -> io::Result<()> {
        for entry in entries {
            let index = entry.log_id.index;
            // An empty log accepts any first entry. When the file is opened again, it must begin at
            // zero or follow the purged entries.
            let expected = self.last.map_or(index, |last| last.index + 1);
            if self.last.is_none() {
                self.first = index;
            }
            if index != expected {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("append of raft log entry {index} where {expected} should follow"),
                ));
            }
            let bytes = entry_bytes(entry);
            self.recent.insert(index, Recent { entry: entry.clone(), bytes, sequence });
            self.recent_bytes += bytes;
            self.last = Some(entry.log_id);
        }
        Ok(())
    }

    pub fn truncate_after(&mut self, last: Option<LogId>) -> u64 {
        let from = last.map_or(0, |last| last.index + 1);
        for removed in self.recent.split_off(&from).values() {
            self.recent_bytes -= removed.bytes;
        }
        if self.last.is_some_and(|current| current.index >= from) {
            self.last = last.or(self.purged);
        }
        from
    }

    pub fn purge(&mut self, upto: LogId) {
        let kept = self.recent.split_off(&(upto.index + 1));
        self.recent = kept;
        self.recent_bytes = self.recent.values().map(|recent| recent.bytes).sum();
        self.purged = Some(upto);
        self.first = upto.index + 1;
        if self.last.is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
        }
    }

    pub fn forget_old(&mut self) {
        while self.recent_bytes > RECENT_BYTES_MAX {
            match self.recent.first_entry() {
                Some(first) if first.get().sequence <= self.durable_sequence => {
                    self.recent_bytes -= first.remove().bytes;
                }
                _ => break,
            }
        }
    }

    pub fn recent_entries(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let mut entries = Vec::new();
        if start < end {
            for recent in self.recent.range(start..end).map(|(_, recent)| recent) {
                entries.push(recent.entry.clone());
                bytes += recent.bytes;
                if bytes >= bytes_max {
                    break;
                }
            }
        }
        entries
    }
}
