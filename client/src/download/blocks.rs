//! Blocks of one segment from one node, each verified before anyone sees it (D5).

use bytes::{Bytes, BytesMut};
use cairn_core::blocks::{BlockTable, block_len};
use cairn_core::canary;
use cairn_core::ids::{NodeId, SegmentDigest};
use cairn_proto::envelope::Reason;
use cairn_proto::seam::Lane;
use cairn_proto::{convert, wire};
use futures::stream::{BoxStream, StreamExt, try_unfold};
use tonic::{Status, Streaming};

use crate::cluster::{Client, with_identity};

/// Why a node does not give the next block.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub text: String,
    /// It gave bytes that do not match, or said so itself: it should look at its copy.
    pub wrong_bytes: bool,
}

pub(super) type Blocks = BoxStream<'static, Result<(usize, Bytes), Trouble>>;

struct Reading {
    client: Client,
    node: NodeId,
    digest: SegmentDigest,
    len: u32,
    next: usize,
    end: usize,
    open: Option<(Streaming<wire::GetReply>, BlockTable)>,
    /// Bytes of the block that is not complete yet.
    buffer: BytesMut,
}

/// Streams blocks `next..end` of a segment of `len` bytes. Waiting for the next one may be given
/// up and taken up again.
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
        let (mut stream, table) = match self.open.take() {
            Some(open) => open,
            None => self.start().await?,
        };
        let want = block_len(u64::from(self.len), self.next) as usize;
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
        let (block, table, verified) = self
            .client
            .env
            .blocking(Lane::Client, move || {
                let verified =
                    if canary!("unverified_read") { Ok(()) } else { table.verify(index, &block) };
                (block, table, verified)
            })
            .await;
        verified.map_err(|error| Trouble { text: error.to_string(), wrong_bytes: true })?;
        self.open = Some((stream, table));
        Ok(block)
    }

    /// Opens the stream and checks its table against the digest.
    async fn start(&self) -> Result<(Streaming<wire::GetReply>, BlockTable), Trouble> {
        let (mut stub, identity) = self
            .client
            .segments(self.node)
            .await
            .map_err(|error| Trouble { text: error.to_string(), wrong_bytes: false })?;
        let message = wire::GetRequest {
            digest: convert::digest_to_wire(&self.digest),
            first_block: self.next as u32,
            blocks: (self.end - self.next) as u32,
        };
        let response = stub.get(with_identity(message, &identity)).await.map_err(refused)?;
        let mut stream = response.into_inner();
        let head = match next(&mut stream).await? {
            wire::get_reply::Message::Head(head) => head,
            wire::get_reply::Message::Chunk(_) => return Err(odd("bytes before a head")),
        };
        let wrong = |text: String| Trouble { text, wrong_bytes: true };
        if head.len != self.len {
            return Err(wrong(format!("length {} instead of {}", head.len, self.len)));
        }
        let value = |bytes: &Bytes| <[u8; 32]>::try_from(&bytes[..]);
        let values = head.block_values.iter().map(value).collect::<Result<_, _>>();
        let values = values.map_err(|_| odd("a block value that is not 32 bytes"))?;
        let table = BlockTable::checked(self.digest, u64::from(head.len), values)
            .map_err(|error| wrong(error.to_string()))?;
        Ok((stream, table))
    }
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
    let wrong_bytes = Reason::of(&status) == Some(Reason::WrongBytes);
    Trouble { text: status.message().to_owned(), wrong_bytes }
}

fn odd(text: &str) -> Trouble {
    Trouble { text: text.to_owned(), wrong_bytes: false }
}
