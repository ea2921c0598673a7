//! Begin, join, fence, revive, seal, commit, replace.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_types::command::{self, Body, Refusal, Reply};
use cairn_types::ids::{Attempt, RequestId, Run, Step};
use cairn_types::limits::{ATTEMPT_MAX, METRICS_MAX};
use cairn_types::model::{CheckpointState, ManifestPlace, Metric, PolicyChange};

use crate::world::{World, begin_body, begun, digest, namespace, reported, seal_body, stage_body};

fn fenced(got: u64, current: u64) -> Refusal {
    Refusal::Fenced {
        got: Attempt(got),
        current: Attempt(current),
        client: String::new(),
        began_wall_ms: 50_000,
    }
}

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
    let fenced = fenced(5, 6);
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
    let expire = Body::ExpireUploads(command::ExpireUploads { checkpoints: vec![id] });
    assert_eq!(reported(world.done(expire.clone())), (0, 1), "not within its grace");
    world.stage((id, 5), 0, &["x"], &[1, 2]);
    world.pass(settings.lease_ms + settings.grace_ms + 1);
    assert_eq!(reported(world.done(expire)), (1, 0));
    let stage = stage_body((id, 5), 0, Run(1), &["y"], &[1, 2]);
    assert_eq!(world.refused(stage), Refusal::NotOpen(id));
    assert_eq!(world.drop_references(id), 0);
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
    world.done(Body::LeaderStarted(command::LeaderStarted));
    assert_eq!(lease(&world), world.clock_ms + lease_ms);
    world.pass(10);
    let uploads = vec![(id, Attempt(5)), (id, Attempt(4))];
    assert_eq!(reported(world.done(Body::Renew(command::Renew { uploads }))), (1, 1));
    assert_eq!(lease(&world), world.clock_ms + lease_ms);
}

#[test]
fn one_skewed_leader_moves_the_clock_one_step_only() {
    let mut world = World::new(&["a"]);
    let before = world.catalogue.cluster().clock_ms;
    world.clock_ms = u64::MAX;
    world.done(Body::LeaderStarted(command::LeaderStarted));
    assert_eq!(world.catalogue.cluster().clock_ms, before + 60_000);
    world.clock_ms = 3;
    world.done(Body::LeaderStarted(command::LeaderStarted));
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
    if let Body::SealPart(command::SealPart { manifest, .. }) = &mut body {
        *manifest = ManifestPlace::Segments(vec![digest("elsewhere")]);
    }
    let not_staged = Refusal::SegmentNotStaged(digest("elsewhere"));
    // A leader is told so before it reads a manifest there.
    let Body::SealPart(seal) = &body else { panic!("{body:?}") };
    assert_eq!(world.catalogue.may_seal(seal), Err(not_staged.clone()));
    assert_eq!(world.refused(body), not_staged);
    let refusal = world.refused(seal_body((id, 5), 1, Run(1), &[]));
    assert_eq!(refusal, Refusal::PartOutOfRange { part: 1, parts: 1 });
}

#[test]
fn a_part_is_sealed_only_as_it_was_compared() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 3);
    let names = [["x"], ["y"], ["z"]];
    for (part, names) in (0..).zip(&names) {
        world.stage((id, 5), part, names, &[1, 2]);
        world.durable(1, names);
        world.durable(2, names);
    }
    let seal = |part: u32, with: u32| {
        let mut body = seal_body((id, 5), part, Run(1), &names[part as usize]);
        if let Body::SealPart(command::SealPart { compared, .. }) = &mut body {
            *compared = with;
        }
        body
    };
    let none = RequestId(0);
    let refused =
        |part, compared, sealed| Reply::Refused(Refusal::NotCompared { part, compared, sealed });
    assert_eq!(world.request_as_is(none, seal(0, 1)), refused(0, 1, 0));
    let unread = command::NOT_COMPARED;
    assert_eq!(world.request_as_is(none, seal(0, unread)), refused(0, unread, 0));
    let sealed = Reply::Sealed { parts_sealed: 1, parts: 3 };
    assert_eq!(world.request_as_is(none, seal(0, 0)), sealed);
    // Two leaders compared these with the first alone; only one of them may be sealed so.
    let sealed = Reply::Sealed { parts_sealed: 2, parts: 3 };
    assert_eq!(world.request_as_is(none, seal(1, 1)), sealed);
    assert_eq!(world.request_as_is(none, seal(2, 1)), refused(2, 1, 2));
    assert_eq!(world.request_as_is(none, seal(1, 0)), sealed, "a retry changes nothing");
    assert!(matches!(world.request_as_is(none, seal(2, 2)), Reply::Committed { .. }));
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
    assert_eq!(lower, fenced(2, 11));
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
    assert!(world.resolve("run1@production").is_err());
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
        if let Body::Begin(command::Begin { change: named, .. }) = &mut body {
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
}

