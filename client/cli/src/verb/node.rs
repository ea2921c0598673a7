//! `cairn node start|ls|remove`

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use bytesize::ByteSize;
use cairn_core::ids::NodeId;
use cairn_core::model::Settings;
use cairn_node::config::{NodeConfig, Origin, Timings};
use cairn_node::identity::IdentityError;
use cairn_node::node::StartError;
use cairn_node::serve::{ServeConfig, ServeError, serve};
use cairn_proto::wire::NodeInfo;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, table};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(subcommand)]
    verb: NodeVerb,
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
    /// Run a node in the foreground until SIGTERM or SIGINT
    Start(Box<StartArgs>),
    /// List the cluster's nodes
    Ls,
    /// Take a node out of the cluster for good; its replicas are made elsewhere
    Remove {
        /// Node id, as `cairn node ls` shows it
        node: u64,
    },
}

/// Every flag may stand in the file given by --config instead, under its long name with
/// underscores; flags win over the environment, the environment over the file.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StartArgs {
    /// Data directory of this node, one per disk; made if missing
    #[arg(long, env = "CAIRN_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:7400]
    #[arg(long, env = "CAIRN_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address under which others reach this node [default: the listening one]
    #[arg(long, env = "CAIRN_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Failure domain this machine stands in
    #[arg(long, env = "CAIRN_RACK", value_name = "NAME")]
    rack: Option<String>,
    /// This machine's name; two replicas never share one [default: the machine's hostname]
    #[arg(long, env = "CAIRN_HOST", value_name = "NAME")]
    host: Option<String>,
    /// Most bytes of segment files to keep here, such as 10TiB
    #[arg(long, env = "CAIRN_CAPACITY", value_name = "BYTES")]
    capacity: Option<ByteSize>,
    /// Make a new cluster if the data directory is empty
    #[arg(long, env = "CAIRN_BOOTSTRAP", conflicts_with = "join", value_parser = clap::builder::BoolishValueParser::new())]
    bootstrap: bool,
    /// Join the cluster of these nodes if the data directory is empty
    #[arg(long, env = "CAIRN_JOIN", value_name = "HOST:PORT,...", value_delimiter = ',')]
    join: Vec<String>,
    /// With --bootstrap: how long deleted data is kept before its space is given back
    /// [default: 1h]
    #[arg(long, env = "CAIRN_GRACE", value_name = "TIME")]
    #[serde(deserialize_with = "duration")]
    grace: Option<humantime::Duration>,
    /// With --bootstrap: a node silent for this long is down [default: 5s]
    #[arg(long, env = "CAIRN_DOWN_AFTER", value_name = "TIME")]
    #[serde(deserialize_with = "duration")]
    down_after: Option<humantime::Duration>,
    /// With --bootstrap: replicas of a node that stays down this long are made elsewhere
    /// [default: 10m]
    #[arg(long, env = "CAIRN_REPLACE_AFTER", value_name = "TIME")]
    #[serde(deserialize_with = "duration")]
    replace_after: Option<humantime::Duration>,
    /// TOML file with any of these settings
    #[arg(long, env = "CAIRN_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

