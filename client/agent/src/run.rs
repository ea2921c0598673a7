//! The loop: looks at directories, asks the mind, starts what it says, hears how that ended.
//!
//! Each look at a directory and each action is a task of its own, so that a file system that does
//! not answer holds up its own job only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_client::{Client, Lane, Progress, Rate, Step};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::{Config, Job, Kind, Scheduled, Work};
use crate::listing::Scan;
use crate::metrics::{self, Shared};
use crate::mind::{Action, Event, JobReport, Mind, Now, Outcome, PutTask};
use crate::put::{self, Means};
use crate::state_dir::{self, StateDir, StateError};
use crate::status::{AgentStatus, FORM, Upload};
use crate::{removal, scan, scheduled};

/// Messages of tasks that wait for the loop; a task whose message finds no room waits.
const MESSAGES_MAX: usize = 256;
/// So often the cluster is asked which one it is, and while it does not answer.
const CLUSTER_PAUSE: Duration = Duration::from_secs(60);
const UNANSWERED_PAUSE: Duration = Duration::from_secs(10);
/// A look at a directory that takes longer is told to people.
const LOOK_LONG: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("jobs {one:?} and {other:?} watch one directory, {}", path.display())]
    OneDirectory { one: String, other: String, path: PathBuf },
    #[error("listen on {address} for metrics: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
}

enum Message {
    Scanned {
        job: usize,
        scan: Result<Scan, String>,
    },
    Ended(Event),
    /// The id of the cluster, if it said so.
    Cluster(Option<String>),
}

/// Runs the agent until `stop`. What it was doing then is gone on with at the next start.
pub async fn run(
    client: Client,
    config: Config,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let of_all = config.jobs.clone();
    client.env().blocking(Lane::Client, move || one_directory(&of_all)).await?;
    let state = StateDir::open(&config.state)?;
    let journal = state.journal()?;
    let identity = state.identity(client.env().random_u64())?;
    let gathered = Shared::default();
    let mut tasks = Vec::new();
    if let Some(address) = config.metrics_listen {
        let listener = metrics::listen(address).await;
        let listener = listener.map_err(|error| AgentError::Listen { address, error })?;
        let serve = metrics::serve(listener, gathered.clone());
        tasks.push(client.env().spawn("agent metrics", serve));
    }
    let (messages, mut inbox) = mpsc::channel(MESSAGES_MAX);
    let means = Means {
        client: client.clone(),
        rate: Rate::new(None),
        name: format!("agent, process {}", std::process::id()),
        agent: identity.clone(),
    };
    let mut agent = Agent {
        mind: Mind::new(&config.jobs, journal, config.puts_parallel, &identity),
        scanning: vec![None; config.jobs.len()],
        removing: config.jobs.iter().map(|_| Arc::default()).collect(),
        ask_cluster_at: Some(Instant::now()),
        running: BTreeMap::new(),
        journal_trouble: None,
        unanswered_since_ms: None,
        started: Instant::now(),
        started_ms: client.env().wall_ms(),
        means,
        config,
        state,
        gathered,
        messages,
        tasks,
    };
    agent.begin();
    let mut stop = std::pin::pin!(stop);
    let mut poll_at = Instant::now();
    loop {
        if Instant::now() >= poll_at {
            agent.ask_cluster();
            agent.poll();
            poll_at = Instant::now() + agent.config.poll;
        }
        agent.step();
        let wake = agent.mind.wake_in(agent.now()).map(|wake| Instant::now() + wake);
        let wake_at = wake.map_or(poll_at, |wake| wake.min(poll_at));
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(message) = inbox.recv() => {
                agent.take(message);
                // All that is there, so that the journal is written once for it.
                while let Ok(message) = inbox.try_recv() {
                    agent.take(message);
                }
                agent.write_journal_if_changed();
            }
            () = sleep_until(wake_at) => {}
        }
    }
    agent.end();
    Ok(())
}

struct Agent {
    config: Config,
    means: Means,
    mind: Mind,
    state: StateDir,
    gathered: Shared,
    messages: mpsc::Sender<Message>,
    /// Per job: since when a look at its directory has been under way.
    scanning: Vec<Option<Instant>>,
    /// Per job: held while something is removed from its directory.
    removing: Vec<Arc<Mutex<()>>>,
    /// When the cluster is asked next which one it is; `None` while it is being asked.
    ask_cluster_at: Option<Instant>,
    running: BTreeMap<(usize, Step), Arc<Progress>>,
    /// Why the journal on disk is not the mind's; `None` if it is.
    journal_trouble: Option<String>,
    /// Since when the cluster has not said which one it is.
    unanswered_since_ms: Option<u64>,
    tasks: Vec<JoinHandle<()>>,
    started: Instant,
    started_ms: u64,
}

impl Agent {
    fn now(&self) -> Now {
        Now { wall_ms: self.means.client.env().wall_ms(), elapsed: self.started.elapsed() }
    }

    fn begin(&mut self) {
        tracing::info!(jobs = self.config.jobs.len(), "agent starts");
        let now = self.now();
        if self.mind.begin(now) {
            self.write_journal();
        }
    }

