//! Policies of namespaces, the source of each rule, and plans of retention.

use std::time::Duration;

use cairn_proto::wire;
use cairn_types::command::{self, Body};
use cairn_types::convert;
use cairn_types::ids::{CheckpointId, Namespace, Step};
use cairn_types::model::{OwnPolicy, PolicyChange};
use cairn_types::policy::{FullPolicy, PolicyField};
use cairn_types::retention::RetentionChange;

use crate::catalogue::malformed;
use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// A change of a namespace's own policy: first some rules are removed, so that they come from the
/// namespaces above it, then others are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyEdit {
    pub change: PolicyChange,
    pub retention: RetentionChange,
    pub unset: Vec<PolicyField>,
}

/// The policy in force for a namespace, and the source of each rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShownPolicy {
    /// The own policies of the namespaces above it and of itself, from the top.
    pub said: Vec<(Namespace, OwnPolicy)>,
    /// Log index of the last change of any of them. Zero if there was none.
    pub policy_version: u64,
    /// Checkpoints that a confirmation still allows retention to delete.
    pub confirmed: u64,
}

impl ShownPolicy {
    pub fn effective(&self) -> FullPolicy {
        self.said.iter().fold(FullPolicy::default(), |policy, (_, own)| policy.below(own))
    }

    /// The namespace that sets a rule. `None` if it is the default.
    pub fn from(&self, field: PolicyField) -> Option<&Namespace> {
        self.said.iter().rev().find(|(_, own)| own.says(field)).map(|(name, _)| name)
    }
}

/// The result of retention for a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPlan {
    pub policy_version: u64,
    /// The wall clock at which it was evaluated, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The number of checkpoints that it would delete, and the bytes of segments that this frees.
    pub let_go: u64,
    pub bytes_freed: u64,
    /// Whether the number is so large that it needs a confirmation, and the confirmed number.
    pub large: bool,
    pub confirmed: u64,
    /// Every committed checkpoint, newest first.
    pub checkpoints: Vec<PlannedCheckpoint>,
}

impl RetentionPlan {
    /// Whether nothing is deleted until a confirmation.
    pub fn waits(&self) -> bool {
        self.large && self.confirmed == 0
    }
}

/// One checkpoint in a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedCheckpoint {
    pub id: CheckpointId,
    pub step: Step,
    pub commit_index: u64,
    pub commit_wall_ms: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// The reasons to keep it. Empty if it is deleted.
    pub reasons: Vec<KeptReason>,
    /// Bytes freed by its deletion once all older deleted ones are gone.
    pub frees: u64,
}

impl PlannedCheckpoint {
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// A rule that keeps a checkpoint, and its values: the bucket, the name, the number. Durations and
/// times are in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptReason {
    pub rule: String,
    pub detail: String,
}

