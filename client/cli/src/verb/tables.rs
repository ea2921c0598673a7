//! What the verbs show of fixed replies, letter by letter, as text and as JSON: a change of wording
//! shows in the diff of `tests/tables`. CAIRN_GOLDEN=write takes over what they show now.

use std::path::PathBuf;

use cairn_client::audit::AuditCheck;
use cairn_client::{
    BestMetric, BestRule, Change, CheckpointDiff, ClusterId, ClusterStatus, Extreme, FileChange,
    KeptReason, LabelRule, ListedHold, LocatedSegment, Namespace, NamespaceUsage, NodeInfo,
    OwnPolicy, PlannedCheckpoint, RefList, Refusal, RetentionPlan, ScrubStatus, SharedMost, Shown,
    ShownPolicy, TensorChange,
};
use cairn_types::audit::{AuditGap, AuditObject, AuditRecord, AuditResult, AuditSubject};
use cairn_types::ids::{
    Attempt, CheckpointId, Epoch, Incarnation, NodeId, RequestId, SegmentDigest, SegmentId, Step,
    TokenId,
};
use cairn_types::manifest::{FileEntry, Manifest};
use cairn_types::marks::{Hold, NamedRef, Quarantine, Ref, RefMove};
use cairn_types::model::{
    Began, CheckpointInfo, CheckpointState, Commit, DeletedFor, Deletion, Durability,
    ManifestPlace, Metric, Policy, SealedPart, Slot, SlotState,
};
use cairn_types::progress::{PartProgress, UploadProgress};
use clap::Parser;
use serde::Serialize;

use super::{
    Verb, audit, diff, du, hold, ls, named_ref, node, plan, policy, quarantine, retention, rm,
    rollback, scrub, show, status, uploads,
};
use crate::args::Cli;
use crate::{foreign, output};

/// A terminal as most people have it. Rows with names and addresses are as wide as those are; what
/// status says below them fits.
const TERMINAL_CHARS: usize = 80;
const WALL_MS: u64 = 1_764_000_000_000;
const MIB: u64 = 1 << 20;

fn check(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tables").join(name);
    if std::env::var_os("CAIRN_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("write a golden file");
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "{name} is not tests/tables/{name}; if that is meant, run this test with \
         CAIRN_GOLDEN=write\n{text}"
    );
}

/// Checks both forms of a result, as they are printed.
fn checked(name: &str, text: &str, document: &impl Serialize) {
    let text = foreign::lines(text);
    check(&format!("{name}.txt"), &text);
    let Ok(document) = output::encode(document) else { panic!("{name} does not encode") };
    check(&format!("{name}.json"), &(document + "\n"));
}

fn member(id: u64, rack: &str) -> NodeInfo {
    let mut node = NodeInfo::default();
    node.id = NodeId(id);
    node.host = format!("gpu-{id:03}");
    node.rack = rack.to_owned();
    node.address = format!("10.20.0.{id}:7400");
    (node.up, node.inventoried, node.voter) = (true, true, true);
    node.incarnation = Incarnation(id);
    node.capacity_bytes = 10 << 40;
    node.available_bytes = Some(7 << 40);
    node.replicas_durable = 1_000 + id;
    node.bytes_durable = 3 << 40;
    node.feature_level = 1;
    node.clock_ahead_ms = Some(0);
    node
}

/// Five nodes in three racks, all well.
fn healthy() -> ClusterStatus {
    let racks = ["a1", "a1", "b1", "b1", "c1"];
    let mut status = ClusterStatus::default();
    status.cluster = Some(ClusterId(u128::from_be_bytes([0x59; 16])));
    status.applied_index = 4_711;
    status.term = 3;
    status.leader = Some(NodeId(2));
    status.leader_address = Some("10.20.0.2:7400".to_owned());
    status.nodes = (1..).zip(racks).map(|(id, rack)| member(id, rack)).collect();
    status.checkpoints_committed = 12;
    status.segments = 1_400;
    status.segment_bytes = 4 << 40;
    status.nodes_can_be_lost = 2;
    status.racks_can_be_lost = 2;
    status.feature_level = 1;
    status.voters = 5;
    status
}

