//! Which tokens are accepted: issuers, revoked tokens, and whether a token is required (T1,
//! decision 0019).
//!
//! A revoked token is remembered until it would have expired anyway, by the wall clock and by cluster
//! time: a wall clock that is wrong once forgets no revocation. Until then a command on its
//! behalf has no effect, even if some node accepted it: apply checks again.

use std::sync::Arc;

use cairn_types::canary;
use cairn_types::command::{Refusal, Reply, RequireTokens, RevokeToken, SetIssuer};
use cairn_types::ids::TokenId;
use cairn_types::limits::{ISSUERS_MAX, REVOKED_KEPT_MS, REVOKED_MAX, TOKEN_VALID_MS_MAX};
use cairn_types::rights::TokenSubject;

use super::{Apply, Catalogue, Entry, check_text, malformed};
use crate::persistent::Map;

/// The catalogue's data about tokens.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub(super) issuers: Arc<Vec<Issuer>>,
    pub(super) revoked: Map<TokenId, Revoked>,
}

/// A person or program whose signature makes a token valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    pub name: String,
    /// Ed25519.
    pub key: [u8; 32],
    /// Wall-clock label of the time when it was added.
    pub wall_ms: u64,
}

impl Issuer {
    pub fn id(&self) -> TokenId {
        TokenId::of_key(&self.key)
    }
}

/// A token that was revoked before it expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Wall clock of its expiry.
    pub until_ms: u64,
    /// Cluster time until which it is remembered at least. A wrong wall clock does not end it.
    pub kept_ms: u64,
    pub reason: String,
    /// Wall-clock label of the revocation, and the name of the token that revoked it, if a token
    /// did.
    pub wall_ms: u64,
    pub by: String,
}

impl Access {
    /// By name.
    pub fn issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.iter()
    }

    pub fn issuer(&self, id: TokenId) -> Option<&Issuer> {
        self.issuers.iter().find(|issuer| issuer.id() == id)
    }

    /// Ordered by id, after `after`.
    pub fn revoked_after(&self, after: TokenId) -> impl Iterator<Item = (&TokenId, &Revoked)> {
        let from = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.revoked.range(from)
    }

    /// Refuses a token that is no longer valid, for every right.
    pub fn check(&self, token: &TokenSubject) -> Result<(), Refusal> {
        if self.issuer(token.issuer).is_none() {
            let text = format!("no issuer of this cluster has key {}", token.issuer);
            return Err(Refusal::BadToken(text));
        }
        let revoked = token.tokens.iter().find(|id| self.revoked.contains_key(*id));
        match revoked.filter(|_| !canary!("revoked_is_taken")) {
            Some(id) => Err(Refusal::BadToken(format!("{id} is revoked"))),
            None => Ok(()),
        }
    }
}

impl Apply for SetIssuer {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        let Self { name, key } = self;
        let issuers = &mut catalogue.access.issuers;
        let at = issuers.binary_search_by(|issuer| issuer.name.cmp(name));
        match (at, *key) {
            (Ok(at), None) => {
                Arc::make_mut(issuers).remove(at);
            }
            (Err(_), None) => return Err(malformed(format!("no issuer {name}"))),
            (Ok(at), Some(key)) if issuers[at].key == key => {}
            // A new key would end the old key's tokens without a warning.
            (Ok(_), Some(_)) => {
                return Err(malformed(format!("issuer {name} has another key: remove it first")));
            }
            (Err(_), Some(_)) if issuers.len() >= ISSUERS_MAX => {
                return Err(malformed(format!("the cluster has {ISSUERS_MAX} issuers, the limit")));
            }
            (Err(_), Some(key)) if issuers.iter().any(|issuer| issuer.key == key) => {
                return Err(malformed("another issuer has this key"));
            }
            (Err(at), Some(key)) => {
                let issuer = Issuer { name: name.clone(), key, wall_ms: entry.wall_ms };
                Arc::make_mut(issuers).insert(at, issuer);
            }
        }
        Ok(Reply::Done)
    }
}

impl Apply for RevokeToken {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        check_text("a reason", &self.reason)?;
        let revoked = &mut catalogue.access.revoked;
        let clock_ms = catalogue.cluster.clock_ms;
        let is_spent = |it: &Revoked| {
            it.until_ms.saturating_add(REVOKED_KEPT_MS) < entry.wall_ms && it.kept_ms < clock_ms
        };
        let spent: Vec<TokenId> =
            revoked.iter().filter(|(_, it)| is_spent(it)).map(|(id, _)| *id).collect();
        spent.iter().for_each(|id| drop(revoked.remove(id)));
        if !revoked.contains_key(&self.token) && revoked.len() >= REVOKED_MAX {
            return Err(malformed(format!(
                "{REVOKED_MAX} tokens are revoked, the limit: set another issuer"
            )));
        }
        let last_ms = entry.wall_ms.saturating_add(TOKEN_VALID_MS_MAX);
        let until_ms = if self.until_ms == 0 { last_ms } else { self.until_ms.min(last_ms) };
        // A second revocation does not shorten the first.
        let before = revoked.get(&self.token);
        let left_ms = until_ms.saturating_sub(entry.wall_ms).saturating_add(REVOKED_KEPT_MS);
        let kept_ms = clock_ms.saturating_add(left_ms);
        let record = Revoked {
            until_ms: before.map_or(until_ms, |before| before.until_ms.max(until_ms)),
            kept_ms: before.map_or(kept_ms, |before| before.kept_ms.max(kept_ms)),
            reason: self.reason.clone(),
            wall_ms: entry.wall_ms,
            by: entry.subject.name().to_owned(),
        };
        revoked.insert(self.token, record);
        Ok(Reply::Done)
    }
}

impl Apply for RequireTokens {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        if self.required && catalogue.access.issuers.is_empty() {
            return Err(malformed("nobody could have a token: no issuer is set"));
        }
        catalogue.cluster.tokens_required = self.required;
        Ok(Reply::Done)
    }
}

impl Catalogue {
    pub fn access(&self) -> &Access {
        &self.access
    }
}
