//! Delete, retention, dropping references, grace, reaping, revival.

use cairn_core::command::{Body, DeleteReason, Refusal, StageSegment};
use cairn_core::ids::Run;
use cairn_core::model::{PolicyChange, SlotState};
use cairn_core::placement::{Loads, plan_stage};
use cairn_core::work;

use crate::world::{LEN, World, digest, namespace, node, reported, stage_body};

fn grace_ms(world: &World) -> u64 {
    world.catalogue.cluster().settings.grace_ms
}

#[test]
fn a_deleted_checkpoint_is_gone_at_once_and_its_segments_after_their_grace() {
    let mut world = World::new(&["a", "b"]);
    let id = world.put(1, &["x"], &[1, 2]);
    assert_eq!(world.reap("x"), (0, 1), "referenced");
    world.delete(id, false);
    assert!(world.resolve("run1@1").is_err());
    assert_eq!(world.drop_references(id), 0);
    assert!(world.catalogue.checkpoint(id).is_none());
    assert_eq!(world.reap("x"), (0, 1), "within its grace");
    world.pass(grace_ms(&world));
    assert_eq!(world.reap("x"), (1, 0));
    assert!(world.segment("x").slots.iter().all(|slot| slot.state == SlotState::Released));
    for number in [1, 2] {
        assert!(work::may_destroy(&world.catalogue, node(number), &digest("x")));
        let destroys = work::for_node(&world.catalogue, node(number), 10).destroys;
        let incarnation = world.incarnation(number);
        let replicas = destroys[0].slots.clone();
        world.done(Body::Removed { node: node(number), incarnation, replicas });
    }
    assert!(world.catalogue.segments().is_empty());
}

#[test]
fn deletion_now_skips_the_grace() {
    let mut world = World::new(&["a", "b"]);
    let id = world.put(1, &["x"], &[1, 2]);
    world.delete(id, true);
    world.delete(id, true);
    world.drop_references(id);
    assert_eq!(world.reap("x"), (1, 0));
}

#[test]
fn stage_revives_before_the_reap_and_gets_new_slots_after_it() {
    let mut world = World::new(&["a", "b"]);
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
    let removed = Body::Removed { node: node(1), incarnation, replicas };
    assert_eq!(reported(world.done(removed.clone())), (1, 0));
    assert_eq!(reported(world.done(removed)), (0, 1));
    assert_eq!(world.live("y"), [(1, false), (2, false)]);
}

/// The plan counts on replicas that an entry before it takes away.
#[test]
fn stage_planned_before_a_reap_and_applied_after_it_is_planned_again() {
    let mut world = World::new(&["a", "b"]);
    let id = world.put(1, &["x"], &[1, 2]);
    world.delete(id, true);
    world.drop_references(id);
    let upload = world.begin(2, 5, 1);
    let record = world.catalogue.checkpoint(upload).unwrap().clone();
    let mut segments = [StageSegment { digest: digest("x"), len: LEN, targets: Vec::new() }];
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
    let mut world = World::new(&["a", "b"]);
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
    let mut world = World::new(&["a", "b"]);
    let ids: Vec<_> = (1..=3).map(|step| world.put(step, &["x"], &[1, 2])).collect();
    let retire =
        |checkpoint| Body::Delete { checkpoint, reason: DeleteReason::Retention, now: false };
    let all = Refusal::KeptByPolicy { keep_last: u32::MAX };
    assert_eq!(world.refused(retire(ids[0])), all, "no rule keeps all");
    let change = PolicyChange { keep_last: Some(2), ..PolicyChange::default() };
    world.done(Body::SetPolicy { namespace: namespace(), change });
    assert_eq!(world.refused(retire(ids[1])), Refusal::KeptByPolicy { keep_last: 2 });
    world.done(retire(ids[0]));
    world.done(retire(ids[0]));
}

#[test]
fn references_of_a_huge_checkpoint_go_bit_by_bit() {
    let mut world = World::new(&["a", "b"]);
    let names: Vec<String> = (0..5000).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = world.begin(1, 5, 1);
    for batch in names.chunks(1000) {
        world.stage((id, 5), 0, batch, &[1, 2]);
        world.durable(1, batch);
        world.durable(2, batch);
    }
    world.seal((id, 5), 0, &names);
    world.delete(id, false);
    assert_eq!(world.drop_references(id), 5000 - 4096);
    assert!(world.catalogue.checkpoint(id).is_some());
    assert_eq!(world.drop_references(id), 0);
    assert!(world.catalogue.checkpoint(id).is_none());
    assert_eq!(world.catalogue.unreferenced().count(), 5000);
}
