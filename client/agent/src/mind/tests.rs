//! Tables and properties of the mind: no disk, no clock, no cluster.

use std::path::Path;

use cairn_client::source::SourceEntry;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::config::Config;
use crate::listing::{Fingerprint, Seen};

fn config(job: &str) -> Config {
    let text = format!("state = 's'\npoll = '1s'\n{job}");
    Config::parse(Path::new("/etc/agent.toml"), &text).unwrap()
}

const WATCH: &str =
    "[[job]]\nname = 'j'\nnamespace = 'n'\nwatch = 'w'\nlayout = 'x{step}'\nquiet = '10s'\n";

fn mind(job: &str) -> Mind {
    let config = config(job);
    Mind::new(&config.jobs, Journal::default(), config.puts_parallel, "agent")
}

fn now(seconds: u64) -> Now {
    Now { wall_ms: 1_800_000_000_000 + seconds * 1000, elapsed: Duration::from_secs(seconds) }
}

fn version(version: i64) -> Version {
    let name = b"f".to_vec();
    let fingerprint = Fingerprint::of([&SourceEntry { name, mode: 0, mtime_ns: version, len: 1 }]);
    let mut witness = [0; 16];
    witness[..8].copy_from_slice(&version.to_le_bytes());
    Version { fingerprint, witness: Witness::new(witness) }
}

fn seen(step: u64, number: i64) -> Seen {
    let look = Look::Listed { version: version(number), files: 1, bytes: 1, lacks: None };
    let at = i64::try_from(step).unwrap();
    let times = Times { modified_ns: at, changed_ns: at };
    Seen { name: format!("x{step}"), step, look, times }
}

fn scan(seen: Vec<Seen>) -> Result<Scan, String> {
    Ok(Scan { seen, ..Scan::default() })
}

fn event(step: u64, outcome: Outcome) -> Event {
    Event { job: 0, step: Step(step), outcome }
}

fn stored(id: u64) -> Outcome {
    Outcome::Stored { id: CheckpointId(id), bytes: 1, cluster: None }
}

fn steps(actions: &[Action]) -> Vec<(&'static str, u64)> {
    let step = |action: &Action| match action {
        Action::Put(task) => ("put", task.step.0),
        Action::Remove(task) => ("remove", task.step.0),
    };
    actions.iter().map(step).collect()
}

#[test]
fn finished_checkpoints_are_put_one_after_another_in_the_order_of_their_steps() {
    let mut mind = mind(WATCH);
    for at in [0, 10] {
        mind.look(0, scan(vec![seen(3, 1), seen(1, 1), seen(2, 1)]), now(at));
        let actions = mind.next(now(at), true);
        assert_eq!(steps(&actions), if at == 0 { vec![] } else { vec![("put", 1)] });
    }
    assert!(mind.next(now(11), true).is_empty(), "one at a time");
    assert!(mind.heard(event(1, stored(5)), now(12)));
    assert_eq!(steps(&mind.next(now(12), true)), [("put", 2)]);
    mind.heard(event(2, Outcome::Failed { why: "x".to_owned() }), now(13));
    assert_eq!(steps(&mind.next(now(13), true)), [("put", 3)], "2 has its pause");
    mind.heard(event(3, stored(6)), now(14));
    assert!(mind.next(now(14), true).is_empty());
    assert_eq!(steps(&mind.next(now(30), true)), [("put", 2)]);
    mind.heard(event(2, stored(7)), now(31));
    assert!(mind.next(now(1000), true).is_empty(), "each once");
}

