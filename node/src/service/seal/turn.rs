//! Who seals when: how many seals run, how many manifests are read at a time, and how long their
//! callers wait.
//!
//! ```text
//! caller ──► a place (SEALS_MAX) ──► a task of its own ──► turns ──► answer
//!    └── waits for a turn or the hold at most, then Busy: the task goes on, and the next try, under
//!        the same request id, waits for the same task or gets its answer (Running)
//! ```
//!
//! Waiting for a turn is bounded by time. The work itself is bounded by its progress: the longest
//! manifest over a slow path takes many minutes, far longer than any caller waits for one answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::{Reason, refuse};
use cairn_host::seam::Env;
use cairn_types::command::{Refusal, Reply};
use cairn_types::ids::RequestId;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tokio::time::{Instant, timeout};
use tonic::Status;

/// A seal waits this long at most for each of its turns.
pub(super) const TURN_MAX: Duration = Duration::from_secs(10);
/// Beside a turn or the hold, an answer may take this long; less than its caller's patience, so
/// that a seal that goes on is not taken for a node that is silent.
const ANSWER_MARGIN: Duration = Duration::from_secs(3);
/// Seals that run, those included whose callers have left.
const SEALS_MAX: usize = 2_048;
/// Encoded manifests in memory at a time, KiB; a decoded one takes several times that.
const MANIFESTS_KIB: u32 = 64 << 10;
/// The least that one takes of it: bounds the number of seals that read at a time.
const MANIFEST_KIB_MIN: u32 = 256;
/// Longer ones are read one at a time, beside the others: one that comes in slowly holds up no
/// short one.
const MANIFEST_KIB_MAX: u32 = 16 << 10;

/// Encoded length of the manifests that wait, decoded, for their upload's turn, KiB.
const WAITING_KIB: u32 = 128 << 10;
/// An answer that nobody has come for is kept this long; the next try comes within seconds.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Answers kept at a time; the oldest go first. One is a few KiB at most, as a rule far less.
const KEPT_MAX: usize = 1_024;

type Answer = Result<Arc<Reply>, Status>;

pub(super) struct Turns {
    seals: Arc<Semaphore>,
    waiting: Semaphore,
    manifests: Semaphore,
    long_manifests: Semaphore,
}

impl Turns {
    pub fn new() -> Self {
        Self {
            seals: Arc::new(Semaphore::new(SEALS_MAX)),
            waiting: Semaphore::new(WAITING_KIB as usize),
            manifests: Semaphore::new(MANIFESTS_KIB as usize),
            long_manifests: Semaphore::new(1),
        }
    }

    pub fn begin(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.seals).try_acquire_owned();
        place.map_err(|_| refuse(Reason::Busy, format!("{SEALS_MAX} parts are being sealed")))
    }

    /// Waits until a manifest of so many bytes may wait in memory for its upload's turn. Taken
    /// before its reading begins; a seal whose turn it is never waits for this.
    pub async fn waiting(&self, bytes: u64) -> Result<SemaphorePermit<'_>, Status> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        let place = self.waiting.acquire_many(kib.clamp(MANIFEST_KIB_MIN, WAITING_KIB));
        match timeout(TURN_MAX, place).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Status::unavailable("the node stops")),
            Err(_) => Err(refuse(Reason::Busy, "other manifests wait for their turn")),
        }
    }

    /// Waits until there is memory for a manifest of so many bytes.
    pub async fn manifest(&self, bytes: u64) -> Result<SemaphorePermit<'_>, Status> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        let turn = match kib {
            kib if kib > MANIFEST_KIB_MAX => self.long_manifests.acquire_many(1),
            kib => self.manifests.acquire_many(kib.max(MANIFEST_KIB_MIN)),
        };
        match timeout(TURN_MAX, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Status::unavailable("the node stops")),
            Err(_) => Err(refuse(Reason::Busy, "other manifests are being read")),
        }
    }
}

/// Seals under way by their request, and answers that nobody has come for yet.
#[derive(Default)]
pub(super) struct Running(Mutex<BTreeMap<RequestId, Seal>>);

/// The answer once it is there, for all who ask; `None` where the seal was broken off.
type Awaited = Shared<BoxFuture<'static, Option<Answer>>>;

struct Seal {
    answer: Awaited,
    /// When it ended.
    ended: Option<Instant>,
}

