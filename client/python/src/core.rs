//! A client of one cluster, and a call for each of its methods.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_client::stream::TryStreamExt;
use cairn_client::{
    Address, Annotation, Attempt, Client, ClientError, DeleteOptions, GetOptions, GetProgress,
    Links, ListFilter, ListOptions, ListedStates, LocalSink, LocalSource, Metric, Namespace,
    Progress, PutOptions, RefName, ScanOptions, Source, Step, Token, Wait, WatchOptions,
};
use parking_lot::Mutex;
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::buffers::{BufferSource, check_names};
use crate::call::Call;
use crate::checkpoint::Checkpoint;
use crate::failure::{exception, invalid};
use crate::records;
use crate::runtime::{self, Own};
use crate::watch::Watch;
use crate::writer::Writer;

/// Where the cluster is, and who this program is there.
#[derive(FromPyObject, Clone)]
#[pyo3(from_item_all)]
struct Settings {
    endpoints: Vec<String>,
    key_file: Option<PathBuf>,
    authority_file: Option<PathBuf>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    cluster: Option<String>,
    rack: Option<String>,
    insecure: bool,
    deadline_seconds: Option<f64>,
}

/// Of a put, or of a file that is written.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct PutSettings {
    namespace: String,
    step: u64,
    part: u32,
    parts: u32,
    attempt: Option<u64>,
    job: String,
    client: String,
    replace: bool,
    labels: BTreeMap<String, String>,
    wait: String,
    wait_seconds: f64,
    allow_empty: bool,
    dry_run: bool,
    replicas: Option<u32>,
    write_quorum: Option<u32>,
}

impl PutSettings {
    fn options(self, py: Python<'_>, progress: Arc<Progress>) -> PyResult<PutOptions> {
        let namespace = parse(py, &self.namespace)?;
        let timeout = seconds(py, self.wait_seconds)?;
        let mut options = PutOptions::new(namespace, Step(self.step));
        (options.part, options.parts) = (self.part, self.parts);
        options.attempt = self.attempt.map(Attempt);
        (options.job, options.client) = (self.job, self.client);
        (options.replace, options.labels) = (self.replace, self.labels);
        (options.allow_empty, options.dry_run) = (self.allow_empty, self.dry_run);
        options.change.replicas = self.replicas;
        options.change.write_quorum = self.write_quorum;
        options.progress = progress;
        options.wait = match self.wait.as_str() {
            "quorum" => Wait::Quorum,
            "committed" => Wait::Committed { timeout },
            "full" => Wait::Full { timeout },
            other => {
                let text = format!("wait is {other:?}: expected quorum, committed or full");
                return Err(invalid(py, &text));
            }
        };
        Ok(options)
    }
}

/// A client that exists in this process.
struct Live {
    client: Client,
    /// Several endpoints were compared: they belong to one cluster.
    surveyed: OnceCell<()>,
}

impl Live {
    async fn client(&self) -> Result<&Client, ClientError> {
        let options = self.client.options();
        if options.cluster.is_none() && options.endpoints.len() > 1 {
            self.surveyed.get_or_try_init(|| self.client.survey()).await?;
        }
        Ok(&self.client)
    }
}

/// A client of one cluster. It contacts no node before the first call. In a child after a fork it
/// connects anew.
#[pyclass(module = "cairn._cairn", frozen)]
pub(crate) struct Core {
    settings: Settings,
    live: Mutex<Option<Own<Live>>>,
}

impl Core {
    fn live(&self, py: Python<'_>) -> PyResult<Arc<Live>> {
        let mut live = self.live.lock();
        if let Some(live) = live.as_ref().and_then(Own::get) {
            return Ok(live);
        }
        let made = Own::new(Live { client: self.connect(py)?, surveyed: OnceCell::new() });
        let found = made.get();
        *live = Some(made);
        found.ok_or_else(|| invalid(py, &"this process has another id than a moment ago"))
    }

