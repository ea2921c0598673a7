//! How long bytes take, and what limits them.
//!
//! Each transfer passes several places at the same time and takes as long as the slowest of them,
//! plus a few requests that follow each other. With P writers, N nodes, R replicas, a checkpoint of M
//! bytes of which f is new, and the share h of all bytes that the fullest node holds (1/N where
//! placement is even):
//!
//! | place | put | restore, once |
//! |---|---|---|
//! | writers read and hash | M / P | M / P |
//! | writers' network | R f M / P | M / P |
//! | network of the fullest node | R f M h | M / N |
//! | disk of the fullest node | R f M h | M / N |
//! | delay, with Q segments of S bytes in flight | delay f M / (S P Q) | delay M / (S P Q) |
//!
//! A restore by every writer alone moves P times as much from the nodes. Catch-up moves the lost
//! bytes between the nodes that are left, within their share for it, once they are given up.

use super::space::Space;
use super::{Inputs, SEGMENT_BYTES, SEGMENTS_IN_FLIGHT};

/// Requests of a put that follow each other: Begin, Stage, the last segment, Seal.
const PUT_STEPS: f64 = 4.0;
/// Those of a restore: resolve, locate, the last segment.
const GET_STEPS: f64 = 3.0;
/// Segments that a node fetches at once.
const FETCHES: f64 = 4.0;

/// One place that bytes pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub name: &'static str,
    pub seconds: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// Bytes that cross the network in all.
    pub bytes: f64,
    pub seconds: f64,
    /// Slowest first.
    pub places: Vec<Place>,
}

impl Transfer {
    fn new(bytes: f64, steps: f64, places: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        let place = |(name, seconds)| Place { name, seconds };
        let mut places: Vec<Place> = places.into_iter().map(place).collect();
        places.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let slowest = places.first().map_or(0.0, |place| place.seconds);
        Self { bytes, seconds: steps + slowest, places }
    }

    /// What to make faster first.
    pub fn bottleneck(&self) -> &'static str {
        self.places.first().map_or("nothing", |place| place.name)
    }
}

pub fn put(inputs: &Inputs, space: &Space) -> Transfer {
    let Inputs { bytes, delay, writer_rate, node_rate, disk_rate, hash_rate, .. } = *inputs;
    let writers = f64::from(inputs.writers);
    let sent = f64::from(inputs.replicas) * inputs.new_bytes();
    let hottest = hottest_share(inputs, space);
    let rounds = inputs.new_bytes() / (SEGMENT_BYTES * writers * SEGMENTS_IN_FLIGHT);
    Transfer::new(
        sent,
        PUT_STEPS * delay,
        [
            ("reading and hashing on the writers", bytes / (writers * hash_rate)),
            ("the writers' network", sent / (writers * writer_rate)),
            ("the nodes' network", sent * hottest / node_rate),
            ("the nodes' disks", sent * hottest / disk_rate),
            ("delay", rounds * delay),
        ],
    )
}

/// A restore that the writers share, or one in which each of them reads everything.
pub fn restore(inputs: &Inputs, by_each: bool) -> Transfer {
    let Inputs { bytes, delay, writer_rate, node_rate, disk_rate, hash_rate, .. } = *inputs;
    let (writers, nodes) = (f64::from(inputs.writers), f64::from(inputs.nodes));
    let (all, one) = match by_each {
        true => (bytes * writers, bytes),
        false => (bytes, bytes / writers),
    };
    Transfer::new(
        all,
        GET_STEPS * delay,
        [
            ("checking and writing on the readers", one / hash_rate),
            ("the readers' network", one / writer_rate),
            ("the nodes' network", all / (nodes * node_rate)),
            ("the nodes' disks", all / (nodes * disk_rate)),
            ("delay", one / (SEGMENT_BYTES * SEGMENTS_IN_FLIGHT) * delay),
        ],
    )
}

/// Making `lost` bytes again on `nodes` that are left; `None` where no node is.
pub fn catch_up(inputs: &Inputs, lost: f64, nodes: u32) -> Option<Transfer> {
    if nodes == 0 {
        return None;
    }
    let nodes = f64::from(nodes);
    let share = inputs.catch_up_share;
    Some(Transfer::new(
        lost,
        inputs.replace_after,
        [
            ("the nodes' network", lost / (nodes * inputs.node_rate * share)),
            ("the nodes' disks", lost / (nodes * inputs.disk_rate * share)),
            ("delay", lost / (SEGMENT_BYTES * nodes * FETCHES) * inputs.delay),
        ],
    ))
}

