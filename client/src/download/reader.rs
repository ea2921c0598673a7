//! One segment's blocks from whichever replica gives them.
//!
//! ```text
//! choose replica --> blocks in order, verified --> deliver
//!      ^                |  nothing for 2 s: a second replica races for the next block
//!      +----------------+  error or wrong bytes: go on at the next block elsewhere
//! all failed: back off, locate anew, start over; until there was no progress for the deadline
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::ids::{NodeId, SegmentDigest};
use cairn_core::limits::BLOCK_BYTES;
use cairn_core::model::{Slot, SlotState};
use cairn_proto::{convert, wire};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::blocks::{Blocks, Trouble, blocks};
use crate::cluster::{Client, with_identity};
use crate::error::ClientError;

/// A replica that gives no block for this long gets company.
const HEDGE_AFTER: Duration = Duration::from_secs(2);
/// One that lost such a race, or failed, is asked last for this long.
const SHUN: Duration = Duration::from_secs(10);
/// What a replica in another rack must be less busy by to be asked first, bytes.
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
    /// Where it was when it was located last.
    pub slots: Vec<Slot>,
    /// A file it is needed for, to name in errors.
    pub file: String,
}

/// Reads segments; shared by all tasks of a download, so that they spread over the replicas.
pub(super) struct Reader {
    client: Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    in_flight: BTreeMap<NodeId, u64>,
    shunned: BTreeMap<NodeId, Instant>,
}

/// A stream from one replica, counted as its load while it lives.
struct Replica {
    node: NodeId,
    blocks: Blocks,
    bytes: u64,
    reader: Arc<Reader>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(bytes) = self.reader.state.lock().in_flight.get_mut(&self.node) {
            *bytes = bytes.saturating_sub(self.bytes);
        }
    }
}

/// What one segment's read has been through.
#[derive(Default)]
struct Attempts {
    /// Failed in this round.
    failed: BTreeMap<NodeId, ()>,
    /// What each node said last, for the error.
    said: BTreeMap<NodeId, String>,
}

impl Reader {
    pub fn new(client: &Client) -> Arc<Self> {
        Arc::new(Self { client: client.clone(), state: Mutex::default() })
    }

    /// Hands every wanted block to `deliver`, in order, verified.
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
                        self.check_deadline(wanted, since, &attempts)?;
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

    /// The next block, if there is one soon, and the replica to go on with.
    async fn next_block(
        self: &Arc<Self>,
        mut replica: Replica,
        wanted: &Wanted,
        next: usize,
        slots: &[Slot],
        attempts: &mut Attempts,
    ) -> (Option<(usize, Bytes)>, Option<Replica>) {
        let stall = self.client.options().stall_deadline.max(HEDGE_AFTER);
        if let Ok(item) = timeout(HEDGE_AFTER, replica.blocks.next()).await {
            return self.settle(item, replica, None, wanted, attempts);
        }
        let other = self.choose(slots, &attempts.failed, Some(replica.node));
        let Some(mut hedge) = other.map(|node| self.open(node, wanted, next)) else {
            return match timeout(stall - HEDGE_AFTER, replica.blocks.next()).await {
                Ok(item) => self.settle(item, replica, None, wanted, attempts),
                Err(_) => {
                    self.fail(replica.node, stalled(stall), wanted, attempts);
                    (None, None)
                }
            };
        };
        tracing::debug!(slow = %replica.node, hedge = %hedge.node, "a slow replica is hedged");
        let race = async {
            tokio::select! {
                biased;
                item = replica.blocks.next() => (true, item),
                item = hedge.blocks.next() => (false, item),
            }
        };
        match timeout(stall, race).await {
            Ok((true, item)) => self.settle(item, replica, Some(hedge), wanted, attempts),
            Ok((false, item)) => {
                if matches!(item, Some(Ok(_))) {
                    self.shun(replica.node);
                    drop(replica);
                    self.settle(item, hedge, None, wanted, attempts)
                } else {
                    self.settle(item, hedge, Some(replica), wanted, attempts)
                }
            }
            Err(_) => {
                self.fail(replica.node, stalled(stall), wanted, attempts);
                self.fail(hedge.node, stalled(stall), wanted, attempts);
                (None, None)
            }
        }
    }

    /// What a replica gave: a block and itself, or its failure and the one in reserve.
    fn settle(
        self: &Arc<Self>,
        item: Option<Result<(usize, Bytes), Trouble>>,
        replica: Replica,
        reserve: Option<Replica>,
        wanted: &Wanted,
        attempts: &mut Attempts,
    ) -> (Option<(usize, Bytes)>, Option<Replica>) {
        match item {
            Some(Ok(block)) => (Some(block), Some(replica)),
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
        self.shun(node);
        if trouble.wrong_bytes {
            self.suspect(node, wanted.digest);
        }
        attempts.failed.insert(node, ());
        attempts.said.insert(node, trouble.text);
    }

    fn shun(&self, node: NodeId) {
        self.state.lock().shunned.insert(node, Instant::now() + SHUN);
    }

    /// Tells a node that its copy looks bad. A hint: nobody waits for it.
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

    /// The replica to ask next: durable before assigned, up before down, not shunned, least busy.
    fn choose(
        &self,
        slots: &[Slot],
        failed: &BTreeMap<NodeId, ()>,
        but: Option<NodeId>,
    ) -> Option<NodeId> {
        let nodes = self.client.nodes();
        let state = self.state.lock();
        let own_rack = self.client.options().rack.as_deref();
        let rank = |slot: &&Slot| {
            let info = nodes.get(&slot.node);
            let is_far = own_rack.is_some() && info.map(|info| info.rack.as_str()) != own_rack;
            let busy = state.in_flight.get(&slot.node).copied().unwrap_or(0);
            (
                slot.state != SlotState::Durable,
                !info.is_none_or(|info| info.up),
                state.shunned.get(&slot.node).is_some_and(|until| Instant::now() < *until),
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
        *self.state.lock().in_flight.entry(node).or_default() += bytes;
        let range = next..wanted.blocks.end;
        let blocks = blocks(self.client.clone(), node, wanted.digest, wanted.len, range);
        Replica { node, blocks, bytes, reader: self.clone() }
    }

    async fn locate_again(&self, wanted: &Wanted) -> Result<Vec<Slot>, ClientError> {
        // Addresses may have moved with the replicas.
        self.client.status().await?;
        let located = self.client.locate(&[wanted.digest]).await?;
        Ok(located.into_iter().next().map(|located| located.slots).unwrap_or_default())
    }

    fn check_deadline(
        &self,
        wanted: &Wanted,
        since: Instant,
        attempts: &Attempts,
    ) -> Result<(), ClientError> {
        match self.client.options().deadline {
            Some(limit) if since.elapsed() > limit => Err(ClientError::Damaged {
                file: wanted.file.clone(),
                segment: wanted.digest,
                nodes: attempts.said.iter().map(|(node, said)| (*node, said.clone())).collect(),
            }),
            _ => Ok(()),
        }
    }
}

fn stalled(stall: Duration) -> Trouble {
    Trouble { text: format!("no block for {stall:?}"), wrong_bytes: false }
}
