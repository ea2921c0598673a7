//! Few of each warning that consensus repeats.
//!
//! openraft warns of every call to a voter that is down: some nine a second, long ones, for as long
//! as it is down, 269 MB a day. One line says that the node is down; the rest hides it. So of the
//! warnings of one place in openraft's code a few in a minute pass.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// Of one place in the code, in this time.
const FEW: u32 = 2;
const PERIOD: Duration = Duration::from_secs(60);

/// Lets everything pass but repeated warnings of openraft.
#[derive(Debug, Default)]
pub struct FewOf {
    unlimited: bool,
    passed: Mutex<BTreeMap<(String, u32), (Instant, u32)>>,
}

impl FewOf {
    /// Lets everything pass if `unlimited`.
    pub fn unless(unlimited: bool) -> Self {
        Self { unlimited, ..Self::default() }
    }

    fn is_limited(&self, meta: &Metadata<'_>) -> bool {
        !self.unlimited && meta.is_event() && meta.target().starts_with("openraft")
    }

    fn passes(&self, place: (String, u32), now: Instant) -> bool {
        let mut passed = self.passed.lock();
        let (since, count) = passed.entry(place).or_insert((now, 0));
        if now.duration_since(*since) >= PERIOD {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= FEW
    }
}

impl<S: Subscriber> Filter<S> for FewOf {
    fn enabled(&self, meta: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        let now = Instant::now();
        let place = || (meta.file().unwrap_or_default().to_owned(), meta.line().unwrap_or(0));
        !self.is_limited(meta) || self.passes(place(), now)
    }

    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        if self.is_limited(meta) { Interest::sometimes() } else { Interest::always() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_each_pass_in_a_minute() {
        let (few, now) = (FewOf::default(), Instant::now());
        let passed = |line: u32, at: Instant| {
            (0..10).filter(|_| few.passes(("a.rs".to_owned(), line), at)).count()
        };
        assert_eq!(passed(1, now), FEW as usize);
        assert_eq!(passed(2, now), FEW as usize, "another place in the code");
        assert_eq!(passed(1, now + PERIOD), FEW as usize);
    }
}
