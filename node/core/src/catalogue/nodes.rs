//! Nodes: joining, registering, going down and leaving.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::kinds::Use;
use super::{Apply, Catalogue, Entry, NodeSlots, Tally, check_batch, malformed};
use cairn_types::command::{
    Accept, AllocateNode, ForgetNodes, InitCluster, Refusal, Register, RemoveNode, Reply,
    SetLiveness, VoidSlots,
};
use cairn_types::ids::{
    ClusterId, Incarnation, LINEAGE_SHIFT, Lineage, NodeId, Nonce, SegmentId, check_host_port,
    check_label,
};
use cairn_types::limits::{
    NODES_MAX, NONCES_MAX, REMOVED_KEPT_MS, SUPERSEDED_MAX, UNREGISTERED_KEPT_MS,
    UNREGISTERED_MS_MIN, VOIDED_SEGMENTS_MAX,
};
use cairn_types::model::{Admin, Cluster, Duty, Liveness, NewNode, Node, Settings};

impl Apply for InitCluster {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.init_cluster(self.cluster, &self.settings, &self.node)
    }
}

impl Apply for AllocateNode {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.allocate_node(self)
    }
}

impl Apply for Register {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.register(self)
    }
}

impl Apply for SetLiveness {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.set_liveness(&self.changes)
    }
}

impl Apply for RemoveNode {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.remove_node(self.node, self.accept)
    }
}

impl Apply for VoidSlots {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.void_slots(self.node)
    }
}

/// From this feature level of the cluster on, a removal voids slots in steps.
const VOIDED_LEVEL: u32 = 2;

impl Apply for ForgetNodes {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.forget_nodes(&self.nodes)
    }
}

impl Catalogue {
    pub(super) fn init_cluster(
        &mut self,
        cluster: ClusterId,
        settings: &Settings,
        node: &NewNode,
    ) -> Result<Reply, Refusal> {
        if self.is_initialized() {
            return Err(Refusal::AlreadyInitialized);
        }
        if settings.lease_ms == 0 || settings.down_after_ms == 0 {
            return Err(malformed("lease and down time must be at least 1 ms"));
        }
        check_place(&node.host, &node.rack, &node.address)?;
        self.cluster = Cluster {
            id: cluster,
            lineage: Lineage(0),
            clock_ms: self.cluster.clock_ms,
            reap_hold: false,
            feature_level: node.feature_level,
            settings: settings.clone(),
            next_node: 1,
            next_segment: 1,
            next_checkpoint: 1,
            next_incarnation: 1,
            tokens_required: false,
            audit: self.cluster.audit,
        };
        Ok(Reply::NodeAllocated { node: self.add_node(node) })
    }

    pub(super) fn allocate_node(&mut self, node: &NewNode) -> Result<Reply, Refusal> {
        self.check_build(node.feature_level)?;
        check_place(&node.host, &node.rack, &node.address)?;
        let known =
            Arc::make_mut(&mut self.nodes).values_mut().find(|known| known.cookie == node.cookie);
        if let Some(known) = known {
            if known.admin == Admin::Removed {
                return Err(Refusal::NodeRemoved(known.id));
            }
            if known.key.is_some() && known.key != node.key {
                return Err(Refusal::WrongCookie { node: known.id });
            }
            if known.incarnation == Incarnation(0) {
                // A join was interrupted and repeated from another place. Until the node registers,
                // its last stated address is the one where it can be reached.
                known.host.clone_from(&node.host);
                known.rack.clone_from(&node.rack);
                known.address.clone_from(&node.address);
                known.capacity_bytes = node.capacity_bytes;
                known.feature_level = node.feature_level;
                known.key = node.key;
            }
            return Ok(Reply::NodeAllocated { node: known.id });
        }
        let holds_place = |known: &&Node| {
            known.admin == Admin::InService
                && known.incarnation != Incarnation(0)
                && (&known.host, &known.address) == (&node.host, &node.address)
                && node.replaces != Some(known.id)
        };
        if let Some(known) = self.nodes.values().find(holds_place) {
            return Err(Refusal::PlaceTaken { node: known.id });
        }
        if self.nodes.len() >= NODES_MAX {
            self.forget_one_that_never_came();
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(malformed(format!("the cluster has had {NODES_MAX} nodes, its limit")));
        }
        Ok(Reply::NodeAllocated { node: self.add_node(node) })
    }

