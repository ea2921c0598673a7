//! What a subject may have done: rights in namespaces, uploads and refs of others, tokens that are not
//! good any more (T1).

use std::collections::BTreeMap;

use cairn_types::command::{self, Body, DeleteReason, Refusal, Reply};
use cairn_types::ids::{Attempt, CheckpointId, Namespace, TokenId};
use cairn_types::limits::{ATTEMPT_AHEAD_MS, RENEWED_IDLE_MS_MAX, REVOKED_KEPT_MS};
use cairn_types::model::{CheckpointState, Metric, PolicyChange};
use cairn_types::rights::{Grant, Right, Subject, TokenSubject};

use crate::world::{RUN, World, begin_body, reported, seal_body, stage_body};

const KEY: [u8; 32] = [7; 32];

fn world() -> World {
    let mut world = World::new(&["a", "b", "c"]);
    world.done(Body::SetIssuer(command::SetIssuer { name: "ops".into(), key: Some(KEY) }));
    world
}

fn subject(name: &str, token: u128, rights: &[Right], namespaces: &[&str]) -> Subject {
    let namespaces = namespaces.iter().map(|name| name.parse().unwrap()).collect();
    Subject::Token(TokenSubject {
        name: name.into(),
        issuer: TokenId::of_key(&KEY),
        tokens: vec![TokenId(token)],
        grant: Grant { rights: rights.iter().copied().collect(), namespaces },
    })
}

impl World {
    fn allowed(&self, subject: &Subject, body: &Body) -> Result<(), Refusal> {
        self.catalogue.authorize(subject, body, self.wall_ms)
    }

    fn of(&mut self, subject: &Subject) -> &mut Self {
        self.subject = subject.clone();
        self
    }
}

fn delete(checkpoint: CheckpointId) -> Body {
    Body::Delete(command::Delete {
        checkpoint,
        reason: DeleteReason::Asked,
        now: false,
        force: false,
        policy_version: None,
        by: String::new(),
    })
}

fn set_ref(name: &str, checkpoint: Option<CheckpointId>) -> Body {
    let (namespace, name) = ("run1".parse().unwrap(), name.parse().unwrap());
    Body::SetRef(command::SetRef { namespace, name, checkpoint, expect: None, by: String::new() })
}

/// Every command that a token may send, about a committed checkpoint of `run1`, with the right that
/// it needs, and whether that right must hold in every namespace.
fn commands(checkpoint: CheckpointId) -> Vec<(Body, Right, bool)> {
    let (by, reason) = (String::new(), String::new());
    let namespace: Namespace = "run1".parse().unwrap();
    let begin = |change: PolicyChange, replace: bool| {
        let Body::Begin(begin) = begin_body(9, 1, 1, replace) else { unreachable!() };
        Body::Begin(command::Begin { change, ..begin })
    };
    let keep_last = PolicyChange { keep_last: Some(1), ..PolicyChange::default() };
    let token = TokenId(9);
    vec![
        (begin(PolicyChange::default(), false), Right::Write, false),
        (begin(PolicyChange::default(), true), Right::Delete, false),
        (begin(keep_last, false), Right::Delete, false),
        (stage_body((checkpoint, 1), 0, RUN, &["x"], &[1, 2, 3]), Right::Write, false),
        (seal_body((checkpoint, 1), 0, RUN, &["x"]), Right::Write, false),
        (
            Body::Renew(command::Renew { uploads: vec![(checkpoint, Attempt(1))] }),
            Right::Write,
            false,
        ),
        (
            Body::Annotate(command::Annotate {
                checkpoint,
                labels: BTreeMap::from([("k".into(), "v".into())]),
                metrics: BTreeMap::new(),
                remove: vec![],
            }),
            Right::Write,
            false,
        ),
        (set_ref("good", Some(checkpoint)), Right::Write, false),
        (set_ref("good", None), Right::Delete, false),
        (delete(checkpoint), Right::Delete, false),
        (Body::Undelete(command::Undelete { checkpoint, by: by.clone() }), Right::Delete, false),
        (
            Body::AddHold(command::AddHold {
                checkpoint,
                owner: "me".into(),
                reason: reason.clone(),
                for_ms: None,
            }),
            Right::Delete,
            false,
        ),
        (
            Body::ReleaseHold(command::ReleaseHold { checkpoint, owner: "me".into() }),
            Right::Delete,
            false,
        ),
        (
            Body::SetQuarantine(command::SetQuarantine {
                checkpoint,
                lift: false,
                reason: reason.clone(),
                by: by.clone(),
            }),
            Right::Delete,
            false,
        ),
        (
            Body::Rollback(command::Rollback { checkpoint, reason: reason.clone(), by }),
            Right::Delete,
            false,
        ),
        (
            Body::ConfirmRetention(command::ConfirmRetention {
                namespace: namespace.clone(),
                policy_version: 0,
                checkpoints: 1,
            }),
            Right::Delete,
            false,
        ),
        (
            Body::SetPolicy(command::SetPolicy::new(namespace.clone(), PolicyChange::default())),
            Right::Operate,
            false,
        ),
        (
            Body::RepairTime(command::RepairTime { namespace, to_ms: 1, after: 0 }),
            Right::Operate,
            false,
        ),
        (
            Body::RemoveNode(command::RemoveNode {
                node: crate::world::node(1),
                accept: Default::default(),
            }),
            Right::Operate,
            true,
        ),
        (
            Body::SetDuty(command::SetDuty {
                node: crate::world::node(1),
                duty: command::NewDuty::Serve,
            }),
            Right::Operate,
            true,
        ),
        (
            Body::RevokeToken(command::RevokeToken { token, until_ms: 0, reason }),
            Right::Operate,
            true,
        ),
        (Body::RequireTokens(command::RequireTokens { required: true }), Right::Operate, true),
    ]
}

