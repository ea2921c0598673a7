//! Generated values survive the wire; malformed messages are typed errors.

use bytes::Bytes;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::command::drawn::Draw;
use crate::command::{
    self, Accept, Begun, Body, Command, FEATURE_LEVEL, Obstacle, Refusal, Reply, Sender, Shortage,
    StagedSegment, one_of_each,
};
use crate::form::Form;
use crate::ids::{Attempt, CheckpointId, Incarnation, NodeId, RequestId, SegmentId, Step, TokenId};
use crate::limits::{BATCH_SEGMENTS_MAX, SEGMENT_BYTES_MAX, SUBJECT_BYTES_MAX, TOKEN_BLOCKS_MAX};
use crate::marks::{Hold, Quarantine};
use crate::model::{
    Began, CheckpointInfo, CheckpointState, Commit, DeletedFor, Deletion, SealedPart,
};
use crate::progress::{PartProgress, UploadProgress};
use crate::rights::{Grant, Rights, Subject, TokenSubject};
use crate::wire;

impl Draw {
    fn command(&mut self) -> Command {
        let mut bodies = one_of_each(self);
        let body = bodies.swap_remove(self.below(bodies.len() as u32) as usize);
        self.command_of(body)
    }

    fn command_of(&mut self, body: Body) -> Command {
        let request = RequestId(self.u128());
        let subject = match body.sender() {
            Sender::Client | Sender::Operator => self.subject(),
            Sender::Node | Sender::Leader => Subject::None,
        };
        Command { request, clock_ms: self.u64(), wall_ms: self.u64(), subject, body }
    }

    fn subject(&mut self) -> Subject {
        match self.below(4) {
            0 => Subject::None,
            1 => Subject::Key,
            2 => Subject::Local,
            _ => self.token(),
        }
    }

