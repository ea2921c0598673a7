//! What the store promises while the disk behaves.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use cairn_host::seam::Lane;
use cairn_node::store::format::file_len;
use cairn_node::store::{Checked, Damage, Destroyed, Reading};
use cairn_types::limits::BLOCK_BYTES;
use futures::TryStreamExt;

use super::memory::MemoryDisk;
use super::*;

const BLOCK: usize = BLOCK_BYTES as usize;

#[tokio::test]
async fn segments_of_every_shape_come_back_as_they_were_stored() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let lens = [1, 4096, 150_000, BLOCK, BLOCK + 1, 3 * BLOCK - 5, 9 * BLOCK + 17, 32 * BLOCK];
    for len in lens {
        let bytes = data(len);
        let stored = put(&store, &bytes).await.unwrap();
        assert!(!stored.existed && stored.len == len as u64);
        assert_eq!(
            disk.open(&place(stored.digest), cairn_node::disk::Open::Read).unwrap().len().unwrap(),
            file_len(&StoredBlocks::raw(len as u32))
        );
        let table = store.read_table(stored.digest).await.unwrap().table;
        let blocks = len.div_ceil(BLOCK);
        for reading in [Reading::AsStored, Reading::Verified] {
            let read: Vec<Bytes> = store
                .read_blocks(stored.digest, 0..blocks, reading)
                .unwrap()
                .try_collect()
                .await
                .unwrap();
            assert_eq!(read.concat(), bytes, "len {len}");
            for (index, block) in read.iter().enumerate() {
                table.verify(index, block).unwrap();
            }
        }
        store.verify(stored.digest).await.unwrap();
        assert!(put(&store, &bytes).await.unwrap().existed);
    }
    let held = store.held();
    assert_eq!(held.len(), lens.len());
    assert_eq!(store.held_after(Some(held[2].0), 2), held[3..5]);
    assert_eq!(store.stats().segments_written, lens.len() as u64);

    let again = open(&disk).await;
    assert_eq!(again.store.held(), held);
    assert_eq!(again.found.bytes, lens.iter().sum::<usize>() as u64);
    assert!(again.found.damaged.is_empty() && again.found.strangers.is_empty());
}

#[tokio::test]
async fn wrong_bytes_never_become_visible() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    for len in [1000, BLOCK, 4 * BLOCK + 3] {
        let right = data(len);
        let digest = SegmentDigest::of(&right);
        let mut wrong = right.to_vec();
        wrong[len / 2] ^= 1;
        let error = put_as(&store, digest, len, &wrong.into()).await.unwrap_err();
        assert!(matches!(error, StoreError::WrongDigest(named) if named == digest));
        let short = put_as(&store, digest, len, &right.slice(1..)).await.unwrap_err();
        assert!(matches!(short, StoreError::WrongLength { .. }));
        let long = put_as(&store, digest, len - 1, &right).await.unwrap_err();
        assert!(matches!(long, StoreError::WrongLength { .. }));
        assert!(!store.holds(digest));
        assert!(matches!(store.read_table(digest).await, Err(StoreError::NotHeld(_))));
        assert!(!disk.exists(&place(digest)).unwrap());
    }
    let empty = store.begin(SegmentDigest::of(b""), StoredBlocks::raw(0)).await;
    assert!(matches!(empty, Err(StoreError::SegmentLength { .. })));
}

