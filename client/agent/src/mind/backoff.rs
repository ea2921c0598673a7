//! When a put that failed is tried again.

use std::time::Duration;

use crate::schedule::spread;

pub const FIRST: Duration = Duration::from_secs(5);
const MOST: Duration = Duration::from_secs(300);
/// After the last try of a row: a fault that lasts costs a try an hour.
const AFTER_ALL: Duration = Duration::from_secs(3600);

/// The pause after `tries` tries that failed, drawn from three to five quarters of its length by
/// agent, job and step: many agents do not come back at the same moment.
pub fn pause(tries: u32, tries_max: u32, job: &str, step: u64) -> Duration {
    let whole = match tries >= tries_max {
        true => AFTER_ALL,
        false => FIRST.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(MOST),
    };
    let half_ms = u64::try_from(whole.as_millis() / 2).unwrap_or(u64::MAX);
    let drawn = spread(&[job.as_bytes(), &step.to_le_bytes(), &tries.to_le_bytes()], half_ms);
    whole * 3 / 4 + Duration::from_millis(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_long_after_the_last_try() {
        let at = |tries| pause(tries, 10, "j", 1);
        for (tries, whole) in [(1, 5), (2, 10), (3, 20), (6, 160), (7, 300), (9, 300), (10, 3600)] {
            let (low, high) =
                (Duration::from_secs(whole) * 3 / 4, Duration::from_secs(whole) * 5 / 4);
            assert!((low..=high).contains(&at(tries)), "{tries}: {:?}", at(tries));
        }
        assert!(pause(u32::MAX, u32::MAX, "j", 1) <= AFTER_ALL * 5 / 4);
        assert_ne!(pause(1, 10, "a", 1), pause(1, 10, "b", 1));
    }
}