    fn token(&mut self) -> Subject {
        let mut tokens = self.list(|draw| TokenId(draw.u128()));
        tokens.push(TokenId(self.u128()));
        Subject::Token(TokenSubject {
            name: format!("subject{}", self.u64()),
            issuer: TokenId(self.u128()),
            tokens,
            grant: Grant {
                rights: Rights::from_wire(self.below(16)).unwrap(),
                namespaces: self.list(Self::namespace),
            },
        })
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
            Refusal::NotOpenEnded(checkpoint),
            Refusal::NothingSealed(checkpoint),
            Refusal::StepExists { namespace: self.namespace(), step: Step(self.u64()), checkpoint },
            Refusal::RolledBack { step: Step(7), got: Attempt(2), aborted: Attempt(3) },
            Refusal::Fenced {
                got: Attempt(self.u64()),
                current: Attempt(self.u64()),
                client: format!("client {part}"),
                began_wall_ms: self.u64(),
            },
            Refusal::OtherJob {
                attempt: Attempt(self.u64()),
                got: format!("got {have}"),
                current: format!("current {want}"),
                client: format!("client {part}"),
                began_wall_ms: self.u64(),
            },
            Refusal::OtherTerms {
                what: format!("what {part}"),
                got: format!("got {have}"),
                current: format!("current {want}"),
            },
            Refusal::PartCount { got: have, current: want },
            Refusal::PartOutOfRange { part, parts: want },
            Refusal::PartSealed { part },
            Refusal::OtherRun { part },
            Refusal::SetDigestMismatch { part },
            Refusal::BadManifest { part, problem: format!("text {part}") },
            Refusal::NameClash {
                name: format!("name {part}"),
                first: have,
                second: want,
                same_kind: self.bool(),
            },
            Refusal::PartOverlap { name: format!("name {part}"), first: have, second: want },
            Refusal::NotCompared { part, compared: have, sealed: want },
            Refusal::SegmentNotStaged(self.digest()),
            Refusal::NotEnoughHosts { have, want, shortage: Shortage::default() },
            Refusal::NotEnoughRacks {
                have,
                want,
                shortage: Shortage {
                    bytes: self.u64(),
                    nodes: vec![
                        (node, Obstacle::Down),
                        (NodeId(self.u64()), Obstacle::Full { free_bytes: self.u64() }),
                    ],
                },
            },
            Refusal::BadTargets,
            Refusal::KeptByPolicy { keep_last: want },
            Refusal::PolicyChanged { got: 7, current: u64::MAX },
            Refusal::NotInTrash(CheckpointId(7)),
            Refusal::NotAllowed {
                subject: format!("subject{part}"),
                right: "write".into(),
                place: format!("team/{part}"),
            },
            Refusal::NotOwner { what: format!("upload {part}"), owner: "ci".into() },
            Refusal::BadToken(format!("token {part} is revoked")),
            Refusal::StepTaken { checkpoint: CheckpointId(7), by: CheckpointId(9) },
            Refusal::Protected { checkpoint: CheckpointId(self.u64()), by: format!("ref {part}") },
            Refusal::RefMoved {
                name: format!("name {part}"),
                expected: self.u64(),
                current: self.u64(),
            },
            Refusal::NoSuchRef { namespace: format!("n{part}"), name: format!("name {part}") },
            Refusal::CursorTooOld {
                cursor: crate::event::EventId::end_of(crate::ids::Lineage(0), self.u64()),
                floor: crate::event::EventId {
                    lineage: crate::ids::Lineage(1),
                    index: self.u64(),
                    place: part,
                },
            },
            Refusal::WatcherTooSlow,
            Refusal::NoBestMetric { namespace: format!("n{part}"), metric: format!("m{part}") },
            Refusal::NoSuchHold {
                checkpoint: CheckpointId(self.u64()),
                owner: format!("owner {part}"),
            },
            Refusal::Quarantined {
                checkpoint: CheckpointId(self.u64()),
                reason: format!("reason {part}"),
            },
            Refusal::LastReplicas { node, segments: self.u64() },
            Refusal::LastNode(node),
            Refusal::TooFewHosts { node, hosts: have, wanted: want },
            Refusal::PlaceTaken { node },
            Refusal::NoMajority { node, up: have, voters: want },
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
                first_part: self.u32(),
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
                    form: draw.option(|draw| {
                        Form::told(draw.below(9), 1 << 20, 1 << 19).unwrap_or(Form::raw(7))
                    }),
                }),
            },
            Reply::Reported { accepted: self.u32(), refused: self.u32() },
            Reply::Sealed { parts_sealed: self.u32(), parts: self.u32() },
            Reply::Committed { checkpoint, durability: self.durability() },
            Reply::Lacking { segments: self.list(|draw| SegmentId(draw.u64())), total: self.u64() },
            Reply::Dropped { left: self.u64() },
            Reply::TimeRepaired { changed: self.u32(), next: self.option(Self::u64) },
            Reply::RolledBack { quarantined: self.u64(), aborted: self.u64() },
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
            parts: self
                .list(|draw| SealedPart {
                    manifest: draw.place(),
                    set_digest: draw.digest().0,
                    bytes: draw.u64(),
                    files: draw.u64(),
                })
                .into(),
            commit: self.option(|draw| Commit { index: draw.u64(), wall_ms: draw.u64() }),
            labels: self.labels(),
            metrics: self.metrics(),
            bytes: self.u64(),
            files: self.u64(),
            segments: self.u64(),
            segment_bytes: self.u64(),
            new_bytes: self.option(Self::u64),
            durability: self.durability(),
            parts_wanted: self.u32(),
            parts_missing: self.u32(),
            open_ended: self.bool(),
            first_missing: self.list(Self::u32),
            began: Began {
                index: self.u64(),
                wall_ms: self.u64(),
                client: format!("client {}", self.u32()),
                job: format!("job {}", self.u32()),
                subject: format!("subject{}", self.u32()),
            },
            quarantine: self.option(|draw| Quarantine {
                reason: format!("reason {}", draw.u32()),
                by: format!("client {}", draw.u32()),
                wall_ms: draw.u64(),
            }),
            refs: self.list(|draw| format!("ref{}", draw.u32()).parse().unwrap()),
            holds: self.list(|draw| Hold {
                owner: format!("owner {}", draw.u32()),
                reason: format!("reason {}", draw.u32()),
                until_ms: draw.option(Self::u64),
                wall_ms: draw.u64(),
                until_wall_ms: draw.option(Self::u64),
            }),
            deletion: self.option(|draw| Deletion {
                reason: DeletedFor::from_number(draw.below(4) + 1).unwrap(),
                by: format!("b{}", draw.u64()),
                wall_ms: draw.u64(),
                restorable_ms: draw.u64(),
            }),
            upload: self.option(|draw| UploadProgress {
                durable_bytes: draw.u64(),
                lease_left_ms: draw.u64(),
                deleted_in_ms: draw.u64(),
                idle_ms: draw.u64(),
                parts_begun: draw.u32(),
                first_begun: draw.list(|draw| PartProgress {
                    part: draw.u32(),
                    segments: draw.u64(),
                    bytes: draw.u64(),
                    durable_bytes: draw.u64(),
                }),
            }),
        }
    }
}

