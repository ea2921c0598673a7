//! What clients write: puts and what becomes of them, deletions, retention.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{ClientError, MemorySource, PutOptions, PutOutcome};
use cairn_types::command::{self, Body, Refusal};
use cairn_types::ids::{Attempt, Namespace, Step};
use cairn_types::model::PolicyChange;
use tokio::time::{Instant, sleep};

use super::{AGAINST, AGAINST_STEPS, Acting, TOGETHER, address, is_missing};
use crate::checkers::c1_history::{Asked, Call, VersionId};
use crate::checkers::linearizable::catalogue::{Input, Output};
use crate::checkpoint_files::{self, Files};
use crate::trace;

/// An attempt is the writer's wall clock, times this; below it are the writer's number and, in the
/// upper half, that the upload takes another one over.
const ATTEMPTS_A_MS: u64 = 8;
/// An upload is taken over within this of its begin.
const TAKEN_OVER_MS: u64 = 1_500;
/// A step that no put ever finishes.
const NEVER_COMMITTED: u64 = 1_000_000;

impl Acting {
    /// Thinks better of it: the last checkpoint is deleted for good, and its files are put again
    /// soon, under another step, while their segments are on their way out.
    pub(super) async fn delete_and_put_again(&self) -> Result<(), String> {
        let Some((last, _, files)) = self.script.state.lock().last.clone() else { return Ok(()) };
        self.delete_at(&self.script.namespace(), last, true).await?;
        let (step, pause) = {
            let mut state = self.script.state.lock();
            let step = state.next_step;
            state.next_step += 1;
            state.attempts += 1;
            state.last = Some((step, state.attempts, files));
            (step, state.chance.below(1_500))
        };
        sleep(Duration::from_millis(pause)).await;
        trace::count("client.puts_after_delete", 1);
        self.put(step, false).await
    }

    pub(super) async fn replace(&self) -> Result<(), String> {
        let step = {
            let mut state = self.script.state.lock();
            let state = &mut *state;
            let Some((_, _, files)) = &state.last else { return Ok(()) };
            let files = checkpoint_files::next(files, &mut state.chance);
            let step = state.chance.range(1..state.next_step);
            state.attempts += 1;
            state.last = Some((step, state.attempts, files));
            step
        };
        self.put(step, true).await
    }

    /// The upload that was cut short: the same attempt sends what is missing.
    pub(super) async fn put_again(&self) -> Result<(), String> {
        let last = self.script.state.lock().last.as_ref().map(|(step, ..)| *step);
        trace::count("client.puts_again", 1);
        self.script.state.lock().cut_short = true;
        match last {
            Some(step) => self.put(step, true).await,
            None => Ok(()),
        }
    }

    pub(super) async fn put(&self, step: u64, replace: bool) -> Result<(), String> {
        let Some((_, attempt, files)) = self.script.state.lock().last.clone() else {
            return Ok(());
        };
        let name = self.script.namespace();
        self.note(format!("put {name}@{step} attempt {attempt}"));
        let call = self.put_begins(&name, (step, attempt), &files);
        self.script.state.lock().unfinished = true;
        if self.is_streamed(&name, (step, attempt)) {
            match self.stream(&name, (step, attempt), &files, replace).await {
                Ok(()) => {}
                Err(error) if is_kept_out(&error) => {
                    trace::count("client.puts_kept_out", 1);
                    self.script.state.lock().unfinished = false;
                    return Ok(());
                }
                Err(error) => return Err(format!("stream {name}@{step}: {error}")),
            }
            self.note(format!("has streamed {name}@{step}"));
            self.acknowledged(&name, (step, attempt), &call);
            self.script.state.lock().unfinished = false;
            return self.look_elsewhere(&name, Asked::Step(step)).await;
        }
        let mut options = self.options(&name, (step, attempt))?;
        options.change = self.terms(&name, (step, attempt));
        options.replace = replace;
        let report = match self.sdk.put(source(&files)?, options).await {
            Ok(report) => report,
            Err(error) if is_kept_out(&error) => {
                trace::count("client.puts_kept_out", 1);
                self.script.state.lock().unfinished = false;
                return Ok(());
            }
            Err(error) => return Err(format!("put {name}@{step}: {error}")),
        };
        if std::mem::take(&mut self.script.state.lock().cut_short) {
            trace::count("client.puts_resumed", u64::from(report.segments_kept > 0));
        }
        self.note(format!("has put {name}@{step}: {:?}", report.outcome));
        trace::count("client.puts", 1);
        count_commit(&report.outcome);
        trace::count("client.segments_kept", report.segments_kept);
        self.acknowledged(&name, (step, attempt), &call);
        self.script.state.lock().unfinished = false;
        self.look_elsewhere(&name, Asked::Step(step)).await
    }

