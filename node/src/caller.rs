//! Who calls: established once for each request, before anything else is looked at (decision 0019).
//!
//! ```text
//!   a token in the headers ──► signatures, issuer, revocation, time ──► Subject, or refused
//!   none: a certificate ──► Key      no key here ──► Local      neither ──► Nobody
//! ```
//!
//! A token decides, whatever connection it came over: a holder of the key that shows one has that
//! token's rights. Today a certificate tells no node from an operator: both hold the cluster's key.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{Extensions, HeaderMap};
use cairn_core::catalogue::{Access, Catalogue};
use cairn_host::tls::has_peer_certificate;
use cairn_host::token::{FORWARDED_TOKEN_HEADER, TOKEN_HEADER, Token, Verified};
use cairn_proto::refused::refusal_status;
use cairn_types::command::Refusal;
use cairn_types::ids::Namespace;
use cairn_types::rights::{Right, Subject, TokenSubject};
use parking_lot::Mutex;
use tonic::transport::server::TlsConnectInfo;
use tonic::{Request, Status};

use crate::listener::PeerInfo;
use crate::shared::Member;

/// Tokens whose signatures were verified lately: a client shows its token with each call.
const VERIFIED_MAX: usize = 1024;

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Neither a certificate nor a token, where there is a key.
    Nobody,
    /// A holder of the cluster's key: a node, or an operator.
    Key,
    /// A process that reached a node without a key: it is trusted with everything.
    Local,
    Subject(Arc<Verified>),
}

impl Caller {
    /// As the guard has established it.
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or(Self::Nobody)
    }

    /// On whose behalf its commands are.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Nobody => Subject::None,
            Self::Key => Subject::Key,
            Self::Local => Subject::Local,
            Self::Subject(token) => Subject::Token(token.subject.clone()),
        }
    }

    pub fn token(&self) -> Option<&TokenSubject> {
        match self {
            Self::Subject(token) => Some(&token.subject),
            Self::Nobody | Self::Key | Self::Local => None,
        }
    }

    /// Refuses what the caller may not do in `namespace`. The answer is the same whether there is
    /// such a namespace.
    pub fn check(&self, right: Right, namespace: &Namespace) -> Result<(), Status> {
        match self {
            Self::Nobody => Err(nobody()),
            Self::Key | Self::Local => Ok(()),
            Self::Subject(token) if token.subject.grant.allows(right, namespace) => Ok(()),
            Self::Subject(token) => {
                Err(not_allowed(&token.subject, right.word(), namespace.as_str()))
            }
        }
    }

    /// Refuses what concerns no namespace to those who may not do it in all.
    pub fn check_everywhere(&self, right: Right) -> Result<(), Status> {
        match self {
            Self::Nobody => Err(nobody()),
            Self::Key | Self::Local => Ok(()),
            Self::Subject(token) if token.subject.grant.allows_everywhere(right) => Ok(()),
            Self::Subject(token) => {
                Err(not_allowed(&token.subject, right.word(), "every namespace"))
            }
        }
    }

    /// Whether it may read what is in `namespace`.
    pub fn reads(&self, namespace: &Namespace) -> bool {
        self.check(Right::Read, namespace).is_ok()
    }

    /// Whether it may know of the cluster as a whole.
    pub fn reads_everything(&self) -> bool {
        self.check_everywhere(Right::Read).is_ok()
    }

    /// Refuses a token that was revoked by now, as far as `catalogue` knows, or that has expired at
    /// this wall clock. A call that lasts, such as a watch, asks again and again.
    pub fn check_current(&self, catalogue: &Catalogue, wall_ms: u64) -> Result<(), Status> {
        match self {
            Self::Nobody => Err(nobody()),
            Self::Key | Self::Local => Ok(()),
            Self::Subject(token) => {
                check_time(token, wall_ms)?;
                catalogue.access().check(&token.subject).map_err(|it| refusal_status(&it))
            }
        }
    }

    /// Waits until reads here are linearizable, and asks again whether the token is good.
    pub async fn read_index(&self, member: &Member) -> Result<(), Status> {
        member.read_index(member.this.call_deadline()).await?;
        let wall_ms = member.median_wall_ms();
        member.read(|catalogue| self.check_current(catalogue, wall_ms))
    }
}

