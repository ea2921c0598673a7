//! The steward's rounds and a node's own work, until nothing is left to do.

use std::collections::BTreeSet;

use cairn_core::placement::Loads;
use cairn_core::steward::{self, Cursor, Heartbeat, Observations};
use cairn_core::work;
use cairn_types::command::{self, Accept, Body, DeclineReason, Reply};
use cairn_types::ids::{CheckpointId, NodeId, SegmentDigest, SegmentId};
use cairn_types::model::{Admin, Liveness, PolicyChange, SlotState};
use cairn_types::rights::Subject;

use crate::generated;
use crate::world::{LEN, World, namespace, new_node, node, registration, reported};

pub struct Leader {
    pub loads: Loads,
    cursor: Cursor,
    pub silent: Vec<u64>,
    /// Nodes that are up and store nothing.
    pub stuck: Vec<u64>,
    /// Checkpoints that clients wait for.
    hastened: BTreeSet<CheckpointId>,
    /// Nodes get whatever they were assigned, as if clients sent it all.
    clients_finish: bool,
}

impl Leader {
    pub fn new() -> Self {
        Self {
            loads: Loads::default(),
            cursor: Cursor::default(),
            silent: Vec::new(),
            stuck: Vec::new(),
            hastened: BTreeSet::new(),
            clients_finish: false,
        }
    }

    /// What the steward proposes now.
    fn plan(&mut self, world: &World) -> Vec<Body> {
        let heard = world.catalogue.nodes().filter(|node| !self.silent.contains(&node.id.0));
        let heartbeats = heard
            .map(|node| (node.id, Heartbeat { incarnation: node.incarnation, age_ms: 10 }))
            .collect();
        let seen = Observations {
            now_ms: world.clock_ms,
            leading_ms: 1_000_000,
            heartbeats,
            hastened: self.hastened.clone(),
            ..Default::default()
        };
        steward::plan(&world.catalogue, &seen, &mut self.loads, &mut self.cursor)
    }

    /// Lets steward and nodes work until both are idle; bounded, so that a plan that goes in
    /// circles is found.
    pub fn settle(&mut self, world: &mut World) {
        for _ in 0..60 {
            let bodies = self.plan(world);
            let mut idle = bodies.is_empty();
            for body in bodies {
                world.done(body);
            }
            let nodes = world.catalogue.nodes().filter(|node| node.admin == Admin::InService);
            let nodes: Vec<u64> = nodes.map(|node| node.id.0).collect();
            let works =
                |number: &u64| !self.silent.contains(number) && !self.stuck.contains(number);
            for number in nodes.into_iter().filter(works) {
                idle &= !self.work(world, number);
            }
            if idle {
                return;
            }
        }
        panic!("never settles: {:?}", self.plan(world));
    }

    fn work(&self, world: &mut World, number: u64) -> bool {
        let work = work::for_node(&world.catalogue, node(number), 1000);
        let incarnation = world.incarnation(number);
        let idle = work == work::NodeWork::default();
        let mut replicas: Vec<_> =
            work.fetches.iter().map(|fetch| (fetch.segment, fetch.epoch)).collect();
        if self.clients_finish
            && let Some(slots) = world.catalogue.node_slots(node(number))
        {
            let segments = slots.assigned.iter().filter_map(|id| world.catalogue.segment(id));
            let live = segments.filter_map(|segment| {
                Some((segment.id, segment.live_slot_on(node(number))?.epoch))
            });
            replicas = live.collect();
        }
        let idle = idle && replicas.is_empty();
        for fetch in &work.fetches {
            assert!(
                self.clients_finish || !fetch.sources.is_empty(),
                "nowhere to fetch from: {fetch:?}"
            );
        }
        world.done(Body::Durable(command::Durable { node: node(number), incarnation, replicas }));
        let replicas = work.destroys.into_iter().flat_map(|destroy| destroy.slots).collect();
        world.done(Body::Removed(command::Removed { node: node(number), incarnation, replicas }));
        !idle
    }
}

fn release(world: &mut World, name: &str, number: u64) -> (u32, u32) {
    let slots = vec![(world.segment(name).id, node(number))];
    reported(world.done(Body::ReleaseSlots(command::ReleaseSlots { slots })))
}