impl Running {
    /// Runs `seal` to its end unless it runs already or has ended a moment ago, and gives its
    /// answer if it comes while a caller that holds it back for `hold` still waits. `seal` is
    /// asked for its work only where it is begun.
    pub async fn answer<F>(
        self: &Arc<Self>,
        env: &Env,
        request: RequestId,
        part: u32,
        hold: Duration,
        seal: impl FnOnce() -> Result<F, Status>,
    ) -> Answer
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let answer = self.join_or_begin(env, request, seal)?;
        let answer = match timeout(TURN_MAX.max(hold) + ANSWER_MARGIN, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                let text = format!("part {part} is still being sealed");
                return Err(refuse(Reason::Busy, text));
            }
        };
        let answer = answer.unwrap_or_else(|| Err(Status::unavailable("the node stops")));
        if !is_final(&answer) {
            // Its caller has it, and tries again: that is a new seal.
            self.0.lock().remove(&request);
        }
        answer
    }

    fn join_or_begin<F>(
        self: &Arc<Self>,
        env: &Env,
        request: RequestId,
        seal: impl FnOnce() -> Result<F, Status>,
    ) -> Result<Awaited, Status>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let mut seals = self.0.lock();
        forget_old(&mut seals);
        if let Some(seal) = seals.get(&request) {
            return Ok(seal.answer.clone());
        }
        let seal = seal()?;
        let (done, answer) = oneshot::channel();
        let answer: Awaited = async move { answer.await.ok() }.boxed().shared();
        seals.insert(request, Seal { answer: answer.clone(), ended: None });
        let running = Arc::clone(self);
        env.spawn("seal", async move {
            let answer = seal.await;
            // Under the lock: a caller that takes the answer finds the seal ended.
            let mut seals = running.0.lock();
            if let Some(seal) = seals.get_mut(&request) {
                seal.ended = Some(Instant::now());
            }
            // Nobody may wait for it now: the next try finds it.
            let _ = done.send(answer);
        });
        Ok(answer)
    }
}

fn forget_old(seals: &mut BTreeMap<RequestId, Seal>) {
    let now = Instant::now();
    seals.retain(|_, seal| seal.ended.is_none_or(|ended| now < ended + KEPT_FOR));
    let mut ended: Vec<_> =
        seals.iter().filter_map(|(request, seal)| Some((seal.ended?, *request))).collect();
    if ended.len() > KEPT_MAX {
        ended.sort_unstable();
        for (_, request) in &ended[..ended.len() - KEPT_MAX] {
            seals.remove(request);
        }
    }
}

