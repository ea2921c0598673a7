//! A token that may write is stolen. It deletes nothing, takes over no upload of another subject, and
//! once it is revoked it does nothing at all, whichever node is asked and whoever leads by then (T1).

use std::time::Duration;

use cairn_client::{Client, ClientError};
use cairn_host::credentials::{Credentials, showing};
use cairn_host::token::{Claims, IssuerKey, Token};
use cairn_proto::wire;
use cairn_proto::wire::catalogue_client::CatalogueClient;
use cairn_types::command::{self, Body, Command, Refusal, Reply};
use cairn_types::convert::encode_command;
use cairn_types::ids::{Attempt, NodeId, RequestId, TokenId};
use cairn_types::rights::{Grant, Right};

use super::stage::bodies::{begin, delete};
use super::stage::{Stage, Told, address, finish};
use crate::disk::Crash;
use crate::world::World;

const DAY_MS: u64 = 86_400_000;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let key = IssuerKey::from_seed(seed(&mut stage));
    let set = command::SetIssuer { name: "ops".to_owned(), key: Some(key.public()) };
    expect(execute(&stage, None, set.into()).await?, "set the issuer")?;
    let thief = token(&mut stage, &key, "thief")?;
    let owner = token(&mut stage, &key, "owner")?;

    let committed = stage.cluster.newest().1.resolve(&address(1)?);
    let committed = committed.map_err(|refusal| refusal.to_string())?.id;
    let answer = execute(&stage, Some(&thief), delete(committed)).await?;
    must_be_refused(&stage, answer, "deletes a commit");
    if !stage.has(1) {
        stage.world.violation("T1", "step 1 is gone");
    }

    let upload = match execute(&stage, Some(&owner), begin(9)?).await? {
        Ok(Reply::Begun(begun)) => begun.checkpoint,
        other => return Err(format!("begin an upload: {other:?}")),
    };
    let uploads = vec![(upload, Attempt(1))];
    for body in [begin(9)?, command::Renew { uploads }.into(), delete(upload)] {
        let answer = execute(&stage, Some(&thief), body).await?;
        must_be_refused(&stage, answer, "works on another's upload");
    }
    expect(execute(&stage, Some(&owner), delete(upload)).await?, "give up one's own upload")?;

    // It is good for what it was made for, until it is revoked.
    let own = match execute(&stage, Some(&thief), begin(10)?).await? {
        Ok(Reply::Begun(begun)) => begun.checkpoint,
        other => return Err(format!("begin with a good token: {other:?}")),
    };
    under_an_answered_request(&mut stage, &thief).await?;
    let id = thief.claims().map_err(|error| error.to_string())?.subject.tokens[0];
    let revoke = |token: TokenId| {
        command::RevokeToken { token, until_ms: 0, reason: "stolen".to_owned() }.into()
    };
    expect(execute(&stage, None, revoke(id)).await?, "revoke the token")?;
    for round in 0..4 {
        if round == 2 {
            let leader = stage.leader().await?;
            stage.crash(leader, Crash::Power);
            stage.pause(2_000).await;
            stage.cluster.start_node(leader);
        }
        let answer = execute(&stage, Some(&thief), begin(20 + round)?).await?;
        must_be_refused(&stage, answer, "is revoked, and begins an upload");
        let narrowed = thief.attenuate_with(seed(&mut stage), None, None, None);
        let narrowed = narrowed.map_err(|error| error.to_string())?;
        let answer = execute(&stage, Some(&narrowed), begin(30 + round)?).await?;
        must_be_refused(&stage, answer, "was made from a revoked one, and begins an upload");
    }
    expect(execute(&stage, None, delete(own)).await?, "end the thief's upload")?;
    stage.put(2).await?;
    stage.close().await
}