#[tokio::test]
async fn writer_given_up_leaves_nothing() {
    let disk = MemoryDisk::default();
    let seam: Arc<dyn Disk> = Arc::new(disk.clone());
    let Opened { store, .. } = open(&seam).await;
    let bytes = data(3 * BLOCK);
    for polite in [true, false] {
        let begun = store
            .begin(SegmentDigest::of(&bytes), StoredBlocks::raw(bytes.len() as u32))
            .await
            .unwrap();
        let Begin::Writer(mut writer) = begun else { panic!("not held") };
        writer.push(bytes.slice(..2 * BLOCK + 5)).await.unwrap();
        assert!(store.room().await.unwrap().reserved > 0);
        if polite {
            writer.abort().await
        } else {
            drop(writer)
        }
        let gone = async {
            while !disk.names().is_empty() || store.room().await.unwrap().reserved > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_wanted_when_it_is_complete_leaves_nothing() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let bytes = data(BLOCK + 9);
    let digest = SegmentDigest::of(&bytes);
    let begun = store.begin(digest, StoredBlocks::raw(bytes.len() as u32)).await.unwrap();
    let Begin::Writer(mut writer) = begun else { panic!("not held") };
    writer.push(bytes.clone()).await.unwrap();
    // The slot goes while another holds the digest's lock and the writer waits for it.
    let wanted = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let guard = store.lock(digest).await;
    let asked = Arc::clone(&wanted);
    let condition = move || asked.load(std::sync::atomic::Ordering::SeqCst);
    let finishing = tokio::spawn(writer.finish_if(condition));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    wanted.store(false, std::sync::atomic::Ordering::SeqCst);
    drop(guard);
    let refused = finishing.await.unwrap();
    assert!(matches!(refused, Err(StoreError::NotWanted(named)) if named == digest));
    assert!(!store.holds(digest) && !disk.exists(&place(digest)).unwrap());
    assert!(disk.list("tmp").unwrap().is_empty());
    assert_eq!(store.room().await.unwrap().reserved, 0);

    put(&store, &bytes).await.unwrap();
    store.quarantine(digest).await.unwrap();
    let refused = store.recover_from_quarantine_if(digest, || false).await;
    assert!(matches!(refused, Err(StoreError::NotWanted(_))));
    assert!(!store.holds(digest) && !disk.exists(&place(digest)).unwrap());
    assert!(store.recover_from_quarantine_if(digest, || true).await.unwrap());
}

#[tokio::test]
async fn writers_of_one_digest_at_a_time_both_succeed() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let bytes = data(2 * BLOCK + 9);
    let (one, two) = tokio::join!(put(&store, &bytes), put(&store, &bytes));
    assert!(one.unwrap().existed != two.unwrap().existed);
    assert!(disk.list("tmp").unwrap().is_empty());
    assert!(disk.list("quarantine").unwrap().is_empty());
}

#[tokio::test]
async fn every_kind_of_damage_is_found_by_verify() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let bytes = data(5 * BLOCK + 100);
    let digest = put(&store, &bytes).await.unwrap().digest;
    let end = file_len(&StoredBlocks::raw(bytes.len() as u32));
    let spots = [8, 4000, 4096, 4096 + 4 * BLOCK as u64 + 7, end - 4097, end - 4096, end - 1];
    for offset in spots {
        spoil(&disk, &place(digest), offset);
        let found = store.verify(digest).await;
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "offset {offset}");
        spoil(&disk, &place(digest), offset);
        store.verify(digest).await.unwrap();
    }
    spoil(&disk, &place(digest), 4096 + 2 * BLOCK as u64);
    let reading = store.read_blocks(digest, 0..6, Reading::Verified).unwrap();
    let found: Result<Vec<_>, _> = reading.try_collect().await;
    assert!(matches!(found, Err(StoreError::Damaged { damage: Damage::Block(_), .. })));
    let range = store.read_blocks(digest, 2..7, Reading::AsStored).err();
    assert!(matches!(range, Some(StoreError::BlockRange { count: 6, .. })));
}

#[tokio::test]
async fn damaged_ends_and_strangers_do_not_count_at_start() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let mut digests = Vec::new();
    for len in [10, 20, 30, 40] {
        digests.push(put(&store, &data(len)).await.unwrap().digest);
    }
    let end = file_len(&StoredBlocks::raw(10));
    spoil(&disk, &place(digests[0]), 20);
    spoil(&disk, &place(digests[1]), end - 4090);
    disk.open(&place(digests[2]), cairn_node::disk::Open::Write).unwrap().set_len(4096).unwrap();
    for stranger in ["segments/00/README", "tmp/left"] {
        disk.open(stranger, cairn_node::disk::Open::Create).unwrap();
    }

    let again = open(&disk).await;
    assert_eq!(again.store.held().len(), 1);
    assert_eq!(again.found.damaged.len(), 3);
    assert_eq!(again.found.strangers, ["segments/00/README"]);
    assert_eq!(again.found.tmp_removed, 1);
    digests[..3].sort();
    assert_eq!(again.store.damaged(), digests[..3]);
    assert!(disk.list("quarantine").unwrap().is_empty(), "nothing is moved at start");

    // One is moved aside by hand, one by a new copy.
    again.store.quarantine(digests[0]).await.unwrap();
    for len in [10, 20, 30] {
        assert!(!put(&again.store, &data(len)).await.unwrap().existed);
    }
    assert!(again.store.damaged().is_empty());
    assert_eq!(again.store.held().len(), 4);
    assert_eq!(again.store.quarantined().await.unwrap().len(), 3, "evidence is kept");
}

