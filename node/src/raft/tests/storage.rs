use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, RaftLogReader, StorageError};
use openraft_rt_tokio::TokioRuntime;

use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, Open};
use crate::raft::OpenError;
use crate::raft::applied::Applied;
use crate::raft::log::file::{LogError, LogFile, damage_record, read_entries};
use crate::raft::log::store::{LogClosed, LogStore};
use crate::raft::machine::StateMachine;
use crate::raft::peers::promises::Promise;
use crate::raft::snapshot::store::SnapshotStore;
use crate::raft::testing::{Told, ToyMachine, test_env};
use crate::raft::types::{Entry, LogCommand, LogId, TypeConfig, Vote};
use crate::store::RESERVE_BYTES_DEFAULT;
use crate::store::ballast::{BALLAST_FILE, make_ballast_if_room};

type C = TypeConfig<TokioRuntime>;

pub fn entry(term: u64, index: u64, command: &'static [u8]) -> Entry {
    Entry {
        log_id: LogId::new_term_index(term, index),
        payload: EntryPayload::Normal(LogCommand(Bytes::from_static(command))),
    }
}

async fn open(disk: &Arc<MemoryDisk>, told: &Told) -> Result<(LogStore, LogClosed), LogError> {
    LogStore::open(test_env(), disk.clone() as Arc<dyn Disk>, told.hook(), false, &[]).await
}

async fn open_expecting(disk: &Arc<MemoryDisk>) -> Result<(), LogError> {
    let disk = disk.clone() as Arc<dyn Disk>;
    let (log, closed) = LogStore::open(test_env(), disk, Told::default().hook(), true, &[]).await?;
    drop(log);
    closed.wait().await;
    Ok(())
}

async fn entries(log: &mut LogStore) -> Vec<Entry> {
    let mut reader = <LogStore as RaftLogStorage<C>>::get_log_reader(log).await;
    RaftLogReader::<C>::try_get_log_entries(&mut reader, 0..u64::MAX).await.unwrap()
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    RaftLogStorageExt::<C>::blocking_append(log, entries).await.unwrap();
}

/// A store with its own disk, and snapshots in one directory per store. The suite copies a snapshot
/// from one store to another.
struct Builder {
    snapshots: Arc<MemoryDisk>,
    built: AtomicU64,
}

impl StoreBuilder<C, LogStore, StateMachine<ToyMachine>> for Builder {
    async fn build(&self) -> Result<((), LogStore, StateMachine<ToyMachine>), StorageError<C>> {
        let told = Told::default();
        let (log, _) = open(&Arc::default(), &told).await.unwrap();
        let dir = format!("snapshots-{}", self.built.fetch_add(1, Ordering::Relaxed));
        let disk = self.snapshots.clone() as Arc<dyn Disk>;
        let store = SnapshotStore::open(test_env(), disk, &dir, None).await.unwrap();
        let machine =
            StateMachine::new(Arc::default(), store, Arc::new(Applied::default()), told.hook());
        Ok(((), log, machine))
    }
}

