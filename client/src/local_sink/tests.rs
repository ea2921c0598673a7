use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::rename::rename_by_link;
use super::*;

fn target(name: &str, len: u64) -> FileTarget {
    FileTarget {
        name: name.as_bytes().to_vec(),
        mode: 0o4640,
        mtime_ns: 1_700_000_000_123_456_789,
        len,
        extents: vec![],
    }
}

fn begin(sink: &LocalSink, files: &[&FileTarget]) -> Result<Vec<Presence>, SinkError> {
    let files: Vec<FileTarget> = files.iter().map(|file| (*file).clone()).collect();
    sink.begin(&Plan { files: &files, directories: &[], replace: false })
}

/// A sink that has begun, and the presence that it found for `file`.
fn begun(directory: &Path, file: &FileTarget) -> (LocalSink, Presence) {
    let sink = LocalSink::open(directory).unwrap();
    let found = begin(&sink, &[file]).unwrap();
    (sink, found[0])
}

fn write_all(sink: &LocalSink, file: &FileTarget, bytes: &[u8]) {
    sink.create(file).unwrap();
    sink.write_at(file, 0, bytes).unwrap();
    sink.finish(file, false).unwrap();
}

/// Names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_gets_its_name_mode_and_time_only_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = target("a/b/model", 6);
    let (sink, found) = begun(&dir.path().join("out"), &file);
    assert_eq!(found, Presence::Absent);
    sink.create(&file).unwrap();
    sink.write_at(&file, 3, b"def").unwrap();
    sink.write_at(&file, 0, b"abc").unwrap();
    let path = dir.path().join("out/a/b/model");
    assert!(!path.exists());
    sink.finish(&file, false).unwrap();
    sink.complete().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"abcdef");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o640, "set-id bits are dropped");
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!(begun(&dir.path().join("out"), &file).1, Presence::Final);
    assert_eq!(names(&dir.path().join("out")), ["a"]);
    assert_eq!(names(path.parent().unwrap()), ["model"]);
}

#[test]
fn two_runs_in_one_directory_never_share_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = target("m", 8192);
    let (right, path) = (vec![7; 8192], dir.path().join("m"));
    let (one, _) = begun(dir.path(), &file);
    one.create(&file).unwrap();
    one.write_at(&file, 0, &right[..4096]).unwrap();
    let (two, found) = begun(dir.path(), &file);
    assert_eq!(found, Presence::Absent, "what a living run writes is not taken over");
    two.create(&file).unwrap();
    two.write_at(&file, 4096, &right[4096..]).unwrap();
    one.write_at(&file, 4096, &right[4096..]).unwrap();
    one.finish(&file, false).unwrap();
    assert!(fs::read(&path).unwrap() == right, "a file with holes got its final name");
    two.write_at(&file, 0, &right[..4096]).unwrap();
    assert!(fs::read(&path).unwrap() == right);
    // The other run finished first, with the same bytes. That is no conflict.
    two.finish(&file, false).unwrap();
    one.complete().unwrap();
    two.complete().unwrap();
    assert_eq!(names(dir.path()), ["m"]);
}

#[test]
fn of_two_runs_with_different_bytes_the_second_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = target("m", 3);
    let ((one, _), (two, _)) = (begun(dir.path(), &file), begun(dir.path(), &file));
    write_all(&one, &file, b"one");
    two.create(&file).unwrap();
    two.write_at(&file, 0, b"two").unwrap();
    assert!(matches!(two.finish(&file, false), Err(SinkError::WouldOverwrite { .. })));
    one.complete().unwrap();
    assert_eq!(fs::read(dir.path().join("m")).unwrap(), b"one");
}

#[test]
fn a_file_that_another_run_replaces_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = target("m", 3);
    let ((one, _), (two, _)) = (begun(dir.path(), &file), begun(dir.path(), &file));
    write_all(&one, &file, b"one");
    two.create(&file).unwrap();
    two.write_at(&file, 0, b"two").unwrap();
    two.finish(&file, true).unwrap();
    assert!(matches!(one.complete(), Err(SinkError::Replaced { .. })));
    two.complete().unwrap();
    assert_eq!(fs::read(dir.path().join("m")).unwrap(), b"two");

    // The same happens while its old content is read.
    let (three, found) = begun(dir.path(), &file);
    let mut there = [0; 3];
    three.read_at(&file, found, 0, &mut there).unwrap();
    fs::write(dir.path().join("new"), "new").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("m")).unwrap();
    assert!(matches!(three.complete(), Err(SinkError::Replaced { .. })));
}

