//! One segment's way to its targets.
//!
//! All targets are sent to at once. The segment is done for the upload when W of them have
//! answered, in the racks the policy asks for; the others go on in the background within a
//! bound, beyond which they are left to the cluster's own catch-up. Where too few targets are
//! left, the leader is asked for others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_host::envelope::Reason;
use cairn_proto::wire;
use cairn_types::canary;
use cairn_types::command::{self, Begun, Body, Refusal, Reply, StageSegment, StagedSegment};
use cairn_types::convert;
use cairn_types::form::{Encoded, Form};
use cairn_types::ids::{Epoch, NodeId, Run, SegmentDigest, SegmentId};
use cairn_types::model::{Isolation, Slot, SlotState};
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::encode::encode;
use super::progress::Progress;
use super::rate::Rate;
use super::unexpected;
use crate::cluster::{Client, with_identity};
use crate::error::ClientError;
use crate::options::ClientOptions;

/// What a segment takes at least of the budget for slower targets, bounding the number of streams.
const LAG_KIB_MIN: u32 = 1 << 10;
/// A node that failed is not sent to for this long, if others will do.
const AVOID: Duration = Duration::from_secs(2);
/// The same for one whose disk is full.
const AVOID_FULL: Duration = Duration::from_secs(15);
/// Pauses before the leader is asked for other targets, and before a node is asked again.
const ASK_PAUSE: Duration = Duration::from_millis(200);
const ASK_PAUSE_MAX: Duration = Duration::from_secs(2);
const NODE_PAUSE: Duration = Duration::from_millis(100);

/// A staged segment to be sent.
pub(super) struct Outgoing {
    pub digest: SegmentDigest,
    pub segment: SegmentId,
    pub slots: Vec<Slot>,
    pub bytes: Bytes,
    /// What the segment's record wants; `None` for raw.
    pub form: Option<Form>,
    pub budget: OwnedSemaphorePermit,
    /// It was counted as sent before.
    pub counted: bool,
}

/// What uploads share that go on side by side: memory of segments on the way, and streams.
#[derive(Clone)]
pub(super) struct Budgets {
    /// KiB of segments between reading and their W-th acknowledgement.
    pub foreground: Arc<Semaphore>,
    sends: Arc<Semaphore>,
    lag: Arc<Semaphore>,
}

impl Budgets {
    pub fn new(options: &ClientOptions) -> Self {
        Self {
            foreground: Arc::new(Semaphore::new(options.foreground_kib() as usize)),
            sends: Arc::new(Semaphore::new(options.sends_parallel())),
            lag: Arc::new(Semaphore::new(options.lag_kib() as usize)),
        }
    }
}

/// One part's upload, as its sends see it.
pub(super) struct Upload {
    pub client: Client,
    pub run: Run,
    pub progress: Arc<Progress>,
    rate: Option<Arc<Rate>>,
    begun: Begun,
    part: u32,
    /// Whether any Stage has succeeded yet.
    staged: AtomicBool,
    avoid: Mutex<BTreeMap<NodeId, Instant>>,
    pub budgets: Budgets,
}

/// Why a target did not take a segment.
struct Trouble {
    text: String,
    /// How long to avoid the node; `None` where only this slot is at fault.
    avoid: Option<Duration>,
    /// The node has no room for the segment.
    full: bool,
}

impl Trouble {
    fn of(text: String, avoid: Option<Duration>) -> Self {
        Self { text, avoid, full: false }
    }
}

type Put = BoxFuture<'static, (NodeId, Result<(), Trouble>)>;

impl Upload {
    pub fn new(
        client: &Client,
        begun: &Begun,
        part: u32,
        run: Run,
        progress: Arc<Progress>,
        budgets: Budgets,
    ) -> Self {
        Self {
            client: client.about(begun.checkpoint),
            run,
            progress,
            rate: None,
            begun: begun.clone(),
            part,
            staged: AtomicBool::new(false),
            avoid: Mutex::default(),
            budgets,
        }
    }

