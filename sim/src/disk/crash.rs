//! The state of a simulated disk after a crash.
//!
//! A job in flight has done a prefix of its operations, chosen by the seed. After a killed process
//! the page cache survives. After a power cut un-synced bytes are lost, kept, or torn, and
//! un-synced names survive as a prefix, in order, of each directory's changes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::content::{Content, SECTOR};
use super::state::{Did, File, Inode, Running, Seq, Tree, Write, apply_entry, apply_write};
use crate::seed::Stream;
use crate::trace;

/// How a process is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process dies, the machine lives: all written bytes stay.
    Kill,
    /// The machine loses power: the seed decides which un-synced changes survive.
    Power,
}

impl Tree {
    pub fn crash(&mut self, how: Crash, chance: &mut Stream) {
        self.running = None;
        let unsynced = self.inodes.values().any(|inode| match inode {
            Inode::File(file) => !file.pending.is_empty(),
            Inode::Dir(dir) => !dir.pending.is_empty(),
        });
        trace::count("disk.crashes_with_unsynced", unsynced.into());
        let dropped = self.cut_jobs(chance);
        self.forget(&dropped);
        if how == Crash::Power {
            self.lose_names(chance);
            self.lose_bytes(chance);
        }
        for inode in self.inodes.values_mut() {
            if let Inode::File(file) = inode {
                file.handles = 0;
            }
        }
        self.collect();
    }

    /// Chooses how long a prefix of its operations each job in flight has done. Returns the changes
    /// that never happened.
    fn cut_jobs(&mut self, chance: &mut Stream) -> BTreeSet<Seq> {
        let mut dropped = BTreeSet::new();
        let mut syncs = BTreeMap::new();
        for (_, Running { ops, done }) in std::mem::take(&mut self.jobs) {
            let open = ops.len() - done;
            let kept = done + chance.below(open as u64 + 1) as usize;
            trace::count("disk.jobs_cut", u64::from(kept < ops.len()));
            for (place, (seq, did)) in ops.into_iter().enumerate() {
                match did {
                    Did::Sync(ino) if place < kept => drop(syncs.insert(seq, ino)),
                    Did::Change if place >= kept => drop(dropped.insert(seq)),
                    _ => {}
                }
            }
        }
        for (seq, ino) in syncs {
            self.flush(ino, seq, &dropped);
        }
        dropped
    }

    /// Removes changes that never happened from the pending lists and the current view.
    fn forget(&mut self, dropped: &BTreeSet<Seq>) {
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::File(file) => {
                    let before = file.pending.len();
                    file.pending.retain(|pending| !dropped.contains(&pending.seq));
                    if file.pending.len() < before {
                        file.current = file.durable.clone();
                        for pending in &file.pending {
                            apply_write(&mut file.current, &pending.change);
                        }
                    }
                }
                Inode::Dir(dir) => {
                    let before = dir.pending.len();
                    dir.pending.retain(|pending| !dropped.contains(&pending.seq));
                    if dir.pending.len() < before {
                        dir.current = dir.durable.clone();
                        for pending in &dir.pending {
                            apply_entry(&mut dir.current, &pending.change);
                        }
                    }
                }
            }
        }
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::File(file) => file.pending.iter_mut().for_each(|it| it.job = None),
                Inode::Dir(dir) => dir.pending.iter_mut().for_each(|it| it.job = None),
            }
        }
    }

    fn lose_names(&mut self, chance: &mut Stream) {
        let waiting: Vec<_> = (self.inodes.iter())
            .filter_map(|(ino, inode)| match inode {
                Inode::Dir(dir) if !dir.pending.is_empty() => Some(*ino),
                _ => None,
            })
            .collect();
        for ino in &waiting {
            let Some(Inode::Dir(dir)) = self.inodes.get(ino) else { continue };
            let kept = chance.below(dir.pending.len() as u64 + 1) as usize;
            let last = kept.checked_sub(1).and_then(|place| dir.pending.get(place));
            if let Some(before) = last.map(|pending| pending.seq + 1) {
                self.flush(*ino, before, &BTreeSet::new());
            }
        }
        for inode in self.inodes.values_mut() {
            if let Inode::Dir(dir) = inode {
                trace::count("disk.lost_names", dir.pending.len() as u64);
                dir.pending.clear();
                dir.current = dir.durable.clone();
            }
        }
    }

    fn lose_bytes(&mut self, chance: &mut Stream) {
        for inode in self.inodes.values_mut() {
            if let Inode::File(file) = inode {
                file.lose_bytes(chance);
            }
        }
    }
}

impl File {
    fn lose_bytes(&mut self, chance: &mut Stream) {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            let mode = chance.below(5);
            let cut = chance.below(pending.len() as u64) as usize;
            for (place, pending) in pending.into_iter().enumerate() {
                let kept = match mode {
                    0 => false,
                    1 => true,
                    2 | 3 => chance.chance(0.5),
                    _ => place < cut,
                };
                match (&pending.change, mode) {
                    (Write::Bytes { offset, bytes }, 3) => {
                        tear_sectors(&mut self.durable, *offset, bytes, chance);
                    }
                    (Write::Bytes { offset, bytes }, 4) if place == cut => {
                        let len = chance.below(bytes.len() as u64 + 1) as usize;
                        self.durable.write(*offset, &bytes.slice(..len));
                        trace::count("disk.torn_writes", 1);
                    }
                    (change, _) if kept => apply_write(&mut self.durable, change),
                    _ => trace::count("disk.lost_writes", 1),
                }
            }
        }
        self.current = self.durable.clone();
    }
}

/// Writes or leaves out each 512-byte sector of a write, at random.
fn tear_sectors(content: &mut Content, offset: u64, bytes: &Bytes, chance: &mut Stream) {
    let (mut at, mut kept, mut lost) = (0, 0, 0);
    while at < bytes.len() {
        let room = SECTOR - (offset + at as u64) % SECTOR;
        let len = (room as usize).min(bytes.len() - at);
        if chance.chance(0.5) {
            content.write(offset + at as u64, &bytes.slice(at..at + len));
            kept += 1;
        } else {
            lost += 1;
        }
        at += len;
    }
    if kept > 0 && lost > 0 {
        trace::count("disk.torn_writes", 1);
    } else if lost > 0 {
        trace::count("disk.lost_writes", 1);
    }
}
