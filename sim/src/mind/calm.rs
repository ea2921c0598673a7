//! The end of a run: no more faults happen, and everything must converge (L1, L2).

use std::sync::Arc;

use cairn_core::catalogue::Checkpoint;
use cairn_types::model::{Admin, CheckpointState, SlotState};

use super::{Kept, Mind, broken};

/// Rounds until every client has put once more, and rounds until everything has settled.
const PUT_ROUNDS: u32 = 400;
const SETTLE_ROUNDS: u32 = 1_000;
/// Milliseconds of each round. Leases and graces end within the settling.
const ROUND_MS: u64 = 30;

impl Mind {
    pub(super) fn calm(&mut self) -> Kept {
        self.note(|| "calm".to_owned());
        (self.lossy, self.twice) = (0.0, 0.0);
        for at in 0..self.machines.len() {
            self.come_back(at);
        }
        let leader = self.any_machine();
        self.elect(leader);
        self.want_puts();
        for _ in 0..PUT_ROUNDS {
            self.round()?;
            for client in 0..self.clients.len() {
                self.act_client_in_calm(client);
            }
            if self.unwanted() {
                break;
            }
        }
        if !self.unwanted() {
            return Err(broken("L2", "a put does not end in calm"));
        }
        let mut amiss = None;
        for _ in 0..SETTLE_ROUNDS {
            self.round()?;
            amiss = self.unsettled();
            if amiss.is_none() {
                break;
            }
        }
        match amiss {
            Some(text) => Err(broken("L1", text)),
            None => self.agree(),
        }
    }

    fn act_client_in_calm(&mut self, client: usize) {
        if self.clients[client].wanted.is_some() {
            self.act_client(client);
        }
    }

    /// Each node and client acts once.
    fn round(&mut self) -> Kept {
        self.now_ms += ROUND_MS;
        for letter in std::mem::take(&mut self.mail) {
            self.deliver(letter)?;
        }
        self.steward();
        self.remove_gone();
        while !self.consensus.queue.is_empty() {
            self.commit_next()?;
        }
        for machine in 0..self.machines.len() {
            self.come_back(machine);
            while self.apply_one(machine)? {}
            self.scrub(machine);
            for _ in 0..8 {
                self.act_machine(machine)?;
            }
        }
        Ok(())
    }

    /// L1: the remaining work, if there is any.
    fn unsettled(&self) -> Option<String> {
        let catalogue = &self.model.catalogue;
        if let Some(open) = catalogue.open_uploads().next() {
            return Some(format!("upload {} is still open", open.id));
        }
        // A deleted checkpoint that waits for its grace is also kept.
        let kept = |record: &&Arc<Checkpoint>| {
            record.state == CheckpointState::Deleted
                || record.has_droppable(self.now_ms, catalogue.trash_ms())
        };
        if let Some(record) = catalogue.checkpoints().find(kept) {
            return Some(format!("checkpoint {} still holds references", record.id));
        }
        let gone = |node: &&cairn_types::ids::NodeId| {
            catalogue.node(**node).is_some_and(|node| node.admin != Admin::Removed)
        };
        if let Some(node) = self.gone.iter().find(gone) {
            return Some(format!("node {node} is gone and not removed"));
        }
        if let Some(at) = self.machines.iter().position(|machine| !machine.is_idle()) {
            return Some(format!("machine {at} is not done"));
        }
        if let Some(machine) = self.machines.iter().find(|machine| {
            let record = machine.node.and_then(|node| catalogue.node(node));
            !record.is_some_and(|record| record.counts())
        }) {
            return Some(format!("node {:?} does not count", machine.node));
        }
        catalogue.segments().iter().find_map(|segment| {
            let counting = catalogue.counting(segment);
            let wanted = segment.replicas_wanted();
            let settled = segment.slots.iter().all(|slot| slot.state == SlotState::Durable);
            let racks = wanted.min(catalogue.racks()).min(2);
            let fine = settled
                && counting.replicas == wanted
                && segment.slots.len() as u32 == wanted
                && counting.racks >= racks;
            (!fine).then(|| {
                let slots = &segment.slots;
                format!("segment {} wants {wanted}, has {slots:?}", segment.id)
            })
        })
    }

    /// Files are exactly where the catalogue says, and every replica of the catalogue agrees.
    fn agree(&mut self) -> Kept {
        for at in 0..self.machines.len() {
            while self.apply_one(at)? {}
            let machine = &self.machines[at];
            let slots = machine
                .node
                .map_or(0, |node| self.model.catalogue.slots_on(node, SlotState::Durable).count());
            if machine.disk.files.len() != slots {
                let text =
                    format!("machine {at}: {} files, {slots} slots", machine.disk.files.len());
                return Err(broken("L1", text));
            }
            if machine.replica.catalogue.digest() != self.model.catalogue.digest() {
                return Err(broken("C3", format!("machine {at} differs in the end")));
            }
            self.take_snapshot(at)?;
        }
        self.loss = None;
        self.check_disks()
    }
}