/// Of all bytes, the share on the fullest node.
fn hottest_share(inputs: &Inputs, space: &Space) -> f64 {
    match space.stored > 0.0 {
        true => space.fullest_node / space.stored,
        false => 1.0 / f64::from(inputs.nodes),
    }
}

#[cfg(test)]
mod tests {
    use super::super::space::space;
    use super::super::{any_inputs, example};
    use super::*;

    #[test]
    fn the_example_is_what_paper_says() {
        let inputs = example();
        let put = put(&inputs, &space(&inputs));
        // 4.5 TB to 12 disks of 2 GB/s; 5 TB hashed by 64 hosts at 2 GB/s in 39 s.
        assert_eq!(put.bytes, 4.5e12);
        assert!((put.seconds - (187.5 + 0.008)).abs() < 1e-6, "{put:?}");
        assert_eq!(put.bottleneck(), "the nodes' disks");
        assert!((put.places[1].seconds - 39.0625).abs() < 1e-9, "{put:?}");

        let once = restore(&inputs, false);
        assert!((once.seconds - (5e12 / 24e9 + 0.006)).abs() < 1e-6, "{once:?}");
        let each = restore(&inputs, true);
        assert_eq!(each.bytes, 320e12);
        assert_eq!(each.bottleneck(), "the nodes' disks");

        // 27 TB on 11 disks at half of 2 GB/s.
        let again = catch_up(&inputs, 27e12, 11).expect("nodes are left");
        assert!((again.seconds - (600.0 + 27e12 / 11e9)).abs() < 1e-6, "{again:?}");
        assert_eq!(catch_up(&inputs, 27e12, 0), None);
    }

    #[test]
    fn delay_counts_with_the_segments_in_flight() {
        // On a fast network with a delay of a second, only what is in flight moves in it.
        let fast = Inputs { writer_rate: 1e15, node_rate: 1e15, disk_rate: 1e15, ..example() };
        let slow = Inputs { hash_rate: 1e15, delay: 1.0, writers: 1, ..fast };
        let put = put(&slow, &space(&slow));
        assert_eq!(put.bottleneck(), "delay");
        let in_flight = SEGMENT_BYTES * SEGMENTS_IN_FLIGHT;
        assert!((put.seconds - (PUT_STEPS + 1.5e12 / in_flight)).abs() < 1e-6);
    }

    #[test]
    fn more_of_anything_is_never_slower() {
        for seed in 0..2_000 {
            let inputs = any_inputs(seed);
            let before = put(&inputs, &space(&inputs));
            let (once, each) = (restore(&inputs, false), restore(&inputs, true));
            let slowest = before.places.iter().map(|place| place.seconds).fold(0.0, f64::max);
            assert!(before.seconds >= slowest, "seed {seed}");
            assert!(each.seconds >= once.seconds, "seed {seed}");
            let faster: [fn(&mut Inputs); 7] = [
                |it| it.disk_rate *= 2.0,
                |it| it.node_rate *= 2.0,
                |it| it.writer_rate *= 2.0,
                |it| it.hash_rate *= 2.0,
                |it| it.delay /= 2.0,
                |it| it.new_fraction /= 2.0,
                |it| it.writers *= 2,
            ];
            for (index, change) in faster.iter().enumerate() {
                let mut more = inputs.clone();
                change(&mut more);
                let after = put(&more, &space(&more));
                let tolerated = before.seconds * (1.0 + 1e-9);
                assert!(after.seconds <= tolerated, "seed {seed}, change {index}");
            }
            let lost = space(&inputs).fullest_node;
            if inputs.nodes > 2 {
                let few = catch_up(&inputs, lost, inputs.nodes - 2);
                let more = catch_up(&inputs, lost, inputs.nodes - 1);
                assert!(few.map(|it| it.seconds) >= more.map(|it| it.seconds), "seed {seed}");
            }
        }
    }
}
