//! `cairn audit [NAMESPACE]`: who did what; `--verify`: whether the nodes' files say the same.

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_client::audit::{AuditCheck, AuditQuery, AuditReport};
use cairn_client::{Client, ClientError, Namespace, NodeInfo};
use cairn_types::audit::{AuditEntry, AuditGap, AuditRecord, AuditResult, AuditSubject};
use clap::Args;
use serde::Serialize;

use super::node::named;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{plural, table, wall_time};
use crate::session::{Session, client_failure, interruptible};

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Records that name this namespace or one below it [default: all that the token may read]
    #[arg(value_name = "NAMESPACE")]
    namespace: Option<Namespace>,
    /// Records of this subject: the name of a token, or `(key)`, `(local)`, `(cluster)`
    #[arg(long, env = "CAIRN_AUDIT_SUBJECT", value_name = "NAME")]
    subject: Option<String>,
    /// Records since then: a time such as 2026-11-21T19:20:00Z, or so long ago, such as 2d
    #[arg(long, env = "CAIRN_AUDIT_SINCE", value_name = "TIME")]
    since: Option<Since>,
    /// At most so many records, the newest ones
    #[arg(long, env = "CAIRN_AUDIT_LIMIT", value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Read the file of each node in full, check its chain, and compare the nodes
    #[arg(long, conflicts_with_all = ["namespace", "subject", "since"])]
    verify: bool,
    /// Ask this node alone: id, host or address, as `cairn node ls` shows them
    #[arg(long, env = "CAIRN_AUDIT_NODE", value_name = "NODE")]
    node: Option<String>,
}

/// A wall-clock time, milliseconds.
#[derive(Debug, Clone, Copy)]
struct Since(u64);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ms = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        };
        if let Ok(time) = humantime::parse_rfc3339_weak(text) {
            return Ok(ms(time));
        }
        let expected = || format!("{text} is neither a time such as 2026-11-21T19:20:00Z nor 2d");
        let ago = humantime::parse_duration(text).map_err(|_| expected())?;
        #[allow(clippy::disallowed_methods, reason = "what a person means by `2d` is this clock's")]
        let now = SystemTime::now();
        Ok(ms(now.checked_sub(ago).unwrap_or(UNIX_EPOCH)))
    }
}

pub fn run(session: &Session, args: AuditArgs) -> Outcome {
    session.runtime()?.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            let status = client.status().await.map_err(client_failure)?;
            session.remember(&client)?;
            let up = |node: &&NodeInfo| node.up && !node.removed;
            let nodes: Vec<&NodeInfo> = match &args.node {
                Some(text) => vec![named::find(&status.nodes, text)?],
                None => status.nodes.iter().filter(up).collect(),
            };
            match args.verify {
                true => {
                    let is_one = args.node.is_some();
                    let silent = status.nodes.iter().filter(|it| !it.up && !it.removed);
                    let silent = silent.filter(|_| !is_one).map(|it| it.id.0).collect();
                    verify(session, &client, &nodes, silent).await
                }
                false => read(session, &client, &nodes, args).await,
            }
        })
        .await
    })
}

async fn read(session: &Session, client: &Client, nodes: &[&NodeInfo], args: AuditArgs) -> Outcome {
    let addresses: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
    let since_ms = args.since.map_or(0, |since| since.0);
    let query = AuditQuery::of(args.namespace, args.subject, since_ms);
    let limit = args.limit as usize;
    let (mut found, mut omitted) = (Found::default(), 0);
    let mut each = |entry| match entry {
        AuditEntry::Record(record) => {
            found.records.push_back(*record);
            if found.records.len() > limit {
                found.records.pop_front();
                omitted += 1;
            }
        }
        AuditEntry::Gap(gap) if found.gaps.len() < limit => found.gaps.push(gap),
        AuditEntry::Gap(_) => {}
    };
    let report = client.audit(&addresses, &query, &mut each).await.map_err(client_failure)?;
    (found.report, found.omitted) = (report, omitted);
    session.output.result(&document(&found), || text(&found))?;
    if found.records.is_empty() {
        session.output.say("no records");
    }
    if omitted > 0 {
        session.output.say(format!("{} before these: --limit", plural(omitted, "older record")));
    }
    if found.report.kept_from > 1 {
        let first = found.report.kept_from;
        session.output.say(format!("records before {first} are no longer kept"));
    }
    for (node, damage) in &found.report.damage {
        session.output.say(format!("node {node}: {damage}"));
    }
    Ok(match found.gaps.is_empty() && found.report.damage.is_empty() {
        true => Exit::Ok,
        false => Exit::Damaged,
    })
}

