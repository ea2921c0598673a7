//! Feature levels: no command above the cluster's, which follows the oldest build in service.

use cairn_core::catalogue::Catalogue;
use cairn_core::placement::Loads;
use cairn_core::steward::{self, Cursor, Observations};
use cairn_types::command::{self, Body, FEATURE_LEVEL, Refusal, Reply};
use cairn_types::ids::{ClusterId, Cookie};
use cairn_types::model::{NewNode, Settings};

use super::registering::FEWER_HOSTS;
use super::world::*;

/// Of the builds in [`World::new`].
const LEVEL: u32 = FEATURE_LEVEL;

/// What the leader would propose about levels.
fn proposed(world: &World) -> Option<u32> {
    let (mut loads, mut cursor) = (Loads::default(), Cursor::default());
    let seen = Observations::default();
    let plan = steward::plan(&world.catalogue, &seen, &mut loads, &mut cursor);
    plan.into_iter().find_map(|body| match body {
        Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level }) => Some(level),
        _ => None,
    })
}

/// Node `number` of [`World::new`] starts again, with a build of this level.
fn upgrade(world: &mut World, number: u64, nonces: (u128, u128), level: u32) -> Reply {
    let mut body = registration(number, "a", &[nonces.0], nonces.1);
    if let Body::Register(command::Register { feature_level, .. }) = &mut body {
        *feature_level = level;
    }
    world.apply(body)
}

fn level(world: &World) -> u32 {
    world.catalogue.cluster().feature_level
}

#[test]
fn the_level_follows_the_oldest_build_in_service() {
    let mut world = World::new(&["a", "a", "a"]);
    upgrade(&mut world, 1, (100, 101), LEVEL + 2);
    upgrade(&mut world, 2, (200, 201), LEVEL + 1);
    assert_eq!(proposed(&world), None, "node 3 is of an older build");
    let early = Refusal::FeatureLevel { needed: LEVEL + 1, current: LEVEL };
    assert_eq!(
        world.refused(Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level: LEVEL + 1 })),
        early
    );
    upgrade(&mut world, 3, (300, 301), LEVEL + 2);
    assert_eq!(proposed(&world), Some(LEVEL + 1));
    world.done(Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level: LEVEL + 1 }));
    assert_eq!((level(&world), proposed(&world)), (LEVEL + 1, None));
    // A late retry of an older proposal lowers nothing.
    world.done(Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level: LEVEL }));
    assert_eq!(level(&world), LEVEL + 1);
    // Who leaves holds nobody back.
    world.done(Body::RemoveNode(command::RemoveNode { node: node(2), accept: FEWER_HOSTS }));
    assert_eq!(proposed(&world), Some(LEVEL + 2));
}

#[test]
fn the_command_that_makes_a_cluster_needs_no_level_of_it() {
    let nothing = Catalogue::default();
    let init = command::InitCluster {
        cluster: ClusterId(7),
        settings: Settings::default(),
        node: new_node(1, "a"),
    };
    assert_eq!(nothing.admit(&Body::InitCluster(init)), Ok(()));
    let early = nothing.admit(&Body::LeaderStarted(command::LeaderStarted));
    assert_eq!(early, Err(Refusal::NotInitialized));
}

#[test]
fn an_older_build_does_not_come_back_once_the_level_was_raised() {
    let mut world = World::new(&["a"]);
    upgrade(&mut world, 1, (100, 101), LEVEL + 1);
    upgrade(&mut world, 1, (101, 102), LEVEL);
    assert_eq!(proposed(&world), None, "the way back is open until the level is raised");
    upgrade(&mut world, 1, (102, 103), LEVEL + 1);
    world.done(Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level: LEVEL + 1 }));
    let old = Reply::Refused(Refusal::OldBuild { got: LEVEL, current: LEVEL + 1 });
    assert_eq!(upgrade(&mut world, 1, (103, 104), LEVEL), old);
    let joins = NewNode { cookie: Cookie(99), ..new_node(2, "b") };
    assert_eq!(world.apply(Body::AllocateNode(joins)), old);
    let same = upgrade(&mut world, 1, (103, 104), LEVEL + 1);
    assert!(matches!(same, Reply::Registered { .. }), "{same:?}");
}

#[test]
fn a_node_that_joins_a_cluster_in_the_making_is_told_to_try_again() {
    let join = Body::AllocateNode(new_node(2, "a"));
    assert_eq!(Catalogue::default().admit(&join), Err(Refusal::NotInitialized));
    assert_eq!(World::new(&["a"]).catalogue.admit(&join), Ok(()));
}
