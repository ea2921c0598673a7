//! How far an open upload is: what is announced, what has the replicas of a commit, and the times.

use cairn_types::ids::CheckpointId;
use cairn_types::limits::PARTS_BEGUN_MAX;
use cairn_types::model::Liveness;
use cairn_types::progress::{PartProgress, UploadProgress};

use crate::world::World;

fn progress(world: &World, id: CheckpointId) -> UploadProgress {
    let info = world.catalogue.info(world.catalogue.checkpoint(id).unwrap());
    let progress = info.upload.unwrap();
    assert!(progress.durable_bytes <= info.segment_bytes, "{progress:?}");
    progress
}

#[test]
fn an_upload_says_which_parts_are_begun_and_what_is_durable() {
    let mut world = World::new(&["a", "b", "c"]);
    let id = world.begin(1, 7, 4);
    assert_eq!((progress(&world, id).parts_begun, progress(&world, id).durable_bytes), (0, 0));
    world.stage((id, 7), 1, &["x", "y"], &[1, 2, 3]);
    world.stage((id, 7), 3, &["z"], &[1, 2, 3]);
    let len = u64::from(world.segment("x").form.raw_len());
    let part = |part, segments, durable| PartProgress {
        part,
        segments,
        bytes: segments * len,
        durable_bytes: durable * len,
    };
    assert_eq!(progress(&world, id).first_begun, [part(1, 2, 0), part(3, 1, 0)]);
    // One replica is not enough for a commit, two in two racks are.
    world.durable(1, &["x", "y"]);
    assert_eq!(progress(&world, id).durable_bytes, 0);
    world.durable(2, &["x"]);
    assert_eq!(progress(&world, id).first_begun[0], part(1, 2, 1));
    world.durable(2, &["y"]);
    world.seal((id, 7), 1, &["x", "y"]);
    let now = progress(&world, id);
    assert_eq!(now.first_begun, [part(3, 1, 0)], "a sealed part is not being written");
    assert_eq!((now.parts_begun, now.durable_bytes), (1, 2 * len));
    // Only replicas on nodes that are up count, here as for a commit.
    world.set_liveness(2, Liveness::Down);
    assert_eq!(progress(&world, id).durable_bytes, 0);
}

#[test]
fn an_upload_says_how_long_its_lease_is() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 7, 1);
    let settings = world.catalogue.cluster().settings.clone();
    let begun = progress(&world, id);
    assert_eq!((begun.lease_left_ms, begun.idle_ms), (settings.lease_ms, 0));
    assert_eq!(begun.deleted_in_ms, settings.lease_ms + settings.grace_ms);
    world.pass(1_000);
    let later = progress(&world, id);
    let passed = begun.lease_left_ms - later.lease_left_ms;
    assert!(passed > 0, "{later:?}");
    assert_eq!((later.idle_ms, later.deleted_in_ms), (passed, begun.deleted_in_ms - passed));
    world.stage((id, 7), 0, &["x"], &[1, 2]);
    assert_eq!(progress(&world, id).lease_left_ms, settings.lease_ms, "work renews it");
    world.pass(settings.lease_ms + settings.grace_ms + 60_000);
    let over = progress(&world, id);
    assert_eq!((over.lease_left_ms, over.deleted_in_ms), (0, 0));
}

#[test]
fn an_upload_describes_a_bounded_number_of_parts() {
    let mut world = World::new(&["a", "b"]);
    let parts = PARTS_BEGUN_MAX as u32 + 3;
    let id = world.begin(1, 7, parts);
    for part in 0..parts {
        world.stage((id, 7), part, &[&format!("x{part}")], &[1, 2]);
    }
    let progress = progress(&world, id);
    assert_eq!((progress.parts_begun, progress.first_begun.len()), (parts, PARTS_BEGUN_MAX));
}

#[test]
fn what_is_not_open_has_no_progress() {
    let mut world = World::new(&["a", "b", "c"]);
    let id = world.put(1, &["x"], &[1, 2]);
    let info = world.catalogue.info(world.catalogue.checkpoint(id).unwrap());
    assert_eq!(info.upload, None);
}
