//! The actions of a node, in the same way as `cairn-node`: join, register, take inventory, then
//! report, fetch and destroy by its own replica of the catalogue.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::work::{self, Fetch};
use cairn_types::command::{self, Body, Refusal, Reply};
use cairn_types::ids::{Cookie, Epoch, Incarnation, NodeId, Nonce, SegmentDigest, SegmentId};
use cairn_types::ids::{LINEAGE_SHIFT, RequestId};
use cairn_types::model::{Admin, NewNode, SlotState};

use super::consensus::Replica;
use super::{Kept, Mail, Mind, Sender, broken};

/// A request without an answer for this long is repeated.
const PATIENCE_MS: u64 = 80;
/// Nonces that a data directory remembers of registrations without an answer.
const PENDING_MAX: usize = 8;
/// Small, so that an inventory takes more than one entry.
const INVENTORY_BATCH: usize = 3;
/// Planned at a time.
const WORK_MAX: usize = 4;

/// The state that survives a crash.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// Files, and whether their bytes are right.
    pub files: BTreeMap<SegmentDigest, bool>,
    pub quarantine: BTreeMap<SegmentDigest, bool>,
    registered: Option<Nonce>,
    pending: Vec<Nonce>,
}

impl Disk {
    pub(super) fn holds_sound(&self, digest: &SegmentDigest) -> bool {
        self.files.get(digest) == Some(&true)
    }

    /// Nonces that tie this directory to its node's record.
    fn nonces(&self) -> Vec<Nonce> {
        self.registered.into_iter().chain(self.pending.iter().copied()).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Lost,
    Removed,
    Durable,
}

type Report = (Said, SegmentId, Epoch);

/// The request for which a node waits.
#[derive(Debug, Clone)]
enum Asked {
    Allocate,
    Register,
    Inventory,
    Report(Vec<Report>),
}

/// A place for a node: the machine stays, while nodes come and go with their disks.
pub(super) struct Machine {
    host: String,
    pub rack: &'static str,
    pub cookie: Cookie,
    pub node: Option<NodeId>,
    /// The node whose disk was lost here.
    pub replaces: Option<NodeId>,
    pub disk: Disk,
    pub replica: Replica,
    pub up: bool,
    pub life: u64,
    nonce: Nonce,
    previous: Vec<Nonce>,
    announced: Option<Incarnation>,
    /// The incarnation with which this process acts for the node, once it is registered.
    pub incarnation: Option<Incarnation>,
    /// Remaining batches of the inventory. `None` before the inventory is made.
    inventory: Option<Vec<Vec<(SegmentId, Epoch)>>>,
    pending: BTreeSet<Report>,
    asked: Option<(u64, u64, Asked)>,
}

impl Machine {
    pub(super) fn new(at: usize, rack: &'static str) -> Self {
        Self {
            host: format!("host{at}"),
            rack,
            cookie: Cookie(at as u128 + 1),
            node: None,
            replaces: None,
            disk: Disk::default(),
            replica: Replica::default(),
            up: true,
            life: 1,
            nonce: Nonce(0),
            previous: Vec::new(),
            announced: None,
            incarnation: None,
            inventory: None,
            pending: BTreeSet::new(),
            asked: None,
        }
    }

    pub(super) fn new_node(&self) -> NewNode {
        NewNode {
            cookie: self.cookie,
            host: self.host.clone(),
            rack: self.rack.to_owned(),
            address: format!("{}:7100", self.host),
            capacity_bytes: 1 << 40,
            feature_level: 1,
            replaces: self.replaces,
            key: None,
        }
    }

    fn register(&self, node: NodeId) -> Body {
        let NewNode { cookie, host, rack, address, capacity_bytes, feature_level, .. } =
            self.new_node();
        Body::Register(command::Register {
            node,
            cookie,
            previous: self.previous.clone(),
            nonce: self.nonce,
            host,
            rack,
            address,
            capacity_bytes,
            feature_level,
            key: None,
        })
    }

    /// The memory of the process is lost.
    pub(super) fn forget(&mut self) {
        self.life += 1;
        self.nonce = Nonce(0);
        self.announced = None;
        self.incarnation = None;
        self.inventory = None;
        self.pending.clear();
        self.asked = None;
    }

