//! The Cairn SDK: everything a writer or reader of checkpoints does, over any async runtime
//! that implements `cairn_proto::seam`.
//!
//! | module | owns |
//! |---|---|
//! | [`source`] | files to upload, on disk or in memory |
//! | [`cut`] | where files are cut into segments |
//! | [`sink`], [`local_sink`] | where downloaded files go |
//! | [`error`] | what can go wrong, with hints |

pub mod catalogue;
pub mod cluster;
pub mod cut;
pub mod error;
pub mod local_sink;
mod safetensors;
pub mod sink;
pub mod source;
mod task;
pub mod upload;

pub use error::ClientError;
pub use local_sink::LocalSink;
pub use sink::{MemorySink, Sink, SinkError};
pub use source::{LocalSource, MemorySource, Source, SourceError};