/// One is down, one is full, one fetches, one was removed.
fn hurt() -> ClusterStatus {
    let mut status = healthy();
    status.nodes[0].up = false;
    status.nodes[1].available_bytes = Some(3 * MIB);
    status.nodes[2].replicas_assigned = 70;
    status.nodes[3].removed = true;
    status.nodes[3].voter = false;
    status.nodes[4].inventoried = false;
    status.checkpoints_open = 2;
    status.segments_below = 70;
    status.bytes_below = 2 << 30;
    status.segments_unavailable = 3;
    status.segments_lost = 1;
    status.segments_short_of_racks = 9;
    status.segments_unreferenced = 4;
    status.bytes_unreferenced = 128 * MIB;
    status.racks_can_be_lost = 0;
    status.voters = 4;
    status
}

fn info(step: u64, state: CheckpointState) -> CheckpointInfo {
    let is_open = state == CheckpointState::Open;
    let parts = [(3u64, 40 * MIB), (2, 8 * MIB)].map(|(files, bytes)| SealedPart {
        manifest: ManifestPlace::Inline(vec![1, 2, 3].into()),
        set_digest: [7; 32],
        bytes,
        files,
    });
    CheckpointInfo {
        id: CheckpointId(step / 10),
        namespace: "llama-70b/pretrain".parse().expect("a namespace"),
        step: Step(step),
        attempt: Attempt(2),
        state,
        policy: Policy::default(),
        parts: if is_open { [].into() } else { parts.into() },
        commit: (!is_open).then_some(Commit { index: 4_000 + step, wall_ms: WALL_MS + step }),
        labels: [("loss".to_owned(), "1.5\u{1b}[2J".to_owned())].into(),
        metrics: [("loss".to_owned(), Metric::new(2.25).unwrap())].into(),
        bytes: 48 * MIB,
        files: 5,
        segments: 4,
        segment_bytes: 47 * MIB,
        new_bytes: Some(12 * MIB),
        durability: Durability {
            replicas_wanted: 3,
            replicas_min: 2,
            racks_min: 2,
            segments_below: 1,
            bytes_below: 32 * MIB,
            segments_unavailable: 0,
        },
        parts_wanted: 2,
        parts_missing: u32::from(is_open),
        open_ended: false,
        first_missing: if is_open { vec![1] } else { Vec::new() },
        began: Began {
            index: 3_000,
            wall_ms: WALL_MS - 60_000,
            client: "process 7 on gpu-001".to_owned(),
            job: "41".to_owned(),
            subject: String::new(),
        },
        quarantine: None,
        refs: Vec::new(),
        holds: Vec::new(),
        deletion: (state == CheckpointState::Deleted).then(|| Deletion {
            reason: DeletedFor::Asked,
            by: "ana@gpu-001".to_owned(),
            wall_ms: WALL_MS + 70_000,
            restorable_ms: 3_550_000,
        }),
        upload: is_open.then(|| UploadProgress {
            durable_bytes: 36 * MIB,
            lease_left_ms: 290_000,
            deleted_in_ms: 86_690_000,
            idle_ms: 10_000,
            parts_begun: 1,
            first_begun: vec![PartProgress {
                part: 1,
                segments: 1,
                bytes: 8 * MIB,
                durable_bytes: 0,
            }],
        }),
    }
}

fn a_hold(until_wall_ms: Option<u64>) -> Hold {
    Hold {
        owner: "ana@gpu-001".to_owned(),
        reason: "evaluation\u{1b}[2J".to_owned(),
        until_ms: until_wall_ms.map(|_| 90_000),
        wall_ms: WALL_MS,
        until_wall_ms,
    }
}

