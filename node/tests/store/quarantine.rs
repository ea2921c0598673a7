//! What lies in quarantine, and how it comes back.

use std::sync::atomic::{AtomicUsize, Ordering};

use cairn_node::store::{Checked, Copies, Restored, StoreError, Why};
use cairn_types::ids::SegmentDigest;

use super::memory::MemoryDisk;
use super::*;

#[tokio::test]
async fn a_file_that_was_moved_aside_by_hand_is_restored() {
    let (dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let digest = put(&store, &data(5000)).await.unwrap().digest;
    let aside = dir.path().join("quarantine").join(digest.to_string());
    std::fs::rename(dir.path().join(place(digest)), &aside).unwrap();
    assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Gone);
    assert!(
        !store.recover_from_quarantine(digest).await.unwrap(),
        "not seen before the next start"
    );
    assert_eq!(store.copies_in_quarantine(digest).await.unwrap(), Copies::Good);

    assert_eq!(store.restore_if(digest, || true).await.unwrap(), Restored::Back);
    store.verify(digest).await.unwrap();
    assert!(!aside.exists());
    assert_eq!(store.room().await.unwrap().quarantined, 0);
    assert_eq!(store.restore_if(digest, || true).await.unwrap(), Restored::Held);
    let unknown = SegmentDigest([9; 32]);
    assert_eq!(store.restore_if(unknown, || true).await.unwrap(), Restored::None);
}

#[tokio::test]
async fn only_a_copy_that_is_good_as_a_whole_and_wanted_comes_back() {
    let (_dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let bytes = data(3 << 20);
    let digest = SegmentDigest::of(&bytes);
    // One bad copy and, later, a good one.
    put(&store, &bytes).await.unwrap();
    spoil(&disk, &place(digest), 4096 + (2 << 20));
    assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Bad);
    assert_eq!(store.restore_if(digest, || true).await.unwrap(), Restored::Bad(1));
    assert!(!store.holds(digest) && !disk.exists(&place(digest)).unwrap());

    put(&store, &bytes).await.unwrap();
    store.quarantine(digest).await.unwrap();
    assert_eq!(store.copies_in_quarantine(digest).await.unwrap(), Copies::Good);
    let refused = store.restore_if(digest, || false).await;
    assert!(matches!(refused, Err(StoreError::NotWanted(_))), "{refused:?}");
    assert_eq!(store.quarantined().await.unwrap().len(), 2, "nothing was moved");

    assert_eq!(store.restore_if(digest, || true).await.unwrap(), Restored::Back);
    store.verify(digest).await.unwrap();
    let left = store.quarantined().await.unwrap();
    assert_eq!(left.len(), 1, "the bad copy stays");
    assert!(!store.is_good(&left[0]).await.unwrap());
}

/// One that this process may not read (EACCES, EPERM) is named, and hides no other copy.
#[tokio::test]
async fn a_copy_that_cannot_be_opened_is_no_failure_of_the_disk() {
    let disk = super::memory::MemoryDisk::default();
    let seam: Arc<dyn Disk> = Arc::new(disk.clone());
    let Opened { store, fatal, .. } = open(&seam).await;
    let bytes = data(5000);
    let digest = SegmentDigest::of(&bytes);
    put(&store, &bytes).await.unwrap();
    store.quarantine(digest).await.unwrap();
    let first = store.quarantined().await.unwrap().remove(0);
    let close = |errno| {
        let closed = format!("quarantine/{}", first.name);
        disk.fail(move |operation, path| {
            let is_closed = operation == "open" && path == closed;
            is_closed.then(|| std::io::Error::from_raw_os_error(errno))
        });
    };
    for errno in [1, 13] {
        close(errno);
        let copies = store.copies_in_quarantine(digest).await;
        assert!(matches!(copies, Err(StoreError::NoAccess { .. })), "{copies:?}");
        let refused = store.restore_if(digest, || true).await.unwrap_err();
        assert!(matches!(refused, StoreError::NoAccess { .. }), "{refused}");
        assert!(refused.to_string().contains(&first.name), "{refused}");
        disk.heal();
    }
    put(&store, &bytes).await.unwrap();
    store.quarantine(digest).await.unwrap();
    close(13);
    assert_eq!(store.copies_in_quarantine(digest).await.unwrap(), Copies::Good);
    assert_eq!(store.restore_if(digest, || true).await.unwrap(), Restored::Back);
    assert!(fatal.lock().is_empty() && !store.is_stopped());
}

#[tokio::test]
async fn a_list_says_why_and_comes_in_pages() {
    let (dir, disk) = file_disk();
    let Opened { store, .. } = open(&disk).await;
    let mut whys = std::collections::BTreeMap::new();
    for len in [1000, 2000, 3000] {
        let digest = put(&store, &data(len)).await.unwrap().digest;
        match len {
            1000 => assert!(store.quarantine_if(digest, || true).await.unwrap()),
            _ => {
                spoil(&disk, &place(digest), 4096 + 17);
                assert_eq!(store.quarantine_if_bad(digest).await.unwrap(), Checked::Bad);
            }
        }
        whys.insert(digest, if len == 1000 { Why::NoSlot } else { Why::Bad });
    }
    std::fs::write(dir.path().join("quarantine/notes"), "by hand").unwrap();
    let (first, more) = store.quarantined_after(String::new(), 3).await.unwrap();
    assert!(first.len() == 3 && more);
    let (second, more) = store.quarantined_after(first[2].name.clone(), 3).await.unwrap();
    assert!(second.len() == 1 && !more, "{second:?}");
    assert!(second[0].digest.is_none() && !store.is_good(&second[0]).await.unwrap());
    for file in first {
        let why = whys[&file.digest.unwrap()];
        assert_eq!(file.why, Some(why));
        assert!(file.since_ms.unwrap() > 1_700_000_000_000);
        assert_eq!(store.is_good(&file).await.unwrap(), why == Why::NoSlot);
    }
}

/// Who restores all asks for one file after the other: the directory, which may be large, is listed
/// once for thousands of them.
#[tokio::test]
async fn many_files_come_back_after_one_listing() {
    let disk = MemoryDisk::default();
    let seam: Arc<dyn Disk> = Arc::new(disk.clone());
    let Opened { store, .. } = open(&seam).await;
    let mut digests = Vec::new();
    for number in 0..20 {
        let digest = put(&store, &data(3000 + number)).await.unwrap().digest;
        store.quarantine(digest).await.unwrap();
        digests.push(digest);
    }
    digests.sort_unstable();
    let listings = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&listings);
    disk.fail(move |operation, path| {
        if (operation, path) == ("list", "quarantine") {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    for digest in &digests {
        assert_eq!(store.copies_in_quarantine(*digest).await.unwrap(), Copies::Good);
        assert_eq!(store.restore_if(*digest, || true).await.unwrap(), Restored::Back);
    }
    assert_eq!(listings.load(Ordering::Relaxed), 1);
    assert_eq!(store.room().await.unwrap().quarantined, 0);

    // What was listed once says nothing of what is there now.
    let digest = digests[7];
    store.quarantine(digest).await.unwrap();
    assert_eq!(store.restore_if(digest, || true).await.unwrap(), Restored::Back);
    store.destroy(digest, || true).await.unwrap();
    assert_eq!(store.restore_if(digest, || true).await.unwrap(), Restored::None);
    assert_eq!(listings.load(Ordering::Relaxed), 3);
}
