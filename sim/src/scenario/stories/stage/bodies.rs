//! Commands of clients that do without the SDK's put.

use std::collections::BTreeMap;

use cairn_types::command::{self, Body, DeleteReason};
use cairn_types::ids::{Attempt, CheckpointId, Step};
use cairn_types::model::PolicyChange;

use super::{Told, address};

/// Begins an upload of one part, as attempt 1.
pub fn begin(step: u64) -> Told<Body> {
    Ok(Body::Begin(command::Begin {
        namespace: address(step)?.namespace,
        step: Step(step),
        parts: 1,
        attempt: Some(Attempt(1)),
        change: PolicyChange::default(),
        replace: false,
        labels: BTreeMap::new(),
        client: String::new(),
        job: String::new(),
    }))
}

/// Deletes a checkpoint, or gives up an upload, without a grace.
pub fn delete(checkpoint: CheckpointId) -> Body {
    Body::Delete(command::Delete {
        checkpoint,
        reason: DeleteReason::Asked,
        now: true,
        force: true,
        policy_version: None,
        by: String::new(),
    })
}