/// Commands whose table row says so much less than what they say needs that it is checked apart.
fn needs_more(body: &Body, right: Right) -> bool {
    let row = body.need().right().unwrap();
    row != right && matches!(body, Body::Begin(_) | Body::SetRef(_))
}

#[test]
fn every_command_wants_its_right_in_its_namespace() {
    let mut world = world();
    world.subject = subject("ci", 1, &[Right::Write], &["run1"]);
    let checkpoint = world.put(1, &["x"], &[1, 2, 3]);
    world.subject = Subject::None;
    let mut senders = 0;
    for (body, right, everywhere) in commands(checkpoint) {
        senders += 1;
        assert!(body.need().right() == Some(right) || needs_more(&body, right), "{body:?}");
        for held in Right::ALL {
            // A Begin that deletes also writes.
            let held = match (held, &body) {
                (Right::Delete, Body::Begin(_) | Body::SetRef(_)) => vec![Right::Write, held],
                _ => vec![held],
            };
            for (namespaces, reaches) in [
                (&[][..], true),
                (&["run1"], !everywhere),
                (&["run2"], false),
                (&["run"], false),
                (&["run1/below"], false),
            ] {
                let gives = held.contains(&right) || held.contains(&Right::Operate);
                let ci = subject("ci", 1, &held, namespaces);
                let allowed = world.allowed(&ci, &body);
                assert_eq!(
                    allowed.is_ok(),
                    gives && reaches,
                    "{held:?} in {namespaces:?}: {body:?}: {allowed:?}"
                );
            }
        }
        for all in [Subject::None, Subject::Key, Subject::Local] {
            world.allowed(&all, &body).unwrap();
        }
    }
    assert_eq!(senders, 22, "a command is missing above");
}

#[test]
fn no_subject_speaks_for_a_node_or_the_leader() {
    let world = world();
    let operator = subject("root", 1, &Right::ALL, &[]);
    for body in [
        Body::LeaderStarted(command::LeaderStarted),
        Body::Reap(command::Reap { segments: vec![] }),
        Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level: 9 }),
        Body::ExpireUploads(command::ExpireUploads { checkpoints: vec![] }),
    ] {
        assert_eq!(body.need().right(), None);
        let refusal = world.allowed(&operator, &body).unwrap_err();
        assert!(matches!(refusal, Refusal::NotAllowed { .. }), "{refusal}");
    }
}

#[test]
fn apply_itself_refuses_what_a_door_let_through() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let mine = world.of(&ci).put(1, &["x"], &[1, 2, 3]);
    let refused = world.refused(delete(mine));
    assert_eq!(refused.to_string(), "ci may not delete in run1");
    assert!(world.catalogue.checkpoint(mine).unwrap().is_committed());
    let other = subject("other", 2, &[Right::Write, Right::Delete], &["run2"]);
    let refused = world.of(&other).refused(delete(mine));
    assert_eq!(
        refused,
        Refusal::UnknownCheckpoint(mine),
        "it does not even learn that it is there"
    );
}

