//! What the store promises while the disk misbehaves.

use std::io;

use cairn_node::disk::Open;
use cairn_node::store::ballast::{BALLAST_BYTES, make_ballast, release_ballast};
use cairn_node::store::{Destroyed, Reading, Restored, WRITERS_MAX};
use futures::TryStreamExt;

use super::memory::MemoryDisk;
use super::*;

const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

async fn open_memory() -> (MemoryDisk, Arc<dyn Disk>, Opened) {
    let disk = MemoryDisk::default();
    let seam: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = open(&seam).await;
    (disk, seam, opened)
}

#[tokio::test]
async fn crash_between_write_and_rename_leaves_nothing() {
    let (disk, seam, Opened { store, .. }) = open_memory().await;
    let bytes = data(3 << 20);
    let mut dead = false;
    disk.fail(move |operation, _| {
        dead |= operation == "rename";
        dead.then(|| io::Error::from_raw_os_error(EIO))
    });
    put(&store, &bytes).await.unwrap_err();
    assert!(!store.holds(SegmentDigest::of(&bytes)));
    assert_eq!(disk.names().len(), 1, "the temporary file");

    disk.heal();
    let again = open(&seam).await;
    assert_eq!(again.found.tmp_removed, 1);
    assert!(again.store.held().is_empty() && disk.names().is_empty());
    put(&again.store, &bytes).await.unwrap();
}

#[tokio::test]
async fn failed_sync_calls_the_fatal_hook_once_and_nothing_is_acknowledged_after() {
    for (operation, prefix) in [("sync", "tmp/"), ("sync_dir", "segments/")] {
        let (disk, _, Opened { store, fatal, .. }) = open_memory().await;
        disk.fail_on(operation, prefix, EIO);
        let error = put(&store, &data(100)).await.unwrap_err();
        assert!(matches!(error, StoreError::Fatal { .. }), "{error}");
        assert!(store.is_stopped() && store.held().is_empty());
        // The disk claims to be well again: too late.
        disk.heal();
        assert!(matches!(put(&store, &data(200)).await, Err(StoreError::Stopped)));
        assert_eq!(fatal.lock().len(), 1);
    }
}

/// A directory that cannot be opened for want of descriptors was not synced: nothing is
/// acknowledged, and nothing has failed.
#[tokio::test]
async fn a_directory_that_cannot_be_opened_is_no_failed_sync() {
    let (disk, seam, Opened { store, fatal, .. }) = open_memory().await;
    let bytes = data(3000);
    let digest = SegmentDigest::of(&bytes);
    disk.fail_on("sync_dir", "segments/", EMFILE);
    let error = put(&store, &bytes).await.unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(!store.is_stopped() && !store.holds(digest) && fatal.lock().is_empty());
    disk.heal();
    put(&store, &bytes).await.unwrap();

    disk.fail_on("sync_dir", "segments/", EMFILE);
    assert!(matches!(store.destroy(digest, || true).await, Err(StoreError::Io { .. })));
    assert!(!store.is_stopped() && !store.holds(digest) && !seam.exists(&place(digest)).unwrap());
    disk.heal();
    assert_eq!(store.destroy(digest, || true).await.unwrap(), Destroyed::Gone);
    assert_eq!(store.destroy(digest, || true).await.unwrap(), Destroyed::NotHeld);
}

#[tokio::test]
async fn full_disk_is_a_typed_refusal_and_not_fatal() {
    let (disk, _, Opened { store, fatal, .. }) = open_memory().await;
    for operation in ["open", "set_len", "write", "rename"] {
        disk.fail_on(operation, "tmp/", ENOSPC);
        let error = put(&store, &data(5 << 20)).await.unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }), "{operation}: {error}");
        disk.heal();
    }
    assert!(fatal.lock().is_empty() && store.held().is_empty());
    put(&store, &data(5 << 20)).await.unwrap();
}

#[tokio::test]
async fn reserve_capacity_and_uploads_in_progress_limit_new_segments() {
    let (disk, seam, _) = open_memory().await;
    let config = StoreConfig { capacity_bytes: 100 << 10, reserve_bytes: 512 << 20 };
    let Opened { store, .. } = open_with(&seam, config).await.unwrap();
    put(&store, &data(60 << 10)).await.unwrap();
    let begun = store.begin(SegmentDigest::of(b"one"), StoredBlocks::raw(16 << 10)).await.unwrap();
    assert!(matches!(begun, Begin::Writer(_)));
    let refused = store.begin(SegmentDigest::of(b"two"), StoredBlocks::raw(8 << 10)).await.err();
    assert!(
        matches!(refused, Some(StoreError::NoSpace { needed: 16384, available: 8192, .. })),
        "{refused:?}"
    );
    drop(begun);
    disk.fill(513 << 20);
    let refused = store.begin(SegmentDigest::of(b"two"), StoredBlocks::raw(1)).await.err();
    assert!(matches!(refused, Some(StoreError::NoSpace { available: 0, .. })), "{refused:?}");
    assert_eq!(store.room().await.unwrap().available, 0);
}

