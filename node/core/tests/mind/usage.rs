//! What namespaces take.

use std::collections::BTreeSet;

use cairn_core::catalogue::{Catalogue, Checkpoint, Usage, UsageQuery};
use cairn_types::command::{self, Body};
use cairn_types::ids::{CheckpointId, Namespace, SegmentId};
use cairn_types::rights::{Grant, Right};

use crate::chance::Chance;
use crate::world::{World, begin_body, begun, digest};

fn name(text: &str) -> Namespace {
    text.parse().unwrap()
}

/// A commit of one part in any namespace.
fn put(world: &mut World, namespace: &str, step: u64, names: &[&str]) -> CheckpointId {
    let attempt = step * 10 + 1;
    let mut body = begin_body(step, attempt, 1, false);
    if let Body::Begin(begin) = &mut body {
        begin.namespace = name(namespace);
    }
    let id = begun(world.done(body)).checkpoint;
    world.stage((id, attempt), 0, names, &[1, 2]);
    for node in [1, 2] {
        world.durable(node, names);
    }
    world.seal((id, attempt), 0, names);
    assert!(world.catalogue.checkpoint(id).unwrap().is_committed());
    id
}

fn len(world: &World, names: &[&str]) -> u64 {
    let segment = |name: &&str| world.catalogue.segment_by_digest(&digest(name)).unwrap();
    names.iter().map(|name| u64::from(segment(name).form.raw_len())).sum()
}

fn of(world: &World, namespace: &str) -> Usage {
    let page = world.catalogue.usage(&UsageQuery::default());
    let found = page.namespaces.into_iter().find(|(of, _)| *of == name(namespace));
    let nothing = Usage { unique_bytes: Some(0), ..Usage::default() };
    found.map_or(nothing, |(_, usage)| usage)
}

/// A read grant in these namespaces and below; none: in all.
fn reader(namespaces: &[&str]) -> Option<Grant> {
    let rights = [Right::Read].into_iter().collect();
    Some(Grant { rights, namespaces: namespaces.iter().map(|it| name(it)).collect() })
}

#[test]
fn bytes_of_a_namespace_are_its_own_shared_or_in_its_trash() {
    let mut world = World::new(&["a", "b"]);
    put(&mut world, "a", 1, &["own", "both"]);
    let second = put(&mut world, "a", 2, &["own", "gone"]);
    put(&mut world, "b", 1, &["both", "other"]);
    let usage = of(&world, "a");
    assert_eq!(usage.checkpoints, 2);
    assert_eq!(usage.logical_bytes, len(&world, &["own", "both", "own", "gone"]));
    assert_eq!(usage.stored_bytes, len(&world, &["own", "both", "gone"]));
    let own = len(&world, &["own", "gone"]);
    assert_eq!(usage.unique_bytes, Some(own), "its own twice is its own");
    assert_eq!((usage.trash_checkpoints, usage.trash_bytes), (0, 0));
    world.delete(second, false);
    let usage = of(&world, "a");
    assert_eq!(usage.unique_bytes, Some(len(&world, &["own"])));
    assert_eq!((usage.trash_checkpoints, usage.trash_bytes), (1, len(&world, &["gone"])));
    world.done(Body::Undelete(command::Undelete { checkpoint: second, by: String::new() }));
    assert_eq!(of(&world, "a").trash_bytes, 0);
}

