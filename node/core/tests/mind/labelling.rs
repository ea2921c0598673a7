//! Wall-clock labels of commits, and taking them back after a wrong clock.

use cairn_types::command::{self, Body, Refusal, Reply};
use cairn_types::ids::RequestId;
use cairn_types::limits::REPAIR_LABELS_MAX;

use crate::world::{World, namespace};

const WEEK_MS: u64 = 7 * 86_400_000;

fn repair(to_ms: u64, after: u64) -> Body {
    Body::RepairTime(command::RepairTime { namespace: namespace(), to_ms, after })
}

fn repaired(changed: u32, next: Option<u64>) -> Reply {
    Reply::TimeRepaired { changed, next }
}

/// Labels by commit, oldest first.
fn labels(world: &World) -> Vec<u64> {
    let name = namespace();
    let commits = world.catalogue.commits(&name).rev();
    commits.filter_map(|record| record.commit).map(|commit| commit.wall_ms).collect()
}

fn put_steps(world: &mut World, steps: std::ops::Range<u64>) {
    for step in steps {
        world.put(step, &["x"], if step == 1 { &[1, 2] } else { &[] });
    }
}

#[test]
fn labels_of_a_wrong_clock_are_taken_back_and_the_next_ones_are_right() {
    let mut world = World::new(&["a", "b"]);
    put_steps(&mut world, 1..2);
    let now_ms = world.wall_ms;
    world.wall_ms += WEEK_MS;
    put_steps(&mut world, 2..4);
    world.wall_ms = now_ms + 10;
    put_steps(&mut world, 4..5);
    let late_ms = now_ms + WEEK_MS;
    assert_eq!(labels(&world), [now_ms, late_ms, late_ms, late_ms]);
    assert!(world.resolve(&format!("run1@time:{}", now_ms + 1)).is_ok());

    let later = world.catalogue.labelled_later(&namespace(), now_ms + 5).unwrap();
    assert_eq!((later.newest_ms, later.commits, later.newest.len()), (late_ms, 3, 3));
    assert_eq!(world.done(repair(now_ms + 5, 0)), repaired(3, None));
    assert_eq!(labels(&world), [now_ms, now_ms + 5, now_ms + 5, now_ms + 5]);
    let name = namespace();
    let began = world.catalogue.commits(&name).map(|record| record.began.wall_ms);
    assert!(began.max() <= Some(now_ms + 5), "what began is labelled no later either");
    put_steps(&mut world, 5..6);
    assert_eq!(labels(&world)[4], now_ms + 10, "the clock labels again");
    let newest = world.catalogue.commits(&namespace()).next().unwrap().id;
    assert_eq!(world.resolve(&format!("run1@time:{}", now_ms + 10)), Ok(newest));
    assert_eq!(world.done(repair(now_ms + 10, 0)), repaired(0, None), "nothing is left to do");
}

#[test]
fn a_label_that_only_a_deleted_commit_had_is_forgotten_too() {
    let mut world = World::new(&["a", "b"]);
    put_steps(&mut world, 1..2);
    let now_ms = world.wall_ms;
    world.wall_ms += WEEK_MS;
    world.put(2, &["x"], &[]);
    let late = world.resolve("run1@2").unwrap();
    world.delete(late, true);
    world.drop_references(late);
    world.wall_ms = now_ms;
    assert_eq!(world.catalogue.labelled_later(&namespace(), now_ms).unwrap().commits, 0);
    assert_eq!(world.done(repair(now_ms, 0)), repaired(0, None));
    put_steps(&mut world, 3..4);
    assert_eq!(labels(&world), [now_ms, now_ms]);
}

#[test]
fn many_labels_take_many_entries_and_never_decrease_in_between() {
    let mut world = World::new(&["a", "b"]);
    put_steps(&mut world, 1..2);
    let now_ms = world.wall_ms;
    world.wall_ms += WEEK_MS;
    let many = REPAIR_LABELS_MAX as u64;
    put_steps(&mut world, 2..many + 4);
    world.wall_ms = now_ms;
    let Reply::TimeRepaired { changed, next: Some(next) } = world.done(repair(now_ms, 0)) else {
        panic!("one entry did it all");
    };
    assert_eq!(u64::from(changed), many);
    // A commit in between is labelled as before: the last entry finds it.
    put_steps(&mut world, many + 4..many + 5);
    assert_eq!(labels(&world).last(), Some(&(now_ms + WEEK_MS)));
    assert_eq!(world.done(repair(now_ms, next)), repaired(3, None));
    assert!(labels(&world).iter().all(|label_ms| *label_ms == now_ms));
    put_steps(&mut world, many + 5..many + 6);
    assert_eq!(labels(&world).last(), Some(&now_ms));
}

#[test]
fn a_repair_that_would_leave_a_later_label_behind_is_refused() {
    let mut world = World::new(&["a", "b"]);
    put_steps(&mut world, 1..3);
    let now_ms = world.wall_ms;
    let name = namespace();
    let newest = world.catalogue.commits(&name).next().unwrap();
    let last = newest.commit.unwrap().index;
    assert!(matches!(world.refused(repair(now_ms - 1, last)), Refusal::Malformed(_)));
    let nobody = "nobody".parse().unwrap();
    let unknown = Body::RepairTime(command::RepairTime { namespace: nobody, to_ms: 1, after: 0 });
    assert!(matches!(world.refused(unknown), Refusal::NoSuchCheckpoint { .. }));
    assert_eq!(world.done(repair(now_ms, u64::MAX)), repaired(0, None));
}

#[test]
fn a_repeated_repair_has_its_first_answer_and_no_effect() {
    let mut world = World::new(&["a", "b"]);
    put_steps(&mut world, 1..2);
    let to_ms = world.wall_ms - 1;
    assert_eq!(world.request(RequestId(9), repair(to_ms, 0)), repaired(1, None));
    put_steps(&mut world, 2..3);
    let before = labels(&world);
    assert_eq!(world.request(RequestId(9), repair(to_ms, 0)), repaired(1, None));
    assert_eq!(labels(&world), before);
}
