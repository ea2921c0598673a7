//! Endpoints that are not what the user thinks, arguments that make no sense, and peers that
//! talk garbage: each ends in an error that says so, and harms nobody.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use cairn_cli::children::free_port;
use cairn_client::ClientError;
use cairn_proto::wire;
use cairn_proto::wire::catalogue_client::CatalogueClient;
use cairn_tests::cluster::{Setup, TestCluster};
use cairn_tests::command::{Cairn, Ran};
use cairn_tests::files;
use cairn_types::limits::{BATCH_SEGMENTS_MAX, MESSAGE_BYTES_MAX};

use crate::{args, program};

const PATIENCE: [&str; 2] = ["--timeout", "2s"];

fn pointed_at(endpoint: &str) -> Cairn {
    Cairn::new(program()).with(["--endpoints", endpoint]).with(PATIENCE)
}

#[test]
fn a_closed_port_is_unreachable() {
    let address = format!("127.0.0.1:{}", free_port().expect("a free port"));
    pointed_at(&address).run(["status"]).fails(5, "no node answers").hints("endpoints");
    pointed_at(&address).run(["ls", "--json"]).ends(5);
}

#[test]
fn a_silent_port_is_unreachable_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("a port").to_string();
    pointed_at(&address).run(["status"]).fails(5, "no node answers");
}

#[test]
fn a_plain_http_server_is_not_a_cluster() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("a port").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream: TcpStream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    pointed_at(&address).run(["status"]).fails(5, "no node answers").hints("host:port");
}

#[test]
fn a_foreign_http2_server_is_not_a_cluster() {
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("listen");
    let address = listener.local_addr().expect("a port").to_string();
    runtime.spawn(async move { axum::serve(listener, axum::Router::new()).await });
    let cairn = Cairn::new(program()).with(["--endpoints", &address]);
    cairn.run(["status"]).fails(5, "is not a cairn node").hints("gRPC");
    let words = cairn.run(["ls", "--json"]).ends(5).stderr;
    let document: serde_json::Value = serde_json::from_str(&words).expect("an error document");
    assert_eq!(document["exit_code"], 5);
}

