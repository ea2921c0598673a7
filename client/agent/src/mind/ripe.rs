//! Whether a checkpoint is finished: what is required is there, and its listing has been the same
//! for the quiet time.

use std::time::Duration;

use crate::listing::{Look, Pointed, Times, Version};

/// What is remembered of a candidate from one look to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    version: Version,
    /// When this listing was seen first.
    since: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Finished(Version),
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
        (step, look, times): (u64, &Look, Times),
        pointed: &Pointed,
        now: Duration,
    ) -> Verdict {
        let (version, files, lacks) = match look {
            Look::Listed { version, files, lacks, .. } => (*version, *files, lacks),
            Look::Failed { why } => {
                *memory = None;
                return Verdict::Waiting(why.clone());
            }
            // Of what is stored; the caller knows its listing.
            Look::Settled => return Verdict::Waiting("it is stored".to_owned()),
        };
        let kept = memory.filter(|memory| memory.version == version);
        let since = kept.map_or(now, |memory| memory.since);
        *memory = Some(Memory { version, since });
        if files == 0 {
            return Verdict::Waiting("it is empty".to_owned());
        }
        if let Some(why) = lacks {
            return Verdict::Waiting(why.clone());
        }
        if let Some(why) = self.pointer.and_then(|file| not_named(file, step, times, pointed)) {
            return Verdict::Waiting(why);
        }
        // Seen twice at least, however short the quiet time is.
        if kept.is_none() || now.saturating_sub(since) < self.quiet {
            let seconds = self.quiet.as_secs_f64();
            return Verdict::Waiting(format!("it changed less than {seconds} s ago"));
        }
        Verdict::Finished(version)
    }
}

/// Why a pointer file does not finish a step. One that names a later step was written before this
/// checkpoint where training has gone back: then it is older than what is written now.
fn not_named(file: &str, step: u64, times: Times, pointed: &Pointed) -> Option<String> {
    match pointed {
        Pointed::NoPointer => Some(format!("{file} does not name it yet")),
        Pointed::Unknown { why } => Some(why.clone()),
        Pointed::Step { step: named, .. } if *named == step => None,
        Pointed::Step { step: named, .. } if *named < step => {
            Some(format!("{file} does not name it yet"))
        }
        Pointed::Step { modified_ns, .. } if *modified_ns < times.modified_ns => {
            Some(format!("{file} names a later one, and is older than its files"))
        }
        Pointed::Step { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use cairn_client::source::SourceEntry;

    use super::*;
    use crate::listing::{Fingerprint, Witness};

    fn look(len: u64, lacks: Option<&str>) -> Look {
        let entry = SourceEntry { name: b"f".to_vec(), mode: 0, mtime_ns: 1, len };
        let fingerprint = Fingerprint::of([&entry]);
        let version = Version { fingerprint, witness: Witness::new([0; 16]) };
        Look::Listed { version, files: 1, bytes: len, lacks: lacks.map(str::to_owned) }
    }

    const NONE: Pointed = Pointed::NoPointer;

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
            let verdict = rule.judge(
                &mut memory,
                (1, &look(len, None), Times::default()),
                &NONE,
                seconds(at),
            );
            assert_eq!(matches!(verdict, Verdict::Finished(_)), finished, "at {at} s: {verdict:?}");
        }
    }

    #[test]
    fn a_look_that_failed_begins_the_quiet_time_again() {
        let rule = Rule { quiet: seconds(10), pointer: None };
        let (mut memory, failed) = (None, Look::Failed { why: "f changed".to_owned() });
        rule.judge(&mut memory, (1, &look(1, None), Times::default()), &NONE, seconds(0));
        let verdict = rule.judge(&mut memory, (1, &failed, Times::default()), &NONE, seconds(9));
        assert_eq!(verdict, Verdict::Waiting("f changed".to_owned()));
        let verdict =
            rule.judge(&mut memory, (1, &look(1, None), Times::default()), &NONE, seconds(10));
        assert!(matches!(verdict, Verdict::Waiting(_)), "{verdict:?}");
    }

    #[test]
    fn one_look_is_not_enough_even_without_a_quiet_time() {
        let rule = Rule { quiet: seconds(0), pointer: None };
        let mut memory = None;
        let first =
            rule.judge(&mut memory, (1, &look(1, None), Times::default()), &NONE, seconds(5));
        assert!(matches!(first, Verdict::Waiting(_)));
        let second =
            rule.judge(&mut memory, (1, &look(1, None), Times::default()), &NONE, seconds(5));
        assert!(matches!(second, Verdict::Finished(_)));
    }

    #[test]
    fn required_files_and_pointers_are_waited_for() {
        let rule = Rule { quiet: seconds(0), pointer: Some("latest") };
        let mut memory = None;
        let times = Times { modified_ns: 50, changed_ns: 60 };
        let mut judge = |look: &Look, pointed: Option<(u64, i64)>| {
            let pointed = match pointed {
                Some((step, modified_ns)) => Pointed::Step { step, modified_ns },
                None => Pointed::Unknown { why: "latest: it names no step".to_owned() },
            };
            rule.judge(&mut memory, (100, look, times), &pointed, seconds(1));
            rule.judge(&mut memory, (100, look, times), &pointed, seconds(2))
        };
        let says = |verdict: Verdict, text: &str| match verdict {
            Verdict::Waiting(why) => assert!(why.contains(text), "{why}"),
            other => panic!("{other:?} instead of {text}"),
        };
        let lacks = look(1, Some(".metadata is not there yet"));
        says(judge(&lacks, Some((100, 50))), ".metadata is not there");
        says(judge(&look(1, None), None), "latest: it names no step");
        says(judge(&look(1, None), Some((99, 70))), "latest does not name it");
        assert!(matches!(judge(&look(1, None), Some((100, 50))), Verdict::Finished(_)));
        assert!(matches!(judge(&look(1, None), Some((300, 50))), Verdict::Finished(_)));
        // Training went back, and writes step 100 once more.
        says(judge(&look(1, None), Some((300, 49))), "is older than its files");
        let Look::Listed { version, .. } = look(1, None) else { panic!("not listed") };
        let empty = Look::Listed { version, files: 0, bytes: 0, lacks: None };
        says(judge(&empty, Some((100, 50))), "empty");
    }
}
