//! Scrub: which replicas a node reads again next, and how fast. Pure.
//!
//! ```text
//!   written or read      0.8 of a cycle       0.95        a cycle
//!   ├────────────────────┼─ ripe ─────────────┼───────────┼─ late: a fiftieth of a cycle more
//! ```
//!
//! A replica is ripe when four fifths of a cycle have passed since the node wrote it or read it as a
//! whole. The oldest is read first, at the lowest speed at which all ripe ones are read in time. So a
//! node whose checkpoints came evenly reads them evenly, and one that was off for a month catches up
//! within hours, or as fast as it may. A *pass*, which an operator starts, makes everything ripe that
//! was not read since.

use std::cmp::Reverse;

use cairn_types::ids::SegmentDigest;

/// The fastest scrub, bytes a second: half of what a hard disk reads.
pub const BYTES_PER_S_MAX: u64 = 64 << 20;
/// After a bad replica was found, ripe ones are read so many times faster.
const HURRY: u64 = 4;
/// A time further ahead than this is of a clock that was set back since: it is not believed.
const AHEAD_MS_MAX: u64 = 3_600_000;
/// No replica waits longer for its turn once it is next, milliseconds.
const TURN_MS_MAX: u64 = 600_000;

/// When a file was last known to be good, by the node's wall clock, milliseconds since the Unix
/// epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The node wrote these bytes then, and has not read them as a whole since.
    Written(u64),
    /// It read them from the disk and compared them with the digest.
    Verified(u64),
}

impl Known {
    /// The time, however the file was known to be good.
    pub fn at_ms(self) -> u64 {
        let (Self::Written(at) | Self::Verified(at)) = self;
        at
    }
}

/// A replica on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    pub digest: SegmentDigest,
    /// Raw bytes.
    pub bytes: u64,
    /// `None` if the node does not know: it is read first.
    pub known: Option<Known>,
}

/// How often replicas are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cycle {
    pub period_ms: u64,
    /// The start of a pass that an operator asked for.
    pub pass_since_ms: Option<u64>,
    /// A bad replica was found within a day.
    pub hurry: bool,
}

/// What is read next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The first ripe replicas, those known to be good longest ago first, with their bytes.
    pub next: Vec<(SegmentDigest, u64)>,
    /// Bytes a second. Zero if nothing is ripe.
    pub bytes_per_s: u64,
    pub totals: Totals,
}

/// Counts over all replicas of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub replicas: u64,
    pub bytes: u64,
    /// Read as a whole within the cycle, or since the pass began.
    pub verified: u64,
    pub verified_bytes: u64,
    pub ripe: u64,
    pub ripe_bytes: u64,
    /// Known to be good longer ago than a cycle, or not at all.
    pub late: u64,
    /// The longest time since a replica was known to be good; of those with a time.
    pub oldest_ms: Option<u64>,
}

impl Cycle {
    fn is_ripe(&self, known: Option<Known>, now_ms: u64) -> bool {
        let Some(known) = known else { return true };
        match (self.pass_since_ms, known) {
            (Some(_), Known::Written(_)) => return true,
            (Some(since), Known::Verified(at)) if at < since => return true,
            _ => {}
        }
        age_ms(known, now_ms) >= self.period_ms / 10 * 8
    }

    fn is_verified(&self, known: Option<Known>, now_ms: u64) -> bool {
        match (known, self.pass_since_ms) {
            (Some(Known::Verified(at)), Some(since)) => at >= since,
            (Some(known @ Known::Verified(_)), None) => age_ms(known, now_ms) <= self.period_ms,
            _ => false,
        }
    }