impl Client {
    /// The policy of a namespace, and the namespace that sets each rule.
    pub fn show_policy<'a>(&'a self, namespace: &'a Namespace) -> Answer<'a, ShownPolicy> {
        Box::pin(async move {
            let reply = self
                .read("show policy", |mut stub, identity, deadline_ms| {
                    let namespace = namespace.to_string();
                    let message = wire::ShowPolicyRequest { namespace, deadline_ms };
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.show_policy(request).await })
                })
                .await?;
            let said = |sent: wire::NamespacePolicy| {
                let own = convert::own_policy_from_wire(sent.own.unwrap_or_default())?;
                Ok((sent.namespace.parse()?, own))
            };
            let said = reply.said.into_iter().map(said).collect::<Result<Vec<_>, _>>();
            let said = said.map_err(|error: convert::ConvertError| {
                malformed("show policy", error.to_string())
            })?;
            let version = reply.policy_version;
            let confirmed = reply.confirmed.filter(|it| it.policy_version == version);
            Ok(ShownPolicy {
                said,
                policy_version: version,
                confirmed: confirmed.map_or(0, |confirmed| confirmed.left),
            })
        })
    }

    /// The namespaces at and below `prefix` (`None` for all) that set rules themselves, by name, with
    /// these rules: those that this client may read.
    pub async fn policies(
        &self,
        prefix: Option<&Namespace>,
    ) -> Result<Vec<(Namespace, OwnPolicy)>, ClientError> {
        let malformed = |problem: String| malformed("list policies", problem);
        let mut found: Vec<(Namespace, OwnPolicy)> = Vec::new();
        loop {
            let page = self.policies_page(prefix, found.last().map(|(name, _)| name)).await?;
            let is_empty = page.namespaces.is_empty();
            for sent in page.namespaces {
                let own = convert::own_policy_from_wire(sent.own.unwrap_or_default());
                let own = own.map_err(|error| malformed(error.to_string()))?;
                let name: Namespace =
                    sent.namespace.parse().map_err(|error| malformed(format!("{error}")))?;
                let is_below = prefix.is_none_or(|prefix| name.is_at_or_below(prefix));
                if !is_below || found.last().is_some_and(|(last, _)| name <= *last) {
                    return Err(malformed(format!("{name} was not asked for")));
                }
                found.push((name, own));
            }
            match page.more {
                false => return Ok(found),
                // The same page would be asked for again and again.
                true if is_empty => {
                    return Err(malformed("an empty page that claims more".to_owned()));
                }
                true => {}
            }
        }
    }

    fn policies_page<'a>(
        &'a self,
        prefix: Option<&'a Namespace>,
        after: Option<&'a Namespace>,
    ) -> Answer<'a, wire::ListPoliciesReply> {
        Box::pin(async move {
            let text = |name: Option<&Namespace>| name.map(ToString::to_string).unwrap_or_default();
            let (prefix, after) = (text(prefix), text(after));
            self.read("list policies", |mut stub, identity, deadline_ms| {
                let (prefix, after) = (prefix.clone(), after.clone());
                let message = wire::ListPoliciesRequest { prefix, after, deadline_ms };
                let request = with_identity(message, &identity);
                Box::pin(async move { stub.list_policies(request).await })
            })
            .await
        })
    }

    /// Changes a namespace's own policy.
    pub async fn edit_policy(
        &self,
        namespace: &Namespace,
        edit: PolicyEdit,
    ) -> Result<(), ClientError> {
        let PolicyEdit { change, retention, unset } = edit;
        let namespace = namespace.clone();
        let body = Body::SetPolicy(command::SetPolicy { namespace, change, retention, unset });
        self.execute(body, Duration::ZERO).await.map(drop)
    }

    /// The result of retention now, as if the namespace's own policy included `what_if`. Nothing
    /// changes.
    pub async fn plan_retention(
        &self,
        namespace: &Namespace,
        what_if: &OwnPolicy,
    ) -> Result<RetentionPlan, ClientError> {
        let mut plan = RetentionPlan::default();
        let mut before_commit = 0;
        loop {
            let page = self.retention_page(namespace, what_if, before_commit).await?;
            let more = page.more;
            plan = RetentionPlan {
                policy_version: page.policy_version,
                now_ms: page.now_ms,
                let_go: page.checkpoints_let_go,
                bytes_freed: page.bytes_freed,
                large: page.large,
                confirmed: page.confirmed,
                checkpoints: plan.checkpoints,
            };
            for planned in page.checkpoints {
                // The client would request a page that makes no progress again and again.
                if before_commit != 0 && planned.commit_index >= before_commit {
                    let problem = "commits are not in order".to_owned();
                    return Err(malformed("plan retention", problem));
                }
                before_commit = planned.commit_index;
                plan.checkpoints.push(received(planned));
            }
            if !more || before_commit == 0 {
                return Ok(plan);
            }
        }
    }

    fn retention_page<'a>(
        &'a self,
        namespace: &'a Namespace,
        what_if: &'a OwnPolicy,
        before_commit: u64,
    ) -> Answer<'a, wire::PlanRetentionReply> {
        Box::pin(async move {
            let message = wire::PlanRetentionRequest {
                namespace: namespace.to_string(),
                what_if: Some(convert::own_policy_to_wire(what_if)),
                before_commit,
            };
            let began = self.read("plan retention", |mut stub, identity, _| {
                let request = with_identity(message.clone(), &identity);
                Box::pin(async move { stub.plan_retention(request).await })
            });
            let page = began.await?;
            if page.more && page.checkpoints.is_empty() {
                let problem = "an empty page that claims more".to_owned();
                return Err(malformed("plan retention", problem));
            }
            Ok(page)
        })
    }

    /// Confirms that retention may delete this many checkpoints, as long as the policy is at this
    /// version ([`RetentionPlan::policy_version`]).
    pub async fn confirm_retention(
        &self,
        namespace: &Namespace,
        policy_version: u64,
        checkpoints: u64,
    ) -> Result<(), ClientError> {
        let namespace = namespace.clone();
        let confirm = command::ConfirmRetention { namespace, policy_version, checkpoints };
        self.execute(Body::ConfirmRetention(confirm), Duration::ZERO).await.map(drop)
    }
}

fn received(sent: wire::PlannedCheckpoint) -> PlannedCheckpoint {
    let reason = |sent: wire::KeptReason| KeptReason { rule: sent.rule, detail: sent.detail };
    PlannedCheckpoint {
        id: CheckpointId(sent.checkpoint),
        step: Step(sent.step),
        commit_index: sent.commit_index,
        commit_wall_ms: sent.commit_wall_ms,
        bytes: sent.bytes,
        reasons: sent.reasons.into_iter().map(reason).collect(),
        frees: sent.frees,
    }
}
