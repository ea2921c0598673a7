//! What Raft orders: commands, the replies apply gives, and the refusals it answers bad ones with.
//!
//! A command has a file of its own here (its type, its message, its generator for tests), a row in
//! [`command_table!`](crate::command_table), a row in `Command.body` of `catalogue.proto`, and
//! `Apply` in cairn-core's catalogue. Everything else follows from the table: [`Body`], who may send
//! it, the feature level it needs, its name for people, its conversions and its dispatch.

mod refusal;
mod reply;

mod add_hold;
mod allocate_node;
mod annotate;
mod assign_slots;
mod begin;
mod close;
mod confirm_retention;
mod declined;
mod delete;
mod drop_part;
mod drop_references;
mod durable;
mod expire_uploads;
mod forget_nodes;
mod init_cluster;
mod inventory;
mod leader_started;
mod lost;
mod raise_feature_level;
mod reap;
mod register;
mod release_hold;
mod release_slots;
mod remove_node;
mod removed;
mod renew;
mod repair_time;
mod require_tokens;
mod revoke_token;
mod rollback;
mod seal_part;
mod set_duty;
mod set_issuer;
mod set_liveness;
mod set_policy;
mod set_quarantine;
mod set_ref;
mod stage;
mod undelete;
mod void_slots;

#[cfg(test)]
pub(crate) mod drawn;

use bytes::Bytes;
use prost::Message;

use crate::convert::{ConvertError, all_known, at_most, id128_from_wire, id128_to_wire, required};
use crate::ids::{Epoch, NodeId, RequestId, SegmentId};
use crate::limits::{BATCH_SEGMENTS_MAX, COMMAND_BYTES_MAX};
use crate::rights::{Need, Subject};
use crate::wire;

pub use refusal::{Obstacle, Refusal, Shortage};
pub use reply::{Begun, Reply, StagedSegment};
pub use seal_part::NOT_COMPARED;
pub use set_duty::{MAINTENANCE_MAX, NewDuty};

/// The highest feature level this build understands. It rises with the first command, or field of
/// a command, that an older build would not understand.
pub const FEATURE_LEVEL: u32 = 5;

/// The feature level from which commands say on whose behalf they are.
pub const SUBJECT_LEVEL: u32 = 3;

/// The feature level from which uploads may leave the number of their parts open.
pub const OPEN_ENDED_LEVEL: u32 = 4;

/// The feature level from which the log has an audit: its chain is part of the catalogue.
pub const AUDIT_LEVEL: u32 = 5;

/// The feature level from which the catalogue records the public keys of nodes.
pub const NODE_KEYS_LEVEL: u32 = 5;

