//! Looks at a watched directory.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cairn_client::{LocalSource, ScanOptions, SourceError, source::Source};

use crate::config::{Job, Watch};
use crate::journal::Stamp;
use crate::listing::{Fingerprint, Look, Scan, Seen};

/// Entries of one watched directory: beyond, something else is written there.
const ENTRIES_MAX: usize = 20_000;
/// Of a pointer file.
const POINTER_BYTES_MAX: u64 = 4_096;

/// What is in a watched directory now. What is settled under its present stamp is not listed.
pub fn scan(
    job: &Arc<Job>,
    watch: &Watch,
    settled: &BTreeMap<String, Stamp>,
) -> Result<Scan, String> {
    let directory = &watch.directory;
    let failed = |error: io::Error| format!("read {}: {error}", directory.display());
    let mut names = Vec::new();
    for (count, entry) in fs::read_dir(directory).map_err(failed)?.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} entries in {}", directory.display()));
        }
        // A name that is not UTF-8 is no checkpoint of any layout.
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
        names.extend(watch.layout.step(&name).map(|step| (name, step)));
    }
    names.sort();
    // The pointer first: what it names was finished before the files are listed.
    let pointed = watch.layout.pointer().and_then(|pointer| {
        let path = directory.join(pointer.file);
        let is_small = fs::metadata(&path).is_ok_and(|it| it.len() <= POINTER_BYTES_MAX);
        pointer.step(&fs::read_to_string(path).ok().filter(|_| is_small)?)
    });
    let seen = names.into_iter().map(|(name, step)| {
        let look = look(job, watch, &name, settled.get(&name));
        Seen { name, step, look }
    });
    Ok(Scan { seen: seen.collect(), pointed })
}

fn look(job: &Arc<Job>, watch: &Watch, name: &str, settled: Option<&Stamp>) -> Look {
    let path = watch.directory.join(name);
    if settled.is_some() && stamp(&path).as_ref() == settled {
        return Look::Settled;
    }
    match listed(job, &path) {
        Ok((fingerprint, files, bytes)) => {
            let is_there = |name: &&String| path.join(name).symlink_metadata().is_ok();
            let lacks = watch.required.iter().find(|name| !is_there(name)).cloned();
            Look::Listed { fingerprint, files, bytes, lacks }
        }
        Err(error) => Look::Failed { why: error.to_string() },
    }
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

/// Fingerprint, files and bytes of what is at a path.
pub fn listed(job: &Arc<Job>, path: &Path) -> Result<(Fingerprint, u64, u64), SourceError> {
    let source = source(job, &[path.to_owned()])?;
    let entries = source.entries();
    let bytes = entries.iter().map(|entry| entry.len).sum();
    Ok((Fingerprint::of(entries), entries.len() as u64, bytes))
}

/// Of an entry itself, not followed.
pub fn stamp(path: &Path) -> Option<Stamp> {
    path.symlink_metadata().ok().map(|it| of(&it))
}

fn of(metadata: &Metadata) -> Stamp {
    let mtime_ns =
        metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    Stamp { len: metadata.len(), mtime_ns, inode: metadata.ino() }
}
