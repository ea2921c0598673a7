//! `cairn node start|ls|drain|maintain|resume|remove|wait|quarantine`

mod duty;
mod list;
pub(super) mod named;
mod quarantine;
mod remove;
mod wait;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytesize::ByteSize;
use cairn_node::audit::AuditConfig;
use cairn_node::config::{NodeConfig, Origin, Timings};
use cairn_node::identity::IdentityError;
use cairn_node::node::StartError;
use cairn_node::serve::{ServeConfig, ServeError, Told, serve};
use cairn_types::command::{FEATURE_LEVEL, Refusal};
use cairn_types::ids::{ClusterId, NodeId, check_host_port};
use cairn_types::model::Settings;
use clap::{Args, Subcommand};
use serde::Deserialize;
use tokio::runtime::Runtime;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::bytes;
use crate::session::{Session, endpoint};
pub use duty::{drain_document, drain_text, duty_line};
use list::state;
pub use list::{NodeRecord, listing, node_table, outside};

/// A node that was told to stop, or must stop, has this long before its process ends anyway: the
/// three steps of its orderly end have five seconds each, and an orchestrator waits thirty.
const END_MAX: Duration = Duration::from_secs(20);
/// Of that, the last step: threads that still run.
const THREADS_END_MAX: Duration = Duration::from_secs(3);

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
    Ls {
        /// Show removed nodes too
        #[arg(long)]
        all: bool,
    },
    /// Move a node's replicas and its vote to other nodes, so that it can be removed
    Drain(duty::DrainArgs),
    /// Expect a node to be away for a while: other nodes do not make its replicas
    Maintain(duty::MaintainArgs),
    /// End a node's drain or maintenance
    Resume(duty::ResumeArgs),
    /// Remove a node from the cluster; its id never returns, and other nodes make its replicas
    Remove(remove::RemoveArgs),
    /// Wait until a node is up, down or removed
    Wait(wait::WaitArgs),
    /// List the segment files in a node's quarantine, and put good ones back
    Quarantine(quarantine::QuarantineArgs),
}

/// Every flag can be a key of the file given by --config instead, under its long name with
/// underscores. Flags override the environment, the environment overrides the file.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StartArgs {
    /// Data directory of this node, one per disk; created if missing
    #[arg(long, env = "CAIRN_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:7400]
    #[arg(long, env = "CAIRN_LISTEN", value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address at which other nodes and clients reach this node [default: that of --listen]
    #[arg(long, env = "CAIRN_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Rack of this machine, its failure domain
    #[arg(long, env = "CAIRN_RACK", value_name = "NAME")]
    rack: Option<String>,
    /// Name of this machine; two replicas are never on one host [default: the machine's hostname]
    #[arg(long, env = "CAIRN_HOST", value_name = "NAME")]
    host: Option<String>,
    /// Maximum bytes of segment files on this node, such as 10TiB
    #[arg(long, env = "CAIRN_CAPACITY", value_name = "BYTES")]
    capacity: Option<ByteSize>,
    /// Create a new cluster if the data directory is empty and no cluster answers at --join. Only for
    /// the first start of the first node
    #[arg(long, env = "CAIRN_BOOTSTRAP", value_parser = clap::builder::BoolishValueParser::new())]
    bootstrap: bool,
    /// Nodes of the cluster to join if the data directory is empty
    #[arg(long, env = "CAIRN_JOIN", value_name = "HOST:PORT,...", value_delimiter = ',')]
    join: Vec<String>,
    /// Id of the cluster to create: for `dev`, `demo` and `bench`, whose nodes start together
    #[arg(long, hide = true, requires = "bootstrap")]
    #[serde(skip)]
    found: Option<ClusterId>,
    /// Stop when stdin closes; the process that started this one holds its other end
    #[arg(long, hide = true)]
    #[serde(skip)]
    stop_with_parent: bool,
    /// With --join: replace this node, which has the same host and address and lost its disk. Remove
    /// that node afterwards
    #[arg(long, env = "CAIRN_REPLACE", value_name = "ID")]
    replace: Option<u64>,
    /// The cluster this node belongs to, as --cluster of every verb
    #[arg(skip)]
    #[serde(deserialize_with = "parsed")]
    cluster: Option<ClusterId>,
    /// With --bootstrap: how long deleted data is kept before its space is freed [default: 1h]
    #[arg(long, env = "CAIRN_GRACE", value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    grace: Option<humantime::Duration>,
    /// With --bootstrap: a node without heartbeats for this long is down [default: 5s]
    #[arg(long, env = "CAIRN_DOWN_AFTER", value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    down_after: Option<humantime::Duration>,
    /// With --bootstrap: after a node is down for this long, other nodes make its replicas
    /// [default: 10m]
    #[arg(long, env = "CAIRN_REPLACE_AFTER", value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    replace_after: Option<humantime::Duration>,
    /// Read each replica again within this time, and compare it with its digest; or `off`
    /// [default: 14d]
    #[arg(long, env = "CAIRN_SCRUB_EVERY", value_name = "TIME")]
    #[serde(deserialize_with = "parsed")]
    scrub_every: Option<ScrubEvery>,
    /// Keep this many bytes of the audit file, at least 1MiB; older records are removed [default: 1GiB]
    #[arg(long, env = "CAIRN_AUDIT_KEEP", value_name = "BYTES")]
    audit_keep: Option<ByteSize>,
    /// Use no feature above this level, so that this node can go back to an older build
    /// [default: all features of this build, see `cairn version`]
    #[arg(long, env = "CAIRN_FEATURE_LEVEL", value_name = "N")]
    feature_level: Option<u32>,
    /// TOML file with any of these settings
    #[arg(long, env = "CAIRN_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

