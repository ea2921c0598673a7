//! A segment's blocks from another node. Each is decoded and verified before it is passed on.
//!
//! ```text
//! open: head ──► block table, checked against the digest
//! next: block ──► decoded, checked against the table     one block within `stall_ms`
//! ```
//!
//! A read is limited only by its progress. If each block (1 MiB) arrives within `stall_ms`, the
//! read continues to the end, with no limit on the total time.

use std::time::Duration;

use bytes::Bytes;
use cairn_proto::wire::get_reply::Message;
use cairn_proto::wire::segments_client::SegmentsClient;
use cairn_proto::wire::{GetHead, GetReply, GetRequest};
use cairn_types::blocks::BlockTable;
use cairn_types::form::{Codecs, StoredBlocks};
use cairn_types::ids::{NodeId, SegmentDigest};
use cairn_types::limits::MESSAGE_BYTES_MAX;
use tonic::{Status, Streaming};

use crate::shared::Calls;

/// Why a node gave no more blocks.
#[derive(Debug)]
pub enum RemoteError {
    /// Its bytes do not match the digest. It should be told.
    Wrong(Status),
    /// It does not answer, or does not hold the segment.
    Failed(Status),
}

impl RemoteError {
    pub fn into_status(self) -> Status {
        match self {
            Self::Wrong(status) | Self::Failed(status) => status,
        }
    }
}

impl From<Status> for RemoteError {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// A block as received, and its verified raw bytes.
pub struct Block {
    pub stored: Bytes,
    pub raw: Bytes,
}

/// The blocks of one segment, in order, while they come in.
pub struct RemoteBlocks {
    table: BlockTable,
    stored: StoredBlocks,
    codecs: Codecs,
    /// The next block.
    next: usize,
    stall: Duration,
    stream: Streaming<GetReply>,
}

impl RemoteBlocks {
    /// Asks `node` for the blocks of `digest` from block `first` on, which come raw or in a form
    /// of `codecs`.
    pub async fn open(
        calls: &Calls,
        codecs: Codecs,
        node: NodeId,
        digest: SegmentDigest,
        first: usize,
    ) -> Result<Self, RemoteError> {
        let address = calls
            .member
            .address_of(node)
            .ok_or_else(|| Status::not_found(format!("node {node} is not a member")))?;
        let first_block = u32::try_from(first)
            .map_err(|_| Status::internal("a segment has at most 32 blocks"))?;
        let message = GetRequest {
            digest: digest.0.to_vec().into(),
            first_block,
            blocks: 0,
            codecs: codecs.numbers(),
        };
        let mut client = SegmentsClient::new(calls.transport(&address))
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let call = client.get(calls.request(Some(node), message));
        let mut stream = tokio::time::timeout(calls.this.call_deadline(), call)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer"))??
            .into_inner();
        let stall = Duration::from_millis(calls.this.config.timings.stall_ms);
        let Some(Message::Head(head)) = message_within(stall, &mut stream).await? else {
            return Err(Status::data_loss("a segment stream begins with a head").into());
        };
        let table = table_of(digest, &head).map_err(RemoteError::Wrong)?;
        let stored = codecs.blocks(head.codec, head.len, &head.stored_lens);
        let stored = stored.map_err(|error| Status::data_loss(error.to_string()))?;
        Ok(Self { table, stored, codecs, next: first, stall, stream })
    }

    pub fn table(&self) -> &BlockTable {
        &self.table
    }

    /// The form in which the blocks come.
    pub fn stored(&self) -> &StoredBlocks {
        &self.stored
    }

    /// The next block, verified; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Block>, RemoteError> {
        if self.next >= self.table.values().len() {
            return Ok(None);
        }
        let message = message_within(self.stall, &mut self.stream).await?;
        let Some(Message::Chunk(stored)) = message else {
            let text = format!("stream ended before block {}", self.next);
            return Err(Status::data_loss(text).into());
        };
        let wrong = |text: String| RemoteError::Wrong(Status::data_loss(text));
        let raw = self.codecs.decode_bytes(&self.stored, self.next, &stored);
        let raw = raw.map_err(|error| wrong(error.to_string()))?;
        self.table.verify(self.next, &raw).map_err(|error| wrong(error.to_string()))?;
        self.next += 1;
        Ok(Some(Block { stored, raw }))
    }
}

fn table_of(digest: SegmentDigest, head: &GetHead) -> Result<BlockTable, Status> {
    let values = head
        .block_values
        .iter()
        .map(|value| <[u8; 32]>::try_from(value.as_ref()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Status::data_loss("block values are 32 bytes each"))?;
    BlockTable::checked(digest, u64::from(head.len), values)
        .map_err(|error| Status::data_loss(error.to_string()))
}

async fn message_within(
    stall: Duration,
    stream: &mut Streaming<GetReply>,
) -> Result<Option<Message>, Status> {
    let message = tokio::time::timeout(stall, stream.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no bytes for too long"))??;
    Ok(message.and_then(|reply| reply.message))
}
