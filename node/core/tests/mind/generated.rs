//! Generated commands on a small universe, where everything collides with everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::catalogue::{Catalogue, Checkpoint, LoadError, Loader};
use cairn_core::invariants;
use cairn_types::command::{
    self, Accept, Body, Command, DeclineReason, DeleteReason, NewDuty, Reply, StageSegment,
};
use cairn_types::form::Form;
use cairn_types::ids::{
    Attempt, CheckpointId, ClusterId, Cookie, Epoch, Incarnation, Namespace, NodeId, RequestId,
    Run, SegmentDigest, SegmentId, Step,
};
use cairn_types::limits::{BATCH_SEGMENTS_MAX, OPEN_PARTS_OF_BEGIN};
use cairn_types::marks::NamedRef;
use cairn_types::model::{
    CheckpointState, Isolation, Liveness, ManifestPlace, Metric, PolicyChange, Segment, Settings,
    Slot, SlotState,
};
use cairn_types::policy::PolicyField;
use cairn_types::set_digest;

use crate::chance::Chance;
use crate::marks;
use crate::watching::check_events;
use crate::world::{assert_refused_without_effect, new_node, registration};

const DIGESTS: u64 = 40;
const NODES: u64 = 7;
const RACKS: [&str; 3] = ["a", "b", "c"];

