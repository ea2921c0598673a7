//! Replies remembered for retried requests (C4).
//!
//! Kept: the last `REPLIES_MAX` replies, in log order. Not kept: refusals and `Lacking` (they had
//! no effect, and a retry should be judged anew), `Staged` and `Reported` (idempotent by
//! themselves, and large or frequent).

use std::sync::Arc;

use crate::command::Reply;
use crate::ids::RequestId;
use crate::limits::REPLIES_MAX;
use crate::sharded::{ShardKey, Sharded};

#[derive(Debug, Clone, Default)]
pub(super) struct Replies {
    by_request: Sharded<RequestId, Arc<Reply>>,
    /// Position in the order of remembering -> request.
    order: Sharded<u64, RequestId>,
    /// Positions `first..next` are taken.
    first: u64,
    next: u64,
}

impl ShardKey for RequestId {
    fn shard(&self) -> u16 {
        (self.0 as u16) & 0xff
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
        if self.by_request.len() > REPLIES_MAX {
            if let Some(oldest) = self.order.remove(&self.first) {
                self.by_request.remove(&oldest);
            }
            self.first += 1;
        }
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
        | Reply::Dropped { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
