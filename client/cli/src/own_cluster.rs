//! The cluster that `dev`, `demo` or `bench` makes for itself: its directory, its key, and the
//! wait until it is ready. It touches no other cluster: ports in use are refused, nodes join by
//! the cluster's id, and the first node that ends before all are ready ends the start.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use cairn_client::{Client, ClientError, ClusterId, ClusterStatus, NodeId};
use cairn_host::tls::{ClusterKey, KeyError};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::children::Cluster;
use crate::exit::{Exit, Failure};
use crate::session::{Session, client_failure, key_failure};
use crate::verb::status::cluster_text;

/// Nodes that start on directories with data read them first; elections take a second or two.
const READY_DEADLINE: Duration = Duration::from_secs(120);
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// A process that listens and is a node answers within this time.
const ASK_DEADLINE: Duration = Duration::from_secs(3);
/// Nodes of a killed process may still be stopping, and write meanwhile. Tries to remove what they
/// leave at the start of the next run, which should not wait long, and at its end.
const REMOVE_TRIES_FIRST: u32 = 10;
const REMOVE_TRIES_LAST: u32 = 300;
/// A locked file in a directory says that a process uses it.
const LOCK_FILE: &str = "in-use";

/// The key of a cluster of our own: the one the flags name. A CAIRN_CLUSTER_KEY that names a
/// missing file is meant for another cluster, and this one on loopback needs none.
pub fn own_key(session: &Session) -> Result<Option<ClusterKey>, Failure> {
    let Some(path) = &session.global.cluster_key else { return Ok(None) };
    let from_environment =
        std::env::var_os("CAIRN_CLUSTER_KEY").is_some_and(|value| value == path.as_os_str());
    match ClusterKey::load(path) {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::Read { source, .. })
            if from_environment && source.kind() == std::io::ErrorKind::NotFound =>
        {
            session.output.say(format!(
                "note: CAIRN_CLUSTER_KEY names {}, which does not exist; this cluster has no key",
                path.display()
            ));
            Ok(None)
        }
        Err(error) => Err(key_failure(error)),
    }
}

/// Flags that give the nodes the key.
pub fn key_flags(session: &Session, key: Option<&ClusterKey>) -> Vec<String> {
    match (key, &session.global.cluster_key) {
        (Some(_), Some(path)) => vec!["--cluster-key".to_owned(), path.display().to_string()],
        _ => Vec::new(),
    }
}

/// A client of this cluster and of no other. Call within the runtime.
pub fn client(
    session: &Session,
    cluster: &Cluster,
    key: Option<ClusterKey>,
) -> Result<Client, Failure> {
    let client = session.builder(cluster.endpoints(), key).cluster(cluster.id).insecure();
    client.build().map_err(client_failure)
}

/// Waits until all nodes are in service and `voters` of them vote. Fails at the first node that
/// ends.
pub async fn ready(
    cluster: &mut Cluster,
    client: &Client,
    voters: u32,
) -> Result<ClusterStatus, Failure> {
    let began = Instant::now();
    let mut last = "no node answers yet".to_owned();
    while began.elapsed() < READY_DEADLINE {
        if let Some(failure) = fallen(cluster) {
            return Err(failure);
        }
        // A try is cut short so that a node that has ended is noticed meanwhile.
        match timeout(ASK_DEADLINE, client.status()).await {
            Ok(Ok(status)) => {
                let in_service =
                    status.nodes.iter().filter(|node| node.up && node.inventoried).count();
                if in_service == cluster.nodes.len() && status.voters >= voters {
                    return Ok(status);
                }
                last = format!("nodes in service: {in_service}, voters: {}", status.voters);
            }
            Ok(Err(error @ ClientError::OtherCluster { .. })) => return Err(client_failure(error)),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {}
        }
        sleep(LOOK_PERIOD).await;
    }
    let error = anyhow!("the cluster is not ready after {READY_DEADLINE:?}: {last}");
    Err(Failure::new(Exit::Failed, error))
}

/// A node that has ended although nobody told it to, as a failure.
pub fn fallen(cluster: &mut Cluster) -> Option<Failure> {
    let node = cluster.fallen()?;
    let failure = Failure::new(Exit::Failed, anyhow!("{} ended:\n{}", node.name, node.log_tail()));
    Some(failure.with_hint(format!("its full log is {}", node.log.display())))
}

/// Why a cluster cannot have a port: who has it, as far as that one says. Call within the runtime.
pub async fn taken(cluster: &Cluster, address: SocketAddr, key: Option<ClusterKey>) -> Failure {
    let text = match occupant(address, key).await {
        Ok(Some((node, Some(id)))) if id == cluster.id => {
            format!("{address} is in use by node {node} of this same cluster, from an earlier run")
        }
        Ok(Some((node, id))) => {
            let id = cluster_text(id);
            format!("{address} is in use by node {node} of cluster {id}")
        }
        Ok(None) => format!("{address} is in use by another program"),
        Err(Failure { error, .. }) if error.downcast_ref::<ClientError>().is_some() => {
            format!("{address} is in use by a node that does not hold the same key: {error}")
        }
        Err(failure) => return failure,
    };
    Failure::new(Exit::Failed, anyhow!(text))
        .with_hint("stop that process, or choose other ports with --port")
}

