//! When a scheduled job is due, and what becomes of runs that were missed. No clock is read here.
//!
//! ```text
//! last due at or before now --> done before: idle until the next one
//!                          \--> its jitter is not over, or no window is open: wait
//!                          \--> late, and `missed = "skip"`: skip
//!                          \--> run, once, whatever number of dues lies behind it
//! ```

mod cron;

use std::time::Duration;

pub use self::cron::{Cron, MalformedCron};

use crate::window::Windows;

/// A run that has not begun this long after its time was missed.
pub const MISSED_AFTER: Duration = Duration::from_secs(120);

/// When a job is due.
#[derive(Debug, Clone)]
pub enum Rhythm {
    Cron(Box<Cron>),
    /// At multiples of this time since 1970 in UTC, so that a restart changes nothing.
    Every {
        ms: u64,
    },
}

impl Rhythm {
    /// The last due in `after < due <= until`.
    fn last_due(&self, after: u64, until: u64, windows: &Windows) -> Option<u64> {
        let due = match self {
            Self::Cron(cron) => cron.last(until, &windows.zone)?,
            Self::Every { ms } => until - until % (*ms).max(1),
        };
        (due > after).then_some(due)
    }

    pub fn next_due(&self, after: u64, windows: &Windows) -> Option<u64> {
        match self {
            Self::Cron(cron) => cron.next(after, &windows.zone),
            Self::Every { ms } => (after - after % (*ms).max(1)).checked_add((*ms).max(1)),
        }
    }
}

/// What becomes of a run whose time passed while the agent did not run, or no window was open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Missed {
    /// It runs once, late.
    #[default]
    Run,
    Skip,
}

#[derive(Debug, Clone)]
pub struct Schedule {
    pub rhythm: Rhythm,
    pub missed: Missed,
    /// A run begins up to this long after its time. How long depends on the agent, the job
    /// and the time only.
    pub jitter_ms: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is due before this time.
    Idle {
        next: Option<u64>,
    },
    /// A run is due, and begins at this time or once a window is open.
    Waits {
        due: u64,
        until: Option<u64>,
    },
    Run {
        due: u64,
    },
    /// This run, and what is older, was missed.
    Skip {
        due: u64,
    },
}

impl Schedule {
    /// `draw`: what the jitter is drawn by. `done`: the last due that was run or skipped, or when the
    /// job was first seen. `begun`: the last due whose run has begun; it is no longer missed.
    pub fn decide(
        &self,
        draw: &str,
        (done, begun): (u64, Option<u64>),
        now: u64,
        windows: &Windows,
    ) -> Decision {
        let Some(due) = self.rhythm.last_due(done, now, windows) else {
            return Decision::Idle { next: self.rhythm.next_due(now.max(done), windows) };
        };
        let begin = due.saturating_add(self.jitter(draw, due, windows));
        if now < begin {
            return Decision::Waits { due, until: Some(begin) };
        }
        let late = u64::try_from(MISSED_AFTER.as_millis()).unwrap_or(u64::MAX);
        let is_late = now > begin.saturating_add(late);
        if self.missed == Missed::Skip && is_late && begun != Some(due) {
            return Decision::Skip { due };
        }
        // One that was due in its window and is hardly late need not wait for the next window.
        match windows.are_open(now) || !is_late && windows.are_open(due) {
            true => Decision::Run { due },
            false => Decision::Waits { due, until: None },
        }
    }

    /// Within the window of the due.
    fn jitter(&self, draw: &str, due: u64, windows: &Windows) -> u64 {
        let most = match windows.are_open(due) {
            true => self.jitter_ms.min(windows.open_ms(due, self.jitter_ms).saturating_sub(1)),
            false => self.jitter_ms,
        };
        spread(&[draw.as_bytes(), &due.to_le_bytes()], most)
    }

