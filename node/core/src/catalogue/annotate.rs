//! Labels and metrics added to a checkpoint after its commit.

use cairn_types::command::{Annotate, Refusal, Reply};
use cairn_types::limits::{LABELS_MAX, METRICS_MAX};
use cairn_types::model::CheckpointState;

use super::{Apply, Catalogue, Entry, check_batch, malformed};

impl Apply for Annotate {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        let record = catalogue
            .checkpoint(self.checkpoint)
            .filter(|record| record.state == CheckpointState::Committed)
            .ok_or(Refusal::UnknownCheckpoint(self.checkpoint))?;
        if self.labels.keys().chain(self.metrics.keys()).any(String::is_empty) {
            return Err(malformed("a label or metric has no name"));
        }
        let (mut labels, mut metrics) = (record.labels.clone(), record.metrics.clone());
        for name in &self.remove {
            labels.remove(name);
            metrics.remove(name);
        }
        labels.extend(self.labels.clone());
        metrics.extend(self.metrics.clone());
        check_batch("labels", labels.len(), LABELS_MAX)?;
        check_batch("metrics", metrics.len(), METRICS_MAX)?;
        catalogue.change_checkpoint(self.checkpoint, |record| {
            (record.labels, record.metrics) = (labels, metrics);
        });
        catalogue.note_change(self.checkpoint);
        Ok(Reply::Done)
    }
}
