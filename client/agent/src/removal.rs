//! Removing a checkpoint from the local disk, so that a kill at any moment leaves it whole, or gone,
//! or under a name that says that it was being removed.
//!
//! ```text
//! NAME --rename--> .cairn-agent-check-NAME --is what was stored--> .cairn-agent-trash-NAME --> gone
//!   ^                      |
//!   +---- it is not -------+
//! ```
//!
//! A look puts back what is under the first name, and removes what is under the second, while no
//! removal runs. No rename takes the place of what has its new name.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cairn_client::source::Source;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::config::{Job, Watch};
use crate::layout::OWN_PREFIX;
use crate::listing::{Fingerprint, Pointed, Version};
use crate::{scan, tree};

const CHECK: &str = "check-";
const TRASH: &str = "trash-";

/// Removes what is this version; otherwise says why it stays.
pub fn remove(
    job: &Arc<Job>,
    watch: &Watch,
    (name, step): (&str, u64),
    version: Version,
) -> Result<(), String> {
    let directory = &watch.directory;
    let path = directory.join(name);
    let before = tree::walk(job, &path, name)?;
    if let Some(left_out) = &before.left_out {
        return Err(format!("{left_out} in {name} was left out when it was stored"));
    }
    let differs = || format!("{name} is not what was stored");
    let source = scan::listed(job, &path).map_err(|error| error.to_string())?;
    if before.witness != version.witness || Fingerprint::of(source.entries()) != version.fingerprint
    {
        return Err(differs());
    }
    let check = directory.join(format!("{OWN_PREFIX}{CHECK}{name}"));
    let trash = directory.join(format!("{OWN_PREFIX}{TRASH}{name}"));
    let failed = |error: io::Error| format!("remove {}: {error}", path.display());
    if trash.symlink_metadata().is_ok() {
        discard(&trash).map_err(failed)?;
    }
    // The last moment: the program may have gone back to it.
    match scan::pointed(watch) {
        Pointed::NoPointer => {}
        Pointed::Step { step: pointed, .. } if pointed != step => {}
        Pointed::Step { .. } => return Err(format!("the pointer file names {name}")),
        Pointed::Unknown { why } => return Err(why),
    }
    rename(&path, &check).map_err(failed)?;
    // Nobody finds it under its name now; what was written meanwhile shows here.
    let gone = match tree::walk(job, &check, name) {
        Ok(after) if after.moved == before.moved && after.left_out.is_none() => {
            rename(&check, &trash).map_err(|error| error.to_string())
        }
        Ok(_) => Err(differs()),
        Err(why) => Err(why),
    };
    if let Err(why) = gone {
        rename(&check, &path)
            .map_err(|error| format!("{why}; put {} back: {error}", check.display()))?;
        return Err(why);
    }
    discard(&trash).map_err(failed)
}

/// Finishes or takes back the removals that a kill interrupted; what is left of them, and why. Only
/// while no removal of this directory runs.
pub fn recover(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut left = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(OWN_PREFIX)) else {
            continue;
        };
        let done = match (name.strip_prefix(CHECK), name.starts_with(TRASH)) {
            (Some(original), _) => rename(&entry.path(), &directory.join(original)),
            (None, true) => discard(&entry.path()),
            (None, false) => Ok(()),
        };
        if let Err(error) = done {
            let path = entry.path();
            left.push(format!("{} of an interrupted removal is left: {error}", path.display()));
        }
    }
    left.sort();
    left
}

/// A rename that replaces nothing.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Network file systems do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename_in_steps(from, to),
        other => Ok(other?),
    }
}

/// A file gets its second name, which fails if something has it, before it loses its first. A rename
/// of a directory fails by itself if another one with files has the name.
fn rename_in_steps(from: &Path, to: &Path) -> io::Result<()> {
    if from.symlink_metadata()?.is_dir() {
        return match to.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        };
    }
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

