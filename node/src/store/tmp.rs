//! Temporary files: one per writer, removed when the writer gives up.
//!
//! Dropping a writer cannot wait for a disk, so the writer leaves its file to the janitor, a task
//! of this process. A crashed process removes nothing. The next start removes its files.

use std::io;
use std::sync::Arc;

use cairn_host::seam::{Env, Lane};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::index::Reservation;
use crate::disk::{Disk, DiskFile};

/// Files waiting for the janitor. Their number is bounded by the number of writers, because they
/// still hold their writers' reservations.
#[derive(Default)]
pub(super) struct Garbage {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    files: Vec<(String, Reservation)>,
    closed: bool,
}

impl Garbage {
    /// The store is dropped: the janitor ends after its last sweep.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    fn add(&self, path: String, reservation: Reservation) {
        self.state.lock().files.push((path, reservation));
        self.wake.notify_one();
    }
}

pub(super) async fn run_janitor(env: Env, disk: Arc<dyn Disk>, garbage: Arc<Garbage>) {
    loop {
        garbage.wake.notified().await;
        let (files, closed) = {
            let mut state = garbage.state.lock();
            (std::mem::take(&mut state.files), state.closed)
        };
        if !files.is_empty() {
            let disk = Arc::clone(&disk);
            env.blocking(Lane::Data, move || {
                for (path, reservation) in files {
                    remove(&*disk, &path);
                    drop(reservation);
                }
            })
            .await;
        }
        if closed {
            return;
        }
    }
}

/// Removes a temporary file. If this fails, the file takes space until the next start. Blocks.
pub(super) fn remove(disk: &dyn Disk, path: &str) {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path, %error, "cannot remove temporary file");
        }
        _ => {}
    }
}

/// A writer's file. If it is dropped before it is renamed or removed, the janitor removes it.
pub(super) struct TmpFile {
    pub path: String,
    pub file: Arc<dyn DiskFile>,
    garbage: Arc<Garbage>,
    /// Taken when the file is renamed or removed.
    reservation: Option<Reservation>,
}

impl TmpFile {
    pub(super) fn new(
        path: String,
        file: Arc<dyn DiskFile>,
        garbage: Arc<Garbage>,
        reservation: Reservation,
    ) -> Self {
        Self { path, file, garbage, reservation: Some(reservation) }
    }

    pub(super) fn wrote(&mut self, bytes: u64) {
        if let Some(reservation) = &mut self.reservation {
            reservation.wrote(bytes);
        }
    }

    /// The file has its final name. Returns the reservation.
    pub(super) fn renamed(mut self) {
        self.reservation = None;
    }

    /// Removes the file now. Blocks.
    pub(super) fn remove(mut self, disk: &dyn Disk) {
        remove(disk, &self.path);
        self.reservation = None;
    }
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.garbage.add(std::mem::take(&mut self.path), reservation);
        }
    }
}
