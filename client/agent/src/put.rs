//! Storing one checkpoint: the hooks, the question whether it is there already, the put.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use cairn_client::source::{Source, SourceDirectory, SourceEntry};
use cairn_client::{
    Address, CheckpointId, CheckpointInfo, CheckpointState, Client, ClientError, Isolation, Lane,
    LocalSource, Progress, PutOptions, Rate, Refusal, Selector, SourceError, Step, Wait,
};
use parking_lot::Mutex;

use crate::config::{Job, Kind, Scheduled, Work};
use crate::hooks;
use crate::listing::{Fingerprint, Version};
use crate::mind::{Found, Outcome, PutTask, RemoveTask};
use crate::{removal, scan, tree};

/// Labels of what the agent stores.
const JOB: &str = "cairn.agent.job";
const FINGERPRINT: &str = "cairn.agent.fingerprint";
const WITNESS: &str = "cairn.agent.witness";
const AGENT: &str = "cairn.agent.id";
const DUE: &str = "cairn.agent.due_ms";

/// What every action needs.
#[derive(Clone)]
pub struct Means {
    pub client: Client,
    pub rate: Arc<Rate>,
    /// What uploads say of their client.
    pub name: String,
    /// The name of this agent, the same from one process to the next.
    pub agent: String,
}

/// What the cluster says of a step before it is put.
enum Known {
    /// This agent committed it; an earlier process was killed before it wrote that down.
    Stored(Outcome),
    /// Another agent has its run.
    Foreign(String),
    /// It has the names, sizes and times of these files; the bytes are to be compared.
    Alike,
    No,
}

/// The files of one checkpoint, as they were when their witness was taken.
struct Watched {
    source: LocalSource,
    job: Arc<Job>,
    path: PathBuf,
    found: Found,
}

impl Source for Watched {
    fn entries(&self) -> &[SourceEntry] {
        self.source.entries()
    }

    fn directories(&self) -> &[SourceDirectory] {
        self.source.directories()
    }

    /// With the change times, too, which a program cannot set back.
    fn check_unchanged(&self) -> Result<(), SourceError> {
        self.source.check_unchanged()?;
        let now = tree::walk(&self.job, &self.path, &self.found.name);
        match now.is_ok_and(|now| now.witness == self.found.version.witness) {
            true => Ok(()),
            false => Err(SourceError::Changed { path: self.path.display().to_string() }),
        }
    }