/// Makes commands that are mostly meaningful in the catalogue they are made for.
pub struct Generator {
    chance: Chance,
    clock_ms: u64,
    wall_ms: u64,
    requests: u128,
    nonces: u128,
    sent: Vec<Command>,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        let chance = Chance::new(seed);
        Self { chance, clock_ms: 0, wall_ms: 0, requests: 0, nonces: 0, sent: Vec::new() }
    }

    pub fn next(&mut self, catalogue: &Catalogue) -> Command {
        if self.chance.once_in(12)
            && let Some(old) = self.chance.pick(&self.sent)
        {
            return old.clone();
        }
        self.clock_ms = match self.chance.below(200) {
            0 => self.clock_ms.saturating_sub(30_000),
            1 => self.clock_ms + 70_000,
            2 if self.chance.once_in(200) => u64::MAX,
            _ => self.clock_ms.min(catalogue.cluster().clock_ms + 60_000) + self.chance.below(300),
        };
        if self.clock_ms == u64::MAX {
            self.clock_ms = catalogue.cluster().clock_ms + 100_000;
        }
        self.wall_ms += self.chance.below(50);
        self.requests += 1;
        let request = if self.chance.once_in(3) { 0 } else { self.requests };
        let body = self.body(catalogue);
        let mut wall_ms = self.wall_ms - self.chance.below(30).min(self.wall_ms);
        if self.chance.once_in(50) {
            // A leader whose clock is wrong.
            wall_ms += self.chance.below(10_000);
        }
        let command = Command::new(RequestId(request), self.clock_ms, wall_ms, body);
        if self.sent.len() < 64 {
            self.sent.push(command.clone());
        } else {
            let at = self.chance.below(64) as usize;
            self.sent[at] = command.clone();
        }
        command
    }

    fn body(&mut self, catalogue: &Catalogue) -> Body {
        match self.chance.below(100) {
            0..4 => self.cluster_body(catalogue),
            4..8 => {
                let changes = (0..self.chance.below(3)).map(|_| self.liveness(catalogue)).collect();
                Body::SetLiveness(command::SetLiveness { changes })
            }
            8..19 => self.begin(),
            19..42 => self.stage(catalogue),
            42..62 => self.report(catalogue),
            62..72 => self.seal(catalogue),
            72..74 => self.end_open(catalogue),
            74..78 => self.upkeep(catalogue),
            78..82 => {
                let checkpoint = self.checkpoint(catalogue);
                let record = catalogue.checkpoint(checkpoint);
                let version = record.map(|it| catalogue.retention_version(&it.namespace));
                let policy_version = version.filter(|_| !self.chance.once_in(4));
                let is_retention = self.chance.once_in(2);
                let asked = DeleteReason::Asked;
                Body::Delete(command::Delete {
                    checkpoint,
                    reason: if is_retention { DeleteReason::Retention } else { asked },
                    now: self.chance.once_in(2),
                    force: self.chance.once_in(2),
                    policy_version: policy_version.filter(|_| is_retention),
                    by: String::new(),
                })
            }
            82 => {
                let deleted = catalogue.checkpoints().filter(|it| it.deleted_at_ms.is_some());
                let deleted: Vec<CheckpointId> = deleted.map(|record| record.id).collect();
                let any = self.checkpoint(catalogue);
                let checkpoint = self.chance.pick(&deleted).copied().unwrap_or(any);
                Body::Undelete(command::Undelete { checkpoint, by: "somebody".to_owned() })
            }
            83..87 => {
                let clock_ms = catalogue.cluster().clock_ms;
                let trash_ms = catalogue.trash_ms();
                let droppable = catalogue
                    .checkpoints()
                    .filter(|record| record.has_droppable(clock_ms, trash_ms));
                let droppable: Vec<CheckpointId> = droppable.map(|record| record.id).collect();
                let any = self.checkpoint(catalogue);
                Body::DropReferences(command::DropReferences {
                    checkpoint: self.chance.pick(&droppable).copied().unwrap_or(any),
                })
            }
            87..91 => {
                let due = catalogue.unreferenced().map(|(_, id)| id);
                let mut segments: Vec<SegmentId> = due.take(3).collect();
                segments.extend((0..self.chance.below(2)).map(|_| self.segment(catalogue)));
                Body::Reap(command::Reap { segments })
            }
            91..96 => Body::AssignSlots(command::AssignSlots { slots: self.slots(catalogue) }),
            _ => Body::ReleaseSlots(command::ReleaseSlots { slots: self.slots(catalogue) }),
        }
    }

    /// Of any checkpoint, with more labels now and then than it may have.
    fn annotation(&mut self, catalogue: &Catalogue) -> Body {
        let ids: Vec<CheckpointId> = catalogue.checkpoints().map(|record| record.id).collect();
        let checkpoint = self.chance.pick(&ids).copied().unwrap_or(CheckpointId(9));
        let name = |number: u64| format!("name{number}");
        let count = if self.chance.once_in(20) { 40 } else { self.chance.below(3) };
        let labels = (0..count).map(|number| (name(number), name(count)));
        let value = Metric::new(self.chance.below(9) as f64);
        let metrics = value.map(|value| (name(self.chance.below(3)), value));
        Body::Annotate(command::Annotate {
            checkpoint,
            labels: labels.collect(),
            metrics: metrics.into_iter().collect(),
            remove: vec![name(self.chance.below(4))],
        })
    }

    fn cluster_body(&mut self, catalogue: &Catalogue) -> Body {
        let number = self.chance.below(NODES) + 1;
        let rack = RACKS[(number % 3) as usize];
        match self.chance.below(24) {
            0 => Body::InitCluster(command::InitCluster {
                cluster: ClusterId(5),
                settings: Settings {
                    lease_ms: 4_000,
                    grace_ms: 3_000,
                    down_after_ms: 1_000,
                    replace_after_ms: 1_000,
                },
                node: new_node(1, "b"),
            }),
            1 => Body::AllocateNode(new_node(number, "bad label")),
            2..8 => Body::AllocateNode(new_node(number, rack)),
            8 if self.chance.once_in(20) => {
                let accept = Accept {
                    data_loss: self.chance.once_in(4),
                    fewer_hosts: self.chance.once_in(2),
                };
                Body::RemoveNode(command::RemoveNode { node: NodeId(number), accept })
            }
            18 => {
                let duty = match self.chance.below(4) {
                    0 => NewDuty::Drain,
                    1 => NewDuty::Maintain { for_ms: 1 + self.chance.below(9_000) },
                    _ => NewDuty::Serve,
                };
                Body::SetDuty(command::SetDuty { node: NodeId(number), duty })
            }
            11 | 12 => {
                let namespace = self.namespace();
                let indexes = catalogue.commits(&namespace).filter_map(|record| record.commit);
                let mut indexes: Vec<u64> = indexes.map(|commit| commit.index).collect();
                indexes.push(0);
                let after = self.chance.pick(&indexes).copied().unwrap_or(0);
                let back_ms = self.chance.below(200);
                let to_ms = self.wall_ms.saturating_sub(back_ms);
                Body::RepairTime(command::RepairTime { namespace, to_ms, after })
            }
            13 => self.annotation(catalogue),
            15..18 => marks::drawn(&mut self.chance, catalogue),
            14 => Body::VoidSlots(command::VoidSlots { node: NodeId(number) }),
            10 if self.chance.once_in(4) => {
                Body::ForgetNodes(command::ForgetNodes { nodes: vec![NodeId(number)] })
            }
            9 => {
                let namespace = self.namespace();
                self.policy(catalogue, namespace)
            }
            _ => {
                self.nonces += 1;
                // Nodes were not allocated in the order of their hosts' numbers.
                let cookie = Cookie(u128::from(number));
                let known = catalogue
                    .node_by_cookie(cookie)
                    .map_or((number, 0), |node| (node.id.0, node.nonce.0));
                let previous = if self.chance.once_in(9) { 3 } else { known.1 };
                let mut body = registration(number, rack, &[previous], self.nonces);
                if let Body::Register(command::Register { node, .. }) = &mut body {
                    *node = NodeId(known.0);
                }
                body
            }
        }
    }

    fn upkeep(&mut self, catalogue: &Catalogue) -> Body {
        match self.chance.below(3) {
            0 => Body::LeaderStarted(command::LeaderStarted),
            1 => {
                let id = self.checkpoint(catalogue);
                let attempt = catalogue.checkpoint(id).map_or(Attempt(1), |c| c.attempt);
                Body::Renew(command::Renew { uploads: vec![(id, attempt)] })
            }
            _ => Body::ExpireUploads(command::ExpireUploads {
                checkpoints: vec![self.checkpoint(catalogue), self.checkpoint(catalogue)],
            }),
        }
    }

    fn namespace(&mut self) -> Namespace {
        if self.chance.once_in(3) { "b/c".parse().unwrap() } else { "a".parse().unwrap() }
    }

    fn change(&mut self) -> PolicyChange {
        let mut maybe = |end: u64| self.chance.once_in(3).then(|| self.chance.below(end) as u32);
        let (replicas, write_quorum, min_racks) = (maybe(5), maybe(4), maybe(4));
        let keep_last = maybe(4);
        let isolation = match self.chance.below(4) {
            0 => Some(Isolation::Soft),
            1 => Some(Isolation::Hard),
            _ => None,
        };
        PolicyChange { replicas, write_quorum, min_racks, isolation, keep_last }
    }

    /// A change of a policy, also of a namespace above; now and then a confirmation.
    fn policy(&mut self, catalogue: &Catalogue, namespace: Namespace) -> Body {
        if self.chance.once_in(4) {
            let version = catalogue.policy_version(&namespace);
            let policy_version = version.saturating_sub(u64::from(self.chance.once_in(4)));
            let checkpoints = self.chance.below(3);
            let confirm = command::ConfirmRetention { namespace, policy_version, checkpoints };
            return Body::ConfirmRetention(confirm);
        }
        let namespace = if self.chance.once_in(4) { "b".parse().unwrap() } else { namespace };
        let mut set = command::SetPolicy::new(namespace, self.change());
        if self.chance.once_in(2) {
            set.retention.daily = Some(self.chance.below(3) as u32);
            set.retention.time_zone = self.chance.once_in(3).then(|| "Bad Zone".to_owned());
        }
        if self.chance.once_in(3) {
            let field = self.chance.pick(PolicyField::ALL).copied();
            set.unset.extend(field);
        }
        Body::SetPolicy(set)
    }

    fn begin(&mut self) -> Body {
        let change = if self.chance.once_in(3) { self.change() } else { PolicyChange::default() };
        let mut labels = BTreeMap::new();
        if self.chance.once_in(5) {
            labels.insert("key".repeat(self.chance.below(90) as usize), "value".to_owned());
        }
        let given = Attempt(self.chance.below(4) + self.requests as u64 / 400);
        let step = self.chance.below(4);
        // Uploads of one step mostly are open-ended.
        let parts = if step == 3 { self.chance.below(20) / 18 } else { self.chance.below(20) };
        Body::Begin(command::Begin {
            namespace: self.namespace(),
            step: Step(step),
            parts: parts.min(2) as u32,
            attempt: (!self.chance.once_in(20)).then_some(given),
            change,
            replace: self.chance.once_in(3),
            labels,
            client: "host".repeat(self.chance.below(70) as usize),
            job: ["", "", "one", "two"][self.chance.below(4) as usize].to_owned(),
        })
    }

    /// Mostly one that is there, open ones above all.
    fn checkpoint(&mut self, catalogue: &Catalogue) -> CheckpointId {
        let open: Vec<CheckpointId> = catalogue.open_uploads().map(|record| record.id).collect();
        let all: Vec<CheckpointId> = catalogue.checkpoints().map(|record| record.id).collect();
        let from = if self.chance.once_in(3) { all } else { open };
        self.chance.pick(&from).copied().unwrap_or(CheckpointId(self.chance.below(50)))
    }

    /// An upload's id, attempt and part, mostly right.
    fn upload(&mut self, catalogue: &Catalogue) -> (CheckpointId, Attempt, u32) {
        let id = self.checkpoint(catalogue);
        let record = catalogue.checkpoint(id);
        let attempt = record.map_or(1, |record| record.attempt.0);
        let attempt = match self.chance.below(20) {
            0 => attempt.saturating_sub(1),
            1 => attempt + 1,
            _ => attempt,
        };
        let upload = record.filter(|record| record.open_ended).and_then(|it| it.open.as_ref());
        if let Some(upload) = upload {
            let begins = u64::from(upload.begins) + u64::from(self.chance.once_in(20));
            let of_begin = self.chance.below(begins) as u32 * OPEN_PARTS_OF_BEGIN;
            return (id, Attempt(attempt), of_begin + self.chance.below(3) as u32);
        }
        let parts = record.map_or(1, |record| record.parts_wanted.max(1));
        let extra = u32::from(self.chance.once_in(20));
        (id, Attempt(attempt), self.chance.below(u64::from(parts + extra)) as u32)
    }

    fn digest(&mut self) -> (SegmentDigest, u32) {
        let number = self.chance.below(DIGESTS);
        (SegmentDigest::of(&number.to_le_bytes()), 100 + number as u32)
    }

    fn stage(&mut self, catalogue: &Catalogue) -> Body {
        let (checkpoint, attempt, part) = self.upload(catalogue);
        let count = match self.chance.below(300) {
            0 => BATCH_SEGMENTS_MAX as u64 + 1,
            _ => self.chance.below(5),
        };
        let segments = (0..count).map(|_| self.stage_segment(catalogue)).collect();
        Body::Stage(command::Stage { checkpoint, attempt, part, run: self.run(), segments })
    }

    fn run(&mut self) -> Run {
        Run(if self.chance.once_in(8) { 2 } else { 1 })
    }

    fn stage_segment(&mut self, catalogue: &Catalogue) -> StageSegment {
        let (digest, mut len) = self.digest();
        if self.chance.once_in(60) {
            len = [0, 7, u32::MAX][self.chance.below(3) as usize];
        }
        let live = catalogue.segment_by_digest(&digest);
        let mut targets = Vec::new();
        for node in catalogue.nodes().filter(|node| node.takes_slots()) {
            let has = live.is_some_and(|segment| segment.live_slot_on(node.id).is_some());
            if targets.len() < 3 && !has && !self.chance.once_in(3) {
                targets.push(node.id);
            }
        }
        if self.chance.once_in(30) {
            targets.push(NodeId(self.chance.below(NODES + 2)));
        }
        StageSegment { digest, form: Form::raw(len), targets }
    }

    fn seal(&mut self, catalogue: &Catalogue) -> Body {
        let (checkpoint, attempt, part) = self.upload(catalogue);
        let record = catalogue.checkpoint(checkpoint);
        let upload = record.and_then(|record| record.open.as_ref());
        let open = upload.and_then(|upload| upload.parts.get(&part));
        let staged = open.map(|part| part.staged.clone()).unwrap_or_default();
        let run = open.map_or_else(|| self.run(), |part| part.part.run);
        let segments = staged.iter().filter_map(|id| catalogue.segment(id));
        let set: Vec<(SegmentDigest, u32)> =
            segments.map(|s| (s.digest, s.form.raw_len())).collect();
        let manifest = match self.chance.below(8) {
            0 => ManifestPlace::Segments(vec![self.digest().0]),
            1 => ManifestPlace::Segments(set.iter().take(2).map(|(digest, _)| *digest).collect()),
            2 => ManifestPlace::Inline(vec![0; 5000].into()),
            _ => ManifestPlace::Inline(Bytes::from_static(b"manifest")),
        };
        let mut set_digest = set_digest(set);
        if self.chance.once_in(20) {
            set_digest[0] ^= 1;
        }
        let bytes = if self.chance.once_in(9) { u64::MAX } else { 10 };
        let run = if self.chance.once_in(20) { self.run() } else { run };
        let stale = u32::from(self.chance.once_in(20));
        let compared = catalogue.parts_version(checkpoint) + stale;
        let files = 1;
        let voids = self.voids(catalogue, checkpoint, part);
        Body::SealPart(command::SealPart {
            checkpoint,
            attempt,
            part,
            run,
            manifest,
            set_digest,
            bytes,
            files,
            compared,
            voids,
        })
    }

    /// Sealed parts that a part takes the place of; now and then one that it may not name.
    fn voids(&mut self, catalogue: &Catalogue, id: CheckpointId, part: u32) -> Vec<u32> {
        let record = catalogue.checkpoint(id).filter(|record| record.open_ended);
        let mut voids = record.map_or(Vec::new(), |record| record.sealed_parts());
        voids.retain(|number| *number != part && self.chance.once_in(2));
        if self.chance.once_in(60) {
            voids.push(part);
        }
        voids
    }

    fn end_open(&mut self, catalogue: &Catalogue) -> Body {
        let (checkpoint, attempt, part) = self.upload(catalogue);
        match self.chance.once_in(3) {
            true => Body::Close(command::Close { checkpoint, attempt }),
            false => Body::DropPart(command::DropPart { checkpoint, attempt, part }),
        }
    }

    fn segment(&mut self, catalogue: &Catalogue) -> SegmentId {
        let digest = self.digest().0;
        let known = catalogue.segment_by_digest(&digest).map(|segment| segment.id);
        known.unwrap_or(SegmentId(self.chance.below(100)))
    }

    fn slots(&mut self, catalogue: &Catalogue) -> Vec<(SegmentId, NodeId)> {
        let count = self.chance.below(4);
        let mut slot = || (self.segment(catalogue), NodeId(self.chance.below(NODES + 1) + 1));
        (0..count).map(|_| slot()).collect()
    }

    fn liveness(&mut self, catalogue: &Catalogue) -> (NodeId, Incarnation, Liveness) {
        let (node, incarnation) = self.reporter(catalogue);
        let down = self.chance.once_in(4);
        (node, incarnation, if down { Liveness::Down } else { Liveness::Up })
    }

    fn reporter(&mut self, catalogue: &Catalogue) -> (NodeId, Incarnation) {
        let node = NodeId(self.chance.below(NODES + 1) + 1);
        let current = catalogue.node(node).map_or(0, |node| node.incarnation.0);
        let late = u64::from(self.chance.once_in(20));
        (node, Incarnation(current.saturating_sub(late)))
    }

    fn report(&mut self, catalogue: &Catalogue) -> Body {
        let (node, incarnation) = self.reporter(catalogue);
        let what = self.chance.below(12);
        let wanted = match what {
            0 => SlotState::Durable,
            1..4 => SlotState::Released,
            _ => SlotState::Assigned,
        };
        let slots = catalogue.segments().iter().flat_map(|segment| {
            let here = segment.slots.iter().filter(|slot| slot.node == node);
            here.filter(|slot| slot.state == wanted).map(|slot| (segment.id, slot.epoch))
        });
        let mut replicas: Vec<(SegmentId, Epoch)> = slots.collect();
        replicas.retain(|_| !self.chance.once_in(4));
        if self.chance.once_in(10) {
            replicas.push((self.segment(catalogue), Epoch(self.chance.below(1000))));
        }
        match what {
            0 => Body::Lost(command::Lost { node, incarnation, replicas }),
            1..4 => Body::Removed(command::Removed { node, incarnation, replicas }),
            4..6 => {
                let missing = if self.chance.once_in(3) { replicas } else { Vec::new() };
                Body::Inventory(command::Inventory {
                    node,
                    incarnation,
                    missing,
                    last: !self.chance.once_in(4),
                })
            }
            6 => {
                let reason = DeclineReason::Full;
                Body::Declined(command::Declined { node, incarnation, reason, replicas })
            }
            _ => Body::Durable(command::Durable { node, incarnation, replicas }),
        }
    }
}

