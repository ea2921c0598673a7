//! `cairn node remove`: what goes with a node is said first, and refused where it must not go.

use cairn_client::{NodeInfo, RemovalPlan};
use cairn_types::command::Accept;
use clap::Args;
use serde::Serialize;

use super::named;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural};
use crate::session::{Session, client_failure, interruptible};

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Node id, host or address, as `cairn node ls` shows them
    #[arg(value_name = "NODE")]
    node: String,
    /// Print the effect without removing the node
    #[arg(long, env = "CAIRN_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
    /// Remove the node even if segments are lost
    #[arg(long)]
    accept_data_loss: bool,
    /// Remove the node even if fewer hosts stay up than replicas are wanted
    #[arg(long)]
    accept_fewer_hosts: bool,
}

pub fn run(session: &Session, args: RemoveArgs) -> Outcome {
    session.runtime()?.block_on(async {
        let client = session.client()?;
        let accept =
            Accept { data_loss: args.accept_data_loss, fewer_hosts: args.accept_fewer_hosts };
        interruptible(async {
            session.survey(&client).await?;
            let status = client.status().await.map_err(client_failure)?;
            let node = named::find(&status.nodes, &args.node)?;
            let id = node.id;
            if node.removed {
                let document = RemoveDocument { removed: id.0, host: &node.host, before: true };
                let said = || format!("node {id} ({}) is already removed\n", node.host);
                session.output.result(&document, said)?;
                return Ok(Exit::Ok);
            }
            if args.dry_run {
                let plan = client.plan_removal(id, accept).await.map_err(client_failure)?;
                session.output.result(&document(node, &plan), || text(node, &plan))?;
                return match plan.refused {
                    None => Ok(Exit::Ok),
                    Some(refusal) => Err(client_failure(refusal.into())),
                };
            }
            client.remove_node(id, accept).await.map_err(client_failure)?;
            let document = RemoveDocument { removed: id.0, host: &node.host, before: false };
            session.output.result(&document, || {
                format!(
                    "node {id} ({}) is removed; other nodes are making its replicas\n",
                    node.host
                )
            })?;
            Ok::<Exit, Failure>(Exit::Ok)
        })
        .await
    })
}

/// `node remove`.
#[derive(Serialize)]
struct RemoveDocument<'a> {
    /// The node's id.
    removed: u64,
    host: &'a str,
    /// Whether it was already removed.
    before: bool,
}

/// `node remove --dry-run`.
#[derive(Serialize)]
struct PlanDocument<'a> {
    node: u64,
    host: &'a str,
    /// Why the removal would be refused, or null.
    refused: Option<String>,
    votes: bool,
    leads: bool,
    voters_after: Vec<u64>,
    /// Its replicas, which other nodes make anew.
    segments: u64,
    bytes: u64,
    /// Of these, segments without another replica.
    segments_lost: u64,
    bytes_lost: u64,
}

fn document<'a>(node: &'a NodeInfo, plan: &RemovalPlan) -> PlanDocument<'a> {
    PlanDocument {
        node: node.id.0,
        host: &node.host,
        refused: plan.refused.as_ref().map(ToString::to_string),
        votes: plan.votes,
        leads: plan.leads,
        voters_after: plan.voters.iter().map(|id| id.0).collect(),
        segments: plan.segments,
        bytes: plan.bytes,
        segments_lost: plan.segments_lost,
        bytes_lost: plan.bytes_lost,
    }
}

fn text(node: &NodeInfo, plan: &RemovalPlan) -> String {
    let vote = match plan {
        RemovalPlan { refused: Some(_), .. } => "stays: the removal would be refused".to_owned(),
        RemovalPlan { votes: false, .. } => "none".to_owned(),
        RemovalPlan { leads, voters, .. } => {
            let ids: Vec<String> = voters.iter().map(ToString::to_string).collect();
            let first = if *leads { "leadership moves first; " } else { "" };
            format!("{first}voters afterwards: {}", ids.join(", "))
        }
    };
    let lost = match plan.segments_lost {
        0 => "nothing".to_owned(),
        count => format!("{}, {}", plural(count, "segment"), bytes(plan.bytes_lost)),
    };
    format!(
        "node {} ({}) would be removed\nvote      {vote}\nreplicas  {}, {}, to be made on other nodes\nlost      {lost}\n",
        node.id,
        node.host,
        plural(plan.segments, "segment"),
        bytes(plan.bytes),
    )
}

#[cfg(test)]
mod tests {
    use cairn_client::NodeId;

    use super::*;

    #[test]
    fn a_plan_says_who_votes_then_and_what_is_lost() {
        let node = named::member(2, "h2");
        let plan = RemovalPlan {
            refused: None,
            votes: true,
            leads: true,
            voters: vec![NodeId(1), NodeId(4)],
            segments: 3,
            bytes: 1 << 20,
            segments_lost: 0,
            bytes_lost: 0,
        };
        let said = text(&node, &plan);
        assert!(said.contains("leadership moves first; voters afterwards: 1, 4"), "{said}");
        assert!(said.contains("lost      nothing"), "{said}");
        let said = text(&node, &RemovalPlan { segments_lost: 1, bytes_lost: 1024, ..plan });
        assert!(said.contains("lost      1 segment, 1.0 KiB"), "{said}");
    }
}
