//! Open-ended uploads: parts come, are voided and dropped, and Close commits what is left.

use cairn_core::catalogue::stored;
use cairn_types::command::{self, Body, FEATURE_LEVEL, OPEN_ENDED_LEVEL, Refusal, Reply};
use cairn_types::ids::{Attempt, CheckpointId, RequestId, Run};
use cairn_types::limits::{OPEN_LEASES, OPEN_PARTS_OF_BEGIN};
use cairn_types::model::Liveness;

use crate::world::{RUN, World, begin_body, begun, digest, seal_body, stage_body};

const ATTEMPT: u64 = 7;

fn world() -> World {
    World::new(&["a", "b", "c"])
}

/// An open-ended upload of step 1, and its first part number.
fn open(world: &mut World) -> (CheckpointId, u32) {
    let begun = begun(world.try_begin(1, ATTEMPT, 0, false));
    assert_eq!((begun.parts, begun.committed), (0, false));
    (begun.checkpoint, begun.first_part)
}

/// Stages segments and makes them durable on two nodes.
fn send(world: &mut World, id: CheckpointId, part: u32, names: &[&str]) {
    world.stage((id, ATTEMPT), part, names, &[1, 2]);
    world.durable(1, names);
    world.durable(2, names);
}

fn seal_voiding(
    world: &mut World,
    id: CheckpointId,
    part: u32,
    names: &[&str],
    voids: &[u32],
) -> Reply {
    let mut body = seal_body((id, ATTEMPT), part, RUN, names);
    if let Body::SealPart(seal) = &mut body {
        seal.voids = voids.to_vec();
    }
    world.apply(body)
}

fn sealed(world: &mut World, id: CheckpointId, part: u32, names: &[&str], voids: &[u32]) -> u32 {
    send(world, id, part, names);
    match seal_voiding(world, id, part, names, voids) {
        Reply::Sealed { parts_sealed, parts: 0 } => parts_sealed,
        reply => panic!("{reply:?}"),
    }
}

fn close_body(id: CheckpointId) -> Body {
    Body::Close(command::Close { checkpoint: id, attempt: Attempt(ATTEMPT) })
}

fn drop_body(id: CheckpointId, part: u32) -> Body {
    Body::DropPart(command::DropPart { checkpoint: id, attempt: Attempt(ATTEMPT), part })
}

fn is_referenced(world: &World, name: &str) -> bool {
    world.segment(name).is_referenced()
}

#[test]
fn nothing_is_visible_before_close_and_then_exactly_the_sealed_parts() {
    let mut world = world();
    let (id, first) = open(&mut world);
    assert_eq!(sealed(&mut world, id, first, &["one"], &[]), 1);
    assert_eq!(sealed(&mut world, id, first + 5, &["two"], &[]), 2);
    send(&mut world, id, first + 1, &["half a file"]);
    assert!(world.resolve("run1@1").is_err() && world.resolve("run1@latest").is_err());
    let info = world.catalogue.info(world.catalogue.checkpoint(id).unwrap());
    assert_eq!((info.parts_wanted, info.parts_missing, info.open_ended), (2, 0, true));
    assert!(matches!(world.done(close_body(id)), Reply::Committed { .. }));
    assert_eq!(world.resolve("run1@latest"), Ok(id));
    let record = world.catalogue.checkpoint(id).unwrap();
    assert_eq!((record.parts.len(), record.parts_wanted, record.segments.len()), (2, 2, 2));
    assert_eq!(world.drop_references(id), 0);
    assert!(!is_referenced(&world, "half a file"));
    // A retry, and writers that come too late.
    assert!(matches!(world.done(close_body(id)), Reply::Committed { .. }));
    let late = [
        stage_body((id, ATTEMPT), first + 9, RUN, &["late"], &[1, 2]),
        seal_body((id, ATTEMPT), first + 9, RUN, &[]),
        drop_body(id, first),
    ];
    late.into_iter().for_each(|body| assert_eq!(world.refused(body), Refusal::NotOpen(id)));
    assert!(begun(world.try_begin(1, ATTEMPT, 0, false)).committed);
}

#[test]
fn each_begin_gets_part_numbers_of_its_own() {
    let mut world = world();
    let (id, first) = open(&mut world);
    let (again, second) = open(&mut world);
    assert_eq!((again, first, second), (id, 0, OPEN_PARTS_OF_BEGIN));
    let request = RequestId(5);
    let body = begin_body(1, ATTEMPT, 0, false);
    let third = begun(world.request(request, body.clone())).first_part;
    assert_eq!(begun(world.request(request, body)).first_part, third, "a retry");
    let beyond = third + OPEN_PARTS_OF_BEGIN;
    let refusal = world.refused(stage_body((id, ATTEMPT), beyond, RUN, &["x"], &[1, 2]));
    assert_eq!(refusal, Refusal::PartOutOfRange { part: beyond, parts: beyond });
    // The number of parts is open or not, for all that join.
    let refusal = world.refused(begin_body(1, ATTEMPT, 3, false));
    assert_eq!(refusal, Refusal::PartCount { got: 3, current: 0 });
    assert_eq!(refusal.to_string(), "the upload has an open number of parts, not 3 parts");
}

