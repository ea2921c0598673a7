//! The clients' actions: uploads of one part or several, together with others or against them;
//! deletions; requests sent again, at once and long after.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_types::command::{self, Body, DeleteReason, Refusal, Reply, StageSegment, StagedSegment};
use cairn_types::form::Form;
use cairn_types::ids::{Attempt, CheckpointId, NodeId, RequestId, Run, SegmentDigest, Step};
use cairn_types::model::{ManifestPlace, PolicyChange, SlotState};
use cairn_types::set_digest;

use super::{Mail, Mind, Sender};

/// Namespace, step, attempt and part.
pub(super) type PartName = (String, u64, u64, u32);

const NAMESPACES: [&str; 3] = ["a", "b", "c/d"];
const STEPS: u64 = 4;
const DIGESTS: u64 = 30;
const PATIENCE_MS: u64 = 80;
/// Segments of one Stage.
const STAGE_BATCH: usize = 3;
/// Requests remembered to be sent once more, long after.
const OLD_MAX: usize = 20;

#[derive(Default)]
pub(super) struct Client {
    upload: Option<Upload>,
    asked: Option<Asked>,
    old: Vec<(RequestId, Body)>,
    /// The next upload is this one (calm).
    pub wanted: Option<(String, u64)>,
    pub committed: u64,
}

struct Asked {
    tag: u64,
    request: RequestId,
    body: Body,
    since_ms: u64,
    tries: u32,
}

struct Upload {
    namespace: String,
    step: u64,
    attempt: u64,
    parts: u32,
    part: u32,
    run: Run,
    change: PolicyChange,
    replace: bool,
    checkpoint: Option<CheckpointId>,
    content: Vec<SegmentDigest>,
    /// Still to be staged.
    to_stage: Vec<SegmentDigest>,
    /// Sent but not stored yet.
    waits: BTreeMap<SegmentDigest, BTreeSet<NodeId>>,
    patience: u32,
}

fn digest(number: u64) -> (SegmentDigest, u32) {
    (SegmentDigest::of(&number.to_le_bytes()), 1_000 + number as u32)
}

fn len_of(digest_of: &SegmentDigest) -> u32 {
    (0..DIGESTS).map(digest).find(|(known, _)| known == digest_of).map_or(1, |(_, len)| len)
}

impl Upload {
    fn set_digest(&self) -> [u8; 32] {
        set_digest(self.content.iter().map(|digest| (*digest, len_of(digest))))
    }

    fn begin(&self) -> Option<Body> {
        Some(Body::Begin(command::Begin {
            namespace: self.namespace.parse().ok()?,
            step: Step(self.step),
            parts: self.parts,
            attempt: Some(Attempt(self.attempt)),
            change: self.change.clone(),
            replace: self.replace,
            labels: BTreeMap::new(),
            client: String::new(),
            job: String::new(),
        }))
    }

    fn stage(&mut self, checkpoint: CheckpointId) -> Body {
        let rest = self.to_stage.split_off(self.to_stage.len().min(STAGE_BATCH));
        let batch = std::mem::replace(&mut self.to_stage, rest);
        let segment = |digest: SegmentDigest| {
            let form = Form::raw(len_of(&digest));
            StageSegment { digest, form, targets: Vec::new() }
        };
        Body::Stage(command::Stage {
            checkpoint,
            attempt: Attempt(self.attempt),
            part: self.part,
            run: self.run,
            segments: batch.into_iter().map(segment).collect(),
        })
    }

    fn seal(&self, checkpoint: CheckpointId) -> Body {
        // The manifests of some parts are stored in a segment of their part.
        let manifest = match self.content.first() {
            Some(first) if self.step.is_multiple_of(3) => ManifestPlace::Segments(vec![*first]),
            _ => ManifestPlace::Inline(Bytes::from_static(b"manifest")),
        };
        Body::SealPart(command::SealPart {
            checkpoint,
            attempt: Attempt(self.attempt),
            part: self.part,
            run: self.run,
            manifest,
            set_digest: self.set_digest(),
            bytes: 10,
            files: 1,
            compared: 0,
            voids: Vec::new(),
        })
    }
}

impl Mind {
    pub(super) fn act_client(&mut self, at: usize) {
        let now_ms = self.now_ms;
        if let Some(asked) = &mut self.clients[at].asked {
            if now_ms >= asked.since_ms + PATIENCE_MS {
                (asked.since_ms, asked.tries) = (now_ms, asked.tries + 1);
                let from = Sender::Client(at, asked.tag);
                let letter = Mail::Propose {
                    from,
                    request: asked.request,
                    body: Box::new(asked.body.clone()),
                };
                let tries = asked.tries;
                self.send(letter);
                self.count("requests.retried");
                if self.clients[at].wanted.is_none() && self.chance.below(12) < u64::from(tries) {
                    self.die(at);
                }
            }
            return;
        }
        if self.clients[at].upload.is_some() {
            return self.go_on(at);
        }
        if let Some((namespace, step)) = self.clients[at].wanted.clone() {
            let attempt = 1_000 + now_ms;
            return self.start(at, namespace, step, attempt, 1, true);
        }
        match self.chance.below(20) {
            0..12 => self.start_some(at),
            12..15 => self.delete_some(at),
            15 => self.set_policy(at),
            _ => self.send_old(at),
        }
    }

