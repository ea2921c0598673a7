//! One segment's blocks from any replica that has them.
//!
//! ```text
//! choose replica --> blocks in order, verified --> deliver
//!      ^                |  slower than others: a second replica races for the next block
//!      +----------------+  error or wrong bytes: continue at the next block elsewhere
//! all failed: does the checkpoint still exist? back off, locate again, start over;
//!             until there was no progress for the deadline
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::wire;
use cairn_types::convert;
use cairn_types::ids::{NodeId, SegmentDigest};
use cairn_types::limits::BLOCK_BYTES;
use cairn_types::model::{CheckpointInfo, Slot, SlotState};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::alive::Alive;
use super::blocks::{Blocks, Kind, Trouble, blocks};
use super::pace::Spent;
use crate::cluster::{Client, with_identity};
use crate::error::ClientError;

/// A replica in another rack is asked first only if it is less busy by this many bytes.
const RACK_BONUS: u64 = 64 << 20;
/// Pauses before all replicas are tried again.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(2);

/// A range of blocks of a segment.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub digest: SegmentDigest,
    pub len: u32,
    pub blocks: Range<usize>,
    /// Its slots when it was last located.
    pub slots: Vec<Slot>,
    /// A file that needs it, for error messages.
    pub file: String,
}

/// Reads segments of one checkpoint; shared by all tasks of a download, so that they spread over
/// the replicas.
pub(super) struct Reader {
    client: Client,
    /// `None` if no commit names the segments yet.
    checkpoint: Option<Alive>,
    /// Bytes requested from each node.
    in_flight: Mutex<BTreeMap<NodeId, u64>>,
}

/// A stream from one replica, counted as its load while it lives.
struct Replica {
    node: NodeId,
    blocks: Blocks,
    bytes: u64,
    spent: Spent,
    reader: Arc<Reader>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(bytes) = self.reader.in_flight.lock().get_mut(&self.node) {
            *bytes = bytes.saturating_sub(self.bytes);
        }
    }
}

/// The failures of one segment's read.
#[derive(Default)]
struct Attempts {
    /// Failed in this round.
    failed: BTreeMap<NodeId, ()>,
    /// The last answer of each node, for the error.
    said: BTreeMap<NodeId, Trouble>,
}

impl Reader {
    pub fn new(client: &Client, checkpoint: &CheckpointInfo) -> Arc<Self> {
        Self::with(&client.about(checkpoint.id), Some(Alive::of(checkpoint)))
    }

    /// Reads an upload's own segments, before its commit.
    pub fn of_upload(client: &Client) -> Arc<Self> {
        Self::with(client, None)
    }

    fn with(client: &Client, checkpoint: Option<Alive>) -> Arc<Self> {
        Arc::new(Self { client: client.clone(), checkpoint, in_flight: Mutex::default() })
    }

    /// Passes every wanted block to `deliver`, in order, verified.
    pub async fn read<F>(
        self: &Arc<Self>,
        wanted: &Wanted,
        mut deliver: impl FnMut(usize, Bytes) -> F,
    ) -> Result<(), ClientError>
    where
        F: Future<Output = Result<(), ClientError>>,
    {
        let mut slots = wanted.slots.clone();
        let mut attempts = Attempts::default();
        let mut next = wanted.blocks.start;
        let mut current: Option<Replica> = None;
        let (mut since, mut pause) = (Instant::now(), ROUND_PAUSE);
        while next < wanted.blocks.end {
            let replica = match current.take() {
                Some(replica) => replica,
                None => match self.choose(&slots, &attempts.failed, None) {
                    Some(node) => self.open(node, wanted, next),
                    None => {
                        if let Some(checkpoint) = &self.checkpoint {
                            checkpoint.check(&self.client).await?;
                        }
                        self.check_deadline(wanted, since, &slots, &attempts)?;
                        sleep(self.client.env.jitter(pause)).await;
                        pause = (pause * 2).min(ROUND_PAUSE_MAX);
                        slots = self.locate_again(wanted).await?;
                        attempts.failed.clear();
                        continue;
                    }
                },
            };
            let (block, rest) = self.next_block(replica, wanted, next, &slots, &mut attempts).await;
            current = rest;
            if let Some((index, bytes)) = block {
                deliver(index, bytes).await?;
                next = index + 1;
                (since, pause) = (Instant::now(), ROUND_PAUSE);
            }
        }
        Ok(())
    }

