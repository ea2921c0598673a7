//! What a cluster of a given size can do: space, transfer, catch-up, failures. For `cairn plan`.
//!
//! A model, so that hardware can be chosen before it is bought. Pure arithmetic; bytes, seconds and
//! bytes a second throughout. Each formula stands beside its function:
//!
//! | module | says |
//! |---|---|
//! | [`space`] | bytes that kept checkpoints take, how many fit, what the fullest node holds |
//! | [`transfer`] | how long a put, a restore and a catch-up take, and what limits each |
//! | [`failures`] | what is left of data and service after nodes or racks are lost |
//!
//! # What is left out
//! New bytes are taken to be spread evenly over a checkpoint and independent from one step to the
//! next; a network is taken to carry every node's full rate at once, also between racks.

pub mod failures;
pub mod space;
pub mod transfer;

/// Bytes of a segment, for times that depend on how many are in flight.
pub const SEGMENT_BYTES: f64 = (32u64 << 20) as f64;
/// Segments that a client sends at once.
pub const SEGMENTS_IN_FLIGHT: f64 = 32.0;

/// Nodes of one cluster, far beyond what is supported.
pub const NODES_MAX: u32 = 4_096;

/// What the user says of checkpoints and machines.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Bytes of one checkpoint, before replication.
    pub bytes: f64,
    /// Seconds between two checkpoints.
    pub interval: f64,
    /// Share of a checkpoint's bytes that the one before it does not have, 0 to 1.
    pub new_fraction: f64,
    pub nodes: u32,
    pub racks: u32,
    pub replicas: u32,
    pub write_quorum: u32,
    pub min_racks: u32,
    /// Bytes a node may store.
    pub disk: f64,
    /// Share of `disk` that is planned with; the rest is for growth and uneven placement.
    pub fill: f64,
    /// Bytes a second that a node's disk writes, and reads.
    pub disk_rate: f64,
    /// Bytes a second in each direction of a node's network.
    pub node_rate: f64,
    /// Hosts that write a checkpoint together, and restore it.
    pub writers: u32,
    /// Bytes a second in each direction of a writer's network.
    pub writer_rate: f64,
    /// Bytes a second that a writer reads, hashes and compares.
    pub hash_rate: f64,
    /// Seconds from a request to its answer, without its bytes: round trip and one sync.
    pub delay: f64,
    /// Seconds that a deleted checkpoint still takes space.
    pub grace: f64,
    /// Seconds until a lost node's replicas are made elsewhere.
    pub replace_after: f64,
    /// Share of disks and networks that catch-up may use, 0 to 1.
    pub catch_up_share: f64,
    /// Ages of the checkpoints that are kept, in intervals, newest first; `None` keeps as many as fit.
    pub kept: Option<Vec<u64>>,
}

/// A reason why inputs describe no cluster.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InputError {
    #[error("{name}: expected more than 0")]
    NotPositive { name: &'static str },
    #[error("{name}: expected 0 to 1, got {got}")]
    NoShare { name: &'static str, got: f64 },
    #[error("replicas: {replicas} replicas need as many nodes, got {nodes}")]
    FewNodes { replicas: u32, nodes: u32 },
    #[error("nodes: a cluster has {NODES_MAX} at most, got {nodes}")]
    ManyNodes { nodes: u32 },
    #[error("racks: expected 1 to {nodes}, one node or more in each, got {racks}")]
    Racks { racks: u32, nodes: u32 },
    #[error("write quorum: expected 1 to {replicas}, got {got}")]
    Quorum { replicas: u32, got: u32 },
    #[error("min racks: expected 1 to {most}, got {got}")]
    MinRacks { most: u32, got: u32 },
}

impl Inputs {
    pub fn check(&self) -> Result<(), InputError> {
        let positive = [
            ("bytes", self.bytes),
            ("interval", self.interval),
            ("disk", self.disk),
            ("disk rate", self.disk_rate),
            ("nic", self.node_rate),
            ("writer nic", self.writer_rate),
            ("hash rate", self.hash_rate),
            ("nodes", self.nodes.into()),
            ("writers", self.writers.into()),
            ("replicas", self.replicas.into()),
            ("fill", self.fill),
            ("catch-up share", self.catch_up_share),
        ];
        if let Some((name, _)) =
            positive.into_iter().find(|(_, value)| !value.is_normal() || *value < 0.0)
        {
            return Err(InputError::NotPositive { name });
        }
        let shares = [
            ("new fraction", self.new_fraction),
            ("fill", self.fill),
            ("catch-up share", self.catch_up_share),
        ];
        if let Some((name, got)) =
            shares.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value))
        {
            return Err(InputError::NoShare { name, got });
        }
        let Self { nodes, racks, replicas, write_quorum, min_racks, .. } = *self;
        if nodes > NODES_MAX {
            return Err(InputError::ManyNodes { nodes });
        }
        if replicas > nodes {
            return Err(InputError::FewNodes { replicas, nodes });
        }
        if racks == 0 || racks > nodes {
            return Err(InputError::Racks { racks, nodes });
        }
        if write_quorum == 0 || write_quorum > replicas {
            return Err(InputError::Quorum { replicas, got: write_quorum });
        }
        let most = racks.min(replicas);
        if min_racks == 0 || min_racks > most {
            return Err(InputError::MinRacks { most, got: min_racks });
        }
        Ok(())
    }

    /// Nodes of the smallest and of the largest rack: as even as they can be.
    pub fn rack_sizes(&self) -> (u32, u32) {
        (self.nodes / self.racks, self.nodes.div_ceil(self.racks))
    }

    /// New bytes of one checkpoint, before replication.
    pub fn new_bytes(&self) -> f64 {
        self.bytes * self.new_fraction
    }
}

