//! All that is at the path of a checkpoint, with what a put leaves out, and signs of its last change.
//!
//! The listing of a put has sizes and modification times, which a program can set back. The
//! [`Witness`] has the change times and the inodes, too, which it cannot.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cairn_client::Links;

use crate::config::Job;
use crate::listing::Witness;

/// Entries below one checkpoint, with what is left out: more than a checkpoint can have.
const ENTRIES_MAX: usize = 4_000_000;

/// What is at a path at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Of all that a put takes.
    pub witness: Witness,
    /// The same without the change time of the path itself, which a rename sets.
    pub moved: Witness,
    /// Of the files that a put takes: the newest modification, and the newest change.
    pub modified_ns: i64,
    pub changed_ns: i64,
    /// The first entry that a put leaves out.
    pub left_out: Option<String>,
}

/// Lists what is at `path`, which has this name for the rules of the job. Blocks.
pub fn walk(job: &Job, path: &Path, name: &str) -> Result<Tree, String> {
    let failed = |at: &Path, error: io::Error| format!("read {}: {error}", at.display());
    let metadata = path.symlink_metadata().map_err(|error| failed(path, error))?;
    let mut found = Found::default();
    let is_tree = match metadata.is_symlink() && job.links == Links::Follow {
        true => fs::metadata(path).map_err(|error| failed(path, error))?.is_dir(),
        false => metadata.is_dir(),
    };
    if !is_tree {
        match job.excludes(name.as_bytes()) {
            true => found.leave_out(name.as_bytes()),
            false => found.take(job, name.as_bytes(), path, &metadata, true),
        }
        return Ok(found.tree());
    }
    // An explicit stack: the depth of a tree is the program's choice, that of ours is not.
    let mut pending: Vec<(PathBuf, Vec<u8>)> = vec![(path.to_owned(), Vec::new())];
    let mut count = 0;
    while let Some((directory, above)) = pending.pop() {
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).map_err(|error| failed(&directory, error))? {
            names.push(entry.map_err(|error| failed(&directory, error))?.file_name().into_vec());
            count += 1;
            if count > ENTRIES_MAX {
                return Err(format!("more than {ENTRIES_MAX} entries in {}", path.display()));
            }
        }
        names.sort_unstable();
        for component in names {
            let at = directory.join(OsStr::from_bytes(&component));
            let mut name = above.clone();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(&component);
            if job.excludes(&name) {
                found.leave_out(&name);
                continue;
            }
            let metadata = at.symlink_metadata().map_err(|error| failed(&at, error))?;
            if metadata.is_dir() {
                found.directory(&name);
                pending.push((at, name));
            } else {
                found.take(job, &name, &at, &metadata, false);
            }
        }
    }
    Ok(found.tree())
}

#[derive(Default)]
struct Found {
    hasher: blake3::Hasher,
    moved: blake3::Hasher,
    modified_ns: i64,
    changed_ns: i64,
    left_out: Option<String>,
}

impl Found {
    fn leave_out(&mut self, name: &[u8]) {
        self.left_out.get_or_insert_with(|| String::from_utf8_lossy(name).into_owned());
    }

    fn directory(&mut self, name: &[u8]) {
        self.note(name);
    }

