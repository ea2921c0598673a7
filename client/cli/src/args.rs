//! The command line as clap reads it. Raw arguments only: each verb checks and turns them into
//! what the libraries take.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::exit::EXIT_CODES;
use crate::verb;

/// Keeps the checkpoints of large-model training: replicated over nodes and racks, published
/// atomically, restored verified.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(after_help = "`cairn help exit-codes` lists the exit codes.")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every verb.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Addresses of some nodes; any of them will do
    #[arg(
        long,
        short = 'e',
        global = true,
        env = "CAIRN_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400"
    )]
    pub endpoints: Vec<String>,
    /// File with the cluster's key; nodes and clients that hold it trust each other
    #[arg(long, global = true, env = "CAIRN_CLUSTER_KEY", value_name = "FILE")]
    pub cluster_key: Option<PathBuf>,
    /// Allow addresses other than loopback without a cluster key
    #[arg(long, global = true, env = "CAIRN_INSECURE", value_parser = clap::builder::BoolishValueParser::new())]
    pub insecure: bool,
    /// How long to look for a leader or a node before giving up
    #[arg(long, global = true, env = "CAIRN_TIMEOUT", value_name = "TIME", default_value = "60s")]
    pub timeout: humantime::Duration,
    /// Print the result as one JSON document
    #[arg(long, global = true, env = "CAIRN_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    pub json: bool,
    /// Print no progress and no words, only results and errors
    #[arg(long, short = 'q', global = true, env = "CAIRN_QUIET", value_parser = clap::builder::BoolishValueParser::new())]
    pub quiet: bool,
    /// What to log to stderr, such as info or cairn_node=debug
    #[arg(long, global = true, env = "CAIRN_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Form of log lines
    #[arg(
        long,
        global = true,
        env = "CAIRN_LOG_FORMAT",
        value_name = "FORM",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Store files as a checkpoint, or as one part of it
    Put(verb::put::PutArgs),
    /// Restore a checkpoint, a file of it or a range of a file
    Get(verb::get::GetArgs),
    /// List checkpoints
    Ls(verb::ls::LsArgs),
    /// Show a checkpoint: files, segments, replicas, durability
    Show(verb::show::ShowArgs),
    /// Delete a checkpoint
    Rm(verb::rm::RmArgs),
    /// Show the cluster: nodes, racks, leader, what can be lost, what is below policy
    Status(verb::status::StatusArgs),
    /// Run or manage nodes
    Node(verb::node::NodeArgs),
    /// Make a cluster key
    Key(verb::key::KeyArgs),
    /// Run a three-node cluster on this machine, in the foreground
    Dev(verb::dev::DevArgs),
    /// Show the main job: put, lose the leader, restore, verify
    Demo(verb::demo::DemoArgs),
    /// Measure throughput and latency beside the machine's own limits
    Bench(verb::bench::BenchArgs),
    /// Print version, protocol and feature level
    Version,
    /// Explain a verb or a topic
    Help(HelpArgs),
}

#[derive(Debug, Args)]
pub struct HelpArgs {
    /// A verb, or exit-codes
    pub topic: Vec<String>,
}

/// Texts of `cairn help TOPIC` that are not verbs.
pub fn topic(name: &str) -> Option<&'static str> {
    (name == "exit-codes").then_some(EXIT_CODES)
}
