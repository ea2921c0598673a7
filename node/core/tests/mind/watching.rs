//! Events: derived from the log, the same on every node, and all that happens.

use std::collections::BTreeSet;

use cairn_core::catalogue::{Catalogue, Checkpoint};
use cairn_types::command::{self, Body};
use cairn_types::event::Event;
use cairn_types::ids::{CheckpointId, SegmentId};
use cairn_types::model::{CheckpointState, Liveness};

use crate::world::{World, namespace};

/// Compares the events of an entry with what it made of the catalogue, by looking at everything.
pub fn check_events(before: &Catalogue, after: &Catalogue, index: u64, events: &[Event]) {
    for (place, event) in (0..).zip(events) {
        assert_eq!((event.id.index, event.id.place), (index, place), "{events:?}");
    }
    let mut wanted = BTreeSet::new();
    for record in after.checkpoints() {
        let old = before.checkpoint(record.id);
        let mut expect = |name: &'static str| wanted.insert((name, record.id));
        use CheckpointState::{Committed, Deleted, Open};
        match (old.map_or(Open, |it| it.state), record.state) {
            (Open, Committed) => expect("committed"),
            (Committed, Deleted) => expect("deleted"),
            (Deleted, Committed) => expect("undeleted"),
            _ => true,
        };
        // Of what is in the trash nobody is told.
        let is_bad = |record: &Checkpoint| record.is_committed() && record.quarantine.is_some();
        let old = old.map(|it| &**it);
        match (old.is_some_and(is_bad), is_bad(record)) {
            (false, true) => expect("quarantined"),
            (true, false) if record.is_committed() => expect("released"),
            _ => true,
        };
        let was_full = old.is_some_and(|it| it.full);
        let is_full = was_full || record.is_committed() && has_all(after, record);
        assert_eq!(record.full, is_full, "{} after {index}", record.id);
        if is_full && !was_full {
            expect("full");
        }
    }
    let told = events.iter().filter(|event| event.what.name() != "ref-moved");
    let told: Vec<_> =
        told.filter_map(|event| Some((event.what.name(), event.what.checkpoint()?))).collect();
    let distinct: BTreeSet<_> = told.iter().copied().collect();
    assert_eq!((&distinct, told.len()), (&wanted, wanted.len()), "entry {index}: {events:?}");
    let moves = events.iter().filter(|event| event.what.name() == "ref-moved").count();
    let generations = |of: &Catalogue| -> u64 {
        let names: Vec<_> = of.namespaces_with_refs().cloned().collect();
        names.iter().flat_map(|name| of.refs(name)).map(|(_, target)| target.generation).sum()
    };
    // A namespace that is forgotten takes its refs, which pointed to nothing any more, with it.
    if moves > 0 {
        assert_eq!(generations(after) - generations(before), moves as u64, "entry {index}");
    }
}

fn has_all(catalogue: &Catalogue, record: &Checkpoint) -> bool {
    let has = |id: SegmentId| {
        let wanted = record.policy.replicas;
        catalogue.segment(id).is_none_or(|it| catalogue.counting(it).replicas >= wanted)
    };
    record.segments.iter().all(has)
}

impl World {
    /// What the last entry brought about.
    fn events(&mut self) -> Vec<(&'static str, Option<CheckpointId>)> {
        let events = self.catalogue.take_events(self.index);
        events.iter().map(|event| (event.what.name(), event.what.checkpoint())).collect()
    }
}