/// A checkpoint with everything that people say of one.
fn marked() -> CheckpointInfo {
    CheckpointInfo {
        quarantine: Some(Quarantine {
            reason: "loss is NaN".to_owned(),
            by: "bo@gpu-002".to_owned(),
            wall_ms: WALL_MS + 5_000,
        }),
        refs: vec!["candidate".parse().expect("a name"), "production".parse().expect("a name")],
        holds: vec![a_hold(None), a_hold(Some(WALL_MS + 86_400_000))],
        ..info(1_000, CheckpointState::Committed)
    }
}

fn digest(byte: u8) -> SegmentDigest {
    SegmentDigest([byte; 32])
}

fn shown() -> Shown {
    let file = |name: &[u8], len: u64| FileEntry {
        name: name.to_vec(),
        mode: 0o644,
        mtime_ns: 1_700_000_000_123_456_789,
        len,
        extents: Vec::new(),
        content: None,
    };
    let manifest = |files: Vec<FileEntry>| Manifest {
        segments: vec![(digest(1), 32 << 20), (digest(2), 8 << 20)],
        files,
        directories: Vec::new(),
    };
    let slot = |node: u64, state| Slot { node: NodeId(node), epoch: Epoch(1), state, until_ms: 0 };
    let located = |byte: u8, len: u32, slots: Vec<Slot>| LocatedSegment {
        digest: digest(byte),
        id: Some(SegmentId(byte.into())),
        len,
        slots,
    };
    let whole = (1..=3).map(|node| slot(node, SlotState::Durable)).collect();
    let mut part = vec![slot(1, SlotState::Durable), slot(2, SlotState::Durable)];
    part.push(slot(5, SlotState::Assigned));
    Shown {
        info: info(1_000, CheckpointState::Committed),
        manifests: vec![
            manifest(vec![file(b"rank0/model.safetensors", 40 * MIB), file(b"rank0/n\xff", 12)]),
            manifest(vec![file("rank1/größe.pt".as_bytes(), 8 * MIB)]),
        ],
        segments: vec![located(1, 32 << 20, whole), located(2, 8 << 20, part)],
        shared: Some(SharedMost {
            checkpoint: CheckpointId(99),
            step: Step(990),
            bytes: 35 * MIB,
            compared: 12,
        }),
    }
}

fn rm_args(arguments: &[&str]) -> rm::RmArgs {
    let words = ["cairn", "rm", "llama-70b/pretrain@1000"].iter().chain(arguments);
    match Cli::try_parse_from(words).expect("arguments of rm").verb {
        Verb::Rm(args) => args,
        _ => unreachable!("that is rm"),
    }
}