    /// What a put asks for: the same for one attempt, whoever sends it again.
    pub(super) fn terms(&self, name: &str, (step, attempt): VersionId) -> PolicyChange {
        if self.shared.is_calm() {
            return self.shared.plan.calm_policy();
        }
        let chance = self.script.state.lock().together.fork(&format!("{name}/{step}/{attempt}"));
        self.shared.plan.varied_policy(&mut chance.clone())
    }

    fn acknowledged(&self, name: &str, version: VersionId, call: &Call) {
        let mut history = self.shared.history.lock();
        history.visible(name, version);
        history.answer(call, Output::Done);
    }

    fn put_begins(&self, name: &str, version: VersionId, files: &Files) -> Call {
        let mut history = self.shared.history.lock();
        history.put_begins(name, version, files);
        history.call(name, &self.script.name, Input::Put(version))
    }

    /// One step of the namespace that everybody writes and deletes in.
    pub(super) async fn against(&self) -> Result<(), String> {
        self.shared.history.lock().many_writers(AGAINST);
        let (step, deletes, number) = {
            let chance = &mut self.script.state.lock().chance;
            (chance.range(1..AGAINST_STEPS + 1), chance.chance(0.3), self.script.number)
        };
        if deletes {
            return self.delete_at(AGAINST, step, false).await;
        }
        let files = self.script.draw(|chance| checkpoint_files::checkpoint(chance, 1));
        let attempt = self.parts.env.wall_ms() * ATTEMPTS_A_MS + number;
        match self.put_against((step, attempt), &files).await? {
            true => self.look_elsewhere(AGAINST, Asked::Step(step)).await,
            false => Ok(()),
        }
    }

    /// Another job of this client takes over an upload that goes on: the higher attempt has it,
    /// whatever the clocks of other clients say.
    pub(super) async fn take_over(&self) -> Result<(), String> {
        self.shared.history.lock().many_writers(AGAINST);
        let (step, files, next, pause_ms) = self.script.draw(|chance| {
            let files = checkpoint_files::checkpoint(chance, 1);
            let next = checkpoint_files::next(&files, chance);
            (chance.range(1..AGAINST_STEPS + 1), files, next, chance.below(TAKEN_OVER_MS))
        });
        let attempt = self.parts.env.wall_ms() * ATTEMPTS_A_MS + self.script.number;
        let second = async {
            sleep(Duration::from_millis(pause_ms)).await;
            self.put_against((step, attempt + ATTEMPTS_A_MS / 2), &next).await
        };
        let (first, second) = futures::join!(self.put_against((step, attempt), &files), second);
        trace::count("client.taken_over", u64::from(first == Ok(false)));
        second?;
        self.look_elsewhere(AGAINST, Asked::Latest).await
    }

    /// One version of a step that everybody writes. False where a higher attempt has the step.
    async fn put_against(&self, version: VersionId, files: &Files) -> Result<bool, String> {
        let (step, attempt) = version;
        self.note(format!("put {AGAINST}@{step} attempt {attempt}"));
        let mut options = self.options(AGAINST, version)?;
        options.change = self.terms(AGAINST, version);
        options.replace = true;
        let call = self.put_begins(AGAINST, version, files);
        let report = match self.sdk.put(source(files)?, options).await {
            Ok(report) => report,
            Err(ClientError::Refused(Refusal::Fenced { .. })) => return Ok(false),
            Err(error) if is_kept_out(&error) => return Ok(false),
            Err(error) => return Err(format!("put {AGAINST}@{step}: {error}")),
        };
        count_commit(&report.outcome);
        trace::count("client.puts_against", 1);
        self.shared.history.lock().answer(&call, Output::Done);
        Ok(true)
    }

    /// This client's part of a checkpoint that two write.
    pub(super) async fn put_part(&self, step: u64) -> Result<(), String> {
        let part = |number: u64| -> Files {
            let chance = self.script.state.lock().together.fork(&format!("{step}/{number}"));
            let files = checkpoint_files::checkpoint(&mut chance.clone(), 1);
            let named = |(name, bytes): (Vec<u8>, Bytes)| {
                ([format!("rank-{number}/").as_bytes(), name.as_slice()].concat(), bytes)
            };
            files.into_iter().map(named).collect()
        };
        let id = (step, 1);
        let mut whole = part(0);
        whole.extend(part(1));
        self.note(format!("put part {} of {TOGETHER}@{step}", self.script.number));
        let begun = {
            let mut history = self.shared.history.lock();
            history.put_begins(TOGETHER, id, &whole);
            history.part_begins(TOGETHER, id, self.script.number, 2);
            Instant::now()
        };
        let mut options = self.options(TOGETHER, id)?;
        (options.part, options.parts) = (self.script.number as u32, 2);
        let report = self.sdk.put(source(&part(self.script.number))?, options).await;
        let report = report.map_err(|error| format!("put part of {TOGETHER}@{step}: {error}"))?;
        trace::count("client.parts", 1);
        count_commit(&report.outcome);
        if !matches!(report.outcome, PutOutcome::Sealed { .. }) {
            let mut history = self.shared.history.lock();
            history.visible(TOGETHER, id);
            history.saw(TOGETHER, &self.script.name, id, begun);
        }
        Ok(())
    }

