//! A node's scrub for an operator: how far it is, and what it is asked for.

use std::time::Duration;

use cairn_proto::wire;
use cairn_types::ids::{NodeId, SegmentDigest};

use crate::cluster::{Answer, Client, with_identity};

/// Time limit for a node to look at each replica's record: a million take seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a node's scrub is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScrubOrder {
    /// Read every replica once, as fast as it may. This ends a pause.
    Start,
    /// Read nothing for so long, 7 days at most.
    Pause(Duration),
    Resume,
}

/// How far a node's scrub is. Times are the node's wall clock, milliseconds since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubStatus {
    pub node: NodeId,
    /// Each replica is read within this time, milliseconds. `None` if the node does not scrub.
    pub period_ms: Option<u64>,
    /// The start of a pass that an operator asked for and that is not complete.
    pub pass_since_ms: Option<u64>,
    pub paused_until_ms: Option<u64>,
    /// The last time at which nothing was to be read.
    pub complete_ms: Option<u64>,
    pub replicas: u64,
    /// Raw bytes.
    pub bytes: u64,
    /// Of the replicas, those read within the period, or since the pass began; and their bytes.
    pub verified: u64,
    pub verified_bytes: u64,
    /// To be read now.
    pub ripe: u64,
    pub ripe_bytes: u64,
    /// Not known to be good within the period.
    pub late: u64,
    /// The longest time since a replica was written or read, milliseconds.
    pub oldest_ms: Option<u64>,
    /// The speed at which ripe ones are read, bytes a second.
    pub bytes_per_s: u64,
    /// Replicas that the scrub of this process has found bad or missing.
    pub bad: u64,
    /// The last 16 of them, the newest last, with the times at which they were found.
    pub faults: Vec<(SegmentDigest, u64)>,
}

impl ScrubStatus {
    fn received(sent: wire::ScrubReply) -> Self {
        let faults = sent.faults.into_iter().filter_map(|fault| {
            let digest = fault.digest.as_ref().try_into().ok().map(SegmentDigest)?;
            Some((digest, fault.at_ms))
        });
        Self {
            node: NodeId(sent.node),
            period_ms: Some(sent.period_ms).filter(|period| *period > 0),
            pass_since_ms: sent.pass_since_ms,
            paused_until_ms: sent.paused_until_ms,
            complete_ms: sent.complete_ms,
            replicas: sent.replicas,
            bytes: sent.bytes,
            verified: sent.verified,
            verified_bytes: sent.verified_bytes,
            ripe: sent.ripe,
            ripe_bytes: sent.ripe_bytes,
            late: sent.late,
            oldest_ms: sent.oldest_ms,
            bytes_per_s: sent.bytes_per_s,
            bad: sent.bad,
            faults: faults.collect(),
        }
    }
}

impl Client {
    /// How far the scrub of the node at `address` is, after `order` if there is one. A node that
    /// does not scrub takes no order, and answers without a period.
    pub fn scrub<'a>(
        &'a self,
        address: &'a str,
        order: Option<ScrubOrder>,
    ) -> Answer<'a, ScrubStatus> {
        Box::pin(async move {
            let (mut stub, identity) = self.admin(address);
            let (order, pause) = match order {
                None => (wire::ScrubOrder::Unspecified, Duration::ZERO),
                Some(ScrubOrder::Start) => (wire::ScrubOrder::Start, Duration::ZERO),
                Some(ScrubOrder::Pause(pause)) => (wire::ScrubOrder::Pause, pause),
                Some(ScrubOrder::Resume) => (wire::ScrubOrder::Resume, Duration::ZERO),
            };
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            let message = wire::ScrubRequest { order: order.into(), pause_ms };
            let call = stub.scrub(with_identity(message, &identity));
            self.of_one_node(address, DEADLINE, call).await.map(ScrubStatus::received)
        })
    }
}
