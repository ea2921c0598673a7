//! Good blocks from bad copies of a segment.
//!
//! A copy in quarantine is bad as a whole, but most of its blocks are good. Repair and readers mix
//! blocks of several copies, each block verified by itself (D5, D6). So data is lost only with the
//! last good copy of one block.

use std::sync::Arc;

use bytes::Bytes;
use cairn_types::blocks::{BlockTable, block_count, block_value};
use cairn_types::form::StoredBlocks;
use cairn_types::ids::SegmentDigest;

use super::error::StoreError;
use super::format::{self, BlockPlace, Footer, file_len};
use super::read::{into_bytes, is_damage};
use super::{Inner, QUARANTINE, SegmentStore, io_error, place};
use crate::disk::{DiskFile, Open};

/// Most copies opened. If a disk damages one segment more often, more copies add few good blocks.
const COPIES_MAX: usize = 8;

/// Bad copies of one segment, open for reading.
pub struct Salvage {
    inner: Arc<Inner>,
    len: u64,
    copies: Vec<Copy>,
    table: Option<BlockTable>,
}

#[derive(Clone)]
struct Copy {
    file: Arc<dyn DiskFile>,
    blocks: StoredBlocks,
}

impl SegmentStore {
    /// Opens the bad copies of a segment of `len` raw bytes: the copies in quarantine, and one that
    /// could not be moved there. `None` if there are none.
    pub async fn salvage(
        &self,
        digest: SegmentDigest,
        len: u64,
    ) -> Result<Option<Salvage>, StoreError> {
        if !self.inner.index.is_quarantined(digest) && !self.inner.index.is_damaged(digest) {
            // Readers call this for every segment that is not held, so it answers without disk
            // access.
            return Ok(None);
        }
        let inner = Arc::clone(&self.inner);
        self.inner.data(move || inner.open_copies(digest, len)).await
    }
}

impl Salvage {
    /// The segment's block table, if one of the copies still contains it.
    pub fn table(&self) -> Option<&BlockTable> {
        self.table.as_ref()
    }

    /// The verified raw bytes of block `index` of the segment that `table` describes, if a copy has
    /// them. The copies may be stored in different forms.
    pub async fn block(&self, table: &BlockTable, index: usize) -> Option<Bytes> {
        if table.segment_len() != self.len || index >= block_count(self.len) {
            return None;
        }
        let table = Arc::new(table.clone());
        for copy in &self.copies {
            let (inner, copy, table) = (Arc::clone(&self.inner), copy.clone(), Arc::clone(&table));
            let read = move || {
                let stored = inner.read_copy(&copy, index)?;
                inner.verified(&table, &copy.blocks, index, &stored).ok()
            };
            let read = self.inner.data(read).await;
            if read.is_some() {
                return read;
            }
        }
        None
    }
}

/// The part that runs on the Data lane. Everything here blocks.
impl Inner {
    fn open_copies(
        self: &Arc<Self>,
        digest: SegmentDigest,
        len: u64,
    ) -> Result<Option<Salvage>, StoreError> {
        let Ok(raw_len) = u32::try_from(len) else {
            return Err(StoreError::SegmentLength { digest, len });
        };
        let mut paths: Vec<String> = self.copies(digest)?.into_iter().map(|it| it.name).collect();
        paths.iter_mut().for_each(|name| name.insert_str(0, &format!("{QUARANTINE}/")));
        if self.index.is_damaged(digest) {
            paths.push(place(digest));
        }
        let mut copies: Vec<Copy> = Vec::new();
        let mut table = None;
        for path in paths.into_iter().take(COPIES_MAX) {
            match self.disk.open(&path, Open::Read) {
                Ok(file) => {
                    let footer = self.footer_of(&*file, digest, len);
                    // Without a footer only blocks of a known length can be found.
                    let blocks = match footer {
                        Some(Footer { table: told, blocks }) => {
                            table.get_or_insert(told);
                            blocks
                        }
                        None => StoredBlocks::raw(raw_len),
                    };
                    copies.push(Copy { file: Arc::from(file), blocks });
                }
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(io_error("open", &path, error)),
            }
        }
        if copies.is_empty() {
            return Ok(None);
        }
        let table = table.or_else(|| copies.iter().find_map(|copy| self.table_of(copy, digest)));
        Ok(Some(Salvage { inner: Arc::clone(self), len, copies, table }))
    }

    /// A copy's footer: at its place in a raw copy, else in the last page.
    fn footer_of(&self, file: &dyn DiskFile, digest: SegmentDigest, len: u64) -> Option<Footer> {
        let raw = StoredBlocks::raw(u32::try_from(len).ok()?);
        [Some(file_len(&raw)), file.len().ok()]
            .into_iter()
            .flatten()
            .find_map(|end| self.footer_at(file, digest, len, end).ok())
    }

    fn read_copy(&self, copy: &Copy, index: usize) -> Option<Bytes> {
        let BlockPlace { offset, len } = format::place(&copy.blocks, index);
        let mut buffer = self.pool.take();
        copy.file.read_at(u64::from(offset), &mut buffer[..len as usize]).ok()?;
        Some(into_bytes(buffer, len as usize))
    }

    /// The table of a raw copy that has no footer. Found only if all its blocks are good.
    fn table_of(&self, copy: &Copy, digest: SegmentDigest) -> Option<BlockTable> {
        let (len, count) = (copy.blocks.raw_len(), copy.blocks.count());
        let value = |index| Some(block_value(len, index, &self.read_copy(copy, index)?));
        let values = (0..count).map(value).collect::<Option<Vec<_>>>()?;
        BlockTable::checked(digest, len, values).ok()
    }
}