#[test]
fn a_file_that_another_run_replaced_is_taken_once_it_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = (target("m", 3), dir.path().join("m"));
    let files = [file.clone()];
    let replace = |content: &str| {
        fs::write(dir.path().join("new"), content).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
    };
    let (one, _) = begun(dir.path(), &file);
    write_all(&one, &file, b"one");
    assert_eq!(one.replaced(&files).unwrap(), [0; 0]);
    replace("one");
    assert_eq!(one.replaced(&files).unwrap(), [0]);
    let mut there = [0; 3];
    one.read_at(&file, Presence::Final, 0, &mut there).unwrap();
    assert_eq!(&there, b"one");
    // The current file was not read.
    replace("two");
    assert!(matches!(one.complete(), Err(SinkError::Replaced { .. })));

    let (two, _) = begun(dir.path(), &file);
    two.read_at(&file, Presence::Final, 0, &mut there).unwrap();
    replace("new");
    assert_eq!(two.replaced(&files).unwrap(), [0]);
    two.read_at(&file, Presence::Final, 0, &mut there).unwrap();
    assert_eq!(&there, b"new", "the caller reads what is there, not what was");
    two.complete().unwrap();

    let (three, _) = begun(dir.path(), &file);
    three.read_at(&file, Presence::Final, 0, &mut there).unwrap();
    replace("longer");
    assert!(matches!(three.replaced(&files), Err(SinkError::Replaced { .. })));
    fs::remove_file(&path).unwrap();
    let (four, _) = begun(dir.path(), &file);
    write_all(&four, &file, b"one");
    fs::remove_file(&path).unwrap();
    assert!(matches!(four.replaced(&files), Err(SinkError::Replaced { .. })));
}

#[test]
fn parts_of_a_killed_overwrite_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let (same_len, other_len) = (target("a", 3), target("b", 3));
    let files = [same_len.clone(), other_len.clone()];
    fs::write(dir.path().join("a"), "old").unwrap();
    fs::write(dir.path().join("b"), "older").unwrap();
    let plan = Plan { files: &files, directories: &[], replace: true };
    let open = || LocalSink::open(dir.path()).unwrap();
    let killed = open();
    assert_eq!(killed.begin(&plan).unwrap(), [Presence::Final, Presence::Other]);
    for file in &files {
        killed.create(file).unwrap();
        killed.write_at(file, 0, b"ne").unwrap();
    }
    drop(killed);
    let sink = open();
    assert_eq!(sink.begin(&plan).unwrap(), [Presence::Final, Presence::Part]);
    assert_eq!(sink.resume(&files[..1]).unwrap(), [true]);
    for file in &files {
        let mut there = [0; 2];
        sink.read_at(file, Presence::Part, 0, &mut there).unwrap();
        assert_eq!(&there, b"ne");
        sink.write_at(file, 2, b"w").unwrap();
        sink.finish(file, true).unwrap();
    }
    sink.complete().unwrap();
    assert_eq!(names(dir.path()), ["a", "b"]);
    for name in ["a", "b"] {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"new");
    }
}

