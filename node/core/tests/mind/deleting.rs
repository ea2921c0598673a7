//! Delete, retention, dropping references, grace, reaping, revival: in clusters of level 1, which
//! have no trash, as uploads go that were never committed. `trash.rs` has the rest.

use cairn_core::placement::{Loads, plan_stage};
use cairn_core::{steward, work};
use cairn_types::command::{self, Body, DeleteReason, Refusal, StageSegment};
use cairn_types::form::Form;
use cairn_types::ids::Run;
use cairn_types::model::{PolicyChange, SlotState};

use crate::world::{LEN, World, digest, namespace, node, reported, stage_body};

fn grace_ms(world: &World) -> u64 {
    world.catalogue.cluster().settings.grace_ms
}

#[test]
fn a_deleted_checkpoint_is_gone_at_once_and_its_segments_after_their_grace() {
    let mut world = World::of_level(1, &["a", "b"]);
    let id = world.put(1, &["x"], &[1, 2]);
    assert_eq!(world.reap("x"), (0, 1), "referenced");
    world.delete(id, false);
    assert!(world.resolve("run1@1").is_err());
    assert_eq!(world.drop_references(id), 0);
    assert!(!world.catalogue.checkpoint(id).unwrap().has_droppable(world.clock_ms, 0));
    assert_eq!(world.reap("x"), (0, 1), "within its grace");
    world.pass(grace_ms(&world));
    assert!(world.catalogue.checkpoint(id).unwrap().has_droppable(world.clock_ms, 0));
    assert_eq!(world.drop_references(id), 0);
    assert!(world.catalogue.checkpoint(id).is_none());
    assert_eq!(world.reap("x"), (1, 0));
    assert!(world.segment("x").slots.iter().all(|slot| slot.state == SlotState::Released));
    for number in [1, 2] {
        assert!(work::may_destroy(&world.catalogue, node(number), &digest("x")));
        let destroys = work::for_node(&world.catalogue, node(number), 10).destroys;
        let incarnation = world.incarnation(number);
        let replicas = destroys[0].slots.clone();
        world.done(Body::Removed(command::Removed { node: node(number), incarnation, replicas }));
    }
    assert!(world.catalogue.segments().is_empty());
}

#[test]
fn deletion_now_skips_the_grace() {
    let mut world = World::of_level(1, &["a", "b"]);
    let id = world.put(1, &["x"], &[1, 2]);
    world.delete(id, true);
    world.delete(id, true);
    world.drop_references(id);
    assert_eq!(world.reap("x"), (1, 0));
}

#[test]
fn a_second_deletion_with_now_ends_the_grace() {
    let mut world = World::of_level(1, &["a", "b"]);
    let id = world.put(1, &["x", "shared", "revived"], &[1, 2]);
    world.put(2, &["shared"], &[]);
    world.delete(id, false);
    world.drop_references(id);
    let upload = world.begin(3, 5, 1);
    world.stage((upload, 5), 0, &["revived"], &[]);
    assert_eq!(world.reap("x"), (0, 1), "within its grace");
    world.delete(id, true);
    world.delete(id, true);
    assert!(world.catalogue.checkpoint(id).unwrap().has_droppable(world.clock_ms, 0));
    assert_eq!(world.drop_references(id), 0);
    assert!(world.catalogue.checkpoint(id).is_none());
    assert_eq!(world.reap("x"), (1, 0));
    assert_eq!(world.reap("shared"), (0, 1), "a live checkpoint refers to it");
    assert_eq!(world.reap("revived"), (0, 1), "an upload refers to it");
    let again = Body::Delete(command::Delete {
        checkpoint: id,
        reason: DeleteReason::Asked,
        now: true,
        force: false,
        policy_version: None,
        by: String::new(),
    });
    assert_eq!(world.refused(again), Refusal::UnknownCheckpoint(id));
}

#[test]
fn now_ends_no_grace_that_another_deletion_began_later() {
    let mut world = World::of_level(1, &["a", "b"]);
    let first = world.put(1, &["x"], &[1, 2]);
    let second = world.put(2, &["x"], &[]);
    world.delete(first, false);
    world.drop_references(first);
    world.pass(1_000);
    world.delete(second, false);
    world.drop_references(second);
    world.delete(first, true);
    world.drop_references(first);
    assert_eq!(world.reap("x"), (0, 1), "the second one's grace runs");
    world.delete(second, true);
    world.drop_references(second);
    assert_eq!(world.reap("x"), (1, 0));
}

