//! What answers on a node's port: nothing but "starting" until the node serves.
//!
//! A node listens before it has read its files, so that its port is its own. A caller that is
//! told at once that the node starts need not wait for an answer that comes late or never.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use cairn_host::envelope::{Identity, Reason, refuse};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tower::ServiceExt;

/// Who a starting node is, once its data directory has said so.
pub type Starting = Arc<OnceLock<Identity>>;

/// Cheap to clone; all clones are the same door.
#[derive(Clone, Default)]
pub struct Door {
    serves: Arc<OnceLock<Router>>,
    starting: Starting,
}

impl Door {
    /// Where the node says who it is.
    pub fn starting(&self) -> Starting {
        Arc::clone(&self.starting)
    }

    /// From now on the node's own services answer.
    pub fn open(&self, routes: Routes) {
        let _ = self.serves.set(routes.into_axum_router());
    }

    /// To be served from the beginning.
    pub fn routes(&self) -> Routes {
        let door = self.clone();
        Routes::from(Router::new().fallback(move |request: Request| {
            let door = door.clone();
            async move { door.answer(request).await }
        }))
    }

    async fn answer(&self, request: Request) -> Response {
        let Some(router) = self.serves.get() else { return self.not_yet(&request) };
        match router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    fn not_yet(&self, request: &Request) -> Response {
        let content = request.headers().get(CONTENT_TYPE).map(|value| value.as_bytes());
        if !content.is_some_and(|value| value.starts_with(b"application/grpc")) {
            return (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response();
        }
        let mut response = refuse(Reason::Starting, "this node is starting").into_http();
        if let Some(identity) = self.starting.get() {
            let mut metadata = MetadataMap::new();
            identity.write(&mut metadata);
            response.headers_mut().extend(metadata.into_headers());
        }
        response
    }
}
