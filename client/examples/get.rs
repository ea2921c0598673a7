//! Downloads a checkpoint into a directory:
//!
//! ```text
//! cargo run -p cairn-client --example get -- 127.0.0.1:7400 team/run7@latest restored
//! ```
//!
//! The nodes listen on loopback, or `CAIRN_CLUSTER_KEY` names the file with their key.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use cairn_client::{Address, Client, GetOptions, LocalSink};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, address, directory] = &arguments[..] else {
        return Err("usage: get ENDPOINT ADDRESS DIRECTORY".into());
    };
    let mut builder = Client::builder().endpoints([endpoint]);
    if let Some(path) = std::env::var_os("CAIRN_CLUSTER_KEY") {
        builder = builder.key_file(path);
    }
    let client = builder.connect().await?;
    let address: Address = address.parse()?;
    let sink = Arc::new(LocalSink::open(Path::new(directory))?);
    let report = client.get(&address, sink, GetOptions::default()).await?;
    println!("{}@{}", report.checkpoint.namespace, report.checkpoint.step);
    println!("{} files, {} of them were there", report.files, report.files_kept);
    Ok(())
}
