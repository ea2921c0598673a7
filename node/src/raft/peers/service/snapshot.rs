//! Snapshots that members send here: begin, receive, trial restore, install.

use cairn_proto::wire;
use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver;
use tonic::{Status, Streaming};

use super::{Identity, Inner, Sender, malformed, stopped};
use crate::raft::codec::{self, Malformed};
use crate::raft::machine::CatalogueMachine;
use crate::raft::peers::plausible;
use crate::raft::snapshot::files::SnapshotError;
use crate::raft::snapshot::receive::{self, Key};
use crate::raft::types::{Snapshot, SnapshotMeta, Vote};

impl<Rt: AsyncRuntime, M: CatalogueMachine> Inner<Rt, M> {
    /// This node's vote and the index up to which it has applied the log.
    fn standing(&self) -> (Vote, Option<u64>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.vote, metrics.last_applied.map(|id| id.index))
    }

    pub(super) async fn begin_snapshot(
        &self,
        sender: Sender,
        begin: wire::RaftSnapshotBegin,
    ) -> Result<wire::RaftSnapshotProgress, Status> {
        use wire::raft_snapshot_progress::State;
        let (_, key, meta) = self.head(sender, begin.vote, begin.head)?;
        if self.refusals.is_unusable(&key.digest) {
            return Err(self.refused(sender, "snapshot", "it came here and cannot be restored"));
        }
        let (vote, applied) = self.standing();
        let (state, offset) = if applied >= Some(key.last_log_id.index) {
            (State::Installed, 0)
        } else {
            match self.arrivals.receiver.begin(key, meta).await? {
                Some(offset) => (State::Receive, offset),
                None => (State::Installing, key.len),
            }
        };
        let vote = Some(codec::vote_to_wire(&vote));
        Ok(wire::RaftSnapshotProgress { state: state.into(), offset, vote })
    }

    pub(super) async fn receive_snapshot(
        &self,
        mut pieces: Streaming<wire::RaftSnapshotPiece>,
    ) -> Result<wire::RaftSnapshotReply, Status> {
        use wire::raft_snapshot_piece::Piece;
        let Some(Piece::Start(start)) = self.next_piece(&mut pieces).await? else {
            return Err(Status::invalid_argument("a snapshot stream begins with its head"));
        };
        let sender = self.check(start.caller.as_ref())?;
        let (vote, key, meta) = self.head(sender, start.vote, start.head)?;
        let receiver = &self.arrivals.receiver;
        let mut offset = start.offset;
        loop {
            match self.next_piece(&mut pieces).await? {
                Some(Piece::Data(bytes)) => {
                    offset = receiver.write(key, offset, bytes).await?;
                }
                Some(Piece::Tail(tail)) => {
                    if tail.len != key.len || tail.digest != key.digest.as_slice() {
                        return Err(Status::data_loss("the snapshot's tail is not its head's"));
                    }
                    break;
                }
                Some(Piece::Start(_)) => {
                    return Err(Status::invalid_argument("a second head in a snapshot stream"));
                }
                None => return Err(Status::aborted("the snapshot stream ended without its tail")),
            }
        }
        let file = receiver.finish(key).await?;
        let installed = self.install(sender, vote, Snapshot { meta, snapshot: file }).await;
        receiver.end(key).await;
        Ok(wire::RaftSnapshotReply { vote: Some(codec::vote_to_wire(&installed?)) })
    }

    /// Checks that a leader's statements about a snapshot can be true.
    fn head(
        &self,
        sender: Sender,
        vote: Option<wire::RaftVote>,
        head: Option<wire::RaftSnapshotHead>,
    ) -> Result<(Vote, Key, SnapshotMeta), Status> {
        let vote = codec::required_vote(vote).map_err(malformed)?;
        let (key, meta) = open_head(head).map_err(malformed)?;
        let checked = plausible::leader(sender.own_term, sender.node, &vote)
            .and_then(|()| plausible::snapshot(&vote, &meta));
        self.believe(sender, "snapshot", checked)?;
        Ok((vote, key, meta))
    }

    /// Installs a complete snapshot. A snapshot that cannot be restored, or that belongs to another
    /// cluster, never gets its final name.
    async fn install(
        &self,
        sender: Sender,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<Vote, Status> {
        let refused = |why: &str| self.refused(sender, "snapshot", why);
        let file = snapshot.snapshot.clone();
        let restorer = &self.arrivals.restorer;
        let _turn = restorer.turn().await;
        let prepared = restorer.prepare(&file, |machine| self.is_ours(machine)).await;
        prepared.map_err(|error| match error {
            error @ SnapshotError::Restore { .. } => {
                self.refusals.unusable(file.digest);
                refused(&error.to_string())
            }
            error => receive::failed(error),
        })?;
        let (metrics, last) = (self.raft.metrics(), snapshot.meta.last_log_id);
        let committed = metrics.borrow_watched().local_committed;
        // openraft ends the process for such a snapshot.
        if last > committed && last.map(|id| id.index) <= committed.map(|id| id.index) {
            restorer.forget(&file).await;
            return Err(refused("it contradicts what is committed here"));
        }
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        restorer.forget(&file).await;
        Ok(installed.map_err(stopped)?.vote)
    }

    fn is_ours(&self, machine: &M) -> Result<(), String> {
        let Identity { cluster, lineage, .. } = self.identity;
        match machine.cluster() {
            Some((of, _)) if of != cluster => Err(format!("it is of cluster {of}")),
            Some((_, of)) if of != lineage => Err(format!("it is of lineage {of}")),
            _ => Ok(()),
        }
    }

    async fn next_piece(
        &self,
        pieces: &mut Streaming<wire::RaftSnapshotPiece>,
    ) -> Result<Option<wire::raft_snapshot_piece::Piece>, Status> {
        match tokio::time::timeout(self.idle, pieces.message()).await {
            Ok(Ok(Some(piece))) => match piece.piece {
                Some(piece) => Ok(Some(piece)),
                None => Err(Status::invalid_argument("an empty piece of a snapshot")),
            },
            Ok(Ok(None)) => Ok(None),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::deadline_exceeded("the snapshot stream stands still")),
        }
    }
}

fn open_head(head: Option<wire::RaftSnapshotHead>) -> Result<(Key, SnapshotMeta), Malformed> {
    let (meta, len, digest) = codec::head_from_wire(head)?;
    let last_log_id = meta.last_log_id.ok_or_else(|| Malformed("empty snapshot".into()))?;
    Ok((Key { last_log_id, len, digest }, meta))
}
