//! The trash: what is deleted keeps its references for the grace, and comes back whole (D7).

use cairn_types::command::{self, Body, DeleteReason, Refusal};
use cairn_types::ids::{CheckpointId, Namespace};
use cairn_types::limits::UNDELETED_KEPT_MS;
use cairn_types::model::{CheckpointState, DeletedFor, PolicyChange, SlotState};

use crate::world::{World, begin_body, begun, namespace};

fn grace_ms(world: &World) -> u64 {
    world.catalogue.cluster().settings.grace_ms
}

fn undelete(checkpoint: CheckpointId) -> Body {
    Body::Undelete(command::Undelete { checkpoint, by: "ann".to_owned() })
}

fn drop_references(checkpoint: CheckpointId) -> Body {
    Body::DropReferences(command::DropReferences { checkpoint })
}

#[test]
fn a_deleted_checkpoint_comes_back_whole_until_its_grace_is_over() {
    let mut world = World::new(&["a", "b"]);
    let id = world.put(1, &["x", "y"], &[1, 2]);
    world.wall_ms = 70_000;
    world.done(Body::Delete(command::Delete {
        checkpoint: id,
        reason: DeleteReason::Asked,
        now: false,
        force: false,
        policy_version: None,
        by: "bob".to_owned(),
    }));
    assert!(world.resolve("run1@1").is_err());
    let info = world.catalogue.info(world.catalogue.checkpoint(id).unwrap());
    let deletion = info.deletion.unwrap();
    assert_eq!((deletion.reason, deletion.by.as_str()), (DeletedFor::Asked, "bob"));
    assert_eq!((deletion.wall_ms, deletion.restorable_ms), (70_000, grace_ms(&world)));
    assert!(matches!(world.refused(drop_references(id)), Refusal::Malformed(_)));
    world.pass(grace_ms(&world) - 1);
    assert_eq!(world.reap("x"), (0, 1), "referenced");
    world.done(undelete(id));
    assert_eq!(world.resolve("run1@latest"), Ok(id));
    assert_eq!(world.refused(undelete(id)), Refusal::NotInTrash(id));
    let info = world.catalogue.info(world.catalogue.checkpoint(id).unwrap());
    assert_eq!((info.deletion, info.segments, info.holds.len()), (None, 2, 0));
}

#[test]
fn after_its_grace_it_is_gone_and_its_segments_are_reaped_at_once() {
    let mut world = World::new(&["a", "b"]);
    let id = world.put(1, &["x"], &[1, 2]);
    world.delete(id, false);
    world.pass(grace_ms(&world));
    assert_eq!(world.refused(undelete(id)), Refusal::NotInTrash(id), "not dropped yet, but over");
    assert_eq!(world.drop_references(id), 0);
    assert!(world.catalogue.checkpoint(id).is_none());
    assert_eq!(world.refused(undelete(id)), Refusal::UnknownCheckpoint(id));
    assert_eq!(world.reap("x"), (1, 0));
    assert!(world.segment("x").slots.iter().all(|slot| slot.state == SlotState::Released));
}

#[test]
fn deletion_with_now_passes_the_trash_by() {
    for again in [false, true] {
        let mut world = World::new(&["a", "b"]);
        let id = world.put(1, &["x", "shared"], &[1, 2]);
        world.put(2, &["shared"], &[]);
        if again {
            world.delete(id, false);
        }
        world.delete(id, true);
        assert_eq!(world.refused(undelete(id)), Refusal::NotInTrash(id));
        assert_eq!(world.drop_references(id), 0);
        assert_eq!(world.reap("x"), (1, 0));
        assert_eq!(world.reap("shared"), (0, 1), "a live checkpoint refers to it");
    }
}

#[test]
fn the_trash_of_one_keeps_what_another_gives_back_at_once() {
    let mut world = World::new(&["a", "b"]);
    let freed = world.put(1, &["x"], &[1, 2]);
    let kept = world.put(2, &["x"], &[]);
    world.delete(kept, false);
    world.delete(freed, true);
    world.drop_references(freed);
    assert_eq!(world.reap("x"), (0, 1));
    world.done(undelete(kept));
    assert_eq!(world.resolve("run1@2"), Ok(kept));
}

#[test]
fn a_step_that_was_written_again_is_not_undeleted() {
    let mut world = World::new(&["a", "b"]);
    let first = world.put(1, &["x"], &[1, 2]);
    world.delete(first, false);
    let second = begun(world.done(begin_body(1, 99, 1, false))).checkpoint;
    world.seal((second, 99), 0, &[]);
    assert_eq!(
        world.refused(undelete(first)),
        Refusal::StepTaken { checkpoint: first, by: second }
    );
    world.delete(second, false);
    world.done(undelete(first));
    assert_eq!(world.resolve("run1@1"), Ok(first));
}

#[test]
fn an_upload_that_was_aborted_is_in_no_trash() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 1);
    world.stage((id, 5), 0, &["x"], &[1, 2]);
    world.delete(id, false);
    assert_eq!(world.refused(undelete(id)), Refusal::NotInTrash(id));
    assert_eq!(world.drop_references(id), 0);
    assert_eq!(world.reap("x"), (0, 1), "its grace runs");
    world.pass(grace_ms(&world));
    assert_eq!(world.reap("x"), (1, 0));
}