/// The answer to a caller that has shown nothing.
pub fn nobody() -> Status {
    Status::unauthenticated("no client certificate: this cluster wants a cluster key, or a token")
}

pub fn not_allowed(token: &TokenSubject, right: &str, place: &str) -> Status {
    let (subject, right, place) = (token.name.clone(), right.to_owned(), place.to_owned());
    refusal_status(&Refusal::NotAllowed { subject, right, place })
}

/// What this node knows of tokens at a moment. A copy costs next to nothing.
pub struct View {
    pub access: Access,
    /// Callers without a token are nodes, and have no other rights.
    pub required: bool,
    /// The voters' median wall clock.
    pub wall_ms: u64,
}

/// Establishes callers.
#[derive(Clone)]
pub struct Callers {
    /// This node has a key: connections may bring certificates.
    certificates: bool,
    view: Arc<dyn Fn() -> View + Send + Sync>,
    /// By a hash of the token's text.
    verified: Arc<Mutex<BTreeMap<[u8; 32], Arc<Known>>>>,
}

/// What a token says, and the key that it was verified from.
struct Known {
    key: [u8; 32],
    verified: Arc<Verified>,
}

impl Callers {
    pub fn new(certificates: bool, view: impl Fn() -> View + Send + Sync + 'static) -> Self {
        Self { certificates, view: Arc::new(view), verified: Arc::default() }
    }

    /// Whether callers without a token are nodes at most.
    pub fn tokens_are_required(&self) -> bool {
        (self.view)().required
    }