    fn connect(&self, py: Python<'_>) -> PyResult<Client> {
        let runtime = runtime::handle(py)?;
        let _within = runtime.enter();
        let settings = self.settings.clone();
        let mut builder = Client::builder().endpoints(settings.endpoints);
        // The authority is in the key.
        builder = match (settings.key_file, settings.authority_file) {
            (Some(key), _) => builder.key_file(key),
            (None, Some(authority)) => builder.authority_file(authority),
            (None, None) => builder,
        };
        builder = match (settings.token, settings.token_file) {
            (Some(text), _) => match Token::from_text(&text) {
                Ok(token) => builder.token(token),
                Err(error) => return Err(invalid(py, &error)),
            },
            (None, Some(file)) => builder.token_file(file),
            (None, None) => builder,
        };
        if let Some(cluster) = &settings.cluster {
            builder = builder.cluster(parse::<cairn_client::ClusterId>(py, cluster)?);
        }
        if let Some(rack) = settings.rack {
            builder = builder.rack(rack);
        }
        if settings.insecure {
            builder = builder.insecure();
        }
        if let Some(deadline) = settings.deadline_seconds {
            builder = builder.deadline(seconds(py, deadline)?);
        }
        builder.build().map_err(|error| exception(py, &error))
    }

    /// A call that asks the cluster one thing.
    fn ask<T, F>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(Client) -> F + Send + 'static,
        convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Call>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ClientError>> + Send,
    {
        let live = self.live(py)?;
        let work = async move { work(live.client().await?.clone()).await };
        Call::start(py, work, convert)
    }

    fn put(
        &self,
        py: Python<'_>,
        settings: PutSettings,
        source: impl Future<Output = Result<Arc<dyn Source>, ClientError>> + Send + 'static,
    ) -> PyResult<Call> {
        let progress: Arc<Progress> = Arc::default();
        let options = settings.options(py, progress.clone())?;
        let work = move |client: Client| async move { client.put(source.await?, options).await };
        let call = self.ask(py, work, |py, report| object(py, records::Put::of(&report)))?;
        Ok(call.counted(Box::new(move || {
            let Progress { files_total, bytes_total, bytes_hashed, bytes_kept, .. } = &*progress;
            let acked = &progress.bytes_acked;
            numbers(&[files_total, bytes_total, bytes_hashed, bytes_kept, acked])
        })))
    }
}

#[pymethods]
impl Core {
    #[new]
    fn new(settings: Settings) -> Self {
        Self { settings, live: Mutex::new(None) }
    }

    /// Files and directories of this machine.
    fn put_paths(
        &self,
        py: Python<'_>,
        settings: PutSettings,
        paths: Vec<PathBuf>,
        prefix: Option<String>,
        links: &str,
    ) -> PyResult<Call> {
        let links = match links {
            "refuse" => Links::Refuse,
            "skip" => Links::Skip,
            "follow" => Links::Follow,
            other => {
                let text = format!("links is {other:?}: expected refuse, skip or follow");
                return Err(invalid(py, &text));
            }
        };
        let options = ScanOptions { prefix: prefix.map(String::into_bytes), links, exclude: None };
        let source = async move {
            let scan = move || LocalSource::scan_with(&paths, options);
            let source: Arc<dyn Source> = Arc::new(blocking(scan).await??);
            Ok(source)
        };
        self.put(py, settings, source)
    }

    /// Contents of Python objects, by file name.
    fn put_buffers(
        &self,
        py: Python<'_>,
        settings: PutSettings,
        files: BTreeMap<String, Bound<'_, PyAny>>,
    ) -> PyResult<Call> {
        let source: Arc<dyn Source> = Arc::new(BufferSource::new(files)?);
        check_names(&*source).map_err(|error| exception(py, &error))?;
        self.put(py, settings, async move { Ok(source) })
    }

    /// A checkpoint, or a part of one, with one file whose length is not known yet.
    fn writer(&self, py: Python<'_>, settings: PutSettings, file: String) -> PyResult<Call> {
        let options = settings.options(py, Arc::default())?;
        self.ask(
            py,
            move |client| async move { client.writer(options, file).await },
            |py, writer| object(py, Writer::new(writer)),
        )
    }

