//! Nodes come, restart, fall silent and leave.

use cairn_core::catalogue::stored;
use cairn_types::command::{self, Accept, Body, FEATURE_LEVEL, Refusal, Reply};
use cairn_types::ids::{Cookie, Incarnation, NodeId, Nonce};
use cairn_types::limits::{
    NODES_MAX, NONCES_MAX, REMOVED_KEPT_MS, UNREGISTERED_KEPT_MS, UNREGISTERED_MS_MIN,
    VOIDED_SEGMENTS_MAX,
};
use cairn_types::model::{Liveness, NewNode};

use crate::world::{World, new_node, node, registration, reported};

/// These clusters have fewer hosts than replicas are wanted.
pub const FEWER_HOSTS: Accept = Accept { data_loss: false, fewer_hosts: true };

#[test]
fn a_cluster_is_made_once() {
    let mut world = World::new(&["a"]);
    let again = Body::InitCluster(command::InitCluster {
        cluster: Default::default(),
        settings: Default::default(),
        node: new_node(9, "a"),
    });
    assert_eq!(world.refused(again), Refusal::AlreadyInitialized);
}

#[test]
fn a_node_id_is_allocated_once_for_a_cookie() {
    let mut world = World::new(&["a"]);
    let first = world.done(Body::AllocateNode(new_node(2, "b")));
    assert_eq!(first, Reply::NodeAllocated { node: NodeId(2) });
    assert_eq!(world.done(Body::AllocateNode(new_node(2, "b"))), first);
    let bad = new_node(3, "no spaces");
    assert!(matches!(world.refused(Body::AllocateNode(bad)), Refusal::Malformed(_)));
}

#[test]
fn a_join_tried_again_from_another_address_is_believed_until_the_node_registers() {
    let mut world = World::new(&["a"]);
    world.done(Body::AllocateNode(new_node(2, "b")));
    let moved = || NewNode { address: "elsewhere:7000".into(), ..new_node(2, "c") };
    let reply = world.done(Body::AllocateNode(moved()));
    assert_eq!(reply, Reply::NodeAllocated { node: NodeId(2) });
    let record = world.catalogue.node(node(2)).unwrap();
    assert_eq!((&*record.address, &*record.rack), ("elsewhere:7000", "c"));
    world.done(registration(2, "b", &[], 200));
    world.done(Body::AllocateNode(moved()));
    let record = world.catalogue.node(node(2)).unwrap();
    assert_eq!((&*record.address, &*record.rack), ("host2:7000", "b"));
}

#[test]
fn a_directory_that_is_empty_does_not_take_a_members_place_unasked() {
    let mut world = World::new(&["a", "b"]);
    // Host and address of node 2, another data directory: perhaps its disk is not mounted.
    let empty = |replaces| NewNode { cookie: Cookie(77), replaces, ..new_node(2, "b") };
    let refused = Refusal::PlaceTaken { node: node(2) };
    assert_eq!(world.refused(Body::AllocateNode(empty(None))), refused);
    world.set_liveness(2, Liveness::Down);
    assert_eq!(world.refused(Body::AllocateNode(empty(None))), refused, "up or down");
    assert_eq!(world.refused(Body::AllocateNode(empty(Some(node(1))))), refused);
    let beside = NewNode { address: "host2:7001".into(), ..empty(None) };
    world.done(Body::AllocateNode(NewNode { cookie: Cookie(78), ..beside }));
    let reply = world.done(Body::AllocateNode(empty(Some(node(2)))));
    assert_eq!(reply, Reply::NodeAllocated { node: node(4) });
    // One that never registered holds no place.
    world.done(Body::AllocateNode(NewNode { cookie: Cookie(79), ..new_node(9, "c") }));
    world.done(Body::AllocateNode(NewNode { cookie: Cookie(80), ..new_node(9, "c") }));
}