/// How often each kind of reply was given: a run that never commits shows nothing.
#[derive(Debug, Default)]
struct Seen {
    committed: u64,
    lacking: u64,
    staged: u64,
    reaped: u64,
    released: u64,
    refused: u64,
    voided: u64,
    dropped: u64,
    closed: u64,
}

impl Seen {
    fn count(&mut self, command: &Command, reply: &Reply) {
        let accepted = matches!(reply, Reply::Reported { accepted: 1.., .. });
        match (&command.body, reply) {
            (Body::Close(_), Reply::Committed { .. }) => self.closed += 1,
            (Body::DropPart(_), Reply::Done) => self.dropped += 1,
            (Body::SealPart(seal), Reply::Sealed { .. }) if !seal.voids.is_empty() => {
                self.voided += 1;
            }
            (_, Reply::Committed { .. }) => self.committed += 1,
            (_, Reply::Lacking { .. }) => self.lacking += 1,
            (_, Reply::Staged { .. }) => self.staged += 1,
            (_, Reply::Refused(_)) => self.refused += 1,
            (Body::Reap(_), _) if accepted => self.reaped += 1,
            (Body::ReleaseSlots(_), _) if accepted => self.released += 1,
            _ => {}
        }
    }

    fn assert_everything_happened(&self) {
        let all = [self.committed, self.lacking, self.staged, self.reaped, self.released];
        let of_open_ended = [self.voided, self.dropped, self.closed];
        assert!(of_open_ended.iter().all(|count| *count > 5), "{self:?}");
        assert!(all.iter().all(|count| *count > 20), "{self:?}");
    }
}

