//! Metrics, in the OpenMetrics text form: on a loopback port, or in a file for a collector of
//! text files. Labels are the names of jobs only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::mind::{JobReport, Outcome};
use crate::status::AgentStatus;

const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Of one job, since the process began.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    stored: u64,
    bytes: u64,
    changed: u64,
    failed: u64,
    refused: u64,
    removed: u64,
    kept: u64,
}

/// What metrics are made of.
#[derive(Default)]
pub struct Gathered {
    counts: BTreeMap<String, Counts>,
    pub status: Option<AgentStatus>,
}

pub type Shared = Arc<Mutex<Gathered>>;

impl Gathered {
    pub fn note(&mut self, job: &str, outcome: &Outcome) {
        let counts = self.counts.entry(job.to_owned()).or_default();
        match outcome {
            Outcome::Stored { bytes, .. } => {
                counts.stored += 1;
                counts.bytes += bytes;
            }
            Outcome::Changed { .. } => counts.changed += 1,
            Outcome::Failed { .. } => counts.failed += 1,
            Outcome::Refused { .. } => counts.refused += 1,
            Outcome::Removed => counts.removed += 1,
            Outcome::Kept { .. } => counts.kept += 1,
            Outcome::Found(_) => {}
        }
    }

    pub fn text(&self) -> String {
        let mut registry = Registry::default();
        let cairn = registry.sub_registry_with_prefix("cairn_agent");
        type Count = fn(&Counts) -> u64;
        let counters: [(&str, &str, Count); 7] = [
            ("checkpoints_stored", "checkpoints stored", |it| it.stored),
            ("bytes_stored", "bytes of their files", |it| it.bytes),
            ("checkpoints_changed", "puts given up because files changed", |it| it.changed),
            ("puts_failed", "tries that failed", |it| it.failed),
            ("puts_refused", "puts that the cluster refused for good", |it| it.refused),
            ("checkpoints_removed", "checkpoints removed from the local disk", |it| it.removed),
            ("removals_failed", "tries to remove one after which it was still there", |it| it.kept),
        ];
        for (name, help, count) in counters {
            let family = Family::<Vec<(String, String)>, Counter>::default();
            for (job, counts) in &self.counts {
                family.get_or_create(&label(job)).inc_by(count(counts));
            }
            cairn.register(name, help, family);
        }
        type Level = fn(&JobReport) -> u64;
        let gauges: [(&str, &str, Level); 12] = [
            ("checkpoints_due", "finished and not stored", |it| it.due),
            ("checkpoints_waiting", "not finished", |it| it.waiting),
            ("checkpoints_failed", "waiting for their next try", |it| it.failed),
            ("checkpoints_refused", "refused: a person must look", |it| it.refused),
            ("checkpoints_unreadable", "looks at them fail again and again", |it| it.unreadable),
            ("checkpoints_kept", "removals from the local disk fail again and again", |it| it.kept),
            ("trouble", "1 while a person should look at the job", |it| {
                it.trouble.is_some().into()
            }),
            ("last_stored_seconds", "time of the newest stored checkpoint", |it| {
                it.last_stored_ms.unwrap_or(0) / 1000
            }),
            ("found_bad", "1 if the last verification or drill was not good", |it| {
                it.found.as_ref().is_some_and(|found| !found.good).into()
            }),
            ("found_seconds", "time of the last verification or drill", |it| {
                it.found.as_ref().map_or(0, |found| found.at_ms / 1000)
            }),
            ("drill_rto_ms", "time that the last drill took", |it| {
                it.found.as_ref().and_then(|found| found.rto_ms).unwrap_or(0)
            }),
            ("drill_rpo_ms", "age of the checkpoint of the last drill", |it| {
                it.found.as_ref().and_then(|found| found.rpo_ms).unwrap_or(0)
            }),
        ];
        let jobs = self.status.iter().flat_map(|status| &status.jobs);
        let jobs: Vec<&JobReport> = jobs.collect();
        for (name, help, level) in gauges {
            let family = Family::<Vec<(String, String)>, Gauge>::default();
            for job in &jobs {
                let level = i64::try_from(level(job)).unwrap_or(i64::MAX);
                family.get_or_create(&label(&job.job)).set(level);
            }
            cairn.register(name, help, family);
        }
        let journal = Gauge::<i64>::default();
        let trouble = self.status.as_ref().is_some_and(|it| it.journal_trouble.is_some());
        journal.set(trouble.into());
        cairn.register("journal_trouble", "1 while the journal cannot be written", journal);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn label(job: &str) -> Vec<(String, String)> {
    vec![("job".to_owned(), job.to_owned())]
}

/// Serves `/metrics` until dropped.
pub async fn serve(listener: TcpListener, shared: Shared) {
    let text = move || async move {
        let text = shared.lock().text();
        ([(CONTENT_TYPE, CONTENT)], text).into_response()
    };
    let app = Router::new().route("/metrics", get(text));
    if let Err(error) = axum::serve(listener, app).await {
        tracing::warn!(%error, "metrics are no longer served");
    }
}

pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use cairn_client::CheckpointId;

    use super::*;

    #[test]
    fn counters_of_each_job_are_in_the_text() {
        let mut gathered = Gathered::default();
        for _ in 0..2 {
            let stored = Outcome::Stored { id: CheckpointId(1), bytes: 10, cluster: None };
            gathered.note("a", &stored);
        }
        gathered.note("b", &Outcome::Failed { why: String::new() });
        gathered.note("b", &Outcome::Kept { why: String::new() });
        let text = gathered.text();
        for line in [
            "cairn_agent_checkpoints_stored_total{job=\"a\"} 2",
            "cairn_agent_bytes_stored_total{job=\"a\"} 20",
            "cairn_agent_puts_failed_total{job=\"b\"} 1",
            "cairn_agent_removals_failed_total{job=\"b\"} 1",
            "cairn_agent_journal_trouble 0",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in:\n{text}");
        }
    }
}
