//! Files that are strange, hostile or change under our hands: stored and restored as they are,
//! or refused by name; and nothing is ever written outside the target directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_client::{ClientError, LocalSource, PutOptions, SourceError};
use cairn_tests::cluster::TestCluster;
use cairn_tests::files;
use cairn_types::command::{self, Body, Refusal, Reply};
use cairn_types::ids::{Attempt, Namespace, Run, SegmentDigest, Step};
use cairn_types::manifest::{FileEntry, Manifest};
use cairn_types::model::{ManifestPlace, PolicyChange};
use cairn_types::set_digest;

use crate::{args, program};

/// Files of the test that stores many. `CAIRN_TEST_MANY_FILES=100000` is the promised number; its
/// get syncs each file, which takes a slow disk a minute or more.
const MANY_FILES: usize = 20_000;

fn write(directory: &Path, name: impl AsRef<OsStr>, bytes: &[u8]) {
    let path = directory.join(name.as_ref());
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
    std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("write {path:?}: {error}"));
}

/// Puts a directory, gets it back, compares.
fn round_trip(cluster: &TestCluster, source: &Path, address: &str) {
    let cairn = cluster.cairn();
    cairn.run(args(&[&"put", &source, &address])).ok();
    let restored = cluster.scratch(&format!("restored-{}", address.replace(['/', '@'], "-")));
    cairn.run(args(&[&"get", &address, &restored])).ok();
    files::assert_same(source, &restored);
    std::fs::remove_dir_all(&restored).expect("remove files");
}

#[test]
fn strange_names_modes_and_sizes_come_back_as_they_were() {
    let cluster = TestCluster::shared(program());
    let source = cluster.scratch_directory("strange");
    let long = "n".repeat(255);
    for name in ["two words", "ünï/çødé/数据 🪨", "-", "--flag", "a\nb", &long, "..hidden/...x"]
    {
        write(&source, name, name.as_bytes());
    }
    write(&source, OsStr::from_bytes(b"not-\xff-utf8"), b"bytes");
    write(&source, "empty", b"");
    write(&source, "deep/er/and/deep/er/file", b"x");
    std::fs::create_dir_all(source.join("empty directory")).expect("make a directory");
    let script = source.join("run.sh");
    write(&source, "run.sh", b"#!/bin/sh\n");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o751)).expect("set mode");

    let cairn = cluster.cairn();
    cairn.run(args(&[&"put", &source, &"files/strange@1"])).ok();
    let restored = cluster.scratch("strange-restored");
    cairn.run(args(&[&"get", &"files/strange@1", &restored])).ok();
    files::assert_same(&source, &restored);
    assert!(restored.join("empty directory").is_dir());
    let (was, is) = [&source, &restored]
        .map(|root| std::fs::metadata(root.join("run.sh")).expect("look at a file"))
        .into();
    assert_eq!(is.permissions().mode() & 0o777, 0o751);
    assert_eq!(was.modified().expect("a time"), is.modified().expect("a time"));

    // A checkpoint of nothing but an empty file.
    let empty = cluster.scratch_directory("empty");
    write(&empty, "nothing", b"");
    round_trip(&cluster, &empty, "files/empty@1");
}

#[test]
fn hostile_safetensors_headers_are_plain_bytes() {
    let cluster = TestCluster::shared(program());
    let source = cluster.scratch_directory("hostile");
    let good = cluster.scratch("good.safetensors");
    files::safetensors(&good, &[3 << 20, 100, 2 << 20], 1);
    let good = std::fs::read(&good).expect("read a file");
    write(&source, "truncated-data.safetensors", &good[..good.len() - (1 << 20)]);
    write(&source, "truncated-header.safetensors", &good[..60]);
    write(&source, "trailing.safetensors", &[&good[..], b"more"].concat());
    let body = files::random_bytes(5 << 20, 2);
    let with_header = |len: u64, header: &[u8]| [&len.to_le_bytes()[..], header, &body].concat();
    write(&source, "huge-length.safetensors", &with_header(u64::MAX, b"{}"));
    write(&source, "length-of-file.safetensors", &with_header(5 << 20, b"{"));
    let deep = "{\"a\":".repeat(200_000);
    write(&source, "deep.safetensors", &with_header(deep.len() as u64, deep.as_bytes()));
    let overlap = br#"{"a":{"data_offsets":[0,4000000]},"b":{"data_offsets":[1,5242880]}}"#;
    write(&source, "overlap.safetensors", &with_header(overlap.len() as u64, overlap));
    let beyond = br#"{"a":{"data_offsets":[0,18446744073709551615]}}"#;
    write(&source, "beyond.safetensors", &with_header(beyond.len() as u64, beyond));
    round_trip(&cluster, &source, "files/hostile@1");
}