/// A Begin with what `change` makes of it.
fn begin_with(
    step: u64,
    attempt: Option<u64>,
    parts: u32,
    change: impl FnOnce(&mut Begin),
) -> Body {
    let mut begin = Begin::default();
    change(&mut begin);
    Body::Begin(command::Begin {
        namespace: namespace(),
        step: Step(step),
        parts,
        attempt: attempt.map(Attempt),
        change: begin.change,
        replace: begin.replace,
        labels: begin.labels,
        client: begin.client,
        job: begin.job,
    })
}

#[derive(Default)]
struct Begin {
    change: PolicyChange,
    replace: bool,
    labels: BTreeMap<String, String>,
    client: String,
    job: String,
}

fn label(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

#[test]
fn without_an_attempt_the_catalogue_takes_the_next() {
    let mut world = World::new(&["a", "b"]);
    let next = |step| begin_with(step, None, 1, |begin| begin.client = "job".to_owned());
    let first = begun(world.done(next(1)));
    assert_eq!(first.attempt, Attempt(1));
    world.stage((first.checkpoint, 1), 0, &["x"], &[1, 2]);
    world.durable(1, &["x"]);
    world.durable(2, &["x"]);
    // It died; the next one takes over and finds what is durable.
    let second = begun(world.request(RequestId(7), next(1)));
    assert_eq!((second.checkpoint, second.attempt), (first.checkpoint, Attempt(2)));
    assert_eq!(begun(world.request(RequestId(7), next(1))), second, "a retry is not another one");
    let late = world.refused(stage_body((first.checkpoint, 1), 0, Run(1), &["y"], &[1, 2]));
    assert!(late.to_string().ends_with("fenced by attempt 2 of job"), "{late}");
    assert!(world.stage((second.checkpoint, 2), 0, &["x"], &[])[0].kept);
    world.seal((second.checkpoint, 2), 0, &["x"]);
    assert!(matches!(world.refused(next(1)), Refusal::StepExists { .. }));
    // A clock of whatever year chose the attempt of this one.
    let ahead = ATTEMPT_MAX;
    let replace = |attempt| begin_with(1, attempt, 1, |begin| begin.replace = true);
    assert_eq!(begun(world.done(replace(Some(ahead)))).attempt, Attempt(ahead));
    assert_eq!(begun(world.done(replace(None))).attempt, Attempt(ahead + 1));
    assert!(matches!(world.refused(replace(Some(ahead + 1))), Refusal::Malformed(_)));
    let escape = begin_with(2, None, 1, |begin| begin.client = "a\x1b[2J".to_owned());
    assert!(matches!(world.refused(escape), Refusal::Malformed(_)), "it is shown to others");
    let parts = begin_with(2, None, 2, |_| {});
    assert!(matches!(world.refused(parts), Refusal::Malformed(_)), "ranks would not meet");
}

#[test]
fn two_jobs_never_share_an_attempt() {
    let mut world = World::new(&["a", "b"]);
    let of = |job: &str, attempt, replace| {
        begin_with(1, Some(attempt), 2, |begin| {
            (begin.job, begin.replace) = (job.to_owned(), replace);
            begin.client = format!("a rank of {job}");
        })
    };
    let id = begun(world.done(of("41", 1, false))).checkpoint;
    assert_eq!(begun(world.done(of("41", 1, false))).checkpoint, id, "its other rank");
    assert_eq!(begun(world.done(of("", 1, false))).checkpoint, id, "one that names no job");
    let other = Refusal::OtherJob {
        attempt: Attempt(1),
        got: "57".to_owned(),
        current: "41".to_owned(),
        client: "a rank of 41".to_owned(),
        began_wall_ms: world.wall_ms,
    };
    assert_eq!(world.refused(of("57", 1, false)), other);
    // A higher attempt takes over, whoever's it is, and then it is that job's.
    assert_eq!(begun(world.done(of("57", 2, false))).checkpoint, id);
    assert!(matches!(world.refused(of("41", 1, false)), Refusal::Fenced { .. }));
    assert!(matches!(world.refused(of("41", 2, false)), Refusal::OtherJob { .. }));
    // An aborted upload is in nobody's way.
    world.delete(id, false);
    let again = begun(world.done(of("41", 1, false))).checkpoint;
    assert_ne!(again, id);
    for part in [0, 1] {
        world.seal((again, 1), part, &[]);
    }
    // A committed one is: for its own job as before, for another one as a step that exists.
    assert!(begun(world.done(of("41", 1, false))).committed);
    assert!(matches!(world.refused(of("57", 1, false)), Refusal::StepExists { .. }));
    let replacing = begun(world.done(of("57", 1, true)));
    assert!(!replacing.committed && replacing.checkpoint != again);
    assert_eq!(begun(world.done(of("57", 1, true))).checkpoint, replacing.checkpoint);
    let escape = begin_with(2, None, 1, |begin| begin.job = "a\x1b[2J".to_owned());
    assert!(matches!(world.refused(escape), Refusal::Malformed(_)), "it is shown to others");
}

#[test]
fn the_first_job_that_is_named_has_the_attempt() {
    let mut world = World::new(&["a", "b"]);
    let of = |job: &str| begin_with(1, Some(1), 2, |begin| begin.job = job.to_owned());
    world.done(of(""));
    world.done(of("41"));
    assert!(matches!(world.refused(of("57")), Refusal::OtherJob { .. }));
}

#[test]
fn labels_of_all_parts_are_kept_and_must_agree() {
    let mut world = World::new(&["a", "b"]);
    let rank = |key: &str, value: &str| {
        begin_with(1, Some(5), 2, |begin| begin.labels = label(key, value))
    };
    world.done(begin_with(1, Some(5), 2, |_| {}));
    let id = begun(world.done(rank("loss", "1"))).checkpoint;
    world.done(rank("host", "a"));
    let refusal = world.refused(rank("loss", "2"));
    assert_eq!(refusal.to_string(), "label loss is \"1\" in this checkpoint, not \"2\"");
    let labels = &world.catalogue.checkpoint(id).unwrap().labels;
    assert_eq!((labels["loss"].as_str(), labels["host"].as_str(), labels.len()), ("1", "a", 2));
    let three = PolicyChange { replicas: Some(2), ..PolicyChange::default() };
    let refusal = world.refused(begin_with(1, Some(5), 2, |begin| begin.change = three));
    assert!(matches!(refusal, Refusal::OtherTerms { .. }), "{refusal}");
    let many = (0..31).map(|number| (number.to_string(), String::new())).collect();
    let refusal = world.refused(begin_with(1, Some(5), 2, |begin| begin.labels = many));
    assert!(matches!(refusal, Refusal::Malformed(_)), "{refusal}");
}

#[test]
fn a_put_changes_the_policy_with_its_commit_and_not_before() {
    let mut world = World::new(&["a", "b"]);
    let keep = |count| PolicyChange { keep_last: Some(count), ..PolicyChange::default() };
    let kept = |world: &World| world.catalogue.policy(&namespace()).keep_last;
    world.put(1, &["x"], &[1, 2]);
    // One that dies, then one whose ranks say it or not.
    world.done(begin_with(2, Some(5), 1, |begin| begin.change = keep(1)));
    assert_eq!(kept(&world), None);
    world.done(begin_with(3, Some(5), 2, |_| {}));
    let id =
        begun(world.done(begin_with(3, Some(5), 2, |begin| begin.change = keep(2)))).checkpoint;
    let refusal = world.refused(begin_with(3, Some(5), 2, |begin| begin.change = keep(3)));
    assert_eq!(refusal.to_string(), "keep-last is \"2\" in this checkpoint, not \"3\"");
    world.seal((id, 5), 0, &[]);
    assert_eq!(kept(&world), None);
    assert!(matches!(world.seal((id, 5), 1, &[]), Reply::Committed { .. }));
    assert_eq!(kept(&world), Some(2));
    // The checkpoint tells what held from its commit on, whatever later ones ask for.
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), keep(7))));
    assert_eq!(world.catalogue.checkpoint(id).unwrap().policy.keep_last, Some(2));
}

