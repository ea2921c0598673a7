//! Files, directories and jobs of one simulated disk: the written state, the durable state, and the
//! changes in between.
//!
//! Every change is applied to the `current` view at once and added to a pending list. A sync moves
//! the pending changes before it to the `durable` view. The sync of a job does so only when the job
//! *settles*. This gives a crash a window between a write and its sync, although the code that
//! makes both cannot be interrupted.
//!
//! Jobs of different lanes overlap. A sync after changes of another running job to the same file or
//! directory may depend on those changes. So it makes them durable too, together with everything
//! that the other job did before, including its syncs. This keeps the order of each job.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::content::Content;

pub(super) type Ino = u64;
pub(super) type Seq = u64;
/// A job's number on its disk.
pub type JobId = u64;

pub(super) const ROOT: Ino = 1;
/// Inodes without a reference are collected after this many removals.
const COLLECT_EVERY: u32 = 256;

#[derive(Clone)]
pub(super) struct Pending<Change> {
    pub seq: Seq,
    pub job: Option<JobId>,
    pub change: Change,
}

#[derive(Clone)]
pub(super) enum Write {
    Bytes { offset: u64, bytes: Bytes },
    SetLen(u64),
}

#[derive(Clone)]
pub(super) struct Entry {
    pub removed: Option<String>,
    pub inserted: Option<(String, Ino)>,
    /// The other directory of a rename between two directories. Both halves become durable
    /// together.
    pub partner: Option<Ino>,
}

#[derive(Clone, Default)]
pub(super) struct File {
    pub current: Content,
    pub durable: Content,
    pub pending: Vec<Pending<Write>>,
    pub handles: u32,
}

#[derive(Clone, Default)]
pub(super) struct Dir {
    pub current: BTreeMap<String, Ino>,
    pub durable: BTreeMap<String, Ino>,
    pub pending: Vec<Pending<Entry>>,
}

#[derive(Clone)]
pub(super) enum Inode {
    File(File),
    Dir(Dir),
}

#[derive(Clone, Copy)]
pub(super) enum Did {
    Change,
    Sync(Ino),
}

/// A job that has not settled.
#[derive(Clone, Default)]
pub(super) struct Running {
    pub ops: Vec<(Seq, Did)>,
    /// The number of them that have taken effect for good.
    pub done: usize,
}

/// The operations of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobCost {
    pub reads: u64,
    pub writes: u64,
    pub names: u64,
    pub syncs: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

#[derive(Clone)]
pub(super) struct Tree {
    pub inodes: BTreeMap<Ino, Inode>,
    pub jobs: BTreeMap<JobId, Running>,
    /// The job whose closure is running now.
    pub running: Option<JobId>,
    next_ino: Ino,
    next_seq: Seq,
    next_job: JobId,
    removals: u32,
}

impl Tree {
    pub fn new() -> Self {
        let inodes = BTreeMap::from([(ROOT, Inode::Dir(Dir::default()))]);
        Self {
            inodes,
            jobs: BTreeMap::new(),
            running: None,
            next_ino: ROOT + 1,
            next_seq: 1,
            next_job: 1,
            removals: 0,
        }
    }

    pub fn begin_job(&mut self) -> JobId {
        let job = self.next_job;
        self.next_job += 1;
        self.jobs.insert(job, Running::default());
        self.running = Some(job);
        job
    }

    /// The job's time has passed, so its syncs take effect.
    pub fn settle(&mut self, job: JobId) {
        let Some(running) = self.jobs.remove(&job) else { return };
        for (seq, did) in running.ops {
            if let Did::Sync(ino) = did {
                self.sync_now(ino, seq);
            }
        }
    }

    fn sync_now(&mut self, ino: Ino, before: Seq) {
        let mut todo = vec![(ino, before)];
        while let Some((ino, before)) = todo.pop() {
            for (job, last) in self.seen_jobs(ino, before) {
                self.carry(job, last, &mut todo);
            }
            todo.extend(self.flush_one(ino, before, &BTreeSet::new()));
        }
    }