#[test]
fn links_and_special_files_are_refused_by_name() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("linked");
    write(&source, "file", b"x");
    symlink("/etc/passwd", source.join("link")).expect("make a link");
    let put = cairn.run(args(&[&"put", &source, &"files/linked@1"]));
    put.fails(1, "is a symbolic link").hints("--follow-links");
    std::fs::remove_file(source.join("link")).expect("remove the link");
    let _socket = std::os::unix::net::UnixListener::bind(source.join("s")).expect("a socket");
    cairn.run(args(&[&"put", &source, &"files/linked@1"])).fails(1, "neither a file nor");
    cairn.run(["put", "/nonexistent/x", "files/linked@1"]).fails(1, "does not exist");
    cairn.run(["show", "files/linked@1"]).ends(3);
}

#[test]
fn a_file_that_grows_while_it_is_read_is_refused() {
    let cluster = TestCluster::shared(program());
    let source = cluster.scratch_directory("growing");
    let path = source.join("log.bin");
    files::random_file(&path, 20 << 20, 3);
    let done = Arc::new(AtomicBool::new(false));
    let grower = std::thread::spawn({
        let done = done.clone();
        move || {
            let mut file =
                std::fs::OpenOptions::new().append(true).open(&path).expect("open the file");
            while !done.load(Ordering::Relaxed) {
                file.write_all(b"one more line\n").expect("grow the file");
                std::thread::yield_now();
            }
        }
    });
    let ran = cluster.cairn().run(args(&[&"put", &source, &"files/growing@1"]));
    done.store(true, Ordering::Relaxed);
    grower.join().expect("the writer ends");
    ran.fails(1, "changed while it was read").hints("closed its files");
    cluster.cairn().run(["show", "files/growing@1"]).ends(3);
}

#[test]
fn a_file_that_vanishes_while_it_is_read_is_refused() {
    let cluster = TestCluster::shared(program());
    let source = cluster.scratch_directory("vanishing");
    for index in 0..4 {
        files::random_file(&source.join(format!("{index}.bin")), 8 << 20, index);
    }
    let listed = LocalSource::scan(std::slice::from_ref(&source)).expect("list files");
    std::fs::remove_file(source.join("2.bin")).expect("remove a file");
    let namespace: Namespace = "files/vanishing".parse().expect("a namespace");
    let options = PutOptions::new(namespace, Step(1));
    let error = cluster.run(cluster.client().put(Arc::new(listed), options));
    let error = error.expect_err("the file is gone");
    let changed = |path: &str| path.ends_with("2.bin");
    assert!(
        matches!(&error, ClientError::Source(SourceError::Changed { path }) if changed(path)),
        "{error}"
    );
    cluster.cairn().run(["show", "files/vanishing@1"]).ends(3);
}

#[test]
fn many_small_files_are_one_checkpoint() {
    let given = std::env::var("CAIRN_TEST_MANY_FILES").ok();
    let count = given.map_or(MANY_FILES, |text| text.parse().expect("a number of files"));
    let cluster = TestCluster::start(program());
    let source = cluster.scratch_directory("many");
    for index in 0..count {
        if index % 1000 == 0 {
            std::fs::create_dir_all(source.join(format!("{:03}", index / 1000))).expect("mkdir");
        }
        let path = source.join(format!("{:03}/{index:06}", index / 1000));
        std::fs::write(path, format!("file {index}\n").repeat(index % 20)).expect("write a file");
    }
    let cairn = cluster.cairn();
    let began = Instant::now();
    let put = cairn.run(args(&[&"put", &source, &"files/many@1", &"--json"])).ok().json();
    let put_took = began.elapsed();
    assert_eq!(put["files"], count);
    let restored = cluster.scratch("many-restored");
    let began = Instant::now();
    cairn.run(args(&[&"get", &"files/many@1", &restored])).ok();
    let get_took = began.elapsed();
    eprintln!("{count} files: put {put_took:?}, get {get_took:?}, {}", put["segments"]);
    files::assert_same(&source, &restored);
}

