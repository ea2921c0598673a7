//! Looks at a watched directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use cairn_client::source::SourceEntry;
use cairn_client::{Links, LocalSource, ScanOptions, SourceError, source::Source};
use rustix::fs::OFlags;

use crate::config::{Job, Watch};
use crate::listing::{Fingerprint, Look, Pointed, Scan, Seen, Times, Version, Witness};
use crate::tree;

/// Entries of one watched directory: beyond, something else is written there.
const ENTRIES_MAX: usize = 20_000;
/// Of a pointer file.
const POINTER_BYTES_MAX: u64 = 4_096;
/// Of a file with the state of a training run: it has all its losses.
const STATE_BYTES_MAX: u64 = 256 << 20;
/// A file that is written last may be this much older than others: it may be another machine that
/// writes it, whose clock is a little behind.
const CLOCKS_APART_NS: i64 = 1_000_000_000;

/// What is in a watched directory now. What is settled under its present witness is not listed.
pub fn scan(
    job: &Arc<Job>,
    watch: &Watch,
    settled: &BTreeMap<String, Witness>,
) -> Result<Scan, String> {
    let directory = &watch.directory;
    let failed = |error: io::Error| format!("read {}: {error}", directory.display());
    let (mut names, mut unmatched) = (Vec::new(), Vec::new());
    for (count, entry) in fs::read_dir(directory).map_err(failed)?.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} entries in {}", directory.display()));
        }
        // A name that is not UTF-8 is no checkpoint of any layout.
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
        match watch.layout.step(&name) {
            Some(step) => names.push((name, step)),
            None if watch.layout.is_nearly(&name) => unmatched.push(name),
            None => {}
        }
    }
    names.sort_by_cached_key(|(name, _)| (watch.layout.version(name), name.clone()));
    unmatched.sort();
    // The pointer first: what it names was finished before the files are listed.
    let pointed = pointed(watch);
    let seen = names.into_iter().map(|(name, step)| {
        let (look, times) = look(job, watch, &name, settled.get(&name));
        Seen { name, step, look, times }
    });
    let seen: Vec<Seen> = seen.collect();
    let needed = needed(watch, &seen);
    Ok(Scan { seen, pointed, needed, unmatched, left: Vec::new() })
}

/// What the layout's pointer file says now.
pub fn pointed(watch: &Watch) -> Pointed {
    let Some(pointer) = watch.layout.pointer() else { return Pointed::NoPointer };
    let unknown = |why: String| Pointed::Unknown { why: format!("{}: {why}", pointer.file) };
    match read_small(&watch.directory.join(pointer.file), POINTER_BYTES_MAX) {
        Ok((bytes, modified_ns)) => {
            let step = std::str::from_utf8(&bytes).ok().and_then(|text| pointer.step(text));
            match step {
                Some(step) => Pointed::Step { step, modified_ns },
                None => unknown("it names no step".to_owned()),
            }
        }
        Err(error) => unknown(error.to_string()),
    }
}

/// A regular file of at most this size, and when it was modified. A pipe does not block.
fn read_small(path: &Path, most: u64) -> io::Result<(Vec<u8>, i64)> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::other(format!("it is longer than {most} bytes"))),
        false => Ok((bytes, modified_ns(&metadata))),
    }
}

/// Names of the checkpoints that a checkpoint on the disk calls its best one.
fn needed(watch: &Watch, seen: &[Seen]) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    let Some((file, key)) = watch.layout.best().filter(|_| watch.keep_local.is_some()) else {
        return Ok(names);
    };
    for Seen { name, .. } in seen {
        let path = watch.directory.join(name).join(file);
        match read_small(&path, STATE_BYTES_MAX) {
            Ok((bytes, _)) => names.extend(named(&bytes, key)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("read {}: {error}", path.display())),
        }
    }
    Ok(names)
}

