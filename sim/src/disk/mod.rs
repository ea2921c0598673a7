//! A disk that distinguishes written from durable bytes, and the faults that a scenario can put on
//! it.
//!
//! The disk outlives the processes that use it. A process sees it through a [`Mount`], which ends
//! with the process's life. The scenario and the checkers hold the [`SimDisk`] itself.
//!
//! ```text
//!   job closure --ops--> current view --settled sync--> durable view
//!                           |  pending bytes, names         ^
//!                           +------ crash: lost, kept, torn +
//! ```

mod content;
mod crash;
mod faults;
mod mount;
mod state;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::crash::Crash;
pub use self::faults::{Fault, On};
pub use self::mount::Mount;
pub use self::state::{JobCost, JobId};

use self::faults::Faults;
use self::state::{File, Ino, Inode, ROOT, Tree, Write};
use crate::seed::Stream;
use crate::trace;

/// Different disks have different inode numbers, so that a copied directory can be detected.
const INODES_A_DISK: u64 = 1 << 32;

/// One disk. Cheap to clone. All clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    pub name: Arc<str>,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

struct State {
    tree: Tree,
    faults: Faults,
    generation: u64,
    /// Operations since the disk was made.
    ops: u64,
    /// The number of names made, moved or removed so far.
    names: u64,
    last_written: Bytes,
    /// The cost of the running job.
    cost: JobCost,
    /// A hash of all its operations: kind, path, bytes.
    doings: DefaultHasher,
    inode_base: u64,
    /// The number of failed syncs, and whether one failed in this life.
    failed_syncs: u64,
    sync_failed: bool,
    /// A change of names failed in this life.
    name_failed: bool,
    /// Files that a misdirected write hit.
    misdirected: BTreeSet<u64>,
    chance_faults: Stream,
    chance_crash: Stream,
    chance_time: Stream,
}

impl SimDisk {
    /// An empty disk. `number` makes its inode numbers different from other disks'.
    pub fn new(name: &str, number: u32, chance: &Stream) -> Self {
        Self::with_tree(name, number, chance, Tree::new())
    }

    fn with_tree(name: &str, number: u32, chance: &Stream, tree: Tree) -> Self {
        let state = State {
            tree,
            faults: Faults { slow: 1.0, ..Faults::default() },
            generation: 1,
            ops: 0,
            names: 0,
            last_written: Bytes::new(),
            cost: JobCost::default(),
            doings: DefaultHasher::new(),
            inode_base: u64::from(number) * INODES_A_DISK,
            failed_syncs: 0,
            sync_failed: false,
            name_failed: false,
            misdirected: BTreeSet::new(),
            chance_faults: chance.fork("faults"),
            chance_crash: chance.fork("crash"),
            chance_time: chance.fork("time"),
        };
        Self {
            name: name.into(),
            state: Arc::new(Mutex::new(state)),
            changed: Arc::new(Notify::new()),
        }
    }

    /// The disk as the current life of its process sees it.
    pub fn mount(&self) -> Mount {
        Mount::new(self)
    }

    /// The result of `cp -a` to another disk: the same files with other inode numbers.
    pub fn copy(&self, name: &str, number: u32, chance: &Stream) -> Self {
        let state = self.state.lock();
        let mut tree = Tree::new();
        copy_dir(&state.tree, ROOT, &mut tree, ROOT);
        let everything: Vec<u64> = tree.inodes.keys().copied().collect();
        let end = tree.next_seq();
        for ino in everything {
            tree.flush(ino, end, &BTreeSet::new());
        }
        Self::with_tree(name, number, chance, tree)
    }

    /// An older state of this same disk, to replace it later (a volume rolled back). It has the
    /// data that is durable now, including inode numbers.
    pub fn image(&self, chance: &Stream) -> Self {
        let state = self.state.lock();
        let image = Self::with_tree(&self.name, 0, chance, state.tree.harshest());
        image.state.lock().inode_base = state.inode_base;
        image
    }

    /// The same disk in another process's place, with that process's name.
    pub fn named(&self, name: &str) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    /// An empty disk under the old name. Earlier mounts return errors.
    pub fn wipe(&self) {
        let mut state = self.state.lock();
        state.tree = Tree::new();
        state.misdirected.clear();
        state.generation += 1;
        trace::count("disk.wipes", 1);
    }

    /// Ends the life that uses the disk. The world calls it after it has ended the life's tasks.
    ///
    /// After a failed sync the page cache holds bytes that are lost, and it is unknown which. So
    /// the next life finds the state that a power cut leaves.
    pub fn crash(&self, how: Crash) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.generation += 1;
        state.name_failed = false;
        let how = if std::mem::take(&mut state.sync_failed) { Crash::Power } else { how };
        state.tree.crash(how, &mut state.chance_crash);
        drop(guard);
        self.changed.notify_waiters();
    }
}

/// Faults.
impl SimDisk {
    pub fn add_fault(&self, fault: Fault) {
        self.state.lock().faults.rules.push(fault);
    }

