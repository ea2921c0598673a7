//! Rules of retention: which checkpoints of a namespace are kept. Plain data; what they keep is
//! decided in `cairn_core::retention`.

use std::collections::BTreeMap;
use std::fmt;

use crate::limits::{BEST_RULES_MAX, LABEL_BYTES_MAX, LABEL_RULES_MAX, TIME_ZONE_BYTES_MAX};

/// How long a checkpoint in quarantine is kept where nothing else is said: 14 days.
pub const QUARANTINED_MS: u64 = 14 * 86_400_000;

/// What keeps checkpoints. A checkpoint is kept if any rule keeps it. Without a rule all are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The newest so many; here and below never zero.
    pub last: Option<u32>,
    /// The newest of each of the newest so many hours, days, ... that have a checkpoint.
    pub hourly: Option<u32>,
    pub daily: Option<u32>,
    pub weekly: Option<u32>,
    pub monthly: Option<u32>,
    pub yearly: Option<u32>,
    /// All that were committed so many milliseconds before the newest, or later.
    pub within_ms: Option<u64>,
    /// All whose step is a multiple.
    pub every_steps: Option<u64>,
    pub best: Vec<BestRule>,
    pub labels: Vec<LabelRule>,
}

impl Rules {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Rules, and what they are evaluated with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    pub rules: Rules,
    /// IANA name of the time zone in which hours, days, ... begin.
    pub time_zone: String,
    /// A checkpoint in quarantine is let go after this long, if there are rules at all.
    pub quarantined_ms: u64,
    /// What `best` looks at. It keeps nothing.
    pub best: Option<BestMetric>,
}

impl Default for Retention {
    fn default() -> Self {
        let time_zone = "UTC".to_owned();
        Self { rules: Rules::default(), time_zone, quarantined_ms: QUARANTINED_MS, best: None }
    }
}

/// Which values of a metric are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extreme {
    Min,
    Max,
}

/// The metric by which one checkpoint of a namespace is the best.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BestMetric {
    pub metric: String,
    pub extreme: Extreme,
}

impl BestMetric {
    /// As a namespace says that it has none, whatever those above it say.
    pub fn none() -> Self {
        Self { metric: String::new(), extreme: Extreme::Min }
    }

    pub fn is_none(&self) -> bool {
        self.metric.is_empty()
    }
}

/// Keeps the `count` checkpoints with the best values of a metric.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BestRule {
    pub metric: String,
    pub extreme: Extreme,
    pub count: u32,
}

/// Keeps all checkpoints with a label; without a value, whatever its value is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelRule {
    pub key: String,
    pub value: Option<String>,
}

impl fmt::Display for Extreme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Min => "min",
            Self::Max => "max",
        })
    }
}

impl fmt::Display for BestMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.metric, self.extreme)
    }
}

impl fmt::Display for BestRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.metric, self.extreme, self.count)
    }
}

impl LabelRule {
    pub fn admits(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        value.is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

impl fmt::Display for LabelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// What a namespace says of retention itself. `None` leaves a rule to the namespace above; zero or
/// an empty list turns it off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionChange {
    pub hourly: Option<u32>,
    pub daily: Option<u32>,
    pub weekly: Option<u32>,
    pub monthly: Option<u32>,
    pub yearly: Option<u32>,
    pub within_ms: Option<u64>,
    pub every_steps: Option<u64>,
    pub best: Option<Vec<BestRule>>,
    pub labels: Option<Vec<LabelRule>>,
    pub time_zone: Option<String>,
    /// Zero lets them go at once.
    pub quarantined_ms: Option<u64>,
    pub best_metric: Option<BestMetric>,
}

impl RetentionChange {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Says what is wrong with it, whatever it changes.
    pub fn problem(&self) -> Option<String> {
        let best = self.best.as_deref().unwrap_or_default();
        let labels = self.labels.as_deref().unwrap_or_default();
        if best.len() > BEST_RULES_MAX {
            return Some(format!("{} rules of best metrics, limit {BEST_RULES_MAX}", best.len()));
        }
        if labels.len() > LABEL_RULES_MAX {
            return Some(format!("{} rules of labels, limit {LABEL_RULES_MAX}", labels.len()));
        }
        if let Some(rule) = best.iter().find(|rule| rule.count == 0) {
            return Some(format!("keep the best 0 by {:?}", rule.metric));
        }
        let values = labels.iter().filter_map(|rule| rule.value.as_ref());
        let names = best.iter().map(|rule| &rule.metric).chain(labels.iter().map(|rule| &rule.key));
        if names.clone().any(String::is_empty) {
            return Some("a rule of a metric or label without a name".to_owned());
        }
        let best_metric = self.best_metric.iter().map(|best| &best.metric);
        let mut words = names.chain(values).chain(best_metric);
        if words.any(|word| word.len() > LABEL_BYTES_MAX || word.contains(char::is_control)) {
            let limit = format!("of at most {LABEL_BYTES_MAX} bytes without control characters");
            return Some(format!("metrics and labels of rules have names and values {limit}"));
        }
        let is_plain = |zone: &str| {
            (1..=TIME_ZONE_BYTES_MAX).contains(&zone.len())
                && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b))
        };
        match &self.time_zone {
            Some(zone) if !is_plain(zone) => {
                Some(format!("malformed time zone {zone:?}: expected a name like Europe/Berlin"))
            }
            _ => None,
        }
    }

    /// `base` with what this says different.
    pub fn applied_to(&self, base: &mut Retention) {
        let rules = &mut base.rules;
        let counts = [
            (self.hourly, &mut rules.hourly),
            (self.daily, &mut rules.daily),
            (self.weekly, &mut rules.weekly),
            (self.monthly, &mut rules.monthly),
            (self.yearly, &mut rules.yearly),
        ];
        for (said, rule) in counts {
            set(said, rule);
        }
        set(self.within_ms, &mut rules.within_ms);
        set(self.every_steps, &mut rules.every_steps);
        if let Some(best) = &self.best {
            rules.best.clone_from(best);
        }
        if let Some(labels) = &self.labels {
            rules.labels.clone_from(labels);
        }
        if let Some(zone) = &self.time_zone {
            base.time_zone.clone_from(zone);
        }
        base.quarantined_ms = self.quarantined_ms.unwrap_or(base.quarantined_ms);
        if let Some(best) = &self.best_metric {
            base.best = (!best.is_none()).then(|| best.clone());
        }
    }
}

fn set<T: Copy + Default + PartialEq>(said: Option<T>, rule: &mut Option<T>) {
    if let Some(said) = said {
        *rule = (said != T::default()).then_some(said);
    }
}
