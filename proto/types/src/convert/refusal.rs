//! Refusals: a kind, and the variant's fields in order as numbers, a digest and two texts.

use crate::command::{Obstacle, Refusal, Shortage};
use crate::ids::{Attempt, CheckpointId, Incarnation, NodeId, Step};
use crate::limits::SHORTAGE_NODES_MAX;

use super::{ConvertError, at_most, digest_from_wire, digest_to_wire};
use crate::wire::{self, RefusalKind as Kind};

pub fn refusal_to_wire(refusal: &Refusal) -> wire::Refusal {
    let mut message = wire::Refusal::default();
    let (kind, numbers) = match refusal {
        Refusal::AlreadyInitialized => (Kind::AlreadyInitialized, vec![]),
        Refusal::NotInitialized => (Kind::NotInitialized, vec![]),
        Refusal::UnknownNode(node) => (Kind::UnknownNode, vec![node.0]),
        Refusal::NodeRemoved(node) => (Kind::NodeRemoved, vec![node.0]),
        Refusal::WrongCookie { node } => (Kind::WrongCookie, vec![node.0]),
        Refusal::StaleIdentity { node } => (Kind::StaleIdentity, vec![node.0]),
        Refusal::StaleIncarnation { node, got, current } => {
            (Kind::StaleIncarnation, vec![node.0, got.0, current.0])
        }
        Refusal::UnknownCheckpoint(checkpoint) => (Kind::UnknownCheckpoint, vec![checkpoint.0]),
        Refusal::NoSuchCheckpoint { namespace, selector } => {
            message.first.clone_from(namespace);
            message.second.clone_from(selector);
            (Kind::NoSuchCheckpoint, vec![])
        }
        Refusal::NotOpen(checkpoint) => (Kind::NotOpen, vec![checkpoint.0]),
        Refusal::NotOpenEnded(checkpoint) => (Kind::NotOpenEnded, vec![checkpoint.0]),
        Refusal::NothingSealed(checkpoint) => (Kind::NothingSealed, vec![checkpoint.0]),
        Refusal::StepExists { namespace, step, checkpoint } => {
            message.first = namespace.to_string();
            (Kind::StepExists, vec![step.0, checkpoint.0])
        }
        Refusal::Fenced { got, current, client, began_wall_ms } => {
            message.first.clone_from(client);
            (Kind::Fenced, vec![got.0, current.0, *began_wall_ms])
        }
        Refusal::RolledBack { step, got, aborted } => {
            (Kind::RolledBack, vec![step.0, got.0, aborted.0])
        }
        Refusal::OtherJob { attempt, got, current, client, began_wall_ms } => {
            message.first.clone_from(got);
            message.second.clone_from(current);
            message.third.clone_from(client);
            (Kind::OtherJob, vec![attempt.0, *began_wall_ms])
        }
        Refusal::OtherTerms { what, got, current } => {
            message.first.clone_from(what);
            message.second.clone_from(got);
            message.third.clone_from(current);
            (Kind::OtherTerms, vec![])
        }
        Refusal::PartCount { got, current } => (Kind::PartCount, pair(*got, *current)),
        Refusal::PartOutOfRange { part, parts } => (Kind::PartOutOfRange, pair(*part, *parts)),
        Refusal::PartSealed { part } => (Kind::PartSealed, vec![(*part).into()]),
        Refusal::OtherRun { part } => (Kind::OtherRun, vec![(*part).into()]),
        Refusal::SetDigestMismatch { part } => (Kind::SetDigestMismatch, vec![(*part).into()]),
        Refusal::BadManifest { part, problem } => {
            message.first.clone_from(problem);
            (Kind::BadManifest, vec![(*part).into()])
        }
        Refusal::NameClash { name, first, second, same_kind } => {
            message.first.clone_from(name);
            let numbers = vec![(*first).into(), (*second).into(), (*same_kind).into()];
            (Kind::NameClash, numbers)
        }
        Refusal::PartOverlap { name, first, second } => {
            message.first.clone_from(name);
            (Kind::PartOverlap, pair(*first, *second))
        }
        Refusal::NotCompared { part, compared, sealed } => {
            let numbers = [*part, *compared, *sealed];
            (Kind::NotCompared, numbers.map(u64::from).to_vec())
        }
        Refusal::SegmentNotStaged(digest) => {
            message.digest = digest_to_wire(digest);
            (Kind::SegmentNotStaged, vec![])
        }
        Refusal::NotEnoughHosts { have, want, shortage } => {
            (Kind::NotEnoughHosts, shortage_to_wire(*have, *want, shortage))
        }
        Refusal::NotEnoughRacks { have, want, shortage } => {
            (Kind::NotEnoughRacks, shortage_to_wire(*have, *want, shortage))
        }
        Refusal::BadTargets => (Kind::BadTargets, vec![]),
        Refusal::KeptByPolicy { keep_last } => (Kind::KeptByPolicy, vec![(*keep_last).into()]),
        Refusal::PolicyChanged { got, current } => (Kind::PolicyChanged, vec![*got, *current]),
        Refusal::NotInTrash(checkpoint) => (Kind::NotInTrash, vec![checkpoint.0]),
        Refusal::StepTaken { checkpoint, by } => (Kind::StepTaken, vec![checkpoint.0, by.0]),
        Refusal::Protected { checkpoint, by } => {
            message.first.clone_from(by);
            (Kind::Protected, vec![checkpoint.0])
        }
        Refusal::Quarantined { checkpoint, reason } => {
            message.first.clone_from(reason);
            (Kind::Quarantined, vec![checkpoint.0])
        }
        Refusal::RefMoved { name, expected, current } => {
            message.first.clone_from(name);
            (Kind::RefMoved, vec![*expected, *current])
        }
        Refusal::NoSuchRef { namespace, name } => {
            message.first.clone_from(namespace);
            message.second.clone_from(name);
            (Kind::NoSuchRef, vec![])
        }
        Refusal::CursorTooOld { cursor, floor } => {
            message.first = cursor.to_string();
            message.second = floor.to_string();
            (Kind::CursorTooOld, vec![])
        }
        Refusal::WatcherTooSlow => (Kind::WatcherTooSlow, vec![]),
        Refusal::NoBestMetric { namespace, metric } => {
            message.first.clone_from(namespace);
            message.second.clone_from(metric);
            (Kind::NoBestMetric, vec![])
        }
        Refusal::NoSuchHold { checkpoint, owner } => {
            message.first.clone_from(owner);
            (Kind::NoSuchHold, vec![checkpoint.0])
        }
        Refusal::LastReplicas { node, segments } => (Kind::LastReplicas, vec![node.0, *segments]),
        Refusal::LastNode(node) => (Kind::LastNode, vec![node.0]),
        Refusal::TooFewHosts { node, hosts, wanted } => {
            (Kind::TooFewHosts, vec![node.0, (*hosts).into(), (*wanted).into()])
        }
        Refusal::PlaceTaken { node } => (Kind::PlaceTaken, vec![node.0]),
        Refusal::NoMajority { node, up, voters } => {
            (Kind::NoMajority, vec![node.0, (*up).into(), (*voters).into()])
        }
        Refusal::FeatureLevel { needed, current } => (Kind::FeatureLevel, pair(*needed, *current)),
        Refusal::OldBuild { got, current } => (Kind::OldBuild, pair(*got, *current)),
        Refusal::NotAllowed { subject, right, place } => {
            message.first.clone_from(subject);
            message.second.clone_from(right);
            message.third.clone_from(place);
            (Kind::NotAllowed, vec![])
        }
        Refusal::NotOwner { what, owner } => {
            message.first.clone_from(what);
            message.second.clone_from(owner);
            (Kind::NotOwner, vec![])
        }
        Refusal::BadToken(why) => {
            message.first.clone_from(why);
            (Kind::BadToken, vec![])
        }
        Refusal::Malformed(text) => {
            message.first.clone_from(text);
            (Kind::Malformed, vec![])
        }
    };
    wire::Refusal { kind: kind.into(), numbers, ..message }
}