    /// Running jobs that changed `ino` before `before`, each with its last such change.
    fn seen_jobs(&self, ino: Ino, before: Seq) -> BTreeMap<JobId, Seq> {
        let pending: Vec<_> = match self.inodes.get(&ino) {
            Some(Inode::File(file)) => file.pending.iter().map(|it| (it.job, it.seq)).collect(),
            Some(Inode::Dir(dir)) => dir.pending.iter().map(|it| (it.job, it.seq)).collect(),
            None => Vec::new(),
        };
        (pending.into_iter())
            .filter(|(_, seq)| *seq < before)
            .filter_map(|(job, seq)| Some((job?, seq)))
            .filter(|(job, _)| self.jobs.contains_key(job))
            .collect()
    }

    /// Makes all changes of `job` up to `last` happen. Its syncs among them are added to `syncs`.
    fn carry(&mut self, job: JobId, last: Seq, syncs: &mut Vec<(Ino, Seq)>) {
        let Some(running) = self.jobs.get_mut(&job) else { return };
        while let Some((seq, did)) = running.ops.get(running.done)
            && *seq <= last
        {
            if let Did::Sync(ino) = did {
                syncs.push((*ino, *seq));
            }
            running.done += 1;
        }
    }

    /// Moves the pending changes of `ino` before `before` to its durable view, except the changes
    /// in `skip`. With one half of a rename it also moves the other.
    pub fn flush(&mut self, ino: Ino, before: Seq, skip: &BTreeSet<Seq>) {
        let mut todo = vec![(ino, before)];
        while let Some((ino, before)) = todo.pop() {
            todo.extend(self.flush_one(ino, before, skip));
        }
    }

    /// Returns the other directories of the moved renames, and the position up to which to flush
    /// them.
    fn flush_one(&mut self, ino: Ino, before: Seq, skip: &BTreeSet<Seq>) -> Vec<(Ino, Seq)> {
        let mut partners = Vec::new();
        match self.inodes.get_mut(&ino) {
            Some(Inode::File(file)) => {
                for pending in std::mem::take(&mut file.pending) {
                    if pending.seq < before && !skip.contains(&pending.seq) {
                        apply_write(&mut file.durable, &pending.change);
                    } else {
                        file.pending.push(pending);
                    }
                }
            }
            Some(Inode::Dir(dir)) => {
                for pending in std::mem::take(&mut dir.pending) {
                    if pending.seq < before && !skip.contains(&pending.seq) {
                        partners.extend(pending.change.partner.map(|ino| (ino, pending.seq + 1)));
                        apply_entry(&mut dir.durable, &pending.change);
                    } else {
                        dir.pending.push(pending);
                    }
                }
            }
            None => {}
        }
        partners
    }

