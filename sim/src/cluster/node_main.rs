//! A simulated node's `main`, as short as the real one: pieces in, routes out, wait for the reason
//! to end. And its configuration.

use std::sync::Arc;
use std::time::Duration;

use cairn_node::audit::AuditConfig;
use cairn_node::config::{NodeConfig, Origin, Timings};
use cairn_node::ledger::MemoryLedger;
use cairn_node::node::{self, Pieces, StartError};
use cairn_node::raft::Engine;
use cairn_types::command::FEATURE_LEVEL;
use cairn_types::model::Settings;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::{End, Inner, Running};
use crate::rt::SimRt;
use crate::trace;
use crate::world::ProcessParts;

/// Time limit for a node that was told to stop, as in production.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Small compared with a snapshot here, so that a snapshot travels in several pieces and may break
/// off between them.
const SNAPSHOT_PIECE_BYTES: u64 = 2 << 10;
/// A hung disk is noticed sooner than in production, so that a run sees the consequences.
const LOG_LATE_MS: u64 = 3_000;
const SEGMENTS_LATE_MS: u64 = 5_000;
pub(crate) const DISK_END_MS: u64 = 15_000;

/// Cluster times that are short enough for minutes of upkeep to happen in seconds.
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
        raft_lease_ms: usual.raft_lease_ms * pace,
        heartbeat_ms: usual.heartbeat_ms * pace,
        upkeep_ms: usual.upkeep_ms * pace,
        log_late_ms: LOG_LATE_MS,
        segments_late_ms: SEGMENTS_LATE_MS,
        disk_end_ms: DISK_END_MS,
        snapshot_entries: 150,
        log_kept_entries: 50,
        snapshot_piece_bytes: SNAPSHOT_PIECE_BYTES,
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
        cluster: None,
        exists: None,
        replaces: None,
        peers: Vec::new(),
        feature_level: FEATURE_LEVEL,
        // Several files in a run, and none is removed.
        audit: AuditConfig { file_bytes: 8 << 10, keep_bytes: 1 << 30 },
        timings: timings(pace),
    }
}

/// The `main` of a simulated node.
pub(super) async fn run_node(parts: ProcessParts, config: NodeConfig, cluster: Arc<Mutex<Inner>>) {
    let (fatal, mut reasons) = mpsc::channel::<String>(1);
    let stop = Arc::<Notify>::default();
    let pieces = Pieces {
        engine: Engine::over::<SimRt>(),
        env: parts.env.clone(),
        disk: parts.disk.clone(),
        ledger: Arc::new(MemoryLedger::default()),
        fatal: Arc::new(move |reason| {
            let _ = fatal.try_send(reason);
        }),
        usage: Default::default,
        certificates: false,
        is_local: false,
        starting: Default::default(),
        health: Default::default(),
    };
    let mut end = End::Other;
    let reason = match node::start(pieces, config).await {
        Ok(node) => {
            let node = Arc::new(node);
            parts.serve(node.routes());
            let running = Running {
                process: parts.id,
                name: parts.life.name.clone(),
                shared: node.shared().clone(),
                life: parts.life.clone(),
                stop: stop.clone(),
                _node: node.clone(),
            };
            if !parts.life.is_abandoned() {
                let mut inner = cluster.lock();
                let before = inner.applied.get(&parts.id).copied().unwrap_or(0);
                let behind = running.shared.member.consensus.applied() < before;
                trace::count("cluster.restarted_behind", behind.into());
                inner.ids.insert(parts.id, node.id());
                inner.running.insert(parts.id, running);
            }
            let reason = tokio::select! {
                biased;
                reason = reasons.recv() => reason.unwrap_or_default(),
                () = stop.notified() => {
                    node.say_goodbye().await;
                    let _ = tokio::time::timeout(STOP_DEADLINE, node.stop()).await;
                    end = End::Told;
                    "told to stop".to_owned()
                }
            };
            if node.is_stopped_for_good() {
                end = End::Refused;
            }
            reason
        }
        Err(error) => {
            end = match error {
                StartError::Identity(_) | StartError::Refused(_) => End::Refused,
                // Its place is free once an operator has removed the previous node.
                StartError::Join(_) | StartError::JoinRefused(_) => End::NobodyAnswers,
                StartError::Founded { .. } => End::Refused,
                _ => End::Other,
            };
            error.to_string()
        }
    };
    trace::event(&parts.life.name, "ends", format_args!("{reason}"));
    cluster.lock().ends.insert(parts.id, end);
    if parts.life.is_abandoned() {
        trace::count("cluster.zombies_ended", 1);
        return;
    }
    let counter = if end == End::Told { "cluster.stopped_in_order" } else { "cluster.fatal_ends" };
    trace::count(counter, 1);
    let mut inner = cluster.lock();
    if let Some(running) = inner.running.remove(&parts.id) {
        inner.note_end(&running, None);
    }
    let excused = match inner.excused.get(&parts.id) {
        Some(until) => until.is_none_or(|until| Instant::now() <= until),
        None => false,
    };
    // A newcomer gives up if no node answers. Its supervisor tries again.
    if !matches!(end, End::NobodyAnswers | End::Told) && !excused {
        parts.violation("fatal", format!("{} ended by itself: {reason}", parts.life.name));
    }
}