#[test]
fn an_upload_belongs_to_the_subject_that_began_it() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let thief = subject("thief", 2, &[Right::Write], &["run1"]);
    let operator = subject("root", 3, &[Right::Operate], &[]);
    let upload = world.of(&ci).begin(1, 5, 1);
    let renew = Body::Renew(command::Renew { uploads: vec![(upload, Attempt(5))] });
    let theirs = [
        stage_body((upload, 5), 0, RUN, &["x"], &[1, 2, 3]),
        seal_body((upload, 5), 0, RUN, &["x"]),
        renew,
        delete(upload),
        begin_body(1, 5, 1, false),
        begin_body(1, 6, 1, false),
    ];
    for body in theirs {
        let refusal = world.of(&thief).refused(body.clone());
        assert!(matches!(&refusal, Refusal::NotOwner { owner, .. } if owner == "ci"), "{refusal}");
        world.allowed(&operator, &body).unwrap();
        world.allowed(&ci, &body).unwrap();
    }
    // Once its lease is over, a higher attempt may take the step; it does not join.
    world.of(&Subject::None).pass_ms(700_000);
    let joins = world.of(&thief).refused(begin_body(1, 5, 1, false));
    assert!(matches!(joins, Refusal::NotOwner { .. }), "{joins}");
    world.done(begin_body(1, 6, 1, false));
    assert_eq!(world.catalogue.checkpoint(upload).unwrap().began.subject, "thief");
    let fenced = world.of(&ci).refused(stage_body((upload, 5), 0, RUN, &["x"], &[1, 2, 3]));
    assert!(matches!(fenced, Refusal::NotOwner { .. }), "{fenced}");
    // What it gives up itself needs no right to delete.
    let own = subject("thief", 2, &[Right::Write], &["run1"]);
    world.of(&own).done(delete(upload));
    assert_eq!(world.catalogue.checkpoint(upload).unwrap().state, CheckpointState::Deleted);
}

#[test]
fn who_may_delete_ends_the_uploads_of_others_and_does_not_join_them() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let lead = subject("lead", 2, &[Right::Write, Right::Delete], &["run1"]);
    let elsewhere = subject("lead", 2, &[Right::Write, Right::Delete], &["run2"]);
    let attempt = world.wall_ms + ATTEMPT_AHEAD_MS;
    let upload = world.of(&ci).begin(1, attempt, 1);
    for body in [
        begin_body(1, attempt, 1, false),
        stage_body((upload, attempt), 0, RUN, &["x"], &[1, 2, 3]),
        Body::Renew(command::Renew { uploads: vec![(upload, Attempt(attempt))] }),
    ] {
        let refused = world.of(&lead).refused(body);
        assert!(matches!(refused, Refusal::NotOwner { .. }), "{refused}");
    }
    assert!(world.allowed(&elsewhere, &delete(upload)).is_err());
    world.allowed(&lead, &begin_body(1, attempt + 1, 1, false)).unwrap();
    world.of(&lead).done(delete(upload));
    let upload = world.of(&ci).begin(1, attempt, 1);
    world.of(&lead).done(begin_body(1, attempt + 1, 1, false));
    assert_eq!(world.catalogue.checkpoint(upload).unwrap().began.subject, "lead");
}

#[test]
fn nobody_holds_a_step_by_renewing_alone() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let other = subject("other", 2, &[Right::Write], &["run1"]);
    let upload = world.of(&ci).begin(1, 5, 1);
    let renew = Body::Renew(command::Renew { uploads: vec![(upload, Attempt(5))] });
    let lease_ms = |world: &World| {
        let record = world.catalogue.checkpoint(upload).unwrap();
        record.open.as_ref().unwrap().lease_until_ms
    };
    world.pass(RENEWED_IDLE_MS_MAX / 2);
    // Work begins a new day.
    world.done(stage_body((upload, 5), 0, RUN, &["x"], &[1, 2, 3]));
    let began_ms = world.catalogue.cluster().clock_ms;
    while world.catalogue.cluster().clock_ms <= began_ms + RENEWED_IDLE_MS_MAX {
        assert_eq!(reported(world.done(renew.clone())), (1, 0));
        assert!(lease_ms(&world) > world.catalogue.cluster().clock_ms);
        let taken = world.allowed(&other, &begin_body(1, 6, 1, false));
        assert!(matches!(taken, Err(Refusal::NotOwner { .. })));
        world.pass(3_600_000);
    }
    let before_ms = lease_ms(&world);
    world.done(renew);
    // To join again is no work either, nor does another leader give it more time.
    world.done(begin_body(1, 5, 1, false));
    world.done(Body::LeaderStarted(command::LeaderStarted));
    assert_eq!(lease_ms(&world), before_ms);
    world.pass(3_600_000);
    world.allowed(&other, &begin_body(1, 6, 1, false)).unwrap();
    // The owner may still go on.
    world.done(stage_body((upload, 5), 0, RUN, &["y"], &[1, 2, 3]));
    assert!(lease_ms(&world) > before_ms);
}

