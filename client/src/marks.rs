//! Refs, holds, quarantine and rollback: marks that people and jobs set on checkpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_proto::wire;
use cairn_types::command::{self, Body, Reply};
use cairn_types::convert;
use cairn_types::ids::{Address, CheckpointId, Namespace, RefName, Selector, Step};
use cairn_types::limits::HOLDS_TOTAL_MAX;
use cairn_types::marks::{Hold, NamedRef};
use cairn_types::model::CheckpointInfo;

use crate::answers;
use crate::catalogue::malformed;
use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// The refs of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefList {
    /// By name. Includes removed ones, with their history.
    pub refs: Vec<NamedRef>,
    /// The steps of their current and former targets that are not deleted.
    pub steps: BTreeMap<CheckpointId, Step>,
}

/// A hold and its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedHold {
    pub checkpoint: CheckpointId,
    pub namespace: Namespace,
    pub step: Step,
    pub hold: Hold,
}

impl ListedHold {
    pub fn new(info: &CheckpointInfo, hold: Hold) -> Self {
        let (checkpoint, namespace, step) = (info.id, info.namespace.clone(), info.step);
        Self { checkpoint, namespace, step, hold }
    }
}

/// The result of a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RollbackReport {
    /// The current `latest`, unless another checkpoint of an earlier step was committed later.
    pub checkpoint: CheckpointInfo,
    /// Commits of later steps that were put into quarantine.
    pub quarantined: u64,
    /// Open uploads of later steps that were aborted.
    pub aborted: u64,
}