/// A request id that is answered opens nothing: what else comes with it gets that answer, and no node's
/// vote moves, nor does leadership.
async fn under_an_answered_request(stage: &mut Stage, thief: &Token) -> Told {
    let request = RequestId(u128::from(stage.chance.below(u64::MAX)) | 1);
    let first = execute_as(stage, thief, request, begin(11)?).await?;
    let before = stage.leadership().await?;
    let leader = stage.cluster.running_node(before.0).ok_or("the leader is down")?;
    let voters = leader.shared.member.consensus.voters();
    for node in voters.keys().map(|id| NodeId(*id)) {
        let accept = command::Accept { data_loss: true, fewer_hosts: true };
        let remove = command::RemoveNode { node, accept }.into();
        let again = execute_as(stage, thief, request, remove).await;
        if again.as_ref() != Ok(&first) {
            let text = format!("a stolen token removes {node}: {again:?}");
            stage.world.violation("T1", text);
        }
    }
    let voters_now = leader.shared.member.consensus.voters();
    if voters_now != voters || stage.leadership().await? != before {
        let text = format!("a stolen token moves votes: {voters:?}, now {voters_now:?}");
        stage.world.violation("T1", text);
    }
    Ok(())
}

/// What the leader answers to a command under this request id.
async fn execute_as(
    stage: &Stage,
    token: &Token,
    request: RequestId,
    body: Body,
) -> Told<wire::Reply> {
    let leader = stage.leader().await?;
    let leader = stage.cluster.running_node(leader).ok_or("the leader is down")?;
    let address = leader.shared.this.config.address.clone();
    let (parts, _) = stage.cluster.sdk(stage.client()).ok_or("the client is down")?;
    let shown = Credentials::new(token, true);
    let transport = showing(parts.env.dialer.dial(&address), &address, Some(&shown), None);
    let message = wire::ExecuteRequest {
        command: encode_command(&Command::new(request, 0, 0, body)),
        deadline_ms: 20_000,
        ..Default::default()
    };
    let task = async move {
        let answer = CatalogueClient::new(transport).execute(message).await;
        let reply = answer.map_err(|status| status.to_string())?.into_inner().reply;
        reply.ok_or_else(|| "no reply".to_owned())
    };
    finish(parts.life.spawn(task), "a command").await
}

/// A secret of the run's own chance: a run with the same seed has the same tokens.
fn seed(stage: &mut Stage) -> [u8; 32] {
    std::array::from_fn(|_| stage.chance.below(256) as u8)
}

/// A token that may write, and no more.
fn token(stage: &mut Stage, key: &IssuerKey, subject: &str) -> Told<Token> {
    let (parts, _) = stage.cluster.sdk(stage.client()).ok_or("the client is down")?;
    let issued_ms = parts.env.wall_ms();
    let namespaces = vec![address(1)?.namespace];
    let grant = Grant { rights: [Right::Write].into_iter().collect(), namespaces };
    let subject = subject.to_owned();
    let claims = Claims { subject, grant, issued_ms, expires_ms: issued_ms + DAY_MS };
    key.issue_with(seed(stage), &claims).map_err(|error| error.to_string())
}

/// A command of the client's process, with a token or as a process that needs none here.
async fn execute(
    stage: &Stage,
    token: Option<&Token>,
    body: Body,
) -> Told<Result<Reply, ClientError>> {
    let (parts, _) = stage.cluster.sdk(stage.client()).ok_or("the client is down")?;
    let client = Client::builder()
        .endpoints(stage.cluster.addresses())
        .token(token.cloned())
        .env(parts.env.clone())
        .build()
        .map_err(|error| error.to_string())?;
    let task = async move { Ok(client.execute(body, Duration::ZERO).await) };
    finish(parts.life.spawn(task), "a command").await
}

fn expect(answer: Result<Reply, ClientError>, what: &str) -> Told {
    answer.map(drop).map_err(|error| format!("{what}: {error}"))
}

fn must_be_refused(stage: &Stage, answer: Result<Reply, ClientError>, what: &str) {
    let refused = matches!(
        &answer,
        Err(ClientError::Refused(
            Refusal::NotAllowed { .. } | Refusal::NotOwner { .. } | Refusal::BadToken(_)
        ))
    );
    if !refused {
        stage.world.violation("T1", format!("a stolen token {what}: {answer:?}"));
    }
}