    /// The client is gone, with all its memory. Its letters are still on their way.
    fn die(&mut self, at: usize) {
        self.clients[at].asked = None;
        self.clients[at].upload = None;
        self.count("clients.died");
    }

    fn request(&mut self, at: usize, body: Body) {
        let tag = self.mint();
        let request = RequestId((u128::from(tag) << 8) | (at as u128 + 1));
        let client = &mut self.clients[at];
        if client.old.len() < OLD_MAX {
            client.old.push((request, body.clone()));
        } else {
            let place = self.chance.below(OLD_MAX as u64) as usize;
            self.clients[at].old[place] = (request, body.clone());
        }
        let since_ms = self.now_ms;
        self.clients[at].asked =
            Some(Asked { tag, request, body: body.clone(), since_ms, tries: 0 });
        self.send(Mail::Propose { from: Sender::Client(at, tag), request, body: Box::new(body) });
    }

    /// An old request arrives once more.
    fn send_old(&mut self, at: usize) {
        if let Some((request, body)) = self.chance.pick(&self.clients[at].old).cloned() {
            self.send(Mail::Propose { from: Sender::Nobody, request, body: Box::new(body) });
            self.count("requests.stale");
        }
    }

    fn start_some(&mut self, at: usize) {
        let namespace = NAMESPACES[self.chance.below(NAMESPACES.len() as u64) as usize].to_owned();
        let step = self.chance.below(STEPS);
        // Often another client's attempt.
        let attempt = 1 + self.now_ms / 700 + self.chance.below(2);
        let parts = match (step + attempt) % 5 {
            0 => 3,
            1 | 2 => 2,
            _ => 1,
        };
        let replace = self.chance.chance(0.6);
        self.start(at, namespace, step, attempt, parts, replace);
    }

    fn start(
        &mut self,
        at: usize,
        namespace: String,
        step: u64,
        attempt: u64,
        parts: u32,
        replace: bool,
    ) {
        let part = self.chance.below(u64::from(parts)) as u32;
        let run = Run(self.mint());
        let change = match (namespace.as_str(), self.chance.below(4)) {
            ("b", _) => PolicyChange { replicas: Some(2), ..PolicyChange::default() },
            ("c/d", 0) => PolicyChange { keep_last: Some(2), ..PolicyChange::default() },
            _ => PolicyChange::default(),
        };
        let upload = Upload {
            namespace,
            step,
            attempt,
            parts,
            part,
            run,
            change,
            replace,
            checkpoint: None,
            content: Vec::new(),
            to_stage: Vec::new(),
            waits: BTreeMap::new(),
            patience: 12,
        };
        self.fill(upload, at);
    }

    /// Chooses the part's content. Usually it is the same for every writer of the part.
    fn fill(&mut self, mut upload: Upload, at: usize) {
        let label = format!("{}/{}/{}", upload.namespace, upload.step, upload.part);
        let mut chance = match self.chance.chance(0.85) {
            true => self.chance.fork(&label),
            false => self.chance.clone(),
        };
        let count = chance.range(1..6);
        let content: BTreeSet<SegmentDigest> =
            (0..count).map(|_| digest(chance.below(DIGESTS)).0).collect();
        upload.content = content.iter().copied().collect();
        upload.to_stage = upload.content.clone();
        let name = (upload.namespace.clone(), upload.step, upload.attempt, upload.part);
        self.contents.entry(name).or_default().insert(upload.set_digest(), content);
        let begin = upload.begin();
        self.clients[at].upload = Some(upload);
        if let Some(body) = begin {
            self.request(at, body);
        }
    }

    fn go_on(&mut self, at: usize) {
        let early = self.chance.chance(0.05);
        let Some(upload) = &mut self.clients[at].upload else { return };
        let Some(checkpoint) = upload.checkpoint else { return self.die(at) };
        if !upload.to_stage.is_empty() {
            let body = upload.stage(checkpoint);
            return self.request(at, body);
        }
        upload.patience = upload.patience.saturating_sub(1);
        // A node that does not answer is given up after some time.
        if upload.waits.is_empty() || upload.patience == 0 || early {
            upload.patience = 12;
            let body = upload.seal(checkpoint);
            self.request(at, body);
        }
    }

