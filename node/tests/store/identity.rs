//! The identity file: torn, damaged, copied.

use cairn_node::disk::Open;
use cairn_node::identity::{IDENTITY_FILE, Identity, IdentityError, IdentityFile};
use cairn_types::ids::{ClusterId, Cookie, Incarnation, Lineage, NodeId, Nonce};

use super::memory::MemoryDisk;
use super::*;

fn identity() -> Identity {
    Identity {
        cluster: ClusterId(u128::MAX - 5),
        lineage: Lineage(3),
        cookie: Cookie(7),
        data_format: 1,
        address: "host-1.example:7400".into(),
        host: "host-1".into(),
        rack: "r".repeat(64),
        ..Identity::default()
    }
}

fn registered() -> Identity {
    Identity {
        node: Some(NodeId(0)),
        registered_nonce: Some(Nonce(9)),
        registered_incarnation: Incarnation(7),
        pending_nonces: vec![Nonce(10), Nonce(11)],
        ..identity()
    }
}

#[test]
fn identity_is_read_back_after_every_update() {
    let (_dir, disk) = file_disk();
    assert!(matches!(IdentityFile::load(&disk).err(), Some(IdentityError::Missing)));
    let mut file = IdentityFile::create(&disk, identity()).unwrap();
    assert_eq!(IdentityFile::load(&disk).unwrap().identity(), &identity());
    for cookie in 0..5 {
        let next = Identity { cookie: Cookie(cookie), ..registered() };
        file.update(next.clone()).unwrap();
        assert_eq!(IdentityFile::load(&disk).unwrap().identity(), &next);
    }
    assert!(matches!(IdentityFile::create(&disk, identity()).err(), Some(IdentityError::Exists)));
    let long = Identity { host: "h".repeat(65), ..identity() };
    assert!(matches!(file.update(long).err(), Some(IdentityError::NameLength { .. })));
}

#[test]
fn torn_slot_falls_back_to_the_one_before_and_is_written_next() {
    for spot in 0..1024 {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        IdentityFile::create(&disk, identity()).unwrap().update(registered()).unwrap();
        // Generation 2 stands in slot 0.
        spoil(&disk, IDENTITY_FILE, spot);
        let mut file = IdentityFile::load(&disk).unwrap();
        assert_eq!((file.identity(), file.generation()), (&identity(), 1), "byte {spot}");
        file.update(registered()).unwrap();
        assert_eq!(IdentityFile::load(&disk).unwrap().identity(), &registered());
    }
}

#[test]
fn damage_to_both_slots_and_a_short_file_are_typed() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    IdentityFile::create(&disk, identity()).unwrap().update(registered()).unwrap();
    spoil(&disk, IDENTITY_FILE, 100);
    spoil(&disk, IDENTITY_FILE, 4096 + 100);
    assert!(matches!(IdentityFile::load(&disk).err(), Some(IdentityError::Damaged { .. })));
    disk.open(IDENTITY_FILE, Open::Write).unwrap().set_len(7).unwrap();
    assert!(matches!(IdentityFile::load(&disk).err(), Some(IdentityError::Damaged { .. })));
}

#[test]
fn copied_directory_knows_that_it_is_a_copy() {
    let (dir, disk) = file_disk();
    IdentityFile::create(&disk, identity()).unwrap();
    let (copy, copied) = file_disk();
    std::fs::copy(dir.path().join(IDENTITY_FILE), copy.path().join(IDENTITY_FILE)).unwrap();
    assert!(matches!(IdentityFile::load(&copied).err(), Some(IdentityError::Copied { .. })));

    let memory = MemoryDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    IdentityFile::create(&disk, identity()).unwrap();
    memory.copy(IDENTITY_FILE);
    assert!(matches!(IdentityFile::load(&disk).err(), Some(IdentityError::Copied { .. })));
}

#[test]
fn unfinished_creation_is_no_identity_and_failed_sync_is_fatal() {
    let memory = MemoryDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    memory.fail_on("rename", "identity", 5);
    assert!(matches!(
        IdentityFile::create(&disk, identity()).err(),
        Some(IdentityError::Io { .. })
    ));
    memory.heal();
    assert!(matches!(IdentityFile::load(&disk).err(), Some(IdentityError::Missing)));
    let mut file = IdentityFile::create(&disk, identity()).unwrap();
    memory.fail_on("sync", "identity", 5);
    assert!(matches!(file.update(registered()).err(), Some(IdentityError::Fatal(_))));
}
