//! `Begin`: opens an upload or joins the one of the same attempt.

use std::collections::BTreeMap;

#[cfg(test)]
use super::drawn::{Draw, Drawn};
use super::{OPEN_ENDED_LEVEL, OnWire};
use crate::convert::{ConvertError, at_most, policy_change_from_wire, policy_change_to_wire};
use crate::ids::{Attempt, Namespace, Step};
use crate::limits::{LABEL_BYTES_MAX, LABELS_MAX};
use crate::model::PolicyChange;
use crate::wire;

/// Opens an upload or joins the one of the same attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    pub namespace: Namespace,
    pub step: Step,
    /// 0 leaves the number open: parts are added one by one, and `Close` commits them.
    pub parts: u32,
    /// `None`: one above all that the step has seen. Parts of one checkpoint must name it.
    pub attempt: Option<Attempt>,
    /// `replicas`, `write_quorum`, `min_racks`, `isolation` apply to this checkpoint,
    /// `keep_last` to the namespace, from the commit on.
    pub change: PolicyChange,
    /// Commit may take the place of a committed checkpoint of this step.
    pub replace: bool,
    pub labels: BTreeMap<String, String>,
    /// Who uploads, for people; at most `LABEL_BYTES_MAX` bytes.
    pub client: String,
    /// The job that uploads, at most `LABEL_BYTES_MAX` bytes; empty where it is not known. Two
    /// jobs never share an attempt.
    pub job: String,
}

impl OnWire for Begin {
    type Message = wire::Begin;

    fn to_wire(&self) -> Self::Message {
        let Self { namespace, step, parts, attempt, change, replace, labels, client, job } = self;
        wire::Begin {
            namespace: namespace.to_string(),
            step: step.0,
            parts: *parts,
            attempt: attempt.map(|attempt| attempt.0),
            change: Some(policy_change_to_wire(change)),
            replace: *replace,
            labels: labels.clone(),
            client: client.clone(),
            job: job.clone(),
        }
    }

    /// Earlier builds refuse an upload without parts.
    fn feature_level(&self, in_table: u32) -> u32 {
        if self.parts == 0 { in_table.max(OPEN_ENDED_LEVEL) } else { in_table }
    }

    fn from_wire(begin: Self::Message) -> Result<Self, ConvertError> {
        check_labels(&begin.labels)?;
        at_most("client", begin.client.len(), LABEL_BYTES_MAX)?;
        at_most("job", begin.job.len(), LABEL_BYTES_MAX)?;
        Ok(Self {
            namespace: begin.namespace.parse()?,
            step: Step(begin.step),
            parts: begin.parts,
            attempt: begin.attempt.map(Attempt),
            change: policy_change_from_wire(&begin.change.unwrap_or_default())?,
            replace: begin.replace,
            labels: begin.labels,
            client: begin.client,
            job: begin.job,
        })
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ConvertError> {
    at_most("labels", labels.len(), LABELS_MAX)?;
    labels.iter().try_for_each(|(key, value)| {
        at_most("label key", key.len(), LABEL_BYTES_MAX)?;
        at_most("label value", value.len(), LABEL_BYTES_MAX)
    })
}

#[cfg(test)]
impl Drawn for Begin {
    fn drawn(draw: &mut Draw) -> Self {
        let part = draw.u32();
        Self {
            namespace: draw.namespace(),
            step: Step(draw.u64()),
            parts: draw.u32(),
            attempt: draw.option(|draw| Attempt(draw.u64())),
            change: draw.change(),
            replace: draw.bool(),
            labels: draw.labels(),
            client: format!("client {part}"),
            job: format!("job {part}"),
        }
    }
}
