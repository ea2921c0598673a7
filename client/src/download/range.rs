//! A range of one file, named by plain numbers, as an ordered stream.

use bytes::Bytes;
use cairn_types::ids::Address;
use futures::stream::BoxStream;

use crate::cluster::{Answer, Client};
use crate::error::ClientError;

/// Which bytes of which file.
#[derive(Debug, Clone, Copy)]
pub struct FileRange<'a> {
    pub file: &'a [u8],
    /// The part to take the file from; `None` where all parts agree about it.
    pub part: Option<u32>,
    pub start: u64,
    /// `None` ends at the file's end.
    pub len: Option<u64>,
}

impl Client {
    /// Bytes of one file, in order, each verified before it is given out: [`Client::reader`] with
    /// all of it said at once.
    pub fn read_range<'a>(
        &'a self,
        address: &'a Address,
        range: &'a FileRange<'a>,
    ) -> Answer<'a, BoxStream<'static, Result<Bytes, ClientError>>> {
        let FileRange { file, part, start, len } = *range;
        let reader = self.reader(address, file).part(part);
        match len.map(|len| start.saturating_add(len)) {
            Some(end) => reader.range(start..end).stream(),
            None => reader.range(start..).stream(),
        }
    }
}
