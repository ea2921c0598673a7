//! Segment bytes in and out.
//!
//! A node takes bytes for a slot only once it has applied the slot's epoch, and answers a put
//! only when the segment is durable; what it then holds it reports by itself.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_host::envelope::{Reason, about, refuse};
use cairn_proto::wire;
use cairn_types::blocks::{BlockTable, block_count};
use cairn_types::canary;
use cairn_types::convert;
use cairn_types::form::{Form, FormError, StoredBlocks};
use cairn_types::ids::{CheckpointId, Epoch, LINEAGE_SHIFT, SegmentDigest, SegmentId};
use cairn_types::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX};
use cairn_types::rights::Right;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::admission::{Lane, Lanes, Peer, Permit};
use crate::caller::{Caller, nobody};
use crate::pace::Pace;
use crate::reporter::Said;
use crate::shared::Replicas;
use crate::store::format::Footer;
use crate::store::{Begin, Reading, Salvage, StoreError, WRITERS_MAX};
use crate::upkeep::own_work::FETCHES_MAX;
use crate::waits::Waits;

/// Readers served at once; each holds up to [`READ_AHEAD`] pieces of 1 MiB, and as much again in
/// the transport.
const READERS_MAX: usize = 32;
/// Pieces read ahead of what the reader has taken.
const READ_AHEAD: usize = 4;
/// A reader that takes no piece for this long loses its stream: its place is another's.
const READER_STALL: Duration = Duration::from_secs(30);
/// Uploads taken at once; each pins up to three buffers of 1 MiB and reserves its space. Fewer
/// than the store's [`WRITERS_MAX`], so that catch-up always finds a place.
const UPLOADS_MAX: usize = 64;
const _: () = assert!(UPLOADS_MAX + FETCHES_MAX <= WRITERS_MAX);
/// Puts whose head is not there yet.
const ARRIVING_MAX: usize = 1024;
/// A put's head comes at once.
const HEAD_WAIT: Duration = Duration::from_secs(5);
/// How long a put waits for its slot's entry to be applied here.
const SLOT_WAIT: Duration = Duration::from_secs(5);

pub struct Service {
    replicas: Arc<Replicas>,
    waits: Waits,
    readers: Lane,
    uploads: Lane,
    arriving: Lane,
}

impl Service {
    pub fn new(replicas: Arc<Replicas>, waits: Waits, lanes: &Lanes) -> Self {
        let readers = lanes.open("readers", READERS_MAX);
        let uploads = lanes.open("uploads", UPLOADS_MAX);
        let arriving = lanes.open("uploads on their way in", ARRIVING_MAX);
        Self { replicas, waits, readers, uploads, arriving }
    }

    /// Refuses bytes to a subject that names no checkpoint which refers to them and which it may read,
    /// or, to be sent, has begun. One that this node has not applied yet it may wait for.
    async fn check_account(
        &self,
        caller: &Caller,
        about: Option<CheckpointId>,
        right: Right,
        digest: SegmentDigest,
    ) -> Result<(), Status> {
        let token = match caller {
            Caller::Nobody => return Err(nobody()),
            Caller::Key | Caller::Local => return Ok(()),
            Caller::Subject(token) => &token.subject,
        };
        let member = &self.replicas.member;
        let is_shown = || {
            member.read(|catalogue| {
                let Some(segment) = catalogue.segment_by_digest(&digest) else { return false };
                let wanted = BTreeSet::from([segment.id]);
                !catalogue.on_account_of(token, about, right, &wanted).is_empty()
            })
        };
        if is_shown() {
            return Ok(());
        }
        member.read_index(SLOT_WAIT).await?;
        match is_shown() {
            true => Ok(()),
            // As if it were not here: whether it is, is nothing that the caller may know.
            false => Err(refuse(Reason::NotHeld, format!("segment {digest} is not held here"))),
        }
    }