/// Gives every command to the macro `$with`, behind what else it was given: module, name, sender,
/// what a subject needs for it, feature level, words for people.
#[macro_export]
macro_rules! command_table {
    ($with:ident $($given:tt)*) => {
        $with! { $($given)*;
            init_cluster InitCluster Leader Node 1 "make the cluster",
            allocate_node AllocateNode Leader Node 1 "allocate node",
            register Register Node Node 1 "register node",
            inventory Inventory Node Node 1 "take inventory",
            set_liveness SetLiveness Leader Node 1 "set liveness",
            remove_node RemoveNode Operator Operate 1 "remove node",
            set_duty SetDuty Operator Operate 5 "set duty of node",
            void_slots VoidSlots Leader Node 2 "void slots",
            forget_nodes ForgetNodes Leader Node 1 "forget nodes",
            raise_feature_level RaiseFeatureLevel Leader Node 1 "raise feature level",
            set_policy SetPolicy Operator Operate 1 "set policy",
            confirm_retention ConfirmRetention Operator Delete 2 "confirm retention",
            repair_time RepairTime Operator Operate 1 "repair time",
            begin Begin Client Write 1 "begin upload",
            stage Stage Client Write 1 "stage segments",
            durable Durable Node Node 1 "report durable replicas",
            lost Lost Node Node 1 "report lost replicas",
            declined Declined Node Node 1 "decline replicas",
            removed Removed Node Node 1 "report removed replicas",
            seal_part SealPart Client Write 1 "seal part",
            drop_part DropPart Client Write 4 "drop part",
            close Close Client Write 4 "close upload",
            renew Renew Client Write 1 "renew lease",
            leader_started LeaderStarted Leader Node 1 "start to lead",
            expire_uploads ExpireUploads Leader Node 1 "expire uploads",
            annotate Annotate Client Write 2 "annotate checkpoint",
            set_ref SetRef Client Write 2 "set ref",
            add_hold AddHold Client Delete 2 "add hold",
            release_hold ReleaseHold Client Delete 2 "release hold",
            set_quarantine SetQuarantine Client Delete 2 "quarantine checkpoint",
            rollback Rollback Client Delete 2 "roll back",
            delete Delete Client Delete 1 "delete checkpoint",
            undelete Undelete Client Delete 2 "undelete checkpoint",
            drop_references DropReferences Leader Node 1 "drop references",
            reap Reap Leader Node 1 "reap segments",
            assign_slots AssignSlots Leader Node 1 "assign slots",
            release_slots ReleaseSlots Leader Node 1 "release slots",
            set_issuer SetIssuer Operator Operate 3 "set issuer of tokens",
            revoke_token RevokeToken Operator Operate 3 "revoke token",
            require_tokens RequireTokens Operator Operate 3 "require tokens",
        }
    };
}

/// One log entry's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Zero for commands that are idempotent by themselves.
    pub request: RequestId,
    /// The leader's cluster time when it proposed this.
    pub clock_ms: u64,
    /// The leader's wall clock: a label only.
    pub wall_ms: u64,
    /// On whose behalf it was proposed.
    pub subject: Subject,
    pub body: Body,
}

impl Command {
    /// One that nobody asked for, or whose subject the leader will add.
    pub fn new(request: RequestId, clock_ms: u64, wall_ms: u64, body: Body) -> Self {
        Self { request, clock_ms, wall_ms, subject: Subject::None, body }
    }

    /// The level a node must understand to apply it.
    pub fn feature_level(&self) -> u32 {
        match self.subject {
            Subject::None => self.body.feature_level(),
            _ => self.body.feature_level().max(SUBJECT_LEVEL),
        }
    }
}

/// Who may send a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// A client that may write to its namespace.
    Client,
    /// An operator of the cluster.
    Operator,
    /// A node, about itself.
    Node,
    /// The leader, by itself.
    Leader,
}

/// How a command travels and is stored.
pub(crate) trait OnWire: Sized {
    type Message;
    fn to_wire(&self) -> Self::Message;
    /// With every check of shape.
    fn from_wire(message: Self::Message) -> Result<Self, ConvertError>;

    /// The level a node must understand to apply this one; `in_table` is that of its row.
    fn feature_level(&self, in_table: u32) -> u32 {
        in_table
    }
}

macro_rules! define {
    (; $($module:ident $Name:ident $sender:ident $need:ident $level:literal $words:literal,)*) => {
        $(pub use $module::*;)*

        /// One of all commands.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Body {
            $($Name($Name),)*
        }

        $(impl From<$Name> for Body {
            fn from(command: $Name) -> Self {
                Self::$Name(command)
            }
        })*

        impl Body {
            pub fn sender(&self) -> Sender {
                match self {
                    $(Self::$Name(_) => Sender::$sender,)*
                }
            }

            /// What a subject needs for it; some need more for what they say.
            pub fn need(&self) -> Need {
                match self {
                    $(Self::$Name(_) => Need::$need,)*
                }
            }

            /// A name of one word, for metrics.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$Name(_) => stringify!($module),)*
                }
            }

            /// A verb and its object, for people.
            pub fn words(&self) -> &'static str {
                match self {
                    $(Self::$Name(_) => $words,)*
                }
            }

            /// The level a node must understand to apply this command.
            pub fn feature_level(&self) -> u32 {
                match self {
                    $(Self::$Name(command) => command.feature_level($level),)*
                }
            }

            fn to_wire(&self) -> wire::command::Body {
                match self {
                    $(Self::$Name(command) => wire::command::Body::$Name(command.to_wire()),)*
                }
            }

            fn from_wire(message: wire::command::Body) -> Result<Self, ConvertError> {
                Ok(match message {
                    $(wire::command::Body::$Name(message) => {
                        Self::$Name($Name::from_wire(message)?)
                    })*
                })
            }
        }

        /// One of each command.
        #[cfg(test)]
        pub(crate) fn one_of_each(draw: &mut drawn::Draw) -> Vec<Body> {
            vec![$(<$Name as drawn::Drawn>::drawn(draw).into(),)*]
        }
    };
}
command_table!(define);

