//! Sealing at the leader: what cannot be restored is refused before it is committed.
//!
//! ```text
//!   SealPart -> read the manifest -> decode, compare with the claims    many at a time
//!            -> compare its names with those of the sealed parts   one seal of an upload at a time
//!            -> hold back for reports in flight -> propose, with the number of parts compared
//! ```
//!
//! Apply refuses a part that was compared with fewer parts than are sealed by then (another
//! leader's, say), so the promise rests on the log and not on this process. Decision 0007 says
//! why the leader reads manifests and apply does not. A seal goes on when its caller has left; the
//! caller's next try, under the same request id, waits for it or gets its answer.

mod hold;
mod manifests;
mod open_ended;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::{Catalogue, Checkpoint, Upload};
use cairn_host::envelope::{Reason, refuse};
use cairn_types::canary;
use cairn_types::command::{self, Body, Command, Refusal, Reply};
use cairn_types::ids::{Attempt, CheckpointId};
use cairn_types::limits::CHECKPOINT_NAMES_MAX;
use cairn_types::manifest::Manifest;
use cairn_types::model::SealedPart;
use cairn_types::union::{ClashKind, TakenNames};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tonic::Status;

use self::open_ended::OpenNames;
use self::turn::{Running, TURN_MAX, Turns};
use crate::shared::{Calls, Replicas};

/// A seal that was overtaken is compared again so many times before its client is asked to retry.
const ROUNDS_MAX: u32 = 8;
/// Uploads whose names are kept; those of others are read again when a part of them is sealed.
const UPLOADS_MAX: usize = 64;

/// The leader's soft knowledge of the uploads it seals.
pub struct Seals {
    replicas: Arc<Replicas>,
    calls: Arc<Calls>,
    uploads: Mutex<Uploads>,
    turns: Turns,
    running: Arc<Running>,
}

#[derive(Default)]
struct Uploads {
    known: BTreeMap<CheckpointId, Known>,
    /// Counts uses, to tell which upload was used last.
    uses: u64,
}

struct Known {
    compared: Arc<tokio::sync::Mutex<Compared>>,
    last_use: u64,
    names: usize,
}

/// The sealed parts of an upload's attempt, and their names.
#[derive(Default)]
struct Compared {
    attempt: Attempt,
    parts: BTreeSet<u32>,
    names: TakenNames,
    /// Those of an open-ended upload.
    open: OpenNames,
}

/// What the catalogue says of the part to be sealed.
struct Look {
    parts: u32,
    /// Which others are sealed, as a number, and those of them that nothing was compared with yet.
    sealed: u32,
    unknown: Vec<(u32, SealedPart)>,
    /// Of an open-ended upload: parts that were compared and are there no more.
    gone: Vec<u32>,
}

/// What the claim says, beside the catalogue.
struct Claim {
    checkpoint: CheckpointId,
    attempt: Attempt,
    part: u32,
    sealed: SealedPart,
}

/// Why a seal is not proposed.
enum Stop {
    Refused(Refusal),
    Failed(Status),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl Stop {
    fn into_answer(self) -> Result<Arc<Reply>, Status> {
        match self {
            Self::Refused(refusal) => Ok(Arc::new(Reply::Refused(refusal))),
            Self::Failed(status) => Err(status),
        }
    }
}

impl Seals {
    /// A manifest is read from this node's `replicas`, or by `calls` from others.
    pub fn new(replicas: Arc<Replicas>, calls: Arc<Calls>) -> Self {
        let (uploads, turns, running) = (Mutex::default(), Turns::new(), Arc::default());
        Self { replicas, calls, uploads, turns, running }
    }

    /// Compares the part with those sealed before it and proposes it; holds the last one back
    /// for as long as `hold` while reports are in flight.
    pub async fn seal(
        self: &Arc<Self>,
        mut command: Command,
        hold: Duration,
    ) -> Result<Arc<Reply>, Status> {
        // A client names no parts that its own takes the place of.
        if let Body::SealPart(seal) = &mut command.body {
            seal.voids.clear();
        }
        let Some(claim) = Claim::of(&command.body) else {
            return Err(Status::internal("not a SealPart"));
        };
        let (request, part) = (command.request, claim.part);
        let seal = || {
            let place = self.turns.begin()?;
            let seals = Arc::clone(self);
            Ok(async move {
                let _place = place;
                seals.seal_claim(command, claim, hold).await
            })
        };
        self.running.answer(&self.replicas.this.env, request, part, hold, seal).await
    }

