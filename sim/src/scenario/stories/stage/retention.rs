//! Policies, retention and the trash, for the client of a story.

use cairn_client::{ClientError, OwnPolicy, PolicyEdit, RetentionPlan};
use cairn_types::ids::Step;
use cairn_types::model::CheckpointInfo;

use super::{Stage, Told, address, finish};

impl Stage {
    pub async fn edit_policy(&self, edit: PolicyEdit) -> Told {
        let namespace = address(0)?.namespace;
        self.done(
            "change of a policy",
            |sdk| async move { sdk.edit_policy(&namespace, edit).await },
        )
        .await
    }

    pub async fn plan_retention(&self, what_if: OwnPolicy) -> Told<RetentionPlan> {
        let namespace = address(0)?.namespace;
        let plan = |sdk: cairn_client::Client| async move {
            sdk.plan_retention(&namespace, &what_if).await
        };
        self.done("plan of retention", plan).await
    }

    /// Confirms the current plan.
    pub async fn confirm_retention(&self, checkpoints: u64) -> Told {
        let version = self.plan_retention(OwnPolicy::default()).await?.policy_version;
        let namespace = address(0)?.namespace;
        let confirm = |sdk: cairn_client::Client| async move {
            sdk.confirm_retention(&namespace, version, checkpoints).await
        };
        self.done("confirmation", confirm).await
    }

    /// Waits until retention has deleted this step. Keeps its files, because the step may come
    /// back.
    pub async fn until_let_go_whole(&mut self, step: u64) -> Told {
        let files = self.files.get(&step).cloned();
        self.until_let_go(step).await?;
        self.gone.extend(files.map(|files| (step, files)));
        Ok(())
    }

    /// Undeletes a step. `read_all` reads it from then on.
    pub async fn undelete(&mut self, step: u64) -> Told<Result<CheckpointInfo, ClientError>> {
        let namespace = address(step)?.namespace;
        let undelete = |sdk: cairn_client::Client| async move {
            sdk.undelete(&namespace, Step(step), "operator").await
        };
        let undeleted = finish(self.ask(undelete)?, "undelete").await?;
        if undeleted.is_ok() {
            let files = self.gone.remove(&step);
            self.files.extend(files.map(|files| (step, files)));
        }
        Ok(undeleted)
    }
}
