//! The Cairn SDK: everything that a program needs to write and read checkpoints. A program needs
//! only this crate and tokio.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//!
//! use cairn_client::{Client, GetOptions, LocalSink, LocalSource, PutOptions, Step};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = Client::builder()
//!         .endpoints(["node1:7400", "node2:7400"])
//!         .key_file("cluster.key")
//!         .connect()
//!         .await?;
//!     let source = Arc::new(LocalSource::scan(&["out/step-1000".into()])?);
//!     let report = client.put(source, PutOptions::new("team/run7".parse()?, Step(1000))).await?;
//!     println!("{} files, {} bytes sent", report.files, report.bytes_sent);
//!
//!     let sink = Arc::new(LocalSink::open(Path::new("restored"))?);
//!     let report = client.get(&"team/run7@latest".parse()?, sink, GetOptions::default()).await?;
//!     println!("{}@{}", report.checkpoint.namespace, report.checkpoint.step);
//!     Ok(())
//! }
//! ```
//!
//! `examples/` has a program for each way to read and write. The SDK runs over any async runtime
//! that implements `cairn_host::seam` ([`ClientBuilder::env`]); by default it is tokio's. Programs
//! that are not async use [`blocking`].
//!
//! # Cancellation
//!
//! Dropping a future ends its work. A checkpoint is never visible in part, and a repeated call
//! continues the work:
//!
//! | dropped | what is left | the same call again |
//! |---|---|---|
//! | [`Client::put`] | an open upload, which expires with its lease and the grace (by default an hour); the commit, if the put was sealing | sends only what is not durable yet; returns [`PutOutcome::AlreadyCommitted`] after a commit |
//! | [`FileWriter`] before `finish` | an open upload, which never commits | sends only what is not durable yet |
//! | [`FileWriter::finish`] | as for a put | as for a put |
//! | [`Client::get`] | finished files, and part files | fetches only what is missing |
//! | [`FileReader`], a stream | nothing | |
//! | a command, such as [`Client::delete`] | perhaps its effect | reports that there is nothing to delete |
//!
//! [`Client::abort_upload`] ends an open upload at once. A read, a write or a hash that has begun
//! (32 MiB at most) finishes in the background.
//!
//! # Panics
//!
//! A panic in a source, a sink or a filter becomes an error of its call ([`ClientError::Panicked`])
//! and does not end the process.
//!
//! # Progress and tracing
//!
//! [`Progress`] and [`GetProgress`] count bytes, files and segments while a call runs. With
//! [`Progress::watched`] and [`GetProgress::watched`] a callback is called at each change. Calls
//! are `tracing` spans: `put`, `get` and `open` (INFO). Below them, at DEBUG, are `stage`,
//! `segment` and `seal`, and a `call` for each question to the cluster with all its attempts.
//!
//! # Layout
//!
//! | module | owns |
//! |---|---|
//! | [`builder`], `options` | building a client: endpoints, key, settings |
//! | [`blocking`] | the client for programs that are not async |
//! | [`cluster`] | finds nodes and the leader, repeats questions until there is an answer |
//! | [`catalogue`] | queries of the catalogue, and commands that are not part of an upload |
//! | [`status`] | the cluster and its nodes, as they describe themselves |
//! | `tokens` | issuers of tokens, and tokens that were revoked |
//! | `deletion` | deleting checkpoints, aborting uploads, ending a grace early |
//! | `annotate` | labels and metrics known after the commit |
//! | `answers` | checks that an answer matches its question |
//! | `listing` | listing checkpoints, a page at a time |
//! | `labels` | repairs time labels that a wrong clock made |
//! | `marks` | refs, holds, quarantine of checkpoints, rollback |
//! | `usage` | what namespaces take |
//! | `watch` | what happens to checkpoints, as a stream |
//! | `waiting` | until a checkpoint is committed, or has all replicas |
//! | `retention` | policies, the source of each rule, plans of retention |
//! | [`audit`] | who did what, and the check of each node's file of it |
//! | `scrub` | how far a node's scrub is, and what it is asked for |
//! | `quarantine` | the files in a node's quarantine, and how to put one back |
//! | [`upload`] | from a [`source`], through its [`cut`]s, to a commit |
//! | [`download`] | from a checkpoint to a [`sink`], verified |
//! | [`source`], [`local_source`] | files to upload, in memory and on disk |
//! | [`sink`], [`local_sink`] | targets of downloaded files |
//! | `verify` | each replica read again, a whole restore read; a cluster as if nodes were lost |
//! | `caller_code` | panics in sources, sinks, filters and callbacks |
//! | [`error`], `kind` | errors with hints; the caller's possible reactions |