    /// The lowest speed at which each ripe replica, read in this order, is read before it is late.
    fn bytes_per_s(&self, ripe: &[Ripe]) -> u64 {
        if ripe.is_empty() {
            return 0;
        }
        if self.pass_since_ms.is_some() {
            return BYTES_PER_S_MAX;
        }
        let (mut bytes, mut rate) = (0_u64, 1);
        for (Reverse(age_ms), _, more) in ripe {
            bytes = bytes.saturating_add(*more);
            let left_ms = (self.period_ms / 100 * 95).saturating_sub(*age_ms);
            let left_ms = left_ms.max(self.period_ms / 50).max(1);
            rate = rate.max(bytes.saturating_mul(1_000).div_ceil(left_ms));
        }
        rate.saturating_mul(if self.hurry { HURRY } else { 1 }).min(BYTES_PER_S_MAX)
    }
}

/// Its age, the oldest first; its digest; its bytes.
type Ripe = (Reverse<u64>, SegmentDigest, u64);

/// The first `most` replicas to read.
pub fn plan(
    replicas: impl IntoIterator<Item = Replica>,
    cycle: &Cycle,
    now_ms: u64,
    most: usize,
) -> Plan {
    let (mut totals, mut ripe) = (Totals::default(), Vec::<Ripe>::new());
    for Replica { digest, bytes, known } in replicas {
        let known = known.filter(|known| known.at_ms() <= now_ms.saturating_add(AHEAD_MS_MAX));
        totals.replicas += 1;
        totals.bytes += bytes;
        if cycle.is_verified(known, now_ms) {
            totals.verified += 1;
            totals.verified_bytes += bytes;
        }
        let age = known.map(|known| age_ms(known, now_ms));
        totals.oldest_ms = totals.oldest_ms.max(age);
        totals.late += u64::from(age.is_none_or(|age| age > cycle.period_ms));
        if cycle.is_ripe(known, now_ms) {
            totals.ripe += 1;
            totals.ripe_bytes += bytes;
            ripe.push((Reverse(age.unwrap_or(u64::MAX)), digest, bytes));
        }
    }
    ripe.sort_unstable();
    let bytes_per_s = cycle.bytes_per_s(&ripe);
    let next = ripe.into_iter().take(most).map(|(_, digest, bytes)| (digest, bytes)).collect();
    Plan { next, bytes_per_s, totals }
}

/// How long the node waits before it reads so many bytes, milliseconds.
pub fn wait_ms(bytes: u64, bytes_per_s: u64) -> u64 {
    (bytes.saturating_mul(1_000) / bytes_per_s.max(1)).min(TURN_MS_MAX)
}

