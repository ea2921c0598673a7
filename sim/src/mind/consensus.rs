//! Consensus as a list: one log, a leader with a queue of proposals, and a replica of the catalogue
//! on every node. Each replica applies the log at its own speed.
//!
//! ```text
//!   propose -> queue (leader's) -> log -> replicas, each with a snapshot to restart from
//!                   \-- leader replaced: a random head survives, the tail is lost
//! ```

use std::collections::{BTreeMap, VecDeque};

use cairn_core::catalogue::{Catalogue, Loader};
use cairn_core::placement::{self, Loads};
use cairn_core::steward::{self, Cursor, Heartbeat, Observations};
use cairn_types::command::{self, Body, Command, Reply};
use cairn_types::ids::{ClusterId, Cookie, Incarnation, NodeId, RequestId};

use super::{Kept, Mail, Mind, Sender, broken, settings};

/// Proposals that a leader queues. Further ones are rejected, as a full node does.
const QUEUE_MAX: usize = 40;

#[derive(Default)]
pub(super) struct Consensus {
    /// Committed entries, from index 1 on.
    pub log: Vec<Command>,
    pub leader: Option<Leader>,
    pub queue: VecDeque<(Sender, Command)>,
}

pub(super) struct Leader {
    pub machine: usize,
    life: u64,
    /// Whether its first entry is in the queue.
    greeted: bool,
    /// Cluster time was `base_ms` at `since_ms`.
    since_ms: u64,
    base_ms: u64,
    leading_since_ms: u64,
    cursor: Cursor,
    loads: Loads,
}

/// The applied state of one node.
#[derive(Default)]
pub(super) struct Replica {
    pub catalogue: Catalogue,
    pub applied: u64,
    /// The state with which a restart begins.
    snapshot: (u64, Catalogue),
    /// The heartbeats that this process received, with their times.
    heard: BTreeMap<NodeId, (Incarnation, u64)>,
}

/// Reads a catalogue back record by record, as the reader of a snapshot does.
pub(super) fn reload(catalogue: &Catalogue) -> Result<Catalogue, String> {
    let text = |error: cairn_core::catalogue::LoadError| error.to_string();
    let mut loader = Loader::new(catalogue.cluster().clone()).map_err(text)?;
    for node in catalogue.nodes() {
        loader.node(node.clone()).map_err(text)?;
    }
    for (name, record) in catalogue.namespaces() {
        loader.namespace(name.clone(), record.clone()).map_err(text)?;
    }
    for segment in catalogue.segments().iter() {
        loader.segment(segment.clone()).map_err(text)?;
    }
    for checkpoint in catalogue.checkpoints() {
        loader.checkpoint(checkpoint.as_ref().clone()).map_err(text)?;
    }
    for (request, reply) in catalogue.replies() {
        loader.reply(request, reply).map_err(text)?;
    }
    loader.finish().map_err(text)
}

impl Mind {
    /// The first entry: the cluster, and node 1 on machine 0.
    pub(super) fn found(&mut self) -> Kept {
        let node = self.machines[0].new_node();
        self.elect(0);
        let body = Body::InitCluster(command::InitCluster {
            cluster: ClusterId(7),
            settings: settings(),
            node,
        });
        self.enqueue(Sender::Nobody, RequestId(0), body);
        self.commit_next()?;
        self.machines[0].node = Some(NodeId(1));
        self.apply_some(0)
    }

