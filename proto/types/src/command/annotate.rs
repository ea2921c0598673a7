//! `Annotate`: labels and metrics of a committed checkpoint, for what is known only later.

use std::collections::BTreeMap;

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::CheckpointId;
use crate::limits::{LABEL_BYTES_MAX, LABELS_MAX, METRICS_MAX};
use crate::model::Metric;
use crate::wire;

/// Sets and removes labels and metrics of a committed checkpoint. First removed, then set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotate {
    pub checkpoint: CheckpointId,
    pub labels: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, Metric>,
    /// Labels and metrics of these names go.
    pub remove: Vec<String>,
}

impl OnWire for Annotate {
    type Message = wire::Annotate;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, labels, metrics, remove } = self;
        wire::Annotate {
            checkpoint: checkpoint.0,
            labels: labels.clone(),
            metrics: metrics_to_wire(metrics),
            remove: remove.clone(),
        }
    }

    fn from_wire(annotate: Self::Message) -> Result<Self, ConvertError> {
        at_most("labels", annotate.labels.len(), LABELS_MAX)?;
        at_most("names to remove", annotate.remove.len(), LABELS_MAX + METRICS_MAX)?;
        let words = annotate.labels.iter().flat_map(|(key, value)| [key, value]);
        for word in words.chain(&annotate.remove) {
            at_most("label", word.len(), LABEL_BYTES_MAX)?;
        }
        Ok(Self {
            checkpoint: CheckpointId(annotate.checkpoint),
            labels: annotate.labels,
            metrics: metrics_from_wire(annotate.metrics)?,
            remove: annotate.remove,
        })
    }
}

/// Metrics as messages carry them.
pub fn metrics_to_wire(metrics: &BTreeMap<String, Metric>) -> BTreeMap<String, f64> {
    metrics.iter().map(|(name, metric)| (name.clone(), metric.value())).collect()
}

/// Metrics from a message: named, finite, not too many.
pub fn metrics_from_wire(
    metrics: BTreeMap<String, f64>,
) -> Result<BTreeMap<String, Metric>, ConvertError> {
    at_most("metrics", metrics.len(), METRICS_MAX)?;
    let metric = |(name, value): (String, f64)| {
        at_most("metric name", name.len(), LABEL_BYTES_MAX)?;
        let metric = Metric::new(value);
        let metric =
            metric.ok_or(ConvertError::NotFinite { field: "metric", got: name.clone() })?;
        Ok((name, metric))
    };
    metrics.into_iter().map(metric).collect()
}

#[cfg(test)]
impl Drawn for Annotate {
    fn drawn(draw: &mut Draw) -> Self {
        Self {
            checkpoint: CheckpointId(draw.u64()),
            labels: draw.labels(),
            metrics: draw.metrics(),
            remove: draw.list(|draw| format!("k{}", draw.u64())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_that_is_no_number_is_refused_by_name() {
        let message = |value| wire::Annotate {
            metrics: BTreeMap::from([("loss".to_owned(), value)]),
            ..Default::default()
        };
        let error = Annotate::from_wire(message(f64::NAN)).unwrap_err();
        assert_eq!(error.to_string(), "metric loss is not a finite number");
        assert!(Annotate::from_wire(message(f64::NEG_INFINITY)).is_err());
        let zero = Annotate::from_wire(message(-0.0)).unwrap();
        assert_eq!(zero, Annotate::from_wire(message(0.0)).unwrap(), "one form of zero");
    }
}
