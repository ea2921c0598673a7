//! Counts events that are visible on the wire (S2), without asking the product.
//!
//! The bodies of some calls are inspected on the way: the catalogue state that a Stage meets,
//! refused reports and commits, and reads that continue elsewhere in mid-stream. Like the trace it
//! belongs to one run, on the run's thread.

mod requests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::catalogue::Catalogue;
use cairn_proto::wire::{
    ExecuteReply, ExecuteRequest, GetRequest, PutReply, PutRequest, RaftAppendReply,
    RaftSnapshotPiece, RaftSnapshotReply, put_request, raft_append_reply, raft_snapshot_piece,
};
use cairn_types::command::{self, Body, Command, FEATURE_LEVEL, Refusal, Reply};
use cairn_types::convert;
use cairn_types::ids::{Attempt, CheckpointId, RequestId, SegmentDigest};
use prost::Message;

use self::requests::Requests;
use crate::process::{Life, ProcessId};
use crate::trace;

/// Bytes of a body kept for inspection: the whole of every control message.
const KEPT_BYTES: usize = 1 << 20;
/// Length and flag before each message of a stream.
const PREFIX_BYTES: usize = 5;
/// R of the simulated uploads. One more target means a replaced one.
const REPLICAS: usize = 3;

#[derive(Default)]
struct Witness {
    /// The newest catalogue seen anywhere.
    catalogue: Catalogue,
    /// Reads by client and digest that have begun to be answered.
    reads: BTreeMap<(ProcessId, Bytes), Read>,
    /// The subject of a read's call.
    read_calls: BTreeMap<u64, (ProcessId, Bytes)>,
    /// The nodes to which a client's upload has sent a segment.
    targets: BTreeMap<(ProcessId, Bytes), BTreeSet<ProcessId>>,
    /// The subject of a write's call, and the acknowledged segments since the last query.
    put_calls: BTreeMap<u64, Bytes>,
    stored: Vec<(ProcessId, SegmentDigest)>,
    requests: Requests,
}

struct Read {
    call: u64,
    source: Arc<Life>,
    torn: bool,
}

thread_local! {
    static WITNESS: RefCell<Witness> = RefCell::new(Witness::default());
}

/// Clears the previous run on this thread.
pub(crate) fn reset() {
    WITNESS.with_borrow_mut(|witness| *witness = Witness::default());
}

/// A newer catalogue was seen.
pub(crate) fn knows(catalogue: &Catalogue) {
    WITNESS.with_borrow_mut(|witness| witness.catalogue = catalogue.clone());
}

/// Segments that nodes have acknowledged since the last query.
pub(crate) fn take_stored() -> Vec<(ProcessId, SegmentDigest)> {
    WITNESS.with_borrow_mut(|witness| std::mem::take(&mut witness.stored))
}

/// Accepted requests that have a record in the audit, with their commands.
pub(crate) fn recorded() -> Vec<(RequestId, &'static str)> {
    WITNESS.with_borrow(|witness| witness.requests.recorded())
}

/// Promises that answers broke since the last query: name and description.
pub(crate) fn take_broken() -> Vec<(&'static str, String)> {
    WITNESS.with_borrow_mut(|witness| witness.requests.take_broken())
}

/// The latest cluster time at which the client of this attempt was told that its upload continues.
pub(crate) fn renewed_ms(upload: CheckpointId, attempt: Attempt) -> Option<u64> {
    WITNESS.with_borrow(|witness| witness.requests.renewed_ms(upload, attempt))
}

/// One body that crosses a link.
pub(crate) struct Crossing {
    call: u64,
    path: Arc<str>,
    is_response: bool,
    from: Arc<Life>,
    to: Arc<Life>,
    kept: Vec<u8>,
}

