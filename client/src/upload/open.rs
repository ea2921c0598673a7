//! Open-ended uploads: files are added one by one, until the upload is closed.
//!
//! ```text
//! client.upload ----> Begin, 0 parts           an upload that nobody sees but `ls --open`
//!   file, write, finish -> Stage, SealPart     durable on W nodes; the same name again replaces it
//!   discard, remove -> DropPart
//!   close ----------> Close                    the checkpoint is committed, and frozen
//! ```
//!
//! Each file is a part of its own. Writers in other processes join with the same attempt.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use cairn_types::command::{self, Begun, Body, DeleteReason, Reply};
use cairn_types::ids::{Attempt, CheckpointId, Namespace, Step};
use cairn_types::limits::OPEN_PARTS_OF_BEGIN;
use cairn_types::model::{Durability, PolicyChange};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::pipeline::Feed;
use super::send::Budgets;
use super::writer::{FileWriter, MODE, Written};
use super::{POLL, Progress, Put, PutOptions, PutReport, Rate, unexpected};
use crate::cluster::{Answer, Client};
use crate::error::ClientError;
use crate::source::{SourceEntry, check_name};
use crate::task::Task;

/// What to upload as. `UploadOptions::new` gives the defaults: the next attempt, without labels.
#[derive(Debug, Clone)]
pub struct UploadOptions {
    pub namespace: Namespace,
    pub step: Step,
    /// Writers that pass the same add their files to the same upload. The default is one above all
    /// that the step has seen: it takes over from an upload that is open.
    pub attempt: Option<Attempt>,
    pub change: PolicyChange,
    /// Takes the place of a committed checkpoint of this step.
    pub replace: bool,
    pub labels: BTreeMap<String, String>,
    /// As in [`PutOptions`].
    pub client: String,
    pub job: String,
    pub progress: Arc<Progress>,
    /// Limits the bytes that are sent; several uploads may share it.
    pub rate: Option<Arc<Rate>>,
}

impl UploadOptions {
    pub fn new(namespace: Namespace, step: Step) -> Self {
        Self {
            namespace,
            step,
            attempt: None,
            change: PolicyChange::default(),
            replace: false,
            labels: BTreeMap::new(),
            client: String::new(),
            job: String::new(),
            progress: Arc::default(),
            rate: None,
        }
    }

    fn into_put(self) -> PutOptions {
        let Self { namespace, step, attempt, change, replace, labels, client, job, progress, rate } =
            self;
        PutOptions {
            parts: 0,
            attempt,
            change,
            replace,
            labels,
            client,
            job,
            progress,
            rate,
            ..PutOptions::new(namespace, step)
        }
    }
}

/// A checkpoint whose files are added one by one; see [`Client::upload`].
///
/// Dropping it commits nothing and removes nothing: the upload stays open for its lease, a day
/// unless the cluster is set otherwise, and who passes its attempt adds to it or closes it.
pub struct OpenUpload {
    shared: Arc<Shared>,
    _renewal: Task<()>,
}

struct Shared {
    client: Client,
    options: PutOptions,
    checkpoint: CheckpointId,
    attempt: Attempt,
    budgets: Budgets,
    /// Part numbers for the next files.
    numbers: tokio::sync::Mutex<Numbers>,
    /// The parts of files that were finished here, by name.
    finished: Mutex<BTreeMap<Vec<u8>, u32>>,
    /// Files that are still written.
    unfinished: AtomicU64,
}

struct Numbers {
    begun: Begun,
    used: u32,
}

/// What [`OpenUpload::close`] has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    pub checkpoint: CheckpointId,
    pub attempt: Attempt,
    pub durability: Durability,
}

/// One file of an open-ended upload, written as it comes into being; see [`OpenUpload::file`].
///
/// A file that is dropped before [`UploadFile::finish`] is not in the checkpoint; an earlier file of
/// its name stays. [`UploadFile::discard`] also gives its space back before the upload is closed.
pub struct UploadFile {
    shared: Arc<Shared>,
    writer: Option<FileWriter>,
    name: Vec<u8>,
    part: u32,
}

