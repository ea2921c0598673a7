//! Lists: a namespace and what is below it, in order, page by page.

use cairn_core::catalogue::ListQuery;
use cairn_types::command::{self, Body, Command};
use cairn_types::ids::{CheckpointId, Namespace, RequestId, Step};
use cairn_types::limits::LIST_RECORDS_MAX;
use cairn_types::listing::{ListFilter, ListPlace, ListedStates};
use cairn_types::model::CheckpointState;

use crate::world::{World, begin_body};

fn world() -> World {
    let mut world = World::new(&["a", "b"]);
    for (name, step) in [
        ("run", 2),
        ("run", 1),
        ("run-best", 1),
        ("run.old", 1),
        ("run/a", 1),
        ("run/b/c", 1),
        ("run0", 1),
        ("other", 1),
    ] {
        let mut body = begin_body(step, 1, 1, false);
        if let Body::Begin(command::Begin { namespace, .. }) = &mut body {
            *namespace = name.parse().unwrap();
        }
        world.done(body);
    }
    world
}

fn page(
    world: &World,
    prefix: &str,
    after: Option<(Namespace, Step, CheckpointId)>,
    limit: usize,
) -> Vec<(Namespace, Step, CheckpointId)> {
    let prefix = prefix.to_owned();
    let filter = ListFilter::of(ListedStates { open: true, ..ListedStates::default() });
    let page = world.catalogue.list(&ListQuery { prefix, filter, after, limit, grant: None });
    page.records.iter().map(|record| (record.namespace.clone(), record.step, record.id)).collect()
}

fn names(places: &[(Namespace, Step, CheckpointId)]) -> Vec<String> {
    places.iter().map(|(name, step, _)| format!("{name}@{step}")).collect()
}

#[test]
fn a_namespace_lists_itself_and_what_is_below_it() {
    let world = world();
    let list = |prefix: &str| names(&page(&world, prefix, None, 100));
    assert_eq!(list("run"), ["run@1", "run@2", "run/a@1", "run/b/c@1"]);
    assert_eq!(list("run/b"), ["run/b/c@1"]);
    assert_eq!(list("ru"), [""; 0]);
    assert_eq!(list("run-best"), ["run-best@1"]);
    assert_eq!(list("").len(), 8);
}

#[test]
fn pages_of_any_size_give_each_checkpoint_once() {
    let world = world();
    for prefix in ["", "run", "run/b"] {
        let whole = page(&world, prefix, None, 100);
        for limit in 1..=3 {
            let mut pages = Vec::new();
            loop {
                let next = page(&world, prefix, pages.last().cloned(), limit);
                if next.is_empty() {
                    break;
                }
                pages.extend(next);
            }
            assert_eq!(names(&pages), names(&whole), "{limit} a page");
        }
        // A place that is not in the list, before it, within it and after it.
        for name in ["a", "run-z", "run/b", "zzz"] {
            let after = (name.parse().unwrap(), Step(0), CheckpointId(0));
            let rest = page(&world, prefix, Some(after), 100);
            let wanted: Vec<_> =
                whole.iter().filter(|place| place.0.as_str() >= name).cloned().collect();
            assert_eq!(names(&rest), names(&wanted), "{prefix:?} after {name}");
        }
    }
}

/// All that is listed, page by page, each page of so many; how many pages there were.
fn all(world: &World, filter: &ListFilter, limit: usize) -> (Vec<String>, usize) {
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut after: Option<ListPlace> = None;
    loop {
        let query = ListQuery { filter: filter.clone(), after, limit, ..ListQuery::default() };
        let page = world.catalogue.list(&query);
        assert!(page.records.len() <= limit);
        found.extend(page.records.iter().map(|it| format!("{}@{}", it.namespace, it.step)));
        pages += 1;
        let Some(next) = page.next else { return (found, pages) };
        assert!(query.after.is_none_or(|after| after < next), "no step forward");
        after = Some(next);
    }
}

#[test]
fn a_filter_finds_the_same_whatever_the_size_of_a_page() {
    let mut world = World::new(&["a", "b"]);
    for step in 1..=6 {
        world.wall_ms += 1_000;
        world.put(step, &["x"], &[1, 2]);
    }
    world.begin(9, 91, 1);
    let records: Vec<_> = world.catalogue.checkpoints().cloned().collect();
    world.delete(records[1].id, false);
    let bad = command::SetQuarantine {
        checkpoint: records[3].id,
        lift: false,
        reason: "r".into(),
        by: String::new(),
    };
    world.done(Body::SetQuarantine(bad));
    let states = |committed, quarantined, open, deleted| {
        ListFilter::of(ListedStates { committed, quarantined, open, deleted })
    };
    let third = records[2].commit.unwrap().wall_ms;
    let as_of = ListFilter { as_of_ms: Some(third), ..states(true, false, false, true) };
    for (filter, wanted) in [
        (states(true, false, false, false), "1 3 4 5 6"),
        (states(false, true, false, false), "4"),
        (states(false, false, true, false), "9"),
        (states(false, false, false, true), "2"),
        (states(true, true, true, true), "1 2 3 4 5 6 9"),
        (as_of, "1 2 3"),
    ] {
        let wanted: Vec<String> = wanted.split(' ').map(|step| format!("run1@{step}")).collect();
        for limit in [1, 2, 5, 100] {
            assert_eq!(all(&world, &filter, limit).0, wanted, "{filter:?}, {limit} a page");
        }
    }
    assert_eq!(records[0].state, CheckpointState::Committed);
}

#[test]
fn a_page_looks_at_a_bounded_number_of_records() {
    let mut world = World::new(&["a", "b"]);
    let uploads = LIST_RECORDS_MAX as u64 + 10;
    // Without the checks that a world makes after each entry.
    for step in 1..=uploads {
        let body = begin_body(step, 1, 1, false);
        let command = Command::new(RequestId(0), 0, 0, body);
        world.catalogue.apply(world.index + step, &command);
    }
    let (found, pages) = all(&world, &ListFilter::default(), 10);
    assert_eq!((found.len(), pages), (0, 2), "an empty page is not the last one");
}

#[test]
fn a_commit_counts_the_bytes_that_no_other_one_had() {
    let mut world = World::new(&["a", "b"]);
    let ids = [
        world.put(1, &["x", "y"], &[1, 2]),
        world.put(2, &["x", "z"], &[1, 2]),
        world.put(3, &["x", "z"], &[1, 2]),
    ];
    let shares = |world: &World| {
        ids.map(|id| {
            let record = world.catalogue.checkpoint(id).unwrap();
            (record.segment_bytes, record.new_bytes)
        })
    };
    let [(all, first), (_, second), (_, third)] = shares(&world);
    assert_eq!((first, third), (all, 0));
    assert!(0 < second && second < all, "{second} of {all}");
    // What was new then stays so: it says what the put added.
    world.delete(ids[0], true);
    assert_eq!(shares(&world)[1].1, second);
}
