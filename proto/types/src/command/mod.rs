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
mod confirm_retention;
mod declined;
mod delete;
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
mod rollback;
mod seal_part;
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
use crate::wire;

pub use refusal::{Obstacle, Refusal, Shortage};
pub use reply::{Begun, Reply, StagedSegment};

/// The highest feature level this build understands. It rises with the first command, or field of
/// a command, that an older build would not understand.
pub const FEATURE_LEVEL: u32 = 2;

/// Gives every command to the macro `$with`, behind what else it was given: module, name, sender,
/// feature level, words for people.
#[macro_export]
macro_rules! command_table {
    ($with:ident $($given:tt)*) => {
        $with! { $($given)*;
            init_cluster InitCluster Leader 1 "make the cluster",
            allocate_node AllocateNode Leader 1 "allocate node",
            register Register Node 1 "register node",
            inventory Inventory Node 1 "take inventory",
            set_liveness SetLiveness Leader 1 "set liveness",
            remove_node RemoveNode Operator 1 "remove node",
            void_slots VoidSlots Leader 2 "void slots",
            forget_nodes ForgetNodes Leader 1 "forget nodes",
            raise_feature_level RaiseFeatureLevel Leader 1 "raise feature level",
            set_policy SetPolicy Operator 1 "set policy",
            confirm_retention ConfirmRetention Operator 2 "confirm retention",
            repair_time RepairTime Operator 1 "repair time",
            begin Begin Client 1 "begin upload",
            stage Stage Client 1 "stage segments",
            durable Durable Node 1 "report durable replicas",
            lost Lost Node 1 "report lost replicas",
            declined Declined Node 1 "decline replicas",
            removed Removed Node 1 "report removed replicas",
            seal_part SealPart Client 1 "seal part",
            renew Renew Client 1 "renew lease",
            leader_started LeaderStarted Leader 1 "start to lead",
            expire_uploads ExpireUploads Leader 1 "expire uploads",
            annotate Annotate Client 2 "annotate checkpoint",
            set_ref SetRef Client 2 "set ref",
            add_hold AddHold Client 2 "add hold",
            release_hold ReleaseHold Client 2 "release hold",
            set_quarantine SetQuarantine Client 2 "quarantine checkpoint",
            rollback Rollback Client 2 "roll back",
            delete Delete Client 1 "delete checkpoint",
            undelete Undelete Client 2 "undelete checkpoint",
            drop_references DropReferences Leader 1 "drop references",
            reap Reap Leader 1 "reap segments",
            assign_slots AssignSlots Leader 1 "assign slots",
            release_slots ReleaseSlots Leader 1 "release slots",
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
    pub body: Body,
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
    (; $($module:ident $Name:ident $sender:ident $level:literal $words:literal,)*) => {
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
        feature_level: command.body.feature_level(),
        body: Some(command.body.to_wire()),
    }
}

fn command_from_wire(command: wire::Command) -> Result<Command, ConvertError> {
    let body = Body::from_wire(required("command", command.body)?)?;
    if command.feature_level != body.feature_level() {
        let got = command.feature_level.into();
        return Err(ConvertError::Value { field: "feature level", got });
    }
    Ok(Command {
        request: RequestId(id128_from_wire("request id", &command.request)?),
        clock_ms: command.clock_ms,
        wall_ms: command.wall_ms,
        body,
    })
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