impl Client {
    /// Begins a checkpoint whose number of files is not known yet, or joins the upload of the same
    /// attempt. It is visible to nobody before [`OpenUpload::close`].
    ///
    /// ```no_run
    /// # use cairn_client::{Client, ClientError, Step, UploadOptions};
    /// # use tokio::io::AsyncWriteExt;
    /// # async fn save(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let upload = client.upload(UploadOptions::new("team/run7".parse()?, Step(1000))).await?;
    /// let mut file = upload.file("model.safetensors").await?;
    /// file.write_all(b"bytes as they come").await?;
    /// file.finish().await?; // durable on W nodes
    /// let draft = upload.file("optimizer.bin").await?;
    /// draft.discard().await?; // as if it had never been begun
    /// let closed = upload.close().await?; // committed, and frozen
    /// # Ok(())
    /// # }
    /// ```
    pub fn upload(&self, options: UploadOptions) -> Answer<'static, OpenUpload> {
        let client = self.clone();
        let options = options.into_put();
        let span = options.span();
        let begin = async move {
            let budgets = Budgets::new(client.options());
            let put = adding(&client, &options, &budgets);
            let begun = put.begin().await?;
            if begun.committed {
                let (address, attempt) = (options.address().to_string(), begun.attempt);
                return Err(ClientError::UploadOver { address, attempt });
            }
            let _renewal = put.keep_lease(&begun, &client.settings().await?);
            let shared = Shared {
                client,
                options,
                checkpoint: begun.checkpoint,
                attempt: begun.attempt,
                budgets,
                numbers: tokio::sync::Mutex::new(Numbers { begun, used: 0 }),
                finished: Mutex::default(),
                unfinished: AtomicU64::new(0),
            };
            Ok(OpenUpload { shared: Arc::new(shared), _renewal })
        };
        Box::pin(begin.instrument(span))
    }

    /// Commits the open-ended upload of a step, whoever writes to it. Files that are not finished are
    /// not in the checkpoint.
    pub async fn close_upload(
        &self,
        namespace: &Namespace,
        step: Step,
    ) -> Result<Closed, ClientError> {
        let info = self.open_upload(namespace, step).await?;
        close(self, info.id, info.attempt).await
    }
}

impl OpenUpload {
    pub fn checkpoint(&self) -> CheckpointId {
        self.shared.checkpoint
    }

    /// What other writers pass to add their files to this upload.
    pub fn attempt(&self) -> Attempt {
        self.shared.attempt
    }

    /// Begins a file. Files may be written side by side: their segments on the way share one budget,
    /// and each takes at most 64 MiB beside it.
    pub fn file(&self, name: impl AsRef<[u8]>) -> Answer<'static, UploadFile> {
        let (shared, name) = (self.shared.clone(), name.as_ref().to_vec());
        let span = shared.options.span();
        let within = span.clone();
        let begin = async move {
            check_name(&name)?;
            let (part, begun) = shared.take_number().await?;
            let entry = SourceEntry { name: name.clone(), mode: MODE, mtime_ns: 0, len: 0 };
            let feed = Arc::new(Feed::written(entry, &[], Vec::new()));
            let mut put = adding(&shared.client, &shared.options, &shared.budgets);
            (put.feed, put.options.part) = (feed, part);
            let env = shared.client.env.clone();
            let writer = FileWriter::start(&env, |queue| {
                put.run_written(Written::Sent(begun), queue).instrument(within)
            });
            shared.unfinished.fetch_add(1, Ordering::Relaxed);
            Ok(UploadFile { shared, writer: Some(writer), name, part })
        };
        Box::pin(begin.instrument(span))
    }

    /// Removes a file that was finished here. False if there is none of this name.
    pub fn remove(&self, name: impl AsRef<[u8]>) -> Answer<'static, bool> {
        let (shared, name) = (self.shared.clone(), name.as_ref().to_vec());
        Box::pin(async move {
            let part = shared.finished.lock().get(&name).copied();
            let Some(part) = part else { return Ok(false) };
            shared.drop_part(part).await?;
            shared.finished.lock().remove(&name);
            Ok(true)
        })
    }

    /// Commits the files that are finished, those of other writers included. An error if files of
    /// this writer are not finished.
    pub async fn close(self) -> Result<Closed, ClientError> {
        let count = self.shared.unfinished.load(Ordering::Relaxed);
        if count > 0 {
            return Err(ClientError::UnfinishedFiles { count });
        }
        let Shared { client, checkpoint, attempt, .. } = &*self.shared;
        close(client, *checkpoint, *attempt).await
    }

    /// Ends the upload without a commit, for all its writers.
    pub async fn abort(self) -> Result<(), ClientError> {
        let body = Body::Delete(command::Delete {
            checkpoint: self.shared.checkpoint,
            reason: DeleteReason::Asked,
            now: false,
            force: false,
            policy_version: None,
            by: String::new(),
        });
        match self.shared.client.execute(body, Duration::ZERO).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected("abort upload", &other)),
        }
    }
}