/// Last components of the paths that stand under a key anywhere in a text. The text is not parsed as
/// a whole: a loss that is no number makes it no JSON.
fn named(text: &[u8], key: &str) -> Vec<String> {
    let key = format!("\"{key}\"");
    let key = key.as_bytes();
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(key.len()).position(|it| it == key) {
        rest = rest[at + key.len()..].trim_ascii_start();
        let Some(value) = rest.strip_prefix(b":") else { continue };
        let mut values = serde_json::Deserializer::from_slice(value).into_iter::<String>();
        if let Some(Ok(path)) = values.next()
            && let Some(name) = Path::new(&path).file_name().and_then(|name| name.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names
}

fn look(job: &Arc<Job>, watch: &Watch, name: &str, settled: Option<&Witness>) -> (Look, Times) {
    let path = watch.directory.join(name);
    let tree = match tree::walk(job, &path, name) {
        Ok(tree) => tree,
        Err(why) => return (Look::Failed { why }, Times::default()),
    };
    let times = Times { modified_ns: tree.modified_ns, changed_ns: tree.changed_ns };
    // What is behind links to directories is not in the witness.
    if settled == Some(&tree.witness) && job.links != Links::Follow {
        return (Look::Settled, times);
    }
    let look = match listed(job, &path) {
        Ok(source) => {
            let entries = source.entries();
            Look::Listed {
                version: Version { fingerprint: Fingerprint::of(entries), witness: tree.witness },
                files: entries.len() as u64,
                bytes: entries.iter().map(|entry| entry.len).sum(),
                lacks: lacks(watch, &path, entries),
            }
        }
        Err(error) => Look::Failed { why: error.to_string() },
    };
    (look, times)
}

/// What is wrong with the required files. One that is written last is left from an earlier checkpoint
/// of this name if it is older than other files.
fn lacks(watch: &Watch, path: &Path, entries: &[SourceEntry]) -> Option<String> {
    let is_required =
        |entry: &&SourceEntry| watch.required.iter().any(|it| it.name.as_bytes() == entry.name);
    let newest = entries.iter().filter(|entry| !is_required(entry)).max_by_key(|it| it.mtime_ns);
    watch.required.iter().find_map(|required| {
        let name = &required.name;
        let Ok(metadata) = path.join(name).symlink_metadata() else {
            return Some(format!("{name} is not there yet"));
        };
        let newest = newest.filter(|newest| {
            required.is_last
                && modified_ns(&metadata).saturating_add(CLOCKS_APART_NS) < newest.mtime_ns
        })?;
        let newest = String::from_utf8_lossy(&newest.name);
        Some(format!("{name} is older than {newest}"))
    })
}

fn modified_ns(metadata: &fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// The source of a checkpoint's files, as a put takes it.
pub fn source(job: &Arc<Job>, paths: &[std::path::PathBuf]) -> Result<LocalSource, SourceError> {
    let rules = job.clone();
    let options = ScanOptions {
        prefix: None,
        links: job.links,
        exclude: (!job.exclude.is_empty())
            .then(|| Arc::new(move |name: &[u8]| rules.excludes(name)) as _),
    };
    LocalSource::scan_with(paths, options)
}

/// What is at one path.
pub fn listed(job: &Arc<Job>, path: &Path) -> Result<LocalSource, SourceError> {
    source(job, &[path.to_owned()])
}

/// The version of what is at a path now.
#[cfg(test)]
pub fn version(job: &Arc<Job>, path: &Path, name: &str) -> Result<Version, String> {
    let witness = tree::walk(job, path, name)?.witness;
    let source = listed(job, path).map_err(|error| error.to_string())?;
    Ok(Version { fingerprint: Fingerprint::of(source.entries()), witness })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::config::{Config, Kind};

    fn look_at(directory: &Path, more: &str) -> Scan {
        let text = format!(
            "state = 's'\n[[job]]\nname = 'j'\nnamespace = 'n'\nwatch = {directory:?}\n{more}\n"
        );
        let job = Config::parse(Path::new("/c.toml"), &text).unwrap().jobs[0].clone();
        let Kind::Watch(watch) = &job.kind else { panic!("no watch") };
        scan(&job, watch, &BTreeMap::new()).unwrap()
    }

    fn lacks(scan: &Scan) -> Option<String> {
        let Look::Listed { lacks, .. } = &scan.seen[0].look else { panic!("{scan:?}") };
        lacks.clone()
    }

    fn set_modified(path: &Path, seconds: u64) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
    }

    #[test]
    fn a_pointer_that_is_a_pipe_or_huge_is_unknown_and_blocks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latest");
        let pointed = || look_at(dir.path(), "layout = 'deepspeed'").pointed;
        let unknown = |text: &str| match pointed() {
            Pointed::Unknown { why } => assert!(why.contains(text), "{why}"),
            other => panic!("{other:?} instead of {text}"),
        };
        unknown("latest: ");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        unknown("not a regular file");
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        unknown("longer than 4096 bytes");
        fs::write(&path, "global_st").unwrap();
        unknown("names no step");
        fs::write(&path, "global_step7\n").unwrap();
        assert!(matches!(pointed(), Pointed::Step { step: 7, .. }));
    }

    #[test]
    fn a_marker_left_from_an_earlier_checkpoint_does_not_finish_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("step-1");
        fs::create_dir(&top).unwrap();
        for (name, at) in [("a.distcp", 1_000), (".metadata", 1_001), ("DONE", 1_002)] {
            fs::write(top.join(name), "x").unwrap();
            set_modified(&top.join(name), at);
        }
        let config = "layout = 'dcp'\nmarker = 'DONE'";
        assert_eq!(lacks(&look_at(dir.path(), config)), None);
        set_modified(&top.join("a.distcp"), 2_000);
        let why = lacks(&look_at(dir.path(), config));
        assert_eq!(why.as_deref(), Some(".metadata is older than a.distcp"));
        set_modified(&top.join(".metadata"), 2_000);
        let why = lacks(&look_at(dir.path(), config));
        assert_eq!(why.as_deref(), Some("DONE is older than a.distcp"));
        set_modified(&top.join("DONE"), 2_000);
        assert_eq!(lacks(&look_at(dir.path(), config)), None);
        fs::remove_file(top.join(".metadata")).unwrap();
        let why = lacks(&look_at(dir.path(), config));
        assert_eq!(why.as_deref(), Some(".metadata is not there yet"));
        // What other ranks write after it is part of the layout of the Trainer.
        let top = dir.path().join("checkpoint-1");
        fs::create_dir(&top).unwrap();
        for (name, at) in [("trainer_state.json", 1_000), ("rng_state_1.pth", 2_000)] {
            fs::write(top.join(name), "x").unwrap();
            set_modified(&top.join(name), at);
        }
        assert_eq!(lacks(&look_at(dir.path(), "layout = 'hf-trainer'")), None);
    }

    #[test]
    fn the_best_checkpoint_of_a_trainer_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        for (step, state) in [
            (1, "{\"best_model_checkpoint\": null, \"loss\": NaN}"),
            (2, "{\"loss\": NaN,\n  \"best_model_checkpoint\" : \"/run/out/checkpoint-1\"\n}"),
        ] {
            let top = dir.path().join(format!("checkpoint-{step}"));
            fs::create_dir(&top).unwrap();
            fs::write(top.join("trainer_state.json"), state).unwrap();
        }
        let config = "layout = 'hf-trainer'\nkeep_local = 1";
        let needed = look_at(dir.path(), config).needed.unwrap();
        assert_eq!(needed.into_iter().collect::<Vec<_>>(), ["checkpoint-1"]);
        // One that cannot be read may name any of them.
        let state = dir.path().join("checkpoint-2/trainer_state.json");
        fs::remove_file(&state).unwrap();
        fs::create_dir(&state).unwrap();
        assert!(look_at(dir.path(), config).needed.is_err());
    }

    #[test]
    fn a_change_deep_inside_what_is_settled_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("step-1");
        fs::create_dir_all(top.join("deep")).unwrap();
        fs::write(top.join(".metadata"), "x").unwrap();
        fs::write(top.join("deep/f"), "x").unwrap();
        let text = format!(
            "state = 's'\n[[job]]\nname = 'j'\nnamespace = 'n'\nwatch = {:?}\nlayout = 'dcp'\n",
            dir.path()
        );
        let job = Config::parse(Path::new("/c.toml"), &text).unwrap().jobs[0].clone();
        let Kind::Watch(watch) = &job.kind else { panic!("no watch") };
        let witness = tree::walk(&job, &top, "step-1").unwrap().witness;
        let settled = BTreeMap::from([("step-1".to_owned(), witness)]);
        let look = || scan(&job, watch, &settled).unwrap().seen.remove(0).look;
        assert_eq!(look(), Look::Settled);
        // The directories' own stamps stay as they are.
        fs::write(top.join("deep/f"), "other").unwrap();
        assert!(matches!(look(), Look::Listed { .. }));
    }
}
