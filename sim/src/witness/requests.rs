//! The answers to clients' and nodes' commands: one answer per request (C4), the requested terms,
//! and the time until which an upload continues.

use std::collections::BTreeMap;

use cairn_types::command::{Begin, Begun, Body, Command, Reply, Sender};
use cairn_types::ids::{Attempt, CheckpointId, RequestId};

use crate::trace;

/// Calls without an answer are removed, the oldest first.
const CALLS_MAX: usize = 4_096;

#[derive(Default)]
pub struct Requests {
    calls: BTreeMap<u64, Asked>,
    /// The cluster time of each request's first sending, and its first answer.
    asked_ms: BTreeMap<RequestId, u64>,
    first: BTreeMap<RequestId, Reply>,
    /// The cluster time at which an upload's client was last told that the upload continues.
    renewed_ms: BTreeMap<(CheckpointId, Attempt), u64>,
    /// Commands of clients and operators that were accepted, for the audit.
    recorded: BTreeMap<RequestId, &'static str>,
    /// Promises that an answer broke: name and description.
    broken: Vec<(&'static str, String)>,
}

/// A command on its way, sent at this cluster time or later.
struct Asked {
    command: Command,
    clock_ms: u64,
}

impl Requests {
    /// A command crosses to a node while the newest catalogue is at this time.
    pub fn asks(&mut self, call: u64, command: Command, clock_ms: u64) {
        // The answer to a repeated request may be the first answer.
        let clock_ms = match command.request {
            RequestId(0) => clock_ms,
            request => *self.asked_ms.entry(request).or_insert(clock_ms),
        };
        self.calls.insert(call, Asked { command, clock_ms });
        while self.calls.len() > CALLS_MAX {
            self.calls.pop_first();
        }
    }

    /// Its answer crosses back.
    pub fn answer(&mut self, call: u64, reply: &Reply) {
        let Some(Asked { command, clock_ms }) = self.calls.remove(&call) else { return };
        self.one_answer(command.request, reply);
        self.note_recorded(&command, reply);
        match (&command.body, reply) {
            (Body::Begin(begin), Reply::Begun(begun)) => {
                self.terms(begin, begun);
                self.renews([(begun.checkpoint, begun.attempt)], clock_ms);
            }
            (Body::Renew(renew), Reply::Reported { refused: 0, .. }) => {
                self.renews(renew.uploads.iter().copied(), clock_ms);
            }
            (Body::Stage(stage), Reply::Staged { .. }) => {
                self.renews([(stage.checkpoint, stage.attempt)], clock_ms);
            }
            (Body::SealPart(seal), Reply::Sealed { .. }) => {
                self.renews([(seal.checkpoint, seal.attempt)], clock_ms);
            }
            _ => {}
        }
    }

    pub fn renewed_ms(&self, upload: CheckpointId, attempt: Attempt) -> Option<u64> {
        self.renewed_ms.get(&(upload, attempt)).copied()
    }

    /// Requests with a record in the audit.
    pub fn recorded(&self) -> Vec<(RequestId, &'static str)> {
        self.recorded.iter().map(|(request, command)| (*request, *command)).collect()
    }

    fn note_recorded(&mut self, command: &Command, reply: &Reply) {
        let is_asked = matches!(command.body.sender(), Sender::Client | Sender::Operator)
            && !matches!(command.body, Body::Stage(_) | Body::Renew(_));
        let is_done = !matches!(reply, Reply::Refused(_) | Reply::Lacking { .. });
        if command.request != RequestId(0) && is_asked && is_done {
            self.recorded.insert(command.request, command.body.name());
        }
    }

    pub fn take_broken(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.broken)
    }

    /// A repeated request gets the first answer. Refusals had no effect, and the answers to staging
    /// and reports describe the moment, so these may differ.
    fn one_answer(&mut self, request: RequestId, reply: &Reply) {
        let is_last = !matches!(
            reply,
            Reply::Refused(_)
                | Reply::Lacking { .. }
                | Reply::Staged { .. }
                | Reply::Reported { .. }
        );
        if request == RequestId(0) || !is_last {
            return;
        }
        match self.first.get(&request) {
            Some(first) => {
                trace::count("checked.answers_again", 1);
                if first != reply {
                    let text = format!("request {request:?}: first {first:?}, then {reply:?}");
                    self.broken.push(("C4", text));
                }
            }
            None => {
                self.first.insert(request, reply.clone());
            }
        }
    }

    /// A begun upload has the requested terms.
    fn terms(&mut self, begin: &Begin, begun: &Begun) {
        let (asked, has) = (&begin.change, &begun.policy);
        let kept = asked.replicas.is_none_or(|it| it == has.replicas)
            && asked.write_quorum.is_none_or(|it| it == has.write_quorum)
            && asked.min_racks.is_none_or(|it| it == has.min_racks);
        // A committed checkpoint has the terms of its put.
        if !kept && !begun.committed {
            let text = format!("upload {} has {has:?}, asked {asked:?}", begun.checkpoint);
            self.broken.push(("C2", text));
        }
    }

    fn renews(
        &mut self,
        uploads: impl IntoIterator<Item = (CheckpointId, Attempt)>,
        clock_ms: u64,
    ) {
        for upload in uploads {
            let known_ms = self.renewed_ms.entry(upload).or_default();
            *known_ms = clock_ms.max(*known_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_types::command::Renew;

    fn renewal(request: u128) -> Command {
        let uploads = vec![(CheckpointId(1), Attempt(2))];
        let body = Body::Renew(Renew { uploads });
        Command::new(RequestId(request), 0, 0, body)
    }

    #[test]
    fn another_answer_to_the_same_request_is_found() {
        let mut requests = Requests::default();
        for (call, reply) in [(1, Reply::Done), (2, Reply::Done)] {
            requests.asks(call, renewal(7), 0);
            requests.answer(call, &reply);
        }
        assert!(requests.take_broken().is_empty());
        requests.asks(3, renewal(7), 0);
        requests.answer(3, &Reply::Dropped { left: 0 });
        assert_eq!(requests.take_broken().len(), 1);
    }

    #[test]
    fn lease_runs_from_a_renewal_that_was_answered() {
        let mut requests = Requests::default();
        let known_ms = |requests: &Requests| requests.renewed_ms(CheckpointId(1), Attempt(2));
        requests.asks(1, renewal(7), 500);
        assert_eq!(known_ms(&requests), None);
        requests.answer(1, &Reply::Reported { accepted: 0, refused: 1 });
        assert_eq!(known_ms(&requests), None);
        requests.asks(2, renewal(8), 600);
        requests.asks(3, renewal(8), 900);
        requests.answer(3, &Reply::Reported { accepted: 1, refused: 0 });
        assert_eq!(known_ms(&requests), Some(600), "it may have been done when it was sent first");
    }
}
