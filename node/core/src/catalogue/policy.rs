//! Policies, and what they ask for: quorums and racks.

use cairn_types::canary;
use cairn_types::command::{Refusal, Reply, SetPolicy};
use cairn_types::ids::{Namespace, NodeId};
use cairn_types::model::{Isolation, NamespaceRecord, Policy, PolicyChange, Segment, SlotState};
use cairn_types::policy::effective_policy;

use super::{Apply, Catalogue, Entry};

/// What a segment needs before a commit is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// W: replicas that count.
    pub replicas: u32,
    /// Distinct racks they stand in.
    pub racks: u32,
}

impl Quorum {
    /// Whether these are enough replicas on enough racks.
    pub(super) fn meets(self, wanted: Self) -> bool {
        self.replicas >= wanted.replicas && self.racks >= wanted.racks
    }
}

impl Apply for SetPolicy {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.set_policy(&self.namespace, &self.change)
    }
}

impl Catalogue {
    pub(super) fn set_policy(
        &mut self,
        namespace: &Namespace,
        change: &PolicyChange,
    ) -> Result<Reply, Refusal> {
        let policy = effective_policy(&self.namespace_or_default(namespace).policy, change)?;
        self.put_policy(namespace, policy);
        self.forget_namespace(namespace);
        Ok(Reply::Done)
    }

    /// Drops the record of a namespace that has no checkpoint and the default policy: it says
    /// nothing, and names can be made up without end.
    pub(super) fn forget_namespace(&mut self, namespace: &Namespace) {
        let is_empty = !self.index.namespaces.contains_key(namespace);
        if is_empty {
            self.refs.remove(namespace);
        }
        let record = self.namespaces.get(namespace);
        if is_empty && record.is_some_and(|record| record.policy == Policy::default()) {
            self.namespaces.remove(namespace);
        }
    }

    /// The namespace's record, or what a new one starts from.
    pub(super) fn namespace_or_default(&self, namespace: &Namespace) -> NamespaceRecord {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }

    pub(super) fn put_policy(&mut self, namespace: &Namespace, policy: Policy) {
        let record = self.namespaces.or_default(namespace.clone());
        if record.policy != policy {
            record.policy = policy;
            record.policy_version += 1;
        }
    }

    /// Racks over which R replicas must be spread: `min_racks`, as far as the cluster has racks; a
    /// soft policy asks for none.
    pub fn required_racks(&self, policy: &Policy) -> u32 {
        match policy.isolation {
            Isolation::Soft => 1,
            Isolation::Hard => policy.min_racks.min(self.index.racks).max(1),
        }
    }

    /// What each segment must have at the commit.
    pub fn quorum(&self, policy: &Policy) -> Quorum {
        let replicas = policy.write_quorum;
        if canary!("quorum_ignores_racks") {
            return Quorum { replicas, racks: 1 };
        }
        Quorum { replicas, racks: self.required_racks(policy).min(replicas) }
    }

    /// Replicas of a segment that count, and the racks they stand in.
    pub fn counting(&self, segment: &Segment) -> Quorum {
        let durable = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
        self.counting_on(durable.map(|slot| slot.node))
    }

    /// Of Durable replicas on these nodes, those that count, and the racks they stand in.
    pub(super) fn counting_on(&self, nodes: impl Iterator<Item = NodeId>) -> Quorum {
        let nodes = nodes.filter_map(|node| self.nodes.get(&node));
        spread(nodes.filter(|node| node.counts()).map(|node| node.rack.as_str()))
    }

    /// Whether enough replicas count on enough racks.
    pub fn meets(&self, segment: &Segment, quorum: Quorum) -> bool {
        self.counting(segment).meets(quorum)
    }
}

/// How many replicas, and in how many racks.
pub(crate) fn spread<'a>(racks: impl Iterator<Item = &'a str>) -> Quorum {
    let mut seen: Vec<&str> = Vec::new();
    let mut replicas = 0;
    for rack in racks {
        replicas += 1;
        if !seen.contains(&rack) {
            seen.push(rack);
        }
    }
    Quorum { replicas, racks: seen.len() as u32 }
}
