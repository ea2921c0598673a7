//! The parts of a safetensors file's layout that cutting needs.
//!
//! `[header length, u64 little-endian][header, JSON][tensors]`, each tensor with its `data_offsets`
//! from the header's end. Any irregularity means "not safetensors" and is no error: the file is
//! then cut like any other.

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::source::{Source, SourceError};

/// The format's own bound on the header, bytes.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Limit on tensors, so that a hostile header cannot use more memory than its own length.
const TENSORS_MAX: usize = 4 << 20;

/// Lengths of the header (with its length field) and of each tensor, in file order. Their sum is
/// the file's length. `None` if the file is not safetensors.
pub fn layout(source: &dyn Source, file: usize) -> Result<Option<Vec<u64>>, SourceError> {
    let file_len = source.entries()[file].len;
    if file_len < 10 {
        return Ok(None);
    }
    let mut start = [0; 9];
    source.read_at(file, 0, &mut start)?;
    let mut len_field = [0; 8];
    len_field.copy_from_slice(&start[..8]);
    let header_len = u64::from_le_bytes(len_field);
    if !(2..=HEADER_BYTES_MAX).contains(&header_len)
        || header_len > file_len - 8
        || start[8] != b'{'
    {
        return Ok(None);
    }
    let mut header = vec![0; header_len as usize];
    source.read_at(file, 8, &mut header)?;
    Ok(lengths(&header, file_len - 8 - header_len).map(|mut lengths| {
        lengths.insert(0, 8 + header_len);
        lengths
    }))
}

/// Tensor lengths in file order, if they cover exactly `data_len` bytes.
fn lengths(header: &[u8], data_len: u64) -> Option<Vec<u64>> {
    let lengths = tensor_lengths(header)?;
    (lengths.iter().sum::<u64>() == data_len).then_some(lengths)
}

/// Tensor lengths in file order, if one begins where another one ends.
pub fn tensor_lengths(header: &[u8]) -> Option<Vec<u64>> {
    let Offsets(mut offsets) = serde_json::from_slice(header).ok()?;
    offsets.sort_unstable();
    let mut end = 0;
    let mut lengths = Vec::with_capacity(offsets.len() + 1);
    for (from, to) in offsets {
        if from != end || to < from {
            return None;
        }
        lengths.push(to - from);
        end = to;
    }
    Some(lengths)
}

/// All `data_offsets` of a header, without the names.
struct Offsets(Vec<(u64, u64)>);

impl<'de> Deserialize<'de> for Offsets {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OffsetsVisitor)
    }
}

struct OffsetsVisitor;

#[derive(Deserialize)]
struct Tensor {
    data_offsets: (u64, u64),
}

impl<'de> Visitor<'de> for OffsetsVisitor {
    type Value = Offsets;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a safetensors header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Offsets, A::Error> {
        let mut offsets = Vec::new();
        while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            offsets.push(map.next_value::<Tensor>()?.data_offsets);
            if offsets.len() > TENSORS_MAX {
                return Err(serde::de::Error::custom("too many tensors"));
            }
        }
        Ok(Offsets(offsets))
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;

    use bytes::Bytes;

    use super::*;
    use crate::source::MemorySource;

    /// A safetensors file with tensors of these lengths, all zero bytes.
    pub fn file_of(tensors: &[usize]) -> Vec<u8> {
        let mut header = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
        let mut end = 0;
        for (index, len) in tensors.iter().enumerate() {
            let (from, to) = (end, end + len);
            let tensor =
                format!("{{\"dtype\":\"U8\",\"shape\":[{len}],\"data_offsets\":[{from},{to}]}}");
            write!(header, ",\"tensor.{index}\":{tensor}").unwrap();
            end = to;
        }
        header.push('}');
        file_with(header.as_bytes(), header.len() as u64, end)
    }

    fn file_with(header: &[u8], header_len: u64, data: usize) -> Vec<u8> {
        let mut bytes = header_len.to_le_bytes().to_vec();
        bytes.extend_from_slice(header);
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn layout_of(bytes: Vec<u8>) -> Option<Vec<u64>> {
        let files = BTreeMap::from([(b"f".to_vec(), Bytes::from(bytes))]);
        layout(&MemorySource::new(files).unwrap(), 0).unwrap()
    }

    #[test]
    fn tensors_come_in_file_order() {
        let bytes = file_of(&[5, 0, 7]);
        let header = bytes.len() as u64 - 12;
        assert_eq!(layout_of(bytes).unwrap(), [header, 5, 0, 7]);
    }

    #[test]
    fn hostile_headers_are_plain_bytes() {
        let entry = |from: &str, to: &str| format!("{{\"t\":{{\"data_offsets\":[{from},{to}]}}}}");
        for header in [
            entry("0", "11"),
            entry("1", "10"),
            entry("10", "0"),
            entry("-1", "10"),
            entry("0", "18446744073709551616"),
            entry("0", "1e1"),
            "{\"t\":".repeat(100_000),
            "{\"t\":[0,10]}".to_owned(),
            "{} trailing".to_owned(),
            "{\"a\":{\"data_offsets\":[0,6]},\"b\":{\"data_offsets\":[5,10]}}".to_owned(),
        ] {
            let bytes = file_with(header.as_bytes(), header.len() as u64, 10);
            assert_eq!(layout_of(bytes), None, "{}", &header[..header.len().min(60)]);
        }
        for header_len in [0, 1, 1 << 40, u64::MAX, u64::MAX - 7] {
            assert_eq!(layout_of(file_with(b"{}", header_len, 10)), None, "{header_len}");
        }
        assert_eq!(layout_of(vec![0xff; 300]), None);
    }
}