/// What is shown.
#[derive(Default)]
pub(super) struct Found {
    pub records: VecDeque<AuditRecord>,
    /// Records that no node has.
    pub gaps: Vec<AuditGap>,
    /// Records that matched, and are older than the limit shows.
    pub omitted: u64,
    pub report: AuditReport,
}

/// `audit`.
#[derive(Serialize)]
pub(super) struct AuditDocument<'a> {
    records: Vec<RecordDocument<'a>>,
    omitted: u64,
    /// Records that no node has, by number.
    gaps: Vec<GapDocument>,
    kept_from: u64,
    damage: Vec<DamageDocument<'a>>,
}

#[derive(Serialize)]
struct RecordDocument<'a> {
    number: u64,
    term: u64,
    index: u64,
    wall_ms: u64,
    request: String,
    subject: &'a str,
    /// `cluster`, `key`, `local`, `token`.
    subject_kind: &'static str,
    /// The token's id, and that of each time it was attenuated.
    tokens: Vec<String>,
    client: &'a str,
    command: &'a str,
    namespace: Option<&'a str>,
    checkpoint: Option<u64>,
    step: Option<u64>,
    #[serde(rename = "ref")]
    reference: Option<&'a str>,
    node: Option<u64>,
    detail: &'a str,
    /// `accepted`, `committed`, `refused`.
    result: &'static str,
    refusal: Option<String>,
}

#[derive(Serialize)]
struct GapDocument {
    first: u64,
    last: u64,
}

#[derive(Serialize)]
struct DamageDocument<'a> {
    node: u64,
    what: &'a str,
}

fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

pub(super) fn document(found: &Found) -> AuditDocument<'_> {
    fn record(record: &AuditRecord) -> RecordDocument<'_> {
        let (subject_kind, tokens) = match &record.subject {
            AuditSubject::Cluster => ("cluster", Vec::new()),
            AuditSubject::Key => ("key", Vec::new()),
            AuditSubject::Local => ("local", Vec::new()),
            AuditSubject::Token { tokens, .. } => {
                ("token", tokens.iter().map(ToString::to_string).collect())
            }
        };
        let object = &record.object;
        let (result, refusal) = match &record.result {
            AuditResult::Accepted => ("accepted", None),
            AuditResult::Committed => ("committed", None),
            AuditResult::Refused(refusal) => ("refused", Some(refusal.to_string())),
        };
        RecordDocument {
            number: record.number,
            term: record.term,
            index: record.index,
            wall_ms: record.wall_ms,
            request: format!("{:032x}", record.request.0),
            subject: record.subject.name(),
            subject_kind,
            tokens,
            client: &object.client,
            command: &record.command,
            namespace: object.namespace.as_ref().map(Namespace::as_str),
            checkpoint: object.checkpoint.map(|id| id.0),
            step: object.step.map(|step| step.0),
            reference: filled(&object.reference),
            node: object.node.map(|node| node.0),
            detail: &object.detail,
            result,
            refusal,
        }
    }
    let report = &found.report;
    let gap = |gap: &AuditGap| GapDocument { first: gap.first, last: gap.last };
    AuditDocument {
        records: found.records.iter().map(record).collect(),
        omitted: found.omitted,
        gaps: found.gaps.iter().map(gap).collect(),
        kept_from: report.kept_from,
        damage: report
            .damage
            .iter()
            .map(|(node, what)| DamageDocument { node: node.0, what })
            .collect(),
    }
}

