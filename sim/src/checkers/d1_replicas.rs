//! D1: every `Durable` replica of an inventoried node is a sound file with the right bytes on its
//! disk, even if its process is down, unless a fault was put on it.
//!
//! A file is parsed and hashed once in each life of its process, and once more at the end.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::catalogue::Catalogue;
use cairn_node::store::format::{BlockPlace, Footer, Header, PAGE_BYTES, place};
use cairn_types::form::Codecs;
use cairn_types::ids::SegmentDigest;
use cairn_types::model::{Admin, Segment, Slot, SlotState};

use crate::cluster::{Cluster, exchange, swapped};
use crate::disk::SimDisk;
use crate::process::ProcessId;
use crate::trace;

#[derive(Default)]
pub struct Checker {
    /// Process, crashes of its disk, file.
    sound: BTreeSet<(ProcessId, u64, u64)>,
    /// Files damaged on purpose. A file that replaces one must be sound.
    hurt: BTreeMap<(ProcessId, SegmentDigest), u64>,
    distrusted: BTreeSet<ProcessId>,
    /// Files removed on purpose. The node notices this by itself later.
    vanished: BTreeSet<(ProcessId, SegmentDigest)>,
    /// State of a disk at the last look: changed names, crashes, applied entry.
    looked: BTreeMap<ProcessId, (u64, u64, u64)>,
    reports: u32,
}

impl Checker {
    pub fn hurt(&mut self, process: ProcessId, digest: SegmentDigest, file: u64) {
        self.hurt.insert((process, digest), file);
    }

    /// Files that this node has quarantined may be missing from their place.
    pub fn distrust(&mut self, process: ProcessId) {
        self.distrusted.insert(process);
    }

    /// Its file was removed on purpose. A file that replaces it must be sound.
    pub fn vanished(&mut self, process: ProcessId, digest: SegmentDigest) {
        self.vanished.insert((process, digest));
    }

    /// From now on no fault excuses a bad file, and every byte is checked again.
    pub fn start_over(&mut self) {
        self.looked.clear();
        self.sound.clear();
        self.hurt.clear();
        self.distrusted.clear();
        self.vanished.clear();
    }

    /// Each has the other's disk now.
    pub fn exchanged(&mut self, one: ProcessId, other: ProcessId) {
        let swap = |process| swapped(process, (one, other));
        let hurt = std::mem::take(&mut self.hurt).into_iter();
        self.hurt = hurt.map(|((process, digest), it)| ((swap(process), digest), it)).collect();
        self.distrusted = std::mem::take(&mut self.distrusted).into_iter().map(swap).collect();
        let vanished = std::mem::take(&mut self.vanished).into_iter();
        self.vanished = vanished.map(|(process, digest)| (swap(process), digest)).collect();
        exchange(&mut self.looked, one, other);
        self.sound.retain(|(process, ..)| *process != one && *process != other);
    }

    pub fn look(&mut self, cluster: &Cluster) {
        let (index, catalogue) = cluster.newest();
        for process in cluster.nodes() {
            let Some(disk) = cluster.disk(process) else { continue };
            let now = (disk.names(), disk.crashes(), index);
            if self.looked.insert(process, now) != Some(now) {
                self.look_at(cluster, (process, &disk), index, &catalogue, |_, _| true);
            }
        }
    }

    /// Segments that a node acknowledged to its clients before it ended are on its disk after that.
    pub fn ended(&mut self, cluster: &Cluster, process: ProcessId) {
        let stored = cluster.take_stored(process);
        let Some(disk) = cluster.disk(process) else { return };
        for digest in stored {
            if self.is_excused(process, &disk, digest) {
                continue;
            }
            trace::count("checked.segments_after_crash", 1);
            if let Err(text) = self.check(process, &disk, digest)
                && self.reports < super::REPORTS_MAX
            {
                self.reports += 1;
                let text = format!("{} had stored {digest} before it ended: {text}", disk.name);
                cluster.world().violation("D1", text);
            }
        }
    }

    /// Replicas that the entry at `index` made Durable are sound from the first moment in which
    /// they may count.
    pub fn entry(&mut self, cluster: &Cluster, index: u64, before: &Catalogue, after: &Catalogue) {
        for process in cluster.nodes() {
            let Some(disk) = cluster.disk(process) else { continue };
            self.look_at(cluster, (process, &disk), index, after, |segment, slot| {
                let old = before.segment(segment.id).and_then(|old| old.live_slot_on(slot.node));
                old != Some(*slot)
            });
        }
    }

