//! Which checkpoints may be removed from the local disk.

use std::collections::BTreeSet;

use crate::listing::Times;

/// A checkpoint on the local disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    pub step: u64,
    pub times: Times,
    /// It is stored, and its files are those that were stored.
    pub is_stored: bool,
    /// Work on it is under way.
    pub is_busy: bool,
    /// The program's own files name it.
    pub is_needed: bool,
}

/// Steps that may be removed, oldest first. Of those that are stored, the `keep` with the highest steps
/// stay, the `keep` that were modified last, and the `keep` that were changed last: after training has
/// gone back, or after a copy, these differ. So does all stay that is not stored or is needed.
pub fn removable(locals: &[Local], keep: u32) -> Vec<u64> {
    let mut stored: Vec<Local> = locals.iter().copied().filter(|local| local.is_stored).collect();
    let mut kept = BTreeSet::new();
    type Order = fn(&Local) -> (i64, u64);
    let orders: [Order; 3] = [
        |local| (0, local.step),
        |local| (local.times.modified_ns, local.step),
        |local| (local.times.changed_ns, local.step),
    ];
    for order in orders {
        stored.sort_by_key(order);
        kept.extend(stored.iter().rev().take(keep.max(1) as usize).map(|local| local.step));
    }
    stored.sort_by_key(|local| local.step);
    let may_go = |local: &&Local| !local.is_busy && !local.is_needed && !kept.contains(&local.step);
    stored.iter().filter(may_go).map(|local| local.step).collect()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn local(step: u64, is_stored: bool) -> Local {
        let at = i64::try_from(step).unwrap();
        let times = Times { modified_ns: at, changed_ns: at };
        Local { step, times, is_stored, is_busy: false, is_needed: false }
    }

    #[test]
    fn the_newest_stored_ones_and_all_others_stay() {
        let mut all =
            [local(1, true), local(2, false), local(3, true), local(4, true), local(5, false)];
        assert_eq!(removable(&all, 1), [1, 3]);
        assert_eq!(removable(&all, 2), [1]);
        assert_eq!(removable(&all, 3), [0; 0]);
        // Its program names it.
        all[0].is_needed = true;
        assert_eq!(removable(&all, 1), [3]);
    }

    #[test]
    fn what_was_finished_last_stays_after_training_went_back() {
        let mut all = [local(10, true), local(20, true), local(30, true), local(40, true)];
        // Step 20 was written again.
        all[1].times = Times { modified_ns: 50, changed_ns: 50 };
        assert_eq!(removable(&all, 1), [10, 30]);
        // Copied here last, with its old time of modification.
        all[0].times.changed_ns = 60;
        assert_eq!(removable(&all, 1), [30]);
    }

    #[test]
    fn whatever_is_on_the_disk_nothing_is_removed_that_must_stay() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(3);
        for _ in 0..5_000 {
            let count = random.random_range(0..12);
            let all: Vec<Local> = (0..count)
                .map(|step| Local {
                    step,
                    times: Times {
                        modified_ns: random.random_range(0..6),
                        changed_ns: random.random_range(0..6),
                    },
                    is_stored: random.random(),
                    is_busy: random.random_range(0..4) == 0,
                    is_needed: random.random_range(0..4) == 0,
                })
                .collect();
            let keep: u32 = random.random_range(1..5);
            let removed = removable(&all, keep);
            let stored: Vec<&Local> = all.iter().filter(|local| local.is_stored).collect();
            for step in &removed {
                let gone = all.iter().find(|local| local.step == *step).unwrap();
                assert!(gone.is_stored && !gone.is_busy && !gone.is_needed);
                // `keep` others that stay are newer in each order.
                let newer = |is_newer: fn(&Local, &Local) -> bool| {
                    let left = stored.iter().filter(|local| !removed.contains(&local.step));
                    left.filter(|local| is_newer(local, gone)).count() >= keep as usize
                };
                assert!(newer(|a, b| a.step > b.step));
                assert!(newer(|a, b| a.times.modified_ns >= b.times.modified_ns));
                assert!(newer(|a, b| a.times.changed_ns >= b.times.changed_ns));
            }
        }
    }
}
