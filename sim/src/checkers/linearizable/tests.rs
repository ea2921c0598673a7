use super::catalogue::{Catalogue, Input, Output, Rules, Version};
use super::*;

const ENOUGH: usize = 100_000;

/// A register, for textbook examples.
struct Register;

#[derive(Debug, Clone)]
enum Touch {
    Write(u32),
    Read,
}

impl Model for Register {
    type State = u32;
    type Input = Touch;
    type Output = u32;

    fn start(&self) -> u32 {
        0
    }

    fn step(&self, state: &u32, input: &Touch, output: Option<&u32>) -> Vec<u32> {
        match input {
            Touch::Write(value) => vec![*value],
            Touch::Read if output.is_none_or(|read| read == state) => vec![*state],
            Touch::Read => Vec::new(),
        }
    }

    fn is_read(&self, input: &Touch, _: Option<&u32>) -> bool {
        matches!(input, Touch::Read)
    }
}

fn write(value: u32, called: u64, answered: u64) -> Operation<Touch, u32> {
    Operation {
        who: "w".into(),
        input: Touch::Write(value),
        called,
        answer: Some((answered, value)),
    }
}

fn lost_write(value: u32, called: u64) -> Operation<Touch, u32> {
    Operation { answer: None, ..write(value, called, called) }
}

fn read(value: u32, called: u64, answered: u64) -> Operation<Touch, u32> {
    Operation { who: "r".into(), input: Touch::Read, called, answer: Some((answered, value)) }
}