    pub fn next_seq(&mut self) -> Seq {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    fn note(&mut self, seq: Seq, did: Did) {
        if let Some(job) = self.running
            && let Some(running) = self.jobs.get_mut(&job)
        {
            running.ops.push((seq, did));
        }
    }

    pub fn sync(&mut self, ino: Ino) {
        let seq = self.next_seq();
        if self.running.is_some() {
            self.note(seq, Did::Sync(ino));
        } else {
            self.sync_now(ino, seq);
        }
    }

    pub fn write(&mut self, ino: Ino, change: Write) {
        let (seq, job) = (self.next_seq(), self.running);
        if let Some(Inode::File(file)) = self.inodes.get_mut(&ino) {
            apply_write(&mut file.current, &change);
            file.pending.push(Pending { seq, job, change });
        }
        self.note(seq, Did::Change);
    }

    pub fn create(&mut self, dir: Ino, name: &str, inode: Inode) -> Ino {
        let ino = self.next_ino;
        self.next_ino += 1;
        self.inodes.insert(ino, inode);
        let seq = self.next_seq();
        let inserted = Some((name.to_owned(), ino));
        self.change_dir(dir, seq, Entry { removed: None, inserted, partner: None });
        self.note(seq, Did::Change);
        ino
    }

    pub fn remove(&mut self, dir: Ino, name: &str) {
        let seq = self.next_seq();
        let removed = Some(name.to_owned());
        self.change_dir(dir, seq, Entry { removed, inserted: None, partner: None });
        self.note(seq, Did::Change);
        self.removals += 1;
        if self.removals >= COLLECT_EVERY {
            self.collect();
        }
    }

    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), ino: Ino) {
        let seq = self.next_seq();
        let removed = Some(from.1.to_owned());
        let inserted = Some((to.1.to_owned(), ino));
        if from.0 == to.0 {
            self.change_dir(from.0, seq, Entry { removed, inserted, partner: None });
        } else {
            self.change_dir(from.0, seq, Entry { removed, inserted: None, partner: Some(to.0) });
            self.change_dir(to.0, seq, Entry { removed: None, inserted, partner: Some(from.0) });
        }
        self.note(seq, Did::Change);
    }

    fn change_dir(&mut self, dir: Ino, seq: Seq, change: Entry) {
        let job = self.running;
        if let Some(Inode::Dir(dir)) = self.inodes.get_mut(&dir) {
            apply_entry(&mut dir.current, &change);
            dir.pending.push(Pending { seq, job, change });
        }
    }

    /// The inode at `path` ("" = the root) in the current view.
    pub fn find(&self, path: &str) -> Option<Ino> {
        self.walk(path, |dir| &dir.current)
    }

    pub fn find_durable(&self, path: &str) -> Option<Ino> {
        self.walk(path, |dir| &dir.durable)
    }

    fn walk(&self, path: &str, view: fn(&Dir) -> &BTreeMap<String, Ino>) -> Option<Ino> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |ino, name| {
            match self.inodes.get(&ino) {
                Some(Inode::Dir(dir)) => view(dir).get(name).copied(),
                _ => None,
            }
        })
    }

    /// Removes inodes without a reference from a view, a pending change or a handle.
    pub fn collect(&mut self) {
        self.removals = 0;
        let mut seen = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            let Some(Inode::Dir(dir)) = self.inodes.get(&ino) else { continue };
            let pending = dir.pending.iter().filter_map(|pending| pending.change.inserted.as_ref());
            let named = dir.current.values().chain(dir.durable.values());
            for child in named.chain(pending.map(|(_, ino)| ino)) {
                if seen.insert(*child) {
                    todo.push(*child);
                }
            }
        }
        self.inodes.retain(|ino, inode| {
            seen.contains(ino) || matches!(inode, Inode::File(file) if file.handles > 0)
        });
    }

    /// Only the durable state, as after the worst possible power cut.
    pub fn harshest(&self) -> Self {
        let mut tree = self.clone();
        (tree.running, tree.jobs) = (None, BTreeMap::new());
        for inode in tree.inodes.values_mut() {
            match inode {
                Inode::File(file) => {
                    file.current = file.durable.clone();
                    (file.pending, file.handles) = (Vec::new(), 0);
                }
                Inode::Dir(dir) => {
                    dir.current = dir.durable.clone();
                    dir.pending = Vec::new();
                }
            }
        }
        tree.collect();
        tree
    }

    /// Bytes of disk space of files that have a name or are open. A removed file frees its space at
    /// once, before its inode is collected.
    pub fn used(&self) -> u64 {
        let (mut named, mut todo) = (BTreeSet::new(), vec![ROOT]);
        while let Some(ino) = todo.pop() {
            match self.inodes.get(&ino) {
                Some(Inode::Dir(dir)) => todo.extend(dir.current.values()),
                _ => drop(named.insert(ino)),
            }
        }
        let of = |(ino, inode): (&Ino, &Inode)| match inode {
            Inode::File(file) if file.handles > 0 || named.contains(ino) => {
                file.current.allocated()
            }
            _ => 0,
        };
        self.inodes.iter().map(of).sum()
    }
}

pub(super) fn apply_write(content: &mut Content, change: &Write) {
    match change {
        Write::Bytes { offset, bytes } => content.write(*offset, bytes),
        Write::SetLen(len) => content.set_len(*len),
    }
}

pub(super) fn apply_entry(names: &mut BTreeMap<String, Ino>, change: &Entry) {
    if let Some(name) = &change.removed {
        names.remove(name);
    }
    if let Some((name, ino)) = &change.inserted {
        names.insert(name.clone(), *ino);
    }
}