fn assign(world: &mut World, name: &str, number: u64) -> (u32, u32) {
    let slots = vec![(world.segment(name).id, node(number))];
    reported(world.done(Body::AssignSlots(command::AssignSlots { slots })))
}

#[test]
fn a_commit_on_two_nodes_becomes_three_replicas() {
    let mut world = World::new(&["a", "b", "c"]);
    world.put(1, &["x", "y"], &[1, 2]);
    Leader::new().settle(&mut world);
    assert_eq!(world.live("x"), [(1, true), (2, true), (3, true)]);
    assert!(world.catalogue.unsettled().is_empty());
}

#[test]
fn a_replica_on_a_node_that_stays_down_is_made_elsewhere_before_it_is_given_up() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    world.put(1, &["x"], &[1, 2, 3]);
    let mut leader = Leader::new();
    leader.silent = vec![3];
    world.pass(world.catalogue.cluster().settings.down_after_ms);
    leader.settle(&mut world);
    assert_eq!(world.catalogue.node(node(3)).unwrap().liveness, Liveness::Down);
    assert_eq!(world.live("x"), [(1, true), (2, true), (3, true)], "not down for long");
    world.pass(world.catalogue.cluster().settings.replace_after_ms);
    leader.settle(&mut world);
    assert_eq!(world.live("x"), [(1, true), (2, true), (4, true)]);
    // It comes back, and gives its file up.
    world.restart(3, "c", &[300], 301);
    leader.silent.clear();
    leader.settle(&mut world);
    assert!(world.segment("x").slots.iter().all(|slot| slot.state == SlotState::Durable));
}

#[test]
fn a_replica_that_its_node_declines_is_made_elsewhere() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    world.put(1, &["x", "y"], &[1, 2]);
    let mut leader = Leader::new();
    leader.stuck = vec![3, 4];
    leader.settle(&mut world);
    assert_eq!(world.live("x").len(), 3, "one slot waits");
    let waits = world.live("x").iter().find(|(_, durable)| !durable).unwrap().0;
    let other = if waits == 3 { 4 } else { 3 };
    leader.stuck = vec![waits];
    // It stays up, and nothing happens until it says that it cannot.
    world.pass(world.catalogue.cluster().settings.replace_after_ms);
    leader.settle(&mut world);
    assert_eq!(world.live("x").len(), 3);
    let (incarnation, replicas) = (world.incarnation(waits), world.replicas(waits, &["x"]));
    let (node, reason) = (node(waits), DeclineReason::Full);
    let declined = Body::Declined(command::Declined { node, incarnation, reason, replicas });
    assert_eq!(reported(world.done(declined.clone())), (1, 0));
    assert_eq!(reported(world.done(declined)), (1, 0), "said twice, one effect");
    leader.settle(&mut world);
    assert_eq!(world.live("x"), [(1, true), (2, true), (other, true)]);
    // What is durable stays so, whatever is said of it later.
    let (incarnation, replicas) = (world.incarnation(1), world.replicas(1, &["x"]));
    let late = Body::Declined(command::Declined { node: NodeId(1), incarnation, reason, replicas });
    assert_eq!(reported(world.done(late)), (0, 1));
}

#[test]
fn a_node_that_is_up_and_neither_stores_nor_declines_is_not_waited_for_for_ever() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    world.put(1, &["x"], &[1, 2]);
    let mut leader = Leader::new();
    leader.stuck = vec![3, 4];
    leader.settle(&mut world);
    let waits = world.live("x").iter().find(|(_, durable)| !durable).unwrap().0;
    leader.stuck = vec![waits];
    world.pass(world.catalogue.cluster().settings.assigned_for_ms());
    leader.settle(&mut world);
    let other = if waits == 3 { 4 } else { 3 };
    assert_eq!(world.live("x"), [(1, true), (2, true), (other, true)]);
    // A replica that was lost is given the same time again.
    let (incarnation, replicas) = (world.incarnation(other), world.replicas(other, &["x"]));
    world.done(Body::Lost(command::Lost { node: node(other), incarnation, replicas }));
    let fetches = work::for_node(&world.catalogue, node(other), 10).fetches;
    assert!(fetches[0].awaited);
}