#[test]
fn files_that_change_during_a_put_are_not_taken_for_stored() {
    let mut mind = mind(WATCH);
    for at in [0, 10] {
        mind.look(0, scan(vec![seen(1, 1)]), now(at));
    }
    assert_eq!(steps(&mind.next(now(10), true)), [("put", 1)]);
    // The put had read all of version 1 when version 2 was seen.
    mind.look(0, scan(vec![seen(1, 2)]), now(11));
    mind.heard(event(1, stored(5)), now(12));
    let record = &mind.journal().jobs["j"].stored[&1];
    assert_eq!(record.version(), Some(version(1)), "what was put, not what is there");
    mind.look(0, scan(vec![seen(1, 2)]), now(22));
    assert_eq!(steps(&mind.next(now(22), true)), [("put", 1)], "the cluster decides on version 2");
    mind.heard(event(1, Outcome::Refused { why: "step exists".to_owned() }), now(23));
    assert!(mind.next(now(10_000), true).is_empty(), "refused for these files");
    assert_eq!(mind.report(now(23))[0].checkpoints[0].state, State::Refused);
    for at in [20_000, 20_010] {
        mind.look(0, scan(vec![seen(1, 3)]), now(at));
    }
    assert_eq!(steps(&mind.next(now(20_010), true)), [("put", 1)]);
}

#[test]
fn a_put_of_files_that_changed_waits_for_their_quiet_time_again() {
    let mut mind = mind(WATCH);
    for at in [0, 10] {
        mind.look(0, scan(vec![seen(1, 1)]), now(at));
    }
    mind.next(now(10), true);
    mind.heard(event(1, Outcome::Changed { why: "f changed".to_owned() }), now(11));
    assert!(mind.next(now(11), true).is_empty());
    // The same listing as before: its quiet time begins again all the same.
    mind.look(0, scan(vec![seen(1, 1)]), now(12));
    assert!(mind.next(now(20), true).is_empty());
    mind.look(0, scan(vec![seen(1, 1)]), now(22));
    assert_eq!(steps(&mind.next(now(22), true)), [("put", 1)]);
}

#[test]
fn tries_have_growing_pauses_and_after_the_last_a_long_one() {
    let mut mind = mind(&format!("{WATCH}tries = 3\n"));
    for at in [0, 10] {
        mind.look(0, scan(vec![seen(1, 1)]), now(at));
    }
    let mut at = 10;
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let began = at;
        while mind.next(now(at), true).is_empty() {
            at += 1;
        }
        pauses.push(at - began);
        mind.heard(event(1, Outcome::Failed { why: "x".to_owned() }), now(at));
    }
    assert_eq!(pauses[0], 0);
    assert!((3..8).contains(&pauses[1]) && (7..14).contains(&pauses[2]), "{pauses:?}");
    assert!(pauses[3] > 2_600, "{pauses:?}");
}

#[test]
fn what_is_written_down_is_not_put_again_by_the_next_process() {
    let mut first = mind(WATCH);
    for at in [0, 10] {
        first.look(0, scan(vec![seen(1, 1)]), now(at));
    }
    first.next(now(10), true);
    first.heard(event(1, stored(5)), now(11));
    let config = config(WATCH);
    let mut second = Mind::new(&config.jobs, first.journal(), 2, "agent");
    for at in [0, 10, 20] {
        second.look(0, scan(vec![seen(1, 1), seen(2, 1)]), now(at));
    }
    assert_eq!(steps(&second.next(now(20), true)), [("put", 2)]);
}

#[test]
fn local_copies_go_once_newer_ones_are_stored_and_the_journal_is_written() {
    let mut mind = mind(&format!("{WATCH}keep_local = 1\n"));
    let all = || scan(vec![seen(1, 1), seen(2, 1), seen(3, 1)]);
    for at in [0, 10] {
        mind.look(0, all(), now(at));
    }
    for step in 1..=2 {
        assert_eq!(steps(&mind.next(now(10), true)), [("put", step)]);
        mind.heard(event(step, stored(step)), now(11));
    }
    assert_eq!(steps(&mind.next(now(11), false)), [("put", 3)], "the journal is not written");
    let actions = mind.next(now(12), true);
    assert_eq!(steps(&actions), [("remove", 1)], "3 is not stored: 2 is the newest that is");
    assert!(mind.next(now(13), true).is_empty());
    mind.heard(event(1, Outcome::Kept { why: "1 of 2 replicas".to_owned() }), now(13));
    assert!(mind.next(now(14), true).is_empty());
    assert_eq!(steps(&mind.next(now(80), true)), [("remove", 1)], "tried again later");
    // Its files changed: it is not what is stored.
    mind.heard(event(1, Outcome::Kept { why: "changed".to_owned() }), now(81));
    mind.look(0, scan(vec![seen(1, 9), seen(2, 1), seen(3, 1)]), now(82));
    assert!(mind.next(now(200), true).is_empty());
}

