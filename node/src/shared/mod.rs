//! What the parts of a running node share, by what it is about. A function takes the parts that it
//! touches; only the wiring (the assembly and the services) has [`Shared`] whole.
//!
//! ```text
//! ThisNode ◄── Member ◄─┬─ Calls        an arrow: is built on
//!                       └─ Replicas     LeaderState, Ending: on their own
//! ```
//!
//! | part | is |
//! |---|---|
//! | [`ThisNode`] | which node this process is, and what it was given at its start |
//! | [`Member`] | the applied catalogue and Raft: reads, proposals, linearizable reads |
//! | [`Calls`] | calls to other nodes |
//! | [`Replicas`] | the replicas on this node: files, reports, counts |
//! | [`Summaries`] | the catalogue at a glance, one walk for all who ask |
//! | [`LeaderState`] | what a leader knows beside the catalogue: who is alive, leaves, cannot come in |
//! | [`Ending`] | how this process comes to its end |

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
pub use self::member::Member;
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
    /// Permits of its doors, for its metrics.
    pub lanes: Lanes,
    pub summaries: Summaries,
    /// What the process has used.
    pub usage: fn() -> Usage,
}
