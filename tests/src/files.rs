//! Trees of files: made from a seed, compared by digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Writes `len` random bytes without holding them.
pub fn random_file(path: &Path, len: u64, seed: u64) {
    let mut out = BufWriter::with_capacity(1 << 20, create(path));
    write_random(&mut out, len, &mut SmallRng::seed_from_u64(seed));
    out.flush().expect("write a file");
}

fn write_random(out: &mut impl Write, mut left: u64, random: &mut SmallRng) {
    let mut piece = vec![0; 1 << 20];
    while left > 0 {
        let count = left.min(piece.len() as u64) as usize;
        random.fill_bytes(&mut piece[..count]);
        out.write_all(&piece[..count]).expect("write a file");
        left -= count as u64;
    }
}

/// A safetensors file with tensors of these lengths.
pub fn safetensors(path: &Path, tensors: &[u64], seed: u64) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (index, len) in tensors.iter().enumerate() {
        let entry = serde_json::json!({
            "dtype": "U8", "shape": [len], "data_offsets": [end, end + len],
        });
        header.insert(format!("layer.{index:05}.weight"), entry);
        end += len;
    }
    let header = serde_json::to_vec(&header).expect("encode a header");
    let mut out = BufWriter::with_capacity(1 << 20, create(path));
    out.write_all(&(header.len() as u64).to_le_bytes()).expect("write a file");
    out.write_all(&header).expect("write a file");
    write_random(&mut out, end, &mut SmallRng::seed_from_u64(seed));
    out.flush().expect("write a file");
}

/// A checkpoint directory of about `bytes`: tensors of 0.5 to 3 MiB, and a small file.
pub fn checkpoint(directory: &Path, bytes: u64, seed: u64) {
    std::fs::create_dir_all(directory).expect("make a directory");
    let mut tensors = Vec::new();
    let mut left = bytes;
    for index in 0.. {
        let len = ((index % 6 + 1) * (512 << 10)).min(left);
        tensors.push(len);
        left -= len;
        if left == 0 {
            break;
        }
    }
    safetensors(&directory.join("model.safetensors"), &tensors, seed);
    std::fs::write(directory.join("config.json"), format!("{{\"seed\": {seed}}}\n"))
        .expect("write config.json");
}

fn create(path: &Path) -> File {
    File::create(path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()))
}

pub fn digest(path: &Path) -> blake3::Hash {
    let mut file =
        File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).expect("read a file") {
            0 => return hasher.finalize(),
            count => hasher.update(&piece[..count]),
        };
    }
}

/// Every file below `root`, by its path there.
pub fn list(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = std::fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("list {}: {error}", directory.display()));
        for entry in entries {
            let entry = entry.expect("list a directory");
            if entry.file_type().expect("look at a file").is_dir() {
                pending.push(entry.path());
            } else {
                let path = entry.path();
                found.push(path.strip_prefix(root).expect("a path below its root").to_owned());
            }
        }
    }
    found.sort();
    found
}

pub fn digests(root: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    list(root).into_iter().map(|name| (name.clone(), digest(&root.join(name)))).collect()
}

/// The same files with the same bytes.
#[track_caller]
pub fn assert_same(original: &Path, restored: &Path) {
    let (wanted, found) = (list(original), list(restored));
    assert!(
        wanted == found,
        "{} files restored to {}, {} wanted; first difference: {:?}",
        found.len(),
        restored.display(),
        wanted.len(),
        wanted.iter().zip(&found).find(|(wanted, found)| wanted != found)
    );
    for name in wanted {
        let (left, right) = (digest(&original.join(&name)), digest(&restored.join(&name)));
        assert_eq!(left, right, "{} differs", name.display());
    }
}

/// [`assert_same`], but for what is below names at the top that begin with `prefix`.
#[track_caller]
pub fn assert_same_but(original: &Path, restored: &Path, prefix: &str) {
    let mut found = list(restored);
    found.retain(|name| !name.to_string_lossy().starts_with(prefix));
    assert_eq!(list(original), found);
    for name in found {
        let (left, right) = (digest(&original.join(&name)), digest(&restored.join(&name)));
        assert_eq!(left, right, "{} differs", name.display());
    }
}

pub fn total_len(root: &Path) -> u64 {
    let len = |name: PathBuf| std::fs::metadata(root.join(name)).map_or(0, |found| found.len());
    list(root).into_iter().map(len).sum()
}

/// Bytes that a tree's files take on the disk: what has been written of files whose length is
/// set in advance.
pub fn written_len(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut written = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => pending.push(entry.path()),
                Ok(found) => written += found.blocks() * 512,
                // Renamed meanwhile.
                Err(_) => {}
            }
        }
    }
    written
}