#[test]
fn records_of_no_more_use_are_forgotten_and_their_ids_never_return() {
    let mut world = World::new(&["a", "b", "c"]);
    world.done(Body::AllocateNode(new_node(4, "d")));
    world.done(Body::RemoveNode(command::RemoveNode { node: node(3), accept: FEWER_HOSTS }));
    let forget = || {
        Body::ForgetNodes(command::ForgetNodes { nodes: vec![node(1), node(3), node(4), node(9)] })
    };
    assert_eq!(reported(world.done(forget())), (0, 4), "too early");
    world.pass_ms(UNREGISTERED_KEPT_MS);
    assert_eq!(reported(world.done(forget())), (1, 3));
    assert!(world.catalogue.is_forgotten(node(4)) && !world.catalogue.is_forgotten(node(9)));
    world.pass_ms(REMOVED_KEPT_MS);
    assert_eq!(reported(world.done(forget())), (1, 3));
    assert!(world.catalogue.node(node(1)).is_some(), "a member stays");
    let back = registration(3, "c", &[300], 301);
    assert_eq!(world.refused(back), Refusal::UnknownNode(node(3)));
    let reply = world.done(Body::AllocateNode(new_node(4, "d")));
    assert_eq!(reply, Reply::NodeAllocated { node: node(5) });
}

#[test]
fn joins_that_were_given_up_do_not_fill_the_cluster() {
    let mut world = World::new(&["a"]);
    let empty = |number: u64| {
        let cookie = Cookie(u128::from(number) + 1_000);
        Body::AllocateNode(NewNode { cookie, ..new_node(number, "b") })
    };
    (2..=NODES_MAX as u64).for_each(|number| drop(world.done(empty(number))));
    assert!(matches!(world.refused(empty(5_000)), Refusal::Malformed(_)));
    world.pass_ms(UNREGISTERED_MS_MIN);
    world.done(empty(5_000));
    assert_eq!(world.catalogue.nodes().count(), NODES_MAX);
}

#[test]
fn a_retried_registration_keeps_its_incarnation_and_a_new_process_gets_another() {
    let mut world = World::new(&["a"]);
    let first = world.incarnation(1);
    let retry = world.done(registration(1, "a", &[], 100));
    assert_eq!(retry, Reply::Registered { incarnation: first });
    assert!(world.catalogue.node(node(1)).unwrap().inventoried, "a retry changes nothing");
    world.done(registration(1, "a", &[100], 101));
    assert!(world.incarnation(1) > first);
    assert!(!world.catalogue.node(node(1)).unwrap().inventoried);
}

#[test]
fn a_copied_or_rolled_back_directory_never_registers() {
    let mut world = World::new(&["a"]);
    world.done(registration(1, "a", &[100], 101));
    // A copy made before process 101 remembers 100 only.
    let copy = registration(1, "a", &[100], 102);
    assert_eq!(world.refused(copy), Refusal::StaleIdentity { node: node(1) });
    // The answer to 102 was lost, and the process died: the directory remembers both.
    world.done(registration(1, "a", &[101], 102));
    world.done(registration(1, "a", &[101, 102], 103));
    let mut other = registration(1, "a", &[103], 104);
    if let Body::Register(command::Register { cookie, .. }) = &mut other {
        *cookie = Cookie(999);
    }
    assert_eq!(world.refused(other), Refusal::WrongCookie { node: node(1) });
}

#[test]
fn a_directory_that_remembers_many_unanswered_registrations_comes_back() {
    let mut world = World::new(&["a"]);
    let mut previous: Vec<u128> = (101..132).collect();
    previous.push(100);
    assert_eq!(previous.len(), NONCES_MAX);
    world.done(registration(1, "a", &previous, 200));
    previous.push(200);
    let many = registration(1, "a", &previous, 201);
    assert!(matches!(world.refused(many), Refusal::Malformed(_)));
}

#[test]
fn the_last_replaced_processes_are_known_as_such() {
    let mut world = World::new(&["a"]);
    let superseded = |world: &World, nonce| world.catalogue.is_superseded(node(1), Nonce(nonce));
    assert!(!superseded(&world, 0) && !superseded(&world, 100));
    for nonce in 101..=110 {
        world.done(registration(1, "a", &[nonce - 1], nonce));
        world.done(registration(1, "a", &[nonce - 1], nonce));
    }
    assert!(!superseded(&world, 110), "it is the current one");
    assert!((102..110).all(|nonce| superseded(&world, nonce)));
    assert!(!superseded(&world, 101), "only eight are remembered");
    let replaced = registration(1, "a", &[110], 105);
    assert_eq!(world.refused(replaced), Refusal::StaleIdentity { node: node(1) });
    let before = world.catalogue.digest();
    world.done(registration(1, "a", &[110], 111));
    assert_ne!(world.catalogue.digest(), before);
}