impl Shared {
    /// The number of the next file's part. A Begin has as many as a checkpoint has parts; a writer
    /// that needs more, because it writes files again and again, begins once more.
    async fn take_number(&self) -> Result<(u32, Begun), ClientError> {
        let mut numbers = self.numbers.lock().await;
        if numbers.used == OPEN_PARTS_OF_BEGIN {
            let mut put = adding(&self.client, &self.options, &self.budgets);
            put.options.attempt = Some(self.attempt);
            let begun = put.begin().await?;
            if begun.committed || begun.checkpoint != self.checkpoint {
                let (address, attempt) = (self.options.address().to_string(), self.attempt);
                return Err(ClientError::UploadOver { address, attempt });
            }
            *numbers = Numbers { begun, used: 0 };
        }
        let part = numbers.begun.first_part + numbers.used;
        numbers.used += 1;
        Ok((part, numbers.begun.clone()))
    }

    async fn drop_part(&self, part: u32) -> Result<(), ClientError> {
        let Self { checkpoint, attempt, .. } = *self;
        let body = Body::DropPart(command::DropPart { checkpoint, attempt, part });
        match self.client.execute(body, Duration::ZERO).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected("drop part", &other)),
        }
    }
}

impl UploadFile {
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Sends the rest. From then on the file is durable on W nodes, and in the checkpoint once the
    /// upload is closed. It takes the place of an earlier file of its name.
    pub async fn finish(mut self) -> Result<PutReport, ClientError> {
        let writer = self.writer.take().ok_or(ClientError::Cancelled)?;
        let report = writer.finish().await?;
        self.shared.finished.lock().insert(self.name.clone(), self.part);
        Ok(report)
    }

    /// Ends the file as if it had not been begun. An earlier file of its name stays.
    pub async fn discard(mut self) -> Result<(), ClientError> {
        // A Stage that is on its way may come behind the command. What it refers to is given back with
        // the upload's end.
        drop(self.writer.take());
        self.shared.drop_part(self.part).await
    }

    /// As for any writer that has ended, where there is none.
    fn writer(&mut self) -> std::io::Result<Pin<&mut FileWriter>> {
        let ended = || std::io::Error::other("the file is finished");
        self.writer.as_mut().map(Pin::new).ok_or_else(ended)
    }
}

impl Drop for UploadFile {
    fn drop(&mut self) {
        self.shared.unfinished.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncWrite for UploadFile {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.get_mut().writer()?.poll_write(context, bytes)
    }

    /// Nothing to do: bytes are durable once [`UploadFile::finish`] says so.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Seals nothing: that is for [`UploadFile::finish`].
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A part that is added to the upload, without a file yet.
fn adding(client: &Client, options: &PutOptions, budgets: &Budgets) -> Put {
    let entry = SourceEntry { name: Vec::new(), mode: MODE, mtime_ns: 0, len: 0 };
    let feed = Arc::new(Feed::written(entry, &[], Vec::new()));
    let (client, options, budgets) = (client.clone(), options.clone(), budgets.clone());
    Put { client, options, feed, started: Instant::now(), budgets }
}

/// Commits an upload. Segments that have lost replicas since their parts were sealed are made again
/// by the nodes, which takes a while.
async fn close(
    client: &Client,
    checkpoint: CheckpointId,
    attempt: Attempt,
) -> Result<Closed, ClientError> {
    let (mut least, mut since) = (u64::MAX, Instant::now());
    loop {
        let body = Body::Close(command::Close { checkpoint, attempt });
        let total = match client.execute(body, Duration::ZERO).await? {
            Reply::Committed { durability, .. } => {
                return Ok(Closed { checkpoint, attempt, durability });
            }
            Reply::Lacking { total, .. } => total,
            other => return Err(unexpected("close upload", &other)),
        };
        if total < least {
            (least, since) = (total, Instant::now());
        }
        if client.options.deadline.is_some_and(|limit| since.elapsed() > limit) {
            return Err(ClientError::Timeout {
                what: "close upload".to_owned(),
                last: format!("segments with missing replicas: {total}"),
            });
        }
        tracing::debug!(total, "segments lack replicas, waiting for the nodes");
        sleep(client.env.jitter(POLL)).await;
    }
}