    /// Ends EIO faults, a quota, death, stuckness and slowness. Damaged bytes and the capacity
    /// stay.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        let Faults { capacity, stuck_times, .. } = state.faults;
        state.faults = Faults { slow: 1.0, capacity, stuck_times, ..Faults::default() };
        drop(state);
        self.changed.notify_waiters();
    }

    /// Bytes of space. `None` means enough for all runs.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().faults.capacity = bytes;
    }

    /// Only this many bytes can be used, and the disk does not report it: it still reports its
    /// whole free space, as under a user's quota.
    pub fn set_quota(&self, bytes: u64) {
        self.state.lock().faults.quota = Some(bytes);
    }

    /// Jobs take `factor` times as long.
    pub fn set_slow(&self, factor: f64) {
        self.state.lock().faults.slow = factor;
    }

    /// Jobs do not end until this is switched off.
    pub fn set_stuck(&self, stuck: bool) {
        let mut state = self.state.lock();
        state.faults.stuck_times += u64::from(stuck);
        state.faults.stuck = stuck;
        drop(state);
        trace::count("disk.stuck", u64::from(stuck));
        self.changed.notify_waiters();
    }

    pub fn is_stuck(&self) -> bool {
        self.state.lock().faults.stuck
    }

    /// The number of the current stuck period. `None` if the disk is not stuck.
    pub fn stuck_time(&self) -> Option<u64> {
        let state = self.state.lock();
        state.faults.stuck.then_some(state.faults.stuck_times)
    }

    /// After `ops` more operations, all operations fail.
    pub fn die_after(&self, ops: u64) {
        let mut state = self.state.lock();
        state.faults.dead_from = Some(state.ops + 1 + ops);
    }

    /// The next write to a path that begins with `prefix` is written one page further on.
    pub fn misdirect_next(&self, prefix: &str) {
        self.state.lock().faults.misdirect = Some(prefix.to_owned());
    }

    /// Whether a misdirected write hit the file at a path, or the file of that name that was moved
    /// from there to quarantine.
    pub fn is_misdirected(&self, path: &str) -> bool {
        let state = self.state.lock();
        if state.misdirected.is_empty() {
            return false;
        }
        let aside = path.rsplit('/').next().map(|name| format!("{name}."));
        let quarantine = state.tree.find("quarantine").and_then(|ino| state.tree.inodes.get(&ino));
        let moved = match (quarantine, aside) {
            (Some(Inode::Dir(dir)), Some(aside)) => {
                let named = dir.current.range(aside.clone()..);
                named
                    .take_while(|(name, _)| name.starts_with(&aside))
                    .map(|(_, ino)| *ino)
                    .collect()
            }
            _ => Vec::new(),
        };
        let mut files = state.tree.find(path).into_iter().chain(moved);
        files.any(|ino| state.misdirected.contains(&ino))
    }

    /// Paths of the files that misdirected writes hit.
    pub fn misdirected(&self) -> Vec<String> {
        let mut paths = self.paths();
        paths.retain(|path| path.starts_with("segments/") && self.is_misdirected(path));
        paths
    }

    /// From now on files that misdirected writes hit must be sound.
    pub fn forget_misdirected(&self) {
        self.state.lock().misdirected.clear();
    }

    /// Removes a file's name durably, as an operator's wrong `rm` or a file system check does.
    /// False if there is no such file.
    pub fn vanish(&self, path: &str) -> bool {
        if self.take_name(path).is_none() {
            return false;
        }
        trace::count("disk.vanished_files", 1);
        true
    }

    /// Moves a file to another directory durably, as an operator's `mv` does. False if there is no
    /// such file or directory.
    pub fn move_by_hand(&self, from: &str, to: &str) -> bool {
        let Some(file) = self.take_name(from) else { return false };
        let mut state = self.state.lock();
        let (dir, name) = to.rsplit_once('/').unwrap_or(("", to));
        let Some(ino) = state.tree.find(dir) else { return false };
        let Some(Inode::Dir(dir)) = state.tree.inodes.get_mut(&ino) else { return false };
        dir.current.insert(name.to_owned(), file);
        dir.durable.insert(name.to_owned(), file);
        state.names += 1;
        trace::count("disk.moved_files", 1);
        true
    }

    fn take_name(&self, path: &str) -> Option<Ino> {
        let mut state = self.state.lock();
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let ino = state.tree.find(dir)?;
        let Some(Inode::Dir(dir)) = state.tree.inodes.get_mut(&ino) else { return None };
        let file = dir.current.remove(name)?;
        dir.durable.remove(name);
        for pending in &mut dir.pending {
            pending.change.inserted.take_if(|(inserted, _)| inserted == name);
        }
        state.names += 1;
        Some(file)
    }

    /// Flips one bit of a file, in the page cache and on the medium. False if the file has no such
    /// byte.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        let mut state = self.state.lock();
        let Some(ino) = state.tree.find(path) else { return false };
        let Some(Inode::File(file)) = state.tree.inodes.get_mut(&ino) else { return false };
        let mut byte = [0];
        if !file.current.read(offset, &mut byte) {
            return false;
        }
        let flip = |byte: u8| Bytes::from(vec![byte ^ (1 << (bit % 8))]);
        file.current.write(offset, &flip(byte[0]));
        if file.durable.read(offset, &mut byte) {
            file.durable.write(offset, &flip(byte[0]));
        }
        trace::count("disk.flipped_bits", 1);
        true
    }
}

