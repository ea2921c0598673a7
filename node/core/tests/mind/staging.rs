//! Stage: what is kept, where slots may go, what racks are asked for.

use cairn_core::command::{Body, Refusal, StageSegment};
use cairn_core::ids::{Attempt, NodeId, Run};
use cairn_core::model::{Isolation, Liveness, PolicyChange};
use cairn_core::placement::{Loads, plan_stage};

use crate::world::{
    LEN, World, begin_body, begun, digest, namespace, node, registration, stage_body,
};

#[test]
fn what_counts_on_enough_racks_is_kept_and_sent_by_nobody() {
    let mut world = World::new(&["a", "b", "c"]);
    world.put(1, &["x"], &[1, 2]);
    let id = world.begin(2, 5, 1);
    let staged = world.stage((id, 5), 0, &["x"], &[3]);
    assert!(staged[0].kept);
    assert_eq!(world.live("x"), [(1, true), (2, true)], "targets for what is kept are ignored");
    assert_eq!(world.segment("x").references, [(3, 2)]);
    world.set_liveness(2, Liveness::Down);
    let id = world.begin(3, 5, 1);
    let staged = world.stage((id, 5), 0, &["x"], &[3]);
    assert!(!staged[0].kept, "one replica that counts is no quorum");
    assert_eq!(world.live("x"), [(1, true), (2, true), (3, false)]);
}

#[test]
fn a_checkpoint_refers_to_a_segment_once() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 2);
    world.stage((id, 5), 0, &["x", "x"], &[1, 2]);
    world.stage((id, 5), 1, &["x"], &[]);
    assert_eq!(world.segment("x").references, [(3, 1)]);
}

#[test]
fn targets_that_cannot_take_slots_refuse_the_whole_batch() {
    let mut world = World::new(&["a", "b", "c"]);
    world.done(Body::AllocateNode(crate::world::new_node(4, "d")));
    let mut neighbour = registration(4, "d", &[], 400);
    if let Body::Register { host, .. } = &mut neighbour {
        *host = "host1".into();
    }
    world.done(neighbour);
    world.set_liveness(3, Liveness::Down);
    let id = world.begin(1, 5, 1);
    for targets in [&[1, 1][..], &[1, 4], &[1, 2, 3], &[1, 2, 77]] {
        let stage = stage_body((id, 5), 0, Run(1), &["x"], targets);
        assert_eq!(world.refused(stage), Refusal::BadTargets, "{targets:?}");
    }
    assert!(world.catalogue.segments().is_empty());
}

#[test]
fn a_quorum_of_hosts_that_are_up_is_required() {
    let mut world = World::new(&["a", "b", "c"]);
    let id = world.begin(1, 5, 1);
    let stage = stage_body((id, 5), 0, Run(1), &["x"], &[1]);
    assert_eq!(world.refused(stage), Refusal::BadTargets);
    // Slots on a node that went down do not help.
    world.stage((id, 5), 0, &["x"], &[1, 2]);
    world.set_liveness(2, Liveness::Down);
    let again = stage_body((id, 5), 0, Run(1), &["x"], &[]);
    assert_eq!(world.refused(again), Refusal::BadTargets);
    world.stage((id, 5), 0, &["x"], &[3]);
    assert_eq!(world.live("x").len(), 3);
}

#[test]
fn a_missing_rack_refuses_a_hard_policy_and_degrades_a_soft_one() {
    let mut world = World::new(&["a", "a", "b"]);
    let id = world.begin(1, 5, 1);
    let one_rack = stage_body((id, 5), 0, Run(1), &["x"], &[1, 2]);
    let refusal = Refusal::BadTargets;
    assert_eq!(world.refused(one_rack.clone()), refusal);
    // A rack that is down is still one that the policy asks for.
    world.set_liveness(3, Liveness::Down);
    assert_eq!(world.refused(one_rack), refusal);

    let change = PolicyChange { isolation: Some(Isolation::Soft), ..PolicyChange::default() };
    world.done(Body::SetPolicy { namespace: namespace(), change });
    world.put(2, &["x"], &[1, 2]);
    let record = world.catalogue.resolve(&"run1@2".parse().unwrap()).unwrap();
    assert_eq!(record.durability.racks_min, 1);
}