#[test]
fn audit_and_its_check() {
    let record = |number: u64, command: &str, result| AuditRecord {
        number,
        term: 3,
        index: number * 10,
        wall_ms: WALL_MS + number * 1_000,
        request: RequestId(number.into()),
        subject: AuditSubject::Token {
            name: "ci".to_owned(),
            issuer: TokenId(1),
            tokens: vec![TokenId(2)],
        },
        command: command.to_owned(),
        object: AuditObject {
            namespace: "llama/pretrain".parse().ok(),
            checkpoint: Some(CheckpointId(7)),
            step: Some(Step(1_000)),
            client: "bo@gpu-002".to_owned(),
            ..AuditObject::default()
        },
        result,
    };
    let mut removed = record(9, "remove_node", AuditResult::Accepted);
    removed.subject = AuditSubject::Key;
    removed.object = AuditObject { node: Some(NodeId(3)), ..AuditObject::default() };
    let refusal = Refusal::NotAllowed {
        subject: "ci".to_owned(),
        right: "delete".to_owned(),
        place: "llama/pretrain".to_owned(),
    };
    let gap = |first, last| AuditGap { first, last, after_index: 0, until_index: 0, hash: [0; 32] };
    let records = [
        record(4, "seal_part", AuditResult::Committed),
        record(8, "delete", AuditResult::Refused(refusal)),
        removed,
    ];
    let mut found = audit::Found {
        records: records.into(),
        gaps: vec![gap(5, 7)],
        omitted: 2,
        ..audit::Found::default()
    };
    found.report.kept_from = 2;
    found.report.damage = vec![(NodeId(2), "audit/0000000000000001.log is damaged".to_owned())];
    checked("audit", &audit::text(&found), &audit::document(&found));
    let mut good = AuditCheck::default();
    (good.node, good.count, good.first, good.checked) = (NodeId(1), 9, 1, 9);
    good.hash_at = Some([0xab; 32]);
    let mut bad = AuditCheck::default();
    (bad.node, bad.count, bad.first, bad.checked) = (NodeId(2), 9, 1, 3);
    bad.gaps = vec![gap(1, 2)];
    bad.damage = vec!["audit/0000000000000003.log is damaged at byte 64".to_owned()];
    bad.hash_at = Some([0xcd; 32]);
    let checks = vec![(1, Ok(good)), (2, Ok(bad)), (3, Err("the node is down".to_owned()))];
    let verified = audit::Verified { at: 9, checks };
    checked("audit-verify", &audit::verify_text(&verified), &audit::verify_document(&verified));
}

#[test]
fn scrub_of_some_nodes() {
    let mut reading = ScrubStatus::default();
    reading.node = NodeId(1);
    reading.period_ms = Some(14 * 86_400_000);
    reading.pass_since_ms = Some(WALL_MS);
    (reading.replicas, reading.bytes) = (1_200, 9_600 * MIB);
    (reading.verified, reading.verified_bytes) = (300, 2_390 * MIB);
    (reading.ripe, reading.ripe_bytes, reading.bytes_per_s) = (900, 7_210 * MIB, 64 * MIB);
    (reading.late, reading.oldest_ms, reading.bad) = (2, Some(15 * 86_400_000), 1);
    reading.faults = vec![(SegmentDigest([0xab; 32]), WALL_MS)];
    let mut paused = ScrubStatus::default();
    (paused.period_ms, paused.paused_until_ms) = (Some(86_400_000), Some(WALL_MS));
    let off = ScrubStatus::default();
    let answers =
        [(1, Ok(reading)), (2, Ok(paused)), (3, Ok(off)), (4, Err("the node is down".to_owned()))];
    checked("scrub", &scrub::text(&answers), &scrub::document(&answers));
}

#[test]
fn status_and_the_nodes_are_shown_as_written_down() {
    for (name, reply) in [("healthy", healthy()), ("hurt", hurt())] {
        let text = status::text(&reply);
        let words = text.rsplit("\n\n").next().unwrap_or_default();
        for line in words.lines() {
            assert!(line.chars().count() <= TERMINAL_CHARS, "wider than a terminal: {line}");
        }
        checked(&format!("status-{name}"), &text, &status::document(&reply));
    }
    let ClusterStatus { nodes, leader, .. } = hurt();
    checked(
        "node-ls-all",
        &node::node_table(&nodes, leader, false),
        &node::listing(&nodes, leader),
    );
}

