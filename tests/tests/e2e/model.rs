//! The real model of the issue: `CAIRN_TEST_MODEL`, or the one beside the workspace; without
//! either, a generated file of the same size and a like mix of tensors.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cairn_tests::chance::Chance;
use cairn_tests::cluster::TestCluster;
use cairn_tests::files;
use serde_json::Value;

use crate::{args, program};

const BESIDE_WORKSPACE: &str = "../shared/data/all-minilm-l6-v2.safetensors";
/// A manifest of one file with some hundred tensors stays below this.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// A directory with the model in it, writable.
fn model(cluster: &TestCluster) -> PathBuf {
    let directory = cluster.scratch_directory("model");
    let file = directory.join("model.safetensors");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned();
    let given = std::env::var_os("CAIRN_TEST_MODEL").map(PathBuf::from);
    let found = given.unwrap_or_else(|| root.join(BESIDE_WORKSPACE));
    if found.is_file() {
        eprintln!("model: the real one, {}", found.display());
        std::fs::copy(&found, &file).expect("copy the model");
    } else {
        eprintln!("model: a generated one, for want of {}", found.display());
        files::safetensors(&file, &like_the_real_one(), 7);
    }
    directory
}

/// Half of the bytes in one tensor, the rest in six layers of matrices and vectors.
fn like_the_real_one() -> Vec<u64> {
    let width = 384 * 4;
    let mut tensors = vec![30_522 * width, 512 * width, 2 * width, width, width];
    for _ in 0..6 {
        for rows in [384, 384, 384, 384, 1536, 1536] {
            tensors.extend([rows * width, width]);
        }
    }
    tensors
}

#[test]
fn a_model_survives_its_leader_and_is_stored_once() {
    let mut cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let model = model(&cluster);
    let len = files::total_len(&model);

    let put = |step: &str| {
        let address = format!("minilm/fine-tune@{step}");
        cairn.run(args(&[&"put", &model, &address, &"--wait", &"full", &"--json"])).ok().json()
    };
    let first = put("1000");
    assert_eq!(first["bytes"], len);
    assert!(number(&first, "bytes_sent") >= len, "{first}");

    let leader = cluster.leader();
    cluster.node(leader).kill().expect("kill the leader");
    let restored = cluster.scratch("restored");
    cairn.run(args(&[&"get", &"minilm/fine-tune@1000", &restored])).ok();
    files::assert_same(&model, &restored);
    cluster.node(leader).start().expect("start the node again");
    cluster.wait_healthy();

    // The same again: the nodes' own counters say that nothing came.
    let before = received(&cluster);
    let again = put("2000");
    let (segments, bytes) = (received(&cluster).0 - before.0, received(&cluster).1 - before.1);
    assert!(segments <= 3, "{segments} segments were received again: {again}");
    assert!(bytes <= 3 * MANIFEST_BYTES_MAX, "{bytes} bytes were received again: {again}");

    // A tenth of it changed.
    let changed = change_tensors(&model.join("model.safetensors"), len / 10);
    assert!(changed > len * 9 / 100, "only {changed} of {len} bytes were changed");
    let before = received(&cluster).1;
    let third = put("3000");
    let sent = number(&third, "bytes_sent");
    assert!(sent >= changed && sent * 100 <= len * 11, "{sent} of {len} bytes were sent");
    let received = received(&cluster).1 - before;
    assert!(received * 100 <= 3 * len * 11, "nodes received {received} bytes");
    eprintln!("model: {changed} of {len} bytes changed, {sent} sent");

    let restored = cluster.scratch("restored-3000");
    cairn.run(args(&[&"get", &"minilm/fine-tune@latest", &restored])).ok();
    files::assert_same(&model, &restored);
}

fn number(document: &Value, field: &str) -> u64 {
    document[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {document}"))
}

/// Segments and bytes that nodes received, from clients and from each other.
fn received(cluster: &TestCluster) -> (u64, u64) {
    (
        cluster.sum(|node| node.segments_received + node.segments_fetched),
        cluster.sum(|node| node.bytes_received + node.bytes_fetched),
    )
}

/// Changes randomly chosen tensors, all their bytes, up to `bytes_max`; returns how many bytes.
fn change_tensors(path: &Path, bytes_max: u64) -> u64 {
    let mut chance = Chance::of("change_tensors");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("open model");
    let mut len = [0; 8];
    (&file).read_exact(&mut len).expect("read the header's length");
    let header_len = u64::from_le_bytes(len);
    let mut header = vec![0; header_len as usize];
    (&file).read_exact(&mut header).expect("read the header");
    let header: Value = serde_json::from_slice(&header).expect("decode the header");
    let range = |tensor: &Value| {
        let offsets = tensor["data_offsets"].as_array()?;
        Some((offsets[0].as_u64()?, offsets[1].as_u64()?))
    };
    let tensors = header.as_object().expect("a header is a map").values();
    let mut tensors: Vec<(u64, u64)> = tensors.filter_map(range).collect();
    chance.shuffle(&mut tensors);
    let mut changed = 0;
    for (from, to) in tensors {
        if changed + (to - from) > bytes_max {
            continue;
        }
        let mut bytes = vec![0; (to - from) as usize];
        file.read_exact_at(&mut bytes, 8 + header_len + from).expect("read a tensor");
        bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
        file.write_all_at(&bytes, 8 + header_len + from).expect("change a tensor");
        changed += to - from;
    }
    changed
}