    /// Limits what is sent.
    pub fn with_rate(self, rate: Option<Arc<Rate>>) -> Self {
        Self { rate, ..self }
    }

    /// Registers segments in the forms in which they would be sent; the answers are in the same
    /// order. Planned around nodes that failed of late, unless the others do not suffice.
    pub async fn stage(
        &self,
        segments: &[(SegmentDigest, Form)],
    ) -> Result<Vec<StagedSegment>, ClientError> {
        let avoided: Vec<NodeId> = {
            let now = Instant::now();
            let mut avoid = self.avoid.lock();
            avoid.retain(|_, until| now < *until);
            avoid.keys().copied().collect()
        };
        match self.stage_around(segments, &avoided).await {
            Err(error) if !avoided.is_empty() && wants_nodes(&error) => {
                self.stage_around(segments, &[]).await
            }
            other => other,
        }
    }

    async fn stage_around(
        &self,
        segments: &[(SegmentDigest, Form)],
        exclude: &[NodeId],
    ) -> Result<Vec<StagedSegment>, ClientError> {
        let segment = |(digest, form): &(_, _)| StageSegment {
            digest: *digest,
            form: *form,
            targets: vec![],
        };
        let body = Body::Stage(command::Stage {
            checkpoint: self.begun.checkpoint,
            attempt: self.begun.attempt,
            part: self.part,
            run: self.run,
            segments: segments.iter().map(segment).collect(),
        });
        match self.client.execute_around(body, exclude).await? {
            Reply::Staged { segments: staged } if staged.len() == segments.len() => {
                self.staged.store(true, Ordering::Relaxed);
                Ok(staged)
            }
            other => Err(unexpected("stage segments", &other)),
        }
    }

    /// Whether the error is a want of nodes that may pass: the cluster took segments before, or
    /// it has nodes enough and some of them are not up yet.
    pub fn may_wait_for_nodes(&self, error: &ClientError, since: Instant) -> bool {
        let may_pass = match error.refusal() {
            Some(Refusal::NotEnoughHosts { have, want, shortage }) => {
                have + shortage.down() >= *want
            }
            Some(Refusal::NotEnoughRacks { shortage, .. }) => shortage.down() > 0,
            _ => return false,
        };
        (may_pass || self.staged.load(Ordering::Relaxed)) && !self.is_over(since)
    }

    fn is_over(&self, since: Instant) -> bool {
        self.client.options().deadline.is_some_and(|limit| since.elapsed() > limit)
    }

    /// Sends a segment; says when W targets have it, then sees to the others.
    pub async fn send(
        self: Arc<Self>,
        outgoing: Outgoing,
        say: oneshot::Sender<Result<(), ClientError>>,
    ) {
        let Ok(sending) = self.budgets.sends.clone().acquire_owned().await else { return };
        let turn = match &self.rate {
            Some(rate) => rate.turn().await,
            None => None,
        };
        let (len, counted) = (outgoing.bytes.len() as u64, outgoing.counted);
        let encoded = encode(self.client.env(), outgoing.form, &outgoing.bytes).await;
        let mut send = Send::new(self.clone(), outgoing, encoded);
        let result = send.until_quorum().await;
        if result.is_ok() && !counted {
            self.progress.note_acked(len);
        }
        let failed = result.is_err();
        let _ = say.send(result);
        let Send { mut running, budget, .. } = send;
        drop((budget, sending, turn));
        if failed || running.is_empty() {
            return;
        }
        let share = u32::try_from(len.div_ceil(1 << 10)).unwrap_or(u32::MAX).max(LAG_KIB_MIN);
        let Ok(_lag) = self.budgets.lag.clone().try_acquire_many_owned(share) else {
            tracing::debug!(targets = running.len(), "slow targets are left to catch-up");
            return;
        };
        while let Some((node, result)) = running.next().await {
            if let Err(trouble) = result {
                tracing::debug!(%node, trouble = trouble.text, "a slower target failed");
                self.note_trouble(node, &trouble);
            }
        }
    }