#[test]
fn listings_are_shown_as_written_down() {
    let mut found =
        vec![info(1_000, CheckpointState::Committed), info(20_000_000, CheckpointState::Committed)];
    found[1].durability = Durability { replicas_min: 3, racks_min: 1, ..found[1].durability };
    checked("ls", &ls::checkpoint_table(&found), &ls::listing(&found, None, 0));
    found.push(info(30_000_000, CheckpointState::Open));
    checked("ls-open", &ls::checkpoint_table(&found), &ls::listing(&found, None, 0));
    let mut many = info(2_000, CheckpointState::Open);
    many.began.subject = "train".to_owned();
    (many.parts_wanted, many.parts_missing, many.first_missing) = (64, 40, (0..16).collect());
    let mut stale = many.clone();
    stale.upload = stale.upload.map(|mut upload| {
        (upload.lease_left_ms, upload.deleted_in_ms, upload.parts_begun) = (0, 0, 18);
        upload
    });
    // A node of an older build says less.
    let old = CheckpointInfo { upload: None, ..many.clone() };
    let open = [found[2].clone(), many, stale, old];
    let text = uploads::text(&open, WALL_MS + 130_000);
    assert!(text.lines().all(|line| line.chars().count() <= TERMINAL_CHARS), "{text}");
    checked("show-open", &text, &uploads::document(&open));
}

#[test]
fn a_checkpoint_is_shown_as_written_down() {
    let shown = shown();
    checked("show", &show::text(&shown, false), &show::document(&shown));
    check("show-segments.txt", &foreign::lines(&show::text(&shown, true)));
    let shown = Shown { info: marked(), ..shown };
    checked("show-marked", &show::text(&shown, false), &show::document(&shown));
}

#[test]
fn refs_holds_and_quarantine_are_shown_as_written_down() {
    let moved = |generation, id: Option<u64>, by: &str| RefMove {
        generation,
        checkpoint: id.map(CheckpointId),
        by: by.to_owned(),
        wall_ms: WALL_MS + generation * 1_000,
        subject: String::new(),
    };
    let history = vec![
        moved(1, Some(10), "ana@gpu-001"),
        moved(2, None, ""),
        moved(3, Some(11), "ana\u{1b}[2J"),
        moved(4, Some(12), "bo@gpu-002"),
    ];
    let target = Ref { generation: 4, checkpoint: Some(CheckpointId(12)), history };
    let named = NamedRef { name: "production".parse().unwrap(), target };
    let mut found = RefList::default();
    found.steps = [(CheckpointId(10), Step(100)), (CheckpointId(12), Step(120))].into();
    found.refs.push(named);
    let document = named_ref::document(&found, &found.refs[0]);
    checked("ref-ls", &named_ref::ref_table(&found), &document);
    check("ref-log.txt", &foreign::lines(&named_ref::move_table(&found, &found.refs[0])));

    let info = marked();
    let mut said = String::new();
    for lift in [false, true] {
        said += &quarantine::text(&info, lift);
    }
    for dry_run in [true, false] {
        let kept = vec![(Step(1_100), "ref production".to_owned())];
        let latest = (!dry_run).then_some(Step(990));
        let (checkpoint, quarantined, aborted) = (info.clone(), 1, 2);
        let done = rollback::Done { checkpoint, quarantined, aborted, kept, latest };
        said += &rollback::text(&done, dry_run);
    }
    let held = ListedHold::new(&info, a_hold(None));
    said += &hold::hold_table(&[held, ListedHold::new(&info, a_hold(Some(WALL_MS)))]);
    check("marks.txt", &foreign::lines(&said));
    check("ls-quarantine.txt", &foreign::lines(&ls::checkpoint_table(&[info])));
}

#[test]
fn the_trash_is_shown_as_written_down() {
    let mut gone = info(2_000, CheckpointState::Deleted);
    gone.deletion = Some(Deletion {
        reason: DeletedFor::Retention,
        by: String::new(),
        wall_ms: WALL_MS,
        restorable_ms: 0,
    });
    let found = [info(1_000, CheckpointState::Deleted), gone];
    checked("ls-deleted", &ls::checkpoint_table(&found), &ls::listing(&found, None, 0));
}