#[test]
fn reports_of_an_earlier_process_are_void() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 1, 1);
    world.stage((id, 1), 0, &["x"], &[1, 2]);
    let (old, replicas) = (world.incarnation(1), world.replicas(1, &["x"]));
    world.done(registration(1, "a", &[100], 101));
    let current = world.incarnation(1);
    let report = Body::Durable(command::Durable { node: node(1), incarnation: old, replicas });
    let refusal = Refusal::StaleIncarnation { node: node(1), got: old, current };
    assert_eq!(world.refused(report), refusal);
    let liveness =
        Body::SetLiveness(command::SetLiveness { changes: vec![(node(1), old, Liveness::Down)] });
    assert_eq!(reported(world.done(liveness)), (0, 1));
    assert_eq!(world.catalogue.node(node(1)).unwrap().liveness, Liveness::Up);
}

#[test]
fn a_replica_counts_only_on_a_node_that_is_up_and_inventoried() {
    let mut world = World::new(&["a", "b"]);
    world.put(1, &["x"], &[1, 2]);
    let counting = |world: &World| world.catalogue.counting(world.segment("x")).replicas;
    assert_eq!(counting(&world), 2);
    world.set_liveness(2, Liveness::Down);
    assert_eq!(counting(&world), 1);
    world.done(registration(2, "b", &[200], 201));
    assert_eq!(counting(&world), 1, "not before its inventory");
    let incarnation = world.incarnation(2);
    let missing = Vec::new();
    world.done(Body::Inventory(command::Inventory {
        node: node(2),
        incarnation,
        missing,
        last: true,
    }));
    assert_eq!(counting(&world), 2);
}

#[test]
fn a_missing_file_is_assigned_again_under_a_new_epoch() {
    let mut world = World::new(&["a", "b"]);
    world.put(1, &["x", "y"], &[1, 2]);
    world.done(registration(2, "b", &[200], 201));
    let (incarnation, missing) = (world.incarnation(2), world.replicas(2, &["x"]));
    let old = missing.clone();
    world.done(Body::Inventory(command::Inventory {
        node: node(2),
        incarnation,
        missing,
        last: true,
    }));
    assert_eq!(world.live("x"), [(1, true), (2, false)]);
    assert_eq!(world.live("y"), [(1, true), (2, true)]);
    // What was acknowledged under the old epoch says nothing of the new slot.
    let late = Body::Durable(command::Durable { node: node(2), incarnation, replicas: old });
    assert_eq!(reported(world.done(late)), (0, 1));
    world.durable(2, &["x"]);
    assert_eq!(world.live("x"), [(1, true), (2, true)]);
}

#[test]
fn a_node_with_the_only_replica_of_something_stays() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    world.put(1, &["x", "y"], &[1, 2]);
    let abandoned = world.put(2, &["z"], &[1, 2]);
    world.done(Body::RemoveNode(command::RemoveNode { node: node(2), accept: FEWER_HOSTS }));
    let remove = || Body::RemoveNode(command::RemoveNode { node: node(1), accept: FEWER_HOSTS });
    let refusal = |segments| Refusal::LastReplicas { node: node(1), segments };
    assert_eq!(world.refused(remove()), refusal(3));
    let slots = ["x", "y"].map(|name| (world.segment(name).id, node(3))).to_vec();
    world.done(Body::AssignSlots(command::AssignSlots { slots }));
    assert_eq!(world.refused(remove()), refusal(3), "assigned is not durable");
    world.durable(3, &["x", "y"]);
    assert_eq!(world.refused(remove()), refusal(1));
    world.delete(abandoned, true);
    world.drop_references(abandoned);
    world.done(remove());
    assert_eq!(world.live("x"), [(3, true)]);
}

