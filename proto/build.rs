//! Compiles the services with protox, so that no protoc is needed. Their messages are those of
//! cairn-types.

use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("types/proto");
    println!("cargo:rerun-if-changed=types/proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("cairn/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    let descriptors = protox::compile(&files, [root])?;
    write_methods(&descriptors)?;
    tonic_prost_build::configure()
        .extern_path(".cairn.v1", "::cairn_types::wire")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The path of every method, for tables that must not leave one out.
fn write_methods(descriptors: &FileDescriptorSet) -> Result<(), Box<dyn std::error::Error>> {
    let mut paths = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let methods = service.method.iter();
            paths.extend(
                methods.map(|method| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                }),
            );
        }
    }
    paths.sort();
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("methods.rs");
    Ok(std::fs::write(out, format!("&{paths:?}"))?)
}
