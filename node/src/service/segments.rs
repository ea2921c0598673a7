//! Segment bytes in and out.
//!
//! A node takes bytes for a slot only once it has applied the slot's epoch, and answers a put
//! only when the segment is durable; what it then holds it reports by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::blocks::block_count;
use cairn_core::canary;
use cairn_core::ids::{Epoch, LINEAGE_SHIFT, SegmentDigest, SegmentId};
use cairn_core::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX};
use cairn_proto::envelope::{Reason, refuse};
use cairn_proto::{convert, wire};
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::report::Said;
use crate::shared::Shared;
use crate::store::{Begin, Reading, StoreError};

/// Readers served at once; each holds up to [`READ_AHEAD`] pieces of 1 MiB.
const READERS_MAX: usize = 32;
/// Pieces read ahead of what the reader has taken.
const READ_AHEAD: usize = 4;
/// How long a put waits for its slot's entry to be applied here.
const SLOT_WAIT: Duration = Duration::from_secs(5);

pub struct Service {
    shared: Arc<Shared>,
    readers: Arc<Semaphore>,
}

impl Service {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, readers: Arc::new(Semaphore::new(READERS_MAX)) }
    }

    /// Waits for the slot to be applied here and checks that it is current.
    async fn check_slot(
        &self,
        segment: SegmentId,
        digest: SegmentDigest,
        epoch: Epoch,
    ) -> Result<(), Status> {
        let index = epoch.0 & ((1 << LINEAGE_SHIFT) - 1);
        self.shared.wait_applied(index, SLOT_WAIT).await?;
        let node = self.shared.node;
        let current = self.shared.read(|catalogue| {
            catalogue.segment(segment).is_some_and(|record| {
                record.digest == digest
                    && record.live_slot_on(node).is_some_and(|slot| slot.epoch == epoch)
            })
        });
        if current {
            return Ok(());
        }
        Err(refuse(
            Reason::StaleSlot,
            format!("node {node} has no slot of segment {segment} with epoch {epoch}"),
        ))
    }

    /// The next message of a put, or a status when the sender stalls or ends early.
    async fn next(
        &self,
        stream: &mut Streaming<wire::PutRequest>,
    ) -> Result<Option<wire::put_request::Message>, Status> {
        let stall = Duration::from_millis(self.shared.config.timings.stall_ms);
        let message = tokio::time::timeout(stall, stream.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no bytes for too long"))??;
        match message {
            None => Ok(None),
            Some(wire::PutRequest { message: Some(message) }) => Ok(Some(message)),
            Some(_) => Err(Status::invalid_argument("empty put message")),
        }
    }
}