#[test]
fn a_cluster_of_one_rack_is_asked_for_one() {
    let mut world = World::new(&["a", "a"]);
    world.put(1, &["x"], &[1, 2]);
    assert_eq!(world.live("x"), [(1, true), (2, true)]);
}

#[test]
fn malformed_segments_and_uploads_are_refused() {
    let mut world = World::new(&["a", "b"]);
    world.put(1, &["x"], &[1, 2]);
    let id = world.begin(2, 5, 1);
    let stage = |name: &str, len: u32, attempt: u64| Body::Stage {
        checkpoint: id,
        attempt: Attempt(attempt),
        part: 0,
        run: Run(1),
        segments: vec![StageSegment {
            digest: digest(name),
            len,
            targets: vec![NodeId(1), NodeId(2)],
        }],
    };
    for (name, len, attempt) in [("y", 0, 5), ("y", (32 << 20) + 1, 5), ("x", 7, 5), ("y", 1, 6)] {
        let refusal = world.refused(stage(name, len, attempt));
        assert!(matches!(refusal, Refusal::Malformed(_)), "{name} {len}: {refusal:?}");
    }
    world.done(stage("y", 32 << 20, 5));
}

#[test]
fn planned_targets_are_accepted_and_spread_over_racks_and_nodes() {
    let mut world = World::new(&["a", "a", "b", "b", "c", "c"]);
    let id = world.begin(1, 5, 1);
    let names: Vec<String> = (0..60).map(|number| format!("segment{number}")).collect();
    let mut segments: Vec<StageSegment> = names
        .iter()
        .map(|name| StageSegment { digest: digest(name), len: LEN, targets: Vec::new() })
        .collect();
    let upload = world.catalogue.checkpoint(id).unwrap().clone();
    let mut loads = Loads::default();
    plan_stage(&world.catalogue, &mut loads, &upload, &mut segments, &Default::default()).unwrap();
    world.done(Body::Stage { checkpoint: id, attempt: Attempt(5), part: 0, run: Run(1), segments });
    for segment in world.catalogue.segments().iter() {
        let racks = segment.live_slots().map(|slot| &world.catalogue.node(slot.node).unwrap().rack);
        assert_eq!(racks.collect::<std::collections::BTreeSet<_>>().len(), 3);
    }
    for number in 1..=6 {
        assert_eq!(world.catalogue.node_slots(node(number)).unwrap().assigned.len(), 30);
    }
}

#[test]
fn a_plan_says_what_is_missing_and_prefers_free_space() {
    let mut world = World::new(&["a", "b", "b"]);
    let id = begun(world.apply(begin_body(1, 5, 1, false))).checkpoint;
    let upload = world.catalogue.checkpoint(id).unwrap().clone();
    let mut one = [StageSegment { digest: digest("x"), len: LEN, targets: Vec::new() }];
    let mut loads = Loads::default();
    // The full node gets nothing: two replicas are a quorum.
    loads.observe(node(2), 10, 0);
    plan_stage(&world.catalogue, &mut loads, &upload, &mut one, &Default::default()).unwrap();
    assert_eq!(one[0].targets, [node(1), node(3)]);
    loads.observe(node(3), 10, 0);
    let full = plan_stage(&world.catalogue, &mut loads, &upload, &mut one, &Default::default());
    assert_eq!(full, Err(Refusal::NotEnoughHosts { have: 1, want: 2 }));
    loads.observe(node(3), 1 << 30, 0);
    loads.observe(node(2), 1 << 30, 0);
    let slow = [node(1)].into();
    let racks = plan_stage(&world.catalogue, &mut loads, &upload, &mut one, &slow);
    assert_eq!(racks, Err(Refusal::NotEnoughRacks { have: 1, want: 2 }));
}