impl Client {
    /// Points the ref `name` of the address's namespace at the checkpoint that the address names
    /// now. `expect` is the generation that the ref must have, 0 if it must not exist. `by` names
    /// the person or program that moves it. Returns the new target.
    ///
    /// # Errors
    ///
    /// [`Refusal::RefMoved`](command::Refusal::RefMoved) if the generation differs,
    /// [`Refusal::Quarantined`](command::Refusal::Quarantined) for a checkpoint in quarantine.
    pub fn set_ref<'a>(
        &'a self,
        name: &'a RefName,
        address: &'a Address,
        expect: Option<u64>,
        by: &'a str,
    ) -> Answer<'a, CheckpointInfo> {
        Box::pin(async move {
            let info = self.resolve(address).await?;
            let command = command::SetRef {
                namespace: info.namespace.clone(),
                name: name.clone(),
                checkpoint: Some(info.id),
                expect,
                by: by.to_owned(),
            };
            self.execute(command.into(), Duration::ZERO).await?;
            Ok(self.as_it_is_now(info).await)
        })
    }

    /// The current record of a checkpoint that was just changed. If it was deleted or replaced just
    /// after, or no node answers, returns the earlier record. The change was made in any case.
    async fn as_it_is_now(&self, before: CheckpointInfo) -> CheckpointInfo {
        let (namespace, selector) = (before.namespace.clone(), Selector::Step(before.step));
        match self.resolve(&Address { namespace, selector }).await {
            Ok(info) if info.id == before.id => info,
            _ => before,
        }
    }

    /// Removes a ref. Its target stays. Parameters and errors as for [`Client::set_ref`], and
    /// [`Refusal::NoSuchRef`](command::Refusal::NoSuchRef).
    pub async fn remove_ref(
        &self,
        namespace: &Namespace,
        name: &RefName,
        expect: Option<u64>,
        by: &str,
    ) -> Result<(), ClientError> {
        let (namespace, name, by) = (namespace.clone(), name.clone(), by.to_owned());
        let command = command::SetRef { namespace, name, checkpoint: None, expect, by };
        self.execute(command.into(), Duration::ZERO).await.map(drop)
    }

    /// The refs of a namespace with the last moves of each.
    pub fn refs<'a>(&'a self, namespace: &'a Namespace) -> Answer<'a, RefList> {
        Box::pin(async move {
            let reply = self
                .read("list refs", |mut stub, identity, deadline_ms| {
                    let namespace = namespace.to_string();
                    let message = wire::ListRefsRequest { namespace, deadline_ms };
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.list_refs(request).await })
                })
                .await?;
            let wrong = |problem: String| malformed("list refs", problem);
            let refs = reply.refs.into_iter().map(convert::ref_from_wire);
            let refs = refs.collect::<Result<Vec<_>, _>>().map_err(|it| wrong(it.to_string()))?;
            answers::named(&refs).map_err(wrong)?;
            let steps = reply.steps.iter().map(|it| (CheckpointId(it.checkpoint), Step(it.step)));
            Ok(RefList { refs, steps: steps.collect() })
        })
    }

    /// Protects the checkpoint that an address names now from deletion, for a time or until the
    /// hold is released. A second hold of the same owner replaces the first.
    pub async fn add_hold(
        &self,
        address: &Address,
        owner: &str,
        reason: &str,
        lasts: Option<Duration>,
    ) -> Result<CheckpointInfo, ClientError> {
        let info = self.resolve(address).await?;
        let checkpoint = info.id;
        let in_ms = |it: Duration| u64::try_from(it.as_nanos().div_ceil(1_000_000));
        let for_ms = lasts.map(|it| in_ms(it).unwrap_or(u64::MAX));
        let (owner, reason) = (owner.to_owned(), reason.to_owned());
        let command = command::AddHold { checkpoint, owner, reason, for_ms };
        self.execute(command.into(), Duration::ZERO).await?;
        Ok(self.as_it_is_now(info).await)
    }

    /// Ends an owner's hold on the checkpoint an address names now.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchHold`](command::Refusal::NoSuchHold)
    pub async fn release_hold(
        &self,
        address: &Address,
        owner: &str,
    ) -> Result<CheckpointInfo, ClientError> {
        let info = self.resolve(address).await?;
        let command = command::ReleaseHold { checkpoint: info.id, owner: owner.to_owned() };
        self.execute(command.into(), Duration::ZERO).await?;
        Ok(self.as_it_is_now(info).await)
    }

    /// Active holds on checkpoints of a namespace and those below it. Without a namespace, all
    /// active holds.
    pub async fn holds(&self, prefix: Option<&Namespace>) -> Result<Vec<ListedHold>, ClientError> {
        let mut all: Vec<ListedHold> = Vec::new();
        loop {
            let last = all.last();
            let message = wire::ListHoldsRequest {
                prefix: prefix.map(ToString::to_string).unwrap_or_default(),
                deadline_ms: 0,
                after_checkpoint: last.map_or(0, |last| last.checkpoint.0),
                after_owner: last.map(|last| last.hold.owner.clone()).unwrap_or_default(),
            };
            let reply = self
                .read("list holds", |mut stub, identity, deadline_ms| {
                    let message = wire::ListHoldsRequest { deadline_ms, ..message.clone() };
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.list_holds(request).await })
                })
                .await?;
            // A page without entries that claims more would cause an endless loop.
            let more = reply.more && !reply.holds.is_empty();
            for listed in reply.holds {
                let wrong = |problem: String| malformed("list holds", problem);
                let hold = listed_hold(listed).map_err(wrong)?;
                answers::held(prefix, all.last(), &hold).map_err(wrong)?;
                all.push(hold);
            }
            if !more || all.len() >= HOLDS_TOTAL_MAX {
                return Ok(all);
            }
        }
    }

    /// Marks the checkpoint that an address names now as unusable, with a reason. `latest` and
    /// addresses by time skip it. A restore of it needs
    /// [`GetOptions::quarantined`](crate::GetOptions).
    pub async fn quarantine(
        &self,
        address: &Address,
        reason: &str,
        by: &str,
    ) -> Result<CheckpointInfo, ClientError> {
        self.set_quarantine(address, false, reason, by).await
    }

    /// Takes a checkpoint out of quarantine and removes the reason. `by` is written to the log.
    pub async fn lift_quarantine(
        &self,
        address: &Address,
        by: &str,
    ) -> Result<CheckpointInfo, ClientError> {
        self.set_quarantine(address, true, "", by).await
    }

    async fn set_quarantine(
        &self,
        address: &Address,
        lift: bool,
        reason: &str,
        by: &str,
    ) -> Result<CheckpointInfo, ClientError> {
        let info = self.resolve(address).await?;
        let (reason, by) = (reason.to_owned(), by.to_owned());
        let command = command::SetQuarantine { checkpoint: info.id, lift, reason, by };
        self.execute(command.into(), Duration::ZERO).await?;
        Ok(self.as_it_is_now(info).await)
    }

    /// Quarantines all commits of later steps than the address names, and aborts open uploads of
    /// later steps, in one entry of the log. Their steps may be written again.
    ///
    /// # Errors
    ///
    /// [`Refusal::Quarantined`](command::Refusal::Quarantined) if the target of the rollback is in
    /// quarantine itself. [`Refusal::Malformed`](command::Refusal::Malformed) if more than 16,384
    /// checkpoints would change.
    pub async fn roll_back(
        &self,
        address: &Address,
        reason: &str,
        by: &str,
    ) -> Result<RollbackReport, ClientError> {
        let checkpoint = self.resolve(address).await?;
        let (reason, by) = (reason.to_owned(), by.to_owned());
        let body = Body::from(command::Rollback { checkpoint: checkpoint.id, reason, by });
        match self.execute(body, Duration::ZERO).await? {
            Reply::RolledBack { quarantined, aborted } => {
                Ok(RollbackReport { checkpoint, quarantined, aborted })
            }
            other => Err(malformed("roll back", format!("{other:?}"))),
        }
    }
}

fn listed_hold(listed: wire::ListedHold) -> Result<ListedHold, String> {
    let hold = listed.hold.ok_or("a hold without a body")?;
    Ok(ListedHold {
        checkpoint: CheckpointId(listed.checkpoint),
        namespace: listed.namespace.parse().map_err(|error| format!("{error}"))?,
        step: Step(listed.step),
        hold: convert::hold_from_wire(hold).map_err(|error| error.to_string())?,
    })
}
