//! Why a node did not start.

use cairn_types::command::Refusal;
use cairn_types::ids::ClusterId;

use crate::identity::IdentityError;
use crate::key_file::KeyFileError;
use crate::peers;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "the data directory is empty: start with --bootstrap to create a cluster, or --join ADDR to join one"
    )]
    Empty,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error("{0}")]
    Config(String),
    #[error(
        "the data directory is not empty and has no identity file: it holds {trace}, so a node has run on it"
    )]
    NoIdentity { trace: &'static str },
    /// A second cluster would replace the existing one.
    #[error(
        "cluster {cluster} already exists{}: this node does not create another one",
        at(address)
    )]
    Founded { cluster: ClusterId, address: Option<String> },
    #[error("the cluster refuses this node: {0}")]
    JoinRefused(Refusal),
    #[error("this node must not come back: {0}")]
    Refused(String),
    #[error("cannot join the cluster: {0}")]
    Join(String),
    /// Another cluster answers, or this directory belongs to another one.
    #[error("{place} belongs to cluster {got}, not to {want}")]
    OtherCluster { place: String, want: ClusterId, got: ClusterId },
    #[error(transparent)]
    Peers(#[from] peers::SyncFailed),
    #[error("cannot open the log: {0}")]
    Log(String),
    #[error("cannot open the segments: {0}")]
    Store(String),
    #[error("cannot start the cluster: {0}")]
    Bootstrap(String),
}

fn at(address: &Option<String>) -> String {
    address.as_ref().map_or(String::new(), |address| format!(" and answers at {address}"))
}
