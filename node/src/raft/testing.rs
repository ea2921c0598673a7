//! A small test environment for this module: jobs run inline, links stay in the process, and disks
//! are in memory.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_host::seam::{Dialer, Env, Job, Lane, Runtime, Transport};
use cairn_types::command::Reply;
use cairn_types::ids::{ClusterId, Lineage};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::service::Routes;
use tower::{Service, ServiceExt};

use super::{CatalogueMachine, Check, Decode, Encode};
use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, Open};
use crate::fatal::FatalHook;

/// Flips a byte, as a decaying disk does.
pub fn flip_last_byte(disk: &MemoryDisk, path: &str) {
    let file = disk.open(path, Open::Write).unwrap();
    let last = file.len().unwrap() - 1;
    let mut byte = [0];
    file.read_at(last, &mut byte).unwrap();
    file.write_at(last, &[byte[0] ^ 1]).unwrap();
}

/// Chance, and the wall clock.
struct TestRuntime(AtomicU64, Arc<AtomicU64>);

impl Runtime for TestRuntime {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) -> JoinHandle<()> {
        tokio::spawn(task)
    }
    fn run_blocking(&self, _lane: Lane, job: Job) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            job();
            tokio::task::yield_now().await;
        })
    }
    fn oldest_job(&self, _lane: Lane) -> Option<Duration> {
        None
    }
    fn random_u64(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
    fn wall_ms(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }
}

/// Addresses and the services behind them. A missing address is a cut link.
#[derive(Clone, Default)]
pub struct TestNetwork(
    Arc<Mutex<BTreeMap<String, Routes>>>,
    Arc<Mutex<BTreeMap<u64, String>>>,
    Arc<AtomicU64>,
);

impl TestNetwork {
    pub fn serve(&self, address: &str, routes: Routes) {
        self.0.lock().insert(address.into(), routes);
    }
    pub fn cut(&self, address: &str) {
        self.0.lock().remove(address);
    }
    /// Sets the address that a node announces.
    pub fn announce(&self, node: u64, address: &str) {
        self.1.lock().insert(node, address.into());
    }
    pub fn announced(&self, node: u64) -> Option<String> {
        self.1.lock().get(&node).cloned()
    }
    pub fn env(&self) -> Env {
        // Every node draws other random numbers. With equal ones, nodes would start elections at
        // the same time for ever.
        let seed = self.2.fetch_add(0x5851_f42d_4c95_7f2d, Ordering::Relaxed);
        let runtime = Arc::new(TestRuntime(AtomicU64::new(seed), Arc::default()));
        Env { runtime, dialer: Arc::new(self.clone()) }
    }
}

impl Dialer for TestNetwork {
    /// Nothing leaves this process.
    fn is_private(&self, _: &str) -> bool {
        true
    }

    fn dial(&self, address: &str) -> Transport {
        let (network, address) = (self.clone(), address.to_owned());
        Transport::new(tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            let routes = network.0.lock().get(&address).cloned();
            let address = address.clone();
            async move {
                let Some(mut routes) = routes else {
                    return Err(Status::unavailable(format!("nobody at {address}")));
                };
                let ready = ServiceExt::<http::Request<tonic::body::Body>>::ready(&mut routes);
                let routes = ready.await.map_err(|error| Status::unknown(error.to_string()))?;
                routes.call(request).await.map_err(|error| Status::unknown(error.to_string()))
            }
        }))
    }
}

pub fn test_env() -> Env {
    TestNetwork::default().env()
}

/// With a wall clock set by the test.
pub fn test_env_at(wall_ms: &Arc<AtomicU64>) -> Env {
    let runtime = Arc::new(TestRuntime(AtomicU64::new(1), Arc::clone(wall_ms)));
    Env { runtime, dialer: Arc::new(TestNetwork::default()) }
}

/// Remembers every command in order; `Dropped { left }` tells how many there are.
#[derive(Default)]
pub struct ToyMachine {
    pub commands: Vec<Vec<u8>>,
    /// Acts as if a command had changed after its check.
    pub checks_nothing: bool,
    /// Shared with each copy that is being written.
    pub copies: Arc<()>,
}

impl CatalogueMachine for ToyMachine {
    fn apply(&mut self, _term: u64, _index: u64, command: &[u8]) -> Result<Reply, String> {
        toy_check(command)?;
        self.commands.push(command.to_vec());
        Ok(Reply::Dropped { left: self.commands.len() as u64 })
    }
    fn checker(&self) -> Check {
        match self.checks_nothing {
            true => Arc::new(|_| Ok(())),
            false => Arc::new(toy_check),
        }
    }
    fn cluster(&self) -> Option<(ClusterId, Lineage)> {
        let is_other = self.commands.first().is_some_and(|it| it == b"another cluster's");
        is_other.then_some((ClusterId(78), Lineage(1)))
    }
    fn snapshot(&self) -> Encode {
        let (commands, copies) = (self.commands.clone(), Arc::clone(&self.copies));
        Arc::new(move || {
            let _ = &copies;
            let mut bytes = Vec::new();
            for command in &commands {
                bytes.extend_from_slice(&(command.len() as u32).to_le_bytes());
                bytes.extend_from_slice(command);
            }
            bytes
        })
    }
    fn decoder(&self) -> Decode<Self> {
        Arc::new(Self::decode)
    }
}

fn toy_check(command: &[u8]) -> Result<(), String> {
    if command == b"undecodable" { Err("cannot be decoded".into()) } else { Ok(()) }
}

impl ToyMachine {
    fn decode(mut bytes: &[u8]) -> Result<Self, String> {
        WHILE_DECODING.with_borrow(|look| look.iter().for_each(|look| look()));
        let mut commands = Vec::new();
        while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
            let (command, rest) =
                rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or("cut short")?;
            commands.push(command.to_vec());
            bytes = rest;
        }
        Ok(Self { commands, checks_nothing: false, copies: Arc::default() })
    }
}

thread_local! {
    /// Callbacks that a test runs while a snapshot is decoded.
    pub static WHILE_DECODING: RefCell<Vec<Box<dyn Fn()>>> = RefCell::default();
}

/// Keeps the messages to the fatal hook.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    pub fn hook(&self) -> FatalHook {
        let told = self.clone();
        Arc::new(move |why| told.0.lock().push(why))
    }
    pub fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}
