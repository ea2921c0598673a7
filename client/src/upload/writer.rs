//! A file of unknown length, written as it comes into being.
//!
//! ```text
//! poll_write -> up to 32 MiB -> one segment waits -> hash -> Stage -> W nodes    (a task of its own)
//! finish    --> the rest, and an end --> manifest -> SealPart -> commit
//! ```
//!
//! The bytes cannot be read a second time. Where the cluster lacks replicas of a segment at the
//! seal, the segment is fetched back from a node that has it.
//!
//! Memory is bounded: 64 MiB here beside the budget that every upload has.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cairn_host::seam::Env;
use cairn_types::command::{Begun, Refusal};
use futures::SinkExt;
use futures::channel::mpsc;
use futures::stream::{self, Stream, StreamExt};
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tracing::Instrument;

use super::cutter::Cutter;
use super::pipeline::{Feed, SegmentHash, hash_one};
use super::send::Budgets;
use super::{Put, PutOptions, PutReport};
use crate::cluster::{Answer, Client};
use crate::error::ClientError;
use crate::source::{SourceEntry, check_name};
use crate::task::Task;

/// Permission bits of a file that has none of its own. Its time is zero: what is written again must
/// be the same.
pub(super) const MODE: u32 = 0o644;

/// Bytes in order; `None` is the end, after which the upload may commit.
pub(super) type Chunk = Option<Bytes>;

/// What happens to the bytes.
pub(super) enum Written {
    /// They are sent.
    Sent(Begun),
    /// The step, or this part of it, is there: they are compared with it.
    Compared(Refusal),
    /// A dry run: they are looked up.
    LookedUp,
}

/// One file of a new checkpoint; see [`Client::writer`].
///
/// [`FileWriter::finish`] commits. A writer that is dropped before commits nothing: its upload
/// stays open until its lease ends, or until the same step is written again.
pub struct FileWriter {
    buffer: Vec<u8>,
    cutter: Cutter,
    chunks: mpsc::Sender<Chunk>,
    task: Task<PutReport>,
    /// Why the upload ended, until [`FileWriter::finish`] says so.
    failed: Option<ClientError>,
    ended: bool,
}

impl Client {
    /// Begins a checkpoint, or a part of one, that has one file, of a length that is not known
    /// yet. A step that is there already is an error only if the bytes differ.
    pub fn writer(
        &self,
        options: PutOptions,
        file: impl AsRef<[u8]>,
    ) -> Answer<'static, FileWriter> {
        let (client, file) = (self.clone(), file.as_ref().to_vec());
        let span = options.span();
        let within = span.clone();
        let begin = async move {
            check_name(&file)?;
            if options.parts > 1 && options.attempt.is_none() {
                return Err(ClientError::PartWithoutAttempt);
            }
            let env = client.env.clone();
            let started = Instant::now();
            let entry = SourceEntry { name: file, mode: MODE, mtime_ns: 0, len: 0 };
            let feed = Arc::new(Feed::written(entry, &[], Vec::new()));
            let budgets = Budgets::new(client.options());
            let put = Put { client, options, feed, started, budgets };
            let written = put.begin_written().await?;
            Ok(FileWriter::start(&env, |queue| put.run_written(written, queue).instrument(within)))
        };
        Box::pin(begin.instrument(span))
    }
}

impl FileWriter {
    /// Starts the upload of the bytes that will be written.
    pub(super) fn start<F>(env: &Env, upload: impl FnOnce(mpsc::Receiver<Chunk>) -> F) -> Self
    where
        F: Future<Output = Result<PutReport, ClientError>> + Send + 'static,
    {
        let (chunks, queue) = mpsc::channel(0);
        let task = Task::run(env, "write file", upload(queue));
        let (buffer, cutter) = (Vec::new(), Cutter::new());
        Self { buffer, cutter, chunks, task, failed: None, ended: false }
    }

