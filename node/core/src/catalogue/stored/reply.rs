//! Replies remembered for retried requests.

use std::io;

use cairn_types::command::Reply;
use cairn_types::convert::{
    id128_from_wire, id128_to_wire, reply_from_wire, reply_to_wire, required,
};
use cairn_types::ids::RequestId;
use cairn_types::limits::REPLIES_MAX;
use cairn_types::wire;

use super::{LoadError, Loader, Put, Stored, StoredError};
use crate::catalogue::Catalogue;
use crate::catalogue::replies::is_kept;

pub(super) struct Replies;

impl Stored for Replies {
    type Message = wire::SnapshotReply;

    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()> {
        catalogue.replies().try_for_each(|(request, reply)| {
            let request = id128_to_wire(request.0);
            put(wire::SnapshotReply { request, reply: Some(reply_to_wire(reply)) })
        })
    }

    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError> {
        let request = RequestId(id128_from_wire("request id", &message.request)?);
        let reply = reply_from_wire(required("reply", message.reply)?)?;
        loader.reply(request, &reply)?;
        Ok(())
    }
}

impl Loader {
    /// Oldest first.
    pub fn reply(&mut self, request: RequestId, reply: &Reply) -> Result<(), LoadError> {
        let replies = &mut self.catalogue.replies;
        let known = replies.get(request).is_some();
        if request == RequestId(0) || known || !is_kept(reply) || replies.len() >= REPLIES_MAX {
            return Err(LoadError::Reply(request));
        }
        replies.remember(request, reply);
        Ok(())
    }
}
