use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;
use openraft_rt_tokio::TokioRuntime;
use parking_lot::RwLock;

use super::storage::entry;
use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, Open};
use crate::raft::SnapshotError;
use crate::raft::applied::Applied;
use crate::raft::machine::StateMachine;
use crate::raft::snapshot::receive::{Key, SnapshotReceiver};
use crate::raft::snapshot::store::SnapshotStore;
use crate::raft::testing::{Told, ToyMachine, WHILE_DECODING, flip_last_byte, test_env};
use crate::raft::types::{LogId, Snapshot, SnapshotMeta, TypeConfig};

type C = TypeConfig<TokioRuntime>;
const DIR: &str = "snapshots";

async fn store(
    disk: &Arc<MemoryDisk>,
    purged: Option<LogId>,
) -> Result<Arc<SnapshotStore>, SnapshotError> {
    SnapshotStore::open(test_env(), disk.clone() as Arc<dyn Disk>, DIR, purged).await
}

struct World {
    disk: Arc<MemoryDisk>,
    toy: Arc<RwLock<ToyMachine>>,
    machine: StateMachine<ToyMachine>,
    told: Told,
}

impl World {
    async fn open(disk: Arc<MemoryDisk>) -> Self {
        let (toy, told) = (Arc::<RwLock<ToyMachine>>::default(), Told::default());
        let store = store(&disk, None).await.unwrap();
        let applied = Arc::new(Applied::default());
        let machine = StateMachine::new(toy.clone(), store, applied, told.hook());
        Self { disk, toy, machine, told }
    }

    async fn apply(&mut self, indexes: std::ops::Range<u64>) {
        let entries = indexes.map(|index| Ok((entry(1, index, b"command"), None)));
        RaftStateMachine::<C>::apply(&mut self.machine, stream::iter(entries.collect::<Vec<_>>()))
            .await
            .unwrap();
    }

    async fn build(&mut self) -> Snapshot {
        let builder = RaftStateMachine::<C>::try_create_snapshot_builder(&mut self.machine, true);
        let mut builder = builder.await.unwrap();
        RaftSnapshotBuilder::<C>::build_snapshot(&mut builder).await.unwrap()
    }

    async fn current(&mut self) -> Option<Snapshot> {
        RaftStateMachine::<C>::get_current_snapshot(&mut self.machine).await.unwrap()
    }