/// What `entries` generated entries make, and the index of the last.
pub fn catalogue(seed: u64, entries: u64) -> (Catalogue, u64) {
    let mut generator = Generator::new(seed);
    let mut catalogue = Catalogue::default();
    for index in 1..=entries {
        let command = generator.next(&catalogue);
        catalogue.apply(index, &command);
    }
    (catalogue, entries)
}

/// Reads a catalogue back record by record, as a snapshot's reader does.
fn reload(catalogue: &Catalogue) -> Catalogue {
    reload_changed(catalogue, |_| {}, |_| {}).unwrap()
}

/// As `reload`, with records that were changed on the way.
fn reload_changed(
    catalogue: &Catalogue,
    mut change_segment: impl FnMut(&mut Segment),
    mut change_checkpoint: impl FnMut(&mut Checkpoint),
) -> Result<Catalogue, LoadError> {
    let mut loader = Loader::new(catalogue.cluster().clone())?;
    for node in catalogue.nodes() {
        loader.node(node.clone())?;
    }
    for (name, record) in catalogue.namespaces() {
        loader.namespace(name.clone(), record.clone())?;
    }
    for mut segment in catalogue.segments().iter().cloned() {
        change_segment(&mut segment);
        loader.segment(segment)?;
    }
    for mut checkpoint in catalogue.checkpoints().map(|record| record.as_ref().clone()) {
        change_checkpoint(&mut checkpoint);
        loader.checkpoint(checkpoint)?;
    }
    for namespace in catalogue.namespaces().map(|(name, _)| name) {
        for (name, target) in catalogue.refs(namespace) {
            let named = NamedRef { name: name.clone(), target: target.clone() };
            loader.named_ref(namespace.clone(), named)?;
        }
    }
    for (checkpoint, hold) in catalogue.holds_after(None) {
        loader.hold(checkpoint, hold.clone())?;
    }
    for (request, reply) in catalogue.replies() {
        loader.reply(request, reply)?;
    }
    loader.finish()
}

