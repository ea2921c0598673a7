//! Refs, holds, quarantine and rollback.

use cairn_core::catalogue::Catalogue;
use cairn_types::command::{self, Body, DeleteReason, Refusal, Reply};
use cairn_types::ids::{Attempt, CheckpointId, Step};
use cairn_types::limits::{HOLDS_MAX, LABEL_BYTES_MAX, REF_HISTORY_MAX, REFS_MAX};
use cairn_types::model::{CheckpointState, Metric, PolicyChange};
use cairn_types::retention::{BestMetric, Extreme};

use crate::chance::Chance;
use crate::world::{RUN, World, begin_body, namespace, seal_body, stage_body};

/// One of these commands, about any checkpoint.
pub fn drawn(chance: &mut Chance, catalogue: &Catalogue) -> Body {
    let records: Vec<_> = catalogue.checkpoints().cloned().collect();
    let record = chance.pick(&records).cloned();
    let checkpoint = record.as_ref().map_or(CheckpointId(9), |record| record.id);
    let name = format!("name{}", chance.below(4));
    let by = String::new();
    match chance.below(10) {
        0..4 => Body::SetRef(command::SetRef {
            namespace: record.map_or_else(namespace, |record| record.namespace.clone()),
            name: name.parse().unwrap(),
            checkpoint: (!chance.once_in(4)).then_some(checkpoint),
            expect: chance.once_in(2).then(|| chance.below(5)),
            by,
        }),
        4..7 => Body::AddHold(command::AddHold {
            checkpoint,
            owner: name,
            reason: "r".into(),
            for_ms: chance.once_in(2).then(|| chance.below(2_000)),
        }),
        7 => Body::ReleaseHold(command::ReleaseHold { checkpoint, owner: name }),
        8 if chance.once_in(4) => {
            Body::Rollback(command::Rollback { checkpoint, reason: "r".into(), by })
        }
        _ => {
            let lift = chance.once_in(2);
            Body::SetQuarantine(command::SetQuarantine { checkpoint, lift, reason: "r".into(), by })
        }
    }
}

fn set_ref(name: &str, checkpoint: Option<CheckpointId>, expect: Option<u64>) -> Body {
    let (namespace, name) = (namespace(), name.parse().unwrap());
    Body::SetRef(command::SetRef { namespace, name, checkpoint, expect, by: "me".into() })
}

fn hold(checkpoint: CheckpointId, owner: &str, for_ms: Option<u64>) -> Body {
    let (owner, reason) = (owner.to_owned(), "evaluation".to_owned());
    Body::AddHold(command::AddHold { checkpoint, owner, reason, for_ms })
}

fn release(checkpoint: CheckpointId, owner: &str) -> Body {
    Body::ReleaseHold(command::ReleaseHold { checkpoint, owner: owner.into() })
}

fn quarantine(checkpoint: CheckpointId, lift: bool) -> Body {
    let (reason, by) = ("loss is NaN".to_owned(), "me".to_owned());
    Body::SetQuarantine(command::SetQuarantine { checkpoint, lift, reason, by })
}

fn rollback(checkpoint: CheckpointId) -> Body {
    Body::Rollback(command::Rollback { checkpoint, reason: "spike".into(), by: "me".into() })
}

fn delete(checkpoint: CheckpointId, force: bool) -> Body {
    let reason = DeleteReason::Asked;
    Body::Delete(command::Delete {
        checkpoint,
        reason,
        now: false,
        force,
        policy_version: None,
        by: String::new(),
    })
}

fn retention(checkpoint: CheckpointId) -> Body {
    let reason = DeleteReason::Retention;
    Body::Delete(command::Delete {
        checkpoint,
        reason,
        now: false,
        force: true,
        policy_version: None,
        by: String::new(),
    })
}