fn discard(path: &Path) -> io::Result<()> {
    match path.symlink_metadata()?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Kind};

    fn job(directory: &Path, more: &str) -> Arc<Job> {
        let text = format!(
            "state = 's'\n[[job]]\nname = 'j'\nnamespace = 'n'\nwatch = {directory:?}\n{more}\n"
        );
        Config::parse(Path::new("/c.toml"), &text).unwrap().jobs[0].clone()
    }

    /// Removes `name` as the version that it is now, or was.
    fn go(job: &Arc<Job>, name: &str, version: Version) -> Result<(), String> {
        let Kind::Watch(watch) = &job.kind else { panic!("no watch") };
        remove(job, watch, (name, 1), version)
    }

    fn version(job: &Arc<Job>, path: &Path) -> Version {
        scan::version(job, path, path.file_name().unwrap().to_str().unwrap()).unwrap()
    }

    const DCP: &str = "layout = 'dcp'";

    #[test]
    fn what_was_stored_is_removed_and_what_changed_stays() {
        let dir = tempfile::tempdir().unwrap();
        // A single file whose name while it is checked would be left out.
        let job = job(dir.path(), "layout = 'dcp'\nexclude = ['.*']");
        let (tree, file) = (dir.path().join("step-1"), dir.path().join("epoch=0-step=1.ckpt"));
        fs::create_dir_all(tree.join("deep")).unwrap();
        fs::write(tree.join("deep/f"), "x").unwrap();
        fs::write(&file, "y").unwrap();
        for path in [&tree, &file] {
            let name = path.file_name().unwrap().to_str().unwrap();
            let stored = version(&job, path);
            let inner = if path.is_dir() { path.join("deep/f") } else { path.clone() };
            fs::write(&inner, "changed since").unwrap();
            let why = go(&job, name, stored).unwrap_err();
            assert!(why.contains("is not what was stored"), "{why}");
            assert!(path.exists());
            // Another file with this size and time.
            let stored = version(&job, path);
            let modified = fs::metadata(&inner).unwrap().modified().unwrap();
            let beside = dir.path().join("beside");
            fs::write(&beside, "changed SINCE").unwrap();
            fs::File::options().write(true).open(&beside).unwrap().set_modified(modified).unwrap();
            fs::rename(&beside, &inner).unwrap();
            let now = version(&job, path);
            assert_eq!(now.fingerprint, stored.fingerprint);
            assert!(go(&job, name, stored).unwrap_err().contains("is not what was stored"));
            go(&job, name, now).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_the_put_left_out_keeps_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("step-1");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("f"), "x").unwrap();
        fs::write(top.join("notes.txt"), "x").unwrap();
        std::os::unix::fs::symlink("/data", top.join("link")).unwrap();
        for (more, left_out) in [
            ("layout = 'dcp'\nexclude = ['*.txt']\nlinks = 'follow'", "notes.txt"),
            ("layout = 'dcp'\nlinks = 'skip'", "link"),
        ] {
            let job = job(dir.path(), more);
            let why = tree::walk(&job, &top, "step-1").unwrap();
            let version = Version { fingerprint: Fingerprint::of([]), witness: why.witness };
            let why = go(&job, "step-1", version).unwrap_err();
            assert!(why.contains(left_out) && why.contains("left out"), "{why}");
            assert!(top.join("f").exists());
        }
    }

    #[test]
    fn what_the_pointer_names_at_the_last_moment_stays() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path(), "layout = 'deepspeed'");
        let top = dir.path().join("global_step1");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("f"), "x").unwrap();
        let version = version(&job, &top);
        for (text, wanted) in [("global_step1", "names global_step1"), ("glob", "names no step")] {
            fs::write(dir.path().join("latest"), text).unwrap();
            let why = go(&job, "global_step1", version).unwrap_err();
            assert!(why.contains(wanted), "{why}");
        }
        fs::remove_file(dir.path().join("latest")).unwrap();
        assert!(go(&job, "global_step1", version).is_err());
        fs::write(dir.path().join("latest"), "global_step2").unwrap();
        go(&job, "global_step1", version).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn interrupted_removals_are_taken_back_or_finished() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [
            ".cairn-agent-check-step-1",
            ".cairn-agent-trash-step-2",
            ".cairn-agent-check-step-3",
            "step-3",
        ] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("f"), name).unwrap();
        }
        let left = recover(dir.path());
        assert!(at("step-1/f").exists() && !at(".cairn-agent-check-step-1").exists());
        assert!(!at(".cairn-agent-trash-step-2").exists());
        // Written again meanwhile: neither is lost.
        assert!(at("step-3/f").exists() && at(".cairn-agent-check-step-3/f").exists());
        assert!(left.len() == 1 && left[0].contains("check-step-3 of an"), "{left:?}");
    }

    #[test]
    fn a_trash_that_an_earlier_removal_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path(), DCP);
        for name in [".cairn-agent-trash-step-1", "step-1"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("f"), name).unwrap();
        }
        go(&job, "step-1", version(&job, &dir.path().join("step-1"))).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn no_rename_replaces_what_has_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for rename in [rename, rename_in_steps] {
            for name in ["a", "b"] {
                fs::write(at(name), name).unwrap();
            }
            assert_eq!(
                rename(&at("a"), &at("b")).unwrap_err().kind(),
                io::ErrorKind::AlreadyExists
            );
            assert_eq!(fs::read_to_string(at("b")).unwrap(), "b");
            fs::remove_file(at("b")).unwrap();
            rename(&at("a"), &at("b")).unwrap();
            assert!(!at("a").exists() && fs::read_to_string(at("b")).unwrap() == "a");
            for name in ["c", "d"] {
                fs::create_dir(at(name)).unwrap();
            }
            assert_eq!(
                rename(&at("c"), &at("d")).unwrap_err().kind(),
                io::ErrorKind::AlreadyExists
            );
            fs::remove_dir(at("d")).unwrap();
            rename(&at("c"), &at("d")).unwrap();
            fs::remove_dir(at("d")).unwrap();
        }
    }
}
