//! Building a client: endpoints, the cluster's key, and the client's settings.
//!
//! ```text
//! endpoints --> host:port, each checked --+
//! key, key file, or none on loopback -----+--> build: a client that has contacted nothing
//! env (the simulator, tests) -------------+        `--> connect: a node has answered as well
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::credentials::{Credentials, is_loopback};
use cairn_host::dial::TcpDialer;
use cairn_host::seam::Env;
use cairn_host::tls::{Authority, ClusterKey, KeyError, Trust};
use cairn_host::token::{FileError, Token};
use cairn_host::tokio_host::TokioHost;
use cairn_types::ids::{ClusterId, check_host_port};
use tokio::runtime::Handle;

use crate::cluster::{Answer, Client};
use crate::error::ClientError;
use crate::options::{ClientOptions, Retry};

/// The default port of a node.
pub const DEFAULT_PORT: u16 = 7400;

/// Why a client with these settings cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    #[error("no endpoint is given")]
    NoEndpoints,
    #[error(
        "malformed endpoint {endpoint:?}: expected HOST or HOST:PORT, such as node1:7400 or [::1]:7400"
    )]
    Endpoint { endpoint: String },
    /// Without a key a client cannot tell a node from an impostor, and anyone can read the traffic.
    #[error("{endpoint} is not loopback, and no key is given")]
    NoKey { endpoint: String },
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Anyone on the network path could read and use it.
    #[error("{endpoint} is not loopback, no key is given, and a token is not sent in clear")]
    TokenInClear { endpoint: String },
    #[error(transparent)]
    Token(#[from] FileError),
    /// An environment has its own dialer, which has a key or none.
    #[error("a key and an environment are given, and the environment's dialer has its own key")]
    KeyAndEnv,
    #[error("no tokio runtime: create the client within one")]
    NoRuntime,
    #[error("start the threads of a blocking client: {error}")]
    Threads { error: std::io::Error },
}

impl SetupError {
    /// The fix for the error, if it is known.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoEndpoints => "name at least one node of the cluster as HOST:PORT",
            Self::NoKey { .. } => "give the cluster's key file, or allow an insecure connection",
            Self::Key(_) => "use the key file that the nodes use",
            Self::TokenInClear { .. } => "give the cluster's authority beside the token",
            Self::Token(_) => "ask an operator for a token",
            Self::NoRuntime => "call it in an async fn of tokio, or use the blocking client",
            Self::Threads { .. } => "the process has reached its limit of threads",
            Self::Endpoint { .. } | Self::KeyAndEnv => return None,
        })
    }
}

/// Makes a [`Client`]; see [`Client::builder`].
#[must_use = "a builder does nothing before `connect` or `build`"]
pub struct ClientBuilder {
    options: ClientOptions,
    key: Option<KeyFrom>,
    token: Option<TokenFrom>,
    insecure: bool,
    env: Option<Env>,
}

enum KeyFrom {
    Given(Trust),
    File(PathBuf),
    Authority(PathBuf),
}

enum TokenFrom {
    Given(Token),
    File(PathBuf),
}

impl Client {
    /// Begins a client. Only the endpoints are required, and a key unless all of them are
    /// loopback.
    pub fn builder() -> ClientBuilder {
        let none: [String; 0] = [];
        ClientBuilder {
            options: ClientOptions::new(none),
            key: None,
            token: None,
            insecure: false,
            env: None,
        }
    }
}

