//! The directory of one agent: its lock, its journal, its status.
//!
//! The journal is replaced as a whole: written beside, fsynced, renamed, and the directory fsynced.
//! After a kill at any moment it is the old or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::journal::{FORM, FORM_OLDEST, Journal};

const LOCK: &str = "lock";
const JOURNAL: &str = "journal.json";
const STATUS: &str = "status.json";
/// The agent's name: drawn at its first start, and kept if the journal is moved away.
const IDENTITY: &str = "identity";
const IDENTITY_BYTES_MAX: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("another agent uses {}", dir.display())]
    InUse { dir: PathBuf },
    #[error("{what} {}: {error}", path.display())]
    Io { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{} is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("{} was written by a newer version: form {form}, known {FORM}", path.display())]
    Newer { path: PathBuf, form: u32 },
}

/// The directory, held by this process.
pub struct StateDir {
    dir: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes it if need be, and takes it for this process.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Io { what, path, error }
        };
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let path = dir.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(StateError::InUse { dir: dir.to_owned() }),
            Err(error) => Err(failed("lock", &path)(error.into())),
        }
    }

    /// The agent's name, made of that of the machine and a random number at the first start.
    pub fn identity(&self, random: u64) -> Result<String, StateError> {
        let path = self.dir.join(IDENTITY);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let text = text.trim();
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                match !text.is_empty()
                    && text.len() <= IDENTITY_BYTES_MAX
                    && text.chars().all(is_plain)
                {
                    true => Ok(text.to_owned()),
                    false => Err(StateError::Damaged { path, problem: "it is no name".to_owned() }),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let system = rustix::system::uname();
                let node = system.nodename().to_string_lossy();
                let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
                let node: String = node.chars().filter(is_plain).take(64).collect();
                let identity = format!("{node}-{random:016x}");
                replace(&path, identity.as_bytes(), true)?;
                Ok(identity)
            }
            Err(error) => Err(StateError::Io { what: "read", path, error }),
        }
    }

    /// The journal; an empty one at the first start.
    pub fn journal(&self) -> Result<Journal, StateError> {
        let path = self.dir.join(JOURNAL);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Journal::default()),
            Err(error) => return Err(StateError::Io { what: "read", path, error }),
        };
        // A newer one may have other fields: its form is read first.
        let value: serde_json::Value = match serde_json::from_slice(&text) {
            Ok(value) => value,
            Err(error) => return Err(StateError::Damaged { path, problem: error.to_string() }),
        };
        let form = value["form"].as_u64().and_then(|form| u32::try_from(form).ok());
        match form {
            Some(FORM_OLDEST..=FORM) => serde_json::from_value::<Journal>(value)
                .map(|journal| Journal { form: FORM, ..journal })
                .map_err(|error| StateError::Damaged { path, problem: error.to_string() }),
            Some(form) => Err(StateError::Newer { path, form }),
            None => Err(StateError::Damaged { path, problem: "it has no form".to_owned() }),
        }
    }

    pub fn write_journal(&self, journal: &Journal) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(journal).unwrap_or_default();
        replace(&self.dir.join(JOURNAL), &text, true)
    }

    /// Durable like the journal: after a power failure it is an old one, and not an empty file.
    pub fn write_status(&self, text: &[u8]) -> Result<(), StateError> {
        replace(&self.dir.join(STATUS), text, true)
    }
}

/// Replaces a file as a whole. One that is not durable may be empty after a power failure.
pub fn replace(path: &Path, text: &[u8], is_durable: bool) -> Result<(), StateError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(text)?;
        if is_durable {
            file.sync_all()?;
        }
        fs::rename(&beside, path)?;
        match path.parent().filter(|_| is_durable) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|error| StateError::Io { what: "write", path: path.to_owned(), error })
}

/// The status that the agent of a directory wrote last, and whether that agent runs now.
pub fn read_status(dir: &Path) -> Result<(Vec<u8>, bool), StateError> {
    let path = dir.join(STATUS);
    let text = fs::read(&path);
    let text = text.map_err(|error| StateError::Io { what: "read", path, error })?;
    Ok((text, is_held(dir)))
}

fn is_held(dir: &Path) -> bool {
    let Ok(lock) = File::options().write(true).open(dir.join(LOCK)) else { return false };
    let tried = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared);
    matches!(tried, Err(Errno::WOULDBLOCK))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::journal::JobJournal;

    fn journal() -> Journal {
        let job = JobJournal { done_ms: Some(7), ..JobJournal::default() };
        Journal { jobs: BTreeMap::from([("j".to_owned(), job)]), ..Journal::default() }
    }

    #[test]
    fn one_agent_has_a_directory_and_the_next_finds_its_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.journal().unwrap(), Journal::default());
        state.write_journal(&journal()).unwrap();
        state.write_status(b"{}").unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateError::InUse { .. })));
        assert!(read_status(&path).unwrap().1, "it runs");
        drop(state);
        assert!(!read_status(&path).unwrap().1);
        assert_eq!(StateDir::open(&path).unwrap().journal().unwrap(), journal());
    }

    #[test]
    fn an_agent_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let name = state.identity(7).unwrap();
        assert!(name.ends_with("-0000000000000007"), "{name}");
        assert_eq!(state.identity(8).unwrap(), name);
        fs::write(dir.path().join(IDENTITY), "").unwrap();
        assert!(matches!(state.identity(9), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn a_half_written_journal_beside_the_good_one_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.write_journal(&journal()).unwrap();
        fs::write(dir.path().join("journal.json.tmp"), "{\"form\": 1, \"jo").unwrap();
        assert_eq!(state.journal().unwrap(), journal());
    }

    #[test]
    fn damaged_and_newer_journals_are_named_and_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let path = dir.path().join(JOURNAL);
        for text in ["", "{", "{}", "[1]", "{\"form\": 1}", "{\"form\": 1, \"jobs\": {\"j\": 1}}"] {
            fs::write(&path, text).unwrap();
            let error = state.journal().unwrap_err();
            assert!(matches!(&error, StateError::Damaged { .. }), "{text}: {error}");
            assert!(error.to_string().contains("journal.json"), "{error}");
        }
        fs::write(&path, "{\"form\": 3, \"jobs\": {}, \"more\": 1}").unwrap();
        assert!(matches!(state.journal(), Err(StateError::Newer { form: 3, .. })));
    }
}
