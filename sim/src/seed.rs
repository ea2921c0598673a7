//! Randomness: one 64-bit seed gives a tree of labelled streams.
//!
//! A fork depends only on the seed and the labels on its path, not on the number of earlier draws.
//! So a new draw in one place does not change the numbers of any other. A failing seed then changes
//! little while a bug is being searched.

use std::ops::Range;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// One labelled stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream {
    key: u64,
    rng: SmallRng,
}

impl Stream {
    /// The root of a run's tree.
    pub fn new(seed: u64) -> Self {
        Self::keyed(split_mix(seed))
    }

    fn keyed(key: u64) -> Self {
        Self { key, rng: SmallRng::seed_from_u64(key) }
    }

    /// The stream `label` below this one. It does not depend on the draws from `self`.
    pub fn fork(&self, label: &str) -> Self {
        let mut key = split_mix(self.key ^ 0x6361_6972_6e00_0000);
        for byte in label.bytes() {
            key = split_mix(key ^ u64::from(byte));
        }
        Self::keyed(key)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A uniform draw from `0..end`. 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias of the modulo is below 2^-32 for the small ranges used here.
        if end == 0 { 0 } else { self.next_u64() % end }
    }

    /// A uniform draw from `range`. Its start if it is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// A number in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability. Draws no number for 0 or less, so that a fault that is switched
    /// off does not change later draws.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// One of `items`. None if there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let place = self.below(items.len() as u64) as usize;
        items.get(place)
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
}

/// One step of SplitMix64: every bit of the input reaches every bit of the output.
pub(crate) fn split_mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_does_not_depend_on_draws() {
        let quiet = Stream::new(7);
        let mut busy = Stream::new(7);
        busy.next_u64();
        assert_eq!(quiet.fork("disk").next_u64(), busy.fork("disk").next_u64());
        assert_ne!(quiet.fork("disk").next_u64(), quiet.fork("net").next_u64());
        assert_ne!(Stream::new(8).fork("disk").next_u64(), quiet.fork("disk").next_u64());
    }

    #[test]
    fn empty_ranges_draw_their_start() {
        let mut stream = Stream::new(1);
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.range(5..5), 5);
        assert!(stream.pick::<u8>(&[]).is_none());
    }
}
