//! Bodies across a link: a pump on the sender's side moves frames through a bounded channel.
//!
//! A stream that ends without its end marker is an error, never a clean end. Otherwise a crashed
//! sender would look like one that had finished.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tonic::{Status, body::Body};

use super::SimNet;
use crate::process::Life;
use crate::trace;
use crate::witness::Crossing;

/// Frames on the way in one direction of one call.
const FRAMES_IN_FLIGHT: usize = 8;
const EXECUTE: &str = "/cairn.v1.Catalogue/Execute";

/// The connection of one call; when it breaks, both directions see it.
pub(super) struct Wire {
    pub net: SimNet,
    pub call: u64,
    pub path: Arc<str>,
    broken: AtomicBool,
    changed: Notify,
}

impl Wire {
    pub fn new(net: SimNet, call: u64, path: &str) -> Self {
        Self {
            net,
            call,
            path: path.into(),
            broken: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    fn tear(&self) {
        if !self.broken.swap(true, Ordering::Relaxed) {
            trace::event("net", "break", format_args!("#{}", self.call));
            trace::count("net.broken_streams", 1);
        }
        self.changed.notify_waiters();
    }

    async fn torn(&self) {
        loop {
            let changed = self.changed.notified();
            if self.broken.load(Ordering::Relaxed) {
                return;
            }
            changed.await;
        }
    }
}

enum Item {
    Frame(Frame<Bytes>),
    End,
    Broken(Status),
}

/// The receiving end of a body that crosses a link.
pub(super) struct LinkBody {
    items: Option<mpsc::Receiver<Item>>,
}

/// The answer to a command was lost on the way, but the node gave it. A repeated request must get
/// the same answer.
pub(super) async fn unheard(wire: &Wire, ends: (&Arc<Life>, &Arc<Life>), mut body: Body) {
    if &*wire.path != EXECUTE {
        return;
    }
    let Some(mut crossing) = Crossing::begin(wire.call, &wire.path, "response", ends) else {
        return;
    };
    while let Some(Ok(frame)) = body.frame().await {
        crossing.carry(frame.data_ref().map_or(&[][..], |data| data));
    }
    crossing.end(false);
}

/// Moves `body` from `from` to `to` in a task of `from`. Returns the receiving end, and a handle to
/// stop the pump.
pub(super) fn pump(
    wire: Arc<Wire>,
    what: &'static str,
    from: &Arc<Life>,
    to: &Arc<Life>,
    body: Body,
) -> (LinkBody, Option<AbortHandle>) {
    if body.is_end_stream() {
        return (LinkBody { items: None }, None);
    }
    let (sender, receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
    let (life, target) = (from.clone(), to.clone());
    let task = from.spawn(async move { run(wire, what, life, target, body, sender).await });
    (LinkBody { items: Some(receiver) }, Some(task.abort_handle()))
}

async fn run(
    wire: Arc<Wire>,
    what: &'static str,
    from: Arc<Life>,
    to: Arc<Life>,
    mut body: Body,
    sender: mpsc::Sender<Item>,
) {
    let mut hasher = blake3::Hasher::new();
    let mut crossing = Crossing::begin(wire.call, &wire.path, what, (&from, &to));
    let (mut frames, mut bytes, mut debt_us) = (0u64, 0u64, 0u64);
    let lost = || Item::Broken(Status::unavailable("connection broken"));
    let (end, last) = loop {
        let next = tokio::select! {
            biased;
            () = wire.torn() => break ("torn", lost()),
            // The receiver has stopped reading, so there is no one to send to.
            () = sender.closed() => break ("unread", lost()),
            next = body.frame() => next,
        };
        let frame = match next {
            None => break ("sent", Item::End),
            Some(Err(status)) => break ("given up", Item::Broken(status)),
            Some(Ok(frame)) => frame,
        };
        let data = frame.data_ref().map_or(&[][..], |data| data);
        hasher.update(data);
        crossing.iter_mut().for_each(|crossing| crossing.carry(data));
        frames += 1;
        bytes += data.len() as u64;
        if !wire.net.carry(from.process, to.process, data.len(), &mut debt_us).await {
            wire.tear();
            break ("broken", lost());
        }
        if sender.send(Item::Frame(frame)).await.is_err() {
            break ("unread", lost());
        }
    };
    if let Some(crossing) = crossing {
        crossing.end(end == "sent");
    }
    let hash = &hasher.finalize().to_hex()[..8];
    let call = wire.call;
    trace::event(
        &from.name,
        what,
        format_args!("#{call} {end}: {frames} frames, {bytes} bytes, {hash}"),
    );
    let _ = sender.send(last).await;
}

impl http_body::Body for LinkBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(items) = &mut self.items else { return Poll::Ready(None) };
        let item = std::task::ready!(items.poll_recv(cx));
        let answer = match item {
            Some(Item::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
            Some(Item::End) => None,
            Some(Item::Broken(status)) => Some(Err(status)),
            None => Some(Err(Status::unavailable("connection lost"))),
        };
        self.items = None;
        Poll::Ready(answer)
    }

    fn is_end_stream(&self) -> bool {
        self.items.is_none()
    }
}
