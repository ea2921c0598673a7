//! An operator asks this node's scrub for something, and is told how far it is.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::Lane;
use cairn_proto::wire;
use cairn_types::convert;
use tonic::Status;

use crate::scrub::PAUSE_MAX;
use crate::shared::Replicas;
use crate::upkeep::scrub;

pub async fn answer(
    replicas: &Arc<Replicas>,
    request: wire::ScrubRequest,
) -> Result<wire::ScrubReply, Status> {
    let period_ms = replicas.this.config.timings.scrub_ms;
    let order = request.order();
    // Where nothing is scrubbed, the answer says so.
    if order != wire::ScrubOrder::Unspecified && period_ms != 0 {
        give(replicas, order, Duration::from_millis(request.pause_ms)).await?;
    }
    // Each answer asks the ledger about every replica.
    let _one = replicas.scrub.answering.lock().await;
    let plan = scrub::plan(replicas).await;
    let (orders, totals) = (replicas.ledger.scrub_orders(), plan.totals);
    let faults = replicas.scrub.faults().into_iter().map(|fault| wire::ScrubFault {
        digest: convert::digest_to_wire(&fault.digest),
        at_ms: fault.at_ms,
    });
    let now_ms = replicas.this.env.wall_ms();
    Ok(wire::ScrubReply {
        node: replicas.this.id.0,
        period_ms,
        pass_since_ms: orders.pass_since_ms,
        paused_until_ms: orders.paused_until_ms.filter(|until| *until > now_ms),
        complete_ms: orders.complete_ms,
        replicas: totals.replicas,
        bytes: totals.bytes,
        verified: totals.verified,
        verified_bytes: totals.verified_bytes,
        ripe: totals.ripe,
        ripe_bytes: totals.ripe_bytes,
        late: totals.late,
        oldest_ms: totals.oldest_ms,
        bytes_per_s: plan.bytes_per_s,
        bad: replicas.counters.scrub_bad.get(),
        faults: faults.collect(),
    })
}

async fn give(
    replicas: &Arc<Replicas>,
    order: wire::ScrubOrder,
    pause: Duration,
) -> Result<(), Status> {
    let now_ms = replicas.this.env.wall_ms();
    let mut orders = replicas.ledger.scrub_orders();
    match order {
        wire::ScrubOrder::Unspecified => {}
        wire::ScrubOrder::Start => {
            (orders.pass_since_ms, orders.paused_until_ms) = (Some(now_ms), None);
        }
        wire::ScrubOrder::Pause if pause.is_zero() || pause > PAUSE_MAX => {
            let text = format!("a pause of {} ms: 1 ms to 7 days", pause.as_millis());
            return Err(Status::invalid_argument(text));
        }
        wire::ScrubOrder::Pause => {
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            orders.paused_until_ms = Some(now_ms.saturating_add(pause_ms));
        }
        wire::ScrubOrder::Resume => orders.paused_until_ms = None,
    }
    tracing::info!(?order, "the scrub is asked for something");
    replicas.ledger.set_scrub_orders(orders);
    let ledger = Arc::clone(&replicas.ledger);
    // So that a restart does not forget it.
    replicas.this.env.blocking(Lane::Data, move || ledger.flush()).await;
    replicas.scrub.ask();
    Ok(())
}