    fn live_epoch(&self, digest: &SegmentDigest) -> Option<(SegmentId, Epoch)> {
        let segment = self.replica.catalogue.segment_by_digest(digest)?;
        segment.live_slot_on(self.node?).map(|slot| (segment.id, slot.epoch))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.incarnation.is_some()
            && self.inventory.as_ref().is_some_and(Vec::is_empty)
            && self.pending.is_empty()
    }
}

impl Mind {
    /// A node does one of its tasks.
    pub(super) fn act_machine(&mut self, at: usize) -> Kept {
        let now_ms = self.now_ms;
        let machine = &mut self.machines[at];
        if !machine.up {
            return Ok(());
        }
        if machine.asked.as_ref().is_some_and(|(_, since_ms, _)| now_ms >= since_ms + PATIENCE_MS) {
            machine.asked = None;
        }
        let Some(node) = machine.node else {
            let body = Body::AllocateNode(machine.new_node());
            self.ask(at, Asked::Allocate, body);
            return Ok(());
        };
        if machine.incarnation.is_none() {
            self.come_into_service(at, node);
            return Ok(());
        }
        if let Some(reason) = self.why_stop(at, node) {
            self.note(|| format!("machine {at} stops: {reason}"));
            self.go_down(at);
            return Ok(());
        }
        match self.chance.below(8) {
            0 | 6 => self.beat(at, node),
            1 => self.derive_reports(at, node),
            2 => self.take_inventory(at, node),
            3 | 7 => self.report(at, node),
            4 => return self.destroy_one(at, node),
            _ => self.fetch_one(at, node),
        }
        Ok(())
    }

    /// Sends a request. Only one is open at a time.
    fn ask(&mut self, at: usize, asked: Asked, body: Body) {
        if self.machines[at].asked.is_some() {
            return;
        }
        let tag = self.mint();
        let from = Sender::Machine(at, self.machines[at].life, tag);
        self.machines[at].asked = Some((tag, self.now_ms, asked));
        self.send(Mail::Propose { from, request: RequestId(0), body: Box::new(body) });
    }

    fn come_into_service(&mut self, at: usize, node: NodeId) {
        if self.machines[at].nonce == Nonce(0) {
            let nonce = Nonce(u128::from(self.mint()));
            let machine = &mut self.machines[at];
            machine.previous = machine.disk.nonces();
            // It is on disk before any node hears it.
            let excess = (machine.disk.pending.len() + 1).saturating_sub(PENDING_MAX);
            machine.disk.pending.drain(..excess);
            machine.disk.pending.push(nonce);
            machine.nonce = nonce;
        }
        let machine = &mut self.machines[at];
        let Some(incarnation) = machine.announced else {
            let body = machine.register(node);
            return self.ask(at, Asked::Register, body);
        };
        let record = machine.replica.catalogue.node(node);
        if record.is_some_and(|record| record.incarnation >= incarnation) {
            machine.disk.registered = Some(machine.nonce);
            machine.disk.pending.clear();
            machine.incarnation = Some(incarnation);
        }
    }

    fn why_stop(&self, at: usize, node: NodeId) -> Option<&'static str> {
        let machine = &self.machines[at];
        let record = machine.replica.catalogue.node(node)?;
        if record.admin == Admin::Removed {
            return Some("removed from the cluster");
        }
        (Some(record.incarnation) > machine.incarnation).then_some("another process has registered")
    }

    fn beat(&mut self, at: usize, node: NodeId) {
        if let Some(incarnation) = self.machines[at].incarnation {
            self.send(Mail::Beat { node, incarnation });
        }
    }

    fn take_inventory(&mut self, at: usize, node: NodeId) {
        let machine = &mut self.machines[at];
        let Some(incarnation) = machine.incarnation else { return };
        if machine.inventory.is_none() {
            let durable = machine.replica.catalogue.slots_on(node, SlotState::Durable);
            let missing: Vec<(SegmentId, Epoch)> = durable
                .filter(|(segment, _)| !machine.disk.files.contains_key(&segment.digest))
                .map(|(segment, slot)| (segment.id, slot.epoch))
                .collect();
            let mut batches: Vec<_> = missing.chunks(INVENTORY_BATCH).map(<[_]>::to_vec).collect();
            if batches.is_empty() {
                batches.push(Vec::new());
            }
            batches.reverse();
            machine.inventory = Some(batches);
        }
        let Some(missing) = machine.inventory.as_ref().and_then(|it| it.last()).cloned() else {
            return;
        };
        let last = machine.inventory.as_ref().is_some_and(|it| it.len() == 1);
        let body = Body::Inventory(command::Inventory { node, incarnation, missing, last });
        self.ask(at, Asked::Inventory, body);
    }