#[test]
fn settled_ones_are_neither_listed_nor_put_and_may_go() {
    let mut mind = mind(&format!("{WATCH}keep_local = 1\n"));
    for at in [0, 10] {
        mind.look(0, scan(vec![seen(1, 1), seen(2, 1)]), now(at));
    }
    for step in 1..=2 {
        mind.next(now(10), false);
        mind.heard(event(step, stored(1)), now(11));
    }
    assert_eq!(mind.settled(0).get("x1"), Some(&version(1).witness));
    let settled = |step| Seen { look: Look::Settled, ..seen(step, 1) };
    mind.look(0, scan(vec![settled(1), settled(2)]), now(12));
    assert_eq!(steps(&mind.next(now(12), true)), [("remove", 1)]);
}

#[test]
fn files_that_were_touched_since_they_were_stored_are_compared_by_a_put() {
    let mut mind = mind(&format!("{WATCH}keep_local = 1\n"));
    for at in [0, 10] {
        mind.look(0, scan(vec![seen(1, 1), seen(2, 1)]), now(at));
    }
    for step in 1..=2 {
        mind.next(now(10), false);
        mind.heard(event(step, stored(1)), now(11));
    }
    // Sizes and times are the same; an inode or a time of change is not.
    let touched = || {
        let mut touched = seen(1, 1);
        let Look::Listed { version, .. } = &mut touched.look else { panic!("not listed") };
        version.witness = Witness::new([9; 16]);
        touched
    };
    mind.look(0, scan(vec![touched(), seen(2, 1)]), now(12));
    assert!(mind.next(now(12), true).is_empty(), "not what was stored, and not quiet yet");
    mind.look(0, scan(vec![touched(), seen(2, 1)]), now(22));
    assert_eq!(steps(&mind.next(now(22), true)), [("put", 1)]);
    mind.heard(event(1, stored(1)), now(23));
    assert_eq!(steps(&mind.next(now(23), true)), [("remove", 1)]);
}

#[test]
fn what_another_cluster_has_is_put_into_this_one() {
    let mut mind = mind(WATCH);
    for at in [0, 10] {
        mind.look(0, scan(vec![seen(1, 1), seen(2, 1)]), now(at));
    }
    for (step, cluster) in [(1, "old"), (2, "new")] {
        mind.next(now(10), true);
        let cluster = Some(cluster.to_owned());
        let outcome = Outcome::Stored { id: CheckpointId(1), bytes: 1, cluster };
        mind.heard(event(step, outcome), now(11));
    }
    assert!(mind.next(now(12), true).is_empty());
    assert!(mind.forget_other_clusters("new"));
    assert!(!mind.forget_other_clusters("new"));
    assert_eq!(steps(&mind.next(now(12), true)), [("put", 1)]);
}

