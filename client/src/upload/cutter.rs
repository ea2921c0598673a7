//! Where a file that is written piece by piece is cut into segments.
//!
//! As [`cut::plan`](crate::cut::plan) cuts it: every 32 MiB or, once a safetensors header has passed,
//! at its tensors. So a tensor that did not change is not sent again, whichever way the file comes. A
//! file whose end is not where its header says is cut there as it comes.

use std::collections::VecDeque;

use cairn_types::limits::{PACK_BYTES_MAX, SEGMENT_BYTES_MAX, TENSOR_BYTES_MIN};

use crate::safetensors;

/// The header's length field, and the first byte of the header.
const START: usize = 9;

/// Decides on the length of each segment, in order.
#[derive(Debug)]
pub(super) struct Cutter {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The first segment, as long as the file may be safetensors.
    Start,
    /// The segment being written has this length. The rest of a large tensor follows, and tensors
    /// behind it.
    Tensors { len: usize, large: u64, tensors: VecDeque<u64> },
    /// Not safetensors, or behind the last tensor.
    Plain,
}

impl Cutter {
    pub fn new() -> Self {
        Self { state: State::Start }
    }

    /// The length up to which the segment that begins with `bytes` is to be written before it is
    /// asked for again. It is complete once it has this length.
    pub fn limit(&mut self, bytes: &[u8]) -> usize {
        if let State::Start = self.state {
            match header_end(bytes) {
                Some(end) if bytes.len() < end => return end,
                Some(end) if end > START => self.begin_tensors(&bytes[8..end], end as u64),
                _ => self.state = State::Plain,
            }
        }
        match &self.state {
            State::Tensors { len, .. } => *len,
            State::Start | State::Plain => SEGMENT_BYTES_MAX as usize,
        }
    }

    /// The segment is complete; another one begins.
    pub fn cut(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Plain) {
            State::Tensors { large, tensors, .. } => next_segment(large, tensors),
            State::Start | State::Plain => State::Plain,
        };
    }

    fn begin_tensors(&mut self, header: &[u8], header_len: u64) {
        self.state = match safetensors::tensor_lengths(header) {
            None => State::Plain,
            Some(lengths) => {
                let mut tensors: VecDeque<u64> = lengths.into();
                tensors.push_front(header_len);
                // The header is packed, however long.
                let (len, tensors) = packed(tensors, |index| index == 0);
                State::Tensors { len: len as usize, large: 0, tensors }
            }
        };
    }
}

/// The length of a safetensors header with its length field, or of what shows it; `None` where the
/// file has no such header, or none that is packed with its tensors.
fn header_end(bytes: &[u8]) -> Option<usize> {
    let Some((field, rest)) = bytes.split_first_chunk::<8>() else { return Some(START) };
    let header_len = u64::from_le_bytes(*field);
    match rest.first() {
        None => Some(START),
        Some(b'{') if (2..=PACK_BYTES_MAX - 8).contains(&header_len) => {
            Some(8 + header_len as usize)
        }
        Some(_) => None,
    }
}

/// The segment behind a complete one.
fn next_segment(large: u64, mut tensors: VecDeque<u64>) -> State {
    let of_large = |large: u64, tensors| {
        let len = large.min(SEGMENT_BYTES_MAX);
        State::Tensors { len: len as usize, large: large - len, tensors }
    };
    if large > 0 {
        return of_large(large, tensors);
    }
    while tensors.front() == Some(&0) {
        tensors.pop_front();
    }
    match tensors.front().copied() {
        None => State::Plain,
        Some(len) if len >= TENSOR_BYTES_MIN => {
            tensors.pop_front();
            of_large(len, tensors)
        }
        Some(_) => {
            let (len, tensors) = packed(tensors, |_| false);
            State::Tensors { len: len as usize, large: 0, tensors }
        }
    }
}

/// Packs the small tensors at the front, up to 4 MiB, and those that are small by their place.
fn packed(mut tensors: VecDeque<u64>, is_small: impl Fn(usize) -> bool) -> (u64, VecDeque<u64>) {
    let (mut len, mut index) = (0, 0);
    while let Some(next) = tensors.front().copied() {
        let fits = len + next.min(PACK_BYTES_MAX + 1) <= PACK_BYTES_MAX;
        if !fits || (next >= TENSOR_BYTES_MIN && !is_small(index)) {
            break;
        }
        (len, index) = (len + next, index + 1);
        tensors.pop_front();
    }
    (len, tensors)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::cut;
    use crate::safetensors::tests::file_of;
    use crate::source::MemorySource;

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    /// The lengths of the segments of a file that comes in pieces of this length.
    fn streamed(file: &[u8], piece: usize) -> Vec<usize> {
        let (mut cutter, mut segment, mut lens) = (Cutter::new(), Vec::new(), Vec::new());
        let mut rest = file;
        while !rest.is_empty() {
            let limit = cutter.limit(&segment);
            if segment.len() == limit {
                lens.push(segment.len());
                segment.clear();
                cutter.cut();
                continue;
            }
            let count = rest.len().min(limit - segment.len()).min(piece);
            segment.extend_from_slice(&rest[..count]);
            rest = &rest[count..];
        }
        lens.push(segment.len());
        lens
    }

    fn planned(file: &[u8]) -> Vec<usize> {
        let files = BTreeMap::from([(b"f".to_vec(), Bytes::copy_from_slice(file))]);
        let plan = cut::plan(&MemorySource::new(files).unwrap()).unwrap();
        plan.segments.iter().map(|segment| segment.len as usize).collect()
    }

    #[test]
    fn a_stream_is_cut_as_the_same_file() {
        for tensors in [
            &[300 * KIB, 10, 20, 40 * MIB, 5, 256 * KIB - 1, 256 * KIB][..],
            &[5, 0, 7],
            &[],
            &[0, 300 * KIB, 0],
            &[200 * KIB; 50],
            &[64 * MIB, 0, 0, 3],
        ] {
            let file = file_of(tensors);
            for piece in [7 * KIB + 1, usize::MAX] {
                assert_eq!(streamed(&file, piece), planned(&file), "{tensors:?} by {piece}");
            }
        }
        for plain in [vec![1; 70 * MIB], vec![b'{'; 100], vec![0; 3]] {
            assert_eq!(streamed(&plain, usize::MAX), planned(&plain));
        }
        assert_eq!(streamed(&file_of(&[10, 300 * KIB])[..], 1).len(), 2, "byte by byte");
    }

    #[test]
    fn a_header_that_does_not_fit_its_file_cuts_it_somewhere() {
        let mut longer = file_of(&[300 * KIB]);
        let header = longer.len() - 300 * KIB;
        longer.resize(longer.len() + 40 * MIB, 1);
        assert_eq!(streamed(&longer, MIB), [header, 300 * KIB, 32 * MIB, 8 * MIB]);
        let whole = file_of(&[40 * MIB]);
        let header = whole.len() - 40 * MIB;
        assert_eq!(streamed(&whole[..header + 5], MIB), [header, 5]);
        // One tensor of 16 EiB.
        let header = b"{\"t\":{\"data_offsets\":[0,18446744073709551615]}}";
        let mut hostile = (header.len() as u64).to_le_bytes().to_vec();
        hostile.extend_from_slice(header);
        let header = hostile.len();
        hostile.resize(header + 33 * MIB, 0);
        assert_eq!(streamed(&hostile, MIB), [header, 32 * MIB, MIB]);
    }
}
