//! Disks that are slow, fail, or hurt bytes.

use std::sync::Arc;
use std::time::Duration;

use cairn_node::store::ballast::BALLAST_FILE;
use cairn_node::upkeep::suspect;
use cairn_types::ids::SegmentDigest;
use cairn_types::model::SlotState;
use tokio::time::Instant;

use super::{EXCUSED_FOR, Faults, Later, Strike};
use crate::checkers::path_of;
use crate::cluster::DISK_END_MS;
use crate::disk::{Fault, On, SimDisk};
use crate::process::{Life, ProcessId};
use crate::trace;

/// Where writes and syncs fail.
const PLACES: [&str; 5] = ["", "raft.redb", "tmp/", "segments/", "snapshots/"];
/// Where names fail to be changed.
const NAMED: [&str; 4] = ["", "tmp/", "segments/", "snapshots/"];
/// A put or two, so that most quotas are met.
const QUOTA_ROOM_MAX: u64 = 1 << 20;
/// A node whose sync failed has ended by then, if it gets any turns.
const STOPS_WITHIN: Duration = Duration::from_secs(6);
/// Of the disks that get stuck, so many stay so for long.
const STUCK_LONG: f64 = 0.3;
/// A node whose disk does not answer has ended by then, also if it was paused for a while.
pub(super) const GIVES_UP_WITHIN: Duration = Duration::from_millis(DISK_END_MS + 15_000);

/// Bytes of segments cannot be written: an error that is no sync's, and that nothing else meets.
pub(super) fn never_stores() -> Fault {
    Fault { prefix: "tmp/".to_owned(), on: On::Write, probability: 1.0, times: None }
}

impl Faults {
    pub(super) fn slow_disk(&mut self, mut strike: Strike, node: ProcessId) {
        let factor = strike.chance.range(5..200);
        let Some(disk) = self.cluster.disk(node) else { return };
        strike.says(format_args!("{} {factor} times", disk.name));
        disk.set_slow(factor as f64);
        // A job of the slowest takes so long that the disk counts as hung.
        self.heal_after(&mut strike, 4_000, node);
    }

    /// No job of the node ends: for a moment, or for so long that the node has to end.
    pub(super) fn stuck_disk(&mut self, mut strike: Strike, node: ProcessId) {
        let Some(disk) = self.cluster.disk(node) else { return };
        strike.says(format_args!("{}", disk.name));
        disk.set_stuck(true);
        let time = disk.stuck_time();
        if !strike.chance.chance(STUCK_LONG) {
            // In a run of a slow pace this may be long enough to end it, too.
            self.heal_after(&mut strike, 8_000, node);
            return;
        }
        let (give_up, heal) = (GIVES_UP_WITHIN, GIVES_UP_WITHIN + Duration::from_secs(5));
        // One that has not registered has no work for its disk, and cannot tell that it hangs.
        let running = self.cluster.running_node(node);
        if let Some(running) = running.filter(|it| it.shared.this.incarnation().is_some()) {
            self.later.push((Instant::now() + give_up, Later::MustHaveEnded(running.life, time)));
        }
        self.later.push((Instant::now() + heal, Later::HealDisk(node)));
        self.cluster.excuse_until(node, Instant::now() + heal + EXCUSED_FOR);
    }

    /// A process whose disk has not answered since the `time`th time it got stuck, or that has no
    /// disk any more.
    pub(super) fn must_have_ended(&mut self, life: Arc<Life>, time: Option<u64>) {
        let disk = self.cluster.world().disk(life.process);
        // One that has lost its disk since then is looked at when that is due.
        let hangs = match time {
            None => life.is_abandoned(),
            Some(_) => !life.is_abandoned() && disk.is_some_and(|disk| disk.stuck_time() == time),
        };
        if life.is_over() || !hangs {
            trace::count("checked.ends_of_hung_disks", u64::from(life.is_over()));
        } else if life.is_paused() {
            let later = Instant::now() + GIVES_UP_WITHIN;
            self.later.push((later, Later::MustHaveEnded(life, time)));
        } else {
            let text = format!("{} runs on a disk that does not answer", life.name);
            self.cluster.world().violation("stop", text);
        }
    }