    /// Waits for the slot to be applied here and checks that it is current, and that the bytes come
    /// in its segment's form, or raw.
    async fn check_slot(
        &self,
        segment: SegmentId,
        digest: SegmentDigest,
        epoch: Epoch,
        form: Form,
    ) -> Result<(), Status> {
        let index = epoch.0 & ((1 << LINEAGE_SHIFT) - 1);
        self.replicas.member.wait_applied(index, SLOT_WAIT).await?;
        let node = self.replicas.this.id;
        let current = self.replicas.member.read(|catalogue| {
            let record = catalogue.segment(segment).filter(|record| record.digest == digest)?;
            record.live_slot_on(node).filter(|slot| slot.epoch == epoch)?;
            Some(record.form)
        });
        match current {
            Some(wanted) if form.raw_len() != wanted.raw_len() => Err(refuse(
                Reason::StaleSlot,
                format!(
                    "segment {digest} is staged with {} bytes, not {}",
                    wanted.raw_len(),
                    form.raw_len()
                ),
            )),
            Some(wanted) if form.is_raw() || form == wanted => Ok(()),
            Some(wanted) => Err(refuse(
                Reason::Form,
                format!("segment {digest} is stored as {wanted} or raw, not as {form}"),
            )),
            None => Err(refuse(
                Reason::StaleSlot,
                format!("node {node} has no slot of segment {segment} with epoch {epoch}"),
            )),
        }
    }
}

/// The next message of a put, or a status when the sender is too slow or ends early.
async fn next_message(
    stream: &mut Streaming<wire::PutRequest>,
    pace: &mut Pace,
) -> Result<Option<wire::put_request::Message>, Status> {
    let message = pace.wait(stream.message()).await;
    let message = message.ok_or_else(|| Status::deadline_exceeded("bytes come too slowly"))??;
    match message {
        None => Ok(None),
        Some(wire::PutRequest { message: Some(message) }) => Ok(Some(message)),
        Some(_) => Err(Status::invalid_argument("empty put message")),
    }
}