impl Crossing {
    /// `None` if such a body has nothing to inspect.
    pub fn begin(
        call: u64,
        path: &Arc<str>,
        what: &str,
        ends: (&Arc<Life>, &Arc<Life>),
    ) -> Option<Self> {
        let (service, _) = path.rsplit_once('/')?;
        let telling = matches!(service, "/cairn.v1.Catalogue" | "/cairn.v1.Segments")
            || matches!(
                &**path,
                "/cairn.v1.Admin/Report" | "/cairn.v1.Raft/Append" | "/cairn.v1.Raft/SendSnapshot"
            );
        let is_response = what == "response";
        let (from, to) = (ends.0.clone(), ends.1.clone());
        let crossing = Self { call, path: path.clone(), is_response, from, to, kept: Vec::new() };
        if telling && is_response && &*crossing.path == "/cairn.v1.Segments/Get" {
            WITNESS.with_borrow_mut(|witness| witness.read_begins(&crossing));
        }
        telling.then_some(crossing)
    }

    pub fn carry(&mut self, data: &[u8]) {
        let room = KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&data[..data.len().min(room)]);
    }

    pub fn end(self, clean: bool) {
        WITNESS.with_borrow_mut(|witness| match self.is_response {
            true => witness.response(&self, clean),
            false => witness.request(&self),
        });
    }

    /// The first message of the body.
    fn first<M: Message + Default>(&self) -> Option<M> {
        let len = self.kept.get(1..PREFIX_BYTES)?.try_into().ok().map(u32::from_be_bytes)?;
        let bytes = self.kept.get(PREFIX_BYTES..PREFIX_BYTES + len as usize)?;
        M::decode(bytes).ok()
    }
}

impl Crossing {
    /// All messages of the body.
    fn messages<M: Message + Default>(&self) -> Vec<M> {
        let (mut rest, mut messages) = (&self.kept[..], Vec::new());
        while let Some((prefix, behind)) = rest.split_at_checked(PREFIX_BYTES) {
            let Ok(len) = prefix[1..].try_into().map(u32::from_be_bytes) else { break };
            let Some((bytes, behind)) = behind.split_at_checked(len as usize) else { break };
            messages.extend(M::decode(bytes));
            rest = behind;
        }
        messages
    }
}

impl Witness {
    fn request(&mut self, crossing: &Crossing) {
        match &*crossing.path {
            "/cairn.v1.Catalogue/Execute" => {
                let request = crossing.first::<ExecuteRequest>();
                let command = request.map(|it| convert::decode_command(&it.command, FEATURE_LEVEL));
                if let Some(Ok(command)) = command {
                    self.command(crossing.from.process, &command);
                    let clock_ms = self.catalogue.cluster().clock_ms;
                    self.requests.asks(crossing.call, command, clock_ms);
                }
            }
            "/cairn.v1.Raft/SendSnapshot" => self.snapshot(crossing),
            "/cairn.v1.Segments/Get" => {
                if let Some(GetRequest { digest, .. }) = crossing.first() {
                    self.read(crossing, (crossing.from.process, digest));
                }
            }
            "/cairn.v1.Segments/Put" => {
                let message = crossing.first::<PutRequest>().and_then(|it| it.message);
                if let Some(put_request::Message::Head(head)) = message {
                    self.put_calls.insert(crossing.call, head.digest.clone());
                    let key = (crossing.from.process, head.digest);
                    let targets = self.targets.entry(key).or_default();
                    let new = targets.insert(crossing.to.process);
                    trace::count("wire.replaced_targets", (new && targets.len() > REPLICAS).into());
                }
            }
            _ => {}
        }
    }

