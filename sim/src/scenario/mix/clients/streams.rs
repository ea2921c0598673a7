//! Puts whose files come one by one, through an open-ended upload.
//!
//! A client that died goes on in another life, as another writer of the same upload, while seals of the
//! first life may still be on their way to the catalogue. So each name has one content in all lives;
//! a name is written again with the same bytes, and what is discarded or removed is written again.

use cairn_client::{ClientError, OpenUpload, UploadOptions};
use cairn_types::ids::{Attempt, Step};
use tokio::io::AsyncWriteExt;

use super::writes::namespace;
use super::{Acting, Asked, address};
use crate::checkers::c1_history::VersionId;
use crate::checkpoint_files::Files;
use crate::trace;

/// So many puts are streamed.
const STREAMED: f64 = 0.25;
/// A file is discarded, written twice, or removed and written again this often.
const DISCARDED: f64 = 0.15;
const TWICE: f64 = 0.3;
const REMOVED: f64 = 0.2;

impl Acting {
    /// Whether the files of this version come one by one: the same for all lives of its client.
    pub(super) fn is_streamed(&self, name: &str, (step, attempt): VersionId) -> bool {
        if self.shared.plan.older != 0 {
            // While a node has an older build, such an upload is refused.
            return false;
        }
        let state = self.script.state.lock();
        state.together.fork(&format!("streamed {name}/{step}/{attempt}")).chance(STREAMED)
    }

    /// Writes all files, some of them more than once, and commits. Fine, too, if an earlier life has
    /// committed.
    pub(super) async fn stream(
        &self,
        name: &str,
        (step, attempt): VersionId,
        files: &Files,
        replace: bool,
    ) -> Result<(), ClientError> {
        let Ok(namespace) = namespace(name) else { return Err(ClientError::Cancelled) };
        let mut options = UploadOptions::new(namespace, Step(step));
        options.attempt = Some(Attempt(attempt));
        options.change = self.terms(name, (step, attempt));
        options.replace = replace;
        self.script.state.lock().streams.insert(step);
        let upload = match self.sdk.upload(options).await {
            Ok(upload) => upload,
            Err(ClientError::UploadOver { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        for (file, bytes) in files {
            let drawn = self.script.draw(|chance| {
                [chance.chance(DISCARDED), chance.chance(TWICE), chance.chance(REMOVED)]
            });
            let [discarded, twice, removed] = drawn;
            if discarded {
                let started = self.write_file(&upload, file, &bytes[..bytes.len() / 2]).await?;
                started.discard().await?;
                trace::count("client.files_discarded", 1);
            }
            self.write_file(&upload, file, bytes).await?.finish().await?;
            if removed {
                upload.remove(file).await?;
                trace::count("client.files_removed", 1);
            }
            if twice || removed {
                self.write_file(&upload, file, bytes).await?.finish().await?;
                trace::count("client.files_rewritten", u64::from(twice && !removed));
            }
        }
        upload.close().await?;
        trace::count("client.streams", 1);
        self.script.state.lock().streams.remove(&step);
        Ok(())
    }

    async fn write_file(
        &self,
        upload: &OpenUpload,
        name: &[u8],
        bytes: &[u8],
    ) -> Result<cairn_client::UploadFile, ClientError> {
        let mut file = upload.file(name).await?;
        if file.write_all(bytes).await.is_err() {
            // It says why.
            file.finish().await?;
            return Err(ClientError::Cancelled);
        }
        Ok(file)
    }

    /// Ends the uploads that no life of this client has closed: they would be kept for long.
    pub(super) async fn end_streams(&self) -> Result<(), String> {
        let name = self.script.namespace();
        let steps = self.script.state.lock().streams.clone();
        for step in steps {
            let namespace = address(&name, Asked::Step(step))?.namespace;
            match self.sdk.abort_upload(&namespace, Step(step), true).await {
                Ok(_) => trace::count("client.streams_aborted", 1),
                // It was closed, fenced, or aborted by a rollback.
                Err(error) if error.kind() == cairn_client::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("abort {name}@{step}: {error}")),
            }
        }
        self.script.state.lock().streams.clear();
        Ok(())
    }
}