#[test]
fn an_inline_manifest_has_a_bound() {
    let mut world = World::new(&["a"]);
    let id = world.begin(1, 5, 1);
    let mut body = seal_body((id, 5), 0, Run(1), &[]);
    if let Body::SealPart(command::SealPart { manifest, .. }) = &mut body {
        *manifest = ManifestPlace::Inline(Bytes::from(vec![0; 4097]));
    }
    assert!(matches!(world.refused(body), Refusal::Malformed(_)));
}

#[test]
fn labels_and_metrics_are_added_to_what_is_committed() {
    let mut world = World::new(&["a", "b", "c"]);
    let id = world.begin(1, 5, 1);
    let annotate = |labels: &[(&str, &str)], metrics: &[(&str, f64)], remove: &[&str]| {
        let owned = |text: &&str| (*text).to_owned();
        Body::Annotate(command::Annotate {
            checkpoint: id,
            labels: labels.iter().map(|(key, value)| (owned(key), owned(value))).collect(),
            metrics: metrics
                .iter()
                .map(|(name, value)| (owned(name), Metric::new(*value).unwrap()))
                .collect(),
            remove: remove.iter().map(owned).collect(),
        })
    };
    let unknown = Refusal::UnknownCheckpoint(id);
    assert_eq!(world.refused(annotate(&[("a", "1")], &[], &[])), unknown, "it is open");
    world.stage((id, 5), 0, &["x"], &[1, 2]);
    world.durable(1, &["x"]);
    world.durable(2, &["x"]);
    world.seal((id, 5), 0, &["x"]);
    world.done(annotate(&[("a", "1"), ("b", "2")], &[("loss", 2.5), ("tokens", 1e9)], &[]));
    world.done(annotate(&[("a", "3")], &[("loss", 2.25)], &["b", "tokens", "nobody"]));
    let record = world.catalogue.checkpoint(id).unwrap();
    assert_eq!(record.labels, [("a".to_owned(), "3".to_owned())].into());
    assert_eq!(record.metrics, [("loss".to_owned(), Metric::new(2.25).unwrap())].into());
    let full: Vec<(String, f64)> = (0..METRICS_MAX).map(|it| (format!("m{it}"), 1.0)).collect();
    let full: Vec<(&str, f64)> = full.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert!(matches!(world.refused(annotate(&[], &full, &[])), Refusal::Malformed(_)));
    world.done(annotate(&[], &full, &["loss"]));
    assert!(matches!(world.refused(annotate(&[("", "1")], &[], &[])), Refusal::Malformed(_)));
}

#[test]
fn uploads_that_are_open_at_once_are_bounded() {
    let mut world = World::new(&["a", "b"]);
    let room = |world: &World, step, replace| match begin_body(step, 7, 1, replace) {
        Body::Begin(begin) => world.catalogue.has_room_for(&begin, 3),
        other => panic!("{other:?}"),
    };
    let done = world.begin(1, 7, 1);
    world.stage((done, 7), 0, &["x"], &[1, 2]);
    world.durable(1, &["x"]);
    world.durable(2, &["x"]);
    assert!(matches!(world.seal((done, 7), 0, &["x"]), Reply::Committed { .. }));
    for step in 2..5 {
        assert!(room(&world, step, false), "{step}");
        world.begin(step, 7, 1);
    }
    assert!(!room(&world, 5, false));
    assert!(!room(&world, 1, true), "a replacement is an upload as well");
    assert!(room(&world, 2, false), "one that is open is joined");
    assert!(room(&world, 1, false), "a begin of what is committed is answered");
}
