//! Tensors of a safetensors file that is in both checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::ids::SegmentDigest;
use cairn_types::manifest::{FileEntry, Manifest};
use futures::TryStreamExt;
use serde::Deserialize;
use serde_json::Value;

use super::{Change, Side};
use crate::cluster::Client;
use crate::download::OpenFile;
use crate::error::ClientError;
use crate::safetensors::HEADER_BYTES_MAX;

/// A tensor that is not the same in both.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorChange {
    pub name: String,
    pub change: Change,
    /// Data type and shape in the first and in the second, such as `BF16 [4096, 4096]`; empty
    /// where it is missing.
    pub form: (String, String),
    /// Bytes in the first and in the second; 0 where it is missing.
    pub bytes: (u64, u64),
}

impl TensorChange {
    pub fn new(name: impl Into<String>, change: Change, bytes: (u64, u64)) -> Self {
        Self { name: name.into(), change, form: Default::default(), bytes }
    }
}

/// One tensor of a header.
#[derive(Debug, Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    /// Within the data, behind the header.
    data_offsets: (u64, u64),
}

impl Tensor {
    fn form(&self) -> String {
        format!("{} {:?}", self.dtype, self.shape)
    }

    fn len(&self) -> u64 {
        self.data_offsets.1 - self.data_offsets.0
    }
}

/// One checkpoint's file, open.
struct File<'a> {
    file: Arc<OpenFile>,
    manifest: &'a Manifest,
    entry: &'a FileEntry,
}

impl<'a> File<'a> {
    async fn open(
        client: &Client,
        side: &Side<'a>,
        name: &[u8],
    ) -> Result<Option<Self>, ClientError> {
        let Some((manifest, entry, part)) = side.files.get(name).copied() else { return Ok(None) };
        let reader = client.reader(&side.address, name).part(part).quarantined(side.quarantined);
        let reader = reader.open().await?;
        if reader.checkpoint().id != side.id {
            // Its step was put again meanwhile.
            return Err(ClientError::Deleted { address: side.address.to_string() });
        }
        Ok(Some(Self { file: reader.file(), manifest, entry }))
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        let mut stream = self.file.bytes(range);
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The header; `None` where the file is not safetensors.
    async fn header(&self) -> Result<Option<Header>, ClientError> {
        let len = self.entry.len;
        if len < 10 {
            return Ok(None);
        }
        let start = self.read(0..9).await?;
        let mut field = [0; 8];
        field.copy_from_slice(&start[..8]);
        let header_len = u64::from_le_bytes(field);
        if start[8] != b'{' || header_len > HEADER_BYTES_MAX || header_len > len - 8 {
            return Ok(None);
        }
        let text = self.read(8..8 + header_len).await?;
        Ok(Header::parse(&text, len))
    }

    /// A tensor's bytes as ranges of segments.
    fn pieces(&self, range: &Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for extent in &self.entry.extents {
            let end = at + u64::from(extent.len);
            let (start, stop) = (range.start.max(at), range.end.min(end));
            if start < stop
                && let Some((digest, len)) = self.manifest.segments.get(extent.segment as usize)
            {
                // Both fit: they lie within the extent.
                let (offset, taken) = (extent.offset + (start - at) as u32, (stop - start) as u32);
                let is_whole = offset == 0 && taken == *len;
                pieces.push(Piece { digest: *digest, offset, len: taken, is_whole });
            }
            at = end;
        }
        pieces
    }
}

/// A range of a segment.
struct Piece {
    digest: SegmentDigest,
    offset: u32,
    len: u32,
    is_whole: bool,
}

/// A file's tensors, and where their bytes begin.
struct Header {
    data: u64,
    tensors: BTreeMap<String, Tensor>,
}

impl Header {
    /// `None` where it is no header of a file of `file_len` bytes.
    fn parse(text: &[u8], file_len: u64) -> Option<Self> {
        let data = 8 + text.len() as u64;
        let mut entries: BTreeMap<String, Value> = serde_json::from_slice(text).ok()?;
        entries.remove("__metadata__");
        let mut tensors = BTreeMap::new();
        for (name, entry) in entries {
            let tensor: Tensor = serde_json::from_value(entry).ok()?;
            let (from, to) = tensor.data_offsets;
            if from > to || to > file_len.checked_sub(data)? {
                return None;
            }
            tensors.insert(name, tensor);
        }
        Some(Self { data, tensors })
    }

    /// Where a tensor lies in the file.
    fn range(&self, tensor: &Tensor) -> Range<u64> {
        self.data + tensor.data_offsets.0..self.data + tensor.data_offsets.1
    }
}

/// Tensors that differ and the number of those that do not; `None` where one file is none.
pub(super) async fn compare(
    client: &Client,
    sides: (&Side<'_>, &Side<'_>),
    name: &[u8],
) -> Result<Option<(Vec<TensorChange>, u64)>, ClientError> {
    let Some(first) = File::open(client, sides.0, name).await? else { return Ok(None) };
    let Some(second) = File::open(client, sides.1, name).await? else { return Ok(None) };
    let Some(old) = first.header().await? else { return Ok(None) };
    let Some(new) = second.header().await? else { return Ok(None) };
    let (mut changes, mut same) = (Vec::new(), 0);
    let names: BTreeSet<&String> = old.tensors.keys().chain(new.tensors.keys()).collect();
    for tensor in names {
        let (was, is) = (old.tensors.get(tensor), new.tensors.get(tensor));
        let change = match (was, is) {
            (Some(was), Some(is)) => {
                let ranges = (old.range(was), new.range(is));
                if was.form() == is.form() && are_equal(&first, &second, ranges).await? {
                    same += 1;
                    continue;
                }
                Change::Changed
            }
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
        };
        let form = |it: Option<&Tensor>| it.map(Tensor::form).unwrap_or_default();
        let len = |it: Option<&Tensor>| it.map_or(0, Tensor::len);
        let mut found = TensorChange::new(tensor, change, (len(was), len(is)));
        found.form = (form(was), form(is));
        changes.push(found);
    }
    Ok(Some((changes, same)))
}

/// Whether two ranges hold the same bytes: by their segments where these tell, else by reading.
async fn are_equal(
    first: &File<'_>,
    second: &File<'_>,
    (of_first, of_second): (Range<u64>, Range<u64>),
) -> Result<bool, ClientError> {
    if of_first.end - of_first.start != of_second.end - of_second.start {
        return Ok(false);
    }
    let (before, after) = (first.pieces(&of_first), second.pieces(&of_second));
    let alike = |(a, b): (&Piece, &Piece)| (a.offset, a.len) == (b.offset, b.len);
    if before.len() == after.len() && before.iter().zip(&after).all(alike) {
        let other = |(a, b): &(&Piece, &Piece)| a.digest != b.digest;
        let mut other = before.iter().zip(&after).filter(other).peekable();
        if other.peek().is_none() {
            return Ok(true);
        }
        // The digest of a whole segment is that of these bytes.
        if other.any(|(a, b)| a.is_whole && b.is_whole) {
            return Ok(false);
        }
    }
    let (mut first, mut second) = (first.file.bytes(of_first), second.file.bytes(of_second));
    let (mut one, mut two) = (Bytes::new(), Bytes::new());
    loop {
        while one.is_empty() {
            // Both are of one length.
            let Some(chunk) = first.try_next().await? else { return Ok(true) };
            one = chunk;
        }
        while two.is_empty() {
            let Some(chunk) = second.try_next().await? else { return Ok(false) };
            two = chunk;
        }
        let count = one.len().min(two.len());
        if one.split_to(count) != two.split_to(count) {
            return Ok(false);
        }
    }
}