#[test]
fn storage_meets_openrafts_contract() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let builder = Builder { snapshots: Arc::default(), built: AtomicU64::new(0) };
    runtime.block_on(Suite::test_all(builder)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn acknowledged_entries_and_vote_survive_restart() {
    let (disk, told) = (Arc::default(), Told::default());
    let (mut log, closed) = open(&disk, &told).await.unwrap();
    let vote = Vote::new_committed(3, 7);
    let written: Vec<Entry> = (0..20).map(|index| entry(3, index, b"some command")).collect();
    RaftLogStorage::<C>::save_vote(&mut log, &vote).await.unwrap();
    append(&mut log, written.clone()).await;
    let committed = Some(LogId::new_term_index(3, 12));
    RaftLogStorage::<C>::save_committed(&mut log, committed).await.unwrap();
    RaftLogStorage::<C>::truncate_after(&mut log, Some(LogId::new_term_index(3, 15)))
        .await
        .unwrap();
    RaftLogStorage::<C>::purge(&mut log, LogId::new_term_index(3, 4)).await.unwrap();
    drop(log);
    closed.wait().await;

    let (mut log, _) = open(&disk, &told).await.unwrap();
    assert_eq!(entries(&mut log).await, written[5..=15]);
    assert_eq!(RaftLogStorage::<C>::read_committed(&mut log).await.unwrap(), committed);
    assert_eq!(log.purged(), Some(LogId::new_term_index(3, 4)));
    let mut reader = RaftLogStorage::<C>::get_log_reader(&mut log).await;
    assert_eq!(RaftLogReader::<C>::read_vote(&mut reader).await.unwrap(), Some(vote));
    assert!(told.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_holds_less_than_was_promised_is_refused() {
    let (disk, told) = (Arc::<MemoryDisk>::default(), Told::default());
    let (mut log, closed) = open(&disk, &told).await.unwrap();
    RaftLogStorage::<C>::save_vote(&mut log, &Vote::new_committed(3, 7)).await.unwrap();
    append(&mut log, (0..5).map(|index| entry(3, index, b"one")).collect()).await;
    let early = log.watch().get().promise().unwrap();
    append(&mut log, (5..9).map(|index| entry(3, index, b"more")).collect()).await;
    let late = log.watch().get().promise().unwrap();
    RaftLogStorage::<C>::truncate_after(&mut log, Some(LogId::new_term_index(3, 6))).await.unwrap();
    drop(log);
    closed.wait().await;
    let open = |promised: Promise| {
        let disk = disk.clone() as Arc<dyn Disk>;
        async move { LogStore::open(test_env(), disk, Told::default().hook(), true, &[promised]).await }
    };
    assert!(matches!(open(late).await.map(drop), Err(LogError::SetBack(_))));
    for believed in [early, Promise::new(Vote::new(1 << 40, 1), None)] {
        let (log, closed) = open(believed).await.unwrap();
        drop(log);
        closed.wait().await;
    }
}

#[tokio::test(start_paused = true)]
async fn committed_id_beyond_the_log_is_not_believed() {
    let (disk, told) = (Arc::default(), Told::default());
    let (mut log, closed) = open(&disk, &told).await.unwrap();
    let ahead = Some(LogId::new_term_index(1, 50));
    RaftLogStorage::<C>::save_committed(&mut log, ahead).await.unwrap();
    append(&mut log, vec![entry(1, 0, b"a"), entry(1, 1, b"b")]).await;
    drop(log);
    closed.wait().await;
    let (mut log, _) = open(&disk, &told).await.unwrap();
    assert_eq!(RaftLogStorage::<C>::read_committed(&mut log).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn damaged_record_is_named() {
    let (disk, told) = (Arc::<MemoryDisk>::default(), Told::default());
    let (mut log, closed) = open(&disk, &told).await.unwrap();
    append(&mut log, (0..5).map(|index| entry(1, index, b"x")).collect()).await;
    drop(log);
    closed.wait().await;
    damage_record(&*disk, 3);
    match open(&disk, &told).await.map(drop) {
        Err(LogError::Damaged { record, .. }) => assert_eq!(record, "3"),
        other => panic!("opened a damaged log: {other:?}"),
    }
}

/// A record is damaged while the node runs, and no task reads it.
#[tokio::test(start_paused = true)]
async fn a_record_that_rots_under_a_running_node_is_found() {
    const COMMAND: &[u8] = &[7; 64 << 10];
    let (disk, told) = (Arc::<MemoryDisk>::default(), Told::default());
    let (mut log, _closed) = open(&disk, &told).await.unwrap();
    // More than any cache holds.
    for index in 0..256 {
        append(&mut log, vec![entry(1, index, COMMAND)]).await;
    }
    let bytes = log_bytes(&disk);
    let mark = [3_u64.to_le_bytes(), 1_u64.to_le_bytes()].concat();
    let places = bytes.windows(mark.len()).enumerate().filter(|(_, window)| *window == mark);
    let places: Vec<u64> = places.map(|(at, _)| at as u64).collect();
    assert!(!places.is_empty());
    for at in places {
        // Changes a byte of the command in every copy of the record.
        let file = disk.open("raft.redb", Open::Write).unwrap();
        file.write_at(at + 1000, &[8]).unwrap();
    }
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        if let Some(reason) = told.all().first() {
            assert!(reason.contains("record 3 is damaged"), "{reason}");
            return;
        }
    }
    panic!("nobody has found it");
}

fn log_bytes(disk: &MemoryDisk) -> Vec<u8> {
    let file = disk.open("raft.redb", Open::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Everything that a node would read from a log file of these bytes.
fn held(bytes: &[u8]) -> Result<String, LogError> {
    let disk = MemoryDisk::default();
    disk.open("raft.redb", Open::Create).unwrap().write_at(0, bytes).unwrap();
    let (log, stored) = LogFile::open(&disk, true)?;
    let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
    let range = next(stored.purged)..next(stored.last);
    let entries = read_entries(&log.read()?, range, usize::MAX)?;
    Ok(format!("{:?} {:?} {:?} {entries:?}", stored.vote, stored.purged, stored.last))
}

/// With a flipped bit anywhere, the log is either unchanged or not opened. The log of a killed
/// process may lack its last transaction: redb cannot tell damage there from a commit that was cut
/// short.
#[tokio::test(start_paused = true)]
async fn no_bit_that_has_rotted_is_believed() {
    let (disk, told) = (Arc::<MemoryDisk>::default(), Told::default());
    let (mut log, closed) = open(&disk, &told).await.unwrap();
    RaftLogStorage::<C>::save_vote(&mut log, &Vote::new_committed(3, 7)).await.unwrap();
    append(&mut log, (0..300).map(|index| entry(3, index, b"some command")).collect()).await;
    RaftLogStorage::<C>::purge(&mut log, LogId::new_term_index(3, 40)).await.unwrap();
    append(&mut log, (300..320).map(|index| entry(3, index, b"more")).collect()).await;
    let earlier = held(&log_bytes(&disk)).unwrap();
    append(&mut log, (320..340).map(|index| entry(3, index, b"last")).collect()).await;
    let killed = log_bytes(&disk);
    drop(log);
    closed.wait().await;
    let stopped = log_bytes(&disk);
    let whole = held(&stopped).unwrap();
    assert_eq!(held(&killed).unwrap(), whole);

    let (mut refused, mut taken_back) = (0, 0);
    for (sound, was_killed) in [(stopped, false), (killed, true)] {
        let written = (0..sound.len()).filter(|at| sound[*at] != 0);
        let head = 0..320;
        for at in head.chain(written.step_by(23)) {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            match held(&bytes) {
                Err(error) => {
                    let text = format!("a bit at {at}: {error}");
                    assert!(OpenError::from(error).is_final(), "{text}");
                    refused += 1;
                }
                Ok(held) if held == whole => {}
                Ok(held) if was_killed && held == earlier => taken_back += 1,
                Ok(held) => panic!("a bit at {at} was believed: {held}"),
            }
        }
    }
    assert!(refused > 100 && taken_back > 10, "{refused} refused, {taken_back} taken back");
}

#[tokio::test(start_paused = true)]
async fn log_that_lost_its_content_is_not_taken_for_a_new_one() {
    let (disk, told) = (Arc::<MemoryDisk>::default(), Told::default());
    let lost = |opened| matches!(opened, Err(LogError::Lost(_)));
    assert!(lost(open_expecting(&disk).await), "there is none");
    let (log, closed) = open(&disk, &told).await.unwrap();
    drop(log);
    closed.wait().await;
    assert!(lost(open_expecting(&disk).await), "it was made anew");
    let (mut log, closed) = open(&disk, &told).await.unwrap();
    RaftLogStorage::<C>::save_vote(&mut log, &Vote::new(1, 1)).await.unwrap();
    drop(log);
    closed.wait().await;
    open_expecting(&disk).await.unwrap();
    disk.open("raft.redb", crate::disk::Open::Write).unwrap().set_len(0).unwrap();
    assert!(lost(open(&disk, &told).await.map(drop)), "emptied, whatever is expected");
    assert!(lost(open_expecting(&disk).await));
}

#[tokio::test(start_paused = true)]
async fn io_error_stops_the_log_for_good() {
    let (disk, told) = (Arc::<MemoryDisk>::default(), Told::default());
    let (mut log, _closed) = open(&disk, &told).await.unwrap();
    append(&mut log, vec![entry(1, 0, b"good")]).await;
    disk.break_writes();
    let bad = RaftLogStorageExt::<C>::blocking_append(&mut log, vec![entry(1, 1, b"bad")]).await;
    assert!(bad.is_err());
    assert_eq!(told.all().len(), 1);
    let vote = RaftLogStorage::<C>::save_vote(&mut log, &Vote::new(9, 9)).await;
    assert!(vote.unwrap_err().to_string().contains("has stopped"));
}

#[tokio::test(start_paused = true)]
async fn log_goes_on_in_the_ballast_when_the_disk_is_full() {
    static LARGE: [u8; 1 << 20] = [7; 1 << 20];
    // Twelve entries of 1 MiB where there is room for ten, with and without a ballast.
    for (with_ballast, goes_on) in [(true, true), (false, false)] {
        let (disk, told) = (Arc::<MemoryDisk>::default(), Told::default());
        if with_ballast {
            make_ballast_if_room(&*disk, RESERVE_BYTES_DEFAULT).unwrap();
            assert!(disk.exists(BALLAST_FILE).unwrap());
        }
        let (mut log, _closed) = open(&disk, &told).await.unwrap();
        append(&mut log, vec![entry(1, 0, b"small")]).await;
        assert_eq!(disk.exists(BALLAST_FILE).unwrap(), with_ballast, "kept while there is room");
        disk.leave_room(10 << 20);
        let mut all = true;
        for index in 1..=12 {
            let entries = vec![entry(1, index, &LARGE)];
            all &= RaftLogStorageExt::<C>::blocking_append(&mut log, entries).await.is_ok();
        }
        assert_eq!(all, goes_on);
        assert_eq!(told.all().is_empty(), goes_on);
        assert!(!disk.exists(BALLAST_FILE).unwrap());
    }
}

#[test]
fn ballast_is_not_made_where_it_would_be_needed_at_once() {
    let disk = MemoryDisk::default();
    make_ballast_if_room(&disk, 0).unwrap();
    disk.leave_room(40 << 20);
    make_ballast_if_room(&disk, RESERVE_BYTES_DEFAULT).unwrap();
    assert!(!disk.exists(BALLAST_FILE).unwrap());
}

#[tokio::test(start_paused = true)]
async fn entries_that_left_memory_are_read_from_the_file() {
    let (disk, told) = (Arc::default(), Told::default());
    let (mut log, closed) = open(&disk, &told).await.unwrap();
    append(&mut log, (0..50).map(|index| entry(1, index, b"cold")).collect()).await;
    drop(log);
    closed.wait().await;
    // After a restart nothing is in memory. Entries appended now are.
    let (mut log, _) = open(&disk, &told).await.unwrap();
    append(&mut log, (50..60).map(|index| entry(2, index, b"hot")).collect()).await;
    let all = entries(&mut log).await;
    let ids: Vec<u64> = all.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(ids, (0..60).collect::<Vec<_>>());
    RaftLogStorage::<C>::truncate_after(&mut log, Some(LogId::new_term_index(1, 30)))
        .await
        .unwrap();
    append(&mut log, vec![entry(3, 31, b"new")]).await;
    let all = entries(&mut log).await;
    assert_eq!(all.last().map(|entry| entry.log_id), Some(LogId::new_term_index(3, 31)));
    assert_eq!(all.len(), 32);
}
