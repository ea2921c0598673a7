//! `cairn bench put|get|meta`: what Cairn does, beside what the machine can do, in one run.
//!
//! Each round measures the machine's own limit first and Cairn next, so that noise hits both.
//! Before each timed run as much memory as it will use is touched and freed: guests that give
//! free memory back to their host run at a fraction of their speed on first touch.

mod latencies;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;
use cairn_client::{Client, GetOptions, LocalSink, LocalSource, MemorySource, PutOptions, Wait};
use cairn_node::process;
use cairn_types::ids::{Address, Namespace, Selector, Step};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use self::latencies::{Latencies, LatencyRecord};
use crate::children::{Cluster, ClusterPlan};
use crate::exit::{Exit, Failure, Outcome};
use crate::generate;
use crate::output::{Output, bytes, plural, table};
use crate::own_cluster::{self, Scratch, key_flags, own_key};
use crate::session::{Session, client_failure, interruptible};

const NODES: usize = 3;
const LOOK_PERIOD: Duration = Duration::from_millis(200);
const FULL_DEADLINE: Duration = Duration::from_secs(300);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const CAPACITY_BYTES: u64 = 1 << 40;
const GIB: f64 = (1u64 << 30) as f64;
/// Buffer of a plain copy.
const COPY_BYTES: usize = 4 << 20;

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Operation to measure
    #[arg(value_enum)]
    what: What,
    /// Size of the checkpoint (put, get)
    #[arg(long, value_name = "BYTES", default_value = "1GiB")]
    size: ByteSize,
    /// Number of rounds; the result is their median
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Number of operations (meta)
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    operations: u64,
    /// Number of parallel callers (meta)
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    parallel: u64,
    /// Parent of the temporary directory for nodes' data and copies [default: the system's]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Measure the cluster at --endpoints instead of starting three nodes
    #[arg(long)]
    external: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Put,
    Get,
    Meta,
}

pub fn run(session: &Session, args: BenchArgs) -> Outcome {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = Scratch::new(session, &parent, "cairn-bench-")?;
    let root = scratch.path().to_owned();
    let mut cluster = None;
    let mut key = None;
    if !args.external {
        key = own_key(session)?;
        let mut extra: Vec<String> = ["--grace", "1s", "--log", "warn"].map(Into::into).into();
        extra.extend(key_flags(session, key.as_ref()));
        let mut own = Cluster::plan(&ClusterPlan {
            program: std::env::current_exe().context("find this program")?,
            directory: root.clone(),
            nodes: NODES,
            port: None,
            capacity_bytes: CAPACITY_BYTES,
            extra,
        })?;
        own.start()?;
        cluster = Some(own);
    }
    let endpoints = match &cluster {
        Some(own) => own.endpoints(),
        None => session.endpoints()?,
    };
    let result = session.runtime()?.block_on(async {
        let client = match &cluster {
            Some(own) => own_cluster::client(session, own, key)?,
            None => session.client()?,
        };
        let bench = Bench { output: session.output, client, root, endpoints, args: &args };
        interruptible(async {
            let Some(own) = &mut cluster else {
                session.survey(&bench.client).await?;
                bench.client.status().await.map_err(client_failure)?;
                return bench.measure().await;
            };
            own_cluster::ready(own, &bench.client, NODES as u32).await?;
            let falls = async {
                loop {
                    sleep(LOOK_PERIOD).await;
                    if let Some(failure) = own_cluster::fallen(own) {
                        return failure;
                    }
                }
            };
            tokio::select! {
                biased;
                measured = bench.measure() => measured,
                failure = falls => Err(failure),
            }
        })
        .await
    });
    if let Some(cluster) = &mut cluster {
        cluster.stop(STOP_DEADLINE)?;
    }
    result.map(|()| Exit::Ok)
}

struct Bench<'a> {
    output: Output,
    client: Client,
    root: PathBuf,
    endpoints: Vec<String>,
    args: &'a BenchArgs,
}

