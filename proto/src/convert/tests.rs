//! Generated values survive the wire; malformed messages are typed errors.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::command::{
    Begun, Body, Command, DeleteReason, Refusal, Reply, StageSegment, StagedSegment,
};
use cairn_core::ids::{
    Attempt, CheckpointId, ClusterId, Cookie, Epoch, Incarnation, Namespace, NodeId, Nonce,
    RequestId, Run, SegmentDigest, SegmentId, Step,
};
use cairn_core::limits::{BATCH_SEGMENTS_MAX, NONCES_MAX, SEGMENT_BYTES_MAX};
use cairn_core::model::{
    CheckpointInfo, CheckpointState, Commit, Durability, Isolation, Liveness, ManifestPlace,
    NewNode, Policy, PolicyChange, SealedPart, Settings, Slot, SlotState,
};
use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::wire;

/// Draws values; every eighth number is zero or the largest, where encodings go wrong.
struct Draw(StdRng);

impl Draw {
    fn u64(&mut self) -> u64 {
        match self.0.random_range(0..16u32) {
            0 => 0,
            1 => u64::MAX,
            _ => self.0.random(),
        }
    }

    fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    fn below(&mut self, end: u32) -> u32 {
        self.0.random_range(0..end)
    }

    fn bool(&mut self) -> bool {
        self.0.random()
    }

    fn u128(&mut self) -> u128 {
        (u128::from(self.u64()) << 64) | u128::from(self.u64())
    }