    /// Some room is left, or none. A node that has yet to set its ballast aside may well end.
    pub(super) fn full_disk(&mut self, mut strike: Strike, node: ProcessId) {
        let room = strike.chance.below(4 << 20);
        let Some(disk) = self.cluster.disk(node) else { return };
        if disk.file_id(BALLAST_FILE).is_none() {
            return;
        }
        strike.says(format_args!("{} {room} bytes left", disk.name));
        disk.set_capacity(Some(disk.bytes_used() + room));
        self.after(&mut strike, 8_000, Later::HealDisk(node));
    }

    /// What grows a file fails though the disk says that there is room: the log cannot know
    /// beforehand, and its node may end.
    pub(super) fn quota(&mut self, mut strike: Strike, node: ProcessId) {
        let room = strike.chance.below(QUOTA_ROOM_MAX);
        let Some(disk) = self.cluster.disk(node) else { return };
        strike.says(format_args!("{} {room} bytes left", disk.name));
        disk.set_quota(disk.bytes_used() + room);
        self.heal_after(&mut strike, 8_000, node);
    }

    /// Reads of segment files fail now and then.
    pub(super) fn fail_reads(&mut self, mut strike: Strike) {
        let Some((node, disk)) = self.fragile_disk() else { return };
        strike.says(format_args!("{}", disk.name));
        self.checkers.distrust(node);
        let prefix = "segments/".to_owned();
        disk.add_fault(Fault { prefix, on: On::Read, probability: 0.3, times: Some(20) });
        self.heal_after(&mut strike, 5_000, node);
    }

    /// A few writes fail, and leave nothing written.
    pub(super) fn fail_writes(&mut self, strike: Strike, node: ProcessId) {
        self.fail_some(strike, node, On::Write, &PLACES);
    }

    /// No segment can be written for a while, on a node that goes on otherwise.
    pub(super) fn cannot_store(&mut self, mut strike: Strike, node: ProcessId) {
        let Some(disk) = self.cluster.disk(node) else { return };
        strike.says(format_args!("{}", disk.name));
        disk.add_fault(never_stores());
        self.heal_after(&mut strike, 8_000, node);
    }

    /// Files cannot be made, renamed, removed or listed, now and then.
    pub(super) fn fail_names(&mut self, strike: Strike, node: ProcessId) {
        self.fail_some(strike, node, On::Names, &NAMED);
    }

    fn fail_some(&mut self, mut strike: Strike, node: ProcessId, on: On, places: &[&str]) {
        let prefix = strike.chance.pick(places).copied().unwrap_or_default().to_owned();
        let times = strike.chance.range(1..5) as u32;
        let Some(disk) = self.cluster.disk(node) else { return };
        strike.says(format_args!("{} {prefix:?}, {times} times", disk.name));
        disk.add_fault(Fault { prefix, on, probability: 0.5, times: Some(times) });
        self.heal_after(&mut strike, 4_000, node);
    }

    /// One sync fails: those bytes are gone, and the node has to stop.
    pub(super) fn fail_sync(&mut self, mut strike: Strike, node: ProcessId) {
        let prefix = strike.chance.pick(&PLACES).copied().unwrap_or_default().to_owned();
        let world = self.cluster.world();
        let (Some(disk), Some(parts)) = (self.cluster.disk(node), world.parts(node)) else {
            return;
        };
        strike.says(format_args!("{} {prefix:?}", disk.name));
        let syncs = disk.failed_syncs();
        disk.add_fault(Fault { prefix, on: On::Sync, probability: 1.0, times: Some(1) });
        self.heal_after(&mut strike, 4_000, node);
        self.due(STOPS_WITHIN, Later::MustHaveStopped(node, parts.life, syncs));
    }

