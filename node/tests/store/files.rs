//! The production disk over real files.

use std::io::ErrorKind;

use cairn_node::disk::buffers::AlignedBuffer;
use cairn_node::disk::files::{FileDisk, LockError};
use cairn_node::disk::{Disk, Open};

#[test]
fn second_process_on_a_data_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // A lock belongs to the opened file, so two disks stand for two processes.
    let (one, two) = (FileDisk::open(dir.path()).unwrap(), FileDisk::open(dir.path()).unwrap());
    let lock = one.lock().unwrap();
    match two.lock().unwrap_err() {
        LockError::InUse { holder, .. } => assert_eq!(holder, Some(std::process::id())),
        error => panic!("{error}"),
    }
    drop(lock);
    two.lock().unwrap();
}

#[test]
fn direct_files_take_aligned_writes_and_any_reads() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(dir.path()).unwrap();
    let file = disk.open("a", Open::CreateDirect).unwrap();
    let mut pages = AlignedBuffer::zeroed(12288);
    pages.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 251) as u8);
    file.set_len(16384).unwrap();
    file.write_at(4096, &pages).unwrap();
    file.sync().unwrap();
    assert_eq!(file.len().unwrap(), 16384);

    let file = disk.open("a", Open::ReadDirect).unwrap();
    let mut whole = AlignedBuffer::zeroed(12288);
    file.read_at(4096, &mut whole).unwrap();
    assert_eq!(*whole, *pages);
    let mut odd = vec![0; 5000];
    file.read_at(4096 + 3, &mut odd).unwrap();
    assert_eq!(odd, pages[3..5003]);
    assert_eq!(file.read_at(16000, &mut odd).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(file.read_at(16384, &mut whole).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn names_behave_as_the_seam_says() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FileDisk::create(dir.path().join("made/below/made")).unwrap();
    FileDisk::create(dir.path().join("made/below/made")).unwrap();
    disk.create_dir("d").unwrap();
    disk.create_dir("d").unwrap();
    disk.open("d/b", Open::Create).unwrap().write_at(0, b"bb").unwrap();
    disk.open("d/a", Open::Create).unwrap();
    let again = disk.open("d/a", Open::CreateDirect).err().unwrap();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    let inode = disk.inode("d/b").unwrap();
    disk.rename("d/b", "d/a").unwrap();
    disk.sync_dir("d").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(disk.inode("d/a").unwrap(), inode);
    let listed = disk.list("d").unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].len), (1, "a", 2));
    disk.remove("d/a").unwrap();
    assert!(!disk.exists("d/a").unwrap());
    for outside in ["../x", "/etc/passwd", "d/../../x"] {
        let refused = disk.exists(outside).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{outside}");
    }
    let space = disk.space().unwrap();
    assert!(space.total > 0 && space.available <= space.total);
}
