//! A simulated connection: two in-memory streams, and the link's effect on the bytes in between.
//!
//! ```text
//!   near <-duplex-> [ read, delay, write ] <-duplex-> far      and the same in the other direction
//! ```
//!
//! TCP loses nothing: a lost packet arrives late. A cut stops the bytes, and the end of a stream
//! too, until the cut is removed or the connection is closed. A break ends both directions. When
//! one side is gone, the other learns of it as soon as that message has crossed.

#![allow(clippy::disallowed_methods, reason = "a connection outlives the process that made it")]

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::SimNet;
use crate::process::{Life, ProcessId};
use crate::trace;

/// A lost packet is sent again after this long.
pub(super) const RESEND: Duration = Duration::from_millis(200);
/// Bytes on the way in one direction, and bytes moved at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// A new connection: the caller's end and the target's.
pub(super) fn join(net: &SimNet, from: &Arc<Life>, to: &Arc<Life>) -> (DuplexStream, DuplexStream) {
    let (near, near_wire) = tokio::io::duplex(BUFFER_BYTES);
    let (far, far_wire) = tokio::io::duplex(BUFFER_BYTES);
    let number = net.next_call();
    trace::event("net", "connect", format_args!("#{number} {} to {}", from.name, to.name));
    trace::count("net.connections", 1);
    let (a, b) = (from.process, to.process);
    let there = Direction { net: net.clone(), connection: number, from: a, to: b, debt_us: 0 };
    let back = Direction { net: net.clone(), connection: number, from: b, to: a, debt_us: 0 };
    tokio::spawn(async move {
        let (near_read, near_write) = tokio::io::split(near_wire);
        let (far_read, far_write) = tokio::io::split(far_wire);
        // Dropping the halves closes both ends.
        let why = tokio::select! {
            biased;
            why = there.run(near_read, far_write) => why,
            why = back.run(far_read, near_write) => why,
        };
        trace::event("net", "close", format_args!("#{number} {why}"));
    });
    (near, far)
}

struct Direction {
    net: SimNet,
    connection: u64,
    from: ProcessId,
    to: ProcessId,
    debt_us: u64,
}

impl Direction {
    async fn run(
        mut self,
        mut read: impl AsyncRead + Unpin,
        mut write: impl AsyncWrite + Unpin,
    ) -> &'static str {
        let mut bytes = vec![0; BUFFER_BYTES];
        loop {
            // A dropped reader looks like the end of its stream.
            let len = read.read(&mut bytes).await.unwrap_or(0);
            if !self.cross(len).await {
                trace::count("net.broken_connections", 1);
                return "broken";
            }
            if len == 0 {
                return "ended";
            }
            let Self { connection, from, to, .. } = &self;
            let hash = trace::fingerprint(&bytes[..len]);
            trace::event("net", "bytes", format_args!("#{connection} {from}>{to} {len} {hash}"));
            if write.write_all(&bytes[..len]).await.is_err() {
                return "unread";
            }
        }
    }

    /// Delivers some bytes, or the end of the stream.
    async fn cross(&mut self, len: usize) -> bool {
        while self.net.cross(self.from, self.to).await.is_err() {
            if self.net.is_cut(self.from, self.to) {
                break;
            }
            tokio::time::sleep(RESEND).await;
        }
        self.net.carry(self.from, self.to, len, &mut self.debt_us).await
    }
}
