//! A checkpoint that was resolved once: its files, and reads of them. What an address such as `latest`
//! names may change; all files read from here are of one checkpoint.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::ids::Address;
use cairn_types::model::CheckpointInfo;
use futures::stream::BoxStream;
use tracing::Instrument;

use super::file::{FileReader, OpenFile};
use super::reader::Reader;
use super::{check_usable, targets};
use crate::cluster::{Answer, Client};
use crate::error::ClientError;
use crate::sink::{FileTarget, shown};

/// A checkpoint and its files; see [`Client::open`]. Cheap to clone.
#[derive(Clone)]
pub struct OpenCheckpoint {
    client: Client,
    reader: Arc<Reader>,
    info: Arc<CheckpointInfo>,
    files: Arc<[Arc<FileTarget>]>,
}

impl Client {
    /// Resolves an address and reads the list of files. File contents are fetched as they are read.
    /// A checkpoint in quarantine is an error unless `quarantined` allows it.
    pub fn open<'a>(
        &'a self,
        address: &'a Address,
        quarantined: bool,
    ) -> Answer<'a, OpenCheckpoint> {
        let span = tracing::info_span!("open", %address);
        let open = async move {
            let info = self.resolve(address).await?;
            check_usable(&info, quarantined)?;
            let manifests = self.part_manifests(&info, None).await?;
            let files = targets::targets(&manifests, |_| true)?.files;
            Ok(OpenCheckpoint {
                client: self.about(info.id),
                reader: Reader::new(self, &info),
                info: Arc::new(info),
                files: files.into_iter().map(Arc::new).collect(),
            })
        };
        Box::pin(open.instrument(span))
    }
}

impl OpenCheckpoint {
    /// The checkpoint, as it was when it was opened.
    pub fn info(&self) -> &CheckpointInfo {
        &self.info
    }

    /// All files of all parts, ascending by name, each name once.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &FileTarget> {
        self.files.iter().map(|file| &**file)
    }

    /// Starts to read a file at its beginning.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoSuchFile`]
    pub fn reader(&self, name: impl AsRef<[u8]>) -> Result<FileReader, ClientError> {
        self.file(name.as_ref()).map(FileReader::of)
    }

    /// Bytes of one file, in order, in chunks of at most 1 MiB, each verified before it is returned.
    /// Any number of ranges may be read at the same time.
    ///
    /// # Errors
    ///
    /// [`ClientError::NoSuchFile`], also for a range that ends behind the file.
    pub fn bytes(
        &self,
        name: impl AsRef<[u8]>,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ClientError>>, ClientError> {
        let file = self.file(name.as_ref())?;
        let len = file.target().len;
        if range.start > range.end || range.end > len {
            let Range { start, end } = range;
            let name = shown(name.as_ref());
            return Err(self.missing(format!("bytes {start}..{end} in {name} of {len} bytes")));
        }
        Ok(file.bytes(range))
    }

    fn file(&self, name: &[u8]) -> Result<Arc<OpenFile>, ClientError> {
        let found = self.files.binary_search_by(|file| file.name[..].cmp(name));
        let target = match found {
            Ok(place) => self.files[place].clone(),
            Err(_) => return Err(self.missing(shown(name))),
        };
        let (client, reader) = (self.client.clone(), self.reader.clone());
        Ok(Arc::new(OpenFile::new(client, reader, self.info.clone(), target)))
    }

    fn missing(&self, what: String) -> ClientError {
        let address = format!("{}@{}", self.info.namespace, self.info.step);
        ClientError::NoSuchFile { address, what }
    }
}