#[tokio::test]
async fn only_the_bad_file_that_was_read_is_set_aside() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let bytes = data(BLOCK + 9);
    let digest = put(&store, &bytes).await.unwrap().digest;
    assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Good);
    spoil(&disk, &place(digest), 5000);
    // Two suspect it; by the second one's turn the bad file is gone and a good one in its place.
    let guard = store.lock(digest).await;
    let check = |store: SegmentStore| async move { store.quarantine_if_bad(digest).await };
    let first = tokio::spawn(check(store.clone()));
    let finish = {
        let store = store.clone();
        async move {
            while store.holds(digest) {
                tokio::task::yield_now().await;
            }
            put(&store, &bytes).await.unwrap()
        }
    };
    drop(guard);
    let (first, stored) = tokio::join!(first, finish);
    assert!(first.unwrap().unwrap() == Checked::Bad && !stored.existed);
    assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Good);
    assert!(store.holds(digest));
    assert_eq!(store.quarantined().await.unwrap().len(), 1);
    let unknown = store.quarantine_if_bad(SegmentDigest([7; 32])).await;
    assert!(matches!(unknown, Err(StoreError::NotHeld(_))));
}

#[tokio::test]
async fn a_file_that_vanished_is_found_missing_and_stored_again() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let (one, two) = (data(BLOCK + 9), data(77));
    let digests =
        [put(&store, &one).await.unwrap().digest, put(&store, &two).await.unwrap().digest];
    assert!(store.without_file(digests.to_vec()).await.is_empty());
    for digest in digests {
        disk.remove(&place(digest)).unwrap();
    }
    assert_eq!(store.without_file(digests.to_vec()).await, digests);
    // A check gives it up.
    assert_eq!(store.quarantine_if_bad(digests[0]).await.unwrap(), Checked::Gone);
    assert!(store.is_absent(digests[0]).await.unwrap() && store.holds(digests[1]));
    // A sender is not told that it exists.
    assert!(!put(&store, &two).await.unwrap().existed);
    store.verify(digests[1]).await.unwrap();
    assert!(!put(&store, &one).await.unwrap().existed);
    store.verify(digests[0]).await.unwrap();
}

/// Before its files are looked through, a store answers for each segment it is asked for.
#[tokio::test]
async fn a_segment_is_known_before_the_files_are_looked_through() {
    let (_dir, disk) = file_disk();
    let first = open(&disk).await.store;
    let all = [data(100), data(5000), data(BLOCK + 3), data(77)];
    let mut digests = Vec::new();
    for bytes in &all {
        digests.push(put(&first, bytes).await.unwrap().digest);
    }
    spoil(&disk, &place(digests[3]), 4096 + 4096 + 5);
    let config = StoreConfig { reserve_bytes: 0, ..StoreConfig::default() };
    let hook = Arc::new(|why: String| panic!("{why}"));
    let store = SegmentStore::open(env(), Arc::clone(&disk), config, hook).await.unwrap();
    assert!(!store.is_looked_through() && !store.holds(digests[0]));
    assert_eq!(store.read_table(digests[0]).await.unwrap().table.segment_len(), 100);
    assert!(put(&store, &all[1]).await.unwrap().existed);
    assert!(!store.is_absent(digests[2]).await.unwrap());
    assert_eq!(store.destroy(digests[2], || true).await.unwrap(), Destroyed::Gone);
    assert!(matches!(store.read_table(digests[3]).await, Err(StoreError::NotHeld(_))));
    assert_eq!(store.damaged(), [digests[3]]);
    let new = put(&store, &data(33)).await.unwrap();
    assert!(!new.existed);

    let found = store.look_through().await.unwrap();
    store.looked_through().await;
    assert_eq!((found.segments, found.bytes), (3, 100 + 5000 + 33));
    let mut held = vec![digests[0], digests[1], new.digest];
    held.sort();
    assert_eq!(store.held().into_iter().map(|(digest, _)| digest).collect::<Vec<_>>(), held);
}