fn register(operations: &[Operation<Touch, u32>]) -> bool {
    match check(&Register, operations, ENOUGH) {
        Ok(_) => true,
        Err(Failure::NotLinearizable { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn concurrent_operations_may_be_in_any_order() {
    assert!(register(&[write(1, 0, 10), read(0, 1, 5), read(1, 2, 6)]));
    assert!(register(&[write(1, 0, 10), write(2, 0, 10), read(1, 20, 21)]));
    assert!(register(&[write(1, 0, 10), write(2, 0, 10), read(2, 20, 21)]));
}

#[test]
fn stale_read_is_caught() {
    assert!(!register(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]));
    assert!(!register(&[write(1, 0, 10), read(1, 1, 5), read(0, 6, 7)]), "back in time");
}

#[test]
fn lost_write_is_caught() {
    assert!(!register(&[write(1, 0, 1), read(0, 2, 3)]));
}

#[test]
fn value_nobody_wrote_is_caught() {
    assert!(!register(&[write(1, 0, 1), read(7, 2, 3)]));
    assert!(!register(&[lost_write(1, 5), read(1, 2, 3)]), "not called yet");
}

#[test]
fn split_brain_is_caught() {
    let two_leaders = [write(1, 0, 1), write(2, 0, 1), read(1, 2, 3), read(2, 4, 5), read(1, 6, 7)];
    assert!(!register(&two_leaders));
    assert!(register(&two_leaders[..3]));
}

#[test]
fn unknown_outcome_may_take_effect_late_or_never_but_once() {
    assert!(register(&[lost_write(1, 0), read(0, 2, 3), read(1, 50, 51)]));
    assert!(register(&[lost_write(1, 0), read(0, 2, 3), read(0, 50, 51)]));
    let twice = [lost_write(1, 0), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7), read(1, 8, 9)];
    assert!(!register(&twice));
    assert!(register(&twice[..4]));
}

/// Wide, not long: 12 writers at once, and readers that agree with only one order.
#[test]
fn memory_keeps_a_wide_history_small() {
    let mut operations: Vec<_> = (1..=12).map(|value| write(value, 0, 1_000)).collect();
    operations.extend((1..=12).rev().map(|value| {
        let at = 10 * (13 - u64::from(value));
        read(value, at, at + 1)
    }));
    let looked = check(&Register, &operations, ENOUGH);
    assert!(looked.is_ok_and(|configurations| configurations < 10_000));
}

#[test]
fn what_is_too_hard_says_so() {
    let mut operations: Vec<_> = (1..=16).map(|value| write(value, 0, 1_000)).collect();
    operations.push(read(99, 10, 11));
    let given_up = check(&Register, &operations, 500);
    assert!(matches!(given_up, Err(Failure::TooHard { configurations: 501.., .. })));
}

type Call = Operation<Input, Output>;

fn call(input: Input, called: u64, answered: u64, output: Output) -> Call {
    Operation { who: "c".into(), input, called, answer: Some((answered, output)) }
}

fn unknown(input: Input, called: u64) -> Call {
    Operation { who: "c".into(), input, called, answer: None }
}

/// Alone, at one time.
fn put(version: Version, at: u64) -> Call {
    call(Input::Put(version), at, at + 1, Output::Done)
}

fn latest(version: Version, at: u64) -> Call {
    call(Input::Latest, at, at + 1, Output::Found(version, 0))
}

fn at_step(step: u64, attempt: u64, at: u64) -> Call {
    call(Input::Step(step), at, at + 1, Output::Found((step, attempt), 0))
}

fn no_step(step: u64, at: u64) -> Call {
    call(Input::Step(step), at, at + 1, Output::Missing)
}

fn delete(version: Version, at: u64) -> Call {
    call(Input::Delete(version.0), at, at + 1, Output::Version(version))
}

fn fits(operations: &[Call]) -> bool {
    match check(&Catalogue, operations, ENOUGH) {
        Ok(_) => true,
        Err(Failure::NotLinearizable { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn latest_is_the_newest_commit_and_never_goes_back() {
    assert!(fits(&[put((2, 1), 0), put((1, 1), 10), latest((1, 1), 20)]));
    assert!(!fits(&[put((1, 1), 0), put((2, 1), 10), latest((1, 1), 20)]));
    let both = [call(Input::Put((1, 1)), 0, 50, Output::Done), put((2, 1), 10)];
    let seen = |first, second| [&both[..], &[latest(first, 20), latest(second, 30)]].concat();
    assert!(fits(&seen((2, 1), (1, 1))));
    assert!(!fits(&[&seen((2, 1), (1, 1))[..], &[latest((2, 1), 40)]].concat()));
}

#[test]
fn deleted_or_replaced_version_is_not_seen_again() {
    assert!(fits(&[put((1, 1), 0), delete((1, 1), 10), no_step(1, 20)]));
    assert!(!fits(&[put((1, 1), 0), delete((1, 1), 10), at_step(1, 1, 20)]));
    assert!(!fits(&[put((1, 1), 0), put((1, 2), 10), at_step(1, 1, 20)]));
    assert!(!fits(&[put((1, 2), 0), put((1, 1), 10)]), "a lower attempt is fenced");
}

/// A retried request is applied twice, the second time after the deletion.
#[test]
fn duplicate_apply_of_a_retried_put_is_caught() {
    let retried = call(Input::Put((1, 1)), 0, 5, Output::Done);
    let seen = [retried.clone(), delete((1, 1), 10), no_step(1, 20), at_step(1, 1, 30)];
    assert!(!fits(&seen));
    assert!(fits(&seen[..3]));
}

#[test]
fn put_of_unknown_outcome_may_show_late_but_not_before_it_began() {
    let lost = unknown(Input::Put((1, 1)), 10);
    assert!(fits(&[lost.clone(), no_step(1, 20), at_step(1, 1, 30)]));
    assert!(!fits(&[lost.clone(), at_step(1, 1, 5)]));
    assert!(!fits(&[lost, at_step(1, 1, 20), no_step(1, 30)]));
}

#[test]
fn deletion_of_unknown_outcome_takes_what_it_may_have_found() {
    let lost = unknown(Input::Delete(1), 5);
    assert!(fits(&[put((1, 1), 0), lost.clone(), at_step(1, 1, 10), no_step(1, 20)]));
    assert!(!fits(&[put((1, 1), 0), lost, no_step(1, 10), at_step(1, 1, 20)]));
}

#[test]
fn parts_become_visible_with_the_last_and_whoever_is_told_may_rely_on_it() {
    let commit = unknown(Input::Put((1, 1)), 10);
    let told = call(Input::Saw((1, 1)), 10, 20, Output::Done);
    assert!(fits(&[commit.clone(), told.clone(), at_step(1, 1, 30)]));
    assert!(!fits(&[commit.clone(), told, no_step(1, 30)]));
    assert!(!fits(&[commit, at_step(1, 1, 5)]), "one part is not begun yet");
}

#[test]
fn retention_removes_silently_but_only_what_is_old() {
    let keep = |count, at| call(Input::KeepLast(count), at, at + 1, Output::Done);
    let puts = [put((1, 1), 0), put((2, 1), 2), put((3, 1), 4), keep(2, 6)];
    let then = |calls: &[Call]| fits(&[&puts[..], calls].concat());
    assert!(then(&[no_step(1, 10), at_step(2, 1, 12)]));
    assert!(then(&[at_step(1, 1, 10), no_step(1, 12)]));
    assert!(!then(&[no_step(2, 10)]));
    assert!(!then(&[no_step(1, 10), at_step(1, 1, 12)]), "gone is gone");
    // A doomed version stays doomed when the newer ones are removed.
    assert!(then(&[
        delete((3, 1), 10),
        delete((2, 1), 12),
        call(Input::Latest, 14, 15, Output::Missing)
    ]));
}

#[test]
fn each_rule_keeps_what_it_names_and_nothing_else() {
    let note = |step, note, at| call(Input::Annotate((step, 1), note), at, at + 1, Output::Done);
    let history = |rules, calls: &[Call]| {
        let mut all: Vec<Call> = (1..=6).map(|step| put((step, 1), step * 2)).collect();
        all.extend([note(2, 9, 20), note(3, 8, 22), note(5, 8, 24)]);
        all.push(call(Input::Rules(rules), 30, 31, Output::Done));
        fits(&[&all[..], calls].concat())
    };
    let gone = |rules| -> Vec<u64> {
        (1..=6).filter(|step| history(rules, &[no_step(*step, 40)])).collect()
    };
    let none = Rules::default();
    assert_eq!(gone(none), [0; 0]);
    assert_eq!(gone(Rules { last: 2, ..none }), [1, 2, 3, 4]);
    assert_eq!(gone(Rules { every_steps: 4, ..none }), [1, 2, 3, 5], "and the newest");
    assert_eq!(gone(Rules { best: 1, ..none }), [1, 3, 4, 5]);
    assert_eq!(gone(Rules { best: 2, ..none }), [1, 3, 4], "of equal ones the newest");
    assert_eq!(gone(Rules { last: 2, every_steps: 3, best: 1 }), [1, 4], "3 is a multiple");
    // In quarantine 6 counts for nothing, so 5 is the newest good one.
    let bad = call(Input::Quarantine((6, 1)), 32, 33, Output::Done);
    let rules = call(Input::Rules(Rules { last: 1, ..none }), 34, 35, Output::Done);
    assert!(!history(none, &[bad, rules, no_step(5, 40)]));
}

#[test]
fn undeleted_version_is_what_it_was_and_stays() {
    let back = |step, at| call(Input::Undelete((step, 1)), at, at + 1, Output::Done);
    let note = call(Input::Annotate((1, 1), 7), 4, 5, Output::Done);
    let puts = [put((1, 1), 0), put((2, 1), 2), note, delete((1, 1), 10)];
    let then = |calls: &[Call]| fits(&[&puts[..], calls].concat());
    let seen = |note, at| call(Input::Step(1), at, at + 1, Output::Found((1, 1), note));
    assert!(then(&[no_step(1, 12), back(1, 20), seen(7, 30)]));
    assert!(!then(&[back(1, 20), no_step(1, 30)]), "it is lost again");
    assert!(!then(&[back(1, 20), seen(0, 30)]), "its note is lost");
    assert!(!then(&[seen(7, 15), back(1, 20)]), "back before it was undeleted");
    assert!(!then(&[back(2, 20)]), "it was not deleted");
    assert!(!then(&[put((1, 2), 12), back(1, 20)]), "another version has its step");
    assert!(then(&[back(1, 20), latest((2, 1), 30)]), "at its place in the order of commits");
    assert!(!then(&[back(1, 20), call(Input::Latest, 30, 31, Output::Found((1, 1), 7))]));
    let lost = unknown(Input::Undelete((1, 1)), 20);
    assert!(then(&[lost.clone(), no_step(1, 30), seen(7, 40)]));
    assert!(!then(&[lost, seen(7, 30), no_step(1, 40)]));
    let refused = call(Input::Undelete((1, 1)), 20, 21, Output::Refused);
    assert!(then(&[refused.clone(), no_step(1, 30)]) && !then(&[refused, seen(7, 30)]));
}

#[test]
fn retention_does_not_take_what_was_undeleted_from_it() {
    let rules =
        |at| call(Input::Rules(Rules { last: 1, ..Rules::default() }), at, at + 1, Output::Done);
    let back = |at| call(Input::Undelete((1, 1)), at, at + 1, Output::Done);
    let puts = [put((1, 1), 0), put((2, 1), 2)];
    let then = |calls: &[Call]| fits(&[&puts[..], calls].concat());
    assert!(then(&[rules(10), back(20), at_step(1, 1, 30)]), "it was let go unseen");
    assert!(!then(&[rules(10), back(20), no_step(1, 30)]));
    // Without rules nothing holds it. Rules that come later may let it go.
    assert!(then(&[delete((1, 1), 5), back(10), rules(20), no_step(1, 30)]));
}

#[test]
fn note_stays_on_its_version_until_the_next_one() {
    let note = |note, at| call(Input::Annotate((1, 1), note), at, at + 1, Output::Done);
    let seen = |note, at| call(Input::Step(1), at, at + 1, Output::Found((1, 1), note));
    let then = |calls: &[Call]| fits(&[&[put((1, 1), 0), note(7, 10)][..], calls].concat());
    assert!(then(&[seen(7, 20), note(8, 30), seen(8, 40)]));
    assert!(!then(&[seen(0, 20)]), "a lost note");
    assert!(!then(&[note(8, 20), seen(7, 30)]), "a stale note");
    assert!(!then(&[put((1, 2), 20), call(Input::Latest, 30, 31, Output::Found((1, 2), 7))]));
    assert!(!then(&[delete((1, 1), 20), note(8, 30)]), "on a version that is gone");
    let refused = call(Input::Annotate((1, 1), 8), 30, 31, Output::Missing);
    assert!(then(&[delete((1, 1), 20), refused.clone()]) && !then(&[refused]));
    let lost = unknown(Input::Annotate((1, 1), 8), 20);
    assert!(then(&[lost.clone(), seen(7, 30), seen(8, 40)]));
    assert!(!then(&[lost, seen(8, 30), seen(7, 40)]));
}

/// Regression seed 10164: two notes overlap, and the one that changes nothing at first was the
/// later one. The search did it at once and then found no order.
#[test]
fn overlapping_notes_may_be_in_any_order() {
    let note = |note| call(Input::Annotate((1, 1), note), 10, 50, Output::Done);
    let seen = |note, at| call(Input::Step(1), at, at + 1, Output::Found((1, 1), note));
    let then = |calls: &[Call]| fits(&[&[put((1, 1), 0)], calls].concat());
    assert!(then(&[note(0), note(7), seen(7, 60)]));
    assert!(then(&[note(0), note(7), seen(0, 60)]), "taken off after it was put on");
    assert!(then(&[note(0), note(7), seen(7, 20), seen(0, 60)]));
    assert!(then(&[note(7), note(7), note(8), seen(7, 20), seen(8, 30), seen(7, 60)]));
    assert!(!then(&[note(7), note(8), seen(7, 20), seen(8, 30), seen(7, 60)]), "only two notes");
    assert!(!then(&[note(7), seen(0, 60)]));
    assert!(register(&[write(0, 0, 10), write(1, 0, 10), read(0, 20, 21)]));
}

#[test]
fn listing_shows_one_moment() {
    let list = |versions: &[Version], at| {
        call(Input::List, at, at + 1, Output::Versions(versions.to_vec()))
    };
    let puts = [put((1, 1), 0), put((2, 1), 2)];
    let then = |calls: &[Call]| fits(&[&puts[..], calls].concat());
    assert!(then(&[list(&[(2, 1), (1, 1)], 10)]));
    assert!(!then(&[list(&[(2, 1)], 10)]), "an acknowledged one is missing");
    assert!(!then(&[delete((1, 1), 10), list(&[(1, 1), (2, 1)], 20)]), "a deleted one is shown");
    let replaced = [put((1, 2), 10), list(&[(1, 1), (2, 1)], 20)];
    assert!(!then(&replaced), "a replaced one is shown");
    // Of two concurrent puts, the second is shown without the first, so it happened first.
    let both = [
        call(Input::Put((1, 1)), 0, 50, Output::Done),
        call(Input::Put((2, 1)), 0, 50, Output::Done),
    ];
    let seen = |first: &[Version], second: &[Version]| {
        fits(&[&both[..], &[list(first, 10), list(second, 20)]].concat())
    };
    assert!(seen(&[(2, 1)], &[(1, 1), (2, 1)]));
    assert!(!seen(&[(2, 1)], &[(1, 1)]));
    // Retention may have removed versions with newer commits, and no others.
    let keep = call(Input::KeepLast(1), 6, 7, Output::Done);
    assert!(then(&[keep.clone(), list(&[(2, 1)], 10)]));
    assert!(!then(&[keep, list(&[(1, 1)], 10)]));
}

/// The register example in terms of the catalogue: a former leader answers from its old catalogue.
#[test]
fn stale_answer_among_many_writers_is_caught() {
    let mut history = Vec::new();
    for at in 0..40 {
        let writer = at % 4;
        let called = at * 10;
        let version = (writer, at + 1);
        history.push(call(Input::Put(version), called, called + 25, Output::Done));
    }
    history.push(at_step(2, 39, 500));
    assert!(fits(&history));
    history.push(at_step(2, 35, 510));
    assert!(!fits(&history));
}
