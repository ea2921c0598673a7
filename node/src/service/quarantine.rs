//! An operator looks into this node's quarantine, and puts a good copy back.
//!
//! ```text
//! Restore: held, and the file is good ──► nothing to do
//!          no good copy ──► refused
//!          no live slot here ──AskSlot──► leader: needed? ──AssignSlots──► applied here
//!                                            no: refused
//!          verified in full, synced, renamed ──► Durable is reported, as for any replica
//! ```
//!
//! The slot comes before the file: one without a slot would never be destroyed.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::{Reason, refuse};
use cairn_proto::wire;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_types::command::{self, Body, Reply};
use cairn_types::convert;
use cairn_types::ids::{Epoch, Incarnation, NodeId, RequestId, SegmentDigest, SegmentId};
use tokio::time::Instant;
use tonic::Status;

use super::segments::store_status;
use crate::shared::{Calls, Member, Replicas};
use crate::store::{Copies, Quarantined, Restored, StoreError};
use crate::upkeep::{fetch, suspect};

/// Files of one page. Names and numbers only: a page is below 256 KiB.
const PAGE_MAX: usize = 1_000;
/// Files of one page that are read in full, 32 MiB each at most: seconds on a slow disk.
const VERIFIED_PAGE_MAX: usize = 16;
/// A slot that the leader has given is applied here within this time, and a check that runs already
/// ends, or the operator tries again.
const SLOT_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked whether the slot is there.
const LOOK: Duration = Duration::from_millis(25);

pub async fn list(
    replicas: &Replicas,
    request: wire::ListQuarantineRequest,
) -> Result<wire::ListQuarantineReply, Status> {
    let wire::ListQuarantineRequest { after, limit, verify } = request;
    let most = if verify { VERIFIED_PAGE_MAX } else { PAGE_MAX };
    let limit = match limit as usize {
        0 => most,
        limit => limit.min(most),
    };
    let page = replicas.store.quarantined_after(after, limit).await;
    let (page, more) = page.map_err(|error| store_status(&error))?;
    let mut files = Vec::with_capacity(page.len());
    for file in page {
        let good = match verify {
            true => match replicas.store.is_good(&file).await {
                Ok(good) => Some(good),
                // Not known: a restore says why.
                Err(StoreError::NoAccess { .. }) => None,
                Err(error) => return Err(store_status(&error)),
            },
            false => None,
        };
        files.push(to_wire(file, good));
    }
    Ok(wire::ListQuarantineReply { files, more, node: replicas.this.id.0 })
}

fn to_wire(file: Quarantined, good: Option<bool>) -> wire::QuarantinedFile {
    wire::QuarantinedFile {
        name: file.name,
        digest: file.digest.map(|digest| convert::digest_to_wire(&digest)).unwrap_or_default(),
        bytes: file.bytes,
        why: file.why.map_or("", |why| why.word()).to_owned(),
        since_ms: file.since_ms,
        good,
    }
}

/// Why a copy is not put back.
enum Stop {
    Refused(String),
    Failed(Status),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotWanted(digest) => Self::Refused(format!(
                "the slot of segment {digest} on this node was given up meanwhile; try again"
            )),
            // An operator's to put right, not this node's failure.
            StoreError::NoAccess { .. } => Self::Refused(error.to_string()),
            error => Self::Failed(store_status(&error)),
        }
    }
}

pub async fn restore(
    replicas: &Arc<Replicas>,
    calls: &Calls,
    request: wire::RestoreRequest,
) -> Result<wire::RestoreReply, Status> {
    let digest = digest(&request.digest)?;
    let (outcome, refused) = match put_back(replicas, calls, digest).await {
        Ok(Restored::Held) => (wire::RestoreOutcome::Held, String::new()),
        Ok(_) => (wire::RestoreOutcome::Restored, String::new()),
        Err(Stop::Refused(text)) => (wire::RestoreOutcome::Refused, text),
        Err(Stop::Failed(status)) => return Err(status),
    };
    Ok(wire::RestoreReply { outcome: outcome.into(), refused, node: replicas.this.id.0 })
}

async fn put_back(
    replicas: &Arc<Replicas>,
    calls: &Calls,
    digest: SegmentDigest,
) -> Result<Restored, Stop> {
    let Some(incarnation) = replicas.this.incarnation() else {
        let text = format!("node {} has not registered yet", replicas.this.id);
        return Err(refuse(Reason::Starting, text).into());
    };
    // The file may have been moved away under the running node: then this gives the slot up, and
    // the catalogue gives it a new one.
    if replicas.store.holds(digest) && !is_bad(replicas, digest).await? {
        return Ok(Restored::Held);
    }
    match replicas.store.copies_in_quarantine(digest).await? {
        Copies::Good => {}
        copies => return Err(Stop::Refused(no_good_copy(digest, copies))),
    }
    if live_slot(&replicas.member, digest).is_none() {
        ask_leader(calls, incarnation, digest).await?;
        until_slot(&replicas.member, digest).await?;
    }
    let restored =
        replicas.store.restore_if(digest, fetch::wanted(&replicas.member, digest)).await?;
    match restored {
        // Catch-up may have been faster: the same copy, or another node's.
        Restored::Held | Restored::Back => {}
        Restored::None => return Err(Stop::Refused(no_good_copy(digest, Copies::None))),
        Restored::Bad(count) => {
            return Err(Stop::Refused(no_good_copy(digest, Copies::Bad(count))));
        }
    }
    if let Some((segment, epoch)) = live_slot(&replicas.member, digest) {
        replicas.say_durable(segment, epoch, digest);
    }
    if restored == Restored::Back {
        replicas.counters.segments_recovered.add(1);
    }
    Ok(Restored::Back)
}

