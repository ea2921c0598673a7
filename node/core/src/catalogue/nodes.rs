//! Nodes: how they come, register, go down and leave.

use super::{Catalogue, Tally, check_batch, malformed};
use crate::command::{Body, Refusal, Reply};
use crate::ids::{
    ClusterId, Incarnation, Lineage, NodeId, Nonce, SegmentId, check_label, is_host_port,
};
use crate::limits::{NODES_MAX, NONCES_MAX, SUPERSEDED_MAX};
use crate::model::{Admin, Cluster, Liveness, NewNode, Node, Settings, Slot, SlotState};

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
        };
        Ok(Reply::NodeAllocated { node: self.add_node(node) })
    }

    pub(super) fn allocate_node(&mut self, node: &NewNode) -> Result<Reply, Refusal> {
        check_place(&node.host, &node.rack, &node.address)?;
        let known = self.nodes.values_mut().find(|known| known.cookie == node.cookie);
        if let Some(known) = known {
            if known.admin == Admin::Removed {
                return Err(Refusal::NodeRemoved(known.id));
            }
            if known.incarnation == Incarnation(0) {
                // A join that was cut short and tried again somewhere else: until the node
                // registers, what it said last is where it can be reached.
                known.host.clone_from(&node.host);
                known.rack.clone_from(&node.rack);
                known.address.clone_from(&node.address);
                known.capacity_bytes = node.capacity_bytes;
                known.feature_level = node.feature_level;
            }
            return Ok(Reply::NodeAllocated { node: known.id });
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(malformed(format!("the cluster has had {NODES_MAX} nodes, its limit")));
        }
        Ok(Reply::NodeAllocated { node: self.add_node(node) })
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
            liveness: Liveness::Down,
            liveness_since_ms: self.cluster.clock_ms,
            capacity_bytes: node.capacity_bytes,
            feature_level: node.feature_level,
        };
        self.nodes.insert(id, record);
        id
    }

    /// Takes a whole `Body::Register`, whose fields are many.
    pub(super) fn register(&mut self, body: &Body) -> Result<Reply, Refusal> {
        let Body::Register {
            node,
            cookie,
            previous,
            nonce,
            host,
            rack,
            address,
            capacity_bytes,
            feature_level,
        } = body
        else {
            return Err(malformed("not a registration"));
        };
        let record = self.nodes.get_mut(node).ok_or(Refusal::UnknownNode(*node))?;
        if record.admin == Admin::Removed {
            return Err(Refusal::NodeRemoved(*node));
        }
        if record.cookie != *cookie {
            return Err(Refusal::WrongCookie { node: *node });
        }
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
        // A new process is given a full term before its silence counts.
        record.liveness_since_ms = self.cluster.clock_ms;
        record.capacity_bytes = *capacity_bytes;
        record.feature_level = *feature_level;
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
            let current = self.nodes.get_mut(node).filter(|record| {
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
            }
        }
        Ok(tally.reply())
    }

    /// For good: the node's slots vanish, live and released alike (D4). Refused while data would
    /// go with it.
    pub(super) fn remove_node(&mut self, node: NodeId) -> Result<Reply, Refusal> {
        let clock_ms = self.cluster.clock_ms;
        let record = self.nodes.get(&node).ok_or(Refusal::UnknownNode(node))?;
        if record.admin == Admin::Removed {
            return Ok(Reply::Done);
        }
        let serves =
            |other: &&Node| other.admin == Admin::InService && other.incarnation != Incarnation(0);
        if !self.nodes.values().filter(serves).any(|other| other.id != node) {
            return Err(Refusal::LastNode(node));
        }
        let segments = self.last_replicas(node);
        if segments > 0 {
            return Err(Refusal::LastReplicas { node, segments });
        }
        let record = self.nodes.get_mut(&node).ok_or(Refusal::UnknownNode(node))?;
        record.admin = Admin::Removed;
        record.inventoried = false;
        if record.liveness == Liveness::Up {
            record.liveness = Liveness::Down;
            record.liveness_since_ms = clock_ms;
        }
        self.recount_racks();
        let slots = self.index.nodes.get(&node).cloned().unwrap_or_default();
        let held: Vec<SegmentId> = slots
            .assigned
            .iter()
            .chain(slots.durable.iter())
            .chain(slots.released.iter())
            .collect();
        for id in held {
            self.change_segment(id, |segment| segment.slots.retain(|slot| slot.node != node));
            self.forget_if_spent(id);
        }
        Ok(Reply::Done)
    }
}

impl Catalogue {
    /// Referenced segments that are Durable on this node and on no other one in service. Costs a
    /// walk over the node's durable segments.
    fn last_replicas(&self, node: NodeId) -> u64 {
        let in_service =
            |id: &NodeId| self.nodes.get(id).is_some_and(|other| other.admin == Admin::InService);
        let elsewhere = |slot: &Slot| {
            slot.node != node && slot.state == SlotState::Durable && in_service(&slot.node)
        };
        let durable =
            self.index.nodes.get(&node).into_iter().flat_map(|slots| slots.durable.iter());
        let referenced = durable
            .filter_map(|id| self.segments.get(id))
            .filter(|segment| segment.is_referenced());
        referenced.filter(|segment| !segment.slots.iter().any(elsewhere)).count() as u64
    }
}

fn check_place(host: &str, rack: &str, address: &str) -> Result<(), Refusal> {
    check_label(host).map_err(|error| malformed(error.to_string()))?;
    check_label(rack).map_err(|error| malformed(error.to_string()))?;
    if is_host_port(address) { Ok(()) } else { Err(malformed("address is not a HOST:PORT")) }
}
