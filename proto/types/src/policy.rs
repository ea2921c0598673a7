//! What a policy becomes when a caller wants some of its rules different.

use crate::command::Refusal;
use crate::limits::REPLICAS_MAX;
use crate::model::{Policy, PolicyChange};

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