    /// Whether each run's jitter is over before the next run is due.
    pub fn has_room_for_jitter(&self, windows: &Windows) -> bool {
        let mut at = ROOM_FROM;
        for _ in 0..ROOM_DUES {
            let Some(due) = self.rhythm.next_due(at, windows) else { return true };
            if at != ROOM_FROM && due - at <= self.jitter_ms {
                return false;
            }
            at = due;
        }
        true
    }
}

/// The times of a schedule that are compared with its jitter: enough for a year of days.
const ROOM_DUES: u32 = 400;
/// From 2026 on.
const ROOM_FROM: u64 = 1_767_225_600_000;

/// A number up to `most`, the same for the same words.
pub fn spread(words: &[&[u8]], most: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in words {
        hasher.update(&(word.len() as u64).to_le_bytes());
        hasher.update(word);
    }
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    let number = u64::from_le_bytes(bytes);
    most.checked_add(1).map_or(number, |count| number % count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::Zone;

    const HOUR: u64 = 3_600_000;

    fn always() -> Windows {
        Windows { zone: Zone::utc(), windows: Vec::new() }
    }

    fn hourly(missed: Missed, jitter_ms: u64) -> Schedule {
        Schedule { rhythm: Rhythm::Every { ms: HOUR }, missed, jitter_ms }
    }

    #[test]
    fn an_interval_is_due_at_its_multiples_and_once() {
        let schedule = hourly(Missed::Run, 0);
        let decide = |done, now| schedule.decide("j", (done, None), now, &always());
        assert_eq!(decide(HOUR / 2, HOUR - 1), Decision::Idle { next: Some(HOUR) });
        assert_eq!(decide(HOUR / 2, HOUR), Decision::Run { due: HOUR });
        assert_eq!(decide(HOUR, HOUR + 1), Decision::Idle { next: Some(2 * HOUR) });
        // A clock that went back makes nothing due a second time.
        assert_eq!(decide(5 * HOUR, HOUR), Decision::Idle { next: Some(6 * HOUR) });
    }

    #[test]
    fn missed_runs_run_once_or_are_skipped() {
        let now = 10 * HOUR + HOUR / 2;
        let decide = |missed| hourly(missed, 0).decide("j", (HOUR, None), now, &always());
        assert_eq!(decide(Missed::Run), Decision::Run { due: 10 * HOUR });
        assert_eq!(decide(Missed::Skip), Decision::Skip { due: 10 * HOUR });
        let now = 10 * HOUR + 60_000;
        let decide = hourly(Missed::Skip, 0).decide("j", (HOUR, None), now, &always());
        assert_eq!(decide, Decision::Run { due: 10 * HOUR }, "late by less than a poll or two");
    }

    #[test]
    fn a_run_outside_its_windows_waits_or_is_skipped() {
        let windows = Windows { zone: Zone::utc(), windows: vec!["22:00-06:00".parse().unwrap()] };
        let day = 24 * HOUR;
        let run = hourly(Missed::Run, 0);
        let waits = Decision::Waits { due: day + 12 * HOUR, until: None };
        assert_eq!(run.decide("j", (day + 11 * HOUR, None), day + 12 * HOUR, &windows), waits);
        // The window opens: the newest of those that waited runs, once.
        let at = day + 22 * HOUR;
        assert_eq!(
            run.decide("j", (day + 5 * HOUR, None), at, &windows),
            Decision::Run { due: at }
        );
        assert_eq!(
            run.decide("j", (at, None), at, &windows),
            Decision::Idle { next: Some(at + HOUR) }
        );
        let at = day + 12 * HOUR + HOUR / 2;
        let skip = hourly(Missed::Skip, 0).decide("j", (day + 11 * HOUR, None), at, &windows);
        assert_eq!(skip, Decision::Skip { due: day + 12 * HOUR });
    }

    #[test]
    fn jitter_is_the_same_each_time_and_differs_between_jobs_and_runs() {
        let schedule = hourly(Missed::Run, 600_000);
        let begin = |job: &str, due: u64| due + schedule.jitter(job, due, &always());
        let mut seen = std::collections::BTreeSet::new();
        for hour in 1..200 {
            let due = hour * HOUR;
            for job in ["a", "b"] {
                let at = begin(job, due);
                assert!((due..=due + 600_000).contains(&at));
                assert_eq!(at, begin(job, due));
                let before =
                    schedule.decide(job, (due - 1, None), at.saturating_sub(1).max(due), &always());
                if at > due {
                    assert_eq!(before, Decision::Waits { due, until: Some(at) });
                }
                assert_eq!(
                    schedule.decide(job, (due - 1, None), at, &always()),
                    Decision::Run { due }
                );
                seen.insert(at - due);
            }
        }
        assert!(seen.len() > 300, "{}", seen.len());
    }

    #[test]
    fn a_run_that_has_begun_is_not_missed_however_long_its_tries_take() {
        let at = 10 * HOUR + HOUR / 2;
        let decide = |begun| hourly(Missed::Skip, 0).decide("j", (9 * HOUR, begun), at, &always());
        assert_eq!(decide(Some(10 * HOUR)), Decision::Run { due: 10 * HOUR });
        assert_eq!(decide(Some(9 * HOUR)), Decision::Skip { due: 10 * HOUR });
    }

    #[test]
    fn jitter_does_not_leave_the_window_of_the_due() {
        let windows = Windows { zone: Zone::utc(), windows: vec!["22:00-23:30".parse().unwrap()] };
        let schedule = hourly(Missed::Skip, 50 * 60_000);
        for day in 1..200 {
            let due = (day * 24 + 23) * HOUR;
            let begin = due + schedule.jitter("j", due, &windows);
            assert!(begin < due + HOUR / 2, "{day}");
            let decide = |at| schedule.decide("j", (due - 1, None), at, &windows);
            assert_eq!(decide(begin), Decision::Run { due });
            // Hardly late, and the window has closed meanwhile.
            let late = due + HOUR / 2 + 1_000;
            if late <= begin + 120_000 {
                assert_eq!(decide(late), Decision::Run { due });
            }
        }
    }

    #[test]
    fn jitter_must_end_before_the_next_due() {
        let has_room = |rhythm: Rhythm, jitter_ms| {
            Schedule { rhythm, missed: Missed::Run, jitter_ms }.has_room_for_jitter(&always())
        };
        assert!(has_room(Rhythm::Every { ms: HOUR }, HOUR - 1));
        assert!(!has_room(Rhythm::Every { ms: HOUR }, HOUR));
        let cron = |text: &str| Rhythm::Cron(Box::new(text.parse().unwrap()));
        assert!(has_room(cron("0 2,22 * * *"), 3 * HOUR));
        assert!(!has_room(cron("0 2,22 * * *"), 4 * HOUR));
    }

    /// However the agent is stopped and its clock moves, no due runs twice and none that it was
    /// awake for is forgotten.
    #[test]
    fn each_due_runs_once_through_restarts() {
        use rand::{RngExt, SeedableRng};
        let mut random = rand::rngs::SmallRng::seed_from_u64(7);
        for _ in 0..50 {
            let schedule = hourly(Missed::Run, random.random_range(0..HOUR / 2));
            let (mut now, mut done, mut ran) = (HOUR * 1000, HOUR * 1000, Vec::new());
            for _ in 0..500 {
                now += random.random_range(0..HOUR / 3);
                if let Decision::Run { due } = schedule.decide("j", (done, None), now, &always()) {
                    assert!(due <= now && due > done);
                    ran.push(due);
                    done = due;
                }
            }
            assert!(ran.windows(2).all(|two| two[1] == two[0] + HOUR), "{ran:?}");
            assert!(ran.len() > 50, "{}", ran.len());
        }
    }
}
