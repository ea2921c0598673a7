//! Deleting and undeleting a checkpoint, aborting an open upload, and ending the grace of deleted
//! records early.
//!
//! One step may have all three kinds of records at once. So each kind has its own method, and no
//! method affects a record of another kind.

use std::time::Duration;

use cairn_types::command::{self, Body, DeleteReason, Refusal};
use cairn_types::ids::{Address, CheckpointId, Namespace, Selector, Step};
use cairn_types::listing::{ListFilter, ListedStates};
use cairn_types::model::{CheckpointInfo, CheckpointState};

use crate::cluster::Client;
use crate::error::ClientError;
use crate::listing::ListOptions;

/// Records of a step on one page. A step has fewer, unless it is put and deleted in a loop.
const STEP_RECORDS: u32 = 64;

/// How a checkpoint is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Frees its space without the grace.
    pub now: bool,
    /// Deletes it even if refs or holds protect it. Refs to it then have no target.
    pub force: bool,
}

impl Client {
    /// The target of [`Client::delete`]: the checkpoint that an address names. If none is
    /// committed, the open upload of its step.
    pub async fn deletable(&self, address: &Address) -> Result<CheckpointInfo, ClientError> {
        let missing = match self.resolve(address).await {
            Err(error) if matches!(error.refusal(), Some(Refusal::NoSuchCheckpoint { .. })) => {
                error
            }
            other => return other,
        };
        let Selector::Step(step) = address.selector else { return Err(missing) };
        self.find_open(&address.namespace, step).await?.ok_or(missing)
    }

    /// Like [`Client::deletable`], but refused if refs or holds protect it and the options do not
    /// force it.
    pub async fn deletable_with(
        &self,
        address: &Address,
        options: DeleteOptions,
    ) -> Result<CheckpointInfo, ClientError> {
        let info = self.deletable(address).await?;
        let by = info.kept_by();
        match options.force || info.state != CheckpointState::Committed || by.is_empty() {
            true => Ok(info),
            false => {
                let checkpoint = info.id;
                Err(ClientError::Refused(Refusal::Protected { checkpoint, by }))
            }
        }
    }

    /// Deletes the checkpoint that an address names, or aborts the open upload of its step if none
    /// is committed. `now` frees its space without the grace.
    pub async fn delete(
        &self,
        address: &Address,
        now: bool,
    ) -> Result<CheckpointInfo, ClientError> {
        self.delete_with(address, DeleteOptions { now, ..DeleteOptions::default() }).await
    }

    /// Like [`Client::delete`], also for a checkpoint that refs or holds protect, if the options
    /// force it.
    pub async fn delete_with(
        &self,
        address: &Address,
        options: DeleteOptions,
    ) -> Result<CheckpointInfo, ClientError> {
        self.delete_as(address, options, "").await
    }

    /// Like [`Client::delete_with`]. `by` names the person or program that deletes it, for people.
    /// A cluster with nodes of an older build does not store it.
    pub async fn delete_as(
        &self,
        address: &Address,
        options: DeleteOptions,
        by: &str,
    ) -> Result<CheckpointInfo, ClientError> {
        let info = self.deletable(address).await?;
        match self.delete_record(info.id, options, by).await {
            Err(ClientError::Refused(Refusal::FeatureLevel { .. })) if !by.is_empty() => {
                self.delete_record(info.id, options, "").await?;
            }
            other => other?,
        }
        Ok(info)
    }

    /// Restores the checkpoint of a step that was deleted last, if it is in the trash: it was
    /// committed, its grace runs, and it was not deleted with `now`. `by` names the person or
    /// program that asks.
    pub async fn undelete(
        &self,
        namespace: &Namespace,
        step: Step,
        by: &str,
    ) -> Result<CheckpointInfo, ClientError> {
        let found = self.undeletable(namespace, step).await?;
        let (checkpoint, by) = (found.id, by.to_owned());
        let body = Body::Undelete(command::Undelete { checkpoint, by });
        self.execute(body, Duration::ZERO).await?;
        let (namespace, selector) = (namespace.clone(), Selector::Step(step));
        self.resolve(&Address { namespace, selector }).await
    }