    fn digest(&mut self) -> SegmentDigest {
        SegmentDigest(self.0.random())
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| one(self)).collect()
    }

    fn option<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.bool() { Some(one(self)) } else { None }
    }

    fn namespace(&mut self) -> Namespace {
        format!("run-{}/x", self.u64()).parse().unwrap()
    }

    fn isolation(&mut self) -> Isolation {
        if self.bool() { Isolation::Hard } else { Isolation::Soft }
    }

    fn policy(&mut self) -> Policy {
        Policy {
            replicas: self.u32(),
            write_quorum: self.u32(),
            min_racks: self.u32(),
            isolation: self.isolation(),
            keep_last: self.option(Self::u32),
        }
    }

    fn change(&mut self) -> PolicyChange {
        PolicyChange {
            replicas: self.option(Self::u32),
            write_quorum: self.option(Self::u32),
            min_racks: self.option(Self::u32),
            isolation: self.option(Self::isolation),
            keep_last: self.option(Self::u32),
        }
    }

    fn new_node(&mut self) -> NewNode {
        NewNode {
            cookie: Cookie(self.u128()),
            host: format!("h{}", self.u64()),
            rack: format!("r{}", self.u64()),
            address: format!("h{}:7100", self.u64()),
            capacity_bytes: self.u64(),
            feature_level: self.u32(),
        }
    }

    fn place(&mut self) -> ManifestPlace {
        if self.bool() {
            let len = self.below(100) as usize;
            ManifestPlace::Inline(Bytes::from(vec![self.u32() as u8; len]))
        } else {
            let mut digests = self.list(Self::digest);
            digests.push(self.digest());
            ManifestPlace::Segments(digests)
        }
    }

    fn slot(&mut self) -> Slot {
        let states = [SlotState::Assigned, SlotState::Durable, SlotState::Released];
        Slot {
            node: NodeId(self.u64()),
            epoch: Epoch(self.u64()),
            state: states[self.below(3) as usize],
        }
    }

    fn durability(&mut self) -> Durability {
        Durability {
            replicas_wanted: self.u32(),
            replicas_min: self.u32(),
            racks_min: self.u32(),
            segments_below: self.u64(),
            bytes_below: self.u64(),
            segments_unavailable: self.u64(),
        }
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        self.list(|draw| (format!("k{}", draw.u64()), format!("v{}", draw.u64())))
            .into_iter()
            .collect()
    }

    fn pairs(&mut self) -> Vec<(SegmentId, Epoch)> {
        self.list(|draw| (SegmentId(draw.u64()), Epoch(draw.u64())))
    }

    fn command(&mut self) -> Command {
        Command {
            request: RequestId(self.u128()),
            clock_ms: self.u64(),
            wall_ms: self.u64(),
            body: self.body(),
        }
    }

    fn body(&mut self) -> Body {
        let node = NodeId(self.u64());
        let incarnation = Incarnation(self.u64());
        let checkpoint = CheckpointId(self.u64());
        let attempt = Attempt(self.u64());
        let run = Run(self.u64());
        let part = self.u32();
        match self.below(21) {
            0 => Body::InitCluster {
                cluster: ClusterId(self.u128()),
                settings: Settings {
                    lease_ms: self.u64(),
                    grace_ms: self.u64(),
                    down_after_ms: self.u64(),
                    replace_after_ms: self.u64(),
                },
                node: self.new_node(),
            },
            1 => Body::AllocateNode(self.new_node()),
            2 => {
                let new = self.new_node();
                Body::Register {
                    node,
                    cookie: new.cookie,
                    previous: (0..self.below(NONCES_MAX as u32 + 1))
                        .map(|_| Nonce(self.u128()))
                        .collect(),
                    nonce: Nonce(self.u128()),
                    host: new.host,
                    rack: new.rack,
                    address: new.address,
                    capacity_bytes: new.capacity_bytes,
                    feature_level: new.feature_level,
                }
            }
            3 => Body::Inventory { node, incarnation, missing: self.pairs(), last: self.bool() },
            4 => Body::SetLiveness {
                changes: self.list(|draw| {
                    let liveness = if draw.bool() { Liveness::Up } else { Liveness::Down };
                    (NodeId(draw.u64()), Incarnation(draw.u64()), liveness)
                }),
            },
            5 => Body::RemoveNode { node },
            6 => Body::SetPolicy { namespace: self.namespace(), change: self.change() },
            7 => Body::Begin {
                namespace: self.namespace(),
                step: Step(self.u64()),
                parts: self.u32(),
                attempt,
                change: self.change(),
                replace: self.bool(),
                labels: self.labels(),
            },
            8 => Body::Stage {
                checkpoint,
                attempt,
                part,
                run,
                segments: self.list(|draw| StageSegment {
                    digest: draw.digest(),
                    len: draw.below(SEGMENT_BYTES_MAX as u32) + 1,
                    targets: draw.list(|draw| NodeId(draw.u64())),
                }),
            },
            9 => Body::Durable { node, incarnation, replicas: self.pairs() },
            10 => Body::Lost { node, incarnation, replicas: self.pairs() },
            11 => Body::Removed { node, incarnation, replicas: self.pairs() },
            12 => Body::SealPart {
                checkpoint,
                attempt,
                part,
                run,
                manifest: self.place(),
                set_digest: self.digest().0,
                bytes: self.u64(),
                files: self.u64(),
            },
            13 => Body::Renew {
                uploads: self.list(|draw| (CheckpointId(draw.u64()), Attempt(draw.u64()))),
            },
            14 => Body::LeaderStarted,
            15 => Body::ExpireUploads { checkpoints: self.list(|draw| CheckpointId(draw.u64())) },
            16 => Body::Delete {
                checkpoint,
                reason: if self.bool() { DeleteReason::Asked } else { DeleteReason::Retention },
                now: self.bool(),
            },
            17 => Body::DropReferences { checkpoint },
            18 => Body::Reap { segments: self.list(|draw| SegmentId(draw.u64())) },
            19 => Body::AssignSlots {
                slots: self.list(|draw| (SegmentId(draw.u64()), NodeId(draw.u64()))),
            },
            _ => Body::ReleaseSlots {
                slots: self.list(|draw| (SegmentId(draw.u64()), NodeId(draw.u64()))),
            },
        }
    }

    /// One of each variant.
    fn refusals(&mut self) -> Vec<Refusal> {
        let node = NodeId(self.u64());
        let checkpoint = CheckpointId(self.u64());
        let (part, have, want) = (self.u32(), self.u32(), self.u32());
        vec![
            Refusal::AlreadyInitialized,
            Refusal::NotInitialized,
            Refusal::UnknownNode(node),
            Refusal::NodeRemoved(node),
            Refusal::WrongCookie { node },
            Refusal::StaleIdentity { node },
            Refusal::StaleIncarnation {
                node,
                got: Incarnation(self.u64()),
                current: Incarnation(self.u64()),
            },
            Refusal::UnknownCheckpoint(checkpoint),
            Refusal::NoSuchCheckpoint { namespace: "a b".into(), selector: String::new() },
            Refusal::NotOpen(checkpoint),
            Refusal::StepExists { namespace: self.namespace(), step: Step(self.u64()), checkpoint },
            Refusal::Fenced { got: Attempt(self.u64()), current: Attempt(self.u64()) },
            Refusal::PartCount { got: have, current: want },
            Refusal::PartOutOfRange { part, parts: want },
            Refusal::PartSealed { part },
            Refusal::OtherRun { part },
            Refusal::SetDigestMismatch { part },
            Refusal::SegmentNotStaged(self.digest()),
            Refusal::NotEnoughHosts { have, want },
            Refusal::NotEnoughRacks { have, want },
            Refusal::BadTargets,
            Refusal::KeptByPolicy { keep_last: want },
            Refusal::LastReplicas { node, segments: self.u64() },
            Refusal::LastNode(node),
            Refusal::Malformed(format!("text {part}")),
        ]
    }

    /// One of each variant but refusals.
    fn replies(&mut self) -> Vec<Reply> {
        let checkpoint = CheckpointId(self.u64());
        vec![
            Reply::Done,
            Reply::NodeAllocated { node: NodeId(self.u64()) },
            Reply::Registered { incarnation: Incarnation(self.u64()) },
            Reply::Begun(Begun {
                checkpoint,
                attempt: Attempt(self.u64()),
                policy: self.policy(),
                parts: self.u32(),
                sealed: self.list(Self::u32),
                committed: self.bool(),
            }),
            Reply::Staged {
                segments: self.list(|draw| StagedSegment {
                    segment: SegmentId(draw.u64()),
                    kept: draw.bool(),
                    slots: draw.list(Self::slot),
                }),
            },
            Reply::Reported { accepted: self.u32(), refused: self.u32() },
            Reply::Sealed { parts_sealed: self.u32(), parts: self.u32() },
            Reply::Committed { checkpoint, durability: self.durability() },
            Reply::Lacking { segments: self.list(|draw| SegmentId(draw.u64())), total: self.u64() },
            Reply::Dropped { left: self.u64() },
        ]
    }

    fn info(&mut self) -> CheckpointInfo {
        let states = [CheckpointState::Open, CheckpointState::Committed, CheckpointState::Deleted];
        CheckpointInfo {
            id: CheckpointId(self.u64()),
            namespace: self.namespace(),
            step: Step(self.u64()),
            attempt: Attempt(self.u64()),
            state: states[self.below(3) as usize],
            policy: self.policy(),
            parts: self.list(|draw| SealedPart {
                manifest: draw.place(),
                set_digest: draw.digest().0,
                bytes: draw.u64(),
                files: draw.u64(),
            }),
            commit: self.option(|draw| Commit { index: draw.u64(), wall_ms: draw.u64() }),
            labels: self.labels(),
            bytes: self.u64(),
            files: self.u64(),
            segments: self.u64(),
            segment_bytes: self.u64(),
            durability: self.durability(),
        }
    }
}

