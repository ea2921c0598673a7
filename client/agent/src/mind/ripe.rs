//! Whether a checkpoint is finished: what is required is there, and its listing has been the same
//! for the quiet time.

use std::time::Duration;

use crate::listing::{Fingerprint, Look};

/// What is remembered of a candidate from one look to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    fingerprint: Fingerprint,
    /// When this listing was seen first.
    since: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Finished(Fingerprint),
    /// Why it is not taken yet.
    Waiting(String),
}

/// What makes a checkpoint finished beside its required files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub quiet: Duration,
    /// The file that names the newest finished one.
    pub pointer: Option<&'static str>,
}

impl Rule {
    /// `now` is the time of the agent's own clock, which only goes forward.
    pub fn judge(
        self,
        memory: &mut Option<Memory>,
        (step, look): (u64, &Look),
        pointed: Option<u64>,
        now: Duration,
    ) -> Verdict {
        let (fingerprint, files, lacks) = match look {
            Look::Listed { fingerprint, files, lacks, .. } => (*fingerprint, *files, lacks),
            Look::Failed { why } => {
                *memory = None;
                return Verdict::Waiting(why.clone());
            }
            // Of what is stored; the caller knows its listing.
            Look::Settled => return Verdict::Waiting("it is stored".to_owned()),
        };
        let kept = memory.filter(|memory| memory.fingerprint == fingerprint);
        let since = kept.map_or(now, |memory| memory.since);
        *memory = Some(Memory { fingerprint, since });
        if files == 0 {
            return Verdict::Waiting("it is empty".to_owned());
        }
        if let Some(name) = lacks {
            return Verdict::Waiting(format!("{name} is not there yet"));
        }
        if let Some(file) = self.pointer
            && pointed.is_none_or(|pointed| pointed < step)
        {
            return Verdict::Waiting(format!("{file} does not name it yet"));
        }
        // Seen twice at least, however short the quiet time is.
        if kept.is_none() || now.saturating_sub(since) < self.quiet {
            let seconds = self.quiet.as_secs_f64();
            return Verdict::Waiting(format!("it changed less than {seconds} s ago"));
        }
        Verdict::Finished(fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use cairn_client::source::SourceEntry;

    use super::*;

    fn look(len: u64, lacks: Option<&str>) -> Look {
        let entry = SourceEntry { name: b"f".to_vec(), mode: 0, mtime_ns: 1, len };
        let (fingerprint, lacks) = (Fingerprint::of([&entry]), lacks.map(str::to_owned));
        Look::Listed { fingerprint, files: 1, bytes: len, lacks }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_listing_must_stay_the_same_for_the_quiet_time() {
        let rule = Rule { quiet: seconds(10), pointer: None };
        let mut memory = None;
        // (time, length, finished)
        let table = [
            (0, 1, false),
            (9, 1, false),
            (10, 1, true),
            (11, 2, false),
            (20, 2, false),
            (21, 2, true),
            // Back to what it was before is a change, too.
            (22, 1, false),
        ];
        for (at, len, finished) in table {
            let verdict = rule.judge(&mut memory, (1, &look(len, None)), None, seconds(at));
            assert_eq!(matches!(verdict, Verdict::Finished(_)), finished, "at {at} s: {verdict:?}");
        }
    }

    #[test]
    fn a_look_that_failed_begins_the_quiet_time_again() {
        let rule = Rule { quiet: seconds(10), pointer: None };
        let (mut memory, failed) = (None, Look::Failed { why: "f changed".to_owned() });
        rule.judge(&mut memory, (1, &look(1, None)), None, seconds(0));
        let verdict = rule.judge(&mut memory, (1, &failed), None, seconds(9));
        assert_eq!(verdict, Verdict::Waiting("f changed".to_owned()));
        let verdict = rule.judge(&mut memory, (1, &look(1, None)), None, seconds(10));
        assert!(matches!(verdict, Verdict::Waiting(_)), "{verdict:?}");
    }

    #[test]
    fn one_look_is_not_enough_even_without_a_quiet_time() {
        let rule = Rule { quiet: seconds(0), pointer: None };
        let mut memory = None;
        let first = rule.judge(&mut memory, (1, &look(1, None)), None, seconds(5));
        assert!(matches!(first, Verdict::Waiting(_)));
        let second = rule.judge(&mut memory, (1, &look(1, None)), None, seconds(5));
        assert!(matches!(second, Verdict::Finished(_)));
    }

    #[test]
    fn required_files_and_pointers_are_waited_for() {
        let rule = Rule { quiet: seconds(0), pointer: Some("latest") };
        let mut memory = None;
        let mut judge = |look: &Look, pointed| {
            rule.judge(&mut memory, (100, look), pointed, seconds(1));
            rule.judge(&mut memory, (100, look), pointed, seconds(2))
        };
        let says = |verdict: Verdict, text: &str| match verdict {
            Verdict::Waiting(why) => assert!(why.contains(text), "{why}"),
            other => panic!("{other:?} instead of {text}"),
        };
        says(judge(&look(1, Some(".metadata")), Some(100)), ".metadata is not there");
        says(judge(&look(1, None), None), "latest does not name it");
        says(judge(&look(1, None), Some(99)), "latest does not name it");
        assert!(matches!(judge(&look(1, None), Some(100)), Verdict::Finished(_)));
        assert!(matches!(judge(&look(1, None), Some(300)), Verdict::Finished(_)));
        let empty =
            Look::Listed { fingerprint: Fingerprint::of([]), files: 0, bytes: 0, lacks: None };
        says(judge(&empty, Some(100)), "empty");
    }
}
