//! Browsers are turned away before anything else is looked at.
//!
//! A web page may send requests to any address that its reader's machine reaches, a cluster
//! without a key on loopback among them, and a name that its server points there later makes it
//! the same site. What it cannot do: speak HTTP/2 without TLS, leave out `Origin` on a POST,
//! choose the content type without asking first, or name a host that is not its own.

use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Request, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use tonic::Status;

/// What a node without a key, that only processes of its machine reach, is called by.
#[derive(Debug, Clone)]
pub struct Local {
    /// The host of the address that it advertises.
    pub advertised: String,
}

/// The answer to a request that no client of ours makes; `None` for others. Paths beside gRPC
/// answer to GET and change nothing.
pub fn turned_away<B>(request: &Request<B>, local: Option<&Local>) -> Option<Response> {
    let path = request.uri().path();
    if !path.starts_with("/cairn.v1.") && !path.starts_with("/grpc.") {
        return None;
    }
    let headers = request.headers();
    let plain = |status: StatusCode, text: &'static str| Some((status, text).into_response());
    if request.version() != Version::HTTP_2 {
        return plain(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC wants HTTP/2\n");
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "gRPC wants POST\n");
    }
    if !is_grpc(headers) {
        let text = "gRPC wants content-type application/grpc\n";
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    }
    if headers.contains_key(ORIGIN) {
        return Some(refused(StatusCode::FORBIDDEN, "calls from web pages are refused"));
    }
    if local.is_some_and(|local| !names_this_machine(request, local)) {
        let text = "this node serves its own machine only: call it by localhost, by its address, or \
                    as it is advertised";
        return Some(refused(StatusCode::MISDIRECTED_REQUEST, text));
    }
    None
}

/// For a browser a status of HTTP, for a client that came here by a wrong name one of gRPC.
fn refused(http: StatusCode, text: &str) -> Response {
    let mut response: Response = Status::permission_denied(text).into_http();
    *response.status_mut() = http;
    response
}

/// gRPC of its own kind: what browsers speak is named `application/grpc-web`.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let rest = content.and_then(|content| content.strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+' | b';' | b' ', ..]))
}

/// Whether the host that a request names is one that no stranger's name server can give out.
fn names_this_machine<B>(request: &Request<B>, local: &Local) -> bool {
    let header = || request.headers().get(HOST).map(|host| Authority::try_from(host.as_bytes()));
    let named = request.uri().authority().cloned().map(Ok).or_else(header);
    let host = match &named {
        Some(Ok(authority)) => authority.host().trim_end_matches('.'),
        Some(Err(_)) => return false,
        // Only HTTP/2 does without, and no browser does.
        None => return true,
    };
    let host = host.to_ascii_lowercase();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || literal.parse::<std::net::IpAddr>().is_ok()
        || host == local.advertised.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use axum::http::request::Builder;

    use super::*;

    const EXECUTE: &str = "/cairn.v1.Catalogue/Execute";

    /// As our clients call.
    fn call(uri: &str) -> Builder {
        Request::post(uri).version(Version::HTTP_2).header(CONTENT_TYPE, "application/grpc")
    }

    fn status(request: Builder) -> Option<u16> {
        let local = Local { advertised: "Trainer-7".to_owned() };
        let request = request.body(()).unwrap();
        turned_away(&request, Some(&local)).map(|response| response.status().as_u16())
    }

    #[test]
    fn a_call_of_a_client_passes() {
        assert_eq!(status(call(EXECUTE)), None);
        let proto = Request::post(EXECUTE).version(Version::HTTP_2);
        assert_eq!(status(proto.header(CONTENT_TYPE, "application/grpc+proto")), None);
        for host in ["127.0.0.1:7400", "[::1]:7400", "localhost", "a.localhost:1", "trainer-7:7400"]
        {
            assert_eq!(status(call(&format!("http://{host}{EXECUTE}"))), None, "{host}");
        }
    }

    #[test]
    fn what_a_web_page_can_send_does_not() {
        let simple = || Request::post(EXECUTE).header(CONTENT_TYPE, "text/plain");
        assert_eq!(status(simple()), Some(505));
        assert_eq!(status(simple().version(Version::HTTP_2)), Some(415));
        let web = Request::post(EXECUTE).version(Version::HTTP_2);
        assert_eq!(status(web.header(CONTENT_TYPE, "application/grpc-web+proto")), Some(415));
        assert_eq!(status(call(EXECUTE).method(Method::OPTIONS)), Some(405));
        assert_eq!(status(call(EXECUTE).method(Method::GET)), Some(405));
        assert_eq!(status(call(EXECUTE).header(ORIGIN, "http://evil.example")), Some(403));
        assert_eq!(status(call(EXECUTE).header(ORIGIN, "null")), Some(403));
        assert_eq!(status(call("/grpc.health.v1.Health/Check").header(ORIGIN, "x")), Some(403));
    }

    #[test]
    fn a_name_that_somebody_else_points_here_does_not_either() {
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7400", "x"] {
            assert_eq!(status(call(&format!("http://{host}{EXECUTE}"))), Some(421), "{host}");
            assert_eq!(status(call(EXECUTE).header(HOST, host)), Some(421), "{host}");
        }
        assert_eq!(status(call(EXECUTE).header(HOST, "\u{e9}")), Some(421));
        // With a key, or for other machines, the name is no matter.
        let named = call(&format!("http://cairn.example{EXECUTE}")).body(()).unwrap();
        assert!(turned_away(&named, None).is_none());
    }
}