#[test]
fn each_change_that_somebody_may_wait_for_is_an_event() {
    let mut world = World::new(&["a", "b", "c"]);
    let id = world.put(1, &["x"], &[1, 2, 3]);
    assert_eq!(world.events(), [("committed", Some(id)), ("full", Some(id))]);
    let quarantine = |lift| {
        let (reason, by) = ("r".to_owned(), String::new());
        Body::SetQuarantine(command::SetQuarantine { checkpoint: id, lift, reason, by })
    };
    world.done(quarantine(false));
    assert_eq!(world.events(), [("quarantined", Some(id))]);
    assert_eq!(world.events(), [], "they are taken once");
    world.done(quarantine(true));
    assert_eq!(world.events(), [("released", Some(id))]);
    for checkpoint in [Some(id), None] {
        let (name, by) = ("production".parse().unwrap(), String::new());
        let set = command::SetRef { namespace: namespace(), name, checkpoint, expect: None, by };
        world.done(Body::SetRef(set));
        assert_eq!(world.events(), [("ref-moved", checkpoint)]);
    }
    world.delete(id, false);
    assert_eq!(world.events(), [("deleted", Some(id))]);
    world.done(Body::Undelete(command::Undelete { checkpoint: id, by: String::new() }));
    assert_eq!(world.events(), [("undeleted", Some(id))], "and not full a second time");
    world.done(quarantine(false));
    world.delete(id, false);
    assert_eq!(world.events(), [("deleted", Some(id))]);
    world.done(Body::Undelete(command::Undelete { checkpoint: id, by: String::new() }));
    let back = [("undeleted", Some(id)), ("quarantined", Some(id))];
    assert_eq!(world.events(), back, "for those who began to watch meanwhile");
    let refused = command::AddHold {
        checkpoint: CheckpointId(99),
        owner: "o".into(),
        reason: "r".into(),
        for_ms: None,
    };
    world.refused(Body::AddHold(refused));
    assert_eq!(world.events(), []);
}

#[test]
fn a_commit_is_full_in_the_entry_that_makes_its_last_replica_durable() {
    let mut world = World::new(&["a", "b", "c"]);
    let upload = (world.begin(1, 11, 1), 11);
    let names = ["x", "y", "z"];
    world.stage(upload, 0, &names, &[1, 2, 3]);
    for node in [1, 2] {
        world.durable(node, &names);
    }
    world.seal(upload, 0, &names);
    assert_eq!(world.events(), [("committed", Some(upload.0))]);
    // Another commit waits for the same segments.
    let second = world.put(2, &["y"], &[]);
    assert_eq!(world.events(), [("committed", Some(second))]);
    world.durable(3, &["z"]);
    assert_eq!(world.events(), []);
    world.durable(3, &["y"]);
    assert_eq!(world.events(), [("full", Some(second))]);
    // What it had once it lacks again when the last one comes.
    let lost = world.replicas(2, &["z"]);
    let incarnation = world.incarnation(2);
    let node = crate::world::node(2);
    world.done(Body::Lost(command::Lost { node, incarnation, replicas: lost }));
    world.durable(3, &["x"]);
    assert_eq!(world.events(), []);
    world.durable(2, &["z"]);
    assert_eq!(world.events(), [("full", Some(upload.0))]);
}

#[test]
fn a_commit_is_full_only_once_the_nodes_of_its_replicas_are_up() {
    let mut world = World::new(&["a", "b", "c"]);
    let upload = (world.begin(1, 11, 1), 11);
    world.stage(upload, 0, &["x", "y"], &[1, 2, 3]);
    for node in [1, 2] {
        world.durable(node, &["x", "y"]);
    }
    world.seal(upload, 0, &["x", "y"]);
    world.events();
    // The third replicas come while another node of theirs is down: nobody could read all three.
    world.set_liveness(2, Liveness::Down);
    world.durable(3, &["x", "y"]);
    assert_eq!(world.events(), []);
    world.set_liveness(2, Liveness::Up);
    assert_eq!(world.events(), [("full", Some(upload.0))]);

    // The same with a node whose process is new and has not compared its files yet.
    let upload = (world.begin(2, 21, 1), 21);
    world.stage(upload, 0, &["z"], &[1, 2, 3]);
    for node in [1, 2] {
        world.durable(node, &["z"]);
    }
    world.seal(upload, 0, &["z"]);
    world.events();
    world.done(crate::world::registration(2, "b", &[200], 201));
    world.durable(3, &["z"]);
    assert_eq!(world.events(), []);
    let incarnation = world.incarnation(2);
    let (node, missing) = (crate::world::node(2), Vec::new());
    world.done(Body::Inventory(command::Inventory { node, incarnation, missing, last: true }));
    assert_eq!(world.events(), [("full", Some(upload.0))]);
}
