//! Removing a checkpoint from the local disk, so that a kill at any moment leaves it whole, or gone,
//! or under a name that says that it was being removed.
//!
//! ```text
//! NAME --rename--> .cairn-agent-check-NAME --listing is what was stored--> .cairn-agent-trash-NAME --> gone
//!   ^                      |
//!   +---- it is not -------+
//! ```
//!
//! A start puts back what is under the first name, and removes what is under the second.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::Job;
use crate::layout::OWN_PREFIX;
use crate::listing::Fingerprint;
use crate::scan;

const CHECK: &str = "check-";
const TRASH: &str = "trash-";

/// Removes what has this fingerprint; otherwise says why it stays.
pub fn remove(
    job: &Arc<Job>,
    directory: &Path,
    name: &str,
    fingerprint: Fingerprint,
) -> Result<(), String> {
    let path = directory.join(name);
    let is_same = |path: &Path| match scan::listed(job, path) {
        Ok((now, ..)) if now == fingerprint => Ok(()),
        Ok(_) => Err(format!("{name} is not what was stored")),
        Err(error) => Err(error.to_string()),
    };
    is_same(&path)?;
    let check = directory.join(format!("{OWN_PREFIX}{CHECK}{name}"));
    let trash = directory.join(format!("{OWN_PREFIX}{TRASH}{name}"));
    let failed = |error: io::Error| format!("remove {}: {error}", path.display());
    fs::rename(&path, &check).map_err(failed)?;
    // Nobody finds it under its name now; what was written meanwhile shows here. A file has its name
    // in its listing, so it was compared before; of it, size and time are compared again.
    let still = match check.is_dir() {
        true => is_same(&check),
        false => same_file(job, &check, name, fingerprint),
    };
    if let Err(why) = still {
        fs::rename(&check, &path).map_err(failed)?;
        return Err(why);
    }
    fs::rename(&check, &trash).map_err(failed)?;
    discard(&trash).map_err(failed)
}

/// A single file is listed under its own name.
fn same_file(job: &Arc<Job>, at: &Path, name: &str, wanted: Fingerprint) -> Result<(), String> {
    use cairn_client::source::Source;
    let source = scan::source(job, &[at.to_owned()]).map_err(|error| error.to_string())?;
    let mut entries = source.entries().to_vec();
    entries.iter_mut().for_each(|entry| entry.name = name.as_bytes().to_vec());
    match Fingerprint::of(&entries) == wanted {
        true => Ok(()),
        false => Err(format!("{name} is not what was stored")),
    }
}

/// Finishes or takes back the removals that a kill interrupted.
pub fn recover(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(OWN_PREFIX)) else {
            continue;
        };
        let done = match (name.strip_prefix(CHECK), name.starts_with(TRASH)) {
            (Some(original), _) => put_back(&entry.path(), &directory.join(original)),
            (None, true) => discard(&entry.path()),
            (None, false) => Ok(()),
        };
        if let Err(error) = done {
            tracing::warn!(path = %entry.path().display(), %error, "an interrupted removal is not finished");
        }
    }
}

fn put_back(from: &Path, to: &Path) -> io::Result<()> {
    match to.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(error) => Err(error),
        // The program has written it again: both stay.
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
    }
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
    use crate::config::Config;

    fn job() -> Arc<Job> {
        let text = "state = 's'\n[[job]]\nname = 'j'\nnamespace = 'n'\nwatch = 'w'\nlayout = 'dcp'";
        Config::parse(Path::new("/c.toml"), text).unwrap().jobs[0].clone()
    }

    fn fingerprint(path: &Path) -> Fingerprint {
        scan::listed(&job(), path).unwrap().0
    }

    #[test]
    fn what_was_stored_is_removed_and_what_changed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, file) = (dir.path().join("step-1"), dir.path().join("epoch=0-step=1.ckpt"));
        fs::create_dir_all(tree.join("deep")).unwrap();
        fs::write(tree.join("deep/f"), "x").unwrap();
        fs::write(&file, "y").unwrap();
        for path in [&tree, &file] {
            let name = path.file_name().unwrap().to_str().unwrap();
            let stored = fingerprint(path);
            let inner = if path.is_dir() { path.join("deep/f") } else { path.clone() };
            fs::write(&inner, "changed since").unwrap();
            let why = remove(&job(), dir.path(), name, stored).unwrap_err();
            assert!(why.contains("is not what was stored"), "{why}");
            assert!(path.exists());
            remove(&job(), dir.path(), name, fingerprint(path)).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
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
        recover(dir.path());
        assert!(at("step-1/f").exists() && !at(".cairn-agent-check-step-1").exists());
        assert!(!at(".cairn-agent-trash-step-2").exists());
        // Written again meanwhile: neither is lost.
        assert!(at("step-3/f").exists() && at(".cairn-agent-check-step-3/f").exists());
    }
}
