//! Policies, and what they ask for: quorums and racks.

use super::{Catalogue, Entry, malformed};
use crate::canary;
use crate::command::{Refusal, Reply};
use crate::ids::Namespace;
use crate::limits::REPLICAS_MAX;
use crate::model::{Isolation, NamespaceRecord, Policy, PolicyChange, Segment, SlotState};

/// What a segment needs before a commit is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// W: replicas that count.
    pub replicas: u32,
    /// Distinct racks they stand in.
    pub racks: u32,
}

/// `base` with what the caller wants different.
///
/// A smaller R caps a W and a `min_racks` that the caller did not name; a named rule that cannot
/// be kept is refused.
pub fn effective_policy(base: &Policy, change: &PolicyChange) -> Result<Policy, Refusal> {
    let replicas = change.replicas.unwrap_or(base.replicas);
    if !(1..=REPLICAS_MAX).contains(&replicas) {
        return Err(malformed(format!("{replicas} replicas, wants 1 to {REPLICAS_MAX}")));
    }
    let part_of_r = |name: &str, named: Option<u32>, inherited: u32| match named {
        Some(value) if (1..=replicas).contains(&value) => Ok(value),
        Some(value) => {
            Err(malformed(format!("{name} of {value}, wants 1 to the {replicas} replicas")))
        }
        None => Ok(inherited.clamp(1, replicas)),
    };
    Ok(Policy {
        replicas,
        write_quorum: part_of_r("write quorum", change.write_quorum, base.write_quorum)?,
        min_racks: part_of_r("rack minimum", change.min_racks, base.min_racks)?,
        isolation: change.isolation.unwrap_or(base.isolation),
        keep_last: match change.keep_last {
            None => base.keep_last,
            Some(0) => None,
            Some(keep_last) => Some(keep_last),
        },
    })
}

impl Catalogue {
    pub(super) fn set_policy(
        &mut self,
        namespace: &Namespace,
        change: &PolicyChange,
    ) -> Result<Reply, Refusal> {
        let policy = effective_policy(&self.namespace_or_default(namespace).policy, change)?;
        self.put_policy(namespace, policy);
        Ok(Reply::Done)
    }

    /// The namespace's record, or what a new one starts from.
    pub(super) fn namespace_or_default(&self, namespace: &Namespace) -> NamespaceRecord {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }

    pub(super) fn put_policy(&mut self, namespace: &Namespace, policy: Policy) {
        let record = self.namespaces.entry(namespace.clone()).or_default();
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
        let nodes = durable.filter_map(|slot| self.nodes.get(&slot.node));
        spread(nodes.filter(|node| node.counts()).map(|node| node.rack.as_str()))
    }

    /// Whether enough replicas count on enough racks.
    pub fn meets(&self, segment: &Segment, quorum: Quorum) -> bool {
        let have = self.counting(segment);
        have.replicas >= quorum.replicas && have.racks >= quorum.racks
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

impl Entry {
    /// The label of a commit made by this entry, which never goes back in a namespace.
    pub(super) fn wall_after(&self, last_wall_ms: u64) -> u64 {
        self.wall_ms.max(last_wall_ms)
    }
}
