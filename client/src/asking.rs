//! One question with its attempts. Each attempt asks one node or two.
//!
//! ```text
//!   first node ----answer---------------------------------------> done
//!   first node ----answer---------------------------------------> done
//!        | no answer within the usual time
//!   both failed: the next node, after a pause
//! ```

use std::time::Duration;

use cairn_host::envelope::{self, Identity, Reason};
use cairn_host::seam::Transport;
use cairn_types::command::Refusal;
use futures::future::{BoxFuture, Either, select};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Response, Status};
use tracing::Instrument;

use crate::cluster::{Aim, Client};
use crate::error::ClientError;
use crate::tries::{Next, Tries};

/// How long a node is used that forwarded a command to a leader this client could not reach. After
/// that the leader is tried again.
const VIA_KEPT: Duration = Duration::from_secs(30);

pub(crate) struct Ask {
    pub what: &'static str,
    pub aim: Aim,
    /// The node may take this long in addition to the usual time.
    pub wait: Duration,
    pub deadline: Option<Duration>,
    /// The leader answers "busy" while it works on the call. Such an answer renews the deadline,
    /// until this long after the first attempt.
    pub busy_max: Duration,
}

/// One call in its sent form.
pub(crate) struct Call {
    pub transport: Transport,
    pub identity: Identity,
    pub wait: Duration,
    /// The caller stops waiting after this.
    pub patience: Duration,
    /// A node that does not lead forwards a command.
    pub forward: bool,
}

type Sent<T> = BoxFuture<'static, Result<Response<T>, Status>>;

/// The result of an attempt, and its node.
struct Outcome<T> {
    address: String,
    forward: bool,
    result: Result<T, Next>,
    answered: bool,
}

