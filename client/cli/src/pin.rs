//! Which cluster a key belongs to, remembered beside the key file.
//!
//! A node that is started with `--bootstrap` on an empty directory founds a second cluster under
//! the same key and, as a rule, at an address that clients use. A client that knows its cluster
//! refuses that one. The first cluster that answers with a key is written to `KEY.cluster`:
//!
//! ```text
//! CLUSTER-ID KEY-FINGERPRINT
//! ```
//!
//! A file of another key's fingerprint says nothing: the key was replaced. The file appears whole
//! and under its name only if there is none, so of several commands at once the first one's
//! answer stays. Where it cannot be written (a key in a read-only place) nothing is remembered,
//! and `--cluster` names the cluster.

use std::io::Write;
use std::path::{Path, PathBuf};

use cairn_types::ids::{ClusterId, NameError};

use crate::exit::{Exit, Failure};

/// Longer is some other file, bytes.
const PIN_BYTES_MAX: u64 = 256;

/// The file beside a key.
pub fn path_of(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".cluster");
    PathBuf::from(name)
}

/// The cluster that was remembered for this key.
pub fn read(key: &Path, fingerprint: &str) -> Result<Option<ClusterId>, Failure> {
    let path = path_of(key);
    let unreadable = |reason: String| {
        Failure::new(Exit::Usage, anyhow::anyhow!("read {}: {reason}", path.display())).with_hint(
            "it names the cluster of the key; delete it only if that cluster no longer exists",
        )
    };
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
        Ok(meta) if meta.len() > PIN_BYTES_MAX => return Err(unreadable("it is too long".into())),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(error.to_string()))?;
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [id, of] = fields[..] else { return Err(unreadable("it is malformed".into())) };
    let id = id.parse().map_err(|error: NameError| unreadable(error.to_string()))?;
    Ok((of == fingerprint).then_some(id))
}

/// Remembers a key's cluster, if nothing of this key is remembered yet. What cannot be written is
/// not remembered.
pub fn remember(key: &Path, fingerprint: &str, cluster: ClusterId) {
    if matches!(read(key, fingerprint), Ok(Some(_)) | Err(_)) {
        return;
    }
    if let Err(error) = write(&path_of(key), &format!("{cluster} {fingerprint}\n")) {
        tracing::debug!(%error, key = %key.display(), "the cluster of the key is not remembered");
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".cairn-cluster-")
        .tempfile_in(directory.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        // That of an earlier key, or somebody was faster.
        Err(failed) if failed.error.kind() == std::io::ErrorKind::AlreadyExists => {
            let before = std::fs::read_to_string(path)?;
            let of = |text: &str| text.split_whitespace().nth(1).map(str::to_owned);
            if of(&before) == of(text) {
                return Ok(());
            }
            failed.file.persist(path).map(drop).map_err(|failed| failed.error)
        }
        Err(failed) => Err(failed.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cluster_of_a_key_stays() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("cluster.key");
        assert_eq!(read(&key, "f1").unwrap(), None);
        remember(&key, "f1", ClusterId(1));
        remember(&key, "f1", ClusterId(2));
        assert_eq!(read(&key, "f1").unwrap(), Some(ClusterId(1)));
        assert_eq!(read(&key, "f2").unwrap(), None, "the key is another one");
        remember(&key, "f2", ClusterId(2));
        assert_eq!(read(&key, "f2").unwrap(), Some(ClusterId(2)));
        let names = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 1, "nothing else is left behind");
    }

    #[test]
    fn what_cannot_be_written_is_not_remembered_and_what_is_malformed_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        remember(&directory.path().join("nowhere/cluster.key"), "f1", ClusterId(1));
        let key = directory.path().join("cluster.key");
        std::fs::write(path_of(&key), "something else entirely").unwrap();
        assert_eq!(read(&key, "f1").unwrap_err().exit, Exit::Usage);
    }
}
