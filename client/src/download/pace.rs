//! The recent speed of nodes that gave blocks. It decides the order of nodes, and how long a reader
//! waits before it reads a second replica in parallel.
//!
//! All reads of a client and its clones share it. Data about a node expires, so that a node that
//! has recovered is tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_types::ids::NodeId;
use tokio::time::Instant;

/// The shortest wait before a second replica is read. A shorter one would start a second stream for
/// every short delay of a disk.
const PATIENCE_MIN: Duration = Duration::from_millis(250);
/// The longest wait for a first block if nothing is known about other nodes.
pub(super) const PATIENCE_UNKNOWN: Duration = Duration::from_secs(2);
/// A wait is long if it is this many times another node's wait.
const PATIENCE_FACTOR: u32 = 8;
/// The time allowed for a block if nothing is known about other nodes: 8 MiB a second.
const BLOCK_NOMINAL: Duration = Duration::from_millis(125);
/// A node that is this many times slower than another one is asked after it.
const SLOW_FACTOR: u32 = 4;
/// Waits below this do not make a node slow.
const SLOW_MIN: Duration = Duration::from_millis(50);
/// Data about a node expires after this time without a read from it.
const REMEMBERED: Duration = Duration::from_secs(60);
/// A node that hung or failed is asked last for this long. Each failure in a row doubles the time.
const AVOIDED_MIN: Duration = Duration::from_secs(10);
const AVOIDED_MAX: Duration = Duration::from_secs(160);
/// A node with too many readers is asked last for this long.
const BUSY_AVOIDED: Duration = Duration::from_secs(1);
/// Limit on remembered nodes. Above it, the node read longest ago is removed.
const NODES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Paces {
    nodes: BTreeMap<NodeId, Pace>,
}

#[derive(Debug)]
struct Pace {
    /// Smoothed wait for a block. `None` if the node has given none.
    wait: Option<Duration>,
    read_at: Instant,
    avoided_until: Instant,
    failures: u32,
}

/// The blocks and the waiting time of a stream from one replica so far.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Spent {
    pub blocks: u32,
    pub waited: Duration,
}

impl Paces {
    /// `node` gave a block after `waited`.
    pub fn gave(&mut self, node: NodeId, waited: Duration, now: Instant) {
        let pace = self.pace(node, now);
        pace.wait = Some(pace.wait.map_or(waited, |wait| (wait * 3 + waited) / 4));
        if now >= pace.avoided_until {
            pace.failures = 0;
        }
    }

    /// `node` lost a race for a block after a wait of `waited`.
    pub fn lost(&mut self, node: NodeId, waited: Duration, now: Instant) {
        let pace = self.pace(node, now);
        // It would have taken even longer.
        pace.wait = Some(pace.wait.map_or(waited, |wait| wait.max(waited)));
        if waited >= PATIENCE_UNKNOWN {
            self.failed(node, now);
        }
    }

    /// `node` hung or could not be reached.
    pub fn failed(&mut self, node: NodeId, now: Instant) {
        let pace = self.pace(node, now);
        // The parallel streams of one client fail together. That counts as one failure.
        if now >= pace.avoided_until {
            let long = AVOIDED_MIN.saturating_mul(1 << pace.failures.min(8)).min(AVOIDED_MAX);
            pace.avoided_until = now + long;
            pace.failures += 1;
        }
    }

    /// `node` is overloaded.
    pub fn busy(&mut self, node: NodeId, now: Instant) {
        let pace = self.pace(node, now);
        pace.avoided_until = pace.avoided_until.max(now + BUSY_AVOIDED);
    }

    /// Whether other replicas are asked before `node`.
    pub fn is_avoided(&self, node: NodeId, now: Instant) -> bool {
        let Some(pace) = self.nodes.get(&node) else { return false };
        let is_slow = |wait: Duration| {
            let best = self.best_but(node, now);
            wait > SLOW_MIN && best.is_some_and(|best| wait > best * SLOW_FACTOR)
        };
        now < pace.avoided_until || (pace.is_recent(now) && pace.wait.is_some_and(is_slow))
    }