    fn note_trouble(&self, node: NodeId, trouble: &Trouble) {
        if let Some(avoid) = trouble.avoid {
            // It may have moved: the next put asks where all nodes are.
            self.client.forget_settings();
            let until = Instant::now() + self.client.env().jitter(avoid);
            self.avoid.lock().insert(node, until);
        }
    }

    fn is_avoided(&self, node: NodeId) -> bool {
        self.avoid.lock().get(&node).is_some_and(|until| Instant::now() < *until)
    }

    /// Streams the bytes to one slot's node.
    async fn put(
        self: Arc<Self>,
        node: NodeId,
        epoch: Epoch,
        segment: SegmentId,
        digest: SegmentDigest,
        encoded: Arc<Encoded>,
    ) -> (NodeId, Result<(), Trouble>) {
        let stall = self.client.options().stall_deadline;
        let started = Instant::now();
        loop {
            let (mut stub, identity) = match self.client.segments(node).await {
                Ok(found) => found,
                Err(error) => {
                    let text = error.to_string();
                    return (node, Err(Trouble::of(text, Some(AVOID))));
                }
            };
            let head = wire::PutHead {
                digest: convert::digest_to_wire(&digest),
                len: encoded.blocks.form().raw_len(),
                segment: segment.0,
                epoch: epoch.0,
                codec: encoded.blocks.form().codec().number(),
                stored_lens: encoded.blocks.lens_to_wire(),
            };
            let pulled = Arc::new(AtomicU64::new(0));
            let (progress, rate) = (self.progress.clone(), self.rate.clone());
            let messages = messages(head, &encoded, pulled.clone(), progress, rate);
            let call = stub.put(with_identity(messages, &identity));
            let status = match while_moving(call, &pulled, stall).await {
                Some(Ok(_)) => return (node, Ok(())),
                Some(Err(status)) => status,
                None => {
                    let text = format!("no progress for {stall:?}");
                    return (node, Err(Trouble::of(text, Some(AVOID))));
                }
            };
            let text = status.message().to_owned();
            match Reason::of(&status) {
                Some(Reason::Busy | Reason::NotYet) if started.elapsed() < stall => {
                    sleep(self.client.env().jitter(NODE_PAUSE)).await;
                }
                Some(Reason::NoSpace) => {
                    return (node, Err(Trouble { text, avoid: Some(AVOID_FULL), full: true }));
                }
                Some(Reason::StaleSlot | Reason::WrongBytes | Reason::Form) => {
                    return (node, Err(Trouble::of(text, None)));
                }
                _ => return (node, Err(Trouble::of(text, Some(AVOID)))),
            }
        }
    }
}

/// One segment while it is being sent.
struct Send {
    upload: Arc<Upload>,
    digest: SegmentDigest,
    segment: SegmentId,
    bytes: Bytes,
    encoded: Arc<Encoded>,
    slots: Vec<Slot>,
    kept: bool,
    budget: OwnedSemaphorePermit,
    running: FuturesUnordered<Put>,
    /// Nodes being sent to, and nodes that have it.
    busy: BTreeSet<NodeId>,
    stored: BTreeSet<NodeId>,
    /// Why each target failed last, and the leader if it did.
    troubles: BTreeMap<NodeId, Trouble>,
    refused: Option<ClientError>,
}

impl Send {
    fn new(upload: Arc<Upload>, outgoing: Outgoing, encoded: Encoded) -> Self {
        Self {
            upload,
            digest: outgoing.digest,
            segment: outgoing.segment,
            bytes: outgoing.bytes,
            encoded: Arc::new(encoded),
            slots: outgoing.slots,
            kept: false,
            budget: outgoing.budget,
            running: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            stored: BTreeSet::new(),
            troubles: BTreeMap::new(),
            refused: None,
        }
    }