#[test]
fn a_policy_is_shown_as_written_down() {
    let name: Namespace = "llama/pretrain".parse().expect("a name");
    let mut top = OwnPolicy::default();
    top.rules.keep_last = Some(5);
    top.retention.within_ms = Some(2 * 86_400_000);
    let mut own = OwnPolicy::default();
    own.rules.replicas = Some(2);
    own.retention.daily = Some(7);
    own.retention.time_zone = Some("Europe/Berlin".to_owned());
    let rule = |extreme, count| BestRule { metric: "loss".to_owned(), extreme, count };
    own.retention.best = Some(vec![rule(Extreme::Min, 3)]);
    let extreme = Extreme::Max;
    own.retention.best_metric = Some(BestMetric { metric: "acc".to_owned(), extreme });
    own.retention.labels = Some(vec![LabelRule { key: "milestone".to_owned(), value: None }]);
    let mut shown = ShownPolicy::default();
    shown.said = vec![("llama".parse().expect("a name"), top), (name.clone(), own)];
    (shown.policy_version, shown.confirmed) = (812, 40);
    checked("policy", &policy::text(&name, &shown), &policy::document(&name, &shown));
}

#[test]
fn a_plan_of_retention_is_shown_as_written_down() {
    let name: Namespace = "llama/pretrain".parse().expect("a name");
    let reason = |rule: &str, detail: &str| {
        let mut reason = KeptReason::default();
        (reason.rule, reason.detail) = (rule.to_owned(), detail.to_owned());
        reason
    };
    let reasons = [
        vec![reason("newest-good", ""), reason("last", "1"), reason("daily", "2025-11-24")],
        vec![reason("hold", "a hold of eval (published)"), reason("best", "loss:min:3")],
        vec![reason("within", "172800000"), reason("quarantined", "1765209600000")],
        vec![],
    ];
    let mut plan = RetentionPlan::default();
    for (number, reasons) in reasons.into_iter().enumerate() {
        let mut planned = PlannedCheckpoint::default();
        planned.step = Step(4_000 - 1_000 * number as u64);
        planned.id = CheckpointId(9 - number as u64);
        planned.commit_wall_ms = WALL_MS - number as u64 * 3_600_000;
        planned.bytes = 140 * MIB;
        planned.frees = if reasons.is_empty() { 12 * MIB } else { 0 };
        planned.reasons = reasons;
        plan.checkpoints.push(planned);
    }
    (plan.policy_version, plan.now_ms) = (812, WALL_MS);
    (plan.let_go, plan.bytes_freed, plan.large) = (1, 12 * MIB, true);
    let waits = retention::text(&name, &plan, false);
    let document = retention::document(&name, &plan, false);
    checked("retention", &format!("{waits}\n{}", retention::text(&name, &plan, true)), &document);
}

#[test]
fn usage_is_shown_as_written_down() {
    let of = |name: &str| NamespaceUsage::new(name.parse().unwrap());
    let mut whole = of("llama/pretrain");
    (whole.checkpoints, whole.logical_bytes) = (120, 120 * 140 * MIB);
    (whole.stored_bytes, whole.unique_bytes) = (9_000 * MIB, Some(7_500 * MIB));
    (whole.trash_checkpoints, whole.trash_bytes) = (3, 36 * MIB);
    let mut limited = of("llama/tune");
    (limited.checkpoints, limited.logical_bytes) = (1, 140 * MIB);
    limited.stored_bytes = 140 * MIB;
    let found = [whole, limited];
    let text = du::usage_table(&found);
    assert!(text.lines().all(|line| line.chars().count() <= TERMINAL_CHARS), "{text}");
    checked("du", &text, &du::document(&found));
}

#[test]
fn a_removal_is_shown_as_written_down() {
    let flags: [&[&str]; 4] = [&["--dry-run"], &["--dry-run", "--now"], &[], &["--now"]];
    let of_deleted: [&[&str]; 2] = [&["--dry-run", "--deleted"], &["--deleted"]];
    let states = [
        (CheckpointState::Committed, &flags[..]),
        (CheckpointState::Open, &flags[..]),
        (CheckpointState::Deleted, &of_deleted[..]),
    ];
    let mut text = String::new();
    for (state, flags) in states {
        for flags in flags {
            text += &rm::text(&info(1_000, state), &rm_args(flags));
        }
    }
    let info = info(1_000, CheckpointState::Committed);
    let document = rm::document(&info, &rm_args(flags[0]));
    checked("rm", &text, &document);
}

