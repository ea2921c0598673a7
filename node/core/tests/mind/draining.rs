//! Drains and maintenance.

use cairn_core::catalogue::stored;
use cairn_core::drain::{self, Tally};
use cairn_core::placement::Loads;
use cairn_types::command::{self, Accept, Body, FEATURE_LEVEL, NewDuty, Refusal, Reply};
use cairn_types::ids::NodeId;
use cairn_types::model::{Duty, Liveness, PolicyChange};

use crate::repairing::Leader;
use crate::world::{LEN, World, namespace, node, stage_body};

fn duty(number: u64, duty: NewDuty) -> Body {
    Body::SetDuty(command::SetDuty { node: node(number), duty })
}

fn holders(world: &World, name: &str) -> Vec<u64> {
    world.live(name).into_iter().map(|(number, _)| number).collect()
}

#[test]
fn a_drained_node_gives_up_its_replicas_once_others_have_them() {
    let mut world = World::new(&["a", "b", "c", "a"]);
    world.put(1, &["x", "y"], &[1, 2, 3]);
    let mut leader = Leader::new();
    world.done(duty(1, NewDuty::Drain));
    // The copy first: while its taker stores nothing, nothing is given up.
    leader.stuck = vec![4];
    leader.settle(&mut world);
    assert_eq!(world.live("x"), [(1, true), (2, true), (3, true), (4, false)]);
    leader.stuck.clear();
    leader.settle(&mut world);
    assert_eq!(holders(&world, "x"), [2, 3, 4]);
    assert_eq!(holders(&world, "y"), [2, 3, 4]);
    assert_eq!(world.catalogue.removal_cost(node(1)).segments, 0);
    // Nobody needs to accept anything now.
    let accept = Accept::default();
    world.done(Body::RemoveNode(command::RemoveNode { node: node(1), accept }));
    assert_eq!(world.catalogue.node(node(1)).unwrap().duty, Duty::Serving);
}

#[test]
fn a_draining_node_gets_nothing_new_and_its_rack_is_not_waited_for() {
    let mut world = World::new(&["a", "b", "c", "a"]);
    let change = PolicyChange { min_racks: Some(3), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
    world.put(1, &["x"], &[1, 2, 3]);
    assert_eq!(world.catalogue.racks(), 3);
    // The only node of its rack.
    world.done(duty(3, NewDuty::Drain));
    assert_eq!(world.catalogue.racks(), 2);
    let id = world.begin(2, 21, 1);
    let stage = |targets: &[u64]| stage_body((id, 21), 0, crate::world::RUN, &["new"], targets);
    assert_eq!(world.refused(stage(&[1, 2, 3])), Refusal::BadTargets);
    world.done(stage(&[1, 2, 4]));
    Leader::new().settle(&mut world);
    assert_eq!(holders(&world, "x"), [1, 2, 4], "over two racks, all that stay");
}

#[test]
fn a_drain_that_cannot_end_is_refused_and_one_that_is_ended_leaves_things_as_they_are() {
    let mut world = World::new(&["a", "b", "c", "a"]);
    world.put(1, &["x"], &[1, 2, 3]);
    world.done(duty(4, NewDuty::Drain));
    let refused = Refusal::TooFewHosts { node: node(1), hosts: 2, wanted: 3 };
    assert_eq!(world.refused(duty(1, NewDuty::Drain)), refused);
    assert_eq!(world.done(duty(4, NewDuty::Drain)), Reply::Done, "it is draining already");
    world.done(duty(4, NewDuty::Serve));
    world.done(duty(1, NewDuty::Drain));
    world.done(duty(1, NewDuty::Serve));
    Leader::new().settle(&mut world);
    assert_eq!(holders(&world, "x"), [1, 2, 3]);
    assert_eq!(world.refused(duty(9, NewDuty::Drain)), Refusal::UnknownNode(NodeId(9)));
    world.done(Body::RemoveNode(command::RemoveNode { node: node(4), accept: Accept::default() }));
    for what in [NewDuty::Drain, NewDuty::Serve, NewDuty::Maintain { for_ms: 5 }] {
        assert_eq!(world.refused(duty(4, what)), Refusal::NodeRemoved(node(4)));
    }
    let mut alone = World::new(&["a"]);
    assert_eq!(alone.refused(duty(1, NewDuty::Drain)), Refusal::LastNode(node(1)));
}

#[test]
fn replicas_of_a_node_in_maintenance_are_waited_for_until_its_time_is_over() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    world.put(1, &["x"], &[1, 2, 3]);
    let patience_ms = world.catalogue.cluster().settings.replace_after_ms;
    let mut leader = Leader::new();
    leader.silent = vec![3];
    world.done(duty(3, NewDuty::Maintain { for_ms: 5 * patience_ms }));
    world.set_liveness(3, Liveness::Down);
    world.pass(3 * patience_ms);
    leader.settle(&mut world);
    assert_eq!(holders(&world, "x"), [1, 2, 3]);
    world.pass(2 * patience_ms);
    leader.settle(&mut world);
    assert_eq!(holders(&world, "x"), [1, 2, 4]);
}

