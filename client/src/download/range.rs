//! A range of one file, given by plain numbers, as an ordered stream.

use bytes::Bytes;
use cairn_types::ids::Address;
use futures::stream::BoxStream;

use crate::cluster::{Answer, Client};
use crate::error::ClientError;

/// The file and the range.
#[derive(Debug, Clone, Copy)]
pub struct FileRange<'a> {
    pub file: &'a [u8],
    /// The part of the file. `None` if all parts have the same file.
    pub part: Option<u32>,
    pub start: u64,
    /// `None` means up to the file's end.
    pub len: Option<u64>,
}

impl Client {
    /// Bytes of one file, in order, each verified before it is returned. Like [`Client::reader`]
    /// with all options in one value.
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
