//! Which copies out of quarantine get a slot again.

use cairn_core::catalogue::NoSlot;
use cairn_types::command::{self, Accept, Body};

use crate::world::{World, digest, node};

fn assign(world: &mut World, name: &str, number: u64) {
    let slots = vec![(world.segment(name).id, node(number))];
    world.done(Body::AssignSlots(command::AssignSlots { slots }));
}

#[test]
fn a_copy_gets_a_slot_where_its_segment_lacks_a_replica() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.put(1, &["x"], &[1, 2, 3]);
    let id = world.segment("x").id;
    let asked = world.catalogue.may_restore(digest("x"), node(4));
    assert_eq!(asked, Err(NoSlot::NotNeeded { durable: 3, awaited: 0, wanted: 3 }));
    // A node is removed, and its replica with it.
    let accept = Accept { fewer_hosts: true, data_loss: false };
    world.done(Body::RemoveNode(command::RemoveNode { node: node(3), accept }));
    assert_eq!(world.catalogue.may_restore(digest("x"), node(4)), Ok(id));
    assign(&mut world, "x", 4);
    assert!(world.segment("x").live_slot_on(node(4)).is_some());
    let asked = world.catalogue.may_restore(digest("x"), node(4));
    assert_eq!(asked, Err(NoSlot::NotNeeded { durable: 2, awaited: 1, wanted: 3 }));
}

#[test]
fn a_copy_that_nobody_needs_is_refused_with_the_reason() {
    let mut world = World::new(&["a", "b", "c"]);
    let checkpoint = world.put(1, &["x"], &[1, 2, 3]);
    let asked = |world: &World, name, number| {
        world.catalogue.may_restore(digest(name), node(number)).unwrap_err()
    };
    assert_eq!(asked(&world, "never put", 1), NoSlot::Unknown(digest("never put")));
    assert_eq!(asked(&world, "x", 9), NoSlot::NotInService(node(9)));
    world.delete(checkpoint, true);
    while world.drop_references(checkpoint) > 0 {}
    assert_eq!(asked(&world, "x", 1), NoSlot::Unreferenced(digest("x")));
}

#[test]
fn a_copy_gets_a_slot_beside_all_that_are_awaited_where_no_replica_is_left() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.put(1, &["x"], &[1, 2, 3]);
    for number in 1..=3 {
        let (node, incarnation) = (node(number), world.incarnation(number));
        let replicas = world.replicas(number, &["x"]);
        world.done(Body::Lost(command::Lost { node, incarnation, replicas }));
    }
    assert_eq!(world.live("x"), [(1, false), (2, false), (3, false)], "all are awaited");
    let id = world.segment("x").id;
    assert_eq!(world.catalogue.may_restore(digest("x"), node(4)), Ok(id));
    assign(&mut world, "x", 4);
    world.durable(4, &["x"]);
    assert_eq!(world.live("x"), [(1, false), (2, false), (3, false), (4, true)]);
}
