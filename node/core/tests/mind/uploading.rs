//! Begin, join, fence, revive, seal, commit, replace.

use bytes::Bytes;
use cairn_core::command::{Body, Refusal, Reply};
use cairn_core::ids::{Attempt, RequestId, Run, Step};
use cairn_core::model::{CheckpointState, ManifestPlace, PolicyChange};

use crate::world::{World, begin_body, begun, digest, namespace, reported, seal_body, stage_body};

#[test]
fn ranks_that_pass_the_same_attempt_join_one_upload() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 7, 2);
    assert_eq!(world.begin(1, 7, 2), id);
    let refusal = world.refused(begin_body(1, 7, 3, false));
    assert_eq!(refusal, Refusal::PartCount { got: 3, current: 2 });
    for part in [0, 1] {
        let names = [["x"], ["y"]][part as usize];
        world.stage((id, 7), part, &names, &[1, 2]);
        world.durable(1, &names);
        world.durable(2, &names);
    }
    let first = world.seal((id, 7), 1, &["y"]);
    assert_eq!(first, Reply::Sealed { parts_sealed: 1, parts: 2 });
    assert!(world.resolve("run1@1").is_err(), "nothing is visible before the last part");
    assert_eq!(begun(world.try_begin(1, 7, 2, false)).sealed, [1]);
    assert!(matches!(world.seal((id, 7), 0, &["x"]), Reply::Committed { .. }));
    assert_eq!(world.resolve("run1@latest"), Ok(id));
    let again = begun(world.try_begin(1, 7, 2, false));
    assert!(again.committed && again.checkpoint == id);
}

#[test]
fn a_higher_attempt_fences_the_lower_which_is_refused_for_good() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 1);
    world.stage((id, 5), 0, &["x", "y"], &[1, 2]);
    assert_eq!(world.begin(1, 6, 2), id);
    let fenced = Refusal::Fenced { got: Attempt(5), current: Attempt(6) };
    assert_eq!(world.refused(begin_body(1, 5, 1, false)), fenced);
    assert_eq!(world.refused(stage_body((id, 5), 0, Run(1), &["z"], &[1, 2])), fenced);
    assert_eq!(world.refused(seal_body((id, 5), 0, Run(1), &["x", "y"])), fenced);
    assert_eq!(world.catalogue.checkpoint(id).unwrap().loose.len(), 2, "references stay");
}

#[test]
fn leftovers_of_a_fenced_attempt_are_dropped_after_the_commit() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 1);
    world.stage((id, 5), 0, &["x", "old"], &[1, 2]);
    world.durable(1, &["x", "old"]);
    world.durable(2, &["x", "old"]);
    world.begin(1, 6, 1);
    let staged = world.stage((id, 6), 0, &["x"], &[]);
    assert!(staged[0].kept, "what the lower attempt made durable is not sent again");
    assert!(matches!(world.seal((id, 6), 0, &["x"]), Reply::Committed { .. }));
    assert!(world.segment("old").is_referenced());
    assert_eq!(world.drop_references(id), 0);
    assert!(!world.segment("old").is_referenced() && world.segment("x").is_referenced());
}

#[test]
fn a_stale_upload_is_revived_until_it_is_expired() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 1);
    let settings = world.catalogue.cluster().settings.clone();
    world.pass(settings.lease_ms + settings.grace_ms);
    let expire = Body::ExpireUploads { checkpoints: vec![id] };
    assert_eq!(reported(world.done(expire.clone())), (0, 1), "not within its grace");
    world.stage((id, 5), 0, &["x"], &[1, 2]);
    world.pass(settings.lease_ms + settings.grace_ms + 1);
    assert_eq!(reported(world.done(expire)), (1, 0));
    let stage = stage_body((id, 5), 0, Run(1), &["y"], &[1, 2]);
    assert_eq!(world.refused(stage), Refusal::NotOpen(id));
    assert_eq!(world.drop_references(id), 0);
    assert!(world.catalogue.checkpoint(id).is_none());
    assert_ne!(world.begin(1, 5, 1), id, "the step may be uploaded again");
}

#[test]
fn a_new_leader_gives_every_open_lease_a_full_term() {
    let mut world = World::new(&["a"]);
    let id = world.begin(1, 5, 1);
    let lease = |world: &World| {
        world.catalogue.checkpoint(id).unwrap().open.as_ref().unwrap().lease_until_ms
    };
    let lease_ms = world.catalogue.cluster().settings.lease_ms;
    world.pass(1_000_000);
    world.done(Body::LeaderStarted);
    assert_eq!(lease(&world), world.clock_ms + lease_ms);
    world.pass(10);
    let uploads = vec![(id, Attempt(5)), (id, Attempt(4))];
    assert_eq!(reported(world.done(Body::Renew { uploads })), (1, 1));
    assert_eq!(lease(&world), world.clock_ms + lease_ms);
}

