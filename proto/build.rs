//! Compiles the services with protox, so that no protoc is needed. Their messages are those of
//! cairn-types.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("types/proto");
    println!("cargo:rerun-if-changed=types/proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("cairn/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    let descriptors = protox::compile(&files, [root])?;
    tonic_prost_build::configure()
        .extern_path(".cairn.v1", "::cairn_types::wire")
        .compile_fds(descriptors)?;
    Ok(())
}
