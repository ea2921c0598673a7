//! Refs, holds, quarantine and rollback, for the client of a story.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_client::{Annotation, Client, ClientError};
use cairn_types::command;
use cairn_types::ids::{Address, Attempt, RefName, Selector, Step};
use cairn_types::model::Metric;
use tokio::task::JoinHandle;

use super::{Stage, Told, address, finish};

/// A running request of the client.
pub(super) type Asked<T> = JoinHandle<Told<Result<T, ClientError>>>;

impl Stage {
    pub(super) fn ask<T, Fut>(&self, ask: impl FnOnce(Client) -> Fut) -> Told<Asked<T>>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, ClientError>> + Send + 'static,
    {
        let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let asked = ask(sdk);
        Ok(parts.life.spawn(async move { Ok(asked.await) }))
    }

    pub(super) async fn done<T, Fut>(&self, what: &str, ask: impl FnOnce(Client) -> Fut) -> Told<T>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, ClientError>> + Send + 'static,
    {
        let ended = finish(self.ask(ask)?, what).await?;
        ended.map_err(|error| format!("{what}: {error}"))
    }

    pub async fn hold(&self, step: u64, owner: &'static str, lasts: Option<Duration>) -> Told {
        let address = address(step)?;
        self.done("hold", |sdk| async move {
            sdk.add_hold(&address, owner, "story", lasts).await.map(drop)
        })
        .await
    }

    pub async fn annotate(&self, step: u64, metric: &str, value: f64) -> Told {
        let address = address(step)?;
        let value = Metric::new(value).ok_or("a metric is finite")?;
        let metrics = [(metric.to_owned(), value)].into();
        let change = Annotation { metrics, ..Annotation::default() };
        let annotate = |sdk: Client| async move { sdk.annotate(&address, change).await.map(drop) };
        self.done("annotate", annotate).await
    }

    pub async fn release(&self, step: u64, owner: &'static str) -> Told {
        let address = address(step)?;
        let release =
            |sdk: Client| async move { sdk.release_hold(&address, owner).await.map(drop) };
        self.done("release of a hold", release).await
    }

    /// Begins to move a ref from a generation to a step.
    pub fn begin_move(&self, name: &RefName, step: u64, expect: u64) -> Told<Asked<()>> {
        let (name, address) = (name.clone(), address(step)?);
        self.ask(
            |sdk| async move { sdk.set_ref(&name, &address, Some(expect), "c1").await.map(drop) },
        )
    }

    /// Returns the numbers of quarantined commits and of aborted uploads.
    pub async fn roll_back(&self, step: u64) -> Told<(u64, u64)> {
        let address = address(step)?;
        let rollback = |sdk: Client| async move { sdk.roll_back(&address, "spike", "c1").await };
        let report = self.done("rollback", rollback).await?;
        Ok((report.quarantined, report.aborted))
    }

    /// Begins an upload of one part under this attempt, without data.
    pub async fn begin_attempt(&self, step: u64, attempt: u64) -> Told<Result<(), ClientError>> {
        finish(self.ask_to_begin(step, attempt)?, "begin").await
    }

    /// The same, for a caller that waits for it later or never.
    pub fn ask_to_begin(&self, step: u64, attempt: u64) -> Told<Asked<()>> {
        let begin = command::Begin {
            namespace: address(step)?.namespace,
            step: Step(step),
            parts: 1,
            attempt: Some(Attempt(attempt)),
            change: self.policy.clone(),
            replace: false,
            labels: BTreeMap::new(),
            client: "c1".to_owned(),
            job: String::new(),
        };
        let begin =
            |sdk: Client| async move { sdk.execute(begin.into(), Duration::ZERO).await.map(drop) };
        self.ask(begin)
    }

    /// The step of a selector, by a linearizable read.
    pub async fn resolved(&self, selector: Selector) -> Told<u64> {
        let address = Address { selector, ..address(0)? };
        let resolve = |sdk: Client| async move { sdk.resolve(&address).await };
        Ok(self.done("resolve", resolve).await?.step.0)
    }

    /// Gets a step and returns the error.
    pub async fn get_fails(&mut self, step: u64) -> Told<ClientError> {
        let getting = self.begin_get(step)?;
        match finish(getting.task, "get").await? {
            Ok(()) => Err(format!("a get of step {step} succeeded")),
            Err(error) => Ok(error),
        }
    }
}
