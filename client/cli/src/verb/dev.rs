//! `cairn dev`: a three-node cluster on this machine, in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytesize::ByteSize;
use clap::Args;

use crate::children::{Cluster, ClusterPlan};
use crate::exit::{Exit, Failure, Outcome};
use crate::session::{Session, client_failure, stop_signal};

/// Nodes get this long to stop by themselves.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Directory of the nodes' data and logs; a second run goes on with it
    #[arg(long, env = "CAIRN_DEV_DIR", value_name = "DIR", default_value = "cairn-dev")]
    dir: PathBuf,
    /// Port of the first node; the others follow
    #[arg(long, env = "CAIRN_DEV_PORT", value_name = "PORT", default_value_t = 7400)]
    port: u16,
    /// Nodes, each in a rack of its own
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Most bytes of segment files per node
    #[arg(long, value_name = "BYTES", default_value = "100GiB")]
    capacity: ByteSize,
}

pub fn run(session: &Session, args: DevArgs) -> Outcome {
    std::fs::create_dir_all(&args.dir).with_context(|| format!("create {}", args.dir.display()))?;
    let mut cluster = Cluster::plan(&ClusterPlan {
        program: std::env::current_exe().context("find this program")?,
        directory: args.dir.clone(),
        nodes: usize::from(args.nodes),
        port: Some(args.port),
        capacity_bytes: args.capacity.as_u64(),
        extra: Vec::new(),
    })?;
    let endpoints = cluster.endpoints();
    let output = session.output;
    session.runtime()?.block_on(async {
        let stop = stop_signal().context("listen for signals")?;
        cluster.start()?;
        let client = session.client_of(&endpoints)?;
        tokio::pin!(stop);
        let ready = async {
            let status = loop {
                let status = client.status().await.map_err(client_failure)?;
                let voters = [1, 1, 3, 3, 5][usize::from(args.nodes.min(5)) - 1];
                let in_service = status.nodes.iter().filter(|node| node.inventoried).count();
                if in_service == usize::from(args.nodes) && status.voters >= voters {
                    break status;
                }
                tokio::time::sleep(LOOK_PERIOD).await;
            };
            output.say(format!(
                "cluster of {} is up; data in {}",
                crate::output::plural(status.nodes.len() as u64, "node"),
                args.dir.display()
            ));
            for node in &cluster.nodes {
                output.say(format!("  {} in {} at {}", node.name, node.rack, node.address));
            }
            output.say(format!("try:  cairn -e {} status", endpoints[0]));
            output.say("Ctrl-C stops it");
            Ok::<(), Failure>(())
        };
        tokio::select! {
            biased;
            () = &mut stop => {}
            result = ready => result?,
        }
        let watch = async {
            loop {
                tokio::time::sleep(LOOK_PERIOD).await;
                let Some(node) = cluster.fallen() else { continue };
                let tail = node.log_tail();
                let (name, log) = (node.name.clone(), node.log.display().to_string());
                node.forget();
                if cluster.nodes.iter_mut().all(|node| !node.is_running()) {
                    return Failure::new(Exit::Failed, anyhow!("{name} ended:\n{tail}"))
                        .with_hint(format!("its whole log is {log}"));
                }
                output.say(format!("{name} ended; the others go on (its log is {log})"));
            }
        };
        let fallen = tokio::select! {
            biased;
            () = &mut stop => None,
            failure = watch => Some(failure),
        };
        output.say("stopping");
        cluster.stop(STOP_DEADLINE)?;
        match fallen {
            Some(failure) => Err(failure),
            None => Ok(Exit::Ok),
        }
    })
}
