//! Faults of disks and segment files in a story.

use std::time::Duration;

use cairn_client::Restored;
use cairn_node::store::format::{BlockPlace, place};
use cairn_node::upkeep::suspect;
use cairn_types::blocks::block_count;
use cairn_types::ids::SegmentDigest;
use cairn_types::model::SlotState;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Stage, Told, finish};
use crate::checkers::{footer_of, path_of};
use crate::process::ProcessId;
use crate::trace;

impl Stage {
    /// From now on no job of the node's disk ends, so the node has to end.
    pub fn hang_disk(&self, process: ProcessId) -> Told {
        self.cluster.excuse(process);
        self.cluster.disk(process).ok_or("no disk")?.set_stuck(true);
        Ok(())
    }

    /// The disk answers again, and the ended node is started.
    pub fn recover_disk(&self, process: ProcessId) -> Told {
        self.cluster.disk(process).ok_or("no disk")?.heal();
        self.checkers.crashed(process);
        self.cluster.start_node(process);
        self.cluster.excuse_no_more(process);
        Ok(())
    }

    /// Some segment that is durable on a node, with at least this many blocks.
    pub fn durable_on(&mut self, process: ProcessId, blocks: usize) -> Told<SegmentDigest> {
        let id = self.node_id(process)?;
        let (_, catalogue) = self.cluster.newest();
        let durable = catalogue.slots_on(id, SlotState::Durable);
        let long =
            durable.filter(|(segment, _)| block_count(segment.form.raw_len().into()) >= blocks);
        let digests: Vec<_> = long.map(|(segment, _)| segment.digest).collect();
        self.chance.pick(&digests).copied().ok_or_else(|| "nothing is durable here".to_owned())
    }

    /// Flips a bit of some segment that is durable here and on two more nodes.
    pub fn rot(&mut self, process: ProcessId) -> Told {
        let digest = self.durable_on(process, 0)?;
        let disk = self.cluster.disk(process).ok_or("no disk")?;
        let len = disk.peek(&path_of(digest)).map_or(0, |bytes| bytes.len() as u64);
        let at = self.chance.below(len);
        self.rot_at(process, digest, at)
    }

    /// Flips a bit of one block of a segment.
    pub fn rot_block(&mut self, process: ProcessId, digest: SegmentDigest, block: usize) -> Told {
        let disk = self.cluster.disk(process).ok_or("no disk")?;
        let file = disk.peek(&path_of(digest)).ok_or_else(|| format!("no file {digest}"))?;
        let BlockPlace { offset, len } = place(&footer_of(&file, digest)?.blocks, block);
        let within = self.chance.below(len.into());
        self.rot_at(process, digest, u64::from(offset) + within)
    }

    fn rot_at(&self, process: ProcessId, digest: SegmentDigest, at: u64) -> Told {
        let disk = self.cluster.disk(process).ok_or("no disk")?;
        self.checkers.hurt(process, digest);
        match disk.flip_bit(&path_of(digest), at, 3) {
            true => Ok(()),
            false => Err(format!("{} has no byte {at}", path_of(digest))),
        }
    }

    /// Flips a bit of some segment that is durable here, and returns the segment and its file.
    pub fn rot_one(&mut self, process: ProcessId) -> Told<(SegmentDigest, u64)> {
        let digest = self.durable_on(process, 0)?;
        self.rot_block(process, digest, 0)?;
        let disk = self.cluster.disk(process).ok_or("no disk")?;
        let file = disk.file_id(&path_of(digest)).ok_or_else(|| format!("no file {digest}"))?;
        Ok((digest, file))
    }

    /// Waits until the node has another file of the segment than this one. `false` if it has none
    /// in time.
    pub async fn has_another_file(
        &self,
        process: ProcessId,
        (digest, file): (SegmentDigest, u64),
        within: Duration,
    ) -> Told<bool> {
        let disk = self.cluster.disk(process).ok_or("no disk")?;
        let path = path_of(digest);
        let until = Instant::now() + within;
        while Instant::now() < until {
            if disk.file_id(&path).is_some_and(|now| now != file) {
                return Ok(true);
            }
            sleep(Duration::from_millis(250)).await;
        }
        Ok(false)
    }

