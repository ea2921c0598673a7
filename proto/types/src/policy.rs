//! What a policy becomes when a caller wants some of its rules different, and what a namespace has
//! of the namespaces above it.
//!
//! ```text
//!   default <- a <- a/b <- a/b/c      each says some rules; the nearest that says a rule decides
//! ```

use crate::command::Refusal;
use crate::ids::Namespace;
use crate::limits::REPLICAS_MAX;
use crate::model::{OwnPolicy, Policy, PolicyChange};
use crate::retention::Retention;

/// `base` with what the caller wants different.
///
/// A smaller R caps a W and a `min_racks` that the caller did not name; a named rule that cannot
/// be kept is refused.
pub fn effective_policy(base: &Policy, change: &PolicyChange) -> Result<Policy, Refusal> {
    let replicas = change.replicas.unwrap_or(base.replicas);
    if !(1..=REPLICAS_MAX).contains(&replicas) {
        return Err(Refusal::Malformed(format!(
            "replicas: expected 1 to {REPLICAS_MAX}, got {replicas}"
        )));
    }
    let part_of_r = |name: &str, named: Option<u32>, inherited: u32| match named {
        Some(value) if (1..=replicas).contains(&value) => Ok(value),
        Some(value) => Err(Refusal::Malformed(format!(
            "{name}: expected 1 to {replicas}, the number of replicas, got {value}"
        ))),
        None => Ok(inherited.clamp(1, replicas)),
    };
    Ok(Policy {
        replicas,
        write_quorum: part_of_r("write quorum", change.write_quorum, base.write_quorum)?,
        min_racks: part_of_r("rack minimum", change.min_racks, base.min_racks)?,
        isolation: change.isolation.unwrap_or(base.isolation),
        keep_last: match change.keep_last {
            None => base.keep_last,
            Some(0) => None,
            Some(keep_last) => Some(keep_last),
        },
    })
}

/// A policy with all that retention needs: what a namespace goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FullPolicy {
    pub policy: Policy,
    /// With `keep_last` among its rules.
    pub retention: Retention,
}

impl FullPolicy {
    /// With what a namespace below says. Where its numbers do not fit those from above, the smaller
    /// R decides: it was checked when it was said, and what is above may have changed since.
    pub fn below(mut self, own: &OwnPolicy) -> Self {
        let OwnPolicy { rules: own, retention } = own;
        let base = &mut self.policy;
        base.replicas = own.replicas.unwrap_or(base.replicas).clamp(1, REPLICAS_MAX);
        let part_of_r =
            |said: Option<u32>, above: u32| said.unwrap_or(above).clamp(1, base.replicas);
        base.write_quorum = part_of_r(own.write_quorum, base.write_quorum);
        base.min_racks = part_of_r(own.min_racks, base.min_racks);
        base.isolation = own.isolation.unwrap_or(base.isolation);
        if let Some(keep_last) = own.keep_last {
            base.keep_last = (keep_last > 0).then_some(keep_last);
        }
        retention.applied_to(&mut self.retention);
        self.retention.rules.last = self.policy.keep_last;
        self
    }
}

/// The names of the namespaces above one, and its own, from the top.
pub fn lineage(namespace: &Namespace) -> impl Iterator<Item = &str> {
    let name = namespace.as_str();
    let above = name.match_indices('/').map(|(at, _)| &name[..at]);
    above.chain([name])
}

