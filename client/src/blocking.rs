//! The client for programs that are not async: scripts, foreign languages, plain threads. It has a
//! small tokio runtime of its own. Each call blocks the calling thread.
//!
//! It also works within another runtime. There a call blocks one thread of that runtime, so async
//! code should use [`crate::Client`].
//!
//! ```no_run
//! use std::io::{Read, Write};
//!
//! use cairn_client::{PutOptions, Step, blocking};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let builder = cairn_client::Client::builder().endpoints(["127.0.0.1:7400"]);
//!     let client = blocking::Client::connect(builder)?;
//!     let mut writer = client.writer(PutOptions::new("team/run7".parse()?, Step(1)), "model")?;
//!     writer.write_all(b"weights")?;
//!     writer.finish()?;
//!     let mut weights = String::new();
//!     client.reader(&"team/run7@latest".parse()?, "model", ..)?.read_to_string(&mut weights)?;
//!     Ok(())
//! }
//! ```

use std::io::{self, SeekFrom};
use std::ops::RangeBounds;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cairn_types::ids::{Address, Namespace};
use cairn_types::model::CheckpointInfo;
use futures::stream::{BoxStream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::runtime::{Handle, Runtime};

use crate::builder::{ClientBuilder, SetupError};
use crate::download::{FileReader, GetOptions, GetReport};
use crate::error::ClientError;
use crate::listing::ListOptions;
use crate::sink::Sink;
use crate::source::Source;
use crate::upload::{FileWriter, PutOptions, PutReport};

/// Threads for network IO. Files and hashes use other threads.
const WORKERS: usize = 2;

/// A handle to one cluster. Cheap to clone. The threads end when the last clone and the last
/// reader, writer or list made from it are dropped.
#[derive(Clone)]
pub struct Client {
    client: crate::Client,
    threads: Arc<Threads>,
}

impl Client {
    /// Makes the client and waits until the cluster answers, at most for the deadline.
    pub fn connect(builder: ClientBuilder) -> Result<Self, ClientError> {
        let threads = Threads::start()?;
        let client = threads.wait(builder.connect())?;
        Ok(Self { client, threads })
    }

    /// The async client, for functions without a method here. Give its futures to [`Client::wait`].
    /// If another runtime awaited them, their connections would belong to that runtime.
    pub fn inner(&self) -> &crate::Client {
        &self.client
    }

    /// Waits for a future of [`Client::inner`], such as `client.wait(client.inner().status())`.
    pub fn wait<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.threads.wait(future)
    }

    /// See [`crate::Client::put`].
    pub fn put(
        &self,
        source: Arc<dyn Source>,
        options: PutOptions,
    ) -> Result<PutReport, ClientError> {
        self.wait(self.client.put(source, options))
    }

    /// See [`crate::Client::get`].
    pub fn get(
        &self,
        address: &Address,
        sink: Arc<dyn Sink>,
        options: GetOptions,
    ) -> Result<GetReport, ClientError> {
        self.wait(self.client.get(address, sink, options))
    }

    /// See [`crate::Client::resolve`].
    pub fn resolve(&self, address: &Address) -> Result<CheckpointInfo, ClientError> {
        self.wait(self.client.resolve(address))
    }

    /// See [`crate::Client::list`].
    pub fn list(&self, prefix: Option<&Namespace>, open: bool) -> List {
        List { stream: self.client.list(prefix, open), threads: self.threads.clone() }
    }

    /// See [`crate::Client::list_by`].
    pub fn list_by(&self, options: ListOptions) -> List {
        List { stream: self.client.list_by(options), threads: self.threads.clone() }
    }

    /// See [`crate::Client::delete`].
    pub fn delete(&self, address: &Address, now: bool) -> Result<CheckpointInfo, ClientError> {
        self.wait(self.client.delete(address, now))
    }

    /// Finds a file, or a range of its bytes (`..` for all); see [`crate::Client::reader`].
    pub fn reader(
        &self,
        address: &Address,
        file: impl AsRef<[u8]>,
        range: impl RangeBounds<u64>,
    ) -> Result<Reader, ClientError> {
        let reader = self.wait(self.client.reader(address, file).range(range).open())?;
        Ok(Reader { reader, threads: self.threads.clone() })
    }

    /// See [`crate::Client::writer`].
    pub fn writer(
        &self,
        options: PutOptions,
        file: impl AsRef<[u8]>,
    ) -> Result<Writer, ClientError> {
        let writer = self.wait(self.client.writer(options, file))?;
        Ok(Writer { writer, threads: self.threads.clone() })
    }
}

/// Checkpoints, page after page. An error is the last item.
pub struct List {
    stream: BoxStream<'static, Result<CheckpointInfo, ClientError>>,
    threads: Arc<Threads>,
}

impl Iterator for List {
    type Item = Result<CheckpointInfo, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.threads.wait(self.stream.next())
    }
}

/// A file of a checkpoint; see [`FileReader`]. An `io::Error` has the [`ClientError`] within.
pub struct Reader {
    reader: FileReader,
    threads: Arc<Threads>,
}

impl Reader {
    /// Information without a blocking form: lengths, and the checkpoint.
    pub fn inner(&self) -> &FileReader {
        &self.reader
    }
}

impl io::Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.threads.wait(self.reader.read(buffer))
    }
}

impl io::Seek for Reader {
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        self.threads.wait(self.reader.seek(place))
    }
}

/// A file that is being written; see [`FileWriter`]. If it is dropped without [`Writer::finish`],
/// it commits nothing.
pub struct Writer {
    writer: FileWriter,
    threads: Arc<Threads>,
}

impl Writer {
    /// Sends the rest and commits.
    pub fn finish(self) -> Result<PutReport, ClientError> {
        self.threads.wait(self.writer.finish())
    }
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.threads.wait(self.writer.write(bytes))
    }

    /// Does nothing: the bytes are durable once [`Writer::finish`] returns.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The runtime behind a blocking client.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Result<Arc<Self>, SetupError> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(WORKERS).thread_name("cairn-client").enable_all();
        let runtime = runtime.build().map_err(|error| SetupError::Threads { error })?;
        Ok(Arc::new(Self(Some(runtime))))
    }

    /// Blocks this thread until `future` is ready. Tokio refuses to block a thread that is within a
    /// runtime. There a separate thread, made for this call, waits for the future, unless the
    /// future is ready at once, such as a write to a buffer.
    fn wait<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        let Some(runtime) = &self.0 else { unreachable!("the runtime is there until the drop") };
        if Handle::try_current().is_err() {
            return runtime.block_on(future);
        }
        let mut future = pin!(future);
        let entered = runtime.enter();
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
        drop(entered);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| runtime.block_on(future));
            waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Threads {
    /// A runtime that is dropped within another runtime panics if it waits for its blocking jobs.
    /// Their results are no longer needed, so it does not wait.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
