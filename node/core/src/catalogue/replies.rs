//! Replies remembered for retried requests (C4).
//!
//! Kept: the last `REPLIES_MAX` replies, of at most `REPLIES_BYTES_MAX`, in log order. Not kept:
//! refusals and `Lacking` (they had no effect, and a retry should be decided again), `Staged` and
//! `Reported` (idempotent by themselves, and large or frequent).

use std::sync::Arc;

use crate::sharded::{ShardKey, Sharded};
use cairn_types::command::Reply;
use cairn_types::ids::RequestId;
use cairn_types::limits::{REPLIES_BYTES_MAX, REPLIES_MAX};

#[derive(Debug, Clone, Default)]
pub(super) struct Replies {
    by_request: Sharded<RequestId, Arc<Reply>>,
    /// Position in the order of storing -> request.
    order: Sharded<u64, RequestId>,
    /// Positions `first..next` are in use.
    first: u64,
    next: u64,
    /// Approximate bytes of all remembered replies.
    bytes: usize,
}

/// Bytes of a remembered reply that [`weight`] does not count: record, request and indexes.
const REPLY_BYTES: usize = 256;

/// Approximate bytes of a reply in memory.
fn weight(reply: &Reply) -> usize {
    REPLY_BYTES
        + match reply {
            Reply::Begun(begun) => begun.sealed.len() * size_of::<u32>(),
            _ => 0,
        }
}

impl ShardKey for RequestId {
    fn shard(&self) -> u16 {
        (self.0 as u16) & 0xfff
    }
}

impl ShardKey for u64 {
    fn shard(&self) -> u16 {
        (self >> 8) as u16
    }
}

impl Replies {
    pub(super) fn get(&self, request: RequestId) -> Option<&Reply> {
        self.by_request.get(&request).map(Arc::as_ref)
    }

    pub(super) fn remember(&mut self, request: RequestId, reply: &Reply) {
        if request == RequestId(0) || !is_kept(reply) || self.get(request).is_some() {
            return;
        }
        self.by_request.insert(request, Arc::new(reply.clone()));
        self.order.insert(self.next, request);
        self.next += 1;
        self.bytes += weight(reply);
        while self.by_request.len() > REPLIES_MAX || self.bytes > REPLIES_BYTES_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.order.remove(&self.first);
        if let Some(reply) = oldest.and_then(|oldest| self.by_request.remove(&oldest)) {
            self.bytes -= weight(&reply);
        }
        self.first += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.by_request.len()
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RequestId, &Reply)> {
        (self.first..self.next).filter_map(|at| {
            let request = self.order.get(&at)?;
            Some((*request, self.get(*request)?))
        })
    }
}

/// Whether a reply of this kind is remembered.
pub(super) fn is_kept(reply: &Reply) -> bool {
    match reply {
        Reply::Refused(_)
        | Reply::Lacking { .. }
        | Reply::Staged { .. }
        | Reply::Reported { .. } => false,
        Reply::Done
        | Reply::NodeAllocated { .. }
        | Reply::Registered { .. }
        | Reply::Begun(_)
        | Reply::Sealed { .. }
        | Reply::Committed { .. }
        | Reply::Dropped { .. }
        | Reply::TimeRepaired { .. }
        | Reply::RolledBack { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_types::command::Begun;
    use cairn_types::ids::{Attempt, CheckpointId};
    use cairn_types::limits::PARTS_MAX;
    use cairn_types::model::Policy;

    #[test]
    fn the_oldest_reply_is_forgotten_first() {
        let mut replies = Replies::default();
        for request in 1..=REPLIES_MAX as u128 + 3 {
            replies.remember(RequestId(request), &Reply::Done);
        }
        assert_eq!(replies.len(), REPLIES_MAX);
        assert!(replies.get(RequestId(3)).is_none());
        assert_eq!(replies.iter().next().map(|(request, _)| request), Some(RequestId(4)));
    }

    #[test]
    fn replies_that_name_many_parts_are_bounded_by_their_bytes() {
        let mut replies = Replies::default();
        let begun = Begun {
            first_part: 0,
            checkpoint: CheckpointId(1),
            attempt: Attempt(1),
            policy: Policy::default(),
            parts: PARTS_MAX,
            sealed: (0..PARTS_MAX).collect(),
            committed: false,
        };
        let reply = Reply::Begun(begun);
        let most = REPLIES_BYTES_MAX / weight(&reply);
        for request in 1..=most as u128 + 10 {
            replies.remember(RequestId(request), &reply);
        }
        assert_eq!(replies.len(), most);
        assert!(replies.bytes <= REPLIES_BYTES_MAX);
        assert!(replies.get(RequestId(10)).is_none() && replies.get(RequestId(11)).is_some());
        for request in 1_000..1_000 + most as u128 {
            replies.remember(RequestId(request), &Reply::Done);
        }
        let held: usize = replies.iter().map(|(_, reply)| weight(reply)).sum();
        assert_eq!(replies.bytes, held);
    }
}