#[tokio::test]
async fn a_disk_without_inodes_has_no_room_and_says_why() {
    let (disk, _, Opened { store, .. }) = open_memory().await;
    assert!(store.room().await.unwrap().available > 0);
    disk.leave_inodes(Some(3));
    assert_eq!(store.room().await.unwrap().available, 0);
    let refused = put(&store, &data(100)).await.unwrap_err();
    assert!(matches!(refused, StoreError::NoInodes), "{refused}");
    disk.leave_inodes(None);
    put(&store, &data(100)).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_refuses_writes_has_no_room_until_it_takes_one() {
    for operation in ["open", "set_len", "write", "rename"] {
        let (disk, _, Opened { store, fatal, .. }) = open_memory().await;
        disk.fail_on(operation, "tmp/", EIO);
        let error = put(&store, &data(5 << 20)).await.unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{operation}: {error}");
        assert_eq!(store.room().await.unwrap().available, 0, "{operation}");
        disk.heal();
        assert!(fatal.lock().is_empty());
        put(&store, &data(5 << 20)).await.unwrap();
        assert!(store.room().await.unwrap().available > 0, "{operation}");
    }
}

#[tokio::test]
async fn writers_are_bounded() {
    let (_, _, Opened { store, .. }) = open_memory().await;
    let mut writers = Vec::new();
    for number in 0..WRITERS_MAX {
        writers.push(
            store.begin(SegmentDigest([number as u8; 32]), StoredBlocks::raw(1)).await.unwrap(),
        );
    }
    let refused = store.begin(SegmentDigest([255; 32]), StoredBlocks::raw(1)).await.err();
    assert!(matches!(refused, Some(StoreError::Busy { .. })));
}

#[tokio::test]
async fn unreadable_medium_is_damage_and_a_node_in_trouble_is_not() {
    let (disk, _, Opened { store, .. }) = open_memory().await;
    let digest = put(&store, &data(3000)).await.unwrap().digest;
    for (errno, damaged) in [(EIO, true), (EMFILE, false)] {
        disk.fail_on("read", "segments/", errno);
        for found in [
            store.verify(digest).await.unwrap_err(),
            store.read_table(digest).await.unwrap_err(),
            store
                .read_blocks(digest, 0..1, Reading::AsStored)
                .unwrap()
                .try_collect::<Vec<_>>()
                .await
                .unwrap_err(),
        ] {
            assert_eq!(matches!(found, StoreError::Damaged { .. }), damaged, "{found}");
        }
        disk.heal();
    }
    store.verify(digest).await.unwrap();
}

#[tokio::test]
async fn failed_destruction_may_be_tried_again() {
    let (disk, _, Opened { store, .. }) = open_memory().await;
    let digest = put(&store, &data(3000)).await.unwrap().digest;
    disk.fail_on("remove", "segments/", EIO);
    assert!(matches!(store.destroy(digest, || true).await, Err(StoreError::Io { .. })));
    assert!(store.holds(digest));
    disk.heal();
    assert_eq!(store.destroy(digest, || true).await.unwrap(), Destroyed::Gone);
    assert!(disk.names().is_empty());
}

#[tokio::test]
async fn quarantine_is_listed_only_for_what_is_in_it() {
    let (disk, seam, Opened { store, .. }) = open_memory().await;
    let digest = put(&store, &data(3000)).await.unwrap().digest;
    store.quarantine(digest).await.unwrap();
    let Opened { store, .. } = open(&seam).await;
    disk.fail_on("list", "quarantine", EIO);
    assert!(!store.recover_from_quarantine(SegmentDigest([1; 32])).await.unwrap());
    store.recover_from_quarantine(digest).await.unwrap_err();
    disk.heal();
    assert!(store.recover_from_quarantine(digest).await.unwrap());
    store.destroy(digest, || true).await.unwrap();
    disk.fail_on("list", "quarantine", EIO);
    assert!(!store.recover_from_quarantine(digest).await.unwrap());
}

/// Nothing leaves quarantine before it is durable in its place.
#[tokio::test]
async fn a_restore_that_fails_leaves_the_file_in_quarantine() {
    for (operation, prefix) in [("sync", "quarantine/"), ("rename", "quarantine/")] {
        let (disk, seam, Opened { store, .. }) = open_memory().await;
        let digest = put(&store, &data(3000)).await.unwrap().digest;
        store.quarantine(digest).await.unwrap();
        disk.fail_on(operation, prefix, EIO);
        store.restore_if(digest, || true).await.unwrap_err();
        assert!(!store.holds(digest), "{operation}");
        assert!(disk.names().iter().any(|name| name.starts_with("quarantine/")), "{operation}");
        disk.heal();
        let Opened { store, .. } = open(&seam).await;
        assert_eq!(store.restore_if(digest, || true).await.unwrap(), Restored::Back);
        store.verify(digest).await.unwrap();
    }
}

#[tokio::test]
async fn failed_quarantine_never_counts_and_may_be_tried_again() {
    let (disk, _, Opened { store, .. }) = open_memory().await;
    let digest = put(&store, &data(3000)).await.unwrap().digest;
    disk.fail_on("rename", "segments/", EIO);
    store.quarantine(digest).await.unwrap_err();
    assert!(!store.holds(digest));
    disk.heal();
    store.quarantine(digest).await.unwrap();
    assert_eq!(store.quarantined().await.unwrap()[0].digest, Some(digest));
}

#[tokio::test]
async fn unformatted_directory_is_refused() {
    let (_dir, disk) = file_disk();
    let refused = open_with(&disk, StoreConfig::default()).await.err();
    assert!(matches!(refused, Some(StoreError::NotFormatted(_))));
}

#[test]
fn ballast_is_made_whole_or_not_at_all_and_released_once() {
    let disk = MemoryDisk::default();
    let mut writes = 0;
    disk.fail(move |operation, _| {
        writes += usize::from(operation == "write");
        (operation == "write" && writes == 5).then(|| io::Error::from_raw_os_error(ENOSPC))
    });
    make_ballast(&disk).unwrap_err();
    assert!(disk.names().is_empty());
    disk.heal();
    make_ballast(&disk).unwrap();
    make_ballast(&disk).unwrap();
    assert_eq!(disk.open("ballast", Open::Read).unwrap().len().unwrap(), BALLAST_BYTES);
    assert!(release_ballast(&disk).unwrap());
    assert!(!release_ballast(&disk).unwrap());
}