    /// Removes the file of a segment.
    pub fn vanish(&self, process: ProcessId, digest: SegmentDigest) -> Told {
        let disk = self.cluster.disk(process).ok_or("no disk")?;
        self.checkers.vanished(process, digest);
        match disk.vanish(&path_of(digest)) {
            true => Ok(()),
            false => Err(format!("no file {}", path_of(digest))),
        }
    }

    /// Moves the file of a segment to quarantine from outside, while the node runs.
    pub fn move_aside(&self, process: ProcessId, digest: SegmentDigest) -> Told {
        let disk = self.cluster.disk(process).ok_or("no disk")?;
        self.checkers.vanished(process, digest);
        match disk.move_by_hand(&path_of(digest), &format!("quarantine/{digest}")) {
            true => Ok(()),
            false => Err(format!("no file {}", path_of(digest))),
        }
    }

    /// An operator makes the node restore a copy from quarantine.
    pub async fn put_back(&self, process: ProcessId, digest: SegmentDigest) -> Told {
        let restore = self.start_put_back(process, digest)?;
        finish(restore, &format!("restore on process {process}")).await
    }

    /// Like [`Stage::put_back`], but the operator leaves after a while.
    pub async fn put_back_and_leave(
        &self,
        process: ProcessId,
        digest: SegmentDigest,
        patience: Duration,
    ) -> Told {
        let mut restore = self.start_put_back(process, digest)?;
        if timeout(patience, &mut restore).await.is_err() {
            trace::count("story.operators_left", 1);
            restore.abort();
        }
        Ok(())
    }

    fn start_put_back(&self, process: ProcessId, digest: SegmentDigest) -> Told<JoinHandle<Told>> {
        let address = self.cluster.running_node(process).ok_or("the node is down")?;
        let address = address.shared.this.config.address.clone();
        let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        Ok(parts.life.spawn(async move {
            let restored = sdk.restore_quarantined(&address, digest).await;
            match restored.map_err(|error| error.to_string())? {
                Restored::Restored => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }))
    }

    /// D1: no slot of this node is durable without a file, once its reports are in.
    pub fn has_file_or_no_slot(&self, process: ProcessId, digest: SegmentDigest) -> Told {
        let id = self.node_id(process)?;
        let disk = self.cluster.disk(process).ok_or("no disk")?;
        let (_, catalogue) = self.cluster.newest();
        let segment = catalogue.segment_by_digest(&digest);
        let slot = segment.and_then(|segment| segment.live_slot_on(id));
        let durable = slot.is_some_and(|slot| slot.state == SlotState::Durable);
        match durable && disk.peek(&path_of(digest)).is_none() {
            true => Err(format!("segment {digest} is durable on node {id}, which has no file")),
            false => Ok(()),
        }
    }

    /// Re-reads every replica of a node, as a scrub would.
    pub async fn scrub(&self, process: ProcessId) -> Told {
        let (id, node) = (self.node_id(process)?, self.cluster.running_node(process));
        let shared = node.ok_or("the node is down")?.shared.clone();
        let (_, catalogue) = self.cluster.newest();
        for (segment, _) in catalogue.slots_on(id, SlotState::Durable) {
            let (shared, digest) = (shared.clone(), segment.digest);
            let check = async move {
                suspect::check(&shared.replicas, digest).await.map_err(|error| format!("{error:?}"))
            };
            let parts = self.world.parts(process).ok_or("the node is down")?;
            let bad = finish(parts.life.spawn(check), "scrub").await?;
            trace::count("story.bad_copies_found", bad.into());
        }
        Ok(())
    }
}
