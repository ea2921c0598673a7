//! `cairn demo`: the main job in one command. Three real node processes in three racks, a real
//! checkpoint; the leader is killed while one checkpoint is being put and another restored; both
//! finish, every bit is compared, and the dead node comes back and catches up.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use cairn_client::{
    Client, ClientError, ClusterStatus, GetOptions, GetProgress, GetReport, LocalSink, LocalSource,
    NodeStatus, Progress, PutOptions, PutReport, Wait,
};
use cairn_types::ids::{Address, Namespace, Selector, Step};
use cairn_types::limits::BLOCK_BYTES;
use clap::Args;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::children::{Cluster, ClusterPlan};
use crate::exit::{Exit, Failure, Outcome};
use crate::generate;
use crate::output::{Output, bytes, table};
use crate::own_cluster::{self, Scratch, key_flags, own_key};
use crate::session::{Session, client_failure, interruptible};

/// Bytes of a generated checkpoint.
const GENERATED_BYTES: u64 = 256 << 20;
/// What it comes to: the last layer is written whole.
const GENERATED_BYTES_MAX: u64 = 270 << 20;
/// Any single step takes less, or the demo has failed.
const STEP_DEADLINE: Duration = Duration::from_secs(45);
/// How often progress is looked at for the kill: a put moves a few MiB in that time.
const AIM_PERIOD: Duration = Duration::from_millis(2);
const POLL_PERIOD: Duration = Duration::from_millis(100);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const CAPACITY_BYTES: u64 = 64 << 30;
/// Nodes take no data once less than this is left of their file system; and room for their logs.
const RESERVE_BYTES: u64 = 600 << 20;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Use the files of this directory instead of a generated checkpoint
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Keep nodes' data, logs and restored files in this directory [default: a temporary directory,
    /// removed at the end]. The demo needs 3.5 GB; with --checkpoint, four times its size plus 2.4 GB
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn run(session: &Session, args: DemoArgs) -> Outcome {
    let first_bytes = match &args.checkpoint {
        Some(directory) => bytes_of(directory)?,
        None => GENERATED_BYTES_MAX,
    };
    let scratch;
    let root = match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            let mut entries = std::fs::read_dir(dir).context("read the directory")?;
            if entries.next().is_some() {
                return Err(Failure::usage(format!("{} is not empty", dir.display()))
                    .with_hint("the demo keeps everything in a new or empty directory"));
            }
            dir.clone()
        }
        None => {
            scratch = Scratch::new(session, &std::env::temp_dir(), "cairn-demo-")?;
            scratch.path().to_owned()
        }
    };
    check_room(&root, first_bytes)?;
    let key = own_key(session)?;
    let mut demo = Demo::new(session, &args, root, key_flags(session, key.as_ref()))?;
    let result = session.runtime()?.block_on(async {
        let client = own_cluster::client(session, &demo.cluster, key)?;
        interruptible(async { demo.play(&client).await.map_err(Failure::from) }).await
    });
    // The account comes last, when nothing is left to stop.
    demo.cluster.stop(STOP_DEADLINE)?;
    let reported = demo.report(result.as_ref().err());
    result.and(reported).map(|()| Exit::Ok)
}

/// Bytes of the files that a put would read.
fn bytes_of(directory: &Path) -> Result<u64, Failure> {
    let source = LocalSource::scan(&[directory.to_owned()])
        .map_err(|error| client_failure(ClientError::Source(error)))?;
    let entries = cairn_client::Source::entries(&source);
    Ok(entries.iter().map(|entry| entry.len).sum())
}

/// Each checkpoint is stored three times and restored once; what was generated is there as well.
/// Nodes leave a reserve of the file system to its other users.
fn check_room(root: &Path, first_bytes: u64) -> Result<(), Failure> {
    let wanted = 4 * first_bytes + 6 * GENERATED_BYTES_MAX + RESERVE_BYTES;
    let system = rustix::fs::statvfs(root).map_err(std::io::Error::from);
    let system = system.with_context(|| format!("measure room in {}", root.display()))?;
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if free < wanted {
        let error = anyhow!(
            "the demo needs {} in {}, and {} are free",
            bytes(wanted),
            root.display(),
            bytes(free)
        );
        return Err(Failure::new(Exit::Failed, error)
            .with_hint("give a directory on a larger file system with --dir or TMPDIR"));
    }
    Ok(())
}