impl Client {
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        ask: &Ask,
        send: impl FnMut(Call) -> Sent<T> + Send,
    ) -> Result<T, ClientError> {
        let span = tracing::debug_span!("call", what = ask.what);
        self.try_until_answered(ask, send).instrument(span).await
    }

    async fn try_until_answered<T: Send + 'static>(
        &self,
        ask: &Ask,
        mut send: impl FnMut(Call) -> Sent<T> + Send,
    ) -> Result<T, ClientError> {
        let first = Instant::now();
        // The time from which the deadline counts.
        let mut since = first;
        let (address, forward) = self.first_address(ask.aim)?;
        let mut tries = Tries::starting_at(address, self.options.retry);
        tries.forward = forward;
        loop {
            let left = ask.deadline.map(|deadline| deadline.saturating_sub(since.elapsed()));
            let longest = self.options.call_deadline + ask.wait;
            let patience = left.map_or(longest, |left| left.min(longest));
            let outcome = self.try_one_or_two(ask, &tries, patience, &mut send).await;
            tries.answered |= outcome.answered;
            tries.address = outcome.address;
            let next = match outcome.result {
                Ok(answer) => {
                    self.note_answer(ask.aim, &tries.address, outcome.forward);
                    return Ok(answer);
                }
                Err(Next::Stop(error)) => return Err(error),
                Err(next) => next,
            };
            if matches!(next, Next::Busy(_)) && first.elapsed() < ask.busy_max {
                since = Instant::now();
                tries.forgiven += 1;
            }
            let pause = self.env.jitter(self.advance(&mut tries, next));
            let over = |deadline: Duration| since.elapsed() + pause >= deadline;
            if ask.deadline.is_some_and(over)
                || tries.is_spent()
                || tries.all_foreign(&self.addresses())
            {
                return Err(tries.give_up(ask.what, self.addresses()));
            }
            tracing::debug!(what = ask.what, next = %tries.address, last = %tries.last, "try again");
            sleep(pause).await;
        }
    }

    /// Asks this attempt's node. If it gives no answer within the usual time, asks another one as
    /// well.
    async fn try_one_or_two<T: Send + 'static>(
        &self,
        ask: &Ask,
        tries: &Tries,
        patience: Duration,
        send: &mut (dyn FnMut(Call) -> Sent<T> + Send),
    ) -> Outcome<T> {
        let began = Instant::now();
        let mut first = self.call(ask, &tries.address, tries.forward, patience, send);
        if !self.options.hedge {
            return first.await;
        }
        let alone = self.endpoints.lock().patience(!ask.wait.is_zero());
        if let Ok(outcome) = timeout(alone, &mut first).await {
            return outcome;
        }
        let another = self.endpoints.lock().after(&tries.address, &self.addresses());
        let Some(another) = another.filter(|_| self.endpoints.lock().take_second()) else {
            return first.await;
        };
        tracing::debug!(what = ask.what, silent = %tries.address, %another, "ask a second node");
        let left = patience.saturating_sub(began.elapsed());
        let second = self.call(ask, &another, true, left, send);
        match select(first, second).await {
            Either::Left((outcome, second)) => match outcome.is_final() {
                true => outcome,
                false => second.await,
            },
            Either::Right((outcome, first)) => match outcome.is_final() {
                true => {
                    // It took twice the usual time, and another node was faster. A held call may
                    // wait by design, so it does not count as a failure.
                    if ask.wait.is_zero() {
                        self.note_failure(&tries.address);
                    }
                    outcome
                }
                false => first.await,
            },
        }
    }

    fn call<T: Send + 'static>(
        &self,
        ask: &Ask,
        address: &str,
        forward: bool,
        patience: Duration,
        send: &mut (dyn FnMut(Call) -> Sent<T> + Send),
    ) -> BoxFuture<'static, Outcome<T>> {
        let (transport, identity) = (self.transport(address), self.identity(None));
        let wait = ask.wait.min(patience);
        let sent = send(Call { transport, identity, wait, patience, forward });
        let (client, address, held) = (self.clone(), address.to_owned(), ask.wait);
        Box::pin(async move {
            let began = Instant::now();
            let mut answered = false;
            let result = match timeout(patience, sent).await {
                Ok(Ok(response)) => match client.learn(&address, response.metadata()) {
                    Ok(()) => {
                        if held.is_zero() {
                            client.endpoints.lock().answered(&address, began.elapsed());
                        }
                        Ok(response.into_inner())
                    }
                    Err(error) => Err(Next::Stop(error)),
                },
                Ok(Err(status)) => {
                    // A transport's own `Unavailable` counts as no answer. A node's answer names
                    // its cluster.
                    let reason = Reason::of(&status).filter(|reason| *reason != Reason::Key);
                    answered = reason.is_some()
                        || Identity::read(status.metadata()).is_ok_and(|id| id.cluster.is_some());
                    Err(client.judge(&address, &status))
                }
                Err(_) => Err(Next::Elsewhere(format!("no answer within {patience:?}"))),
            };
            if matches!(&result, Err(Next::Elsewhere(_))) && !answered {
                client.note_failure(&address);
            }
            Outcome { address, forward, result, answered }
        })
    }

    /// Chooses the node of the next attempt and returns the pause before it.
    fn advance(&self, tries: &mut Tries, next: Next) -> Duration {
        if let Next::Redirect(leader) = &next
            && self.endpoints.lock().is_avoided(leader)
        {
            // This client cannot reach the leader, or could not a moment ago. The node that names
            // the leader may be able to.
            let text = format!("{} names {leader} as leader, which does not answer", tries.address);
            tries.forward = true;
            return tries.advance(Next::Again(text), &self.addresses(), None);
        }
        tries.forward = !matches!(next, Next::Redirect(_));
        self.forget(&tries.address);
        let addresses = self.addresses();
        let elsewhere = self.endpoints.lock().after(&tries.address, &addresses);
        tries.advance(next, &addresses, elsewhere)
    }

    /// The conclusion from a failed attempt.
    fn judge(&self, address: &str, status: &Status) -> Next {
        let text = match status.message() {
            named if named.starts_with(address) => named.to_owned(),
            text => format!("{address}: {text}"),
        };
        match Reason::of(status) {
            Some(Reason::Key) => return Next::Locked(status.message().to_owned()),
            Some(Reason::NotLeader) => {
                return match envelope::leader_of(status) {
                    Some((_, leader)) if leader != address => Next::Redirect(leader),
                    _ => Next::Elsewhere(text),
                };
            }
            Some(Reason::OtherCluster) => {
                // The answer names the other cluster.
                if let Err(error) = self.learn(address, status.metadata()) {
                    return Next::Stop(error);
                }
                let known = self.known.lock();
                let Some(want) = known.cluster else { return Next::Elsewhere(text) };
                let want_from = known.cluster_from.clone();
                let endpoint = address.to_owned();
                return Next::Stop(ClientError::OtherCluster {
                    endpoint,
                    got: None,
                    want,
                    want_from,
                });
            }
            Some(Reason::OtherLineage) => {
                // The cluster was recovered since then: learn the new lineage.
                self.known.lock().lineage = None;
                return Next::Again(text);
            }
            Some(Reason::Protocol) => {
                return Next::Stop(ClientError::Incompatible {
                    endpoint: address.to_owned(),
                    what: status.message().to_owned(),
                });
            }
            Some(Reason::Busy) => return Next::Busy(text),
            Some(Reason::NotYet) => return Next::Again(text),
            // Nodes send this to nodes. A peer that sends it to a client is not a member of the
            // cluster.
            Some(Reason::Starting | Reason::StaleIdentity) => return Next::Elsewhere(text),
            _ => {}
        }
        if let Err(error) = self.learn(address, status.metadata()) {
            return Next::Stop(error);
        }
        if let Some(refusal) = cairn_proto::refused::refusal_of(status) {
            return Next::Stop(ClientError::Refused(refusal));
        }
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => {
                let refusal = Refusal::Malformed(status.message().to_owned());
                Next::Stop(ClientError::Refused(refusal))
            }
            Code::PermissionDenied | Code::Unauthenticated => Next::Stop(ClientError::NotAllowed {
                endpoint: address.to_owned(),
                what: status.message().to_owned(),
            }),
            Code::Unimplemented => Next::Foreign(text),
            _ => Next::Elsewhere(text),
        }
    }

    /// The first node of a call, and whether it should forward a command.
    fn first_address(&self, aim: Aim) -> Result<(String, bool), ClientError> {
        let endpoints = self.endpoints.lock();
        let remembered = {
            let known = self.known.lock();
            match aim {
                Aim::Leader => {
                    let via = known.via.as_ref();
                    let via = via.filter(|(_, until)| Instant::now() < *until);
                    match via {
                        Some((address, _)) => Some((address.clone(), true)),
                        None => known.leader.clone().map(|address| (address, false)),
                    }
                }
                Aim::AnyNode => known.reader.clone().map(|address| (address, false)),
            }
        };
        let remembered = remembered.filter(|(address, _)| !endpoints.is_avoided(address));
        if let Some(remembered) = remembered {
            return Ok(remembered);
        }
        let addresses = self.addresses();
        // A random start, so that clients with the same list do not all begin at its first entry.
        let start = self.env.random_u64() as usize % addresses.len().max(1);
        let chosen = addresses.get(start).map(|address| match endpoints.is_avoided(address) {
            true => endpoints.after(address, &addresses).unwrap_or_else(|| address.clone()),
            false => address.clone(),
        });
        let chosen = chosen.ok_or_else(|| ClientError::Unreachable {
            endpoints: vec![],
            last: "no endpoint was given".to_owned(),
        })?;
        Ok((chosen, false))
    }

    fn note_answer(&self, aim: Aim, address: &str, forward: bool) {
        let mut known = self.known.lock();
        match aim {
            Aim::Leader if forward => {
                let kept = known
                    .via
                    .take()
                    .filter(|(via, until)| via == address && Instant::now() < *until);
                let until = kept.map_or_else(|| Instant::now() + VIA_KEPT, |(_, until)| until);
                known.via = Some((address.to_owned(), until));
            }
            Aim::Leader => known.leader = Some(address.to_owned()),
            Aim::AnyNode => known.reader = Some(address.to_owned()),
        }
    }

    /// An address gave no answer. It is asked last for a while.
    fn note_failure(&self, address: &str) {
        self.endpoints.lock().failed(address);
        self.forget(address);
    }

    fn forget(&self, address: &str) {
        let mut known = self.known.lock();
        if known.leader.as_deref() == Some(address) {
            known.leader = None;
        }
        if known.reader.as_deref() == Some(address) {
            known.reader = None;
        }
        if known.via.as_ref().is_some_and(|(via, _)| via == address) {
            known.via = None;
        }
    }
}

impl<T> Outcome<T> {
    /// Whether another node would give the same result.
    fn is_final(&self) -> bool {
        matches!(self.result, Ok(_) | Err(Next::Stop(_)))
    }
}