fn draw(seed: u64) -> Draw {
    Draw(StdRng::seed_from_u64(seed))
}

#[test]
fn every_command_reads_back_equal() {
    let mut draw = draw(1);
    for _ in 0..3000 {
        let command = draw.command();
        assert_eq!(decode_command(&encode_command(&command)).unwrap(), command);
    }
}

#[test]
fn every_reply_and_refusal_reads_back_equal() {
    let mut draw = draw(2);
    for _ in 0..200 {
        let refused: Vec<Reply> = draw.refusals().into_iter().map(Reply::Refused).collect();
        for reply in draw.replies().into_iter().chain(refused) {
            let bytes = reply_to_wire(&reply).encode_to_vec();
            assert_eq!(reply_from_wire(wire::Reply::decode(&bytes[..]).unwrap()).unwrap(), reply);
        }
    }
}

#[test]
fn every_info_reads_back_equal() {
    let mut draw = draw(3);
    for _ in 0..500 {
        let info = draw.info();
        let bytes = info_to_wire(&info).encode_to_vec();
        let message = wire::CheckpointInfo::decode(&bytes[..]).unwrap();
        assert_eq!(info_from_wire(message).unwrap(), info);
    }
}

#[test]
fn the_log_form_does_not_change() {
    let command = Command {
        request: RequestId(1),
        clock_ms: 2,
        wall_ms: 3,
        body: Body::RemoveNode { node: NodeId(4) },
    };
    assert_eq!(
        hex::encode(encode_command(&command)),
        "0a10000000000000000000000000000000011002180320017a020804"
    );
}