#[test]
fn what_a_dead_run_left_is_taken_over_once() {
    let dir = tempfile::tempdir().unwrap();
    let (file, other) = (target("a/m", 6), target("other", 4));
    let sink = LocalSink::open(dir.path()).unwrap();
    begin(&sink, &[&file, &other]).unwrap();
    for file in [&file, &other] {
        sink.create(file).unwrap();
        sink.write_at(file, 0, b"left").unwrap();
    }
    assert_eq!(begun(dir.path(), &file).1, Presence::Absent, "its run lives");
    // The run ends in the middle of its last step: the mode of a read-only file is set already.
    let left = sink.open_part(&file).unwrap().0;
    left.set_permissions(fs::Permissions::from_mode(0o444)).unwrap();
    drop((left, sink));
    assert_eq!(begun(dir.path(), &target("a/m", 7)).1, Presence::Absent, "of another length");
    let (one, found) = begun(dir.path(), &file);
    assert_eq!(found, Presence::Part);
    let mode = one.open_part(&file).unwrap().0.metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o600, "it can be written again");
    let (two, found) = begun(dir.path(), &file);
    assert_eq!(found, Presence::Absent, "one run has it");
    let mut there = [0; 4];
    one.read_at(&file, Presence::Part, 0, &mut there).unwrap();
    assert_eq!(&there, b"left");
    one.write_at(&file, 4, b"\0\0").unwrap();
    one.write_at(&file, 0, b"\0\0ft").unwrap();
    one.finish(&file, false).unwrap();
    assert_eq!(fs::read(dir.path().join("a/m")).unwrap(), b"\0\0ft\0\0", "zeros are written too");
    one.complete().unwrap();
    drop(two);
    // A part file that was not requested stays for a run that requests it.
    let (three, found) = begun(dir.path(), &other);
    assert_eq!(found, Presence::Part);
    three.finish(&other, false).unwrap();
    three.complete().unwrap();
    assert_eq!(names(dir.path()), ["a", "other"]);
}

#[test]
fn old_leftovers_and_those_of_finished_files_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, other) = (target("m", 4), target("other", 4));
    for file in [&file, &other] {
        let (sink, _) = begun(dir.path(), file);
        sink.create(file).unwrap();
        // The length differs, so it cannot be taken over.
        sink.open_part(file).unwrap().0.set_len(9).unwrap();
    }
    let (sink, _) = begun(dir.path(), &file);
    write_all(&sink, &file, b"done");
    sink.complete().unwrap();
    let [private, _] = &names(dir.path())[..] else { panic!("{:?}", names(dir.path())) };
    // A day later, the next run to complete removes it.
    let left = fs::read_dir(dir.path().join(private)).unwrap();
    for entry in left.map(Result::unwrap).filter(|entry| entry.file_name() != "lock") {
        let part = fs::File::options().write(true).open(entry.path()).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        part.set_modified(old).unwrap();
    }
    let (sink, found) = begun(dir.path(), &file);
    assert_eq!(found, Presence::Final);
    sink.complete().unwrap();
    assert_eq!(names(dir.path()), ["m"]);
}

#[test]
fn part_files_of_another_user_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = target("m", 4);
    let (sink, _) = begun(dir.path(), &file);
    sink.create(&file).unwrap();
    drop(sink);
    let private = dir.path().join(".cairn-get-0");
    // Other users have access: they may hold the file open and write to it later.
    fs::set_permissions(&private, fs::Permissions::from_mode(0o770)).unwrap();
    assert_eq!(begun(dir.path(), &file).1, Presence::Absent);
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    // Writes would also change the second name of the part file.
    let part = fs::read_dir(&private).unwrap().map(|entry| entry.unwrap().path());
    let part = part.into_iter().find(|path| !path.ends_with("lock")).unwrap();
    fs::hard_link(&part, dir.path().join("second")).unwrap();
    assert_eq!(begun(dir.path(), &file).1, Presence::Absent);
    fs::remove_file(dir.path().join("second")).unwrap();
    assert_eq!(begun(dir.path(), &file).1, Presence::Part);
}

#[test]
fn names_of_the_checkpoint_are_never_names_of_part_files() {
    let dir = tempfile::tempdir().unwrap();
    let hostile = String::from_utf8([b".cairn-get-0/", &part_name(b"m")[..]].concat()).unwrap();
    let files = [target("m", 3), target(&hostile, 3), target(".cairn-get-1", 3)];
    let sink = LocalSink::open(dir.path()).unwrap();
    begin(&sink, &[&files[0], &files[1], &files[2]]).unwrap();
    for (file, bytes) in files.iter().zip([b"one", b"two", b"xyz"]) {
        sink.create(file).unwrap();
        sink.write_at(file, 0, bytes).unwrap();
    }
    files.iter().for_each(|file| sink.finish(file, true).unwrap());
    sink.complete().unwrap();
    for (file, bytes) in files.iter().zip([b"one", b"two", b"xyz"]) {
        assert_eq!(fs::read(dir.path().join(file.shown())).unwrap(), bytes);
    }
    assert_eq!(names(dir.path()), [".cairn-get-0", ".cairn-get-1", "m"]);
    // A later run does not take the checkpoint's directory for a dead run's.
    let (sink, found) = begun(dir.path(), &files[1]);
    assert_eq!(found, Presence::Final);
    sink.complete().unwrap();
    assert!(dir.path().join(&hostile).exists());
}