/// The log form of a command. A leader proposes only what [`decode_command`] takes back: its entry
/// could not be applied anywhere else.
pub fn encode_command(command: &Command) -> Bytes {
    Bytes::from(command_to_wire(command).encode_to_vec())
}

/// A command from its encoded form, for a build that understands commands up to `level`. A command
/// of a higher level, or of a kind this build does not know, is [`ConvertError::FutureCommand`]; a
/// known one with fields that this build does not know is [`ConvertError::UnknownFields`].
pub fn decode_command(bytes: &[u8], level: u32) -> Result<Command, ConvertError> {
    at_most("command", bytes.len(), COMMAND_BYTES_MAX)?;
    let message = wire::Command::decode(bytes)?;
    if message.feature_level > level || message.body.is_none() {
        return Err(ConvertError::FutureCommand { feature_level: message.feature_level });
    }
    all_known("command", &message, bytes.len())?;
    command_from_wire(message)
}

fn command_to_wire(command: &Command) -> wire::Command {
    wire::Command {
        request: id128_to_wire(command.request.0),
        clock_ms: command.clock_ms,
        wall_ms: command.wall_ms,
        feature_level: command.feature_level(),
        subject: command.subject.to_wire(),
        body: Some(command.body.to_wire()),
    }
}

fn command_from_wire(command: wire::Command) -> Result<Command, ConvertError> {
    let body = Body::from_wire(required("command", command.body)?)?;
    let (got, clock_ms, wall_ms) = (command.feature_level, command.clock_ms, command.wall_ms);
    let command = Command {
        request: RequestId(id128_from_wire("request id", &command.request)?),
        clock_ms,
        wall_ms,
        subject: Subject::from_wire(command.subject)?,
        body,
    };
    match got == command.feature_level() {
        true => Ok(command),
        false => Err(ConvertError::Value { field: "feature level", got: got.into() }),
    }
}

fn epochs_to_wire(pairs: &[(SegmentId, Epoch)]) -> Vec<wire::ReplicaEpoch> {
    let one = |(segment, epoch): &(SegmentId, Epoch)| wire::ReplicaEpoch {
        segment: segment.0,
        epoch: epoch.0,
    };
    pairs.iter().map(one).collect()
}

fn epochs_from_wire(
    field: &'static str,
    pairs: &[wire::ReplicaEpoch],
) -> Result<Vec<(SegmentId, Epoch)>, ConvertError> {
    at_most(field, pairs.len(), BATCH_SEGMENTS_MAX)?;
    Ok(pairs.iter().map(|pair| (SegmentId(pair.segment), Epoch(pair.epoch))).collect())
}

fn slots_to_wire(slots: &[(SegmentId, NodeId)]) -> wire::SlotTargets {
    let one = |(segment, node): &(SegmentId, NodeId)| wire::SlotTarget {
        segment: segment.0,
        node: node.0,
    };
    wire::SlotTargets { slots: slots.iter().map(one).collect() }
}

fn slots_from_wire(list: &wire::SlotTargets) -> Result<Vec<(SegmentId, NodeId)>, ConvertError> {
    at_most("slots", list.slots.len(), BATCH_SEGMENTS_MAX)?;
    Ok(list.slots.iter().map(|slot| (SegmentId(slot.segment), NodeId(slot.node))).collect())
}