#[test]
fn a_command_from_the_future_is_told_from_a_malformed_one() {
    let message = command_to_wire(&draw(4).command());
    let newer = wire::Command { feature_level: 2, ..message.clone() };
    let future = ConvertError::FutureCommand { feature_level: 2 };
    assert_eq!(command_from_wire(newer), Err(future));
    // A body field this build does not know is skipped by prost, so the body is unset.
    let unknown = wire::Command { body: None, ..message.clone() };
    let mut bytes = unknown.encode_to_vec();
    bytes.extend([0xa2, 0x06, 0x00]);
    assert_eq!(decode_command(&bytes), Err(ConvertError::FutureCommand { feature_level: 1 }));
    let short = wire::Command { request: Bytes::from_static(b"short"), ..message };
    let error = command_from_wire(short).unwrap_err();
    assert_eq!(error.to_string(), "request id is 5 bytes long, not 16");
}

#[test]
fn a_batch_above_the_limit_is_refused() {
    let message = |count: usize| wire::Command {
        request: id128_to_wire(0),
        feature_level: 1,
        body: Some(wire::command::Body::Reap(wire::Reap { segments: vec![1; count] })),
        ..Default::default()
    };
    command_from_wire(message(BATCH_SEGMENTS_MAX)).unwrap();
    let error = command_from_wire(message(BATCH_SEGMENTS_MAX + 1)).unwrap_err();
    assert!(matches!(error, ConvertError::TooMany { field: "segments", .. }));
}

#[test]
fn malformed_values_are_named() {
    let command = |body| wire::Command {
        request: id128_to_wire(0),
        feature_level: 1,
        body: Some(body),
        ..Default::default()
    };
    let say = |body| command_from_wire(command(body)).unwrap_err().to_string();
    use wire::command::Body as Form;
    let stage = |digest: &'static [u8], len| {
        let digest = Bytes::from_static(digest);
        let segments = vec![wire::StageSegment { digest, len, targets: vec![] }];
        Form::Stage(wire::Stage { segments, ..Default::default() })
    };
    assert_eq!(say(stage(&[0; 31], 1)), "segment digest is 31 bytes long, not 32");
    assert_eq!(say(stage(&[0; 32], 0)), "segment length cannot be 0");
    assert!(say(stage(&[0; 32], SEGMENT_BYTES_MAX as u32 + 1)).contains("segment length"));
    let change = wire::PolicyChange { isolation: Some(9), ..Default::default() };
    let set = wire::SetPolicy { namespace: "a".into(), change: Some(change) };
    assert_eq!(say(Form::SetPolicy(set.clone())), "isolation cannot be 9");
    let set = wire::SetPolicy { namespace: "a/../b".into(), change: None };
    assert!(say(Form::SetPolicy(set)).contains("malformed namespace"));
    assert_eq!(say(Form::SealPart(wire::SealPart::default())), "manifest is missing");
    assert_eq!(
        say(Form::InitCluster(wire::InitCluster::default())),
        "cluster id is 0 bytes long, not 16"
    );
}

#[test]
fn flipped_and_cut_bytes_never_panic() {
    let mut draw = draw(5);
    for _ in 0..300 {
        let bytes = encode_command(&draw.command()).to_vec();
        for _ in 0..20 {
            let mut bytes = bytes.clone();
            let place = draw.below(bytes.len() as u32) as usize;
            bytes[place] ^= 1 << draw.below(8);
            bytes.truncate(bytes.len() - draw.below(3) as usize);
            let _ = decode_command(&bytes);
        }
    }
}
