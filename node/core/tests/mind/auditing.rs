//! T2: every change that somebody asked for has one record, and the records are a chain that is a
//! pure function of the log.

use std::collections::BTreeMap;

use cairn_core::catalogue::{Catalogue, stored};
use cairn_types::audit::{AuditHead, AuditRecord, AuditResult, AuditSubject, next_hash};
use cairn_types::command::{
    self, AUDIT_LEVEL, Body, Command, DeleteReason, FEATURE_LEVEL, Reply, Sender,
};
use cairn_types::ids::{RequestId, TokenId};
use cairn_types::rights::{Grant, Right, Subject, TokenSubject};

use super::generated::Generator;
use super::world::*;

/// What must have a record, said apart from the table of the product.
fn is_recorded(command: &Command, reply: &Reply) -> bool {
    let asked = matches!(command.body.sender(), Sender::Client | Sender::Operator);
    let is_frequent = matches!(command.body, Body::Stage(_) | Body::Renew(_));
    let of_nodes = matches!(
        command.body,
        Body::InitCluster(_)
            | Body::AllocateNode(_)
            | Body::Register(_)
            | Body::RaiseFeatureLevel(_)
    );
    (asked && !is_frequent || of_nodes) && !matches!(reply, Reply::Lacking { .. })
}

#[test]
fn every_change_has_one_record_with_its_result() {
    let mut generator = Generator::new(31);
    let mut catalogue = Catalogue::default();
    let (mut head, mut seen) = (AuditHead::default(), BTreeMap::<String, u64>::new());
    let mut replies: BTreeMap<RequestId, u64> = BTreeMap::new();
    for index in 1..=8_000 {
        let command = generator.next(&catalogue);
        let remembered = catalogue.remembered_reply(command.request).is_some();
        let reply = catalogue.apply_of(5, index, &command);
        let audited = catalogue.take_audited();
        assert_eq!(catalogue.take_audited(), None);
        let began = catalogue.is_initialized();
        let wanted = began && is_recorded(&command, &reply) && !remembered;
        assert_eq!(audited.is_some(), wanted, "{command:?} -> {reply:?}");
        let Some(audited) = audited else {
            assert_eq!(catalogue.cluster().audit, head);
            continue;
        };
        assert_eq!(audited.before, head);
        assert_eq!(audited.head.hash, next_hash(&head.hash, &audited.body));
        head = audited.head;
        assert_eq!(catalogue.cluster().audit, head);
        let record = AuditRecord::decode(&audited.body).unwrap();
        assert_eq!((record.number, record.index, record.term), (head.count, index, 5));
        assert_eq!(record.wall_ms, command.wall_ms);
        assert_eq!(record.request, command.request);
        assert_eq!(record.command, command.body.name());
        assert_eq!(record.subject, AuditSubject::from(&command.subject));
        match (&record.result, &reply) {
            (AuditResult::Refused(said), Reply::Refused(refusal)) => assert_eq!(said, refusal),
            (AuditResult::Committed, Reply::Committed { .. }) => {}
            (AuditResult::Accepted, Reply::Refused(_) | Reply::Committed { .. }) => {
                panic!("{record:?}: {reply:?}")
            }
            (AuditResult::Accepted, _) => {}
            _ => panic!("{record:?}: {reply:?}"),
        }
        if record.is_accepted() && command.request != RequestId(0) {
            let before = replies.insert(command.request, record.number);
            assert_eq!(before, None, "a repeated request has one record");
        }
        *seen.entry(record.command).or_default() += 1;
    }
    for name in ["begin", "seal_part", "close", "delete", "set_policy", "register", "set_ref"] {
        assert!(seen.get(name).is_some_and(|count| *count > 3), "{name}: {seen:?}");
    }
}

fn last(world: &mut World) -> AuditRecord {
    AuditRecord::decode(&world.catalogue.take_audited().unwrap().body).unwrap()
}

#[test]
fn a_record_names_who_did_it_and_to_what() {
    let mut world = World::new(&["a", "b", "c"]);
    let key = Some([7; 32]);
    world.done(Body::SetIssuer(command::SetIssuer { name: "ops".into(), key }));
    world.subject = Subject::Token(TokenSubject {
        name: "ci".into(),
        issuer: TokenId::of_key(&[7; 32]),
        tokens: vec![TokenId(3)],
        grant: Grant {
            rights: [Right::Write].into_iter().collect(),
            namespaces: vec!["run1".parse().unwrap()],
        },
    });
    let id = world.put(100, &["x"], &[1, 2, 3]);
    let record = last(&mut world);
    assert_eq!((&*record.command, record.result), ("seal_part", AuditResult::Committed));
    assert_eq!(record.subject.name(), "ci");
    assert_eq!(record.object.namespace.unwrap().as_str(), "run1");
    assert_eq!(record.object.step.unwrap().0, 100);
    assert_eq!(record.object.checkpoint, Some(id));
    // What a token may not do is refused at the doors, and by apply with a record.
    let delete = |reason| {
        Body::Delete(command::Delete {
            checkpoint: id,
            reason,
            now: true,
            force: false,
            policy_version: None,
            by: "bo".into(),
        })
    };
    world.refused(delete(DeleteReason::Asked));
    let record = last(&mut world);
    assert!(matches!(record.result, AuditResult::Refused(_)), "{record:?}");
    assert_eq!((record.object.client.as_str(), record.object.detail.as_str()), ("bo", "now"));
    world.subject = Subject::Key;
    world.done(delete(DeleteReason::Asked));
    let record = last(&mut world);
    assert_eq!(record.subject, AuditSubject::Key);
    assert_eq!(record.object.namespace.unwrap().as_str(), "run1");
}

#[test]
fn the_chain_begins_with_the_level_and_is_in_the_snapshot() {
    let mut world = World::of_level(AUDIT_LEVEL - 1, &["a"]);
    assert_eq!(world.catalogue.cluster().audit, AuditHead::default());
    assert_eq!(world.catalogue.take_audited(), None);
    // An older build reads this snapshot: it has nothing that it does not know.
    let bytes = stored::encode(&world.catalogue);
    stored::decode(&bytes, AUDIT_LEVEL - 1).unwrap();
    world.done(registration(1, "a", &[100], 101));
    world.done(Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level: AUDIT_LEVEL }));
    let record = last(&mut world);
    assert_eq!((record.number, &*record.command), (1, "raise_feature_level"));
    let head = world.catalogue.cluster().audit;
    assert_eq!(head.count, 1);
    let bytes = stored::encode(&world.catalogue);
    assert_eq!(stored::decode(&bytes, FEATURE_LEVEL).unwrap().cluster().audit, head);
    assert!(stored::decode(&bytes, AUDIT_LEVEL - 1).is_err());
}