    /// Sends the rest and commits. Dropping this future may or may not commit.
    pub fn finish(mut self) -> Answer<'static, PutReport> {
        Box::pin(async move {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if self.ended {
                return Err(ClientError::Cancelled);
            }
            let rest = std::mem::take(&mut self.buffer);
            let mut chunks = self.chunks.clone();
            // A queue that is closed says that the task has ended; it says why.
            let sent = match rest.is_empty() {
                true => Ok(()),
                false => chunks.send(Some(Bytes::from(rest))).await,
            };
            if sent.is_ok() && chunks.send(None).await.is_err() {
                tracing::debug!("the upload ended before its end");
            }
            (&mut self.task).await
        })
    }

    /// Hands the full buffer to the upload, once that has room for it.
    fn poll_hand_over(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            let text = self
                .failed
                .as_ref()
                .map_or("the upload is over".to_owned(), |error| error.to_string());
            return Poll::Ready(Err(io::Error::other(text)));
        }
        if ready!(self.chunks.poll_ready(context)).is_ok() {
            let next = Vec::with_capacity(self.buffer.len());
            let full = std::mem::replace(&mut self.buffer, next);
            self.cutter.cut();
            if self.chunks.start_send(Some(Bytes::from(full))).is_ok() {
                return Poll::Ready(Ok(()));
            }
        }
        // Only the end of the task closes the queue.
        let result = ready!(Pin::new(&mut self.task).poll(context));
        self.ended = true;
        let error = result.err().unwrap_or(ClientError::Cancelled);
        let said = io::Error::other(error.to_string());
        self.failed = Some(error);
        Poll::Ready(Err(said))
    }
}

impl AsyncWrite for FileWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut limit = this.cutter.limit(&this.buffer);
        if this.buffer.len() == limit {
            ready!(this.poll_hand_over(context))?;
            limit = this.cutter.limit(&this.buffer);
        }
        let count = bytes.len().min(limit - this.buffer.len());
        this.buffer.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    /// Nothing to do: bytes are durable once [`FileWriter::finish`] says so.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Commits nothing: that is for [`FileWriter::finish`].
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Put {
    /// Begins the upload, or finds out that there is nothing to begin.
    async fn begin_written(&self) -> Result<Written, ClientError> {
        if self.options.dry_run {
            return Ok(Written::LookedUp);
        }
        match self.begin().await {
            Ok(begun) if begun.committed => {
                Ok(Written::Compared(Refusal::PartSealed { part: self.options.part }))
            }
            Ok(begun) => Ok(Written::Sent(begun)),
            Err(ClientError::Refused(refusal @ Refusal::StepExists { .. })) => {
                Ok(Written::Compared(refusal))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn run_written(
        mut self,
        written: Written,
        queue: mpsc::Receiver<Chunk>,
    ) -> Result<PutReport, ClientError> {
        let chunks = chunks(queue);
        let begun = match written {
            Written::Sent(begun) => begun,
            Written::Compared(refusal) => {
                self.hash_written(chunks).await?;
                return self.compare_committed(refusal).await;
            }
            Written::LookedUp => {
                self.hash_written(chunks).await?;
                return self.dry_run().await;
            }
        };
        // An open-ended upload is renewed as a whole.
        let _renewal = match begun.parts {
            0 => None,
            _ => Some(self.keep_lease(&begun, &self.client.settings().await?)),
        };
        let mut pipeline = self.pipeline(&begun);
        if begun.sealed.contains(&self.options.part) {
            self.hash_written(chunks).await?;
        } else {
            let lens = pipeline.transfer_written(chunks).await?;
            self.take_written(&lens, pipeline.hashes().to_vec());
            pipeline.set_feed(self.feed.clone());
        }
        self.complete(&begun, pipeline).await
    }

    /// Hashes everything without sending anything.
    async fn hash_written(
        &mut self,
        chunks: impl Stream<Item = Result<Bytes, ClientError>> + Send,
    ) -> Result<(), ClientError> {
        let mut chunks = std::pin::pin!(chunks);
        let (mut lens, mut hashes) = (Vec::new(), Vec::new());
        while let Some(chunk) = chunks.next().await {
            let (hash, bytes) = hash_one(&self.client.env, chunk?).await;
            self.options.progress.note_hashed(bytes.len() as u64);
            lens.push(bytes.len() as u32);
            hashes.push(hash);
        }
        self.take_written(&lens, hashes);
        Ok(())
    }

    /// The file has ended: its length and its segments are known.
    fn take_written(&mut self, lens: &[u32], hashes: Vec<SegmentHash>) {
        let entry = self.feed.source().entries()[0].clone();
        self.feed = Arc::new(Feed::written(entry, lens, hashes));
        self.options.progress.note_plan(self.feed.plan(), self.feed.source());
    }
}

/// The bytes of a queue up to its end. A queue that closes without one is an error: its writer was
/// dropped, and what came so far is not the file.
fn chunks(queue: mpsc::Receiver<Chunk>) -> impl Stream<Item = Result<Bytes, ClientError>> + Send {
    stream::unfold(Some(queue), |queue| async move {
        let mut queue = queue?;
        match queue.next().await {
            Some(Some(bytes)) => Some((Ok(bytes), Some(queue))),
            Some(None) => None,
            None => Some((Err(ClientError::Cancelled), None)),
        }
    })
}