#[test]
fn nothing_is_removed_while_it_is_not_known_what_the_program_needs() {
    let mut mind = mind(&format!("{WATCH}keep_local = 1\n"));
    let all = || vec![seen(1, 1), seen(2, 1), seen(3, 1)];
    for at in [0, 10] {
        mind.look(0, scan(all()), now(at));
    }
    for step in 1..=3 {
        mind.next(now(10), false);
        mind.heard(event(step, stored(1)), now(11));
    }
    let unknown = Pointed::Unknown { why: "latest: it names no step".to_owned() };
    mind.look(0, Ok(Scan { seen: all(), pointed: unknown, ..Scan::default() }), now(12));
    assert!(mind.next(now(12), true).is_empty());
    let needed = Err("read trainer_state.json: denied".to_owned());
    mind.look(0, Ok(Scan { seen: all(), needed, ..Scan::default() }), now(13));
    assert!(mind.next(now(13), true).is_empty());
    assert!(mind.report(now(13))[0].trouble.clone().unwrap().contains("denied"));
    let pointed = Pointed::Step { step: 1, modified_ns: 99 };
    let needed = Ok(["x2".to_owned()].into());
    mind.look(0, Ok(Scan { seen: all(), pointed, needed, ..Scan::default() }), now(14));
    assert!(mind.next(now(14), true).is_empty());
    mind.look(0, scan(all()), now(15));
    assert_eq!(steps(&mind.next(now(15), true)), [("remove", 1)]);
    assert!(mind.next(now(15), true).is_empty(), "one at a time");
}

#[test]
fn states_that_last_are_trouble() {
    let is_troubled = |mind: &Mind, at| {
        let report = &mind.report(now(at))[0];
        report.unreadable + report.kept > 0
    };
    let mut mind = mind(&format!("{WATCH}keep_local = 1\n"));
    let failed = || {
        let look = Look::Failed { why: "denied".to_owned() };
        scan(vec![Seen { look, ..seen(1, 1) }])
    };
    for at in 1..u64::from(report::STUCK_LOOKS) {
        mind.look(0, failed(), now(at));
        assert!(!is_troubled(&mind, at), "a file may vanish under a look");
    }
    mind.look(0, failed(), now(100));
    assert!(is_troubled(&mind, 100));
    for at in [110, 120] {
        mind.look(0, scan(vec![seen(1, 1), seen(2, 1)]), now(at));
    }
    assert!(!is_troubled(&mind, 120));
    for step in 1..=2 {
        mind.next(now(120), false);
        mind.heard(event(step, stored(1)), now(121));
    }
    for round in 1..=u64::from(report::KEPT_TRIES) {
        assert!(!is_troubled(&mind, 121), "a replica may be on its way");
        let at = 121 + round * 100;
        assert_eq!(steps(&mind.next(now(at), true)), [("remove", 1)]);
        mind.heard(event(1, Outcome::Kept { why: "read-only".to_owned() }), now(at));
    }
    assert!(is_troubled(&mind, 1_000));
    let unmatched = vec!["y1".to_owned()];
    mind.look(0, Ok(Scan { unmatched, ..Scan::default() }), now(1_001));
    assert!(mind.report(now(1_001))[0].trouble.clone().unwrap().contains("y1 is left out"));
}

#[test]
fn a_second_name_of_a_step_is_left_out_and_said() {
    let mut mind = mind(WATCH);
    let other = Seen { name: "x01".to_owned(), ..seen(1, 2) };
    for at in [0, 10] {
        mind.look(0, scan(vec![other.clone(), seen(1, 1)]), now(at));
    }
    let actions = mind.next(now(10), true);
    assert!(
        matches!(&actions[..], [Action::Put(task)] if task.found.as_ref().unwrap().name == "x01")
    );
    let trouble = mind.report(now(10))[0].trouble.clone().unwrap();
    assert!(trouble.contains("x1 is left out"), "{trouble}");
}

#[test]
fn windows_hold_puts_back() {
    // 1,800,000,000 s is 08:00 UTC.
    let mut mind = mind(&format!("{WATCH}windows = ['22:00-06:00']\n"));
    for at in [0, 10] {
        mind.look(0, scan(vec![seen(1, 1)]), now(at));
        assert!(mind.next(now(at), true).is_empty());
    }
    assert_eq!(steps(&mind.next(now(15 * 3600), true)), [("put", 1)]);
}

