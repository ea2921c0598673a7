//! Checks that an answer matches its question. A node that lies, or is another node than expected,
//! must not make a client restore or delete a checkpoint that was not requested.

use cairn_proto::wire;
use cairn_types::ids::{Address, Namespace, Selector};
use cairn_types::limits::{NODES_MAX, REFS_MAX, SEGMENT_BYTES_MAX};
use cairn_types::listing::ListPlace;
use cairn_types::marks::NamedRef;
use cairn_types::model::{CheckpointInfo, CheckpointState};

use crate::listing::{ListOptions, ListPage};
use crate::marks::ListedHold;

/// The error describes the fault of an answer.
type Checked = Result<(), String>;

/// A resolved checkpoint must match the address, be committed, and have all its parts.
pub(crate) fn resolved(asked: &Address, info: &CheckpointInfo) -> Checked {
    let got = format!("{}@{}", info.namespace, info.step);
    let is_asked = info.namespace == asked.namespace
        && match &asked.selector {
            Selector::Step(step) => info.step == *step,
            Selector::CommittedBy(wall_ms) => {
                info.commit.is_some_and(|commit| commit.wall_ms <= *wall_ms)
            }
            Selector::BestBy(metric, _) => info.metrics.contains_key(metric),
            Selector::Best | Selector::Latest | Selector::Before(_) | Selector::Ref(_) => true,
        };
    if !is_asked {
        return Err(format!("{got} where {asked} was asked for"));
    }
    if info.state != CheckpointState::Committed || info.commit.is_none() {
        return Err(format!("{got} is not committed"));
    }
    let (parts, wanted) = (info.parts.len(), info.parts_wanted as usize);
    if parts != wanted || parts == 0 {
        return Err(format!("{got} has {parts} parts, {wanted} are wanted"));
    }
    Ok(())
}

/// A page of a listing must be below the prefix, in order, after the previous place, and match the
/// filter. The next page must begin after all of its entries.
pub(crate) fn listed(
    ListOptions { prefix, filter }: &ListOptions,
    after: Option<&ListPlace>,
    limit: u32,
    page: &ListPage,
) -> Checked {
    let found = &page.checkpoints;
    if limit != 0 && found.len() > limit as usize {
        return Err(format!("{} checkpoints: limit {limit}", found.len()));
    }
    let mut last = after.cloned();
    for info in found {
        let place = (info.namespace.clone(), info.step, info.id);
        let is_asked = filter.admits_info(info);
        let is_below = prefix.as_ref().is_none_or(|prefix| is_below(prefix, &info.namespace));
        if !is_asked || !is_below || last.is_some_and(|last| place <= last) {
            let (namespace, step, id) = place;
            return Err(format!("{namespace}@{step} ({id}) was not asked for"));
        }
        last = Some(place);
    }
    // The client would request a page that makes no progress again and again.
    match &page.next {
        Some(next) if Some(next) == after || last.is_some_and(|last| *next < last) => {
            Err(format!("the next page begins behind {}@{} again", next.0, next.1))
        }
        _ => Ok(()),
    }
}