#[test]
fn what_is_assigned_to_a_node_is_charged_against_its_free_space() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    let names: Vec<String> = (0..40).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.put(1, &names, &[1, 2]);
    let mut leader = Leader::new();
    leader.stuck = vec![3, 4];
    // Room for ten files of a page of bytes beside header and footer.
    let room = 10 * (12 << 10) + 10 * u64::from(LEN);
    for _ in 0..5 {
        // Each round begins with the same heartbeats: the nodes have stored nothing since.
        leader.loads = Loads::default();
        leader.loads.observe(node(3), room, 0);
        leader.loads.observe(node(4), 2 * room, 0);
        for body in leader.plan(&world) {
            world.done(body);
        }
    }
    let assigned = |number| world.catalogue.node_slots(node(number)).unwrap().assigned.len();
    assert_eq!((assigned(3), assigned(4)), (10, 20));
    assert_eq!(world.catalogue.node_slots(node(4)).unwrap().assigned_bytes, 20 * u64::from(LEN));
}

#[test]
fn what_cannot_be_fetched_hides_nothing_from_the_plan() {
    let mut world = World::new(&["a", "b", "c"]);
    let names: Vec<String> = (0..300).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.put(1, &["good"], &[1, 2, 3]);
    world.put(2, &names, &[1, 2, 3]);
    for names in [&["good"][..], &names] {
        let (incarnation, replicas) = (world.incarnation(3), world.replicas(3, names));
        world.done(Body::Lost(command::Lost { node: node(3), incarnation, replicas }));
    }
    let good = world.segment("good").digest;
    let first = work::for_node(&world.catalogue, node(3), 256).fetches;
    assert!(first.iter().all(|fetch| fetch.digest != good), "the newest come first");
    // Those failed a moment ago.
    let failed = |digest: &SegmentDigest| *digest != good;
    let left = work::for_node_but(&world.catalogue, node(3), 256, failed, |_| false).fetches;
    assert_eq!(left.iter().map(|fetch| fetch.digest).collect::<Vec<_>>(), [good]);
}

#[test]
fn what_is_lost_is_told_from_what_waits_for_its_nodes() {
    let mut world = World::new(&["a", "b", "c"]);
    world.put(1, &["x"], &[1, 2, 3]);
    world.put(2, &["y"], &[1, 2, 3]);
    for number in 1..=3 {
        let (incarnation, replicas) = (world.incarnation(number), world.replicas(number, &["x"]));
        world.done(Body::Lost(command::Lost { node: node(number), incarnation, replicas }));
        world.set_liveness(number, Liveness::Down);
    }
    let summary = world.catalogue.summary();
    assert_eq!((summary.segments_unavailable, summary.segments_lost), (2, 1));
}

/// A new process of a node registers from another host, and finds all its files.
fn restart_on(world: &mut World, host: &str, number: u64, previous: &[u128], nonce: u128) {
    let mut body = registration(number, "a", previous, nonce);
    if let Body::Register(command::Register { host: place, .. }) = &mut body {
        *place = host.into();
    }
    world.done(body);
    let incarnation = world.incarnation(number);
    let missing = Vec::new();
    world.done(Body::Inventory(command::Inventory {
        node: node(number),
        incarnation,
        missing,
        last: true,
    }));
}

#[test]
fn a_newcomer_on_the_host_of_a_node_that_stays_down_takes_its_replicas() {
    let mut world = World::new(&["a", "a", "a"]);
    world.put(1, &["x"], &[1, 2, 3]);
    world.done(Body::AllocateNode(new_node(4, "a")));
    restart_on(&mut world, "host3", 4, &[], 400);
    let mut leader = Leader::new();
    leader.silent = vec![3];
    world.pass(world.catalogue.cluster().settings.down_after_ms);
    leader.settle(&mut world);
    assert_eq!(world.live("x"), [(1, true), (2, true), (3, true)], "not down for long");
    world.pass(world.catalogue.cluster().settings.replace_after_ms);
    leader.settle(&mut world);
    assert_eq!(world.live("x"), [(1, true), (2, true), (4, true)]);
}

#[test]
fn of_two_replicas_that_have_met_on_one_host_one_is_given_up_first() {
    let mut world = World::new(&["a", "a", "a", "a"]);
    world.put(1, &["x"], &[1, 2, 3]);
    world.set_liveness(3, Liveness::Down);
    world.pass(world.catalogue.cluster().settings.replace_after_ms);
    assert_eq!(assign(&mut world, "x", 4), (1, 0));
    world.durable(4, &["x"]);
    world.nodes_move = true;
    restart_on(&mut world, "host1", 3, &[300], 301);
    Leader::new().settle(&mut world);
    assert_eq!(world.live("x"), [(1, true), (2, true), (4, true)]);
}