    /// Files without a slot go to quarantine once the inventory is taken.
    fn set_unknown_aside(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(node) = machine.node else { return };
        let catalogue = &machine.replica.catalogue;
        let unknown = machine.disk.files.keys().copied().filter(|digest| {
            let segment = catalogue.segment_by_digest(digest);
            !segment.is_some_and(|segment| segment.slots.iter().any(|slot| slot.node == node))
        });
        let unknown: Vec<SegmentDigest> = unknown.collect();
        for digest in unknown {
            self.set_aside(at, digest);
            self.count("files.unknown");
        }
    }

    /// A file moves to quarantine, and its slot, if there is one, is given up.
    pub(super) fn set_aside(&mut self, at: usize, digest: SegmentDigest) {
        let machine = &mut self.machines[at];
        let Some(sound) = machine.disk.files.remove(&digest) else { return };
        machine.disk.quarantine.insert(digest, sound);
        if let Some((segment, epoch)) = machine.live_epoch(&digest) {
            machine.pending.insert((Said::Lost, segment, epoch));
        }
    }

    fn derive_reports(&mut self, at: usize, node: NodeId) {
        let machine = &mut self.machines[at];
        let assigned = machine.replica.catalogue.slots_on(node, SlotState::Assigned);
        let found =
            assigned.filter(|(segment, _)| machine.disk.files.contains_key(&segment.digest));
        machine
            .pending
            .extend(found.map(|(segment, slot)| (Said::Durable, segment.id, slot.epoch)));
    }

    fn report(&mut self, at: usize, node: NodeId) {
        let few = self.chance.range(1..8) as usize;
        let machine = &self.machines[at];
        let (Some(incarnation), Some((said, ..))) = (machine.incarnation, machine.pending.first())
        else {
            return;
        };
        let of_kind = machine.pending.iter().take_while(|(kind, ..)| kind == said);
        let batch: Vec<Report> = of_kind.take(few).copied().collect();
        let replicas = batch.iter().map(|(_, segment, epoch)| (*segment, *epoch)).collect();
        let body = match said {
            Said::Durable => Body::Durable(command::Durable { node, incarnation, replicas }),
            Said::Lost => Body::Lost(command::Lost { node, incarnation, replicas }),
            Said::Removed => Body::Removed(command::Removed { node, incarnation, replicas }),
        };
        self.ask(at, Asked::Report(batch), body);
    }

    pub(super) fn answer_machine(&mut self, at: usize, life: u64, tag: u64, reply: Reply) -> Kept {
        let machine = &mut self.machines[at];
        if machine.life != life
            || !machine.up
            || machine.asked.as_ref().is_none_or(|it| it.0 != tag)
        {
            return Ok(());
        }
        let Some((_, _, asked)) = machine.asked.take() else { return Ok(()) };
        match (asked, reply) {
            (Asked::Allocate, Reply::NodeAllocated { node }) => machine.node = Some(node),
            (Asked::Register, Reply::Registered { incarnation }) => {
                machine.announced = Some(incarnation);
            }
            (Asked::Inventory, Reply::Reported { .. }) => {
                let done = machine.inventory.as_mut().is_some_and(|batches| {
                    batches.pop();
                    batches.is_empty()
                });
                if done {
                    self.set_unknown_aside(at);
                }
            }
            (Asked::Report(batch), Reply::Reported { .. }) => {
                machine.pending.retain(|report| !batch.contains(report));
            }
            (asked, Reply::Refused(refusal)) => {
                let gone = matches!(
                    refusal,
                    Refusal::StaleIncarnation { .. }
                        | Refusal::NodeRemoved(_)
                        | Refusal::UnknownNode(_)
                        | Refusal::StaleIdentity { .. }
                );
                if !gone {
                    return Err(broken("D3", format!("machine {at} {asked:?}: {refusal}")));
                }
                let removed = matches!(refusal, Refusal::NodeRemoved(_));
                if !removed {
                    // No directory was rolled back or copied here, so this is its only process.
                    return Err(broken("fatal", format!("machine {at} {asked:?}: {refusal}")));
                }
                self.go_down(at);
            }
            (asked, reply) => {
                return Err(broken("fatal", format!("machine {at} {asked:?}: {reply:?}")));
            }
        }
        Ok(())
    }