/// One line of the account.
/// `demo`.
#[derive(Serialize)]
struct DemoDocument<'a> {
    ok: bool,
    seconds: f64,
    events: Vec<EventRecord<'a>>,
    nodes: Vec<NodeRecord<'a>>,
}

#[derive(Serialize)]
struct EventRecord<'a> {
    /// Since the start.
    seconds: f64,
    event: &'a str,
}

/// Bytes of segments that a node has received and served before and after the kill, as far as it
/// has answered.
#[derive(Serialize)]
struct NodeRecord<'a> {
    name: &'a str,
    rack: &'a str,
    killed: bool,
    received_before: Option<u64>,
    served_before: Option<u64>,
    received_after: Option<u64>,
    served_after: Option<u64>,
    fetched_after: Option<u64>,
}

struct Event {
    at: Duration,
    text: String,
}

/// What each node had served and taken at some moment.
type Served = Vec<Option<NodeStatus>>;

struct Demo {
    output: Output,
    root: PathBuf,
    /// The files of the first and of the second checkpoint.
    sources: [PathBuf; 2],
    generated: bool,
    cluster: Cluster,
    started: Instant,
    events: Vec<Event>,
    before: Served,
    after: Served,
    killed: Option<usize>,
}

impl Demo {
    fn new(
        session: &Session,
        args: &DemoArgs,
        root: PathBuf,
        extra: Vec<String>,
    ) -> Result<Self, Failure> {
        let cluster = Cluster::plan(&ClusterPlan {
            program: std::env::current_exe().context("find this program")?,
            directory: root.clone(),
            nodes: 3,
            port: None,
            capacity_bytes: CAPACITY_BYTES,
            extra,
        })?;
        let generated = args.checkpoint.is_none();
        let sources = match &args.checkpoint {
            // The second must be new to the cluster, or there would be nothing to send.
            Some(directory) => [directory.clone(), root.join("checkpoint-2000")],
            None => [root.join("checkpoint-1000"), root.join("checkpoint-2000")],
        };
        Ok(Self {
            output: session.output,
            root,
            sources,
            generated,
            cluster,
            started: Instant::now(),
            events: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            killed: None,
        })
    }

    fn note(&mut self, text: impl Into<String>) {
        let (at, text) = (self.started.elapsed(), text.into());
        self.output.say(format!("{:6.2} s  {text}", at.as_secs_f64()));
        self.events.push(Event { at, text });
    }

    async fn play(&mut self, client: &Client) -> anyhow::Result<()> {
        self.prepare()?;
        self.start(client).await?;
        let first = self.put_first(client).await?;
        self.before = self.served(client).await;
        self.lose_the_leader(client).await?;
        self.restore_second(client).await?;
        self.bring_back(client).await?;
        self.after = self.served(client).await;
        ensure!(first.full == Some(true), "step 1000 did not reach all replicas in time");
        Ok(())
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        let mut made = 0;
        for (index, source) in self.sources.clone().iter().enumerate() {
            if index == 0 && !self.generated {
                continue;
            }
            std::fs::create_dir_all(source)
                .with_context(|| format!("create {}", source.display()))?;
            let file = source.join("model.safetensors");
            made = generate::safetensors(&file, GENERATED_BYTES, index as u64)?;
            std::fs::write(source.join("config.json"), format!("{{\"step\": {index}}}\n"))
                .context("write config.json")?;
        }
        let count =
            if self.generated { "two safetensors checkpoints" } else { "a second checkpoint" };
        self.note(format!("made {count} of {}, from random numbers", bytes(made)));
        Ok(())
    }

    async fn start(&mut self, client: &Client) -> anyhow::Result<()> {
        self.cluster.start()?;
        let status = own_cluster::ready(&mut self.cluster, client, 3).await;
        let status = status.map_err(|failure| failure.error)?;
        self.note(format!(
            "three node processes in three racks form a cluster; node {} leads",
            leader_of(&status)
        ));
        Ok(())
    }

