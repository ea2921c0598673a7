//! The cluster key: who holds it is trusted, nobody else gets a word in.

use std::os::unix::fs::PermissionsExt;

use cairn_tests::cluster::{Setup, TestCluster};
use cairn_tests::command::Cairn;
use cairn_tests::files;

use crate::{args, program};

#[test]
fn a_keyed_cluster_serves_those_who_hold_the_key_and_nobody_else() {
    let keys = tempfile::tempdir().expect("a directory");
    let cairn = Cairn::new(program());
    let (key, other) = (keys.path().join("key"), keys.path().join("other"));
    cairn.run(args(&[&"key", &"new", &key])).ok();
    cairn.run(args(&[&"key", &"new", &other])).ok();
    cairn.run(args(&[&"key", &"new", &key])).fails(1, "create");
    let mode = std::fs::metadata(&key).expect("look at the key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let setup = Setup { key: Some(key), ..Setup::default() };
    let cluster = TestCluster::start_as(program(), &setup);
    let keyed = cluster.cairn();
    let source = cluster.scratch("secret");
    files::checkpoint(&source, 20 << 20, 1);
    keyed.run(args(&[&"put", &source, &"secret/a@1", &"--wait", &"full"])).ok();
    let restored = cluster.scratch("restored");
    keyed.run(args(&[&"get", &"secret/a@1", &restored])).ok();
    files::assert_same(&source, &restored);

    let endpoints = cluster.endpoints().join(",");
    // At once, and by name: the default deadline is not waited for.
    let plain = cairn.clone().with(["--endpoints", &endpoints]);
    plain.run(["ls"]).fails(1, "wants a cluster key").hints("cluster key");
    let other_key = args(&[&"ls", &"--cluster-key", &other]);
    plain.run(other_key).fails(1, "holds another cluster key").hints("cluster key");
    plain.run(["rm", "secret/a@1", "--now"]);
    keyed.run(["get", "secret/a@1", "--verify-only"]).ok();
    // A node without the key does not get in either.
    let data = cluster.scratch("intruder");
    let join = [
        "node",
        "start",
        "--listen",
        "127.0.0.1:0",
        "--advertise",
        "127.0.0.1:9",
        "--rack",
        "r",
        "--capacity",
        "1GiB",
        "--join",
        &endpoints,
        "--data",
    ];
    let join: Vec<_> = join.iter().map(AsRef::as_ref).chain([data.as_os_str()]).collect();
    cairn.run(&join).fails(5, "wants a cluster key");
    let with_other = cairn.clone().with(["--cluster-key".as_ref(), other.as_os_str()]);
    with_other.run(&join).fails(5, "holds another cluster key");
    keyed.run(["status"]).ok();
    let nodes = keyed.run(["node", "ls", "--json"]).ok().json();
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(3));
    let authority = keyed.run(["key", "ca"]).ok().text();
    assert!(authority.starts_with("-----BEGIN CERTIFICATE-----"), "{authority}");
    cairn.run(["key", "ca"]).fails(2, "no key is given");

    // The other way round.
    let open =
        TestCluster::start_beside(program(), &Setup { nodes: 1, voters: 1, ..Setup::default() });
    let keyed = cairn.with(["--endpoints", &open.endpoints().join(",")]);
    let with_other = keyed.with(["--cluster-key".as_ref(), other.as_os_str()]);
    with_other.run(["ls"]).fails(1, "uses no cluster key").hints("leave the key out");
}

#[test]
fn other_addresses_than_loopback_want_a_key() {
    let cairn = Cairn::new(program());
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let start = [
        "node",
        "start",
        "--bootstrap",
        "--rack",
        "r",
        "--capacity",
        "1GiB",
        "--listen",
        "0.0.0.0:0",
        "--advertise",
        "somewhere:7400",
        "--data",
    ];
    let start: Vec<_> = start.iter().map(AsRef::as_ref).chain([data.as_os_str()]).collect();
    cairn.run(&start).fails(2, "without a key");
    assert!(!data.exists(), "refused, and yet the directory was made");
    cairn.run(["status", "-e", "192.0.2.1:7400"]).fails(2, "not loopback").hints("--cluster-key");
    let bad = directory.path().join("bad");
    std::fs::write(&bad, "not a key\n").expect("write a file");
    cairn.run(args(&[&"status", &"--cluster-key", &bad])).fails(2, "key").hints("cairn key new");
    let missing = directory.path().join("missing");
    cairn.run(args(&[&"status", &"--cluster-key", &missing])).fails(2, "missing");
    cairn.run(["status", "--cluster-key", "/dev/zero"]).fails(2, "longer than 4096 bytes");
    // What talks to no cluster does not mind.
    let elsewhere = cairn.clone().with_variable("CAIRN_CLUSTER_KEY", &missing);
    elsewhere.run(["help", "exit-codes"]).ok();
    elsewhere.run(["version"]).ok();
    elsewhere.run(args(&[&"key", &"new", &missing])).ok();
    std::fs::set_permissions(&missing, PermissionsExt::from_mode(0o644)).expect("open it up");
    let said = elsewhere.run(["status", "--endpoints", "127.0.0.1:1", "--timeout", "1s"]).ends(5);
    assert!(said.stderr.contains("chmod 600"), "{}", said.stderr);
}