/// A 5 TB checkpoint every 10 minutes on 12 nodes, for tests.
#[cfg(test)]
pub(crate) fn example() -> Inputs {
    Inputs {
        bytes: 5e12,
        interval: 600.0,
        new_fraction: 0.3,
        nodes: 12,
        racks: 3,
        replicas: 3,
        write_quorum: 2,
        min_racks: 2,
        disk: 30e12,
        fill: 0.9,
        disk_rate: 2e9,
        node_rate: 12.5e9,
        writers: 64,
        writer_rate: 12.5e9,
        hash_rate: 2e9,
        delay: 0.002,
        grace: 3_600.0,
        replace_after: 600.0,
        catch_up_share: 0.5,
        kept: None,
    }
}

/// Inputs drawn at random, all of them valid, for tests.
#[cfg(test)]
pub(crate) fn any_inputs(seed: u64) -> Inputs {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let mut chance = StdRng::seed_from_u64(seed);
    let nodes = chance.random_range(1..=100);
    let replicas = chance.random_range(1..=nodes.min(7));
    let racks = chance.random_range(1..=nodes.min(12));
    let mut power = |from: f64, to: f64| 10f64.powf(chance.random_range(from..to));
    let (bytes, interval, disk) = (power(6.0, 14.0), power(0.0, 5.0), power(9.0, 15.0));
    let (disk_rate, node_rate, writer_rate) =
        (power(7.0, 11.0), power(7.0, 11.0), power(7.0, 11.0));
    let (hash_rate, delay) = (power(8.0, 10.0), power(-5.0, 0.0));
    Inputs {
        bytes,
        interval,
        new_fraction: chance.random_range(0.0..=1.0),
        nodes,
        racks,
        replicas,
        write_quorum: chance.random_range(1..=replicas),
        min_racks: chance.random_range(1..=replicas.min(racks)),
        disk,
        fill: chance.random_range(0.1..=1.0),
        disk_rate,
        node_rate,
        writers: chance.random_range(1..=1_000),
        writer_rate,
        hash_rate,
        delay,
        grace: chance.random_range(0.0..86_400.0),
        replace_after: 600.0,
        catch_up_share: chance.random_range(0.1..=1.0),
        kept: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_describe_no_cluster_are_refused_by_name() {
        assert_eq!(example().check(), Ok(()));
        let wrong = |change: &dyn Fn(&mut Inputs)| {
            let mut inputs = example();
            change(&mut inputs);
            inputs.check().expect_err("refused").to_string()
        };
        assert_eq!(wrong(&|it| it.bytes = 0.0), "bytes: expected more than 0");
        assert_eq!(wrong(&|it| it.interval = f64::NAN), "interval: expected more than 0");
        assert_eq!(wrong(&|it| it.new_fraction = 1.5), "new fraction: expected 0 to 1, got 1.5");
        assert!(wrong(&|it| it.nodes = 2).contains("need as many nodes"));
        assert!(wrong(&|it| it.racks = 13).contains("1 to 12"));
        assert!(wrong(&|it| it.write_quorum = 4).contains("1 to 3"));
        assert!(wrong(&|it| (it.racks, it.min_racks) = (1, 2)).contains("min racks"));
        (0..1_000).for_each(|seed| assert_eq!(any_inputs(seed).check(), Ok(()), "seed {seed}"));
    }
}