#[test]
fn records_that_do_not_fit_together_are_not_loaded() {
    let (made, _) = catalogue(3, 2_000);
    let segment_changes: [fn(&mut Segment); 6] = [
        |segment| segment.form = Form::raw(0),
        |segment| segment.id = SegmentId(u64::MAX),
        |segment| segment.references.edit(|references| references.push((7, 1))),
        |segment| segment.references.edit(Vec::clear),
        |segment| segment.slots.edit(|slots| slots.reverse()),
        |segment| {
            let alien = |slot: &mut Slot| slot.node = NodeId(999);
            segment.slots.edit(|slots| slots.iter_mut().for_each(alien));
        },
    ];
    for (at, change) in segment_changes.into_iter().enumerate() {
        assert!(reload_changed(&made, change, |_| {}).is_err(), "segment change {at}");
    }
    let checkpoint_changes: [fn(&mut Checkpoint); 5] = [
        |record| record.policy.replicas = 0,
        |record| record.state = CheckpointState::Open,
        |record| record.parts = Default::default(),
        |record| record.loose.extend([SegmentId(1 << 40)]),
        |record| record.id = CheckpointId(0),
    ];
    for (at, change) in checkpoint_changes.into_iter().enumerate() {
        assert!(reload_changed(&made, |_| {}, change).is_err(), "checkpoint change {at}");
    }
}