    /// A request reaches the leader. Without a leader it is lost.
    pub(super) fn propose(&mut self, from: Sender, request: RequestId, mut body: Body) {
        if self.consensus.leader.is_none() || self.consensus.queue.len() >= QUEUE_MAX {
            return;
        }
        if let Body::SealPart(command::SealPart { checkpoint, compared, .. }) = &mut body
            && let Some(leader) = &self.consensus.leader
        {
            let catalogue = &self.machines[leader.machine].replica.catalogue;
            *compared = catalogue.parts_version(*checkpoint);
        }
        if let Body::Stage(command::Stage { checkpoint, segments, .. }) = &mut body {
            let Some(leader) = &mut self.consensus.leader else { return };
            let catalogue = &self.machines[leader.machine].replica.catalogue;
            let planned = match catalogue.checkpoint(*checkpoint) {
                // This leader has not applied the upload yet, or the upload was removed long ago:
                // ask again.
                None => return,
                Some(upload) => placement::plan_stage(
                    catalogue,
                    &mut leader.loads,
                    upload,
                    segments,
                    &Default::default(),
                ),
            };
            if let Err(refusal) = planned {
                self.count("plans.refused");
                return self.send(Mail::Answer { to: from, reply: Reply::Refused(refusal) });
            }
        }
        self.enqueue(from, request, body);
    }

    fn enqueue(&mut self, from: Sender, request: RequestId, body: Body) {
        let (clock_ms, wall_ms) = (self.leader_clock_ms(), self.now_ms);
        self.consensus.queue.push_back((from, Command::new(request, clock_ms, wall_ms, body)));
    }

    /// As on a node's clock: the applied value plus the leader's own time.
    fn leader_clock_ms(&mut self) -> u64 {
        let now_ms = self.now_ms;
        let Some(leader) = &mut self.consensus.leader else { return 0 };
        let applied_ms = self.machines[leader.machine].replica.catalogue.cluster().clock_ms;
        let computed_ms = leader.base_ms + (now_ms - leader.since_ms);
        if applied_ms > computed_ms {
            (leader.since_ms, leader.base_ms) = (now_ms, applied_ms);
        }
        computed_ms.max(applied_ms)
    }

    /// The oldest proposal becomes an entry. Its sender gets the reply of apply.
    pub(super) fn commit_next(&mut self) -> Kept {
        let Some((from, command)) = self.consensus.queue.pop_front() else { return Ok(()) };
        let reply = self.apply_to_model(&command)?;
        self.consensus.log.push(command);
        if from != Sender::Nobody {
            self.send(Mail::Answer { to: from, reply });
        }
        Ok(())
    }