#[test]
fn a_replica_on_a_node_that_is_down_does_not_let_another_one_go() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    world.put(1, &["x"], &[1, 2]);
    let remove = |accept| Body::RemoveNode(command::RemoveNode { node: node(1), accept });
    world.set_liveness(2, Liveness::Down);
    let refusal = Refusal::LastReplicas { node: node(1), segments: 1 };
    assert_eq!(world.refused(remove(Accept::default())), refusal);
    let cost = world.catalogue.removal_cost(node(1));
    assert_eq!((cost.segments, cost.segments_lost), (1, 1));
    world.set_liveness(2, Liveness::Up);
    assert_eq!(world.catalogue.removal_cost(node(1)).segments_lost, 0);
    world.set_liveness(2, Liveness::Down);
    world.done(remove(Accept { data_loss: true, fewer_hosts: true }));
    assert_eq!(world.live("x"), [(2, true)]);
}

#[test]
fn hosts_that_replicas_need_stay() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    world.put(1, &["x"], &[1, 2, 3]);
    let wanted = world.catalogue.checkpoints().map(|it| it.policy.replicas).max().unwrap();
    assert_eq!(wanted, 3);
    let remove = |number| {
        Body::RemoveNode(command::RemoveNode { node: node(number), accept: Accept::default() })
    };
    world.done(remove(4));
    let refusal = Refusal::TooFewHosts { node: node(3), hosts: 2, wanted };
    assert_eq!(world.refused(remove(3)), refusal);
    // One that is down is of no use to replicas anyway.
    world.set_liveness(3, Liveness::Down);
    world.done(remove(3));
    let accept = Accept { fewer_hosts: true, ..Accept::default() };
    world.done(Body::RemoveNode(command::RemoveNode { node: node(2), accept }));
}

#[test]
fn the_last_node_in_service_stays() {
    let mut world = World::new(&["a", "b"]);
    world.done(Body::RemoveNode(command::RemoveNode { node: node(1), accept: Accept::default() }));
    world.done(Body::AllocateNode(new_node(3, "c")));
    let remove = Body::RemoveNode(command::RemoveNode { node: node(2), accept: Accept::default() });
    assert_eq!(world.refused(remove), Refusal::LastNode(node(2)), "node 3 never registered");
}

#[test]
fn a_removed_node_never_counts_again() {
    let mut world = World::new(&["a", "b"]);
    world.put(1, &["x"], &[1, 2]);
    world.done(Body::RemoveNode(command::RemoveNode { node: node(2), accept: FEWER_HOSTS }));
    world.done(Body::RemoveNode(command::RemoveNode { node: node(2), accept: FEWER_HOSTS }));
    assert_eq!(world.live("x"), [(1, true)]);
    let back = registration(2, "b", &[200], 201);
    assert_eq!(world.refused(back), Refusal::NodeRemoved(node(2)));
    let allocate = Body::AllocateNode(new_node(2, "b"));
    assert_eq!(world.refused(allocate), Refusal::NodeRemoved(node(2)));
    assert_eq!(
        world.refused(Body::RemoveNode(command::RemoveNode { node: node(9), accept: FEWER_HOSTS })),
        Refusal::UnknownNode(node(9))
    );
    let report = Body::Lost(command::Lost {
        node: node(9),
        incarnation: Incarnation(1),
        replicas: Vec::new(),
    });
    assert_eq!(world.refused(report), Refusal::UnknownNode(node(9)));
}