/// One timed run: seconds, and CPU seconds of this process and of all nodes.
#[derive(Debug, Clone, Copy)]
struct Run {
    seconds: f64,
    client_cpu: f64,
    nodes_cpu: f64,
}

impl Bench<'_> {
    async fn measure(&self) -> Result<(), Failure> {
        match self.args.what {
            What::Put => self.put().await,
            What::Get => self.get().await,
            What::Meta => self.meta().await,
        }
    }

    async fn nodes_cpu(&self) -> f64 {
        let mut cpu_ms = 0;
        for endpoint in &self.endpoints {
            if let Ok(status) = self.client.node_status(endpoint).await {
                cpu_ms += status.cpu_ms;
            }
        }
        cpu_ms as f64 / 1000.0
    }

    async fn timed(&self, work: impl Future<Output = Result<(), Failure>>) -> Result<Run, Failure> {
        let nodes_before = self.nodes_cpu().await;
        let own_before = process::usage().cpu_ms;
        let began = Instant::now();
        work.await?;
        let seconds = began.elapsed().as_secs_f64();
        let client_cpu = (process::usage().cpu_ms - own_before) as f64 / 1000.0;
        Ok(Run { seconds, client_cpu, nodes_cpu: self.nodes_cpu().await - nodes_before })
    }

    fn source(&self, round: u64) -> Result<PathBuf, Failure> {
        let file = self.root.join(format!("source-{round}.safetensors"));
        generate::safetensors(&file, self.args.size.as_u64(), round)?;
        Ok(file)
    }

    async fn store(&self, file: &Path, step: u64) -> Result<(), Failure> {
        let source = LocalSource::scan(&[file.to_owned()]).context("read the source")?;
        let mut options = PutOptions::new(namespace()?, Step(step));
        options.wait = Wait::Full { timeout: FULL_DEADLINE };
        let report = self.client.put(Arc::new(source), options).await.map_err(client_failure)?;
        if report.full == Some(false) {
            return Err(anyhow::anyhow!("not all replicas were durable in time").into());
        }
        Ok(())
    }

    async fn forget(&self, step: u64) -> Result<(), Failure> {
        self.client.delete(&address(step)?, true).await.map_err(client_failure)?;
        Ok(())
    }

    /// R fsynced plain copies in parallel against a put with full wait.
    async fn put(&self) -> Result<(), Failure> {
        let (mut limits, mut runs) = (Vec::new(), Vec::new());
        for round in 0..self.args.rounds {
            let file = self.source(round)?;
            touch_memory(self.args.size.as_u64() * (NODES as u64 + 1));
            let began = Instant::now();
            plain_copies(&file, &self.root, NODES)?;
            limits.push(began.elapsed().as_secs_f64());
            touch_memory(self.args.size.as_u64());
            let run = self.timed(self.store(&file, round)).await?;
            self.round("put", round, *limits.last().unwrap_or(&0.0), run);
            runs.push(run);
            self.forget(round).await?;
            std::fs::remove_file(&file).context("remove the source")?;
        }
        self.result("put", "parallel fsynced copies", &limits, &runs)
    }

    /// `cp` against a get of the same file.
    async fn get(&self) -> Result<(), Failure> {
        let (mut limits, mut runs) = (Vec::new(), Vec::new());
        let file = self.source(0)?;
        self.store(&file, 0).await?;
        for round in 0..self.args.rounds {
            let copy = self.root.join("copy");
            touch_memory(self.args.size.as_u64() * 2);
            let began = Instant::now();
            plain_copy(&file, &copy, false)?;
            limits.push(began.elapsed().as_secs_f64());
            std::fs::remove_file(&copy).context("remove the copy")?;
            let target = self.root.join("restored");
            std::fs::create_dir_all(&target).context("create the target")?;
            touch_memory(self.args.size.as_u64() * 2);
            let restore = async {
                let sink = LocalSink::open(&target).context("open the target")?;
                let options = GetOptions::default();
                let got = self.client.get(&address(0)?, Arc::new(sink), options).await;
                got.map(|_| ()).map_err(client_failure)
            };
            let run = self.timed(restore).await?;
            self.round("get", round, *limits.last().unwrap_or(&0.0), run);
            runs.push(run);
            std::fs::remove_dir_all(&target).context("remove the target")?;
        }
        self.result("get", "cp", &limits, &runs)
    }

    fn round(&self, what: &str, round: u64, limit: f64, run: Run) {
        self.output.say(format!(
            "{what} round {}: {:.2} s (limit {limit:.2} s), CPU {:.2} s client, {:.2} s nodes",
            round + 1,
            run.seconds,
            run.client_cpu,
            run.nodes_cpu
        ));
    }

    fn result(
        &self,
        what: &str,
        limit_name: &str,
        limits: &[f64],
        runs: &[Run],
    ) -> Result<(), Failure> {
        let gib = self.args.size.as_u64() as f64 / GIB;
        let limit = median(limits.to_vec());
        let seconds = median(runs.iter().map(|run| run.seconds).collect());
        let client_cpu = median(runs.iter().map(|run| run.client_cpu).collect()) / gib;
        let nodes_cpu = median(runs.iter().map(|run| run.nodes_cpu).collect()) / gib;
        let ratio = limit / seconds;
        let elapsed = runs.iter().map(|run| run.seconds).sum();
        let each_ms = runs.iter().map(|run| run.seconds * 1000.0).collect();
        let latencies = Latencies::new(each_ms, Duration::from_secs_f64(elapsed));
        let document = DataDocument {
            what,
            bytes: self.args.size.as_u64(),
            rounds: runs.len(),
            seconds,
            latencies: latencies.document(),
            gib_per_second: gib / seconds,
            limit: limit_name,
            limit_seconds: limit,
            limit_gib_per_second: gib / limit,
            ratio,
            client_cpu_seconds_per_gib: client_cpu,
            nodes_cpu_seconds_per_gib: nodes_cpu,
        };
        self.output.result(&document, || {
            let rows = [
                ["", "GiB/s", "seconds"].map(str::to_owned).to_vec(),
                vec![
                    format!("cairn {what}"),
                    format!("{:.3}", gib / seconds),
                    format!("{seconds:.2}"),
                ],
                vec![limit_name.to_owned(), format!("{:.3}", gib / limit), format!("{limit:.2}")],
                vec!["ratio".to_owned(), format!("{ratio:.2}"), String::new()],
                vec![
                    "seconds p50, p99, max".to_owned(),
                    format!("{:.2}", latencies.at(50) / 1000.0),
                    format!("{:.2}", latencies.at(99) / 1000.0),
                    format!("{:.2}", latencies.at(100) / 1000.0),
                ],
                vec!["CPU s/GiB client".to_owned(), format!("{client_cpu:.2}"), String::new()],
                vec!["CPU s/GiB nodes".to_owned(), format!("{nodes_cpu:.2}"), String::new()],
            ];
            let rounds = plural(runs.len() as u64, "round");
            format!("{} in {rounds}\n{}", bytes(self.args.size.as_u64()), table(&rows))
        })
    }

    /// Small commits and linearizable reads: the catalogue's own speed.
    async fn meta(&self) -> Result<(), Failure> {
        let commits = self
            .many(|client, number| async move {
                let name = format!("bench/meta-{}", number % 8).parse().ok();
                let name: Namespace = name.context("name a namespace")?;
                let content = number.to_le_bytes().repeat(16);
                let files = [(b"state".to_vec(), content.into())].into();
                let source = MemorySource::new(files).context("make a source")?;
                let options = PutOptions::new(name, Step(number));
                client.put(Arc::new(source), options).await.map(|_| ()).map_err(client_failure)
            })
            .await?;
        let reads = self
            .many(|client, number| async move {
                let name = format!("bench/meta-{}", number % 8);
                let address = format!("{name}@{number}").parse::<Address>();
                let address = address.map_err(Failure::usage)?;
                client.resolve(&address).await.map(|_| ()).map_err(client_failure)
            })
            .await?;
        let document = MetaDocument { commits: commits.document(), reads: reads.document() };
        self.output.result(&document, || {
            let heads = ["", "PER SECOND", "P50 MS", "P90 MS", "P99 MS", "MAX MS"];
            table(&[
                heads.map(str::to_owned).to_vec(),
                commits.row("small checkpoints put"),
                reads.row("linearizable resolves"),
            ])
        })
    }

    /// Runs an operation many times over, some at once.
    async fn many<F>(
        &self,
        operation: impl Fn(Client, u64) -> F + Copy,
    ) -> Result<Latencies, Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        use futures::{StreamExt, TryStreamExt, stream};
        let began = Instant::now();
        let latencies: Vec<f64> = stream::iter(0..self.args.operations)
            .map(|number| {
                let client = self.client.clone();
                async move {
                    let began = Instant::now();
                    operation(client, number).await?;
                    Ok::<f64, Failure>(began.elapsed().as_secs_f64() * 1000.0)
                }
            })
            .buffer_unordered(self.args.parallel.max(1) as usize)
            .try_collect()
            .await?;
        Ok(Latencies::new(latencies, began.elapsed()))
    }
}