    fn files(&self) -> Vec<String> {
        self.disk.list(DIR).unwrap().into_iter().map(|listed| listed.name).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn snapshot_survives_restart_and_replaces_older_ones() {
    let mut world = World::open(Arc::default()).await;
    world.apply(0..10).await;
    world.build().await;
    world.apply(10..30).await;
    let built = world.build().await;
    assert_eq!(world.files().len(), 1);

    let mut after = World::open(world.disk.clone()).await;
    let found = after.current().await.unwrap();
    assert_eq!(found.meta, built.meta);
    RaftStateMachine::<C>::install_snapshot(&mut after.machine, &found.meta, found.snapshot)
        .await
        .unwrap();
    assert_eq!(after.toy.read().commands, world.toy.read().commands);
    assert_eq!(after.toy.read().commands.len(), 30);
}

/// Foreign files among the snapshots stop neither a start nor a new snapshot.
#[tokio::test(start_paused = true)]
async fn strangers_among_the_snapshots_are_left_alone() {
    let disk = Arc::new(MemoryDisk::default());
    let names = ["a.snap", "zzz.snap", "d.part"].map(|name| format!("{DIR}/{name}"));
    disk.create_dir(DIR).unwrap();
    names.iter().for_each(|name| disk.create_dir(name).unwrap());
    let mut world = World::open(disk.clone()).await;
    world.apply(1..4).await;
    world.build().await;
    let mut world = World::open(disk.clone()).await;
    assert!(world.current().await.is_some());
    assert!(names.iter().all(|name| disk.exists(name).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn damaged_snapshot_is_used_only_around_what_the_log_still_holds() {
    let mut world = World::open(Arc::default()).await;
    world.apply(0..10).await;
    let older = world.build().await;
    // Keep the older file, as a crash before its removal would.
    let file = world.disk.open(&older.snapshot.path, Open::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    world.apply(10..20).await;
    let newer = world.build().await;
    world.disk.open(&older.snapshot.path, Open::Create).unwrap().write_at(0, &bytes).unwrap();
    flip_last_byte(&world.disk, &newer.snapshot.path);

    let covered = Some(LogId::new_term_index(1, 9));
    assert!(store(&world.disk, covered).await.is_ok());
    let found = World::open(world.disk.clone()).await.current().await.unwrap();
    assert_eq!(found.meta, older.meta);
    match store(&world.disk, Some(LogId::new_term_index(1, 10))).await.map(drop) {
        Err(SnapshotError::NotCovered { damaged, .. }) => {
            assert_eq!(damaged, [newer.snapshot.path]);
        }
        other => panic!("started without the purged entries: {other:?}"),
    }
}

/// The copy is large once much has changed since. It must not be dropped where async tasks run.
#[tokio::test(start_paused = true)]
async fn the_copy_that_a_snapshot_is_made_from_goes_where_it_is_written() {
    let mut world = World::open(Arc::default()).await;
    world.apply(0..10).await;
    let copies = Arc::clone(&world.toy.read().copies);
    let without = Arc::strong_count(&copies);
    let builder = RaftStateMachine::<C>::try_create_snapshot_builder(&mut world.machine, true);
    let mut builder = builder.await.unwrap();
    assert_eq!(Arc::strong_count(&copies), without + 1);
    RaftSnapshotBuilder::<C>::build_snapshot(&mut builder).await.unwrap();
    assert_eq!(Arc::strong_count(&copies), without, "the builder holds it no more");
}

#[tokio::test(start_paused = true)]
async fn snapshot_waits_for_room_on_a_full_disk() {
    let mut world = World::open(Arc::default()).await;
    world.apply(0..10).await;
    world.disk.leave_room(100);
    let patience = Duration::from_secs(60);
    assert!(tokio::time::timeout(patience, world.build()).await.is_err(), "built without room");
    assert!(world.told.all().is_empty() && world.files().is_empty(), "{:?}", world.files());
    let disk = world.disk.clone();
    let (_, built) = tokio::join!(
        async move {
            tokio::time::sleep(patience).await;
            disk.leave_room(1 << 20);
        },
        world.build(),
    );
    assert_eq!(world.files(), [built.snapshot.path.rsplit('/').next().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn undecodable_command_stops_the_node() {
    let mut world = World::open(Arc::default()).await;
    let bad = stream::iter([Ok((entry(1, 0, b"undecodable"), None))]);
    assert!(RaftStateMachine::<C>::apply(&mut world.machine, bad).await.is_err());
    assert!(world.told.all()[0].contains("entry 0"));
}

#[tokio::test(start_paused = true)]
async fn broken_transfer_continues_where_it_ended() {
    let disk = Arc::<MemoryDisk>::default();
    let told = Told::default();
    let receiver = SnapshotReceiver::new(store(&disk, None).await.unwrap(), told.hook());
    let body = Bytes::from_static(b"the whole encoded catalogue");
    let last_log_id = LogId::new_term_index(2, 40);
    let meta = SnapshotMeta { last_log_id: Some(last_log_id), ..SnapshotMeta::default() };
    let digest = *blake3::hash(&body).as_bytes();
    let key = Key { last_log_id, len: body.len() as u64, digest };

    assert_eq!(receiver.begin(key, meta.clone()).await.unwrap(), Some(0));
    receiver.write(key, 0, body.slice(..10)).await.unwrap();
    // The stream breaks. A new one asks for the offset and must not leave a gap.
    assert_eq!(receiver.begin(key, meta.clone()).await.unwrap(), Some(10));
    assert!(receiver.write(key, 11, body.slice(11..)).await.is_err());
    receiver.write(key, 10, body.slice(10..)).await.unwrap();
    let finished = receiver.finish(key).await.unwrap();
    assert_eq!((finished.len, finished.digest), (key.len, digest));
    assert_eq!(receiver.begin(key, meta.clone()).await.unwrap(), None);
    receiver.end(key).await;
    assert!(disk.list(DIR).unwrap().is_empty());

    // Wrong bytes are never accepted as the snapshot, and the transfer starts over.
    receiver.begin(key, meta.clone()).await.unwrap();
    receiver.write(key, 0, Bytes::from(vec![b'x'; body.len()])).await.unwrap();
    assert_eq!(receiver.finish(key).await.unwrap_err().code(), tonic::Code::DataLoss);
    assert_eq!(receiver.begin(key, meta).await.unwrap(), Some(0));
    assert!(told.all().is_empty(), "bytes that arrive wrong are the sender's affair");

    // After a failed sync the durable state of the rest of the disk is unknown.
    receiver.write(key, 0, body).await.unwrap();
    disk.break_writes();
    receiver.finish(key).await.unwrap_err();
    assert!(told.all()[0].starts_with("sync of snapshot"), "{:?}", told.all());
}

/// Two callers that find no snapshot, one after the other or at once, get one file.
#[tokio::test(start_paused = true)]
async fn a_snapshot_is_begun_once_however_many_ask_meanwhile() {
    let disk = Arc::<MemoryDisk>::default();
    let told = Told::default();
    let receiver = SnapshotReceiver::new(store(&disk, None).await.unwrap(), told.hook());
    let body = Bytes::from_static(b"the whole encoded catalogue");
    let (key, meta) = announced(&body);

    let (one, other) =
        tokio::join!(receiver.begin(key, meta.clone()), receiver.begin(key, meta.clone()));
    assert_eq!((one.unwrap(), other.unwrap()), (Some(0), None), "the second one has to wait");
    assert_eq!(disk.list(DIR).unwrap().len(), 1);
    receiver.write(key, 0, body.slice(..10)).await.unwrap();
    // A caller that gave up in the middle keeps no place.
    receiver.end(key).await;
    drop(tokio::time::timeout(Duration::ZERO, receiver.begin(key, meta.clone())).await);
    while receiver.begin(key, meta.clone()).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    receiver.write(key, 0, body.clone()).await.unwrap();
    receiver.finish(key).await.unwrap();
    receiver.end(key).await;
    assert!(disk.list(DIR).unwrap().is_empty() && told.all().is_empty());
}

/// The removal of one attempt's file does not touch the file of the next attempt.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_begun_while_an_older_attempt_goes_keeps_its_file() {
    let disk = Arc::<MemoryDisk>::default();
    let receiver = SnapshotReceiver::new(store(&disk, None).await.unwrap(), Told::default().hook());
    let body = Bytes::from_static(b"the whole encoded catalogue");
    let (key, meta) = announced(&body);
    receiver.begin(key, meta.clone()).await.unwrap();
    let (begun, ()) = tokio::join!(
        async {
            tokio::task::yield_now().await;
            receiver.begin(key, meta.clone()).await
        },
        receiver.end(key)
    );
    assert_eq!(begun.unwrap(), Some(0));
    receiver.write(key, 0, body.clone()).await.unwrap();
    let finished = receiver.finish(key).await.unwrap();
    assert!(disk.exists(&finished.path).unwrap(), "{} is gone", finished.path);
}

/// Readers of the machine are async tasks: they must not wait for a large snapshot.
#[tokio::test(start_paused = true)]
async fn the_machine_can_be_read_while_a_snapshot_is_decoded() {
    let mut world = World::open(Arc::default()).await;
    world.apply(0..10).await;
    let built = world.build().await;
    let (toy, looks) = (world.toy.clone(), Arc::new(AtomicU64::new(0)));
    let looked = looks.clone();
    WHILE_DECODING.with_borrow_mut(|look| {
        look.push(Box::new(move || {
            assert!(toy.try_read().is_some(), "decoded under the lock");
            looked.fetch_add(1, Ordering::Relaxed);
        }));
    });
    let installed =
        RaftStateMachine::<C>::install_snapshot(&mut world.machine, &built.meta, built.snapshot);
    installed.await.unwrap();
    WHILE_DECODING.take();
    assert_eq!((looks.load(Ordering::Relaxed), world.toy.read().commands.len()), (1, 10));
}

fn announced(body: &Bytes) -> (Key, SnapshotMeta) {
    let last_log_id = LogId::new_term_index(2, 40);
    let meta = SnapshotMeta { last_log_id: Some(last_log_id), ..SnapshotMeta::default() };
    let digest = *blake3::hash(body).as_bytes();
    (Key { last_log_id, len: body.len() as u64, digest }, meta)
}
