//! The named promises of DESIGN section 9, as far as a catalogue alone can show them.
//!
//! [`check`] looks at one state. [`check_step`] looks at a state and the state after one entry.
//! Both compute everything from scratch and take time linear in the catalogue. They are for tests
//! and the simulator.

mod open_ended;

use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::{Catalogue, Checkpoint, Summary};
use cairn_types::ids::{Address, Incarnation, Namespace, SegmentId, Selector};
use cairn_types::model::{
    Admin, CheckpointState, DeletedFor, Durability, Duty, Isolation, Liveness, ManifestPlace,
    Policy, Segment, Slot, SlotState,
};

/// Names the first invariant that is violated, and the place.
pub fn check(catalogue: &Catalogue) -> Result<(), String> {
    let mut recount = BTreeMap::<SegmentId, BTreeMap<u32, u32>>::new();
    let mut steps = BTreeSet::new();
    for checkpoint in catalogue.checkpoints() {
        check_checkpoint(catalogue, checkpoint)?;
        open_ended::check_references(checkpoint)?;
        if checkpoint.state != CheckpointState::Deleted {
            let place = (&checkpoint.namespace, checkpoint.step, checkpoint.state);
            ensure(steps.insert(place), || format!("C2: two records of {place:?}"))?;
        }
        for id in checkpoint.references() {
            let counts = recount.entry(id).or_default();
            *counts.entry(checkpoint.policy.replicas).or_default() += 1;
        }
    }
    for (namespace, record) in catalogue.namespaces() {
        // Newest first.
        let mut newer_ms = record.last_wall_ms;
        check_names(catalogue, namespace)?;
        for checkpoint in catalogue.commits(namespace) {
            let label_ms = checkpoint.commit.map_or(0, |commit| commit.wall_ms);
            ensure(label_ms <= newer_ms, || {
                format!("C5: checkpoint {} is labelled later than a newer commit", checkpoint.id)
            })?;
            newer_ms = label_ms;
        }
    }
    for segment in catalogue.segments().iter() {
        let counted = recount.remove(&segment.id).unwrap_or_default();
        ensure(counted.into_iter().eq(segment.references.iter().copied()), || {
            format!("D6: references of segment {} are not those of a recount", segment.id)
        })?;
        check_segment(catalogue, segment)?;
    }
    ensure(recount.is_empty(), || format!("D6: references on no segment: {recount:?}"))?;
    ensure(catalogue.indexes_are_consistent(), || "C3: an index is not the rebuilt one".into())?;
    check_totals(catalogue)
}

/// Checks the targets of `latest` and the refs of a namespace (C5).
fn check_names(catalogue: &Catalogue, namespace: &Namespace) -> Result<(), String> {
    let of_namespace = catalogue.checkpoints().filter(|record| record.namespace == *namespace);
    let good = of_namespace.filter(|it| it.state == CheckpointState::Committed);
    let good = good.filter(|record| record.quarantine.is_none());
    let newest = good.max_by_key(|record| record.commit.map(|commit| commit.index));
    let latest = Address { namespace: namespace.clone(), selector: Selector::Latest };
    let shown = catalogue.resolve_record(&latest).ok().map(|record| record.id);
    ensure(shown == newest.map(|record| record.id), || {
        format!("C5: {latest} is {shown:?}, the newest good one is {:?}", newest.map(|it| it.id))
    })?;
    for (name, target) in catalogue.refs(namespace) {
        let last = target.history.last().map(|last| (last.generation, last.checkpoint));
        ensure(last == Some((target.generation, target.checkpoint)), || {
            format!("C5: ref {name} of {namespace} is not what its last move made of it")
        })?;
    }
    Ok(())
}