    /// Removes records that are no longer needed: of nodes that never registered, and of removed
    /// nodes. Their ids are never assigned again.
    pub(super) fn forget_nodes(&mut self, nodes: &[NodeId]) -> Result<Reply, Refusal> {
        check_batch("nodes", nodes.len(), NODES_MAX)?;
        let mut tally = Tally::default();
        for node in nodes {
            let may_go = self.nodes.get(node).is_some_and(|it| self.may_forget(it));
            tally.count(may_go);
            if may_go {
                Arc::make_mut(&mut self.nodes).remove(node);
            }
        }
        Ok(tally.reply())
    }

    /// Whether a node's record is no longer needed: the node did not register in time, or was
    /// removed long ago. The leader checks whether it is still a Raft member.
    pub fn may_forget(&self, node: &Node) -> bool {
        let age_ms = self.cluster.clock_ms.saturating_sub(node.liveness_since_ms);
        let after_ms = match node {
            Node { admin: Admin::Removed, .. } => REMOVED_KEPT_MS,
            Node { incarnation: Incarnation(0), .. } => UNREGISTERED_KEPT_MS,
            _ => return false,
        };
        let slots = self.index.nodes.get(&node.id);
        age_ms >= after_ms && slots.is_none_or(NodeSlots::is_empty)
    }

    /// Abandoned joins must not keep a real node out of a full cluster.
    fn forget_one_that_never_came(&mut self) {
        let clock_ms = self.cluster.clock_ms;
        let idle = |it: &&Node| {
            it.incarnation == Incarnation(0)
                && it.admin == Admin::InService
                && clock_ms.saturating_sub(it.liveness_since_ms) >= UNREGISTERED_MS_MIN
        };
        let oldest =
            self.nodes.values().filter(idle).min_by_key(|it| (it.liveness_since_ms, it.id));
        if let Some(id) = oldest.map(|it| it.id) {
            Arc::make_mut(&mut self.nodes).remove(&id);
        }
    }

    /// Whether a node of this id was a member once and has no record any more.
    pub fn is_forgotten(&self, node: NodeId) -> bool {
        let counter = node.0 & ((1 << LINEAGE_SHIFT) - 1);
        let minted = node.0 == self.cluster.lineage.mint(counter)
            && (1..self.cluster.next_node).contains(&counter);
        minted && !self.nodes.contains_key(&node)
    }

    fn add_node(&mut self, node: &NewNode) -> NodeId {
        let id = NodeId(self.cluster.lineage.mint(self.cluster.next_node));
        self.cluster.next_node += 1;
        let record = Node {
            id,
            cookie: node.cookie,
            nonce: Nonce(0),
            superseded: Vec::new(),
            host: node.host.clone(),
            rack: node.rack.clone(),
            address: node.address.clone(),
            incarnation: Incarnation(0),
            inventoried: false,
            admin: Admin::InService,
            duty: Duty::Serving,
            liveness: Liveness::Down,
            liveness_since_ms: self.cluster.clock_ms,
            capacity_bytes: node.capacity_bytes,
            feature_level: node.feature_level,
            key: node.key,
        };
        Arc::make_mut(&mut self.nodes).insert(id, record);
        id
    }

