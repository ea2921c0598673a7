//! Whether this node can do its work: whether its disk answers and whether it can accept
//! connections.
//!
//! ```text
//! oldest unfinished job of a lane --+                late_after: unfit, logs it, hands over
//! oldest refused accept ------------+--> look -----> end_after:  the process ends
//! ```
//!
//! A hung disk gives no error. The only sign is the age of the oldest unfinished write. An unfit
//! node gets no new slots and does not lead. Its replicas still count, until its process ends and
//! it is down.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::Lane;
use cairn_proto::wire::NodeTrouble;
use cairn_types::canary;
use cairn_types::ids::NodeId;
use tokio::time::Instant;

use crate::shared::{Ending, LeaderState, Member};

/// Period of the look at the log and the segments.
const LOOK: Duration = Duration::from_millis(500);
/// If a look comes this much too late, the whole process was paused, and its jobs with it. The jobs
/// then get their full time again before they are judged.
const STOOD_STILL: Duration = Duration::from_secs(3);
/// Time limit for another node to replace a leader that handed over. After it the leader ends its
/// process, so that it does not block the cluster.
const HANDOVER_MAX: Duration = Duration::from_secs(15);

/// Looks at the lanes for as long as the node runs.
pub async fn run(member: Arc<Member>, leader: Arc<LeaderState>, ending: Arc<Ending>) {
    let timings = &member.this.config.timings;
    let ms = Duration::from_millis;
    let (log_late, data_late) = (ms(timings.log_late_ms), ms(timings.segments_late_ms));
    let (accept_late, end) = (ms(timings.accept_late_ms), ms(timings.disk_end_ms));
    let mut judged_from = Instant::now();
    let mut looked = Instant::now();
    let mut handed_over: Option<(u64, Instant)> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        if looked.elapsed() > STOOD_STILL {
            judged_from = Instant::now() + log_late.max(data_late);
        }
        looked = Instant::now();
        if looked < judged_from {
            continue;
        }
        let age = |lane| match canary!("hung_disk_is_healthy") {
            true => Duration::ZERO,
            false => member.this.env.oldest_job(lane).unwrap_or_default(),
        };
        let (log, data) = (age(Lane::Log), age(Lane::Data));
        let trouble = NodeTrouble {
            log_late_ms: late_ms(log, log_late),
            segments_late_ms: late_ms(data, data_late),
            accept_late_ms: late_ms(member.health.refusing_for(), accept_late),
        };
        note(&member, trouble);
        if log.max(data) > end {
            ending.fatal(format!("{}: the process ends", trouble.text()));
            return;
        }
        if trouble.is_none() {
            handed_over = None;
            continue;
        }
        if member.consensus.is_leader() {
            let term = member.consensus.term();
            if hand_over(&member, &leader).await {
                handed_over = Some((term, Instant::now()));
            }
        }
        if let Some((term, since)) = handed_over
            && since.elapsed() > HANDOVER_MAX
            && member.consensus.resigned_term() == Some(term)
        {
            ending.fatal(format!("{}, and no other node takes over", trouble.text()));
            return;
        }
    }
}

fn late_ms(age: Duration, late_after: Duration) -> u64 {
    match age > late_after {
        true => u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        false => 0,
    }
}

/// Stores the observation and logs it once.
fn note(member: &Member, trouble: NodeTrouble) {
    let before = member.health.note(trouble);
    match (before.is_none(), trouble.is_none()) {
        (true, false) => {
            tracing::warn!(node = %member.this.id, trouble = trouble.text(), "node is unfit");
        }
        (false, true) => tracing::info!(node = %member.this.id, "node is fit again"),
        _ => {}
    }
}

/// Asks the voter with the longest log to take over, if a majority of the voters is fit to elect
/// it. Without such a majority a handover does not help, so this leader continues as well as it
/// can.
async fn hand_over(member: &Member, leader: &LeaderState) -> bool {
    let patience = Duration::from_millis(3 * member.this.config.timings.heartbeat_ms)
        + Duration::from_millis(member.this.config.timings.call_ms);
    let status = member.consensus.status();
    let fit = |voter: &u64| {
        let pulse = leader.heartbeats.of(NodeId(*voter));
        pulse.is_some_and(|pulse| pulse.trouble.is_none() && pulse.at.elapsed() < patience)
    };
    let others: Vec<u64> = status
        .voters
        .keys()
        .copied()
        .filter(|voter| *voter != member.this.id.0)
        .filter(fit)
        .collect();
    if others.len() <= status.voters.len() / 2 {
        return false;
    }
    let furthest =
        others.into_iter().max_by_key(|voter| status.matched.get(voter).copied().flatten());
    let Some(to) = furthest else { return false };
    let trouble = member.health.trouble();
    tracing::warn!(node = %member.this.id, to, trouble = trouble.text(), "leadership is handed over");
    member.consensus.transfer_leader(to).await;
    true
}