    fn note(&mut self, name: &[u8]) {
        for hasher in [&mut self.hasher, &mut self.moved] {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name);
        }
    }

    /// A file, a link, or what a put refuses. `is_top`: of the path itself.
    fn take(&mut self, job: &Job, name: &[u8], at: &Path, metadata: &Metadata, is_top: bool) {
        if metadata.is_symlink() && job.links == Links::Skip {
            return self.leave_out(name);
        }
        self.note(name);
        self.stat(metadata, is_top);
        if metadata.is_symlink()
            && let Ok(target) = fs::metadata(at)
        {
            self.stat(&target, false);
        }
    }

    fn stat(&mut self, metadata: &Metadata, is_top: bool) {
        let ns =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        let modified = ns(metadata.mtime(), metadata.mtime_nsec());
        let changed = ns(metadata.ctime(), metadata.ctime_nsec());
        for hasher in [&mut self.hasher, &mut self.moved] {
            for field in [metadata.len(), metadata.ino(), u64::from(metadata.mode())] {
                hasher.update(&field.to_le_bytes());
            }
            hasher.update(&modified.to_le_bytes());
        }
        self.hasher.update(&changed.to_le_bytes());
        if !is_top {
            self.moved.update(&changed.to_le_bytes());
        }
        self.modified_ns = self.modified_ns.max(modified);
        self.changed_ns = self.changed_ns.max(changed);
    }

    fn tree(self) -> Tree {
        let witness = |hasher: &blake3::Hasher| {
            let mut bytes = [0; 16];
            hasher.finalize_xof().fill(&mut bytes);
            Witness::new(bytes)
        };
        Tree {
            witness: witness(&self.hasher),
            moved: witness(&self.moved),
            modified_ns: self.modified_ns,
            changed_ns: self.changed_ns,
            left_out: self.left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::config::Config;

    fn job(more: &str) -> std::sync::Arc<Job> {
        let text = "state = 's'\n[[job]]\nname = 'j'\nnamespace = 'n'\nwatch = 'w'\nlayout = 'dcp'";
        Config::parse(Path::new("/c.toml"), &format!("{text}\n{more}")).unwrap().jobs[0].clone()
    }

    fn set_modified(path: &Path, at: SystemTime) {
        fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
    }

    #[test]
    fn a_change_deep_inside_with_its_size_and_time_set_back_shows() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("step-1");
        fs::create_dir_all(top.join("a/b")).unwrap();
        let file = top.join("a/b/f");
        fs::write(&file, "one").unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        set_modified(&file, then);
        let job = job("");
        let before = walk(&job, &top, "step-1").unwrap();
        assert_eq!(walk(&job, &top, "step-1").unwrap(), before);
        // Until the clock of change times, which is coarse, has gone on.
        let changed = || {
            fs::write(&file, "two").unwrap();
            set_modified(&file, then);
            walk(&job, &top, "step-1").unwrap()
        };
        let mut now = changed();
        for _ in 0..1_000_000 {
            if now.witness != before.witness {
                break;
            }
            now = changed();
        }
        assert_ne!(now.witness, before.witness);
        assert_eq!(now.modified_ns, before.modified_ns, "the time was set back");
        assert!(now.changed_ns > before.changed_ns);
    }

    #[test]
    fn a_rename_of_the_path_changes_nothing_that_is_compared_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, tree) = (dir.path().join("1"), dir.path().join("step-1"));
        fs::create_dir(&tree).unwrap();
        fs::write(&file, "x").unwrap();
        fs::write(tree.join("f"), "x").unwrap();
        let job = job("exclude = ['.*']");
        for (path, name) in [(&file, "1"), (&tree, "step-1")] {
            let before = walk(&job, path, name).unwrap();
            let moved = dir.path().join(".moved");
            fs::rename(path, &moved).unwrap();
            let after = walk(&job, &moved, name).unwrap();
            assert_eq!(after.moved, before.moved, "{name}");
            assert_eq!(after.left_out, None, "the rules look at the name it had");
            fs::rename(&moved, path).unwrap();
        }
    }

    #[test]
    fn what_a_put_leaves_out_is_named_and_does_not_count_as_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("step-1");
        fs::create_dir_all(top.join("logs")).unwrap();
        fs::write(top.join("f"), "x").unwrap();
        fs::write(top.join("logs/a.log"), "x").unwrap();
        std::os::unix::fs::symlink("f", top.join("link")).unwrap();
        let left_out = |more: &str| walk(&job(more), &top, "step-1").unwrap().left_out;
        assert_eq!(left_out(""), None);
        assert_eq!(left_out("exclude = ['logs']").as_deref(), Some("logs"));
        assert_eq!(left_out("exclude = ['*.log']").as_deref(), Some("logs/a.log"));
        assert_eq!(left_out("links = 'skip'").as_deref(), Some("link"));
        assert_eq!(left_out("links = 'follow'"), None);
        let job = job("exclude = ['*.log']");
        let before = walk(&job, &top, "step-1").unwrap();
        fs::write(top.join("logs/b.log"), "more").unwrap();
        assert_eq!(walk(&job, &top, "step-1").unwrap().witness, before.witness);
    }
}