/// With less, a busy minute could not be looked at.
const AUDIT_KEEP_MIN: u64 = 1 << 20;

/// The time of a scrub's cycle, milliseconds. Zero is `off`.
#[derive(Debug, Clone, Copy)]
struct ScrubEvery(u64);

impl FromStr for ScrubEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(0));
        }
        let every = humantime::parse_duration(text).map_err(|error| error.to_string())?;
        let range = Duration::from_secs(60)..=Duration::from_secs(400 * 86_400);
        match u64::try_from(every.as_millis()) {
            Ok(ms) if range.contains(&every) => Ok(Self(ms)),
            _ => Err(format!("{text} is not between 1m and 400d, and not `off`")),
        }
    }
}

/// A value that is written as text.
fn parsed<'de, T: FromStr<Err: Display>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
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
            cluster: self.cluster.or(file.cluster),
            replace: self.replace.or(file.replace),
            grace: self.grace.or(file.grace),
            down_after: self.down_after.or(file.down_after),
            replace_after: self.replace_after.or(file.replace_after),
            scrub_every: self.scrub_every.or(file.scrub_every),
            audit_keep: self.audit_keep.or(file.audit_keep),
            feature_level: self.feature_level.or(file.feature_level),
            config: None,
            ..self
        })
    }

    fn checked(self, session: &Session) -> Result<ServeConfig, Failure> {
        let wanted = |name: &str| Failure::usage(format!("missing required option --{name}"));
        let key = session.key()?;
        let known = match (self.found, session.global.cluster.or(self.cluster)) {
            (Some(_), _) => None,
            (None, Some(named)) => Some(named),
            (None, None) => session.cluster(key.as_ref())?,
        };
        let listen = self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7400)));
        let host = match self.host {
            Some(host) => host,
            None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        let join: Vec<String> =
            self.join.iter().map(|text| endpoint(text)).collect::<Result<_, _>>()?;
        let defaults = Settings::default();
        let ms = |time: Option<humantime::Duration>, default: u64| {
            time.map_or(default, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        let feature_level = self.feature_level.unwrap_or(FEATURE_LEVEL);
        if !(1..=FEATURE_LEVEL).contains(&feature_level) {
            return Err(Failure::usage(format!(
                "unknown feature level {feature_level}: this build has 1 to {FEATURE_LEVEL}"
            )));
        }
        let audit = match self.audit_keep.map(|keep| keep.as_u64()) {
            None => AuditConfig::default(),
            Some(keep) if keep >= AUDIT_KEEP_MIN => AuditConfig::keeping(keep),
            Some(_) => return Err(Failure::usage("--audit-keep: 1MiB is the least")),
        };
        let origin = if self.bootstrap {
            Origin::Bootstrap(Settings {
                grace_ms: ms(self.grace, defaults.grace_ms),
                down_after_ms: ms(self.down_after, defaults.down_after_ms),
                replace_after_ms: ms(self.replace_after, defaults.replace_after_ms),
                ..defaults
            })
        } else if join.is_empty() {
            Origin::Resume
        } else {
            Origin::Join(join.clone())
        };
        let address = self.advertise.unwrap_or_else(|| listen.to_string());
        is_address("advertise", &address)?;
        if address.parse().is_ok_and(|address: SocketAddr| address.ip().is_unspecified()) {
            return Err(Failure::usage(format!("other nodes cannot connect to {address}"))
                .with_hint("give --advertise HOST:PORT in addition to --listen"));
        }
        Ok(ServeConfig {
            data: self.data.ok_or_else(|| wanted("data"))?,
            listen,
            key,
            insecure: session.global.insecure,
            node: NodeConfig {
                address,
                host,
                rack: self.rack.ok_or_else(|| wanted("rack"))?,
                capacity_bytes: self.capacity.ok_or_else(|| wanted("capacity"))?.as_u64(),
                origin,
                cluster: self.found.or(known),
                exists: known,
                replaces: self.replace.map(NodeId),
                // A cluster that is there already answers at one of them.
                peers: join,
                feature_level,
                audit,
                timings: self.scrub_every.map_or_else(Timings::default, |every| Timings {
                    scrub_ms: every.0,
                    ..Timings::default()
                }),
            },
        })
    }
}

fn is_address(flag: &str, address: &str) -> Result<(), Failure> {
    check_host_port(address).map_err(|error| Failure::usage(format!("--{flag}: {error}")))
}

pub fn run(session: &Session, args: NodeArgs) -> Outcome {
    match args.verb {
        NodeVerb::Start(args) => start(session, *args),
        NodeVerb::Ls { all } => list::run(session, all),
        NodeVerb::Drain(args) => duty::drain(session, args),
        NodeVerb::Maintain(args) => duty::maintain(session, &args),
        NodeVerb::Resume(args) => duty::resume(session, &args),
        NodeVerb::Remove(args) => remove::run(session, args),
        NodeVerb::Wait(args) => wait::run(session, &args),
        NodeVerb::Quarantine(args) => quarantine::run(session, args),
    }
}

fn start(session: &Session, args: StartArgs) -> Outcome {
    cairn_host::tokio_host::abort_on_panic();
    // openraft tells every step in long lines; its warnings are enough, and a few of each.
    session.log_by_default("info,openraft=warn");
    let stop_with_parent = args.stop_with_parent;
    let config = args.with_file()?.checked(session)?;
    if stop_with_parent && !config.data.is_dir() {
        // The parent makes it first. It was killed, and its next run has tidied up.
        let error = anyhow!(
            "{} is gone: the process that started this node has ended",
            config.data.display()
        );
        return Err(Failure::new(Exit::Failed, error));
    }
    warn_of_capacity(session, &config);
    let output = session.output;
    // The next start, also on an empty directory, knows the cluster of this key. A cluster for
    // trying things says nothing about the key.
    let (remember, is_lasting) = (session.rememberer()?, !stop_with_parent);
    let runtime = session.runtime()?;
    let served = runtime.block_on(async {
        let signal = crate::session::stop_signal()?;
        let stop = async move {
            tokio::select! {
                biased;
                () = signal => {}
                () = crate::session::stdin_closed(), if stop_with_parent => {}
            }
        };
        let ready = move |address, cluster| {
            if is_lasting {
                remember(cluster);
            }
            output.say(format!("node serves at {address}"));
        };
        let told = Told { ready: Box::new(ready), stopping: Box::new(end_at_the_latest) };
        Ok(serve(config, Box::pin(stop), told).await)
    });
    end(runtime);
    let served: Result<(), ServeError> = served.map_err(|error: std::io::Error| anyhow!(error))?;
    served.map(|()| Exit::Ok).map_err(serve_failure)
}

/// Ends the runtime. Dropping it would wait for each blocking thread, without limit.
fn end(runtime: Runtime) {
    runtime.shutdown_timeout(THREADS_END_MAX);
}

/// Says so where a node may hold more than its file system: it will be full before its capacity is
/// used up.
fn warn_of_capacity(session: &Session, config: &ServeConfig) {
    let existing = config
        .data
        .ancestors()
        .chain([Path::new(".")])
        .find_map(|path| rustix::fs::statvfs(path).ok());
    let Some(system) = existing else { return };
    let (capacity, total) =
        (config.node.capacity_bytes, system.f_blocks.saturating_mul(system.f_frsize));
    if capacity > total {
        session.output.say(format!(
            "note: --capacity {} is larger than the file system of {}, which has {}",
            bytes(capacity),
            config.data.display(),
            bytes(total)
        ));
    }
}

/// Ends the process if its orderly end takes longer than [`END_MAX`]: threads that wait for a
/// disk that does not answer can be neither joined nor stopped.
fn end_at_the_latest(result: &Result<(), ServeError>) {
    let (exit, text) = match result {
        Ok(()) => (Exit::Ok, "node stopped".to_owned()),
        Err(error) => (exit_of(error), error.to_string()),
    };
    let wait = move || {
        #[allow(
            clippy::disallowed_methods,
            reason = "the process ends, whatever its runtime does"
        )]
        std::thread::sleep(END_MAX);
        eprintln!("error: {text}; its threads did not end within {END_MAX:?}");
        std::process::exit(i32::from(exit as u8));
    };
    if let Err(error) = std::thread::Builder::new().name("cairn-end".into()).spawn(wait) {
        tracing::warn!(%error, "the stop of this process has no time limit");
    }
}

