//! Rules of retention, and what a namespace says of its policy.

use crate::limits::{BEST_RULES_MAX, LABEL_RULES_MAX};
use crate::model::{Confirmed, OwnPolicy};
use crate::retention::{BestMetric, BestRule, Extreme, LabelRule, RetentionChange};
use crate::wire;

use super::{ConvertError, at_most, policy_change_from_wire, policy_change_to_wire};

pub fn retention_change_to_wire(change: &RetentionChange) -> wire::RetentionChange {
    let best = |rule: &BestRule| wire::BestRule {
        metric: rule.metric.clone(),
        max: rule.extreme == Extreme::Max,
        count: rule.count,
    };
    let label =
        |rule: &LabelRule| wire::LabelRule { key: rule.key.clone(), value: rule.value.clone() };
    wire::RetentionChange {
        hourly: change.hourly,
        daily: change.daily,
        weekly: change.weekly,
        monthly: change.monthly,
        yearly: change.yearly,
        within_ms: change.within_ms,
        every_steps: change.every_steps,
        best: change
            .best
            .as_ref()
            .map(|rules| wire::BestRules { rules: rules.iter().map(best).collect() }),
        labels: change
            .labels
            .as_ref()
            .map(|rules| wire::LabelRules { rules: rules.iter().map(label).collect() }),
        time_zone: change.time_zone.clone(),
        quarantined_ms: change.quarantined_ms,
        best_metric: change.best_metric.as_ref().map(|best| wire::BestMetric {
            metric: best.metric.clone(),
            max: best.extreme == Extreme::Max,
        }),
    }
}

/// With bounded lists; whether the rules make sense is [`RetentionChange::problem`].
pub fn retention_change_from_wire(
    message: wire::RetentionChange,
) -> Result<RetentionChange, ConvertError> {
    let best = |list: wire::BestRules| {
        at_most("rules of best metrics", list.rules.len(), BEST_RULES_MAX)?;
        let one = |rule: wire::BestRule| BestRule {
            metric: rule.metric,
            extreme: if rule.max { Extreme::Max } else { Extreme::Min },
            count: rule.count,
        };
        Ok::<_, ConvertError>(list.rules.into_iter().map(one).collect())
    };
    let labels = |list: wire::LabelRules| {
        at_most("rules of labels", list.rules.len(), LABEL_RULES_MAX)?;
        let one = |rule: wire::LabelRule| LabelRule { key: rule.key, value: rule.value };
        Ok::<_, ConvertError>(list.rules.into_iter().map(one).collect())
    };
    Ok(RetentionChange {
        hourly: message.hourly,
        daily: message.daily,
        weekly: message.weekly,
        monthly: message.monthly,
        yearly: message.yearly,
        within_ms: message.within_ms,
        every_steps: message.every_steps,
        best: message.best.map(best).transpose()?,
        labels: message.labels.map(labels).transpose()?,
        time_zone: message.time_zone,
        quarantined_ms: message.quarantined_ms,
        best_metric: message.best_metric.map(|best| BestMetric {
            metric: best.metric,
            extreme: if best.max { Extreme::Max } else { Extreme::Min },
        }),
    })
}

pub fn own_policy_to_wire(own: &OwnPolicy) -> wire::OwnPolicy {
    wire::OwnPolicy {
        rules: Some(policy_change_to_wire(&own.rules)),
        retention: Some(retention_change_to_wire(&own.retention)),
    }
}

pub fn own_policy_from_wire(own: wire::OwnPolicy) -> Result<OwnPolicy, ConvertError> {
    Ok(OwnPolicy {
        rules: policy_change_from_wire(&own.rules.unwrap_or_default())?,
        retention: retention_change_from_wire(own.retention.unwrap_or_default())?,
    })
}

pub fn confirmed_to_wire(confirmed: &Confirmed) -> wire::ConfirmedRetention {
    let Confirmed { policy_version, left } = *confirmed;
    wire::ConfirmedRetention { policy_version, left }
}

pub fn confirmed_from_wire(message: wire::ConfirmedRetention) -> Confirmed {
    let wire::ConfirmedRetention { policy_version, left } = message;
    Confirmed { policy_version, left }
}
