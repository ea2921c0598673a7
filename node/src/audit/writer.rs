//! The writing side: what is found at start, appends in batches, new files, old ones removed.

use std::io;
use std::sync::Arc;

use cairn_types::audit::{AuditGap, AuditHead};
use cairn_types::canary;

use super::file::{self, DIR, MARK, Place, Walk, WalkError};
use super::{AuditConfig, Item};
use crate::disk::{Disk, DiskFile, Open};
use crate::store::ballast::release_ballast_if_short;
use crate::store::error::is_full;

/// Room for a new file's header and for the mark.
const ROOM_BYTES: u64 = 64 << 10;

/// Why the audit cannot be written. The node stops, except where only room is lacking.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("audit: {doing} of {path}: {source}")]
    Disk { doing: &'static str, path: String, source: io::Error },
}

impl AuditError {
    /// Whether the only cause is a lack of room.
    pub fn is_full(&self) -> bool {
        let Self::Disk { source, .. } = self;
        is_full(source)
    }
}

fn failed<'a>(doing: &'static str, path: &'a str) -> impl Fn(io::Error) -> AuditError + 'a {
    move |source| AuditError::Disk { doing, path: path.into(), source }
}

struct Current {
    file: Box<dyn DiskFile>,
    path: String,
}

pub struct Writer {
    disk: Arc<dyn Disk>,
    config: AuditConfig,
    /// The newest file, if it is open.
    current: Option<Current>,
    /// Durable up to there.
    place: Place,
    mark: Box<dyn DiskFile>,
    sequence: u64,
    /// For a canary: nothing was written since the start.
    is_fresh: bool,
}

