//! Nodes speak for themselves (DESIGN section 4.4): what this node made durable, found lost or
//! removed is gathered and sent to the leader in batches, for uploads and catch-up alike.
//!
//! Nothing here needs to survive a crash: the same reports are derived again from the catalogue
//! and the files (`upkeep::own_work`). Sending one twice is harmless, epochs tell.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::command::{Body, Refusal, Reply};
use cairn_core::ids::{Epoch, Incarnation, RequestId, SegmentId};
use cairn_core::limits::BATCH_SEGMENTS_MAX;
use cairn_proto::envelope::Reason;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_proto::{convert, wire};
use parking_lot::Mutex;
use tonic::{Code, Status};

use crate::shared::Shared;
use crate::wake::Wake;

/// What is said of a replica, most urgent first: a replica that is bad must stop counting even
/// while uploads keep the queue full. (A Lost moves the slot's epoch, so a Durable of the old one
/// that is still queued is void, and the new one is derived again.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    Lost,
    Removed,
    Durable,
}

type Replica = (SegmentId, Epoch);

#[derive(Default)]
pub struct Reporter {
    pending: Mutex<BTreeSet<(Said, Replica)>>,
    wake: Wake,
}

impl Reporter {
    /// Queues one report. The queue is a set over this node's slots, so it is bounded by them.
    pub fn say(&self, said: Said, segment: SegmentId, epoch: Epoch) {
        self.pending.lock().insert((said, (segment, epoch)));
        self.wake.ring();
    }

    /// Reports not answered yet.
    pub fn pending(&self) -> usize {
        self.pending.lock().len()
    }

    /// The next batch of one kind, left in the queue until it is answered.
    fn next_batch(&self) -> Option<(Said, Vec<Replica>)> {
        let pending = self.pending.lock();
        let (said, _) = pending.first()?;
        let said = *said;
        let batch = pending
            .iter()
            .take_while(|(kind, _)| *kind == said)
            .take(BATCH_SEGMENTS_MAX)
            .map(|(_, replica)| *replica)
            .collect();
        Some((said, batch))
    }

    fn answered(&self, said: Said, batch: &[Replica]) {
        let mut pending = self.pending.lock();
        for replica in batch {
            pending.remove(&(said, *replica));
        }
    }
}

/// Sends reports for as long as the node runs.
pub async fn run(shared: Arc<Shared>) {
    let gather = Duration::from_millis(shared.config.timings.report_batch_ms);
    let retry = Duration::from_millis(shared.config.timings.raft_heartbeat_ms);
    loop {
        let batch = shared.incarnation().zip(shared.reporter.next_batch());
        let Some((incarnation, (said, replicas))) = batch else {
            shared.reporter.wake.wait(shared.upkeep_period()).await;
            tokio::time::sleep(gather).await;
            continue;
        };
        match send(&shared, incarnation, said, &replicas).await {
            Ok(()) => shared.reporter.answered(said, &replicas),
            Err(status) => {
                tracing::debug!(%status, ?said, count = replicas.len(), "report not delivered");
                tokio::time::sleep(shared.env.jitter(retry)).await;
            }
        }
    }
}

async fn send(
    shared: &Shared,
    incarnation: Incarnation,
    said: Said,
    replicas: &[Replica],
) -> Result<(), Status> {
    let node = shared.node;
    let replicas = replicas.to_vec();
    let body = match said {
        Said::Durable => Body::Durable { node, incarnation, replicas },
        Said::Lost => Body::Lost { node, incarnation, replicas },
        Said::Removed => Body::Removed { node, incarnation, replicas },
    };
    shared.counters.reports_sent.add(1);
    match to_leader(shared, RequestId(0), body).await? {
        Reply::Reported { refused, .. } => {
            shared.counters.reports_refused.add(u64::from(refused));
            Ok(())
        }
        Reply::Refused(
            refusal @ (Refusal::StaleIncarnation { .. }
            | Refusal::NodeRemoved(_)
            | Refusal::UnknownNode(_)),
        ) => {
            // Another process has registered under this id, or the node was removed: this
            // process has nothing to say any more.
            (shared.banish)(refusal.to_string());
            Err(Status::failed_precondition(refusal.to_string()))
        }
        other => Err(Status::internal(format!("unexpected reply to a report: {other:?}"))),
    }
}

/// Has the leader, wherever it is, propose a command of this node.
pub async fn to_leader(shared: &Shared, request: RequestId, body: Body) -> Result<Reply, Status> {
    if shared.consensus.is_leader() {
        return shared.propose(request, body).await.map(|reply| Reply::clone(&reply));
    }
    let Some((_, address)) = shared.consensus.leader() else {
        return Err(shared.not_leader());
    };
    report_to(shared, &address, request, body).await
}

/// Sends a command of this node to the node at `address`.
pub async fn report_to(
    shared: &Shared,
    address: &str,
    request: RequestId,
    body: Body,
) -> Result<Reply, Status> {
    let command =
        cairn_core::command::Command { request, clock_ms: 0, wall_ms: shared.env.wall_ms(), body };
    let message = wire::ExecuteRequest {
        command: Some(convert::command_to_wire(&command)),
        ..wire::ExecuteRequest::default()
    };
    let mut client = AdminClient::new(shared.transport(address));
    let call = client.report(shared.call(None, message));
    let answer = tokio::time::timeout(shared.call_deadline(), call)
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no answer from {address}")))??;
    let reply = answer.into_inner().reply.ok_or_else(|| Status::internal("empty reply")).and_then(
        |reply| {
            convert::reply_from_wire(reply).map_err(|error| Status::internal(error.to_string()))
        },
    )?;
    Ok(reply)
}

/// Whether trying again, perhaps elsewhere, can help.
pub fn is_passing(status: &Status) -> bool {
    !matches!(
        Reason::of(status),
        Some(
            Reason::StaleIdentity | Reason::OtherCluster | Reason::OtherLineage | Reason::Protocol
        )
    ) && !matches!(
        status.code(),
        Code::Unauthenticated | Code::InvalidArgument | Code::PermissionDenied
    )
}
