//! Sends a snapshot to one peer.
//!
//! ```text
//! Begin -> "from offset N"   -> stream pieces from N, tail; wait for the answer
//!       -> "installing"      -> wait, ask again
//!       -> "installed"       -> done
//! ```
//!
//! Progress counts, not total time. A transfer without progress for the idle time is stopped, then
//! continued from the peer's offset. The number of attempts without progress is limited; after that
//! openraft backs off and starts over. If the peer finds damage and this node's own file is
//! damaged, openraft gets another snapshot then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_host::envelope::said;
use cairn_host::seam::Lane;
use cairn_proto::wire;
use futures::{Stream, StreamExt, stream};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::disk::{DiskFile, Open};
use crate::raft::codec::{self, Malformed};
use crate::raft::peers::call_error::CallError;
use crate::raft::peers::network::Link;
use crate::raft::snapshot::files::SnapshotFile;
use crate::raft::types::Vote;

/// Attempts that moved nothing before the transfer is given up.
const IDLE_ATTEMPTS_MAX: u32 = 3;

type Piece = wire::raft_snapshot_piece::Piece;

fn piece(piece: Piece) -> wire::RaftSnapshotPiece {
    wire::RaftSnapshotPiece { piece: Some(piece) }
}

impl Link {
    /// Returns the peer's vote once it has the snapshot, or has a higher vote than `vote`.
    pub(in crate::raft) async fn send_snapshot(
        &self,
        vote: &Vote,
        snapshot: &SnapshotFile,
    ) -> Result<Vote, CallError> {
        use wire::raft_snapshot_progress::State;
        let idle = self.network.snapshot_idle;
        if self.network.refusals.has_refused(self.target, &snapshot.digest) {
            let text = format!("node {} has refused this snapshot", self.target);
            return Err(CallError::Status(Status::unavailable(text)));
        }
        let mut idle_attempts = 0;
        let mut reached = 0;
        let mut installing_since: Option<Instant> = None;
        loop {
            let answer = self.begin(vote, snapshot, idle).await;
            let progress = match answer {
                Ok(progress) => progress,
                // The answer to the stream was lost, or the snapshot reached the peer from another
                // leader.
                Err(error) if error.is_implausible() => {
                    self.refused(snapshot, &error);
                    return Err(error);
                }
                Err(error) if idle_attempts + 1 >= IDLE_ATTEMPTS_MAX => return Err(error),
                Err(_) => {
                    idle_attempts += 1;
                    tokio::time::sleep(self.network.env.jitter(idle / 4)).await;
                    continue;
                }
            };
            self.believe(None, progress.vote)?;
            let their_vote = codec::required_vote(progress.vote)?;
            if their_vote > *vote {
                return Ok(their_vote);
            }
            match progress.state() {
                State::Installed => return Ok(their_vote),
                State::Installing => {
                    let since = *installing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.network.snapshot_install {
                        return Err(CallError::Timeout(self.network.snapshot_install));
                    }
                    tokio::time::sleep(self.network.env.jitter(idle / 4)).await;
                    continue;
                }
                State::Receive if progress.offset <= snapshot.len => {}
                _ => return Err(Malformed("snapshot progress".into()).into()),
            }
            // Starting over from zero, because the peer found damage, does not count as progress
            // either.
            if progress.offset > reached {
                reached = progress.offset;
                idle_attempts = 0;
            }
            match self.stream(vote, snapshot, progress.offset).await {
                Ok(vote) => return Ok(vote),
                // The peer has all of it and cannot use it.
                Err(error) if error.is_implausible() => {
                    self.refused(snapshot, &error);
                    return Err(error);
                }
                Err(error) => {
                    idle_attempts += 1;
                    if idle_attempts >= IDLE_ATTEMPTS_MAX {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The snapshot is not sent again soon, and a new one is made, because this one may be wrong.
    fn refused(&self, snapshot: &SnapshotFile, error: &CallError) {
        if self.network.refusals.snapshot(self.target, snapshot.digest) {
            self.network.snapshots.found_bad(snapshot, &said(&error.to_string()));
        }
    }

    async fn begin(
        &self,
        vote: &Vote,
        snapshot: &SnapshotFile,
        timeout: Duration,
    ) -> Result<wire::RaftSnapshotProgress, CallError> {
        let request = wire::RaftSnapshotBegin {
            caller: Some(self.caller()),
            vote: Some(codec::vote_to_wire(vote)),
            head: Some(codec::head_to_wire(&snapshot.meta, snapshot.len, &snapshot.digest)),
        };
        self.call(timeout, |mut client| async move { client.begin_snapshot(request).await }).await
    }

    /// One stream from `offset` to the end, and the answer to it.
    async fn stream(
        &self,
        vote: &Vote,
        snapshot: &SnapshotFile,
        offset: u64,
    ) -> Result<Vote, CallError> {
        let idle = self.network.snapshot_idle;
        let (disk, path) = (self.network.snapshots.disk.clone(), snapshot.path.clone());
        let open = move || disk.open(&path, Open::Read);
        let file = self.network.env.blocking(Lane::Snapshot, open).await.map_err(|error| {
            self.network.snapshots.found_bad(snapshot, &error);
            CallError::Status(Status::unavailable(format!("open own snapshot: {error}")))
        })?;
        let start = piece(Piece::Start(wire::RaftSnapshotStart {
            caller: Some(self.caller()),
            vote: Some(codec::vote_to_wire(vote)),
            head: Some(codec::head_to_wire(&snapshot.meta, snapshot.len, &snapshot.digest)),
            offset,
        }));
        let sent = Arc::new(AtomicU64::new(offset));
        let pieces = stream::iter([start]).chain(self.pieces(file, snapshot, offset, sent.clone()));
        let mut client = self.client().map_err(CallError::Status)?;
        let mut answer = std::pin::pin!(client.send_snapshot(pieces));
        let mut before = offset;
        loop {
            match tokio::time::timeout(idle, &mut answer).await {
                Ok(Ok(reply)) => {
                    let vote = reply.into_inner().vote;
                    self.believe(None, vote)?;
                    return Ok(codec::required_vote(vote)?);
                }
                Ok(Err(status)) => {
                    self.note(&status);
                    if status.code() == Code::DataLoss {
                        self.network.snapshots.look_at(snapshot).await;
                    }
                    return Err(CallError::Status(status));
                }
                Err(_) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now == before {
                        self.failed(false);
                        return Err(CallError::Timeout(idle));
                    }
                    before = now;
                }
            }
        }
    }

    /// The body from `offset` on, read at the transport's pace, then the tail. A read error ends
    /// the stream without a tail, which the peer treats as a broken stream.
    fn pieces(
        &self,
        file: Box<dyn DiskFile>,
        snapshot: &SnapshotFile,
        offset: u64,
        sent: Arc<AtomicU64>,
    ) -> impl Stream<Item = wire::RaftSnapshotPiece> + Send + 'static {
        let (env, snapshots) = (self.network.env.clone(), self.network.snapshots.clone());
        let file: Arc<dyn DiskFile> = file.into();
        let own = snapshot.clone();
        let (body_offset, len) = (snapshot.body_offset, snapshot.len);
        let piece_bytes = self.network.snapshot_piece_bytes.max(1);
        let tail = piece(Piece::Tail(wire::RaftSnapshotTail {
            len,
            digest: Bytes::copy_from_slice(&snapshot.digest),
        }));
        stream::unfold((offset, Some(tail)), move |(at, tail)| {
            let (env, file, sent) = (env.clone(), file.clone(), sent.clone());
            let (snapshots, own) = (snapshots.clone(), own.clone());
            async move {
                sent.store(at, Ordering::Relaxed);
                if at >= len {
                    return tail.map(|tail| (tail, (at, None)));
                }
                let want = usize::try_from(piece_bytes.min(len - at)).ok()?;
                let read = move || {
                    let mut bytes = vec![0; want];
                    file.read_at(body_offset + at, &mut bytes).map(|()| bytes)
                };
                match env.blocking(Lane::Snapshot, read).await {
                    Ok(bytes) => {
                        let data = piece(Piece::Data(Bytes::from(bytes)));
                        Some((data, (at + want as u64, tail)))
                    }
                    Err(error) => {
                        snapshots.found_bad(&own, &error);
                        None
                    }
                }
            }
        })
    }
}
