//! The shared parts of a running node, grouped by subject. A function takes only the parts that it
//! uses. Only the wiring (the assembly and the services) has the whole of [`Shared`].
//!
//! ```text
//! ThisNode ◄── Member ◄─┬─ Calls        an arrow means: is built on
//!                       └─ Replicas     LeaderState, Ending: independent
//! ```
//!
//! | part | is |
//! |---|---|
//! | [`ThisNode`] | the identity of this process, and its settings from the start |
//! | [`Member`] | the applied catalogue and Raft: reads, proposals, linearizable reads |
//! | [`Calls`] | calls to other nodes |
//! | [`Replicas`] | the replicas on this node: files, reports, counts |
//! | [`Summaries`] | a summary of the catalogue, one walk for all callers |
//! | [`LeaderState`] | what only a leader knows: nodes that are alive, leave, or cannot join |
//! | [`Ending`] | the ways in which this process ends |

mod calls;
mod ending;
pub mod leader;
mod member;
mod replicas;
mod summaries;
mod this_node;

use std::sync::Arc;

pub use self::calls::Calls;
pub use self::ending::Ending;
pub use self::leader::LeaderState;
pub use self::member::{Member, Verdict};
pub use self::replicas::Replicas;
pub use self::summaries::Summaries;
pub use self::this_node::ThisNode;
use crate::admission::Lanes;
use crate::counters::Counters;
use crate::process::Usage;
use crate::waits::Waits;

pub struct Shared {
    pub this: Arc<ThisNode>,
    pub member: Arc<Member>,
    pub calls: Arc<Calls>,
    pub replicas: Arc<Replicas>,
    pub leader: Arc<LeaderState>,
    pub ending: Arc<Ending>,
    pub counters: Arc<Counters>,
    pub waits: Waits,
    /// Permits of the node's request lanes, for its metrics.
    pub lanes: Lanes,
    pub summaries: Summaries,
    /// Reads the resources that the process has used.
    pub usage: fn() -> Usage,
}
