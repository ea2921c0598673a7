//! The faults, and the limits within which no data may be lost.
//!
//! Crashes and elections have no limit. Only one disk or one file is damaged at a time (W - 1 with
//! W = 2). The next one is damaged only when the catalogue says that everything is repaired, which
//! is its promise (D2).

use cairn_types::command::{self, Accept, Body};
use cairn_types::ids::{NodeId, RequestId, SegmentDigest};
use cairn_types::model::{Admin, SlotState};

use super::machine::Disk;
use super::{Kept, Mail, Mind, Sender};

/// The current damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The whole disk of a node.
    Disk(NodeId),
    /// One file of it.
    File(NodeId, SegmentDigest),
}

impl Mind {
    pub(super) fn something_breaks(&mut self) -> Kept {
        let machine = self.any_machine();
        match self.chance.below(100) {
            0..20 => self.go_down(machine),
            20..60 => {
                let down: Vec<usize> =
                    (0..self.machines.len()).filter(|at| !self.machines[*at].up).collect();
                if let Some(machine) = self.chance.pick(&down).copied() {
                    self.come_back(machine);
                }
            }
            60..72 => {
                if self.machines[machine].up {
                    self.elect(machine);
                }
            }
            72..75 => self.consensus.leader = None,
            75..83 => return self.take_snapshot(machine),
            83..87 => self.install_snapshot(machine),
            87..89 => return self.lose_disk(machine),
            89..93 => self.rot(machine),
            93..96 => self.scrub(machine),
            _ => self.remove_gone(),
        }
        self.look_at_loss();
        Ok(())
    }

    /// The process or the power fails: memory is lost, files and their names stay.
    pub(super) fn go_down(&mut self, at: usize) {
        if !self.machines[at].up {
            return;
        }
        self.note(|| format!("machine {at} goes down"));
        self.count("crashes");
        self.machines[at].up = false;
        self.machines[at].forget();
        self.rewind(at);
        if self.consensus.leader.as_ref().is_some_and(|leader| leader.machine == at) {
            self.consensus.leader = None;
        }
    }

    pub(super) fn come_back(&mut self, at: usize) {
        let node = self.machines[at].node;
        let removed = node
            .and_then(|node| self.model.catalogue.node(node))
            .is_some_and(|node| node.admin == Admin::Removed);
        if removed {
            // A removed node's directory is emptied. It joins as a new node.
            let cookie = self.new_cookie();
            let machine = &mut self.machines[at];
            machine.disk = Disk::default();
            (machine.node, machine.cookie) = (None, cookie);
        }
        self.machines[at].up = true;
    }

    /// A disk is lost and replaced in the same machine: a new node on the same host.
    fn lose_disk(&mut self, at: usize) -> Kept {
        let Some(node) = self.machines[at].node else { return Ok(()) };
        let running = self.machines.iter().filter(|machine| machine.up).count();
        if self.loss.is_some() || running < 4 || !self.is_made_good() {
            return Ok(());
        }
        self.go_down(at);
        let cookie = self.new_cookie();
        let machine = &mut self.machines[at];
        machine.disk = Disk::default();
        machine.replica = Default::default();
        (machine.node, machine.cookie, machine.replaces) = (None, cookie, Some(node));
        self.loss = Some(Loss::Disk(node));
        self.gone.insert(node);
        self.count("disks.lost");
        self.note(|| format!("machine {at} loses the disk of node {node}"));
        self.check_disks()
    }

    /// A bit of one file flips.
    fn rot(&mut self, at: usize) {
        let Some(node) = self.machines[at].node else { return };
        if self.loss.is_some() || !self.is_made_good() {
            return;
        }
        let files: Vec<SegmentDigest> = self.machines[at].disk.files.keys().copied().collect();
        let Some(digest) = self.chance.pick(&files).copied() else { return };
        self.machines[at].disk.files.insert(digest, false);
        self.loss = Some(Loss::File(node, digest));
        self.count("rot");
        self.note(|| format!("machine {at} has a rotten file of {digest}"));
    }

    /// A node re-reads its files and moves bad ones to quarantine.
    pub(super) fn scrub(&mut self, at: usize) {
        if !self.machines[at].up || self.machines[at].incarnation.is_none() {
            return;
        }
        let files = self.machines[at].disk.files.iter();
        let bad: Vec<SegmentDigest> =
            files.filter(|(_, sound)| !**sound).map(|(digest, _)| *digest).collect();
        for digest in bad {
            self.set_aside(at, digest);
            self.count("rot.found_by_scrub");
        }
    }

    /// The operator removes nodes whose disk is gone, and repeats a refused removal.
    pub(super) fn remove_gone(&mut self) {
        let catalogue = &self.model.catalogue;
        let mut left = self.gone.iter().copied().filter(|node| {
            catalogue.node(*node).is_some_and(|record| record.admin != Admin::Removed)
        });
        if let Some(node) = left.next_back() {
            let request = RequestId(u128::from(self.mint()) << 8);
            let body = Body::RemoveNode(command::RemoveNode { node, accept: Accept::default() });
            self.send(Mail::Propose { from: Sender::Nobody, request, body: Box::new(body) });
        }
    }

    pub(super) fn is_hurt(&self, node: NodeId, digest: SegmentDigest) -> bool {
        match self.loss {
            Some(Loss::Disk(lost)) => lost == node,
            Some(Loss::File(lost, file)) => (lost, file) == (node, digest),
            None => false,
        }
    }

    /// Once the catalogue says that the damage is repaired, the next damage is allowed.
    fn look_at_loss(&mut self) {
        let catalogue = &self.model.catalogue;
        let over = match self.loss {
            None => false,
            Some(Loss::Disk(node)) => {
                let record = catalogue.node(node);
                record.is_none_or(|record| record.admin == Admin::Removed)
            }
            Some(Loss::File(node, digest)) => {
                let machine = self.machines.iter().find(|machine| machine.node == Some(node));
                let bad =
                    machine.is_some_and(|machine| machine.disk.files.get(&digest) == Some(&false));
                let held = machine.is_some_and(|machine| machine.disk.holds_sound(&digest));
                let slot = catalogue.segment_by_digest(&digest);
                let slot = slot.and_then(|segment| segment.live_slot_on(node));
                let durable = slot.is_some_and(|slot| slot.state == SlotState::Durable);
                !bad && (held || !durable)
            }
        };
        if over && self.is_made_good() {
            self.loss = None;
            self.count("losses.made_good");
        }
    }

    /// Whether every segment of a committed checkpoint has the replicas it wants, and they count.
    fn is_made_good(&self) -> bool {
        let catalogue = &self.model.catalogue;
        let mut committed =
            catalogue.segments().iter().filter(|segment| catalogue.is_committed(segment.id));
        committed.all(|segment| catalogue.counting(segment).replicas >= segment.replicas_wanted())
    }
}
