//! The runtime seam of one life of a simulated process: tasks, blocking work, randomness, wall
//! time.
//!
//! A blocking job runs inline, at once. Then its virtual time passes, then its effects on the disk
//! settle, then its caller continues. A crash in between cuts the job short
//! ([`SimDisk`](crate::disk::SimDisk)). A job is a task of its process: a caller that stops waiting
//! does not stop it, as it would not stop a disk thread.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::jobs::RunningJobs;
use cairn_host::seam::{Job, Lane, Runtime};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::disk::SimDisk;
use crate::monotonic::Monotonic;
use crate::process::Life;
use crate::trace;

/// Wall time at the start of every run: 21 November 2026.
pub const EPOCH_MS: u64 = 1_795_219_200_000;
/// Jobs of the data and client lanes that run at a time.
const LANE_WIDTH: usize = 4;
/// Jobs of each other lane at a time, as in production.
const SIDE_LANE_WIDTH: usize = 2;
const LANES: [Lane; 6] =
    [Lane::Log, Lane::Data, Lane::Snapshot, Lane::Replication, Lane::Walk, Lane::Client];

/// See the module.
pub struct SimHost {
    life: Arc<Life>,
    clock: Arc<WallClock>,
    monotonic: Arc<Monotonic>,
    work: Arc<Work>,
}

/// The wall clock of one process. It has a constant skew, and at times a jump.
#[derive(Debug)]
pub struct WallClock {
    skew_ms: i64,
    jump: Mutex<Jump>,
}

#[derive(Debug, Default)]
struct Jump {
    now_ms: i64,
    /// The last jump that was corrected, and the time of the correction.
    last: Option<(i64, Instant)>,
}

impl WallClock {
    pub fn new(skew_ms: i64) -> Self {
        Self { skew_ms, jump: Mutex::default() }
    }

    pub fn now_ms(&self) -> u64 {
        self.with(self.jump.lock().now_ms)
    }

    /// The latest time it has shown within this window, moved to now. A jump back does not count.
    pub fn latest_within_ms(&self, window: Duration) -> u64 {
        let jump = self.jump.lock();
        let last = jump.last.filter(|(_, ended)| ended.elapsed() < window);
        self.with(jump.now_ms.max(last.map_or(0, |(ms, _)| ms)).max(0))
    }

    pub fn jump(&self, ms: i64) {
        self.jump.lock().now_ms += ms;
    }

    /// Ends the jump. The skew stays.
    pub fn put_right(&self) {
        let mut jump = self.jump.lock();
        if jump.now_ms != 0 {
            jump.last = Some((std::mem::take(&mut jump.now_ms), Instant::now()));
        }
    }

    /// Whether it has had no jump for this long.
    pub fn is_right_since(&self, window: Duration) -> bool {
        let jump = self.jump.lock();
        jump.now_ms == 0 && jump.last.is_none_or(|(_, ended)| ended.elapsed() >= window)
    }

    fn with(&self, jump_ms: i64) -> u64 {
        (EPOCH_MS + trace::now_us() / 1000).saturating_add_signed(self.skew_ms + jump_ms)
    }
}

struct Work {
    life: Arc<Life>,
    disk: SimDisk,
    /// Permits of each lane, given in the order of the requests.
    lanes: [Semaphore; LANES.len()],
    jobs: RunningJobs,
}

impl SimHost {
    pub fn new(
        life: Arc<Life>,
        disk: SimDisk,
        (clock, monotonic): (Arc<WallClock>, Arc<Monotonic>),
    ) -> Self {
        let lanes = LANES.map(|lane| Semaphore::new(width(lane)));
        let work = Work { life: life.clone(), disk, lanes, jobs: RunningJobs::default() };
        Self { life, clock, monotonic, work: Arc::new(work) }
    }
}