fn is_below(prefix: &Namespace, namespace: &Namespace) -> bool {
    let rest = namespace.as_str().strip_prefix(prefix.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A hold of a listing must be below the prefix and after the previous one.
pub(crate) fn held(
    prefix: Option<&Namespace>,
    last: Option<&ListedHold>,
    hold: &ListedHold,
) -> Checked {
    let place = |it: &ListedHold| (it.checkpoint, it.hold.owner.clone());
    let is_below = prefix.is_none_or(|prefix| is_below(prefix, &hold.namespace));
    match is_below && last.is_none_or(|last| place(last) < place(hold)) {
        true => Ok(()),
        false => Err(format!("a hold on {}@{} was not asked for", hold.namespace, hold.step)),
    }
}

/// The refs of one namespace: each name once, and at most as many as allowed.
pub(crate) fn named(refs: &[NamedRef]) -> Checked {
    let ascend = refs.is_sorted_by(|one, next| one.name < next.name);
    match ascend && refs.len() <= REFS_MAX {
        true => Ok(()),
        false => Err(format!("{} refs, not in order or more than {REFS_MAX}", refs.len())),
    }
}

/// The nodes of a cluster.
pub(crate) fn nodes(nodes: &[wire::NodeInfo]) -> Checked {
    match nodes.len() {
        count if count > NODES_MAX => Err(format!("{count} nodes: limit {NODES_MAX}")),
        _ => Ok(()),
    }
}

/// The location of a segment.
pub(crate) fn located(segment: &wire::Located) -> Checked {
    match (segment.len, segment.slots.len()) {
        (len, _) if u64::from(len) > SEGMENT_BYTES_MAX => {
            Err(format!("a segment of {len} bytes: limit {SEGMENT_BYTES_MAX}"))
        }
        (_, slots) if slots > NODES_MAX => Err(format!("{slots} slots: limit {NODES_MAX}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::ids::{CheckpointId, Step};
    use cairn_types::listing::{ListFilter, ListedStates};
    use cairn_types::marks::Hold;
    use cairn_types::model::Commit;

    use super::*;

    fn info(namespace: &str, step: u64, id: u64) -> CheckpointInfo {
        let message = wire::CheckpointInfo {
            id,
            namespace: namespace.to_owned(),
            step,
            state: 1,
            policy: Some(cairn_types::convert::policy_to_wire(&Default::default())),
            durability: Some(Default::default()),
            commit_index: Some(7),
            commit_wall_ms: 1000,
            ..wire::CheckpointInfo::default()
        };
        cairn_types::convert::info_from_wire(message).unwrap()
    }

    fn at(address: &str) -> Address {
        address.parse().unwrap()
    }

    #[test]
    fn holds_come_in_order_and_are_below_their_prefix() {
        let hold = |namespace: &str, id: u64, owner: &str| {
            let owner = owner.to_owned();
            let (reason, wall_ms) = (String::new(), 0);
            let hold = Hold { owner, reason, until_ms: None, wall_ms, until_wall_ms: None };
            ListedHold::new(&info(namespace, 1, id), hold)
        };
        let run: Namespace = "team/run".parse().unwrap();
        let (first, second) = (hold("team/run", 1, "a"), hold("team/run/x", 1, "b"));
        assert_eq!(held(Some(&run), None, &first), Ok(()));
        assert_eq!(held(Some(&run), Some(&first), &second), Ok(()));
        held(Some(&run), Some(&first), &first).unwrap_err();
        held(Some(&run), Some(&second), &first).unwrap_err();
        held(Some(&run), None, &hold("team/runs", 1, "a")).unwrap_err();
    }

    #[test]
    fn a_page_is_below_its_prefix_in_order_and_of_the_states_asked_for() {
        let run: Namespace = "team/run".parse().unwrap();
        let options = |open| {
            let states = ListedStates { open, ..ListedStates::default() };
            ListOptions { prefix: Some(run.clone()), filter: ListFilter::of(states) }
        };
        let (only, with_open) = (options(false), options(true));
        let page = [info("team/run", 1, 4), info("team/run", 1, 9), info("team/run/a", 1, 2)];
        let after = (run.clone(), Step(1), CheckpointId(3));
        let listed_to = |page: &[CheckpointInfo], options, limit, next| {
            let page = ListPage { checkpoints: page.to_vec(), next };
            super::listed(options, Some(&after), limit, &page)
        };
        let listed =
            |page: &[CheckpointInfo], options, limit| listed_to(page, options, limit, None);
        assert_eq!(listed(&page, &only, 3), Ok(()));
        assert!(listed(&page, &only, 2).is_err(), "more than asked for");
        assert!(listed(&[info("team/run2", 1, 4)], &only, 9).is_err());
        assert!(listed(&[info("team", 1, 4)], &only, 9).is_err());
        assert!(listed(&[info("team/run", 1, 3)], &only, 9).is_err(), "the place itself");
        assert!(listed(&[page[1].clone(), page[0].clone()], &only, 9).is_err(), "out of order");
        assert!(listed_to(&[], &only, 9, Some(after.clone())).is_err(), "no step forward");
        let behind = (run.clone(), Step(1), CheckpointId(8));
        assert_eq!(listed_to(&[], &only, 9, Some(behind.clone())), Ok(()));
        assert!(listed_to(&page[..2], &only, 9, Some(behind)).is_err(), "a step back");
        let mut open = info("team/run", 2, 4);
        open.state = CheckpointState::Open;
        assert!(listed(&[open.clone()], &only, 9).is_err());
        assert_eq!(listed(&[open], &with_open, 9), Ok(()));
    }

    #[test]
    fn a_checkpoint_without_its_parts_is_none() {
        let got = resolved(&at("team/run@1"), &info("team/run", 1, 4));
        assert!(got.unwrap_err().contains("0 parts"));
        let other = resolved(&at("team/run@2"), &info("team/run", 1, 4)).unwrap_err();
        assert!(other.contains("team/run@1 where team/run@2"), "{other}");
        assert!(resolved(&at("team/other@1"), &info("team/run", 1, 4)).is_err());
        let mut deleted = info("team/run", 1, 4);
        deleted.state = CheckpointState::Deleted;
        assert!(resolved(&at("team/run@latest"), &deleted).unwrap_err().contains("not committed"));
        deleted.commit = Some(Commit { index: 7, wall_ms: 2000 });
        let by = Address { selector: Selector::CommittedBy(1999), ..at("team/run@1") };
        assert!(resolved(&by, &deleted).unwrap_err().contains("was asked for"));
    }

    #[test]
    fn what_a_cluster_cannot_have_is_refused() {
        let segment = |len| wire::Located { len, ..Default::default() };
        assert_eq!(located(&segment(SEGMENT_BYTES_MAX as u32)), Ok(()));
        assert!(located(&segment(SEGMENT_BYTES_MAX as u32 + 1)).is_err());
        assert!(nodes(&vec![wire::NodeInfo::default(); NODES_MAX + 1]).is_err());
    }
}
