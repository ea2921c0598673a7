//! What clients say of checkpoints: refs by compare-and-swap, holds, quarantine and rollback, in their
//! own namespace and in the one that all write.
//!
//! These are commands of a newer build: while a node has an older one they are refused, and that is no
//! failure.

use std::time::Duration;

use cairn_client::ClientError;
use cairn_types::command::{self, Body, Refusal, Reply};
use cairn_types::ids::{Address, CheckpointId, RefName, Selector};
use cairn_types::model::CheckpointInfo;
use cairn_types::retention::Extreme;
use tokio::time::Instant;

use super::notes::{Found, NOTE, seen};
use super::writes::namespace;
use super::{AGAINST, AGAINST_STEPS, Acting, is_missing};
use crate::checkers::c1_history::{Asked, VersionId};
use crate::checkers::linearizable::catalogue::{Input, Output};
use crate::checkers::linearizable::refs;
use crate::trace;

/// Refs that move by compare-and-swap, and one that moves whatever its generation is.
const REFS: [&str; 2] = ["production", "candidate"];
const BLIND: &str = "blind";
/// So many moves of a ref expect another generation than it has.
const STALE: f64 = 0.1;
/// A hold that ends by itself lasts so long, at the usual pace.
const HOLD_MS: std::ops::Range<u64> = 3_000..30_000;

impl Acting {
    /// Something of a namespace in which marks are put.
    fn marked(&self) -> (String, Asked) {
        let (own, steps) = (self.script.namespace(), self.script.state.lock().next_step);
        self.script.draw(|chance| {
            let (name, end) = match chance.chance(0.5) {
                true => (own, steps),
                false => (AGAINST.to_owned(), AGAINST_STEPS + 1),
            };
            let step = Asked::Step(chance.range(1..end.max(2)));
            (name, if chance.chance(0.4) { Asked::Latest } else { step })
        })
    }

    /// A ref is moved, removed or read.
    pub(super) async fn move_ref(&self) -> Result<(), String> {
        let (name, asked) = self.marked();
        let (target, what, is_stale) = self.script.draw(|chance| {
            let target =
                if chance.chance(0.15) { Some(BLIND) } else { chance.pick(&REFS).copied() };
            (target.unwrap_or(BLIND), chance.below(10), chance.chance(STALE))
        });
        let target_name: RefName = target.parse().map_err(|error| format!("{error}"))?;
        if what < 3 {
            return self.resolve_ref(&name, &target_name).await;
        }
        let current = self.look_at_ref(&name, &target_name).await?;
        let expect = (target != BLIND).then_some(current ^ u64::from(is_stale));
        let to = match what {
            3 => None,
            _ => match self.look_up(&name, asked).await? {
                Some(found) => Some(found.info.id),
                None => return Ok(()),
            },
        };
        self.note(format!("move ref {target} of {name} from {expect:?} to {to:?}"));
        let who = &self.script.name;
        let call = self.shared.marks.move_begins((&name, target), who, to, expect);
        let body = command::SetRef {
            namespace: namespace(&name)?,
            name: target_name,
            checkpoint: to,
            expect,
            by: who.clone(),
        };
        let output = match self.sdk.execute(body.into(), Duration::ZERO).await {
            Ok(_) => refs::Output::Done,
            Err(ClientError::Refused(Refusal::RefMoved { current, .. })) => {
                refs::Output::Moved(current)
            }
            Err(ClientError::Refused(Refusal::NoSuchRef { .. })) => refs::Output::Missing,
            Err(ClientError::Refused(_)) => refs::Output::Refused,
            Err(error) => return Err(format!("move ref {target} of {name}: {error}")),
        };
        let counter = match output {
            refs::Output::Done => "client.refs_moved",
            _ => "client.refs_not_moved",
        };
        trace::count(counter, 1);
        self.shared.marks.moved(&call, output);
        Ok(())
    }