fn draw(seed: u64) -> Draw {
    Draw(StdRng::seed_from_u64(seed))
}

#[test]
fn every_command_reads_back_equal() {
    let mut draw = draw(1);
    for _ in 0..120 {
        for body in one_of_each(&mut draw) {
            let command = draw.command_of(body);
            assert_eq!(decode_command(&encode_command(&command), FEATURE_LEVEL).unwrap(), command);
        }
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
        subject: Subject::None,
        body: command::RemoveNode { node: NodeId(4), accept: Accept::default() }.into(),
    };
    assert_eq!(
        hex::encode(encode_command(&command)),
        "0a10000000000000000000000000000000011002180320017a020804"
    );
}

/// The command in `bytes`, as a node of this build reads it.
fn read(message: &wire::Command) -> Result<Command, ConvertError> {
    decode_command(&message.encode_to_vec(), FEATURE_LEVEL)
}

#[test]
fn a_command_from_the_future_is_told_from_a_malformed_one() {
    let subject = Subject::None;
    let command = Command { subject, body: command::LeaderStarted.into(), ..draw(4).command() };
    let bytes = encode_command(&command);
    let older = decode_command(&bytes, 0);
    assert_eq!(older, Err(ConvertError::FutureCommand { feature_level: 1 }));
    let message = wire::Command::decode(&bytes[..]).unwrap();
    let newer = wire::Command { feature_level: FEATURE_LEVEL + 1, ..message.clone() };
    let future = ConvertError::FutureCommand { feature_level: FEATURE_LEVEL + 1 };
    assert_eq!(read(&newer), Err(future));
    // A body field this build does not know is skipped by prost, so the body is unset.
    let unknown = wire::Command { body: None, ..message.clone() };
    let mut bytes = unknown.encode_to_vec();
    bytes.extend([0xa2, 0x06, 0x00]);
    let future = ConvertError::FutureCommand { feature_level: 1 };
    assert_eq!(decode_command(&bytes, FEATURE_LEVEL), Err(future));
    let short = wire::Command { request: Bytes::from_static(b"short"), ..message };
    assert_eq!(read(&short).unwrap_err().to_string(), "request id is 5 bytes long, not 16");
}

#[test]
fn a_field_that_this_build_does_not_know_is_refused() {
    let command = draw(6).command();
    let mut bytes = encode_command(&command).to_vec();
    bytes.extend([0xf8, 0x07, 0x01]);
    let unknown = Err(ConvertError::UnknownFields { what: "command" });
    assert_eq!(decode_command(&bytes, FEATURE_LEVEL), unknown, "beside the command's body");
    // Inside the body: RemoveNode { node: 4 } with a field 15 of a later build.
    let mut bytes = vec![0x0a, 0x10];
    bytes.extend([0; 16]);
    bytes.extend([0x20, 0x01, 0x7a, 0x04, 0x08, 0x04, 0x78, 0x01]);
    assert_eq!(decode_command(&bytes, FEATURE_LEVEL), unknown, "in the command's body");
}

#[test]
fn a_command_says_the_level_it_needs() {
    let checkpoint = CheckpointId(1);
    let (labels, metrics, remove) = Default::default();
    let body = command::Annotate { checkpoint, labels, metrics, remove }.into();
    let annotate = Command { subject: Subject::None, body, ..draw(7).command() };
    let bytes = encode_command(&annotate);
    let older = decode_command(&bytes, 1);
    assert_eq!(older, Err(ConvertError::FutureCommand { feature_level: 2 }));
    assert_eq!(decode_command(&bytes, 2), Ok(annotate));
    let lying = wire::Command { feature_level: 1, ..wire::Command::decode(&bytes[..]).unwrap() };
    let error = decode_command(&lying.encode_to_vec(), 1).unwrap_err();
    assert_eq!(error.to_string(), "feature level cannot be 1");
    // Every build understands that a level is raised.
    let body = command::RaiseFeatureLevel { level: 7 }.into();
    let raise = Command { subject: Subject::None, body, ..draw(8).command() };
    assert_eq!(decode_command(&encode_command(&raise), 1), Ok(raise));
}

#[test]
fn a_command_with_a_subject_needs_the_level_that_knows_subjects() {
    let body: Body = command::RemoveNode { node: NodeId(4), accept: Accept::default() }.into();
    for (subject, level) in [(Subject::None, 1), (Subject::Key, 3), (draw(9).token(), 3)] {
        let command = Command { subject, ..Command::new(RequestId(1), 2, 3, body.clone()) };
        let bytes = encode_command(&command);
        let older = decode_command(&bytes, level - 1);
        assert_eq!(older, Err(ConvertError::FutureCommand { feature_level: level }));
        assert_eq!(decode_command(&bytes, level), Ok(command));
    }
}

