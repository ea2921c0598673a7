//! Pages of the audit for readers, and the check of one file.
//!
//! A page holds records in order and says where records are missing: a gap of this node's own, or
//! records that damage hides. Other nodes have them.

use cairn_types::audit::{AuditGap, AuditHead, AuditRecord};

use super::file::{self, Damage, Frame, Place, Walk, WalkError};
use crate::disk::Disk;

/// Records and gaps of one page.
const PAGE_ENTRIES_MAX: usize = 1_000;
/// Bytes of files that one page reads, about: a search that finds nothing goes on with the next.
const PAGE_READ_BYTES_MAX: u64 = 16 << 20;
/// Bytes of records in one page, about: far below a message.
const PAGE_BYTES_MAX: usize = 512 << 10;

#[derive(Debug, Default)]
pub struct Page {
    pub entries: Vec<Frame>,
    /// The number to go on with; zero at the end.
    pub next: u64,
    /// The first record that is kept, or would be.
    pub kept_from: u64,
    pub damage: Vec<String>,
}

/// What is wanted of the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub first: u64,
    pub last: u64,
}

/// Reads records of `range`, of those that `wants` accepts, up to what is durable.
pub fn page(
    disk: &dyn Disk,
    durable: Place,
    range: Range,
    wants: impl Fn(&AuditRecord) -> bool,
) -> std::io::Result<Page> {
    let mut files = file::files(disk)?;
    files.retain(|first| *first <= durable.file);
    let mut page = Page { kept_from: files.first().copied().unwrap_or(1), ..Page::default() };
    let last = range.last.min(durable.head.count);
    let mut at = range.first.max(page.kept_from);
    let (mut read, mut bytes) = (0, 0);
    while at <= last {
        let Some(place) = files.iter().rposition(|first| *first <= at) else { break };
        let first = files[place];
        let next = files.get(place + 1).copied();
        let end = (first == durable.file).then_some(durable.len);
        let start = at;
        let walked = walk(disk, first, end, at, last, |frame, number, size| {
            at = number + 1;
            read += size;
            let is_wanted = match &frame {
                Frame::Record(record) => wants(record),
                Frame::Gap(_) => true,
            };
            if is_wanted {
                bytes += size as usize;
                page.entries.push(frame);
            }
            page.entries.len() < PAGE_ENTRIES_MAX
                && bytes < PAGE_BYTES_MAX
                && read < PAGE_READ_BYTES_MAX
        });
        match walked {
            Ok(true) if at <= last => {
                // The file ends: what follows is in the next one, or should be.
                let behind = next.map_or(durable.head.count + 1, |next| next);
                if at < behind {
                    let path = file::path_of(first);
                    page.damage.push(format!("{path} ends with record {}", at - 1));
                    page.hidden(at, behind - 1, last);
                    at = behind;
                }
            }
            Ok(true) => {}
            Ok(false) => {
                page.next = if at <= last { at } else { 0 };
                return Ok(page);
            }
            Err(WalkError::Damage(damage)) => {
                page.damage.push(damage.to_string());
                let behind = next.unwrap_or(durable.head.count + 1);
                page.hidden(at, behind - 1, last);
                at = behind;
            }
            Err(WalkError::Disk { source, .. }) => return Err(source),
        }
        debug_assert!(at > start, "each round makes progress");
    }
    Ok(page)
}

impl Page {
    /// Records of this node that cannot be read.
    fn hidden(&mut self, first: u64, until: u64, last: u64) {
        let last = until.min(last);
        if first <= last {
            let (after_index, until_index, hash) = Default::default();
            let gap = AuditGap { first, last, after_index, until_index, hash };
            self.entries.push(Frame::Gap(gap));
        }
    }
}

/// Walks one file from record `at` to `last`. `each` gets a frame, the number of its last record and
/// its size, and says whether to go on. Whether the file, or the range, was walked to its end.
fn walk(
    disk: &dyn Disk,
    first: u64,
    end: Option<u64>,
    at: u64,
    last: u64,
    mut each: impl FnMut(Frame, u64, u64) -> bool,
) -> Result<bool, WalkError> {
    let mut walk = Walk::open(disk, first, end)?;
    walk.skip_to(at)?;
    loop {
        if walk.head().count >= last {
            return Ok(true);
        }
        let before = walk.offset();
        let Some(frame) = walk.step()? else { return Ok(true) };
        if !each(frame, walk.head().count, walk.offset() - before) {
            return Ok(false);
        }
    }
}

/// The result of a check.
#[derive(Debug, Default)]
pub struct Checked {
    pub before: Option<AuditHead>,
    /// The chain as far as it could be walked.
    pub after: AuditHead,
    pub records: u64,
    pub gaps: Vec<AuditGap>,
    pub damage: Vec<String>,
    /// The chain behind the record that was asked for.
    pub at: Option<[u8; 32]>,
}

/// Walks a whole file, up to `end` if it is given, and compares its end with the start of the next.
pub fn check(disk: &dyn Disk, first: u64, end: Option<u64>, next: Option<u64>, at: u64) -> Checked {
    let mut checked = Checked::default();
    let walked = check_chain(disk, first, end, at, &mut checked).and_then(|()| {
        let Some(next) = next else { return Ok(()) };
        let follows = *Walk::open(disk, next, None)?.head();
        if follows != checked.after {
            let what = format!(
                "it begins behind record {}, and the file before it ends with record {}",
                follows.count, checked.after.count
            );
            return Err(Damage { path: file::path_of(next), offset: 0, what }.into());
        }
        Ok(())
    });
    if let Err(error) = walked {
        checked.damage.push(error.to_string());
    }
    checked
}

fn check_chain(
    disk: &dyn Disk,
    first: u64,
    end: Option<u64>,
    at: u64,
    checked: &mut Checked,
) -> Result<(), WalkError> {
    let mut walk = Walk::open(disk, first, end)?;
    checked.before = Some(*walk.head());
    checked.after = *walk.head();
    loop {
        if walk.head().count == at && at > 0 {
            checked.at = Some(walk.head().hash);
        }
        let Some(frame) = walk.step()? else { return Ok(()) };
        checked.after = *walk.head();
        match frame {
            Frame::Record(_) => checked.records += 1,
            Frame::Gap(gap) => checked.gaps.push(gap),
        }
    }
}