#[test]
fn what_retention_let_go_is_on_hold_once_it_is_undeleted() {
    let mut world = World::new(&["a", "b"]);
    let ids: Vec<_> = (1..=2).map(|step| world.put(step, &["x"], &[1, 2])).collect();
    let change = PolicyChange { keep_last: Some(1), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
    let version = |world: &World| world.catalogue.retention_version(&namespace());
    let before = version(&world);
    world.done(retire(ids[0], before));
    world.done(undelete(ids[0]));
    let (got, current) = (before, version(&world));
    let refusal = world.refused(retire(ids[0], before));
    assert_eq!(refusal, Refusal::PolicyChanged { got, current }, "evaluated before it came back");
    let refusal = world.refused(retire(ids[0], current));
    assert!(refusal.to_string().contains("undeleted by ann"), "{refusal}");
    world.pass(UNDELETED_KEPT_MS);
    world.done(retire(ids[0], current));
}

/// A deletion by retention that was evaluated at this version.
fn retire(checkpoint: CheckpointId, version: u64) -> Body {
    Body::Delete(command::Delete {
        checkpoint,
        reason: DeleteReason::Retention,
        now: false,
        force: false,
        policy_version: Some(version),
        by: String::new(),
    })
}

#[test]
fn retention_that_was_evaluated_before_a_change_deletes_nothing() {
    let mut world = World::new(&["a", "b"]);
    let ids: Vec<_> = (1..=4).map(|step| world.put(step, &["x"], &[1, 2])).collect();
    let change = PolicyChange { keep_last: Some(1), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
    let annotate = Body::Annotate(command::Annotate {
        checkpoint: ids[0],
        labels: [("keep".to_owned(), "yes".to_owned())].into(),
        metrics: Default::default(),
        remove: Vec::new(),
    });
    let quarantine = |lift| {
        Body::SetQuarantine(command::SetQuarantine {
            checkpoint: ids[1],
            reason: "nan".to_owned(),
            by: "ann".to_owned(),
            lift,
        })
    };
    let delete = Body::Delete(command::Delete {
        checkpoint: ids[2],
        reason: DeleteReason::Asked,
        now: false,
        force: false,
        policy_version: None,
        by: String::new(),
    });
    for said in [annotate, quarantine(false), quarantine(true), delete] {
        let got = world.catalogue.retention_version(&namespace());
        world.done(said.clone());
        let current = world.catalogue.retention_version(&namespace());
        let refusal = world.refused(retire(ids[0], got));
        assert_eq!(refusal, Refusal::PolicyChanged { got, current }, "{said:?}");
    }
    // What is written in place of another one may leave a third as the best, or as the newest of its day.
    let upload = (begun(world.try_begin(4, 42, 1, true)).checkpoint, 42);
    world.stage(upload, 0, &["x"], &[1, 2]);
    let got = world.catalogue.retention_version(&namespace());
    world.seal(upload, 0, &["x"]);
    let current = world.catalogue.retention_version(&namespace());
    let refusal = world.refused(retire(ids[0], got));
    assert_eq!(refusal, Refusal::PolicyChanged { got, current }, "a replacement");
    let current = world.catalogue.retention_version(&namespace());
    world.done(retire(ids[0], current));
}

#[test]
fn what_comes_back_is_labelled_no_later_than_what_is_newer() {
    let mut world = World::new(&["a", "b"]);
    let first = world.put(1, &["x"], &[1, 2]);
    let label = |world: &World, id| world.catalogue.checkpoint(id).unwrap().commit.unwrap().wall_ms;
    let wrong_ms = label(&world, first);
    world.put(2, &["x"], &[1, 2]);
    world.delete(first, false);
    let to_ms = wrong_ms - 1;
    let (namespace, after) = (namespace(), 0);
    world.apply(Body::RepairTime(command::RepairTime { namespace, to_ms, after }));
    world.done(undelete(first));
    assert_eq!(label(&world, first), to_ms);
}

#[test]
fn keep_last_of_an_upload_is_for_its_namespace_alone() {
    let mut world = World::new(&["a", "b"]);
    world.put(1, &["x"], &[1, 2]);
    let below: Namespace = format!("{}/below", namespace()).parse().unwrap();
    let keeps = |world: &World, name: &Namespace| world.catalogue.policy(name).keep_last;
    let mut body = begin_body(2, 21, 1, false);
    if let Body::Begin(begin) = &mut body {
        begin.change.keep_last = Some(3);
    }
    let id = begun(world.done(body)).checkpoint;
    world.stage((id, 21), 0, &["x"], &[1, 2]);
    world.seal((id, 21), 0, &["x"]);
    assert_eq!((keeps(&world, &namespace()), keeps(&world, &below)), (Some(3), None));
    let change = PolicyChange { keep_last: Some(3), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
    assert_eq!(keeps(&world, &below), Some(3), "said for all below");
}

#[test]
fn a_huge_checkpoint_leaves_the_trash_bit_by_bit() {
    let mut world = World::new(&["a", "b"]);
    let names: Vec<String> = (0..5000).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = world.put_large(1, &names);
    world.delete(id, false);
    world.pass(grace_ms(&world));
    assert_eq!(world.drop_references(id), 5000 - 4096);
    assert_eq!(world.catalogue.checkpoint(id).unwrap().state, CheckpointState::Deleted);
    assert_eq!(world.refused(undelete(id)), Refusal::NotInTrash(id), "a part of it is gone");
    assert_eq!(world.drop_references(id), 0);
    assert!(world.catalogue.checkpoint(id).is_none());
    let due = world.catalogue.unreferenced().filter(|(after_ms, _)| *after_ms <= world.clock_ms);
    assert_eq!(due.count(), 5000);
}
