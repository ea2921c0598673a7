//! A process that may call every node, but does not have the key of node V, speaks as V: its
//! heartbeat, its report and its vote request are refused. The same messages with V's signature
//! are accepted, so that the refusal is for the signature (T1).

use cairn_host::envelope::{Identity, Reason};
use cairn_host::seam::Transport;
use cairn_proto::wire;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_proto::wire::raft_client::RaftClient;
use cairn_types::command::{self, Body, Command};
use cairn_types::convert::encode_command;
use cairn_types::ids::{Incarnation, NodeId, Nonce, RequestId};
use tonic::{Request, Status};

use super::stage::{Stage, Told, finish};
use crate::world::World;

/// One message in the name of node `of` to the leader.
#[derive(Debug, Clone, Copy)]
enum Message {
    Heartbeat,
    Report,
    Vote,
}

/// Who signs the message.
#[derive(Debug, Clone, Copy)]
enum Signer {
    Nobody,
    /// A member, but not the one that the message names.
    Leader,
    Victim,
}

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    for message in [Message::Heartbeat, Message::Report, Message::Vote] {
        for signer in [Signer::Nobody, Signer::Leader] {
            let answer = say(&stage, message, signer).await?;
            let refused = answer.as_ref().err().and_then(Reason::of) == Some(Reason::Speaker);
            if !refused {
                let text = format!("{message:?} of another node, signed by {signer:?}: {answer:?}");
                stage.world.violation("T1", text);
            }
        }
        // The control: only the signature is different.
        let answer = say(&stage, message, Signer::Victim).await?;
        answer.map_err(|status| format!("{message:?} with the node's own signature: {status}"))?;
    }
    stage.put(2).await?;
    stage.close().await
}

async fn say(stage: &Stage, message: Message, signer: Signer) -> Told<Result<(), Status>> {
    let leader = stage.leader().await?;
    let victim = stage.another_than(leader)?;
    let leader = stage.cluster.running_node(leader).ok_or("the leader is down")?;
    let victim = stage.cluster.running_node(victim).ok_or("the other node is down")?;
    let (to, of) = (leader.shared.this.id, victim.shared.this.id);
    let record = leader.shared.member.read(|catalogue| catalogue.node(of).cloned());
    let record = record.ok_or("the leader does not know the node")?;
    let identity = Identity {
        cluster: Some(leader.shared.this.cluster),
        lineage: Some(leader.shared.this.lineage),
        node: Some(to),
    };
    let speech = match signer {
        Signer::Nobody => None,
        Signer::Leader => Some(&leader.shared.calls.speech),
        Signer::Victim => Some(&victim.shared.calls.speech),
    };
    let (parts, _) = stage.cluster.sdk(stage.client()).ok_or("the client is down")?;
    let transport: Transport = parts.env.dialer.dial(&leader.shared.this.config.address);
    let answer = match message {
        Message::Heartbeat => {
            let mut request = Request::new(heartbeat(of, record.incarnation));
            identity.write(request.metadata_mut());
            if let Some(speech) = speech {
                speech.sign_call(request.metadata_mut(), to);
            }
            let task = async move {
                Ok(AdminClient::new(transport).heartbeat(request).await.map(drop))
            };
            finish(parts.life.spawn(task), "a heartbeat").await?
        }
        Message::Report => {
            let (incarnation, replicas) = (record.incarnation, Vec::new());
            let body = Body::Lost(command::Lost { node: of, incarnation, replicas });
            let command = encode_command(&Command::new(RequestId(0), 0, 0, body));
            let message = wire::ExecuteRequest { command: command.clone(), ..Default::default() };
            let mut request = Request::new(message);
            identity.write(request.metadata_mut());
            if let Some(speech) = speech {
                speech.sign_report(request.metadata_mut(), &command);
            }
            let task =
                async move { Ok(AdminClient::new(transport).report(request).await.map(drop)) };
            finish(parts.life.spawn(task), "a report").await?
        }
        Message::Vote => {
            let member = &leader.shared.member.consensus;
            let caller = wire::RaftCaller {
                cluster: leader.shared.this.cluster.0.to_be_bytes().to_vec().into(),
                lineage: leader.shared.this.lineage.0.into(),
                target: to.0,
                sender: of.0,
                nonce: nonce_bytes(record.nonce),
                promise: None,
                proof: speech.map(|speech| speech.proof(to)).unwrap_or_default(),
            };
            let request = wire::RaftVoteRequest {
                caller: Some(caller),
                vote: Some(wire::RaftVote { term: member.term(), node: of.0, committed: false }),
                last_log_id: Some(wire::RaftLogId { term: 1, index: 1 }),
                leadership_transfer: false,
                papers: None,
            };
            let task =
                async move { Ok(RaftClient::new(transport).pre_vote(request).await.map(drop)) };
            finish(parts.life.spawn(task), "a vote request").await?
        }
    };
    Ok(answer)
}

fn heartbeat(of: NodeId, incarnation: Incarnation) -> wire::HeartbeatRequest {
    wire::HeartbeatRequest {
        node: of.0,
        incarnation: incarnation.0,
        available_bytes: 1 << 30,
        bytes_in_flight: 0,
        stops: false,
        trouble: None,
        audit_damaged: false,
    }
}

fn nonce_bytes(nonce: Nonce) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&nonce.0.to_be_bytes())
}