    pub(super) fn must_have_stopped(&mut self, node: ProcessId, life: Arc<Life>, syncs: u64) {
        let Some(disk) = self.cluster.disk(node) else { return };
        let failed = disk.failed_syncs() > syncs;
        let same = self.cluster.world().parts(node).is_some_and(|it| it.life.number == life.number);
        if failed && same && (life.is_paused() || disk.is_stuck()) {
            // It gets no turns, or none of its jobs ends: later, then.
            self.due(STOPS_WITHIN, Later::MustHaveStopped(node, life, syncs));
        } else if failed && same {
            let text = format!("{} runs on after a failed sync", disk.name);
            self.cluster.world().violation("stop", text);
        }
        trace::count("checked.stops_after_failed_sync", u64::from(failed && !same));
    }

    /// The next write of a segment's bytes lands a page further on.
    pub(super) fn misdirect(&mut self, mut strike: Strike) {
        let Some((node, disk)) = self.fragile_disk() else { return };
        strike.says(format_args!("{}", disk.name));
        disk.misdirect_next("tmp/");
        self.heal_after(&mut strike, 4_000, node);
    }

    pub(super) fn fragile_disk(&self) -> Option<(ProcessId, SimDisk)> {
        let node = self.fragile?;
        Some((node, self.cluster.disk(node)?))
    }

    /// Flips a bit of a segment of which two more copies are elsewhere.
    pub(super) fn rot(&mut self, mut strike: Strike) {
        let Some((node, disk)) = self.fragile_disk() else { return };
        let Some(digest) = self.spare_replica(&mut strike, node) else { return };
        let path = path_of(digest);
        let len = disk.peek(&path).map_or(0, |bytes| bytes.len() as u64);
        let (at, bit) = (strike.chance.below(len), strike.chance.below(8) as u8);
        if disk.flip_bit(&path, at, bit) {
            strike.says(format_args!("{}: {digest} byte {at} bit {bit}", disk.name));
            self.checkers.hurt(node, digest);
            self.rotten.insert((node, digest));
        }
    }

    /// Somebody deletes the file of a segment of which two more copies are elsewhere.
    pub(super) fn vanish(&mut self, mut strike: Strike) {
        let Some((node, disk)) = self.fragile_disk() else { return };
        let Some(digest) = self.spare_replica(&mut strike, node) else { return };
        if disk.file_id(&path_of(digest)).is_some() {
            strike.says(format_args!("{}: {digest}", disk.name));
            self.checkers.vanished(node, digest);
            disk.vanish(&path_of(digest));
        }
    }

    /// Some segment that is durable on a node and on two more.
    fn spare_replica(&self, strike: &mut Strike, node: ProcessId) -> Option<SegmentDigest> {
        let (_, catalogue) = self.cluster.newest();
        let id = self.cluster.id_of(node)?;
        let durable = catalogue.slots_on(id, SlotState::Durable);
        let spare = durable.filter(|(segment, _)| {
            let others = segment.slots.iter().filter(|slot| slot.node != id);
            others.filter(|slot| slot.state == SlotState::Durable).count() >= 2
        });
        let spare: Vec<SegmentDigest> = spare.map(|(segment, _)| segment.digest).collect();
        strike.chance.pick(&spare).copied()
    }

    /// What a scrub would find is looked at: bad copies that no reader has met.
    pub async fn mend_replicas(&mut self) {
        if let Some((node, disk)) = self.fragile_disk() {
            let paths = disk.misdirected().into_iter();
            let digests =
                paths.filter_map(|path| path.strip_prefix("segments/")?.get(3..)?.parse().ok());
            self.rotten.extend(digests.map(|digest| (node, digest)));
        }
        for (process, digest) in std::mem::take(&mut self.rotten) {
            self.look_at(process, digest).await;
        }
        if let Some((_, disk)) = self.fragile_disk() {
            disk.forget_misdirected();
        }
    }

    async fn look_at(&self, process: ProcessId, digest: SegmentDigest) {
        let Some(node) = self.cluster.running_node(process) else { return };
        let shared = node.shared.clone();
        let check = async move { suspect::check(&shared.replicas, digest).await };
        let Some(parts) = self.cluster.world().parts(process) else { return };
        match parts.life.spawn(check).await {
            Ok(Ok(true)) => trace::count("faults.rot_found_late", 1),
            Ok(Ok(false)) => {}
            other => trace::event(&node.name, "check", format_args!("{other:?}")),
        }
    }
}
