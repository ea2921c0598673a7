//! Disks that are slow, fail, or hurt bytes.

use cairn_core::ids::SegmentDigest;
use cairn_core::model::SlotState;
use cairn_node::upkeep::suspect;

use super::{Faults, Later, Strike};
use crate::cluster::node_id;
use crate::disk::{Fault, On};
use crate::process::ProcessId;
use crate::trace;

impl Faults {
    pub(super) fn slow_disk(&mut self, mut strike: Strike, node: ProcessId) {
        let factor = strike.chance.range(5..200);
        let Some(disk) = self.cluster.disk(node) else { return };
        strike.says(format_args!("{} {factor} times", disk.name));
        disk.set_slow(factor as f64);
        self.after(&mut strike, 4_000, Later::HealDisk(node));
    }

    /// Reads of segment files fail now and then.
    pub(super) fn fail_reads(&mut self, mut strike: Strike) {
        let Some(disk) = self.cluster.disk(self.fragile) else { return };
        strike.says(format_args!("{}", disk.name));
        self.cluster.excuse(self.fragile);
        self.checkers.distrust(self.fragile);
        let prefix = "segments/".to_owned();
        disk.add_fault(Fault { prefix, on: On::Read, probability: 0.3, times: Some(20) });
        self.after(&mut strike, 5_000, Later::HealDisk(self.fragile));
    }

    /// Flips a bit of a segment of which two more copies are elsewhere.
    pub(super) fn rot(&mut self, mut strike: Strike) {
        let Some(disk) = self.cluster.disk(self.fragile) else { return };
        let (_, catalogue) = self.cluster.newest();
        let Some(id) = node_id(&catalogue, &disk.name) else { return };
        let durable = catalogue.slots_on(id, SlotState::Durable);
        let spare = durable.filter(|(segment, _)| {
            let others = segment.slots.iter().filter(|slot| slot.node != id);
            others.filter(|slot| slot.state == SlotState::Durable).count() >= 2
        });
        let spare: Vec<SegmentDigest> = spare.map(|(segment, _)| segment.digest).collect();
        let Some(digest) = strike.chance.pick(&spare).copied() else { return };
        let path = format!("segments/{:02x}/{digest}", digest.0[0]);
        let len = disk.peek(&path).map_or(0, |bytes| bytes.len() as u64);
        let (at, bit) = (strike.chance.below(len), strike.chance.below(8) as u8);
        if disk.flip_bit(&path, at, bit) {
            strike.says(format_args!("{}: {digest} byte {at} bit {bit}", disk.name));
            self.checkers.hurt(self.fragile, digest);
            self.rotten.insert((self.fragile, digest));
        }
    }

    /// What a scrub would find is looked at: rotten copies that no reader has met.
    pub async fn mend_replicas(&mut self) {
        for (process, digest) in std::mem::take(&mut self.rotten) {
            self.look_at(process, digest).await;
        }
    }

    async fn look_at(&self, process: ProcessId, digest: SegmentDigest) {
        let Some(node) = self.cluster.running_node(process) else { return };
        let shared = node.shared.clone();
        let check = async move { suspect::check(&shared, digest).await };
        let Some(seat) = self.cluster.world().seat(process) else { return };
        match seat.life.spawn(check).await {
            Ok(Ok(true)) => trace::count("faults.rot_found_late", 1),
            Ok(Ok(false)) => {}
            other => trace::event(&node.name, "check", format_args!("{other:?}")),
        }
    }
}
