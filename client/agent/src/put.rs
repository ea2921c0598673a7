//! Storing one checkpoint: the hooks, the question whether it is there already, the put.

use std::path::PathBuf;
use std::sync::Arc;

use cairn_client::source::Source;
use cairn_client::{
    Address, CheckpointInfo, CheckpointState, Client, ClientError, Isolation, Lane, Progress,
    PutOptions, Rate, Refusal, Selector, SourceError, Step, Wait,
};

use crate::config::{Job, Kind, Scheduled, Work};
use crate::hooks;
use crate::journal::Stamp;
use crate::listing::Fingerprint;
use crate::mind::{Outcome, PutTask, RemoveTask};
use crate::{removal, scan};

/// Labels of what the agent stores.
const JOB: &str = "cairn.agent.job";
const FINGERPRINT: &str = "cairn.agent.fingerprint";
const DUE: &str = "cairn.agent.due_ms";

/// What every action needs.
#[derive(Clone)]
pub struct Means {
    pub client: Client,
    pub rate: Arc<Rate>,
    /// What uploads say of their client.
    pub name: String,
}

/// What a put carries from its task to its end.
struct Put<'a> {
    means: &'a Means,
    job: &'a Arc<Job>,
    task: &'a PutTask,
    paths: Vec<PathBuf>,
}

/// Stores what a task names. The job's hooks run before and after.
pub async fn put(
    means: &Means,
    job: &Arc<Job>,
    task: &PutTask,
    progress: Arc<Progress>,
) -> Outcome {
    let paths = match (&job.kind, &task.found) {
        (Kind::Watch(watch), Some(found)) => vec![watch.directory.join(&found.name)],
        (Kind::Schedule(Scheduled { work: Work::Store { paths }, .. }), None) => paths.clone(),
        // The mind makes no others.
        _ => return Outcome::Failed { why: "the task is of another kind of job".to_owned() },
    };
    let put = Put { means, job, task, paths };
    // What is stored already needs no hook: it ran before the agent was killed, or it runs below.
    let outcome = match put.known().await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => match put.before().await {
            Ok(()) => put.run(progress).await,
            Err(why) => Outcome::Failed { why },
        },
        Err(error) => failed(&error),
    };
    put.after(&outcome).await;
    outcome
}

impl Put<'_> {
    fn address(&self) -> Address {
        address(self.job, self.task.step)
    }

    /// Whether the cluster has it under this agent's label: an earlier process committed it, and was
    /// killed before it wrote that down.
    async fn known(&self) -> Result<Option<Outcome>, ClientError> {
        let info = match self.means.client.resolve(&self.address()).await {
            Ok(info) => info,
            Err(ClientError::Refused(Refusal::NoSuchCheckpoint { .. })) => return Ok(None),
            Err(error) => return Err(error),
        };
        let label = |name: &str| info.labels.get(name).map(String::as_str);
        let own = match &self.task.found {
            Some(found) => label(FINGERPRINT) == Some(&found.fingerprint.to_string()),
            None => label(DUE) == self.task.due_ms.map(|due| due.to_string()).as_deref(),
        };
        let own = own && label(JOB) == Some(&self.job.name);
        Ok(own.then(|| Outcome::Stored { id: info.id, bytes: info.bytes, stamp: self.stamp() }))
    }

    fn stamp(&self) -> Option<Stamp> {
        let of_one = self.task.found.as_ref().and_then(|_| self.paths.first());
        of_one.and_then(|path| scan::stamp(path))
    }

    async fn run(&self, progress: Arc<Progress>) -> Outcome {
        // Before the listing: a later change shows as another stamp.
        let stamp = self.stamp();
        let (job, paths) = (self.job.clone(), self.paths.clone());
        let listing = move || scan::source(&job, &paths);
        let source = match self.means.client.env().blocking(Lane::Client, listing).await {
            Ok(source) => source,
            Err(error) => return of_source(&error),
        };
        if let Some(found) = &self.task.found
            && Fingerprint::of(source.entries()) != found.fingerprint
        {
            return Outcome::Changed { why: "it changed since it was listed".to_owned() };
        }
        match self.means.client.put(Arc::new(source), self.options(progress)).await {
            Ok(report) => match report.checkpoint {
                Some(id) => Outcome::Stored { id, bytes: report.bytes, stamp },
                None => Outcome::Failed { why: "the put has no checkpoint".to_owned() },
            },
            Err(ClientError::Source(error)) => {
                self.discard().await;
                of_source(&error)
            }
            Err(error) => failed(&error),
        }
    }

    fn options(&self, progress: Arc<Progress>) -> PutOptions {
        let mut options = PutOptions::new(self.job.namespace.clone(), self.task.step);
        options.change = self.job.policy.clone();
        options.replace = self.job.replace;
        options.labels = self.job.labels.clone();
        options.labels.insert(JOB.to_owned(), self.job.name.clone());
        if let Some(found) = &self.task.found {
            options.labels.insert(FINGERPRINT.to_owned(), found.fingerprint.to_string());
        }
        if let Some(due) = self.task.due_ms {
            options.labels.insert(DUE.to_owned(), due.to_string());
        }
        options.client = self.means.name.clone();
        if let Some(timeout) = self.job.wait_full {
            options.wait = Wait::Full { timeout };
        }
        options.progress = progress;
        options.rate = Some(self.means.rate.clone());
        options
    }

    /// Ends the upload of files that changed: nobody goes on with it. If that fails, its lease does.
    async fn discard(&self) {
        let (client, step) = (&self.means.client, self.task.step);
        let open = client.open_upload(&self.job.namespace, step).await;
        if open.is_ok_and(|info| info.began.client == self.means.name)
            && let Err(error) = client.abort_upload(&self.job.namespace, step, true).await
        {
            tracing::debug!(%error, "the upload is left to its lease");
        }
    }

    async fn before(&self) -> Result<(), String> {
        let hooks = &self.job.hooks;
        match &hooks.before {
            Some(command) => hooks::run(command, &self.variables(), None, hooks.timeout).await,
            None => Ok(()),
        }
    }

    async fn after(&self, outcome: &Outcome) {
        let hooks = &self.job.hooks;
        let Some(command) = &hooks.after else { return };
        let (word, why) = match outcome {
            Outcome::Stored { .. } => ("stored", ""),
            Outcome::Changed { why } => ("changed", why.as_str()),
            Outcome::Refused { why } => ("refused", why.as_str()),
            Outcome::Failed { why } => ("failed", why.as_str()),
            Outcome::Found(_) | Outcome::Removed | Outcome::Kept { .. } => return,
        };
        let mut variables = self.variables();
        variables.push(("CAIRN_AGENT_OUTCOME", word.to_owned()));
        variables.push(("CAIRN_AGENT_ERROR", why.to_owned()));
        if let Err(why) = hooks::run(command, &variables, None, hooks.timeout).await {
            tracing::warn!(job = self.job.name, why, "the hook after a put failed");
        }
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let path = self.paths.first().map(|path| path.display().to_string());
        vec![
            ("CAIRN_AGENT_JOB", self.job.name.clone()),
            ("CAIRN_AGENT_NAMESPACE", self.job.namespace.to_string()),
            ("CAIRN_AGENT_STEP", self.task.step.to_string()),
            ("CAIRN_AGENT_PATH", path.unwrap_or_default()),
        ]
    }
}

