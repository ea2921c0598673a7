//! Monotonic clocks that run at other rates; and wall clocks that jump: one at a time, because C5 promises what the voters' median is worth, and
//! of three voters that is one wrong clock.

use super::{Faults, Later, Strike};
use crate::checkers::c5_labels::LABEL_WINDOW;
use crate::monotonic::RATES;
use crate::process::ProcessId;

/// A minute, an hour, a day, a month.
const JUMPS_MS: [i64; 4] = [60_000, 3_600_000, 86_400_000, 30 * 86_400_000];

impl Faults {
    /// Half of the time the leader's, two thirds of the time forward.
    pub(super) fn wall_jump(&mut self, mut strike: Strike, node: ProcessId) {
        let leader = self.cluster.leader().map(|leader| leader.process);
        let process = leader.filter(|_| strike.chance.chance(0.5)).unwrap_or(node);
        let world = self.cluster.world();
        let Some(clock) = world.clock(process) else { return };
        let window = self.plan.paced(LABEL_WINDOW);
        let recent = self.jumped.filter(|it| *it != process).and_then(|it| world.clock(it));
        if recent.is_some_and(|recent| !recent.is_right_since(window)) {
            return;
        }
        let unit_ms = strike.chance.pick(&JUMPS_MS).copied().unwrap_or(JUMPS_MS[0]);
        let mut jump_ms = unit_ms * strike.chance.range(1..4) as i64;
        if strike.chance.chance(0.33) {
            jump_ms = -jump_ms;
        }
        strike.says(format_args!("{} by {jump_ms} ms", self.cluster.name(process)));
        // One that is off already is put right by the jump before.
        clock.put_right();
        clock.jump(jump_ms);
        self.jumped = Some(process);
        self.after(&mut strike, 6_000, Later::PutClockRight(process));
    }

    /// A node's monotonic clock, in half of the cases the leader's, runs at another rate until the
    /// next such fault on it.
    pub(super) fn clock_rate(&mut self, mut strike: Strike, node: ProcessId) {
        let leader = self.cluster.leader().map(|leader| leader.process);
        let process = leader.filter(|_| strike.chance.chance(0.5)).unwrap_or(node);
        let rate = strike.chance.range(*RATES.start()..*RATES.end() + 1);
        let Some(clock) = self.cluster.world().monotonic(process) else { return };
        strike.says(format_args!("{} runs at {rate} millionths", self.cluster.name(process)));
        clock.set_rate(rate);
    }

    pub(super) fn put_clock_right(&self, process: ProcessId) {
        if let Some(clock) = self.cluster.world().clock(process) {
            clock.put_right();
        }
    }
}
