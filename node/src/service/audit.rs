//! Pages of this node's audit for readers, as far as they may read it, and the check of its chain.
//!
//! A record that names a namespace is shown to whoever may read there. The others, and all of them,
//! are shown to whoever may operate every namespace. Numbers of records are the same on all nodes,
//! so a reader goes on at another node, and gets there what is missing here.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::Lane;
use cairn_proto::wire;
use cairn_types::audit::AuditRecord;
use cairn_types::ids::Namespace;
use cairn_types::rights::Right;
use tonic::Status;

use crate::audit::file::{self, Frame};
use crate::audit::read::{self, Range};
use crate::caller::Caller;
use crate::shared::Shared;

/// What apply has derived is durable within this, or the caller asks again.
const DURABLE_WAIT: Duration = Duration::from_secs(5);

/// Waits until the records of all that this node has applied are durable.
async fn until_durable(shared: &Shared) -> Result<(), Status> {
    let durable = shared.this.trail.until_durable(shared.this.trail.last());
    tokio::time::timeout(DURABLE_WAIT, durable).await.map_err(|_| {
        let text = format!("the audit of this node is not durable within {DURABLE_WAIT:?}");
        Status::unavailable(text)
    })
}

pub async fn page(
    shared: &Arc<Shared>,
    caller: Caller,
    request: wire::AuditRequest,
) -> Result<wire::AuditReply, Status> {
    let wire::AuditRequest { first, last, namespace, subject, since_ms } = request;
    let prefix: Option<Namespace> = match namespace.as_str() {
        "" => None,
        name => {
            let prefix = name.parse();
            Some(prefix.map_err(|error| Status::invalid_argument(format!("{error}")))?)
        }
    };
    until_durable(shared).await?;
    let wants = move |record: &AuditRecord| {
        let object = record.object.namespace.as_ref();
        let is_named = prefix
            .as_ref()
            .is_none_or(|prefix| object.is_some_and(|name| name.is_at_or_below(prefix)));
        let is_shown = match object {
            Some(namespace) => caller.reads(namespace),
            None => caller.check_everywhere(Right::Operate).is_ok(),
        };
        let is_theirs = subject.is_empty() || record.subject.name() == subject;
        is_named && is_shown && is_theirs && record.wall_ms >= since_ms
    };
    let range = Range { first: first.max(1), last: if last == 0 { u64::MAX } else { last } };
    let (trail, place) = (Arc::clone(&shared.this.trail), shared.this.trail.place());
    let read = move || read::page(&*trail.disk, place, range, wants);
    let page = shared.this.env.blocking(Lane::Data, read).await;
    let page = page.map_err(|error| Status::unavailable(format!("read the audit: {error}")))?;
    page.damage.iter().for_each(|text| shared.this.trail.alarm(text.clone()));
    let entries = page.entries.into_iter().map(|frame| match frame {
        Frame::Record(record) => {
            wire::AuditEntry { record: Some(record.to_wire()), ..Default::default() }
        }
        Frame::Gap(gap) => wire::AuditEntry { gap: Some(gap.to_wire()), ..Default::default() },
    });
    Ok(wire::AuditReply {
        entries: entries.collect(),
        next: page.next,
        node: shared.this.id.0,
        kept_from: page.kept_from,
        damage: page.damage,
    })
}

pub async fn check(
    shared: &Arc<Shared>,
    request: wire::AuditCheckRequest,
) -> Result<wire::AuditCheckReply, Status> {
    let wire::AuditCheckRequest { file: wanted, at } = request;
    until_durable(shared).await?;
    let (trail, place) = (Arc::clone(&shared.this.trail), shared.this.trail.place());
    let read = move || {
        let mut files = file::files(&*trail.disk)?;
        files.retain(|first| *first <= place.file);
        let found = match wanted {
            0 => files.first(),
            wanted => files.iter().find(|first| **first == wanted),
        };
        let Some(first) = found.copied() else { return Ok(None) };
        let next = files.iter().find(|next| **next > first).copied();
        let end = (first == place.file).then_some(place.len);
        let mut checked = read::check(&*trail.disk, first, end, next, at);
        if first == place.file && checked.damage.is_empty() && checked.after != place.head {
            let (found, head) = (checked.after.count, place.head.count);
            checked.damage.push(format!("the file ends with record {found}, not {head}"));
        }
        std::io::Result::Ok(Some((first, next, checked)))
    };
    let checked = shared.this.env.blocking(Lane::Data, read).await;
    let checked =
        checked.map_err(|error| Status::unavailable(format!("read the audit: {error}")))?;
    let mut reply = wire::AuditCheckReply {
        node: shared.this.id.0,
        count: place.head.count,
        damage: shared.this.trail.damage(),
        ..wire::AuditCheckReply::default()
    };
    let Some((first, next, checked)) = checked else {
        if wanted > 0 {
            // More than is kept, or removed by hand.
            return Err(Status::not_found(format!("no audit file of record {wanted}")));
        }
        return Ok(reply);
    };
    for text in checked.damage {
        shared.this.trail.alarm(text.clone());
        if !reply.damage.contains(&text) {
            reply.damage.push(text);
        }
    }
    let hash = |hash: &[u8; 32]| bytes::Bytes::copy_from_slice(hash);
    reply.first = first;
    reply.last = checked.after.count;
    reply.hash_before = checked.before.map(|head| hash(&head.hash)).unwrap_or_default();
    reply.hash_after = hash(&checked.after.hash);
    reply.checked = checked.records;
    reply.gaps = checked.gaps.iter().map(cairn_types::audit::AuditGap::to_wire).collect();
    reply.hash_at = checked.at.map(|it| hash(&it)).unwrap_or_default();
    reply.next_file = next.unwrap_or(0);
    Ok(reply)
}