    /// Its generation in the list of refs, 0 where it names nothing.
    async fn look_at_ref(&self, name: &str, target: &RefName) -> Result<u64, String> {
        let began = Instant::now();
        let all = self.sdk.refs(&namespace(name)?).await;
        let all = all.map_err(|error| format!("refs of {name}: {error}"))?;
        let known = all.refs.iter().find(|it| it.name == *target).map(|it| &it.target);
        let output = known
            .map_or(refs::Output::Missing, |it| refs::Output::Stands(it.generation, it.checkpoint));
        self.read_ref(name, target, (refs::Input::Look, output), began);
        Ok(known.filter(|it| it.checkpoint.is_some()).map_or(0, |it| it.generation))
    }

    async fn resolve_ref(&self, name: &str, target: &RefName) -> Result<(), String> {
        self.note(format!("resolve ref {target} of {name}"));
        let began = Instant::now();
        let (of, selector) = (namespace(name)?, Selector::Ref(target.clone()));
        let output = match self.sdk.resolve(&Address { namespace: of, selector }).await {
            Ok(info) => {
                let step = Asked::Step(info.step.0);
                let judged = seen(&info).and_then(|seen| {
                    self.shared.history.lock().found(name, step, seen, began, None)
                });
                judged.unwrap_or_else(|broken| self.broken(broken));
                refs::Output::Names(info.id)
            }
            Err(error) if is_missing(&error) => refs::Output::Missing,
            Err(error) => return Err(format!("resolve ref {target} of {name}: {error}")),
        };
        self.read_ref(name, target, (refs::Input::Resolve, output), began);
        Ok(())
    }

    fn read_ref(
        &self,
        name: &str,
        target: &RefName,
        (input, output): (refs::Input, refs::Output),
        began: Instant,
    ) {
        let (marks, who) = (&self.shared.marks, &self.script.name);
        marks.read((name, target.as_str()), who, input, output, began);
    }

    /// A hold begins, for a time or until it is released; or one of this client's ends.
    pub(super) async fn hold(&self) -> Result<(), String> {
        let owner = self.script.name.clone();
        let own = self.shared.marks.held_by(&owner);
        let ended = self.script.draw(|chance| {
            let ended = chance.pick(&own).copied();
            ended.filter(|_| chance.chance(0.4))
        });
        if let Some(id) = ended {
            return self.release(id, owner).await;
        }
        let (name, asked) = self.marked();
        let Some(Found { info, .. }) = self.look_up(&name, asked).await? else { return Ok(()) };
        let for_ms = self.script.draw(|chance| {
            let for_ms = chance.range(HOLD_MS) * self.shared.plan.pace;
            chance.chance(0.5).then_some(for_ms)
        });
        self.note(format!("hold {} of {name} for {for_ms:?} ms", info.id));
        let (began, lasts) = (Instant::now(), for_ms.map(Duration::from_millis));
        self.shared.marks.hold_begins(info.id, &owner, lasts);
        let reason = "mix".to_owned();
        let body = command::AddHold { checkpoint: info.id, owner: owner.clone(), reason, for_ms };
        match self.sdk.execute(body.into(), Duration::ZERO).await {
            Ok(_) => {
                trace::count("client.holds", 1);
                self.shared.marks.held(info.id, &owner, began, lasts);
                Ok(())
            }
            Err(ClientError::Refused(_)) => {
                self.shared.marks.hold_ended(info.id, &owner);
                Ok(())
            }
            Err(error) => Err(format!("hold {}: {error}", info.id)),
        }
    }

    async fn release(&self, checkpoint: CheckpointId, owner: String) -> Result<(), String> {
        self.note(format!("end the hold of {checkpoint}"));
        let lasts = self.shared.marks.release_begins(checkpoint, &owner);
        let body = command::ReleaseHold { checkpoint, owner: owner.clone() };
        match self.sdk.execute(body.into(), Duration::ZERO).await {
            Ok(_) => trace::count("client.holds_ended", 1),
            Err(ClientError::Refused(Refusal::NoSuchHold { .. })) if lasts => {
                self.broken(("D7", format!("the hold of {checkpoint} is lost")));
            }
            Err(ClientError::Refused(_)) => {}
            Err(error) => return Err(format!("end the hold of {checkpoint}: {error}")),
        }
        self.shared.marks.hold_ended(checkpoint, &owner);
        Ok(())
    }

