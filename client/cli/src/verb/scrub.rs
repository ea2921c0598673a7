//! `cairn scrub status|start|pause|resume`: nodes read their replicas again.

use std::time::Duration;

use cairn_client::{Client, NodeInfo, ScrubOrder, ScrubStatus};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::node::named;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural, table, wall_time};
use crate::session::{Session, client_failure, interruptible};

/// A pause of a node ends after this time at the latest.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 86_400);

#[derive(Debug, Args)]
pub struct ScrubArgs {
    #[command(subcommand)]
    verb: ScrubVerb,
}

#[derive(Debug, Subcommand)]
enum ScrubVerb {
    /// Show what was read, what is to be read, and what was bad
    Status(NodeChoice),
    /// Read every replica once, now, at up to 64 MiB a second; clients go first
    Start(NodeChoice),
    /// Read nothing for a while; the scrub goes on by itself afterwards
    Pause {
        /// For so long, 7 days at most
        #[arg(long = "for", value_name = "TIME")]
        lasts: humantime::Duration,
        #[command(flatten)]
        node: NodeChoice,
    },
    /// End a pause
    Resume(NodeChoice),
}

#[derive(Debug, Args)]
struct NodeChoice {
    /// Node id, host or address, as `cairn node ls` shows them [default: every node that is up]
    #[arg(value_name = "NODE")]
    node: Option<String>,
}

pub fn run(session: &Session, args: ScrubArgs) -> Outcome {
    let (order, choice) = match args.verb {
        ScrubVerb::Status(choice) => (None, choice),
        ScrubVerb::Start(choice) => (Some(ScrubOrder::Start), choice),
        ScrubVerb::Pause { lasts, node } => {
            let lasts = Duration::from(lasts);
            if lasts.is_zero() || lasts > PAUSE_MAX {
                return Err(Failure::usage("--for: a pause lasts 7 days at most, and not 0s"));
            }
            (Some(ScrubOrder::Pause(lasts)), node)
        }
        ScrubVerb::Resume(choice) => (Some(ScrubOrder::Resume), choice),
    };
    session.runtime()?.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            each(session, &client, order, choice.node.as_deref()).await
        })
        .await
    })
}

async fn each(
    session: &Session,
    client: &Client,
    order: Option<ScrubOrder>,
    node: Option<&str>,
) -> Outcome {
    let status = client.status().await.map_err(client_failure)?;
    let nodes: Vec<&NodeInfo> = match node {
        Some(text) => vec![named::find(&status.nodes, text)?],
        None => status.nodes.iter().filter(|node| !node.removed).collect(),
    };
    let mut answers = Vec::with_capacity(nodes.len());
    for node in nodes {
        let answer = match node.up {
            true => client.scrub(&node.address, order).await.map_err(|error| error.to_string()),
            false => Err("the node is down".to_owned()),
        };
        answers.push((node.id.0, answer));
    }
    session.output.result(&document(&answers), || text(&answers))?;
    let off = answers.iter().filter(|it| matches!(&it.1, Ok(scrub) if scrub.period_ms.is_none()));
    let (off, silent) = (off.count(), answers.iter().filter(|it| it.1.is_err()).count());
    if off > 0 && order.is_some() {
        let text = format!("{} not scrub: --scrub-every off", does(off));
        return Err(Failure::new(Exit::Refused, anyhow::anyhow!(text)));
    }
    if silent > 0 {
        let text = format!("{} did not answer", plural(silent as u64, "node"));
        return Err(Failure::new(Exit::Unreachable, anyhow::anyhow!(text)));
    }
    Ok(Exit::Ok)
}

fn does(nodes: usize) -> String {
    match nodes {
        1 => "1 node does".to_owned(),
        nodes => format!("{nodes} nodes do"),
    }
}

type NodeAnswer = (u64, Result<ScrubStatus, String>);

/// `scrub`.
#[derive(Serialize)]
pub(super) struct ScrubDocument<'a> {
    nodes: Vec<ScrubRecord<'a>>,
}

