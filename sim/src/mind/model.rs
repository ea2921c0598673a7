//! The promises, checked after every entry by a replica that is always at the log's end.
//!
//! | id | how |
//! |---|---|
//! | C2, D3, D4, D6 | `cairn_core::invariants`, the state and the step |
//! | C1, C2 | a separate list of visible checkpoints, from the replies, compared with `resolve` |
//! | C2 | a commit names the content of its parts' writers, and has W counting replicas on the racks required, counted here |
//! | C3 | the digest of every entry, compared with the replicas |
//! | C4 | the reply to a repeated request is the first one, and nothing changes |
//! | D1 | a `Durable` slot of an inventoried node has a sound file, unless a fault was put there |
//! | D2 | every segment of a committed checkpoint has a sound file somewhere |

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::catalogue::{Catalogue, Checkpoint};
use cairn_core::invariants;
use cairn_types::command::{self, Body, Command, DeleteReason, Refusal, Reply};
use cairn_types::ids::{
    Address, CheckpointId, Namespace, RequestId, SegmentDigest, Selector, Step,
};
use cairn_types::model::{Admin, CheckpointState, Isolation, Liveness, SlotState};

use super::{Broken, Kept, Mind, broken, named};

#[derive(Default)]
pub(super) struct Model {
    pub catalogue: Catalogue,
    pub index: u64,
    digests: Vec<[u8; 32]>,
    /// First replies, which must be repeated.
    replies: BTreeMap<RequestId, Reply>,
    /// The visible checkpoints by namespace and step, and each namespace's commits, oldest first.
    visible: BTreeMap<(Namespace, Step), Seen>,
    commits: BTreeMap<Namespace, Vec<CheckpointId>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    id: CheckpointId,
    attempt: u64,
}

impl Model {
    pub(super) fn digest_at(&self, index: u64) -> [u8; 32] {
        self.digests.get(index as usize - 1).copied().unwrap_or_default()
    }
}

impl Mind {
    /// Applies the next entry of the log to the model's own replica.
    pub(super) fn apply_to_model(&mut self, command: &Command) -> Result<Reply, Broken> {
        let model = &mut self.model;
        let before = model.catalogue.clone();
        model.index += 1;
        let index = model.index;
        let reply = model.catalogue.apply(index, command);
        let digest = model.catalogue.digest();
        model.digests.push(digest);
        self.note(|| format!("entry {index}: {:?} -> {reply:?}", command.body));
        self.tell(command, &reply);

        let after = &self.model.catalogue;
        invariants::check(after)
            .and_then(|()| invariants::check_hosts(after))
            .and_then(|()| invariants::check_step(&before, after))
            .map_err(|text| named(&text))?;
        if !self.check_request(&before, command, &reply, digest)? {
            self.follow(&before, command, &reply)?;
        }
        self.check_visible()?;
        self.check_disks()?;
        Ok(reply)
    }

    /// Checks C4, and that a refusal changes only the clock. Returns whether the request is a
    /// repeated one.
    fn check_request(
        &mut self,
        before: &Catalogue,
        command: &Command,
        reply: &Reply,
        digest: [u8; 32],
    ) -> Result<bool, Broken> {
        let model = &mut self.model;
        let first = model.replies.get(&command.request);
        let repeated = first.is_some();
        if first.is_some_and(|first| first != reply) {
            let text = format!("request {}: {first:?}, then {reply:?}", command.request);
            return Err(broken("C4", text));
        }
        let refused = reply.refusal().is_some() && model.index.is_multiple_of(8);
        if repeated || refused {
            let body = Body::Reap(command::Reap { segments: Vec::new() });
            let mut idle = before.clone();
            idle.apply(model.index, &Command { request: RequestId(0), body, ..command.clone() });
            if !repeated {
                // A refusal has a record in the audit.
                idle = idle.with_audit(model.catalogue.cluster().audit);
            }
            if idle.digest() != digest {
                return Err(broken("C4", format!("{command:?} had an effect: {reply:?}")));
            }
        }
        if model.catalogue.remembered_reply(command.request).is_some() {
            model.replies.insert(command.request, reply.clone());
        } else if repeated {
            return Err(broken("C4", format!("request {} is forgotten", command.request)));
        }
        if repeated {
            self.count("requests.repeated");
        }
        Ok(repeated)
    }