    fn look_at(
        &mut self,
        cluster: &Cluster,
        (process, disk): (ProcessId, &SimDisk),
        index: u64,
        catalogue: &Catalogue,
        wanted: impl Fn(&Segment, &Slot) -> bool,
    ) {
        let Some(id) = cluster.id_of(process) else { return };
        let speaks = catalogue
            .node(id)
            .is_some_and(|node| node.inventoried && node.admin == Admin::InService);
        if !speaks {
            return;
        }
        let durable = catalogue.slots_on(id, SlotState::Durable);
        for (segment, slot) in durable.filter(|(segment, slot)| wanted(segment, slot)) {
            if self.is_excused(process, disk, segment.digest) {
                continue;
            }
            trace::count("checked.replicas", 1);
            if let Err(text) = self.check(process, disk, segment.digest)
                && self.reports < super::REPORTS_MAX
            {
                self.reports += 1;
                let text = format!(
                    "at entry {index} {} has segment {} {} as {slot:?}: {text}",
                    disk.name, segment.id, segment.digest,
                );
                cluster.world().violation("D1", text);
            }
        }
    }

    /// A fault was put on this file, or made its node move it to quarantine.
    fn is_excused(&self, process: ProcessId, disk: &SimDisk, digest: SegmentDigest) -> bool {
        let path = path_of(digest);
        let hurt = self.hurt.get(&(process, digest));
        let set_aside = match disk.file_id(&path) {
            Some(file) => hurt == Some(&file),
            None if self.vanished.contains(&(process, digest)) => true,
            None => {
                (hurt.is_some() || self.distrusted.contains(&process)) && is_aside(disk, digest)
            }
        };
        set_aside || disk.is_misdirected(&path)
    }

    fn check(
        &mut self,
        process: ProcessId,
        disk: &SimDisk,
        digest: SegmentDigest,
    ) -> Result<(), String> {
        let path = path_of(digest);
        let file = disk.file_id(&path).ok_or("no such file")?;
        let key = (process, disk.crashes(), file);
        if !self.sound.contains(&key) {
            // The bytes that a power cut would leave, not the bytes in the page cache.
            let bytes = disk.peek_durable(&path).ok_or("its name is not durable")?;
            verify(&bytes, digest)?;
            self.sound.insert(key);
            trace::count("checked.files_hashed", 1);
        }
        Ok(())
    }
}

pub fn path_of(digest: SegmentDigest) -> String {
    format!("segments/{:02x}/{digest}", digest.0[0])
}

fn is_aside(disk: &SimDisk, digest: SegmentDigest) -> bool {
    let aside = format!("quarantine/{digest}.");
    disk.paths().iter().any(|path| path.starts_with(&aside))
}

/// The footer of a segment file whose header and footer are good. It gives the places of the
/// blocks.
pub fn footer_of(file: &[u8], digest: SegmentDigest) -> Result<Footer, String> {
    let text = |error: cairn_node::store::format::FormatError| error.to_string();
    if file.len() < 2 * PAGE_BYTES {
        return Err(format!("file of {} bytes", file.len()));
    }
    let (header, rest) = file.split_at(PAGE_BYTES);
    let (_, footer) = rest.split_at(rest.len() - PAGE_BYTES);
    let header = Header::parse(header, Codecs::KNOWN).map_err(text)?;
    let raw_len = header.form.raw_len().into();
    header.check(digest, file.len() as u64).map_err(text)?;
    let footer = Footer::parse(footer, digest, raw_len, Codecs::KNOWN).map_err(text)?;
    footer.check(&header, file.len() as u64).map_err(text)?;
    Ok(footer)
}

fn verify(file: &[u8], digest: SegmentDigest) -> Result<(), String> {
    let footer = footer_of(file, digest)?;
    let mut raw = Vec::with_capacity(footer.blocks.raw_len() as usize);
    for index in 0..footer.blocks.count() {
        let BlockPlace { offset, len } = place(&footer.blocks, index);
        let stored = file.get(offset as usize..).and_then(|rest| rest.get(..len as usize));
        let stored = stored.ok_or("blocks cut short")?;
        let mut room = Vec::new();
        let block = Codecs::KNOWN.decode(&footer.blocks, index, stored, &mut room);
        raw.extend_from_slice(block.map_err(|error| error.to_string())?);
    }
    if SegmentDigest::of(&raw) != digest {
        return Err("bytes do not match the digest".to_owned());
    }
    Ok(())
}