    /// The next block, if it comes in time, and the replica to continue with.
    async fn next_block(
        self: &Arc<Self>,
        mut replica: Replica,
        wanted: &Wanted,
        next: usize,
        slots: &[Slot],
        attempts: &mut Attempts,
    ) -> (Option<(usize, Bytes)>, Option<Replica>) {
        let stall = self.client.options().stall_deadline;
        let began = Instant::now();
        let patience =
            self.client.paces.lock().patience(replica.node, replica.spent, stall / 2, began);
        if let Ok(item) = timeout(patience, replica.blocks.next()).await {
            return self.settle(item, replica, began, None, wanted, attempts);
        }
        let other = match self.client.options.hedge {
            true => self.choose(slots, &attempts.failed, Some(replica.node)),
            false => None,
        };
        let Some(mut hedge) = other.map(|node| self.open(node, wanted, next)) else {
            let left = stall.saturating_sub(patience);
            return match timeout(left, replica.blocks.next()).await {
                Ok(item) => self.settle(item, replica, began, None, wanted, attempts),
                Err(_) => {
                    self.fail(replica.node, stalled(stall), wanted, attempts);
                    (None, None)
                }
            };
        };
        tracing::debug!(slow = %replica.node, hedge = %hedge.node, "a slow replica is hedged");
        let raced = Instant::now();
        let race = async {
            tokio::select! {
                biased;
                item = replica.blocks.next() => (true, item),
                item = hedge.blocks.next() => (false, item),
            }
        };
        match timeout(stall, race).await {
            Ok((true, item)) => self.settle(item, replica, began, Some(hedge), wanted, attempts),
            Ok((false, item)) => {
                if matches!(item, Some(Ok(_))) {
                    let now = Instant::now();
                    self.client.paces.lock().lost(replica.node, began.elapsed(), now);
                    drop(replica);
                    self.settle(item, hedge, raced, None, wanted, attempts)
                } else {
                    self.settle(item, hedge, raced, Some(replica), wanted, attempts)
                }
            }
            Err(_) => {
                self.fail(replica.node, stalled(stall), wanted, attempts);
                self.fail(hedge.node, stalled(stall), wanted, attempts);
                (None, None)
            }
        }
    }

    /// Handles the result of a replica that was asked at `began`. Returns a block and that replica,
    /// or no block and the reserve.
    fn settle(
        self: &Arc<Self>,
        item: Option<Result<(usize, Bytes), Trouble>>,
        mut replica: Replica,
        began: Instant,
        reserve: Option<Replica>,
        wanted: &Wanted,
        attempts: &mut Attempts,
    ) -> (Option<(usize, Bytes)>, Option<Replica>) {
        match item {
            Some(Ok(block)) => {
                let waited = began.elapsed();
                replica.spent.blocks += 1;
                replica.spent.waited += waited;
                self.client.paces.lock().gave(replica.node, waited, Instant::now());
                (Some(block), Some(replica))
            }
            Some(Err(trouble)) => {
                self.fail(replica.node, trouble, wanted, attempts);
                (None, reserve)
            }
            None => (None, reserve),
        }
    }

    fn fail(
        self: &Arc<Self>,
        node: NodeId,
        trouble: Trouble,
        wanted: &Wanted,
        attempts: &mut Attempts,
    ) {
        tracing::debug!(%node, segment = %wanted.digest, trouble = trouble.text, "replica failed");
        let now = Instant::now();
        match trouble.kind {
            Kind::WrongBytes => self.suspect(node, wanted.digest),
            // That says nothing about the node's other segments.
            Kind::NotHeld => {}
            Kind::Busy => self.client.paces.lock().busy(node, now),
            Kind::Unavailable => self.client.paces.lock().failed(node, now),
        }
        attempts.failed.insert(node, ());
        attempts.said.insert(node, trouble);
    }