#[tonic::async_trait]
impl wire::segments_server::Segments for Service {
    async fn put(
        &self,
        request: Request<Streaming<wire::PutRequest>>,
    ) -> Result<Response<wire::PutReply>, Status> {
        let mut stream = request.into_inner();
        let Some(wire::put_request::Message::Head(head)) = self.next(&mut stream).await? else {
            return Err(Status::invalid_argument("a put begins with a head"));
        };
        let digest = digest(&head.digest)?;
        let len = u64::from(head.len);
        if len == 0 || len > SEGMENT_BYTES_MAX {
            return Err(Status::invalid_argument(format!("segment of {len} bytes")));
        }
        let (segment, epoch) = (SegmentId(head.segment), Epoch(head.epoch));
        self.check_slot(segment, digest, epoch).await?;
        let shared = &self.shared;
        let begun = shared.store.begin(digest, len).await.map_err(|error| store_status(&error))?;
        let mut writer = match begun {
            Begin::Exists(_) => {
                shared.reporter.say(Said::Durable, segment, epoch);
                return Ok(Response::new(wire::PutReply { existed: true }));
            }
            Begin::Writer(writer) => writer,
        };
        let mut received = 0;
        while let Some(message) = self.next(&mut stream).await? {
            let wire::put_request::Message::Chunk(chunk) = message else {
                return Err(Status::invalid_argument("a second head in one put"));
            };
            received += chunk.len() as u64;
            shared.counters.bytes_received.add(chunk.len() as u64);
            if received > len {
                return Err(Status::invalid_argument(format!("more than {len} bytes")));
            }
            writer.push(chunk).await.map_err(|error| store_status(&error))?;
        }
        // The slot may have been given up while the bytes came in.
        let wanted = crate::upkeep::fetch::wanted(shared, digest);
        if canary!("report_before_durable") {
            shared.reporter.say(Said::Durable, segment, epoch);
        }
        writer.finish_if(wanted).await.map_err(|error| store_status(&error))?;
        shared.counters.segments_received.add(1);
        shared.reporter.say(Said::Durable, segment, epoch);
        Ok(Response::new(wire::PutReply { existed: false }))
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<wire::GetReply, Status>> + Send>>;

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let permit = Arc::clone(&self.readers)
            .try_acquire_owned()
            .map_err(|_| refuse(Reason::Busy, "too many readers at once"))?;
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        let shared = Arc::clone(&self.shared);
        let footer = shared.store.read_table(digest).await.map_err(|error| store_status(&error))?;
        let table = footer.table;
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
        let head = wire::GetHead { len, block_values: values };
        let (pieces, stream) = mpsc::channel(READ_AHEAD);
        let serve = serve_blocks(shared, digest, head, first..end, pieces, permit);
        self.shared.env.spawn("serve segment", serve);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn suspect(
        &self,
        request: Request<wire::SuspectRequest>,
    ) -> Result<Response<wire::SuspectReply>, Status> {
        let digest = digest(&request.into_inner().digest)?;
        let checking = crate::upkeep::suspect::begin(&self.shared, digest)
            .ok_or_else(|| refuse(Reason::Busy, "a check is under way"))?;
        let checked = checking.await.map_err(|_| Status::unavailable("the node stops"))?;
        let bad = checked.map_err(|error| store_status(&error))?;
        Ok(Response::new(wire::SuspectReply { bad }))
    }
}

/// Sends the head, then blocks `range` in order; ends early when the reader goes away.
async fn serve_blocks(
    shared: Arc<Shared>,
    digest: SegmentDigest,
    head: wire::GetHead,
    range: std::ops::Range<usize>,
    pieces: mpsc::Sender<Result<wire::GetReply, Status>>,
    _permit: OwnedSemaphorePermit,
) {
    let head = wire::GetReply { message: Some(wire::get_reply::Message::Head(head)) };
    if pieces.send(Ok(head)).await.is_err() {
        return;
    }
    let mut blocks = match shared.store.read_blocks(digest, range, Reading::AsStored) {
        Ok(blocks) => blocks,
        Err(error) => {
            let _ = pieces.send(Err(store_status(&error))).await;
            return;
        }
    };
    while let Some(block) = blocks.next().await {
        let message = match block {
            Ok(block) => {
                debug_assert!(block.len() as u64 <= BLOCK_BYTES, "a block is at most 1 MiB");
                shared.counters.bytes_served.add(block.len() as u64);
                Ok(wire::GetReply { message: Some(wire::get_reply::Message::Chunk(block)) })
            }
            Err(error) => {
                if matches!(error, StoreError::Damaged { .. }) {
                    crate::upkeep::suspect::raise(&shared, digest);
                }
                Err(store_status(&error))
            }
        };
        let failed = message.is_err();
        if pieces.send(message).await.is_err() || failed {
            return;
        }
    }
    shared.ledger.add_reads(digest, 1);
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
        StoreError::NoSpace { .. } => refuse(Reason::NoSpace, text),
        StoreError::Busy { .. } => refuse(Reason::Busy, text),
        StoreError::WrongDigest(_) | StoreError::Damaged { .. } => refuse(Reason::WrongBytes, text),
        StoreError::WrongLength { .. } | StoreError::SegmentLength { .. } => {
            Status::invalid_argument(text)
        }
        _ => Status::internal(text),
    }
}