#[test]
fn a_subject_has_a_bounded_number_of_open_uploads() {
    let mut world = world();
    let names = ["ci", "other"].map(|name| subject(name, 1, &[Right::Write], &["run1"]));
    for step in 1..=2 {
        world.of(&names[0]).begin(step, 5, 1);
    }
    world.of(&names[1]).begin(3, 5, 1);
    let has_room = |who: usize, step| {
        let Body::Begin(begin) = begin_body(step, 9, 1, false) else { panic!() };
        world.catalogue.has_room_of(names[who].token().unwrap(), &begin, 2)
    };
    assert_eq!([has_room(0, 4), has_room(1, 4)], [false, true]);
    assert!(has_room(0, 1), "it is open already");
    assert!(!has_room(0, 3), "another's would become its own");
}

#[test]
fn an_open_ended_upload_belongs_to_whom_began_it() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let other = subject("other", 2, &[Right::Write], &["run1"]);
    let reply = world.of(&ci).done(begin_body(1, 5, 0, false));
    let Reply::Begun(begun) = reply else { panic!("{reply:?}") };
    let (checkpoint, attempt) = (begun.checkpoint, begun.attempt);
    let part = begun.first_part;
    for body in [
        Body::DropPart(command::DropPart { checkpoint, attempt, part }),
        Body::Close(command::Close { checkpoint, attempt }),
        begin_body(1, 5, 0, false),
    ] {
        let refused = world.of(&other).refused(body);
        assert!(matches!(refused, Refusal::NotOwner { .. }), "{refused}");
    }
    let elsewhere = subject("elsewhere", 3, &[Right::Write], &["run2"]);
    let close = Body::Close(command::Close { checkpoint, attempt });
    assert_eq!(world.of(&elsewhere).refused(close), Refusal::UnknownCheckpoint(checkpoint));
    world.of(&ci).done(Body::DropPart(command::DropPart { checkpoint, attempt, part }));
}

#[test]
fn who_may_not_delete_fences_nobody_for_ever() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let last = world.wall_ms + ATTEMPT_AHEAD_MS;
    let ahead = world.of(&ci).refused(begin_body(1, last + 1, 1, false));
    assert!(ahead.to_string().contains("too far ahead"), "{ahead}");
    world.done(begin_body(1, last, 1, false));
    let delete = subject("ci", 1, &[Right::Write, Right::Delete], &["run1"]);
    world.of(&delete).done(begin_body(1, 1 << 60, 1, false));
}

#[test]
fn who_may_not_delete_moves_only_its_own_refs() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let other = subject("other", 2, &[Right::Write], &["run1"]);
    let (one, two) = (world.put(1, &["x"], &[1, 2, 3]), world.put(2, &["y"], &[1, 2, 3]));
    world.of(&ci).done(set_ref("good", Some(one)));
    world.done(set_ref("good", Some(two)));
    let refused = world.of(&other).refused(set_ref("good", Some(one)));
    assert_eq!(refused.to_string(), "ref good is ci's");
    world.of(&Subject::Key).done(set_ref("release", Some(one)));
    let refused = world.of(&ci).refused(set_ref("release", Some(two)));
    assert_eq!(refused.to_string(), "ref release is an operator's");
    let refused = world.refused(set_ref("good", None));
    assert_eq!(refused.to_string(), "ci may not delete in run1");
}

#[test]
fn what_decides_on_retention_is_set_on_ones_own_checkpoints_only() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let judge = subject("judge", 2, &[Right::Write], &["run1"]);
    let lead = subject("lead", 3, &[Right::Write, Right::Delete], &["run1"]);
    let checkpoint = world.of(&ci).put(1, &["x"], &[1, 2, 3]);
    let annotate = |label: Option<&str>, metric: Option<f64>, remove: &[&str]| {
        let labels = label.map(|value| ("keep".to_owned(), value.to_owned())).into_iter().collect();
        let metrics = metric.map(|value| ("loss".to_owned(), Metric::new(value).unwrap()));
        let remove = remove.iter().map(|name| (*name).to_owned()).collect();
        let metrics = metrics.into_iter().collect();
        Body::Annotate(command::Annotate { checkpoint, labels, metrics, remove })
    };
    // A new metric makes a checkpoint the best one, and then the real best is deleted.
    for body in [
        annotate(Some("yes"), None, &[]),
        annotate(None, Some(-1e9), &[]),
        annotate(None, None, &["keep"]),
    ] {
        let refused = world.of(&judge).refused(body.clone());
        assert_eq!(refused.to_string(), "judge may not delete in run1");
        for subject in [&ci, &lead] {
            world.of(subject).done(body.clone());
        }
    }
}