#[test]
fn all_jobs_together_keep_to_the_bound_and_none_is_forgotten() {
    let job = |n| {
        format!(
            "[[job]]\nname = 'j{n}'\nnamespace = 'n{n}'\nwatch = 'w{n}'\nlayout = 'x{{step}}'\nquiet = '1s'\n"
        )
    };
    let config = config(&format!("puts_parallel = 2\n{}", (0..5).map(job).collect::<String>()));
    let mut mind = Mind::new(&config.jobs, Journal::default(), config.puts_parallel, "agent");
    let (mut done, mut at) = (0, 0);
    let mut running: Vec<(usize, Step)> = Vec::new();
    while done < 50 {
        at += 1;
        assert!(at < 10_000, "only {done} were put");
        for index in 0..5 {
            mind.look(index, scan((1..=10).map(|step| seen(step, 1)).collect()), now(at));
        }
        for action in mind.next(now(at), true) {
            let Action::Put(task) = action else { panic!("nothing is to be removed") };
            running.push((task.job, task.step));
        }
        assert!(running.len() <= 2, "{running:?}");
        if let Some((job, step)) = running.pop() {
            mind.heard(Event { job, step, outcome: stored(1) }, now(at));
            done += 1;
        }
    }
}

#[test]
fn a_scheduled_run_is_tried_again_until_it_is_done_and_then_not_again() {
    let schedule = "[[job]]\nname = 'j'\nnamespace = 'n'\npaths = ['p']\nevery = '1h'\ntries = 3\n";
    let mut mind = mind(schedule);
    assert!(mind.begin(now(0)));
    assert!(!mind.begin(now(0)));
    assert!(mind.next(now(10), true).is_empty(), "nothing was missed before the first start");
    let next = mind.next(now(3600), true);
    let [Action::Put(task)] = &next[..] else { panic!("{next:?}") };
    assert_eq!(task.step, Step(step_of(task.due_ms.unwrap())));
    assert!(mind.next(now(3600), true).is_empty());
    mind.heard(event(task.step.0, Outcome::Failed { why: "x".to_owned() }), now(3601));
    assert!(mind.next(now(3602), true).is_empty());
    let again = mind.next(now(3620), true);
    assert_eq!(again, next, "the same run under the same step");
    assert!(mind.heard(event(task.step.0, stored(3)), now(3621)));
    assert!(mind.next(now(3700), true).is_empty());
    assert_eq!(mind.journal().jobs["j"].done_ms, task.due_ms);
}

#[test]
fn a_run_that_a_kill_cut_short_is_not_taken_for_a_missed_one() {
    let schedule =
        "[[job]]\nname = 'j'\nnamespace = 'n'\npaths = ['p']\nevery = '1d'\nmissed = 'skip'\n";
    let due = 86_400 - 1_800_000_000 % 86_400;
    // Begun in time, and killed; the next process starts hours later.
    let mut mind = mind(schedule);
    mind.begin(now(0));
    let begun = mind.next(now(due), true);
    let [Action::Put(_)] = &begun[..] else { panic!("{begun:?}") };
    let jobs = config(schedule).jobs;
    let mut next = Mind::new(&jobs, mind.journal(), 2, "agent");
    assert_eq!(next.next(now(due + 20_000), true), begun, "it goes on");
    // One that had not begun is skipped.
    let mut journal = mind.journal();
    journal.jobs.get_mut("j").unwrap().begun_ms = None;
    let mut other = Mind::new(&jobs, journal, 2, "agent");
    assert_eq!(other.next(now(due + 20_000), true), []);
}

#[test]
fn a_clock_that_was_ahead_once_does_not_stop_the_runs() {
    let schedule = "[[job]]\nname = 'j'\nnamespace = 'n'\npaths = ['p']\nevery = '1h'\n";
    let mut mind = mind(schedule);
    mind.begin(now(10_000_000));
    assert!(mind.next(now(0), true).is_empty());
    assert!(mind.report(now(0))[0].trouble.clone().unwrap().contains("clock"));
    let next = mind.next(now(3_600), true);
    let [Action::Put(task)] = &next[..] else { panic!("{next:?}") };
    mind.heard(event(task.step.0, stored(1)), now(3_601));
    assert_eq!(mind.report(now(3_601))[0].trouble, None);
}

