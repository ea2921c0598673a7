//! A cluster of real node processes in a temporary directory, with a client of its own.
//!
//! Few run at once, however many tests do: a machine with two cores cannot elect leaders for
//! twenty clusters in time. Everything ends and is removed when the cluster is dropped.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use cairn_cli::children::{Cluster, ClusterPlan, NodeProcess};
use cairn_client::{Client, ClientError, ClusterStatus, NodeInfo, NodeStatus};
use cairn_host::tls::ClusterKey;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::command::Cairn;
use crate::wait::until;

/// An election, a start with recovery, a catch-up of a small checkpoint: each takes seconds on
/// a busy machine, and a minute on one that hardly gets a turn.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// What a test wants of its cluster.
#[derive(Clone)]
pub struct Setup {
    pub nodes: usize,
    /// How many of them are voters once all are there.
    pub voters: u32,
    pub capacity_bytes: u64,
    /// Flags for every node.
    pub extra: Vec<String>,
    pub key: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { nodes: 3, voters: 3, capacity_bytes: 16 << 30, extra: Vec::new(), key: None }
    }
}

pub struct TestCluster {
    cluster: Cluster,
    voters: u32,
    program: PathBuf,
    key: Option<PathBuf>,
    client: Client,
    runtime: Runtime,
    directory: TempDir,
    _permit: Option<Permit>,
}

impl TestCluster {
    /// Three nodes, healthy.
    pub fn start(program: &Path) -> Self {
        Self::start_as(program, &Setup::default())
    }

    pub fn start_as(program: &Path, setup: &Setup) -> Self {
        let mut cluster = Self::prepare(program, setup, Some(Permit::take()));
        cluster.start_nodes();
        cluster
    }

    /// A second cluster of the same test: waits for nobody, so that two tests which want two
    /// clusters each cannot wait for each other.
    pub fn start_beside(program: &Path, setup: &Setup) -> Self {
        let mut cluster = Self::prepare(program, setup, None);
        cluster.start_nodes();
        cluster
    }

    /// Directories and flags, but no process yet.
    pub fn prepared(program: &Path, setup: &Setup) -> Self {
        Self::prepare(program, setup, Some(Permit::take()))
    }