    /// `names`: these files, and those in these directories; all without names.
    #[pyo3(signature = (address, directory, names, overwrite, quarantined, verify_only))]
    #[allow(clippy::too_many_arguments, reason = "they are arguments of a Python method")]
    fn get(
        &self,
        py: Python<'_>,
        address: &str,
        directory: PathBuf,
        names: Option<Vec<String>>,
        overwrite: bool,
        quarantined: bool,
        verify_only: bool,
    ) -> PyResult<Call> {
        let address: Address = parse(py, address)?;
        let progress: Arc<GetProgress> = Arc::default();
        let mut options = GetOptions { overwrite, quarantined, verify_only, ..Default::default() };
        options.progress = progress.clone();
        if let Some(names) = names {
            options.include = Some(Box::new(move |file: &[u8]| {
                names.iter().any(|name| is_at_or_below(file, name.as_bytes()))
            }));
        }
        let work = move |client: Client| async move {
            let sink = blocking(move || LocalSink::open(&directory)).await??;
            client.get(&address, Arc::new(sink), options).await
        };
        let call = self.ask(py, work, |py, report| object(py, records::Get::of(&report)))?;
        Ok(call.counted(Box::new(move || {
            let GetProgress { files_total, bytes_total, files_done, bytes_kept, .. } = &*progress;
            numbers(&[files_total, bytes_total, files_done, bytes_kept, &progress.bytes_done])
        })))
    }

    fn resolve(&self, py: Python<'_>, address: &str) -> PyResult<Call> {
        let address: Address = parse(py, address)?;
        self.ask(
            py,
            move |client| async move { client.resolve(&address).await },
            |py, info| object(py, records::Checkpoint::of(&info)),
        )
    }

    fn open(&self, py: Python<'_>, address: &str, quarantined: bool) -> PyResult<Call> {
        let address: Address = parse(py, address)?;
        self.ask(
            py,
            move |client| async move { client.open(&address, quarantined).await },
            |py, opened| object(py, Checkpoint::new(opened)),
        )
    }

    /// Ascending by namespace and step; at most `limit`.
    fn list(
        &self,
        py: Python<'_>,
        prefix: Option<&str>,
        open: bool,
        deleted: bool,
        limit: Option<usize>,
    ) -> PyResult<Call> {
        let prefix = prefix.map(|text| parse::<Namespace>(py, text)).transpose()?;
        let states = ListedStates { open, deleted, ..ListedStates::COMMITTED };
        let options = ListOptions { prefix, filter: ListFilter::of(states) };
        let work = move |client: Client| async move {
            let mut stream = client.list_by(options);
            let mut found = Vec::new();
            while limit.is_none_or(|limit| found.len() < limit) {
                let Some(info) = stream.try_next().await? else { break };
                found.push(records::Checkpoint::of(&info));
            }
            Ok(found)
        };
        self.ask(py, work, |py, it| object(py, it))
    }

    fn refs(&self, py: Python<'_>, namespace: &str) -> PyResult<Call> {
        let namespace: Namespace = parse(py, namespace)?;
        self.ask(
            py,
            move |client| async move { client.refs(&namespace).await },
            |py, list| object(py, records::refs(&list)),
        )
    }

    fn set_ref(
        &self,
        py: Python<'_>,
        name: &str,
        address: &str,
        expect: Option<u64>,
        by: String,
    ) -> PyResult<Call> {
        let (name, address) = (parse::<RefName>(py, name)?, parse::<Address>(py, address)?);
        self.ask(
            py,
            move |client| async move { client.set_ref(&name, &address, expect, &by).await },
            |py, info| object(py, records::Checkpoint::of(&info)),
        )
    }

    fn remove_ref(
        &self,
        py: Python<'_>,
        namespace: &str,
        name: &str,
        expect: Option<u64>,
        by: String,
    ) -> PyResult<Call> {
        let (namespace, name) = (parse::<Namespace>(py, namespace)?, parse::<RefName>(py, name)?);
        self.ask(
            py,
            move |client| async move { client.remove_ref(&namespace, &name, expect, &by).await },
            |py, ()| Ok(py.None()),
        )
    }