#[test]
fn one_skewed_leader_moves_the_clock_one_step_only() {
    let mut world = World::new(&["a"]);
    let before = world.catalogue.cluster().clock_ms;
    world.clock_ms = u64::MAX;
    world.done(Body::LeaderStarted);
    assert_eq!(world.catalogue.cluster().clock_ms, before + 60_000);
    world.clock_ms = 3;
    world.done(Body::LeaderStarted);
    assert_eq!(world.catalogue.cluster().clock_ms, before + 60_000);
}

#[test]
fn a_commit_without_its_quorum_names_what_lacks_and_seals_nothing() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 1);
    world.stage((id, 5), 0, &["x", "y"], &[1, 2]);
    world.durable(1, &["x", "y"]);
    world.durable(2, &["x"]);
    let y = world.segment("y").id;
    let lacking = Reply::Lacking { segments: vec![y], total: 1 };
    assert_eq!(world.seal((id, 5), 0, &["x", "y"]), lacking);
    assert!(world.resolve("run1@1").is_err());
    let record = world.catalogue.checkpoint(id).unwrap();
    assert!(record.sealed_parts().is_empty());
    world.durable(2, &["y"]);
    let reply = world.seal((id, 5), 0, &["x", "y"]);
    let Reply::Committed { durability, .. } = reply else { panic!("{reply:?}") };
    assert_eq!((durability.replicas_wanted, durability.replicas_min), (3, 2));
    assert_eq!((durability.racks_min, durability.segments_below), (2, 2));
}

#[test]
fn a_leader_holds_the_last_seal_back_for_what_apply_would_name() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 2);
    world.stage((id, 5), 0, &["x"], &[1, 2]);
    world.stage((id, 5), 1, &["y", "z"], &[1, 2]);
    assert!(world.catalogue.lacking_if_sealed(id, 0).is_empty(), "another part is to come");
    assert!(matches!(world.seal((id, 5), 0, &["x"]), Reply::Sealed { .. }));
    world.durable(1, &["x", "y", "z"]);
    world.durable(2, &["y"]);
    let held = world.catalogue.lacking_if_sealed(id, 1);
    let lacking = Reply::Lacking { segments: held.clone(), total: 2 };
    assert_eq!(world.seal((id, 5), 1, &["y", "z"]), lacking);
    world.durable(2, &["z"]);
    let left = world.catalogue.still_lacking(id, &held);
    assert_eq!(left, [world.segment("x").id]);
    world.durable(2, &["x"]);
    assert!(world.catalogue.still_lacking(id, &left).is_empty());
    assert!(matches!(world.seal((id, 5), 1, &["y", "z"]), Reply::Committed { .. }));
}

#[test]
fn a_seal_must_name_what_its_run_staged() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 1);
    world.stage((id, 5), 0, &["x", "y"], &[1, 2]);
    let refusal = world.refused(seal_body((id, 5), 0, Run(1), &["x"]));
    assert_eq!(refusal, Refusal::SetDigestMismatch { part: 0 });
    let refusal = world.refused(seal_body((id, 5), 0, Run(2), &["x", "y"]));
    assert_eq!(refusal, Refusal::OtherRun { part: 0 });
    let mut body = seal_body((id, 5), 0, Run(1), &["x", "y"]);
    if let Body::SealPart { manifest, .. } = &mut body {
        *manifest = ManifestPlace::Segments(vec![digest("elsewhere")]);
    }
    assert_eq!(world.refused(body), Refusal::SegmentNotStaged(digest("elsewhere")));
    let refusal = world.refused(seal_body((id, 5), 1, Run(1), &[]));
    assert_eq!(refusal, Refusal::PartOutOfRange { part: 1, parts: 1 });
}

#[test]
fn a_killed_run_leaves_nothing_in_the_part_of_the_next() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 1);
    world.stage((id, 5), 0, &["torn", "x"], &[1, 2]);
    world.durable(1, &["torn", "x"]);
    world.durable(2, &["torn", "x"]);
    world.done(stage_body((id, 5), 0, Run(2), &["x"], &[]));
    let reply = world.done(seal_body((id, 5), 0, Run(2), &["x"]));
    assert!(matches!(reply, Reply::Committed { .. }));
    let record = world.catalogue.checkpoint(id).unwrap();
    assert_eq!((record.segments.len(), record.loose.len()), (1, 1));
}

