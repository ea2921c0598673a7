//! What clients read: whole checkpoints, also where an earlier read was cut short or where files of
//! another version are; one file's bytes; what is there, one read at a time or many at once.

use std::sync::Arc;
use std::time::Duration;

use cairn_client::stream::TryStreamExt;
use cairn_client::{Client, ClientError, FileRange, GetOptions, MemorySink};
use cairn_types::command::Refusal;
use cairn_types::ids::CheckpointId;
use futures::StreamExt;
use tokio::time::{Instant, sleep};

use super::notes::seen;
use super::writes::namespace;
use super::{AGAINST, Acting, address, files_of, is_missing};
use crate::checkers::c1_history::Asked;
use crate::checkpoint_files::Files;
use crate::cluster;
use crate::seed::Stream;
use crate::trace;

/// So many gets are into a place that has files of another version.
const INTO_OTHERS: f64 = 0.4;
/// Reads in flight at one node, which begin within this.
const CROWD: u64 = 10;
const CROWD_MS: u64 = 60;

impl Acting {
    /// What was acknowledged just now is there for a reader who knows nothing and asks any node.
    pub(super) async fn look_elsewhere(&self, name: &str, asked: Asked) -> Result<(), String> {
        let stranger = cluster::sdk(&self.parts, &self.shared.addresses);
        match self.script.draw(|chance| chance.chance(0.5)) {
            true => self.resolve_by(&stranger, name, asked).await,
            false => self.list_by(&stranger, name).await,
        }
    }

    /// Reads and lists all at once at one node, while others write.
    pub(super) async fn crowd(&self) -> Result<(), String> {
        let (address, first) = self.script.draw(|chance| {
            let address = chance.pick(&self.shared.addresses).cloned();
            (address, chance.chance(0.5).then(|| AGAINST.to_owned()))
        });
        let sdk = cluster::sdk(&self.parts, &Vec::from_iter(address));
        let reads = (0..CROWD).map(|_| {
            let (name, asked) = self.somewhere();
            let name = first.clone().unwrap_or(name);
            let (delay_ms, lists) =
                self.script.draw(|chance| (chance.below(CROWD_MS), chance.chance(0.3)));
            let sdk = &sdk;
            async move {
                sleep(Duration::from_millis(delay_ms)).await;
                match lists {
                    true => self.list_by(sdk, &name).await,
                    false => self.resolve_by(sdk, &name, asked).await,
                }
            }
        });
        let results = futures::future::join_all(reads.collect::<Vec<_>>()).await;
        trace::count("client.crowds", 1);
        results.into_iter().collect()
    }

    /// Whether something was there.
    pub(super) async fn get(&self, name: &str, asked: Asked) -> Result<bool, String> {
        self.note(format!("get {name} {asked:?}"));
        let began = Instant::now();
        let sink = self.sink(name, asked);
        let address = address(name, asked)?;
        let quarantined = self.script.draw(|chance| chance.chance(0.5));
        let options = GetOptions { overwrite: true, quarantined, ..GetOptions::default() };
        match self.sdk.get(&address, sink.clone(), options).await {
            Ok(report) => {
                self.script.state.lock().half_read = None;
                trace::count("client.gets_resumed", u64::from(report.bytes_kept > 0));
                let files = files_of(&sink);
                trace::count("client.gets", 1);
                let judged = seen(&report.checkpoint).and_then(|seen| {
                    self.shared.history.lock().found(name, asked, seen, began, Some(&files))
                });
                judged.unwrap_or_else(|broken| self.broken(broken));
                self.is_good(name, asked, report.checkpoint.id, began);
                Ok(true)
            }
            Err(ClientError::Refused(Refusal::Quarantined { .. })) if !quarantined => {
                self.in_quarantine(name, asked, began);
                Ok(true)
            }
            Err(error) => self.not_got(name, asked, began, &error).map(|()| false),
        }
    }

    /// What an earlier read of the same left behind, if it was the last one and cut short.
    fn sink(&self, name: &str, asked: Asked) -> Arc<MemorySink> {
        let mut state = self.script.state.lock();
        match &state.half_read {
            Some((known, of, sink)) if known == name && *of == asked => sink.clone(),
            _ => {
                let sink = Arc::new(MemorySink::default());
                if state.chance.chance(INTO_OTHERS) {
                    self.leave_others(&mut state.chance, &sink, name);
                }
                state.half_read = Some((name.to_owned(), asked, sink.clone()));
                sink
            }
        }
    }

    /// Finished files of some version are there before a get begins.
    fn leave_others(&self, chance: &mut Stream, sink: &MemorySink, name: &str) {
        let versions = self.shared.history.lock().all_contents(name);
        let Some(files) = chance.pick(&versions) else { return };
        trace::count("client.gets_into_others", 1);
        for (name, bytes) in files {
            sink.insert(name, bytes.to_vec());
        }
    }

