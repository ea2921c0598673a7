//! One call over a link: the transport under a generated client.
//!
//! The handler runs as a task of the target, and a crash of the target ends it. If the caller goes
//! away, the handler is stopped once that message has crossed the link, as hyper does on a stream
//! reset. In a partition the message never arrives and the handler continues.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cairn_host::seam::{Dialer, Transport};
use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tonic::{Status, body::Body};
use tower::Service;

use super::body::{Wire, pump, unheard};
use super::{Endpoint, Gone, SimNet};
use crate::process::Life;
use crate::trace;

pub(super) struct LinkDialer {
    pub net: SimNet,
    pub from: Arc<Life>,
}

impl Dialer for LinkDialer {
    /// Nothing leaves this process.
    fn is_private(&self, _: &str) -> bool {
        true
    }

    fn dial(&self, address: &str) -> Transport {
        if self.net.speaks_http2() {
            return super::http2::transport(&self.net, &self.from, address);
        }
        let link = Link { net: self.net.clone(), from: self.from.clone(), address: address.into() };
        Transport::new(link)
    }
}

#[derive(Clone)]
struct Link {
    net: SimNet,
    from: Arc<Life>,
    address: Arc<str>,
}

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(call(self.clone(), request))
    }
}

/// Stops the request pump of a call whose caller has stopped waiting.
struct StopPump(Option<AbortHandle>);

impl Drop for StopPump {
    fn drop(&mut self) {
        if let Some(pump) = &self.0 {
            pump.abort();
        }
    }
}

async fn call(link: Link, request: Request<Body>) -> Result<Response<Body>, Status> {
    let Link { net, from, address } = link;
    let number = net.next_call();
    trace::count("net.calls", 1);
    let path = request.uri().path().to_owned();
    trace::event(&from.name, "call", format_args!("#{number} to {address} {path}"));
    let Some(owner) = net.owner(&address) else {
        tokio::time::sleep(Duration::from_millis(1)).await;
        return Err(Status::unavailable(format!("no host at {address}")));
    };
    if let Err(gone) = net.cross(from.process, owner).await {
        trace::event("net", "lose", format_args!("#{number} request: {gone:?}"));
        trace::count("net.lost_requests", u64::from(gone == Gone::Lost));
        return Err(silence(&net).await);
    }
    let Some(target) = net.endpoint(&address) else {
        trace::event("net", "refuse", format_args!("#{number} at {address}"));
        trace::count("net.refused", 1);
        return Err(match net.cross(owner, from.process).await {
            Ok(()) => Status::unavailable(format!("connection to {address} refused")),
            Err(_) => silence(&net).await,
        });
    };

    let wire = Arc::new(Wire::new(net.clone(), number, &path));
    let (parts, body) = request.into_parts();
    let (body, pump) = pump(wire.clone(), "request", &from, &target.life, body);
    let mut pump = StopPump(pump);
    let (answer, answered) = oneshot::channel();
    let (_alive, given_up) = oneshot::channel::<()>();
    let request = Request::from_parts(parts, Body::new(body));
    let to = target.life.clone();
    to.spawn(serve(wire, from.clone(), target, request, answer, given_up));
    match answered.await {
        Ok(Ok(response)) => {
            pump.0 = None;
            Ok(response)
        }
        Ok(Err(_)) => Err(silence(&net).await),
        Err(_) => match net.cross(to.process, from.process).await {
            Ok(()) => Err(Status::unavailable(format!("connection to {address} lost"))),
            Err(_) => Err(silence(&net).await),
        },
    }
}

async fn silence(net: &SimNet) -> Status {
    net.wait_in_silence().await;
    Status::unavailable("no answer: keep-alive timed out")
}

/// The target's half: runs the handler and sends its answer back.
async fn serve(
    wire: Arc<Wire>,
    from: Arc<Life>,
    target: Endpoint,
    request: Request<Body>,
    answer: oneshot::Sender<Result<Response<Body>, Gone>>,
    given_up: oneshot::Receiver<()>,
) {
    let Endpoint { life, mut routes } = target;
    let (net, number) = (wire.net.clone(), wire.call);
    trace::event(&life.name, "handle", format_args!("#{number} from {}", from.name));
    let stopped = async {
        let _ = given_up.await;
        // The message takes its time, and in a partition waits for the end of the partition.
        while net.cross(from.process, life.process).await.is_err() {
            net.mended(from.process, life.process).await;
        }
    };
    let response = tokio::select! {
        biased;
        response = Service::call(&mut routes, request) => match response {
            Ok(response) => response,
            Err(never) => match never {},
        },
        () = stopped => {
            trace::event(&life.name, "stop", format_args!("#{number}: caller gave up"));
            trace::count("net.stopped_handlers", 1);
            return;
        }
    };
    let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok());
    let code = code.unwrap_or("-").to_owned();
    let crossed = net.cross(life.process, from.process).await;
    let sent = match crossed {
        Err(gone) => {
            trace::event("net", "lose", format_args!("#{number} reply: {gone:?}"));
            trace::count("net.lost_replies", u64::from(gone == Gone::Lost));
            unheard(&wire, (&life, &from), response.into_body()).await;
            Err(gone)
        }
        Ok(()) => {
            trace::event(&from.name, "reply", format_args!("#{number} status {code}"));
            let (parts, body) = response.into_parts();
            let (body, _) = pump(wire, "response", &life, &from, body);
            Ok(Response::from_parts(parts, Body::new(body)))
        }
    };
    let _ = answer.send(sent);
}