#[test]
fn a_malformed_subject_is_refused() {
    let message = wire::Command::decode(&encode_command(&draw(4).command())[..]).unwrap();
    let token = draw(9).token().to_wire().unwrap();
    let read = |subject: wire::Subject| {
        let body = wire::command::Body::RequireTokens(wire::RequireTokens::default());
        let (subject, body) = (Some(subject), Some(body));
        read(&wire::Command { feature_level: 3, subject, body, ..message.clone() })
    };
    read(token.clone()).unwrap();
    for subject in [
        wire::Subject::default(),
        wire::Subject { kind: 9, ..token.clone() },
        wire::Subject { kind: wire::SubjectKind::Key.into(), ..token.clone() },
        wire::Subject { name: "a b".into(), ..token.clone() },
        wire::Subject { name: "a".repeat(SUBJECT_BYTES_MAX + 1), ..token.clone() },
        wire::Subject { tokens: vec![], ..token.clone() },
        wire::Subject { tokens: vec![id128_to_wire(1); TOKEN_BLOCKS_MAX + 1], ..token.clone() },
        wire::Subject { rights: 16, ..token.clone() },
        wire::Subject { namespaces: vec!["a//b".into()], ..token.clone() },
    ] {
        assert!(read(subject.clone()).is_err(), "{subject:?}");
    }
}

#[test]
fn a_batch_above_the_limit_is_refused() {
    let message = |count: usize| wire::Command {
        request: id128_to_wire(0),
        feature_level: 1,
        body: Some(wire::command::Body::Reap(wire::Reap { segments: vec![1; count] })),
        ..Default::default()
    };
    read(&message(BATCH_SEGMENTS_MAX)).unwrap();
    let error = read(&message(BATCH_SEGMENTS_MAX + 1)).unwrap_err();
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
    let say = |body| read(&command(body)).unwrap_err().to_string();
    use wire::command::Body as Form;
    let stage = |digest: &'static [u8], len| {
        let digest = Bytes::from_static(digest);
        let segments = vec![wire::StageSegment { digest, len, ..Default::default() }];
        Form::Stage(wire::Stage { segments, ..Default::default() })
    };
    assert_eq!(say(stage(&[0; 31], 1)), "segment digest is 31 bytes long, not 32");
    assert_eq!(say(stage(&[0; 32], 0)), "segment length cannot be 0");
    assert!(say(stage(&[0; 32], SEGMENT_BYTES_MAX as u32 + 1)).contains("segment length"));
    let coded = |codec, stored_len| {
        let digest = Bytes::from_static(&[0; 32]);
        let segment = wire::StageSegment { digest, len: 9, codec, stored_len, targets: vec![] };
        Form::Stage(wire::Stage { segments: vec![segment], ..Default::default() })
    };
    assert_eq!(say(coded(7, 5)), "codec 7 is not one that this build knows");
    assert_eq!(say(coded(0, 5)), "5 stored bytes cannot stand for 9 raw ones in codec 0");
    let change = wire::PolicyChange { isolation: Some(9), ..Default::default() };
    let set = wire::SetPolicy { namespace: "a".into(), change: Some(change), ..Default::default() };
    assert_eq!(say(Form::SetPolicy(set.clone())), "isolation cannot be 9");
    let set = wire::SetPolicy { namespace: "a/../b".into(), ..Default::default() };
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
            let _ = decode_command(&bytes, FEATURE_LEVEL);
        }
    }
}

#[test]
fn a_forced_deletion_needs_the_level_that_knows_force() {
    let delete = |force| {
        let reason = command::DeleteReason::Asked;
        let (checkpoint, policy_version) = (CheckpointId(7), None);
        let delete = command::Delete {
            checkpoint,
            reason,
            now: true,
            force,
            policy_version,
            by: String::new(),
        };
        Command { subject: Subject::None, body: delete.into(), ..draw(7).command() }
    };
    let (plain, forced) = (encode_command(&delete(false)), encode_command(&delete(true)));
    assert_eq!(decode_command(&plain, 1), Ok(delete(false)));
    let future = ConvertError::FutureCommand { feature_level: 2 };
    assert_eq!(decode_command(&forced, 1), Err(future));
    assert_eq!(decode_command(&forced, 2), Ok(delete(true)));
}
