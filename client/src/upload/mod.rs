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

mod compare;
mod cutter;
mod encode;
mod manifest;
mod open;
mod pipeline;
mod progress;
mod rate;
mod send;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_types::command::{self, Begun, Body, Refusal, Reply};
use cairn_types::ids::{Address, Attempt, CheckpointId, Namespace, Run, Selector, Step};
use cairn_types::model::{CheckpointInfo, Durability, PolicyChange, Settings};
use tokio::time::{Instant, sleep};
use tracing::Instrument;

pub use self::open::{Closed, OpenUpload, UploadFile, UploadOptions};
pub use self::progress::Progress;
pub use self::rate::Rate;
pub use self::writer::FileWriter;

use self::manifest::Described;
use self::pipeline::{Feed, Item, Pipeline};
use self::send::{Budgets, Upload};
use crate::caller_code;
use crate::cluster::{Answer, Client};
use crate::cut;
use crate::error::ClientError;
use crate::source::{Source, SourceError};
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
    /// The whole checkpoint is committed, also where this is one part of several; or this much
    /// time has passed, which is not a failure.
    Committed { timeout: Duration },
    /// All R replicas, or this much time has passed; running out of it is not a failure.
    Full { timeout: Duration },
}

/// What to upload as. `PutOptions::new` gives the defaults: the only part, the next attempt.
#[derive(Debug, Clone)]
pub struct PutOptions {
    pub namespace: Namespace,
    pub step: Step,
    /// Which part this is, of how many.
    pub part: u32,
    pub parts: u32,
    /// All parts must pass the same. Of a single part, the default is one above all that the step
    /// has seen.
    pub attempt: Option<Attempt>,
    pub change: PolicyChange,
    /// Takes the place of a committed checkpoint of this step.
    pub replace: bool,
    pub labels: BTreeMap<String, String>,
    /// What this client calls itself, such as its host and process: shown to others whose upload
    /// it takes over.
    pub client: String,
    /// The job this upload is part of; empty where it is not known. Two jobs that name one attempt
    /// do not join each other's upload.
    pub job: String,
    pub wait: Wait,
    /// A source without any file is uploaded, too; without this it is an error, because an
    /// unmounted or emptied directory looks like that.
    pub allow_empty: bool,
    /// Only cuts, hashes and looks up what would be sent.
    pub dry_run: bool,
    pub progress: Arc<Progress>,
    /// Limits the bytes that are sent; several puts may share it.
    pub rate: Option<Arc<Rate>>,
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
            client: String::new(),
            job: String::new(),
            wait: Wait::Quorum,
            allow_empty: false,
            dry_run: false,
            progress: Arc::default(),
            rate: None,
        }
    }

    fn span(&self) -> tracing::Span {
        let Self { namespace, step, part, .. } = self;
        tracing::info_span!("put", %namespace, %step, part)
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
#[non_exhaustive]
pub struct PutReport {
    pub checkpoint: Option<CheckpointId>,
    /// `None` for a dry run.
    pub attempt: Option<Attempt>,
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
        let span = options.span();
        let call = async move {
            let started = Instant::now();
            if source.entries().is_empty() && !options.allow_empty {
                return Err(SourceError::Empty.into());
            }
            if options.parts > 1 && options.attempt.is_none() {
                return Err(ClientError::PartWithoutAttempt);
            }
            let planned = source.clone();
            let plan = caller_code::blocking(&self.env, move || cut::plan(&*planned)).await?;
            options.progress.note_plan(&plan, &*source);
            let feed = Arc::new(Feed::new(source, plan));
            let budgets = Budgets::new(&self.options);
            let put = Put { client: self.clone(), options, feed, started, budgets };
            put.run().await
        };
        Box::pin(caller_code::guarded(call).instrument(span))
    }
}

struct Put {
    client: Client,
    options: PutOptions,
    feed: Arc<Feed>,
    started: Instant,
    budgets: Budgets,
}

impl Put {
    async fn run(&self) -> Result<PutReport, ClientError> {
        if self.options.dry_run {
            return self.dry_run().await;
        }
        let begun = match self.begin().await {
            Err(ClientError::Refused(refusal @ Refusal::StepExists { .. })) => {
                return self.compare_committed(refusal).await;
            }
            other => other?,
        };
        if begun.committed {
            return self.compare_committed(Refusal::PartSealed { part: self.options.part }).await;
        }
        let ended = self.transfer(&begun).await;
        if let Err(ClientError::Refused(
            Refusal::NotEnoughHosts { .. } | Refusal::NotEnoughRacks { .. },
        )) = &ended
        {
            self.abandon(&begun).await;
        }
        ended
    }