#[test]
fn every_entry_keeps_every_invariant() {
    let mut generator = Generator::new(1);
    let mut catalogue = Catalogue::default();
    let mut seen = Seen::default();
    for index in 1..=20_000 {
        let command = generator.next(&catalogue);
        let before = catalogue.clone();
        let reply = catalogue.apply(index, &command);
        seen.count(&command, &reply);
        check_events(&before, &catalogue.clone(), index, &catalogue.take_events(index));
        let checked = invariants::check(&catalogue)
            .and_then(|()| invariants::check_hosts(&catalogue))
            .and_then(|()| invariants::check_step(&before, &catalogue));
        assert_eq!(checked, Ok(()), "entry {index}: {command:?} -> {reply:?}");
        // Two digests cost more than all the rest: a sample will do.
        if reply.refusal().is_some() && index % 8 == 0 {
            assert_refused_without_effect(&before, &catalogue, &command);
        }
    }
    seen.assert_everything_happened();
}

#[test]
fn a_hundred_thousand_entries_never_panic() {
    for seed in 100..105 {
        let mut generator = Generator::new(seed);
        let mut catalogue = Catalogue::default();
        let mut seen = Seen::default();
        for index in 1..=20_000 {
            let command = generator.next(&catalogue);
            let reply = catalogue.apply(index, &command);
            seen.count(&command, &reply);
            if index % 200 == 0 {
                assert_eq!(invariants::check(&catalogue), Ok(()), "seed {seed} entry {index}");
            }
        }
        seen.assert_everything_happened();
    }
}