    /// Maintains the list of visible checkpoints.
    fn follow(&mut self, before: &Catalogue, command: &Command, reply: &Reply) -> Kept {
        match (&command.body, reply) {
            (Body::SealPart(_), Reply::Committed { checkpoint, .. }) => self.committed(*checkpoint),
            (Body::Delete(command::Delete { checkpoint, reason, .. }), Reply::Done) => {
                self.deleted(before, *checkpoint, *reason)
            }
            _ => Ok(()),
        }
    }

    /// The list equals the catalogue's visible checkpoints.
    fn check_visible(&self) -> Kept {
        let Model { catalogue, visible, commits, .. } = &self.model;
        let committed = catalogue.checkpoints();
        let shown = committed.filter(|record| record.state == CheckpointState::Committed).count();
        if shown != visible.len() {
            let text = format!("{shown} checkpoints are visible, {} were committed", visible.len());
            return Err(broken("C2", text));
        }
        for ((namespace, step), seen) in visible {
            let shown = resolve(catalogue, namespace, Selector::Step(*step));
            if shown != Some(seen.id) {
                let text = format!("{namespace}@{step} is {shown:?}, not {}", seen.id);
                return Err(broken("C1", text));
            }
        }
        for (namespace, list) in commits {
            let shown = resolve(catalogue, namespace, Selector::Latest);
            if shown != list.last().copied() {
                let text = format!("{namespace}@latest is {shown:?}, not {:?}", list.last());
                return Err(broken("C1", text));
            }
        }
        Ok(())
    }

    fn committed(&mut self, id: CheckpointId) -> Kept {
        let model = &mut self.model;
        let Some(record) = model.catalogue.checkpoint(id).cloned() else {
            return Err(broken("C2", format!("committed checkpoint {id} is not there")));
        };
        let place = (record.namespace.clone(), record.step);
        if model.visible.get(&place).is_some_and(|seen| seen.id == id) {
            return Ok(());
        }
        let seen = Seen { id, attempt: record.attempt.0 };
        let commits = model.commits.entry(record.namespace.clone()).or_default();
        commits.push(id);
        if let Some(old) = model.visible.insert(place, seen) {
            commits.retain(|other| *other != old.id);
            if old.attempt >= seen.attempt {
                let text = format!("attempt {} replaced {}", seen.attempt, old.attempt);
                return Err(broken("C1", text));
            }
            self.count("commits.replacing");
        }
        self.count("commits");
        self.check_commit(&record)
    }

    /// C2: the commit has the parts' own content, on W counting replicas.
    fn check_commit(&self, record: &Checkpoint) -> Kept {
        let catalogue = &self.model.catalogue;
        let mut put = BTreeSet::new();
        for (part, sealed) in (0..).zip(record.parts.iter()) {
            let name = (record.namespace.to_string(), record.step.0, record.attempt.0, part);
            let known = self.contents.get(&name).and_then(|it| it.get(&sealed.set_digest));
            let Some(known) = known else {
                return Err(broken("C2", format!("nobody put what part {name:?} committed")));
            };
            put.extend(known.iter().copied());
        }
        let named = record.segments.iter().filter_map(|id| catalogue.segment(id));
        let named: BTreeSet<SegmentDigest> = named.map(|segment| segment.digest).collect();
        if named != put {
            let text = format!("checkpoint {} has other segments than its parts", record.id);
            return Err(broken("C2", text));
        }
        let racks: BTreeSet<&str> = (catalogue.nodes())
            .filter(|node| node.admin == Admin::InService && node.incarnation.0 != 0)
            .map(|node| node.rack.as_str())
            .collect();
        let policy = &record.policy;
        let racks_wanted = match policy.isolation {
            Isolation::Hard => policy.min_racks.min(racks.len() as u32).min(policy.write_quorum),
            Isolation::Soft => 1,
        };
        for segment in record.segments.iter().filter_map(|id| catalogue.segment(id)) {
            let durable = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
            let counts = durable.filter_map(|slot| catalogue.node(slot.node)).filter(|node| {
                node.liveness == Liveness::Up && node.inventoried && node.admin == Admin::InService
            });
            let counting: Vec<&str> = counts.map(|node| node.rack.as_str()).collect();
            let racks: BTreeSet<&str> = counting.iter().copied().collect();
            let enough = counting.len() as u32 >= policy.write_quorum;
            if !enough || (racks.len() as u32) < racks_wanted {
                let text = format!("{} committed with {:?}", record.id, segment.slots);
                return Err(broken("C2", text));
            }
        }
        Ok(())
    }

