//! The file `node.key` of a data directory: the node's private key (decision 0023).
//!
//! It is made once, readable by its owner only, and durable before any node hears its public half.
//! All functions block; callers run them on the Log lane.

use std::io;
use std::sync::Arc;

use cairn_host::node_key::{FILE_BYTES_MAX, KeyError, NodeKey};

use crate::disk::{Disk, Open};

pub const KEY_FILE: &str = "node.key";
const KEY_TMP: &str = "node.key.tmp";

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Another key would be refused by the cluster.
    #[error(
        "{KEY_FILE} is damaged ({0}): remove this node, and start on an empty directory with --join"
    )]
    Damaged(#[from] KeyError),
    #[error("cannot {action} {KEY_FILE}: {source}")]
    Io { action: &'static str, source: io::Error },
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> KeyFileError {
    move |source| KeyFileError::Io { action, source }
}

/// The key of this directory. If it has none, one is made from `seed`.
pub fn load_or_create(disk: &Arc<dyn Disk>, seed: [u8; 32]) -> Result<NodeKey, KeyFileError> {
    let file = match disk.open(KEY_FILE, Open::Write) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return create(disk, seed),
        Err(error) => return Err(failed("open")(error)),
    };
    let len = file.len().map_err(failed("read"))?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > FILE_BYTES_MAX {
        return Err(KeyError::Malformed.into());
    }
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes).map_err(failed("read"))?;
    let key = NodeKey::from_file(&bytes)?;
    // A killed process may have renamed the file without a sync.
    file.sync().map_err(failed("sync"))?;
    disk.sync_dir("").map_err(failed("sync"))?;
    Ok(key)
}

fn create(disk: &Arc<dyn Disk>, seed: [u8; 32]) -> Result<NodeKey, KeyFileError> {
    let key = NodeKey::from_seed(seed)?;
    if disk.exists(KEY_TMP).map_err(failed("look for"))? {
        disk.remove(KEY_TMP).map_err(failed("remove unfinished"))?;
    }
    let file = disk.open(KEY_TMP, Open::CreateSecret).map_err(failed("create"))?;
    file.write_at(0, key.to_file().as_bytes()).map_err(failed("write"))?;
    file.sync().map_err(failed("sync"))?;
    disk.rename(KEY_TMP, KEY_FILE).map_err(failed("rename"))?;
    disk.sync_dir("").map_err(failed("sync"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::files::FileDisk;

    #[test]
    fn a_directory_keeps_its_first_key_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(place.path()).unwrap());
        let key = load_or_create(&disk, [1; 32]).unwrap().public();
        assert_eq!(load_or_create(&disk, [2; 32]).unwrap().public(), key);
        let file = place.path().join(KEY_FILE);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let error = load_or_create(&disk, [2; 32]).unwrap_err();
        assert!(matches!(error, KeyFileError::Damaged(_)), "{error}");
    }
}
