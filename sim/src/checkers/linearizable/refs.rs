//! One ref of a namespace as a sequential object (C5): its target checkpoint, and a generation that
//! rises by one with each move.
//!
//! A ref without a target may be removed with its whole namespace. It then begins again at 1.

use cairn_types::ids::CheckpointId;

use super::Model;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Moves to this checkpoint, or to none, if the ref has the expected generation. `None` accepts
    /// any generation.
    Move { to: Option<CheckpointId>, expect: Option<u64> },
    /// The ref's entry in the list of refs.
    Look,
    /// The target checkpoint.
    Resolve,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Done,
    /// Not done. This is the ref's generation, 0 if it has no target.
    Moved(u64),
    /// Not done, for a reason outside the ref.
    Refused,
    Stands(u64, Option<CheckpointId>),
    Names(CheckpointId),
    Missing,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    generation: u64,
    names: Option<CheckpointId>,
}

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ref;

impl Model for Ref {
    type State = State;
    type Input = Input;
    type Output = Output;

    fn start(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, input: &Input, output: Option<&Output>) -> Vec<State> {
        let same = |fits: bool| if fits { vec![*state] } else { Vec::new() };
        match (input, output) {
            (Input::Move { to, expect }, None) => {
                let moved = state.moved(*to, *expect);
                if moved.is_empty() { vec![*state] } else { moved }
            }
            (Input::Move { to, expect }, Some(Output::Done)) => state.moved(*to, *expect),
            (Input::Move { expect: Some(expect), .. }, Some(Output::Moved(current))) => {
                same(state.current() == *current && expect != current)
            }
            (
                Input::Move { to: None, .. } | Input::Look | Input::Resolve,
                Some(Output::Missing),
            ) => same(state.names.is_none()),
            (Input::Move { .. }, Some(Output::Refused)) => same(true),
            (Input::Look, Some(Output::Stands(generation, names))) => {
                same((state.generation, state.names) == (*generation, *names))
            }
            (Input::Resolve, Some(Output::Names(id))) => same(state.names == Some(*id)),
            (Input::Look | Input::Resolve, None) => same(true),
            _ => Vec::new(),
        }
    }

    fn is_read(&self, input: &Input, output: Option<&Output>) -> bool {
        !matches!((input, output), (Input::Move { .. }, None | Some(Output::Done)))
    }
}

impl State {
    fn current(self) -> u64 {
        if self.names.is_some() { self.generation } else { 0 }
    }

    fn moved(self, to: Option<CheckpointId>, expect: Option<u64>) -> Vec<Self> {
        let fits = expect.is_none_or(|expect| expect == self.current());
        if !fits || (to.is_none() && self.names.is_none()) {
            return Vec::new();
        }
        let mut generations = vec![self.generation + 1];
        if self.names.is_none() && self.generation > 0 {
            generations.push(1);
        }
        generations.into_iter().map(|generation| Self { generation, names: to }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Failure, Operation, check};
    use super::*;

    const ONE: Option<CheckpointId> = Some(CheckpointId(1));
    const TWO: Option<CheckpointId> = Some(CheckpointId(2));

    fn judged(history: &[(Input, (u64, u64), Option<Output>)]) -> Result<usize, Failure> {
        let operation =
            |(input, (called, answered), output): &(Input, _, Option<Output>)| Operation {
                who: "c".to_owned(),
                input: input.clone(),
                called: *called,
                answer: output.clone().map(|output| (*answered, output)),
            };
        check(&Ref, &history.iter().map(operation).collect::<Vec<_>>(), 10_000)
    }

    fn moves(to: Option<CheckpointId>, expect: u64) -> Input {
        Input::Move { to, expect: Some(expect) }
    }

    #[test]
    fn one_of_two_moves_from_one_generation_is_made() {
        let (first, second) = (moves(ONE, 0), moves(TWO, 0));
        let won = |output| {
            judged(&[
                (first.clone(), (1, 9), Some(Output::Done)),
                (second.clone(), (2, 8), Some(output)),
                (Input::Resolve, (10, 11), Some(Output::Names(CheckpointId(1)))),
            ])
        };
        assert!(won(Output::Moved(1)).is_ok());
        assert!(won(Output::Done).is_err(), "both");
        assert!(won(Output::Moved(2)).is_err(), "a generation it never had");
    }

    #[test]
    fn a_move_in_doubt_may_have_been_made_and_a_stale_answer_may_not() {
        let looked = |generation, names| {
            judged(&[
                (moves(ONE, 0), (1, 2), Some(Output::Done)),
                (moves(TWO, 1), (3, 0), None),
                (Input::Look, (5, 6), Some(Output::Stands(2, TWO))),
                (Input::Look, (7, 8), Some(Output::Stands(generation, names))),
            ])
        };
        assert!(looked(2, TWO).is_ok());
        assert!(looked(1, ONE).is_err());
    }

    #[test]
    fn a_removed_ref_names_nothing_and_goes_on_or_begins_again() {
        let again = |generation| {
            judged(&[
                (moves(ONE, 0), (1, 2), Some(Output::Done)),
                (moves(None, 1), (3, 4), Some(Output::Done)),
                (Input::Resolve, (5, 6), Some(Output::Missing)),
                (moves(None, 0), (7, 8), Some(Output::Missing)),
                (moves(TWO, 0), (9, 10), Some(Output::Done)),
                (Input::Look, (11, 12), Some(Output::Stands(generation, TWO))),
            ])
        };
        assert!(again(3).is_ok() && again(1).is_ok());
        assert!(again(2).is_err());
    }
}
