//! This node as a member of the Raft group: it reads the applied catalogue, proposes commands and
//! makes reads linearizable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::catalogue::Catalogue;
use cairn_host::envelope::{Reason, not_leader, refuse};
use cairn_host::seam::Lane;
use cairn_proto::refused::{invalid, refusal_status};
use cairn_types::canary;
use cairn_types::command::{Body, Command, Refusal, Reply, SUBJECT_LEVEL};
use cairn_types::convert::{self, ConvertError};
use cairn_types::event::EventId;
use cairn_types::ids::{NodeId, RequestId};
use cairn_types::rights::Subject;
use parking_lot::RwLock;
use tonic::Status;

use super::ThisNode;
use crate::clock::{self, ClusterClock, Seldom};
use crate::feed::Feed;
use crate::health::Health;
use crate::machine::CatalogueState;
use crate::raft::{Consensus, ProposeError, ReadError};

/// Time limit for the leader's answer to one proposal. After it, it is unknown whether the command
/// was applied.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between two log lines about a wrong clock.
const CLOCK_WARNING_PERIOD: Duration = Duration::from_secs(60);

/// How a command stands before it is proposed.
pub enum Verdict {
    /// Its request is answered already.
    Answered(Arc<Reply>),
    /// Its subject may run it.
    Allowed,
    Refused(Refusal),
}

pub struct Member {
    pub this: Arc<ThisNode>,
    pub consensus: Consensus,
    pub health: Arc<Health>,
    /// The newest events of the log.
    pub feed: Arc<Feed>,
    state: Arc<RwLock<CatalogueState>>,
    clock: ClusterClock,
    clock_warned: Seldom,
}

impl Member {
    pub fn new(
        this: Arc<ThisNode>,
        consensus: Consensus,
        state: Arc<RwLock<CatalogueState>>,
        health: Arc<Health>,
    ) -> Self {
        let (clock, clock_warned) = Default::default();
        let feed = Arc::clone(state.read().feed());
        Self { this, consensus, health, feed, state, clock, clock_warned }
    }

    /// Runs `look` on the applied catalogue. The lock is never held across an await.
    pub fn read<T>(&self, look: impl FnOnce(&Catalogue) -> T) -> T {
        look(&self.state.read().catalogue)
    }

    /// A copy of the applied catalogue, and up to which event it knows all.
    pub fn watched(&self) -> (Catalogue, EventId) {
        let state = self.state.read();
        let known = state.known(self.consensus.applied());
        (state.catalogue.clone(), known)
    }

    /// A cheap copy of the applied catalogue, for reads that take long.
    pub fn copy(&self) -> Catalogue {
        self.read(Catalogue::clone)
    }