/// `bench put` and `bench get`.
#[derive(Serialize)]
struct DataDocument<'a> {
    /// `put` or `get`.
    what: &'a str,
    bytes: u64,
    rounds: usize,
    /// Of the median round, as the next ones.
    seconds: f64,
    latencies: LatencyRecord,
    gib_per_second: f64,
    /// The name of what the machine can do at most, measured in the same run.
    limit: &'a str,
    limit_seconds: f64,
    limit_gib_per_second: f64,
    ratio: f64,
    client_cpu_seconds_per_gib: f64,
    nodes_cpu_seconds_per_gib: f64,
}

/// `bench meta`.
#[derive(Serialize)]
struct MetaDocument {
    commits: LatencyRecord,
    reads: LatencyRecord,
}

fn namespace() -> Result<Namespace, Failure> {
    "bench/run".parse().map_err(Failure::usage)
}

fn address(step: u64) -> Result<Address, Failure> {
    Ok(Address { namespace: namespace()?, selector: Selector::Step(Step(step)) })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Writes to every page of as much memory, then frees it.
fn touch_memory(count: u64) {
    const PAGE: usize = 4096;
    // No more than leaves the machine room to breathe.
    let count = count.min(8 << 30);
    let mut memory = vec![0_u8; usize::try_from(count).unwrap_or(0)];
    for page in memory.chunks_mut(PAGE) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
}

/// `count` fsynced copies of `file`, all at once.
fn plain_copies(file: &Path, root: &Path, count: usize) -> anyhow::Result<()> {
    let targets: Vec<PathBuf> =
        (0..count).map(|index| root.join(format!("copy-{index}"))).collect();
    std::thread::scope(|scope| {
        let copies: Vec<_> =
            targets.iter().map(|target| scope.spawn(|| plain_copy(file, target, true))).collect();
        copies.into_iter().try_for_each(|copy| match copy.join() {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("a copying thread panicked")),
        })
    })?;
    for target in targets {
        std::fs::remove_file(target).context("remove a copy")?;
    }
    Ok(())
}

fn plain_copy(from: &Path, to: &Path, sync: bool) -> anyhow::Result<()> {
    let mut source = File::open(from).with_context(|| format!("open {}", from.display()))?;
    let mut target = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = source.read(&mut buffer).context("read the source")?;
        if count == 0 {
            break;
        }
        target.write_all(&buffer[..count]).context("write a copy")?;
    }
    if sync {
        target.sync_all().context("sync a copy")?;
    }
    Ok(())
}