#[test]
fn now_ends_no_grace_that_another_deletion_began_before() {
    // Both were deleted under a grace, or the second one was told now at once.
    for is_hastened in [true, false] {
        let mut world = World::of_level(1, &["a", "b"]);
        let freed = world.put(1, &["x", "own"], &[1, 2]);
        let kept = world.put(2, &["x"], &[]);
        world.delete(kept, false);
        world.drop_references(kept);
        let until_ms = world.catalogue.checkpoint(kept).unwrap().dropped_until_ms;
        world.pass(1_000);
        if is_hastened {
            world.delete(freed, false);
            world.drop_references(freed);
            world.pass(1_000);
        }
        world.delete(freed, true);
        world.drop_references(freed);
        assert_eq!(world.reap("own"), (1, 0));
        assert_eq!(world.reap("x"), (0, 1), "the first one's grace runs");
        assert_eq!(world.segment("x").reap_after_ms, until_ms, "and not longer");
        world.delete(kept, true);
        world.drop_references(kept);
        assert_eq!(world.reap("x"), (1, 0));
    }
}

#[test]
fn a_grace_between_two_batches_of_another_deletion_is_not_ended_with_them() {
    let mut world = World::of_level(1, &["a", "b"]);
    let names: Vec<String> = (0..5000).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let huge = world.put_large(1, &names);
    // In the first batch of the huge one.
    let kept = world.put(2, &["s0"], &[]);
    world.delete(huge, false);
    world.delete(kept, false);
    assert!(world.drop_references(huge) > 0);
    world.pass(1_000);
    world.drop_references(kept);
    world.pass(1_000);
    assert_eq!(world.drop_references(huge), 0);
    world.delete(huge, true);
    while world.catalogue.checkpoint(huge).is_some() {
        world.drop_references(huge);
    }
    assert_eq!(world.reap("s1"), (1, 0));
    assert_eq!(world.reap("s4999"), (1, 0));
    assert_eq!(world.reap("s0"), (0, 1), "the other one's grace runs");
    world.pass(grace_ms(&world));
    assert_eq!(world.reap("s0"), (1, 0));
}

#[test]
fn stage_revives_before_the_reap_and_gets_new_slots_after_it() {
    let mut world = World::of_level(1, &["a", "b"]);
    let id = world.put(1, &["x", "y"], &[1, 2]);
    world.delete(id, true);
    world.drop_references(id);
    assert_eq!(world.reap("y"), (1, 0));
    let upload = world.begin(2, 5, 1);
    assert!(world.stage((upload, 5), 0, &["x"], &[])[0].kept);
    assert_eq!(world.reap("x"), (0, 1), "revived");

    let none = stage_body((upload, 5), 0, Run(1), &["y"], &[]);
    assert_eq!(world.refused(none), Refusal::BadTargets);
    let staged = world.stage((upload, 5), 0, &["y"], &[1, 2]);
    assert!(!staged[0].kept);
    let y = world.segment("y");
    assert!(!y.reaped && y.slots.len() == 4, "released slots stay beside the new ones");
    assert!(!work::may_destroy(&world.catalogue, node(1), &digest("y")));
    // The late report that a file is gone concerns the released slot only.
    let released = y.slots.iter().find(|slot| slot.state == SlotState::Released).unwrap();
    let (incarnation, replicas) = (world.incarnation(1), vec![(y.id, released.epoch)]);
    let removed = Body::Removed(command::Removed { node: node(1), incarnation, replicas });
    assert_eq!(reported(world.done(removed.clone())), (1, 0));
    assert_eq!(reported(world.done(removed)), (0, 1));
    assert_eq!(world.live("y"), [(1, false), (2, false)]);
}

/// The plan counts on replicas that an entry before it takes away.
#[test]
fn stage_planned_before_a_reap_and_applied_after_it_is_planned_again() {
    let mut world = World::of_level(1, &["a", "b"]);
    let id = world.put(1, &["x"], &[1, 2]);
    world.delete(id, true);
    world.drop_references(id);
    let upload = world.begin(2, 5, 1);
    let record = world.catalogue.checkpoint(upload).unwrap().clone();
    let mut segments =
        [StageSegment { digest: digest("x"), form: Form::raw(LEN), targets: Vec::new() }];
    let plan = |world: &World, segments: &mut [StageSegment]| {
        plan_stage(&world.catalogue, &mut Loads::default(), &record, segments, &Default::default())
            .unwrap();
        let targets: Vec<u64> = segments[0].targets.iter().map(|target| target.0).collect();
        stage_body((upload, 5), 0, Run(1), &["x"], &targets)
    };
    let early = plan(&world, &mut segments);
    assert_eq!(world.reap("x"), (1, 0));
    assert_eq!(world.refused(early), Refusal::BadTargets);
    let again = plan(&world, &mut segments);
    world.done(again);
    assert_eq!(world.live("x"), [(1, false), (2, false)]);
}

#[test]
fn a_segment_shared_by_two_checkpoints_outlives_the_first() {
    let mut world = World::of_level(1, &["a", "b"]);
    let first = world.put(1, &["x", "only"], &[1, 2]);
    world.put(2, &["x"], &[]);
    world.delete(first, true);
    world.drop_references(first);
    assert_eq!(world.reap("x"), (0, 1));
    assert_eq!(world.reap("only"), (1, 0));
    assert!(world.catalogue.is_committed(world.segment("x").id));
}