impl Runtime for SimHost {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) -> JoinHandle<()> {
        self.life.spawn(task)
    }

    fn run_blocking(&self, lane: Lane, job: Job) -> BoxFuture<'static, ()> {
        let (done, finished) = oneshot::channel();
        let work = self.work.clone();
        // The wait belongs to the task and ends with the process. A queue in `Work` would hold jobs
        // that hold the owner of `Work`.
        self.life.spawn(async move {
            let Ok(room) = work.lanes[place(lane)].acquire().await else { return };
            work.run(lane, job).await;
            drop(room);
            let _ = done.send(());
        });
        Box::pin(async move {
            if finished.await.is_err() {
                // The process is gone, and the task that waits here with it.
                std::future::pending::<()>().await;
            }
        })
    }

    fn oldest_job(&self, lane: Lane) -> Option<Duration> {
        self.work.jobs.oldest(lane)
    }

    fn random_u64(&self) -> u64 {
        self.life.random_u64()
    }

    fn now(&self) -> Instant {
        self.monotonic.now()
    }

    fn wall_ms(&self) -> u64 {
        self.clock.now_ms()
    }
}

fn place(lane: Lane) -> usize {
    LANES.iter().position(|known| *known == lane).unwrap_or(0)
}

/// Jobs of a lane that run at a time.
fn width(lane: Lane) -> usize {
    match lane {
        Lane::Log => 1,
        Lane::Data | Lane::Client => LANE_WIDTH,
        Lane::Snapshot | Lane::Replication | Lane::Walk => SIDE_LANE_WIDTH,
    }
}

impl Work {
    async fn run(&self, lane: Lane, job: Job) {
        let _running = self.jobs.begin(lane);
        self.has_disk().await;
        let number = self.disk.begin_job();
        job();
        let (cost, doings, time) = self.disk.end_job();
        trace::event(
            &self.life.name,
            "job",
            format_args!(
                "{lane:?} #{number} reads {}/{} writes {}/{} names {} syncs {} takes {} us, {doings:016x}",
                cost.reads,
                cost.bytes_read,
                cost.writes,
                cost.bytes_written,
                cost.names,
                cost.syncs,
                time.as_micros(),
            ),
        );
        trace::count("disk.jobs", 1);
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        self.disk.unstuck().await;
        self.has_disk().await;
        self.disk.settle(number);
    }

    /// Never resolves for an abandoned process: its disk belongs to another process now, and a job
    /// in flight hangs.
    async fn has_disk(&self) {
        if self.life.is_abandoned() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_node::disk::{Disk, Open};

    use super::*;
    use crate::process::tests::life;
    use crate::seed::Stream;

    fn host() -> (SimHost, SimDisk) {
        let disk = SimDisk::new("d1", 1, &Stream::new(1));
        (
            SimHost::new(life("n1"), disk.clone(), (Arc::new(WallClock::new(0)), Arc::default())),
            disk,
        )
    }

    fn note(list: &Arc<Mutex<Vec<u32>>>, number: u32) -> Job {
        let list = list.clone();
        Box::new(move || list.lock().push(number))
    }

    #[tokio::test(start_paused = true)]
    async fn log_jobs_run_one_at_a_time_even_if_their_caller_gave_up() {
        let (host, disk) = host();
        let (order, mount) = (Arc::new(Mutex::new(Vec::new())), disk.mount());
        let write: Job = Box::new(move || {
            let file = mount.open("a", Open::Create).unwrap();
            file.write_at(0, b"x").unwrap();
            file.sync().unwrap();
        });
        drop(host.run_blocking(Lane::Log, write));
        let second = host.run_blocking(Lane::Log, note(&order, 2));
        let third = host.run_blocking(Lane::Log, note(&order, 3));
        tokio::task::yield_now().await;
        assert_eq!((disk.jobs_in_flight(), order.lock().len()), (1, 0));
        third.await;
        second.await;
        assert_eq!(*order.lock(), [2, 3]);
        assert_eq!(disk.peek("a").unwrap(), b"x");
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_disk_holds_jobs_until_it_is_healed() {
        let (host, disk) = host();
        disk.set_stuck(true);
        let job = host.run_blocking(Lane::Data, Box::new(|| {}));
        tokio::pin!(job);
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut job).await.is_err());
        disk.heal();
        job.await;
    }
}