#[test]
fn planted_links_are_never_written_through() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("planted");
    write(&source, "sub/file", b"new content");
    write(&source, "top", b"new content");
    cairn.run(args(&[&"put", &source, &"files/planted@1"])).ok();

    let outside = cluster.scratch_directory("outside");
    write(&outside, "victim", b"old content");
    write(&outside, "file", b"old content");
    let get = |target: &Path, more: &[&str]| {
        let mut all = args(&[&"get", &"files/planted@1", &target]);
        all.extend(more.iter().map(|flag| OsStr::new(*flag)));
        cairn.run(all)
    };
    for flags in [&[][..], &["--overwrite"]] {
        let target = cluster.scratch_directory(&format!("planted-sub-{}", flags.len()));
        symlink(&outside, target.join("sub")).expect("plant a link");
        get(&target, flags).fails(1, "sub");
        let target = cluster.scratch_directory(&format!("planted-top-{}", flags.len()));
        symlink(outside.join("victim"), target.join("top")).expect("plant a link");
        get(&target, flags).fails(1, "symbolic link");
        // A link that leads nowhere must not be made to lead somewhere.
        let target = cluster.scratch_directory(&format!("planted-new-{}", flags.len()));
        symlink(outside.join("made"), target.join("top")).expect("plant a link");
        get(&target, flags).fails(1, "symbolic link");
    }
    assert_eq!(files::list(&outside).len(), 2, "something was written outside");
    for name in ["victim", "file"] {
        assert_eq!(std::fs::read(outside.join(name)).expect("read"), b"old content");
    }
}

#[test]
fn hostile_manifests_are_never_committed() {
    let cluster = TestCluster::shared(program());
    let names: [&[u8]; 8] =
        [b"../evil", b"/evil", b"a/../../evil", b"..", b"a//evil", b"./evil", b"", b"a\0b"];
    let mut manifests: Vec<Vec<u8>> = Vec::new();
    for name in names {
        let file = FileEntry {
            name: name.to_vec(),
            mode: 0o644,
            mtime_ns: 0,
            len: 0,
            extents: vec![],
            content: None,
        };
        manifests.push(Manifest { files: vec![file], ..Manifest::default() }.encode());
    }
    manifests.extend([vec![0xff; 100], Vec::new()]);
    // A segment that was never staged.
    let foreign = (SegmentDigest::of(b"foreign"), 7);
    manifests.push(Manifest { segments: vec![foreign], ..Manifest::default() }.encode());
    for (step, manifest) in manifests.into_iter().enumerate() {
        let refusal = seal_manifest(&cluster, step as u64, manifest);
        assert!(matches!(refusal, Refusal::BadManifest { part: 0, .. }), "{step}: {refusal}");
        cluster.cairn().run(["show", &format!("files/evil@{step}")]).ends(3);
    }
}

/// What becomes of a part with this manifest and no segments: what a client that checks nothing
/// could do.
fn seal_manifest(cluster: &TestCluster, step: u64, manifest: Vec<u8>) -> Refusal {
    let client = cluster.client();
    let begin = Body::Begin(command::Begin {
        namespace: "files/evil".parse().expect("a namespace"),
        step: Step(step),
        parts: 1,
        attempt: Some(Attempt(1)),
        change: PolicyChange::default(),
        replace: false,
        labels: BTreeMap::new(),
        client: String::new(),
        job: String::new(),
    });
    let Ok(Reply::Begun(begun)) = cluster.run(client.execute(begin, Duration::ZERO)) else {
        panic!("the upload does not begin");
    };
    let seal = Body::SealPart(command::SealPart {
        checkpoint: begun.checkpoint,
        attempt: Attempt(1),
        part: 0,
        run: Run(1),
        manifest: ManifestPlace::Inline(Bytes::from(manifest)),
        set_digest: set_digest(std::iter::empty()),
        bytes: 0,
        files: 1,
        compared: 0,
        voids: Vec::new(),
    });
    match cluster.run(client.execute(seal, Duration::ZERO)) {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("step {step} was not refused: {other:?}"),
    }
}