    fn deleted(&mut self, before: &Catalogue, id: CheckpointId, reason: DeleteReason) -> Kept {
        let model = &mut self.model;
        let place = model.visible.iter().find(|(_, seen)| seen.id == id);
        let Some(place) = place.map(|(place, _)| place.clone()) else { return Ok(()) };
        model.visible.remove(&place);
        let commits = model.commits.entry(place.0.clone()).or_default();
        let at = commits.iter().position(|other| *other == id).unwrap_or(0);
        let newer = commits.len() - 1 - at;
        commits.remove(at);
        if reason == DeleteReason::Retention {
            let keep = before.policy(&place.0).keep_last;
            if keep.is_none_or(|keep| newer < keep as usize) {
                let text = format!("retention of {id} with {newer} newer ones, of {keep:?}");
                return Err(broken("C1", text));
            }
            self.count("deletes.retention");
        } else {
            self.count("deletes.asked");
        }
        Ok(())
    }

    /// D1 and D2 over the current disks.
    pub(super) fn check_disks(&self) -> Kept {
        let catalogue = &self.model.catalogue;
        for segment in catalogue.segments().iter() {
            let durable = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
            let mut sound = 0;
            for slot in durable.clone() {
                let machine = self.machines.iter().find(|machine| machine.node == Some(slot.node));
                let held = machine.is_some_and(|machine| machine.disk.holds_sound(&segment.digest));
                sound += u32::from(held);
                let inventoried = catalogue.node(slot.node).is_some_and(|node| node.inventoried);
                if !held && inventoried && !self.is_hurt(slot.node, segment.digest) {
                    let text = format!("segment {} has {slot:?} and no file", segment.id);
                    return Err(broken("D1", text));
                }
            }
            if sound == 0 && catalogue.is_committed(segment.id) {
                let text = format!("segment {} is nowhere: {:?}", segment.id, segment.slots);
                return Err(broken("D2", text));
            }
        }
        Ok(())
    }

    /// Counts the events (S2).
    fn tell(&mut self, command: &Command, reply: &Reply) {
        let accepted = matches!(reply, Reply::Reported { accepted: 1.., .. });
        let refused = matches!(reply, Reply::Reported { refused: 1.., .. });
        let name = match (&command.body, reply) {
            (_, Reply::Refused(Refusal::Fenced { .. })) => "refused.fenced",
            (_, Reply::Refused(Refusal::StaleIncarnation { .. })) => "refused.incarnation",
            (_, Reply::Refused(Refusal::StaleIdentity { .. })) => "refused.identity",
            (_, Reply::Refused(Refusal::BadTargets)) => "refused.targets",
            (_, Reply::Refused(Refusal::StepExists { .. })) => "refused.step_exists",
            (_, Reply::Refused(Refusal::OtherRun { .. })) => "refused.other_run",
            (_, Reply::Refused(Refusal::LastReplicas { .. })) => "refused.last_replicas",
            (_, Reply::Refused(_)) => "refused.otherwise",
            (_, Reply::Lacking { .. }) => "seals.lacking",
            (_, Reply::Sealed { .. }) => "seals.part",
            (Body::Durable(_), _) if refused => "reports.stale_epoch",
            (Body::Durable(_), _) if accepted => "reports.durable",
            (Body::Lost(_), _) if accepted => "reports.lost",
            (Body::Removed(_), _) if accepted => "reports.removed",
            (Body::Inventory(command::Inventory { missing, .. }), _) if !missing.is_empty() => {
                "inventories.missing"
            }
            (Body::Reap(_), _) if accepted => "upkeep.reaped",
            (Body::ReleaseSlots(_), _) if accepted => "upkeep.released",
            (Body::AssignSlots(_), _) if accepted => "upkeep.assigned",
            (Body::ExpireUploads(_), _) if accepted => "upkeep.expired",
            (Body::RemoveNode(_), Reply::Done) => "nodes.removed",
            (Body::Register(_), _) => "nodes.registered",
            _ => return,
        };
        self.count(name);
    }
}

fn resolve(catalogue: &Catalogue, name: &Namespace, selector: Selector) -> Option<CheckpointId> {
    let address = Address { namespace: name.clone(), selector };
    catalogue.resolve_record(&address).ok().map(|record| record.id)
}