/// Have, want, bytes; then for each node its id, 1 where it has too little room, and the room.
fn shortage_to_wire(have: u32, want: u32, shortage: &Shortage) -> Vec<u64> {
    let mut numbers = vec![have.into(), want.into(), shortage.bytes];
    for (node, obstacle) in &shortage.nodes {
        numbers.extend(match obstacle {
            Obstacle::Down => [node.0, 0, 0],
            Obstacle::Full { free_bytes } => [node.0, 1, *free_bytes],
        });
    }
    numbers
}

fn pair(first: u32, second: u32) -> Vec<u64> {
    vec![first.into(), second.into()]
}

pub fn refusal_from_wire(message: wire::Refusal) -> Result<Refusal, ConvertError> {
    let unknown =
        ConvertError::Value { field: "refusal kind", got: u64::from(message.kind as u32) };
    let kind = Kind::try_from(message.kind).map_err(|_| unknown.clone())?;
    let numbers = Numbers(&message.numbers);
    let node = || numbers.first().map(NodeId);
    let checkpoint = || numbers.first().map(CheckpointId);
    let refusal = match kind {
        Kind::Unspecified => return Err(unknown),
        Kind::AlreadyInitialized => Refusal::AlreadyInitialized,
        Kind::NotInitialized => Refusal::NotInitialized,
        Kind::UnknownNode => Refusal::UnknownNode(node()?),
        Kind::NodeRemoved => Refusal::NodeRemoved(node()?),
        Kind::WrongCookie => Refusal::WrongCookie { node: node()? },
        Kind::StaleIdentity => Refusal::StaleIdentity { node: node()? },
        Kind::StaleIncarnation => Refusal::StaleIncarnation {
            node: node()?,
            got: Incarnation(numbers.at(1)?),
            current: Incarnation(numbers.at(2)?),
        },
        Kind::UnknownCheckpoint => Refusal::UnknownCheckpoint(checkpoint()?),
        Kind::NoSuchCheckpoint => {
            Refusal::NoSuchCheckpoint { namespace: message.first, selector: message.second }
        }
        Kind::NotAllowed => Refusal::NotAllowed {
            subject: message.first,
            right: message.second,
            place: message.third,
        },
        Kind::NotOwner => Refusal::NotOwner { what: message.first, owner: message.second },
        Kind::BadToken => Refusal::BadToken(message.first),
        Kind::NotOpen => Refusal::NotOpen(checkpoint()?),
        Kind::NotOpenEnded => Refusal::NotOpenEnded(checkpoint()?),
        Kind::NothingSealed => Refusal::NothingSealed(checkpoint()?),
        Kind::StepExists => Refusal::StepExists {
            namespace: message.first.parse()?,
            step: numbers.first().map(Step)?,
            checkpoint: numbers.at(1).map(CheckpointId)?,
        },
        Kind::Fenced => Refusal::Fenced {
            got: Attempt(numbers.at(0)?),
            current: Attempt(numbers.at(1)?),
            client: message.first,
            began_wall_ms: numbers.at(2)?,
        },
        Kind::RolledBack => Refusal::RolledBack {
            step: Step(numbers.at(0)?),
            got: Attempt(numbers.at(1)?),
            aborted: Attempt(numbers.at(2)?),
        },
        Kind::OtherJob => Refusal::OtherJob {
            attempt: Attempt(numbers.at(0)?),
            got: message.first,
            current: message.second,
            client: message.third,
            began_wall_ms: numbers.at(1)?,
        },
        Kind::OtherTerms => {
            Refusal::OtherTerms { what: message.first, got: message.second, current: message.third }
        }
        Kind::FeatureLevel => {
            Refusal::FeatureLevel { needed: numbers.small(0)?, current: numbers.small(1)? }
        }
        Kind::OldBuild => Refusal::OldBuild { got: numbers.small(0)?, current: numbers.small(1)? },
        Kind::PartCount => {
            Refusal::PartCount { got: numbers.small(0)?, current: numbers.small(1)? }
        }
        Kind::PartOutOfRange => {
            Refusal::PartOutOfRange { part: numbers.small(0)?, parts: numbers.small(1)? }
        }
        Kind::PartSealed => Refusal::PartSealed { part: numbers.small(0)? },
        Kind::OtherRun => Refusal::OtherRun { part: numbers.small(0)? },
        Kind::SetDigestMismatch => Refusal::SetDigestMismatch { part: numbers.small(0)? },
        Kind::BadManifest => {
            Refusal::BadManifest { part: numbers.small(0)?, problem: message.first }
        }
        Kind::NameClash => Refusal::NameClash {
            name: message.first,
            first: numbers.small(0)?,
            second: numbers.small(1)?,
            same_kind: numbers.at(2)? != 0,
        },
        Kind::PartOverlap => Refusal::PartOverlap {
            name: message.first,
            first: numbers.small(0)?,
            second: numbers.small(1)?,
        },
        Kind::NotCompared => Refusal::NotCompared {
            part: numbers.small(0)?,
            compared: numbers.small(1)?,
            sealed: numbers.small(2)?,
        },
        Kind::SegmentNotStaged => {
            Refusal::SegmentNotStaged(digest_from_wire("refusal digest", &message.digest)?)
        }
        Kind::NotEnoughHosts => Refusal::NotEnoughHosts {
            have: numbers.small(0)?,
            want: numbers.small(1)?,
            shortage: numbers.shortage(2)?,
        },
        Kind::NotEnoughRacks => Refusal::NotEnoughRacks {
            have: numbers.small(0)?,
            want: numbers.small(1)?,
            shortage: numbers.shortage(2)?,
        },
        Kind::BadTargets => Refusal::BadTargets,
        Kind::KeptByPolicy => Refusal::KeptByPolicy { keep_last: numbers.small(0)? },
        Kind::PolicyChanged => {
            Refusal::PolicyChanged { got: numbers.at(0)?, current: numbers.at(1)? }
        }
        Kind::NotInTrash => Refusal::NotInTrash(checkpoint()?),
        Kind::StepTaken => {
            Refusal::StepTaken { checkpoint: checkpoint()?, by: numbers.at(1).map(CheckpointId)? }
        }
        Kind::Protected => Refusal::Protected { checkpoint: checkpoint()?, by: message.first },
        Kind::Quarantined => {
            Refusal::Quarantined { checkpoint: checkpoint()?, reason: message.first }
        }
        Kind::RefMoved => Refusal::RefMoved {
            name: message.first,
            expected: numbers.at(0)?,
            current: numbers.at(1)?,
        },
        Kind::NoSuchRef => Refusal::NoSuchRef { namespace: message.first, name: message.second },
        Kind::CursorTooOld => {
            Refusal::CursorTooOld { cursor: message.first.parse()?, floor: message.second.parse()? }
        }
        Kind::WatcherTooSlow => Refusal::WatcherTooSlow,
        Kind::NoBestMetric => {
            Refusal::NoBestMetric { namespace: message.first, metric: message.second }
        }
        Kind::NoSuchHold => Refusal::NoSuchHold { checkpoint: checkpoint()?, owner: message.first },
        Kind::LastReplicas => Refusal::LastReplicas { node: node()?, segments: numbers.at(1)? },
        Kind::LastNode => Refusal::LastNode(node()?),
        Kind::TooFewHosts => Refusal::TooFewHosts {
            node: node()?,
            hosts: numbers.small(1)?,
            wanted: numbers.small(2)?,
        },
        Kind::PlaceTaken => Refusal::PlaceTaken { node: node()? },
        Kind::NoMajority => {
            Refusal::NoMajority { node: node()?, up: numbers.small(1)?, voters: numbers.small(2)? }
        }
        Kind::Malformed => Refusal::Malformed(message.first),
    };
    Ok(refusal)
}

/// A variant's numeric fields, in order.
struct Numbers<'a>(&'a [u64]);

impl Numbers<'_> {
    fn at(&self, place: usize) -> Result<u64, ConvertError> {
        let field = "number of a refusal";
        self.0.get(place).copied().ok_or(ConvertError::Missing { field })
    }

    fn first(&self) -> Result<u64, ConvertError> {
        self.at(0)
    }

    fn shortage(&self, place: usize) -> Result<Shortage, ConvertError> {
        let nodes = self.0.get(place + 1..).unwrap_or_default();
        at_most("nodes of a refusal", nodes.len() / 3, SHORTAGE_NODES_MAX)?;
        let node = |numbers: &[u64]| {
            let full = Obstacle::Full { free_bytes: numbers[2] };
            (NodeId(numbers[0]), if numbers[1] == 0 { Obstacle::Down } else { full })
        };
        let nodes = nodes.chunks_exact(3).map(node).collect();
        Ok(Shortage { bytes: self.at(place)?, nodes })
    }

    fn small(&self, place: usize) -> Result<u32, ConvertError> {
        let got = self.at(place)?;
        let field = "number of a refusal";
        u32::try_from(got).map_err(|_| ConvertError::Value { field, got })
    }
}
