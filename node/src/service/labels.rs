//! Wall-clock labels that lie in the future: which namespaces have some, and what taking them back
//! would change.

use std::sync::Arc;

use cairn_core::catalogue::{Catalogue, Checkpoint, Summary};
use cairn_proto::wire;
use cairn_types::command::Refusal;
use cairn_types::ids::Namespace;
use tonic::Status;

use crate::caller::Caller;
use crate::clock::WALL_AHEAD_MAX_MS;
use crate::shared::Member;

/// Namespaces that a status names: what a person reads.
const NAMED_MAX: usize = 16;

/// Namespaces whose newest label is later than a right clock could make it, and how many there
/// are. Only a leader knows what time it is.
pub fn ahead(member: &Member, summary: &Summary) -> (u64, Vec<wire::NamespaceAhead>) {
    let now_ms = member.median_wall_ms();
    let latest_ms = now_ms.saturating_add(WALL_AHEAD_MAX_MS.unsigned_abs());
    // The walk over all names is needed for a wrong clock only.
    if !member.consensus.is_leader() || summary.label_newest_ms <= latest_ms {
        return (0, Vec::new());
    }
    member.read(|catalogue| labelled_after(catalogue, now_ms, latest_ms))
}

fn labelled_after(
    catalogue: &Catalogue,
    now_ms: u64,
    latest_ms: u64,
) -> (u64, Vec<wire::NamespaceAhead>) {
    let late = || catalogue.namespaces().filter(|(_, record)| record.last_wall_ms > latest_ms);
    let named = late().take(NAMED_MAX).map(|(name, record)| wire::NamespaceAhead {
        namespace: name.to_string(),
        ahead_ms: record.last_wall_ms.saturating_sub(now_ms),
    });
    (late().count() as u64, named.collect())
}

/// What `RepairTime` would change, for an operator who asks first.
pub async fn plan_repair(
    member: &Member,
    caller: &Caller,
    namespace: Namespace,
    to_ms: Option<u64>,
) -> Result<wire::PlanTimeRepairReply, Status> {
    caller.read_index(member).await?;
    if !member.consensus.is_leader() {
        return Err(member.not_leader());
    }
    let now_ms = member.median_wall_ms();
    let to_ms = to_ms.unwrap_or(now_ms);
    let walk = move |catalogue: &Catalogue| {
        let later = catalogue.labelled_later(&namespace, to_ms)?;
        let right = commits_right(catalogue, &namespace, now_ms, later.commits)?;
        Ok::<_, Refusal>((later, right))
    };
    let planned = member.walk(walk).await;
    let (later, commits_right) =
        planned.map_err(|refusal| cairn_proto::refused::refusal_status(&refusal))?;
    let labelled = |record: &Arc<Checkpoint>| wire::LabelledCommit {
        step: record.step.0,
        wall_ms: record.commit.map_or(0, |commit| commit.wall_ms),
    };
    Ok(wire::PlanTimeRepairReply {
        to_ms,
        now_ms,
        newest_ms: later.newest_ms,
        commits: later.commits,
        newest: later.newest.iter().map(labelled).collect(),
        commits_right,
    })
}

/// Of the newest `commits`, those with a label that a right clock may have made.
fn commits_right(
    catalogue: &Catalogue,
    namespace: &Namespace,
    now_ms: u64,
    commits: u64,
) -> Result<u64, Refusal> {
    let latest_ms = now_ms.saturating_add(WALL_AHEAD_MAX_MS.unsigned_abs());
    let wrong = catalogue.labelled_later(namespace, latest_ms)?;
    Ok(commits.saturating_sub(wrong.commits))
}
