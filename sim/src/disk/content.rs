//! The bytes of one file as pages. So a copy of a file is a copy of pointers, and bytes written as
//! whole pages are in memory once for all views.

use std::collections::BTreeMap;

use bytes::Bytes;

pub(super) const PAGE: usize = 4096;
/// The unit that a device writes completely or not at all.
pub(super) const SECTOR: u64 = 512;

#[derive(Clone, Default)]
pub(super) struct Content {
    /// Each of [`PAGE`] bytes. A missing one below `len` reads as zeros.
    pages: BTreeMap<u64, Bytes>,
    len: u64,
}

impl Content {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of disk space that the file uses.
    pub fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE as u64
    }

    /// Bytes of disk space that a write of `len` bytes at `offset` would add.
    pub fn growth(&self, offset: u64, len: usize) -> u64 {
        if len == 0 {
            return 0;
        }
        let (first, last) = (offset / PAGE as u64, (offset + len as u64 - 1) / PAGE as u64);
        let there = self.pages.range(first..=last).count() as u64;
        (last - first + 1 - there) * PAGE as u64
    }

    /// Fills `buf`; false if that would read past the end.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            return false;
        }
        for (page, start, range) in pieces(offset, buf.len()) {
            let len = range.len();
            match self.pages.get(&page) {
                Some(bytes) => buf[range].copy_from_slice(&bytes[start..start + len]),
                None => buf[range].fill(0),
            }
        }
        true
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes);
        bytes
    }

    pub fn write(&mut self, offset: u64, bytes: &Bytes) {
        for (page, start, range) in pieces(offset, bytes.len()) {
            let len = range.len();
            if len == PAGE {
                self.pages.insert(page, bytes.slice(range));
            } else {
                self.change(page, |whole| whole[start..start + len].copy_from_slice(&bytes[range]));
            }
        }
        if !bytes.is_empty() {
            self.len = self.len.max(offset + bytes.len() as u64);
        }
    }

    fn change(&mut self, page: u64, change: impl FnOnce(&mut [u8])) {
        let mut whole = vec![0; PAGE];
        if let Some(bytes) = self.pages.get(&page) {
            whole.copy_from_slice(bytes);
        }
        change(&mut whole);
        self.pages.insert(page, whole.into());
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE as u64));
            let (page, tail) = (len / PAGE as u64, (len % PAGE as u64) as usize);
            if tail > 0 && self.pages.contains_key(&page) {
                self.change(page, |whole| whole[tail..].fill(0));
            }
        }
        self.len = len;
    }
}

/// Cuts a span of bytes at page borders: page number, start within it, range of the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % PAGE as u64) as usize;
        let take = (PAGE - start).min(len - done);
        done += take;
        Some((at / PAGE as u64, start, done - take..done))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortened_file_reads_zeros_when_it_grows_again() {
        let mut content = Content::default();
        content.write(4000, &Bytes::from_static(&[7; 5000]));
        content.set_len(4100);
        content.set_len(9000);
        let bytes = content.bytes();
        assert_eq!((bytes[4099], bytes[4100], bytes[8999]), (7, 0, 0));
        assert!(!content.read(8999, &mut [0; 2]));
    }
}