/// Totals that are maintained from entry to entry equal those of a walk over all segments.
fn check_totals(catalogue: &Catalogue) -> Result<(), String> {
    let mut sum = Summary::default();
    let (mut replicas_min, mut racks_min) = (u32::MAX, u32::MAX);
    let racks_wanted = Policy::default().min_racks.min(catalogue.racks()).max(1);
    for segment in catalogue.segments().iter() {
        let len = u64::from(segment.form.raw_len());
        if !segment.is_referenced() {
            sum.segments_unreferenced += 1;
            sum.bytes_unreferenced += len;
            continue;
        }
        sum.segments += 1;
        sum.segment_bytes += len;
        if !catalogue.is_committed(segment.id) {
            continue;
        }
        let ((replicas, racks), wanted) = (count(catalogue, segment), segment.replicas_wanted());
        (replicas_min, racks_min) = (replicas_min.min(replicas), racks_min.min(racks));
        sum.segments_below += u64::from(replicas < wanted);
        sum.bytes_below += if replicas < wanted { len } else { 0 };
        sum.segments_unavailable += u64::from(replicas == 0);
        let durable = segment
            .slots
            .iter()
            .any(|slot| slot.state == SlotState::Durable && is_in_service(catalogue, &slot));
        sum.segments_lost += u64::from(replicas == 0 && !durable);
        let is_short = replicas > 0 && racks < racks_wanted.min(wanted);
        sum.segments_short_of_racks += u64::from(is_short);
    }
    if replicas_min != u32::MAX {
        sum.nodes_can_be_lost = replicas_min.saturating_sub(1);
        sum.racks_can_be_lost = racks_min.saturating_sub(1);
    }
    for record in catalogue.checkpoints() {
        sum.checkpoints_committed += u64::from(record.state == CheckpointState::Committed);
        sum.checkpoints_open += u64::from(record.state == CheckpointState::Open);
        check_durability(catalogue, record)?;
    }
    let labels = catalogue.namespaces().map(|(_, record)| record.last_wall_ms);
    sum.label_newest_ms = labels.max().unwrap_or(0);
    let kept = catalogue.summary();
    ensure(kept == sum, || format!("C3: the summary is {kept:?}, a recount gives {sum:?}"))
}

/// A checkpoint's durability equals that of a walk over its segments.
fn check_durability(catalogue: &Catalogue, record: &Checkpoint) -> Result<(), String> {
    let wanted = record.policy.replicas;
    let mut recount = Durability { replicas_wanted: wanted, ..Durability::default() };
    let loose = record.loose.iter().filter(|_| record.state == CheckpointState::Open);
    let segments = record.segments.iter().chain(loose).filter_map(|id| catalogue.segment(id));
    let mut least = None::<(u32, u32)>;
    for segment in segments {
        let (replicas, racks) = count(catalogue, segment);
        let before = least.unwrap_or((replicas, racks));
        least = Some((before.0.min(replicas), before.1.min(racks)));
        recount.segments_below += u64::from(replicas < wanted);
        recount.bytes_below +=
            if replicas < wanted { u64::from(segment.form.raw_len()) } else { 0 };
        recount.segments_unavailable += u64::from(replicas == 0);
    }
    (recount.replicas_min, recount.racks_min) =
        least.unwrap_or((wanted, catalogue.required_racks(&record.policy)));
    let kept = catalogue.durability(record);
    ensure(kept == recount, || {
        format!("C3: checkpoint {} has {kept:?}, a recount gives {recount:?}", record.id)
    })
}

/// Valid only if all nodes keep the host they joined with: no two live slots of a segment are on
/// one host, except slots of nodes that stay down.
pub fn check_hosts(catalogue: &Catalogue) -> Result<(), String> {
    for segment in catalogue.segments().iter() {
        let mut hosts = BTreeSet::new();
        let nodes = segment.live_slots().filter_map(|slot| catalogue.node(slot.node));
        for node in nodes.filter(|node| catalogue.is_trusted(node)) {
            ensure(hosts.insert(&node.host), || {
                format!("L1: segment {} has two live slots on host {}", segment.id, node.host)
            })?;
        }
    }
    Ok(())
}

