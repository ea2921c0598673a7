//! The monotonic clock of one simulated machine. It runs slightly faster or slower than real time.
//! Timers are tokio's and the same for all machines. A leader counts cluster time by this clock.

use std::ops::RangeInclusive;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The rates of clocks, in millionths: up to five percent faster or slower, a hundred times the
/// error of cheap quartz.
pub const RATES: RangeInclusive<u64> = 950_000..=1_050_000;
/// The rate of real time.
const USUAL: u64 = 1_000_000;

/// See the module.
#[derive(Debug)]
pub struct Monotonic(Mutex<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    rate: u64,
    /// It showed `own` at the time `since`.
    since: Instant,
    own: Instant,
}

impl Default for Monotonic {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(State { rate: USUAL, since: now, own: now }))
    }
}

impl Monotonic {
    pub fn now(&self) -> Instant {
        self.0.lock().now()
    }

    /// Runs at this rate from now on.
    pub fn set_rate(&self, rate: u64) {
        let mut state = self.0.lock();
        *state = State { rate, since: Instant::now(), own: state.now() };
    }

    pub fn rate(&self) -> u64 {
        self.0.lock().rate
    }
}

impl State {
    fn now(&self) -> Instant {
        let passed_us = self.since.elapsed().as_micros() as u64;
        self.own + Duration::from_micros(passed_us * self.rate / USUAL)
    }
}

/// The time that a clock of this rate counts in `passed`.
pub fn counted(passed: Duration, rate: u64) -> Duration {
    passed.mul_f64(rate as f64 / USUAL as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_runs_at_its_rate_and_never_goes_back() {
        let (clock, began) = (Monotonic::default(), Instant::now());
        let said = |clock: &Monotonic| clock.now().duration_since(began).as_millis();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(said(&clock), 10_000);
        clock.set_rate(*RATES.end());
        assert_eq!(said(&clock), 10_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(said(&clock), 20_500);
        clock.set_rate(*RATES.start());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(said(&clock), 30_000);
        assert_eq!(counted(Duration::from_secs(20), clock.rate()).as_secs(), 19);
    }
}
