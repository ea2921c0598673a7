//! Linearizability (C1): whether a history of concurrent operations could come from an object that
//! does one thing at a time. Each operation must happen at one moment between its call and its
//! answer.
//!
//! The search of Wing and Gong with Lowe's memory: it tries every operation that may be next,
//! remembers the tried pairs (set of operations done, state), and goes back if no operation fits.
//!
//! ```text
//!   call ---[ one moment ]--- answer       known: it happened, with this outcome
//!   call ---[ one moment, or never ] ...   unknown: the caller died, or got an error
//! ```
//!
//! The problem is NP-complete. Three things keep it small here: each namespace has its own history,
//! few operations overlap, and a read that fits now is done at once, which loses no solution. A
//! history that is still too hard is a separate error and never a pass.

pub mod catalogue;
pub mod refs;

use std::collections::BTreeSet;
use std::fmt::Debug;

/// A sequential object.
pub trait Model {
    type State: Clone + Ord + Debug;
    type Input: Clone + Debug;
    type Output: Clone + Debug;

    fn start(&self) -> Self::State;

    /// The states that `input` with this output (`None`: with any output) may lead to. None if the
    /// output is impossible.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Vec<Self::State>;

    /// Whether `input` with this output writes nothing in any state. A write that changes nothing
    /// now (such as a note that exists already) may be needed later, after another write.
    fn is_read(&self, input: &Self::Input, output: Option<&Self::Output>) -> bool;
}

/// One call, in any unit of time.
#[derive(Debug, Clone)]
pub struct Operation<I, O> {
    /// The caller, for the report.
    pub who: String,
    pub input: I,
    pub called: u64,
    /// The time and the value of the answer. `None` if the outcome is unknown.
    pub answer: Option<(u64, O)>,
}

/// Why a history did not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No order explains the answers. Tells how far the best attempt came, and the answers it could
    /// not place.
    #[error(
        "not linearizable: {placed} of {known} answers explained, then in {state} none of {stuck:?}"
    )]
    NotLinearizable { placed: usize, known: usize, state: String, stuck: Vec<String> },
    /// The search was stopped: the result is unknown.
    #[error("undecided after {configurations} configurations of {operations} operations")]
    TooHard { configurations: usize, operations: usize },
}

type Op<M> = Operation<<M as Model>::Input, <M as Model>::Output>;

/// Judges a history. Returns the number of tried configurations, at most `configurations_max`.
///
/// # Errors
/// [`Failure`].
pub fn check<M: Model>(
    model: &M,
    operations: &[Op<M>],
    configurations_max: usize,
) -> Result<usize, Failure> {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.called);
    let search = Search { model, operations: &operations, configurations_max };
    search.run()
}

struct Search<'a, M: Model> {
    model: &'a M,
    /// By time of call.
    operations: &'a [Op<M>],
    configurations_max: usize,
}

/// Which operations are done, one bit each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Done(Vec<u64>);

impl Done {
    fn contains(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn insert(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }
}

/// A configuration, and the next steps that were not tried yet.
struct Frame<S> {
    done: Done,
    state: S,
    /// Number of explained answers.
    placed: usize,
    /// The last one is tried first.
    ways: Vec<(usize, S)>,
}

impl<M: Model> Search<'_, M> {
    fn run(&self) -> Result<usize, Failure> {
        let known = self.operations.iter().filter(|it| it.answer.is_some()).count();
        let empty = Done(vec![0; self.operations.len() / 64 + 1]);
        let mut seen = BTreeSet::new();
        let mut best = (0, self.model.start(), empty.clone());
        let mut stack = vec![self.frame(empty, self.model.start(), 0)];
        while let Some(frame) = stack.last_mut() {
            if frame.placed == known {
                return Ok(seen.len());
            }
            if frame.placed > best.0 {
                best = (frame.placed, frame.state.clone(), frame.done.clone());
            }
            let Some((at, state)) = frame.ways.pop() else {
                stack.pop();
                continue;
            };
            let mut done = frame.done.clone();
            done.insert(at);
            let placed = frame.placed + usize::from(self.operations[at].answer.is_some());
            let next = self.frame(done, state, placed);
            if seen.insert((next.done.clone(), next.state.clone())) {
                stack.push(next);
            }
            if seen.len() > self.configurations_max {
                let operations = self.operations.len();
                return Err(Failure::TooHard { configurations: seen.len(), operations });
            }
        }
        let (placed, state, done) = best;
        let stuck = self.open(&done).into_iter().map(|at| describe(&self.operations[at]));
        let stuck = stuck.take(8).collect();
        Err(Failure::NotLinearizable { placed, known, state: format!("{state:?}"), stuck })
    }

    /// Operations that may be next: those called before the first answer that is not explained yet.
    fn open(&self, done: &Done) -> Vec<usize> {
        let left = || self.operations.iter().enumerate().filter(|(at, _)| !done.contains(*at));
        let answered = left().filter_map(|(_, it)| it.answer.as_ref().map(|(time, _)| *time));
        let horizon = answered.min().unwrap_or(0);
        // Two operations at the same moment may be in either order.
        left().filter(|(_, it)| it.called <= horizon).map(|(at, _)| at).collect()
    }

    /// Does the reads that fit and change nothing at once, then lists the next steps.
    fn frame(&self, mut done: Done, state: M::State, mut placed: usize) -> Frame<M::State> {
        loop {
            let mut ways = Vec::new();
            let mut free = false;
            for at in self.open(&done) {
                let Operation { input, answer, .. } = &self.operations[at];
                let output = answer.as_ref().map(|(_, output)| output);
                let next = self.model.step(&state, input, output);
                let idle = next.as_slice() == [state.clone()];
                // An operation of unknown outcome that changes nothing may be ignored.
                if idle && answer.is_none() {
                    continue;
                }
                if idle && self.model.is_read(input, output) {
                    done.insert(at);
                    (placed, free) = (placed + 1, true);
                    continue;
                }
                ways.extend(next.into_iter().map(|next| (at, next)));
            }
            if !free {
                // Operations with an answer come first, ordered by the time of the answer.
                let rank = |at: usize| {
                    let answer = self.operations[at].answer.as_ref();
                    answer.map_or((1, at as u64), |(time, _)| (0, *time))
                };
                ways.sort_by_key(|(at, _)| std::cmp::Reverse(rank(*at)));
                return Frame { done, state, placed, ways };
            }
        }
    }
}

fn describe<I: Debug, O: Debug>(operation: &Operation<I, O>) -> String {
    let Operation { who, input, called, answer } = operation;
    match answer {
        Some((time, output)) => format!("{who} {input:?} -> {output:?} in {called}..{time}"),
        None => format!("{who} {input:?} from {called} on, outcome unknown"),
    }
}

#[cfg(test)]
mod tests;