#[test]
fn a_voided_part_gives_back_the_segments_that_no_other_part_holds() {
    let mut world = world();
    let (id, first) = open(&mut world);
    sealed(&mut world, id, first, &["old", "shared"], &[]);
    sealed(&mut world, id, first + 1, &["shared", "other"], &[]);
    assert_eq!(sealed(&mut world, id, first + 2, &["new"], &[first]), 2);
    assert!(!is_referenced(&world, "old"));
    for name in ["shared", "other", "new"] {
        assert!(is_referenced(&world, name), "{name}");
    }
    let grace_ms = world.catalogue.cluster().settings.grace_ms;
    assert_eq!(world.segment("old").reap_after_ms, world.clock_ms + grace_ms);
    world.done(close_body(id));
    let named: Vec<_> = world.catalogue.checkpoint(id).unwrap().segments.iter().collect();
    let want = ["shared", "other", "new"].map(|name| world.segment(name).id);
    assert_eq!(named.len(), 3);
    assert!(want.iter().all(|id| named.contains(id)));
}

#[test]
fn a_part_voids_only_sealed_parts_of_what_the_leader_compared() {
    let mut world = world();
    let (id, first) = open(&mut world);
    sealed(&mut world, id, first, &["one"], &[]);
    send(&mut world, id, first + 1, &["two"]);
    send(&mut world, id, first + 2, &["unsealed"]);
    for voids in [&[first + 2][..], &[first + 1], &[first + 3], &[first, first]] {
        let reply = seal_voiding(&mut world, id, first + 1, &["two"], voids);
        assert!(matches!(reply, Reply::Refused(Refusal::Malformed(_))), "{voids:?}: {reply:?}");
    }
    // Compared before a part was dropped and another one sealed: as many are sealed as then.
    let mut body = seal_body((id, ATTEMPT), first + 1, RUN, &["two"]);
    let version = world.catalogue.parts_version(id);
    if let Body::SealPart(seal) = &mut body {
        seal.compared = version;
    }
    world.done(drop_body(id, first));
    sealed(&mut world, id, first + 4, &["four"], &[]);
    let reply = world.request_as_is(RequestId(0), body);
    assert!(matches!(reply, Reply::Refused(Refusal::NotCompared { .. })), "{reply:?}");
}

#[test]
fn a_part_is_sealed_once_its_own_segments_are_durable() {
    let mut world = world();
    let (id, first) = open(&mut world);
    world.stage((id, ATTEMPT), first, &["slow"], &[1, 2]);
    world.durable(1, &["slow"]);
    let reply = world.seal((id, ATTEMPT), first, &["slow"]);
    assert!(matches!(reply, Reply::Lacking { total: 1, .. }), "{reply:?}");
    assert_eq!(world.catalogue.lacking_if_sealed(id, first).len(), 1);
    assert_eq!(world.refused(close_body(id)), Refusal::NothingSealed(id));
    world.durable(2, &["slow"]);
    let reply = world.seal((id, ATTEMPT), first, &["slow"]);
    assert_eq!(reply, Reply::Sealed { parts_sealed: 1, parts: 0 });
    // A replica is lost before the close.
    world.set_liveness(2, Liveness::Down);
    assert!(matches!(world.apply(close_body(id)), Reply::Lacking { total: 1, .. }));
    world.set_liveness(2, Liveness::Up);
    assert!(matches!(world.done(close_body(id)), Reply::Committed { .. }));
}

#[test]
fn a_dropped_part_is_gone_and_a_retry_changes_nothing() {
    let mut world = world();
    let (id, first) = open(&mut world);
    sealed(&mut world, id, first, &["one"], &[]);
    send(&mut world, id, first + 1, &["unsealed"]);
    for part in [first, first + 1, first, first + 2] {
        assert_eq!(world.done(drop_body(id, part)), Reply::Done);
    }
    assert!(!is_referenced(&world, "one") && !is_referenced(&world, "unsealed"));
    assert_eq!(world.refused(close_body(id)), Refusal::NothingSealed(id));
}