    /// Tells a node that its copy looks bad. This is a hint: no task waits for it.
    fn suspect(&self, node: NodeId, digest: SegmentDigest) {
        let client = self.client.clone();
        self.client.env.spawn("suspect segment", async move {
            let Ok((mut stub, identity)) = client.segments(node).await else { return };
            let message = wire::SuspectRequest { digest: convert::digest_to_wire(&digest) };
            let call = stub.suspect(with_identity(message, &identity));
            if timeout(client.options().call_deadline, call).await.is_err() {
                tracing::debug!(%node, segment = %digest, "suspicion was not heard");
            }
        });
    }

    /// The replica to ask next: durable before assigned, up before down, not avoided, least busy.
    fn choose(
        &self,
        slots: &[Slot],
        failed: &BTreeMap<NodeId, ()>,
        but: Option<NodeId>,
    ) -> Option<NodeId> {
        let nodes = self.client.nodes();
        let (in_flight, paces, now) =
            (self.in_flight.lock(), self.client.paces.lock(), Instant::now());
        let own_rack = self.client.options().rack.as_deref();
        let rank = |slot: &&Slot| {
            let info = nodes.get(&slot.node);
            let is_far = own_rack.is_some() && info.map(|info| info.rack.as_str()) != own_rack;
            let busy = in_flight.get(&slot.node).copied().unwrap_or(0);
            (
                slot.state != SlotState::Durable,
                !info.is_none_or(|info| info.up),
                paces.is_avoided(slot.node, now),
                busy + if is_far { RACK_BONUS } else { 0 },
                self.client.env.random_u64(),
            )
        };
        slots
            .iter()
            .filter(|slot| slot.state != SlotState::Released)
            .filter(|slot| Some(slot.node) != but && !failed.contains_key(&slot.node))
            .min_by_key(rank)
            .map(|slot| slot.node)
    }

    fn open(self: &Arc<Self>, node: NodeId, wanted: &Wanted, next: usize) -> Replica {
        let bytes = (wanted.blocks.end - next) as u64 * BLOCK_BYTES;
        *self.in_flight.lock().entry(node).or_default() += bytes;
        let range = next..wanted.blocks.end;
        let blocks = blocks(self.client.clone(), node, wanted.digest, wanted.len, range);
        Replica { node, blocks, bytes, spent: Spent::default(), reader: self.clone() }
    }

    async fn locate_again(&self, wanted: &Wanted) -> Result<Vec<Slot>, ClientError> {
        let located = self.client.locate(&[wanted.digest]).await?;
        Ok(located.into_iter().next().map(|located| located.slots).unwrap_or_default())
    }

    fn check_deadline(
        &self,
        wanted: &Wanted,
        since: Instant,
        slots: &[Slot],
        attempts: &Attempts,
    ) -> Result<(), ClientError> {
        match self.client.options().deadline {
            Some(limit) if since.elapsed() > limit => Err(gave_up(wanted, slots, attempts)),
            _ => Ok(()),
        }
    }
}

/// The error for a segment that cannot be read, by the answers of the replicas.
fn gave_up(wanted: &Wanted, slots: &[Slot], attempts: &Attempts) -> ClientError {
    let kind_of = |node: &NodeId| attempts.said.get(node).map(|trouble| trouble.kind);
    let (file, segment) = (wanted.file.clone(), wanted.digest);
    let said = attempts.said.iter().map(|(node, trouble)| (*node, trouble.text.clone()));
    let nodes = said.collect();
    let mut live = slots.iter().filter(|slot| slot.state != SlotState::Released);
    if live.clone().any(|slot| kind_of(&slot.node) == Some(Kind::Busy)) {
        return ClientError::Busy { file, segment, nodes };
    }
    let is_lost = |slot: &Slot| {
        slot.state != SlotState::Durable
            || matches!(kind_of(&slot.node), Some(Kind::WrongBytes | Kind::NotHeld))
    };
    ClientError::Damaged { file, segment, nodes, lost: live.all(is_lost) }
}

fn stalled(stall: Duration) -> Trouble {
    Trouble { text: format!("no block for {stall:?}"), kind: Kind::Unavailable }
}
