//! Real handshakes over loopback.

#![allow(clippy::disallowed_methods, reason = "a test of the production dialer on real sockets")]

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::tls::has_peer_certificate;

/// A health service that answers only callers with a certificate, as gRPC services of a node do.
async fn serve(tls: Option<&ClusterKey>) -> SocketAddr {
    let (_, health) = tonic_health::server::health_reporter();
    let guarded = tls.is_some();
    let guard = move |request: Request<()>| {
        if !guarded
            || has_peer_certificate::<tonic::transport::server::TcpConnectInfo>(
                request.extensions(),
            )
        {
            Ok(request)
        } else {
            Err(Status::unauthenticated("no client certificate"))
        }
    };
    let mut server = Server::builder();
    if let Some(key) = tls {
        server = server.tls_config(key.server_tls()).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = server.layer(tonic::service::InterceptorLayer::new(guard)).add_service(health);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

async fn check(transport: Transport) -> Result<(), Status> {
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(transport).check(request).await.map(|_| ())
}

fn key() -> ClusterKey {
    ClusterKey::from_text(&ClusterKey::generate()).unwrap()
}

#[tokio::test]
async fn holders_of_the_key_reach_each_other_and_others_do_not() {
    let right = key();
    let address = serve(Some(&right)).await.to_string();
    check(TcpDialer::new(Some(right)).dial(&address)).await.unwrap();
    let stranger = check(TcpDialer::new(Some(key())).dial(&address)).await.unwrap_err();
    assert_eq!(stranger.code(), Code::Unavailable);
    assert!(stranger.message().contains(&address), "{}", stranger.message());
    assert!(stranger.message().contains("another cluster key"), "{}", stranger.message());
    assert_eq!(Reason::of(&stranger), Some(Reason::Key));
    let plain = check(TcpDialer::new(None).dial(&address)).await.unwrap_err();
    assert_eq!(Reason::of(&plain), Some(Reason::Key), "{plain}");
    assert!(plain.message().contains("wants a cluster key"), "{}", plain.message());
    let open = serve(None).await.to_string();
    let keyed = check(TcpDialer::new(Some(key())).dial(&open)).await.unwrap_err();
    assert_eq!(Reason::of(&keyed), Some(Reason::Key), "{keyed}");
    assert!(keyed.message().contains("uses no cluster key"), "{}", keyed.message());
}

#[tokio::test]
async fn a_certificate_of_another_key_is_refused_by_the_node() {
    let right = key();
    let address = serve(Some(&right)).await;
    // It trusts the node, as a caller that recorded its authority could, and presents its own leaf
    // certificate.
    let tls = right.anonymous_tls().identity(key().identity());
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
    let request = HealthCheckRequest { service: String::new() };
    let status = HealthClient::new(channel).check(request).await.unwrap_err();
    assert_ne!(status.code(), Code::Unauthenticated, "the handshake let it in: {status}");
}

#[tokio::test]
async fn a_caller_without_certificate_connects_but_may_not_call() {
    let right = key();
    let address = serve(Some(&right)).await;
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let channel = endpoint.tls_config(right.anonymous_tls()).unwrap().connect_lazy();
    let request = HealthCheckRequest { service: String::new() };
    let status = HealthClient::new(channel).check(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn without_a_key_calls_are_plain() {
    let address = serve(None).await.to_string();
    check(TcpDialer::new(None).dial(&address)).await.unwrap();
}

#[tokio::test]
async fn an_unreachable_address_is_unavailable_and_a_malformed_one_invalid() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap().to_string();
    drop(listener);
    let dialer = TcpDialer::new(None);
    assert_eq!(check(dialer.dial(&closed)).await.unwrap_err().code(), Code::Unavailable);
    for address in ["", "host", "host:", ":7100", "host:99999", "a b:1", "u@host:1", "host:1/x"] {
        let status = check(dialer.dial(address)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{address}: {status}");
    }
}
