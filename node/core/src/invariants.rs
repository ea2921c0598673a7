//! The named promises of DESIGN section 9, as far as a catalogue alone can show them.
//!
//! [`check`] looks at one state, [`check_step`] at a state and the one an entry made of it. Both
//! start from scratch and take time linear in the catalogue: for tests and the simulator.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::{Catalogue, Checkpoint};
use crate::ids::SegmentId;
use crate::model::{Admin, CheckpointState, Liveness, ManifestPlace, Segment, Slot, SlotState};

/// Names the first invariant that does not hold, and where.
pub fn check(catalogue: &Catalogue) -> Result<(), String> {
    let mut recount = BTreeMap::<SegmentId, BTreeMap<u32, u32>>::new();
    let mut steps = BTreeSet::new();
    for checkpoint in catalogue.checkpoints() {
        check_checkpoint(catalogue, checkpoint)?;
        if checkpoint.state != CheckpointState::Deleted {
            let place = (&checkpoint.namespace, checkpoint.step, checkpoint.state);
            ensure(steps.insert(place), || format!("C2: two records of {place:?}"))?;
        }
        for id in checkpoint.references() {
            let counts = recount.entry(id).or_default();
            *counts.entry(checkpoint.policy.replicas).or_default() += 1;
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
    ensure(catalogue.indexes_are_consistent(), || "C3: an index is not the rebuilt one".into())
}

/// Where all nodes keep the host they came with: no two live slots of a segment on one host, but
/// for those of nodes that stay down.
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

/// What one entry may do to slots and to what was deleted (D3, D4), and what a commit needs (D2).
pub fn check_step(before: &Catalogue, after: &Catalogue) -> Result<(), String> {
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
        let back = after.checkpoint(old.id).filter(|new| new.state != CheckpointState::Deleted);
        ensure(back.is_none(), || format!("D4: checkpoint {} came back", old.id))?;
    }
    for old in before.checkpoints().filter(|old| old.state == CheckpointState::Committed) {
        let gone = after.checkpoint(old.id).is_none();
        ensure(!gone, || format!("C2: checkpoint {} vanished undeleted", old.id))?;
    }
    for new in after.checkpoints().filter(|new| new.state == CheckpointState::Committed) {
        let old = before.checkpoint(new.id).map(|old| old.state);
        if old != Some(CheckpointState::Committed) {
            check_commit(after, new)?;
        }
    }
    Ok(())
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

fn is_in_service(catalogue: &Catalogue, slot: &Slot) -> bool {
    catalogue.node(slot.node).is_some_and(|node| node.admin == Admin::InService)
}

/// Replicas that count and the racks they stand in, from the definition (DESIGN section 1) and not
/// by the functions that the catalogue itself decides with.
fn count(catalogue: &Catalogue, segment: &Segment) -> (u32, u32) {
    let durable = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
    let nodes = durable.filter_map(|slot| catalogue.node(slot.node));
    let counting = nodes.filter(|node| {
        node.inventoried && node.admin == Admin::InService && node.liveness == Liveness::Up
    });
    let racks: Vec<&str> = counting.map(|node| node.rack.as_str()).collect();
    (racks.len() as u32, racks.iter().collect::<BTreeSet<_>>().len() as u32)
}

/// A checkpoint that was just committed has W replicas that count of each segment, on the racks
/// that its policy requires.
fn check_commit(catalogue: &Catalogue, record: &Checkpoint) -> Result<(), String> {
    let want = record.policy.write_quorum;
    let want_racks = catalogue.required_racks(&record.policy).min(want);
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

/// A segment is reaped once nothing has referred to it for its grace.
fn check_reap(before: &Catalogue, after: &Catalogue, old: &Segment) -> Result<(), String> {
    ensure(!old.is_referenced(), || format!("D3: segment {} was reaped while referenced", old.id))?;
    let clock_ms = after.cluster().clock_ms;
    ensure(old.reap_after_ms <= clock_ms && !before.cluster().reap_hold, || {
        format!("D3: segment {} was reaped at {clock_ms} ms, not {}", old.id, old.reap_after_ms)
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
        for (number, part) in &upload.parts {
            ensure(*number < record.parts_wanted, || format!("C2: checkpoint {id} part {number}"))?;
            ensure(part.staged.iter().all(|segment| record.loose.contains(segment)), || {
                format!("D6: checkpoint {id} part {number} staged without a reference")
            })?;
        }
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
    let named: BTreeSet<SegmentId> = record.segments.iter().collect();
    for part in &record.parts {
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
        ensure(is_in_service(catalogue, slot), || {
            format!("D4: segment {id} has a slot on a removed or unknown node: {slot:?}")
        })?;
    }
    for pair in segment.slots.windows(2) {
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
    for slot in &old.slots {
        let same = |other: &&Slot| (other.node, other.epoch) == (slot.node, slot.epoch);
        let state = new.slots.iter().find(same).map(|other| other.state);
        if slot.state == SlotState::Released {
            ensure(matches!(state, None | Some(SlotState::Released)), || {
                format!("D4: released {slot:?} of segment {id} came back")
            })?;
            continue;
        }
        match state {
            Some(SlotState::Released) => {
                let enough = count(after, new).0 >= new.replicas_wanted();
                ensure(new.reaped || (new.is_referenced() && enough), || {
                    format!("D3: {slot:?} of segment {id} was released without R others")
                })?;
            }
            // A lost replica has a newer epoch on the same node; a removed node has none.
            None => {
                let again = new.live_slot_on(slot.node);
                ensure(again.is_some() || !is_in_service(after, slot), || {
                    format!("D3: live {slot:?} of segment {id} vanished")
                })?;
                ensure(again.is_none_or(|again| again.epoch > slot.epoch), || {
                    format!("D4: {slot:?} of segment {id} was replaced by older {again:?}")
                })?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}
