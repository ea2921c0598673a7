//! The recent results of control calls to each address. They decide the order of nodes, and when a
//! second node is asked as well.
//!
//! A node that is frozen, or that this client cannot reach, would cost each call its whole
//! deadline. So a call that takes long is sent a second time, to another node. That is safe: reads
//! change nothing, and a command keeps its request id and has one effect (C4). A node that gave no
//! answer is asked last for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// A second node is asked after this time if nothing was measured yet. It is longer than a commit
/// takes on a fast network with slow disks.
const PATIENCE_UNKNOWN: Duration = Duration::from_millis(400);
/// Bounds of that time when it follows measurements.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// The shortest wait before a command that the leader may hold back is sent to a second node.
const PATIENCE_HELD: Duration = Duration::from_secs(1);
/// A node that gave no answer is asked last for this long. Each failure in a row doubles the time.
const AVOIDED_MIN: Duration = Duration::from_secs(5);
const AVOIDED_MAX: Duration = Duration::from_secs(80);
/// Second calls that a client may make at once above the share, so that a cluster that is slow as a
/// whole does not get twice the load.
const SPARE_MAX: f64 = 10.0;
/// The share: one second call for this many answered calls.
const CALLS_FOR_ONE: f64 = 10.0;
/// Limit on remembered addresses. A cluster does not have more nodes.
const ADDRESSES_MAX: usize = 256;

#[derive(Debug, Default)]
struct Trouble {
    until: Option<Instant>,
    failures: u32,
}

#[derive(Debug)]
pub(crate) struct Endpoints {
    troubled: BTreeMap<String, Trouble>,
    /// Smoothed time of an answer, and the smoothed deviation from it.
    usual: Option<(Duration, Duration)>,
    spare: f64,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self { troubled: BTreeMap::new(), usual: None, spare: SPARE_MAX }
    }
}

impl Endpoints {
    pub fn answered(&mut self, address: &str, took: Duration) {
        self.troubled.remove(address);
        self.spare = (self.spare + 1.0 / CALLS_FOR_ONE).min(SPARE_MAX);
        self.usual = Some(match self.usual {
            None => (took, took / 2),
            // Like TCP: 1/8 of the new value, 1/4 of its deviation.
            Some((mean, deviation)) => {
                ((mean * 7 + took) / 8, (deviation * 3 + mean.abs_diff(took)) / 4)
            }
        });
    }

    /// A call to `address` got no answer.
    pub fn failed(&mut self, address: &str) {
        let now = Instant::now();
        if self.troubled.len() >= ADDRESSES_MAX {
            self.troubled.retain(|_, trouble| trouble.until.is_some_and(|until| now < until));
        }
        if self.troubled.len() < ADDRESSES_MAX {
            let trouble = self.troubled.entry(address.to_owned()).or_default();
            // Several calls that fail together count as one failure.
            if trouble.until.is_none_or(|until| now >= until) {
                let long = AVOIDED_MIN.saturating_mul(1 << trouble.failures.min(8));
                trouble.until = Some(now + long.min(AVOIDED_MAX));
                trouble.failures += 1;
            }
        }
    }

    pub fn is_avoided(&self, address: &str) -> bool {
        let trouble = self.troubled.get(address);
        trouble.and_then(|trouble| trouble.until).is_some_and(|until| Instant::now() < until)
    }

    /// How long to wait for one node alone.
    pub fn patience(&self, held: bool) -> Duration {
        let usual = self.usual.map(|(mean, deviation)| mean + deviation * 4);
        let patience =
            usual.map_or(PATIENCE_UNKNOWN, |long| long.clamp(PATIENCE_MIN, PATIENCE_MAX));
        if held { patience.max(PATIENCE_HELD) } else { patience }
    }

    /// Uses one spare second call, if there is one.
    pub fn take_second(&mut self) -> bool {
        let may = self.spare >= 1.0;
        if may {
            self.spare -= 1.0;
        }
        may
    }

    /// The address to ask after `address`: the next one that is not avoided, or the next one.
    pub fn after(&self, address: &str, addresses: &[String]) -> Option<String> {
        let at = addresses.iter().position(|other| other == address).map_or(0, |at| at + 1);
        let others = || {
            let turn = addresses.iter().cycle().skip(at).take(addresses.len());
            turn.filter(|other| *other != address)
        };
        let best = others().find(|other| !self.is_avoided(other)).or_else(|| others().next());
        best.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<String> {
        ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn who_gave_nothing_is_asked_last_and_in_time_again() {
        let mut endpoints = Endpoints::default();
        assert_eq!(endpoints.after("a:1", &three()).as_deref(), Some("b:1"));
        endpoints.failed("b:1");
        endpoints.failed("b:1");
        assert_eq!(endpoints.after("a:1", &three()).as_deref(), Some("c:1"));
        tokio::time::advance(AVOIDED_MIN).await;
        assert!(!endpoints.is_avoided("b:1"), "failures at one time are one");
        endpoints.failed("b:1");
        tokio::time::advance(AVOIDED_MIN).await;
        assert!(endpoints.is_avoided("b:1"));
        endpoints.answered("b:1", Duration::from_millis(5));
        assert!(!endpoints.is_avoided("b:1"));
        three().iter().for_each(|address| endpoints.failed(address));
        assert_eq!(endpoints.after("c:1", &three()).as_deref(), Some("a:1"), "somebody is asked");
    }

    #[tokio::test(start_paused = true)]
    async fn patience_follows_what_was_measured() {
        let mut endpoints = Endpoints::default();
        assert_eq!(endpoints.patience(false), PATIENCE_UNKNOWN);
        (0..50).for_each(|_| endpoints.answered("a:1", Duration::from_millis(4)));
        assert_eq!(endpoints.patience(false), PATIENCE_MIN);
        assert_eq!(endpoints.patience(true), PATIENCE_HELD);
        (0..50).for_each(|_| endpoints.answered("a:1", Duration::from_millis(450)));
        let far = endpoints.patience(false);
        assert!(far > Duration::from_millis(450) && far <= PATIENCE_MAX, "{far:?}");
    }

    #[test]
    fn second_calls_are_a_share_of_the_answered_ones() {
        let mut endpoints = Endpoints::default();
        let taken = (0..1_000).filter(|_| endpoints.take_second()).count();
        assert_eq!(taken, 10);
        (0..20).for_each(|_| endpoints.answered("a:1", Duration::from_millis(4)));
        let taken = (0..1_000).filter(|_| endpoints.take_second()).count();
        assert!((1..=2).contains(&taken), "{taken}");
    }
}
