//! `cairn node drain`, `maintain` and `resume`.

use std::time::Duration;

use anyhow::anyhow;
use cairn_client::{
    Client, DrainPlan, MAINTENANCE_MAX, NewDuty, NodeDuty, NodeId, NodeInfo, Refusal, Share,
};
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::named;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural};
use crate::session::{Session, client_failure, interruptible};

/// How often the cluster is asked how far a drain is.
const LOOK: Duration = Duration::from_millis(500);
/// How often a person is told.
const SAY: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Node id, host or address, as `cairn node ls` shows them
    #[arg(value_name = "NODE")]
    node: String,
    /// Print what would move, where to, and what has no place, without draining the node
    #[arg(long, visible_alias = "plan", env = "CAIRN_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    /// Wait until nothing in use is left on the node, at most for this long (then exit with code 8)
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "7d", conflicts_with = "dry_run")]
    wait: Option<humantime::Duration>,
}

#[derive(Debug, Args)]
pub struct MaintainArgs {
    /// Node id, host or address, as `cairn node ls` shows them
    #[arg(value_name = "NODE")]
    node: String,
    /// How long its replicas are waited for, at most 7d
    #[arg(long = "for", value_name = "TIME")]
    time: humantime::Duration,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Node id, host or address, as `cairn node ls` shows them
    #[arg(value_name = "NODE")]
    node: String,
}

/// A node that an operator gave another duty.
#[derive(Serialize)]
struct DutyDocument<'a> {
    node: u64,
    host: &'a str,
    /// `serving`, `draining` or `maintenance`.
    duty: &'static str,
    /// Of a draining node: segments in use that are still on it, or null.
    draining_segments: Option<u64>,
    draining_bytes: Option<u64>,
    maintenance_left_ms: Option<u64>,
}

impl<'a> DutyDocument<'a> {
    fn new(node: &'a NodeInfo) -> Self {
        let (mut segments, mut held, mut left) = (None, None, None);
        match node.duty {
            NodeDuty::Draining { segments: count, bytes } => {
                (segments, held) = (Some(count), Some(bytes));
            }
            NodeDuty::Maintenance { left_ms } => left = Some(left_ms),
            _ => {}
        }
        Self {
            node: node.id.0,
            host: &node.host,
            duty: node.duty.word(),
            draining_segments: segments,
            draining_bytes: held,
            maintenance_left_ms: left,
        }
    }
}

pub fn drain(session: &Session, args: DrainArgs) -> Outcome {
    session.runtime()?.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            let node = looked_up(&client, &args.node).await?;
            if args.dry_run {
                let plan = client.plan_drain(node.id).await.map_err(client_failure)?;
                session
                    .output
                    .result(&drain_document(&node, &plan), || drain_text(&node, &plan))?;
                return match plan.refused {
                    None => Ok(Exit::Ok),
                    Some(refusal) => Err(refused(refusal)),
                };
            }
            client.set_duty(node.id, NewDuty::Drain).await.map_err(|error| {
                match error.refusal() {
                    Some(refusal) => refused(refusal.clone()),
                    None => client_failure(error),
                }
            })?;
            let node = match args.wait {
                None => by_id(&client, node.id).await?,
                Some(time) => drained(session, &client, node.id, time).await?,
            };
            session.output.result(&DutyDocument::new(&node), || {
                duty_line(&node).unwrap_or_default() + "\n"
            })?;
            Ok::<Exit, Failure>(Exit::Ok)
        })
        .await
    })
}

/// No flag overrides it: the drain could not end.
fn refused(refusal: Refusal) -> Failure {
    let is_small = matches!(refusal, Refusal::TooFewHosts { .. });
    let failure = client_failure(refusal.into());
    if is_small { failure.with_hint("join another node on another host first") } else { failure }
}

/// Waits until nothing in use is left on a draining node.
async fn drained(
    session: &Session,
    client: &Client,
    node: NodeId,
    time: humantime::Duration,
) -> Result<NodeInfo, Failure> {
    let end = Instant::now() + Duration::from(time);
    let mut say_next = Instant::now();
    let mut last;
    loop {
        match by_id(client, node).await {
            Ok(node) => match node.duty {
                NodeDuty::Draining { segments: 0, .. } => return Ok(node),
                NodeDuty::Draining { segments, bytes: held } => {
                    last = format!("{}, {} left", plural(segments, "segment"), bytes(held));
                }
                _ => {
                    let text = format!("the drain of node {} was ended by somebody", node.id);
                    return Err(Failure::new(Exit::Failed, anyhow!(text)));
                }
            },
            // A leader may be lost on the way.
            Err(failure) if failure.exit == Exit::Unreachable => last = failure.error.to_string(),
            Err(failure) => return Err(failure),
        }
        if Instant::now() >= end {
            let text = format!("waiting for the drain timed out after {time}: {last}");
            return Err(Failure::new(Exit::BelowPolicy, anyhow!(text)).with_hint(
                "it goes on; `cairn node drain NODE --dry-run` says what has no place",
            ));
        }
        if Instant::now() >= say_next {
            session.output.say(format!("draining node {node}: {last}"));
            say_next = Instant::now() + SAY;
        }
        sleep(LOOK).await;
    }
}

