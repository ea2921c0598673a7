//! Gives a part file its final name: it replaces the existing file, or fails if a file exists.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

/// Renames `from` to `to`. `EXIST` if that name is taken and must not be replaced.
pub(super) fn rename(
    private: &OwnedFd,
    from: &[u8],
    directory: &OwnedFd,
    to: &[u8],
    replace: bool,
) -> Result<(), Errno> {
    if replace {
        return rustix::fs::renameat(private, from, directory, to);
    }
    match rustix::fs::renameat_with(private, from, directory, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rename_by_link(private, from, directory, to)
        }
        other => other,
    }
}

/// [`rename`] for network file systems, which cannot refuse to replace. A link never replaces a
/// file. The old name may stay.
pub(super) fn rename_by_link(
    private: &OwnedFd,
    from: &[u8],
    directory: &OwnedFd,
    to: &[u8],
) -> Result<(), Errno> {
    match rustix::fs::linkat(private, from, directory, to, AtFlags::empty()) {
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {}
        other => return other,
    }
    // The file system has no links either. Two runs may both pass this check. Each compares the
    // name afterwards.
    match rustix::fs::statat(directory, to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(private, from, directory, to),
        Ok(_) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}