/// What a record names, in one cell.
fn object(record: &AuditRecord) -> String {
    let object = &record.object;
    let mut words = Vec::new();
    let step = object.step.map(|step| format!("@{step}")).unwrap_or_default();
    if let Some(namespace) = &object.namespace {
        words.push(format!("{namespace}{step}"));
    } else if let Some(checkpoint) = object.checkpoint {
        words.push(format!("checkpoint {checkpoint}"));
    }
    if let Some(name) = filled(&object.reference) {
        words.push(format!("ref {name}"));
    }
    if let Some(node) = object.node {
        words.push(format!("node {node}"));
    }
    if let Some(detail) = filled(&object.detail) {
        words.push(format!("({detail})"));
    }
    words.join(" ")
}

pub(super) fn text(found: &Found) -> String {
    if found.records.is_empty() && found.gaps.is_empty() {
        return String::new();
    }
    let heads = ["NUMBER", "TIME", "SUBJECT", "COMMAND", "OBJECT", "RESULT"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let mut gaps = found.gaps.iter().peekable();
    let gap_row = |gap: &AuditGap| {
        let count = gap.last - gap.first + 1;
        vec![
            gap.first.to_string(),
            format!("{} missing: no node has them", plural(count, "record")),
        ]
    };
    for record in &found.records {
        while let Some(gap) = gaps.next_if(|gap| gap.first < record.number) {
            rows.push(gap_row(gap));
        }
        let result = match &record.result {
            AuditResult::Accepted => "accepted".to_owned(),
            AuditResult::Committed => "committed".to_owned(),
            AuditResult::Refused(refusal) => format!("refused: {refusal}"),
        };
        rows.push(vec![
            record.number.to_string(),
            wall_time(record.wall_ms),
            record.subject.name().to_owned(),
            record.command.clone(),
            object(record),
            result,
        ]);
    }
    rows.extend(gaps.map(gap_row));
    table(&rows)
}

/// A node, and what it answered.
pub(super) type NodeCheck = (u64, Result<AuditCheck, String>);

async fn verify(
    session: &Session,
    client: &Client,
    nodes: &[&NodeInfo],
    silent: Vec<u64>,
) -> Outcome {
    // First how far each one is: the chains are compared where all of them have been.
    let mut checks: Vec<NodeCheck> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let check = match client.check_audit(&node.address, 0).await {
            // Each node would say the same.
            Err(error @ ClientError::Refused(_)) => return Err(client_failure(error)),
            check => check,
        };
        checks.push((node.id.0, check.map_err(|error| error.to_string())));
    }
    let at = checks.iter().filter_map(|it| it.1.as_ref().ok()).map(|it| it.count).min();
    if let Some(at) = at.filter(|at| *at > 0) {
        for (place, node) in nodes.iter().enumerate().filter(|_| nodes.len() > 1) {
            if checks[place].1.is_ok() {
                let check = client.check_audit(&node.address, at).await;
                checks[place].1 = check.map_err(|error| error.to_string());
            }
        }
    }
    for node in silent {
        checks.push((node, Err("the node is down".to_owned())));
    }
    let verified = Verified { at: at.unwrap_or(0), checks };
    session.output.result(&verify_document(&verified), || verify_text(&verified))?;
    for text in verified.differences() {
        session.output.say(&text);
    }
    if verified.checks.iter().any(|it| it.1.as_ref().is_ok_and(|it| !it.damage.is_empty()))
        || !verified.differences().is_empty()
    {
        let text = "the audit is damaged on some nodes, or they differ";
        return Err(Failure::new(Exit::Damaged, anyhow::anyhow!(text)));
    }
    match verified.checks.iter().filter(|it| it.1.is_err()).count() {
        0 => Ok(Exit::Ok),
        silent => {
            let text = format!("{} did not answer", plural(silent as u64, "node"));
            Err(Failure::new(Exit::Unreachable, anyhow::anyhow!(text)))
        }
    }
}

pub(super) struct Verified {
    /// The record behind which the chains were compared.
    pub at: u64,
    pub checks: Vec<NodeCheck>,
}