#[derive(Serialize)]
struct ScrubRecord<'a> {
    node: u64,
    /// `reading`, `idle`, `paused`, `off`; null without an answer.
    state: Option<&'static str>,
    /// Null if the node answered.
    error: Option<&'a str>,
    /// Null without an answer, and if the node does not scrub.
    period_ms: Option<u64>,
    pass_since_ms: Option<u64>,
    paused_until_ms: Option<u64>,
    complete_ms: Option<u64>,
    replicas: u64,
    bytes: u64,
    verified: u64,
    verified_bytes: u64,
    ripe: u64,
    ripe_bytes: u64,
    late: u64,
    oldest_ms: Option<u64>,
    bytes_per_s: u64,
    bad: u64,
    faults: Vec<FaultRecord>,
}

#[derive(Serialize)]
struct FaultRecord {
    digest: String,
    at_ms: u64,
}

pub(super) fn document(answers: &[NodeAnswer]) -> ScrubDocument<'_> {
    fn record((node, answer): &NodeAnswer) -> ScrubRecord<'_> {
        let none = ScrubStatus::default();
        let scrub = answer.as_ref().unwrap_or(&none);
        let fault = |it: &(_, u64)| FaultRecord { digest: ToString::to_string(&it.0), at_ms: it.1 };
        ScrubRecord {
            node: *node,
            state: answer.as_ref().ok().map(state),
            error: answer.as_ref().err().map(String::as_str),
            period_ms: scrub.period_ms,
            pass_since_ms: scrub.pass_since_ms,
            paused_until_ms: scrub.paused_until_ms,
            complete_ms: scrub.complete_ms,
            replicas: scrub.replicas,
            bytes: scrub.bytes,
            verified: scrub.verified,
            verified_bytes: scrub.verified_bytes,
            ripe: scrub.ripe,
            ripe_bytes: scrub.ripe_bytes,
            late: scrub.late,
            oldest_ms: scrub.oldest_ms,
            bytes_per_s: scrub.bytes_per_s,
            bad: scrub.bad,
            faults: scrub.faults.iter().map(fault).collect(),
        }
    }
    ScrubDocument { nodes: answers.iter().map(record).collect() }
}

fn state(scrub: &ScrubStatus) -> &'static str {
    match scrub {
        ScrubStatus { period_ms: None, .. } => "off",
        ScrubStatus { paused_until_ms: Some(_), .. } => "paused",
        ScrubStatus { ripe: 0, .. } => "idle",
        _ => "reading",
    }
}

pub(super) fn text(answers: &[NodeAnswer]) -> String {
    let heads = ["NODE", "STATE", "REPLICAS", "READ", "LEFT", "TIME LEFT", "OLDEST", "LATE", "BAD"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let mut below = String::new();
    for (node, answer) in answers {
        let scrub = match answer {
            Ok(scrub) => scrub,
            Err(error) => {
                rows.push(vec![node.to_string(), "?".to_owned()]);
                below.push_str(&format!("node {node}: {error}\n"));
                continue;
            }
        };
        let seconds = scrub.ripe_bytes.checked_div(scrub.bytes_per_s);
        rows.push(vec![
            node.to_string(),
            state(scrub).to_owned(),
            scrub.replicas.to_string(),
            percent(scrub.verified_bytes, scrub.bytes),
            bytes(scrub.ripe_bytes),
            seconds.map_or("-".to_owned(), |seconds| short(seconds * 1_000)),
            scrub.oldest_ms.map_or("-".to_owned(), short),
            scrub.late.to_string(),
            scrub.bad.to_string(),
        ]);
        if let Some(until) = scrub.paused_until_ms {
            below.push_str(&format!("node {node}: paused until {}\n", wall_time(until)));
        }
        for (digest, at_ms) in &scrub.faults {
            let at = wall_time(*at_ms);
            below.push_str(&format!("node {node}: {at} segment {digest} was bad\n"));
        }
    }
    table(&rows) + &below
}

/// Rounded down: 100 means all.
fn percent(part: u64, whole: u64) -> String {
    let percent = part.saturating_mul(100).checked_div(whole);
    percent.map_or("-".to_owned(), |percent| format!("{percent} %"))
}

/// The largest unit alone, such as `13d`.
fn short(ms: u64) -> String {
    let seconds = ms / 1_000;
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.iter().find(|(unit, _)| seconds >= *unit);
    unit.map_or(format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}
