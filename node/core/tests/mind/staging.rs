//! Stage: what is kept, where slots may go, what racks are asked for.

use cairn_core::placement::{Loads, plan_stage};
use cairn_types::command::{self, Body, Obstacle, Refusal, Reply, Shortage, StageSegment};
use cairn_types::form::Form;
use cairn_types::ids::{Attempt, CheckpointId, NodeId, Run};
use cairn_types::model::{Isolation, Liveness, PolicyChange};

use crate::world::{
    LEN, World, begin_body, begun, digest, namespace, node, registration, reported, stage_body,
};

#[test]
fn what_counts_on_enough_racks_is_kept_and_sent_by_nobody() {
    let mut world = World::new(&["a", "b", "c"]);
    world.put(1, &["x"], &[1, 2]);
    let id = world.begin(2, 5, 1);
    let staged = world.stage((id, 5), 0, &["x"], &[3]);
    assert!(staged[0].kept);
    assert_eq!(world.live("x"), [(1, true), (2, true)], "targets for what is kept are ignored");
    assert_eq!(world.segment("x").references[..], [(3, 2)]);
    world.set_liveness(2, Liveness::Down);
    let id = world.begin(3, 5, 1);
    let staged = world.stage((id, 5), 0, &["x"], &[3]);
    assert!(!staged[0].kept, "one replica that counts is no quorum");
    assert_eq!(world.live("x"), [(1, true), (2, true), (3, false)]);
}

#[test]
fn a_checkpoint_refers_to_a_segment_once() {
    let mut world = World::new(&["a", "b"]);
    let id = world.begin(1, 5, 2);
    world.stage((id, 5), 0, &["x", "x"], &[1, 2]);
    world.stage((id, 5), 1, &["x"], &[]);
    assert_eq!(world.segment("x").references[..], [(3, 1)]);
}

#[test]
fn targets_that_cannot_take_slots_refuse_the_whole_batch() {
    let mut world = World::new(&["a", "b", "c"]);
    world.done(Body::AllocateNode(crate::world::new_node(4, "d")));
    let mut neighbour = registration(4, "d", &[], 400);
    if let Body::Register(command::Register { host, .. }) = &mut neighbour {
        *host = "host1".into();
    }
    world.done(neighbour);
    world.set_liveness(3, Liveness::Down);
    let id = world.begin(1, 5, 1);
    for targets in [&[1, 1][..], &[1, 4], &[1, 2, 3], &[1, 2, 77]] {
        let stage = stage_body((id, 5), 0, Run(1), &["x"], targets);
        assert_eq!(world.refused(stage), Refusal::BadTargets, "{targets:?}");
    }
    assert!(world.catalogue.segments().is_empty());
}

#[test]
fn a_quorum_of_hosts_that_are_up_is_required() {
    let mut world = World::new(&["a", "b", "c"]);
    let id = world.begin(1, 5, 1);
    let stage = stage_body((id, 5), 0, Run(1), &["x"], &[1]);
    assert_eq!(world.refused(stage), Refusal::BadTargets);
    // Slots on a node that went down do not help.
    world.stage((id, 5), 0, &["x"], &[1, 2]);
    world.set_liveness(2, Liveness::Down);
    let again = stage_body((id, 5), 0, Run(1), &["x"], &[]);
    assert_eq!(world.refused(again), Refusal::BadTargets);
    world.stage((id, 5), 0, &["x"], &[3]);
    assert_eq!(world.live("x").len(), 3);
}