#[tokio::test]
async fn a_directory_that_vanished_is_made_again_and_stops_nothing() {
    let (dir, disk) = file_disk();
    let Opened { store, fatal, .. } = open(&disk).await;
    let bytes = data(5000);
    let digest = put(&store, &bytes).await.unwrap().digest;
    let directory = dir.path().join(place(digest)).parent().unwrap().to_owned();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Gone);
    put(&store, &bytes).await.unwrap();
    store.verify(digest).await.unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(store.destroy(digest, || true).await.unwrap(), Destroyed::Gone);
    assert!(fatal.lock().is_empty() && !store.holds(digest));
}

/// What stands in a file's place without being one.
#[tokio::test]
async fn directories_links_and_fifos_in_a_files_place_are_damage_and_hold_nobody_up() {
    let (dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let bytes = data(5000);
    let digest = put(&store, &bytes).await.unwrap().digest;
    let path = dir.path().join(place(digest));
    let make: [fn(&std::path::Path); 3] = [
        |path| std::fs::create_dir(path).unwrap(),
        |path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap(),
        |path| rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).unwrap(),
    ];
    for (number, make) in make.into_iter().enumerate() {
        std::fs::remove_file(&path).unwrap();
        make(&path);
        assert_eq!(store.without_file(vec![digest]).await, [digest], "{number}");
        let read = store.read_table(digest).await;
        assert!(matches!(read, Err(StoreError::Damaged { .. })), "{number}: {read:?}");
        assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Bad, "{number}");
        assert!(!put(&store, &bytes).await.unwrap().existed);
        store.verify(digest).await.unwrap();
    }
    // At a start they are no segments, and the start does not wait for anybody to write.
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    let again = open(&disk).await;
    assert!(!again.store.holds(digest));
    assert!(!put(&again.store, &bytes).await.unwrap().existed);
}

#[tokio::test]
async fn good_blocks_of_bad_copies_can_still_be_read() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let bytes = data(4 * BLOCK + 100);
    let digest = SegmentDigest::of(&bytes);
    let len = bytes.len() as u64;
    assert!(store.salvage(digest, len).await.unwrap().is_none());
    // Two copies with different bad blocks; the second one's footer is bad too.
    for (blocks, footer) in [(&[1][..], false), (&[3][..], true)] {
        put(&store, &bytes).await.unwrap();
        for block in blocks {
            spoil(&disk, &place(digest), 4096 + block * BLOCK_BYTES + 17);
        }
        if footer {
            spoil(&disk, &place(digest), file_len(&StoredBlocks::raw(len as u32)) - 50);
        }
        assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Bad);
    }
    let copies = store.salvage(digest, len).await.unwrap().unwrap();
    let table = copies.table().unwrap().clone();
    assert_eq!(table.digest(), digest);
    for index in 0..5 {
        let block = copies.block(&table, index).await.unwrap();
        assert_eq!(block, bytes[index * BLOCK..bytes.len().min((index + 1) * BLOCK)]);
    }
    // A block that no copy has intact is none.
    let first = format!("quarantine/{}", store.quarantined().await.unwrap()[0].name);
    spoil(&disk, &first, 4096 + 3 * BLOCK_BYTES);
    assert!(copies.block(&table, 3).await.is_none() && copies.block(&table, 1).await.is_some());
}