    fn register(&mut self, registration: &Register) -> Result<Reply, Refusal> {
        let Register {
            node,
            cookie,
            previous,
            nonce,
            host,
            rack,
            address,
            capacity_bytes,
            feature_level,
            key,
        } = registration;
        let record = self.nodes.get(node).ok_or(Refusal::UnknownNode(*node))?;
        if record.admin == Admin::Removed {
            return Err(Refusal::NodeRemoved(*node));
        }
        if record.cookie != *cookie {
            return Err(Refusal::WrongCookie { node: *node });
        }
        // The signature was checked by the leader. A key that is recorded never changes.
        if record.key.is_some() && key.is_some() && record.key != *key {
            return Err(Refusal::WrongCookie { node: *node });
        }
        self.check_build(*feature_level)?;
        let record =
            Arc::make_mut(&mut self.nodes).get_mut(node).ok_or(Refusal::UnknownNode(*node))?;
        if *nonce == Nonce(0) {
            return Err(malformed("a process nonce is never zero"));
        }
        check_batch("previous nonces", previous.len(), NONCES_MAX)?;
        check_place(host, rack, address)?;
        if record.nonce == *nonce {
            return Ok(Reply::Registered { incarnation: record.incarnation });
        }
        let registered_before = record.incarnation != Incarnation(0);
        let replaced = record.superseded.contains(nonce);
        if registered_before && (replaced || !previous.contains(&record.nonce)) {
            return Err(Refusal::StaleIdentity { node: *node });
        }
        let incarnation = Incarnation(self.cluster.lineage.mint(self.cluster.next_incarnation));
        self.cluster.next_incarnation += 1;
        if registered_before {
            if record.superseded.len() >= SUPERSEDED_MAX {
                record.superseded.remove(0);
            }
            record.superseded.push(record.nonce);
        }
        record.nonce = *nonce;
        record.host.clone_from(host);
        record.rack.clone_from(rack);
        record.address.clone_from(address);
        record.incarnation = incarnation;
        record.inventoried = false;
        record.liveness = Liveness::Up;
        // A new process gets a full term before its silence counts.
        record.liveness_since_ms = self.cluster.clock_ms;
        record.capacity_bytes = *capacity_bytes;
        record.feature_level = *feature_level;
        record.key = record.key.or(*key);
        self.recount_racks();
        Ok(Reply::Registered { incarnation })
    }

    pub(super) fn set_liveness(
        &mut self,
        changes: &[(NodeId, Incarnation, Liveness)],
    ) -> Result<Reply, Refusal> {
        check_batch("liveness changes", changes.len(), NODES_MAX)?;
        let clock_ms = self.cluster.clock_ms;
        let mut tally = Tally::default();
        for (node, incarnation, liveness) in changes {
            let current = Arc::make_mut(&mut self.nodes).get_mut(node).filter(|record| {
                record.admin == Admin::InService
                    && record.incarnation == *incarnation
                    && *incarnation != Incarnation(0)
            });
            tally.count(current.is_some());
            if let Some(record) = current
                && record.liveness != *liveness
            {
                record.liveness = *liveness;
                record.liveness_since_ms = clock_ms;
                if record.counts() {
                    self.note_counting(*node);
                }
            }
        }
        Ok(tally.reply())
    }

    /// Final: the node's slots no longer count from here on (D4). All of them, live and released,
    /// are removed: some by this entry, the rest by those of [`VoidSlots`].
    pub(super) fn remove_node(&mut self, node: NodeId, accept: Accept) -> Result<Reply, Refusal> {
        let clock_ms = self.cluster.clock_ms;
        if self.nodes.get(&node).is_some_and(|record| record.admin == Admin::Removed) {
            return Ok(Reply::Done);
        }
        self.may_remove(node, accept)?;
        let record =
            Arc::make_mut(&mut self.nodes).get_mut(&node).ok_or(Refusal::UnknownNode(node))?;
        record.admin = Admin::Removed;
        record.duty = Duty::Serving;
        record.inventoried = false;
        record.liveness = Liveness::Down;
        // The start of the time after which the record may be removed.
        record.liveness_since_ms = clock_ms;
        self.recount_racks();
        // A node of an older build voids all slots at once. So all nodes do, until all are newer.
        let steps = self.cluster.feature_level >= VOIDED_LEVEL;
        self.void_some(node, if steps { VOIDED_SEGMENTS_MAX } else { usize::MAX });
        Ok(Reply::Done)
    }

