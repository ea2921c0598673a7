//! Open-ended uploads, for the client of a story.

use std::collections::BTreeMap;

use cairn_client::{OpenUpload, UploadFile, UploadOptions};
use cairn_types::ids::{Attempt, Step};
use tokio::io::AsyncWriteExt;

use super::{Stage, Told, address, finish};
use crate::checkpoint_files::Files;
use crate::trace;

const KIB: usize = 1 << 10;

/// A writer of an upload.
pub struct Writer {
    step: u64,
    upload: OpenUpload,
}

impl Stage {
    /// Opens the upload of a step, or joins it.
    pub async fn open_upload(&self, step: u64, attempt: u64) -> Told<Writer> {
        let mut options = UploadOptions::new(address(step)?.namespace, Step(step));
        options.attempt = Some(Attempt(attempt));
        options.change = self.policy.clone();
        let open = |sdk: cairn_client::Client| async move { sdk.upload(options).await };
        let upload = finish(self.ask(open)?, "open upload").await?;
        upload.map(|upload| Writer { step, upload }).map_err(|error| error.to_string())
    }

    /// Writes a file of about this many half MiB. `read_all` expects it once the upload is closed.
    pub async fn write_file(&mut self, writer: &mut Writer, name: &str, halves: usize) -> Told {
        let (file, bytes) = self.begin_file(writer, name, halves).await?;
        let finished = |_| async move { file.finish().await };
        finish(self.ask(finished)?, "finish file").await?.map_err(|error| error.to_string())?;
        trace::count("client.files_streamed", 1);
        let drafts = self.drafts.entry(writer.step).or_default();
        drafts.insert(name.as_bytes().to_vec(), bytes.into());
        Ok(())
    }

    pub async fn discard_file(&mut self, writer: &mut Writer, name: &str, halves: usize) -> Told {
        let (file, _) = self.begin_file(writer, name, halves).await?;
        let discarded = |_| async move { file.discard().await };
        finish(self.ask(discarded)?, "discard file").await?.map_err(|error| error.to_string())
    }

    /// Begins a file, waits until some of it is staged, and leaves it.
    pub async fn leave_file(&mut self, writer: &mut Writer, name: &str, halves: usize) -> Told {
        let unsealed = self.unsealed(writer);
        // Tensors of 512 KiB are segments of their own: they are sent as soon as they are written.
        let (file, _) = self.begin_file(writer, name, halves).await?;
        self.until(|stage| stage.unsealed(writer) > unsealed).await?;
        drop(file);
        trace::count("client.files_left", 1);
        Ok(())
    }

    pub async fn remove_file(&mut self, writer: &mut Writer, name: &str) -> Told {
        let remove = writer.upload.remove(name);
        let removed = finish(self.ask(|_| remove)?, "remove file").await?;
        if !removed.map_err(|error| error.to_string())? {
            return Err(format!("{name} was not written by this writer"));
        }
        self.drafts.entry(writer.step).or_default().remove(name.as_bytes());
        Ok(())
    }

    /// Commits the upload, and compares the names of its files.
    pub async fn close_upload(&mut self, step: u64, writer: Writer) -> Told {
        let close = |_| async move { writer.upload.close().await };
        let closed = finish(self.ask(close)?, "close upload").await?;
        let closed = closed.map_err(|error| error.to_string())?;
        let files: Files = self.drafts.remove(&step).unwrap_or_default();
        let (_, catalogue) = self.cluster.newest();
        let parts = catalogue.checkpoint(closed.checkpoint).map_or(0, |it| it.parts.len());
        if parts != files.len() {
            let text = format!("step {step} has {parts} parts of one file, wants {}", files.len());
            self.world.violation("C2", text);
        }
        self.files.insert(step, files);
        Ok(())
    }

    async fn begin_file(
        &mut self,
        writer: &mut Writer,
        name: &str,
        halves: usize,
    ) -> Told<(UploadFile, Vec<u8>)> {
        let bytes = with_header(&self.chance.bytes(halves * 512 * KIB));
        let (file, content) = (writer.upload.file(name), bytes.clone());
        let write = async move {
            let mut file = file.await?;
            for piece in content.chunks(100 * KIB) {
                if let Err(error) = file.write_all(piece).await {
                    return Ok(Err(error.to_string()));
                }
            }
            Ok(Ok(file))
        };
        let written = finish(self.ask(|_| write)?, "write file").await?;
        Ok((written.map_err(|error| error.to_string())??, bytes))
    }

    /// Parts of the upload that have staged segments and are not sealed.
    fn unsealed(&self, writer: &Writer) -> usize {
        let (_, catalogue) = self.cluster.newest();
        let record = catalogue.checkpoint(writer.upload.checkpoint());
        let parts = record.iter().flat_map(|it| it.open.iter()).flat_map(|it| it.parts.values());
        parts.filter(|part| part.part.sealed.is_none() && !part.staged.is_empty()).count()
    }
}

/// A safetensors file of tensors of half a MiB, with a small one behind them, so that the last large
/// tensor is complete before the file ends.
fn with_header(data: &[u8]) -> Vec<u8> {
    let mut tensors = BTreeMap::new();
    let ends = (1..=data.len() / (512 * KIB)).map(|number| number * 512 * KIB);
    for end in ends {
        tensors.insert(format!("t{end}"), (end - 512 * KIB, end));
    }
    tensors.insert("last".to_owned(), (data.len(), data.len() + 1));
    let tensor = |(name, (from, to)): (&String, &(usize, usize))| {
        format!(
            "\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{}],\"data_offsets\":[{from},{to}]}}",
            to - from
        )
    };
    let header = format!("{{{}}}", tensors.iter().map(tensor).collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes.push(7);
    bytes
}
