//! The ballast: a file inside the reserve. It gives the log room when the disk is full to the last
//! byte, so that deletions can still be agreed on.
//!
//! The store makes the ballast when it opens. The log releases the ballast before a commit for
//! which too little room is left. A release after a failed commit would be too late: redb takes no
//! more commits after a disk error. The next process that finds room makes the ballast again.
//!
//! All functions block.

use std::io;

use super::error::is_full;
use crate::disk::{Disk, Open};

pub const BALLAST_FILE: &str = "ballast";
const BALLAST_TMP: &str = "ballast.tmp";
/// Room for about a hundred thousand log entries of a deletion, or some minutes of a busy log.
pub const BALLAST_BYTES: u64 = 16 << 20;
const PIECE_BYTES: usize = 1 << 20;
/// The ballast is made only while at least this much is available. This is far above the point of
/// release, so that a start does not take back the space that the last process needed.
const MAKE_BYTES_MIN: u64 = 4 * BALLAST_BYTES;
/// The log releases the ballast when less than this is available, in addition to the commit's own
/// bytes.
pub const RELEASE_BYTES_BELOW: u64 = 8 << 20;

/// Makes the ballast if there is room for it, on the disk and within a reserve of `reserve` bytes.
/// A lack of room is not an error: the node then runs without a ballast, as before.
pub fn make_ballast_if_room(disk: &dyn Disk, reserve: u64) -> io::Result<()> {
    if reserve < BALLAST_BYTES || disk.space()?.available < MAKE_BYTES_MIN {
        return Ok(());
    }
    match make_ballast(disk) {
        Err(error) if is_full(&error) => {
            tracing::warn!(%error, "no ballast: a full disk may stop the log");
            Ok(())
        }
        made => made,
    }
}

/// Releases the ballast if less space is left than a commit of `bytes` bytes needs. If the space is
/// too small even after that, the commit itself fails.
pub fn release_ballast_if_short(disk: &dyn Disk, bytes: u64) -> io::Result<()> {
    // A copy-on-write tree writes more than it is given.
    let needed = RELEASE_BYTES_BELOW.saturating_add(bytes.saturating_mul(2));
    let available = disk.space()?.available;
    if available >= needed {
        return Ok(());
    }
    match release_ballast(disk) {
        Ok(true) => tracing::warn!(available, "disk is nearly full: ballast released"),
        Ok(false) => {}
        Err(error) if is_full(&error) => tracing::warn!(%error, "cannot release the ballast"),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Makes the ballast if it is missing or short. Its bytes do not compress, so that any file system
/// really sets the space aside. On a full disk it fails and leaves the disk as it was.
pub fn make_ballast(disk: &dyn Disk) -> io::Result<()> {
    if is_there(disk)? {
        return Ok(());
    }
    remove_if_there(disk, BALLAST_TMP)?;
    let written = write(disk);
    if written.is_err() {
        // Half a ballast would take space that nothing releases. The caller gets the first error.
        let _ = remove_if_there(disk, BALLAST_TMP);
    }
    written
}

/// Gives the ballast's space to the log. True if there was one to give.
pub fn release_ballast(disk: &dyn Disk) -> io::Result<bool> {
    let there = remove_if_there(disk, BALLAST_FILE)?;
    if there {
        disk.sync_dir("")?;
    }
    Ok(there)
}

fn is_there(disk: &dyn Disk) -> io::Result<bool> {
    Ok(disk.exists(BALLAST_FILE)? && disk.open(BALLAST_FILE, Open::Read)?.len()? == BALLAST_BYTES)
}

fn write(disk: &dyn Disk) -> io::Result<()> {
    let file = disk.open(BALLAST_TMP, Open::Create)?;
    let mut noise = blake3::Hasher::new().update(b"cairn ballast").finalize_xof();
    let mut piece = vec![0; PIECE_BYTES];
    // The same piece is written again and again. The copies are too far apart for a compressing
    // file system to notice.
    noise.fill(&mut piece);
    for offset in (0..BALLAST_BYTES).step_by(PIECE_BYTES) {
        file.write_at(offset, &piece)?;
    }
    file.sync()?;
    disk.rename(BALLAST_TMP, BALLAST_FILE)?;
    disk.sync_dir("")
}

fn remove_if_there(disk: &dyn Disk, path: &str) -> io::Result<bool> {
    match disk.remove(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