    fn annotate(
        &self,
        py: Python<'_>,
        address: &str,
        labels: BTreeMap<String, String>,
        metrics: BTreeMap<String, f64>,
        remove: Vec<String>,
    ) -> PyResult<Call> {
        let address: Address = parse(py, address)?;
        let finite = |(name, value): (String, f64)| match Metric::new(value) {
            Some(metric) => Ok((name, metric)),
            None => {
                Err(invalid(py, &format!("metric {name} is {value}: expected a finite number")))
            }
        };
        let metrics = metrics.into_iter().map(finite).collect::<PyResult<_>>()?;
        let change = Annotation { labels, metrics, remove };
        self.ask(
            py,
            move |client| async move { client.annotate(&address, change).await },
            |py, info| object(py, records::Checkpoint::of(&info)),
        )
    }

    fn wait_for(&self, py: Python<'_>, address: &str, full: bool) -> PyResult<Call> {
        let address: Address = parse(py, address)?;
        self.ask(
            py,
            move |client| async move { client.wait_for(&address, full, |_| {}).await },
            |py, info| object(py, records::Checkpoint::of(&info)),
        )
    }

    fn watch(&self, py: Python<'_>, prefix: Option<&str>, from: Option<&str>) -> PyResult<Watch> {
        let prefix = prefix.map(|text| parse::<Namespace>(py, text)).transpose()?;
        let from = from.map(|text| parse::<cairn_client::EventId>(py, text)).transpose()?;
        Ok(Watch::new(self.live(py)?.client.watch(WatchOptions { prefix, from })))
    }

    fn delete(
        &self,
        py: Python<'_>,
        address: &str,
        now: bool,
        force: bool,
        by: String,
    ) -> PyResult<Call> {
        let address: Address = parse(py, address)?;
        let options = DeleteOptions { now, force };
        self.ask(
            py,
            move |client| async move { client.delete_as(&address, options, &by).await },
            |py, info| object(py, records::Checkpoint::of(&info)),
        )
    }

    fn abort(&self, py: Python<'_>, namespace: &str, step: u64, now: bool) -> PyResult<Call> {
        let namespace: Namespace = parse(py, namespace)?;
        self.ask(
            py,
            move |client| async move { client.abort_upload(&namespace, Step(step), now).await },
            |py, info| object(py, records::Checkpoint::of(&info)),
        )
    }

    fn undelete(&self, py: Python<'_>, namespace: &str, step: u64, by: String) -> PyResult<Call> {
        let namespace: Namespace = parse(py, namespace)?;
        self.ask(
            py,
            move |client| async move { client.undelete(&namespace, Step(step), &by).await },
            |py, info| object(py, records::Checkpoint::of(&info)),
        )
    }

    fn status(&self, py: Python<'_>) -> PyResult<Call> {
        self.ask(
            py,
            |client| async move { client.status().await },
            |py, status| object(py, records::Status::of(&status)),
        )
    }
}

/// Runs what blocks on a thread that may. An end of the process cancels it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ClientError> {
    Handle::current().spawn_blocking(work).await.map_err(|_| ClientError::Cancelled)
}

fn is_at_or_below(file: &[u8], name: &[u8]) -> bool {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(py: Python<'_>, text: &str) -> PyResult<T> {
    text.parse().map_err(|error| invalid(py, &error))
}

fn seconds(py: Python<'_>, seconds: f64) -> PyResult<Duration> {
    let problem = || invalid(py, &format!("{seconds} is no number of seconds"));
    Duration::try_from_secs_f64(seconds).map_err(|_| problem())
}

fn numbers(counters: &[&AtomicU64]) -> Vec<u64> {
    counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
}

/// A Python object of a value.
pub(crate) fn object<'py, T: IntoPyObject<'py>>(py: Python<'py>, value: T) -> PyResult<Py<PyAny>> {
    use pyo3::BoundObject;
    let made = value.into_pyobject(py).map_err(Into::into)?;
    Ok(made.into_any().unbind())
}
