//! A small cluster to tell stories in. Every entry is followed by a check of all invariants.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::catalogue::Catalogue;
use cairn_core::invariants;
use cairn_types::command::{
    self, Begun, Body, Command, DeleteReason, FEATURE_LEVEL, Refusal, Reply, Sender, StageSegment,
    StagedSegment,
};
use cairn_types::form::Form;
use cairn_types::ids::{
    Attempt, CheckpointId, ClusterId, Cookie, Epoch, Incarnation, Namespace, NodeId, Nonce,
    RequestId, Run, SegmentDigest, SegmentId, Step,
};
use cairn_types::limits::CLOCK_STEP_MS_MAX;
use cairn_types::model::{
    Liveness, ManifestPlace, NewNode, PolicyChange, Segment, Settings, SlotState,
};
use cairn_types::rights::Subject;
use cairn_types::set_digest;

pub const RUN: Run = Run(1);
pub const LEN: u32 = 1000;

pub struct World {
    pub catalogue: Catalogue,
    pub index: u64,
    pub clock_ms: u64,
    pub wall_ms: u64,
    /// Nodes come back on other hosts: two replicas may meet on one.
    pub nodes_move: bool,
    /// On whose behalf commands are.
    pub subject: Subject,
}

/// The digest of a segment called `name`.
pub fn digest(name: &str) -> SegmentDigest {
    SegmentDigest::of(name.as_bytes())
}

pub fn namespace() -> Namespace {
    "run1".parse().unwrap()
}

pub fn node(number: u64) -> NodeId {
    NodeId(number)
}

pub fn new_node(number: u64, rack: &str) -> NewNode {
    NewNode {
        cookie: Cookie(u128::from(number)),
        host: format!("host{number}"),
        rack: rack.into(),
        address: format!("host{number}:7000"),
        capacity_bytes: 1 << 40,
        feature_level: FEATURE_LEVEL,
        replaces: None,
        key: None,
    }
}

/// The `Register` of process `nonce` of a node that came with `new_node(number, rack)`.
pub fn registration(number: u64, rack: &str, previous: &[u128], nonce: u128) -> Body {
    let NewNode { cookie, host, rack, address, capacity_bytes, feature_level, .. } =
        new_node(number, rack);
    Body::Register(command::Register {
        node: node(number),
        cookie,
        previous: previous.iter().copied().map(Nonce).collect(),
        nonce: Nonce(nonce),
        host,
        rack,
        address,
        capacity_bytes,
        feature_level,
        key: None,
    })
}

impl World {
    /// One registered, inventoried node for each rack named.
    pub fn new(racks: &[&str]) -> Self {
        Self::of_level(FEATURE_LEVEL, racks)
    }

    /// A cluster that a build of this feature level made.
    pub fn of_level(feature_level: u32, racks: &[&str]) -> Self {
        let mut world = Self {
            catalogue: Catalogue::default(),
            index: 0,
            clock_ms: 1_000,
            wall_ms: 50_000,
            nodes_move: false,
            subject: Subject::None,
        };
        world.done(Body::InitCluster(command::InitCluster {
            cluster: ClusterId(77),
            settings: Settings::default(),
            node: NewNode { feature_level, ..new_node(1, racks[0]) },
        }));
        for (number, rack) in (1..).zip(racks) {
            if number > 1 {
                world.done(Body::AllocateNode(new_node(number, rack)));
            }
            world.restart(number, rack, &[], 100 * u128::from(number));
        }
        world
    }

    /// A new process registers and finds all its files.
    pub fn restart(&mut self, number: u64, rack: &str, previous: &[u128], nonce: u128) {
        self.done(registration(number, rack, previous, nonce));
        let incarnation = self.incarnation(number);
        let missing = Vec::new();
        self.done(Body::Inventory(command::Inventory {
            node: node(number),
            incarnation,
            missing,
            last: true,
        }));
    }

    /// Cluster time goes on, in steps that apply allows.
    pub fn pass_ms(&mut self, ms: u64) {
        let end = self.clock_ms + ms;
        while self.clock_ms < end {
            self.clock_ms = end.min(self.clock_ms + CLOCK_STEP_MS_MAX);
            self.done(Body::SetLiveness(command::SetLiveness { changes: Vec::new() }));
        }
    }