    /// How long to wait for the next block of `node` alone, at most `longest`.
    pub fn patience(
        &self,
        node: NodeId,
        spent: Spent,
        longest: Duration,
        now: Instant,
    ) -> Duration {
        let patience = match self.best_but(node, now) {
            Some(best) => best * PATIENCE_FACTOR,
            // A slow but steady stream uses up its allowance.
            None => (PATIENCE_UNKNOWN + BLOCK_NOMINAL * spent.blocks)
                .saturating_sub(spent.waited)
                .min(PATIENCE_UNKNOWN),
        };
        patience.max(PATIENCE_MIN).min(longest)
    }

    /// The shortest wait for a block of any other node.
    fn best_but(&self, node: NodeId, now: Instant) -> Option<Duration> {
        let others = self.nodes.iter().filter(|(other, _)| **other != node);
        let usable = others.filter(|(_, pace)| pace.is_recent(now) && now >= pace.avoided_until);
        usable.filter_map(|(_, pace)| pace.wait).min()
    }

    fn pace(&mut self, node: NodeId, now: Instant) -> &mut Pace {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node) {
            let oldest = self.nodes.iter().min_by_key(|(_, pace)| pace.read_at);
            if let Some(oldest) = oldest.map(|(node, _)| *node) {
                self.nodes.remove(&oldest);
            }
        }
        let unknown = Pace { wait: None, read_at: now, avoided_until: now, failures: 0 };
        let pace = self.nodes.entry(node).or_insert(unknown);
        if !pace.is_recent(now) {
            pace.wait = None;
        }
        pace.read_at = now;
        pace
    }
}

impl Pace {
    fn is_recent(&self, now: Instant) -> bool {
        now.duration_since(self.read_at) < REMEMBERED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(5);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[tokio::test(start_paused = true)]
    async fn patience_follows_what_other_nodes_take() {
        let (one, two, now) = (NodeId(1), NodeId(2), Instant::now());
        let mut paces = Paces::default();
        let patience = |paces: &Paces, spent| paces.patience(one, spent, LONGEST, now);
        assert_eq!(patience(&paces, Spent::default()), PATIENCE_UNKNOWN);
        // One block each 1.9 s: slow, but never two seconds without a block.
        assert_eq!(patience(&paces, Spent { blocks: 1, waited: ms(1900) }), PATIENCE_MIN);
        assert_eq!(patience(&paces, Spent { blocks: 30, waited: ms(300) }), PATIENCE_UNKNOWN);
        paces.gave(two, ms(5), now);
        assert_eq!(patience(&paces, Spent::default()), PATIENCE_MIN);
        // If every node is slow because of the network, a second stream gains nothing.
        paces.gave(two, ms(4000), now);
        assert_eq!(patience(&paces, Spent { blocks: 9, waited: ms(9000) }), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_and_hung_nodes_are_avoided_for_a_while() {
        let (one, two) = (NodeId(1), NodeId(2));
        let mut paces = Paces::default();
        let start = Instant::now();
        paces.gave(one, ms(1900), start);
        assert!(!paces.is_avoided(one, start), "nothing is known of others");
        paces.gave(two, ms(10), start);
        assert!(paces.is_avoided(one, start) && !paces.is_avoided(two, start));
        assert!(!paces.is_avoided(one, start + REMEMBERED), "tried again");

        paces.lost(two, PATIENCE_UNKNOWN, start);
        paces.failed(two, start + ms(1));
        assert!(paces.is_avoided(two, start + ms(9_000)));
        let later = start + REMEMBERED + AVOIDED_MIN;
        assert!(!paces.is_avoided(two, later));
        paces.failed(two, later);
        assert!(paces.is_avoided(two, later + AVOIDED_MIN), "the second time in a row is longer");
        assert!(!paces.is_avoided(two, later + AVOIDED_MIN * 2));
        (0..2 * NODES_MAX as u64).for_each(|node| paces.gave(NodeId(node), ms(1), later));
        assert_eq!(paces.nodes.len(), NODES_MAX);
    }
}
