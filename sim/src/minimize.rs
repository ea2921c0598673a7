//! Finds the smallest run that still breaks the same promise: first the fewest faults, by delta
//! debugging over their ordinals, then a smaller plan, then the fewest faults once more.

use std::collections::BTreeSet;
use std::io;

use crate::replay::{Mask, Replay};
use crate::run::Outcome;
use crate::scenario::plan::{FaultEvent, MoveKind, Plan, PlanError};

/// The result and its cost.
#[derive(Debug)]
pub struct Smallest {
    pub replay: Replay,
    pub outcome: Outcome,
    pub runs: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum MinimizeError {
    #[error("seed {0} breaks no promise")]
    Sound(u64),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("cannot play: {0}")]
    Play(#[from] io::Error),
}

/// Shrinks `replay` in at most `runs_max` runs.
pub fn minimize(
    replay: &Replay,
    runs_max: u32,
    play: impl FnMut(&Replay) -> io::Result<Outcome>,
) -> Result<Smallest, MinimizeError> {
    let plan = Plan::of(replay.seed, &replay.tuning.set)?;
    let mut search = Search::begin(replay, &plan, runs_max, play)?;
    search.fewer_faults()?;
    search.smaller_plan()?;
    search.fewer_faults()?;
    let Search { best, runs, .. } = search;
    Ok(Smallest { replay: best.replay, outcome: best.outcome, runs })
}

/// A run that breaks the promise, and its remaining faults.
struct Broken {
    replay: Replay,
    kept: Vec<u32>,
    outcome: Outcome,
}

struct Search<P> {
    play: P,
    invariant: String,
    /// The schedule of the whole plan. Faults that are not kept are masked.
    schedule: Vec<FaultEvent>,
    best: Broken,
    runs: u32,
    runs_max: u32,
}

impl<P: FnMut(&Replay) -> io::Result<Outcome>> Search<P> {
    fn begin(
        replay: &Replay,
        plan: &Plan,
        runs_max: u32,
        mut play: P,
    ) -> Result<Self, MinimizeError> {
        let outcome = play(replay)?;
        let first = outcome.violations.first().ok_or(MinimizeError::Sound(replay.seed))?;
        let invariant = first.invariant.clone();
        let schedule = plan.schedule();
        let planned = schedule.iter().map(|event| event.ordinal);
        let kept = planned.filter(|ordinal| !replay.tuning.mask.hides(*ordinal)).collect();
        let mut replay = replay.clone();
        replay.breaks = Some(invariant.clone());
        let best = Broken { replay, kept, outcome };
        Ok(Self { play, invariant, schedule, best, runs: 1, runs_max })
    }

    /// Whether a run with these faults and parameters breaks the promise too. It is then the new
    /// best.
    fn try_out(
        &mut self,
        kept: Vec<u32>,
        set: Option<(String, u64)>,
    ) -> Result<bool, MinimizeError> {
        if self.runs >= self.runs_max {
            return Ok(false);
        }
        self.runs += 1;
        let mut replay = self.best.replay.clone();
        replay.tuning.set.extend(set);
        let keeps: BTreeSet<u32> = kept.iter().copied().collect();
        let planned = self.schedule.iter().map(|event| event.ordinal);
        replay.tuning.mask = planned.filter(|it| !keeps.contains(it)).collect::<Mask>();
        let outcome = (self.play)(&replay)?;
        let broken = outcome.violations.iter().any(|it| it.invariant == self.invariant);
        if broken {
            self.best = Broken { replay, kept, outcome };
        }
        Ok(broken)
    }

    fn fewer_faults(&mut self) -> Result<(), MinimizeError> {
        // Many planned faults had no effect.
        let struck: BTreeSet<u32> =
            self.best.outcome.faults.iter().map(|(ordinal, _)| *ordinal).collect();
        if struck.len() < self.best.kept.len() {
            self.try_out(struck.into_iter().collect(), None)?;
        }
        if !self.best.kept.is_empty() && self.try_out(Vec::new(), None)? {
            return Ok(());
        }
        let mut parts = 2;
        while self.best.kept.len() > 1 && parts <= self.best.kept.len() {
            if self.drop_one_part(parts)? {
                parts = (parts - 1).max(2);
            } else if parts == self.best.kept.len() {
                return Ok(());
            } else {
                parts = (parts * 2).min(self.best.kept.len());
            }
            if self.runs >= self.runs_max {
                return Ok(());
            }
        }
        Ok(())
    }