impl ClientBuilder {
    /// Any nodes of one cluster, `HOST` or `HOST:PORT`. The client learns the others from them.
    /// Adds to the endpoints given before.
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// The file with the cluster's key. It is read by [`Self::build`] or [`Self::connect`].
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = Some(KeyFrom::File(path.into()));
        self
    }

    /// The cluster's key, already loaded. `None` removes one given before.
    pub fn key(mut self, key: impl Into<Option<ClusterKey>>) -> Self {
        self.key = key.into().map(|key| KeyFrom::Given(key.into()));
        self
    }

    /// A file with the authority of the cluster's certificates, as `cairn key ca` prints it. The
    /// client checks nodes with it as with the key. The nodes identify this client only by its
    /// token.
    pub fn authority_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = Some(KeyFrom::Authority(path.into()));
        self
    }

    /// Like [`Self::authority_file`], already loaded. `None` removes an authority or a key given
    /// before.
    pub fn authority(mut self, authority: impl Into<Option<Authority>>) -> Self {
        self.key = authority.into().map(|it| KeyFrom::Given(Trust::Authority(it)));
        self
    }

    /// This client's identity and rights, as an operator's token states them. The client then has
    /// no other rights, even if it holds a key. `None` removes a token given before.
    pub fn token(mut self, token: impl Into<Option<Token>>) -> Self {
        self.token = token.into().map(TokenFrom::Given);
        self
    }

    /// A file with a token. It is read by [`Self::build`] or [`Self::connect`].
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(TokenFrom::File(path.into()));
        self
    }

    /// Allows nodes that are not loopback without a key. The traffic is then unencrypted, and any
    /// server at the address is accepted.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// The expected cluster: a node of another one is an error. By default it is the first cluster
    /// that answers.
    pub fn cluster(mut self, cluster: impl Into<Option<ClusterId>>) -> Self {
        self.options.cluster = cluster.into();
        self
    }

    /// The rack of this program. Replicas in it are read first.
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.options.rack = Some(rack.into());
        self
    }

    /// Time limit for all attempts of one call together. `None` means no limit. 60 seconds by
    /// default.
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.options.deadline = deadline.into();
        self
    }

    /// Time limit for the answer of one attempt. 5 seconds by default.
    pub fn call_deadline(mut self, deadline: Duration) -> Self {
        self.options.call_deadline = deadline;
        self
    }

    /// A segment stream without progress for this long is stopped. 10 seconds by default.
    pub fn stall_deadline(mut self, deadline: Duration) -> Self {
        self.options.stall_deadline = deadline;
        self
    }

    /// Pauses between the attempts of one call, and the number of attempts that may fail. By
    /// default, pauses of 50 ms to 1 s, and no limit on attempts except the deadline.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.options.retry = retry;
        self
    }

    /// Whether a second node is asked, or a second replica is read, if the first takes longer than
    /// usual. True by default.
    pub fn hedge(mut self, hedge: bool) -> Self {
        self.options.hedge = hedge;
        self
    }

    /// Segments of one upload that are sent at the same time. 32 by default.
    pub fn uploads_parallel(mut self, segments: usize) -> Self {
        self.options.uploads_parallel = segments;
        self
    }

    /// Bytes of one upload between reading and enough acknowledgements, 128 MiB by default; see
    /// [`ClientOptions::upload_memory_bytes`].
    pub fn upload_memory_bytes(mut self, bytes: u64) -> Self {
        self.options.upload_memory_bytes = bytes;
        self
    }

    /// An environment other than this process's network, tasks, clock and randomness, such as a
    /// simulator's. It has its own dialer, which has the key.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Makes the client. Reads the key file and contacts no node.
    pub fn build(self) -> Result<Client, ClientError> {
        let Self { mut options, key, token, insecure, env } = self;
        if options.endpoints.is_empty() {
            return Err(SetupError::NoEndpoints.into());
        }
        for endpoint in &mut options.endpoints {
            *endpoint = with_port(endpoint)
                .ok_or_else(|| SetupError::Endpoint { endpoint: endpoint.clone() })?;
        }
        let token = match token {
            None => None,
            Some(TokenFrom::Given(token)) => Some(token),
            Some(TokenFrom::File(path)) => Some(Token::load(&path).map_err(SetupError::Token)?),
        };
        let with_token = |client: Client, encrypted: bool| {
            let token = token.as_ref().map(|token| Credentials::new(token, encrypted));
            Client { token, ..client }
        };
        if let Some(env) = env {
            return match key {
                None => Ok(with_token(Client::new(env, options), true)),
                Some(_) => Err(SetupError::KeyAndEnv.into()),
            };
        }
        let key = match key {
            None => None,
            Some(KeyFrom::Given(key)) => Some(key),
            Some(KeyFrom::File(path)) => {
                Some(Trust::Key(ClusterKey::load(&path).map_err(SetupError::Key)?))
            }
            Some(KeyFrom::Authority(path)) => {
                Some(Trust::Authority(Authority::load(&path).map_err(SetupError::Key)?))
            }
        };
        let open = options.endpoints.iter().find(|endpoint| !is_loopback(endpoint));
        if let Some(endpoint) = open.filter(|_| key.is_none() && !insecure) {
            return Err(SetupError::NoKey { endpoint: endpoint.clone() }.into());
        }
        if let Some(endpoint) = open.filter(|_| key.is_none() && token.is_some()) {
            return Err(SetupError::TokenInClear { endpoint: endpoint.clone() }.into());
        }
        let encrypted = key.is_some();
        let handle = Handle::try_current().map_err(|_| SetupError::NoRuntime)?;
        let runtime = TokioHost::for_client(handle);
        let env = Env { runtime, dialer: Arc::new(TcpDialer::trusting(key)) };
        Ok(with_token(Client::new(env, options), encrypted))
    }

    /// Makes the client and waits until the cluster answers, at most for the deadline. Endpoints of
    /// different clusters are an error, unless [`Self::cluster`] names one.
    pub fn connect(self) -> Answer<'static, Client> {
        Box::pin(async move {
            let client = self.build()?;
            if client.options.cluster.is_none() && client.options.endpoints.len() > 1 {
                client.survey().await?;
            }
            client.status().await?;
            Ok(client)
        })
    }
}