#[test]
fn sealing_the_same_content_again_is_a_retry_and_other_content_is_refused() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 2);
    world.stage((id, 5), 0, &["x"], &[1, 2]);
    world.durable(1, &["x"]);
    world.durable(2, &["x"]);
    let sealed = world.seal((id, 5), 0, &["x"]);
    // Another run of the same rank sends the same content.
    world.done(stage_body((id, 5), 0, Run(2), &["x"], &[]));
    assert_eq!(world.done(seal_body((id, 5), 0, Run(2), &["x"])), sealed);
    let other = seal_body((id, 5), 0, Run(1), &[]);
    assert_eq!(world.refused(other.clone()), Refusal::PartSealed { part: 0 });
    let committed = world.seal((id, 5), 1, &[]);
    assert!(matches!(committed, Reply::Committed { .. }));
    assert_eq!(world.seal((id, 5), 0, &["x"]), committed);
    assert_eq!(world.refused(other), Refusal::PartSealed { part: 0 });
}

#[test]
fn a_committed_step_is_replaced_only_on_demand_and_in_one_entry() {
    let mut world = World::new(&["a", "b"]);
    let old = world.put(1, &["x"], &[1, 2]);
    let refusal = world.refused(begin_body(1, 99, 1, false));
    let (namespace, step) = (namespace(), Step(1));
    assert_eq!(refusal, Refusal::StepExists { namespace, step, checkpoint: old });
    let lower = world.refused(begin_body(1, 2, 1, true));
    assert_eq!(lower, Refusal::Fenced { got: Attempt(2), current: Attempt(11) });
    let new = begun(world.try_begin(1, 99, 1, true)).checkpoint;
    assert_eq!(world.resolve("run1@1"), Ok(old), "the old one stands until the commit");
    world.stage((new, 99), 0, &["y"], &[1, 2]);
    world.durable(1, &["y"]);
    world.durable(2, &["y"]);
    world.seal((new, 99), 0, &["y"]);
    assert_eq!(world.resolve("run1@1"), Ok(new));
    let replaced = world.catalogue.checkpoint(old).unwrap();
    assert_eq!(replaced.state, CheckpointState::Deleted);
}

#[test]
fn latest_is_the_newest_commit_and_time_selects_by_label() {
    let mut world = World::new(&["a", "b"]);
    let late_step = world.put(10, &["x"], &[1, 2]);
    world.wall_ms = 60_000;
    let lower_step = world.put(5, &["y"], &[1, 2]);
    world.wall_ms = 55_000;
    let clock_went_back = world.put(6, &["z"], &[1, 2]);
    assert_eq!(world.resolve("run1@latest"), Ok(clock_went_back));
    assert_eq!(world.resolve("run1@time:59999"), Ok(late_step));
    assert_eq!(world.resolve("run1@time:60000"), Ok(clock_went_back), "labels never go back");
    assert_eq!(world.resolve("run1@5"), Ok(lower_step));
    assert!(world.resolve("run1@time:1").is_err());
    assert!(world.resolve("run1@best").is_err());
    assert!(world.resolve("other@latest").is_err());
}

#[test]
fn a_request_sent_twice_has_one_effect_and_one_reply() {
    let mut world = World::new(&["a"]);
    let first = world.request(RequestId(9), begin_body(1, 5, 1, false));
    world.begin(1, 6, 1);
    let again = world.request(RequestId(9), begin_body(1, 5, 1, false));
    assert_eq!(again, first, "its attempt is fenced by now, but it was answered before");
}

#[test]
fn policy_overrides_cap_what_was_not_named_and_refuse_nonsense() {
    let mut world = World::new(&["a", "b"]);
    let mut begin = |change: PolicyChange, step: u64| {
        let mut body = begin_body(step, 1, 1, false);
        if let Body::Begin { change: named, .. } = &mut body {
            *named = change;
        }
        world.apply(body)
    };
    let one = PolicyChange { replicas: Some(1), ..PolicyChange::default() };
    let policy = begun(begin(one, 1)).policy;
    assert_eq!((policy.replicas, policy.write_quorum, policy.min_racks), (1, 1, 1));
    for change in [
        PolicyChange { replicas: Some(8), ..PolicyChange::default() },
        PolicyChange { replicas: Some(0), ..PolicyChange::default() },
        PolicyChange { write_quorum: Some(4), ..PolicyChange::default() },
        PolicyChange { min_racks: Some(0), ..PolicyChange::default() },
    ] {
        assert!(matches!(begin(change, 2), Reply::Refused(Refusal::Malformed(_))));
    }
    let keep = PolicyChange { keep_last: Some(2), ..PolicyChange::default() };
    begin(keep, 3);
    let record = world.catalogue.namespace(&namespace()).unwrap();
    assert_eq!((record.policy.keep_last, record.policy.replicas), (Some(2), 3));
}

#[test]
fn an_inline_manifest_has_a_bound() {
    let mut world = World::new(&["a"]);
    let id = world.begin(1, 5, 1);
    let mut body = seal_body((id, 5), 0, Run(1), &[]);
    if let Body::SealPart { manifest, .. } = &mut body {
        *manifest = ManifestPlace::Inline(Bytes::from(vec![0; 4097]));
    }
    assert!(matches!(world.refused(body), Refusal::Malformed(_)));
}