#[test]
fn a_sealed_part_does_not_wait_for_a_node_that_is_down() {
    let mut world = World::new(&["a", "b", "b", "c"]);
    let id = world.begin(1, 5, 2);
    world.stage((id, 5), 0, &["x"], &[1, 2, 3]);
    [1, 2, 3].into_iter().for_each(|number| world.durable(number, &["x"]));
    assert!(world.seal((id, 5), 0, &["x"]).refusal().is_none());
    let mut leader = Leader::new();
    leader.settle(&mut world);
    assert_eq!(world.live("x").len(), 3);
    // What is left of it is in one rack.
    world.set_liveness(1, Liveness::Down);
    leader.silent = vec![1];
    leader.settle(&mut world);
    assert!(world.live("x").contains(&(4, true)), "{:?}", world.live("x"));
    world.stage((id, 5), 1, &["y"], &[2, 4]);
    [2, 4].into_iter().for_each(|number| world.durable(number, &["y"]));
    assert!(matches!(world.seal((id, 5), 1, &["y"]), Reply::Committed { .. }));
}

#[test]
fn replicas_of_a_removed_node_are_made_elsewhere() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    world.put(1, &["x"], &[1, 2, 3]);
    world.done(Body::RemoveNode(command::RemoveNode { node: node(3), accept: Accept::default() }));
    Leader::new().settle(&mut world);
    assert_eq!(world.live("x"), [(1, true), (2, true), (4, true)]);
}

#[test]
fn a_rack_that_comes_later_gets_a_replica() {
    let mut world = World::new(&["a", "a", "a"]);
    world.put(1, &["x"], &[1, 2, 3]);
    world.done(Body::AllocateNode(crate::world::new_node(4, "b")));
    world.restart(4, "b", &[], 400);
    Leader::new().settle(&mut world);
    let live = world.live("x");
    assert!(live.len() == 3 && live.contains(&(4, true)), "{live:?}");
}

#[test]
fn a_slot_in_a_missing_rack_is_kept_until_it_is_filled() {
    let mut world = World::new(&["a", "a", "a"]);
    world.put(1, &["x"], &[1, 2, 3]);
    world.done(Body::AllocateNode(new_node(4, "b")));
    world.restart(4, "b", &[], 400);
    let mut leader = Leader::new();
    let slots = vec![(world.segment("x").id, node(4))];
    assert_eq!(
        leader.plan(&world),
        [Body::AssignSlots(command::AssignSlots { slots: slots.clone() })]
    );
    world.done(Body::AssignSlots(command::AssignSlots { slots }));
    // The copy takes longer than the steward's next round.
    assert_eq!(leader.plan(&world), []);
    leader.settle(&mut world);
    assert_eq!(world.live("x").iter().filter(|(number, _)| *number == 4).count(), 1);
    assert_eq!(world.live("x").len(), 3);
}