fn duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<humantime::Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl StartArgs {
    /// Fills what flags and environment left open from the configuration file.
    fn with_file(mut self) -> Result<Self, Failure> {
        let Some(path) = self.config.take() else { return Ok(self) };
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let file: Self = toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        Ok(Self {
            data: self.data.or(file.data),
            listen: self.listen.or(file.listen),
            advertise: self.advertise.or(file.advertise),
            rack: self.rack.or(file.rack),
            host: self.host.or(file.host),
            capacity: self.capacity.or(file.capacity),
            bootstrap: self.bootstrap || (file.bootstrap && self.join.is_empty()),
            join: if self.join.is_empty() { file.join } else { self.join },
            grace: self.grace.or(file.grace),
            down_after: self.down_after.or(file.down_after),
            replace_after: self.replace_after.or(file.replace_after),
            config: None,
        })
    }

    fn checked(self, session: &Session) -> Result<ServeConfig, Failure> {
        let wanted = |name: &str| Failure::usage(format!("node start wants --{name}"));
        let listen = self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7400)));
        let host = match self.host {
            Some(host) => host,
            None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        let defaults = Settings::default();
        let ms = |time: Option<humantime::Duration>, default: u64| {
            time.map_or(default, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        let origin = if self.bootstrap {
            Origin::Bootstrap(Settings {
                grace_ms: ms(self.grace, defaults.grace_ms),
                down_after_ms: ms(self.down_after, defaults.down_after_ms),
                replace_after_ms: ms(self.replace_after, defaults.replace_after_ms),
                ..defaults
            })
        } else if self.join.is_empty() {
            Origin::Resume
        } else {
            Origin::Join(self.join)
        };
        let address = self.advertise.unwrap_or_else(|| listen.to_string());
        if listen.ip().is_unspecified() && address == listen.to_string() {
            return Err(Failure::usage(format!("nobody can reach a node at {address}"))
                .with_hint("give --advertise HOST:PORT beside --listen"));
        }
        Ok(ServeConfig {
            data: self.data.ok_or_else(|| wanted("data"))?,
            listen,
            key: session.key.clone(),
            insecure: session.global.insecure,
            node: NodeConfig {
                address,
                host,
                rack: self.rack.ok_or_else(|| wanted("rack"))?,
                capacity_bytes: self.capacity.ok_or_else(|| wanted("capacity"))?.as_u64(),
                origin,
                peers: Vec::new(),
                timings: Timings::default(),
            },
        })
    }
}

pub fn run(session: &Session, args: NodeArgs) -> Outcome {
    match args.verb {
        NodeVerb::Start(args) => start(session, *args),
        NodeVerb::Ls => list(session),
        NodeVerb::Remove { node } => remove(session, node),
    }
}

fn start(session: &Session, args: StartArgs) -> Outcome {
    cairn_proto::host::abort_on_panic();
    // openraft tells every step in long lines; its warnings are enough.
    session.log_by_default("info,openraft=warn");
    let config = args.with_file()?.checked(session)?;
    let output = session.output;
    let served = session.runtime()?.block_on(async {
        let stop = crate::session::stop_signal()?;
        let ready = move |address| output.say(format!("node serves at {address}"));
        Ok(serve(config, Box::pin(stop), Box::new(ready)).await)
    });
    let served: Result<(), ServeError> = served.map_err(|error: std::io::Error| anyhow!(error))?;
    served.map(|()| Exit::Ok).map_err(serve_failure)
}

fn serve_failure(error: ServeError) -> Failure {
    let exit = match &error {
        ServeError::OpenToAll(_) | ServeError::Start(StartError::Empty | StartError::Config(_)) => {
            Exit::Usage
        }
        ServeError::Start(StartError::Join(_)) => Exit::Unreachable,
        ServeError::Start(StartError::Identity(IdentityError::Io { .. })) => Exit::Failed,
        ServeError::Start(StartError::Identity(_) | StartError::Refused(_)) => Exit::Refused,
        ServeError::MustNotComeBack(_) => Exit::Refused,
        _ => Exit::Failed,
    };
    let hint = match &error {
        ServeError::Start(StartError::Identity(_) | StartError::Refused(_))
        | ServeError::MustNotComeBack(_) => {
            Some("start on an empty directory with --join to come in as a new node")
        }
        ServeError::Listen { .. } => Some("another process may be using the port"),
        _ => None,
    };
    let failure = Failure::new(exit, error);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

fn list(session: &Session) -> Outcome {
    let status = session.with_client(async |client| client.status().await)?;
    let nodes: Vec<_> = status.nodes.iter().map(|node| document(node, status.leader)).collect();
    session.output.result(&nodes, || node_table(&status.nodes, status.leader));
    Ok(Exit::Ok)
}

/// One node as JSON.
pub fn document(node: &NodeInfo, leader: u64) -> serde_json::Value {
    json!({
        "id": node.id,
        "host": node.host,
        "rack": node.rack,
        "address": node.address,
        "state": state(node),
        "role": role(node, leader),
        "capacity_bytes": node.capacity_bytes,
        "available_bytes": node.available_bytes,
        "replicas_durable": node.replicas_durable,
        "replicas_assigned": node.replicas_assigned,
        "bytes": node.bytes_durable,
    })
}

fn state(node: &NodeInfo) -> &'static str {
    match node {
        NodeInfo { removed: true, .. } => "removed",
        NodeInfo { up: false, .. } => "down",
        NodeInfo { inventoried: false, .. } => "starting",
        _ => "up",
    }
}

fn role(node: &NodeInfo, leader: u64) -> &'static str {
    match node {
        _ if node.id == leader => "leader",
        NodeInfo { voter: true, .. } => "voter",
        _ => "learner",
    }
}

pub fn node_table(nodes: &[NodeInfo], leader: u64) -> String {
    let heads =
        ["NODE", "STATE", "ROLE", "RACK", "HOST", "ADDRESS", "REPLICAS", "DATA", "CAPACITY"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for node in nodes {
        let pending = match node.replicas_assigned {
            0 => String::new(),
            assigned => format!(" (+{assigned} to come)"),
        };
        rows.push(vec![
            node.id.to_string(),
            state(node).to_owned(),
            role(node, leader).to_owned(),
            node.rack.clone(),
            node.host.clone(),
            node.address.clone(),
            format!("{}{pending}", node.replicas_durable),
            bytes(node.bytes_durable),
            bytes(node.capacity_bytes),
        ]);
    }
    table(&rows)
}

fn remove(session: &Session, node: u64) -> Outcome {
    session.with_client(async |client| client.remove_node(NodeId(node)).await).map_err(
        |failure| match failure.exit {
            Exit::Refused => client_failure_not_found(failure),
            _ => failure,
        },
    )?;
    session.output.result(&json!({"removed": node}), || {
        format!("node {node} is removed; its replicas are being made elsewhere\n")
    });
    Ok(Exit::Ok)
}

fn client_failure_not_found(failure: Failure) -> Failure {
    Failure { exit: Exit::NotFound, ..failure }.with_hint("`cairn node ls` lists the nodes")
}