#[test]
fn each_run_has_its_own_tries() {
    let schedule = "[[job]]\nname = 'j'\nnamespace = 'n'\npaths = ['p']\nevery = '1h'\ntries = 2\n\
        missed = 'skip'\n";
    let mut mind = mind(schedule);
    mind.begin(now(0));
    let mut tries = Vec::new();
    for at in 1..=7_300 {
        for action in mind.next(now(at), true) {
            let Action::Put(task) = action else { panic!("{action:?}") };
            tries.push((at, task.due_ms.unwrap() / 1000 - 1_800_000_000));
            mind.heard(event(task.step.0, Outcome::Failed { why: "x".to_owned() }), now(at));
        }
    }
    let second: Vec<u64> = tries.iter().filter(|it| it.1 == 7_200).map(|it| it.0).collect();
    let [first, again, ..] = second[..] else { panic!("{tries:?}") };
    assert!(
        first == 7_200 && again < 7_210,
        "not after the long pause of the run before: {tries:?}"
    );
}

#[test]
fn other_files_and_a_success_end_the_pause_of_a_failure() {
    let mut mind = mind(&format!("{WATCH}tries = 1\n"));
    for at in [0, 10] {
        mind.look(0, scan(vec![seen(1, 1), seen(2, 1)]), now(at));
    }
    assert_eq!(steps(&mind.next(now(10), true)), [("put", 1)]);
    mind.heard(event(1, Outcome::Failed { why: "x".to_owned() }), now(10));
    assert_eq!(steps(&mind.next(now(11), true)), [("put", 2)]);
    mind.heard(event(2, Outcome::Failed { why: "x".to_owned() }), now(11));
    assert!(mind.next(now(1_000), true).is_empty());
    for at in [1_001, 1_011] {
        mind.look(0, scan(vec![seen(1, 2), seen(2, 1)]), now(at));
    }
    assert_eq!(mind.report(now(1_011))[0].checkpoints[0].tries, 0);
    assert_eq!(steps(&mind.next(now(1_011), true)), [("put", 1)], "other files");
    mind.heard(event(1, stored(1)), now(1_012));
    assert_eq!(steps(&mind.next(now(1_020), true)), [("put", 2)], "the fault is over");
}

#[test]
fn the_mind_is_asked_again_when_something_may_be_done() {
    let mut watch = mind(&format!("{WATCH}windows = ['22:00-06:00']\n"));
    assert_eq!(watch.wake_in(now(0)), None);
    for at in [0, 10] {
        watch.look(0, scan(vec![seen(1, 1)]), now(at));
    }
    assert_eq!(watch.wake_in(now(10)), Some(Duration::from_secs(50)), "a window may open");
    let mut watch = mind(WATCH);
    for at in [0, 10] {
        watch.look(0, scan(vec![seen(1, 1)]), now(at));
    }
    watch.next(now(10), true);
    assert_eq!(watch.wake_in(now(10)), None, "an event ends it");
    watch.heard(event(1, Outcome::Failed { why: "x".to_owned() }), now(11));
    let pause = watch.wake_in(now(11)).unwrap();
    assert!((3_000..7_000).contains(&pause.as_millis()), "{pause:?}");
    assert_eq!(watch.wake_in(now(100)), None, "not again and again for what has passed");
    let schedule = "[[job]]\nname = 'j'\nnamespace = 'n'\npaths = ['p']\nevery = '1h'\n";
    let mut scheduled = mind(schedule);
    scheduled.begin(now(0));
    scheduled.next(now(600), true);
    assert_eq!(scheduled.wake_in(now(600)), Some(Duration::from_secs(3_000)));
}