    fn void_slots(&mut self, node: NodeId) -> Result<Reply, Refusal> {
        let record = self.nodes.get(&node).ok_or(Refusal::UnknownNode(node))?;
        if record.admin != Admin::Removed {
            return Err(malformed(format!("slots of node {node}, which is in service")));
        }
        Ok(Reply::Dropped { left: self.void_some(node, VOIDED_SEGMENTS_MAX) })
    }

    /// Removes the node's slots from at most `most` segments. Returns how many slots are left.
    fn void_some(&mut self, node: NodeId, most: usize) -> u64 {
        let slots = self.index.nodes.get(&node).cloned().unwrap_or_default();
        let held = slots.assigned.iter().chain(slots.durable.iter()).chain(slots.released.iter());
        for id in held.take(most).collect::<Vec<SegmentId>>() {
            self.change_segment(id, |segment| {
                segment.slots.edit(|slots| slots.retain(|slot| slot.node != node));
            });
            self.forget_if_spent(id);
        }
        let left = self.index.nodes.get(&node);
        left.map_or(0, |it| it.assigned.len() + it.durable.len() + it.released.len())
    }
}

impl Catalogue {
    /// Whether a node in service may be removed, as far as data and hosts are concerned. The leader
    /// checks the vote: see `voters::leave`.
    pub fn may_remove(&self, node: NodeId, accept: Accept) -> Result<(), Refusal> {
        let record = self.nodes.get(&node).ok_or(Refusal::UnknownNode(node))?;
        if record.admin == Admin::Removed {
            return Err(Refusal::NodeRemoved(node));
        }
        let serves =
            |other: &&Node| other.admin == Admin::InService && other.incarnation != Incarnation(0);
        if !self.nodes.values().filter(serves).any(|other| other.id != node) {
            return Err(Refusal::LastNode(node));
        }
        let segments = self.removal_cost(node).segments_lost;
        if segments > 0 && !accept.data_loss {
            return Err(Refusal::LastReplicas { node, segments });
        }
        let up = |without: Option<NodeId>| {
            let nodes = self.nodes.values().filter(|other| other.takes_slots());
            let hosts = nodes.filter(|other| Some(other.id) != without).map(|other| &other.host);
            hosts.collect::<BTreeSet<_>>().len() as u32
        };
        let (hosts, wanted) = (up(Some(node)), self.replicas_in_use());
        if hosts < wanted && hosts < up(None) && !accept.fewer_hosts {
            return Err(Refusal::TooFewHosts { node, hosts, wanted });
        }
        Ok(())
    }

    /// The cost of a node's removal. Costs a walk over the kinds of segments.
    pub fn removal_cost(&self, node: NodeId) -> RemovalCost {
        let mut cost = RemovalCost::default();
        // Data on a node that is down may never come back.
        let lives =
            |other: &NodeId| *other != node && self.nodes.get(other).is_some_and(Node::counts);
        let kinds = self.index.kinds.iter();
        for (kind, totals) in kinds.filter(|(kind, _)| kind.used != Use::Unreferenced) {
            if !kind.durable.contains(&node) {
                continue;
            }
            cost.segments += totals.segments;
            cost.bytes += totals.bytes;
            if !kind.durable.iter().any(lives) {
                cost.segments_lost += totals.segments;
                cost.bytes_lost += totals.bytes;
            }
        }
        cost
    }

    /// The highest number of replicas that a checkpoint wants.
    pub(super) fn replicas_in_use(&self) -> u32 {
        self.index.by_replicas.iter().rposition(|count| *count > 0).map_or(1, |most| most as u32)
    }
}

/// The cost of a node's removal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemovalCost {
    /// Referenced segments that are durable on it. Their replicas are made elsewhere.
    pub segments: u64,
    pub bytes: u64,
    /// Those of them without another replica on a living node.
    pub segments_lost: u64,
    pub bytes_lost: u64,
}

fn check_place(host: &str, rack: &str, address: &str) -> Result<(), Refusal> {
    check_label(host).map_err(|error| malformed(error.to_string()))?;
    check_label(rack).map_err(|error| malformed(error.to_string()))?;
    check_host_port(address).map_err(|error| malformed(error.to_string()))
}