#[test]
fn a_diff_is_shown_as_written_down() {
    let (first, second) =
        (info(1_000, CheckpointState::Committed), info(2_000, CheckpointState::Committed));
    let mut shown = CheckpointDiff::new(first, second);
    check("diff-same.txt", &foreign::lines(&diff::text(&shown)));
    shown.files_same = 3;
    (shown.bytes_shared, shown.bytes_second_only, shown.bytes_first_only) =
        (4_500 * MIB, 500 * MIB, 480 * MIB);
    let mut model =
        FileChange::new("model.safetensors", Change::Changed, (4_900 * MIB, 4_920 * MIB));
    model.bytes_new = 490 * MIB;
    let mut tensors: Vec<TensorChange> = (0..22)
        .map(|index| {
            let name = format!("layers.{index}.mlp.weight");
            let mut tensor = TensorChange::new(name, Change::Changed, (32 * MIB, 32 * MIB));
            tensor.form = ("BF16 [4096, 4096]".to_owned(), "BF16 [4096, 4096]".to_owned());
            tensor
        })
        .collect();
    tensors[0].change = Change::Added;
    tensors[1].form.0 = "F32 [4096, 2048]".to_owned();
    (tensors[2].change, tensors[2].form.1) = (Change::Removed, String::new());
    model.tensors = Some((tensors, 200));
    let added = FileChange::new("notes\u{1b}[2J.txt", Change::Added, (0, 12));
    shown.files = vec![model, added, FileChange::new("old.pt", Change::Removed, (MIB, 0))];
    let document = serde_json::to_value(diff::document(&shown)).expect("a document");
    checked("diff", &diff::text(&shown), &document);
}

#[test]
fn a_plan_is_shown_as_written_down() {
    let cluster = ["cairn", "plan", "--nodes", "12", "--disk", "30TB", "--nic", "100Gb"];
    let load = ["--bytes", "5TB", "--interval", "10m", "--new-fraction", "0.3"];
    let rules: [&[&str]; 2] = [&[], &["--keep-last", "5", "--keep-daily", "14"]];
    for (name, rules) in ["plan", "plan-kept"].into_iter().zip(rules) {
        let cli = Cli::try_parse_from(cluster.iter().chain(&load).chain(rules)).expect(name);
        let Verb::Plan(args) = cli.verb else { panic!("{:?}", cli.verb) };
        let (text, document) = plan::shown(&args).expect(name);
        assert!(text.lines().all(|line| line.chars().count() <= TERMINAL_CHARS), "{text}");
        checked(name, &text, &document);
    }
}

#[test]
fn no_golden_is_left_of_a_table_that_is_gone() {
    if std::env::var_os("CAIRN_GOLDEN").is_some() {
        return; // The others are writing them.
    }
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tables");
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .expect("list goldens")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let both = [
        "audit",
        "audit-verify",
        "diff",
        "du",
        "ls",
        "ls-deleted",
        "ls-open",
        "node-ls-all",
        "plan",
        "plan-kept",
        "policy",
        "ref-ls",
        "retention",
        "rm",
        "scrub",
        "show",
        "show-marked",
        "show-open",
        "status-healthy",
        "status-hurt",
    ];
    let texts = ["diff-same", "ls-quarantine", "marks", "ref-log", "show-segments"];
    let forms = both.iter().flat_map(|name| [format!("{name}.json"), format!("{name}.txt")]);
    let texts = texts.iter().map(|name| format!("{name}.txt"));
    let mut known: Vec<String> = forms.chain(texts).collect();
    known.sort();
    assert_eq!(names, known);
}