fn keep_last(world: &mut World, count: u32) {
    let change = PolicyChange { keep_last: Some(count), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
}

fn world_of(steps: u64) -> (World, Vec<CheckpointId>) {
    let mut world = World::new(&["a", "b", "c"]);
    let ids = (1..=steps).map(|step| world.put(step, &[&format!("s{step}")], &[1, 2])).collect();
    (world, ids)
}

fn protected_by(refusal: Refusal) -> String {
    match refusal {
        Refusal::Protected { by, .. } => by,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_ref_moves_by_compare_and_swap_and_remembers_its_moves() {
    let (mut world, ids) = world_of(2);
    world.done(set_ref("production", Some(ids[0]), Some(0)));
    assert_eq!(world.resolve("run1@production"), Ok(ids[0]));
    let moved = world.refused(set_ref("production", Some(ids[1]), Some(0)));
    let (name, expected, current) = ("production".to_owned(), 0, 1);
    assert_eq!(moved, Refusal::RefMoved { name, expected, current }, "another one was first");
    world.done(set_ref("production", Some(ids[1]), Some(1)));
    assert_eq!(world.resolve("run1@production"), Ok(ids[1]));

    world.done(set_ref("production", None, None));
    assert!(world.resolve("run1@production").is_err());
    assert!(matches!(world.refused(set_ref("production", None, None)), Refusal::NoSuchRef { .. }));
    let stale = world.refused(set_ref("production", Some(ids[0]), Some(2)));
    assert!(matches!(stale, Refusal::RefMoved { current: 0, .. }), "it is not there");
    world.done(set_ref("production", Some(ids[0]), Some(0)));
    let (_, target) = world.catalogue.refs(&namespace()).next().unwrap();
    let moves: Vec<_> = target.history.iter().map(|it| (it.generation, it.checkpoint)).collect();
    assert_eq!(moves, [(1, Some(ids[0])), (2, Some(ids[1])), (3, None), (4, Some(ids[0]))]);

    for _ in 0..40 {
        world.done(set_ref("production", Some(ids[1]), None));
    }
    let (_, target) = world.catalogue.refs(&namespace()).next().unwrap();
    assert_eq!((target.history.len(), target.generation), (REF_HISTORY_MAX, 44));
}

#[test]
fn a_ref_names_a_good_checkpoint_of_its_namespace_only() {
    let (mut world, ids) = world_of(1);
    let open = world.begin(5, 1, 1);
    let unknown = world.refused(set_ref("x", Some(open), None));
    assert_eq!(unknown, Refusal::UnknownCheckpoint(open), "it is not committed");
    world.done(quarantine(ids[0], false));
    assert!(matches!(world.refused(set_ref("x", Some(ids[0]), None)), Refusal::Quarantined { .. }));
    world.done(quarantine(ids[0], true));
    let elsewhere = command::SetRef {
        namespace: "other".parse().unwrap(),
        name: "x".parse().unwrap(),
        checkpoint: Some(ids[0]),
        expect: None,
        by: String::new(),
    };
    assert!(matches!(world.refused(Body::SetRef(elsewhere)), Refusal::Malformed(_)));
}

#[test]
fn refs_of_a_namespace_are_bounded_and_go_with_its_last_checkpoint() {
    let (mut world, ids) = world_of(1);
    for number in 0..REFS_MAX {
        world.done(set_ref(&format!("r{number}"), Some(ids[0]), None));
    }
    assert!(matches!(world.refused(set_ref("more", Some(ids[0]), None)), Refusal::Malformed(_)));
    world.done(set_ref("r7", None, None));
    world.done(set_ref("more", Some(ids[0]), None));
    assert_eq!(world.catalogue.refs(&namespace()).count(), REFS_MAX, "the removed one made room");

    world.done(hold(ids[0], "eval", None));
    world.done(delete(ids[0], true));
    world.pass(world.catalogue.cluster().settings.grace_ms + 1);
    world.drop_references(ids[0]);
    assert_eq!(world.catalogue.checkpoints().count(), 0);
    assert_eq!(world.catalogue.refs(&namespace()).count(), 0);
    assert_eq!(world.catalogue.holds_after(None).count(), 0);
}

#[test]
fn what_a_ref_or_a_hold_keeps_is_not_deleted_but_by_force() {
    let (mut world, ids) = world_of(3);
    keep_last(&mut world, 1);
    world.done(set_ref("production", Some(ids[0]), None));
    world.done(hold(ids[1], "eval", None));
    for (id, by) in [(ids[0], "ref production"), (ids[1], "a hold of eval (evaluation)")] {
        assert_eq!(protected_by(world.refused(delete(id, false))), by);
        assert_eq!(protected_by(world.refused(retention(id))), by, "a policy has no force");
    }
    world.done(release(ids[1], "eval"));
    let gone = Refusal::NoSuchHold { checkpoint: ids[1], owner: "eval".into() };
    assert_eq!(world.refused(release(ids[1], "eval")), gone);
    world.done(retention(ids[1]));
    world.done(delete(ids[0], true));
    assert!(world.resolve("run1@production").is_err(), "the ref names nothing now");
    world.done(set_ref("production", Some(ids[2]), Some(1)));
}

#[test]
fn a_hold_ends_at_its_time() {
    let (mut world, ids) = world_of(1);
    world.done(hold(ids[0], "eval", Some(5_000)));
    world.refused(delete(ids[0], false));
    world.pass(4_000);
    world.refused(delete(ids[0], false));
    world.done(hold(ids[0], "eval", Some(3_000)));
    world.pass(2_000);
    world.refused(delete(ids[0], false));
    world.pass(1_500);
    assert_eq!(world.catalogue.active_holds(ids[0]).count(), 0);
    world.done(delete(ids[0], false));
    let unknown = Refusal::UnknownCheckpoint(ids[0]);
    assert_eq!(world.refused(hold(ids[0], "eval", None)), unknown, "it is deleted");
}

#[test]
fn holds_of_a_checkpoint_are_bounded_and_ended_ones_make_room() {
    let (mut world, ids) = world_of(1);
    for number in 0..HOLDS_MAX {
        world.done(hold(ids[0], &format!("o{number}"), Some(1_000 * (number as u64 + 1))));
    }
    assert!(matches!(world.refused(hold(ids[0], "more", None)), Refusal::Malformed(_)));
    world.done(hold(ids[0], "o15", None));
    world.pass(2_500);
    world.done(hold(ids[0], "more", None));
    assert_eq!(world.catalogue.holds_after(None).count(), HOLDS_MAX - 1, "two had ended");
    for bad in [hold(ids[0], "", None), hold(ids[0], "a\nb", None), hold(ids[0], "x", Some(0))] {
        assert!(matches!(world.refused(bad), Refusal::Malformed(_)));
    }
}

#[test]
fn latest_and_times_pass_over_what_is_in_quarantine() {
    let (mut world, ids) = world_of(3);
    let label = world.catalogue.checkpoint(ids[2]).unwrap().commit.unwrap().wall_ms;
    let by_time = format!("run1@time:{label}");
    world.done(quarantine(ids[2], false));
    assert_eq!(world.resolve("run1@latest"), Ok(ids[1]));
    assert_eq!(world.resolve("run1@latest~1"), Ok(ids[0]));
    assert!(world.resolve("run1@latest~2").is_err());
    assert_eq!(world.resolve(&by_time), Ok(ids[1]));
    assert_eq!(world.resolve("run1@3"), Ok(ids[2]), "its step still names it");
    let info = world.catalogue.resolve(&"run1@3".parse().unwrap()).unwrap();
    let said = info.quarantine.map(|it| (it.reason, it.by));
    assert_eq!(said, Some(("loss is NaN".to_owned(), "me".to_owned())));
    world.done(quarantine(ids[2], true));
    assert_eq!(world.resolve("run1@latest"), Ok(ids[2]));
    assert!(matches!(world.refused(quarantine(ids[2], true)), Refusal::Malformed(_)), "not in it");
}

fn annotate(checkpoint: CheckpointId, metric: &str, value: f64) -> Body {
    let metrics = [(metric.to_owned(), Metric::new(value).unwrap())].into();
    let (labels, remove) = Default::default();
    Body::Annotate(command::Annotate { checkpoint, labels, metrics, remove })
}

fn best(name: &str, metric: &str) -> Body {
    let best_metric = Some(BestMetric { metric: metric.to_owned(), extreme: Extreme::Min });
    let mut set = command::SetPolicy::new(name.parse().unwrap(), PolicyChange::default());
    set.retention.best_metric = best_metric;
    Body::SetPolicy(set)
}

#[test]
fn best_is_the_good_commit_with_the_best_value_and_of_equal_ones_the_newest() {
    let (mut world, ids) = world_of(5);
    for (id, loss) in [(0, 2.0), (1, -0.0), (2, 0.0), (4, 5.0)] {
        world.done(annotate(ids[id], "loss", loss));
    }
    world.done(annotate(ids[3], "acc", 0.5));
    assert_eq!(world.resolve("run1@best:loss:min"), Ok(ids[2]), "the newer of two equal ones");
    assert_eq!(world.resolve("run1@best:loss:max"), Ok(ids[4]));
    assert_eq!(world.resolve("run1@best:acc:min"), Ok(ids[3]), "the others have none");
    world.done(quarantine(ids[2], false));
    assert_eq!(world.resolve("run1@best:loss:min"), Ok(ids[1]));
    world.delete(ids[1], false);
    assert_eq!(world.resolve("run1@best:loss:min"), Ok(ids[0]));
    let open = world.begin(9, 91, 1);
    assert!(matches!(world.refused(annotate(open, "loss", -9.0)), Refusal::UnknownCheckpoint(_)));
    let none = world.resolve("run1@best:f1:max").unwrap_err();
    assert!(matches!(none, Refusal::NoSuchCheckpoint { .. }), "{none}");
}

#[test]
fn what_is_best_is_inherited_and_can_be_ended() {
    let (mut world, ids) = world_of(2);
    let unsaid = |metric: &str| Refusal::NoBestMetric {
        namespace: "run1".to_owned(),
        metric: metric.to_owned(),
    };
    for (id, loss) in [(0, 1.0), (1, 2.0)] {
        world.done(annotate(ids[id], "loss", loss));
    }
    assert_eq!(world.resolve("run1@best"), Err(unsaid("")));
    assert_eq!(world.resolve("run1@best:loss"), Err(unsaid("loss")));
    world.done(best("run1", "loss"));
    assert_eq!(world.resolve("run1@best"), Ok(ids[0]));
    assert_eq!(world.resolve("run1@best:loss"), Ok(ids[0]));
    assert_eq!(world.resolve("run1@best:loss:max"), Ok(ids[1]), "what is named decides");
    assert_eq!(world.resolve("run1@best:acc"), Err(unsaid("acc")));
    let below = "run1/eval".parse().unwrap();
    let of = |world: &World| world.catalogue.full_policy(&below).retention.best;
    assert_eq!(of(&world).map(|it| it.to_string()).as_deref(), Some("loss:min"));
    world.done(best("run1/eval", ""));
    assert_eq!(of(&world), None);
    world.done(best("run1/eval", "acc"));
    assert_eq!(of(&world).map(|it| it.metric).as_deref(), Some("acc"));
    let long = "m".repeat(LABEL_BYTES_MAX + 1);
    assert!(matches!(world.refused(best("run1", &long)), Refusal::Malformed(_)));
}

#[test]
fn the_step_of_what_is_in_quarantine_may_be_written_again_by_a_higher_attempt() {
    let (mut world, ids) = world_of(2);
    let exists = world.try_begin(2, 99, 1, false);
    assert!(matches!(exists.refusal(), Some(Refusal::StepExists { .. })));
    world.done(quarantine(ids[1], false));
    let same = world.try_begin(2, 21, 1, false);
    assert!(matches!(same.refusal(), Some(Refusal::Quarantined { .. })), "{same:?}");
    let again = world.begin(2, 22, 1);
    world.stage((again, 22), 0, &["new"], &[1, 2]);
    world.durable(1, &["new"]);
    world.durable(2, &["new"]);
    world.seal((again, 22), 0, &["new"]);
    assert_eq!(world.resolve("run1@2"), Ok(again));
    assert_eq!(world.resolve("run1@latest"), Ok(again));
    let old = world.catalogue.checkpoint(ids[1]).unwrap();
    assert_eq!(old.state, CheckpointState::Deleted);
}

#[test]
fn an_upload_that_a_rollback_aborted_does_not_begin_again_under_its_attempt() {
    let (mut world, ids) = world_of(1);
    let empty = world.begin(2, 7, 1);
    let late = world.begin(3, 7, 1);
    world.stage((late, 7), 0, &["late"], &[1, 2]);
    assert_eq!(world.done(rollback(ids[0])), Reply::RolledBack { quarantined: 0, aborted: 2 });
    for (id, step) in [(empty, 2), (late, 3)] {
        world.drop_references(id);
        let refused =
            |got| Refusal::RolledBack { step: Step(step), got: Attempt(got), aborted: Attempt(7) };
        for attempt in [7, 6] {
            let again = world.try_begin(step, attempt, 1, true);
            assert_eq!(again.refusal(), Some(&refused(attempt)), "step {step}");
        }
        let stage = stage_body((id, 7), 0, RUN, &["more"], &[1, 2]);
        assert_eq!(world.refused(stage), refused(7), "what goes on is told why it must not");
    }
    // One that asks for no attempt gets a higher one, and so may a restarted job.
    let again = world.begin(2, 8, 1);
    assert_ne!(again, empty);
    assert!(world.try_begin(2, 7, 1, true).refusal().is_some());
    world.done(delete(late, false));
    world.pass(world.catalogue.cluster().settings.grace_ms + 1);
    for id in [empty, late] {
        world.drop_references(id);
        assert!(world.catalogue.checkpoint(id).is_none(), "the record goes with its grace");
    }
}

#[test]
fn what_came_out_of_quarantine_is_not_replaced_by_an_upload_that_did_not_ask_to() {
    let (mut world, ids) = world_of(1);
    world.done(quarantine(ids[0], false));
    let again = world.begin(1, 50, 1);
    world.stage((again, 50), 0, &["new"], &[1, 2]);
    world.durable(1, &["new"]);
    world.durable(2, &["new"]);
    world.done(quarantine(ids[0], true));
    let refused = world.refused(seal_body((again, 50), 0, RUN, &["new"]));
    assert!(matches!(refused, Refusal::StepExists { .. }), "{refused:?}");
    assert_eq!(world.resolve("run1@1"), Ok(ids[0]));
}

#[test]
fn a_quarantined_step_is_no_way_around_the_bound_on_open_uploads() {
    let (mut world, ids) = world_of(1);
    let Body::Begin(begin) = begin_body(1, 50, 1, false) else { unreachable!("that is a begin") };
    assert!(world.catalogue.has_room_for(&begin, 0), "it is refused, or a retry");
    world.done(quarantine(ids[0], false));
    assert!(!world.catalogue.has_room_for(&begin, 0), "it opens an upload");
}

#[test]
fn what_people_write_has_no_control_characters_and_a_quarantine_has_a_reason() {
    let (mut world, ids) = world_of(2);
    let text = |text: &str| text.to_owned();
    let bad: [Body; 5] = [
        command::AddHold {
            checkpoint: ids[0],
            owner: text("me"),
            reason: text("a\nb"),
            for_ms: None,
        }
        .into(),
        command::SetQuarantine {
            checkpoint: ids[0],
            lift: false,
            reason: text(""),
            by: text("me"),
        }
        .into(),
        command::SetQuarantine {
            checkpoint: ids[0],
            lift: false,
            reason: text("x"),
            by: text("\x1b[2J"),
        }
        .into(),
        command::Rollback { checkpoint: ids[0], reason: text("\r"), by: text("me") }.into(),
        command::Rollback { checkpoint: ids[0], reason: text(""), by: text("me") }.into(),
    ];
    for body in bad {
        assert!(matches!(world.refused(body), Refusal::Malformed(_)));
    }
    let moved = command::SetRef {
        namespace: namespace(),
        name: "x".parse().unwrap(),
        checkpoint: Some(ids[0]),
        expect: None,
        by: text("a\tb"),
    };
    assert!(matches!(world.refused(moved.into()), Refusal::Malformed(_)));
}

#[test]
fn a_generation_does_not_come_back_though_the_table_was_full() {
    let (mut world, ids) = world_of(1);
    for number in 0..REFS_MAX {
        world.done(set_ref(&format!("r{number}"), Some(ids[0]), None));
    }
    world.done(set_ref("r7", None, None));
    world.done(set_ref("x", Some(ids[0]), None));
    world.done(set_ref("x", None, None));
    world.done(set_ref("r7", Some(ids[0]), None));
    let stale = world.refused(set_ref("r7", Some(ids[0]), Some(1)));
    assert!(matches!(stale, Refusal::RefMoved { .. }), "{stale:?}");
}

#[test]
fn a_protected_checkpoint_is_not_replaced_neither_at_the_begin_nor_at_the_commit() {
    let (mut world, ids) = world_of(1);
    world.try_begin(1, 20, 1, true);
    let upload = world.catalogue.open_uploads().next().unwrap().id;
    world.stage((upload, 20), 0, &["new"], &[1, 2]);
    world.durable(1, &["new"]);
    world.durable(2, &["new"]);
    world.done(hold(ids[0], "eval", Some(10_000)));
    let before = world.catalogue.digest();
    let refused = world.refused(seal_body((upload, 20), 0, RUN, &["new"]));
    assert_eq!(protected_by(refused), "a hold of eval (evaluation)");
    let record = world.catalogue.checkpoint(upload).unwrap();
    assert_eq!(record.sealed_count(), 0, "a refusal has no effect");
    assert_ne!(before, [0; 32]);
    let begin = world.try_begin(1, 30, 1, true);
    assert!(matches!(begin.refusal(), Some(Refusal::Protected { .. })));
    world.done(release(ids[0], "eval"));
    let reply = world.seal((upload, 20), 0, &["new"]);
    assert!(matches!(reply, Reply::Committed { .. }), "{reply:?}");
}

#[test]
fn a_rollback_quarantines_later_steps_and_aborts_their_uploads() {
    let (mut world, ids) = world_of(4);
    let (early, late) = (world.begin(0, 1, 1), world.begin(9, 1, 1));
    let reply = world.done(rollback(ids[1]));
    assert_eq!(reply, Reply::RolledBack { quarantined: 2, aborted: 1 });
    assert_eq!(world.resolve("run1@latest"), Ok(ids[1]));
    let state = |world: &World, id| world.catalogue.checkpoint(id).unwrap().state;
    assert_eq!(state(&world, early), CheckpointState::Open);
    assert_eq!(state(&world, late), CheckpointState::Deleted, "it must not become the latest");
    let reply = world.done(rollback(ids[1]));
    assert_eq!(reply, Reply::RolledBack { quarantined: 0, aborted: 0 });
    assert!(matches!(world.refused(rollback(ids[3])), Refusal::Quarantined { .. }));
    let again = world.begin(3, 99, 1);
    assert_eq!(state(&world, again), CheckpointState::Open, "the step may be written again");
}

#[test]
fn the_newest_good_ones_are_kept_whatever_is_in_quarantine_behind_them() {
    let (mut world, ids) = world_of(5);
    world.done(quarantine(ids[3], false));
    world.done(quarantine(ids[4], false));
    keep_last(&mut world, 2);
    for id in [ids[1], ids[2]] {
        assert!(matches!(world.refused(retention(id)), Refusal::KeptByPolicy { .. }), "{id}");
    }
    for id in [ids[3], ids[4]] {
        assert!(matches!(world.refused(retention(id)), Refusal::KeptByPolicy { .. }), "too new");
    }
    world.done(retention(ids[0]));
    world.put(6, &["s6"], &[1, 2]);
    world.put(7, &["s7"], &[1, 2]);
    world.done(retention(ids[3]));
    world.done(retention(ids[4]));
    assert_eq!(world.catalogue.commits(&namespace()).count(), 4);
}