fn exit_of(error: &ServeError) -> Exit {
    match error {
        ServeError::OpenToAll(_) | ServeError::Start(StartError::Empty | StartError::Config(_)) => {
            Exit::Usage
        }
        ServeError::Start(StartError::Join(_)) => Exit::Unreachable,
        ServeError::Start(
            StartError::OtherCluster { .. }
            | StartError::JoinRefused(_)
            | StartError::Founded { .. }
            | StartError::NoIdentity { .. },
        ) => Exit::Refused,
        ServeError::Start(StartError::Identity(IdentityError::Io { .. })) => Exit::Failed,
        ServeError::Start(StartError::Identity(_) | StartError::Refused(_)) => Exit::Refused,
        ServeError::MustNotComeBack(_) => Exit::Refused,
        _ => Exit::Failed,
    }
}

fn serve_failure(error: ServeError) -> Failure {
    let exit = exit_of(&error);
    let hint = match &error {
        ServeError::Start(StartError::NoIdentity { .. }) => Some(
            "put the identity file back if you have it; otherwise keep this directory and start on an empty one with --join",
        ),
        ServeError::Start(StartError::Founded { .. }) => Some(
            "start with --join instead of --bootstrap; if that cluster is gone, delete the file KEY.cluster beside the key",
        ),
        ServeError::Start(StartError::OtherCluster { .. }) => {
            Some("--cluster, or the file KEY.cluster beside the key, names the expected cluster")
        }
        ServeError::Start(StartError::JoinRefused(Refusal::PlaceTaken { .. })) => Some(
            "check that the data directory is mounted; if that node's disk is lost, start with --replace ID and remove that node afterwards",
        ),
        ServeError::Start(StartError::Identity(_) | StartError::Refused(_))
        | ServeError::MustNotComeBack(_) => {
            Some("to join as a new node, start on an empty directory with --join")
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "stands for a disk that does not answer")]
    fn a_thread_that_waits_for_a_hung_disk_does_not_keep_the_process() {
        let runtime = Runtime::new().unwrap();
        runtime.spawn_blocking(|| {
            loop {
                std::thread::park();
            }
        });
        let (ended, has_ended) = mpsc::channel();
        std::thread::spawn(move || {
            end(runtime);
            ended.send(())
        });
        assert_eq!(has_ended.recv_timeout(Duration::from_secs(60)), Ok(()));
    }
}
