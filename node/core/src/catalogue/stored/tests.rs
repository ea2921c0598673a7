//! A catalogue with every kind of record survives. Damaged bytes never do.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_types::command::{
    self, Begun, Body, Command, DeleteReason, FEATURE_LEVEL, Reply, SUBJECT_LEVEL, StageSegment,
};
use cairn_types::form::Form;
use cairn_types::ids::{
    Attempt, CheckpointId, ClusterId, Cookie, Incarnation, NodeId, Nonce, RequestId, Run,
    SegmentDigest, Step, TokenId,
};
use cairn_types::model::{ManifestPlace, NewNode, PolicyChange, Settings};
use cairn_types::set_digest;

use super::*;

/// The level of the nodes' build.
const LEVEL: u32 = FEATURE_LEVEL;

struct World {
    catalogue: Catalogue,
    index: u64,
}

impl World {
    fn apply(&mut self, body: Body) -> Reply {
        self.index += 1;
        let request = RequestId(u128::from(self.index));
        let command = Command::new(request, self.index * 10, 99, body);
        let reply = self.catalogue.apply(self.index, &command);
        assert!(reply.refusal().is_none(), "{command:?}: {reply:?}");
        reply
    }

    fn node(&mut self, number: u64) {
        let new = NewNode {
            cookie: Cookie(number.into()),
            host: format!("host{number}"),
            rack: format!("rack{number}"),
            address: format!("host{number}:7100"),
            capacity_bytes: 1 << 40,
            feature_level: LEVEL,
            replaces: None,
            key: None,
        };
        if number == 1 {
            let (cluster, settings) = (ClusterId(7), Settings::default());
            self.apply(Body::InitCluster(command::InitCluster {
                cluster,
                settings,
                node: new.clone(),
            }));
        } else {
            self.apply(Body::AllocateNode(new.clone()));
        }
        let node = NodeId(number);
        let register = |previous: &[u64], nonce: u64| {
            Body::Register(command::Register {
                node,
                cookie: new.cookie,
                previous: previous.iter().map(|nonce| Nonce((*nonce).into())).collect(),
                nonce: Nonce(nonce.into()),
                host: new.host.clone(),
                rack: new.rack.clone(),
                address: new.address.clone(),
                capacity_bytes: new.capacity_bytes,
                feature_level: LEVEL,
                key: None,
            })
        };
        self.apply(register(&[], number));
        let reply = self.apply(register(&[number], number + 100));
        let Reply::Registered { incarnation } = reply else { panic!("{reply:?}") };
        self.apply(Body::Inventory(command::Inventory {
            node,
            incarnation,
            missing: vec![],
            last: true,
        }));
    }

    fn begin(&mut self, step: u64, parts: u32) -> CheckpointId {
        let reply = self.apply(Body::Begin(command::Begin {
            namespace: "run1/a".parse().unwrap(),
            step: Step(step),
            parts,
            attempt: Some(Attempt(1)),
            change: PolicyChange { keep_last: Some(9), ..PolicyChange::default() },
            replace: false,
            labels: BTreeMap::from([("loss".into(), "0.5".into())]),
            client: "rank 0 of host a".into(),
            job: "41".into(),
        }));
        let Reply::Begun(Begun { checkpoint, .. }) = reply else { panic!("{reply:?}") };
        checkpoint
    }

    /// Stages segments to nodes 1 to 3 and reports them durable.
    fn stage(&mut self, checkpoint: CheckpointId, part: u32, names: &[&str]) {
        let segment = |name: &&str| StageSegment {
            digest: SegmentDigest::of(name.as_bytes()),
            form: Form::raw(1000),
            targets: vec![NodeId(1), NodeId(2), NodeId(3)],
        };
        let segments = names.iter().map(segment).collect();
        let (attempt, run) = (Attempt(1), Run(5));
        let reply =
            self.apply(Body::Stage(command::Stage { checkpoint, attempt, part, run, segments }));
        let Reply::Staged { segments } = reply else { panic!("{reply:?}") };
        for node in 1..=2 {
            let replicas = segments.iter().filter_map(|staged| {
                let slot = staged.slots.iter().find(|slot| slot.node == NodeId(node))?;
                Some((staged.segment, slot.epoch))
            });
            let replicas = replicas.collect();
            let incarnation: Incarnation = self.catalogue.node(NodeId(node)).unwrap().incarnation;
            self.apply(Body::Durable(command::Durable {
                node: NodeId(node),
                incarnation,
                replicas,
            }));
        }
    }

    fn seal(&mut self, checkpoint: CheckpointId, part: u32, names: &[&str]) {
        let digest = |name: &&str| (SegmentDigest::of(name.as_bytes()), 1000);
        self.apply(Body::SealPart(command::SealPart {
            checkpoint,
            attempt: Attempt(1),
            part,
            run: Run(5),
            manifest: ManifestPlace::Inline(Bytes::from_static(b"manifest")),
            set_digest: set_digest(names.iter().map(digest)),
            bytes: 1000,
            files: 1,
            compared: self.catalogue.parts_version(checkpoint),
            voids: Vec::new(),
        }));
    }
}

