//! One run of the binary: logging, key, runtime, client, signals.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use cairn_client::{Client, ClientError, ClientOptions};
use cairn_core::command::Refusal;
use cairn_proto::dial::TcpDialer;
use cairn_proto::host::TokioHost;
use cairn_proto::seam::Env;
use cairn_proto::tls::ClusterKey;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::args::{Global, LogFormat};
use crate::exit::{Exit, Failure};
use crate::output::Output;

pub struct Session {
    pub global: Global,
    pub output: Output,
    pub key: Option<ClusterKey>,
}

impl Session {
    pub fn new(global: Global) -> Result<Self, Failure> {
        let key = match &global.cluster_key {
            Some(path) => Some(ClusterKey::load(path).map_err(|error| {
                Failure::usage(error).with_hint("`cairn key new FILE` makes a key")
            })?),
            None => None,
        };
        let output = Output { json: global.json, quiet: global.quiet };
        let session = Self { global, output, key };
        if session.global.log.is_some() {
            session.log_by_default("info");
        }
        Ok(session)
    }

    /// Starts logging to stderr, at `level` unless `--log` says otherwise. Later calls do
    /// nothing.
    pub fn log_by_default(&self, level: &str) {
        let text = self.global.log.as_deref().unwrap_or(level);
        let filter = EnvFilter::try_new(text).unwrap_or_else(|_| EnvFilter::new(level));
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let _ = match self.global.log_format {
            LogFormat::Text => builder.with_ansi(false).try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
    }

    pub fn runtime(&self) -> Result<Runtime, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        Ok(runtime.context("start runtime")?)
    }

    /// A client of the cluster the flags name. Call within the runtime.
    pub fn client(&self) -> Result<Client, Failure> {
        self.client_of(&self.global.endpoints)
    }

    pub fn client_of(&self, endpoints: &[String]) -> Result<Client, Failure> {
        if self.key.is_none()
            && !self.global.insecure
            && let Some(endpoint) = endpoints.iter().find(|endpoint| !is_loopback(endpoint))
        {
            return Err(Failure::usage(format!("{endpoint} is not loopback, and no key is given"))
                .with_hint("give --cluster-key FILE, or --insecure if you must"));
        }
        let env = self.env()?;
        let mut options = ClientOptions::new(endpoints.to_vec());
        options.deadline = Some(self.global.timeout.into());
        Ok(Client::new(env, options))
    }

    /// Production surroundings. Call within the runtime.
    pub fn env(&self) -> Result<Env, Failure> {
        let host = TokioHost::new(tokio::runtime::Handle::current()).context("start threads")?;
        Ok(Env { runtime: host, dialer: Arc::new(TcpDialer::new(self.key.clone())) })
    }

    /// Runs `work` with a client until it is done or the user interrupts.
    pub fn with_client<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        self.runtime()?.block_on(async {
            let client = self.client()?;
            interruptible(async { work(&client).await.map_err(client_failure) }).await
        })
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

/// Resolves at the first SIGTERM or SIGINT.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn is_loopback(endpoint: &str) -> bool {
    if let Ok(address) = endpoint.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A client error with its exit code and hint.
pub fn client_failure(error: ClientError) -> Failure {
    let exit = match &error {
        ClientError::Unreachable { .. }
        | ClientError::NotACluster { .. }
        | ClientError::OtherCluster { .. }
        | ClientError::Incompatible { .. }
        | ClientError::Timeout { .. } => Exit::Unreachable,
        ClientError::Refused(Refusal::NoSuchCheckpoint { .. } | Refusal::UnknownCheckpoint(_)) => {
            Exit::NotFound
        }
        ClientError::NoSuchFile { .. } => Exit::NotFound,
        ClientError::Refused(Refusal::Malformed(_)) => Exit::Usage,
        ClientError::Refused(_) => Exit::Refused,
        ClientError::Damaged { .. } => Exit::Damaged,
        _ => Exit::Failed,
    };
    let hint = error.hint();
    Failure { exit, error: error.into(), hint }
}