#[test]
fn many_references_of_a_voided_part_are_dropped_in_steps() {
    let mut world = world();
    let (id, first) = open(&mut world);
    let names: Vec<String> = (0..5_000).map(|number| format!("segment {number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for batch in names.chunks(1_000) {
        send(&mut world, id, first, batch);
    }
    assert!(matches!(world.seal((id, ATTEMPT), first, &names), Reply::Sealed { .. }));
    world.done(drop_body(id, first));
    assert!(world.catalogue.checkpoint(id).unwrap().has_droppable(world.clock_ms, 0));
    assert_eq!(world.catalogue.checkpoint(id).unwrap().loose.len(), 904);
    // One of them is staged again: its reference stays.
    world.stage((id, ATTEMPT), first + 1, &[names[4_999]], &[]);
    // A snapshot keeps what is still to be dropped.
    let bytes = stored::encode(&world.catalogue);
    let back = stored::decode(&bytes, FEATURE_LEVEL).unwrap();
    assert_eq!(back.digest(), world.catalogue.digest());
    assert_eq!(back.checkpoint(id), world.catalogue.checkpoint(id));
    world.catalogue = back;
    assert_eq!(world.drop_references(id), 0);
    assert!(!world.catalogue.checkpoint(id).unwrap().has_droppable(world.clock_ms, 0));
    let held: Vec<_> = world.catalogue.checkpoint(id).unwrap().loose.iter().collect();
    assert_eq!(held, [world.segment(names[4_999]).id]);
}

#[test]
fn a_higher_attempt_starts_empty_and_refers_to_nothing_of_the_lower_one() {
    let mut world = world();
    let (id, first) = open(&mut world);
    sealed(&mut world, id, first, &["one"], &[]);
    let begun = begun(world.try_begin(1, ATTEMPT + 1, 0, false));
    assert_eq!((begun.checkpoint, begun.first_part), (id, 0));
    assert!(matches!(world.refused(close_body(id)), Refusal::Fenced { .. }));
    assert!(matches!(world.refused(drop_body(id, first)), Refusal::Fenced { .. }));
    assert_eq!(world.drop_references(id), 0);
    assert!(!is_referenced(&world, "one"));
    assert_eq!(world.catalogue.segment_by_digest(&digest("one")).map(|it| it.reaped), Some(false));
}

#[test]
fn another_run_of_a_part_starts_it_again() {
    let mut world = world();
    let (id, first) = open(&mut world);
    send(&mut world, id, first, &["first run"]);
    world.done(stage_body((id, ATTEMPT), first, Run(2), &["second run"], &[1, 2]));
    assert_eq!(world.drop_references(id), 0);
    assert!(!is_referenced(&world, "first run") && is_referenced(&world, "second run"));
}

#[test]
fn its_lease_is_long_and_ends() {
    let mut world = world();
    let (id, first) = open(&mut world);
    sealed(&mut world, id, first, &["one"], &[]);
    let settings = world.catalogue.cluster().settings.clone();
    let expire = || Body::ExpireUploads(command::ExpireUploads { checkpoints: vec![id] });
    let until_ms = world.clock_ms + settings.lease_ms * OPEN_LEASES + settings.grace_ms;
    world.pass(settings.lease_ms * 10 + settings.grace_ms);
    assert_eq!(world.done(expire()), Reply::Reported { accepted: 0, refused: 1 });
    world.pass(until_ms - world.clock_ms + 1);
    assert_eq!(world.done(expire()), Reply::Reported { accepted: 1, refused: 0 });
    assert_eq!(world.refused(close_body(id)), Refusal::NotOpen(id));
}

#[test]
fn a_cluster_of_an_older_level_begins_none() {
    let mut world = World::of_level(OPEN_ENDED_LEVEL - 1, &["a", "b"]);
    let refused = Refusal::FeatureLevel { needed: OPEN_ENDED_LEVEL, current: OPEN_ENDED_LEVEL - 1 };
    assert_eq!(world.refused(begin_body(1, ATTEMPT, 0, false)), refused);
    let id = world.begin(1, ATTEMPT, 1);
    for body in [close_body(id), drop_body(id, 0)] {
        assert_eq!(world.refused(body), refused);
    }
    let mut seal = seal_body((id, ATTEMPT), 0, RUN, &[]);
    if let Body::SealPart(seal) = &mut seal {
        seal.voids = vec![3];
    }
    assert_eq!(world.refused(seal), refused);
}

#[test]
fn an_upload_of_fixed_parts_is_neither_closed_nor_thinned_out() {
    let mut world = world();
    let id = world.begin(1, ATTEMPT, 2);
    for body in [close_body(id), drop_body(id, 0)] {
        assert_eq!(world.refused(body), Refusal::NotOpenEnded(id));
    }
    send(&mut world, id, 0, &["one"]);
    world.seal((id, ATTEMPT), 0, &["one"]);
    send(&mut world, id, 1, &["two"]);
    let reply = seal_voiding(&mut world, id, 1, &["two"], &[0]);
    assert_eq!(reply, Reply::Refused(Refusal::NotOpenEnded(id)));
}