    /// A cluster that several tests use at the same time and nobody harms; it lives as long as
    /// one of them does.
    pub fn shared(program: &Path) -> Arc<Self> {
        static SHARED: Mutex<Weak<TestCluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start(program));
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    fn prepare(program: &Path, setup: &Setup, permit: Option<Permit>) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("cairn-test-")
            .tempdir()
            .expect("make a temporary directory");
        let mut extra = setup.extra.clone();
        if let Some(key) = &setup.key {
            extra.extend(["--cluster-key".to_owned(), key.display().to_string()]);
        }
        let cluster = Cluster::plan(&ClusterPlan {
            program: program.to_owned(),
            directory: directory.path().to_owned(),
            nodes: setup.nodes,
            port: None,
            capacity_bytes: setup.capacity_bytes,
            extra,
        })
        .expect("plan a cluster");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("start a runtime");
        let client = client_of(&runtime, cluster.endpoints(), setup.key.as_deref());
        Self {
            cluster,
            voters: setup.voters,
            program: program.to_owned(),
            key: setup.key.clone(),
            client,
            runtime,
            directory,
            _permit: permit,
        }
    }

    /// Starts all nodes and waits until they vote, are in service and lack nothing.
    pub fn start_nodes(&mut self) {
        self.cluster.start().expect("start nodes");
        self.wait_healthy();
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.cluster.endpoints()
    }

    /// The binary, pointed at this cluster.
    pub fn cairn(&self) -> Cairn {
        let cairn = Cairn::new(&self.program).with(["--endpoints", &self.endpoints().join(",")]);
        match &self.key {
            Some(key) => cairn.with(["--cluster-key".as_ref(), key.as_os_str()]),
            None => cairn,
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A client that knows nothing yet, of any endpoints.
    pub fn new_client(&self, endpoints: Vec<String>) -> Client {
        client_of(&self.runtime, endpoints, self.key.as_deref())
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub fn nodes(&self) -> &[NodeProcess] {
        &self.cluster.nodes
    }

    pub fn node(&mut self, index: usize) -> &mut NodeProcess {
        &mut self.cluster.nodes[index]
    }

    /// A place for files that goes with the cluster.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join("scratch").join(name)
    }

    /// [`TestCluster::scratch`], made.
    pub fn scratch_directory(&self, name: &str) -> PathBuf {
        let path = self.scratch(name);
        std::fs::create_dir_all(&path).expect("make a directory");
        path
    }

    pub fn status(&self) -> Result<ClusterStatus, ClientError> {
        self.run(self.client.status())
    }

    /// All nodes up and inventoried in their present processes, all of them voters as far as
    /// wanted, all replicas there. A node that was restarted a moment ago may still be listed as
    /// up under its last incarnation: each is asked itself.
    pub fn wait_healthy(&mut self) {
        let (voters, nodes) = (self.voters, self.cluster.nodes.len());
        let reached = |status: &ClusterStatus| {
            let members: Vec<_> = status.nodes.iter().filter(|node| !node.removed).collect();
            status.voters == voters
                && members.len() == nodes
                && members.iter().all(|node| node.up && node.inventoried)
                && members.iter().all(|node| node.replicas_assigned == 0)
                && status.segments_below == 0
        };
        let (client, handle) = (self.client.clone(), self.runtime.handle().clone());
        let is_itself = |node: &NodeInfo| {
            let own = handle.block_on(client.node_status(&node.address));
            own.is_ok_and(|own| own.registered && own.incarnation == node.incarnation)
        };
        self.wait_status("the cluster is healthy", |status| {
            reached(status) && status.nodes.iter().filter(|node| !node.removed).all(is_itself)
        });
    }

    /// Waits for a status; on failure says it, and what fallen nodes said last.
    pub fn wait_status(
        &mut self,
        what: &str,
        reached: impl Fn(&ClusterStatus) -> bool,
    ) -> ClusterStatus {
        let Self { cluster, client, runtime, .. } = self;
        until(what, DEADLINE, || {
            if let Some(node) = cluster.fallen() {
                panic!("{} ended before {what}:\n{}", node.name, node.log_tail());
            }
            match runtime.block_on(client.status()) {
                Ok(status) if reached(&status) => Ok(status),
                Ok(status) => Err(format!("{status:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// Index of the process that leads.
    pub fn leader(&self) -> usize {
        until("a leader is known", DEADLINE, || {
            let status = self.status().map_err(|error| error.to_string())?;
            let address = status.leader_address.unwrap_or_default();
            let leads = |node: &NodeProcess| node.address.to_string() == address;
            self.cluster.nodes.iter().position(leads).ok_or(address)
        })
    }

    pub fn node_status(&self, index: usize) -> NodeStatus {
        let address = self.cluster.nodes[index].address.to_string();
        until("a node answers", DEADLINE, || {
            self.run(self.client.node_status(&address)).map_err(|error| error.to_string())
        })
    }

    /// A counter summed over the nodes that answer.
    pub fn sum(&self, counter: impl Fn(&NodeStatus) -> u64) -> u64 {
        let ask =
            |node: &NodeProcess| self.run(self.client.node_status(&node.address.to_string())).ok();
        self.cluster.nodes.iter().filter_map(ask).map(|status| counter(&status)).sum()
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.cluster.nodes {
                eprintln!("-- {} said last:\n{}", node.name, node.log_tail());
            }
        }
    }
}

fn client_of(runtime: &Runtime, endpoints: Vec<String>, key: Option<&Path>) -> Client {
    let key = key.map(|path| ClusterKey::load(path).expect("load the cluster key"));
    let _within = runtime.enter();
    let client = Client::builder().endpoints(endpoints).key(key).insecure();
    client.build().expect("make a client")
}

/// The right to run a cluster.
struct Permit;

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Permit {
    fn take() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let most = (cores / 2).max(2);
        let running = RUNNING.lock().expect("count clusters");
        let mut running =
            FREED.wait_while(running, |running| *running >= most).expect("count clusters");
        *running += 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.lock().expect("count clusters") -= 1;
        FREED.notify_one();
    }
}
