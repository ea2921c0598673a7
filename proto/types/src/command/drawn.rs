//! Generated values, for tests of conversions.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::ids::{Cookie, Epoch, Namespace, NodeId, SegmentDigest, SegmentId};
use crate::model::{
    Durability, Isolation, ManifestPlace, Metric, NewNode, Policy, PolicyChange, Slot, SlotState,
};
use crate::retention::{BestMetric, BestRule, Extreme, LabelRule, RetentionChange};

/// A command drawn at random.
pub(crate) trait Drawn {
    fn drawn(draw: &mut Draw) -> Self;
}

/// Draws values; every eighth number is zero or the largest, where encodings go wrong.
pub(crate) struct Draw(pub StdRng);

impl Draw {
    pub fn u64(&mut self) -> u64 {
        match self.0.random_range(0..16u32) {
            0 => 0,
            1 => u64::MAX,
            _ => self.0.random(),
        }
    }

    pub fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    pub fn below(&mut self, end: u32) -> u32 {
        self.0.random_range(0..end)
    }

    pub fn bool(&mut self) -> bool {
        self.0.random()
    }

    pub fn u128(&mut self) -> u128 {
        (u128::from(self.u64()) << 64) | u128::from(self.u64())
    }

    pub fn digest(&mut self) -> SegmentDigest {
        SegmentDigest(self.0.random())
    }

    pub fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| one(self)).collect()
    }

    pub fn option<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.bool() { Some(one(self)) } else { None }
    }

    pub fn namespace(&mut self) -> Namespace {
        format!("run-{}/x", self.u64()).parse().unwrap()
    }

    pub fn isolation(&mut self) -> Isolation {
        if self.bool() { Isolation::Hard } else { Isolation::Soft }
    }

    pub fn policy(&mut self) -> Policy {
        Policy {
            replicas: self.u32(),
            write_quorum: self.u32(),
            min_racks: self.u32(),
            isolation: self.isolation(),
            keep_last: self.option(Self::u32),
        }
    }

    pub fn change(&mut self) -> PolicyChange {
        PolicyChange {
            replicas: self.option(Self::u32),
            write_quorum: self.option(Self::u32),
            min_racks: self.option(Self::u32),
            isolation: self.option(Self::isolation),
            keep_last: self.option(Self::u32),
        }
    }

    pub fn retention(&mut self) -> RetentionChange {
        let best = |draw: &mut Self| BestRule {
            metric: format!("m{}", draw.u64()),
            extreme: if draw.bool() { Extreme::Min } else { Extreme::Max },
            count: draw.u32() | 1,
        };
        let label = |draw: &mut Self| LabelRule {
            key: format!("k{}", draw.u64()),
            value: draw.option(|draw| format!("v{}", draw.u64())),
        };
        RetentionChange {
            hourly: self.option(Self::u32),
            daily: self.option(Self::u32),
            weekly: self.option(Self::u32),
            monthly: self.option(Self::u32),
            yearly: self.option(Self::u32),
            within_ms: self.option(Self::u64),
            every_steps: self.option(Self::u64),
            best: self.option(|draw| draw.list(best)),
            labels: self.option(|draw| draw.list(label)),
            time_zone: self.option(|_| "Europe/Berlin".to_owned()),
            quarantined_ms: self.option(Self::u64),
            best_metric: self.option(|draw| BestMetric {
                metric: format!("m{}", draw.u64()),
                extreme: if draw.bool() { Extreme::Min } else { Extreme::Max },
            }),
        }
    }

    pub fn new_node(&mut self) -> NewNode {
        NewNode {
            cookie: Cookie(self.u128()),
            host: format!("h{}", self.u64()),
            rack: format!("r{}", self.u64()),
            address: format!("h{}:7100", self.u64()),
            capacity_bytes: self.u64(),
            feature_level: self.u32(),
            replaces: self.option(|draw| NodeId(draw.u64() | 1)),
            key: self.option(|draw| draw.digest().0),
        }
    }

    pub fn place(&mut self) -> ManifestPlace {
        if self.bool() {
            let len = self.below(100) as usize;
            ManifestPlace::Inline(Bytes::from(vec![self.u32() as u8; len]))
        } else {
            let mut digests = self.list(Self::digest);
            digests.push(self.digest());
            ManifestPlace::Segments(digests)
        }
    }

    pub fn slot(&mut self) -> Slot {
        let states = [SlotState::Assigned, SlotState::Durable, SlotState::Released];
        Slot {
            node: NodeId(self.u64()),
            epoch: Epoch(self.u64()),
            state: states[self.below(3) as usize],
            until_ms: self.u64(),
        }
    }

    pub fn durability(&mut self) -> Durability {
        Durability {
            replicas_wanted: self.u32(),
            replicas_min: self.u32(),
            racks_min: self.u32(),
            segments_below: self.u64(),
            bytes_below: self.u64(),
            segments_unavailable: self.u64(),
        }
    }

    pub fn labels(&mut self) -> BTreeMap<String, String> {
        self.list(|draw| (format!("k{}", draw.u64()), format!("v{}", draw.u64())))
            .into_iter()
            .collect()
    }

    pub fn metrics(&mut self) -> BTreeMap<String, Metric> {
        self.list(|draw| (format!("m{}", draw.u64()), draw.u32()))
            .into_iter()
            .filter_map(|(name, value)| Some((name, Metric::new(f64::from(value) / 7.0)?)))
            .collect()
    }

    pub fn pairs(&mut self) -> Vec<(SegmentId, Epoch)> {
        self.list(|draw| (SegmentId(draw.u64()), Epoch(draw.u64())))
    }
}