    /// Explains a failure with the last words of the nodes.
    fn with_logs(&mut self, error: anyhow::Error) -> anyhow::Error {
        let fallen = self.cluster.fallen().map(|node| (node.name.clone(), node.log_tail()));
        match fallen {
            Some((name, tail)) => error.context(format!("{name} ended:\n{tail}")),
            None => error,
        }
    }

    async fn put_first(&mut self, client: &Client) -> anyhow::Result<PutReport> {
        let put = start_put(client, &self.sources[0], 1000, Arc::default())?;
        let report = finish(put, "put of step 1000").await?;
        self.note(format!(
            "put demo/run@1000: {} to three replicas in {:.2} s",
            bytes(report.bytes),
            report.elapsed.as_secs_f64()
        ));
        Ok(report)
    }

    /// The heart of it: kill the leader between 30 and 70 % of a put and in the middle of a get.
    async fn lose_the_leader(&mut self, client: &Client) -> anyhow::Result<()> {
        let progress: Arc<Progress> = Arc::default();
        let leader = self.leader(client).await?;
        let restored = self.root.join("restored-1000");
        let mut get = start_get(client, &restored, 1000)?;
        let put = start_put(client, &self.sources[1], 2000, Arc::clone(&progress))?;
        let aim = Instant::now();
        let (percent_put, percent_get) = loop {
            ensure!(aim.elapsed() < STEP_DEADLINE, "the put made no progress");
            let done = progress.bytes_acked.load(Relaxed) + progress.bytes_kept.load(Relaxed);
            let percent_put = percent(done, progress.bytes_total.load(Relaxed));
            let (running, got) = &get;
            let percent_get = percent(got.bytes_done.load(Relaxed), got.bytes_total.load(Relaxed));
            if (30..=70).contains(&percent_put) && (1..100).contains(&percent_get) {
                break (percent_put, percent_get);
            }
            ensure!(
                percent_put <= 70,
                "the put passed 70 % before the leader could be killed; try again"
            );
            if running.is_finished() {
                // It was too quick: restore once more, so that a get runs at the kill.
                finish(get.0, "get of step 1000").await?;
                remove(&restored)?;
                get = start_get(client, &restored, 1000)?;
            }
            sleep(AIM_PERIOD).await;
        };
        let victim = &mut self.cluster.nodes[leader];
        let pid = victim.pid().unwrap_or_default();
        let (name, rack) = (victim.name.clone(), victim.rack.clone());
        victim.kill()?;
        self.killed = Some(leader);
        self.note(format!(
            "SIGKILL to the leader ({name} in {rack}, pid {pid}) with the put of step 2000 at \
             {percent_put} % and a get of step 1000 at {percent_get} %"
        ));
        let (get, _) = get;
        let got = finish(get, "get of step 1000").await?;
        self.note(format!(
            "the get finished: {} in {:.2} s",
            bytes(got.bytes),
            got.elapsed.as_secs_f64()
        ));
        let compared = same_files(&self.sources[0], &restored)?;
        self.note(format!("step 1000 restored and compared bit by bit: {} equal", bytes(compared)));
        let put = finish(put, "put of step 2000").await?;
        self.note(format!(
            "the put finished and is committed: {} in {:.2} s, although the leader was lost",
            bytes(put.bytes),
            put.elapsed.as_secs_f64()
        ));
        Ok(())
    }

    async fn restore_second(&mut self, client: &Client) -> anyhow::Result<()> {
        let restored = self.root.join("restored-2000");
        let (get, _) = start_get(client, &restored, 2000)?;
        finish(get, "get of step 2000").await?;
        let compared = same_files(&self.sources[1], &restored)?;
        let status = client.status().await?;
        self.note(format!(
            "step 2000 restored from the two remaining nodes (node {} leads now): {} equal",
            leader_of(&status),
            bytes(compared)
        ));
        Ok(())
    }

    async fn bring_back(&mut self, client: &Client) -> anyhow::Result<()> {
        let Some(index) = self.killed else { return Ok(()) };
        let node = &mut self.cluster.nodes[index];
        node.start()?;
        let name = node.name.clone();
        self.note(format!("{name} is started again on its directory"));
        until(client, "the dead node catches up", |status| {
            status.segments_below == 0
                && status.segments_unavailable == 0
                && status.nodes.iter().all(|node| node.up && node.replicas_assigned == 0)
        })
        .await
        .map_err(|error| self.with_logs(error))?;
        self.note(format!("{name} has caught up: every segment has three replicas again"));
        Ok(())
    }