#[tonic::async_trait]
impl wire::segments_server::Segments for Service {
    async fn put(
        &self,
        request: Request<Streaming<wire::PutRequest>>,
    ) -> Result<Response<wire::PutReply>, Status> {
        let peer = request.extensions().get::<Peer>().copied();
        let (caller, about) = (Caller::of(&request), about(request.metadata()));
        let mut stream = request.into_inner();
        let arriving = self.arriving.take(peer)?;
        let head = next_message(&mut stream, &mut Pace::new(HEAD_WAIT)).await?;
        let Some(wire::put_request::Message::Head(head)) = head else {
            return Err(Status::invalid_argument("a put begins with a head"));
        };
        drop(arriving);
        let began = Instant::now();
        let permit = self.uploads.take(peer)?;
        let digest = digest(&head.digest)?;
        let len = u64::from(head.len);
        if len == 0 || len > SEGMENT_BYTES_MAX {
            return Err(Status::invalid_argument(format!("segment of {len} bytes")));
        }
        let (segment, epoch) = (SegmentId(head.segment), Epoch(head.epoch));
        let replicas = &self.replicas;
        let blocks = replicas.store.codecs().blocks(head.codec, head.len, &head.stored_lens);
        let blocks = blocks.map_err(|error| refuse(Reason::Form, error.to_string()))?;
        self.check_slot(segment, digest, epoch, blocks.form()).await?;
        self.check_account(&caller, about, Right::Write, digest).await?;
        let stored_len = u64::from(blocks.form().stored_len());
        let begun =
            replicas.store.begin(digest, blocks).await.map_err(|error| store_status(&error))?;
        let mut writer = match begun {
            Begin::Exists(_) => {
                replicas.say_durable(segment, epoch, digest);
                return Ok(Response::new(wire::PutReply { existed: true }));
            }
            Begin::Writer(writer) => writer,
        };
        let mut received = 0;
        let mut pace = Pace::new(Duration::from_millis(replicas.this.config.timings.stall_ms));
        while let Some(message) = next_message(&mut stream, &mut pace).await? {
            let wire::put_request::Message::Chunk(chunk) = message else {
                return Err(Status::invalid_argument("a second head in one put"));
            };
            received += chunk.len() as u64;
            pace.moved(chunk.len());
            replicas.counters.bytes_received.add(chunk.len() as u64);
            if received > stored_len {
                return Err(Status::invalid_argument(format!("more than {stored_len} bytes")));
            }
            writer.push(chunk).await.map_err(|error| store_status(&error))?;
        }
        // The slot may have been given up while the bytes came in.
        let wanted = crate::upkeep::fetch::wanted(&replicas.member, digest);
        if canary!("report_before_durable") {
            replicas.reporter.say(Said::Durable, segment, epoch);
        }
        writer.finish_if(wanted).await.map_err(|error| store_status(&error))?;
        replicas.note_written(digest);
        replicas.counters.segments_received.add(1);
        self.waits.segment_puts.observe(began.elapsed().as_secs_f64());
        replicas.say_durable(segment, epoch, digest);
        if canary!("keep_permit") {
            std::mem::forget(permit);
        }
        Ok(Response::new(wire::PutReply { existed: false }))
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<wire::GetReply, Status>> + Send>>;

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let permit = self.readers.take(request.extensions().get::<Peer>().copied())?;
        let (caller, about) = (Caller::of(&request), about(request.metadata()));
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        self.check_account(&caller, about, Right::Read, digest).await?;
        let replicas = Arc::clone(&self.replicas);
        let (table, stored, salvage) = match replicas.store.read_table(digest).await {
            Ok(Footer { table, blocks }) => (table, Some(blocks), None),
            Err(error) => {
                crate::upkeep::suspect::raise_for(&replicas, digest, &error);
                let (table, copies) = salvage(&replicas, digest, &error).await?;
                (table, None, Some(copies))
            }
        };
        // As it is stored where the reader can decode it, else raw.
        let knows = |form: Form| form.is_raw() || request.codecs.contains(&form.codec().number());
        let as_stored = stored.filter(|blocks| knows(blocks.form()));
        let reading = if as_stored.is_some() { Reading::AsStored } else { Reading::Verified };
        let blocks = block_count(table.segment_len());
        let first = request.first_block as usize;
        let wanted = if request.blocks == 0 { blocks } else { request.blocks as usize };
        let end = first.saturating_add(wanted).min(blocks);
        if first >= blocks {
            let text = format!("segment has {blocks} blocks, {first} is not among them");
            return Err(Status::out_of_range(text));
        }
        let len = u32::try_from(table.segment_len())
            .map_err(|_| Status::internal("segment is longer than 32 MiB"))?;
        let values = table.values().iter().map(|value| Bytes::copy_from_slice(value)).collect();
        let sent = as_stored.unwrap_or_else(|| StoredBlocks::raw(len));
        let head = wire::GetHead {
            len,
            block_values: values,
            codec: sent.form().codec().number(),
            stored_lens: sent.lens_to_wire(),
        };
        let (pieces, stream) = pieces();
        let env = self.replicas.this.env.clone();
        match salvage {
            None => {
                let serve = serve_blocks(
                    (replicas, self.waits.clone()),
                    (digest, reading),
                    head,
                    first..end,
                    pieces,
                    permit,
                );
                env.spawn("serve segment", serve);
            }
            Some(copies) => {
                let serve = serve_salvaged((copies, table), head, first..end, pieces, permit);
                env.spawn("serve salvaged segment", serve);
            }
        }
        Ok(Response::new(Box::pin(stream)))
    }

    async fn suspect(
        &self,
        request: Request<wire::SuspectRequest>,
    ) -> Result<Response<wire::SuspectReply>, Status> {
        let (caller, about) = (Caller::of(&request), about(request.metadata()));
        let digest = digest(&request.into_inner().digest)?;
        self.check_account(&caller, about, Right::Read, digest).await?;
        let checking = crate::upkeep::suspect::begin(&self.replicas, digest)
            .ok_or_else(|| refuse(Reason::Busy, "a check is under way"))?;
        let checked = checking.await.map_err(|_| Status::unavailable("the node stops"))?;
        let bad = checked.map_err(|error| store_status(&error))?;
        Ok(Response::new(wire::SuspectReply { bad }))
    }
}