fn address(job: &Job, step: Step) -> Address {
    Address { namespace: job.namespace.clone(), selector: Selector::Step(step) }
}

/// What a source's error means. A file that vanished is as good as changed.
fn of_source(error: &SourceError) -> Outcome {
    let why = error.to_string();
    match error {
        SourceError::Changed { .. }
        | SourceError::Appeared { .. }
        | SourceError::NotFound { .. }
        | SourceError::UnfinishedGet { .. } => Outcome::Changed { why },
        _ => Outcome::Failed { why },
    }
}

fn failed(error: &ClientError) -> Outcome {
    let why = error.to_string();
    match error {
        // Another content is committed under this step.
        ClientError::Refused(Refusal::StepExists { .. } | Refusal::OtherTerms { .. }) => {
            Outcome::Refused { why }
        }
        _ => Outcome::Failed { why },
    }
}

/// Removes a checkpoint from the local disk once the cluster says that it has it.
pub async fn remove(means: &Means, job: &Arc<Job>, task: &RemoveTask) -> Outcome {
    let Kind::Watch(watch) = &job.kind else {
        return Outcome::Kept { why: "the job watches no directory".to_owned() };
    };
    let address = address(job, task.step);
    let info = match means.client.resolve(&address).await {
        Ok(info) => info,
        Err(error) => return Outcome::Kept { why: error.to_string() },
    };
    let racks = {
        let nodes = means.client.nodes();
        let in_service = nodes.values().filter(|node| !node.removed);
        in_service.map(|node| node.rack.as_str()).collect::<std::collections::BTreeSet<_>>().len()
    };
    if let Some(why) = unsafe_to_remove(&info, job, task, racks) {
        return Outcome::Kept { why };
    }
    let (job, directory, found) = (job.clone(), watch.directory.clone(), task.found.clone());
    let work = move || removal::remove(&job, &directory, &found.name, found.fingerprint);
    match means.client.env().blocking(Lane::Client, work).await {
        Ok(()) => Outcome::Removed,
        Err(why) => Outcome::Kept { why },
    }
}

/// Why a checkpoint's local copy is still needed.
fn unsafe_to_remove(
    info: &CheckpointInfo,
    job: &Job,
    task: &RemoveTask,
    racks: usize,
) -> Option<String> {
    let (policy, now) = (&info.policy, &info.durability);
    let replicas = match job.wait_full {
        Some(_) => policy.replicas,
        None => policy.write_quorum,
    };
    let racks_wanted = match policy.isolation {
        Isolation::Hard => policy.min_racks.min(replicas).min(u32::try_from(racks).unwrap_or(1)),
        Isolation::Soft => 1,
    };
    if info.id != task.id {
        return Some("another checkpoint of its step is in the cluster".to_owned());
    }
    if info.state != CheckpointState::Committed || info.commit.is_none() {
        return Some("it is not committed".to_owned());
    }
    if info.quarantine.is_some() {
        return Some("it is in quarantine".to_owned());
    }
    if now.segments_unavailable > 0 || now.replicas_min < replicas || now.racks_min < racks_wanted {
        let (have, racks) = (now.replicas_min, now.racks_min);
        return Some(format!(
            "it has {have} of {replicas} replicas, in {racks} of {racks_wanted} racks"
        ));
    }
    None
}