#[test]
fn a_replica_is_released_only_when_r_others_count_on_as_many_racks() {
    let mut world = World::new(&["a", "a", "b", "a"]);
    let change = PolicyChange { replicas: Some(2), min_racks: Some(2), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
    world.put(1, &["x"], &[1, 3]);
    assert_eq!(release(&mut world, "x", 1), (0, 1), "one other");
    assert_eq!(assign(&mut world, "x", 2), (0, 1), "R live slots already");
    // Node 3 is away for long: another may take its place, but node 3 may not be given up yet.
    world.set_liveness(3, Liveness::Down);
    world.pass(world.catalogue.cluster().settings.replace_after_ms);
    assert_eq!(assign(&mut world, "x", 2), (1, 0));
    assert_eq!(release(&mut world, "x", 3), (0, 1), "the new one holds nothing yet");
    world.durable(2, &["x"]);
    world.set_liveness(3, Liveness::Up);
    assert_eq!(release(&mut world, "x", 3), (0, 1), "its rack would be lost");
    assert_eq!(release(&mut world, "x", 2), (1, 0));
    assert_eq!(release(&mut world, "x", 2), (0, 1), "no live slot any more");
    assert_eq!(world.live("x"), [(1, true), (3, true)]);
}

#[test]
fn slots_are_refused_one_by_one() {
    let mut world = World::new(&["a", "b", "c"]);
    world.put(1, &["x"], &[1, 2]);
    let x = world.segment("x").id;
    let slots = vec![(x, node(1)), (SegmentId(99), node(3)), (x, NodeId(99)), (x, node(3))];
    let reply = world.done(Body::AssignSlots(command::AssignSlots { slots }));
    assert_eq!(reply, Reply::Reported { accepted: 1, refused: 3 });
    let id = world.resolve("run1@1").unwrap();
    world.delete(id, true);
    world.drop_references(id);
    assert_eq!(
        release(&mut world, "x", 1),
        (0, 1),
        "what nobody refers to is reaped, not released"
    );
}

#[test]
fn a_new_leader_holds_no_silence_against_nodes_it_never_heard() {
    let mut world = World::new(&["a", "b"]);
    world.pass(1_000_000);
    let mut seen = Observations { now_ms: world.clock_ms, leading_ms: 0, ..Default::default() };
    let plan = |seen: &Observations| {
        steward::plan(&world.catalogue, seen, &mut Loads::default(), &mut Cursor::default())
    };
    assert_eq!(plan(&seen), []);
    seen.leading_ms = 5_000;
    assert!(
        matches!(&plan(&seen)[..], [Body::SetLiveness(command::SetLiveness { changes })] if changes.len() == 2)
    );
}

#[test]
fn a_leader_that_leads_again_holds_no_pulse_of_its_earlier_term_against_anybody() {
    let mut world = World::new(&["a", "b"]);
    world.set_liveness(2, Liveness::Down);
    world.pass(1_000_000);
    let nodes = world.catalogue.nodes();
    let heartbeats = nodes
        .map(|node| (node.id, Heartbeat { incarnation: node.incarnation, age_ms: 900_000 }))
        .collect();
    let mut seen = Observations {
        now_ms: world.clock_ms,
        leading_ms: 4_999,
        heartbeats,
        ..Default::default()
    };
    let plan = |seen: &Observations| {
        steward::plan(&world.catalogue, seen, &mut Loads::default(), &mut Cursor::default())
    };
    assert_eq!(plan(&seen), [], "neither does it bring node 2 up");
    seen.leading_ms = 5_000;
    let changes = vec![(node(1), world.incarnation(1), Liveness::Down)];
    assert_eq!(plan(&seen), [Body::SetLiveness(command::SetLiveness { changes })]);
}

#[test]
fn a_fresh_process_is_given_time_to_speak() {
    let mut world = World::new(&["a"]);
    world.pass(1_000_000);
    world.done(registration(1, "a", &[100], 101));
    let mut leader = Leader::new();
    leader.silent = vec![1];
    assert_eq!(leader.plan(&world), []);
    world.pass(5_000);
    assert!(matches!(leader.plan(&world)[0], Body::SetLiveness(_)));
}

#[test]
fn an_idle_cluster_s_clock_is_kept_moving() {
    let mut world = World::new(&["a"]);
    world.clock_ms += 31_000;
    let plan = Leader::new().plan(&world);
    assert_eq!(plan, [Body::SetLiveness(command::SetLiveness { changes: Vec::new() })]);
}

#[test]
fn upkeep_runs_from_retention_to_the_last_file() {
    let mut world = World::new(&["a", "b", "c"]);
    for step in 1..=4 {
        world.put(step, &[["w", "x", "y", "z"][step as usize - 1]], &[1, 2, 3]);
    }
    let abandoned = world.begin(9, 1, 1);
    world.stage((abandoned, 1), 0, &["abandoned"], &[1, 2]);
    let change = PolicyChange { keep_last: Some(2), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
    let mut leader = Leader::new();
    leader.settle(&mut world);
    assert_eq!(world.catalogue.commits(&namespace()).count(), 2);
    assert_eq!(world.catalogue.segments().len(), 5, "grace");
    let settings = world.catalogue.cluster().settings.clone();
    world.pass(settings.lease_ms + settings.grace_ms + 1);
    leader.settle(&mut world);
    assert_eq!(world.catalogue.open_uploads().count(), 0);
    world.pass(settings.grace_ms);
    leader.settle(&mut world);
    assert_eq!(world.catalogue.segments().len(), 2);
}

#[test]
fn the_least_safe_is_fetched_first_and_uploads_are_left_to_their_clients() {
    let mut world = World::new(&["a", "b", "c"]);
    world.put(1, &["old", "safe"], &[1, 2, 3]);
    world.put(2, &["new"], &[1, 2, 3]);
    let upload = world.begin(3, 5, 1);
    world.stage((upload, 5), 0, &["sent"], &[1, 2, 3]);
    for (number, names) in [(3, &["old", "safe", "new"][..]), (2, &["old"])] {
        let (incarnation, replicas) = (world.incarnation(number), world.replicas(number, names));
        world.done(Body::Lost(command::Lost { node: node(number), incarnation, replicas }));
    }
    let fetches = work::for_node(&world.catalogue, node(3), 10).fetches;
    let order: Vec<SegmentId> = fetches.iter().map(|fetch| fetch.segment).collect();
    let ids = ["old", "new", "safe"].map(|name| world.segment(name).id);
    assert_eq!(order, ids);
    assert_eq!(fetches[0].sources, [node(1)]);
    assert_eq!(work::for_node(&world.catalogue, node(3), 2).fetches, fetches[..2]);
}

#[test]
fn what_nobody_can_give_is_fetched_after_all_that_somebody_can() {
    let mut world = World::new(&["a", "b", "c"]);
    world.put(1, &["safe"], &[1, 2, 3]);
    world.put(2, &["gone", "lost"], &[2, 3]);
    let names = ["safe", "gone", "lost"];
    let (incarnation, replicas) = (world.incarnation(3), world.replicas(3, &names));
    world.done(Body::Lost(command::Lost { node: node(3), incarnation, replicas }));
    let (incarnation, replicas) = (world.incarnation(2), world.replicas(2, &["lost"]));
    world.done(Body::Lost(command::Lost { node: node(2), incarnation, replicas }));
    world.set_liveness(2, Liveness::Down);
    let fetches = work::for_node(&world.catalogue, node(3), 10).fetches;
    let order: Vec<SegmentId> = fetches.iter().map(|fetch| fetch.segment).collect();
    assert_eq!(order, ["safe", "lost", "gone"].map(|name| world.segment(name).id));
    assert_eq!(work::for_node(&world.catalogue, node(3), 1).fetches, fetches[..1]);
}

#[test]
fn from_anywhere_every_referenced_segment_reaches_r_and_every_released_file_goes() {
    for seed in 0..40 {
        let (catalogue, index) = generated::catalogue(seed, 1_500);
        let (clock_ms, wall_ms) = (catalogue.cluster().clock_ms, 0);
        let mut world = World {
            catalogue,
            index,
            clock_ms,
            wall_ms,
            nodes_move: false,
            subject: Subject::None,
        };
        let nodes = world.catalogue.nodes().filter(|node| node.admin == Admin::InService);
        let nodes: Vec<_> = nodes.cloned().collect();
        for record in &nodes {
            // A nonce of its own for each seed and node.
            let (number, nonce) = (record.id.0, 1 << 64 | u128::from(record.id.0));
            let mut body =
                registration(record.cookie.0 as u64, &record.rack, &[record.nonce.0], nonce);
            if let Body::Register(command::Register { node, .. }) = &mut body {
                *node = record.id;
            }
            world.done(body);
            let (incarnation, missing) = (world.incarnation(number), Vec::new());
            world.done(Body::Inventory(command::Inventory {
                node: record.id,
                incarnation,
                missing,
                last: true,
            }));
        }
        Leader { clients_finish: true, ..Leader::new() }.settle(&mut world);
        for segment in world.catalogue.segments().iter() {
            let have = world.catalogue.counting(segment);
            let wanted = segment.replicas_wanted();
            let reachable = wanted.min(nodes.len() as u32);
            assert!(have.replicas == reachable || wanted == 0, "seed {seed}: {segment:?}");
            let racks = world.catalogue.racks().min(wanted).min(2);
            assert!(have.racks >= racks, "seed {seed}: {segment:?}");
            let released = segment.slots.iter().filter(|s| s.state == SlotState::Released);
            assert!(released.count() == 0, "seed {seed}: {segment:?}");
        }
    }
}

#[test]
fn a_client_that_waits_gets_its_replicas_on_other_nodes() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    // Node 3 dies before it has its replica; two of three are enough for the commit.
    let id = world.begin(1, 5, 1);
    world.stage((id, 5), 0, &["x", "y"], &[1, 2, 3]);
    world.durable(1, &["x", "y"]);
    world.durable(2, &["x", "y"]);
    world.durable(3, &["y"]);
    assert!(matches!(world.seal((id, 5), 0, &["x", "y"]), Reply::Committed { .. }));
    let mut leader = Leader::new();
    leader.silent.push(3);
    world.set_liveness(3, Liveness::Down);
    leader.settle(&mut world);
    let full = |world: &World| {
        world.catalogue.durability(world.catalogue.checkpoint(id).unwrap()).segments_below == 0
    };
    assert!(!full(&world), "nobody waits: the node has its time to come back");
    leader.hastened.insert(id);
    leader.settle(&mut world);
    assert!(full(&world));
    for name in ["x", "y"] {
        assert!(world.live(name).contains(&(4, true)), "{name}: {:?}", world.live(name));
    }
    // The node comes back: nothing is kept in excess.
    leader.silent.clear();
    leader.hastened.clear();
    world.set_liveness(3, Liveness::Up);
    leader.settle(&mut world);
    assert!(full(&world));
    assert!(["x", "y"].iter().all(|name| world.live(name).len() == 3));
}

#[test]
fn without_a_free_host_a_waiting_client_changes_nothing() {
    let mut world = World::new(&["a", "b", "c"]);
    let id = world.put(1, &["x"], &[1, 2, 3]);
    let mut leader = Leader::new();
    leader.silent.push(3);
    leader.hastened.insert(id);
    world.set_liveness(3, Liveness::Down);
    leader.settle(&mut world);
    assert_eq!(world.live("x"), [(1, true), (2, true), (3, true)]);
}

#[test]
fn a_waiting_client_does_not_keep_repair_from_what_it_can_do() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    let id = world.put(1, &["x"], &[1, 2, 3]);
    let mut leader = Leader::new();
    leader.silent = vec![3];
    leader.hastened.insert(id);
    // One node has been down for long, another one for a moment: three that can receive bytes are
    // not to be had.
    world.pass(world.catalogue.cluster().settings.down_after_ms);
    world.set_liveness(3, Liveness::Down);
    world.set_liveness(4, Liveness::Down);
    world.pass(world.catalogue.cluster().settings.replace_after_ms);
    world.set_liveness(4, Liveness::Up);
    world.set_liveness(2, Liveness::Down);
    leader.silent.push(2);
    leader.settle(&mut world);
    assert!(world.live("x").contains(&(4, true)), "{:?}", world.live("x"));
}

