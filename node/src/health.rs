//! Whether this node can do its work: does its disk answer, can it accept connections.
//!
//! ```text
//! oldest unfinished job of a lane --+                late_after: unfit, says so, hands over
//! oldest refused accept ------------+--> look -----> end_after:  the process ends
//! ```
//!
//! A disk that hangs gives no error: the age of the oldest write that has not ended is all there
//! is to see. An unfit node gets no new slots and does not lead; what it holds still counts, until
//! its process ends and it is down.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::Lane;
use cairn_proto::wire::NodeTrouble;
use cairn_types::canary;
use cairn_types::ids::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::shared::Shared;

/// The log and the segments are looked at this often.
const LOOK: Duration = Duration::from_millis(500);
/// A look that comes this much later than it should: the whole process stood still, and its jobs
/// with it. They get their time again before they are judged.
const STOOD_STILL: Duration = Duration::from_secs(3);
/// A leader that handed over is out of office after this long, or ends its process: one that
/// cannot even be replaced must not stay in the way.
const HANDOVER_MAX: Duration = Duration::from_secs(15);

/// What the last look saw.
#[derive(Debug, Default)]
pub struct Health {
    seen: Mutex<NodeTrouble>,
    /// Since when no connection could be accepted.
    refusing: Mutex<Option<Instant>>,
}

impl Health {
    /// What keeps this node from its work; all zero where nothing does.
    pub fn trouble(&self) -> NodeTrouble {
        *self.seen.lock()
    }

    /// Fit for new slots and for leading.
    pub fn is_fit(&self) -> bool {
        self.trouble().is_none()
    }

    /// The listener could not accept a connection, or can again.
    pub fn accepts(&self, accepts: bool) {
        let mut refusing = self.refusing.lock();
        match accepts {
            true => *refusing = None,
            false => drop(refusing.get_or_insert_with(Instant::now)),
        }
    }

    fn refusing_for(&self) -> Duration {
        self.refusing.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Looks for as long as the node runs.
pub async fn run(shared: Arc<Shared>) {
    let timings = &shared.this.config.timings;
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
            false => shared.this.env.oldest_job(lane).unwrap_or_default(),
        };
        let (log, data) = (age(Lane::Log), age(Lane::Data));
        let trouble = NodeTrouble {
            log_late_ms: late_ms(log, log_late),
            segments_late_ms: late_ms(data, data_late),
            accept_late_ms: late_ms(shared.member.health.refusing_for(), accept_late),
        };
        note(&shared, trouble);
        if log.max(data) > end {
            (shared.fatal)(format!("{}: the process ends", trouble.text()));
            return;
        }
        if trouble.is_none() {
            handed_over = None;
            continue;
        }
        if shared.member.consensus.is_leader() {
            let term = shared.member.consensus.term();
            if hand_over(&shared).await {
                handed_over = Some((term, Instant::now()));
            }
        }
        if let Some((term, since)) = handed_over
            && since.elapsed() > HANDOVER_MAX
            && shared.member.consensus.resigned_term() == Some(term)
        {
            (shared.fatal)(format!("{}, and no other node takes over", trouble.text()));
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

/// Remembers what was seen, and says it once.
fn note(shared: &Shared, trouble: NodeTrouble) {
    let before = std::mem::replace(&mut *shared.member.health.seen.lock(), trouble);
    match (before.is_none(), trouble.is_none()) {
        (true, false) => {
            tracing::warn!(node = %shared.this.id, trouble = trouble.text(), "node is unfit");
        }
        (false, true) => tracing::info!(node = %shared.this.id, "node is fit again"),
        _ => {}
    }
}

/// Asks the voter that is furthest to take over, if a majority of the voters is fit to elect it.
/// Without one nothing is gained: this leader goes on as well as it can.
async fn hand_over(shared: &Shared) -> bool {
    let patience = Duration::from_millis(3 * shared.this.config.timings.heartbeat_ms)
        + Duration::from_millis(shared.this.config.timings.call_ms);
    let status = shared.member.consensus.status();
    let fit = |voter: &u64| {
        let pulse = shared.heartbeats.of(NodeId(*voter));
        pulse.is_some_and(|pulse| pulse.trouble.is_none() && pulse.at.elapsed() < patience)
    };
    let others: Vec<u64> = status
        .voters
        .keys()
        .copied()
        .filter(|voter| *voter != shared.this.id.0)
        .filter(fit)
        .collect();
    if others.len() <= status.voters.len() / 2 {
        return false;
    }
    let furthest =
        others.into_iter().max_by_key(|voter| status.matched.get(voter).copied().flatten());
    let Some(to) = furthest else { return false };
    let trouble = shared.member.health.trouble();
    tracing::warn!(node = %shared.this.id, to, trouble = trouble.text(), "leadership is handed over");
    shared.member.consensus.transfer_leader(to).await;
    true
}
