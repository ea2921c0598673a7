//! Node processes that this process starts and watches: for `dev`, `demo`, `bench` and the
//! end-to-end tests.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_types::ids::ClusterId;

/// Holds the cluster's id, beside the nodes' directories.
const CLUSTER_FILE: &str = "cluster-id";

/// One node process on loopback.
pub struct NodeProcess {
    pub name: String,
    pub rack: String,
    pub address: SocketAddr,
    pub data: PathBuf,
    pub log: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl NodeProcess {
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the process, or starts it again on the same directory and port.
    pub fn start(&mut self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.data)
            .with_context(|| format!("create {}", self.data.display()))?;
        let log = open_log(&self.log)?;
        let errors = log.try_clone().context("open node log")?;
        let mut command = Command::new(&self.program);
        // What the environment says to `cairn node start` is not for these nodes.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        let child = command
            .args(&self.arguments)
            // The node stops when this end closes, so also when this process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL, and wait until the process is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("kill {}", self.name))?;
            child.wait().with_context(|| format!("wait for {}", self.name))?;
        }
        Ok(())
    }

    /// SIGTERM.
    pub fn terminate(&self) -> anyhow::Result<()> {
        let pid = self.pid().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        let Some(pid) = pid else { return Ok(()) };
        match rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
            // It has ended by itself.
            Err(rustix::io::Errno::SRCH) => Ok(()),
            told => told.with_context(|| format!("terminate {}", self.name)),
        }
    }

    /// Waits for the end of a process that was told to stop; kills it at the deadline.
    pub fn wait(&mut self, deadline: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let rounds = deadline.as_millis() / 20;
        for _ in 0..=rounds {
            if let Some(status) = child.try_wait().context("wait for node")? {
                self.child = None;
                return Ok(Some(status));
            }
            wait_a_little();
        }
        self.kill()?;
        Ok(None)
    }

    /// The last lines of its log, for an error report.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

#[allow(clippy::disallowed_methods, reason = "waits for another process, outside any runtime")]
fn wait_a_little() {
    std::thread::sleep(Duration::from_millis(20));
}

fn is_ours(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("CAIRN_"))
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open node log {}", path.display()))
}

/// What a cluster of node processes is made of.
pub struct ClusterPlan {
    pub program: PathBuf,
    pub directory: PathBuf,
    pub nodes: usize,
    /// First port; `None` takes free ones.
    pub port: Option<u16>,
    pub capacity_bytes: u64,
    /// Extra arguments for every node.
    pub extra: Vec<String>,
}

/// Node processes on loopback, one per rack and host name. Killed when dropped.
pub struct Cluster {
    /// The nodes belong to this cluster and join no other.
    pub id: ClusterId,
    pub nodes: Vec<NodeProcess>,
}

impl Cluster {
    /// Prepares the processes without starting them.
    pub fn plan(plan: &ClusterPlan) -> anyhow::Result<Self> {
        let addresses = addresses(plan)?;
        let first = addresses.first().context("a cluster has at least one node")?.to_string();
        let id = cluster_id(&plan.directory)?;
        let mut nodes = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            let name = format!("node{}", index + 1);
            let rack = format!("rack{}", index + 1);
            let data = plan.directory.join(&name);
            let mut arguments: Vec<String> = ["node", "start", "--data"].map(Into::into).into();
            arguments.push(path_text(&data)?);
            for (flag, value) in [
                ("--listen", address.to_string()),
                ("--advertise", address.to_string()),
                ("--rack", rack.clone()),
                ("--host", format!("host{}", index + 1)),
                ("--capacity", plan.capacity_bytes.to_string()),
            ] {
                arguments.extend([flag.to_owned(), value]);
            }
            arguments.push("--stop-with-parent".into());
            if index == 0 {
                arguments.extend(["--bootstrap".into(), "--found".into(), id.to_string()]);
            } else {
                arguments.extend(["--join".into(), first.clone()]);
                arguments.extend(["--cluster".into(), id.to_string()]);
            }
            arguments.extend(plan.extra.iter().cloned());
            nodes.push(NodeProcess {
                log: plan.directory.join(format!("{name}.log")),
                name,
                rack,
                address: *address,
                data,
                program: plan.program.clone(),
                arguments,
                child: None,
            });
        }
        Ok(Self { id, nodes })
    }

    /// An address of these nodes at which somebody listens already.
    pub fn taken_address(&self) -> Option<SocketAddr> {
        let taken = |address: &SocketAddr| TcpListener::bind(address).is_err();
        self.nodes.iter().map(|node| node.address).find(taken)
    }

    pub fn start(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        Ok(())
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.to_string()).collect()
    }

    /// A node that has ended although nobody told it to.
    pub fn fallen(&mut self) -> Option<&mut NodeProcess> {
        let fallen = |node: &mut NodeProcess| node.child.is_some() && !node.is_running();
        self.nodes.iter_mut().find_map(|node| if fallen(node) { Some(node) } else { None })
    }

    /// SIGTERM to all, then wait.
    pub fn stop(&mut self, deadline: Duration) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.terminate()?;
        }
        for node in &mut self.nodes {
            node.wait(deadline)?;
        }
        Ok(())
    }
}

fn path_text(path: &Path) -> anyhow::Result<String> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("directory name {} is not UTF-8", path.display()),
    }
}

/// The id of the cluster in this directory: made once, before the first node starts.
fn cluster_id(directory: &Path) -> anyhow::Result<ClusterId> {
    let path = directory.join(CLUSTER_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().with_context(|| format!("read {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
            let id = ClusterId(rand::random());
            let write = || {
                let mut file = File::create_new(&path)?;
                writeln!(file, "{id}")?;
                file.sync_all()
            };
            write().with_context(|| format!("write {}", path.display()))?;
            Ok(id)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Consecutive ports from `plan.port`, or free ones.
fn addresses(plan: &ClusterPlan) -> anyhow::Result<Vec<SocketAddr>> {
    if let Some(first) = plan.port {
        let port = |index: usize| u16::try_from(index).ok().and_then(|i| first.checked_add(i));
        return (0..plan.nodes)
            .map(|index| {
                let port = port(index).context("port number too large")?;
                Ok(SocketAddr::from(([127, 0, 0, 1], port)))
            })
            .collect();
    }
    (0..plan.nodes).map(|_| Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)))).collect()
}

/// Where [`free_port`] looks: below the ports that systems hand out to connections. One of those
/// may be taken, while its node is down, by any connection, even by one to itself.
const FREE_PORTS: std::ops::Range<u16> = 10_000..16_000;

/// A port on loopback at which nobody listens, named to no other caller in this process.
pub fn free_port() -> anyhow::Result<u16> {
    static NEXT: LazyLock<AtomicUsize> =
        LazyLock::new(|| AtomicUsize::new(rand::random::<u16>().into()));
    for _ in FREE_PORTS {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) % FREE_PORTS.len();
        let port = FREE_PORTS.start + u16::try_from(turn).context("port number too large")?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {} to {}", FREE_PORTS.start, FREE_PORTS.end - 1)
}
