use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use cairn_proto::wire::segments_client::SegmentsClient;
use cairn_proto::wire::segments_server::{Segments, SegmentsServer};
use cairn_proto::wire::{
    GetReply, GetRequest, PutReply, PutRequest, SuspectReply, SuspectRequest, get_reply,
    put_request,
};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::*;

const CHUNKS: usize = 20;

/// Counts its requests and its completed answers.
#[derive(Default)]
struct Echo {
    begun: AtomicU32,
    done: AtomicU32,
}

#[tonic::async_trait]
impl Segments for Echo {
    async fn put(
        &self,
        request: Request<Streaming<PutRequest>>,
    ) -> Result<Response<PutReply>, Status> {
        let mut stream = request.into_inner();
        let mut chunks = 0;
        while stream.message().await?.is_some() {
            chunks += 1;
        }
        Ok(Response::new(PutReply { existed: chunks == CHUNKS }))
    }

    type GetStream = BoxStream<'static, Result<GetReply, Status>>;

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let chunk = || {
            let chunk = Bytes::from(vec![1; 100_000]);
            Ok(GetReply { message: Some(get_reply::Message::Chunk(chunk)) })
        };
        Ok(Response::new(stream::iter((0..CHUNKS).map(move |_| chunk())).boxed()))
    }

    async fn suspect(&self, _: Request<SuspectRequest>) -> Result<Response<SuspectReply>, Status> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(SuspectReply { bad: true }))
    }
}

struct Pair {
    net: SimNet,
    caller: Arc<Life>,
    target: Arc<Life>,
    echo: Arc<Echo>,
    client: SegmentsClient<cairn_host::seam::Transport>,
}

fn pair() -> Pair {
    pair_over(false)
}

fn pair_over(http2: bool) -> Pair {
    let life = |number: u32, name: &str| {
        Arc::new(Life::new(ProcessId(number), 1, name.into(), Stream::new(u64::from(number))))
    };
    let (caller, target) = (life(1, "c1"), life(2, "n1"));
    let net = SimNet::new(Stream::new(3));
    net.place(caller.process, "r1", "c1:7100");
    net.place(target.process, "r2", "n1:7100");
    if http2 {
        net.speak_http2();
    }
    let echo = Arc::new(Echo::default());
    net.serve(&target, "n1:7100", Routes::new(SegmentsServer::from_arc(echo.clone())));
    let client = SegmentsClient::new(net.dialer(&caller).dial("n1:7100"));
    Pair { net, caller, target, echo, client }
}

fn put() -> impl futures::Stream<Item = PutRequest> {
    stream::iter((0..CHUNKS).map(|_| {
        let message = Some(put_request::Message::Chunk(Bytes::from_static(b"chunk")));
        PutRequest { message }
    }))
}

fn ask() -> SuspectRequest {
    SuspectRequest { digest: Bytes::new() }
}

#[tokio::test(start_paused = true)]
async fn calls_cross_whole_in_both_directions() {
    for http2 in [false, true] {
        let mut pair = pair_over(http2);
        assert!(pair.client.put(put()).await.unwrap().into_inner().existed);
        let mut stream = pair.client.get(GetRequest::default()).await.unwrap().into_inner();
        let mut bytes = 0;
        while let Some(reply) = stream.message().await.unwrap() {
            let Some(get_reply::Message::Chunk(chunk)) = reply.message else { panic!("no chunk") };
            bytes += chunk.len();
        }
        assert_eq!(bytes, CHUNKS * 100_000);
        let mut nowhere = SegmentsClient::new(pair.net.dialer(&pair.caller).dial("nowhere:1"));
        assert_eq!(nowhere.suspect(ask()).await.unwrap_err().code(), Code::Unavailable);
    }
}