/// The changes that one entry may make to slots and to deleted data (D3, D4), and the conditions of
/// a commit (D2).
pub fn check_step(before: &Catalogue, after: &Catalogue) -> Result<(), String> {
    let (old_ms, new_ms) = (before.cluster().clock_ms, after.cluster().clock_ms);
    ensure(old_ms <= new_ms, || format!("time: cluster time fell from {old_ms} to {new_ms} ms"))?;
    for old in before.segments().iter() {
        let new = after.segment(old.id);
        if !old.reaped && new.is_none_or(|new| new.reaped) {
            check_reap(before, after, old)?;
        }
        match new {
            Some(new) => check_slots_step(after, old, new)?,
            None => {
                let kept = old.live_slots().find(|slot| is_in_service(after, slot));
                ensure(kept.is_none(), || format!("D3: live {kept:?} vanished with {}", old.id))?;
            }
        }
    }
    for old in before.checkpoints().filter(|old| old.state == CheckpointState::Deleted) {
        check_trash(before, after, old)?;
    }
    for old in before.checkpoints().filter(|old| old.state == CheckpointState::Committed) {
        let gone = after.checkpoint(old.id).is_none();
        ensure(!gone, || format!("C2: checkpoint {} vanished undeleted", old.id))?;
    }
    for new in after.checkpoints().filter(|it| it.deleted_for == Some(DeletedFor::Retention)) {
        if let Some(old) = before.checkpoint(new.id).filter(|old| old.deleted_for.is_none()) {
            check_retention(before, old)?;
        }
    }
    for new in after.checkpoints().filter(|it| it.deleted_for == Some(DeletedFor::Replaced)) {
        if let Some(old) = before.checkpoint(new.id).filter(|old| old.deleted_for.is_none()) {
            check_replaced(before, old)?;
        }
    }
    for old in before.nodes().filter(|old| old.key.is_some()) {
        let kept = after.node(old.id).is_none_or(|new| new.key == old.key);
        ensure(kept, || format!("T1: the recorded key of node {} changed", old.id))?;
    }
    check_fences(before, after)?;
    open_ended::check_step(before, after)?;
    check_policies(before, after)?;
    for new in after.checkpoints().filter(|new| new.state == CheckpointState::Committed) {
        let old = before.checkpoint(new.id).map(|old| old.state);
        // An undeleted checkpoint may have lost replicas since its commit.
        if !matches!(old, Some(CheckpointState::Committed | CheckpointState::Deleted)) {
            check_commit(after, new)?;
        }
    }
    Ok(())
}