#[tokio::test]
async fn a_new_copy_is_not_taken_for_the_damaged_file_it_replaced() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let digests = [put(&store, &data(10)).await, put(&store, &data(20)).await];
    let [first, second] = digests.map(|stored| stored.unwrap().digest);
    spoil(&disk, &place(first), 20);
    spoil(&disk, &place(second), 20);
    let Opened { store, .. } = open(&disk).await;
    let damaged = store.damaged();
    assert_eq!(damaged.len(), 2);
    // Between the list and its turn a sender brings one again.
    put(&store, &data(10)).await.unwrap();
    assert!(!store.quarantine_damaged(first).await.unwrap());
    assert!(store.quarantine_damaged(second).await.unwrap());
    assert!(!store.quarantine_damaged(second).await.unwrap());
    store.verify(first).await.unwrap();
    assert_eq!(store.quarantined().await.unwrap().len(), 2);
}

#[tokio::test]
async fn quarantined_segment_is_recovered_only_if_it_verifies() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let bytes = data(2 * BLOCK);
    let digest = put(&store, &bytes).await.unwrap().digest;
    assert!(!store.recover_from_quarantine(SegmentDigest::of(b"?")).await.unwrap());
    store.quarantine(digest).await.unwrap();
    assert!(!store.holds(digest));
    assert!(matches!(store.verify(digest).await, Err(StoreError::NotHeld(_))));
    assert!(matches!(store.quarantine(digest).await, Err(StoreError::NotHeld(_))));

    let copy = format!("quarantine/{}", store.quarantined().await.unwrap()[0].name);
    spoil(&disk, &copy, 4096 + 99);
    assert!(!store.recover_from_quarantine(digest).await.unwrap());
    spoil(&disk, &copy, 4096 + 99);
    assert!(store.recover_from_quarantine(digest).await.unwrap());
    store.verify(digest).await.unwrap();
    assert_eq!(store.room().await.unwrap().quarantined, 0);
    assert!(store.quarantined().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_wanted_again_while_the_disk_is_busy_is_not_destroyed() {
    let (_dir, disk) = file_disk();
    let env = env();
    SegmentStore::format(&env, &disk).await.unwrap();
    let config = StoreConfig { reserve_bytes: 0, ..StoreConfig::default() };
    let hook = Arc::new(|why: String| panic!("{why}"));
    let opened = SegmentStore::open(env.clone(), Arc::clone(&disk), config, hook).await;
    let store = opened.unwrap();
    store.look_through().await.unwrap();
    let digest = put(&store, &data(5000)).await.unwrap().digest;

    // More than the disk works on at once: the destruction waits behind them.
    let (working, over) = std::sync::mpsc::channel::<()>();
    let over = Arc::new(Mutex::new(over));
    let others: Vec<_> = (0..64)
        .map(|_| {
            let (env, over) = (env.clone(), Arc::clone(&over));
            let work = move || over.lock().recv().is_err();
            tokio::spawn(async move { env.blocking(Lane::Data, work).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let unwanted = Arc::new(AtomicBool::new(true));
    let (handle, asked) = (store.clone(), Arc::clone(&unwanted));
    let destroying =
        tokio::spawn(async move { handle.destroy(digest, move || asked.load(SeqCst)).await });
    while store.holds(digest) {
        tokio::task::yield_now().await;
    }
    unwanted.store(false, SeqCst);
    drop(working);
    assert_eq!(destroying.await.unwrap().unwrap(), Destroyed::Kept);
    assert!(store.holds(digest) && disk.exists(&place(digest)).unwrap());
    for other in others {
        assert!(other.await.unwrap());
    }
}

#[tokio::test]
async fn segment_is_destroyed_only_while_the_condition_holds_under_the_lock() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let digest = put(&store, &data(5000)).await.unwrap().digest;
    assert_eq!(store.destroy(digest, || false).await.unwrap(), Destroyed::Kept);
    assert!(store.holds(digest));

    let guard = store.lock(digest).await;
    let (handle, witness) = (store.clone(), store.clone());
    let destroying = tokio::spawn(async move {
        let gone = handle.destroy(digest, move || !witness.holds(digest)).await;
        gone.unwrap()
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(store.holds(digest), "waits for the lock");
    drop(guard);
    assert_eq!(destroying.await.unwrap(), Destroyed::Gone);
    assert!(!disk.exists(&place(digest)).unwrap());
    assert_eq!(store.destroy(digest, || true).await.unwrap(), Destroyed::NotHeld);
    assert_eq!(store.stats().bytes_held, 0);
}
