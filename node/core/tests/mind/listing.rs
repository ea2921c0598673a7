//! Lists: a namespace and what is below it, in order, page by page.

use cairn_core::catalogue::ListQuery;
use cairn_types::command::{self, Body};
use cairn_types::ids::{CheckpointId, Namespace, Step};

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
    let query = ListQuery { prefix, include_open: true, after, limit, ..ListQuery::default() };
    let records = world.catalogue.list(&query);
    records.iter().map(|record| (record.namespace.clone(), record.step, record.id)).collect()
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