    pub(super) async fn delete(&self) -> Result<(), String> {
        let (step, now) = {
            let mut state = self.script.state.lock();
            let end = state.next_step;
            (state.chance.range(1..end.max(2)), state.chance.chance(0.5))
        };
        self.delete_at(&self.script.namespace(), step, now).await
    }

    pub(super) async fn delete_at(&self, name: &str, step: u64, now: bool) -> Result<(), String> {
        self.note(format!("delete {name}@{step}, now: {now}"));
        let call = {
            let mut history = self.shared.history.lock();
            history.delete_begins(name, step);
            history.call(name, &self.script.name, Input::Delete(step))
        };
        let deleted = self.sdk.delete(&address(name, Asked::Step(step))?, now).await;
        match deleted {
            Ok(info) => {
                trace::count("client.deletes", 1);
                let id: VersionId = (info.step.0, info.attempt.0);
                self.shared.history.lock().deleted(name, id);
                self.shared.history.lock().answer(&call, Output::Version(id));
            }
            Err(error) if is_missing(&error) => {
                self.shared.history.lock().answer(&call, Output::Missing);
            }
            Err(ClientError::Refused(_)) => return Ok(()),
            Err(error) => return Err(format!("delete {name}@{step}: {error}")),
        }
        self.look_elsewhere(name, Asked::Step(step)).await
    }

    /// What a namespace keeps from now on, and how many replicas on how many racks it has.
    pub(super) async fn keep_last(&self) -> Result<(), String> {
        let name = self.script.namespace();
        let (count, rules) = self.script.draw(|chance| {
            let rules = self.shared.plan.varied_policy(chance);
            (chance.range(1..4) as u32, rules)
        });
        self.note(format!("keep last {count} of {name}"));
        let call = {
            let mut history = self.shared.history.lock();
            history.keep_last(&name, count as usize);
            history.call(&name, &self.script.name, Input::KeepLast(count))
        };
        if self.script.draw(|chance| chance.chance(0.5)) {
            self.begin_and_die(&name).await?;
        }
        let change = PolicyChange { keep_last: Some(count), ..rules };
        trace::count("client.policies", 1);
        let set = self.sdk.set_policy(&namespace(&name)?, change).await;
        set.map_err(|error| error.to_string())?;
        self.shared.history.lock().answer(&call, Output::Done);
        self.look_elsewhere(&name, Asked::Latest).await
    }

    /// A put that asks for a policy and dies after its begin: nothing comes of it.
    async fn begin_and_die(&self, name: &str) -> Result<(), String> {
        let change = PolicyChange { keep_last: Some(1), ..PolicyChange::default() };
        let begin = Body::Begin(command::Begin {
            namespace: namespace(name)?,
            step: Step(NEVER_COMMITTED),
            parts: 1,
            attempt: None,
            change,
            replace: false,
            labels: BTreeMap::new(),
            client: self.script.name.clone(),
            job: String::new(),
        });
        let begun = self.sdk.execute(begin, Duration::ZERO).await;
        trace::count("client.begun_and_died", u64::from(begun.is_ok()));
        begun.map(drop).map_err(|error| format!("begin {name}@{NEVER_COMMITTED}: {error}"))
    }

    fn options(&self, name: &str, (step, attempt): VersionId) -> Result<PutOptions, String> {
        let mut options = PutOptions::new(namespace(name)?, Step(step));
        options.attempt = Some(Attempt(attempt));
        options.change = self.shared.plan.policy();
        Ok(options)
    }
}

/// A mark on what is there keeps this put from its step.
fn is_kept_out(error: &ClientError) -> bool {
    let refusal = error.refusal();
    trace::count(
        "client.rolled_back_puts",
        matches!(refusal, Some(Refusal::RolledBack { .. })).into(),
    );
    matches!(
        refusal,
        Some(Refusal::Protected { .. } | Refusal::Quarantined { .. } | Refusal::RolledBack { .. })
    )
}

fn count_commit(outcome: &PutOutcome) {
    trace::count("client.commits", u64::from(matches!(outcome, PutOutcome::Committed { .. })));
}

fn source(files: &Files) -> Result<Arc<MemorySource>, String> {
    MemorySource::new(files.clone()).map(Arc::new).map_err(|error| error.to_string())
}

pub(super) fn namespace(name: &str) -> Result<Namespace, String> {
    name.parse().map_err(|error| format!("{error}"))
}
