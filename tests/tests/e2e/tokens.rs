//! A client with a token has that token's rights, in its namespaces, and no others: also where it
//! speaks to the nodes by itself.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use cairn_client::stream::TryStreamExt;
use cairn_client::{Authority, Token};
use cairn_host::credentials::{Credentials, showing};
use cairn_host::dial::TcpDialer;
use cairn_host::seam::{Dialer, Transport};
use cairn_host::tls::{ClusterKey, Trust};
use cairn_proto::refused::refusal_of;
use cairn_proto::wire;
use cairn_proto::wire::catalogue_client::CatalogueClient;
use cairn_proto::wire::raft_client::RaftClient;
use cairn_proto::wire::segments_client::SegmentsClient;
use cairn_tests::cluster::{Setup, TestCluster};
use cairn_tests::command::Cairn;
use cairn_tests::files;
use cairn_types::command::{self, Body, Command, DeleteReason, Refusal};
use cairn_types::convert::{digest_to_wire, encode_command, reply_from_wire};
use cairn_types::ids::{Address, Attempt, CheckpointId, RequestId, Step};
use cairn_types::model::PolicyChange;
use cairn_types::rights::Subject;
use tonic::{Code, Status};

use crate::{args, program};

/// A keyed cluster that takes tokens, and what its operators have.
pub(crate) struct Keyed {
    pub(crate) cluster: TestCluster,
    operator: Cairn,
    keys: tempfile::TempDir,
}

