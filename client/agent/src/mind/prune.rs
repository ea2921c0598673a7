//! Which checkpoints may be removed from the local disk.

/// A checkpoint on the local disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    pub step: u64,
    /// It is stored, and its files are those that were stored.
    pub is_stored: bool,
    /// Work on it is under way.
    pub is_busy: bool,
}

/// Steps that may be removed, oldest first. The newest `keep` of those that are stored stay, and so
/// does all that is not stored, and what the program's own pointer names.
pub fn removable(locals: &[Local], keep: u32, pointed: Option<u64>) -> Vec<u64> {
    let mut stored: Vec<Local> = locals.iter().copied().filter(|local| local.is_stored).collect();
    stored.sort_by_key(|local| local.step);
    let count = stored.len().saturating_sub(keep as usize);
    let old = stored.into_iter().take(count);
    old.filter(|local| !local.is_busy && Some(local.step) != pointed)
        .map(|local| local.step)
        .collect()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn local(step: u64, is_stored: bool) -> Local {
        Local { step, is_stored, is_busy: false }
    }

    #[test]
    fn the_newest_stored_ones_and_all_others_stay() {
        let all =
            [local(1, true), local(2, false), local(3, true), local(4, true), local(5, false)];
        assert_eq!(removable(&all, 1, None), [1, 3]);
        assert_eq!(removable(&all, 2, None), [1]);
        assert_eq!(removable(&all, 3, None), [0; 0]);
        // Training went back to step 1.
        assert_eq!(removable(&all, 1, Some(1)), [3]);
    }

    #[test]
    fn whatever_is_on_the_disk_nothing_is_removed_that_must_stay() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(3);
        for _ in 0..5_000 {
            let count = random.random_range(0..12);
            let mut all: Vec<Local> = (0..count)
                .map(|step| Local {
                    step,
                    is_stored: random.random(),
                    is_busy: random.random_range(0..4) == 0,
                })
                .collect();
            all.sort_by_key(|_| 0);
            let keep = random.random_range(1..5);
            let pointed = random.random::<bool>().then(|| random.random_range(0..12));
            let removed = removable(&all, keep, pointed);
            let of = |step: &u64| all.iter().find(|local| local.step == *step).unwrap();
            assert!(removed.iter().all(|step| of(step).is_stored && !of(step).is_busy));
            assert!(removed.iter().all(|step| Some(*step) != pointed));
            let left = all.iter().filter(|local| local.is_stored && !removed.contains(&local.step));
            let left: Vec<u64> = left.map(|local| local.step).collect();
            let stored = all.iter().filter(|local| local.is_stored).count();
            assert!(left.len() >= stored.min(keep as usize));
            // And what is removed is older than the newest `keep`.
            let mut newest: Vec<u64> =
                all.iter().filter(|local| local.is_stored).map(|local| local.step).collect();
            newest.sort_unstable();
            let kept = &newest[newest.len().saturating_sub(keep as usize)..];
            assert!(removed.iter().all(|step| !kept.contains(step)));
        }
    }
}