#[test]
fn a_missing_rack_refuses_a_hard_policy_and_degrades_a_soft_one() {
    let mut world = World::new(&["a", "a", "b"]);
    let id = world.begin(1, 5, 1);
    let one_rack = stage_body((id, 5), 0, Run(1), &["x"], &[1, 2]);
    let refusal = Refusal::BadTargets;
    assert_eq!(world.refused(one_rack.clone()), refusal);
    // A rack that is down is still one that the policy asks for.
    world.set_liveness(3, Liveness::Down);
    assert_eq!(world.refused(one_rack), refusal);

    let change = PolicyChange { isolation: Some(Isolation::Soft), ..PolicyChange::default() };
    world.done(Body::SetPolicy(command::SetPolicy::new(namespace(), change)));
    world.put(2, &["x"], &[1, 2]);
    let record = world.catalogue.resolve(&"run1@2".parse().unwrap()).unwrap();
    assert_eq!(record.durability.racks_min, 1);
}

#[test]
fn a_cluster_of_one_rack_is_asked_for_one() {
    let mut world = World::new(&["a", "a"]);
    world.put(1, &["x"], &[1, 2]);
    assert_eq!(world.live("x"), [(1, true), (2, true)]);
}

#[test]
fn malformed_segments_and_uploads_are_refused() {
    let mut world = World::new(&["a", "b"]);
    world.put(1, &["x"], &[1, 2]);
    let id = world.begin(2, 5, 1);
    let stage = |name: &str, len: u32, attempt: u64| {
        Body::Stage(command::Stage {
            checkpoint: id,
            attempt: Attempt(attempt),
            part: 0,
            run: Run(1),
            segments: vec![StageSegment {
                digest: digest(name),
                form: Form::raw(len),
                targets: vec![NodeId(1), NodeId(2)],
            }],
        })
    };
    for (name, len, attempt) in [("y", 0, 5), ("y", (32 << 20) + 1, 5), ("x", 7, 5), ("y", 1, 6)] {
        let refusal = world.refused(stage(name, len, attempt));
        assert!(matches!(refusal, Refusal::Malformed(_)), "{name} {len}: {refusal:?}");
    }
    world.done(stage("y", 32 << 20, 5));
}

#[test]
fn planned_targets_are_accepted_and_spread_over_racks_and_nodes() {
    let mut world = World::new(&["a", "a", "b", "b", "c", "c"]);
    let id = world.begin(1, 5, 1);
    let names: Vec<String> = (0..60).map(|number| format!("segment{number}")).collect();
    let mut segments: Vec<StageSegment> = names
        .iter()
        .map(|name| StageSegment {
            digest: digest(name),
            form: Form::raw(LEN),
            targets: Vec::new(),
        })
        .collect();
    let upload = world.catalogue.checkpoint(id).unwrap().clone();
    let mut loads = Loads::default();
    plan_stage(&world.catalogue, &mut loads, &upload, &mut segments, &Default::default()).unwrap();
    world.done(Body::Stage(command::Stage {
        checkpoint: id,
        attempt: Attempt(5),
        part: 0,
        run: Run(1),
        segments,
    }));
    for segment in world.catalogue.segments().iter() {
        let racks = segment.live_slots().map(|slot| &world.catalogue.node(slot.node).unwrap().rack);
        assert_eq!(racks.collect::<std::collections::BTreeSet<_>>().len(), 3);
    }
    for number in 1..=6 {
        assert_eq!(world.catalogue.node_slots(node(number)).unwrap().assigned.len(), 30);
    }
}