    pub fn apply(&mut self, body: Body) -> Reply {
        self.request(RequestId(0), body)
    }

    pub fn request(&mut self, request: RequestId, mut body: Body) -> Reply {
        // As the leader does.
        if let Body::SealPart(command::SealPart { checkpoint, compared, .. }) = &mut body {
            *compared = self.catalogue.parts_version(*checkpoint);
        }
        self.request_as_is(request, body)
    }

    pub fn request_as_is(&mut self, request: RequestId, body: Body) -> Reply {
        self.index += 1;
        // Nodes and the leader speak for themselves.
        let subject = match body.sender() {
            Sender::Client | Sender::Operator => self.subject.clone(),
            Sender::Node | Sender::Leader => Subject::None,
        };
        let command =
            Command { subject, ..Command::new(request, self.clock_ms, self.wall_ms, body) };
        let before = self.catalogue.clone();
        let reply = self.catalogue.apply(self.index, &command);
        invariants::check(&self.catalogue).unwrap();
        if !self.nodes_move {
            invariants::check_hosts(&self.catalogue).unwrap();
        }
        invariants::check_step(&before, &self.catalogue).unwrap();
        if reply.refusal().is_some() {
            assert_refused_without_effect(&before, &self.catalogue, &command);
        }
        reply
    }

    /// Applies what must not be refused.
    pub fn done(&mut self, body: Body) -> Reply {
        let text = format!("{body:?}");
        let reply = self.apply(body);
        assert!(reply.refusal().is_none(), "{text}: {reply:?}");
        reply
    }

    pub fn refused(&mut self, body: Body) -> Refusal {
        match self.apply(body) {
            Reply::Refused(refusal) => refusal,
            reply => panic!("not refused: {reply:?}"),
        }
    }

    /// Lets cluster time pass, in entries of the steps that apply allows.
    pub fn pass(&mut self, ms: u64) {
        let end = self.clock_ms + ms;
        while self.catalogue.cluster().clock_ms < end {
            self.clock_ms = end;
            self.apply(Body::SetLiveness(command::SetLiveness { changes: Vec::new() }));
        }
    }

    pub fn incarnation(&self, number: u64) -> Incarnation {
        self.catalogue.node(node(number)).unwrap().incarnation
    }

    pub fn set_liveness(&mut self, number: u64, liveness: Liveness) {
        let changes = vec![(node(number), self.incarnation(number), liveness)];
        self.done(Body::SetLiveness(command::SetLiveness { changes }));
    }

    pub fn segment(&self, name: &str) -> &Segment {
        self.catalogue.segment_by_digest(&digest(name)).unwrap()
    }

    /// The segment's live slots, as (node number, is durable).
    pub fn live(&self, name: &str) -> Vec<(u64, bool)> {
        let slots = self.segment(name).live_slots();
        slots.map(|slot| (slot.node.0, slot.state == SlotState::Durable)).collect()
    }

    pub fn try_begin(&mut self, step: u64, attempt: u64, parts: u32, replace: bool) -> Reply {
        self.apply(begin_body(step, attempt, parts, replace))
    }

    pub fn begin(&mut self, step: u64, attempt: u64, parts: u32) -> CheckpointId {
        begun(self.try_begin(step, attempt, parts, false)).checkpoint
    }

    pub fn stage(
        &mut self,
        upload: (CheckpointId, u64),
        part: u32,
        names: &[&str],
        targets: &[u64],
    ) -> Vec<StagedSegment> {
        match self.done(stage_body(upload, part, RUN, names, targets)) {
            Reply::Staged { segments } => segments,
            reply => panic!("{reply:?}"),
        }
    }

    /// The node reports every Assigned replica of these segments durable.
    pub fn durable(&mut self, number: u64, names: &[&str]) {
        let replicas = self.replicas(number, names);
        let incarnation = self.incarnation(number);
        self.done(Body::Durable(command::Durable { node: node(number), incarnation, replicas }));
    }

    pub fn replicas(&self, number: u64, names: &[&str]) -> Vec<(SegmentId, Epoch)> {
        let segments = names.iter().map(|name| self.segment(name));
        segments
            .filter_map(|segment| Some((segment.id, segment.live_slot_on(node(number))?.epoch)))
            .collect()
    }

    pub fn seal(&mut self, upload: (CheckpointId, u64), part: u32, names: &[&str]) -> Reply {
        self.apply(seal_body(upload, part, RUN, names))
    }

