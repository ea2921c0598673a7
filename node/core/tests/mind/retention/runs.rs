//! Policies with rules, where they come from, and what the leader deletes by them.

use cairn_core::placement::Loads;
use cairn_core::steward::{self, Cursor, Observations};
use cairn_types::command::{self, Body, DeleteReason, Refusal};
use cairn_types::ids::{CheckpointId, Namespace};
use cairn_types::limits::BEST_RULES_MAX;
use cairn_types::model::PolicyChange;
use cairn_types::policy::PolicyField;
use cairn_types::retention::{BestRule, Extreme, RetentionChange};

use crate::world::{World, namespace};

const DAY_MS: u64 = 86_400_000;

fn says(name: &str, keep_last: Option<u32>, retention: RetentionChange) -> Body {
    let change = PolicyChange { keep_last, ..PolicyChange::default() };
    let namespace = name.parse().unwrap();
    Body::SetPolicy(command::SetPolicy { retention, ..command::SetPolicy::new(namespace, change) })
}

fn daily(count: u32) -> RetentionChange {
    RetentionChange { daily: Some(count), ..RetentionChange::default() }
}

/// A checkpoint a day.
fn world_of_days(days: u64) -> (World, Vec<CheckpointId>) {
    let mut world = World::new(&["a", "b"]);
    let mut ids = Vec::new();
    for day in 0..days {
        world.wall_ms = 1_000 * DAY_MS + day * DAY_MS;
        ids.push(world.put(day, &["x"], if day == 0 { &[1, 2] } else { &[] }));
    }
    (world, ids)
}

/// The leader's steward, with what it keeps between rounds.
struct Leader(Cursor);

impl Leader {
    /// One round: what retention deletes.
    fn round(&mut self, world: &mut World) -> Vec<CheckpointId> {
        let seen = Observations {
            now_ms: world.clock_ms,
            wall_ms: world.wall_ms,
            ..Observations::default()
        };
        let plan = steward::plan(&world.catalogue, &seen, &mut Loads::default(), &mut self.0);
        let mut deleted = Vec::new();
        for body in plan {
            if let Body::Delete(command::Delete { checkpoint, reason, .. }) = body {
                assert_eq!(reason, DeleteReason::Retention);
                deleted.push(checkpoint);
                world.done(body);
            }
        }
        deleted
    }

    fn waiting(&self) -> Vec<u64> {
        self.0.retention.waiting().map(|waiting| waiting.checkpoints).collect()
    }
}

fn leader() -> Leader {
    Leader(Cursor::default())
}

fn confirm(policy_version: u64, checkpoints: u64) -> Body {
    let namespace = namespace();
    Body::ConfirmRetention(command::ConfirmRetention { namespace, policy_version, checkpoints })
}

#[test]
fn a_namespace_goes_by_what_the_nearest_above_it_says() {
    let mut world = World::new(&["a", "b"]);
    world.done(says("run1", Some(3), daily(7)));
    world.done(says("run1/eval", None, daily(0)));
    let rules = |world: &World, name: &str| {
        let name: Namespace = name.parse().unwrap();
        let rules = world.catalogue.full_policy(&name).retention.rules;
        (rules.last, rules.daily)
    };
    assert_eq!(rules(&world, "run1"), (Some(3), Some(7)));
    assert_eq!(rules(&world, "run1/train/rank0"), (Some(3), Some(7)));
    assert_eq!(rules(&world, "run1/eval/x"), (Some(3), None), "turned off");
    assert_eq!(rules(&world, "run10"), (None, None), "another name");
    let mut unset = command::SetPolicy::new(namespace(), PolicyChange::default());
    unset.unset = vec![PolicyField::KeepLast, PolicyField::KeepDaily];
    world.done(Body::SetPolicy(unset));
    assert_eq!(rules(&world, "run1/train"), (None, None));
    assert!(world.catalogue.namespace(&namespace()).is_none(), "it says nothing");
}

#[test]
fn a_change_above_makes_a_new_version_below() {
    let (mut world, ids) = world_of_days(3);
    world.done(says("run1/a", None, daily(1)));
    let version = |world: &World, name: &str| {
        world.catalogue.policy_version(&name.parse::<Namespace>().unwrap())
    };
    let below = version(&world, "run1/a");
    world.done(says("run1", Some(1), RetentionChange::default()));
    let now = version(&world, "run1");
    assert!(below < now && version(&world, "run1/a") == now, "{below}, {now}");
    world.done(says("run1", Some(1), RetentionChange::default()));
    assert_eq!(version(&world, "run1"), now, "nothing changed");
    let stale = Body::Delete(command::Delete {
        checkpoint: ids[0],
        reason: DeleteReason::Retention,
        now: false,
        force: false,
        policy_version: Some(below),
        by: String::new(),
    });
    let refusal = Refusal::PolicyChanged { got: below, current: now };
    assert_eq!(world.refused(stale), refusal);
}

#[test]
fn rules_that_make_no_sense_are_refused_by_name() {
    let mut world = World::new(&["a", "b"]);
    let zone = |name: &str| RetentionChange {
        time_zone: Some(name.to_owned()),
        ..RetentionChange::default()
    };
    let refusal = world.refused(says("run1", None, zone("Not a zone")));
    assert!(refusal.to_string().contains("\"Not a zone\""), "{refusal}");
    let rule = |count| BestRule { metric: "loss".to_owned(), extreme: Extreme::Min, count };
    let best = |rules| RetentionChange { best: Some(rules), ..RetentionChange::default() };
    let refusal = world.refused(says("run1", None, best(vec![rule(0)])));
    assert!(refusal.to_string().contains("best 0"), "{refusal}");
    let refusal = world.refused(says("run1", None, best(vec![rule(1); BEST_RULES_MAX + 1])));
    assert!(refusal.to_string().contains("limit 16"), "{refusal}");
    // A plain name that no build here knows is kept for one that does; until then all is kept.
    world.done(says("run1", Some(1), zone("Mars/Olympus")));
}