/// The node that listens at an address, if it is one: its id and its cluster's.
async fn occupant(
    address: SocketAddr,
    key: Option<ClusterKey>,
) -> Result<Option<(NodeId, Option<ClusterId>)>, Failure> {
    let address = address.to_string();
    let client = Client::builder().endpoints([&address]).key(key).insecure();
    let client = client.call_deadline(ASK_DEADLINE).build().map_err(client_failure)?;
    match client.node_status(&address).await {
        Ok(status) => Ok(Some((status.node, status.cluster))),
        Err(error @ ClientError::Key { .. }) => Err(client_failure(error)),
        Err(_) => Ok(None),
    }
}

/// The right to use a directory, until it is dropped or the process ends.
pub struct InUse {
    _file: File,
}

impl InUse {
    /// `Err` with what the process that uses the directory wrote there.
    pub fn claim(directory: &Path, note: &str) -> anyhow::Result<Result<Self, String>> {
        let path = directory.join(LOCK_FILE);
        let context = || format!("open {}", path.display());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).with_context(context)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // A note is advice; who locked the file and wrote none yet still uses it.
                let _ = (&mut file).take(4096).read_to_string(&mut text);
                return Ok(Err(text.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        file.set_len(0).with_context(context)?;
        writeln!(file, "{note}").with_context(context)?;
        Ok(Ok(Self { _file: file }))
    }
}

/// A temporary directory that is removed at the end; after a SIGKILL the next run removes it.
pub struct Scratch {
    directory: TempDir,
    _in_use: InUse,
    left: Vec<PathBuf>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.left.iter().for_each(|path| remove_left_behind(path, REMOVE_TRIES_LAST));
    }
}

impl Scratch {
    pub fn new(session: &Session, parent: &Path, prefix: &str) -> Result<Self, Failure> {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let left = left_behind(parent, prefix);
        for path in &left {
            session.output.say(format!("removing {}, left by an earlier run", path.display()));
            remove_left_behind(path, REMOVE_TRIES_FIRST);
        }
        let directory = tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(parent)
            .context("create a temporary directory")?;
        let claimed = InUse::claim(directory.path(), &note())?;
        let in_use = claimed.map_err(|who| anyhow!("a new directory is in use: {who}"))?;
        Ok(Self { directory, _in_use: in_use, left })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// What a claim says of this process.
pub fn note() -> String {
    format!("process {}", std::process::id())
}

/// Directories of our own that no running process claims.
fn left_behind(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let ours = |path: &PathBuf| {
        let named = path.file_name().and_then(|name| name.to_str());
        named.is_some_and(|name| name.starts_with(prefix))
            && File::open(path.join(LOCK_FILE)).is_ok_and(|file| file.try_lock().is_ok())
    };
    entries.flatten().map(|entry| entry.path()).filter(ours).collect()
}

/// The lock goes last, so that what cannot be removed now is found again. Its owner may be another
/// user: then it is theirs to remove.
fn remove_left_behind(path: &Path, tries: u32) {
    for _ in 0..tries {
        let Ok(entries) = std::fs::read_dir(path) else { return };
        let entries = entries.flatten().filter(|entry| entry.file_name() != LOCK_FILE);
        let remove = |path: PathBuf| match path.is_dir() {
            true => std::fs::remove_dir_all(path),
            false => std::fs::remove_file(path),
        };
        if entries.map(|entry| remove(entry.path())).filter(Result::is_err).count() == 0
            && std::fs::remove_dir_all(path).is_ok()
        {
            return;
        }
        wait_a_little();
    }
}

#[allow(clippy::disallowed_methods, reason = "waits for other processes, outside any runtime")]
fn wait_a_little() {
    std::thread::sleep(LOOK_PERIOD);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_says_who_uses_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = InUse::claim(directory.path(), "process 7").unwrap().ok().unwrap();
        let second = InUse::claim(directory.path(), "process 8").unwrap();
        assert_eq!(second.err().as_deref(), Some("process 7"));
        drop(first);
        assert!(InUse::claim(directory.path(), "process 9").unwrap().is_ok());
    }

    #[test]
    fn only_directories_that_nobody_uses_are_left_behind() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["x-used", "x-left", "x-strange", "y-left"] {
            std::fs::create_dir(parent.path().join(name)).unwrap();
        }
        let claim = |name: &str| InUse::claim(&parent.path().join(name), "process 7").unwrap();
        let _used = claim("x-used").ok().unwrap();
        drop(claim("x-left").ok().unwrap());
        drop(claim("y-left").ok().unwrap());
        assert_eq!(left_behind(parent.path(), "x-"), [parent.path().join("x-left")]);
    }
}