#[test]
fn a_plan_says_what_is_missing_and_prefers_free_space() {
    let mut world = World::new(&["a", "b", "b"]);
    let id = begun(world.apply(begin_body(1, 5, 1, false))).checkpoint;
    let upload = world.catalogue.checkpoint(id).unwrap().clone();
    let mut one = [StageSegment { digest: digest("x"), form: Form::raw(LEN), targets: Vec::new() }];
    let mut loads = Loads::default();
    // The full node gets nothing: two replicas are a quorum.
    loads.observe(node(2), 10, 0);
    plan_stage(&world.catalogue, &mut loads, &upload, &mut one, &Default::default()).unwrap();
    assert_eq!(one[0].targets, [node(1), node(3)]);
    loads.observe(node(3), 10, 0);
    let full = plan_stage(&world.catalogue, &mut loads, &upload, &mut one, &Default::default());
    let free = |free_bytes| Obstacle::Full { free_bytes };
    // What a file takes beside its bytes leaves no room in ten.
    let nodes = vec![(node(2), free(0)), (node(3), free(0))];
    let shortage = Shortage { bytes: u64::from(LEN), nodes };
    assert_eq!(full, Err(Refusal::NotEnoughHosts { have: 1, want: 2, shortage }));
    let text = full.unwrap_err().to_string();
    let wanted = "1 host can take a replica of 0.0 MiB, 2 needed: node 2 has 0.0 MiB free, \
                  node 3 has 0.0 MiB free";
    assert_eq!(text, wanted);
    world.set_liveness(2, Liveness::Down);
    let down = plan_stage(&world.catalogue, &mut loads, &upload, &mut one, &Default::default());
    let Err(Refusal::NotEnoughHosts { shortage, .. }) = down else { panic!("{down:?}") };
    assert_eq!((shortage.down(), shortage.has_full()), (1, true));
    world.set_liveness(2, Liveness::Up);
    loads.observe(node(3), 1 << 30, 0);
    loads.observe(node(2), 1 << 30, 0);
    let slow = [node(1)].into();
    let racks = plan_stage(&world.catalogue, &mut loads, &upload, &mut one, &slow);
    let shortage = Shortage { bytes: u64::from(LEN), nodes: vec![] };
    assert_eq!(racks, Err(Refusal::NotEnoughRacks { have: 1, want: 2, shortage }));
}

#[test]
fn a_committed_checkpoint_is_staged_again_where_its_replicas_are_gone() {
    let mut world = World::new(&["a", "b", "c"]);
    let id = world.put(1, &["x", "y"], &[1, 2, 3]);
    world.stage((id, 11), 0, &["x"], &[]);
    for number in [1, 2, 3] {
        let (incarnation, replicas) = (world.incarnation(number), world.replicas(number, &["x"]));
        world.done(Body::Lost(command::Lost { node: node(number), incarnation, replicas }));
    }
    let staged = world.stage((id, 11), 0, &["x", "y"], &[]);
    assert_eq!((staged[0].kept, staged[1].kept), (false, true));
    assert_eq!(staged[0].slots.len(), 3);
    assert_eq!(world.segment("x").references[..], [(3, 1)], "no reference is taken");
    world.durable(1, &["x"]);
    world.durable(2, &["x"]);
    assert!(world.stage((id, 11), 0, &["x"], &[])[0].kept);
    // Nothing else comes in this way.
    let foreign = stage_body((id, 11), 0, Run(1), &["z"], &[1, 2]);
    assert_eq!(world.refused(foreign), Refusal::SegmentNotStaged(digest("z")));
    let fenced = stage_body((id, 12), 0, Run(1), &["x"], &[]);
    assert!(matches!(world.refused(fenced), Refusal::NotOpen(_)));
}

#[test]
fn a_later_stage_is_answered_with_the_form_of_the_record() {
    let mut world = World::new(&["a", "b"]);
    let coded = Form::told(7, LEN, LEN / 2).unwrap();
    let first = world.begin(1, 5, 1);
    let stage = |name: &str, targets: &[u64], form, twin| {
        let segment = |form| StageSegment {
            digest: digest(name),
            form,
            targets: targets.iter().copied().map(NodeId).collect(),
        };
        Body::Stage(command::Stage {
            checkpoint: first,
            attempt: Attempt(5),
            part: 0,
            run: Run(1),
            segments: vec![segment(form), segment(twin)],
        })
    };
    let raw = Form::raw(LEN);
    let other = Form::told(8, LEN, LEN / 3).unwrap();
    for (name, form, told) in [("x", coded, Some(coded)), ("y", raw, None)] {
        // The first of a batch counts, too.
        for (targets, form, twin) in [(&[1, 2][..], form, other), (&[], other, raw)] {
            let Reply::Staged { segments } = world.done(stage(name, targets, form, twin)) else {
                panic!("not staged")
            };
            assert_eq!([segments[0].form, segments[1].form], [told; 2], "{name}");
        }
        let record = world.catalogue.segment_by_digest(&digest(name)).unwrap();
        assert_eq!(record.form, told.unwrap_or(raw));
    }
    // Another length is another content, whatever the form, once bytes are proven to have one.
    world.durable(1, &["x"]);
    let longer = Form::told(7, LEN + 1, LEN / 2).unwrap();
    assert!(matches!(world.refused(stage("x", &[], longer, longer)), Refusal::Malformed(_)));
}

