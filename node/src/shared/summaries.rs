//! A summary of the catalogue for status and metrics. One count runs at a time, and all callers
//! share it.
//!
//! A count walks namespaces and kinds of segments, not single segments. It runs outside the async
//! threads, and many callers cost no more than one.

use std::time::Duration;

use cairn_core::catalogue::{Catalogue, Summary};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Member;

/// A metrics scrape accepts a summary of this age.
const SCRAPED_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Walked {
    /// All entries up to this log index are in it.
    index: u64,
    at: Instant,
    summary: Summary,
}

/// The last walk.
#[derive(Debug, Default)]
pub struct Summaries(Mutex<Option<Walked>>);

impl Summaries {
    /// A summary that contains all entries up to `index`.
    pub async fn at(&self, member: &Member, index: u64) -> Summary {
        let mut last = self.0.lock().await;
        match &*last {
            Some(walked) if walked.index >= index => walked.summary,
            _ => walk(member, &mut last).await,
        }
    }

    /// A summary at most a second old.
    pub async fn lately(&self, member: &Member) -> Summary {
        let mut last = self.0.lock().await;
        match &*last {
            Some(walked) if walked.at.elapsed() < SCRAPED_MAX => walked.summary,
            _ => walk(member, &mut last).await,
        }
    }
}

async fn walk(member: &Member, last: &mut Option<Walked>) -> Summary {
    let index = member.consensus.applied();
    let summary = member.walk(Catalogue::summary).await;
    *last = Some(Walked { index, at: Instant::now(), summary });
    summary
}
