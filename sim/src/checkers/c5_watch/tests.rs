use cairn_types::event::{WatchedCheckpoint, WatchedRef};
use cairn_types::ids::Lineage;
use cairn_types::model::DeletedFor;

use super::*;

fn id(index: u64, place: u32) -> EventId {
    EventId { lineage: Lineage(0), index, place }
}

fn end(index: u64) -> EventId {
    EventId::end_of(Lineage(0), index)
}

fn run() -> Namespace {
    "run".parse().unwrap()
}

fn committed(number: u64) -> Happened {
    Happened::Committed { checkpoint: CheckpointId(number), step: Step(number) }
}

fn deleted(number: u64) -> Happened {
    let (checkpoint, step) = (CheckpointId(number), Step(number));
    Happened::Deleted { checkpoint, step, reason: DeletedFor::Replaced }
}

fn told(at: EventId, what: Happened) -> Watched {
    Watched::Event(Event { id: at, wall_ms: at.index, namespace: run(), what })
}

fn there(number: u64) -> Watched {
    Watched::Checkpoint(WatchedCheckpoint {
        id: CheckpointId(number),
        namespace: run(),
        step: Step(number),
        commit_wall_ms: number,
        is_quarantined: false,
        is_full: false,
    })
}

fn view(numbers: &[u64]) -> Arc<View> {
    let known = |number: &u64| {
        let known = Known {
            namespace: run(),
            step: Step(*number),
            is_quarantined: false,
            is_full: Some(false),
            label_ms: Some(*number),
        };
        (CheckpointId(*number), known)
    };
    let checkpoints = numbers.iter().map(known).collect();
    Arc::new(View { checkpoints, refs: BTreeMap::new() })
}

/// Entry 1 commits checkpoint 1, entry 3 commits 3 in place of 1, entry 5 commits 5.
fn watches(last: u64) -> Watches {
    let change = |what: Happened, label_ms| Change { namespace: run(), what, label_ms };
    let history = History {
        last,
        changes: [
            (1, vec![change(committed(1), Some(1))]),
            (3, vec![change(committed(3), Some(3)), change(deleted(1), None)]),
            (5, vec![change(committed(5), Some(5))]),
        ]
        .into(),
        views: [(1, view(&[1])), (3, view(&[3])), (5, view(&[3, 5]))].into(),
        ..History::default()
    };
    Watches { inner: Arc::new(Mutex::new(history)) }
}

fn judge_by(watches: &Watches, answers: Vec<Watched>) -> Result<(), String> {
    let mut follower = Follower::new(None);
    answers.into_iter().try_for_each(|told| follower.take(told, watches))
}

fn judge(answers: Vec<Watched>) -> Result<(), String> {
    judge_by(&watches(6), answers)
}

#[test]
fn what_is_there_and_each_change_once_is_right() {
    let whole = vec![
        Watched::Begins,
        there(1),
        Watched::Seam(end(2)),
        told(id(3, 0), deleted(1)),
        told(id(3, 1), committed(3)),
        Watched::Cursor(end(4)),
        told(id(5, 0), committed(5)),
        Watched::Cursor(end(6)),
    ];
    assert_eq!(judge(whole.clone()), Ok(()));
    let again = [whole, vec![Watched::Begins, there(3), there(5), Watched::Seam(end(5))]].concat();
    assert_eq!(judge(again), Ok(()));
}

#[test]
fn a_gap_is_found_between_entries_and_inside_of_one() {
    let begin = vec![Watched::Begins, there(1), Watched::Seam(end(2))];
    let then = |more: Vec<Watched>| judge([begin.clone(), more].concat());
    assert!(then(vec![told(id(5, 0), committed(5))]).is_err(), "an entry is skipped");
    assert!(then(vec![Watched::Cursor(end(4))]).is_err(), "by a cursor");
    let half = told(id(3, 0), deleted(1));
    assert!(then(vec![half.clone(), told(id(5, 0), committed(5))]).is_err(), "half an entry");
    assert!(then(vec![half, Watched::Cursor(end(3))]).is_err(), "half an entry, by a cursor");
}

#[test]
fn order_repetition_and_inventions_are_found() {
    let begin = vec![Watched::Begins, there(1), Watched::Seam(end(2))];
    let then = |more: Vec<Watched>| judge([begin.clone(), more].concat());
    let (first, second) = (told(id(3, 0), deleted(1)), told(id(3, 1), committed(3)));
    assert!(then(vec![first.clone(), second.clone()]).is_ok());
    assert!(then(vec![second.clone(), first.clone()]).is_err(), "out of order");
    assert!(then(vec![first.clone(), first.clone()]).is_err(), "twice");
    assert!(then(vec![first, told(id(3, 1), deleted(1))]).is_err(), "twice under two ids");
    assert!(then(vec![told(id(3, 0), committed(7))]).is_err(), "it did not happen");
    assert!(judge(vec![Watched::Begins, second]).is_err(), "before the seam");
}

#[test]
fn what_is_there_at_the_seam_is_compared() {
    let seam = |there: Vec<Watched>| {
        let end = vec![Watched::Seam(end(4))];
        judge([vec![Watched::Begins], there, end].concat())
    };
    assert!(seam(vec![there(3)]).is_ok());
    assert!(seam(vec![]).is_err(), "it lacks one");
    assert!(seam(vec![there(3), there(3)]).is_err(), "twice");
    assert!(seam(vec![there(3), there(5)]).is_err(), "it is newer than its seam");
    let named = WatchedRef {
        namespace: run(),
        name: "good-one".parse().unwrap(),
        checkpoint: CheckpointId(3),
        generation: 1,
        step: None,
    };
    assert!(seam(vec![there(3), Watched::Ref(named)]).is_err(), "there is no such ref");
}

#[test]
fn answers_wait_for_the_entry_and_holes_are_judged_behind_their_end() {
    let answers = vec![
        Watched::Begins,
        there(1),
        Watched::Seam(end(2)),
        told(id(3, 0), deleted(1)),
        Watched::Cursor(end(3)),
    ];
    let early = watches(2);
    assert_eq!(judge_by(&early, answers.clone()), Ok(()), "entry 3 is not known yet");
    let hole = watches(6);
    hole.inner.lock().holes.push((2, 4));
    assert_eq!(judge_by(&hole, answers.clone()), Ok(()), "unknown in the hole");
    let behind = [answers, vec![Watched::Cursor(end(4))]].concat();
    assert!(judge_by(&hole, behind).is_err(), "known behind it");
}