/// Functions for checkers and scenarios. No fault affects them.
impl SimDisk {
    /// A file's bytes as a process would read them.
    pub fn peek(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        match state.tree.inodes.get(&state.tree.find(path)?)? {
            Inode::File(file) => Some(file.current.bytes()),
            Inode::Dir(_) => None,
        }
    }

    /// A file's bytes after the worst possible power cut, if its name survives.
    pub fn peek_durable(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        match state.tree.inodes.get(&state.tree.find_durable(path)?)? {
            Inode::File(file) => Some(file.durable.bytes()),
            Inode::Dir(_) => None,
        }
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut paths = Vec::new();
        list_paths(&state.tree, ROOT, &mut String::new(), &mut paths);
        paths.sort();
        paths
    }

    /// Identity of the file at a path. It changes only if the file is replaced.
    pub fn file_id(&self, path: &str) -> Option<u64> {
        self.state.lock().tree.find(path)
    }

    /// How many lives of processes that used this disk have ended.
    pub fn crashes(&self) -> u64 {
        self.state.lock().generation
    }

    /// Jobs whose effects are not settled. A crash now cuts them short.
    pub fn jobs_in_flight(&self) -> usize {
        self.state.lock().tree.jobs.len()
    }

    /// Whether a fault made a change of names fail since the process started.
    pub fn has_failed_names(&self) -> bool {
        self.state.lock().name_failed
    }

    /// The number of syncs that a fault made fail.
    pub fn failed_syncs(&self) -> u64 {
        self.state.lock().failed_syncs
    }

    pub fn names(&self) -> u64 {
        self.state.lock().names
    }

    pub fn bytes_used(&self) -> u64 {
        self.state.lock().tree.used()
    }
}

/// For the host that runs jobs.
impl SimDisk {
    pub(crate) fn begin_job(&self) -> JobId {
        let mut state = self.state.lock();
        state.cost = JobCost::default();
        state.doings = DefaultHasher::new();
        state.tree.begin_job()
    }

    /// The closure has returned. Returns its cost, a fingerprint of its operations, and its virtual
    /// time.
    pub(crate) fn end_job(&self) -> (JobCost, u64, Duration) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.tree.running = None;
        let cost = std::mem::take(&mut state.cost);
        let time = job_time(&cost, state.faults.slow, &mut state.chance_time);
        (cost, state.doings.finish(), time)
    }

    pub(crate) fn settle(&self, job: JobId) {
        self.state.lock().tree.settle(job);
    }

    /// Resolves when the disk is not stuck.
    pub(crate) async fn unstuck(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.state.lock().faults.stuck {
                return;
            }
            changed.await;
        }
    }
}

/// A fast SSD with occasional delays: a sync takes 0.3 to 4 ms, and one of fifty up to 60 ms.
fn job_time(cost: &JobCost, slow: f64, chance: &mut Stream) -> Duration {
    let mut us = cost.reads * 80 + cost.writes * 20 + cost.names * 30;
    us += cost.bytes_read / 2_000 + cost.bytes_written / 1_000;
    // After the first few, syncs of one job have little left to write.
    for _ in 0..cost.syncs.min(4) {
        us += chance.range(300..4_000);
        if chance.chance(0.02) {
            us += chance.below(56_000);
        }
    }
    Duration::from_micros((us as f64 * slow) as u64)
}

fn copy_dir(from: &Tree, dir: u64, to: &mut Tree, into: u64) {
    let Some(Inode::Dir(names)) = from.inodes.get(&dir) else { return };
    for (name, ino) in &names.current {
        match from.inodes.get(ino) {
            Some(Inode::File(file)) => {
                let copy = to.create(into, name, Inode::File(File::default()));
                let bytes = file.current.bytes().into();
                to.write(copy, Write::Bytes { offset: 0, bytes });
            }
            Some(Inode::Dir(_)) => {
                let copy = to.create(into, name, Inode::Dir(Default::default()));
                copy_dir(from, *ino, to, copy);
            }
            None => {}
        }
    }
}

/// Lists paths below a directory. `prefix` is the directory's own path with a slash at its end.
fn list_paths(tree: &Tree, dir: u64, prefix: &mut String, paths: &mut Vec<String>) {
    let Some(Inode::Dir(names)) = tree.inodes.get(&dir) else { return };
    let len = prefix.len();
    for (name, ino) in &names.current {
        prefix.push_str(name);
        match tree.inodes.get(ino) {
            Some(Inode::File(_)) => paths.push(prefix.clone()),
            Some(Inode::Dir(_)) => {
                prefix.push('/');
                list_paths(tree, *ino, prefix, paths);
            }
            None => {}
        }
        prefix.truncate(len);
    }
}

#[cfg(test)]
mod tests;