    /// Index of the node process that leads.
    async fn leader(&self, client: &Client) -> anyhow::Result<usize> {
        let status = client.status().await?;
        let address = status.leader_address.context("no leader is known")?;
        self.cluster
            .nodes
            .iter()
            .position(|node| node.address.to_string() == address)
            .with_context(|| format!("no process at the leader's {address}"))
    }

    async fn served(&self, client: &Client) -> Served {
        let mut served = Vec::new();
        for node in &self.cluster.nodes {
            served.push(client.node_status(&node.address.to_string()).await.ok());
        }
        served
    }

    fn report(&self, failure: Option<&Failure>) -> Result<(), Failure> {
        let events = self.events.iter();
        let events = events.map(|it| EventRecord { seconds: it.at.as_secs_f64(), event: &it.text });
        let document = DemoDocument {
            ok: failure.is_none(),
            seconds: self.started.elapsed().as_secs_f64(),
            events: events.collect(),
            nodes: (0..self.cluster.nodes.len()).map(|index| self.node(index)).collect(),
        };
        self.output.result(&document, || self.text(failure))
    }

    fn node(&self, index: usize) -> NodeRecord<'_> {
        let node = &self.cluster.nodes[index];
        let of = |served: &Served, pick: fn(&NodeStatus) -> u64| {
            served.get(index).and_then(Option::as_ref).map(pick)
        };
        NodeRecord {
            name: &node.name,
            rack: &node.rack,
            killed: self.killed == Some(index),
            received_before: of(&self.before, |status| status.bytes_received),
            served_before: of(&self.before, |status| status.bytes_served),
            received_after: of(&self.after, |status| status.bytes_received),
            served_after: of(&self.after, |status| status.bytes_served),
            fetched_after: of(&self.after, |status| status.bytes_fetched),
        }
    }

    fn text(&self, failure: Option<&Failure>) -> String {
        let mut text = "\n".to_owned();
        // Who watches a terminal has seen the account already.
        if !(std::io::stdout().is_terminal() && self.output.is_terminal()) {
            let mut rows = vec![["TIME", "EVENT"].map(str::to_owned).to_vec()];
            for event in &self.events {
                rows.push(vec![format!("{:.2} s", event.at.as_secs_f64()), event.text.clone()]);
            }
            text.push_str(&table(&rows));
            text.push('\n');
        }
        text.push_str("Bytes that each node received and sent, before and after the kill:\n\n");
        let heads =
            ["NODE", "RACK", "RECEIVED BEFORE", "AFTER", "SENT BEFORE", "AFTER", "CAUGHT UP"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        let cell = |served: &Served, index: usize, pick: fn(&NodeStatus) -> u64| {
            let status = served.get(index).and_then(Option::as_ref);
            status.map_or("-".to_owned(), |status| bytes(pick(status)))
        };
        for (index, node) in self.cluster.nodes.iter().enumerate() {
            let mark = if self.killed == Some(index) { " (killed)" } else { "" };
            rows.push(vec![
                format!("{}{mark}", node.name),
                node.rack.clone(),
                cell(&self.before, index, |status| status.bytes_received),
                cell(&self.after, index, |status| status.bytes_received),
                cell(&self.before, index, |status| status.bytes_served),
                cell(&self.after, index, |status| status.bytes_served),
                cell(&self.after, index, |status| status.bytes_fetched),
            ]);
        }
        text.push_str(&table(&rows));
        text.push_str("(the killed node counts from its restart)\n");
        match failure {
            None => text.push_str(
                "\nThe leader was killed during transfers, and nothing was lost.\n\
                 Next: `cairn dev` runs a test cluster; the README has first steps.\n",
            ),
            Some(_) => text.push_str("\nThe demo failed.\n"),
        }
        text
    }
}

fn percent(done: u64, total: u64) -> u64 {
    (done * 100).checked_div(total).unwrap_or(0)
}

fn namespace() -> anyhow::Result<Namespace> {
    "demo/run".parse().context("name the demo's namespace")
}

