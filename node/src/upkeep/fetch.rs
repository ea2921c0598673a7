//! Catch-up: one segment from another node, verified block by block before it is made durable.
//!
//! A fetch is first satisfied from this node's own quarantine, after full verification.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::blocks::{BlockTable, block_count, block_len};
use cairn_core::ids::{NodeId, SegmentDigest};
use cairn_core::work::Fetch;
use cairn_proto::wire::get_reply::Message;
use cairn_proto::wire::segments_client::SegmentsClient;
use cairn_proto::wire::{GetHead, GetReply, GetRequest};
use tonic::{Status, Streaming};

use crate::service::segments::store_status;
use crate::shared::Shared;
use crate::store::{Begin, StoreError};

/// Why a fetch did not succeed this time.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no node has a durable replica to fetch from")]
    NoSource,
    /// Its slot was given up while the bytes were on their way.
    #[error("the replica is not wanted here any more")]
    NotWanted,
    #[error("last source, node {node}: {status}")]
    Source { node: NodeId, status: Status },
}

/// Fetches one segment from the first source that gives all of it.
pub async fn segment(shared: &Arc<Shared>, fetch: &Fetch) -> Result<(), FetchError> {
    let wanted = wanted(shared, fetch.digest);
    match shared.store.recover_from_quarantine_if(fetch.digest, wanted).await {
        Ok(true) => {
            shared.counters.segments_recovered.add(1);
            return Ok(());
        }
        Ok(false) => {}
        Err(StoreError::NotWanted(_)) => return Err(FetchError::NotWanted),
        Err(error) => {
            tracing::debug!(%error, digest = %fetch.digest, "nothing usable in quarantine")
        }
    }
    let mut last = FetchError::NoSource;
    for source in &fetch.sources {
        if !is_wanted(shared, &fetch.digest) {
            return Err(FetchError::NotWanted);
        }
        match from(shared, fetch, *source).await {
            Ok(()) => return Ok(()),
            Err(status) => last = FetchError::Source { node: *source, status },
        }
    }
    Err(last)
}

/// Whether this node's applied catalogue gives it a live slot of `digest`. Nothing else may make
/// a file here: one without a slot would never be destroyed.
fn is_wanted(shared: &Shared, digest: &SegmentDigest) -> bool {
    shared.read(|catalogue| {
        catalogue
            .segment_by_digest(digest)
            .is_some_and(|segment| segment.live_slot_on(shared.node).is_some())
    })
}

/// [`is_wanted`] as the store asks it, under the digest's lock.
pub fn wanted(shared: &Arc<Shared>, digest: SegmentDigest) -> impl FnOnce() -> bool + Send + use<> {
    let shared = Arc::clone(shared);
    move || is_wanted(&shared, &digest)
}

async fn from(shared: &Arc<Shared>, fetch: &Fetch, source: NodeId) -> Result<(), Status> {
    let address = shared
        .address_of(source)
        .ok_or_else(|| Status::not_found(format!("node {source} is not a member")))?;
    let message = GetRequest { digest: fetch.digest.0.to_vec().into(), first_block: 0, blocks: 0 };
    let mut client = SegmentsClient::new(shared.transport(&address))
        .max_decoding_message_size(cairn_core::limits::MESSAGE_BYTES_MAX);
    let call = client.get(shared.call(Some(source), message));
    let mut stream = tokio::time::timeout(shared.call_deadline(), call)
        .await
        .map_err(|_| Status::deadline_exceeded("no answer"))??
        .into_inner();
    let Some(Message::Head(head)) = next(shared, &mut stream).await? else {
        return Err(Status::data_loss("a segment stream begins with a head"));
    };
    let table = check_head(fetch, head)?;
    let begun = shared
        .store
        .begin(fetch.digest, table.segment_len())
        .await
        .map_err(|error| store_status(&error))?;
    let mut writer = match begun {
        Begin::Exists(_) => return Ok(()),
        Begin::Writer(writer) => writer,
    };
    for index in 0..block_count(table.segment_len()) {
        let Some(Message::Chunk(block)) = next(shared, &mut stream).await? else {
            return Err(Status::data_loss(format!("stream ended before block {index}")));
        };
        if block.len() as u64 != block_len(table.segment_len(), index) {
            return Err(Status::data_loss(format!("block {index} has {} bytes", block.len())));
        }
        shared.counters.bytes_fetched.add(block.len() as u64);
        // The writer hashes every block and refuses the whole at its end if one is wrong.
        writer.push(block).await.map_err(|error| store_status(&error))?;
    }
    let wanted = wanted(shared, fetch.digest);
    writer.finish_if(wanted).await.map_err(|error| store_status(&error))?;
    shared.counters.segments_fetched.add(1);
    Ok(())
}

fn check_head(fetch: &Fetch, head: GetHead) -> Result<BlockTable, Status> {
    let values = head
        .block_values
        .iter()
        .map(|value| <[u8; 32]>::try_from(value.as_ref()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Status::data_loss("block values are 32 bytes each"))?;
    BlockTable::checked(fetch.digest, u64::from(head.len), values)
        .map_err(|error| Status::data_loss(error.to_string()))
}

async fn next(
    shared: &Shared,
    stream: &mut Streaming<GetReply>,
) -> Result<Option<Message>, Status> {
    let stall = Duration::from_millis(shared.config.timings.stall_ms);
    let message = tokio::time::timeout(stall, stream.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no bytes for too long"))??;
    Ok(message.and_then(|reply| reply.message))
}