mod annotate;
mod answers;
mod asking;
pub mod audit;
pub mod blocking;
pub mod builder;
mod caller_code;
pub mod catalogue;
pub mod cluster;
pub mod cut;
mod deletion;
mod diff;
pub mod download;
mod endpoints;
pub mod error;
mod kind;
mod labels;
mod listing;
pub mod local_sink;
pub mod local_source;
mod marks;
mod options;
mod quarantine;
mod retention;
mod safetensors;
mod scrub;
pub mod sink;
pub mod source;
pub mod status;
mod task;
mod tokens;
mod tries;
pub mod upload;
mod usage;
mod verify;
mod waiting;
mod watch;

pub use annotate::Annotation;
pub use builder::{ClientBuilder, SetupError};
pub use catalogue::{DrainPlan, LocatedSegment, RemovalPlan, Share, SharedMost, Shown};
pub use cluster::Client;
pub use deletion::DeleteOptions;
pub use diff::{Change, CheckpointDiff, FileChange, TensorChange};
pub use download::{
    FileRange, FileReader, GetOptions, GetProgress, GetReport, Include, OpenCheckpoint,
    ReaderBuilder,
};
pub use error::ClientError;
pub use kind::ErrorKind;
pub use labels::TimeRepairPlan;
pub use listing::{ListOptions, ListPage};
pub use local_sink::LocalSink;
pub use local_source::{Exclude, Links, LocalSource, ScanOptions};
pub use marks::{ListedHold, RefList, RollbackReport};
pub use options::{ClientOptions, Retry};
pub use quarantine::{QuarantinePage, QuarantinedFile, Restored};
pub use retention::{KeptReason, PlannedCheckpoint, PolicyEdit, RetentionPlan, ShownPolicy};
pub use scrub::{ScrubOrder, ScrubStatus};
pub use sink::{MemorySink, Sink, SinkError};
pub use source::{MemorySource, Source, SourceError};
pub use status::{
    ClusterStatus, NamespaceAhead, NodeDuty, NodeInfo, NodeState, NodeStatus, NodeTrouble,
    RetentionWaiting, Voter,
};
pub use tokens::{IssuerInfo, RevokedInfo, TokensInfo};
pub use upload::{
    Closed, FileWriter, OpenUpload, Progress, PutOptions, PutOutcome, PutReport, Rate, UploadFile,
    UploadOptions, Wait,
};
pub use usage::NamespaceUsage;
pub use verify::{BadReplica, Lost, LostFile, VerifyLevel, VerifyReport};
pub use watch::{WatchOptions, Watched};

// Types of Cairn's other crates that are part of the interface, so that a program needs only this
// crate.
pub use bytes::Bytes;
/// Streams, and functions on them.
pub mod stream {
    pub use futures::stream::{BoxStream, Stream, StreamExt, TryStreamExt};
}
pub use cairn_host::seam::{Env, Lane};
pub use cairn_host::tls::{Authority, ClusterKey, KeyError};
pub use cairn_host::token::{IssuerKey, Token};
pub use cairn_types::command::{MAINTENANCE_MAX, NewDuty, Refusal};
pub use cairn_types::event::{
    Event, EventId, Happened, MalformedCursor, WatchedCheckpoint, WatchedRef,
};
pub use cairn_types::ids::{
    Address, Attempt, CheckpointId, ClusterId, Incarnation, NameError, Namespace, NodeId, RefName,
    SegmentDigest, Selector, Step,
};
pub use cairn_types::listing::{ListFilter, ListPlace, ListedStates};
pub use cairn_types::marks::{NamedRef, Ref, RefMove};
pub use cairn_types::model::OwnPolicy;
pub use cairn_types::model::{
    CheckpointInfo, CheckpointState, Commit, DeletedFor, Deletion, Durability, Isolation, Metric,
    Policy, PolicyChange, Settings,
};
pub use cairn_types::policy::{FullPolicy, PolicyField};
pub use cairn_types::progress::{PartProgress, UploadProgress};
pub use cairn_types::retention::{
    BestMetric, BestRule, Extreme, LabelRule, Retention, RetentionChange, Rules,
};
