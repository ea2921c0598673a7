//! Random numbers from one seed: `CAIRN_TEST_SEED`, or a fresh one. Whoever takes one prints it.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// Draws for one test.
pub struct Chance {
    pub seed: u64,
    random: StdRng,
}

impl Chance {
    /// The seed of this run, said on stderr so that a failure can be played again.
    pub fn of(test: &str) -> Self {
        let seed = match std::env::var("CAIRN_TEST_SEED") {
            Ok(text) => text.parse().expect("CAIRN_TEST_SEED is a number"),
            Err(_) => fresh_seed(),
        };
        eprintln!("{test}: CAIRN_TEST_SEED={seed}");
        Self { seed, random: StdRng::seed_from_u64(seed) }
    }

    /// From `range`, its end excluded.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.random.random_range(range)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.random.next_u64()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.within(0..end as u64 + 1) as usize;
            items.swap(end, other);
        }
    }
}

fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| since.as_nanos() as u64) ^ (u64::from(std::process::id()) << 32)
}
