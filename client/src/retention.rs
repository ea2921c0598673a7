//! Policies of namespaces, where each rule comes from, and what retention would do.

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

/// What is changed in what a namespace says of policy: first some rules are left to the namespaces
/// above it, then others are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyEdit {
    pub change: PolicyChange,
    pub retention: RetentionChange,
    pub unset: Vec<PolicyField>,
}

/// What a namespace goes by, and who says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShownPolicy {
    /// What the namespaces above it and itself say, from the top.
    pub said: Vec<(Namespace, OwnPolicy)>,
    /// Log index of the last change of any of it; 0 before.
    pub policy_version: u64,
    /// Checkpoints that retention may still let go by a confirmation.
    pub confirmed: u64,
}

impl ShownPolicy {
    pub fn effective(&self) -> FullPolicy {
        self.said.iter().fold(FullPolicy::default(), |policy, (_, own)| policy.below(own))
    }

    /// The namespace that says a rule; `None` where it is the default.
    pub fn from(&self, field: PolicyField) -> Option<&Namespace> {
        self.said.iter().rev().find(|(_, own)| own.says(field)).map(|(name, _)| name)
    }
}

/// What retention would do with a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPlan {
    pub policy_version: u64,
    /// The wall clock at which it was evaluated, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// How many it would let go, and the bytes of segments that frees.
    pub let_go: u64,
    pub bytes_freed: u64,
    /// Whether these are so many that somebody must confirm it, and how many are confirmed.
    pub large: bool,
    pub confirmed: u64,
    /// Every committed checkpoint, newest first.
    pub checkpoints: Vec<PlannedCheckpoint>,
}

impl RetentionPlan {
    /// Whether nothing is let go until somebody confirms it.
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
    /// Of its files.
    pub bytes: u64,
    /// Why it is kept; empty where it is let go.
    pub reasons: Vec<KeptReason>,
    /// What that frees once all older ones that are let go are gone.
    pub frees: u64,
}

impl PlannedCheckpoint {
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// A rule that keeps a checkpoint, and what it found: the bucket, the name, its number. Durations and
/// times are in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptReason {
    pub rule: String,
    pub detail: String,
}

impl Client {
    /// The policy of a namespace, and which namespace says each rule of it.
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

    /// Changes what a namespace says of policy.
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

    /// What retention would do now, as if the namespace said `what_if`, too. Nothing changes.
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
                // A page that does not go on would be asked for again and again.
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

    /// Agrees that retention lets so many checkpoints go, as long as the policy is at this version
    /// ([`RetentionPlan::policy_version`]).
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
