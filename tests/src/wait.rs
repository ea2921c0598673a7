//! Waiting for a condition, with a deadline. Nothing in these tests waits for a time.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(25);

/// Asks until there is an answer; panics with what was waited for, and the last reason it gave.
pub fn until<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if started.elapsed() > deadline => {
                panic!("timed out after {deadline:?} waiting until {what}: {last}")
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// [`until`] for a plain condition.
pub fn until_true(what: &str, deadline: Duration, mut ask: impl FnMut() -> bool) {
    until(what, deadline, || if ask() { Ok(()) } else { Err("not yet".to_owned()) });
}