    /// Who sent a request with these extensions and headers.
    pub fn establish(
        &self,
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> Result<Caller, Status> {
        if let Some(value) = headers.get(TOKEN_HEADER) {
            check_private(extensions)?;
            return self.subject(value.as_bytes());
        }
        Ok(match self.certificates {
            true if has_peer_certificate::<PeerInfo>(extensions) => Caller::Key,
            true => Caller::Nobody,
            false => Caller::Local,
        })
    }

    /// On whose behalf `caller`, a node, passes a command on: whose token it brings, which proves it
    /// here as it did there.
    pub fn on_behalf(
        &self,
        caller: Caller,
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> Result<Caller, Status> {
        match headers.get(FORWARDED_TOKEN_HEADER) {
            Some(value) => {
                check_private(extensions)?;
                self.subject(value.as_bytes())
            }
            None => Ok(caller),
        }
    }

    fn subject(&self, header: &[u8]) -> Result<Caller, Status> {
        let refused = |text: String| refusal_status(&Refusal::BadToken(text));
        let view = (self.view)();
        let hash = *blake3::hash(header).as_bytes();
        let known = self.verified.lock().get(&hash).cloned();
        let current = known.filter(|known| {
            let issuer = view.access.issuer(known.verified.subject.issuer);
            issuer.is_some_and(|issuer| issuer.key == known.key)
        });
        let known = match current {
            Some(known) => known,
            None => {
                let text = str::from_utf8(header).map_err(|_| refused("it is not text".into()))?;
                let token = Token::from_header(text).map_err(|error| refused(error.to_string()))?;
                let issuer = token.issuer().map_err(|error| refused(error.to_string()))?;
                let key = view.access.issuer(issuer).map(|issuer| issuer.key);
                let key = key.ok_or_else(|| {
                    refused(format!("no issuer of this cluster has key {issuer}"))
                })?;
                let verified = token.verify(&key).map_err(|error| refused(error.to_string()))?;
                let known = Arc::new(Known { key, verified: Arc::new(verified) });
                let mut all = self.verified.lock();
                if all.len() >= VERIFIED_MAX {
                    all.clear();
                }
                all.insert(hash, Arc::clone(&known));
                known
            }
        };
        check_time(&known.verified, view.wall_ms)?;
        let subject = &known.verified.subject;
        view.access.check(subject).map_err(|refusal| refusal_status(&refusal))?;
        Ok(Caller::Subject(Arc::clone(&known.verified)))
    }
}

fn check_time(token: &Verified, wall_ms: u64) -> Result<(), Status> {
    let time = token.check_time(wall_ms);
    time.map_err(|error| refusal_status(&Refusal::BadToken(error.to_string())))
}

/// Refuses a token that anybody on the way could read. In the simulator nobody is on the way.
fn check_private(extensions: &Extensions) -> Result<(), Status> {
    let Some(peer) = PeerInfo::of(extensions) else { return Ok(()) };
    let is_encrypted = extensions.get::<TlsConnectInfo<PeerInfo>>().is_some();
    match is_encrypted || peer.address.ip().to_canonical().is_loopback() {
        true => Ok(()),
        false => {
            let text = "it was sent in clear: revoke it, and use the cluster's key or authority";
            Err(refusal_status(&Refusal::BadToken(text.to_owned())))
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::catalogue::Catalogue;
    use cairn_host::token::{Claims, IssuerKey};
    use cairn_types::command::{self, Body, Command, FEATURE_LEVEL};
    use cairn_types::ids::{ClusterId, Cookie, RequestId, TokenId};
    use cairn_types::model::{NewNode, Settings};
    use cairn_types::rights::{Grant, Right};

    use super::*;

    const NOW_MS: u64 = 1_000 * 86_400_000;

    struct World {
        catalogue: Arc<Mutex<Catalogue>>,
        wall_ms: Arc<Mutex<u64>>,
        index: u64,
        issuer: IssuerKey,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                catalogue: Arc::default(),
                wall_ms: Arc::new(Mutex::new(NOW_MS)),
                index: 0,
                issuer: IssuerKey::generate(),
            };
            let node = NewNode {
                cookie: Cookie(1),
                host: "h".into(),
                rack: "r".into(),
                address: "h:1".into(),
                capacity_bytes: 1,
                feature_level: FEATURE_LEVEL,
                replaces: None,
                key: None,
            };
            let (cluster, settings) = (ClusterId(1), Settings::default());
            world.apply(Body::InitCluster(command::InitCluster { cluster, settings, node }));
            let key = Some(world.issuer.public());
            world.apply(Body::SetIssuer(command::SetIssuer { name: "ops".into(), key }));
            world
        }

        fn apply(&mut self, body: Body) {
            self.index += 1;
            let command = Command::new(RequestId(0), 0, NOW_MS, body);
            let reply = self.catalogue.lock().apply(self.index, &command);
            assert!(reply.refusal().is_none(), "{reply:?}");
        }

        fn callers(&self, certificates: bool) -> Callers {
            let (catalogue, wall_ms) = (Arc::clone(&self.catalogue), Arc::clone(&self.wall_ms));
            Callers::new(certificates, move || View {
                access: catalogue.lock().access().clone(),
                required: false,
                wall_ms: *wall_ms.lock(),
            })
        }

        fn token(&self) -> Token {
            let rights = [Right::Write].into_iter().collect();
            let claims = Claims {
                subject: "ci".into(),
                grant: Grant { rights, namespaces: vec!["team".parse().unwrap()] },
                issued_ms: NOW_MS,
                expires_ms: NOW_MS + 86_400_000,
            };
            self.issuer.issue(&claims).unwrap()
        }
    }

    fn headers(token: &Token) -> HeaderMap {
        HeaderMap::from_iter([(
            axum::http::header::AUTHORIZATION,
            token.to_header().parse().unwrap(),
        )])
    }

    fn from(address: &str) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(PeerInfo::at(address.parse().unwrap()));
        extensions
    }

    fn refused(caller: Result<Caller, Status>) -> String {
        let refusal = cairn_proto::refused::refusal_of(&caller.unwrap_err());
        match refusal {
            Some(Refusal::BadToken(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_caller_is_who_its_token_says_and_else_who_its_connection_says() {
        let world = World::new();
        let nothing = (Extensions::new(), HeaderMap::new());
        for (certificates, want) in [(false, Caller::Local), (true, Caller::Nobody)] {
            let callers = world.callers(certificates);
            assert_eq!(callers.establish(&nothing.0, &nothing.1).unwrap(), want);
            for _ in 0..2 {
                let caller = callers.establish(&nothing.0, &headers(&world.token())).unwrap();
                assert_eq!(caller.subject().name(), "ci");
            }
        }
    }

    #[test]
    fn a_token_that_is_not_good_is_refused_and_not_left_out() {
        let mut world = World::new();
        let callers = world.callers(false);
        let (open, token) = (Extensions::new(), world.token());
        callers.establish(&open, &headers(&token)).unwrap();
        let foreign = World::new().token();
        let text = refused(callers.establish(&open, &headers(&foreign)));
        assert!(text.contains("no issuer of this cluster"), "{text}");
        for value in ["Bearer x", "Basic YTpi", ""] {
            let headers =
                HeaderMap::from_iter([(axum::http::header::AUTHORIZATION, value.parse().unwrap())]);
            assert!(callers.establish(&open, &headers).is_err(), "{value}");
        }
        *world.wall_ms.lock() = NOW_MS + 2 * 86_400_000;
        let text = refused(callers.establish(&open, &headers(&token)));
        assert!(text.contains("expired"), "{text}");
        *world.wall_ms.lock() = NOW_MS;
        let narrow = token.attenuate(None, None, None).unwrap();
        callers.establish(&open, &headers(&narrow)).unwrap();
        let id: TokenId = token.claims().unwrap().subject.tokens[0];
        let (until_ms, reason) = (0, String::new());
        world.apply(Body::RevokeToken(command::RevokeToken { token: id, until_ms, reason }));
        for token in [token, narrow] {
            let text = refused(callers.establish(&open, &headers(&token)));
            assert_eq!(text, format!("{id} is revoked"));
        }
        // Verified before, and its issuer is gone since.
        let token = world.token();
        callers.establish(&open, &headers(&token)).unwrap();
        world.apply(Body::SetIssuer(command::SetIssuer { name: "ops".into(), key: None }));
        let text = refused(callers.establish(&open, &headers(&token)));
        assert!(text.contains("no issuer of this cluster"), "{text}");
    }

    #[test]
    fn a_call_that_lasts_ends_once_its_token_is_revoked_or_has_expired() {
        let mut world = World::new();
        let token = world.token();
        let callers = world.callers(false);
        let caller = callers.establish(&Extensions::new(), &headers(&token)).unwrap();
        let checked = |world: &World, wall_ms: u64| {
            let current = caller.check_current(&world.catalogue.lock(), wall_ms);
            current.map(|()| caller.clone())
        };
        checked(&world, NOW_MS).unwrap();
        let text = refused(checked(&world, NOW_MS + 2 * 86_400_000));
        assert!(text.contains("expired"), "{text}");
        let id: TokenId = token.claims().unwrap().subject.tokens[0];
        let (until_ms, reason) = (0, String::new());
        world.apply(Body::RevokeToken(command::RevokeToken { token: id, until_ms, reason }));
        assert_eq!(refused(checked(&world, NOW_MS)), format!("{id} is revoked"));
        // Nobody has given these a token that could end.
        for caller in [Caller::Key, Caller::Local] {
            caller.check_current(&world.catalogue.lock(), u64::MAX).unwrap();
        }
    }

    #[test]
    fn nobody_may_do_nothing_even_where_no_door_was_passed() {
        let (world, team) = (World::new(), "team".parse().unwrap());
        let nobody = Caller::of(&Request::new(()));
        assert_eq!(nobody, Caller::Nobody);
        assert!(!nobody.reads(&team) && !nobody.reads_everything());
        assert!(nobody.check_current(&world.catalogue.lock(), NOW_MS).is_err());
        for right in Right::ALL {
            assert!(nobody.check(right, &team).is_err() && nobody.check_everywhere(right).is_err());
            for caller in [Caller::Key, Caller::Local] {
                caller.check(right, &team).unwrap();
                caller.check_everywhere(right).unwrap();
            }
        }
    }

    #[test]
    fn a_token_in_clear_from_another_machine_is_refused() {
        let world = World::new();
        let callers = world.callers(false);
        for address in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            callers.establish(&from(address), &headers(&world.token())).unwrap();
        }
        let text = refused(callers.establish(&from("10.0.0.7:9"), &headers(&world.token())));
        assert!(text.contains("in clear"), "{text}");
        // Nor from a node that passes a command on.
        let header = world.token().to_header().parse().unwrap();
        let name = axum::http::HeaderName::from_static(FORWARDED_TOKEN_HEADER);
        let headers = HeaderMap::from_iter([(name, header)]);
        let on_behalf = |address| callers.on_behalf(Caller::Local, &from(address), &headers);
        assert_eq!(on_behalf("127.0.0.1:9").unwrap().subject().name(), "ci");
        let text = refused(on_behalf("10.0.0.7:9"));
        assert!(text.contains("in clear"), "{text}");
    }
}
