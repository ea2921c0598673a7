//! The caller's own code: sources, sinks, filters.

use std::sync::Arc;

use cairn_client::sink::{FileTarget, Plan, Presence};
use cairn_client::source::SourceEntry;
use cairn_client::{
    ClientError, ErrorKind, GetOptions, Include, MemorySink, PutOutcome, Sink, SinkError, Source,
    SourceError,
};

use crate::fake::Fake;
use crate::{RACKS, at, contents, files, put_options, source};

/// A source, or a sink, that panics.
struct Panics(Vec<SourceEntry>);

impl Source for Panics {
    fn entries(&self) -> &[SourceEntry] {
        assert!(!self.0.is_empty(), "no entries, on purpose");
        &self.0
    }

    fn read_at(&self, _: usize, _: u64, _: &mut [u8]) -> Result<(), SourceError> {
        panic!("no bytes, on purpose")
    }
}

impl Sink for Panics {
    fn begin(&self, plan: &Plan<'_>) -> Result<Vec<Presence>, SinkError> {
        Ok(vec![Presence::Absent; plan.files.len()])
    }

    fn check_room(&self, _: &[(&FileTarget, u64)]) -> Result<(), SinkError> {
        Ok(())
    }

    fn create(&self, _: &FileTarget) -> Result<(), SinkError> {
        Ok(())
    }

    fn read_at(&self, _: &FileTarget, _: Presence, _: u64, _: &mut [u8]) -> Result<(), SinkError> {
        panic!("not read, on purpose")
    }

    fn write_at(&self, _: &FileTarget, _: u64, _: &[u8]) -> Result<(), SinkError> {
        panic!("no room, on purpose")
    }

    fn finish(&self, _: &FileTarget, _: bool) -> Result<(), SinkError> {
        Ok(())
    }

    fn complete(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

fn is_panic(error: &ClientError, text: &str) -> bool {
    matches!(error, ClientError::Panicked { message } if message.contains(text))
}

#[tokio::test(start_paused = true)]
async fn panic_in_a_source_or_a_sink_is_an_error_of_the_call() {
    let fake = Fake::start(&RACKS);
    let client = fake.client();
    let error = client.put(Arc::new(Panics(vec![])), put_options(1)).await.unwrap_err();
    assert!(is_panic(&error, "no entries"), "{error}");
    let entry = SourceEntry { name: b"f".to_vec(), mode: 0o644, mtime_ns: 0, len: 9 };
    let panics = || Arc::new(Panics(vec![entry.clone()]));
    let error = client.put(panics(), put_options(1)).await.unwrap_err();
    assert!(is_panic(&error, "no bytes"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Local);

    let report = client.put(source(), put_options(1)).await.unwrap();
    assert!(matches!(report.outcome, PutOutcome::Committed { .. }));
    let error = client.get(&at(1), panics(), GetOptions::default()).await.unwrap_err();
    assert!(is_panic(&error, "no room"), "{error}");
    let include: Include = Box::new(|_| panic!("no filter, on purpose"));
    let options = GetOptions { include: Some(include), ..GetOptions::default() };
    let error = client.get(&at(1), panics(), options).await.unwrap_err();
    assert!(is_panic(&error, "no filter"), "{error}");

    // The client is as it was.
    let sink = Arc::new(MemorySink::default());
    client.get(&at(1), sink.clone(), GetOptions::default()).await.unwrap();
    assert_eq!(contents(&sink), files());
}
