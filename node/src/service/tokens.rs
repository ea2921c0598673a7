//! Issuers of tokens, and tokens that were revoked.

use bytes::Bytes;
use cairn_core::catalogue::{Catalogue, Issuer, Revoked};
use cairn_proto::wire;
use cairn_types::convert::{id128_from_wire, id128_to_wire};
use cairn_types::ids::TokenId;
use tonic::Status;

/// Revoked tokens of one page: a reason may have a KiB.
const PAGE_MAX: usize = 500;

pub(super) fn list(catalogue: &Catalogue, after: &[u8]) -> Result<wire::ListTokensReply, Status> {
    let after = match after.is_empty() {
        true => TokenId(0),
        false => {
            let id = id128_from_wire("token id", after);
            TokenId(id.map_err(|error| Status::invalid_argument(error.to_string()))?)
        }
    };
    let access = catalogue.access();
    let issuer = |issuer: &Issuer| wire::Issuer {
        name: issuer.name.clone(),
        key: Bytes::copy_from_slice(&issuer.key),
        wall_ms: issuer.wall_ms,
    };
    let one = |(token, revoked): (&TokenId, &Revoked)| wire::RevokedToken {
        token: id128_to_wire(token.0),
        until_ms: revoked.until_ms,
        reason: revoked.reason.clone(),
        wall_ms: revoked.wall_ms,
        by: revoked.by.clone(),
    };
    let mut revoked: Vec<_> = access.revoked_after(after).take(PAGE_MAX + 1).map(one).collect();
    let more = revoked.len() > PAGE_MAX;
    revoked.truncate(PAGE_MAX);
    let required = catalogue.cluster().tokens_required;
    Ok(wire::ListTokensReply {
        issuers: access.issuers().map(issuer).collect(),
        revoked,
        more,
        required,
    })
}