    async fn seal_claim(
        &self,
        mut command: Command,
        claim: Claim,
        hold: Duration,
    ) -> Result<Arc<Reply>, Status> {
        let member = &self.replicas.member;
        let hold_until = Instant::now() + hold;
        if !member.read(|catalogue| claim.is_open(catalogue))
            && let Some(answer) = self.propose_unread(&command).await?
        {
            return Ok(answer);
        }
        if let Err(refusal) = self.may_seal(&command.body).await? {
            return Ok(Arc::new(Reply::Refused(refusal)));
        }
        // Before the upload's turn: a manifest that comes in slowly holds up no other part.
        let bytes = manifests::len(member, &claim.sealed.manifest);
        let _waiting = self.turns.waiting(bytes).await?;
        let manifest = match self.read(claim.part, &claim.sealed).await {
            Ok(manifest) => manifest,
            Err(stop) => return stop.into_answer(),
        };
        if member.read(|catalogue| claim.is_open_ended(catalogue)) {
            // Its own segments are all that it waits for: other parts are sealed meanwhile.
            hold::until_durable(member, claim.checkpoint, claim.part, hold_until).await;
        }
        for _ in 0..ROUNDS_MAX {
            if !member.read(|catalogue| claim.is_open(catalogue))
                && let Some(answer) = self.propose_unread(&command).await?
            {
                return Ok(answer);
            }
            let compared = self.upload(claim.checkpoint);
            let mut compared = timeout(TURN_MAX, compared.lock())
                .await
                .map_err(|_| refuse(Reason::Busy, "other parts of the upload are being sealed"))?;
            if compared.attempt != claim.attempt {
                *compared = Compared { attempt: claim.attempt, ..Compared::default() };
            }
            let look = member.read(|catalogue| claim.look(catalogue, &compared));
            let Some(look) = look else { continue };
            let voids = match self.compare(&claim, &manifest, &look, &mut compared).await {
                Ok(voids) => voids,
                Err(stop) => return stop.into_answer(),
            };
            if look.parts > 0 {
                hold::until_durable(member, claim.checkpoint, claim.part, hold_until).await;
            }
            if let Body::SealPart(seal) = &mut command.body {
                (seal.compared, seal.voids) = (look.sealed, voids.clone());
            }
            let Command { subject, request, body, .. } = command.clone();
            let reply = member.propose_for(subject, request, body).await?;
            match reply.refusal() {
                Some(Refusal::NotCompared { .. }) => continue,
                None if matches!(*reply, Reply::Sealed { .. }) => {
                    match look.parts {
                        0 => compared.open.replace(&claim, &manifest, &voids, look.sealed),
                        _ => compared.take(claim.part, &manifest),
                    }
                    self.note_names(claim.checkpoint, compared.len());
                }
                _ => {}
            }
            return Ok(reply);
        }
        Err(refuse(Reason::Busy, "other parts of the upload are being sealed"))
    }

    /// What apply alone answers: that the part is sealed already, or the upload over or unknown.
    /// Nothing where apply finds the part open: this node had not applied the Begin yet.
    async fn propose_unread(&self, command: &Command) -> Result<Option<Arc<Reply>>, Status> {
        let Command { subject, request, mut body, .. } = command.clone();
        if let Body::SealPart(command::SealPart { compared, .. }) = &mut body
            && !canary!("seal_unread")
        {
            *compared = command::NOT_COMPARED;
        }
        let reply = self.replicas.member.propose_for(subject, request, body).await?;
        let was_open = matches!(reply.refusal(), Some(Refusal::NotCompared { .. }));
        Ok((!was_open).then_some(reply))
    }

    /// Whether the part is what was staged for it, by everything committed: nothing is read for
    /// another one, and nobody learns of segments by naming them.
    async fn may_seal(&self, body: &Body) -> Result<Result<(), Refusal>, Status> {
        let Body::SealPart(seal) = body else { return Ok(Ok(())) };
        let member = &self.replicas.member;
        let ask = || member.read(|catalogue| catalogue.may_seal(seal));
        if ask().is_ok() {
            return Ok(Ok(()));
        }
        member.read_index(member.this.call_deadline()).await?;
        Ok(ask())
    }

    /// Whether the part can be restored beside the parts sealed before it; of an open-ended upload
    /// the parts that it takes the place of.
    async fn compare(
        &self,
        claim: &Claim,
        manifest: &Manifest,
        look: &Look,
        compared: &mut Compared,
    ) -> Result<Vec<u32>, Stop> {
        if look.parts == 1 {
            return Ok(Vec::new());
        }
        look.gone.iter().for_each(|part| compared.open.remove(*part));
        // After a change of leader, or when others pushed these names out.
        for (part, sealed) in &look.unknown {
            let earlier = self.read(*part, sealed).await?;
            match look.parts {
                0 => compared.open.take(*part, sealed, &earlier),
                _ => compared.take(*part, &earlier),
            }
            self.note_names(claim.checkpoint, compared.len());
        }
        let names = compared.len() + manifest.files.len();
        if names > CHECKPOINT_NAMES_MAX {
            let text = format!("{names} names in a checkpoint, limit {CHECKPOINT_NAMES_MAX}");
            return Err(Stop::Refused(Refusal::Malformed(text)));
        }
        if look.parts == 0 {
            compared.open.synced(look.sealed);
            return compared.open.voided_by(claim.part, manifest).map_err(Stop::Refused);
        }
        match compared.names.clash(manifest) {
            None => Ok(Vec::new()),
            Some(clash) => Err(Stop::Refused(Refusal::NameClash {
                name: cairn_types::manifest::show(&clash.name),
                first: clash.other.min(claim.part),
                second: clash.other.max(claim.part),
                same_kind: clash.kind == ClashKind::Content,
            })),
        }
    }