    fn response(&mut self, crossing: &Crossing, clean: bool) {
        match &*crossing.path {
            "/cairn.v1.Catalogue/Execute" | "/cairn.v1.Admin/Report" => {
                let reply = crossing.first::<ExecuteReply>().and_then(|it| it.reply);
                if let Some(Ok(reply)) = reply.map(convert::reply_from_wire) {
                    count_reply(&reply);
                    self.requests.answer(crossing.call, &reply);
                }
            }
            "/cairn.v1.Raft/Append" => {
                let result = crossing.first::<RaftAppendReply>().and_then(|it| it.result);
                let conflict = matches!(result, Some(raft_append_reply::Result::Conflict(_)));
                trace::count("wire.append_conflicts", conflict.into());
            }
            // A refusal has no message.
            "/cairn.v1.Raft/SendSnapshot" => {
                let installed = crossing.first::<RaftSnapshotReply>().is_some();
                trace::count("wire.snapshots_installed", installed.into());
            }
            "/cairn.v1.Segments/Put" => {
                let digest = self.put_calls.remove(&crossing.call);
                let acknowledged = crossing.first::<PutReply>().and(digest);
                let digest = acknowledged.and_then(|digest| digest[..].try_into().ok());
                let stored = digest.map(|digest| (crossing.from.process, SegmentDigest(digest)));
                self.stored.extend(stored);
            }
            "/cairn.v1.Segments/Get" => {
                let Some(key) = self.read_calls.remove(&crossing.call) else { return };
                if clean {
                    self.reads.remove(&key);
                } else if let Some(read) = self.reads.get_mut(&key) {
                    read.torn |= read.call == crossing.call;
                }
            }
            _ => {}
        }
    }

    /// A snapshot, or the rest of one that was interrupted, and its pieces.
    fn snapshot(&self, crossing: &Crossing) {
        let messages = crossing.messages::<RaftSnapshotPiece>();
        let pieces = messages.iter().filter_map(|it| it.piece.as_ref());
        let (mut data, mut resumed) = (0, false);
        for piece in pieces {
            match piece {
                raft_snapshot_piece::Piece::Start(start) => resumed = start.offset > 0,
                raft_snapshot_piece::Piece::Data(_) => data += 1,
                raft_snapshot_piece::Piece::Tail(_) => {}
            }
        }
        trace::count("wire.snapshots_in_pieces", (data > 1).into());
        trace::count("wire.snapshot_streams_resumed", resumed.into());
    }

    /// A client asks for a segment. Checks whether its earlier stream broke in the middle.
    fn read(&mut self, crossing: &Crossing, key: (ProcessId, Bytes)) {
        let broken = self.reads.get(&key).is_some_and(|read| read.torn || read.source.is_over());
        if broken {
            self.reads.remove(&key);
            trace::count("wire.get_failovers", 1);
        }
        self.read_calls.insert(crossing.call, key);
    }

    fn read_begins(&mut self, crossing: &Crossing) {
        if let Some(key) = self.read_calls.get(&crossing.call) {
            let source = crossing.from.clone();
            let read = Read { call: crossing.call, source, torn: false };
            self.reads.insert(key.clone(), read);
        }
    }

    /// The state that a Stage meets. After the begin of an upload its segments count as sent anew.
    fn command(&mut self, client: ProcessId, command: &Command) {
        if matches!(command.body, Body::Begin(_)) {
            self.targets.retain(|(of, _), _| *of != client);
        }
        let Body::Stage(command::Stage { checkpoint, segments, .. }) = &command.body else {
            return;
        };
        let staged_elsewhere = |id| {
            let open = self.catalogue.open_uploads().filter(|upload| upload.id != *checkpoint);
            open.flat_map(|upload| upload.references()).any(|segment| segment == id)
        };
        for staged in segments {
            let Some(record) = self.catalogue.segment_by_digest(&staged.digest) else { continue };
            let name = match (record.reaped, record.is_referenced()) {
                (true, _) => "stage.met_reaped",
                (_, false) => "stage.met_unreferenced",
                _ if staged_elsewhere(record.id) => "stage.met_open_upload",
                _ => continue,
            };
            trace::count(name, 1);
        }
    }
}

fn count_reply(reply: &Reply) {
    let name = match reply {
        Reply::Lacking { .. } => "wire.commits_refused",
        Reply::Reported { refused: 1.., .. } => "wire.reports_void_epoch",
        Reply::Refused(Refusal::StaleIncarnation { .. }) => "wire.reports_stale_incarnation",
        Reply::Refused(Refusal::Fenced { .. }) => "wire.fenced",
        Reply::Refused(Refusal::LastReplicas { .. }) => "wire.removals_refused",
        _ => return,
    };
    trace::count(name, 1);
}