fn start_put(
    client: &Client,
    source: &Path,
    step: u64,
    progress: Arc<Progress>,
) -> anyhow::Result<JoinHandle<anyhow::Result<PutReport>>> {
    let source = LocalSource::scan(&[source.to_owned()]).context("read the checkpoint")?;
    let mut options = PutOptions::new(namespace()?, Step(step));
    options.progress = progress;
    if step == 1000 {
        options.wait = Wait::Full { timeout: STEP_DEADLINE };
    }
    let client = client.clone();
    Ok(spawn(async move {
        client.put(Arc::new(source), options).await.with_context(|| format!("put step {step}"))
    }))
}

type Get = (JoinHandle<anyhow::Result<GetReport>>, Arc<GetProgress>);

fn start_get(client: &Client, target: &Path, step: u64) -> anyhow::Result<Get> {
    std::fs::create_dir_all(target).with_context(|| format!("create {}", target.display()))?;
    let sink = LocalSink::open(target).context("open the target directory")?;
    let address = Address { namespace: namespace()?, selector: Selector::Step(Step(step)) };
    let options = GetOptions::default();
    let progress = Arc::clone(&options.progress);
    let client = client.clone();
    let get = spawn(async move {
        let report = client.get(&address, Arc::new(sink), options).await;
        report.with_context(|| format!("get step {step}"))
    });
    Ok((get, progress))
}

#[allow(clippy::disallowed_methods, reason = "a client program's own tasks, not a node's")]
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

async fn finish<T>(task: JoinHandle<anyhow::Result<T>>, what: &str) -> anyhow::Result<T> {
    let ended = timeout(STEP_DEADLINE, task).await;
    ended.map_err(|_| anyhow!("{what} took more than {STEP_DEADLINE:?}"))?.context("run a task")?
}

fn leader_of(status: &ClusterStatus) -> String {
    status.leader.map_or("?".to_owned(), |id| id.to_string())
}

/// Looks at the status until `reached`.
async fn until(
    client: &Client,
    what: &str,
    reached: impl Fn(&ClusterStatus) -> bool,
) -> anyhow::Result<ClusterStatus> {
    let began = Instant::now();
    let mut last = "no answer yet".to_owned();
    while began.elapsed() < STEP_DEADLINE {
        match client.status().await {
            Ok(status) if reached(&status) => return Ok(status),
            Ok(status) => {
                last = format!(
                    "nodes: {}, voters: {}, segments below policy: {}",
                    status.nodes.len(),
                    status.voters,
                    status.segments_below
                );
            }
            Err(error) => last = error.to_string(),
        }
        sleep(POLL_PERIOD).await;
    }
    Err(anyhow!("timed out waiting until {what}: {last}"))
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))
}

/// Compares two directories of files byte by byte; returns the bytes compared.
fn same_files(original: &Path, restored: &Path) -> anyhow::Result<u64> {
    let names = |root: &Path| -> anyhow::Result<Vec<String>> {
        let source = LocalSource::scan(&[root.to_owned()]).context("list files")?;
        let entries = cairn_client::Source::entries(&source);
        Ok(entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect())
    };
    let (wanted, found) = (names(original)?, names(restored)?);
    ensure!(wanted == found, "restored files {found:?} are not {wanted:?}");
    let mut compared = 0;
    for name in wanted {
        compared += same_file(&original.join(&name), &restored.join(&name))?;
    }
    Ok(compared)
}

fn same_file(original: &Path, restored: &Path) -> anyhow::Result<u64> {
    use std::io::Read;
    let open =
        |path: &Path| std::fs::File::open(path).with_context(|| format!("open {}", path.display()));
    let (mut a, mut b) = (open(original)?, open(restored)?);
    let len = a.metadata().context("measure")?.len();
    ensure!(
        len == b.metadata().context("measure")?.len(),
        "{} differs in length",
        restored.display()
    );
    let (mut left, mut right) = (vec![0; BLOCK_BYTES as usize], vec![0; BLOCK_BYTES as usize]);
    let mut done = 0;
    while done < len {
        let count = (len - done).min(BLOCK_BYTES) as usize;
        a.read_exact(&mut left[..count]).context("read the original")?;
        b.read_exact(&mut right[..count]).context("read the restored file")?;
        ensure!(left[..count] == right[..count], "{} differs near byte {done}", restored.display());
        done += count as u64;
    }
    Ok(len)
}