    /// The target of [`Client::undelete`].
    pub async fn undeletable(
        &self,
        namespace: &Namespace,
        step: Step,
    ) -> Result<CheckpointInfo, ClientError> {
        let mut found = self.deleted(namespace, step).await?;
        // First those that cannot be undeleted, then the others, each in the order of their
        // deletion.
        found.sort_by_key(|info| {
            let deletion = info.deletion.as_ref();
            deletion.map(|it| (it.restorable_ms > 0, it.wall_ms, info.id))
        });
        match found.pop() {
            Some(last) if last.deletion.as_ref().is_some_and(|it| it.restorable_ms > 0) => Ok(last),
            Some(last) => Err(ClientError::Refused(Refusal::NotInTrash(last.id))),
            None => Err(no_record(namespace, step, "deleted checkpoint whose grace runs")),
        }
    }

    /// The open upload of a step, even if the step has a committed checkpoint.
    pub async fn open_upload(
        &self,
        namespace: &Namespace,
        step: Step,
    ) -> Result<CheckpointInfo, ClientError> {
        let found = self.find_open(namespace, step).await?;
        found.ok_or_else(|| no_record(namespace, step, "open upload"))
    }

    /// Aborts the open upload of a step. Never deletes its committed checkpoint.
    pub async fn abort_upload(
        &self,
        namespace: &Namespace,
        step: Step,
        now: bool,
    ) -> Result<CheckpointInfo, ClientError> {
        let info = self.open_upload(namespace, step).await?;
        self.delete_record(info.id, DeleteOptions { now, ..DeleteOptions::default() }, "").await?;
        Ok(info)
    }

    /// The deleted records of a step whose grace runs, oldest first. An error if there are none.
    pub async fn deleted(
        &self,
        namespace: &Namespace,
        step: Step,
    ) -> Result<Vec<CheckpointInfo>, ClientError> {
        let found = self
            .records(namespace, step, ListedStates { deleted: true, ..ListedStates::NONE })
            .await?;
        match found.is_empty() {
            true => Err(no_record(namespace, step, "deleted checkpoint whose grace runs")),
            false => Ok(found),
        }
    }

    /// Ends the grace of all deleted records of a step ([`Client::deleted`]): their space is freed
    /// now. Its committed checkpoint and its open upload are not affected.
    pub async fn free_deleted(
        &self,
        namespace: &Namespace,
        step: Step,
    ) -> Result<Vec<CheckpointInfo>, ClientError> {
        let found = self.deleted(namespace, step).await?;
        for info in &found {
            let options = DeleteOptions { now: true, ..DeleteOptions::default() };
            match self.delete_record(info.id, options, "").await {
                // Its grace ended in the meantime.
                Err(ClientError::Refused(Refusal::UnknownCheckpoint(_))) => {}
                other => other?,
            }
        }
        Ok(found)
    }

    async fn find_open(
        &self,
        namespace: &Namespace,
        step: Step,
    ) -> Result<Option<CheckpointInfo>, ClientError> {
        let states = ListedStates { open: true, ..ListedStates::NONE };
        Ok(self.records(namespace, step, states).await?.into_iter().next())
    }

    /// The records of a step, by id.
    async fn records(
        &self,
        namespace: &Namespace,
        step: Step,
        states: ListedStates,
    ) -> Result<Vec<CheckpointInfo>, ClientError> {
        let filter = ListFilter::of(states);
        let options = ListOptions { filter, ..ListOptions::below(namespace.clone()) };
        let mut found: Vec<CheckpointInfo> = Vec::new();
        let mut after = (namespace.clone(), step, CheckpointId(0));
        loop {
            let page = self.list_page(&options, Some(&after), STEP_RECORDS).await?;
            let is_of_step =
                |info: &CheckpointInfo| info.namespace == *namespace && info.step == step;
            found.extend(page.checkpoints.into_iter().filter(is_of_step));
            match page.next {
                Some(next) if next.0 == *namespace && next.1 == step => after = next,
                _ => return Ok(found),
            }
        }
    }

    async fn delete_record(
        &self,
        checkpoint: CheckpointId,
        options: DeleteOptions,
        by: &str,
    ) -> Result<(), ClientError> {
        let by = by.to_owned();
        let (reason, DeleteOptions { now, force }) = (DeleteReason::Asked, options);
        let policy_version = None;
        let body =
            Body::Delete(command::Delete { checkpoint, reason, now, force, policy_version, by });
        self.execute(body, Duration::ZERO).await.map(drop)
    }
}

fn no_record(namespace: &Namespace, step: Step, what: &'static str) -> ClientError {
    ClientError::NoSuchRecord { address: format!("{namespace}@{step}"), what }
}
