//! What a client shows with each call: its token, and on account of which checkpoint it asks.

use std::net::{IpAddr, SocketAddr};

use cairn_types::ids::CheckpointId;
use http::{HeaderName, HeaderValue};
use tonic::Status;
use tower::{ServiceExt, service_fn};

use crate::envelope::ABOUT_HEADER;
use crate::seam::Transport;
use crate::token::{TOKEN_HEADER, Token};

/// A token, and where it may go. Prints nothing of the token.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Marked as sensitive: it is neither printed nor kept in tables of headers.
    header: HeaderValue,
    /// Nobody on the way can read it.
    encrypted: bool,
}

impl Credentials {
    /// `encrypted`: connections are, or are none over a network.
    pub fn new(token: &Token, encrypted: bool) -> Self {
        let mut header =
            HeaderValue::try_from(token.to_header()).expect("a token's text is printable ASCII");
        header.set_sensitive(true);
        Self { header, encrypted }
    }

    fn may_go_to(&self, address: &str) -> bool {
        self.encrypted || is_loopback(address)
    }
}

/// Whether a `host:port` is on this machine, by its form alone.
pub fn is_loopback(address: &str) -> bool {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `transport`, to `address`, with what is shown in the headers of each call. A token that anybody on
/// the way could read is not sent, and the call neither.
pub fn showing(
    transport: Transport,
    address: &str,
    token: Option<&Credentials>,
    about: Option<CheckpointId>,
) -> Transport {
    if let Some(token) = token
        && !token.may_go_to(address)
    {
        let text = format!(
            "a token is not sent to {address} in clear: give the cluster's key or its authority"
        );
        let refused = Status::unauthenticated(text);
        return Transport::new(service_fn(move |_| std::future::ready(Err(refused.clone()))));
    }
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    if let Some(token) = token {
        headers.push((HeaderName::from_static(TOKEN_HEADER), token.header.clone()));
    }
    if let Some(about) = about {
        headers.push((HeaderName::from_static(ABOUT_HEADER), HeaderValue::from(about.0)));
    }
    if headers.is_empty() {
        return transport;
    }
    Transport::new(transport.map_request(move |mut request: http::Request<_>| {
        request.headers_mut().extend(headers.iter().cloned());
        request
    }))
}

#[cfg(test)]
mod tests {
    use cairn_types::rights::Grant;

    use super::*;
    use crate::token::{Claims, IssuerKey};

    fn token() -> Token {
        let claims =
            Claims { subject: "ci".into(), grant: Grant::default(), issued_ms: 0, expires_ms: 1 };
        IssuerKey::generate().issue(&claims).unwrap()
    }

    fn echo() -> Transport {
        Transport::new(service_fn(|request: http::Request<tonic::body::Body>| {
            let mut response = http::Response::new(tonic::body::Body::empty());
            response.headers_mut().extend(request.headers().clone());
            std::future::ready(Ok::<_, Status>(response))
        }))
    }

    async fn seen(transport: Transport) -> Result<http::HeaderMap, Status> {
        let request = http::Request::new(tonic::body::Body::empty());
        transport.oneshot(request).await.map(|response| response.headers().clone())
    }

    #[tokio::test]
    async fn a_token_goes_where_nobody_else_reads_it_and_nowhere_else() {
        let token = token();
        let (clear, tls) = (Credentials::new(&token, false), Credentials::new(&token, true));
        for (address, credentials, sent) in [
            ("127.0.0.1:7400", &clear, true),
            ("[::1]:7400", &clear, true),
            ("node1:7400", &clear, false),
            ("10.0.0.7:7400", &clear, false),
            ("127.0.0.1.example:7400", &clear, false),
            ("node1:7400", &tls, true),
        ] {
            let headers = seen(showing(echo(), address, Some(credentials), None)).await;
            assert_eq!(headers.is_ok(), sent, "{address}");
            if let Ok(headers) = headers {
                assert_eq!(headers[TOKEN_HEADER], token.to_header().as_str());
            }
        }
        assert!(!format!("{clear:?}").contains("cairn-token"), "{clear:?}");
        let about = seen(showing(echo(), "node1:7400", None, Some(CheckpointId(7)))).await.unwrap();
        assert_eq!(about[ABOUT_HEADER], "7");
        assert!(!about.contains_key(TOKEN_HEADER));
    }
}