impl Writer {
    /// Finds the end of the durable records, cuts what is behind it, and returns the damage found
    /// in what should be there.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: AuditConfig,
    ) -> Result<(Self, Vec<String>), AuditError> {
        disk.create_dir(DIR).map_err(failed("creation", DIR))?;
        disk.sync_dir("").map_err(failed("sync", "the data directory"))?;
        let files = file::files(&*disk).map_err(failed("listing", DIR))?;
        let known = file::read_mark(&*disk).map_err(failed("reading", MARK))?;
        let exists = disk.exists(MARK).map_err(failed("reading", MARK))?;
        let mut damage = Vec::new();
        let how = if exists { Open::Write } else { Open::Create };
        let mark = disk.open(MARK, how).map_err(failed("opening", MARK))?;
        let (sequence, place) = known.unwrap_or_default();
        let mut writer =
            Self { disk, config, current: None, place, mark, sequence, is_fresh: true };
        if known.is_none() {
            // The mark was made durable before the first file was made.
            if let Some(last) = files.last() {
                damage.push(format!("{MARK} is missing or damaged, and there are files"));
                writer.take_as_found(*last, &mut damage)?;
                // The mark is written with the first records of a new file: one that names this
                // file would let the next start cut it.
                return Ok((writer, damage));
            }
            writer.write_mark(&place)?;
            writer.disk.sync_dir(DIR).map_err(failed("sync", DIR))?;
            return Ok((writer, damage));
        }
        for first in files.iter().filter(|first| **first > place.file) {
            let path = file::path_of(*first);
            writer.disk.remove(&path).map_err(failed("removal", &path))?;
        }
        if place.file > 0 {
            match writer.check_newest() {
                Ok(()) => writer.cut_tail()?,
                Err(WalkError::Damage(error)) => damage.push(error.to_string()),
                Err(WalkError::Disk { path, source }) => {
                    return Err(AuditError::Disk { doing: "reading", path, source });
                }
            }
        }
        Ok((writer, damage))
    }

    /// The chain of the newest file up to what is durable.
    fn check_newest(&self) -> Result<(), WalkError> {
        let Place { file, len, head } = self.place;
        let mut walk = Walk::open(&*self.disk, file, Some(len))?;
        while walk.step()?.is_some() {}
        match *walk.head() == head {
            true => Ok(()),
            false => {
                let what = format!("it ends with record {}, not {}", walk.head().count, head.count);
                Err(file::Damage { path: file::path_of(file), offset: len, what }.into())
            }
        }
    }

    /// Bytes behind the durable ones are of a write that was not finished. Their records are derived
    /// again from the log.
    fn cut_tail(&mut self) -> Result<(), AuditError> {
        let path = file::path_of(self.place.file);
        let file = self.disk.open(&path, Open::Write).map_err(failed("opening", &path))?;
        if file.len().map_err(failed("reading", &path))? > self.place.len {
            file.set_len(self.place.len).map_err(failed("cut", &path))?;
            file.sync().map_err(failed("sync", &path))?;
        }
        self.current = Some(Current { file, path });
        Ok(())
    }

    /// Without a mark: goes on behind the last record that fits the chain, in a new file.
    fn take_as_found(&mut self, last: u64, damage: &mut Vec<String>) -> Result<(), AuditError> {
        let walked = Walk::open(&*self.disk, last, None).and_then(|mut walk| {
            loop {
                match walk.step() {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok((walk, None)),
                    Err(WalkError::Damage(error)) => return Ok((walk, Some(error))),
                    Err(error) => return Err(error),
                }
            }
        });
        match walked {
            Ok((walk, error)) => {
                damage.extend(error.map(|error| error.to_string()));
                self.place = Place { file: last, len: walk.offset(), head: *walk.head() };
            }
            Err(WalkError::Damage(error)) => {
                damage.push(error.to_string());
                let head = AuditHead { count: last, ..AuditHead::default() };
                self.place = Place { file: last, len: 0, head };
            }
            Err(WalkError::Disk { path, source }) => {
                return Err(AuditError::Disk { doing: "reading", path, source });
            }
        }
        Ok(())
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Makes the items durable. On an error nothing has changed, except that the file may be longer
    /// than its durable part.
    pub fn append(&mut self, items: &[Item]) -> Result<Place, AuditError> {
        let is_fresh = std::mem::replace(&mut self.is_fresh, false);
        let is_skipped =
            canary!("audit_skips_after_restart") && is_fresh && self.place.head.count > 0;
        let (mut bytes, mut head) = (Vec::new(), self.place.head);
        for item in items {
            match item {
                _ if is_skipped => {}
                Item::Record(record) => file::push_record(&mut bytes, &record.body, &record.head),
                Item::Gap(gap) => file::push_gap(&mut bytes, gap),
            }
            head = item.head();
        }
        release_ballast_if_short(&*self.disk, bytes.len() as u64 + ROOM_BYTES)
            .map_err(failed("making of room", DIR))?;
        let is_new =
            self.current.is_none() || self.place.len + bytes.len() as u64 > self.config.file_bytes;
        if is_new {
            return self.begin_file(&bytes, head);
        }
        let Some(Current { file, path }) = &self.current else { return Ok(self.place) };
        let at = self.place.len;
        let place = Place { len: at + bytes.len() as u64, head, ..self.place };
        let written = file.write_at(at, &bytes).map_err(failed("writing", path));
        let marked = match written {
            Ok(()) => {
                file.sync().map_err(failed("sync", path))?;
                self.write_mark(&place)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = marked {
            if error.is_full() {
                // Half a batch takes scarce space. The caller gets the first error.
                let _ = self.current.as_ref().map(|current| current.file.set_len(at));
            }
            return Err(error);
        }
        self.place = place;
        Ok(place)
    }

    /// A new file, with these frames.
    fn begin_file(&mut self, frames: &[u8], head: AuditHead) -> Result<Place, AuditError> {
        let before = self.place.head;
        let (first, mut bytes) = (before.count + 1, file::header(&before));
        bytes.extend(frames);
        let path = file::path_of(first);
        let file = self.disk.open(&path, Open::Create).map_err(failed("creation", &path))?;
        let place = Place { file: first, len: bytes.len() as u64, head };
        let marked = match file.write_at(0, &bytes).map_err(failed("writing", &path)) {
            Ok(()) => {
                file.sync().map_err(failed("sync", &path))?;
                self.disk.sync_dir(DIR).map_err(failed("sync", DIR))?;
                self.write_mark(&place)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = marked {
            if error.is_full() {
                drop(file);
                let _ = self.disk.remove(&path);
            }
            return Err(error);
        }
        self.current = Some(Current { file, path });
        self.place = place;
        self.prune()?;
        Ok(place)
    }

    fn write_mark(&mut self, place: &Place) -> Result<(), AuditError> {
        // On a full disk the write in place succeeds: both places are allocated from the start.
        if self.sequence == 0 {
            file::write_mark(&*self.mark, 1, place).map_err(failed("writing", MARK))?;
            self.sequence = 1;
        }
        let next = self.sequence + 1;
        file::write_mark(&*self.mark, next, place).map_err(failed("writing", MARK))?;
        self.mark.sync().map_err(failed("sync", MARK))?;
        self.sequence = next;
        Ok(())
    }

    /// Removes the oldest files while all of them take more than the bound. The newest one stays.
    fn prune(&self) -> Result<(), AuditError> {
        let files = file::files(&*self.disk).map_err(failed("listing", DIR))?;
        let mut sizes = Vec::with_capacity(files.len());
        for first in files.iter().filter(|first| **first != self.place.file) {
            let path = file::path_of(*first);
            sizes.push((self.disk.stat(&path).map_err(failed("reading", &path))?.len, path));
        }
        let mut total: u64 =
            sizes.iter().map(|(len, _)| *len).sum::<u64>() + self.config.file_bytes;
        for (len, path) in sizes {
            if total <= self.config.keep_bytes {
                break;
            }
            self.disk.remove(&path).map_err(failed("removal", &path))?;
            tracing::info!(path, "removed: more audit than is kept");
            total -= len;
        }
        Ok(())
    }
}

/// A gap from one place of the chain to another.
pub fn gap(from: &AuditHead, to: &AuditHead) -> AuditGap {
    AuditGap {
        first: from.count + 1,
        last: to.count,
        after_index: from.index,
        until_index: to.index,
        hash: to.hash,
    }
}