    /// Uploads and commits a one-part checkpoint whose segments go to these nodes.
    pub fn put(&mut self, step: u64, names: &[&str], targets: &[u64]) -> CheckpointId {
        let attempt = step * 10 + 1;
        let id = self.begin(step, attempt, 1);
        self.stage((id, attempt), 0, names, targets);
        for target in targets {
            self.durable(*target, names);
        }
        let reply = self.seal((id, attempt), 0, names);
        assert!(matches!(reply, Reply::Committed { .. }), "{reply:?}");
        id
    }

    /// A put of more segments than one entry may stage.
    pub fn put_large(&mut self, step: u64, names: &[&str]) -> CheckpointId {
        let id = self.begin(step, 5, 1);
        for batch in names.chunks(1000) {
            self.stage((id, 5), 0, batch, &[1, 2]);
            self.durable(1, batch);
            self.durable(2, batch);
        }
        self.seal((id, 5), 0, names);
        id
    }

    pub fn delete(&mut self, checkpoint: CheckpointId, now: bool) {
        self.done(Body::Delete(command::Delete {
            checkpoint,
            reason: DeleteReason::Asked,
            now,
            force: false,
            policy_version: None,
            by: String::new(),
        }));
    }

    pub fn drop_references(&mut self, checkpoint: CheckpointId) -> u64 {
        match self.done(Body::DropReferences(command::DropReferences { checkpoint })) {
            Reply::Dropped { left } => left,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn reap(&mut self, name: &str) -> (u32, u32) {
        let segments = vec![self.segment(name).id];
        reported(self.done(Body::Reap(command::Reap { segments })))
    }

    pub fn resolve(&self, address: &str) -> Result<CheckpointId, Refusal> {
        self.catalogue.resolve(&address.parse().unwrap()).map(|info| info.id)
    }
}

pub fn begin_body(step: u64, attempt: u64, parts: u32, replace: bool) -> Body {
    Body::Begin(command::Begin {
        namespace: namespace(),
        step: Step(step),
        parts,
        attempt: Some(Attempt(attempt)),
        change: PolicyChange::default(),
        replace,
        labels: BTreeMap::new(),
        client: String::new(),
        job: String::new(),
    })
}

pub fn stage_body(
    (checkpoint, attempt): (CheckpointId, u64),
    part: u32,
    run: Run,
    names: &[&str],
    targets: &[u64],
) -> Body {
    let targets: Vec<NodeId> = targets.iter().copied().map(NodeId).collect();
    let segment = |name: &&str| StageSegment {
        digest: digest(name),
        form: Form::raw(LEN),
        targets: targets.clone(),
    };
    let segments = names.iter().map(segment).collect();
    Body::Stage(command::Stage { checkpoint, attempt: Attempt(attempt), part, run, segments })
}

pub fn seal_body(
    (checkpoint, attempt): (CheckpointId, u64),
    part: u32,
    run: Run,
    names: &[&str],
) -> Body {
    Body::SealPart(command::SealPart {
        checkpoint,
        attempt: Attempt(attempt),
        part,
        run,
        manifest: ManifestPlace::Inline(Bytes::from_static(b"manifest")),
        set_digest: set_digest(names.iter().map(|name| (digest(name), LEN))),
        bytes: 1000 * names.len() as u64,
        files: names.len() as u64,
        compared: 0,
        voids: Vec::new(),
    })
}

pub fn begun(reply: Reply) -> Begun {
    match reply {
        Reply::Begun(begun) => begun,
        reply => panic!("{reply:?}"),
    }
}

pub fn reported(reply: Reply) -> (u32, u32) {
    match reply {
        Reply::Reported { accepted, refused } => (accepted, refused),
        reply => panic!("{reply:?}"),
    }
}

/// A refused command leaves what a harmless one at the same time would leave, and a record.
pub fn assert_refused_without_effect(before: &Catalogue, after: &Catalogue, command: &Command) {
    let mut idle = before.clone();
    let body = Body::Reap(command::Reap { segments: Vec::new() });
    idle.apply(0, &Command { request: RequestId(0), body, ..command.clone() });
    let idle = idle.with_audit(after.cluster().audit);
    assert_eq!(idle.digest(), after.digest(), "a refusal had an effect: {command:?}");
}
