//! One call over its tries: which address is next, after which pause, and what to say at the
//! end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::ClientError;

/// First and longest pause after every known address has failed once.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Pause between two addresses of the first round: enough to keep a refusing one from being
/// hammered, too little to notice.
const HOP_PAUSE: Duration = Duration::from_millis(5);
/// Redirects followed without a pause; more mean that nodes disagree about the leader.
const REDIRECTS_MAX: u32 = 3;

/// What to do after a try that failed.
pub(crate) enum Next {
    /// Somewhere else.
    Elsewhere(String),
    /// The leader is said to be there.
    Redirect(String),
    /// The same node again, after a pause.
    Again(String),
    /// That is no Cairn node; others may be.
    Foreign(String),
    Stop(ClientError),
}

/// The state of one call over its tries.
#[derive(Default)]
pub(crate) struct Tries {
    pub address: String,
    failures: u32,
    redirects: u32,
    /// Whether any node has answered at all.
    pub answered: bool,
    foreign: BTreeMap<String, String>,
    pub last: String,
}

impl Tries {
    pub fn starting_at(address: String) -> Self {
        Self { address, ..Self::default() }
    }

    /// Chooses the next address and returns the pause before it.
    pub fn advance(&mut self, next: Next, addresses: &[String]) -> Duration {
        match next {
            Next::Redirect(leader) => {
                self.last = format!("{} names {leader} as leader", self.address);
                self.address = leader;
                self.redirects += 1;
                if self.redirects <= REDIRECTS_MAX {
                    return Duration::ZERO;
                }
            }
            Next::Again(text) => self.last = text,
            Next::Foreign(text) => {
                self.foreign.insert(self.address.clone(), text.clone());
                self.move_on(text, addresses);
            }
            Next::Elsewhere(text) => self.move_on(text, addresses),
            Next::Stop(_) => {}
        }
        self.failures += 1;
        let round = self.failures / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        match round {
            0 => HOP_PAUSE,
            round => BACKOFF_MIN.saturating_mul(1 << (round - 1).min(8)).min(BACKOFF_MAX),
        }
    }

    fn move_on(&mut self, text: String, addresses: &[String]) {
        self.last = text;
        self.redirects = 0;
        let at = addresses.iter().position(|address| *address == self.address);
        let next = at.map_or(0, |at| at + 1) % addresses.len().max(1);
        if let Some(address) = addresses.get(next) {
            self.address.clone_from(address);
        }
    }

    pub fn all_foreign(&self, addresses: &[String]) -> bool {
        !self.answered && addresses.iter().all(|address| self.foreign.contains_key(address))
    }

    pub fn give_up(self, what: &str, endpoints: Vec<String>) -> ClientError {
        if let Some((endpoint, said)) = self.foreign.into_iter().next().filter(|_| !self.answered) {
            return ClientError::NotACluster { endpoint, what: said };
        }
        match self.answered {
            true => ClientError::Timeout { what: what.to_owned(), last: self.last },
            false => ClientError::Unreachable { endpoints, last: self.last },
        }
    }
}