    async fn transfer(&self, begun: &Begun) -> Result<PutReport, ClientError> {
        let settings = self.client.settings().await?;
        let _renewal = self.keep_lease(begun, &settings);
        let mut pipeline = self.pipeline(begun);
        if !begun.sealed.contains(&self.options.part) {
            pipeline.transfer(self.feed.planned(), false).await?;
            self.feed.check_unchanged(&self.client.env).await?;
        }
        self.complete(begun, pipeline).await
    }

    /// Aborts an upload that the cluster has no nodes for: nobody goes on with it, and it would be listed
    /// as open until its lease and grace are over. Not where others may take part in it, or go on with its
    /// attempt: parts, and an attempt that the caller named. What fails here is left to the lease.
    async fn abandon(&self, begun: &Begun) {
        let PutOptions { namespace, step, parts, attempt, .. } = &self.options;
        if *parts > 1 || attempt.is_some() {
            return;
        }
        let open = self.client.open_upload(namespace, *step).await;
        // Another client may have taken it over meanwhile.
        if !open.is_ok_and(|it| it.id == begun.checkpoint && it.attempt == begun.attempt) {
            return;
        }
        let aborted = self.client.abort_upload(namespace, *step, false).await;
        if let Err(error) = aborted {
            tracing::debug!(%error, "a refused upload stays open until its lease ends");
        }
    }

    fn pipeline(&self, begun: &Begun) -> Pipeline {
        let run = Run(self.client.env.random_u64());
        let progress = self.options.progress.clone();
        let part = self.options.part;
        let budgets = self.budgets.clone();
        let upload = Upload::new(&self.client, begun, part, run, progress, budgets)
            .with_rate(self.options.rate.clone());
        Pipeline::new(Arc::new(upload), self.feed.clone())
    }

    /// Seals the part, whose planned segments are on W nodes unless it was sealed before.
    async fn complete(
        &self,
        begun: &Begun,
        mut pipeline: Pipeline,
    ) -> Result<PutReport, ClientError> {
        let described = if begun.sealed.contains(&self.options.part) {
            // Fixed already: the catalogue compares, nothing is sent.
            self.describe().await?
        } else {
            let described = Described::of(&self.feed, pipeline.hashes(), self.options.parts)?;
            pipeline.set_manifest(described.manifest_segments.clone());
            let items = (0..described.manifest_segments.len()).map(Item::Manifest).collect();
            pipeline.transfer(items, false).await?;
            described
        };
        let sealing = self.seal(begun, &described, &mut pipeline);
        let outcome = sealing.instrument(tracing::debug_span!("seal")).await?;
        self.finish((begun.checkpoint, begun.attempt), outcome, &described).await
    }

