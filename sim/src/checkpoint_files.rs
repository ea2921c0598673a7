//! Checkpoints to upload, made from the seed: a safetensors-like file whose tensors start their own
//! segments, and small files.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_types::limits::BLOCK_BYTES;

use crate::seed::Stream;

/// Names and contents of one checkpoint's files.
pub type Files = BTreeMap<Vec<u8>, Bytes>;

/// A tensor below this size is packed with its neighbours.
const TENSOR_BYTES: u64 = 256 << 10;

/// A checkpoint with `tensors` large tensors, a few small ones, and three small files.
pub fn checkpoint(chance: &mut Stream, tensors: usize) -> Files {
    let large = (0..tensors).map(|_| chance.range(TENSOR_BYTES..TENSOR_BYTES * 2)).collect();
    let mut lengths: Vec<u64> = large;
    for _ in 0..3 {
        let place = chance.below(lengths.len() as u64 + 1) as usize;
        lengths.insert(place, chance.range(1..20_000));
    }
    let tensors = lengths.iter().map(|len| chance.bytes(*len as usize)).collect::<Vec<_>>();
    let mut files = small_files(chance);
    files.insert(b"model.safetensors".to_vec(), safetensors(&tensors));
    files
}

/// A checkpoint with a tensor of two to four blocks, and one of the usual size.
pub fn large(chance: &mut Stream) -> Files {
    let mut files = small_files(chance);
    let lengths = [chance.range(BLOCK_BYTES + 1..3 * BLOCK_BYTES + BLOCK_BYTES / 2), TENSOR_BYTES];
    let tensors = lengths.map(|len| chance.bytes(len as usize));
    files.insert(b"model.safetensors".to_vec(), safetensors(&tensors));
    files
}

/// Files of one byte with long names: little data, and a manifest of 230 bytes per file.
pub fn long_names(chance: &mut Stream, files: usize) -> Files {
    let name = |number: usize| format!("{number:0>200}").into_bytes();
    (0..files).map(|number| (name(number), chance.bytes(1).into())).collect()
}

fn small_files(chance: &mut Stream) -> Files {
    let config = chance.range(10..2_000) as usize;
    let state = chance.range(1..60_000) as usize;
    BTreeMap::from([
        (b"config.json".to_vec(), chance.bytes(config).into()),
        (b"empty".to_vec(), Bytes::new()),
        (b"optimizer/rank-0.pt".to_vec(), chance.bytes(state).into()),
    ])
}

/// The next checkpoint of a run: some bytes of it are new.
pub fn next(files: &Files, chance: &mut Stream) -> Files {
    let mut next = files.clone();
    if let Some(model) = next.get_mut(&b"model.safetensors"[..]) {
        let mut bytes = model.to_vec();
        let header = bytes.first_chunk().map_or(0, |len| u64::from_le_bytes(*len)) + 8;
        for _ in 0..chance.range(1..3) {
            let at = chance.range(header..bytes.len() as u64) as usize;
            bytes[at] ^= 1 + chance.below(255) as u8;
        }
        *model = bytes.into();
    }
    next.extend(small_files(chance));
    next
}

fn safetensors(tensors: &[Vec<u8>]) -> Bytes {
    let mut header = String::from("{");
    let mut end = 0;
    for (number, tensor) in tensors.iter().enumerate() {
        let (start, comma) = (end, if number == 0 { "" } else { "," });
        end += tensor.len();
        let len = tensor.len();
        header.push_str(&format!(
            r#"{comma}"t{number}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{start},{end}]}}"#
        ));
    }
    header.push('}');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    tensors.iter().for_each(|tensor| bytes.extend_from_slice(tensor));
    bytes.into()
}
