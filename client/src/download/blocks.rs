//! Blocks of one segment from one node, each decoded and verified before use (D5).

use bytes::{Bytes, BytesMut};
use cairn_host::envelope::Reason;
use cairn_host::seam::Lane;
use cairn_proto::wire;
use cairn_types::blocks::BlockTable;
use cairn_types::canary;
use cairn_types::convert;
use cairn_types::form::{Codecs, StoredBlocks};
use cairn_types::ids::{NodeId, SegmentDigest};
use futures::stream::{BoxStream, StreamExt, try_unfold};
use tonic::{Status, Streaming};

use crate::cluster::{Client, with_identity};

/// Why a node does not give the next block.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub text: String,
    pub kind: Kind,
}

/// The reaction of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its bytes did not match, or it reported that itself. It should check its copy.
    WrongBytes,
    /// It has no copy.
    NotHeld,
    /// It is overloaded. Its copy may be good.
    Busy,
    /// It cannot be reached, hangs, or sends malformed answers.
    Unavailable,
}

pub(super) type Blocks = BoxStream<'static, Result<(usize, Bytes), Trouble>>;

/// A stream, and its head's information about the blocks.
struct Open {
    stream: Streaming<wire::GetReply>,
    table: BlockTable,
    stored: StoredBlocks,
}

struct Reading {
    client: Client,
    node: NodeId,
    digest: SegmentDigest,
    len: u32,
    next: usize,
    end: usize,
    open: Option<Open>,
    /// Bytes of the block that is not complete yet.
    buffer: BytesMut,
}

/// Streams blocks `next..end` of a segment of `len` bytes. Waiting for the next block may be
/// cancelled and repeated.
pub(super) fn blocks(
    client: Client,
    node: NodeId,
    digest: SegmentDigest,
    len: u32,
    range: std::ops::Range<usize>,
) -> Blocks {
    let reading = Reading {
        client,
        node,
        digest,
        len,
        next: range.start,
        end: range.end,
        open: None,
        buffer: BytesMut::new(),
    };
    try_unfold(reading, |mut reading| async move {
        if reading.next >= reading.end {
            return Ok(None);
        }
        let block = reading.block().await?;
        let index = reading.next;
        reading.next += 1;
        Ok(Some(((index, block), reading)))
    })
    .boxed()
}

impl Reading {
    async fn block(&mut self) -> Result<Bytes, Trouble> {
        let Open { mut stream, table, stored } = match self.open.take() {
            Some(open) => open,
            None => self.start().await?,
        };
        let want = stored.stored_len(self.next) as usize;
        let block = loop {
            if self.buffer.len() >= want {
                break self.buffer.split_to(want).freeze();
            }
            let chunk = match next(&mut stream).await? {
                wire::get_reply::Message::Chunk(chunk) => chunk,
                wire::get_reply::Message::Head(_) => return Err(odd("a second head")),
            };
            if self.buffer.is_empty() && chunk.len() == want {
                break chunk;
            }
            self.buffer.extend_from_slice(&chunk);
        };
        let index = self.next;
        let (verified, table, stored) = self
            .client
            .env
            .blocking(Lane::Client, move || (verify(&table, &stored, index, &block), table, stored))
            .await;
        let block = verified.map_err(|text| Trouble { text, kind: Kind::WrongBytes })?;
        self.open = Some(Open { stream, table, stored });
        Ok(block)
    }

    /// Opens the stream and checks its table against the digest.
    async fn start(&self) -> Result<Open, Trouble> {
        let (mut stub, identity) = self
            .client
            .segments(self.node)
            .await
            .map_err(|error| Trouble { text: error.to_string(), kind: Kind::Unavailable })?;
        let message = wire::GetRequest {
            digest: convert::digest_to_wire(&self.digest),
            first_block: self.next as u32,
            blocks: (self.end - self.next) as u32,
            codecs: Codecs::KNOWN.numbers(),
        };
        let response = stub.get(with_identity(message, &identity)).await.map_err(refused)?;
        let mut stream = response.into_inner();
        let head = match next(&mut stream).await? {
            wire::get_reply::Message::Head(head) => head,
            wire::get_reply::Message::Chunk(_) => return Err(odd("bytes before a head")),
        };
        let wrong = |text: String| Trouble { text, kind: Kind::WrongBytes };
        if head.len != self.len {
            return Err(wrong(format!("length {} instead of {}", head.len, self.len)));
        }
        let value = |bytes: &Bytes| <[u8; 32]>::try_from(&bytes[..]);
        let values = head.block_values.iter().map(value).collect::<Result<_, _>>();
        let values = values.map_err(|_| odd("a block value that is not 32 bytes"))?;
        let table = BlockTable::checked(self.digest, u64::from(head.len), values)
            .map_err(|error| wrong(error.to_string()))?;
        // A codec that was not requested says nothing about the node's copy.
        let stored = Codecs::KNOWN.blocks(head.codec, head.len, &head.stored_lens);
        let stored = stored.map_err(|error| odd(&error.to_string()))?;
        Ok(Open { stream, table, stored })
    }
}

/// The raw bytes of a stored block.
fn verify(
    table: &BlockTable,
    stored: &StoredBlocks,
    index: usize,
    block: &Bytes,
) -> Result<Bytes, String> {
    let raw =
        Codecs::KNOWN.decode_bytes(stored, index, block).map_err(|error| error.to_string())?;
    if !canary!("unverified_read") {
        table.verify(index, &raw).map_err(|error| error.to_string())?;
    }
    Ok(raw)
}

async fn next(stream: &mut Streaming<wire::GetReply>) -> Result<wire::get_reply::Message, Trouble> {
    match stream.message().await {
        Ok(Some(wire::GetReply { message: Some(message) })) => Ok(message),
        Ok(Some(_)) => Err(odd("an empty message")),
        Ok(None) => Err(odd("the stream ended early")),
        Err(status) => Err(refused(status)),
    }
}

fn refused(status: Status) -> Trouble {
    let kind = match Reason::of(&status) {
        Some(Reason::WrongBytes) => Kind::WrongBytes,
        Some(Reason::NotHeld) => Kind::NotHeld,
        Some(Reason::Busy) => Kind::Busy,
        _ => Kind::Unavailable,
    };
    Trouble { text: status.message().to_owned(), kind }
}

fn odd(text: &str) -> Trouble {
    Trouble { text: text.to_owned(), kind: Kind::Unavailable }
}