    async fn begin(&self) -> Result<Begun, ClientError> {
        let options = &self.options;
        let body = Body::Begin(command::Begin {
            namespace: options.namespace.clone(),
            step: options.step,
            parts: options.parts,
            attempt: options.attempt,
            change: options.change.clone(),
            replace: options.replace,
            labels: options.labels.clone(),
            client: options.client.clone(),
            job: options.job.clone(),
        });
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
                let body = Body::Renew(command::Renew { uploads: uploads.clone() });
                let answer = client.execute_within(body, Duration::ZERO, Some(lease / 2)).await;
                if let Err(error) = answer {
                    tracing::warn!(%error, "lease was not renewed");
                }
            }
        })
    }

    /// Hashes everything without sending anything.
    async fn describe(&self) -> Result<Described, ClientError> {
        if let Some(hashes) = self.feed.known_hashes() {
            return Described::of(&self.feed, hashes, self.options.parts);
        }
        let hashes =
            pipeline::hash_all(&self.client.env, &self.feed, &self.options.progress).await?;
        self.feed.check_unchanged(&self.client.env).await?;
        Described::of(&self.feed, &hashes, self.options.parts)
    }

    async fn seal(
        &self,
        begun: &Begun,
        described: &Described,
        pipeline: &mut Pipeline,
    ) -> Result<PutOutcome, ClientError> {
        let mut least = u64::MAX;
        let mut since = Instant::now();
        loop {
            let body = Body::SealPart(command::SealPart {
                checkpoint: begun.checkpoint,
                attempt: begun.attempt,
                part: self.options.part,
                run: pipeline.run(),
                manifest: described.place.clone(),
                set_digest: described.set_digest,
                bytes: described.bytes,
                files: described.files,
                compared: 0,
                voids: Vec::new(),
            });
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
                            last: format!("segments with missing replicas: {total}"),
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

    async fn finish(
        &self,
        upload: (CheckpointId, Attempt),
        mut outcome: PutOutcome,
        described: &Described,
    ) -> Result<PutReport, ClientError> {
        let mut full = None;
        let reached = match self.options.wait {
            Wait::Quorum => None,
            Wait::Committed { timeout } => match outcome {
                PutOutcome::Sealed { .. } => self.wait_until(upload, timeout, |_| true).await?,
                _ => None,
            },
            Wait::Full { timeout } => {
                let is_full = |info: &CheckpointInfo| is_full(&info.durability);
                let reached = self.wait_until(upload, timeout, is_full).await?;
                full = Some(reached.as_ref().is_some_and(is_full));
                reached
            }
        };
        if let Some(info) = reached {
            let already = matches!(outcome, PutOutcome::AlreadyCommitted { .. });
            let durability = info.durability;
            outcome = match already {
                true => PutOutcome::AlreadyCommitted { durability },
                false => PutOutcome::Committed { durability },
            };
        }
        let (sent, kept) = (self.options.progress.sent(), self.options.progress.kept());
        Ok(self.report(Some(upload), outcome, full, described, sent, kept))
    }

    /// Looks until the upload is committed and `is_done`; what it was when the time was over,
    /// `None` if it was not committed by then.
    async fn wait_until(
        &self,
        (checkpoint, attempt): (CheckpointId, Attempt),
        timeout: Duration,
        is_done: impl Fn(&CheckpointInfo) -> bool,
    ) -> Result<Option<CheckpointInfo>, ClientError> {
        let started = Instant::now();
        let mut pause = POLL / 4;
        let mut last: Option<CheckpointInfo> = None;
        // Whether an earlier look found the upload over, without a commit.
        let mut was_over = false;
        loop {
            match self.client.resolve(&self.options.address()).await {
                Ok(info) if info.id == checkpoint => {
                    if is_done(&info) {
                        return Ok(Some(info));
                    }
                    self.client.hasten(checkpoint).await;
                    last = Some(info);
                }
                // Replaced or deleted since it was committed.
                Ok(_) | Err(ClientError::Refused(Refusal::NoSuchCheckpoint { .. }))
                    if last.is_some() =>
                {
                    return Ok(last);
                }
                // Another one is there until all parts are in.
                Ok(_) | Err(ClientError::Refused(Refusal::NoSuchCheckpoint { .. })) => {
                    if was_over {
                        return Err(ClientError::UploadOver {
                            address: self.options.address().to_string(),
                            attempt,
                        });
                    }
                    was_over = !self.is_open(checkpoint, attempt).await?;
                }
                // Nobody answers now: committed is committed.
                Err(ClientError::Timeout { .. } | ClientError::Unreachable { .. }) => {}
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

    /// Whether the upload is open still, and not taken over.
    async fn is_open(&self, id: CheckpointId, attempt: Attempt) -> Result<bool, ClientError> {
        let body = Body::Renew(command::Renew { uploads: vec![(id, attempt)] });
        match self.client.execute(body, Duration::ZERO).await {
            Ok(reply) => Ok(matches!(reply, Reply::Reported { accepted: 1, .. })),
            Err(ClientError::Timeout { .. } | ClientError::Unreachable { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn report(
        &self,
        upload: Option<(CheckpointId, Attempt)>,
        outcome: PutOutcome,
        full: Option<bool>,
        described: &Described,
        (segments_sent, bytes_sent): (u64, u64),
        (segments_kept, bytes_kept): (u64, u64),
    ) -> PutReport {
        PutReport {
            checkpoint: upload.map(|(checkpoint, _)| checkpoint),
            attempt: upload.map(|(_, attempt)| attempt),
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
