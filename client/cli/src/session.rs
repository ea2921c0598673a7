//! One run of the binary: logging, key, runtime, client, signals.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context;
use cairn_client::builder::with_port;
use cairn_client::{Client, ClientBuilder, ClientError, SourceError};
use cairn_host::tls::{Authority, ClusterKey, KeyError};
use cairn_types::command::Refusal;
use cairn_types::ids::{Address, ClusterId};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::exit::{Exit, Failure};
use crate::global::{Global, LogFormat};
use crate::hints;
use crate::output::Output;
use crate::pin;
use crate::repeats::FewOf;
use crate::secret_file::warn_if_open;

pub struct Session {
    pub global: Global,
    pub output: Output,
}

impl Session {
    pub fn new(global: Global) -> Self {
        let output = Output { json: global.json, quiet: global.quiet };
        let session = Self { global, output };
        if session.global.log.is_some() {
            session.log_by_default("info");
        }
        session
    }

    /// The cluster key that the flags name. Read where it is needed only: a verb that talks to no
    /// cluster works whatever CAIRN_CLUSTER_KEY says.
    pub fn key(&self) -> Result<Option<ClusterKey>, Failure> {
        let path = self.global.cluster_key.as_deref().filter(|path| !path.as_os_str().is_empty());
        let Some(path) = path else { return Ok(None) };
        let key = ClusterKey::load(path).map_err(key_failure)?;
        warn_if_open(&self.output, path);
        Ok(Some(key))
    }

    /// The cluster's authority that the flags name: who has a token needs no key.
    fn authority(&self) -> Result<Option<Authority>, Failure> {
        let path = self.global.cluster_ca.as_deref().filter(|path| !path.as_os_str().is_empty());
        let authority = path.map(Authority::load).transpose();
        authority.map_err(|error| Failure::usage(error).with_hint("`cairn key ca` prints it"))
    }

    /// The addresses that the flags name, with ports.
    pub fn endpoints(&self) -> Result<Vec<String>, Failure> {
        let given = &self.global.endpoints;
        // A variable that is empty is as good as unset; `-e ""` is a script's mistake.
        if given.iter().all(String::is_empty)
            && std::env::var_os("CAIRN_ENDPOINTS").is_some_and(|value| value.is_empty())
        {
            return Ok(vec![crate::global::DEFAULT_ENDPOINT.to_owned()]);
        }
        given.iter().map(|text| endpoint(text)).collect()
    }

    /// Starts logging to stderr, at `level` unless `--log` says otherwise. Later calls do
    /// nothing.
    pub fn log_by_default(&self, level: &str) {
        let text = self.global.log.as_deref().unwrap_or(level);
        let filter = EnvFilter::try_new(text).unwrap_or_else(|_| EnvFilter::new(level));
        // A filter that is named by hand is not limited.
        let repeats = FewOf::unless(self.global.log.is_some());
        let filter = filter.and(repeats);
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let _ = match self.global.log_format {
            LogFormat::Text => tracing_subscriber::registry()
                .with(layer.with_ansi(false).with_filter(filter))
                .try_init(),
            LogFormat::Json => {
                tracing_subscriber::registry().with(layer.json().with_filter(filter)).try_init()
            }
        };
    }

    pub fn runtime(&self) -> Result<Runtime, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        Ok(runtime.context("start runtime")?)
    }

    /// A client of the cluster the flags name. Call within the runtime.
    pub fn client(&self) -> Result<Client, Failure> {
        self.client_of(&self.endpoints()?)
    }

    pub fn client_of(&self, endpoints: &[String]) -> Result<Client, Failure> {
        let (key, authority, token) = (self.key()?, self.authority()?, self.token()?);
        let cluster = self.cluster(key.as_ref())?;
        let builder = self.builder(endpoints, key.clone()).cluster(cluster).token(token);
        let builder = match authority.filter(|_| key.is_none()) {
            Some(authority) => builder.authority(authority),
            None => builder,
        };
        builder.build().map_err(client_failure)
    }

    /// Begins a client that holds `key` and keeps to the deadline and the `--insecure` of the flags.
    pub fn builder(
        &self,
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        key: Option<ClusterKey>,
    ) -> ClientBuilder {
        let timeout: Duration = self.global.timeout.into();
        let builder = Client::builder().endpoints(endpoints).key(key).deadline(timeout);
        if self.global.insecure { builder.insecure() } else { builder }
    }

    /// Runs `work` with a client until it is done or the user interrupts.
    pub fn with_client<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        self.with_client_or(work, client_failure)
    }

    /// The same of work about one checkpoint: errors name it by its address.
    pub fn with_client_about<T>(
        &self,
        address: &Address,
        work: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        self.with_client_or(work, |error| named_failure(error, address))
    }

    fn with_client_or<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
        failure: impl FnOnce(ClientError) -> Failure,
    ) -> Result<T, Failure> {
        self.runtime()?.block_on(async {
            let client = self.client()?;
            interruptible(async {
                self.survey(&client).await?;
                let result = work(&client).await.map_err(failure);
                self.remember(&client)?;
                result
            })
            .await
        })
    }

    /// The cluster that is meant: by `--cluster`, or by what is remembered beside the key.
    pub fn cluster(&self, key: Option<&ClusterKey>) -> Result<Option<ClusterId>, Failure> {
        match (self.global.cluster, &self.global.cluster_key, key) {
            (Some(id), ..) => Ok(Some(id)),
            (None, Some(path), Some(key)) => pin::read(path, &key.fingerprint()),
            _ => Ok(None),
        }
    }

    /// Where it is not known which cluster is meant: makes sure that the endpoints belong to one.
    pub async fn survey(&self, client: &Client) -> Result<(), Failure> {
        match client.options().cluster {
            None if client.options().endpoints.len() > 1 => {
                client.survey().await.map_err(client_failure)
            }
            _ => Ok(()),
        }
    }

    /// Remembers which cluster answered, beside the key.
    pub fn remember(&self, client: &Client) -> Result<(), Failure> {
        // One that was named or remembered before need not have answered.
        match client.cluster().filter(|_| client.options().cluster.is_none()) {
            Some(cluster) => self.rememberer().map(|remember| remember(cluster)),
            None => Ok(()),
        }
    }

    /// What remembers a cluster beside the key, if there is a key and nothing is remembered.
    pub fn rememberer(&self) -> Result<impl FnOnce(ClusterId) + Send + 'static, Failure> {
        let key = self.global.cluster_key.clone().zip(self.key()?);
        Ok(move |cluster| {
            if let Some((path, key)) = key {
                pin::remember(&path, &key.fingerprint(), cluster);
            }
        })
    }
}