fn catalogue() -> Catalogue {
    let mut world = World { catalogue: Catalogue::default(), index: 0 };
    (1..=3).for_each(|number| world.node(number));
    let committed = world.begin(10, 1);
    world.stage(committed, 0, &["a", "b"]);
    world.seal(committed, 0, &["a", "b"]);
    let deleted = world.begin(20, 1);
    world.stage(deleted, 0, &["b", "c"]);
    world.seal(deleted, 0, &["b", "c"]);
    let (checkpoint, reason) = (deleted, DeleteReason::Asked);
    world.apply(Body::Delete(command::Delete {
        checkpoint,
        reason,
        now: true,
        force: false,
        policy_version: None,
        by: String::new(),
    }));
    let open = world.begin(30, 3);
    world.stage(open, 0, &["d", "a"]);
    world.seal(open, 0, &["d", "a"]);
    world.stage(open, 2, &["e"]);
    world.apply(Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level: SUBJECT_LEVEL }));
    for (name, key) in [("a", [7; 32]), ("b", [8; 32])] {
        world.apply(Body::SetIssuer(command::SetIssuer { name: name.into(), key: Some(key) }));
    }
    for token in [3, 2] {
        let (token, reason) = (TokenId(token), "lost".to_owned());
        world.apply(Body::RevokeToken(command::RevokeToken { token, until_ms: 5, reason }));
    }
    world.apply(Body::RequireTokens(command::RequireTokens { required: true }));
    world.catalogue
}

#[test]
fn a_catalogue_reads_back_with_the_same_digest() {
    for catalogue in [Catalogue::default(), catalogue()] {
        let bytes = encode(&catalogue);
        let back = decode(&bytes, FEATURE_LEVEL).unwrap();
        assert_eq!(back.digest(), catalogue.digest());
        assert_eq!(back.is_superseded(NodeId(2), Nonce(2)), catalogue.is_initialized());
        assert_eq!(encode(&back), bytes);
        crate::invariants::check(&back).unwrap();
    }
}

#[test]
fn a_snapshot_that_is_cut_or_continued_is_refused() {
    let mut bytes = encode(&catalogue());
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end], FEATURE_LEVEL).is_err(), "cut at {end}");
    }
    bytes.push(0);
    assert!(matches!(decode(&bytes, FEATURE_LEVEL), Err(SnapshotError::Malformed { .. })));
}

#[test]
fn a_flipped_bit_is_refused() {
    let mut bytes = encode(&catalogue());
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bytes, FEATURE_LEVEL).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn damage_under_a_right_checksum_never_passes_for_the_same_catalogue() {
    // A defect that a bug in the writer would leave, not a disk.
    let catalogue = catalogue();
    let original = encode(&catalogue);
    let mut spelled = 0;
    let mut input = &original[..];
    let input: &mut dyn Read = &mut input;
    let mut reader =
        Reader { input: BufReader::new(input), hasher: blake3::Hasher::new(), records: 0, kind: 0 };
    while reader.next().unwrap().is_some() {}
    let tail = |records, bytes: &[u8]| {
        let checksum = Bytes::copy_from_slice(blake3::hash(bytes).as_bytes());
        let record = Some(Record::Tail(wire::SnapshotTail { records, checksum }));
        wire::SnapshotRecord { record }.encode_length_delimited_to_vec()
    };
    let body = original.len() - tail(reader.records, &[]).len();
    for bit in 0..body * 8 {
        let mut bytes = original[..body].to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes.extend(tail(reader.records, &bytes));
        if let Ok(back) = decode(&bytes, FEATURE_LEVEL) {
            // Some flips change only the encoding of a value, such as a boolean written as 3.
            let same = back.digest() == catalogue.digest();
            assert_eq!(same, encode(&back) == original, "bit {bit}");
            spelled += u32::from(same);
        }
    }
    assert!(spelled < 100, "{spelled} flips had no effect");
}

#[test]
fn a_snapshot_from_the_future_says_so() {
    const LATER: u32 = FEATURE_LEVEL + 1;
    let mut bytes = Vec::new();
    let head = wire::SnapshotHead { version: 2, feature_level: LATER, ..Default::default() };
    let record = wire::SnapshotRecord { record: Some(Record::Head(head)) };
    bytes.extend(record.encode_length_delimited_to_vec());
    let error = decode(&bytes, FEATURE_LEVEL).unwrap_err();
    assert!(matches!(error, SnapshotError::Future { version: 2, feature_level: LATER }), "{error}");
}

#[test]
fn a_huge_length_takes_no_memory() {
    assert!(decode(&[0xff, 0xff, 0xff, 0xff, 0x0f], FEATURE_LEVEL).is_err());
    assert!(matches!(
        decode(&[0xff, 0xff, 0xff, 0x7f, 1], FEATURE_LEVEL),
        Err(SnapshotError::CutShort(0))
    ));
}

#[test]
fn a_snapshot_of_a_higher_level_alone_is_refused() {
    let (mut made, level) = (catalogue(), FEATURE_LEVEL);
    made.cluster.feature_level = level + 1;
    let error = decode(&encode(&made), level).unwrap_err();
    let future = level + 1;
    assert!(
        matches!(error, SnapshotError::Future { version: SNAPSHOT_VERSION, feature_level } if feature_level == future),
        "{error}"
    );
    assert!(decode(&encode(&made), level + 1).is_ok());
}

#[test]
fn a_record_with_a_field_that_this_build_does_not_know_is_refused() {
    let head = cluster::to_wire(&catalogue().cluster);
    let record = wire::SnapshotRecord { record: Some(Record::Head(head)) }.encode_to_vec();
    let with = |extra: &[u8]| {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint((record.len() + extra.len()) as u64, &mut bytes);
        bytes.extend([&record[..], extra].concat());
        decode(&bytes, FEATURE_LEVEL).unwrap_err()
    };
    assert!(matches!(with(&[]), SnapshotError::CutShort(1)), "{}", with(&[]));
    let error = with(&[0xf8, 0x07, 0x01]);
    assert!(error.to_string().contains("fields that this build does not know"), "{error}");
}
