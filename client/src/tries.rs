//! One call over its attempts: the next address, the pause before it, and the error at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::ClientError;
use crate::options::Retry;

/// Pause between two addresses of the first round: long enough not to overload a node that refuses,
/// short enough not to be noticed.
const HOP_PAUSE: Duration = Duration::from_millis(5);
/// Redirects followed without a pause. More mean that nodes disagree about the leader.
const REDIRECTS_MAX: u32 = 3;

/// The next action after a failed attempt.
pub(crate) enum Next {
    /// Ask another node.
    Elsewhere(String),
    /// The leader is said to be at this address.
    Redirect(String),
    /// Ask the same node again, after a pause.
    Again(String),
    /// Like `Again`. The node answers that it is overloaded or still working on the call.
    Busy(String),
    /// That is no Cairn node. Other addresses may be.
    Foreign(String),
    /// That node and this client hold different keys. Other nodes may hold the same.
    Locked(String),
    Stop(ClientError),
}

/// The state of one call over its attempts.
#[derive(Default)]
pub(crate) struct Tries {
    pub address: String,
    /// A node that does not lead forwards the command.
    pub forward: bool,
    failures: u32,
    /// The failures that do not count against the limit, because the leader was still working on
    /// the call.
    pub forgiven: u32,
    redirects: u32,
    /// Whether any node has answered.
    pub answered: bool,
    foreign: BTreeMap<String, String>,
    locked: BTreeMap<String, String>,
    pub last: String,
    retry: Retry,
}

impl Tries {
    pub fn starting_at(address: String, retry: Retry) -> Self {
        Self { address, retry, ..Self::default() }
    }

    /// Whether the maximum number of failed attempts of a call is reached.
    pub fn is_spent(&self) -> bool {
        let failures = self.failures.saturating_sub(self.forgiven);
        self.retry.tries_max.is_some_and(|max| failures > 0 && failures >= max)
    }

    /// Goes to the next address, which is `elsewhere` unless the answer named one. Returns the
    /// pause before it.
    pub fn advance(
        &mut self,
        next: Next,
        addresses: &[String],
        elsewhere: Option<String>,
    ) -> Duration {
        match next {
            Next::Redirect(leader) => {
                self.last = format!("{} names {leader} as leader", self.address);
                self.address = leader;
                self.redirects += 1;
                if self.redirects <= REDIRECTS_MAX {
                    return Duration::ZERO;
                }
            }
            Next::Again(text) | Next::Busy(text) => self.last = text,
            Next::Foreign(text) => {
                self.foreign.insert(self.address.clone(), text.clone());
                self.move_on(text, elsewhere);
            }
            Next::Locked(text) => {
                self.locked.insert(self.address.clone(), text.clone());
                self.move_on(text, elsewhere);
            }
            Next::Elsewhere(text) => self.move_on(text, elsewhere),
            Next::Stop(_) => {}
        }
        self.failures += 1;
        let round = self.failures / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        match round {
            0 => HOP_PAUSE,
            round => {
                let Retry { pause_min, pause_max, .. } = self.retry;
                pause_min.saturating_mul(1 << (round - 1).min(8)).min(pause_max)
            }
        }
    }

    fn move_on(&mut self, text: String, elsewhere: Option<String>) {
        self.last = text;
        self.redirects = 0;
        if let Some(address) = elsewhere {
            self.address = address;
        }
    }

    /// Whether every address has been found not to be a node of this cluster.
    pub fn all_foreign(&self, addresses: &[String]) -> bool {
        let foreign = |address: &String| {
            self.foreign.contains_key(address) || self.locked.contains_key(address)
        };
        !self.answered && addresses.iter().all(foreign)
    }

    pub fn give_up(self, what: &str, endpoints: Vec<String>) -> ClientError {
        if let Some((endpoint, said)) = self.locked.into_iter().next().filter(|_| !self.answered) {
            return ClientError::Key { endpoint, what: said };
        }
        if let Some((endpoint, said)) = self.foreign.into_iter().next().filter(|_| !self.answered) {
            return ClientError::NotACluster { endpoint, what: said };
        }
        match self.answered {
            true => ClientError::Timeout { what: what.to_owned(), last: self.last },
            false => ClientError::Unreachable { endpoints, last: self.last },
        }
    }
}
