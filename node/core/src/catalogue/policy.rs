//! Policies, and what they ask for: quorums and racks.
//!
//! A namespace's record has only what it says itself. What it goes by is made of that and of what the
//! namespaces above it say ([`FullPolicy`]). The version is the log index of the last change, of the
//! namespace or above it: a change is written to the records of all namespaces below.

use cairn_types::canary;
use cairn_types::command::{Refusal, Reply, SetPolicy};
use cairn_types::ids::{Namespace, NodeId};
use cairn_types::model::{Isolation, OwnPolicy, Policy, Segment, SlotState};
use cairn_types::policy::{FullPolicy, effective_policy, lineage};

use super::{Apply, Catalogue, Entry, malformed};

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
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.set_policy(entry, self)
    }
}

impl Catalogue {
    fn set_policy(&mut self, entry: Entry, set: &SetPolicy) -> Result<Reply, Refusal> {
        let SetPolicy { namespace, change, retention, unset } = set;
        if let Some(problem) = retention.problem() {
            return Err(malformed(problem));
        }
        let mut own = self.namespaces.get(namespace).map(|it| it.own.clone()).unwrap_or_default();
        unset.iter().for_each(|field| own.unset(*field));
        // What is named must fit; what is not named follows.
        effective_policy(&self.policy_above(namespace).below(&own).policy, change)?;
        own.merge(&OwnPolicy { rules: change.clone(), retention: retention.clone() });
        let is_said_anew = change.keep_last.is_some() || own.rules.keep_last.is_none();
        self.say_policy(entry, namespace, own);
        if is_said_anew && let Some(record) = self.namespaces.get_mut(namespace) {
            record.keep_last_alone = false;
        }
        self.forget_namespace(namespace);
        Ok(Reply::Done)
    }

    /// What a namespace goes by.
    pub fn full_policy(&self, namespace: &Namespace) -> FullPolicy {
        let above = self.policy_above(namespace);
        self.namespaces
            .get(namespace)
            .map_or_else(|| above.clone(), |it| above.clone().below(&it.own))
    }

    /// The same without retention.
    pub fn policy(&self, namespace: &Namespace) -> Policy {
        self.full_policy(namespace).policy
    }

    /// Of the namespaces above one.
    fn policy_above(&self, namespace: &Namespace) -> FullPolicy {
        let above = lineage(namespace).filter(|name| *name != namespace.as_str());
        let records = above.filter_map(|name| self.namespaces.get(name));
        records.fold(FullPolicy::default(), |policy, record| policy.below(&record.inherited()))
    }

    pub fn policy_version(&self, namespace: &Namespace) -> u64 {
        self.namespaces.get(namespace).map_or(0, |record| record.policy_version)
    }

    /// Replaces what a namespace says itself; its policy and those below have a new version then.
    pub(super) fn say_policy(&mut self, entry: Entry, namespace: &Namespace, own: OwnPolicy) {
        let record = self.namespaces.or_default(namespace.clone());
        if record.own == own {
            return;
        }
        record.own = own;
        record.policy_version = entry.index;
        // '0' is the character after '/'.
        let (first, end) = (format!("{namespace}/"), format!("{namespace}0"));
        let below = self.namespaces.range::<str, _>((
            std::ops::Bound::Included(first.as_str()),
            std::ops::Bound::Excluded(end.as_str()),
        ));
        let below: Vec<Namespace> = below.map(|(name, _)| name.clone()).collect();
        for name in below {
            if let Some(record) = self.namespaces.get_mut(&name) {
                record.policy_version = entry.index;
            }
        }
    }

    /// What an upload asks for beside its data; zero keeps all, `None` changes nothing.
    pub(super) fn say_keep_last(
        &mut self,
        entry: Entry,
        namespace: &Namespace,
        keep_last: Option<u32>,
    ) {
        if keep_last.is_none() {
            return;
        }
        let known = self.namespaces.get(namespace);
        let mut own = known.map(|record| record.own.clone()).unwrap_or_default();
        // What the namespace was told for all below it stays so.
        let is_said =
            own.rules.keep_last == keep_last && known.is_some_and(|record| !record.keep_last_alone);
        own.rules.keep_last = keep_last;
        self.say_policy(entry, namespace, own);
        if let Some(record) = self.namespaces.get_mut(namespace) {
            record.keep_last_alone = !is_said;
        }
    }

    /// Drops the record of a namespace that has no checkpoint and says nothing of policy: names can
    /// be made up without end.
    pub(super) fn forget_namespace(&mut self, namespace: &Namespace) {
        let is_empty = !self.index.namespaces.contains_key(namespace);
        if is_empty {
            self.refs.remove(namespace);
        }
        if is_empty {
            self.retention_inputs.remove(namespace);
        }
        if is_empty && self.namespaces.get(namespace).is_some_and(|record| record.is_plain()) {
            self.namespaces.remove(namespace);
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