/// Whether the file that is held is bad, and given up. The check is a task of its own: it goes on
/// when the operator leaves.
async fn is_bad(replicas: &Arc<Replicas>, digest: SegmentDigest) -> Result<bool, Stop> {
    let end = Instant::now() + SLOT_WAIT;
    let checking = loop {
        match suspect::begin(replicas, digest) {
            Some(checking) => break checking,
            None if Instant::now() >= end => {
                let text = format!(
                    "segment {digest} is being checked, or too many other checks run; try again"
                );
                return Err(refuse(Reason::Busy, text).into());
            }
            None => tokio::time::sleep(LOOK).await,
        }
    };
    let checked = checking.await.map_err(|_| Status::unavailable("the node stops"))?;
    Ok(checked?)
}

fn no_good_copy(digest: SegmentDigest, copies: Copies) -> String {
    match copies {
        Copies::Bad(count) => format!(
            "no copy of segment {digest} in quarantine is good as a whole (checked: {count}); repair uses their good blocks"
        ),
        _ => format!("no copy of segment {digest} is in quarantine"),
    }
}

fn live_slot(member: &Member, digest: SegmentDigest) -> Option<(SegmentId, Epoch)> {
    member.read(|catalogue| {
        let segment = catalogue.segment_by_digest(&digest)?;
        segment.live_slot_on(member.this.id).map(|slot| (segment.id, slot.epoch))
    })
}

async fn until_slot(member: &Member, digest: SegmentDigest) -> Result<(), Status> {
    let end = Instant::now() + SLOT_WAIT;
    while live_slot(member, digest).is_none() {
        if Instant::now() >= end {
            let text = format!("the slot of segment {digest} is not applied here yet; try again");
            return Err(refuse(Reason::NotYet, text));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn ask_leader(
    calls: &Calls,
    incarnation: Incarnation,
    digest: SegmentDigest,
) -> Result<(), Stop> {
    let request = wire::AskSlotRequest {
        node: calls.this.id.0,
        incarnation: incarnation.0,
        digest: convert::digest_to_wire(&digest),
    };
    let reply = if calls.member.consensus.is_leader() {
        give_slot(&calls.member, request).await?
    } else {
        let (_, address) =
            calls.member.consensus.leader().ok_or_else(|| calls.member.not_leader())?;
        let mut client = AdminClient::new(calls.transport(&address));
        let call = client.ask_slot(calls.request(None, request));
        let answer = tokio::time::timeout(SLOT_WAIT, call).await;
        let late = |_| Status::deadline_exceeded(format!("no answer from {address}"));
        answer.map_err(late)?.map_err(Stop::Failed)?.into_inner()
    };
    match reply.refused.is_empty() {
        true => Ok(()),
        false => Err(Stop::Refused(reply.refused)),
    }
}

/// On the leader: a slot for a node that has a good copy, if its segment lacks a replica.
pub async fn give_slot(
    member: &Member,
    request: wire::AskSlotRequest,
) -> Result<wire::AskSlotReply, Status> {
    let (node, digest) = (NodeId(request.node), digest(&request.digest)?);
    member.read_index(member.this.call_deadline()).await?;
    if !member.consensus.is_leader() {
        return Err(member.not_leader());
    }
    let may = member.read(|catalogue| {
        let current = catalogue.node(node).map(|record| record.incarnation.0);
        if current != Some(request.incarnation) {
            return Err(format!("another process has registered as node {node}"));
        }
        let segment = catalogue.segment_by_digest(&digest);
        if segment.is_some_and(|segment| segment.live_slot_on(node).is_some()) {
            return Ok(None);
        }
        catalogue.may_restore(digest, node).map(Some).map_err(|reason| reason.to_string())
    });
    let refused = match may {
        Err(text) => text,
        Ok(None) => String::new(),
        Ok(Some(segment)) => {
            let body = Body::AssignSlots(command::AssignSlots { slots: vec![(segment, node)] });
            match &*member.propose(RequestId(0), body).await? {
                Reply::Reported { accepted: 1, .. } => {
                    tracing::info!(%node, %digest, "a slot for a copy out of quarantine");
                    String::new()
                }
                // What was lacking a moment ago has come from elsewhere.
                Reply::Reported { .. } => "the segment now has all its replicas".to_owned(),
                other => {
                    return Err(Status::internal(format!("unexpected reply to slots: {other:?}")));
                }
            }
        }
    };
    Ok(wire::AskSlotReply { refused })
}

fn digest(bytes: &[u8]) -> Result<SegmentDigest, Status> {
    convert::digest_from_wire("digest", bytes)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}