    /// Runs `look` on a copy of the applied catalogue, outside the async threads. Use it for walks
    /// over many records, which must not delay apply.
    pub async fn walk<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Catalogue) -> T + Send + 'static,
    ) -> T {
        let state = Arc::clone(&self.state);
        let walk = move || {
            let catalogue = state.read().catalogue.clone();
            look(&catalogue)
        };
        self.this.env.blocking(Lane::Walk, walk).await
    }

    /// Cluster time, if this node leads.
    pub fn leader_clock_ms(&self) -> Option<u64> {
        if !self.consensus.is_leader() {
            return None;
        }
        let applied_ms = self.read(|catalogue| catalogue.cluster().clock_ms);
        Some(self.clock.now_ms(self.this.env.now(), self.consensus.term(), applied_ms))
    }

    /// How long this leader has led in `term`, by its own clock.
    pub fn led_for(&self, term: u64) -> Duration {
        self.clock.led_for(self.this.env.now(), term)
    }

    /// Decodes a command from a sender. A command that only a newer build understands is refused in
    /// the same way as one that the cluster is not ready for.
    pub fn decode_command(&self, bytes: &[u8]) -> Result<Command, Status> {
        let level = self.this.config.feature_level;
        convert::decode_command(bytes, level).map_err(|error| match error {
            // The leader may understand it.
            ConvertError::FutureCommand { .. } if !self.consensus.is_leader() => self.not_leader(),
            ConvertError::FutureCommand { feature_level: needed } if needed > level => {
                let current = self.read(|catalogue| catalogue.cluster().feature_level);
                refusal_status(&Refusal::FeatureLevel { needed, current })
            }
            error => invalid(error),
        })
    }

    /// Proposes a command of this node or of the leader. Any node but the leader answers
    /// `NotLeader`.
    pub async fn propose(&self, request: RequestId, body: Body) -> Result<Arc<Reply>, Status> {
        self.propose_for(Subject::None, request, body).await
    }

    /// Proposes a command on a subject's behalf.
    pub async fn propose_for(
        &self,
        subject: Subject,
        request: RequestId,
        body: Body,
    ) -> Result<Arc<Reply>, Status> {
        let Some(clock_ms) = self.leader_clock_ms() else {
            return Err(self.not_leader());
        };
        // A node of an older build could not apply it.
        if let Err(refusal) = self.admit(&body).await?
            && !canary!("propose_above_level")
        {
            return Ok(Arc::new(Reply::Refused(refusal)));
        }
        // Apply checks this again. The check here keeps commands that apply would refuse out of the
        // log.
        match self.verdict(&subject, request, &body).await? {
            Verdict::Allowed => {}
            Verdict::Answered(reply) => return Ok(reply),
            Verdict::Refused(refusal) => return Ok(Arc::new(Reply::Refused(refusal))),
        }
        // An older build understands no subject, and its cluster has no tokens.
        let level = self.read(|catalogue| catalogue.cluster().feature_level);
        let subject = if level < SUBJECT_LEVEL { Subject::None } else { subject };
        let wall_ms = self.label_ms();
        let command = Command { request, clock_ms, wall_ms, subject, body };
        let encoded = convert::encode_command(&command);
        debug_assert_eq!(
            convert::decode_command(&encoded, self.this.config.feature_level).as_ref(),
            Ok(&command),
            "command does not read back"
        );
        self.propose_encoded(encoded).await
    }

    /// How a command stands, by everything committed: to be asked before anything is done for it. A
    /// request with a remembered reply gets that reply, even after a later deletion or revocation
    /// (C4), and nothing else: the body that comes with the request may be another one by now.
    pub async fn verdict(
        &self,
        subject: &Subject,
        request: RequestId,
        body: &Body,
    ) -> Result<Verdict, Status> {
        let ask = || {
            let wall_ms = self.label_ms();
            self.read(|catalogue| {
                // No command's own id: it is remembered for none.
                let remembered =
                    catalogue.remembered_reply(request).filter(|_| request != RequestId(0));
                match remembered {
                    Some(_) if canary!("reply_authorizes") => Verdict::Allowed,
                    Some(reply) => Verdict::Answered(Arc::new(reply.clone())),
                    None => match catalogue.authorize(subject, body, wall_ms) {
                        Ok(()) => Verdict::Allowed,
                        Err(refusal) => Verdict::Refused(refusal),
                    },
                }
            })
        };
        match ask() {
            Verdict::Refused(_) => {}
            stands => return Ok(stands),
        }
        self.read_index(self.this.call_deadline()).await?;
        Ok(ask())
    }

    /// Whether the cluster is ready for a command, by everything committed. A new leader may not
    /// have applied the entry that raised the level yet.
    async fn admit(&self, body: &Body) -> Result<Result<(), Refusal>, Status> {
        let level = self.this.config.feature_level;
        if let Body::RaiseFeatureLevel(raise) = body
            && raise.level > level
        {
            return Ok(Err(Refusal::FeatureLevel { needed: raise.level, current: level }));
        }
        if self.read(|catalogue| catalogue.admit(body)).is_ok() {
            return Ok(Ok(()));
        }
        self.read_index(self.this.call_deadline()).await?;
        Ok(self.read(|catalogue| catalogue.admit(body)))
    }

    /// The wall clock for the labels of entries committed now.
    pub fn label_ms(&self) -> u64 {
        let own_ms = self.this.env.wall_ms();
        let label_ms = clock::label_ms(own_ms, self.consensus.clocks_ahead_ms().into_values());
        let cut_ms = own_ms - label_ms.min(own_ms);
        if cut_ms > 0 && self.clock_warned.claim(CLOCK_WARNING_PERIOD) {
            let ahead_ms = cut_ms + clock::WALL_AHEAD_MAX_MS.unsigned_abs();
            tracing::warn!(ahead_ms, "this node's wall clock is ahead of the voters' median");
        }
        label_ms
    }

    /// How far the wall clock of each node is ahead of the voters' median, by recent heartbeats to
    /// a leader. Empty on a node that does not lead.
    pub fn clocks_ahead_of_median_ms(&self) -> BTreeMap<NodeId, i64> {
        if !self.consensus.is_leader() {
            return BTreeMap::new();
        }
        let median_ms = self.median_ahead_ms();
        let others = self.consensus.member_clocks_ahead_ms().into_iter();
        let all = others.chain([(self.this.id.0, 0)]);
        all.map(|(node, ahead_ms)| (NodeId(node), ahead_ms.saturating_sub(median_ms))).collect()
    }

    /// The voters' median wall clock, by this node's readings.
    pub fn median_wall_ms(&self) -> u64 {
        self.this.env.wall_ms().saturating_add_signed(self.median_ahead_ms())
    }

    fn median_ahead_ms(&self) -> i64 {
        clock::median_ahead_ms(self.consensus.clocks_ahead_ms().into_values())
    }

    async fn propose_encoded(&self, encoded: Bytes) -> Result<Arc<Reply>, Status> {
        self.consensus.propose(encoded, PROPOSE_DEADLINE).await.map_err(|error| match error {
            ProposeError::NotLeader { leader } => {
                not_leader(leader.as_ref().map(|(node, address)| (NodeId(*node), address.as_str())))
            }
            ProposeError::Unavailable(text) => Status::unavailable(text),
            ProposeError::TooLarge(_) => Status::invalid_argument(error.to_string()),
            ProposeError::Undecodable(_) => Status::internal(error.to_string()),
            ProposeError::Fatal(text) => Status::unavailable(text),
        })
    }

    pub fn not_leader(&self) -> Status {
        match self.consensus.leader() {
            Some((node, address)) if node != self.this.id.0 => {
                let known = self.address_of(NodeId(node)).unwrap_or(address);
                not_leader(Some((NodeId(node), &known)))
            }
            _ => not_leader(None),
        }
    }

    /// Waits until reads of the local catalogue are linearizable.
    pub async fn read_index(&self, deadline: Duration) -> Result<u64, Status> {
        let trouble = self.health.trouble();
        if trouble.log_late_ms > 0 {
            // Raft waits for the log here, and the caller would wait too, until the deadline.
            let text = trouble.text();
            return Err(Status::unavailable(format!("node {}: {text}; try another", self.this.id)));
        }
        self.consensus.read_index(deadline).await.map_err(|error| match error {
            ReadError::Unavailable(_) | ReadError::Fatal(_) => {
                Status::unavailable(format!("{error}; try another node"))
            }
        })
    }

    /// Waits until this node has applied `index`.
    pub async fn wait_applied(&self, index: u64, deadline: Duration) -> Result<(), Status> {
        match tokio::time::timeout(deadline, self.consensus.wait_for_applied(index)).await {
            Ok(()) => Ok(()),
            Err(_) => {
                Err(refuse(Reason::NotYet, format!("log entry {index} is not applied here yet")))
            }
        }
    }

    /// Resolves once this node sees another leader than `node`, or none.
    pub async fn until_not_led_by(&self, node: u64) {
        let mut watch = self.consensus.watch_leadership();
        while watch.changed().await.leader.is_some_and(|(leader, _)| leader == node) {}
    }

    /// The address of `node`, if it is a member.
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        self.read(|catalogue| catalogue.node(node).map(|record| record.address.clone()))
    }
}
