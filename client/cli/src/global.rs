//! Flags of every verb.

use std::path::PathBuf;

use cairn_types::ids::ClusterId;
use clap::Args;

/// A node that `cairn dev` starts.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:7400";

/// Flags of every verb.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Addresses of one or more nodes; the default port is 7400; any reachable node works
    #[arg(
        long,
        short = 'e',
        global = true,
        env = "CAIRN_ENDPOINTS",
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = DEFAULT_ENDPOINT
    )]
    pub endpoints: Vec<String>,
    /// File with the cluster key; nodes and clients authenticate each other with it
    #[arg(long, global = true, env = "CAIRN_CLUSTER_KEY", value_name = "FILE")]
    pub cluster_key: Option<PathBuf>,
    /// File with the authority of the cluster's certificates, as `cairn key ca` prints it: enough for
    /// a client that has a token
    #[arg(long, global = true, env = "CAIRN_CLUSTER_CA", value_name = "FILE")]
    pub cluster_ca: Option<PathBuf>,
    /// File with a token: who this client is and what it may do. Or the token in CAIRN_TOKEN, or what
    /// the command in CAIRN_TOKEN_COMMAND prints
    #[arg(long, global = true, env = "CAIRN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Id of the cluster; nodes of another cluster are refused [default: the first cluster that
    /// answered with this key, stored in KEY.cluster]
    #[arg(long, global = true, env = "CAIRN_CLUSTER", value_name = "ID")]
    pub cluster: Option<ClusterId>,
    /// Allow addresses other than loopback without a cluster key
    #[arg(long, global = true, env = "CAIRN_INSECURE", value_parser = clap::builder::BoolishValueParser::new())]
    pub insecure: bool,
    /// Time limit for finding a leader or a node
    #[arg(long, global = true, env = "CAIRN_TIMEOUT", value_name = "TIME", default_value = "60s")]
    pub timeout: humantime::Duration,
    /// Print the result as one JSON document
    #[arg(long, global = true, env = "CAIRN_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    pub json: bool,
    /// Print only results and errors, no progress and no messages
    #[arg(long, short = 'q', global = true, env = "CAIRN_QUIET", value_parser = clap::builder::BoolishValueParser::new())]
    pub quiet: bool,
    /// Filter for the log on stderr, such as info or cairn_node=debug
    #[arg(long, global = true, env = "CAIRN_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Format of log lines
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
