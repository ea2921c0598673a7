//! The ballast: a file inside the reserve that gives the log room when the disk is full to the
//! last byte, so that deletions can still be agreed on.
//!
//! All functions block.

use std::io;

use crate::disk::{Disk, Open};

pub const BALLAST_FILE: &str = "ballast";
const BALLAST_TMP: &str = "ballast.tmp";
/// Room for about a hundred thousand log entries of a deletion, or some minutes of a busy log.
pub const BALLAST_BYTES: u64 = 16 << 20;
const PIECE_BYTES: usize = 1 << 20;

/// Makes the ballast where it is missing or short. Its bytes do not compress, so that any file
/// system really sets the space aside. Fails on a full disk, which then is no worse than before.
pub fn make_ballast(disk: &dyn Disk) -> io::Result<()> {
    if is_there(disk)? {
        return Ok(());
    }
    remove_if_there(disk, BALLAST_TMP)?;
    let written = write(disk);
    if written.is_err() {
        // Half a ballast would take space that nobody releases. What went wrong first is what the
        // caller must hear.
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
    for offset in (0..BALLAST_BYTES).step_by(PIECE_BYTES) {
        noise.fill(&mut piece);
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