/// Half a terabyte of segments is not what is looked at first, however it is numbered.
#[test]
fn what_a_sealed_part_lacks_is_found_behind_sixteen_thousand_segments() {
    let mut world = World::new(&["a", "b", "c", "b", "c"]);
    let names: Vec<String> = (0..16_385).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let upload = (world.begin(1, 5, 2), 5);
    let (last, others) = names.split_last().unwrap();
    for batch in others.chunks(1000) {
        world.stage(upload, 0, batch, &[1, 4, 5]);
        [1, 4, 5].into_iter().for_each(|number| world.durable(number, batch));
    }
    world.stage(upload, 0, &[last], &[1, 2, 3]);
    [1, 2, 3].into_iter().for_each(|number| world.durable(number, &[last]));
    let sealed = world.seal(upload, 0, &names);
    assert_eq!(sealed, Reply::Sealed { parts_sealed: 1, parts: 2 });
    // Both are worth waiting for, but not for the commit.
    world.set_liveness(2, Liveness::Down);
    world.set_liveness(3, Liveness::Down);
    let mut leader = Leader::new();
    leader.silent = vec![2, 3];
    let wanted = world.segment(last).id;
    let assigns = |body: &Body| match body {
        Body::AssignSlots(command::AssignSlots { slots }) => {
            slots.iter().any(|(segment, _)| *segment == wanted)
        }
        _ => false,
    };
    assert!(leader.plan(&world).iter().any(assigns));
}
