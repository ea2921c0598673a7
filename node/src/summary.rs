//! The catalogue at a glance, for status and metrics: one count at a time, shared by all who ask.
//!
//! A count walks namespaces and kinds of segments, not segments. It runs beside the async threads,
//! and many callers cost no more than one.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::Summary;
use cairn_host::seam::Lane;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::shared::Shared;

/// A scraper is content with a summary of this age.
const SCRAPED_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Walked {
    /// Everything up to this log index is in it.
    index: u64,
    at: Instant,
    summary: Summary,
}

/// The last walk.
#[derive(Debug, Default)]
pub struct Summaries(Mutex<Option<Walked>>);

impl Shared {
    /// A summary that contains everything up to `index`.
    pub async fn summary_at(&self, index: u64) -> Summary {
        let mut last = self.summaries.0.lock().await;
        match &*last {
            Some(walked) if walked.index >= index => walked.summary,
            _ => self.walk(&mut last).await,
        }
    }

    /// A summary of the last second.
    pub async fn summary_lately(&self) -> Summary {
        let mut last = self.summaries.0.lock().await;
        match &*last {
            Some(walked) if walked.at.elapsed() < SCRAPED_MAX => walked.summary,
            _ => self.walk(&mut last).await,
        }
    }

    async fn walk(&self, last: &mut Option<Walked>) -> Summary {
        let index = self.consensus.applied();
        let state = Arc::clone(&self.state);
        let walk = move || {
            let catalogue = state.read().catalogue.clone();
            catalogue.summary()
        };
        let summary = self.env.blocking(Lane::Walk, walk).await;
        *last = Some(Walked { index, at: Instant::now(), summary });
        summary
    }
}