pub fn maintain(session: &Session, args: &MaintainArgs) -> Outcome {
    let time = Duration::from(args.time);
    if time.as_millis() == 0 || time > MAINTENANCE_MAX {
        return Err(Failure::usage(format!("--for {} is not between 1ms and 7d", args.time)));
    }
    let for_ms = time.as_millis() as u64;
    set(session, &args.node, NewDuty::Maintain { for_ms })
}

pub fn resume(session: &Session, args: &ResumeArgs) -> Outcome {
    set(session, &args.node, NewDuty::Serve)
}

fn set(session: &Session, name: &str, duty: NewDuty) -> Outcome {
    session.runtime()?.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            let node = looked_up(&client, name).await?;
            client.set_duty(node.id, duty).await.map_err(client_failure)?;
            let node = by_id(&client, node.id).await?;
            session.output.result(&DutyDocument::new(&node), || match duty_line(&node) {
                Some(line) => line + "\n",
                None => format!("node {} ({}) serves again\n", node.id, node.host),
            })?;
            Ok::<Exit, Failure>(Exit::Ok)
        })
        .await
    })
}

async fn looked_up(client: &Client, name: &str) -> Result<NodeInfo, Failure> {
    let status = client.status().await.map_err(client_failure)?;
    named::find(&status.nodes, name).cloned()
}

async fn by_id(client: &Client, id: NodeId) -> Result<NodeInfo, Failure> {
    looked_up(client, &id.to_string()).await
}

/// What a person is told of a node that does not just serve.
pub fn duty_line(node: &NodeInfo) -> Option<String> {
    let name = format!("node {} ({})", node.id, node.host);
    match node.duty {
        NodeDuty::Draining { segments: 0, .. } => {
            Some(format!("{name} is drained: `cairn node remove {}` removes it", node.id))
        }
        NodeDuty::Draining { segments, bytes: held } => Some(format!(
            "{name} is draining: {}, {} left",
            plural(segments, "segment"),
            bytes(held)
        )),
        NodeDuty::Maintenance { left_ms } => {
            let left = Duration::from_secs(left_ms.div_ceil(1_000));
            Some(format!("{name} is in maintenance for {}", humantime::format_duration(left)))
        }
        _ => None,
    }
}

/// `node drain --dry-run`.
#[derive(Serialize)]
pub struct DrainDocument<'a> {
    node: u64,
    host: &'a str,
    /// Why the drain would be refused, or null.
    refused: Option<String>,
    votes: bool,
    leads: bool,
    /// Replicas to move.
    segments: u64,
    bytes: u64,
    /// What each other node would get.
    targets: Vec<TargetRecord>,
    /// What has no place now.
    obstacles: Vec<ObstacleRecord>,
    /// Replicas for which a place was looked for.
    looked_at: u64,
}

#[derive(Serialize)]
struct TargetRecord {
    node: u64,
    segments: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct ObstacleRecord {
    reason: String,
    segments: u64,
    bytes: u64,
}

pub fn drain_document<'a>(node: &'a NodeInfo, plan: &DrainPlan) -> DrainDocument<'a> {
    let target = |(node, share): &(NodeId, Share)| TargetRecord {
        node: node.0,
        segments: share.segments,
        bytes: share.bytes,
    };
    let obstacle = |(reason, share): &(Refusal, Share)| ObstacleRecord {
        reason: reason.to_string(),
        segments: share.segments,
        bytes: share.bytes,
    };
    DrainDocument {
        node: node.id.0,
        host: &node.host,
        refused: plan.refused.as_ref().map(ToString::to_string),
        votes: plan.votes,
        leads: plan.leads,
        segments: plan.segments,
        bytes: plan.bytes,
        targets: plan.targets.iter().map(target).collect(),
        obstacles: plan.obstacles.iter().map(obstacle).collect(),
        looked_at: plan.looked_at,
    }
}

pub fn drain_text(node: &NodeInfo, plan: &DrainPlan) -> String {
    let share =
        |share: Share| format!("{}, {}", plural(share.segments, "segment"), bytes(share.bytes));
    let held = Share { segments: plan.segments, bytes: plan.bytes };
    let vote = match plan {
        DrainPlan { votes: false, .. } => "none",
        DrainPlan { leads: true, .. } => "leadership and vote move if another node can vote",
        _ => "moves if another node can vote",
    };
    let mut text = format!(
        "node {} ({}) would be drained\nvote      {vote}\nreplicas  {}, to be made on other nodes\n",
        node.id,
        node.host,
        share(held)
    );
    for (target, part) in &plan.targets {
        text += &format!("  node {target}  {}\n", share(*part));
    }
    if plan.looked_at < plan.segments {
        text += &format!("  places were looked for the first {} alone\n", plan.looked_at);
    }
    for (reason, part) in &plan.obstacles {
        text += &format!("no place  {}: {reason}\n", share(*part));
    }
    if let Some(refusal) = &plan.refused {
        text += &format!("refused   {refusal}\n");
    }
    text
}
