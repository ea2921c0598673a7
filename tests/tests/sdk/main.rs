//! The SDK against a small cluster in this process, on paused time.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod asking;
mod blocking;
mod builder;
mod callers;
mod cancelling;
mod deleting;
mod diff;
mod fake;
mod get;
mod observing;
mod open_ended;
mod overwrite;
mod parts;
mod put;
mod settings;
mod streams;
mod watching;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_client::{MemorySink, MemorySource, PutOptions};
use cairn_types::command::{self, Body};
use cairn_types::ids::{Address, Attempt, Step};
use cairn_types::model::PolicyChange;

const RACKS: [&str; 4] = ["a", "b", "c", "a"];

fn begin(step: u64) -> Body {
    Body::Begin(command::Begin {
        namespace: "run".parse().unwrap(),
        step: Step(step),
        parts: 1,
        attempt: Some(Attempt(1)),
        change: PolicyChange::default(),
        replace: false,
        labels: BTreeMap::new(),
        client: String::new(),
        job: String::new(),
    })
}

fn put_options(step: u64) -> PutOptions {
    PutOptions::new("run".parse().unwrap(), Step(step))
}

fn at(step: u64) -> Address {
    format!("run@{step}").parse().unwrap()
}

fn noise(len: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    (0..len).map(next).collect::<Vec<u8>>().into()
}

fn files() -> BTreeMap<Vec<u8>, Bytes> {
    BTreeMap::from([
        (b"config.json".to_vec(), noise(1000, 1)),
        (b"empty".to_vec(), Bytes::new()),
        (b"model/big".to_vec(), noise(37 << 20, 2)),
        (b"model/mid".to_vec(), noise(5 << 20, 3)),
        (b"model/small".to_vec(), noise(2 << 20, 4)),
    ])
}

fn source() -> Arc<MemorySource> {
    Arc::new(MemorySource::new(files()).unwrap())
}

fn contents(sink: &MemorySink) -> BTreeMap<Vec<u8>, Bytes> {
    sink.files().into_iter().map(|(name, bytes)| (name, bytes.into())).collect()
}