    /// Reads, decodes and checks one part's manifest, once there is memory for it.
    async fn read(&self, part: u32, sealed: &SealedPart) -> Result<Manifest, Stop> {
        let bytes = manifests::len(&self.replicas.member, &sealed.manifest);
        let _permit = self.turns.manifest(bytes).await?;
        match manifests::read(&self.replicas, &self.calls, sealed).await? {
            Ok(manifest) => Ok(manifest),
            Err(problem) => Err(Stop::Refused(Refusal::BadManifest { part, problem })),
        }
    }

    /// What is known of an upload; makes room for it where it is not known.
    fn upload(&self, checkpoint: CheckpointId) -> Arc<tokio::sync::Mutex<Compared>> {
        let mut uploads = self.uploads.lock();
        uploads.uses += 1;
        let uses = uploads.uses;
        let known = uploads.known.entry(checkpoint).or_insert_with(|| Known {
            compared: Arc::default(),
            last_use: uses,
            names: 0,
        });
        known.last_use = uses;
        let compared = known.compared.clone();
        uploads.shrink();
        compared
    }

    fn note_names(&self, checkpoint: CheckpointId, names: usize) {
        let mut uploads = self.uploads.lock();
        if let Some(known) = uploads.known.get_mut(&checkpoint) {
            known.names = names;
        }
        uploads.shrink();
    }
}

impl Uploads {
    /// Forgets the uploads that were used longest ago until the rest is within its bounds.
    fn shrink(&mut self) {
        while self.known.len() > 1
            && (self.known.len() > UPLOADS_MAX
                || self.known.values().map(|known| known.names).sum::<usize>()
                    > CHECKPOINT_NAMES_MAX)
        {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last_use);
            let Some(oldest) = oldest.map(|(id, _)| *id) else { return };
            self.known.remove(&oldest);
        }
    }
}

impl Compared {
    fn len(&self) -> usize {
        self.names.len() + self.open.len()
    }

    fn take(&mut self, part: u32, manifest: &Manifest) {
        self.names.take(part, manifest);
        self.parts.insert(part);
    }
}

impl Claim {
    fn of(body: &Body) -> Option<Self> {
        let Body::SealPart(command::SealPart {
            checkpoint,
            attempt,
            part,
            manifest,
            set_digest,
            bytes,
            files,
            ..
        }) = body
        else {
            return None;
        };
        let sealed = SealedPart {
            manifest: manifest.clone(),
            set_digest: *set_digest,
            bytes: *bytes,
            files: *files,
        };
        Some(Self { checkpoint: *checkpoint, attempt: *attempt, part: *part, sealed })
    }

    /// The upload's parts, while this one is to be sealed: not where it is sealed, nor where the
    /// upload is over, unknown or of another attempt.
    fn upload<'a>(&self, catalogue: &'a Catalogue) -> Option<(&'a Checkpoint, &'a Upload)> {
        let record = catalogue.checkpoint(self.checkpoint)?;
        let upload = record.open.as_ref().filter(|_| record.attempt == self.attempt)?;
        let own = upload.parts.get(&self.part);
        let is_sealed = own.is_some_and(|part| part.part.sealed.is_some());
        (record.check_part(self.part).is_ok() && !is_sealed).then_some((record, upload))
    }

    fn is_open(&self, catalogue: &Catalogue) -> bool {
        self.upload(catalogue).is_some()
    }

    fn is_open_ended(&self, catalogue: &Catalogue) -> bool {
        self.upload(catalogue).is_some_and(|(record, _)| record.open_ended)
    }

    fn look(&self, catalogue: &Catalogue, compared: &Compared) -> Option<Look> {
        let (record, upload) = self.upload(catalogue)?;
        let (parts, known) = (record.parts_wanted, &compared.parts);
        let sealed = record.parts_version();
        let mut look = Look { parts, sealed, unknown: Vec::new(), gone: Vec::new() };
        if record.open_ended {
            (look.unknown, look.gone) = compared.open.differences(upload, sealed);
            return Some(look);
        }
        // No part of an attempt is ever unsealed: where as many are known, all are. So a walk
        // over the parts is made where another node led, and not once for each part.
        if parts > 1 && known.len() < look.sealed as usize {
            let sealed = upload.parts.iter().filter_map(|(number, part)| {
                let sealed = part.part.sealed.as_ref().filter(|_| !known.contains(number))?;
                Some((*number, sealed.clone()))
            });
            look.unknown.extend(sealed);
        }
        Some(look)
    }
}