    /// Starts a look at each directory that none is under way at.
    fn poll(&mut self) {
        self.tasks.retain(|task| !task.is_finished());
        for index in 0..self.config.jobs.len() {
            let job = self.config.jobs[index].clone();
            let Kind::Watch(watch) = &job.kind else { continue };
            if self.scanning[index].is_some() {
                continue;
            }
            self.scanning[index] = Some(Instant::now());
            let (watch, settled) = (watch.clone(), self.mind.settled(index));
            let lock = self.removing[index].clone();
            let work = move || {
                // Removals that an earlier process began, on a disk that was mounted since, perhaps.
                let left = match lock.try_lock() {
                    Some(_alone) => removal::recover(&watch.directory),
                    None => Vec::new(),
                };
                scan::scan(&job, &watch, &settled).map(|scan| Scan { left, ..scan })
            };
            let (env, messages) = (self.means.client.env().clone(), self.messages.clone());
            let task = async move {
                let scan = env.blocking(Lane::Client, work).await;
                let _ = messages.send(Message::Scanned { job: index, scan }).await;
            };
            self.tasks.push(self.means.client.env().spawn("agent scan", task));
        }
    }

    /// Another cluster at the same addresses has nothing of what is written down.
    fn ask_cluster(&mut self) {
        if self.ask_cluster_at.take_if(|at| *at <= Instant::now()).is_none() {
            return;
        }
        let (client, messages) = (self.means.client.clone(), self.messages.clone());
        let task = async move {
            let _ = messages.send(Message::Cluster(put::cluster(&client).await)).await;
        };
        self.tasks.push(self.means.client.env().spawn("agent cluster", task));
    }

    fn take(&mut self, message: Message) {
        let now = self.now();
        match message {
            Message::Scanned { job, scan } => {
                self.scanning[job] = None;
                if let Err(why) = &scan {
                    tracing::warn!(
                        job = self.config.jobs[job].name,
                        why,
                        "the directory is not read"
                    );
                }
                self.mind.look(job, scan, now);
            }
            Message::Cluster(cluster) => {
                let pause = if cluster.is_some() { CLUSTER_PAUSE } else { UNANSWERED_PAUSE };
                self.ask_cluster_at = Some(Instant::now() + pause);
                match &cluster {
                    Some(_) => self.unanswered_since_ms = None,
                    None if self.unanswered_since_ms.is_none() => {
                        tracing::warn!("the cluster does not answer");
                        self.unanswered_since_ms = Some(now.wall_ms);
                    }
                    None => {}
                }
                if let Some(cluster) = cluster
                    && self.mind.forget_other_clusters(&cluster)
                {
                    tracing::warn!(cluster, "what another cluster has is put into this one, too");
                    self.journal_trouble.get_or_insert_with(|| "not written yet".to_owned());
                }
            }
            Message::Ended(event) => {
                self.running.remove(&(event.job, event.step));
                let job = &self.config.jobs[event.job];
                self.gathered.lock().note(&job.name, &event.outcome);
                log(job, &event);
                // The cluster may be out of reach: whether it is, is known soon then.
                if matches!(event.outcome, Outcome::Failed { .. }) && self.ask_cluster_at.is_some()
                {
                    self.ask_cluster_at = Some(Instant::now());
                }
                if self.mind.heard(event, now) {
                    self.journal_trouble.get_or_insert_with(|| "not written yet".to_owned());
                }
            }
        }
    }

    fn write_journal_if_changed(&mut self) {
        if self.journal_trouble.is_some() {
            self.write_journal();
        }
    }