/// An address from a person, `HOST` or `HOST:PORT`, with its port. `None` if it is malformed.
pub fn with_port(text: &str) -> Option<String> {
    let text = text.trim();
    // A colon in brackets belongs to an IPv6 address. Without brackets a port cannot be told from
    // the address.
    let has_port = text.rsplit_once(']').map_or(text, |(_, rest)| rest).contains(':');
    let address = if has_port { text.to_owned() } else { format!("{text}:{DEFAULT_PORT}") };
    check_host_port(&address).is_ok().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(builder: ClientBuilder) -> SetupError {
        match builder.build() {
            Err(ClientError::Setup(error)) => error,
            Err(error) => panic!("another error: {error}"),
            Ok(_) => panic!("a client was made"),
        }
    }

    #[tokio::test]
    async fn client_without_a_key_talks_to_loopback_only_unless_told_to() {
        for endpoint in ["localhost", "127.0.0.1:7401", "[::1]:7400", "[::1]"] {
            let client = Client::builder().endpoints([endpoint]).build();
            assert!(client.is_ok(), "{endpoint}");
        }
        for endpoint in ["node1:7400", "10.0.0.1:7400", "[2001:db8::1]:7400", "127.0.0.1.evil"] {
            let builder = || Client::builder().endpoints(["localhost", endpoint]);
            let error = refused(builder());
            assert!(matches!(error, SetupError::NoKey { .. }), "{endpoint}: {error}");
            assert!(builder().insecure().build().is_ok(), "{endpoint}");
            let key = ClusterKey::from_text(&ClusterKey::generate()).unwrap();
            assert!(builder().key(key).build().is_ok(), "{endpoint}");
        }
    }

    #[test]
    fn mistake_in_the_setup_is_an_error_of_its_own() {
        assert!(matches!(refused(Client::builder()), SetupError::NoEndpoints));
        for endpoint in ["", "a b", "::1", "node:", "node:99999"] {
            let error = refused(Client::builder().endpoints([endpoint]).insecure());
            assert!(matches!(error, SetupError::Endpoint { .. }), "{endpoint:?}: {error}");
        }
        let keyed = Client::builder().endpoints(["node1"]).key_file("/does/not/exist");
        let error = refused(keyed);
        assert!(error.to_string().contains("/does/not/exist"), "{error}");
        let error = refused(Client::builder().endpoints(["localhost"]));
        assert!(matches!(error, SetupError::NoRuntime), "{error}");
    }

    #[tokio::test]
    async fn token_needs_a_key_or_the_authority_unless_all_is_loopback() {
        let claims = cairn_host::token::Claims {
            subject: "ci".into(),
            grant: Default::default(),
            issued_ms: 0,
            expires_ms: 1,
        };
        let token = cairn_host::token::IssuerKey::generate().issue(&claims).unwrap();
        let builder = |at: &str| Client::builder().endpoints([at]).token(token.clone());
        assert!(builder("localhost").build().is_ok());
        let error = refused(builder("node1").insecure());
        assert!(matches!(error, SetupError::TokenInClear { .. }), "{error}");
        let key = ClusterKey::from_text(&ClusterKey::generate()).unwrap();
        let authority = Authority::from_pem(key.authority_pem()).unwrap();
        assert!(builder("node1").authority(authority).build().is_ok());
        assert!(builder("node1").key(key).build().is_ok());
        let error = refused(Client::builder().endpoints(["localhost"]).token_file("/dev/null"));
        assert!(error.to_string().contains("/dev/null"), "{error}");
        assert!(Authority::from_pem("nothing").is_err());
    }

    #[tokio::test]
    async fn port_is_the_default_one_unless_it_is_given() {
        let client = Client::builder().endpoints(["localhost", "127.0.0.1:9"]).build().unwrap();
        assert_eq!(client.options().endpoints, ["localhost:7400", "127.0.0.1:9"]);
    }
}
