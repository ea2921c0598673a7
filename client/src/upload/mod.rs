//! Uploads: one part of a checkpoint, from a source to a commit.
//!
//! ```text
//! source -> cut -> read + hash -> Stage -> kept: nothing to send
//!                  (128 MiB)         \---> send to all targets, done at W acknowledgements
//! manifest, the same way -> SealPart <--Lacking: send those again--> committed -> wait for full
//! ```
//!
//! Memory is bounded whatever the size: segments between reading and their W-th acknowledgement
//! share one budget, those still on the way to slower targets another.

mod manifest;
mod pipeline;
mod progress;
mod send;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::command::{Begun, Body, Refusal, Reply};
use cairn_core::ids::{Address, Attempt, CheckpointId, Namespace, Run, Selector, Step};
use cairn_core::model::{CheckpointInfo, Durability, PolicyChange, SealedPart, Settings};
use cairn_proto::convert;
use cairn_proto::seam::Lane;
use tokio::time::{Instant, sleep};

pub use self::progress::Progress;

use self::manifest::Described;
use self::pipeline::{Feed, Item, Pipeline};
use self::send::Upload;
use crate::cluster::{Answer, Client};
use crate::cut;
use crate::error::ClientError;
use crate::source::Source;
use crate::task::Task;

/// How long the leader may hold a seal back while the nodes' reports are in flight.
const SEAL_WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks at a checkpoint's durability, and between two seals.
const POLL: Duration = Duration::from_millis(250);

/// How safe a checkpoint must be before `put` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Committed: W replicas of everything.
    Quorum,
    /// All R replicas, or this much time has passed; running out of it is not a failure.
    Full { timeout: Duration },
}

/// What to upload as. `PutOptions::new` gives the defaults: the only part, attempt by the clock.
#[derive(Debug, Clone)]
pub struct PutOptions {
    pub namespace: Namespace,
    pub step: Step,
    /// Which part this is, of how many.
    pub part: u32,
    pub parts: u32,
    /// All parts must pass the same; default is the wall clock, milliseconds.
    pub attempt: Option<Attempt>,
    pub change: PolicyChange,
    /// Takes the place of a committed checkpoint of this step.
    pub replace: bool,
    pub labels: BTreeMap<String, String>,
    pub wait: Wait,
    /// Only cuts, hashes and looks up what would be sent.
    pub dry_run: bool,
    pub progress: Arc<Progress>,
}

impl PutOptions {
    pub fn new(namespace: Namespace, step: Step) -> Self {
        Self {
            namespace,
            step,
            part: 0,
            parts: 1,
            attempt: None,
            change: PolicyChange::default(),
            replace: false,
            labels: BTreeMap::new(),
            wait: Wait::Quorum,
            dry_run: false,
            progress: Arc::default(),
        }
    }

    fn address(&self) -> Address {
        Address { namespace: self.namespace.clone(), selector: Selector::Step(self.step) }
    }
}

/// How an upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// The checkpoint is committed.
    Committed {
        durability: Durability,
    },
    /// It was there already, with the same content.
    AlreadyCommitted {
        durability: Durability,
    },
    /// This part is in; the checkpoint commits with the last one.
    Sealed {
        parts_sealed: u32,
        parts: u32,
    },
    DryRun,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutReport {
    pub checkpoint: Option<CheckpointId>,
    pub attempt: Attempt,
    pub outcome: PutOutcome,
    /// Under [`Wait::Full`]: whether all R replicas were reached in time.
    pub full: Option<bool>,
    /// Of this part.
    pub files: u64,
    pub bytes: u64,
    /// Distinct segments and their bytes, the manifest's included.
    pub segments: u64,
    pub segment_bytes: u64,
    /// Of those: sent by this run, and found durable already. A dry run counts what would be.
    pub segments_sent: u64,
    pub bytes_sent: u64,
    pub segments_kept: u64,
    pub bytes_kept: u64,
    pub set_digest: [u8; 32],
    pub elapsed: Duration,
}

impl PutReport {
    pub fn already_committed(&self) -> bool {
        matches!(self.outcome, PutOutcome::AlreadyCommitted { .. })
    }
}

impl Client {
    /// Uploads one part. Sends what the cluster does not hold durable yet, and nothing twice.
    pub fn put<'a>(
        &'a self,
        source: Arc<dyn Source>,
        options: PutOptions,
    ) -> Answer<'a, PutReport> {
        Box::pin(async move {
            let started = Instant::now();
            let planned = source.clone();
            let plan = self.env.blocking(Lane::Client, move || cut::plan(&*planned)).await?;
            options.progress.note_plan(&plan, &*source);
            let feed = Arc::new(Feed::new(source, plan));
            let put = Put { client: self, attempt: self.attempt(&options), options, feed, started };
            put.run().await
        })
    }

    fn attempt(&self, options: &PutOptions) -> Attempt {
        options.attempt.unwrap_or_else(|| Attempt(self.env.wall_ms()))
    }
}

