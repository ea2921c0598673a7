//! Writes tensors as they come into being, as one file of a new checkpoint whose length is not known
//! before:
//!
//! ```text
//! cargo run -p cairn-client --example write_stream -- 127.0.0.1:7400 team/run7 1000 model.bin
//! ```

use std::error::Error;

use cairn_client::{Client, PutOptions, Step};
use tokio::io::AsyncWriteExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, namespace, step, file] = &arguments[..] else {
        return Err("usage: write_stream ENDPOINT NAMESPACE STEP FILE".into());
    };
    let client = Client::builder().endpoints([endpoint]).connect().await?;
    let options = PutOptions::new(namespace.parse()?, Step(step.parse()?));
    let mut writer = client.writer(options, file).await?;
    for layer in 0..100u64 {
        let tensor: Vec<u8> = (0..100_000 + layer).flat_map(u64::to_le_bytes).collect();
        // An error here drops the writer: nothing is committed.
        writer.write_all(&tensor).await?;
    }
    let report = writer.finish().await?;
    println!("{:?}: {} bytes in {} segments", report.outcome, report.bytes, report.segments);
    Ok(())
}
