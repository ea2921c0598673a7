//! Writes a range of one file of a checkpoint to stdout, each byte verified:
//!
//! ```text
//! cargo run -p cairn-client --example read_range -- 127.0.0.1:7400 team/run7@latest model 0 4096
//! ```

use std::error::Error;
use std::io::Write;

use cairn_client::stream::TryStreamExt;
use cairn_client::{Address, Client};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, address, file, start, end] = &arguments[..] else {
        return Err("usage: read_range ENDPOINT ADDRESS FILE START END".into());
    };
    let client = Client::builder().endpoints([endpoint]).connect().await?;
    let address: Address = address.parse()?;
    let (start, end): (u64, u64) = (start.parse()?, end.parse()?);
    // `open` instead of `stream` gives an `AsyncRead` and `AsyncSeek`.
    let mut chunks = client.reader(&address, file).range(start..end).stream().await?;
    while let Some(chunk) = chunks.try_next().await? {
        std::io::stdout().write_all(&chunk)?;
    }
    Ok(())
}
