//! Whose tokens a cluster takes, and which of them were revoked.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_proto::wire;
use cairn_types::command::{Body, RequireTokens, RevokeToken, SetIssuer};
use cairn_types::convert::{id128_from_wire, id128_to_wire};
use cairn_types::ids::TokenId;
use cairn_types::limits::REVOKED_MAX;

use crate::catalogue::malformed;
use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// Somebody whose tokens the cluster takes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IssuerInfo {
    pub name: String,
    /// Ed25519.
    pub key: [u8; 32],
    /// Wall-clock label of when it was added, milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// A token that was ended before it expired.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RevokedInfo {
    pub token: TokenId,
    /// Wall clock of its expiry, milliseconds since the Unix epoch; it may be forgotten after that.
    pub until_ms: u64,
    pub reason: String,
    pub wall_ms: u64,
    /// Whose token revoked it; empty where none did.
    pub by: String,
}

/// What a cluster knows of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokensInfo {
    pub issuers: Vec<IssuerInfo>,
    pub revoked: Vec<RevokedInfo>,
    /// Whether callers without a token have no rights.
    pub required: bool,
}

impl Client {
    /// Whether this client shows a token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Takes tokens that are signed with a key; `None` takes the issuer back, and all its tokens.
    pub async fn set_issuer(&self, name: &str, key: Option<[u8; 32]>) -> Result<(), ClientError> {
        let body = Body::SetIssuer(SetIssuer { name: name.to_owned(), key });
        self.execute(body, Duration::ZERO).await.map(|_| ())
    }

    /// Ends a token, and all that were made from it; it is remembered until its expiry, or where that
    /// is not known (zero), for as long as a token can be valid.
    pub async fn revoke_token(
        &self,
        token: TokenId,
        until_ms: u64,
        reason: &str,
    ) -> Result<(), ClientError> {
        let body = Body::RevokeToken(RevokeToken { token, until_ms, reason: reason.to_owned() });
        self.execute(body, Duration::ZERO).await.map(|_| ())
    }

    /// Whether callers without a token have no rights.
    pub async fn require_tokens(&self, required: bool) -> Result<(), ClientError> {
        let body = Body::RequireTokens(RequireTokens { required });
        self.execute(body, Duration::ZERO).await.map(|_| ())
    }

    /// Issuers, and the tokens that were revoked.
    pub fn tokens(&self) -> Answer<'_, TokensInfo> {
        Box::pin(async move {
            let wrong = |problem: String| malformed("list tokens", problem);
            let (mut info, mut after) = (TokensInfo::default(), Default::default());
            let mut seen = BTreeSet::new();
            loop {
                let reply = self
                    .read("list tokens", |mut stub, identity, deadline_ms| {
                        let after = bytes::Bytes::clone(&after);
                        let message = wire::ListTokensRequest { deadline_ms, after };
                        let request = with_identity(message, &identity);
                        Box::pin(async move { stub.list_tokens(request).await })
                    })
                    .await?;
                info.required = reply.required;
                info.issuers = Vec::new();
                for issuer in reply.issuers {
                    let key = issuer.key[..].try_into();
                    let key = key.map_err(|_| wrong("a key that is not 32 bytes".to_owned()))?;
                    let (name, wall_ms) = (issuer.name, issuer.wall_ms);
                    info.issuers.push(IssuerInfo { name, key, wall_ms });
                }
                for revoked in reply.revoked {
                    let token = id128_from_wire("token id", &revoked.token);
                    let token = TokenId(token.map_err(|error| wrong(error.to_string()))?);
                    if !seen.insert(token) || seen.len() > REVOKED_MAX {
                        return Err(wrong("a page that does not go on".to_owned()));
                    }
                    after = id128_to_wire(token.0);
                    let wire::RevokedToken { until_ms, reason, wall_ms, by, .. } = revoked;
                    info.revoked.push(RevokedInfo { token, until_ms, reason, wall_ms, by });
                }
                if !reply.more {
                    return Ok(info);
                }
            }
        })
    }
}