type Item = Result<wire::GetReply, Status>;
/// An item on its way to the reader, which can be taken back.
type Held = Arc<Mutex<Option<Item>>>;

/// The sending end of a reader's stream.
struct Pieces {
    sender: mpsc::Sender<Held>,
    /// What was sent last, and may not be taken yet.
    recent: VecDeque<Held>,
    pace: Pace,
}

/// A stream whose reader has to take something every now and then.
fn pieces() -> (Pieces, impl Stream<Item = Item> + Send) {
    let (sender, receiver) = mpsc::channel::<Held>(READ_AHEAD);
    let stream = futures::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        let held = receiver.recv().await?;
        let item = held.lock().take();
        Some(match item {
            Some(item) => (item, Some(receiver)),
            None => (Err(stalled()), None),
        })
    });
    (Pieces { sender, recent: VecDeque::new(), pace: Pace::new(READER_STALL) }, stream)
}

fn stalled() -> Status {
    Status::deadline_exceeded(format!(
        "the reader was too slow: no piece taken for {READER_STALL:?}"
    ))
}

impl Pieces {
    /// `None` if the reader went away or stands still. Then what waits for it is dropped: it costs
    /// memory for as long as the connection lives. The reader finds a status in its place.
    async fn send(&mut self, item: Item, len: usize) -> Option<()> {
        match self.pace.wait(self.sender.reserve()).await {
            Some(Ok(place)) => {
                let held: Held = Arc::new(Mutex::new(Some(item)));
                if self.recent.len() > READ_AHEAD {
                    self.recent.pop_front();
                }
                self.recent.push_back(Arc::clone(&held));
                self.pace.moved(len);
                place.send(held);
                Some(())
            }
            Some(Err(_)) => None,
            None => {
                self.recent.iter().for_each(|held| drop(held.lock().take()));
                None
            }
        }
    }
}

/// Sends the head, then blocks `range` in order; ends early when the reader goes away.
async fn serve_blocks(
    (replicas, waits): (Arc<Replicas>, Waits),
    (digest, reading): (SegmentDigest, Reading),
    head: wire::GetHead,
    range: std::ops::Range<usize>,
    mut pieces: Pieces,
    _permit: Permit,
) {
    let began = Instant::now();
    let head = wire::GetReply { message: Some(wire::get_reply::Message::Head(head)) };
    if pieces.send(Ok(head), 0).await.is_none() {
        return;
    }
    let mut blocks = match replicas.store.read_blocks(digest, range, reading) {
        Ok(blocks) => blocks,
        Err(error) => {
            let _ = pieces.send(Err(store_status(&error)), 0).await;
            return;
        }
    };
    while let Some(block) = blocks.next().await {
        let len = block.as_ref().map_or(0, Bytes::len);
        let message = match block {
            Ok(block) => {
                debug_assert!(block.len() as u64 <= BLOCK_BYTES, "a block is at most 1 MiB");
                replicas.counters.bytes_served.add(block.len() as u64);
                Ok(wire::GetReply { message: Some(wire::get_reply::Message::Chunk(block)) })
            }
            Err(error) => {
                crate::upkeep::suspect::raise_for(&replicas, digest, &error);
                Err(store_status(&error))
            }
        };
        let failed = message.is_err();
        if pieces.send(message, len).await.is_none() || failed {
            return;
        }
    }
    waits.segment_gets.observe(began.elapsed().as_secs_f64());
    // Not of one that was destroyed meanwhile: nothing would forget it.
    if replicas.store.holds(digest) {
        replicas.ledger.add_reads(digest, 1);
    }
}