#[test]
fn nothing_is_written_through_links() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "safe!!").unwrap();
    let begin_one = |name: &str| {
        let sink = LocalSink::open(dir.path()).unwrap();
        begin(&sink, &[&target(name, 6)]).map(|_| sink)
    };
    symlink(outside.path(), dir.path().join("a")).unwrap();
    assert!(matches!(begin_one("a/victim"), Err(SinkError::Unsafe { .. })));
    symlink(outside.path().join("victim"), dir.path().join("f")).unwrap();
    assert!(matches!(begin_one("f"), Err(SinkError::Unsafe { .. })));
    assert!(matches!(begin_one("../up"), Err(SinkError::Unsafe { .. })));

    // A link in place of the private directory is neither used nor removed.
    symlink(outside.path(), dir.path().join(".cairn-get-0")).unwrap();
    let (sink, _) = begun(dir.path(), &target("m", 6));
    write_all(&sink, &target("m", 6), b"xxxxxx");
    sink.complete().unwrap();

    // A directory is replaced by a link while the run works.
    let late = target("d/m", 6);
    let (sink, _) = begun(dir.path(), &late);
    sink.create(&late).unwrap();
    symlink(outside.path(), dir.path().join("d")).unwrap();
    assert!(matches!(sink.finish(&late, true), Err(SinkError::Unsafe { .. })));
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"safe!!");
    assert_eq!(names(outside.path()), ["victim"]);
}

#[test]
fn an_existing_file_is_replaced_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m"), "old").unwrap();
    let sink = LocalSink::open(dir.path()).unwrap();
    let file = target("m", 6);
    assert!(matches!(begin(&sink, &[&file]), Err(SinkError::WouldOverwrite { .. })));
    assert_eq!(names(dir.path()), ["m"]);
    let plan = Plan { files: std::slice::from_ref(&file), directories: &[], replace: true };
    assert_eq!(sink.begin(&plan).unwrap(), [Presence::Other]);
    sink.create(&file).unwrap();
    sink.write_at(&file, 0, b"newnew").unwrap();
    assert!(matches!(sink.finish(&file, false), Err(SinkError::WouldOverwrite { .. })));
    assert_eq!(fs::read(dir.path().join("m")).unwrap(), b"old");
    sink.finish(&file, true).unwrap();
    assert_eq!(fs::read(dir.path().join("m")).unwrap(), b"newnew");
}

#[test]
fn many_directories_files_and_long_names_work() {
    let dir = tempfile::tempdir().unwrap();
    let sink = LocalSink::open(dir.path()).unwrap();
    let name = |index: u32| format!("d{index}/{}", "n".repeat(255));
    let files: Vec<FileTarget> = (0..200).map(|index| target(&name(index), 1)).collect();
    let directories = [(b"empty".to_vec(), 0o750), (b"empty/deep".to_vec(), 0o700)];
    sink.begin(&Plan { files: &files, directories: &directories, replace: false }).unwrap();
    // More than descriptors are kept open.
    files.iter().for_each(|file| sink.create(file).unwrap());
    files.iter().for_each(|file| sink.write_at(file, 0, b"x").unwrap());
    files.iter().for_each(|file| sink.finish(file, false).unwrap());
    sink.complete().unwrap();
    assert_eq!(names(dir.path()).len(), 201);
    assert_eq!(fs::metadata(dir.path().join("empty")).unwrap().mode() & 0o777, 0o750);
}