#[test]
fn maintenance_that_is_ended_is_over_at_once() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    world.put(1, &["x"], &[1, 2, 3]);
    let patience_ms = world.catalogue.cluster().settings.replace_after_ms;
    let mut leader = Leader::new();
    leader.silent = vec![3];
    world.done(duty(3, NewDuty::Maintain { for_ms: 5 * patience_ms }));
    world.set_liveness(3, Liveness::Down);
    world.pass(patience_ms);
    world.done(duty(3, NewDuty::Serve));
    leader.settle(&mut world);
    assert_eq!(holders(&world, "x"), [1, 2, 4]);
}

#[test]
fn duties_outlive_snapshots_and_restarts() {
    let mut world = World::new(&["a", "b", "c", "a", "b"]);
    world.done(duty(4, NewDuty::Drain));
    world.done(duty(5, NewDuty::Maintain { for_ms: 1_000 }));
    world.restart(4, "a", &[400], 401);
    let back = stored::decode(&stored::encode(&world.catalogue), FEATURE_LEVEL).unwrap();
    for number in 1..=5 {
        let of = |catalogue: &cairn_core::catalogue::Catalogue| {
            catalogue.node(node(number)).unwrap().duty
        };
        assert_eq!(of(&back), of(&world.catalogue));
    }
    assert_eq!(back.node(node(4)).unwrap().duty, Duty::Draining);
    assert_eq!(back.racks(), world.catalogue.racks());
}

#[test]
fn a_cluster_below_the_level_refuses_duties() {
    let mut world = World::of_level(FEATURE_LEVEL - 1, &["a", "b"]);
    let refusal = world.catalogue.admit(&duty(1, NewDuty::Serve)).unwrap_err();
    assert!(matches!(refusal, Refusal::FeatureLevel { needed: 5, .. }), "{refusal:?}");
    assert!(matches!(world.refused(duty(1, NewDuty::Serve)), Refusal::FeatureLevel { .. }));
}

#[test]
fn a_plan_says_what_moves_where_and_what_has_no_place() {
    let mut world = World::new(&["a", "b", "c", "a", "b"]);
    let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.put(1, &names, &[1, 2, 3]);
    let all = Tally { segments: 20, bytes: 20 * u64::from(LEN) };
    let mut loads = Loads::default();
    for number in 1..=5 {
        loads.observe(node(number), 1 << 30, 0);
    }
    let before = world.catalogue.clone();
    let plan = drain::plan(&world.catalogue, &loads, node(1));
    assert_eq!((plan.refused, plan.held, plan.looked_at), (None, all, 20));
    let moved: u64 = plan.targets.values().map(|tally| tally.segments).sum();
    assert_eq!(moved, 20);
    assert_eq!(plan.targets.keys().map(|id| id.0).collect::<Vec<_>>(), [4], "of its rack");
    assert!(plan.obstacles.is_empty());
    assert_eq!(before.node(node(1)).unwrap().duty, world.catalogue.node(node(1)).unwrap().duty);
    // Room for five files and a little; the other node has none.
    loads.observe(node(4), 5 * (u64::from(LEN) + (12 << 10)) + 100, 0);
    loads.observe(node(5), 0, 0);
    let plan = drain::plan(&world.catalogue, &loads, node(1));
    assert_eq!(plan.targets.get(&node(4)).unwrap().segments, 5);
    let [(reason, tally)] = &plan.obstacles[..] else { panic!("{:?}", plan.obstacles) };
    assert_eq!(tally.segments, 15);
    let Refusal::NotEnoughHosts { have: 2, want: 3, shortage } = reason else {
        panic!("{reason:?}")
    };
    assert_eq!(shortage.nodes.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [4, 5]);
}