macro_rules! fields {
    ($($Field:ident $number:literal $name:literal $group:ident $field:ident,)*) => {
        /// A rule that a namespace can say, or leave to the namespaces above it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum PolicyField {
            $($Field = $number,)*
        }

        impl PolicyField {
            /// In the order in which people read them.
            pub const ALL: &'static [Self] = &[$(Self::$Field,)*];

            /// As the flags of the command line spell it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$Field => $name,)*
                }
            }

            /// As messages carry it.
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|field| *field as u32 == number)
            }
        }

        impl OwnPolicy {
            /// Whether it says this rule.
            pub fn says(&self, field: PolicyField) -> bool {
                match field {
                    $(PolicyField::$Field => self.$group.$field.is_some(),)*
                }
            }

            /// Leaves a rule to the namespaces above.
            pub fn unset(&mut self, field: PolicyField) {
                match field {
                    $(PolicyField::$Field => self.$group.$field = None,)*
                }
            }

            /// Takes over all that `other` says.
            pub fn merge(&mut self, other: &Self) {
                $(if other.$group.$field.is_some() {
                    self.$group.$field = other.$group.$field.clone();
                })*
            }
        }
    };
}
fields! {
    Replicas 1 "replicas" rules replicas,
    WriteQuorum 2 "write-quorum" rules write_quorum,
    MinRacks 3 "min-racks" rules min_racks,
    Isolation 4 "isolation" rules isolation,
    KeepLast 5 "keep-last" rules keep_last,
    KeepHourly 6 "keep-hourly" retention hourly,
    KeepDaily 7 "keep-daily" retention daily,
    KeepWeekly 8 "keep-weekly" retention weekly,
    KeepMonthly 9 "keep-monthly" retention monthly,
    KeepYearly 10 "keep-yearly" retention yearly,
    KeepWithin 11 "keep-within" retention within_ms,
    KeepEverySteps 12 "keep-every-steps" retention every_steps,
    KeepBest 13 "keep-best" retention best,
    KeepLabel 14 "keep-label" retention labels,
    TimeZone 15 "time-zone" retention time_zone,
    KeepQuarantined 16 "keep-quarantined" retention quarantined_ms,
    Best 17 "best" retention best_metric,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::RetentionChange;

    #[test]
    fn a_lineage_begins_at_the_top() {
        let name: Namespace = "a/b/c".parse().unwrap();
        assert_eq!(lineage(&name).collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        let top: Namespace = "a".parse().unwrap();
        assert_eq!(lineage(&top).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn the_nearest_namespace_that_says_a_rule_decides() {
        let says = |rules, retention| OwnPolicy { rules, retention };
        let (three, none) = (Some(3), PolicyChange::default());
        let retention = RetentionChange { daily: Some(7), hourly: three, ..Default::default() };
        let top = says(PolicyChange { keep_last: three, ..none.clone() }, retention);
        let retention = RetentionChange { hourly: Some(0), ..Default::default() };
        let below = says(PolicyChange { replicas: Some(1), ..none }, retention);
        let full = FullPolicy::default().below(&top).below(&below);
        let rules = &full.retention.rules;
        assert_eq!((rules.last, rules.daily, rules.hourly), (three, Some(7), None));
        let Policy { replicas, write_quorum, min_racks, .. } = full.policy;
        assert_eq!((replicas, write_quorum, min_racks), (1, 1, 1), "within the smaller R");
    }

    #[test]
    fn every_rule_is_said_merged_and_unset() {
        let best = crate::retention::BestRule {
            metric: "loss".to_owned(),
            extreme: crate::retention::Extreme::Min,
            count: 1,
        };
        let all = OwnPolicy {
            rules: PolicyChange {
                replicas: Some(1),
                write_quorum: Some(1),
                min_racks: Some(1),
                isolation: Some(crate::model::Isolation::Soft),
                keep_last: Some(1),
            },
            retention: RetentionChange {
                hourly: Some(1),
                daily: Some(1),
                weekly: Some(1),
                monthly: Some(1),
                yearly: Some(1),
                within_ms: Some(1),
                every_steps: Some(1),
                best: Some(vec![best]),
                labels: Some(vec![]),
                time_zone: Some("UTC".to_owned()),
                quarantined_ms: Some(1),
                best_metric: Some(crate::retention::BestMetric::none()),
            },
        };
        let mut own = OwnPolicy::default();
        own.merge(&all);
        assert_eq!(own, all);
        for field in PolicyField::ALL {
            assert!(own.says(*field), "{}", field.name());
            assert_eq!(PolicyField::from_number(*field as u32), Some(*field));
            own.unset(*field);
        }
        assert_eq!(own, OwnPolicy::default());
    }
}