    /// What is there is bad; or what was said to be is not.
    pub(super) async fn quarantine(&self) -> Result<(), String> {
        let (name, asked) = self.marked();
        let Some(found) = self.look_up(&name, asked).await? else { return Ok(()) };
        let chance = self.script.draw(|chance| chance.chance(0.6));
        let (id, lift) = (found.info.id, found.info.quarantine.is_some() && chance);
        self.note(format!("quarantine {id} of {name}, lift: {lift}"));
        if lift {
            self.shared.marks.lift_begins(id);
        }
        let input = if lift { Input::Lift } else { Input::Quarantine }(found.version);
        let (reason, by) = ("mix".to_owned(), self.script.name.clone());
        let body = command::SetQuarantine { checkpoint: id, lift, reason, by };
        let Some(_) = self.judge(&name, &found, input, body.into()).await? else {
            return Ok(());
        };
        match lift {
            true => self.shared.marks.lifted(id),
            false => self.shared.marks.quarantined(id, found.began),
        }
        let counter = if lift { "client.quarantines_lifted" } else { "client.quarantines" };
        trace::count(counter, 1);
        if !lift {
            self.resolve_best(&name).await?;
        }
        self.look_elsewhere(&name, Asked::Latest).await
    }

    /// The best by the notes is nothing that was in quarantine before it was asked for.
    async fn resolve_best(&self, name: &str) -> Result<(), String> {
        self.note(format!("resolve the best of {name}"));
        let began = Instant::now();
        let selector = Selector::BestBy(NOTE.to_owned(), Some(Extreme::Max));
        let address = Address { namespace: namespace(name)?, selector };
        let info = match self.sdk.resolve(&address).await {
            Ok(info) => info,
            // None has a note.
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(format!("resolve the best of {name}: {error}")),
        };
        trace::count("client.bests", 1);
        let step = Asked::Step(info.step.0);
        let judged = seen(&info)
            .and_then(|seen| self.shared.history.lock().found(name, step, seen, began, None));
        judged.unwrap_or_else(|broken| self.broken(broken));
        if self.shared.marks.is_bad_since(info.id, began) {
            let text = format!("the best of {name} is {}, which is in quarantine", info.id);
            self.broken(("C5", text));
        }
        Ok(())
    }

    /// All of later steps is bad.
    pub(super) async fn roll_back(&self) -> Result<(), String> {
        let (name, asked) = self.marked();
        let Some(found) = self.look_up(&name, asked).await? else { return Ok(()) };
        let CheckpointInfo { id, step, .. } = found.info;
        self.note(format!("roll back {name} to step {step}"));
        let (reason, by) = ("mix".to_owned(), self.script.name.clone());
        let body = command::Rollback { checkpoint: id, reason, by };
        let input = Input::RollBack(found.version);
        let Some(reply) = self.judge(&name, &found, input, body.into()).await? else {
            return Ok(());
        };
        trace::count("client.rollbacks", 1);
        if let Reply::RolledBack { quarantined, aborted } = reply {
            trace::count("client.rolled_back", quarantined);
            trace::count("client.uploads_aborted", aborted);
        }
        self.look_elsewhere(&name, Asked::Latest).await
    }

    /// Sends a command about the record that was found. `None` where it is refused.
    async fn judge(
        &self,
        name: &str,
        found: &Found,
        input: Input,
        body: Body,
    ) -> Result<Option<Reply>, String> {
        let (words, id): (_, VersionId) = (body.words(), found.version);
        let call = {
            // What was found may go and come back as another record before the command is sent.
            let mut history = self.shared.history.lock();
            history.call_since(name, &self.script.name, input, found.began)
        };
        let (reply, output) = match self.sdk.execute(body, Duration::ZERO).await {
            Ok(reply) => (Some(reply), Output::Done),
            Err(ClientError::Refused(Refusal::UnknownCheckpoint(_))) => (None, Output::Missing),
            Err(ClientError::Refused(Refusal::Quarantined { .. })) => (None, Output::InQuarantine),
            // What another client did meanwhile, or an older build: nothing is done.
            Err(ClientError::Refused(_)) => return Ok(None),
            Err(error) => return Err(format!("{words} {name}@{id:?}: {error}")),
        };
        self.shared.history.lock().answer(&call, output);
        Ok(reply)
    }
}
