//! A node reports about itself (DESIGN section 4.4). Its replicas that became durable, were found
//! lost or were removed are collected and sent to the leader in batches. Uploads and catch-up use
//! the same path.
//!
//! Nothing here needs to survive a crash: the same reports are derived again from the catalogue and
//! the files (`upkeep::own_work`). A report sent twice does no harm, because it carries an epoch.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::Reason;
use cairn_proto::wire;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_types::canary;
use cairn_types::command::{self, Body, Refusal, Reply};
use cairn_types::convert;
use cairn_types::ids::{Incarnation, RequestId};
use tonic::{Code, Status};

use crate::reporter::{Replica, Said};
use crate::shared::{Calls, Ending, Replicas};

/// Sends reports for as long as the node runs.
pub async fn run(replicas: Arc<Replicas>, calls: Arc<Calls>, ending: Arc<Ending>) {
    let gather = Duration::from_millis(replicas.this.config.timings.report_batch_ms);
    let retry = Duration::from_millis(replicas.this.config.timings.raft_heartbeat_ms);
    loop {
        let next = replicas.this.incarnation().zip(replicas.reporter.next_batch());
        let Some((incarnation, (said, batch))) = next else {
            replicas.reporter.wait(replicas.this.upkeep_period()).await;
            tokio::time::sleep(gather).await;
            continue;
        };
        match send(&replicas, &calls, &ending, incarnation, said, &batch).await {
            Ok(()) => replicas.reporter.answered(said, &batch),
            Err(status) => {
                tracing::debug!(%status, ?said, count = batch.len(), "report not delivered");
                tokio::time::sleep(replicas.this.env.jitter(retry)).await;
            }
        }
    }
}

async fn send(
    replicas: &Replicas,
    calls: &Calls,
    ending: &Ending,
    incarnation: Incarnation,
    said: Said,
    batch: &[Replica],
) -> Result<(), Status> {
    if said == Said::Lost && canary!("lost_goes_unsaid") {
        return Ok(());
    }
    let node = replicas.this.id;
    let batch = batch.to_vec();
    let body = match said {
        Said::Durable => Body::Durable(command::Durable { node, incarnation, replicas: batch }),
        Said::Lost => Body::Lost(command::Lost { node, incarnation, replicas: batch }),
        Said::Declined(reason) => {
            Body::Declined(command::Declined { node, incarnation, reason, replicas: batch })
        }
        Said::Removed => Body::Removed(command::Removed { node, incarnation, replicas: batch }),
    };
    replicas.counters.reports_sent.add(1);
    match to_leader(calls, RequestId(0), body).await? {
        Reply::Reported { refused, .. } => {
            replicas.counters.reports_refused.add(u64::from(refused));
            Ok(())
        }
        Reply::Refused(refusal @ Refusal::NodeRemoved(_))
            if replicas.member.consensus.may_vote(replicas.this.id.0) =>
        {
            // The node is removed, and its vote is needed until the group's membership excludes it.
            Err(Status::failed_precondition(refusal.to_string()))
        }
        Reply::Refused(
            refusal @ (Refusal::StaleIncarnation { .. }
            | Refusal::NodeRemoved(_)
            | Refusal::UnknownNode(_)),
        ) => {
            // Another process has registered under this id, or the node was removed. If this is
            // confirmed, this process must stop.
            ending.accuse(refusal.to_string());
            Err(Status::failed_precondition(refusal.to_string()))
        }
        other => Err(Status::internal(format!("unexpected reply to a report: {other:?}"))),
    }
}

/// Makes the leader propose a command of this node.
pub async fn to_leader(calls: &Calls, request: RequestId, body: Body) -> Result<Reply, Status> {
    if calls.member.consensus.is_leader() {
        return calls.member.propose(request, body).await.map(|reply| Reply::clone(&reply));
    }
    let Some((leader, address)) = calls.member.consensus.leader() else {
        return Err(calls.member.not_leader());
    };
    tokio::select! {
        biased;
        answer = report_to(calls, &address, request, body) => answer,
        // A frozen leader gives no answer while its successor is already elected.
        () = calls.member.until_not_led_by(leader) => Err(calls.member.not_leader()),
    }
}

/// Sends a command of this node to the node at `address`.
pub async fn report_to(
    calls: &Calls,
    address: &str,
    request: RequestId,
    body: Body,
) -> Result<Reply, Status> {
    let command = cairn_types::command::Command::new(request, 0, calls.this.env.wall_ms(), body);
    let message = wire::ExecuteRequest {
        command: convert::encode_command(&command),
        ..wire::ExecuteRequest::default()
    };
    let mut client = AdminClient::new(calls.transport(address));
    let mut signed = calls.request(None, message);
    let bytes = signed.get_ref().command.clone();
    calls.speech.sign_report(signed.metadata_mut(), &bytes);
    let call = client.report(signed);
    let answer = tokio::time::timeout(calls.this.call_deadline(), call)
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no answer from {address}")))??;
    let reply = answer.into_inner().reply.ok_or_else(|| Status::internal("empty reply")).and_then(
        |reply| {
            convert::reply_from_wire(reply).map_err(|error| Status::internal(error.to_string()))
        },
    )?;
    Ok(reply)
}

/// Whether another attempt, perhaps on another node, can help.
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
