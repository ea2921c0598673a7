//! A client's command, passed on to the leader by a node that does not lead.
//!
//! Clients go to the leader themselves as long as they reach it. Where they do not, and the nodes
//! do, one hop more keeps writes going (decision 0013). A command is passed on once: the leader
//! takes it under another method, which passes nothing on.

use std::time::Duration;

use cairn_host::envelope::{Reason, refuse};
use cairn_host::token::FORWARDED_TOKEN_HEADER;
use cairn_proto::refused::refusal_status;
use cairn_proto::wire;
use cairn_proto::wire::catalogue_client::CatalogueClient;
use cairn_types::command::Refusal;
use cairn_types::ids::NodeId;
use cairn_types::limits::MESSAGE_BYTES_MAX;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;

use crate::counters::Counters;
use crate::shared::Calls;

/// Commands passed on at once by one node: a small share of what the leader admits, because each
/// of them takes a call here and one there.
const FORWARDS_MAX: usize = 256;
/// A command whose client names no deadline is passed on for this long.
const DEADLINE_UNNAMED: Duration = Duration::from_secs(5);
/// The longest hold of a SealPart and the proposal of it.
const DEADLINE_MAX: Duration = Duration::from_secs(45);
/// Less than the client waits, so that a reason arrives instead of silence.
const SHARE: f32 = 0.9;

pub struct Forwards {
    permits: Semaphore,
}

impl Default for Forwards {
    fn default() -> Self {
        Self { permits: Semaphore::new(FORWARDS_MAX) }
    }
}

impl Forwards {
    /// Has the leader execute `request`, on behalf of the client whose `token` it brought: the leader
    /// verifies it as this node did, and believes no node; without a known leader, or where it changes meanwhile,
    /// the caller is told and tries again.
    pub async fn execute(
        &self,
        calls: &Calls,
        counters: &Counters,
        token: Option<AsciiMetadataValue>,
        request: wire::ExecuteRequest,
    ) -> Result<wire::ExecuteReply, Status> {
        let Some((leader, registered)) = calls.member.consensus.leader() else {
            return Err(calls.member.not_leader());
        };
        let Ok(_permit) = self.permits.try_acquire() else {
            return Err(refuse(Reason::Busy, "too many commands are being passed on"));
        };
        counters.commands_forwarded.add(1);
        let deadline = match request.deadline_ms {
            0 => DEADLINE_UNNAMED,
            ms => Duration::from_millis(ms).mul_f32(SHARE).min(DEADLINE_MAX),
        };
        let address = calls.member.address_of(NodeId(leader)).unwrap_or(registered);
        let mut client = CatalogueClient::new(calls.transport(&address))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let message = wire::ExecuteRequest { forward: false, ..request };
        let mut message = calls.request(Some(NodeId(leader)), message);
        if let Some(token) = token {
            if !calls.this.env.dialer.is_private(&address) {
                let text = "a node would have to pass it on in clear: give the nodes a cluster key";
                return Err(refusal_status(&Refusal::BadToken(text.to_owned())));
            }
            message.metadata_mut().insert(FORWARDED_TOKEN_HEADER, token);
        }
        let call = client.execute_forwarded(message);
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(deadline, call) => answer,
            () = calls.member.until_not_led_by(leader) => return Err(calls.member.not_leader()),
        };
        match answer {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::unavailable(format!(
                "leader {leader} did not answer a forwarded command within {deadline:?}"
            ))),
        }
    }
}