#[tokio::test(start_paused = true)]
async fn handler_stops_when_its_caller_gives_up_unless_word_is_cut_off() {
    let short = Duration::from_millis(500);
    for http2 in [true, false] {
        let mut pair = pair_over(http2);
        assert!(tokio::time::timeout(short, pair.client.suspect(ask())).await.is_err());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(pair.echo.begun.load(Ordering::Relaxed), 1);
        assert_eq!(pair.echo.done.load(Ordering::Relaxed), 0);
    }
    let mut pair = pair();
    assert!(tokio::time::timeout(short, pair.client.suspect(ask())).await.is_err());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let net = pair.net.clone();
    let (from, to) = (pair.caller.process, pair.target.process);
    let call = tokio::time::timeout(short, pair.client.suspect(ask()));
    let cut = async {
        tokio::time::sleep(short / 2).await;
        net.cut(from, to);
    };
    assert!(tokio::join!(call, cut).0.is_err());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(pair.echo.done.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn partition_is_silent_and_a_dead_process_refuses() {
    let mut pair = pair();
    pair.net.cut_rack("r2");
    let before = tokio::time::Instant::now();
    assert_eq!(pair.client.suspect(ask()).await.unwrap_err().code(), Code::Unavailable);
    assert!(before.elapsed() >= Duration::from_secs(30));
    assert_eq!(pair.echo.begun.load(Ordering::Relaxed), 0);

    pair.net.heal();
    assert!(pair.client.suspect(ask()).await.unwrap().into_inner().bad);

    pair.net.silence_process(pair.target.process);
    pair.target.end();
    let before = tokio::time::Instant::now();
    assert_eq!(pair.client.suspect(ask()).await.unwrap_err().code(), Code::Unavailable);
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn one_way_cut_loses_the_reply_after_the_effect() {
    let mut pair = pair();
    pair.net.cut(pair.target.process, pair.caller.process);
    assert!(pair.client.suspect(ask()).await.is_err());
    assert_eq!(pair.echo.done.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn crashed_target_shows_as_unavailable_and_crashed_sender_never_as_a_clean_end() {
    let mut pair = pair();
    let target = pair.target.clone();
    let crash = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        target.end();
    };
    let (reply, ()) = tokio::join!(pair.client.suspect(ask()), crash);
    assert_eq!(reply.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn broken_or_crashed_stream_is_an_error_at_its_reader() {
    for (crash, http2) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut pair = pair_over(http2);
        let policy = LinkPolicy { bytes_per_s: 1_000_000, ..LinkPolicy::default() };
        pair.net.set_policy(policy.clone());
        let mut stream = pair.client.get(GetRequest::default()).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        if crash {
            pair.target.end();
        } else {
            pair.net.set_policy(LinkPolicy { breaks: 1.0, ..policy });
        }
        let end = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        let code = end.unwrap_err().code();
        // hyper has no gRPC status for a connection that is gone.
        let expected = if http2 { Code::Unknown } else { Code::Unavailable };
        assert_eq!(code, expected, "crash: {crash}, http2: {http2}");
    }
}

#[tokio::test(start_paused = true)]
async fn connection_over_a_cut_is_given_up_and_made_anew_once_it_is_mended() {
    let mut pair = pair_over(true);
    assert!(pair.client.suspect(ask()).await.unwrap().into_inner().bad);
    pair.net.cut_rack("r2");
    let before = tokio::time::Instant::now();
    pair.client.suspect(ask()).await.unwrap_err();
    assert!(before.elapsed() >= Duration::from_secs(5), "{:?}", before.elapsed());
    pair.net.heal();
    assert!(pair.client.suspect(ask()).await.unwrap().into_inner().bad);
}

#[tokio::test(start_paused = true)]
async fn crashed_target_breaks_its_connections() {
    let mut pair = pair_over(true);
    let (target, net) = (pair.target.clone(), pair.net.clone());
    let crash = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        net.silence_process(target.process);
        target.end();
    };
    let before = tokio::time::Instant::now();
    let (reply, ()) = tokio::join!(pair.client.suspect(ask()), crash);
    reply.unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(pair.client.suspect(ask()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(pair.echo.done.load(Ordering::Relaxed), 0);
}
