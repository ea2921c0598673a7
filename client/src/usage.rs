//! What namespaces take: the sum of their checkpoints, the bytes behind them, the trash.

use cairn_proto::wire;
use cairn_types::ids::Namespace;

use crate::catalogue::malformed;
use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// What one namespace takes, without those below it. Bytes are of one replica of each segment, before
/// compression.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceUsage {
    pub namespace: Namespace,
    /// Committed checkpoints, and the size of their files.
    pub checkpoints: u64,
    pub logical_bytes: u64,
    /// Of the segments that these name, each counted once.
    pub stored_bytes: u64,
    /// Of `stored_bytes`, what no checkpoint of another namespace names, also none in its trash.
    /// `None` for a token that may not read everything: the number would say what others have stored.
    pub unique_bytes: Option<u64>,
    /// Deleted checkpoints that still name segments, and the bytes that no committed checkpoint of the
    /// namespace names. Another namespace may name them.
    pub trash_checkpoints: u64,
    pub trash_bytes: u64,
}

impl NamespaceUsage {
    /// Of a namespace that has nothing.
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            checkpoints: 0,
            logical_bytes: 0,
            stored_bytes: 0,
            unique_bytes: None,
            trash_checkpoints: 0,
            trash_bytes: 0,
        }
    }

    /// Of `stored_bytes`, what another namespace names too.
    pub fn shared_bytes(&self) -> Option<u64> {
        self.unique_bytes.map(|unique| self.stored_bytes.saturating_sub(unique))
    }
}

impl Client {
    /// What the namespaces at and below `prefix` (`None` for all) take, by name: those that this client
    /// may read and that have checkpoints or trash. The node walks all their references: the time
    /// grows with these. The numbers of a page belong to one moment.
    pub async fn usage(
        &self,
        prefix: Option<&Namespace>,
    ) -> Result<Vec<NamespaceUsage>, ClientError> {
        let mut found: Vec<NamespaceUsage> = Vec::new();
        loop {
            let page = self.usage_page(prefix, found.last().map(|last| &last.namespace)).await?;
            let is_empty = page.namespaces.is_empty();
            for one in page.namespaces {
                let one = usage(one)?;
                let is_below = prefix.is_none_or(|prefix| one.namespace.is_at_or_below(prefix));
                if !is_below || found.last().is_some_and(|last| one.namespace <= last.namespace) {
                    let text = format!("{} was not asked for", one.namespace);
                    return Err(malformed("usage", text));
                }
                found.push(one);
            }
            match page.more {
                false => return Ok(found),
                // The same page would be asked for again and again.
                true if is_empty => {
                    return Err(malformed("usage", "an empty page that claims more".to_owned()));
                }
                true => {}
            }
        }
    }

    fn usage_page<'a>(
        &'a self,
        prefix: Option<&'a Namespace>,
        after: Option<&'a Namespace>,
    ) -> Answer<'a, wire::UsageReply> {
        Box::pin(async move {
            let text = |name: Option<&Namespace>| name.map(ToString::to_string).unwrap_or_default();
            let message =
                wire::UsageRequest { prefix: text(prefix), after: text(after), deadline_ms: 0 };
            self.read("usage", |mut stub, identity, deadline_ms| {
                let message = wire::UsageRequest { deadline_ms, ..message.clone() };
                let request = with_identity(message, &identity);
                Box::pin(async move { stub.usage(request).await })
            })
            .await
        })
    }
}

fn usage(one: wire::NamespaceUsage) -> Result<NamespaceUsage, ClientError> {
    let namespace = one.namespace.parse();
    let namespace = namespace.map_err(|error| malformed("usage", format!("{error}")))?;
    if one.unique_bytes.is_some_and(|unique| unique > one.stored_bytes) {
        let text = format!("{namespace} has more unique bytes than bytes");
        return Err(malformed("usage", text));
    }
    Ok(NamespaceUsage {
        namespace,
        checkpoints: one.checkpoints,
        logical_bytes: one.logical_bytes,
        stored_bytes: one.stored_bytes,
        unique_bytes: one.unique_bytes,
        trash_checkpoints: one.trash_checkpoints,
        trash_bytes: one.trash_bytes,
    })
}