#[test]
fn slots_of_a_removed_node_are_voided_in_steps_and_never_count() {
    let mut world = World::new(&["a", "b", "c", "c"]);
    let names: Vec<String> = (0..2 * VOIDED_SEGMENTS_MAX + 10).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let upload = (world.begin(1, 1, 1), 1);
    for batch in names.chunks(1000) {
        world.stage(upload, 0, batch, &[1, 2]);
        world.durable(1, batch);
        world.durable(2, batch);
    }
    world.seal(upload, 0, &names);
    let record = world.catalogue.checkpoint(upload.0).unwrap().clone();
    assert_eq!(world.catalogue.durability(&record).replicas_min, 2);

    let void = || Body::VoidSlots(command::VoidSlots { node: node(2) });
    assert!(matches!(world.refused(void()), Refusal::Malformed(_)), "it is in service");
    world.done(Body::RemoveNode(command::RemoveNode { node: node(2), accept: FEWER_HOSTS }));
    let left = |world: &World| world.catalogue.node_tally(node(2)).durable;
    assert_eq!(left(&world), names.len() as u64 - VOIDED_SEGMENTS_MAX as u64);
    // All count no more, voided or not.
    let durability = world.catalogue.durability(&record);
    assert_eq!((durability.replicas_min, durability.segments_below), (1, names.len() as u64));
    assert_eq!(world.catalogue.removal_cost(node(1)).segments_lost, names.len() as u64);
    let report = Body::Lost(command::Lost {
        node: node(2),
        incarnation: world.incarnation(2),
        replicas: Vec::new(),
    });
    assert_eq!(world.refused(report), Refusal::NodeRemoved(node(2)));
    // A snapshot between two steps has what is left.
    let bytes = stored::encode(&world.catalogue);
    world.catalogue = stored::decode(&bytes, FEATURE_LEVEL).unwrap();

    assert!(!world.catalogue.may_forget(world.catalogue.node(node(2)).unwrap()));
    let steps = (0..).take_while(|_| world.done(void()) != Reply::Dropped { left: 0 }).count();
    assert_eq!((steps, left(&world)), (1, 0));
    assert_eq!(world.done(void()), Reply::Dropped { left: 0 }, "again");
    assert_eq!(world.live("s0"), [(1, true)]);
}

#[test]
fn a_recorded_key_never_changes_and_an_unknown_one_is_recorded_once() {
    let mut world = World::new(&["a"]);
    let key_of = |world: &World, number| world.catalogue.node(node(number)).unwrap().key;
    let with_key = |previous: u128, nonce: u128, new: Option<[u8; 32]>| {
        let mut body = registration(1, "a", &[previous], nonce);
        if let Body::Register(command::Register { key, .. }) = &mut body {
            *key = new;
        }
        body
    };
    let wrong = Refusal::WrongCookie { node: node(1) };
    assert_eq!(key_of(&world, 1), None);
    world.done(with_key(100, 101, Some([7; 32])));
    assert_eq!(key_of(&world, 1), Some([7; 32]));
    assert_eq!(world.refused(with_key(101, 102, Some([8; 32]))), wrong);
    // Its catalogue may not show the cluster's level yet.
    world.done(with_key(101, 102, None));
    assert_eq!(key_of(&world, 1), Some([7; 32]));
    // A join names the key from the start.
    let new = |key| NewNode { key, ..new_node(2, "b") };
    world.done(Body::AllocateNode(new(Some([2; 32]))));
    world.done(Body::AllocateNode(new(Some([2; 32]))));
    for key in [None, Some([3; 32])] {
        let refused = world.refused(Body::AllocateNode(new(key)));
        assert_eq!(refused, Refusal::WrongCookie { node: node(2) });
    }
    assert_eq!(key_of(&world, 2), Some([2; 32]));
    let bytes = stored::encode(&world.catalogue);
    world.catalogue = stored::decode(&bytes, FEATURE_LEVEL).unwrap();
    assert_eq!((key_of(&world, 1), key_of(&world, 2)), (Some([7; 32]), Some([2; 32])));
}

#[test]
fn a_cluster_of_an_older_level_records_no_key() {
    let older = command::NODE_KEYS_LEVEL - 1;
    let mut world = World::of_level(older, &["a"]);
    let early = Refusal::FeatureLevel { needed: command::NODE_KEYS_LEVEL, current: older };
    let joins = NewNode { key: Some([2; 32]), ..new_node(2, "b") };
    assert_eq!(world.refused(Body::AllocateNode(joins)), early);
    let mut body = registration(1, "a", &[100], 101);
    if let Body::Register(command::Register { key, .. }) = &mut body {
        *key = Some([7; 32]);
    }
    assert_eq!(world.refused(body), early);
    world.done(registration(1, "a", &[100], 101));
}