    pub(super) fn stored(&mut self, at: usize, node: NodeId, digest: SegmentDigest) {
        let Some(upload) = &mut self.clients[at].upload else { return };
        if let Some(nodes) = upload.waits.get_mut(&digest) {
            nodes.remove(&node);
            if nodes.is_empty() {
                upload.waits.remove(&digest);
            }
        }
    }

    pub(super) fn answer_client(&mut self, at: usize, tag: u64, reply: Reply) {
        let client = &mut self.clients[at];
        if client.asked.as_ref().is_none_or(|asked| asked.tag != tag) {
            return;
        }
        let Some(asked) = client.asked.take() else { return };
        let Some(upload) = &mut client.upload else { return };
        match reply {
            Reply::Begun(begun) if begun.committed => self.finished(at, true),
            Reply::Begun(begun) => upload.checkpoint = Some(begun.checkpoint),
            Reply::Staged { segments } => self.send_bytes(at, &asked.body, &segments),
            Reply::Lacking { segments, .. } => {
                let catalogue = &self.model.catalogue;
                let named = segments.iter().filter_map(|id| catalogue.segment(*id));
                let named: Vec<SegmentDigest> = named.map(|segment| segment.digest).collect();
                upload.to_stage =
                    named.into_iter().filter(|it| upload.content.contains(it)).collect();
                upload.patience = 12;
            }
            Reply::Sealed { .. } => self.next_part(at),
            Reply::Committed { .. } => self.finished(at, true),
            Reply::Refused(
                Refusal::NotEnoughHosts { .. }
                | Refusal::NotEnoughRacks { .. }
                | Refusal::BadTargets
                | Refusal::NotCompared { .. },
            ) => {
                if let Body::Stage(command::Stage { segments, .. }) = asked.body {
                    upload.to_stage.extend(segments.iter().map(|segment| segment.digest));
                }
            }
            _ => self.finished(at, false),
        }
    }

    fn send_bytes(&mut self, at: usize, body: &Body, staged: &[StagedSegment]) {
        let Body::Stage(command::Stage { segments, .. }) = body else { return };
        for (asked, staged) in segments.iter().zip(staged) {
            if staged.kept {
                self.count("segments.kept");
                continue;
            }
            for slot in staged.slots.iter().filter(|slot| slot.state == SlotState::Assigned) {
                let machine =
                    self.machines.iter().position(|machine| machine.node == Some(slot.node));
                let Some(machine) = machine else { continue };
                let (digest, segment) = (asked.digest, staged.segment);
                if let Some(upload) = &mut self.clients[at].upload {
                    upload.waits.entry(digest).or_default().insert(slot.node);
                }
                let epoch = slot.epoch;
                self.send(Mail::Bytes { machine, client: at, segment, digest, epoch });
            }
        }
    }

    /// Its part is sealed. The same client often writes the next one.
    fn next_part(&mut self, at: usize) {
        let goes_on = self.chance.chance(0.8);
        let Some(mut upload) = self.clients[at].upload.take() else { return };
        if goes_on {
            upload.part = (upload.part + 1) % upload.parts;
            upload.run = Run(self.mint());
            upload.checkpoint = None;
            self.fill(upload, at);
        }
    }

    fn finished(&mut self, at: usize, committed: bool) {
        let client = &mut self.clients[at];
        client.upload = None;
        client.committed += u64::from(committed);
        if committed {
            client.wanted = None;
        }
    }

    /// Deletes a checkpoint that some replica shows or showed: committed or still open.
    fn delete_some(&mut self, at: usize) {
        let machine = self.any_machine();
        let records = self.machines[machine].replica.catalogue.checkpoints();
        let ids: Vec<CheckpointId> = records.map(|record| record.id).collect();
        let now = self.chance.chance(0.5);
        if let Some(checkpoint) = self.chance.pick(&ids).copied() {
            self.request(
                at,
                Body::Delete(command::Delete {
                    checkpoint,
                    reason: DeleteReason::Asked,
                    now,
                    force: false,
                    policy_version: None,
                    by: String::new(),
                }),
            );
        }
    }

    fn set_policy(&mut self, at: usize) {
        let keep_last = Some(self.chance.below(4) as u32);
        if let Ok(namespace) = NAMESPACES[self.chance.below(3) as usize].parse() {
            let change = PolicyChange { keep_last, ..PolicyChange::default() };
            self.request(at, Body::SetPolicy(command::SetPolicy::new(namespace, change)));
        }
    }

    /// During calm: one more put to this namespace, until it is committed.
    pub(super) fn want_puts(&mut self) {
        for (at, client) in self.clients.iter_mut().enumerate() {
            (client.upload, client.asked) = (None, None);
            let namespace = NAMESPACES[at % NAMESPACES.len()].to_owned();
            client.wanted = Some((namespace, STEPS + at as u64));
        }
    }

    pub(super) fn unwanted(&self) -> bool {
        self.clients.iter().all(|client| client.wanted.is_none())
    }
}