    fn drop_one_part(&mut self, parts: usize) -> Result<bool, MinimizeError> {
        let kept = self.best.kept.clone();
        for part in 0..parts {
            let bounds = part * kept.len() / parts..(part + 1) * kept.len() / parts;
            let rest: Vec<u32> = (kept.iter().enumerate())
                .filter(|(place, _)| !bounds.contains(place))
                .map(|(_, ordinal)| *ordinal)
                .collect();
            if self.try_out(rest, None)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn smaller_plan(&mut self) -> Result<(), MinimizeError> {
        let plan = Plan::of(self.best.replay.seed, &self.best.replay.tuning.set)?;
        let last = self.schedule.iter().rev().find(|it| self.best.kept.contains(&it.ordinal));
        let mut smaller = vec![
            ("faults_ms".to_owned(), last.map_or(0, |event| event.at_ms + 1)),
            ("nodes".to_owned(), 3),
            ("nodes".to_owned(), 4),
            ("clients".to_owned(), 1),
            ("clients".to_owned(), 2),
            ("skew_ms".to_owned(), 0),
            ("left_out".to_owned(), 0),
            ("moves".to_owned(), plan.moves / 8),
            ("moves".to_owned(), plan.moves / 2),
        ];
        smaller.extend(MoveKind::ALL.iter().map(|kind| (format!("does.{}", kind.text()), 0)));
        for (name, value) in smaller {
            let now = Plan::of(self.best.replay.seed, &self.best.replay.tuning.set)?;
            let old = now.values().into_iter().find(|(known, _)| *known == name);
            if old.is_some_and(|(_, old)| value < old) {
                self.try_out(self.best.kept.clone(), Some((name, value)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;
    use crate::replay::Tuning;
    use crate::run::{Options, run};
    use crate::trace;
    use crate::world::World;

    const CULPRITS: [u32; 2] = [5, 12];

    /// Breaks D2 when both culprits happen, in this order, in a run of two or more clients. A third
    /// fault breaks something else.
    fn planted(world: World) -> BoxFuture<'static, ()> {
        async move {
            let plan = Plan::of(world.seed(), &world.tuning().set).unwrap();
            let (mut struck, mut now_ms) = (0, 0);
            for event in plan.schedule() {
                if world.tuning().mask.hides(event.ordinal) {
                    continue;
                }
                tokio::time::sleep(Duration::from_millis(event.at_ms - now_ms)).await;
                now_ms = event.at_ms;
                trace::fault(event.ordinal, format_args!("{}", event.kind.text()));
                if CULPRITS.get(struck) == Some(&event.ordinal) {
                    struck += 1;
                }
                if event.ordinal == 15 {
                    world.violation("L1", "of no interest");
                }
            }
            if struck == CULPRITS.len() && plan.clients >= 2 {
                world.violation("D2", "planted");
            }
        }
        .boxed()
    }

    fn play(replay: &Replay) -> io::Result<Outcome> {
        let options = Options { tuning: replay.tuning.clone(), ..Options::new(replay.seed) };
        run(&options, planted)
    }

    #[test]
    fn only_the_faults_and_parameters_that_matter_are_left() {
        for seed in [1, 2, 3] {
            let tuning = Tuning { mask: "15".parse().unwrap(), ..Tuning::default() };
            let replay = Replay::new("planted", seed, tuning);
            let smallest = minimize(&replay, 300, play).unwrap();
            assert_eq!(smallest.replay.breaks.as_deref(), Some("D2"));
            let left: Vec<u32> = smallest.outcome.faults.iter().map(|fault| fault.0).collect();
            assert_eq!(left, CULPRITS, "seed {seed}");
            let plan = Plan::of(seed, &smallest.replay.tuning.set).unwrap();
            assert_eq!((plan.nodes, plan.clients), (3, 2));
            assert_eq!(plan.schedule().last().map(|event| event.ordinal), Some(CULPRITS[1]));
            // The written replay equals the one that was found.
            let written: Replay = smallest.replay.to_string().parse().unwrap();
            assert_eq!(play(&written).unwrap(), smallest.outcome);
            assert!(smallest.outcome.story.last().unwrap().contains("D2: planted"));
        }
    }

    #[test]
    fn sound_run_has_no_smallest_one() {
        let tuning = Tuning { mask: "5,15".parse().unwrap(), ..Tuning::default() };
        let replay = Replay::new("planted", 1, tuning);
        assert!(matches!(minimize(&replay, 9, play), Err(MinimizeError::Sound(1))));
    }
}
