//! openraft's own settings. Timing and time limits are mostly kept here, not in openraft.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::config::{ConsensusConfig, OpenError};

/// Proposals waiting for openraft's core. At this limit callers wait.
const PROPOSALS_MAX: u64 = 4096;
/// Entries in one replication message. The log reader limits its bytes.
const PAYLOAD_ENTRIES_MAX: u64 = 1024;

pub(super) fn settings(config: &ConsensusConfig) -> Result<Arc<Config>, OpenError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let timings = &config.timings;
    let lease = ms(timings.lease);
    let settings = Config {
        cluster_name: config.identity.cluster.to_string(),
        // `ticker` replaces openraft's timer. These three values still set a heartbeat's time
        // limit, a vote's time limit, and the lease.
        enable_tick: false,
        enable_elect: false,
        enable_heartbeat: false,
        heartbeat_interval: ms(timings.answer),
        election_timeout_min: ms(timings.vote),
        election_timeout_max: lease,
        install_snapshot_timeout: ms(timings.snapshot_idle),
        max_payload_entries: PAYLOAD_ENTRIES_MAX,
        api_channel_size: Some(PROPOSALS_MAX),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_entries),
        max_in_snapshot_log_to_keep: config.keep_entries,
        // Further behind than the snapshot interval and the kept entries, a snapshot is the faster
        // way.
        replication_lag_threshold: config.snapshot_entries.saturating_add(config.keep_entries),
        enable_pre_vote: Some(true),
        // The default is true. Then a leader that restarts after a power failure returns stale
        // reads: its machine is in memory and its committed index is not durable.
        enable_leader_restore: Some(false),
        // Without this, the heartbeats of a leader without a quorum can keep a connected majority
        // from electing another leader.
        quorum_loss_probe_interval: Some(lease.saturating_mul(2)),
        allow_log_reversion: None,
        ..Config::default()
    };
    settings.validate().map(Arc::new).map_err(|error| OpenError::Settings(error.to_string()))
}