    fn read_at(&self, index: usize, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.source.read_at(index, offset, buffer)
    }
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
        Ok(Known::Stored(outcome)) => outcome,
        Ok(Known::Foreign(why)) => Outcome::Refused { why },
        Ok(known) => match put.before().await {
            Ok(()) => put.run(progress, matches!(known, Known::Alike)).await,
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

    async fn known(&self) -> Result<Known, ClientError> {
        let info = match self.means.client.resolve(&self.address()).await {
            Ok(info) => info,
            Err(ClientError::Refused(Refusal::NoSuchCheckpoint { .. })) => return Ok(Known::No),
            Err(error) => return Err(error),
        };
        Ok(match judge(&info.labels, &self.job.name, &self.means.agent, self.task) {
            Judged::Own => Known::Stored(self.stored(info.id, info.bytes).await),
            Judged::Foreign(agent) => {
                let (job, step) = (&self.job.name, self.task.step);
                Known::Foreign(format!("agent {agent} stored job {job}'s run {step}"))
            }
            Judged::Alike => Known::Alike,
            Judged::Other => Known::No,
        })
    }

    async fn stored(&self, id: CheckpointId, bytes: u64) -> Outcome {
        Outcome::Stored { id, bytes, cluster: cluster(&self.means.client).await }
    }

    /// `is_alike`: what is committed has these names, sizes and times. Then its bytes are compared
    /// before anything takes its place.
    async fn run(&self, progress: Arc<Progress>, is_alike: bool) -> Outcome {
        let source = match self.source().await {
            Ok(source) => source,
            Err(outcome) => return outcome,
        };
        if is_alike && self.job.replace {
            let options = PutOptions { replace: false, ..self.options(progress.clone()) };
            match self.put(source.clone(), options).await {
                Outcome::Refused { .. } => {}
                outcome => return outcome,
            }
        }
        self.put(source, self.options(progress)).await
    }

    /// The files as they were found; otherwise they changed.
    async fn source(&self) -> Result<Arc<dyn Source>, Outcome> {
        let (job, paths, found) = (self.job.clone(), self.paths.clone(), self.task.found.clone());
        let listing = move || -> Result<Arc<dyn Source>, Outcome> {
            let changed = |why: &str| Outcome::Changed { why: why.to_owned() };
            let Some((found, path)) = found.zip(paths.first().cloned()) else {
                let source = scan::source(&job, &paths).map_err(|error| of_source(&error))?;
                return Ok(Arc::new(source));
            };
            let tree = tree::walk(&job, &path, &found.name).map_err(|why| changed(&why))?;
            let source = scan::listed(&job, &path).map_err(|error| of_source(&error))?;
            let fingerprint = Fingerprint::of(source.entries());
            match (Version { fingerprint, witness: tree.witness }) == found.version {
                true => Ok(Arc::new(Watched { source, job, path, found })),
                false => Err(changed("it changed since it was listed")),
            }
        };
        self.means.client.env().blocking(Lane::Client, listing).await
    }

    async fn put(&self, source: Arc<dyn Source>, options: PutOptions) -> Outcome {
        match self.means.client.put(source, options).await {
            Ok(report) => match report.checkpoint {
                Some(id) => self.stored(id, report.bytes).await,
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
        options.labels.insert(AGENT.to_owned(), self.means.agent.clone());
        if let Some(found) = &self.task.found {
            let Version { fingerprint, witness } = found.version;
            options.labels.insert(FINGERPRINT.to_owned(), fingerprint.to_string());
            options.labels.insert(WITNESS.to_owned(), witness.to_string());
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

/// What the labels of a committed checkpoint say of a task.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Own,
    /// The agent that stored it.
    Foreign(String),
    Alike,
    Other,
}

fn judge(labels: &BTreeMap<String, String>, job: &str, agent: &str, task: &PutTask) -> Judged {
    let label = |name: &str| labels.get(name).map(String::as_str);
    if label(JOB) != Some(job) {
        return Judged::Other;
    }
    let is_ours = label(AGENT) == Some(agent);
    match &task.found {
        Some(Found { version, .. }) => {
            let is_alike = label(FINGERPRINT) == Some(&version.fingerprint.to_string());
            let is_same = label(WITNESS) == Some(&version.witness.to_string());
            match (is_alike, is_same && is_ours) {
                (true, true) => Judged::Own,
                (true, false) => Judged::Alike,
                (false, _) => Judged::Other,
            }
        }
        // Of a run nothing but its time is known: that of another machine has other files.
        None if label(DUE) != task.due_ms.map(|due| due.to_string()).as_deref() => Judged::Other,
        None if is_ours => Judged::Own,
        None => Judged::Foreign(label(AGENT).unwrap_or("without a name").to_owned()),
    }
}

/// The id of the cluster, if it says so: what is not known is compared with nothing.
pub async fn cluster(client: &Client) -> Option<String> {
    client.status().await.ok()?.cluster.map(|id| id.to_string())
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
/// `lock` keeps it apart from the recovery of interrupted removals.
pub async fn remove(
    means: &Means,
    job: &Arc<Job>,
    task: &RemoveTask,
    lock: Arc<Mutex<()>>,
) -> Outcome {
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
        in_service.map(|node| node.rack.as_str()).collect::<BTreeSet<_>>().len()
    };
    if let Some(why) = unsafe_to_remove(&info, job, task, racks) {
        return Outcome::Kept { why };
    }
    if task.cluster != cluster(&means.client).await {
        return Outcome::Kept { why: "it was stored in another cluster".to_owned() };
    }
    let (job, watch, found, step) = (job.clone(), watch.clone(), task.found.clone(), task.step.0);
    let work = move || {
        let _alone = lock.lock();
        removal::remove(&job, &watch, (&found.name, step), found.version)
    };
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
        // The only copy of one node is no backup of the local one.
        None => policy.write_quorum.max(policy.replicas.min(2)),
    };
    let racks_wanted = match policy.isolation {
        Isolation::Hard => policy.min_racks.min(replicas).min(u32::try_from(racks).unwrap_or(1)),
        Isolation::Soft => 1,
    };
    if info.id != task.id {
        return Some("another checkpoint of its step is in the cluster".to_owned());
    }
    let fingerprint = task.found.version.fingerprint.to_string();
    if info.labels.get(FINGERPRINT) != Some(&fingerprint) {
        return Some("the cluster's one has no label with the fingerprint of its files".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::Witness;

    fn labels(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_run_of_another_agent_is_foreign_and_its_name_is_said() {
        let task = PutTask { job: 0, step: Step(1), found: None, due_ms: Some(7) };
        let judged = |list: &[(&str, &str)]| judge(&labels(list), "j", "here", &task);
        let run = [(JOB, "j"), (DUE, "7")];
        assert_eq!(judged(&[run[0], run[1], (AGENT, "here")]), Judged::Own);
        let there = judged(&[run[0], run[1], (AGENT, "there")]);
        assert_eq!(there, Judged::Foreign("there".to_owned()));
        assert_eq!(judged(&run), Judged::Foreign("without a name".to_owned()));
        assert_eq!(judged(&[run[0], (DUE, "8"), (AGENT, "here")]), Judged::Other);
        assert_eq!(judged(&[(JOB, "k"), run[1], (AGENT, "here")]), Judged::Other);
    }

    #[test]
    fn files_that_only_look_the_same_are_compared() {
        let version = Version { fingerprint: Fingerprint::of([]), witness: Witness::new([1; 16]) };
        let found = Found { name: "x1".to_owned(), version };
        let task = PutTask { job: 0, step: Step(1), found: Some(found), due_ms: None };
        let judged = |fingerprint: &str, witness: &str, agent: &str| {
            let (job, agent) = ((JOB, "j"), (AGENT, agent));
            let list = [job, agent, (FINGERPRINT, fingerprint), (WITNESS, witness)];
            judge(&labels(&list), "j", "here", &task)
        };
        let (same, witness) = (version.fingerprint.to_string(), version.witness.to_string());
        assert_eq!(judged(&same, &witness, "here"), Judged::Own);
        assert_eq!(judged(&same, "another", "here"), Judged::Alike);
        assert_eq!(judged(&same, &witness, "there"), Judged::Alike);
        assert_eq!(judged("another", &witness, "here"), Judged::Other);
    }
}