impl Verified {
    /// Nodes by their chain behind the same record, where there is more than one such chain.
    fn differences(&self) -> Vec<String> {
        let mut chains: BTreeMap<[u8; 32], Vec<String>> = BTreeMap::new();
        for (node, check) in &self.checks {
            if let Some(hash) = check.as_ref().ok().and_then(|it| it.hash_at) {
                chains.entry(hash).or_default().push(node.to_string());
            }
        }
        if chains.len() < 2 {
            return Vec::new();
        }
        let line = |(hash, nodes): ([u8; 32], Vec<String>)| {
            let (nodes, hash) = (nodes.join(", "), hex::encode(hash));
            format!("behind record {} the chain of node {nodes} is {hash}", self.at)
        };
        chains.into_iter().map(line).collect()
    }
}

/// `audit --verify`.
#[derive(Serialize)]
pub(super) struct VerifyDocument<'a> {
    compared_at: u64,
    agree: bool,
    nodes: Vec<CheckDocument<'a>>,
}

#[derive(Serialize)]
struct CheckDocument<'a> {
    node: u64,
    /// Null if the node answered.
    error: Option<&'a str>,
    records: u64,
    kept_from: u64,
    checked: u64,
    missing: u64,
    gaps: Vec<GapDocument>,
    damage: &'a [String],
    /// Null if the node does not have the record that was compared.
    chain: Option<String>,
}

fn missing(check: &AuditCheck) -> u64 {
    check.gaps.iter().map(|gap| gap.last - gap.first + 1).sum()
}

pub(super) fn verify_document(verified: &Verified) -> VerifyDocument<'_> {
    fn one((node, check): &NodeCheck) -> CheckDocument<'_> {
        let Ok(check) = check else {
            let error = check.as_ref().err().map(String::as_str);
            let (records, kept_from, checked, missing) = Default::default();
            let (gaps, damage, chain) = (Vec::new(), Default::default(), None);
            return CheckDocument {
                node: *node,
                error,
                records,
                kept_from,
                checked,
                missing,
                gaps,
                damage,
                chain,
            };
        };
        let gap = |gap: &AuditGap| GapDocument { first: gap.first, last: gap.last };
        CheckDocument {
            node: *node,
            error: None,
            records: check.count,
            kept_from: check.first,
            checked: check.checked,
            missing: missing(check),
            gaps: check.gaps.iter().map(gap).collect(),
            damage: &check.damage,
            chain: check.hash_at.map(hex::encode),
        }
    }
    VerifyDocument {
        compared_at: verified.at,
        agree: verified.differences().is_empty(),
        nodes: verified.checks.iter().map(one).collect(),
    }
}

pub(super) fn verify_text(verified: &Verified) -> String {
    let heads = ["NODE", "RECORDS", "KEPT FROM", "CHECKED", "MISSING", "CHAIN", "STATE"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let mut below = String::new();
    for (node, check) in &verified.checks {
        let check = match check {
            Ok(check) => check,
            Err(error) => {
                rows.push(vec![node.to_string(), "?".to_owned()]);
                below.push_str(&format!("node {node}: {error}\n"));
                continue;
            }
        };
        let chain = check.hash_at.map(|hash| hex::encode(&hash[..8]));
        rows.push(vec![
            node.to_string(),
            check.count.to_string(),
            check.first.to_string(),
            check.checked.to_string(),
            missing(check).to_string(),
            chain.unwrap_or_else(|| "-".to_owned()),
            if check.damage.is_empty() { "good" } else { "DAMAGED" }.to_owned(),
        ]);
        for gap in &check.gaps {
            let (first, last) = (gap.first, gap.last);
            below.push_str(&format!("node {node}: has not seen records {first} to {last}\n"));
        }
        for damage in &check.damage {
            below.push_str(&format!("node {node}: {damage}\n"));
        }
    }
    if verified.at > 0 {
        below.push_str(&format!("chains compared behind record {}\n", verified.at));
    }
    table(&rows) + &below
}
