#![allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]

use std::sync::Arc;
use std::time::Duration;

use cairn_types::audit::{AuditHead, AuditObject, AuditRecord, AuditResult, AuditSubject, Audited};
use cairn_types::ids::RequestId;

use super::file::{self, Frame, MARK};
use super::read::{Range, check, page};
use super::{AuditConfig, Trail};
use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, Open};
use crate::raft::testing::{Told, test_env};

/// Small, so that a few records fill several files.
const SMALL: AuditConfig = AuditConfig { file_bytes: 1_000, keep_bytes: 1 << 30 };

/// A log that derives records.
#[derive(Default)]
struct Log {
    head: AuditHead,
    records: Vec<Audited>,
}

impl Log {
    fn of(count: u64) -> Self {
        let mut log = Self::default();
        (0..count).for_each(|_| log.append());
        log
    }

    fn append(&mut self) {
        let number = self.head.count + 1;
        let record = AuditRecord {
            number,
            term: 1,
            index: number * 3,
            wall_ms: number,
            request: RequestId(number.into()),
            subject: AuditSubject::Key,
            command: "set_ref".to_owned(),
            object: AuditObject { detail: format!("number {number}"), ..AuditObject::default() },
            result: AuditResult::Accepted,
        };
        let body = record.encode();
        let head = self.head.after(record.index, &body);
        self.records.push(Audited { before: self.head, head, body });
        self.head = head;
    }
}

struct World {
    disk: Arc<MemoryDisk>,
    told: Told,
}

impl World {
    fn new() -> Self {
        Self { disk: Arc::default(), told: Told::default() }
    }

    async fn open(&self, config: AuditConfig) -> Arc<Trail> {
        let disk: Arc<dyn Disk> = self.disk.clone();
        Trail::open(test_env(), disk, config, self.told.hook()).await.unwrap()
    }