/// The bad copies of a segment that cannot be read as a whole, if they tell its block table and a
/// checkpoint still needs it: some of their blocks may be the last good ones anywhere. Else
/// `error`, as a caller should take it.
async fn salvage(
    replicas: &Replicas,
    digest: SegmentDigest,
    error: &StoreError,
) -> Result<(BlockTable, Salvage), Status> {
    let refused = || store_status(error);
    if !matches!(error, StoreError::NotHeld(_) | StoreError::Damaged { .. }) {
        return Err(refused());
    }
    let len = replicas.member.read(|catalogue| {
        let segment = catalogue.segment_by_digest(&digest)?;
        segment.is_referenced().then_some(u64::from(segment.form.raw_len()))
    });
    let Some(len) = len else { return Err(refused()) };
    let copies = replicas.store.salvage(digest, len).await.map_err(|error| store_status(&error))?;
    let copies = copies.ok_or_else(refused)?;
    let table = copies.table().cloned().ok_or_else(refused)?;
    Ok((table, copies))
}

/// As [`serve_blocks`], of bad copies: up to the first block that none of them has intact.
async fn serve_salvaged(
    (copies, table): (Salvage, BlockTable),
    head: wire::GetHead,
    range: std::ops::Range<usize>,
    mut pieces: Pieces,
    _permit: Permit,
) {
    let reply = |message| wire::GetReply { message: Some(message) };
    if pieces.send(Ok(reply(wire::get_reply::Message::Head(head))), 0).await.is_none() {
        return;
    }
    for index in range {
        let block = copies.block(&table, index).await.ok_or_else(|| {
            refuse(Reason::WrongBytes, format!("no copy in quarantine has block {index}"))
        });
        let (failed, len) = (block.is_err(), block.as_ref().map_or(0, Bytes::len));
        let message = block.map(|block| reply(wire::get_reply::Message::Chunk(block)));
        if pieces.send(message, len).await.is_none() || failed {
            return;
        }
    }
}

fn digest(bytes: &[u8]) -> Result<SegmentDigest, Status> {
    convert::digest_from_wire("digest", bytes)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// What the store says, as a caller elsewhere should take it.
pub fn store_status(error: &StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::NotHeld(_) => refuse(Reason::NotHeld, text),
        StoreError::NotWanted(_) => refuse(Reason::StaleSlot, text),
        StoreError::NoSpace { .. } | StoreError::NoInodes => refuse(Reason::NoSpace, text),
        StoreError::Busy { .. } => refuse(Reason::Busy, text),
        StoreError::Form(FormError::UnknownCodec(_)) => refuse(Reason::Form, text),
        StoreError::WrongDigest(_) | StoreError::Form(_) | StoreError::Damaged { .. } => {
            refuse(Reason::WrongBytes, text)
        }
        StoreError::WrongLength { .. } | StoreError::SegmentLength { .. } => {
            Status::invalid_argument(text)
        }
        _ => Status::internal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece() -> Item {
        Ok(wire::GetReply {
            message: Some(wire::get_reply::Message::Chunk(Bytes::from_static(b"x"))),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stands_still_loses_its_stream_with_a_status() {
        let (mut pieces, stream) = pieces();
        let mut stream = Box::pin(stream);
        for _ in 0..READ_AHEAD {
            assert!(pieces.send(piece(), 1).await.is_some());
        }
        let began = tokio::time::Instant::now();
        assert!(pieces.send(piece(), 1).await.is_none());
        assert_eq!(began.elapsed(), READER_STALL);
        assert!(pieces.recent.iter().all(|held| held.lock().is_none()), "memory is kept");
        drop(pieces);
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_its_time_gets_everything() {
        let (mut pieces, stream) = pieces();
        let sent = async move {
            for _ in 0..40 {
                pieces.send(piece(), 1 << 20).await.unwrap();
            }
        };
        let read = stream
            .then(|item| async move {
                tokio::time::sleep(READER_STALL / 2).await;
                item.unwrap();
            })
            .count();
        assert_eq!(tokio::join!(sent, read).1, 40);
    }
}