struct Put<'a> {
    client: &'a Client,
    options: PutOptions,
    attempt: Attempt,
    feed: Arc<Feed>,
    started: Instant,
}

impl Put<'_> {
    async fn run(&self) -> Result<PutReport, ClientError> {
        if self.options.dry_run {
            return self.dry_run().await;
        }
        let settings = match self.client.status().await?.settings {
            Some(settings) => convert::settings_from_wire(&settings),
            None => Settings::default(),
        };
        let begun = match self.begin().await {
            Err(ClientError::Refused(refusal @ Refusal::StepExists { .. })) => {
                return self.compare_committed(refusal).await;
            }
            other => other?,
        };
        if begun.committed {
            return self.compare_committed(Refusal::PartSealed { part: self.options.part }).await;
        }
        let _renewal = self.keep_lease(&begun, &settings);
        let upload = Arc::new(Upload::new(
            self.client,
            &begun,
            self.options.part,
            Run(self.client.env.random_u64()),
            self.options.progress.clone(),
        ));
        let mut pipeline = Pipeline::new(upload.clone(), self.feed.clone());
        if begun.sealed.contains(&self.options.part) {
            // Fixed already: the catalogue compares, nothing is sent.
            let described = self.describe().await?;
            let outcome = self.seal(&begun, upload.run, &described, &mut pipeline).await?;
            return self.finish(begun.checkpoint, outcome, &described).await;
        }
        pipeline.transfer(self.feed.planned(), false).await?;
        let described = Described::of(&self.feed, pipeline.digests(), self.options.parts)?;
        pipeline.set_manifest(described.manifest_segments.clone());
        let items = (0..described.manifest_segments.len()).map(Item::Manifest).collect();
        pipeline.transfer(items, false).await?;
        let outcome = self.seal(&begun, upload.run, &described, &mut pipeline).await?;
        self.finish(begun.checkpoint, outcome, &described).await
    }

    async fn begin(&self) -> Result<Begun, ClientError> {
        let options = &self.options;
        let body = Body::Begin {
            namespace: options.namespace.clone(),
            step: options.step,
            parts: options.parts,
            attempt: self.attempt,
            change: options.change.clone(),
            replace: options.replace,
            labels: options.labels.clone(),
        };
        match self.client.execute(body, Duration::ZERO).await? {
            Reply::Begun(begun) => Ok(begun),
            other => Err(unexpected("begin upload", &other)),
        }
    }

    /// Renews the lease until dropped. Renewals that fail are not errors: whatever the upload
    /// does next says so better.
    fn keep_lease(&self, begun: &Begun, settings: &Settings) -> Task<()> {
        let client = self.client.clone();
        let lease = Duration::from_millis(settings.lease_ms.max(400));
        let uploads = vec![(begun.checkpoint, begun.attempt)];
        Task::run(&self.client.env, "renew lease", async move {
            loop {
                sleep(lease / 4).await;
                let body = Body::Renew { uploads: uploads.clone() };
                let answer = client.execute_within(body, Duration::ZERO, Some(lease / 2)).await;
                if let Err(error) = answer {
                    tracing::warn!(%error, "lease was not renewed");
                }
            }
        })
    }

    /// Hashes everything without sending anything.
    async fn describe(&self) -> Result<Described, ClientError> {
        let digests =
            pipeline::hash_all(&self.client.env, &self.feed, &self.options.progress).await?;
        Described::of(&self.feed, &digests, self.options.parts)
    }

    async fn seal(
        &self,
        begun: &Begun,
        run: Run,
        described: &Described,
        pipeline: &mut Pipeline,
    ) -> Result<PutOutcome, ClientError> {
        let mut least = u64::MAX;
        let mut since = Instant::now();
        loop {
            let body = Body::SealPart {
                checkpoint: begun.checkpoint,
                attempt: begun.attempt,
                part: self.options.part,
                run,
                manifest: described.place.clone(),
                set_digest: described.set_digest,
                bytes: described.bytes,
                files: described.files,
            };
            match self.client.execute(body, SEAL_WAIT).await? {
                Reply::Committed { durability, .. } => {
                    return Ok(PutOutcome::Committed { durability });
                }
                Reply::Sealed { parts_sealed, parts } => {
                    return Ok(PutOutcome::Sealed { parts_sealed, parts });
                }
                Reply::Lacking { segments, total } => {
                    if total < least {
                        (least, since) = (total, Instant::now());
                    }
                    if self.client.options.deadline.is_some_and(|limit| since.elapsed() > limit) {
                        return Err(ClientError::Timeout {
                            what: "seal part".to_owned(),
                            last: format!("{total} segments lack replicas that count"),
                        });
                    }
                    tracing::debug!(total, "segments lack replicas, sending again");
                    sleep(self.client.env.jitter(POLL)).await;
                    // Who is up has changed, or they would not be lacking.
                    self.client.status().await?;
                    pipeline.transfer(pipeline.items_of(&segments), true).await?;
                }
                other => return Err(unexpected("seal part", &other)),
            }
        }
    }

    /// The step is committed already: success if this part is the same, else `refusal`.
    async fn compare_committed(&self, refusal: Refusal) -> Result<PutReport, ClientError> {
        let described = self.describe().await?;
        let info = self.client.resolve(&self.options.address()).await?;
        let same = |part: &SealedPart| {
            part.set_digest == described.set_digest && part.manifest == described.place
        };
        let part = info.parts.get(self.options.part as usize);
        if info.parts.len() != self.options.parts as usize || !part.is_some_and(same) {
            return Err(ClientError::Refused(refusal));
        }
        let outcome = PutOutcome::AlreadyCommitted { durability: info.durability };
        self.finish(info.id, outcome, &described).await
    }

    async fn finish(
        &self,
        checkpoint: CheckpointId,
        mut outcome: PutOutcome,
        described: &Described,
    ) -> Result<PutReport, ClientError> {
        let mut full = None;
        if let Wait::Full { timeout } = self.options.wait {
            let reached = self.wait_full(checkpoint, timeout).await?;
            full = Some(reached.as_ref().is_some_and(|info| is_full(&info.durability)));
            if let Some(info) = reached {
                let already = matches!(outcome, PutOutcome::AlreadyCommitted { .. });
                let durability = info.durability;
                outcome = match already {
                    true => PutOutcome::AlreadyCommitted { durability },
                    false => PutOutcome::Committed { durability },
                };
            }
        }
        let (sent, kept) = (self.options.progress.sent(), self.options.progress.kept());
        Ok(self.report(Some(checkpoint), outcome, full, described, sent, kept))
    }

    /// Looks until the checkpoint has all its replicas; what it had when the time was over.
    async fn wait_full(
        &self,
        checkpoint: CheckpointId,
        timeout: Duration,
    ) -> Result<Option<CheckpointInfo>, ClientError> {
        let started = Instant::now();
        let mut pause = POLL / 4;
        let mut last = None;
        loop {
            match self.client.resolve(&self.options.address()).await {
                Ok(info) if info.id != checkpoint => return Ok(last),
                Ok(info) if is_full(&info.durability) => return Ok(Some(info)),
                Ok(info) => last = Some(info),
                // Other parts are missing still, or nobody answers now: committed is committed.
                Err(
                    ClientError::Refused(Refusal::NoSuchCheckpoint { .. })
                    | ClientError::Timeout { .. }
                    | ClientError::Unreachable { .. },
                ) => {}
                Err(error) => return Err(error),
            }
            pause = (pause * 2).min(POLL * 4);
            let pause = self.client.env.jitter(pause);
            if started.elapsed() + pause >= timeout {
                return Ok(last);
            }
            sleep(pause).await;
        }
    }

    async fn dry_run(&self) -> Result<PutReport, ClientError> {
        let described = self.describe().await?;
        let digests: Vec<_> = described.set.keys().copied().collect();
        let quorum = self.options.change.write_quorum.unwrap_or(2) as usize;
        let (mut sent, mut kept) = ((0, 0), (0, 0));
        for located in self.client.locate(&digests).await? {
            let durable = located
                .slots
                .iter()
                .filter(|slot| slot.state == cairn_core::model::SlotState::Durable);
            let there = located.id.is_some() && durable.count() >= quorum;
            let count = if there { &mut kept } else { &mut sent };
            count.0 += 1;
            count.1 += described.set.get(&located.digest).map_or(0, |len| u64::from(*len));
        }
        Ok(self.report(None, PutOutcome::DryRun, None, &described, sent, kept))
    }

    fn report(
        &self,
        checkpoint: Option<CheckpointId>,
        outcome: PutOutcome,
        full: Option<bool>,
        described: &Described,
        (segments_sent, bytes_sent): (u64, u64),
        (segments_kept, bytes_kept): (u64, u64),
    ) -> PutReport {
        PutReport {
            checkpoint,
            attempt: self.attempt,
            outcome,
            full,
            files: described.files,
            bytes: described.bytes,
            segments: described.set.len() as u64,
            segment_bytes: described.set.values().map(|len| u64::from(*len)).sum(),
            segments_sent,
            bytes_sent,
            segments_kept,
            bytes_kept,
            set_digest: described.set_digest,
            elapsed: self.started.elapsed(),
        }
    }
}

fn is_full(durability: &Durability) -> bool {
    durability.segments_below == 0 && durability.replicas_min >= durability.replicas_wanted
}

pub(crate) fn unexpected(what: &str, reply: &Reply) -> ClientError {
    ClientError::Malformed { what: what.to_owned(), problem: format!("unexpected {reply:?}") }
}
