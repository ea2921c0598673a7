//! Scenarios by name. A scenario plays in a [`World`], switches faults on and off, and reports
//! broken promises to it.

pub mod layer;
pub mod mix;
pub mod slice;

use futures::future::BoxFuture;

use crate::world::World;

/// Plays one scenario.
pub type Play = fn(World) -> BoxFuture<'static, ()>;

/// Every scenario: its name, a line about it, and how to play it. The first is the default.
pub const SCENARIOS: [(&str, &str, Play); 3] = [
    (
        "slice",
        "three real nodes and a client; the leader loses power in the middle of a put",
        slice::play,
    ),
    (
        "mix",
        "three to five nodes, several clients with everything they can do, and every fault",
        mix::play,
    ),
    (
        "layer",
        "three toy segment nodes under loss, partitions and crashes: proves the simulator itself",
        layer::play,
    ),
];

/// The scenario of that name.
pub fn find(name: &str) -> Option<Play> {
    SCENARIOS.iter().find(|row| row.0 == name).map(|row| row.2)
}