/// A model of a training run, its cluster and an agent that is killed at any moment: whatever
/// happens in which order, each finished checkpoint is stored once and in one version, and none is
/// removed before it is stored.
#[test]
fn any_order_of_writes_looks_results_and_kills_stores_each_version_once() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let config = config(&format!("{WATCH}keep_local = 2\n"));
        let mut journal = Journal::default();
        let mut disk: BTreeMap<u64, (i64, bool)> = BTreeMap::new();
        let mut cluster: BTreeMap<u64, i64> = BTreeMap::new();
        let (mut at, mut last) = (0, 0);
        for life in 0..6 {
            let mut mind = Mind::new(&config.jobs, journal.clone(), 2, "agent");
            let mut flying: Vec<Action> = Vec::new();
            let born = at;
            for _ in 0..random.random_range(5..120) {
                at += random.random_range(0..8);
                let now = Now { elapsed: Duration::from_secs(at - born), ..now(at) };
                match random.random_range(0..5) {
                    // Training writes: a new step, more of the newest, or its end.
                    0 if last < 20 && disk.get(&last).is_none_or(|it| it.1) => {
                        last += 1;
                        disk.insert(last, (1, false));
                    }
                    0 => {
                        if let Some(it) = disk.get_mut(&last) {
                            (it.0, it.1) = (it.0 + i64::from(!it.1), it.1 || random.random());
                        }
                    }
                    1 | 2 => {
                        let look = |(step, (version, ended)): (&u64, &(i64, bool))| {
                            let mut seen = seen(*step, *version);
                            if let (false, Look::Listed { lacks, .. }) = (*ended, &mut seen.look) {
                                *lacks = Some("MARKER is not there yet".to_owned());
                            }
                            seen
                        };
                        mind.look(0, scan(disk.iter().map(look).collect()), now);
                    }
                    3 => flying.extend(mind.next(now, true)),
                    _ if flying.is_empty() => {}
                    _ => {
                        let outcome = match flying.swap_remove(random.random_range(0..flying.len()))
                        {
                            Action::Put(task) => {
                                let found = task.found.unwrap();
                                let (version, ended) = disk[&task.step.0];
                                assert!(ended, "seed {seed}: step {} is half written", task.step);
                                assert_eq!(found.version, super::tests::version(version));
                                match random.random_range(0..4) {
                                    0 => (task.step, Outcome::Failed { why: "x".to_owned() }),
                                    _ => {
                                        // A second one is told apart by its label.
                                        let before = cluster.insert(task.step.0, version);
                                        assert!(before.is_none_or(|it| it == version));
                                        (task.step, stored(task.step.0))
                                    }
                                }
                            }
                            Action::Remove(task) => {
                                let step = task.step.0;
                                assert!(cluster.contains_key(&step), "seed {seed}: {step} is lost");
                                disk.remove(&step);
                                (task.step, Outcome::Removed)
                            }
                        };
                        // The answer is lost where the agent is killed before it is heard.
                        if random.random_range(0..10) > 0 {
                            mind.heard(Event { job: 0, step: outcome.0, outcome: outcome.1 }, now);
                            journal = mind.journal();
                        } else {
                            break;
                        }
                    }
                }
            }
            assert!(life < 6);
        }
        // A last life without trouble stores the rest.
        let mut mind = Mind::new(&config.jobs, journal, 2, "agent");
        if let Some(it) = disk.get_mut(&last) {
            it.1 = true;
        }
        for second in 0..200 {
            let now = Now { elapsed: Duration::from_secs(second * 5), ..now(at + second * 5) };
            let all = disk.iter().map(|(step, (version, _))| seen(*step, *version)).collect();
            mind.look(0, scan(all), now);
            for action in mind.next(now, true) {
                let (step, outcome) = match action {
                    Action::Put(task) => {
                        cluster.insert(task.step.0, disk[&task.step.0].0);
                        (task.step, stored(task.step.0))
                    }
                    Action::Remove(task) => {
                        disk.remove(&task.step.0);
                        (task.step, Outcome::Removed)
                    }
                };
                mind.heard(Event { job: 0, step, outcome }, now);
            }
        }
        let steps: Vec<u64> = cluster.keys().copied().collect();
        assert_eq!(steps, (1..=last).collect::<Vec<_>>(), "seed {seed}");
        assert!(disk.len() <= 2, "seed {seed}: {disk:?}");
    }
}
