//! Uploads a directory as one checkpoint:
//!
//! ```text
//! cargo run -p cairn-client --example put -- 127.0.0.1:7400 team/run7 1000 out/step-1000
//! ```
//!
//! The nodes listen on loopback, or `CAIRN_CLUSTER_KEY` names the file with their key.

use std::error::Error;
use std::sync::Arc;

use cairn_client::{Client, LocalSource, PutOptions, Step};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, namespace, step, directory] = &arguments[..] else {
        return Err("usage: put ENDPOINT NAMESPACE STEP DIRECTORY".into());
    };
    let mut builder = Client::builder().endpoints([endpoint]);
    if let Some(path) = std::env::var_os("CAIRN_CLUSTER_KEY") {
        builder = builder.key_file(path);
    }
    let client = builder.connect().await?;
    let source = Arc::new(LocalSource::scan(&[directory.into()])?);
    let options = PutOptions::new(namespace.parse()?, Step(step.parse()?));
    let report = client.put(source, options).await?;
    println!("{:?}", report.outcome);
    println!("{} files, {} bytes, {} bytes sent", report.files, report.bytes, report.bytes_sent);
    Ok(())
}