pub fn key_failure(error: KeyError) -> Failure {
    Failure::usage(&error).with_hint("`cairn key new FILE` makes a key")
}

/// An address as people give it: `HOST` or `HOST:PORT`.
pub fn endpoint(text: &str) -> Result<String, Failure> {
    match with_port(text) {
        Some(address) => Ok(address),
        None if text.trim().is_empty() => Err(Failure::usage("an address is empty")
            .with_hint("expected HOST:PORT; separate several addresses by single commas")),
        None => Err(Failure::usage(format!(
            "malformed address {:?}: expected HOST or HOST:PORT, such as node1:7400 or [::1]:7400",
            text.trim()
        ))),
    }
}

/// Ends `work` when the user interrupts.
pub async fn interruptible<T>(
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let stop = stop_signal().context("listen for signals")?;
    tokio::pin!(work, stop);
    tokio::select! {
        biased;
        () = &mut stop => Err(Failure::new(Exit::Interrupted, anyhow::anyhow!("interrupted"))),
        result = &mut work => result,
    }
}

/// Resolves at the first SIGTERM, SIGINT, or SIGHUP (the terminal is gone).
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = match *HANGUP_IS_IGNORED {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = async {
                match &mut hangup {
                    Some(hangup) => { hangup.recv().await; }
                    None => std::future::pending().await,
                }
            } => {}
        }
    })
}

/// Whether this process was started to outlive its terminal, by `nohup`. Looked up once, before
/// the first handler takes the place of what was inherited.
static HANGUP_IS_IGNORED: LazyLock<bool> = LazyLock::new(|| {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Bit 0 is signal 1, SIGHUP.
    mask.is_some_and(|mask| mask & 1 != 0)
});

/// Resolves when stdin closes. The process that started this one holds the other end, so this
/// tells of its end, however it came about.
#[allow(clippy::disallowed_methods, reason = "the thread only waits for stdin, outside the node")]
pub async fn stdin_closed() {
    let (closed, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = closed.send(());
    });
    let _ = told.await;
}

/// The same of a verb about one checkpoint: a refusal that knows its id only says its name.
pub fn named_failure(error: ClientError, address: &Address) -> Failure {
    let id = match &error {
        ClientError::Refused(
            Refusal::UnknownCheckpoint(id)
            | Refusal::NotOpen(id)
            | Refusal::NotInTrash(id)
            | Refusal::Protected { checkpoint: id, .. }
            | Refusal::Quarantined { checkpoint: id, .. },
        ) => Some(*id),
        _ => None,
    };
    let text = error.to_string();
    let failure = client_failure(error);
    let Some(id) = id else { return failure };
    let text = text.replacen(&format!("checkpoint {id}"), &address.to_string(), 1);
    Failure { error: anyhow::Error::msg(text), ..failure }
}

/// A client error with its exit code and hint.
pub fn client_failure(error: ClientError) -> Failure {
    let exit = match &error {
        ClientError::Setup(_) => Exit::Usage,
        ClientError::Unreachable { .. }
        | ClientError::NotACluster { .. }
        | ClientError::OtherCluster { .. }
        | ClientError::Incompatible { .. }
        | ClientError::Timeout { .. }
        | ClientError::Busy { .. } => Exit::Unreachable,
        ClientError::Refused(
            Refusal::NoSuchCheckpoint { .. }
            | Refusal::UnknownCheckpoint(_)
            | Refusal::NoSuchRef { .. }
            | Refusal::NoSuchHold { .. },
        ) => Exit::NotFound,
        ClientError::NoSuchFile { .. }
        | ClientError::NoSuchRecord { .. }
        | ClientError::Deleted { .. } => Exit::NotFound,
        ClientError::Refused(Refusal::Malformed(_) | Refusal::NoBestMetric { .. }) => Exit::Usage,
        ClientError::Source(SourceError::Empty) | ClientError::PartWithoutAttempt => Exit::Usage,
        ClientError::UploadOver { .. } | ClientError::NoSpace { .. } => Exit::Refused,
        ClientError::Refused(_) => Exit::Refused,
        ClientError::Damaged { .. } => Exit::Damaged,
        _ => Exit::Failed,
    };
    let hint = hints::hint(&error);
    Failure { exit, error: error.into(), hint }
}
