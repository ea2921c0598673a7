//! A web page that its reader's browser sends to a cluster without a key.

use cairn_host::dial::TcpDialer;
use cairn_host::seam::Dialer;
use cairn_proto::wire;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_tests::cluster::{Setup, TestCluster};
use cairn_tests::{files, http};
use cairn_types::command::{Command, Delete, DeleteReason};
use cairn_types::convert;
use cairn_types::ids::{CheckpointId, RequestId};
use tonic::Request;

use crate::{args, program};

/// The call that deletes the cluster's first checkpoint, as a page would send it: one gRPC message.
fn delete_the_first() -> Vec<u8> {
    let delete = Delete {
        checkpoint: CheckpointId(1),
        reason: DeleteReason::Asked,
        now: true,
        force: false,
        policy_version: None,
        by: String::new(),
    };
    let body = delete.into();
    let command = Command::new(RequestId(7), 0, 0, body);
    let command = convert::encode_command(&command);
    // Uncompressed; a length; field 1 of ExecuteRequest.
    let length = u8::try_from(command.len()).unwrap();
    let mut framed = vec![0, 0, 0, 0, length + 2, 0x0a, length];
    framed.extend_from_slice(&command);
    framed
}

#[test]
fn a_web_page_cannot_call_a_cluster_without_a_key() {
    let setup = Setup { nodes: 1, voters: 1, ..Setup::default() };
    let cluster = TestCluster::start_as(program(), &setup);
    let (cairn, source) = (cluster.cairn(), cluster.scratch("source"));
    files::checkpoint(&source, 1 << 20, 1);
    let one = [&"--replicas" as &dyn AsRef<std::ffi::OsStr>, &"1", &"--write-quorum", &"1"];
    let put = [&"put" as &dyn AsRef<std::ffi::OsStr>, &source, &"page/run@1"];
    cairn.run(args(&[put.as_slice(), &one].concat())).ok();
    let address = cluster.nodes()[0].address;
    let post = |method: &str, headers: &[&str]| {
        let line = format!("{method} /cairn.v1.Catalogue/Execute");
        http::send(address, &line, headers, &delete_the_first())
    };
    let host = format!("host: {address}");
    let origin = "origin: http://evil.example";
    // A "simple" request: sent without asking first.
    let simple = post("POST", &[&host, origin, "content-type: text/plain"]);
    assert!(simple.starts_with("HTTP/1.1 505"), "{simple}");
    let asks = post("OPTIONS", &[&host, origin, "access-control-request-method: POST"]);
    assert!(asks.starts_with("HTTP/1.1 505") && !asks.contains("access-control"), "{asks}");
    let grpc = post("POST", &[&host, "content-type: application/grpc"]);
    assert!(grpc.starts_with("HTTP/1.1 505"), "{grpc}");

    let dial = |host: &str| TcpDialer::new(None).dial(&format!("{host}:{}", address.port()));
    let ask = |host: &str, origin: Option<&'static str>| {
        let mut request = Request::new(wire::NodeStatusRequest {});
        if let Some(origin) = origin {
            request.metadata_mut().insert("origin", origin.parse().unwrap());
        }
        let mut client = AdminClient::new(cluster.run(async { dial(host) }));
        cluster.run(async move { client.node_status(request).await })
    };
    ask("127.0.0.1", None).unwrap();
    ask("localhost", None).unwrap();
    let page = ask("127.0.0.1", Some("http://evil.example")).unwrap_err();
    assert_eq!(page.code(), tonic::Code::PermissionDenied, "{page:?}");

    // What probes and scrapers read changes nothing, and answers to nothing else.
    for path in ["/healthz", "/metrics"] {
        assert!(http::get(address, path).starts_with("HTTP/1.1 200"));
        let posted = http::send(address, &format!("POST {path}"), &[&host], b"");
        assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
    }
    cairn.run(["get", "page/run@1", "--verify-only"]).ok();
}