/// An upload that a rollback aborted does not begin again under its attempt or a lower one.
fn check_fences(before: &Catalogue, after: &Catalogue) -> Result<(), String> {
    for new in after.open_uploads() {
        let old = before.checkpoint(new.id).map(|old| old.attempt);
        if old == Some(new.attempt) {
            continue;
        }
        let mut records = before.checkpoints_at(&new.namespace, new.step);
        let fence = records
            .find(|it| it.deleted_for == Some(DeletedFor::RolledBack) && it.attempt >= new.attempt);
        ensure(fence.is_none(), || {
            format!("C5: upload {} begins an attempt that a rollback aborted", new.id)
        })?;
    }
    Ok(())
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

fn is_in_service(catalogue: &Catalogue, slot: &Slot) -> bool {
    catalogue.node(slot.node).is_some_and(|node| node.admin == Admin::InService)
}

fn is_draining(catalogue: &Catalogue, slot: &Slot) -> bool {
    catalogue.node(slot.node).is_some_and(|node| node.duty == Duty::Draining)
}

/// Replicas that count, and their racks. Computed from the definition (DESIGN section 1), not with
/// the catalogue's own functions.
fn count(catalogue: &Catalogue, segment: &Segment) -> (u32, u32) {
    let durable = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
    let nodes = durable.filter_map(|slot| catalogue.node(slot.node));
    let counting = nodes.filter(|node| {
        node.inventoried && node.admin == Admin::InService && node.liveness == Liveness::Up
    });
    let racks: Vec<&str> = counting.map(|node| node.rack.as_str()).collect();
    (racks.len() as u32, racks.iter().collect::<BTreeSet<_>>().len() as u32)
}

/// The replicas that the most demanding checkpoint of a segment wants. Not computed with the
/// catalogue's own function.
fn replicas_wanted(segment: &Segment) -> u32 {
    segment.references.iter().map(|(replicas, _)| *replicas).max().unwrap_or(0)
}

/// The racks that a policy requires, limited by the racks that exist. Not computed with the
/// catalogue's own function.
fn racks_wanted(catalogue: &Catalogue, policy: &Policy) -> u32 {
    let staying = catalogue.nodes().filter(|node| {
        let is_staying = node.admin == Admin::InService && node.duty != Duty::Draining;
        is_staying && node.incarnation != Incarnation(0)
    });
    let racks: BTreeSet<&str> = staying.map(|node| node.rack.as_str()).collect();
    match policy.isolation {
        Isolation::Soft => 1,
        Isolation::Hard => policy.min_racks.min(racks.len() as u32).max(1),
    }
}

/// A checkpoint that was just committed has W counting replicas of each segment, on the racks that
/// its policy requires.
fn check_commit(catalogue: &Catalogue, record: &Checkpoint) -> Result<(), String> {
    let want = record.policy.write_quorum;
    let want_racks = racks_wanted(catalogue, &record.policy).min(want);
    for id in record.segments.iter() {
        let have = catalogue.segment(id).map(|segment| count(catalogue, segment));
        let enough = have.is_some_and(|(have, racks)| have >= want && racks >= want_racks);
        ensure(enough, || {
            format!(
                "D2: checkpoint {} was committed with {have:?} replicas and racks of segment {id}, \
                 wants {want} and {want_racks}",
                record.id
            )
        })?;
    }
    Ok(())
}

/// Retention deletes only checkpoints that the policy in force allows, and never one of the newest,
/// neither by commit nor by the begin of the upload.
fn check_retention(before: &Catalogue, old: &Checkpoint) -> Result<(), String> {
    let rules = before.full_policy(&old.namespace).retention.rules;
    ensure(!rules.is_empty(), || {
        format!("D7: retention deleted checkpoint {} without a rule", old.id)
    })?;
    // At least the newest good checkpoint stays.
    let keep_last = rules.last.unwrap_or(1);
    let others =
        before.checkpoints().filter(|other| other.is_good() && other.namespace == old.namespace);
    let (mut committed_later, mut begun_later) = (0, 0);
    for other in others {
        let index = |record: &Checkpoint| record.commit.map(|commit| commit.index);
        committed_later += u32::from(index(other) > index(old));
        begun_later += u32::from(other.began.index > old.began.index);
    }
    let holds = before.active_holds(old.id).count();
    let refs = before.refs_to(old).count();
    ensure(holds == 0 && refs == 0, || {
        format!("D7: retention deleted checkpoint {}, kept by {refs} refs, {holds} holds", old.id)
    })?;
    let is_begun_early = rules.last.is_none() || begun_later >= keep_last;
    let is_old = committed_later >= keep_last && is_begun_early;
    ensure(is_old || old.quarantine.is_some(), || {
        format!(
            "D7: retention of the newest {keep_last} deleted checkpoint {} with {committed_later} \
             committed and {begun_later} begun after it",
            old.id
        )
    })
}

/// A commit replaces a good checkpoint only if its upload requested that, and never one that a ref
/// or a hold protects.
fn check_replaced(before: &Catalogue, old: &Checkpoint) -> Result<(), String> {
    let uploads = before.checkpoints_at(&old.namespace, old.step);
    let asked = uploads.filter_map(|it| it.open.as_ref()).any(|upload| upload.replace);
    ensure(asked || old.quarantine.is_some(), || {
        format!("D7: checkpoint {} was replaced unasked", old.id)
    })?;
    let kept = before.active_holds(old.id).count() + before.refs_to(old).count();
    ensure(kept == 0, || format!("D7: checkpoint {} was replaced, kept by {kept}", old.id))
}

/// The begin of an upload changes no policy.
fn check_policies(before: &Catalogue, after: &Catalogue) -> Result<(), String> {
    for upload in after.checkpoints().filter(|it| it.state == CheckpointState::Open) {
        let known = before.checkpoint(upload.id).map(|old| old.began.index);
        if known == Some(upload.began.index) {
            continue;
        }
        let policy = |of: &Catalogue| of.full_policy(&upload.namespace);
        let (old, new) = (policy(before), policy(after));
        ensure(old == new, || {
            format!("D7: the begin of upload {} made {new:?} of {old:?}", upload.id)
        })?;
    }
    Ok(())
}

/// A checkpoint in the trash keeps everything that its commit named. Only a checkpoint in the trash
/// can be restored, and only as a whole.
fn check_trash(before: &Catalogue, after: &Catalogue, old: &Checkpoint) -> Result<(), String> {
    let new = after.checkpoint(old.id);
    let clock_ms = after.cluster().clock_ms;
    let level = before.cluster().feature_level;
    let grace_ms = before.cluster().settings.grace_ms;
    let until_ms = old.deleted_at_ms.map_or(0, |at_ms| at_ms.saturating_add(grace_ms));
    let is_whole = |record: &Checkpoint| named_bytes(after, record) == record.segment_bytes;
    let stays = level >= 2
        && old.commit.is_some()
        && old.dropped.is_empty()
        && !old.now
        && clock_ms < until_ms;
    if new.is_some_and(|new| new.state != CheckpointState::Deleted) {
        ensure(stays, || format!("D4: checkpoint {} came back from outside the trash", old.id))?;
        let is_whole = new.is_some_and(|new| is_whole(new));
        return ensure(is_whole, || format!("D7: checkpoint {} came back with a hole", old.id));
    }
    if !stays || new.is_some_and(|new| new.now) {
        return Ok(());
    }
    ensure(new.is_some_and(|new| is_whole(new)), || {
        format!("D7: checkpoint {} lost references in the trash", old.id)
    })
}

/// Raw bytes of the segments that a checkpoint names.
fn named_bytes(catalogue: &Catalogue, record: &Checkpoint) -> u64 {
    let named = record.segments.iter().filter_map(|id| catalogue.segment(id));
    named.map(|segment| u64::from(segment.form.raw_len())).sum()
}

/// A segment is reaped only after its grace without any reference.
fn check_reap(before: &Catalogue, after: &Catalogue, old: &Segment) -> Result<(), String> {
    ensure(!old.is_referenced(), || format!("D3: segment {} was reaped while referenced", old.id))?;
    let clock_ms = after.cluster().clock_ms;
    ensure(old.reap_after_ms <= clock_ms && !before.cluster().reap_hold, || {
        format!("D3: segment {} was reaped at {clock_ms} ms, not {}", old.id, old.reap_after_ms)
    })?;
    // Computed from the records and the clock, because the segment's own time may be wrong.
    let grace_ms = before.cluster().settings.grace_ms;
    let holder = before.checkpoints().find(|record| {
        let deleted_at_ms = record.deleted_at_ms.filter(|_| !record.now);
        record.dropped.contains(old.id)
            && deleted_at_ms.is_some_and(|at_ms| clock_ms < at_ms.saturating_add(grace_ms))
    });
    ensure(holder.is_none(), || {
        let holder = holder.map(|record| record.id);
        format!("D3: segment {} was reaped within the grace of {holder:?}", old.id)
    })
}

fn check_checkpoint(catalogue: &Catalogue, record: &Checkpoint) -> Result<(), String> {
    let id = record.id;
    ensure(record.open.is_some() == (record.state == CheckpointState::Open), || {
        format!("C2: upload state of checkpoint {id} does not fit its state")
    })?;
    for segment in record.segments.iter() {
        ensure(!record.loose.contains(segment), || {
            format!("D6: checkpoint {id} holds two references on segment {segment}")
        })?;
    }
    if let Some(upload) = &record.open {
        for (number, part) in upload.parts.iter() {
            ensure(record.check_part(*number).is_ok(), || {
                format!("C2: checkpoint {id} part {number}")
            })?;
            ensure(part.staged.iter().all(|segment| record.loose.contains(segment)), || {
                format!("D6: checkpoint {id} part {number} staged without a reference")
            })?;
        }
        ensure(record.sealed_parts().len() == upload.sealed as usize, || {
            format!("C2: checkpoint {id} has not {} sealed parts", upload.sealed)
        })?;
        ensure(record.segments.is_empty() && record.commit.is_none(), || {
            format!("C2: open checkpoint {id} looks committed")
        })?;
    }
    if record.state != CheckpointState::Committed {
        return Ok(());
    }
    ensure(record.commit.is_some() && record.parts.len() == record.parts_wanted as usize, || {
        format!("C2: checkpoint {id} is committed with parts missing")
    })?;
    ensure(named_bytes(catalogue, record) == record.segment_bytes, || {
        format!("C2: checkpoint {id} does not have all the segments of its commit")
    })?;
    let named: BTreeSet<SegmentId> = record.segments.iter().collect();
    for part in record.parts.iter() {
        let ManifestPlace::Segments(digests) = &part.manifest else { continue };
        for digest in digests {
            let segment = catalogue.segment_by_digest(digest);
            ensure(segment.is_some_and(|segment| named.contains(&segment.id)), || {
                format!("C2: checkpoint {id} does not refer to its manifest segment {digest}")
            })?;
        }
    }
    Ok(())
}

fn check_segment(catalogue: &Catalogue, segment: &Segment) -> Result<(), String> {
    let id = segment.id;
    let live = segment.live_slots().count();
    ensure(!segment.reaped || (live == 0 && !segment.is_referenced()), || {
        format!("D4: reaped segment {id} has a live slot or a reference")
    })?;
    ensure(!segment.reaped || !segment.slots.is_empty(), || {
        format!("L1: spent record of segment {id} stayed")
    })?;
    for slot in &segment.slots {
        ensure(slot.state == SlotState::Assigned || slot.until_ms == 0, || {
            format!("L1: segment {id} waits for a replica that is there or given up: {slot:?}")
        })?;
        ensure(catalogue.node(slot.node).is_some(), || {
            format!("D4: segment {id} has a slot on an unknown node: {slot:?}")
        })?;
    }
    let slots: Vec<Slot> = segment.slots.iter().collect();
    for pair in slots.windows(2) {
        let ascending = (pair[0].node, pair[0].epoch) < (pair[1].node, pair[1].epoch);
        let newest_live = pair[0].node != pair[1].node || pair[0].state == SlotState::Released;
        ensure(ascending && newest_live, || {
            format!("D4: slots of segment {id} are not in order: {pair:?}")
        })?;
    }
    Ok(())
}

fn check_slots_step(after: &Catalogue, old: &Segment, new: &Segment) -> Result<(), String> {
    let id = old.id;
    // A drained node gets no segment that it did not have.
    for slot in new.live_slots().filter(|slot| is_draining(after, slot)) {
        ensure(old.slots.iter().any(|before| before.node == slot.node), || {
            format!("L3: segment {id} got {slot:?} on a draining node")
        })?;
    }
    // A removed node gets and confirms nothing. Its remaining slots may be given up.
    for slot in new.slots.iter().filter(|slot| !is_in_service(after, slot)) {
        let known = |other: &Slot| (other.node, other.epoch) == (slot.node, slot.epoch);
        let before = old.slots.iter().find(known).map(|other| other.state);
        ensure(before == Some(slot.state) || slot.state == SlotState::Released, || {
            format!("D4: segment {id} got {slot:?} on a removed node, which was {before:?}")
        })?;
    }
    for slot in &old.slots {
        let same = |other: &Slot| (other.node, other.epoch) == (slot.node, slot.epoch);
        let state = new.slots.iter().find(same).map(|other| other.state);
        if slot.state == SlotState::Released {
            ensure(matches!(state, None | Some(SlotState::Released)), || {
                format!("D4: released {slot:?} of segment {id} came back")
            })?;
            continue;
        }
        match state {
            Some(SlotState::Released) => {
                let enough = count(after, new).0 >= replicas_wanted(new);
                ensure(new.reaped || (new.is_referenced() && enough), || {
                    format!("D3: {slot:?} of segment {id} was released without R others")
                })?;
            }
            // A lost replica has a newer epoch on the same node. A removed node has none.
            None => {
                let again = new.live_slot_on(slot.node);
                ensure(again.is_some() || !is_in_service(after, &slot), || {
                    format!("D3: live {slot:?} of segment {id} vanished")
                })?;
                ensure(again.is_none_or(|again| again.epoch > slot.epoch), || {
                    format!("D4: {slot:?} of segment {id} was replaced by older {again:?}")
                })?;
            }
            Some(SlotState::Assigned) => {
                ensure(slot.state == SlotState::Assigned, || {
                    format!("D4: {slot:?} of segment {id} is assigned again under its epoch")
                })?;
            }
            Some(SlotState::Durable) => {}
        }
    }
    Ok(())
}
