//! A simulated node's `main`, as short as the real one: pieces in, routes out, wait for the reason
//! to end; and what it is configured with.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::model::Settings;
use cairn_node::config::{NodeConfig, Origin, Timings};
use cairn_node::ledger::MemoryLedger;
use cairn_node::node::{self, Pieces, StartError};
use cairn_node::raft::Engine;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::{End, Inner, Running};
use crate::rt::SimRt;
use crate::trace;
use crate::world::Seat;

/// A node that was told to stop has so long for it, as in production.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Cluster times that let minutes of upkeep happen in seconds.
pub(super) fn settings(pace: u64) -> Settings {
    Settings {
        lease_ms: 10_000 * pace,
        grace_ms: 20_000 * pace,
        down_after_ms: 3_000 * pace,
        replace_after_ms: 30_000 * pace,
    }
}

fn timings(pace: u64) -> Timings {
    let usual = Timings::default();
    Timings {
        raft_heartbeat_ms: usual.raft_heartbeat_ms * pace,
        election_min_ms: usual.election_min_ms * pace,
        election_max_ms: usual.election_max_ms * pace,
        heartbeat_ms: usual.heartbeat_ms * pace,
        upkeep_ms: usual.upkeep_ms * pace,
        snapshot_entries: 150,
        log_kept_entries: 50,
        ..usual
    }
}

pub(super) fn config(name: &str, rack: &str, pace: u64) -> NodeConfig {
    NodeConfig {
        address: format!("{name}:7100"),
        host: name.to_owned(),
        rack: rack.to_owned(),
        capacity_bytes: 64 << 30,
        origin: Origin::Resume,
        peers: Vec::new(),
        timings: timings(pace),
    }
}

/// The `main` of a simulated node.
pub(super) async fn run_node(seat: Seat, config: NodeConfig, cluster: Arc<Mutex<Inner>>) {
    let (fatal, mut reasons) = mpsc::channel::<String>(1);
    let stop = Arc::<Notify>::default();
    let pieces = Pieces {
        engine: Engine::over::<SimRt>(),
        env: seat.env.clone(),
        disk: seat.disk.clone(),
        ledger: Arc::new(MemoryLedger::default()),
        fatal: Arc::new(move |reason| {
            let _ = fatal.try_send(reason);
        }),
        usage: Default::default,
        certificates: false,
    };
    let mut end = End::Other;
    let reason = match node::start(pieces, config).await {
        Ok(node) => {
            let node = Arc::new(node);
            seat.serve(node.routes());
            let running = Running {
                process: seat.id,
                name: seat.life.name.clone(),
                shared: node.shared().clone(),
                life: seat.life.clone(),
                stop: stop.clone(),
                _node: node.clone(),
            };
            if !seat.life.is_abandoned() {
                let mut inner = cluster.lock();
                let before = inner.applied.get(&seat.id).copied().unwrap_or(0);
                let behind = running.shared.consensus.applied() < before;
                trace::count("cluster.restarted_behind", behind.into());
                inner.ids.insert(seat.id, node.id());
                inner.running.insert(seat.id, running);
            }
            let reason = tokio::select! {
                biased;
                reason = reasons.recv() => reason.unwrap_or_default(),
                () = stop.notified() => {
                    let _ = tokio::time::timeout(STOP_DEADLINE, node.stop()).await;
                    end = End::Told;
                    "told to stop".to_owned()
                }
            };
            if node.is_banished() {
                end = End::Refused;
            }
            reason
        }
        Err(error) => {
            end = match error {
                StartError::Identity(_) | StartError::Refused(_) => End::Refused,
                StartError::Join(_) => End::NobodyAnswers,
                _ => End::Other,
            };
            error.to_string()
        }
    };
    trace::event(&seat.life.name, "ends", format_args!("{reason}"));
    cluster.lock().ends.insert(seat.id, end);
    if seat.life.is_abandoned() {
        trace::count("cluster.zombies_ended", 1);
        return;
    }
    let counter = if end == End::Told { "cluster.stopped_in_order" } else { "cluster.fatal_ends" };
    trace::count(counter, 1);
    let mut inner = cluster.lock();
    if let Some(running) = inner.running.remove(&seat.id) {
        inner.note_end(&running, None);
    }
    let excused = match inner.excused.get(&seat.id) {
        Some(until) => until.is_none_or(|until| Instant::now() <= until),
        None => false,
    };
    // A newcomer gives up where nobody answers; its supervisor tries again.
    if !matches!(end, End::NobodyAnswers | End::Told) && !excused {
        seat.violation("fatal", format!("{} ended by itself: {reason}", seat.life.name));
    }
}