#[test]
fn pages_of_usage_give_each_namespace_once() {
    let mut world = World::new(&["a", "b"]);
    for namespace in ["a", "a/x", "a/y", "ab", "b"] {
        put(&mut world, namespace, 1, &["x"]);
    }
    // An upload in progress is nothing that a namespace has.
    let mut open = begin_body(1, 7, 1, false);
    if let Body::Begin(begin) = &mut open {
        begin.namespace = name("a/z");
    }
    world.done(open);
    let names = |prefix: &str, after: Option<&str>| -> Vec<String> {
        let (prefix, after) = (prefix.to_owned(), after.map(name));
        let page = world.catalogue.usage(&UsageQuery { prefix, after, grant: None });
        assert!(!page.more);
        page.namespaces.iter().map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(names("", None), ["a", "a/x", "a/y", "ab", "b"]);
    assert_eq!(names("a", None), ["a", "a/x", "a/y"]);
    assert_eq!(names("a", Some("a/x")), ["a/y"]);
    assert_eq!(names("", Some("b")), [""; 0]);
}

#[test]
fn who_may_not_read_everything_does_not_learn_what_others_store() {
    let mut world = World::new(&["a", "b"]);
    put(&mut world, "team/run", 1, &["x", "y"]);
    let asked = |world: &World, grant: Option<Grant>| {
        let query = UsageQuery { grant, ..UsageQuery::default() };
        world.catalogue.usage(&query).namespaces
    };
    let before = asked(&world, reader(&["team"]));
    assert_eq!(before.len(), 1);
    assert_eq!(before[0].1.unique_bytes, None);
    assert_eq!(before[0].1.stored_bytes, len(&world, &["x", "y"]));
    let deleted = put(&mut world, "other", 1, &["x"]);
    assert_eq!(asked(&world, reader(&["team"])), before, "nothing changes for it");
    world.delete(deleted, false);
    assert_eq!(asked(&world, reader(&["team"])), before, "nor by what others delete");
    assert_eq!(asked(&world, reader(&["nobody"])), []);
    // A grant without read says nothing at all.
    let rights = [Right::Write].into_iter().collect();
    assert_eq!(asked(&world, Some(Grant { rights, namespaces: Vec::new() })), []);
    assert_eq!(asked(&world, reader(&[])), asked(&world, None));
}

/// The same from the definitions, a set at a time.
fn counted(catalogue: &Catalogue, namespace: &Namespace) -> Usage {
    let ids = |which: &dyn Fn(&Checkpoint) -> bool| -> BTreeSet<SegmentId> {
        let records = catalogue.checkpoints().filter(|record| which(record));
        records.flat_map(|record| record.segments.iter().collect::<Vec<_>>()).collect()
    };
    let bytes = |ids: &BTreeSet<SegmentId>| -> u64 {
        ids.iter().map(|id| u64::from(catalogue.segment(*id).unwrap().form.raw_len())).sum()
    };
    let is_own = |record: &Checkpoint| record.namespace == *namespace;
    let stored = ids(&|record| is_own(record) && record.is_committed());
    let trash = ids(&|record| is_own(record) && !record.is_committed());
    let others = ids(&|record| !is_own(record));
    let own = catalogue.checkpoints().filter(|record| is_own(record));
    let (committed, deleted): (Vec<_>, Vec<_>) = own.partition(|record| record.is_committed());
    Usage {
        checkpoints: committed.len() as u64,
        logical_bytes: committed.iter().map(|record| record.bytes).sum(),
        stored_bytes: bytes(&stored),
        unique_bytes: Some(bytes(&stored.difference(&others).copied().collect())),
        trash_checkpoints: deleted.iter().filter(|it| !it.segments.is_empty()).count() as u64,
        trash_bytes: bytes(&trash.difference(&stored).copied().collect()),
    }
}

const SPACES: [&str; 3] = ["a", "a/b", "c"];
const NAMES: [&str; 6] = ["p", "q", "r", "s", "t", "u"];

#[test]
fn usage_is_what_counting_the_segments_of_all_checkpoints_gives() {
    let (mut shared, mut trash, mut dropped) = (0, 0, 0);
    for seed in 0..40 {
        let mut chance = Chance::new(seed);
        let mut world = World::new(&["a", "b"]);
        for step in 1..=10 {
            let mut names: Vec<&str> = NAMES.into_iter().filter(|_| chance.once_in(3)).collect();
            if names.is_empty() {
                names.push("p");
            }
            let space = SPACES[chance.below(3) as usize];
            let id = put(&mut world, space, step, &names);
            match chance.below(4) {
                0 => world.delete(id, false),
                1 => {
                    world.delete(id, true);
                    while world.drop_references(id) > 0 {}
                    dropped += 1;
                }
                _ => {}
            }
            for space in SPACES {
                let usage = of(&world, space);
                let counted = counted(&world.catalogue, &name(space));
                assert_eq!(usage, counted, "seed {seed}, step {step}, {space}");
                shared += u64::from(usage.unique_bytes < Some(usage.stored_bytes));
                trash += u64::from(usage.trash_bytes > 0);
            }
        }
    }
    assert!(shared > 100 && trash > 100 && dropped > 50, "{shared}, {trash}, {dropped}");
}

#[test]
fn a_checkpoint_names_the_one_with_which_it_shares_most() {
    let mut world = World::new(&["a", "b"]);
    let first = put(&mut world, "a", 1, &["x", "y", "z"]);
    let second = put(&mut world, "a", 2, &["x", "own"]);
    let third = put(&mut world, "a", 3, &["x", "y", "new"]);
    put(&mut world, "b", 4, &["x", "y", "new"]);
    let alone = put(&mut world, "a", 5, &["nobody"]);
    let most = |id| {
        let record = world.catalogue.checkpoint(id).unwrap();
        let most = world.catalogue.shared_most(record)?;
        Some((most.checkpoint, most.bytes, most.compared))
    };
    assert_eq!(most(third), Some((first, len(&world, &["x", "y"]), 3)), "of its namespace");
    assert_eq!(most(first), Some((third, len(&world, &["x", "y"]), 3)), "also a later one");
    // Of two that share as much, the nearer one.
    assert_eq!(most(second).map(|it| it.0), Some(first));
    assert_eq!(most(alone), None);
}

#[test]
fn a_checkpoint_that_shares_everything_is_not_compared_further() {
    let mut world = World::new(&["a", "b"]);
    put(&mut world, "a", 1, &["x"]);
    let second = put(&mut world, "a", 2, &["x"]);
    let third = put(&mut world, "a", 3, &["x"]);
    let most = world.catalogue.shared_most(world.catalogue.checkpoint(third).unwrap()).unwrap();
    assert_eq!((most.checkpoint, most.compared), (second, 1));
}