fn age_ms(known: Known, now_ms: u64) -> u64 {
    now_ms.saturating_sub(known.at_ms())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const CYCLE: Cycle = Cycle { period_ms: 14 * DAY_MS, pass_since_ms: None, hurry: false };
    const MIB: u64 = 1 << 20;

    fn digest(number: u64) -> SegmentDigest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        SegmentDigest(bytes)
    }

    fn replica(number: u64, known: Option<Known>) -> Replica {
        Replica { digest: digest(number), bytes: 32 * MIB, known }
    }

    /// Reads as planned from `start` until `end`, and returns the greatest age of any replica.
    fn read_until(known: &mut BTreeMap<u64, Known>, cycle: &Cycle, start: u64, end: u64) -> u64 {
        let (mut now, mut oldest) = (start, 0);
        while now < end {
            let replicas = known.iter().map(|(number, it)| replica(*number, Some(*it)));
            let plan = plan(replicas, cycle, now, 64);
            oldest = oldest.max(plan.totals.oldest_ms.unwrap_or(0));
            if plan.next.is_empty() {
                now += DAY_MS / 24;
            }
            for (digest, bytes) in plan.next {
                now += wait_ms(bytes, plan.bytes_per_s);
                let number = u64::from_be_bytes(digest.0[..8].try_into().unwrap());
                known.insert(number, Known::Verified(now));
            }
        }
        oldest
    }

    #[test]
    fn every_replica_is_read_within_each_cycle() {
        // All written within an hour, and written over ten days.
        for apart_ms in [1_000, 250_000] {
            let start = 100 * DAY_MS;
            let mut known: BTreeMap<u64, Known> = (0..3_600)
                .map(|number| (number, Known::Written(start + number * apart_ms)))
                .collect();
            let end = start + 3_600 * apart_ms;
            let oldest = read_until(&mut known, &CYCLE, end, end + 60 * DAY_MS);
            assert!(oldest <= CYCLE.period_ms, "{oldest} ms, {apart_ms} ms apart");
            assert!(known.values().all(|it| matches!(it, Known::Verified(_))));
        }
    }

    #[test]
    fn a_node_that_was_off_catches_up_within_days() {
        let mut known: BTreeMap<u64, Known> =
            (0..3_600).map(|number| (number, Known::Verified(DAY_MS))).collect();
        read_until(&mut known, &CYCLE, 90 * DAY_MS, 92 * DAY_MS);
        assert!(known.values().all(|it| it.at_ms() >= 90 * DAY_MS));
    }

    #[test]
    fn what_is_known_least_is_read_first_and_what_is_fresh_not_at_all() {
        let now = 100 * DAY_MS;
        let replicas = [
            replica(1, Some(Known::Verified(now - 13 * DAY_MS))),
            replica(2, None),
            replica(3, Some(Known::Written(now - 30 * DAY_MS))),
            replica(4, Some(Known::Verified(now - DAY_MS))),
            replica(5, Some(Known::Written(now + 60_000))),
            replica(6, Some(Known::Verified(now + DAY_MS))),
        ];
        let plan_of = |cycle: &Cycle, most| {
            let plan = plan(replicas, cycle, now, most);
            (plan.next.into_iter().map(|it| it.0).collect::<Vec<_>>(), plan.totals)
        };
        let (next, totals) = plan_of(&CYCLE, 10);
        assert_eq!(next, [digest(2), digest(6), digest(3), digest(1)]);
        let expected = Totals {
            replicas: 6,
            bytes: 192 * MIB,
            verified: 2,
            verified_bytes: 64 * MIB,
            ripe: 4,
            ripe_bytes: 128 * MIB,
            late: 3,
            oldest_ms: Some(30 * DAY_MS),
        };
        assert_eq!(totals, expected);
        assert_eq!(plan_of(&CYCLE, 1).0, [digest(2)]);
        let pass = Cycle { pass_since_ms: Some(now - 2 * DAY_MS), ..CYCLE };
        let (next, totals) = plan_of(&pass, 10);
        assert_eq!(next, [digest(2), digest(6), digest(3), digest(1), digest(5)]);
        assert_eq!(totals.verified, 1);
    }

    #[test]
    fn a_fault_or_a_late_replica_makes_it_faster_up_to_the_limit() {
        let rate = |number: u64, cycle: Cycle, age_days: u64| {
            let now = 100 * DAY_MS;
            let known = Some(Known::Verified(now - age_days * DAY_MS));
            plan((0..number).map(|at| replica(at, known)), &cycle, now, 1).bytes_per_s
        };
        let within = |bytes: u64, days: u64| bytes.div_ceil(days * 864);
        // Until 13.3 days have passed, and a fiftieth of the cycle.
        let usual = rate(1_000, CYCLE, 12);
        assert_eq!(usual, within(32_000 * MIB, 130));
        assert_eq!(rate(1_000, Cycle { hurry: true, ..CYCLE }, 12), usual * 4);
        assert_eq!(rate(1_000, CYCLE, 15), within(32_000 * MIB, 28));
        assert_eq!(rate(1_000, CYCLE, 2), 0);
        assert_eq!(rate(1_000_000, CYCLE, 15), BYTES_PER_S_MAX);
        assert_eq!(wait_ms(32 * MIB, 1), TURN_MS_MAX);
        assert_eq!(wait_ms(32 * MIB, BYTES_PER_S_MAX), 500);
    }
}
