//! The Cairn SDK: everything a writer or reader of checkpoints does, over any async runtime
//! that implements `cairn_proto::seam`.
//!
//! | module | owns |
//! |---|---|
//! | [`cluster`] | finding nodes and the leader, asking until there is an answer |
//! | [`catalogue`] | what the catalogue knows, and commands that are not an upload |
//! | [`upload`] | from a [`source`], by way of its [`cut`]s, to a commit |
//! | [`download`] | from a checkpoint to a [`sink`], verified |
//! | [`source`] | files to upload, on disk or in memory |
//! | [`sink`], [`local_sink`] | where downloaded files go |
//! | [`error`] | what can go wrong, with hints |

pub mod catalogue;
pub mod cluster;
pub mod cut;
pub mod download;
pub mod error;
pub mod local_sink;
mod safetensors;
pub mod sink;
pub mod source;
mod task;
mod tries;
pub mod upload;

pub use catalogue::{LocatedSegment, Shown};
pub use cluster::{Client, ClientOptions};
pub use download::{GetOptions, GetProgress, GetReport, Include};
pub use error::ClientError;
pub use local_sink::LocalSink;
pub use sink::{MemorySink, Sink, SinkError};
pub use source::{LocalSource, MemorySource, Source, SourceError};
pub use upload::{Progress, PutOptions, PutOutcome, PutReport, Wait};