    pub(super) async fn resolve(&self, name: &str, asked: Asked) -> Result<(), String> {
        self.resolve_by(&self.sdk, name, asked).await
    }

    async fn resolve_by(&self, sdk: &Client, name: &str, asked: Asked) -> Result<(), String> {
        self.note(format!("resolve {name} {asked:?}"));
        let began = Instant::now();
        match sdk.resolve(&address(name, asked)?).await {
            Ok(info) => {
                trace::count("client.resolves", 1);
                let judged = seen(&info).and_then(|seen| {
                    self.shared.history.lock().found(name, asked, seen, began, None)
                });
                judged.unwrap_or_else(|broken| self.broken(broken));
                self.is_good(name, asked, info.id, began);
                Ok(())
            }
            Err(error) => self.not_got(name, asked, began, &error),
        }
    }

    /// `latest` is nothing that was in quarantine before it was asked for.
    fn is_good(&self, name: &str, asked: Asked, id: CheckpointId, began: Instant) {
        if asked == Asked::Latest && self.shared.marks.is_bad_since(id, began) {
            self.broken(("C5", format!("latest of {name} is {id}, which is in quarantine")));
        }
    }

    /// A get that does not want such a checkpoint is told that it is one.
    fn in_quarantine(&self, name: &str, asked: Asked, began: Instant) {
        trace::count("client.gets_of_quarantined", 1);
        self.script.state.lock().half_read = None;
        match asked {
            Asked::Step(step) => self.shared.history.lock().in_quarantine(name, step, began),
            Asked::Latest => self.broken(("C5", format!("latest of {name} is in quarantine"))),
        }
    }

    /// All of a namespace at one moment.
    pub(super) async fn list(&self) -> Result<(), String> {
        let (name, _) = self.somewhere();
        self.list_by(&self.sdk, &name).await
    }

    async fn list_by(&self, sdk: &Client, name: &str) -> Result<(), String> {
        self.note(format!("list {name}"));
        let (began, prefix) = (Instant::now(), namespace(name)?);
        let all = sdk.list(Some(&prefix), false).try_collect::<Vec<_>>().await;
        let all = all.map_err(|error| format!("list {name}: {error}"))?;
        let own = all.into_iter().filter(|info| info.namespace == prefix);
        let versions = own.map(|info| (info.step.0, info.attempt.0)).collect();
        trace::count("client.lists", 1);
        let judged = self.shared.history.lock().listed(name, versions, began);
        judged.unwrap_or_else(|broken| self.broken(broken));
        Ok(())
    }

    /// A checkpoint that is not there is an answer, and is judged; others are failures.
    pub(super) fn not_got(
        &self,
        name: &str,
        asked: Asked,
        began: Instant,
        error: &ClientError,
    ) -> Result<(), String> {
        if !is_missing(error) {
            return Err(format!("get {name} {asked:?}: {error}"));
        }
        self.script.state.lock().half_read = None;
        self.shared.history.lock().missing(name, asked, began);
        Ok(())
    }

    /// A piece of a file of an own checkpoint is a piece of a version of it.
    pub(super) async fn range(&self) -> Result<(), String> {
        let name = self.script.namespace();
        let step = {
            let mut state = self.script.state.lock();
            let end = state.next_step;
            state.chance.range(1..end.max(2))
        };
        let before = self.shared.history.lock().contents(&name, step);
        let Some((file, at, len)) = self.script.draw(|chance| some_range(chance, &before)) else {
            return Ok(());
        };
        let file = &file[..];
        self.note(format!("range {at}+{len} of {name}@{step}"));
        let address = address(&name, Asked::Step(step))?;
        let text = |error: ClientError| format!("range of {name}@{step}: {error}");
        let range = FileRange { file, part: None, start: at, len: Some(len) };
        let mut stream = self.sdk.read_range(&address, &range).await.map_err(text)?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(text)?);
        }
        trace::count("client.ranges", 1);
        let contents = self.shared.history.lock().contents(&name, step);
        let same = |files: &Files| {
            let whole = files.get(file);
            whole.and_then(|it| it.get(at as usize..(at + len) as usize)) == Some(&bytes[..])
        };
        if !contents.iter().any(same) {
            self.broken(("D5", format!("{at}+{len} of {name}@{step} is of no version")));
        }
        Ok(())
    }
}

/// Most of some file of one of these versions, or a piece of it; files with bytes only.
fn some_range(chance: &mut Stream, versions: &[Files]) -> Option<(Vec<u8>, u64, u64)> {
    let files: Vec<_> = chance.pick(versions)?.iter().filter(|it| !it.1.is_empty()).collect();
    let (name, bytes) = chance.pick(&files)?;
    let whole = bytes.len() as u64;
    let at =
        if chance.chance(0.5) { chance.below(whole.div_ceil(16)) } else { chance.below(whole) };
    let len = if chance.chance(0.5) { whole - at } else { chance.range(1..whole - at + 1) };
    Some(((*name).clone(), at, len))
}