    /// One replica applies some of its missing entries. Its digest must equal the others' (C3).
    pub(super) fn apply_some(&mut self, machine: usize) -> Kept {
        for _ in 0..self.chance.range(1..6) {
            if !self.apply_one(machine)? {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn apply_one(&mut self, machine: usize) -> Result<bool, super::Broken> {
        let place = &mut self.machines[machine];
        let replica = &mut place.replica;
        if !place.up {
            return Ok(false);
        }
        let Some(command) = self.consensus.log.get(replica.applied as usize) else {
            return Ok(false);
        };
        replica.applied += 1;
        replica.catalogue.apply(replica.applied, command);
        let index = replica.applied;
        if self.model.digest_at(index) != replica.catalogue.digest() {
            return Err(broken("C3", format!("machine {machine} differs at entry {index}")));
        }
        self.count("checked.digests");
        Ok(true)
    }

    /// A replica writes its snapshot and reads it back.
    pub(super) fn take_snapshot(&mut self, machine: usize) -> Kept {
        let replica = &mut self.machines[machine].replica;
        let copy = reload(&replica.catalogue)
            .map_err(|text| broken("C3", format!("a snapshot of machine {machine}: {text}")))?;
        if copy.digest() != replica.catalogue.digest() {
            return Err(broken(
                "C3",
                format!("a snapshot of machine {machine} differs when read back"),
            ));
        }
        replica.snapshot = (replica.applied, copy);
        self.count("snapshots.taken");
        Ok(())
    }

    /// A replica that is behind gets another one's snapshot instead of the log.
    pub(super) fn install_snapshot(&mut self, machine: usize) {
        let newest = self.machines.iter().map(|other| &other.replica.snapshot);
        let Some(newest) = newest.max_by_key(|snapshot| snapshot.0).cloned() else { return };
        let place = &mut self.machines[machine];
        if place.up && place.replica.applied < newest.0 {
            (place.replica.applied, place.replica.catalogue) = newest.clone();
            place.replica.snapshot = newest;
            self.count("snapshots.installed");
        }
    }

    /// The state after a crash: the last snapshot. The log is replayed from there.
    pub(super) fn rewind(&mut self, machine: usize) {
        let replica = &mut self.machines[machine].replica;
        (replica.applied, replica.catalogue) = replica.snapshot.clone();
        replica.heard.clear();
        self.count("replicas.rewound");
    }

    /// Another node becomes leader, with a part of the former leader's queue.
    pub(super) fn elect(&mut self, machine: usize) {
        let kept = self.chance.below(self.consensus.queue.len() as u64 + 1) as usize;
        let lost = self.consensus.queue.split_off(kept);
        for _ in 0..lost.len() {
            self.count("proposals.lost");
        }
        // The senders of the kept proposals get no answer.
        for (from, _) in &mut self.consensus.queue {
            *from = Sender::Nobody;
        }
        let base_ms = self.machines[machine].replica.catalogue.cluster().clock_ms;
        let since_ms = self.now_ms;
        self.consensus.leader = Some(Leader {
            machine,
            life: self.machines[machine].life,
            greeted: false,
            since_ms,
            base_ms,
            leading_since_ms: since_ms,
            cursor: Cursor::default(),
            loads: Loads::default(),
        });
        self.count("leaders");
        self.note(|| format!("machine {machine} leads; {} proposals lost", lost.len()));
    }

    pub(super) fn leader_machine(&self) -> Option<usize> {
        let leader = self.consensus.leader.as_ref()?;
        let machine = &self.machines[leader.machine];
        (machine.up && machine.life == leader.life).then_some(leader.machine)
    }

    pub(super) fn hear(&mut self, node: NodeId, incarnation: Incarnation) {
        let now_ms = self.now_ms;
        if let Some(leader) = self.leader_machine() {
            self.machines[leader].replica.heard.insert(node, (incarnation, now_ms));
        }
    }

    /// A round of the leader's steward. Without a leader, perhaps an election.
    pub(super) fn lead(&mut self) {
        let machine = self.any_machine();
        if self.leader_machine().is_some() {
            self.steward();
        } else if self.machines[machine].up && self.chance.chance(0.5) {
            self.elect(machine);
        }
    }

    /// One round of the leader's steward.
    pub(super) fn steward(&mut self) {
        let Some(machine) = self.leader_machine() else { return };
        let now_ms = self.now_ms;
        let clock_ms = self.leader_clock_ms();
        let waits = self.consensus.queue.iter().any(|(from, _)| *from == Sender::Nobody);
        let hasty = self.chance.chance(0.1);
        let Some(leader) = &mut self.consensus.leader else { return };
        if !leader.greeted {
            leader.greeted = true;
            return self.enqueue(
                Sender::Nobody,
                RequestId(0),
                Body::LeaderStarted(command::LeaderStarted),
            );
        }
        if waits && !hasty {
            return;
        }
        let replica = &self.machines[machine].replica;
        let beat = |(node, (incarnation, at_ms)): (&NodeId, &(Incarnation, u64))| {
            (*node, Heartbeat { incarnation: *incarnation, age_ms: now_ms - at_ms })
        };
        // Now and then a client waits for the newest commits.
        let commits = replica.catalogue.checkpoints().rev();
        let hastened = commits.take(if hasty { 2 } else { 0 }).map(|record| record.id).collect();
        let seen = Observations {
            now_ms: clock_ms,
            wall_ms: now_ms,
            leading_ms: now_ms - leader.leading_since_ms,
            heartbeats: replica.heard.iter().map(beat).collect(),
            members: Default::default(),
            hastened,
        };
        let cursor = &mut leader.cursor;
        let plan = steward::plan(&replica.catalogue, &seen, &mut Loads::default(), cursor);
        for body in plan {
            self.note(|| format!("steward: {body:?}"));
            self.enqueue(Sender::Nobody, RequestId(0), body);
        }
    }

    /// The cookie of a new data directory.
    pub(super) fn new_cookie(&mut self) -> Cookie {
        Cookie(u128::from(self.mint()) + 1_000)
    }
}