    fn write_journal(&mut self) {
        self.journal_trouble = match self.state.write_journal(&self.mind.journal()) {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "the journal is not written: no local file is removed");
                Some(error.to_string())
            }
        };
    }

    /// Starts what the mind wants now.
    fn step(&mut self) {
        let now = self.now();
        self.means.rate.set(self.config.bytes_per_second(now.wall_ms));
        self.write_journal_if_changed();
        let actions = self.mind.next(now, self.journal_trouble.is_none());
        // A scheduled run is known to have begun, also if this process is killed in it.
        if actions
            .iter()
            .any(|action| matches!(action, Action::Put(PutTask { due_ms: Some(_), .. })))
        {
            self.write_journal();
        }
        for action in actions {
            self.start(action);
        }
        self.write_status(now);
    }

    fn start(&mut self, action: Action) {
        let (means, messages) = (self.means.clone(), self.messages.clone());
        let env = self.means.client.env().clone();
        let task = match action {
            Action::Put(task) => {
                let (index, step) = (task.job, task.step);
                let job = self.config.jobs[index].clone();
                let progress = Arc::<Progress>::default();
                self.running.insert((index, step), progress.clone());
                tracing::info!(job = job.name, kind = job.kind.word(), %step, "work begins");
                env.spawn("agent put", async move {
                    let outcome = match &job.kind {
                        Kind::Schedule(Scheduled { work: Work::Verify { level }, .. }) => {
                            scheduled::verify(&means, &job, *level, progress).await
                        }
                        Kind::Schedule(Scheduled {
                            work: Work::Drill { plan, scratch }, ..
                        }) => scheduled::drill(&means, plan, scratch).await,
                        _ => put::put(&means, &job, &task, progress).await,
                    };
                    let event = Event { job: index, step, outcome };
                    let _ = messages.send(Message::Ended(event)).await;
                })
            }
            Action::Remove(task) => {
                let (index, step) = (task.job, task.step);
                let job = self.config.jobs[index].clone();
                let lock = self.removing[index].clone();
                env.spawn("agent remove", async move {
                    let outcome = put::remove(&means, &job, &task, lock).await;
                    let event = Event { job: index, step, outcome };
                    let _ = messages.send(Message::Ended(event)).await;
                })
            }
        };
        self.tasks.push(task);
    }

    fn write_status(&mut self, now: Now) {
        let upload = |((job, step), progress): (&(usize, Step), &Arc<Progress>)| Upload {
            job: self.config.jobs[*job].name.clone(),
            step: step.0,
            bytes: progress.bytes_total.load(Ordering::Relaxed),
            bytes_done: progress.bytes_acked.load(Ordering::Relaxed)
                + progress.bytes_kept.load(Ordering::Relaxed),
        };
        let status = AgentStatus {
            form: FORM,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            started_ms: self.started_ms,
            written_ms: now.wall_ms,
            rate: self.means.rate.bytes_per_second().map(u64::from),
            journal_trouble: self.journal_trouble.clone(),
            unanswered_since_ms: self.unanswered_since_ms,
            uploads: self.running.iter().map(upload).collect(),
            jobs: self.reports(now),
        };
        let text = serde_json::to_vec_pretty(&status).unwrap_or_default();
        if let Err(error) = self.state.write_status(&text) {
            tracing::warn!(%error, "the status is not written");
        }
        let mut gathered = self.gathered.lock();
        gathered.status = Some(status);
        if let Some(path) = &self.config.metrics_file
            && let Err(error) = state_dir::replace(path, gathered.text().as_bytes(), false)
        {
            tracing::warn!(%error, "the metrics file is not written");
        }
    }

    /// A look that does not end is trouble, too: its file system does not answer.
    fn reports(&self, now: Now) -> Vec<JobReport> {
        let mut jobs = self.mind.report(now);
        for (job, since) in jobs.iter_mut().zip(&self.scanning) {
            if let Some(since) = since.filter(|since| since.elapsed() > LOOK_LONG) {
                let seconds = since.elapsed().as_secs();
                let why = format!("a look at its directory has been running for {seconds} s");
                job.trouble.get_or_insert(why);
            }
        }
        jobs
    }

    fn end(self) {
        for task in &self.tasks {
            task.abort();
        }
        tracing::info!("agent stops");
    }
}

/// Two jobs that remove local files must not share a directory, under whatever names.
fn one_directory(jobs: &[Arc<Job>]) -> Result<(), AgentError> {
    let mut seen: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for job in jobs {
        let Kind::Watch(watch) = &job.kind else { continue };
        // What is not there yet has no other name.
        let Ok(path) = watch.directory.canonicalize() else { continue };
        if let Some(one) = seen.insert(path.clone(), &job.name) {
            let (one, other) = (one.to_owned(), job.name.clone());
            return Err(AgentError::OneDirectory { one, other, path });
        }
    }
    Ok(())
}

fn log(job: &Job, event: &Event) {
    let (job, step) = (&job.name, event.step);
    match &event.outcome {
        Outcome::Stored { bytes, .. } => tracing::info!(job, %step, bytes, "stored"),
        Outcome::Changed { why } => tracing::info!(job, %step, why, "changed while it was put"),
        Outcome::Failed { why } => tracing::warn!(job, %step, why, "put failed"),
        Outcome::Refused { why } => tracing::error!(job, %step, why, "put refused"),
        Outcome::Found(found) if found.good => tracing::info!(job, said = found.said, "good"),
        Outcome::Found(found) => tracing::error!(job, said = found.said, "not good"),
        Outcome::Removed => tracing::info!(job, %step, "removed from the local disk"),
        Outcome::Kept { why } => tracing::info!(job, %step, why, "not removed from the local disk"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_jobs_on_one_directory_under_two_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("w")).unwrap();
        std::os::unix::fs::symlink("w", dir.path().join("alias")).unwrap();
        let jobs = |other: &str| {
            let job = |name: &str, watch: &str| {
                format!(
                    "[[job]]\nname = '{name}'\nnamespace = 'n'\nwatch = '{watch}'\nlayout = 'dcp'\n"
                )
            };
            let text = format!("state = 's'\n{}{}", job("a", "w"), job("b", other));
            Config::parse(&dir.path().join("c.toml"), &text).unwrap().jobs
        };
        for alias in ["alias", "w/../w"] {
            let error = one_directory(&jobs(alias)).unwrap_err().to_string();
            assert!(error.contains("\"a\" and \"b\""), "{alias}: {error}");
        }
        one_directory(&jobs("not-there")).unwrap();
    }
}
