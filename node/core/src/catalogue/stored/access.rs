//! Issuers of tokens, and tokens that were revoked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::convert::{ConvertError, id128_from_wire, id128_to_wire};
use cairn_types::ids::TokenId;
use cairn_types::limits::{ISSUERS_MAX, REVOKED_MAX};
use cairn_types::rights::check_subject;
use cairn_types::wire;

use super::{LoadError, Loader, Put, Stored, StoredError};
use crate::catalogue::Catalogue;
use crate::catalogue::access::{Issuer, Revoked};

pub(super) struct Issuers;

impl Stored for Issuers {
    type Message = wire::SnapshotIssuer;

    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()> {
        catalogue.access().issuers().try_for_each(|issuer| {
            let key = Bytes::copy_from_slice(&issuer.key);
            put(wire::SnapshotIssuer { name: issuer.name.clone(), key, wall_ms: issuer.wall_ms })
        })
    }

    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError> {
        let wire::SnapshotIssuer { name, key, wall_ms } = message;
        check_subject(&name)?;
        let (got, want) = (key.len(), 32);
        let key = key[..].try_into();
        let key = key.map_err(|_| ConvertError::Length { field: "issuer key", got, want })?;
        loader.issuer(Issuer { name, key, wall_ms })?;
        Ok(())
    }
}

pub(super) struct RevokedTokens;

impl Stored for RevokedTokens {
    type Message = wire::SnapshotRevoked;

    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()> {
        catalogue.access.revoked.iter().try_for_each(|(token, revoked)| {
            put(wire::SnapshotRevoked {
                token: id128_to_wire(token.0),
                until_ms: revoked.until_ms,
                kept_ms: revoked.kept_ms,
                reason: revoked.reason.clone(),
                wall_ms: revoked.wall_ms,
                by: revoked.by.clone(),
            })
        })
    }

    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError> {
        let wire::SnapshotRevoked { token, until_ms, kept_ms, reason, wall_ms, by } = message;
        let token = TokenId(id128_from_wire("token id", &token)?);
        loader.revoked(token, Revoked { until_ms, kept_ms, reason, wall_ms, by })?;
        Ok(())
    }
}

impl Loader {
    fn issuer(&mut self, issuer: Issuer) -> Result<(), LoadError> {
        let issuers = Arc::make_mut(&mut self.catalogue.access.issuers);
        let is_next = issuers.last().is_none_or(|last| last.name < issuer.name);
        let is_new = issuers.iter().all(|other| other.key != issuer.key);
        if !is_next || !is_new || issuers.len() >= ISSUERS_MAX {
            return Err(LoadError::Issuer(issuer.name));
        }
        issuers.push(issuer);
        Ok(())
    }

    fn revoked(&mut self, token: TokenId, revoked: Revoked) -> Result<(), LoadError> {
        let known = &mut self.catalogue.access.revoked;
        if known.len() >= REVOKED_MAX || known.insert(token, revoked).is_some() {
            return Err(LoadError::Revoked(token));
        }
        Ok(())
    }
}
