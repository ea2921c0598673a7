//! A safetensors checkpoint made of random numbers, for `demo`, `bench` and tests: the shape of
//! a small transformer, so that it has large tensors, small ones and a real header.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, json};

/// Writes a file of at least `bytes_min` bytes; returns its length.
pub fn safetensors(path: &Path, bytes_min: u64, seed: u64) -> anyhow::Result<u64> {
    let tensors = tensors(bytes_min);
    let mut header = Map::new();
    let mut offset = 0_u64;
    for (name, rows, columns) in &tensors {
        let len = rows * columns * 2;
        header.insert(
            name.clone(),
            json!({"dtype": "BF16", "shape": [rows, columns], "data_offsets": [offset, offset + len]}),
        );
        offset += len;
    }
    let mut header = serde_json::to_vec(&header).context("encode header")?;
    while header.len() % 8 != 0 {
        header.push(b' ');
    }
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&(header.len() as u64).to_le_bytes()).context("write header")?;
    out.write_all(&header).context("write header")?;
    let mut random = SmallRng::seed_from_u64(seed);
    let mut piece = vec![0_u8; 1 << 20];
    let mut left = offset;
    while left > 0 {
        let count = left.min(piece.len() as u64) as usize;
        random.fill_bytes(&mut piece[..count]);
        out.write_all(&piece[..count]).context("write tensors")?;
        left -= count as u64;
    }
    let file = out.into_inner().context("write tensors")?;
    file.sync_all().with_context(|| format!("sync {}", path.display()))?;
    Ok(8 + header.len() as u64 + offset)
}

/// (name, rows, columns) of two-byte elements, in file order, at least `bytes_min` in all.
fn tensors(bytes_min: u64) -> Vec<(String, u64, u64)> {
    let width = 1024;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), 8192, width)];
    let mut bytes: u64 = 8192 * width * 2;
    let mut layer = 0;
    while bytes < bytes_min {
        for (name, rows, columns) in [
            ("self_attn.q_proj.weight", width, width),
            ("self_attn.k_proj.weight", width / 4, width),
            ("self_attn.v_proj.weight", width / 4, width),
            ("self_attn.o_proj.weight", width, width),
            ("mlp.gate_proj.weight", 4 * width, width),
            ("mlp.down_proj.weight", width, 4 * width),
            ("input_layernorm.weight", 1, width),
            ("post_attention_layernorm.weight", 1, width),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}"), rows, columns));
            bytes += rows * columns * 2;
        }
        layer += 1;
    }
    tensors
}