impl Keyed {
    pub(crate) fn start() -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let (key, issuer) = (keys.path().join("key"), keys.path().join("issuer"));
        Cairn::new(program()).run(args(&[&"key", &"new", &key])).ok();
        let setup = Setup { key: Some(key), ..Setup::default() };
        let cluster = TestCluster::start_as(program(), &setup);
        let operator = cluster.cairn();
        operator.run(args(&[&"token", &"init", &issuer])).ok();
        std::fs::write(keys.path().join("ca"), operator.run(["key", "ca"]).ok().text())
            .expect("write the authority");
        Self { cluster, operator, keys }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.keys.path().join(name)
    }

    /// Makes a token of this name.
    pub(crate) fn token(&self, name: &str, flags: &[&str]) -> Cairn {
        let (issuer, out) = (self.file("issuer"), self.file(name));
        let mut new = args(&[&"token", &"new", &"--issuer", &issuer, &"--out", &out]);
        new.extend(flags.iter().map(OsStr::new));
        Cairn::new(program()).run(new).ok();
        self.holder(name)
    }

    /// The binary with a token and the authority, without the key.
    fn holder(&self, name: &str) -> Cairn {
        let endpoints = self.cluster.endpoints().join(",");
        let cairn = Cairn::new(program()).with(["--endpoints", &endpoints]);
        cairn.with(args(&[&"--cluster-ca", &self.file("ca"), &"--token-file", &self.file(name)]))
    }

    /// A connection of its own to a node, with a token.
    fn transport(&self, node: usize, token: &str, about: Option<CheckpointId>) -> Transport {
        let address = self.cluster.nodes()[node].address.to_string();
        let authority = Authority::load(&self.file("ca")).expect("read the authority");
        let token = Token::load(&self.file(token)).expect("read a token");
        let _runtime = self.cluster.runtime().enter();
        let dialer = TcpDialer::trusting(Some(Trust::Authority(authority)));
        let shown = Credentials::new(&token, true);
        showing(dialer.dial(&address), &address, Some(&shown), about)
    }

    /// What a node answers to a command, whoever it says it is of.
    fn execute(
        &self,
        node: usize,
        token: &str,
        body: Body,
        forward: bool,
    ) -> Result<(), Option<Refusal>> {
        let request = RequestId(u128::from(rand_number(&body)));
        let subject = Subject::Key;
        let command = Command { subject, ..Command::new(request, 0, 0, body) };
        let message = wire::ExecuteRequest {
            command: encode_command(&command),
            forward,
            deadline_ms: 20_000,
            ..Default::default()
        };
        let mut client = CatalogueClient::new(self.transport(node, token, None));
        match self.cluster.run(client.execute(message)) {
            Err(status) => Err(refusal_of(&status)),
            Ok(reply) => {
                let reply = reply.into_inner().reply.expect("a reply");
                match reply_from_wire(reply).expect("a reply that reads").refusal() {
                    Some(refusal) => Err(Some(refusal.clone())),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Another number for another command.
fn rand_number(body: &Body) -> u64 {
    let hash = blake3::hash(format!("{body:?}").as_bytes());
    u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("eight bytes")) | 1
}

fn begin(namespace: &str, step: u64, replace: bool) -> Body {
    Body::Begin(command::Begin {
        namespace: namespace.parse().expect("a namespace"),
        step: Step(step),
        parts: 1,
        attempt: Some(Attempt(7)),
        change: PolicyChange::default(),
        replace,
        labels: BTreeMap::new(),
        client: "anybody".to_owned(),
        job: String::new(),
    })
}

fn delete(checkpoint: CheckpointId) -> Body {
    Body::Delete(command::Delete {
        checkpoint,
        reason: DeleteReason::Asked,
        now: true,
        force: true,
        policy_version: None,
        by: String::new(),
    })
}

fn address(text: &str) -> Address {
    text.parse().expect("an address")
}

fn bytes_contain(directory: &Path, needle: &str) -> bool {
    files::list(directory).iter().any(|path| {
        let bytes = std::fs::read(directory.join(path)).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    })
}

#[test]
fn du_says_whose_the_bytes_are_but_to_a_limited_reader_only_what_it_may_read() {
    let keyed = Keyed::start();
    let (operator, source) = (&keyed.operator, keyed.cluster.scratch("source"));
    files::checkpoint(&source, 6 << 20, 1);
    let rights = ["--subject", "eval", "--right", "read", "--namespace", "team/"];
    let reader = keyed.token("eval", &rights);
    let du = |cairn: &Cairn| cairn.run(["du", "--json"]).ok().json()["namespaces"].clone();
    operator.run(args(&[&"put", &source, &"team/run@1"])).ok();
    let (alone, limited) = (du(operator), du(&reader));
    let stored = alone[0]["stored_bytes"].as_u64().expect("bytes");
    assert!(stored > 5 << 20, "{alone}");
    assert_eq!(alone[0]["unique_bytes"], stored, "{alone}");
    assert_eq!(limited[0]["stored_bytes"], stored, "{limited}");
    assert!(limited[0]["unique_bytes"].is_null(), "{limited}");

    // The same bytes in another namespace: the reader cannot tell.
    operator.run(args(&[&"put", &source, &"other/run@1"])).ok();
    let both = du(operator);
    for at in [0, 1] {
        assert_eq!(both[at]["unique_bytes"], 0, "{both}");
        assert_eq!(both[at]["shared_bytes"], stored, "{both}");
    }
    assert_eq!(du(&reader), limited);

    operator.run(["rm", "other/run@1"]).ok();
    let trash = operator.run(["du", "other", "--json"]).ok().json()["namespaces"].clone();
    assert_eq!(trash[0]["checkpoints"], 0, "{trash}");
    assert_eq!(
        (&trash[0]["trash_checkpoints"], &trash[0]["trash_bytes"]),
        (&1.into(), &stored.into())
    );
    assert_eq!(du(&reader), limited);
    assert_eq!(operator.run(["du", "nothing"]).ok().text(), "");
    let writer =
        keyed.token("ci", &["--subject", "ci", "--right", "write", "--namespace", "team/"]);
    writer.run(["du"]).fails(4, "ci may not read");
}

#[test]
fn a_stolen_write_token_can_neither_delete_nor_overwrite_nor_read_nor_learn_of_others() {
    let keyed = Keyed::start();
    let ci = keyed.token("ci", &["--subject", "ci", "--right", "write", "--namespace", "team/"]);
    let source = keyed.cluster.scratch("source");
    files::checkpoint(&source, 6 << 20, 1);
    // What it is for, without the key and without a right to read.
    ci.run(args(&[&"put", &source, &"team/run@1", &"--wait", &"full"])).ok();
    ci.run(args(&[&"put", &source, &"team/run@1"])).ok();
    let secret = keyed.cluster.scratch("secret");
    files::checkpoint(&secret, 5 << 20, 2);
    keyed.operator.run(args(&[&"put", &secret, &"other/secret@1", &"--wait", &"full"])).ok();

    // From here on the token is stolen. It deletes nothing and overwrites nothing.
    let refused = |arguments: &[&str], text: &str| {
        ci.run(arguments).fails(4, text);
    };
    refused(&["rm", "team/run@1"], "ci may not delete in team/run");
    refused(&["rm", "other/secret@1", "--now"], "ci may not read in other/secret");
    ci.run(args(&[&"put", &secret, &"team/run@1", &"--replace"]))
        .fails(4, "ci may not delete in team/run");
    ci.run(args(&[&"put", &source, &"other/secret@2"])).fails(4, "may not");
    refused(&["policy", "set", "team/run", "--keep-last", "1"], "ci may not");
    refused(&["node", "remove", "1"], "ci may not operate");
    refused(&["token", "ls"], "ci may not operate");
    refused(&["token", "require", "on"], "ci may not operate");
    ci.run(args(&[&"token", &"init", &keyed.file("own")])).fails(4, "ci may not set issuer");
    // It reads nothing and learns of nothing.
    let out = keyed.cluster.scratch("out");
    ci.run(args(&[&"get", &"other/secret@1", &out])).fails(4, "may not read in other/secret");
    ci.run(args(&[&"get", &"other/nothing@1", &out])).fails(4, "may not read in other/nothing");
    refused(&["ls"], "ci may not read");
    refused(&["ref", "ls", "other/secret"], "ci may not read");
    let status = ci.run(["status", "--json"]).ok();
    assert!(!status.text().contains("secret"), "{}", status.text());
    assert_eq!(status.json()["checkpoints_committed"], 0, "{}", status.text());
    assert_eq!(status.json()["limited"], true);

    by_its_own_program(&keyed);
    // In its own namespace what is another's looks like what is not there.
    keyed.operator.run(args(&[&"put", &secret, &"team/run@40", &"--wait", &"full"])).ok();
    for there in ["team/run@40", "team/run@41", "team/run@latest", "team/run@no-ref"] {
        ci.run(args(&[&"get", &there, &out])).fails(3, "no checkpoint");
    }
    keyed.operator.run(["rm", "team/run@40", "--now", "--force"]).ok();

    // All is as it was.
    let listed = keyed.operator.run(["ls", "--json"]).ok().json();
    assert_eq!(listed["checkpoints"].as_array().map(Vec::len), Some(2), "{listed}");
    keyed.operator.run(["get", "team/run@1", "--verify-only"]).ok();
    keyed.operator.run(["get", "other/secret@1", "--verify-only"]).ok();
    keyed.operator.run(["status"]).ok();

    // Once it is revoked, it is good for nothing.
    let file = keyed.file("ci");
    keyed.operator.run(args(&[&"token", &"revoke", &file, &"--reason", &"stolen"])).ok();
    ci.run(args(&[&"put", &source, &"team/run@3"])).fails(4, "is revoked");
    let listed = keyed.operator.run(["token", "ls"]).ok().text();
    assert!(listed.contains("stolen"), "{listed}");
    // It is in no log and in no node's directory.
    let text = std::fs::read_to_string(&file).expect("read the token");
    for node in keyed.cluster.nodes() {
        assert!(!bytes_contain(&node.data, text.trim()), "{}", node.data.display());
        let log = std::fs::read_to_string(&node.log).expect("read a log");
        assert!(!log.contains("cairn-token-1."), "{log}");
    }
}

/// What a thief would try with a program of its own.
fn by_its_own_program(keyed: &Keyed) {
    let cluster = &keyed.cluster;
    let resolve = |text: &str| {
        cluster.run(cluster.client().resolve(&address(text))).expect("an operator resolves")
    };
    let (own, secret) = (resolve("team/run@1"), resolve("other/secret@1"));
    let leader = cluster.leader();
    let follower = (leader + 1) % cluster.nodes().len();
    // It may say that it is anybody: what its token proves counts, at the leader as behind another node.
    for (node, forward) in [(leader, false), (follower, true)] {
        let step = 50 + u64::from(forward);
        let execute = |body| keyed.execute(node, "ci", body, forward);
        let unknown = Err(Some(Refusal::UnknownCheckpoint(secret.id)));
        assert_eq!(execute(delete(secret.id)), unknown, "forward: {forward}");
        let not_allowed = execute(delete(own.id));
        assert!(matches!(not_allowed, Err(Some(Refusal::NotAllowed { .. }))), "{not_allowed:?}");
        for body in [begin("other/x", step, false), begin("team/run", step, true)] {
            let not_allowed = execute(body);
            assert!(matches!(not_allowed, Err(Some(Refusal::NotAllowed { .. }))));
        }
        execute(begin("team/run", step, false)).expect("what it may do it may do here too");
    }
    // Its uploads are in its name, whatever they said.
    let listed = cluster.client().list(None, true).try_collect::<Vec<_>>();
    let mut open = cluster.run(listed).expect("list");
    open.retain(|it| it.step.0 >= 50);
    assert_eq!(open.len(), 2);
    for upload in open {
        assert_eq!(upload.began.subject, "ci");
        let aborted = cluster.client().abort_upload(&upload.namespace, upload.step, true);
        cluster.run(aborted).expect("an operator ends it");
    }

    // A digest gives it nothing, whatever checkpoint it names.
    let shown = cluster.run(cluster.client().show(&address("other/secret@1"))).expect("show");
    let digest = digest_to_wire(&shown.segments[0].digest);
    for about in [None, Some(own.id), Some(secret.id)] {
        for node in 0..cluster.nodes().len() {
            let transport = keyed.transport(node, "ci", about);
            let message = wire::LocateRequest {
                digests: vec![digest.clone()],
                deadline_ms: 5_000,
                ..Default::default()
            };
            let located = cluster.run(CatalogueClient::new(transport.clone()).locate(message));
            let located = located.expect("an answer").into_inner().segments;
            assert_eq!(located, [wire::Located::default()], "about {about:?}");
            let message = wire::GetRequest { digest: digest.clone(), ..Default::default() };
            let got = cluster.run(SegmentsClient::new(transport).get(message));
            let refused = got.map(|_| ()).expect_err("no bytes");
            assert!(refusal_of(&refused).is_some(), "{refused}");
        }
    }
    // Nor with a right to read in another namespace.
    keyed.token("reader", &["--subject", "r", "--right", "read", "--namespace", "team"]);
    let transport = keyed.transport(leader, "reader", Some(secret.id));
    let message = wire::GetRequest { digest, ..Default::default() };
    let got = cluster.run(SegmentsClient::new(transport).get(message));
    assert_eq!(got.map(|_| ()).expect_err("no bytes").code(), Code::NotFound);
    // It is no node.
    let transport = keyed.transport(leader, "ci", None);
    let vote =
        cluster.run(RaftClient::new(transport.clone()).vote(wire::RaftVoteRequest::default()));
    let forwarded = wire::ExecuteRequest::default();
    let forwarded = cluster.run(CatalogueClient::new(transport).execute_forwarded(forwarded));
    let refused = |status: Status| refusal_of(&status).map(|it| it.to_string()).unwrap_or_default();
    assert!(refused(vote.expect_err("no vote")).contains("speak for a node"));
    assert!(refused(forwarded.expect_err("no node")).contains("speak for a node"));
}

#[test]
fn a_token_is_narrowed_by_its_holder_and_may_be_all_that_is_taken() {
    let keyed = Keyed::start();
    let flags = ["--subject", "ana", "--right", "read,write,delete", "--namespace", "team/"];
    let ana = keyed.token("ana", &flags);
    let source = keyed.cluster.scratch("source");
    files::checkpoint(&source, 2 << 20, 1);
    ana.run(args(&[&"put", &source, &"team/run@1", &"--wait", &"full"])).ok();
    ana.run(args(&[&"put", &source, &"team/other@1", &"--wait", &"full"])).ok();
    let narrow = ["token", "attenuate", "--right", "read", "--namespace", "team/run"];
    let mut narrow: Vec<&OsStr> = narrow.iter().map(OsStr::new).collect();
    let out = keyed.file("narrow");
    narrow.extend(args(&[&"--out", &out]));
    ana.run(narrow).ok();
    let narrow = keyed.holder("narrow");
    let out = keyed.cluster.scratch("out");
    narrow.run(args(&[&"get", &"team/run@1", &out])).ok();
    files::assert_same(&source, &out);
    let listed = narrow.run(["ls", "--json"]).ok().json();
    assert_eq!(listed["checkpoints"].as_array().map(Vec::len), Some(1), "{listed}");
    narrow.run(["get", "team/other@1", "--verify-only"]).fails(4, "may not read in team/other");
    narrow.run(args(&[&"put", &source, &"team/run@2"])).fails(4, "may not write in team/run");
    let wider = ["token", "attenuate", "--right", "delete"];
    narrow.run(wider).fails(2, "gives more than the block before it");
    // From the environment and from a command it is the same token.
    let text = std::fs::read_to_string(keyed.file("narrow")).expect("read a token");
    let bare = || {
        let endpoints = keyed.cluster.endpoints().join(",");
        let cairn = Cairn::new(program()).with(["--endpoints", &endpoints]);
        cairn.with(args(&[&"--cluster-ca", &keyed.file("ca")]))
    };
    bare().with_variable("CAIRN_TOKEN", text.trim()).run(["ls", "team/run"]).ok();
    let command = format!("cat {}", keyed.file("narrow").display());
    bare().with_variable("CAIRN_TOKEN_COMMAND", command).run(["ls", "team/run"]).ok();
    bare().run(["ls"]).fails(1, "or a token");
    bare().with_variable("CAIRN_TOKEN", "cairn-token-1.AA").run(["ls"]).fails(2, "malformed token");
    // A token of an issuer that the cluster does not know.
    let foreign = ClusterKey::generate();
    let (other, forged) = (keyed.file("foreign"), keyed.file("forged"));
    std::fs::write(&other, format!("cairn-issuer-key-1.{foreign}")).expect("write");
    let mut new = args(&[&"token", &"new", &"--out", &forged, &"--issuer"]);
    new.extend(args(&[&other, &"--subject", &"ana", &"--right", &"operate"]));
    new.push("--every-namespace".as_ref());
    Cairn::new(program()).run(new).ok();
    keyed.holder("forged").run(["ls"]).fails(4, "no issuer of this cluster");

    // Where tokens are required, the key alone is a node's.
    keyed.operator.run(["token", "require", "on"]).ok();
    keyed.operator.run(["ls"]).fails(4, "this cluster wants one");
    keyed.operator.run(["rm", "team/run@1"]).fails(4, "this cluster wants one");
    keyed.operator.run(["token", "ls"]).ok();
    ana.run(args(&[&"put", &source, &"team/run@3", &"--wait", &"full"])).ok();
    let root =
        keyed.token("root", &["--subject", "root", "--right", "operate", "--every-namespace"]);
    root.run(["rm", "team/run@3"]).ok();
    root.run(["status"]).ok();
    keyed.operator.run(["token", "require", "off"]).ok();
    keyed.operator.run(["ls"]).ok();
    // An issuer that goes takes its tokens along.
    keyed.operator.run(["token", "rm-issuer", "operators"]).ok();
    ana.run(["ls"]).fails(4, "no issuer of this cluster");
}

/// Nodes have the key and no token: they go on repairing, and find each other.
#[test]
fn where_tokens_are_required_nodes_catch_up_and_many_files_are_sealed() {
    let mut keyed = Keyed::start();
    let flags = ["--subject", "ana", "--right", "read,write", "--namespace", "team/"];
    let ana = keyed.token("ana", &flags);
    let away = (keyed.cluster.leader() + 1) % keyed.cluster.nodes().len();
    keyed.operator.run(["token", "require", "on"]).ok();
    keyed.cluster.node(away).kill().expect("kill a node");
    // Its manifest is too long to be kept in the catalogue.
    let many = keyed.cluster.scratch_directory("many");
    for number in 0..1_501 {
        std::fs::write(many.join(format!("{number}")), format!("{number}")).expect("write a file");
    }
    ana.run(args(&[&"put", &many, &"team/run@1"])).ok();
    keyed.cluster.node(away).start().expect("start it again");
    // Only the other nodes can give it its replicas.
    ana.run(["wait", "team/run@1", "--for", "full", "--wait-timeout", "120s"]).ok();
    let out = keyed.cluster.scratch("out");
    ana.run(args(&[&"get", &"team/run@1", &out])).ok();
    files::assert_same(&many, &out);
}

#[test]
fn a_token_is_not_sent_in_clear() {
    let keys = tempfile::tempdir().expect("a directory");
    let (issuer, token) = (keys.path().join("issuer"), keys.path().join("token"));
    let key = ClusterKey::generate();
    std::fs::write(&issuer, format!("cairn-issuer-key-1.{key}")).expect("write a key");
    let cairn = Cairn::new(program());
    let new = ["--subject", "x", "--right", "read", "--namespace", "a", "--out"];
    let mut arguments = args(&[&"token", &"new", &"--issuer", &issuer]);
    arguments.extend(new.iter().map(OsStr::new));
    arguments.extend(args(&[&token]));
    cairn.run(arguments).ok();
    let ls = args(&[&"ls", &"-e", &"192.0.2.7", &"--insecure", &"--token-file", &token]);
    cairn.run(ls).fails(2, "a token is not sent in clear");
}