    async fn until_quorum(&mut self) -> Result<(), ClientError> {
        let mut since = Instant::now();
        let mut pause = ASK_PAUSE;
        let mut asking: Option<BoxFuture<'static, Result<Vec<StagedSegment>, ClientError>>> = None;
        loop {
            self.start_targets(since);
            if self.kept || self.has_quorum(&self.stored) {
                return Ok(());
            }
            let hoped: BTreeSet<NodeId> = self.stored.union(&self.busy).copied().collect();
            if asking.is_none() && !self.has_quorum(&hoped) {
                if self.upload.is_over(since) {
                    return Err(self.given_up());
                }
                asking = Some(self.ask_for_targets(pause));
                pause = (pause * 2).min(ASK_PAUSE_MAX);
            }
            let is_asking = asking.is_some();
            let answer = async {
                match asking.as_mut() {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((node, result)) = self.running.next(), if !self.running.is_empty() => {
                    self.busy.remove(&node);
                    match result {
                        Ok(()) => {
                            self.stored.insert(node);
                            since = Instant::now();
                        }
                        Err(trouble) => {
                            tracing::debug!(%node, trouble = trouble.text, "target dropped");
                            self.upload.note_trouble(node, &trouble);
                            // A slot that is at fault itself is not tried again as it is.
                            if trouble.avoid.is_none() {
                                self.slots.retain(|slot| slot.node != node);
                            }
                            self.troubles.insert(node, trouble);
                        }
                    }
                }
                answer = answer, if is_asking => {
                    asking = None;
                    match answer {
                        Ok(staged) => {
                            self.refused = None;
                            self.take_targets(staged);
                        }
                        Err(error) if self.upload.may_wait_for_nodes(&error, since) => {
                            self.refused = Some(error);
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Starts a stream to every assigned slot that has none. Once the deadline is over, a node that
    /// failed is not tried again: two of them that fail by turns would go on for ever.
    fn start_targets(&mut self, since: Instant) {
        let is_over = self.upload.is_over(since);
        for slot in &self.slots {
            let node = slot.node;
            let failed = is_over && self.troubles.contains_key(&node);
            let idle = !self.busy.contains(&node) && !self.stored.contains(&node) && !failed;
            if slot.state == SlotState::Assigned && idle && !self.upload.is_avoided(node) {
                self.busy.insert(node);
                self.running.push(Box::pin(self.upload.clone().put(
                    node,
                    slot.epoch,
                    self.segment,
                    self.digest,
                    self.encoded.clone(),
                )));
            }
        }
    }

    /// Whether these nodes and the replicas that count already are W, in enough racks. The
    /// catalogue has the last word, at the seal.
    fn has_quorum(&self, stored: &BTreeSet<NodeId>) -> bool {
        let policy = &self.upload.begun.policy;
        let nodes = self.upload.client.nodes();
        let counts = |slot: &&Slot| {
            slot.state == SlotState::Durable
                && nodes.get(&slot.node).is_none_or(|node| node.up && node.inventoried)
        };
        let rack = |node: &NodeId| nodes.get(node).map(|node| node.rack.as_str());
        let mut have = stored.clone();
        have.extend(self.slots.iter().filter(counts).map(|slot| slot.node));
        let racks: BTreeSet<_> = have.iter().filter_map(rack).collect();
        let possible: BTreeSet<_> =
            nodes.values().filter(|node| !node.removed).map(|node| &node.rack).collect();
        let racks_wanted = match policy.isolation {
            Isolation::Soft => 1,
            Isolation::Hard if canary!("quorum_ignores_racks") => 1,
            Isolation::Hard => policy.min_racks.min(policy.write_quorum) as usize,
        };
        have.len() >= policy.write_quorum as usize
            && racks.len() >= racks_wanted.min(possible.len())
    }

    /// The end of a segment that too few targets have stored in time. Where room is all that is
    /// missing, that is said, also before the leader knows that its nodes are full.
    fn given_up(&mut self) -> ClientError {
        let (what, last) = (format!("storing segment {}", self.digest), self.why());
        let is_missing =
            |slot: &&Slot| slot.state == SlotState::Assigned && !self.stored.contains(&slot.node);
        // A node that is avoided because of other segments was not asked for this one.
        let missing = self.slots.iter().filter(is_missing);
        let mut troubles = missing.filter_map(|slot| self.troubles.get(&slot.node)).peekable();
        let is_full = troubles.peek().is_some() && troubles.all(|trouble| trouble.full);
        match self.refused.take() {
            Some(refused) if lacks_room(&refused) => refused,
            _ if is_full => ClientError::NoSpace { what, last },
            _ => ClientError::Timeout { what, last },
        }
    }

    /// Why no quorum has stored it, target by target.
    fn why(&self) -> String {
        let targets =
            self.troubles.iter().map(|(node, trouble)| format!("node {node}: {}", trouble.text));
        let refused = self.refused.iter().map(ToString::to_string);
        let said: Vec<String> = targets.chain(refused).collect();
        match said.is_empty() {
            true => "no target answered".to_owned(),
            false => said.join("; "),
        }
    }

    fn ask_for_targets(
        &self,
        pause: Duration,
    ) -> BoxFuture<'static, Result<Vec<StagedSegment>, ClientError>> {
        let upload = self.upload.clone();
        let segment = (self.digest, self.encoded.blocks.form());
        Box::pin(async move {
            sleep(upload.client.env().jitter(pause)).await;
            // Who is up and where has changed, or there would be enough.
            upload.client.status().await?;
            upload.stage(&[segment]).await
        })
    }

    fn take_targets(&mut self, staged: Vec<StagedSegment>) {
        if let Some(staged) = staged.into_iter().next() {
            self.kept = staged.kept;
            let form = self.encoded.blocks.form();
            if !form.is_raw() && staged.form != Some(form) {
                // Its record went, and another upload made it anew.
                self.encoded = Arc::new(Encoded::raw(&self.bytes));
            }
            // What was stored counts as long as its slot is still there.
            let holds = |node: &NodeId| staged.slots.iter().any(|slot| slot.node == *node);
            self.stored.retain(holds);
            self.slots = staged.slots;
        }
    }
}

fn wants_nodes(error: &ClientError) -> bool {
    let refusal = error.refusal();
    matches!(refusal, Some(Refusal::NotEnoughHosts { .. } | Refusal::NotEnoughRacks { .. }))
}

/// Whether the leader said that nodes are full.
fn lacks_room(error: &ClientError) -> bool {
    match error.refusal() {
        Some(
            Refusal::NotEnoughHosts { shortage, .. } | Refusal::NotEnoughRacks { shortage, .. },
        ) => shortage.has_full(),
        _ => false,
    }
}

/// The head, then the stored blocks, as fast as the rate allows; counts what the transport takes.
fn messages(
    head: wire::PutHead,
    encoded: &Encoded,
    pulled: Arc<AtomicU64>,
    progress: Arc<Progress>,
    rate: Option<Arc<Rate>>,
) -> impl futures::Stream<Item = wire::PutRequest> + std::marker::Send + 'static + use<> {
    let head = wire::PutRequest { message: Some(wire::put_request::Message::Head(head)) };
    let chunks = stream::iter(encoded.bytes.clone()).then(move |chunk| {
        let (pulled, progress, rate) = (pulled.clone(), progress.clone(), rate.clone());
        async move {
            if let Some(rate) = rate {
                rate.take(chunk.len() as u64).await;
            }
            pulled.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            progress.note_on_wire(chunk.len() as u64);
            wire::PutRequest { message: Some(wire::put_request::Message::Chunk(chunk)) }
        }
    });
    stream::iter([head]).chain(chunks)
}

/// Waits for a call as long as its bytes move; `None` after `stall` without any.
async fn while_moving<T>(
    call: impl Future<Output = Result<T, Status>>,
    pulled: &AtomicU64,
    stall: Duration,
) -> Option<Result<T, Status>> {
    let mut call = std::pin::pin!(call);
    let mut seen = 0;
    loop {
        if let Ok(result) = timeout(stall, call.as_mut()).await {
            return Some(result);
        }
        let now = pulled.load(Ordering::Relaxed);
        if now == seen {
            return None;
        }
        seen = now;
    }
}