#[test]
fn a_revoked_token_has_no_effect_nor_has_one_made_from_it() {
    let mut world = world();
    let Subject::Token(parent) = subject("ci", 1, &[Right::Write], &["run1"]) else { panic!() };
    let child = TokenSubject { tokens: vec![TokenId(1), TokenId(5)], ..parent.clone() };
    let (parent, child) = (Subject::Token(parent), Subject::Token(child));
    let revoke = |token, until_ms| {
        let (token, reason) = (TokenId(token), "lost".to_owned());
        Body::RevokeToken(command::RevokeToken { token, until_ms, reason })
    };
    let begin = begin_body(1, 1, 1, false);
    world.done(revoke(5, world.wall_ms + 10));
    assert!(matches!(world.allowed(&child, &begin), Err(Refusal::BadToken(_))));
    world.allowed(&parent, &begin).unwrap();
    world.done(revoke(1, world.wall_ms + 10));
    assert!(matches!(world.of(&parent).refused(begin), Refusal::BadToken(_)));
    // It is forgotten once it could not be used anyway.
    world.of(&Subject::None).wall_ms += REVOKED_KEPT_MS;
    world.done(revoke(2, 0));
    assert_eq!(world.catalogue.access().revoked_after(TokenId(0)).count(), 3);
    world.wall_ms += 20;
    // A wall clock that is far ahead, once, forgets nothing: cluster time counts as well.
    world.done(revoke(2, 0));
    assert_eq!(world.catalogue.access().revoked_after(TokenId(0)).count(), 3);
    world.pass(REVOKED_KEPT_MS + 20);
    world.done(revoke(3, 0));
    let left = world.catalogue.access().revoked_after(TokenId(0));
    assert_eq!(left.map(|(id, _)| id.0).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn no_token_adds_or_removes_an_issuer() {
    let mut world = world();
    let operator = subject("root", 1, &Right::ALL, &[]);
    for (name, key) in [("twin", Some([8; 32])), ("ops", None)] {
        let set = Body::SetIssuer(command::SetIssuer { name: name.into(), key });
        let refused = world.of(&operator).refused(set.clone());
        assert_eq!(refused.to_string(), "root may not set issuer of tokens in this cluster");
        for all in [Subject::Key, Subject::Local] {
            world.allowed(&all, &set).unwrap();
        }
    }
}

#[test]
fn an_issuer_that_goes_takes_its_tokens_along() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let begin = begin_body(1, 1, 1, false);
    world.allowed(&ci, &begin).unwrap();
    let set = |name: &str, key| Body::SetIssuer(command::SetIssuer { name: name.to_owned(), key });
    world.done(set("ops", Some(KEY)));
    for (name, key) in [("ops", Some([8; 32])), ("twin", Some(KEY)), ("nobody", None)] {
        assert!(matches!(world.refused(set(name, key)), Refusal::Malformed(_)), "{name}");
    }
    world.done(Body::RequireTokens(command::RequireTokens { required: true }));
    assert!(world.catalogue.cluster().tokens_required);
    world.done(set("ops", None));
    assert!(matches!(world.allowed(&ci, &begin), Err(Refusal::BadToken(_))));
    let require = Body::RequireTokens(command::RequireTokens { required: true });
    assert!(matches!(world.refused(require), Refusal::Malformed(_)), "nobody could have one");
}

#[test]
fn a_step_of_others_in_quarantine_is_not_overwritten() {
    let mut world = world();
    let ci = subject("ci", 1, &[Right::Write], &["run1"]);
    let checkpoint = world.put(1, &["x"], &[1, 2, 3]);
    world.done(Body::SetQuarantine(command::SetQuarantine {
        checkpoint,
        lift: false,
        reason: "NaN".into(),
        by: String::new(),
    }));
    let again = begin_body(1, 99, 1, false);
    let refused = world.of(&ci).refused(again.clone());
    assert_eq!(refused.to_string(), "ci may not delete in run1");
    world.of(&Subject::None).done(again);
}
