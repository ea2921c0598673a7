//! `/metrics`, in the OpenMetrics text form.
//!
//! One row for each metric: its name, its help, its value. What users wait for has histograms
//! (`waits`). Labels are bounded: the node, the kind of a command, a node that a clock belongs to.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::admin::node_status;
use super::ready;
use crate::shared::Shared;

const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let registry = gather(&shared).await;
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(CONTENT_TYPE, CONTENT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// As of now.
async fn gather(shared: &Shared) -> Registry {
    let status = node_status(shared).await;
    let summary = shared.summaries.lately(&shared.member).await;
    let counters = &shared.counters;
    let (scrub, _) = shared.replicas.scrub.plan();
    let trouble = shared.member.health.trouble();
    let refusals = shared.member.consensus.refusals();
    let node = (Cow::Borrowed("node"), Cow::Owned(status.node.to_string()));
    let mut registry = Registry::with_labels([node].into_iter());
    let cairn = registry.sub_registry_with_prefix("cairn");

    // Bytes and counts stay far below what an i64 holds.
    let gauges: &[(&str, &str, u64)] = &[
        (
            "up",
            "1 when registered and in touch with a leader",
            ready::is_ready(&shared.member).into(),
        ),
        ("leader", "1 on a leader with a majority", shared.member.consensus.is_leader().into()),
        ("log_late_ms", "age of a log write that does not end", trouble.log_late_ms),
        (
            "segments_late_ms",
            "age of a segment operation that does not end",
            trouble.segments_late_ms,
        ),
        (
            "accept_late_ms",
            "time without a connection accepted though some wait",
            trouble.accept_late_ms,
        ),
        ("audit_records", "records of the audit that are durable here", status.audit_records),
        (
            "audit_damage",
            "damage found in the files of the audit; a person must look",
            status.audit_damage.len() as u64,
        ),
        ("raft_term", "Raft term", status.term),
        ("raft_applied_index", "applied log index", status.applied_index),
        ("segments_held", "durable segments on this node", status.segments_held),
        ("segment_bytes_held", "their bytes on disk", status.bytes_held),
        ("available_bytes", "room for segment data", status.available_bytes),
        ("capacity_bytes", "configured capacity", status.total_bytes),
        ("slots_assigned", "slots without a durable file yet", status.fetches_pending),
        ("scrub_ripe_bytes", "bytes that the scrub is to read now", scrub.ripe_bytes),
        ("scrub_late_segments", "not read within a scrub cycle", scrub.late),
        ("process_resident_peak_bytes", "peak resident memory", status.rss_peak_bytes),
        ("checkpoints_committed", "committed checkpoints", summary.checkpoints_committed),
        ("checkpoints_open", "uploads in progress", summary.checkpoints_open),
        ("cluster_segments", "segment records", summary.segments),
        ("cluster_segments_below_replicas", "with fewer than R that count", summary.segments_below),
        ("cluster_segments_unavailable", "with none that counts", summary.segments_unavailable),
        ("cluster_segments_lost", "of these without a replica on any node", summary.segments_lost),
    ];
    for &(name, help, value) in gauges {
        cairn.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    }
    // Each gets `_total` behind its name.
    let totals: &[(&str, &str, u64)] = &[
        ("segments_received", "segments from clients", status.segments_received),
        ("segment_bytes_received", "bytes from clients", status.bytes_received),
        ("segment_bytes_served", "bytes to readers", status.bytes_served),
        ("segments_fetched", "segments by catch-up", status.segments_fetched),
        ("segment_bytes_fetched", "bytes by catch-up", status.bytes_fetched),
        ("segments_destroyed", "files removed", counters.segments_destroyed.get()),
        ("segments_quarantined", "files set aside", status.segments_quarantined),
        ("segments_recovered", "taken back from quarantine", counters.segments_recovered.get()),
        ("suspects_confirmed", "bad replicas found", counters.suspects_confirmed.get()),
        ("segments_scrubbed", "replicas read by the scrub", counters.segments_scrubbed.get()),
        ("segment_bytes_scrubbed", "bytes read by the scrub", counters.bytes_scrubbed.get()),
        ("scrub_bad", "of these, bad or missing", counters.scrub_bad.get()),
        (
            "sources_suspected",
            "sources that gave this node wrong bytes",
            counters.sources_suspected.get(),
        ),
        (
            "commands_forwarded",
            "clients' commands passed on to the leader",
            counters.commands_forwarded.get(),
        ),
        ("reports_sent", "report batches", counters.reports_sent.get()),
        ("reports_refused", "reports with a stale epoch", counters.reports_refused.get()),
        ("raft_calls_refused", "raft calls to this node that cannot be true", refusals.calls),
        ("raft_calls_refused_by_members", "raft calls of this node", refusals.by_members),
        ("raft_answers_refused", "raft answers that cannot be true", refusals.answers),
        ("process_cpu_ms", "CPU time", status.cpu_ms),
    ];
    for &(name, help, value) in totals {
        cairn.register(name, help, ConstCounter::new(value));
    }
    let clocks = Family::<[(&str, String); 1], Gauge>::default();
    for (of, ahead_ms) in shared.member.clocks_ahead_of_median_ms() {
        clocks.get_or_create(&[("of", of.to_string())]).set(ahead_ms);
    }
    cairn.register("clock_ahead_ms", "wall clock of a node ahead of the voters' median", clocks);
    let permits = Family::<[(&str, &str); 1], Gauge>::default();
    for (of, taken) in shared.lanes.taken() {
        permits.get_or_create(&[("of", of)]).set(i64::try_from(taken).unwrap_or(i64::MAX));
    }
    cairn.register("permits_taken", "what this node does at once, of a bounded number", permits);

    let waits = shared.waits.clone();
    cairn.register("command_seconds", "a client's command on the leader", waits.commands);
    cairn.register("read_seconds", "until a read was linearizable", waits.reads);
    cairn.register("segment_put_seconds", "a segment until it was durable", waits.segment_puts);
    cairn.register("segment_get_seconds", "a reader's stream of a segment", waits.segment_gets);
    registry
}