    /// Writes these records, and says how far the file is.
    async fn write(&self, trail: &Trail, records: &[Audited]) -> u64 {
        for batch in records.chunks(5) {
            for record in batch {
                trail.push(record.clone()).await;
            }
            trail.until_durable(trail.last()).await;
        }
        trail.place().head.count
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        let file = self.disk.open(path, Open::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let _ = self.disk.remove(path);
        self.disk.open(path, Open::Create).unwrap().write_at(0, bytes).unwrap();
    }

    /// The numbers that can be read, gaps as pairs.
    fn read(&self, trail: &Trail) -> (Vec<u64>, Vec<(u64, u64)>, usize) {
        let (mut first, mut damage) = (1, 0);
        let (mut records, mut gaps) = (Vec::new(), Vec::new());
        loop {
            let range = Range { first, last: u64::MAX };
            let page = page(&*self.disk, trail.place(), range, |_| true).unwrap();
            damage += page.damage.len();
            for entry in page.entries {
                match entry {
                    Frame::Record(record) => records.push(record.number),
                    Frame::Gap(gap) => gaps.push((gap.first, gap.last)),
                }
            }
            match page.next {
                0 => return (records, gaps, damage),
                next => first = next,
            }
        }
    }

    fn files(&self) -> Vec<String> {
        file::files(&*self.disk).unwrap().into_iter().map(file::path_of).collect()
    }
}

/// Lets the tasks that run beside the test end.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_derived_again_after_a_restart_is_in_the_file_once() {
    let (world, log) = (World::new(), Log::of(40));
    let trail = world.open(SMALL).await;
    assert_eq!(world.write(&trail, &log.records[..25]).await, 25);
    assert!(world.files().len() > 1, "the chain runs on over files");
    let again = world.open(SMALL).await;
    assert_eq!(again.place(), trail.place());
    // From a snapshot of record 10, and from the start.
    for from in [10, 0] {
        assert_eq!(world.write(&again, &log.records[from..30]).await, 30);
    }
    assert_eq!(world.write(&again, &log.records[30..]).await, 40);
    settle().await;
    assert_eq!(world.read(&again), ((1..=40).collect(), vec![], 0));
    assert_eq!(again.place().head, log.head);
    assert!(again.damage().is_empty() && world.told.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_the_durable_ones_are_cut_and_nothing_else_is() {
    let (world, log) = (World::new(), Log::of(12));
    let big = AuditConfig::default();
    let trail = world.open(big).await;
    world.write(&trail, &log.records[..9]).await;
    let path = world.files().pop().unwrap();
    let whole = world.bytes(&path);
    // A write that the crash has cut short, at every length, and one of nothing but zeros.
    let mut next = Vec::new();
    file::push_record(&mut next, &log.records[9].body, &log.records[9].head);
    let torn = (0..next.len()).map(|len| next[..len].to_vec()).chain([vec![0; 5_000]]);
    for tail in torn {
        world.put(&path, &[whole.clone(), tail].concat());
        let again = world.open(big).await;
        assert!(again.damage().is_empty(), "{:?}", again.damage());
        assert_eq!(world.bytes(&path), whole);
    }
    let again = world.open(big).await;
    assert_eq!(world.write(&again, &log.records).await, 12);
    assert_eq!(world.read(&again).0, (1..=12).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn damage_anywhere_in_durable_bytes_is_an_alarm_and_is_never_cut() {
    let (source, log) = (World::new(), Log::of(12));
    let big = AuditConfig::default();
    let trail = source.open(big).await;
    source.write(&trail, &log.records[..9]).await;
    let path = source.files().pop().unwrap();
    let (whole, mark) = (source.bytes(&path), source.bytes(MARK));
    let mut damaged: Vec<Vec<u8>> = Vec::new();
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        damaged.push(bytes);
    }
    // Truncated, from the last byte on: these bytes were durable.
    damaged.extend((0..whole.len()).rev().step_by(7).map(|len| whole[..len].to_vec()));
    let frame = (whole.len() - file::HEADER_BYTES as usize) / 9;
    assert_eq!(whole.len(), file::HEADER_BYTES as usize + 9 * frame, "frames of equal length");
    let (head, frames) = whole.split_at(file::HEADER_BYTES as usize);
    // Out of order; and one left out, with another one twice so that the length is right.
    let mut turned: Vec<&[u8]> = frames.chunks(frame).collect();
    turned.swap(3, 4);
    damaged.push([head, &turned.concat()].concat());
    turned[3] = turned[5];
    damaged.push([head, &turned.concat()].concat());
    for bytes in damaged {
        let world = World::new();
        world.disk.create_dir(file::DIR).unwrap();
        world.put(&path, &bytes);
        world.put(MARK, &mark);
        let again = world.open(big).await;
        assert_eq!(again.damage().len(), 1, "{:?}", again.damage());
        // It goes on in a new file, and the damaged one stays as it is.
        assert_eq!(world.write(&again, &log.records).await, 12);
        assert_eq!(world.bytes(&path), bytes);
        let (records, gaps, damage) = world.read(&again);
        assert!(damage > 0 && !gaps.is_empty(), "{records:?} {gaps:?}");
        assert!(records.ends_with(&[10, 11, 12]), "{records:?}");
        // No number is left out in silence.
        let missing: u64 = gaps.iter().map(|(first, last)| last - first + 1).sum();
        assert_eq!(records.len() as u64 + missing, 12, "{records:?} {gaps:?}");
        // The next start says it too.
        let third = world.open(big).await;
        settle().await;
        assert!(third.is_damaged());
        assert_eq!(world.bytes(&path), bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_or_mark_is_an_alarm() {
    let (world, log) = (World::new(), Log::of(60));
    let trail = world.open(SMALL).await;
    world.write(&trail, &log.records[..50]).await;
    let files = world.files();
    assert!(files.len() > 3);
    world.disk.remove(&files[1]).unwrap();
    let again = world.open(SMALL).await;
    settle().await;
    assert_eq!(again.damage().len(), 1, "{:?}", again.damage());
    let (records, gaps, _) = world.read(&again);
    let missing: u64 = gaps.iter().map(|(first, last)| last - first + 1).sum();
    assert_eq!(records.len() as u64 + missing, 50);
    world.disk.remove(MARK).unwrap();
    let again = world.open(SMALL).await;
    assert!(again.damage()[0].contains("missing"), "{:?}", again.damage());
    assert_eq!(again.place().head.count, 50, "it goes on behind the last one that is good");
    assert_eq!(world.write(&again, &log.records).await, 60);
    // All files are gone, and the snapshot says that there were records.
    for path in world.files() {
        world.disk.remove(&path).unwrap();
    }
    world.disk.remove(MARK).unwrap();
    let again = world.open(SMALL).await;
    assert!(again.damage().is_empty(), "nothing tells yet");
    again.adopt(log.records[49].head, true).await;
    assert!(again.damage()[0].contains("lost"), "{:?}", again.damage());
    assert_eq!(world.write(&again, &log.records[50..]).await, 60);
    assert_eq!(world.read(&again), ((51..=60).collect(), vec![(1, 50)], 0));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_others_leaves_a_gap_with_their_chain() {
    let (world, log) = (World::new(), Log::of(30));
    let trail = world.open(SMALL).await;
    world.write(&trail, &log.records[..5]).await;
    trail.adopt(log.records[19].head, false).await;
    // Durable before the snapshot is this node's own.
    assert_eq!(trail.place().head, log.records[19].head);
    world.write(&trail, &log.records[20..]).await;
    let again = world.open(SMALL).await;
    settle().await;
    assert!(again.damage().is_empty(), "{:?}", again.damage());
    let numbers = (1..=5).chain(21..=30).collect();
    assert_eq!(world.read(&again), (numbers, vec![(6, 20)], 0));
    assert_eq!(again.place().head, log.head, "the chain is that of the others");
    for first in file::files(&*world.disk).unwrap() {
        let checked = check(&*world.disk, first, None, None, 20);
        assert!(checked.damage.is_empty(), "{:?}", checked.damage);
        assert!(checked.at.is_none_or(|hash| hash == log.records[19].head.hash));
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_says_something_else_is_an_alarm() {
    let (world, log) = (World::new(), Log::of(10));
    let trail = world.open(SMALL).await;
    world.write(&trail, &log.records).await;
    let again = world.open(SMALL).await;
    let mut other = log.records[9].clone();
    other.head.hash = [9; 32];
    again.push(other).await;
    assert_eq!(again.damage().len(), 1);
    let again = world.open(SMALL).await;
    again.adopt(AuditHead { hash: [9; 32], ..log.head }, true).await;
    assert_eq!(again.damage().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_delays_records_and_loses_none() {
    let (world, log) = (World::new(), Log::of(50));
    let trail = world.open(SMALL).await;
    world.write(&trail, &log.records[..10]).await;
    for room in [0, 100, 700, 5_000] {
        world.disk.leave_room(room);
        for record in &log.records {
            trail.push(record.clone()).await;
        }
        let late = trail.until_durable(50);
        let waited = tokio::time::timeout(Duration::from_secs(20), late).await;
        assert!(waited.is_err() || trail.place().head.count == 50);
    }
    assert!(trail.place().head.count < 50, "the disk is full");
    world.disk.leave_room(1 << 30);
    trail.until_durable(50).await;
    let again = world.open(SMALL).await;
    settle().await;
    assert_eq!(world.read(&again), ((1..=50).collect(), vec![], 0));
    assert!(again.damage().is_empty() && world.told.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_stops_the_node_and_nothing_counts_as_durable() {
    let (world, log) = (World::new(), Log::of(10));
    let trail = world.open(SMALL).await;
    world.write(&trail, &log.records[..5]).await;
    world.disk.break_writes();
    trail.push(log.records[5].clone()).await;
    let waited = tokio::time::timeout(Duration::from_secs(60), trail.until_durable(6)).await;
    assert!(waited.is_err());
    assert_eq!(world.told.all().len(), 1, "{:?}", world.told.all());
    assert_eq!(trail.place().head.count, 5);
}

#[tokio::test(start_paused = true)]
async fn apply_waits_while_the_queue_is_full() {
    let (world, log) = (World::new(), Log::of(super::QUEUE_MAX + 10));
    let trail = world.open(AuditConfig::default()).await;
    world.disk.leave_room(0);
    let pushed = Arc::clone(&trail);
    let records = log.records.clone();
    let pushing = tokio::spawn(async move {
        for record in records {
            pushed.push(record).await;
        }
    });
    settle().await;
    assert!(!pushing.is_finished());
    assert_eq!(trail.last(), super::QUEUE_MAX + 1, "one more waits than the queue holds");
    world.disk.leave_room(1 << 30);
    pushing.await.unwrap();
    trail.until_durable(log.head.count).await;
    assert_eq!(trail.place().head, log.head);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_files_are_removed_and_readers_are_told_so() {
    let (world, log) = (World::new(), Log::of(200));
    let config = AuditConfig { file_bytes: 1_000, keep_bytes: 4_000 };
    let trail = world.open(config).await;
    world.write(&trail, &log.records).await;
    let used: usize = world.files().iter().map(|path| world.bytes(path).len()).sum();
    assert!(used <= 4_000, "{used}");
    let range = Range { first: 1, last: u64::MAX };
    let page = page(&*world.disk, trail.place(), range, |_| true).unwrap();
    assert!(page.kept_from > 150 && page.damage.is_empty());
    assert_eq!(page.entries.len() as u64, 200 - page.kept_from + 1);
    let again = world.open(config).await;
    settle().await;
    assert!(again.damage().is_empty(), "{:?}", again.damage());
}

#[tokio::test(start_paused = true)]
async fn a_page_is_bounded_and_says_where_to_go_on() {
    let (world, log) = (World::new(), Log::of(2_500));
    let trail = world.open(AuditConfig { file_bytes: 50_000, keep_bytes: 1 << 30 }).await;
    world.write(&trail, &log.records).await;
    assert_eq!(world.read(&trail).0, (1..=2_500).collect::<Vec<_>>());
    let all = |first, last| page(&*world.disk, trail.place(), Range { first, last }, |_| true);
    let first = all(1, u64::MAX).unwrap();
    assert_eq!((first.entries.len(), first.next), (1_000, 1_001));
    let some = all(700, 702).unwrap();
    assert_eq!((some.entries.len(), some.next), (3, 0));
    let rare = |record: &AuditRecord| record.number == 2_400;
    let found = page(&*world.disk, trail.place(), Range { first: 1, last: u64::MAX }, rare);
    assert_eq!(found.unwrap().entries.len(), 1);
}
