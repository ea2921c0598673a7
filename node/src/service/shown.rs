//! What a caller is shown: checkpoints that it may read or wrote, where their segments are, and nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_core::catalogue::{Catalogue, Checkpoint, RemovalCost};
use cairn_proto::wire;
use cairn_types::command::Refusal;
use cairn_types::convert;
use cairn_types::ids::{Address, CheckpointId, Incarnation, Namespace, SegmentDigest};
use cairn_types::model::{Admin, Duty, Liveness};
use cairn_types::rights::{Right, TokenSubject};
use tonic::Status;

use crate::caller::Caller;
use crate::shared::{LeaderState, Member, Shared};

/// Refuses to say anything of a namespace to those who may neither read nor write there. Who may only
/// write is told of what it wrote.
pub(super) fn check_known(caller: &Caller, namespace: &Namespace) -> Result<(), Status> {
    match caller.check(Right::Write, namespace) {
        Ok(()) => Ok(()),
        Err(_) => caller.check(Right::Read, namespace),
    }
}

/// The checkpoint of an address, if the caller may see it: it may read the namespace, or it wrote the
/// checkpoint and may write there. To others all addresses are the same, whether there is something.
pub(super) fn resolved<'a>(
    catalogue: &'a Catalogue,
    caller: &Caller,
    address: &Address,
) -> Result<&'a Arc<Checkpoint>, Refusal> {
    let found = catalogue.resolve_record(address);
    if caller.reads(&address.namespace) {
        return found;
    }
    let is_own = |record: &Checkpoint| {
        caller.token().is_some_and(|token| {
            record.began.subject == token.name
                && token.grant.allows(Right::Write, &record.namespace)
        })
    };
    found.ok().filter(|record| is_own(record)).ok_or_else(|| Refusal::NoSuchCheckpoint {
        namespace: address.namespace.to_string(),
        selector: address.selector.to_string(),
    })
}

/// The checkpoint of its namespace with which one shares most.
pub(super) async fn shared_most(member: &Member, id: CheckpointId) -> Option<wire::SharedMost> {
    let walk = move |catalogue: &Catalogue| {
        let most = catalogue.shared_most(catalogue.checkpoint(id)?)?;
        Some(wire::SharedMost {
            checkpoint: most.checkpoint.0,
            step: most.step.0,
            bytes: most.bytes,
            compared: most.compared,
        })
    };
    member.walk(walk).await
}

/// What is new in a checkpoint says what others have stored, and is for those who may read everything.
pub(super) fn without_sharing(
    token: Option<&TokenSubject>,
    info: wire::CheckpointInfo,
) -> wire::CheckpointInfo {
    match token {
        Some(token) if !token.grant.allows_everywhere(Right::Read) => {
            wire::CheckpointInfo { new_bytes: None, ..info }
        }
        _ => info,
    }
}

/// Where segments are, in order; unknown where the caller has no right to one.
pub(super) fn located(
    catalogue: &Catalogue,
    caller: &Caller,
    about: Option<CheckpointId>,
    digests: &[SegmentDigest],
) -> Vec<wire::Located> {
    let Some(token) = caller.token() else {
        return digests.iter().map(|digest| one_located(catalogue, *digest)).collect();
    };
    let id = |digest: &SegmentDigest| Some(catalogue.segment_by_digest(digest)?.id);
    let wanted: BTreeSet<_> = digests.iter().filter_map(id).collect();
    let mut shown = catalogue.on_account_of(token, about, Right::Read, &wanted);
    shown.extend(catalogue.on_account_of(token, about, Right::Write, &wanted));
    let one = |digest: &SegmentDigest| match id(digest).filter(|id| shown.contains(id)) {
        Some(_) => one_located(catalogue, *digest),
        None => wire::Located::default(),
    };
    digests.iter().map(one).collect()
}

fn one_located(catalogue: &Catalogue, digest: SegmentDigest) -> wire::Located {
    match catalogue.segment_by_digest(&digest) {
        None => wire::Located::default(),
        Some(segment) => wire::Located {
            segment: segment.id.0,
            len: segment.form.raw_len(),
            // What a removed node has left is voided bit by bit, and read by nobody.
            slots: segment
                .live_slots()
                .filter(|slot| {
                    let node = catalogue.node(slot.node);
                    node.is_some_and(|node| node.admin == Admin::InService)
                })
                .map(|slot| convert::slot_to_wire(&slot))
                .collect(),
        },
    }
}

/// The nodes; how much is stored on them only for those who may know of all that is.
pub(super) fn nodes(shared: &Shared, caller: &Caller) -> Vec<wire::NodeInfo> {
    let Shared { member, leader, .. } = shared;
    let mut nodes = member.read(|catalogue| node_infos(member, leader, catalogue));
    if !caller.reads_everything() {
        for node in &mut nodes {
            (node.replicas_durable, node.replicas_assigned) = (0, 0);
            (node.replicas_released, node.bytes_durable) = (0, 0);
        }
    }
    nodes
}

fn node_infos(member: &Member, leader: &LeaderState, catalogue: &Catalogue) -> Vec<wire::NodeInfo> {
    let voters = member.consensus.voters();
    let clocks = member.clocks_ahead_of_median_ms();
    let info = |node: &cairn_types::model::Node| {
        let id = node.id;
        let tally = catalogue.node_tally(id);
        let leads = member.consensus.is_leader();
        let pulse = leader.heartbeats.of(id).filter(|_| leads);
        let registered = (node.incarnation != Incarnation(0)).then_some(&*node.address);
        let outside = leader.joining.why(id, registered).filter(|_| leads);
        let clock_ms = catalogue.cluster().clock_ms;
        let (duty, maintenance_left_ms) = match node.duty {
            Duty::Draining => (wire::Duty::Draining, 0),
            // Another node's record does not change when the time is over.
            Duty::Maintenance { until_ms } if clock_ms < until_ms => {
                (wire::Duty::Maintenance, until_ms - clock_ms)
            }
            Duty::Maintenance { .. } | Duty::Serving => (wire::Duty::Serving, 0),
        };
        let left = match node.duty {
            Duty::Draining => catalogue.removal_cost(id),
            _ => RemovalCost::default(),
        };
        wire::NodeInfo {
            id: id.0,
            host: node.host.clone(),
            rack: node.rack.clone(),
            address: node.address.clone(),
            up: node.liveness == Liveness::Up,
            removed: node.admin == Admin::Removed,
            inventoried: node.inventoried,
            capacity_bytes: node.capacity_bytes,
            incarnation: node.incarnation.0,
            voter: voters.contains_key(&id.0),
            replicas_durable: tally.durable,
            replicas_assigned: tally.assigned,
            replicas_released: tally.released,
            bytes_durable: tally.bytes_live,
            available_bytes: pulse.map(|pulse| pulse.available_bytes),
            liveness_since_ms: node.liveness_since_ms,
            trouble: pulse.map(|pulse| pulse.trouble),
            feature_level: node.feature_level,
            clock_ahead_ms: clocks.get(&id).copied(),
            outside: outside.unwrap_or_default(),
            audit_damaged: pulse.is_some_and(|pulse| pulse.audit_damaged),
            duty: duty.into(),
            maintenance_left_ms,
            draining_segments: left.segments,
            draining_bytes: left.bytes,
        }
    };
    catalogue.nodes().map(info).collect()
}