#[test]
fn the_leader_deletes_what_the_rules_let_go_and_looks_again_only_after_a_change() {
    let (mut world, ids) = world_of_days(6);
    world.done(says("run1", None, daily(2)));
    let mut leader = leader();
    assert_eq!(leader.round(&mut world), ids[..4]);
    assert!(leader.round(&mut world).is_empty());
    assert!(leader.round(&mut world).is_empty());
    let settled = leader.0.retention.clone();
    assert!(leader.round(&mut world).is_empty());
    assert_eq!(leader.0.retention, settled);
    world.wall_ms += DAY_MS;
    world.put(6, &["x"], &[]);
    assert_eq!(leader.round(&mut world), [ids[4]]);
    // Time alone: a quarantine that ends, and a hold.
    world.done(Body::SetQuarantine(command::SetQuarantine {
        checkpoint: ids[5],
        lift: false,
        reason: "loss is not a number".to_owned(),
        by: "test".to_owned(),
    }));
    world.done(Body::AddHold(command::AddHold {
        checkpoint: ids[5],
        owner: "me".to_owned(),
        reason: String::new(),
        for_ms: Some(3_600_000),
    }));
    assert!(leader.round(&mut world).is_empty());
    world.wall_ms += 14 * DAY_MS;
    assert!(leader.round(&mut world).is_empty(), "it is on hold");
    world.pass(3_600_000);
    assert_eq!(leader.round(&mut world), [ids[5]]);
}

#[test]
fn an_unknown_time_zone_keeps_everything() {
    let (mut world, _) = world_of_days(4);
    let time_zone = Some("Mars/Olympus".to_owned());
    world.done(says("run1", None, RetentionChange { time_zone, ..daily(1) }));
    let mut leader = leader();
    assert!(leader.round(&mut world).is_empty());
    assert_eq!(leader.0.retention.in_unknown_zones().count(), 1);
}

#[test]
fn a_large_run_waits_for_a_confirmation_that_outlives_its_leader() {
    let (mut world, ids) = world_of_days(40);
    world.done(says("run1", Some(5), RetentionChange::default()));
    let version = world.catalogue.policy_version(&namespace());
    let mut first = leader();
    assert!(first.round(&mut world).is_empty());
    assert_eq!(first.waiting(), [35]);
    let refusal = world.refused(confirm(version - 1, 35));
    assert_eq!(refusal, Refusal::PolicyChanged { got: version - 1, current: version });
    world.done(confirm(version, 10));
    let mut second = leader();
    assert_eq!(second.round(&mut world), ids[..8]);
    assert_eq!(leader().round(&mut world), ids[8..10], "the confirmation ends");
    let mut third = leader();
    assert!(third.round(&mut world).is_empty());
    assert_eq!(third.waiting(), [25], "what was not confirmed waits");
}

#[test]
fn a_confirmation_ends_with_its_policy() {
    let (mut world, ids) = world_of_days(20);
    world.done(says("run1", Some(15), RetentionChange::default()));
    let version = world.catalogue.policy_version(&namespace());
    world.done(confirm(version, 20));
    world.done(says("run1", Some(5), RetentionChange::default()));
    let mut leader = leader();
    assert!(leader.round(&mut world).is_empty());
    assert_eq!(leader.waiting(), [15]);
    // A small run never waits.
    world.done(says("run1", Some(14), RetentionChange::default()));
    assert_eq!(leader.round(&mut world), ids[..6]);
    assert!(leader.waiting().is_empty());
}

#[test]
fn the_newest_good_one_stays_whatever_a_leader_says() {
    let (mut world, ids) = world_of_days(3);
    let every_steps = Some(100);
    world.done(says("run1", None, RetentionChange { every_steps, ..RetentionChange::default() }));
    let policy_version = Some(world.catalogue.retention_version(&namespace()));
    let retire = |checkpoint| {
        let reason = DeleteReason::Retention;
        let (now, force) = (false, false);
        Body::Delete(command::Delete {
            checkpoint,
            reason,
            now,
            force,
            policy_version,
            by: String::new(),
        })
    };
    assert_eq!(world.refused(retire(ids[2])), Refusal::KeptByPolicy { keep_last: 1 });
    world.done(retire(ids[1]));
}

#[test]
fn a_plan_says_what_each_deletion_frees() {
    let mut world = World::new(&["a", "b"]);
    world.put(1, &["x", "y"], &[1, 2]);
    world.put(2, &["y", "z"], &[1, 2]);
    world.put(3, &["z"], &[]);
    world.done(says("run1", Some(1), RetentionChange::default()));
    let plan = world.catalogue.retention_plan(&namespace(), None, world.wall_ms).unwrap();
    let mut gone: Vec<_> = plan.let_go().collect();
    gone.reverse();
    let steps: Vec<u64> = gone.iter().map(|record| record.step.0).collect();
    assert_eq!(steps, [1, 2]);
    let freed = world.catalogue.freed_by(gone.into_iter());
    assert_eq!(freed, [1_000, 1_000], "x with the first, y with the second, z stays");
}