/// Stage of one segment that claims `len` bytes.
fn claim(upload: (CheckpointId, u64), part: u32, name: &str, len: u32, targets: &[u64]) -> Body {
    Body::Stage(command::Stage {
        checkpoint: upload.0,
        attempt: Attempt(upload.1),
        part,
        run: Run(1),
        segments: vec![StageSegment {
            digest: digest(name),
            form: Form::raw(len),
            targets: targets.iter().copied().map(NodeId).collect(),
        }],
    })
}

#[test]
fn a_length_that_nobody_has_proven_blocks_nobody() {
    let mut world = World::new(&["a", "b"]);
    let (liar, honest) = (world.begin(1, 5, 1), world.begin(2, 6, 1));
    world.done(claim((liar, 5), 0, "x", 1234, &[1, 2]));
    let before = world.replicas(1, &["x"]);
    world.done(claim((honest, 6), 0, "x", LEN, &[]));
    assert_eq!(world.segment("x").form, Form::raw(LEN));
    // A report about the first claim does not prove the second.
    let incarnation = world.incarnation(1);
    let late = command::Durable { node: NodeId(1), incarnation, replicas: before };
    assert_eq!(reported(world.done(Body::Durable(late))), (0, 1));
    assert_eq!(world.live("x"), [(1, false), (2, false)]);
    world.durable(1, &["x"]);
    world.durable(2, &["x"]);
    for len in [1234, LEN + 1] {
        let refused = world.refused(claim((liar, 5), 0, "x", len, &[]));
        assert!(refused.to_string().contains("another length"), "{refused}");
    }
    let sealed = world.seal((honest, 6), 0, &["x"]);
    assert!(matches!(sealed, Reply::Committed { .. }), "{sealed:?}");
    // Its replicas may be lost later. What was committed stays proven.
    for node in [1, 2] {
        let (incarnation, replicas) = (world.incarnation(node), world.replicas(node, &["x"]));
        world.done(Body::Lost(command::Lost { node: NodeId(node), incarnation, replicas }));
    }
    let refused = world.refused(claim((liar, 5), 0, "x", 1234, &[]));
    assert!(refused.to_string().contains("another length"), "{refused}");
}

#[test]
fn a_part_sealed_on_a_false_length_never_commits() {
    let mut world = World::new(&["a", "b"]);
    let (liar, honest) = (world.begin(1, 5, 2), world.begin(2, 6, 1));
    // The first part is sealed on a claim, before any replica is durable.
    world.done(claim((liar, 5), 0, "x", LEN, &[1, 2]));
    let sealed = world.seal((liar, 5), 0, &["x"]);
    assert!(matches!(sealed, Reply::Sealed { .. }), "{sealed:?}");
    world.done(claim((honest, 6), 0, "x", LEN + 1, &[]));
    world.stage((liar, 5), 1, &["y"], &[1, 2]);
    for node in [1, 2] {
        world.durable(node, &["x", "y"]);
    }
    let Reply::Refused(refused) = world.seal((liar, 5), 1, &["y"]) else { panic!("committed") };
    assert_eq!(refused, cairn_types::command::Refusal::SetDigestMismatch { part: 0 });
}