#[test]
fn retention_never_takes_one_of_the_newest() {
    let mut world = World::of_level(1, &["a", "b"]);
    let ids: Vec<_> = (1..=3).map(|step| world.put(step, &["x"], &[1, 2])).collect();
    let retire = |checkpoint| {
        Body::Delete(command::Delete {
            checkpoint,
            reason: DeleteReason::Retention,
            now: false,
            force: false,
            policy_version: None,
            by: String::new(),
        })
    };
    let all = Refusal::KeptByPolicy { keep_last: u32::MAX };
    assert_eq!(world.refused(retire(ids[0])), all, "no rule keeps all");
    let change = PolicyChange { keep_last: Some(2), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
    assert_eq!(world.refused(retire(ids[1])), Refusal::KeptByPolicy { keep_last: 2 });
    world.done(retire(ids[0]));
    world.done(retire(ids[0]));
}

#[test]
fn a_late_commit_of_an_early_upload_pushes_out_nothing_that_began_after_it() {
    let mut world = World::of_level(1, &["a", "b"]);
    let change = PolicyChange { keep_last: Some(1), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
    let retired = |world: &mut World| {
        let seen = steward::Observations { now_ms: world.clock_ms, ..Default::default() };
        let (mut loads, mut cursor) = (Loads::default(), steward::Cursor::default());
        let plan = steward::plan(&world.catalogue, &seen, &mut loads, &mut cursor);
        let mut retired = Vec::new();
        for body in plan {
            if let Body::Delete(command::Delete { checkpoint, .. }) = body {
                retired.push(checkpoint);
                world.done(body);
            }
        }
        retired
    };
    let before = world.put(500, &["w"], &[1, 2]);
    let slow = world.begin(1000, 5, 1);
    let quick = world.put(1500, &["x"], &[1, 2]);
    assert_eq!(retired(&mut world), [before]);
    world.stage((slow, 5), 0, &["y"], &[1, 2]);
    world.durable(1, &["y"]);
    world.durable(2, &["y"]);
    world.seal((slow, 5), 0, &["y"]);
    assert_eq!(world.resolve("run1@latest"), Ok(slow), "latest is the newest commit");
    assert!(retired(&mut world).is_empty(), "one is the newest commit, one the newest begun");
    for checkpoint in [slow, quick] {
        let reason = DeleteReason::Retention;
        let refusal = world.refused(Body::Delete(command::Delete {
            checkpoint,
            reason,
            now: false,
            force: false,
            policy_version: None,
            by: String::new(),
        }));
        assert_eq!(refusal, Refusal::KeptByPolicy { keep_last: 1 });
    }
    // After a rollback a lower step is newer in both ways.
    let rolled_back = world.put(800, &["z"], &[1, 2]);
    assert_eq!(retired(&mut world), [quick, slow], "the oldest commit first");
    assert_eq!(world.resolve("run1@latest"), Ok(rolled_back));
}

#[test]
fn references_of_a_huge_checkpoint_go_bit_by_bit() {
    let mut world = World::of_level(1, &["a", "b"]);
    let names: Vec<String> = (0..5000).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = world.put_large(1, &names);
    world.delete(id, false);
    assert_eq!(world.drop_references(id), 5000 - 4096);
    assert!(world.catalogue.checkpoint(id).is_some());
    assert_eq!(world.drop_references(id), 0);
    assert_eq!(world.catalogue.unreferenced().count(), 5000);
    // And so does their grace.
    world.delete(id, true);
    let due = |world: &World| {
        world.catalogue.unreferenced().filter(|(after_ms, _)| *after_ms <= world.clock_ms).count()
    };
    assert_eq!((world.drop_references(id), due(&world)), (5000 - 4096, 4096));
    assert_eq!((world.drop_references(id), due(&world)), (0, 5000));
    assert!(world.catalogue.checkpoint(id).is_none());
}

#[test]
fn a_namespace_without_checkpoints_and_with_the_default_policy_is_forgotten() {
    let mut world = World::of_level(1, &["a", "b"]);
    let known = |world: &World| world.catalogue.namespaces().count();
    let id = world.put(1, &["x"], &[1, 2]);
    assert_eq!(known(&world), 1);
    world.delete(id, true);
    world.drop_references(id);
    assert_eq!(known(&world), 0);

    let set = |replicas| {
        let change = PolicyChange { replicas: Some(replicas), ..PolicyChange::default() };
        Body::SetPolicy(command::SetPolicy::new(namespace(), change))
    };
    world.done(set(2));
    let id = world.begin(1, 1, 1);
    world.delete(id, false);
    world.drop_references(id);
    assert_eq!(known(&world), 1, "what an operator has set stays");
}
