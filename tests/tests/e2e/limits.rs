//! What strangers and slow peers may cost a node, and what they may not. A disk that hangs is the
//! simulator's: stories `hung_disk_follower` and `hung_disk_leader`.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cairn_host::dial::TcpDialer;
use cairn_host::envelope::Reason;
use cairn_host::seam::Dialer;
use cairn_proto::wire;
use cairn_proto::wire::segments_client::SegmentsClient;
use cairn_tests::cluster::{DEADLINE, Setup, TestCluster};
use cairn_tests::files;
use cairn_tests::http::get as http;
use cairn_tests::wait::until;
use cairn_types::ids::SegmentDigest;

use crate::{args, program};

const MIB: u64 = 1 << 20;

/// Stores one file on all nodes; returns the digests of its segments.
fn put_file(cluster: &TestCluster, address: &str, source: &Path, bytes: u64) -> Vec<String> {
    std::fs::create_dir_all(source).unwrap();
    files::random_file(&source.join("weights.bin"), bytes, bytes);
    let cairn = cluster.cairn();
    cairn.run(args(&[&"put", &source, &address, &"--wait", &"full"])).ok();
    let shown = cairn.run(["show", address, "--json"]).ok().json();
    let segments = shown["segment_list"].as_array().unwrap();
    segments.iter().map(|segment| segment["digest"].as_str().unwrap().to_owned()).collect()
}

/// The binary with at most so many descriptors, hard limit included.
fn with_descriptors(directory: &Path, most: u32) -> PathBuf {
    std::fs::create_dir_all(directory).unwrap();
    let path = directory.join("cairn-with-few-descriptors");
    let script = format!("#!/bin/sh\nulimit -n {most}\nexec '{}' \"$@\"\n", program().display());
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// More connections than the process has descriptors, without a word. Nodes live on, writes go on,
/// and the connections are closed.
#[test]
fn silent_connections_stop_neither_writes_nor_nodes() {
    let scratch = tempfile::tempdir().unwrap();
    let few = with_descriptors(scratch.path(), 512);
    let mut cluster = TestCluster::start_as(&few, &Setup::default());
    let leader = cluster.leader();
    let address = cluster.nodes()[leader].address;
    let silent: Vec<TcpStream> =
        (0..700).filter_map(|_| TcpStream::connect(address).ok()).collect();
    assert!(silent.len() >= 600, "only {} connections", silent.len());
    put_file(&cluster, "silent/run@1", &cluster.scratch("source"), 4 * MIB);
    for mut stream in silent {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut byte = [0];
        let read = stream.read(&mut byte);
        let timed_out = read.as_ref().is_err_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        });
        assert!(!timed_out, "a silent connection is still open");
    }
    put_file(&cluster, "silent/run@2", &cluster.scratch("later"), 4 * MIB);
    cluster.wait_healthy();
    assert!(http(address, "/healthz").starts_with("HTTP/1.1 200"));
}

/// Bytes in a codec of a newer build, or whose form makes no sense: refused with a reason, before
/// anything is asked of the slot.
#[test]
fn a_form_that_a_node_does_not_know_is_refused_with_a_reason() {
    let cluster = TestCluster::start(program());
    let address = cluster.nodes()[0].address.to_string();
    for (codec, stored_lens, says) in [
        (9, vec![5], "codec 9 is not one that this build knows"),
        (0, vec![5], "got 1 stored lengths"),
    ] {
        let head = wire::PutHead {
            digest: SegmentDigest::of(b"x").0.to_vec().into(),
            len: 10,
            codec,
            stored_lens,
            ..Default::default()
        };
        let head = wire::put_request::Message::Head(head);
        let status = cluster.run(async {
            let mut client = SegmentsClient::new(TcpDialer::new(None).dial(&address));
            let stream = futures::stream::iter([wire::PutRequest { message: Some(head) }]);
            client.put(stream).await.unwrap_err()
        });
        assert_eq!(Reason::of(&status), Some(Reason::Form), "{status:?}");
        assert!(status.message().contains(says), "{status:?}");
    }
}

/// As many readers as a node serves, on every node, that never read (a paused pager, a frozen file
/// system): others get their turn.
#[test]
fn readers_that_do_not_read_lose_their_place() {
    let cluster = TestCluster::start(program());
    let source = cluster.scratch("source");
    let digests = put_file(&cluster, "slow/readers@1", &source, 32 * MIB);
    let stalled = cluster.run(async {
        let mut streams = Vec::new();
        for node in cluster.nodes() {
            for _ in 0..4 {
                let transport = TcpDialer::new(None).dial(&node.address.to_string());
                let mut client = SegmentsClient::new(transport);
                for turn in 0..16 {
                    let digest: SegmentDigest = digests[turn % digests.len()].parse().unwrap();
                    let request =
                        wire::GetRequest { digest: digest.0.to_vec().into(), ..Default::default() };
                    // One that is refused has no place to lose.
                    streams.extend(client.get(request).await);
                }
            }
        }
        streams
    });
    assert!(stalled.len() >= 3 * 32, "only {} readers", stalled.len());
    let restored = cluster.scratch("restored");
    until("a reader gets its turn", DEADLINE * 2, || {
        let _ = std::fs::remove_dir_all(&restored);
        let ran = cluster.cairn().run(args(&[&"get", &"slow/readers@1", &restored]));
        if ran.code == Some(0) { Ok(()) } else { Err(ran.text()) }
    });
    files::assert_same(&source, &restored);
    drop(stalled);
}