#[test]
fn modes_that_close_directories_are_set_when_all_files_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = target("closed/below/m", 1);
    let directories = [(b"closed".to_vec(), 0), (b"closed/below".to_vec(), 0o555)];
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777;
    for round in 0..2 {
        let sink = LocalSink::open(dir.path()).unwrap();
        let plan =
            Plan { files: std::slice::from_ref(&file), directories: &directories, replace: false };
        let found = sink.begin(&plan).unwrap();
        assert_eq!((mode("closed") & 0o700, mode("closed/below") & 0o700), (0o700, 0o700));
        match round {
            0 => write_all(&sink, &file, b"x"),
            _ => assert_eq!(found, [Presence::Final]),
        }
        sink.complete().unwrap();
        assert_eq!((mode("closed"), mode("closed/below")), (0, 0o555));
    }
}

#[test]
fn runs_of_zero_become_holes() {
    let dir = tempfile::tempdir().unwrap();
    let len = 8 << 20;
    let file = target("sparse", len);
    let (sink, _) = begun(dir.path(), &file);
    let mut bytes = vec![0; len as usize];
    bytes[5 << 20] = 1;
    sink.create(&file).unwrap();
    for (index, block) in bytes.chunks(1 << 20).enumerate() {
        sink.write_at(&file, (index as u64) << 20, block).unwrap();
    }
    sink.finish(&file, false).unwrap();
    sink.complete().unwrap();
    assert!(fs::read(dir.path().join("sparse")).unwrap() == bytes);
    let allocated = fs::metadata(dir.path().join("sparse")).unwrap().blocks() * 512;
    assert!(allocated < 1 << 20, "{allocated} bytes are allocated");
}

#[test]
fn a_run_that_wrote_nothing_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/out");
    let (sink, _) = begun(&out, &target("m", 1));
    assert!(out.exists());
    drop(sink);
    assert!(!out.exists());
    drop(LocalSink::open(&out).unwrap());
    assert!(!out.exists(), "nothing is made before a download begins");
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(LocalSink::open(&dir.path().join("file")).is_err());
}

#[test]
fn too_little_room_is_said_before_anything_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let file = target("a/m", u64::MAX / 2);
    let (sink, _) = begun(dir.path(), &file);
    sink.check_room(&[(&file, 1)]).unwrap();
    let error = sink.check_room(&[(&file, u64::MAX / 2)]).unwrap_err();
    assert!(matches!(error, SinkError::NoRoom { .. }), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn what_a_get_left_is_no_source() {
    let dir = tempfile::tempdir().unwrap();
    let file = target("m", 4);
    let scan = || crate::LocalSource::scan(&[dir.path().to_owned()]);
    let (sink, _) = begun(dir.path(), &file);
    sink.create(&file).unwrap();
    assert!(matches!(scan(), Err(crate::SourceError::UnfinishedGet { .. })));
    sink.finish(&file, false).unwrap();
    sink.complete().unwrap();
    drop(sink);
    // A directory of that name without a lock belongs to the user.
    fs::create_dir(dir.path().join(".cairn-get-0")).unwrap();
    scan().unwrap();
}

#[test]
fn what_a_run_without_locks_left_is_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let file = target("m", 4);
    let (sink, _) = begun(dir.path(), &file);
    sink.create(&file).unwrap();
    drop(sink);
    let left = dir.path().join(".cairn-get-0-unlocked");
    fs::rename(dir.path().join(".cairn-get-0"), &left).unwrap();
    let (sink, found) = begun(dir.path(), &file);
    assert_eq!(found, Presence::Absent);
    write_all(&sink, &file, b"done");
    sink.complete().unwrap();
    assert!(left.exists(), "its run may live");
    let scan = crate::LocalSource::scan(&[dir.path().to_owned()]);
    assert!(matches!(scan, Err(crate::SourceError::UnfinishedGet { .. })));
}

#[test]
fn a_file_system_that_cannot_refuse_to_replace_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let open = || OwnedFd::from(fs::File::open(dir.path()).unwrap());
    fs::write(dir.path().join("part"), "new").unwrap();
    rename_by_link(&open(), b"part", &open(), b"m").unwrap();
    fs::write(dir.path().join("other"), "other").unwrap();
    assert_eq!(rename_by_link(&open(), b"other", &open(), b"m"), Err(Errno::EXIST));
    assert_eq!(fs::read(dir.path().join("m")).unwrap(), b"new");
}
