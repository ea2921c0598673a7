//! The services on a node's port. Before the node serves, each call gets the answer "starting".
//!
//! A node listens before it has read its files, so that no other process takes its port. A caller
//! that is told at once that the node is starting does not wait for a late or missing answer.

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

/// The identity of a starting node, once it is read from the data directory.
pub type Starting = Arc<OnceLock<Identity>>;

/// Cheap to clone. All clones are the same door.
#[derive(Clone, Default)]
pub struct Door {
    serves: Arc<OnceLock<Router>>,
    starting: Starting,
}

impl Door {
    /// The node stores its identity here.
    pub fn starting(&self) -> Starting {
        Arc::clone(&self.starting)
    }

    /// From now on the node's own services answer.
    pub fn open(&self, routes: Routes) {
        let _ = self.serves.set(routes.into_axum_router());
    }

    /// The routes to serve from the beginning.
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