/// Whether the same request gets the same answer again.
fn is_final(answer: &Answer) -> bool {
    match answer {
        Err(_) => false,
        Ok(reply) => {
            !matches!(**reply, Reply::Lacking { .. } | Reply::Refused(Refusal::NotCompared { .. }))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::sleep;

    use super::*;
    use crate::raft::testing::TestNetwork;

    /// Longer than any caller waits.
    const LONG: Duration = Duration::from_secs(600);

    fn reason<T>(result: Result<T, Status>) -> Option<Reason> {
        Reason::of(&result.err().expect("it is refused"))
    }

    const REQUEST: RequestId = RequestId(7);

    fn refused(text: &str) -> Answer {
        Ok(Arc::new(Reply::Refused(Refusal::Malformed(text.to_owned()))))
    }

    /// Begins a seal that takes `takes` and counts itself.
    async fn seal(
        running: &Arc<Running>,
        request: RequestId,
        takes: Duration,
        begun: &AtomicU32,
        end: Answer,
    ) -> Answer {
        let env = TestNetwork::default().env();
        let seal = || {
            begun.fetch_add(1, Ordering::Relaxed);
            Ok(async move {
                sleep(takes).await;
                end
            })
        };
        running.answer(&env, request, 3, Duration::ZERO, seal).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_comes_late_is_told_to_the_next_try() {
        let (running, begun) = (Arc::new(Running::default()), AtomicU32::new(0));
        let began = Instant::now();
        let first = seal(&running, REQUEST, LONG, &begun, refused("bad")).await;
        assert_eq!(reason(first), Some(Reason::Busy), "its caller asks again");
        assert_eq!(began.elapsed(), TURN_MAX + ANSWER_MARGIN);
        // Nobody waits when it ends.
        sleep(LONG).await;
        let again = seal(&running, REQUEST, LONG, &begun, refused("another")).await;
        assert_eq!(again.unwrap(), refused("bad").unwrap());
        assert_eq!(begun.load(Ordering::Relaxed), 1, "it is not begun again");
        let other = seal(&running, RequestId(8), Duration::ZERO, &begun, refused("other")).await;
        assert_eq!(other.unwrap(), refused("other").unwrap());
        sleep(KEPT_FOR).await;
        let new = seal(&running, REQUEST, Duration::ZERO, &begun, refused("new")).await;
        assert_eq!(new.unwrap(), refused("new").unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_waits_for_the_seal_that_runs() {
        let (running, begun) = (Arc::new(Running::default()), AtomicU32::new(0));
        let began = Instant::now();
        loop {
            let answer = seal(&running, REQUEST, LONG, &begun, refused("bad")).await;
            if answer.is_ok() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        assert!(began.elapsed() < LONG + TURN_MAX, "{:?}", began.elapsed());
        assert_eq!(begun.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_once_and_then_tried_anew() {
        let (running, begun) = (Arc::new(Running::default()), AtomicU32::new(0));
        let not_yet = || Err(refuse(Reason::NotYet, "no replica of the manifest answers"));
        let first = seal(&running, REQUEST, LONG, &begun, not_yet()).await;
        assert_eq!(reason(first), Some(Reason::Busy));
        sleep(LONG).await;
        let told = seal(&running, REQUEST, LONG, &begun, refused("unused")).await;
        assert_eq!(reason(told), Some(Reason::NotYet));
        let anew = seal(&running, REQUEST, Duration::ZERO, &begun, refused("bad")).await;
        assert_eq!(anew.unwrap(), refused("bad").unwrap());
        assert_eq!(begun.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_kept_are_bounded() {
        let (running, begun) = (Arc::new(Running::default()), AtomicU32::new(0));
        for request in 0..KEPT_MAX as u128 + 10 {
            let request = RequestId(request + 1);
            seal(&running, request, Duration::ZERO, &begun, refused("bad")).await.unwrap();
        }
        forget_old(&mut running.0.lock());
        assert_eq!(running.0.lock().len(), KEPT_MAX);
        let newest = RequestId(KEPT_MAX as u128 + 10);
        assert!(running.0.lock().contains_key(&newest), "the oldest go first");
    }

    #[tokio::test(start_paused = true)]
    async fn a_seal_whose_turn_it_is_reads_while_others_wait() {
        let turns = Turns::new();
        let longest = u64::from(WAITING_KIB) << 10;
        let waits = turns.waiting(2 * longest).await.unwrap();
        assert_eq!(reason(turns.waiting(1).await), Some(Reason::Busy), "bounded");
        assert!(turns.manifest(longest).await.is_ok(), "else none of them would get its turn");
        drop(waits);
        assert!(turns.waiting(1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_is_not_bounded_by_a_turn_and_a_wait_for_it_is() {
        let turns = Turns::new();
        let long = u64::from(MANIFEST_KIB_MAX + 1) << 10;
        let reading = turns.manifest(long).await.unwrap();
        sleep(LONG).await;
        let began = Instant::now();
        assert_eq!(reason(turns.manifest(long).await), Some(Reason::Busy));
        assert_eq!(began.elapsed(), TURN_MAX);
        assert!(turns.manifest(1 << 20).await.is_ok(), "a short one does not wait for a long one");
        drop(reading);
        assert!(turns.manifest(long).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn short_manifests_share_their_memory() {
        let turns = Turns::new();
        let short = u64::from(MANIFEST_KIB_MAX) << 10;
        let mut reading = Vec::new();
        for _ in 0..MANIFESTS_KIB / MANIFEST_KIB_MAX {
            reading.push(turns.manifest(short).await.unwrap());
        }
        assert_eq!(reason(turns.manifest(1).await), Some(Reason::Busy));
        reading.pop();
        assert!(turns.manifest(1).await.is_ok());
    }

    #[test]
    fn seals_that_run_are_bounded() {
        let turns = Turns::new();
        let places: Vec<_> = (0..SEALS_MAX).map(|_| turns.begin().unwrap()).collect();
        assert_eq!(reason(turns.begin()), Some(Reason::Busy));
        drop(places);
        assert!(turns.begin().is_ok());
    }
}