    /// D3: removes one file whose slots were all released.
    fn destroy_one(&mut self, at: usize, node: NodeId) -> Kept {
        let machine = &self.machines[at];
        let work = work::for_node(&machine.replica.catalogue, node, WORK_MAX);
        let Some(destroy) = self.chance.pick(&work.destroys).cloned() else { return Ok(()) };
        let newest = self.model.catalogue.segment_by_digest(&destroy.digest);
        let counted = newest.and_then(|segment| segment.live_slot_on(node));
        if counted.is_some_and(|slot| slot.state == SlotState::Durable) {
            let text = format!("machine {at} destroys {}, which is {counted:?}", destroy.digest);
            return Err(broken("D3", text));
        }
        let machine = &mut self.machines[at];
        if machine.disk.files.remove(&destroy.digest).is_some() {
            self.count("files.destroyed");
        }
        let machine = &mut self.machines[at];
        let said = destroy.slots.iter().map(|(segment, epoch)| (Said::Removed, *segment, *epoch));
        machine.pending.extend(said);
        self.note(|| format!("machine {at} destroys {:?}", destroy.slots));
        self.check_disks()
    }

    /// Catch-up: from this node's own quarantine, or from the first source that has the segment.
    fn fetch_one(&mut self, at: usize, node: NodeId) {
        let machine = &self.machines[at];
        let work = work::for_node(&machine.replica.catalogue, node, WORK_MAX);
        let lacks = |fetch: &&Fetch| !machine.disk.files.contains_key(&fetch.digest);
        let fetches: Vec<Fetch> = work.fetches.iter().filter(lacks).cloned().collect();
        let Some(fetch) = self.chance.pick(&fetches).cloned() else { return };
        let life = machine.life;
        if machine.disk.quarantine.get(&fetch.digest) == Some(&true) {
            return self.fetched(at, life, &fetch);
        }
        for source in &fetch.sources {
            let other = self.machines.iter().position(|it| it.node == Some(*source) && it.up);
            let Some(other) = other else { continue };
            match self.machines[other].disk.files.get(&fetch.digest) {
                Some(true) => {
                    return self.send(Mail::Fetched { machine: at, life, fetch });
                }
                // The reader gets wrong bytes and raises a suspicion.
                Some(false) if self.machines[other].incarnation.is_some() => {
                    self.set_aside(other, fetch.digest);
                    self.count("rot.found_by_reader");
                }
                _ => {}
            }
        }
    }

    /// Verified bytes have arrived. They become a file if the slot is still wanted.
    pub(super) fn fetched(&mut self, at: usize, life: u64, fetch: &Fetch) {
        let machine = &mut self.machines[at];
        if !machine.up || machine.life != life || machine.live_epoch(&fetch.digest).is_none() {
            return;
        }
        machine.disk.quarantine.remove(&fetch.digest);
        machine.disk.files.entry(fetch.digest).or_insert(true);
        machine.pending.insert((Said::Durable, fetch.segment, fetch.epoch));
        self.count("files.fetched");
    }

    /// A client's bytes are accepted once the slot's epoch is applied here.
    pub(super) fn receive(
        &mut self,
        at: usize,
        client: usize,
        segment: SegmentId,
        digest: SegmentDigest,
        epoch: Epoch,
    ) {
        let machine = &mut self.machines[at];
        let index = epoch.0 & ((1 << LINEAGE_SHIFT) - 1);
        if !machine.up {
            return;
        }
        if machine.replica.applied < index {
            // The call waits for the entry for as long as its caller waits.
            return self.send(Mail::Bytes { machine: at, client, segment, digest, epoch });
        }
        let Some(node) = machine.node else { return };
        if machine.live_epoch(&digest) != Some((segment, epoch)) {
            return self.count("bytes.stale_slot");
        }
        machine.disk.files.entry(digest).or_insert(true);
        machine.pending.insert((Said::Durable, segment, epoch));
        self.count("files.received");
        self.send(Mail::Stored { client, node, digest });
    }
}