#[test]
fn a_client_that_loses_its_cluster_does_not_write_to_another() {
    let single = Setup { nodes: 1, voters: 1, ..Setup::default() };
    let mut first = TestCluster::start_as(program(), &single);
    let mut second = TestCluster::start_beside(program(), &single);
    let cluster_of = |cluster: &TestCluster| {
        cluster.status().expect("read status");
        cluster.client().cluster().expect("an answer names its cluster")
    };
    let (one, two) = (cluster_of(&first), cluster_of(&second));
    assert_ne!(one, two);
    // The client begins with either; the one it knows then dies.
    let client = first.new_client([first.endpoints(), second.endpoints()].concat());
    first.run(client.status()).expect("read status");
    let own = if client.cluster() == Some(one) { &mut first } else { &mut second };
    own.node(0).kill().expect("kill the node");
    let error = own.run(client.status()).expect_err("the other cluster is no substitute");
    assert!(matches!(error, ClientError::OtherCluster { .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("one cluster only")));
}

#[test]
fn garbage_and_oversized_messages_harm_nobody() {
    let cluster = TestCluster::shared(program());
    for (index, node) in cluster.nodes().iter().enumerate() {
        for (seed, prefix) in [&b""[..], b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
            .into_iter()
            .enumerate()
        {
            let mut stream = TcpStream::connect(node.address).expect("connect");
            stream.set_write_timeout(Some(Duration::from_secs(5))).expect("set a timeout");
            // The node may hang up in the middle.
            let _ = stream.write_all(prefix);
            let _ = stream.write_all(&files::random_bytes(100_000, (index * 3 + seed) as u64));
        }
    }
    let address = cluster.nodes()[0].address.to_string();
    let locate = |count: usize| {
        let digests = (0..count).map(|_| bytes::Bytes::from_static(&[7; 32])).collect();
        let message = wire::LocateRequest { digests, deadline_ms: 1000, ..Default::default() };
        let answer = cluster.run(async {
            let transport = cluster.client().env().dialer.dial(&address);
            let stub = CatalogueClient::new(transport);
            stub.max_encoding_message_size(usize::MAX).locate(message).await
        });
        answer.expect_err("too much").code()
    };
    assert_eq!(locate(BATCH_SEGMENTS_MAX + 1), tonic::Code::InvalidArgument);
    assert_eq!(locate(2 * MESSAGE_BYTES_MAX / 32), tonic::Code::OutOfRange);

    cluster.cairn().run(["status"]).ok();
    for index in 0..3 {
        assert!(cluster.node_status(index).registered);
    }
}

#[test]
fn malformed_addresses_are_wrong_arguments() {
    let cairn = pointed_at("127.0.0.1:1");
    for address in ["run1", "@1", "a//b@1", "../x@1", "a@", "a@1x", "a@-3", "a b@1"] {
        for verb in ["show", "rm"] {
            cairn.run([verb, address]).fails(2, "malformed");
        }
        cairn.run(["get", address, "/nonexistent"]).fails(2, "malformed");
        cairn.run(["put", "Cargo.toml", address]).fails(2, "malformed");
    }
    cairn.run(["put", "Cargo.toml", "run1@latest"]).fails(2, "names no step").hints("number");
    cairn.run(["put", "Cargo.toml", "run1@production"]).fails(2, "names no step");
    cairn.run(["ls", "a b"]).fails(2, "malformed");
}

#[test]
fn wrong_flags_are_wrong_arguments() {
    let cairn = pointed_at("127.0.0.1:1");
    for wrong in [
        &["put"][..],
        &["put", "x"],
        &["put", "x", "a@1", "--part", "3/3"],
        &["put", "x", "a@1", "--part", "x"],
        &["put", "x", "a@1", "--label", "novalue"],
        &["put", "x", "a@1", "--wait", "forever"],
        &["put", "x", "a@1", "--replicas", "many"],
        &["get", "a@1"],
        &["get", "a@1", "d", "--range", "0..10"],
        &["get", "a@1", "-", "--range", "10..5"],
        &["get", "a@1", "d", "--file", "[x"],
        &["frobnicate"],
        &["status", "--frobnicate"],
        &["node", "start"],
        &["node", "start", "--bootstrap", "--join", "x"],
        &["node", "remove"],
        &["node", "wait", "x", "--state", "asleep"],
        &["help", "frobnicate"],
        &["help", "statuss"],
        &["status", "--timeout", "soon"],
    ] {
        let ran = cairn.run(wrong).ends(2);
        assert!(!ran.stderr.is_empty(), "{wrong:?} says nothing");
        let ran = cairn.run(wrong.iter().chain(&["--json"])).ends(2);
        let document: serde_json::Value = serde_json::from_str(&ran.stderr).expect("a document");
        assert_eq!(document["exit_code"], 2, "{wrong:?}");
        assert!(document["error"].as_str().is_some_and(|text| !text.is_empty()), "{wrong:?}");
    }
    let cairn = Cairn::new(program());
    for wrong in ["http://127.0.0.1:7400", "127.0.0.1:7400,,", "::1:7400", "a b", "x:0", ""] {
        cairn.run(["status", "-e", wrong]).fails(2, "address");
    }
    // An empty variable is an unset one; a host alone has the usual port.
    let patient = cairn.clone().with(["--timeout", "1s"]);
    let unset = patient.clone().with_variable("CAIRN_ENDPOINTS", "");
    let asks = |ran: Ran| assert!(!matches!(ran.code, Some(2)), "{ran:?}");
    asks(unset.run(["status"]));
    asks(patient.run(["status", "-e", "127.0.0.1,[::1],localhost"]));
    let start = ["node", "start", "--rack", "r", "--capacity", "1GiB", "--data", "/nonexistent"];
    for wrong in ["localhost", "::1:27400", "[::1]", "http://a:1", "0.0.0.0:7400"] {
        cairn.run(start.iter().chain(&["--bootstrap", "--advertise", wrong])).fails(2, "");
    }
    cairn.run(start.iter().chain(&["--join", "a,,b"])).fails(2, "address is empty");
    cairn.run(["status", "-e", "example.org:7400"]).fails(2, "not loopback");
    let codes = Cairn::new(program()).run(["help", "exit-codes"]).ok().text();
    assert!(codes.contains("no cluster answered in time"));
    Cairn::new(program()).run(["--help"]).ok();
    assert_eq!(unread(&["help", "exit-codes"]), Some(0));
    assert_eq!(unread(&["--help"]), Some(0));
    assert_eq!(unread(&["frobnicate"]), Some(2));
    Cairn::new(program()).run(args(&[&"version", &"--json"])).ok().json();
}

/// The exit code where nobody reads what is said, as behind `| head`.
fn unread(arguments: &[&str]) -> Option<i32> {
    let (gone, out) = std::io::pipe().expect("a pipe");
    drop(gone);
    let err = out.try_clone().expect("a second end");
    let mut command = std::process::Command::new(program());
    command.args(arguments).stdout(out).stderr(err).status().expect("run cairn").code()
}
