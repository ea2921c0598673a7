//! `cairn dev`: a three-node cluster on this machine, in the foreground.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytesize::ByteSize;
use clap::Args;

use crate::children::{Cluster, ClusterPlan};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::plural;
use crate::own_cluster::{self, InUse, key_flags, own_key};
use crate::session::{Session, stop_signal};

/// Nodes get this long to stop by themselves.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Directory for the nodes' data and logs; a second run continues with it
    #[arg(long, env = "CAIRN_DEV_DIR", value_name = "DIR", default_value = "cairn-dev")]
    dir: PathBuf,
    /// Port of the first node; the others use the next ports
    #[arg(long, env = "CAIRN_DEV_PORT", value_name = "PORT", default_value_t = 7400)]
    port: u16,
    /// Number of nodes, each in its own rack
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Maximum bytes of segment files per node
    #[arg(long, value_name = "BYTES", default_value = "100GiB")]
    capacity: ByteSize,
}

pub fn run(session: &Session, args: DevArgs) -> Outcome {
    let key = own_key(session)?;
    std::fs::create_dir_all(&args.dir).with_context(|| format!("create {}", args.dir.display()))?;
    let last = args.port.saturating_add(args.nodes - 1);
    let note = format!("{}, ports {} to {last}", own_cluster::note(), args.port);
    let _in_use = InUse::claim(&args.dir, &note)?.map_err(|who| {
        let error = anyhow!("`cairn dev` is already running in {}: {who}", args.dir.display());
        Failure::new(Exit::Failed, error).with_hint("use --dir and --port to run another cluster")
    })?;
    let mut cluster = Cluster::plan(&ClusterPlan {
        program: std::env::current_exe().context("find this program")?,
        directory: args.dir.clone(),
        nodes: usize::from(args.nodes),
        port: Some(args.port),
        capacity_bytes: args.capacity.as_u64(),
        extra: key_flags(session, key.as_ref()),
    })?;
    let output = session.output;
    session.runtime()?.block_on(async {
        let stop = stop_signal().context("listen for signals")?;
        if let Some(address) = cluster.taken_address() {
            return Err(own_cluster::taken(&cluster, address, key).await);
        }
        output.say(format!(
            "starting {}; data in {}",
            plural(args.nodes.into(), "node"),
            args.dir.display()
        ));
        cluster.start()?;
        let has_key = key.is_some();
        let client = own_cluster::client(session, &cluster, key)?;
        let run = async {
            let voters = [1, 1, 3, 3, 5][usize::from(args.nodes.min(5)) - 1];
            let status = own_cluster::ready(&mut cluster, &client, voters).await?;
            output.say(format!("cluster of {} is up", plural(cluster.nodes.len() as u64, "node")));
            for node in &cluster.nodes {
                // Ids are given in the order in which nodes join: `status` knows no other number.
                let address = node.address.to_string();
                let id =
                    status.nodes.iter().find(|it| it.address == address).map_or(0, |it| it.id.0);
                let (rack, name) = (&node.rack, &node.name);
                output.say(format!("  node {id} in {rack} at {address}, data in {name}"));
            }
            output.say(format!("try:  {}", next_command(session, &cluster, has_key)));
            output.say("Ctrl-C stops the cluster");
            watch(session, &mut cluster).await
        };
        let result = tokio::select! {
            biased;
            () = stop => Ok(Exit::Ok),
            failure = run => failure,
        };
        output.say("stopping");
        cluster.stop(STOP_DEADLINE)?;
        result
    })
}

/// A first command, whatever the environment says of another cluster. A key remembers the first
/// cluster that answers: the command names this one, so that a key of real nodes does not take it
/// for theirs.
fn next_command(session: &Session, cluster: &Cluster, has_key: bool) -> String {
    // A variable that names a missing file stops every other verb.
    let is_key_missing = session.global.cluster_key.is_some() && !has_key;
    let unset = if is_key_missing { "env -u CAIRN_CLUSTER_KEY " } else { "" };
    let mut command = format!("{unset}cairn");
    command.push_str(&format!(" -e {}", cluster.nodes[0].address));
    if has_key || session.global.cluster.is_some() {
        command.push_str(&format!(" --cluster {}", cluster.id));
    }
    command + " status"
}

/// Waits for nodes that end. One that was killed is a trial of failure, and the others go on; one
/// that ends by itself ends the cluster.
async fn watch(session: &Session, cluster: &mut Cluster) -> Outcome {
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        let Some(node) = cluster.fallen() else { continue };
        let status = node.wait(Duration::ZERO)?;
        let (name, log) = (node.name.clone(), node.log.display().to_string());
        let tail = node.log_tail();
        let killed = status.is_some_and(|status| status.signal().is_some());
        if !killed || cluster.nodes.iter_mut().all(|node| !node.is_running()) {
            return Err(Failure::new(Exit::Failed, anyhow!("{name} ended:\n{tail}"))
                .with_hint(format!("its full log is {log}")));
        }
        session
            .output
            .say(format!("{name} was killed; the others keep running (its log is {log})"));
    }
}