#[test]
fn snapshot_and_log_from_any_prefix_give_the_same_catalogue() {
    const ENTRIES: u64 = 3_000;
    let mut generator = Generator::new(7);
    let mut straight = Catalogue::default();
    let mut log = Vec::new();
    // (taken at this index, what became of it, what it was then)
    let mut restored: Vec<(u64, Catalogue)> = Vec::new();
    let mut shared: Vec<(Catalogue, [u8; 32])> = Vec::new();
    for index in 1..=ENTRIES {
        let command = generator.next(&straight);
        let reply = straight.apply(index, &command);
        let events = straight.take_events(index);
        let audited = straight.take_audited();
        for (_, catalogue) in &mut restored {
            assert_eq!(catalogue.apply(index, &command), reply);
            assert_eq!(catalogue.take_audited(), audited, "the chain goes on from a snapshot");
            assert_eq!(catalogue.take_events(index), events);
        }
        log.push(command);
        if index % 150 == 0 {
            shared.push((straight.clone(), straight.digest()));
            restored.push((index, reload(&straight)));
            for (from, catalogue) in &restored {
                assert_eq!(catalogue.digest(), straight.digest(), "from {from} at {index}");
            }
        }
    }
    for (catalogue, digest) in shared {
        assert_eq!(catalogue.digest(), digest, "a clone changed with its original");
    }
    let mut again = Catalogue::default();
    for (index, command) in (1..).zip(&log) {
        again.apply(index, command);
    }
    assert_eq!(again.digest(), straight.digest());
}

#[test]
fn one_request_has_one_effect_however_often_it_is_sent() {
    let mut generator = Generator::new(21);
    let mut once = Catalogue::default();
    let mut often = Catalogue::default();
    for index in 1..=10_000 {
        let mut command = generator.next(&once);
        if matches!(command.body, Body::Stage(_) | Body::Lost(_) | Body::Inventory(_)) {
            // Their retries are judged anew.
            command.request = RequestId(0);
        }
        let reply = once.apply(index, &command);
        assert_eq!(often.apply(index, &command), reply);
        if command.request != RequestId(0) && often.remembered_reply(command.request).is_some() {
            for _ in 0..2 {
                assert_eq!(often.apply(index, &command), reply, "{command:?}");
            }
            // A repeated entry moves the clock again where the first was held back.
            assert_eq!(once.apply(index, &command), reply);
            assert_eq!(once.apply(index, &command), reply);
        }
        if index % 20 == 0 {
            assert_eq!(once.digest(), often.digest(), "by entry {index}");
        }
    }
}
