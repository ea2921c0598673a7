//! Refusals: a kind, and the variant's fields in order as numbers, a digest and two texts.

use cairn_core::command::Refusal;
use cairn_core::ids::{Attempt, CheckpointId, Incarnation, NodeId, Step};

use super::{ConvertError, digest_from_wire, digest_to_wire};
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
        Refusal::StepExists { namespace, step, checkpoint } => {
            message.first = namespace.to_string();
            (Kind::StepExists, vec![step.0, checkpoint.0])
        }
        Refusal::Fenced { got, current } => (Kind::Fenced, vec![got.0, current.0]),
        Refusal::PartCount { got, current } => (Kind::PartCount, pair(*got, *current)),
        Refusal::PartOutOfRange { part, parts } => (Kind::PartOutOfRange, pair(*part, *parts)),
        Refusal::PartSealed { part } => (Kind::PartSealed, vec![(*part).into()]),
        Refusal::OtherRun { part } => (Kind::OtherRun, vec![(*part).into()]),
        Refusal::SetDigestMismatch { part } => (Kind::SetDigestMismatch, vec![(*part).into()]),
        Refusal::SegmentNotStaged(digest) => {
            message.digest = digest_to_wire(digest);
            (Kind::SegmentNotStaged, vec![])
        }
        Refusal::NotEnoughHosts { have, want } => (Kind::NotEnoughHosts, pair(*have, *want)),
        Refusal::NotEnoughRacks { have, want } => (Kind::NotEnoughRacks, pair(*have, *want)),
        Refusal::BadTargets => (Kind::BadTargets, vec![]),
        Refusal::KeptByPolicy { keep_last } => (Kind::KeptByPolicy, vec![(*keep_last).into()]),
        Refusal::LastReplicas { node, segments } => (Kind::LastReplicas, vec![node.0, *segments]),
        Refusal::LastNode(node) => (Kind::LastNode, vec![node.0]),
        Refusal::Malformed(text) => {
            message.first.clone_from(text);
            (Kind::Malformed, vec![])
        }
    };
    wire::Refusal { kind: kind.into(), numbers, ..message }
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
        Kind::NotOpen => Refusal::NotOpen(checkpoint()?),
        Kind::StepExists => Refusal::StepExists {
            namespace: message.first.parse()?,
            step: numbers.first().map(Step)?,
            checkpoint: numbers.at(1).map(CheckpointId)?,
        },
        Kind::Fenced => {
            Refusal::Fenced { got: Attempt(numbers.at(0)?), current: Attempt(numbers.at(1)?) }
        }
        Kind::PartCount => {
            Refusal::PartCount { got: numbers.small(0)?, current: numbers.small(1)? }
        }
        Kind::PartOutOfRange => {
            Refusal::PartOutOfRange { part: numbers.small(0)?, parts: numbers.small(1)? }
        }
        Kind::PartSealed => Refusal::PartSealed { part: numbers.small(0)? },
        Kind::OtherRun => Refusal::OtherRun { part: numbers.small(0)? },
        Kind::SetDigestMismatch => Refusal::SetDigestMismatch { part: numbers.small(0)? },
        Kind::SegmentNotStaged => {
            Refusal::SegmentNotStaged(digest_from_wire("refusal digest", &message.digest)?)
        }
        Kind::NotEnoughHosts => {
            Refusal::NotEnoughHosts { have: numbers.small(0)?, want: numbers.small(1)? }
        }
        Kind::NotEnoughRacks => {
            Refusal::NotEnoughRacks { have: numbers.small(0)?, want: numbers.small(1)? }
        }
        Kind::BadTargets => Refusal::BadTargets,
        Kind::KeptByPolicy => Refusal::KeptByPolicy { keep_last: numbers.small(0)? },
        Kind::LastReplicas => Refusal::LastReplicas { node: node()?, segments: numbers.at(1)? },
        Kind::LastNode => Refusal::LastNode(node()?),
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

    fn small(&self, place: usize) -> Result<u32, ConvertError> {
        let got = self.at(place)?;
        let field = "number of a refusal";
        u32::try_from(got).map_err(|_| ConvertError::Value { field, got })
    }
}
