//! Checks whether a member's message can be true. They run before openraft or a disk sees it, for
//! every sender: a stranger, a member that lies, or a member with a flipped bit in memory.
//!
//! openraft trusts its peers. A durable term stays, a durable entry is applied even after every
//! restart, and a snapshot from another vote ends the process. So a message that no correct member
//! can have sent is refused as a whole. The other checks need to know the sender.

use openraft::EntryPayload;

use crate::raft::ENVELOPE_BYTES;
use crate::raft::log::store::READ_BYTES_MAX;
use crate::raft::machine::Check;
use crate::raft::peers::promises::Promise;
use crate::raft::types::{Entry, LogId, Membership, SnapshotMeta, Vote};

/// A member's term is ahead of this node's by the elections that this node has missed. At one
/// election a second, this many take 136 years. To make the term overflow in steps of this size, a
/// member needs 2^32 calls.
const TERM_AHEAD_MAX: u64 = 1 << 32;
/// No log gets this long: at a million entries a second it takes 146,000 years. The value is far
/// enough below the maximum that adding to an index does not overflow.
const INDEX_MAX: u64 = 1 << 62;
/// Most entries of one message: a leader reads this many of the smallest entries at once.
const ENTRIES_MAX: usize = READ_BYTES_MAX / ENVELOPE_BYTES + 1;

/// Why a correct member cannot have sent a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::raft) enum Implausible {
    #[error("term {term} is too far ahead of term {own} here: limit {TERM_AHEAD_MAX}")]
    TermAhead { term: u64, own: u64 },
    #[error("{what} of term {term} is above the vote of term {vote}")]
    AboveVote { what: &'static str, term: u64, vote: u64 },
    #[error("{what} has index {index}: limit {INDEX_MAX}")]
    Index { what: &'static str, index: u64 },
    #[error("node {sender} speaks with the vote of node {vote}")]
    OthersVote { sender: u64, vote: u64 },
    #[error("a leader's message with a vote that is not committed")]
    NotElected,
    #[error("a candidate's message with a vote that is committed")]
    AlreadyElected,
    #[error("{0} entries in one message: limit {ENTRIES_MAX}")]
    TooMany(usize),
    #[error("entry {got} where entry {expected} follows")]
    Gap { expected: u64, got: u64 },
    #[error("entry {index} of term {term} follows one of term {before}")]
    TermFalls { index: u64, term: u64, before: u64 },
    #[error("entry {index} cannot be applied: {why}")]
    Entry { index: u64, why: String },
    #[error("{0} has no voters")]
    NoVoters(&'static str),
    #[error("the snapshot's membership is of entry {membership}, its last entry is {last}")]
    LaterMembership { membership: LogId, last: LogId },
    #[error("{0} was never sent")]
    NotSent(&'static str),
}

type Checked = Result<(), Implausible>;

/// Whether this node, in term `own`, may accept `term`.
fn term(own: u64, term: u64) -> Checked {
    match term.checked_sub(own) {
        // The last term has no next term: an election would begin again at zero.
        _ if term == u64::MAX => Err(Implausible::TermAhead { term, own }),
        Some(ahead) if ahead > TERM_AHEAD_MAX => Err(Implausible::TermAhead { term, own }),
        _ => Ok(()),
    }
}

/// A log id in a message under a vote of term `vote`.
fn log_id(what: &'static str, id: Option<LogId>, vote: u64) -> Checked {
    let Some(id) = id else { return Ok(()) };
    if id.index >= INDEX_MAX {
        return Err(Implausible::Index { what, index: id.index });
    }
    if id.leader_id.term > vote {
        return Err(Implausible::AboveVote { what, term: id.leader_id.term, vote });
    }
    Ok(())
}

/// The vote in an answer.
pub(in crate::raft) fn answer(own: u64, vote: &Vote) -> Checked {
    term(own, vote.leader_id.term)
}

/// A member's log id where no vote limits it.
pub(in crate::raft) fn bare_log_id(what: &'static str, own: u64, id: Option<LogId>) -> Checked {
    log_id(what, id, u64::MAX)?;
    id.map_or(Ok(()), |id| term(own, id.leader_id.term))
}

pub(in crate::raft) fn promise(own: u64, promise: Option<Promise>) -> Checked {
    let Some(promise) = promise else { return Ok(()) };
    term(own, promise.vote().leader_id.term)?;
    log_id("a promised entry", promise.log(), promise.vote().leader_id.term)
}

/// Checks a leader's last entry.
pub(in crate::raft) fn last_entry(vote: &Vote, last: Option<LogId>) -> Checked {
    log_id("the leader's last entry", last, vote.leader_id.term)
}

/// A leader sends its own vote, which a majority has granted.
pub(in crate::raft) fn leader(own: u64, sender: u64, vote: &Vote) -> Checked {
    speaker(own, sender, vote)?;
    if vote.committed { Ok(()) } else { Err(Implausible::NotElected) }
}

/// A candidate sends its own vote, with a term above that of its last entry.
pub(in crate::raft) fn candidate(
    own: u64,
    sender: u64,
    vote: &Vote,
    last: Option<LogId>,
) -> Checked {
    speaker(own, sender, vote)?;
    if vote.committed {
        return Err(Implausible::AlreadyElected);
    }
    log_id("the candidate's last entry", last, vote.leader_id.term)
}

fn speaker(own: u64, sender: u64, vote: &Vote) -> Checked {
    term(own, vote.leader_id.term)?;
    match vote.leader_id.voted_for {
        of if of == sender => Ok(()),
        of => Err(Implausible::OthersVote { sender, vote: of }),
    }
}

/// The content of a leader's append besides its vote.
pub(in crate::raft) struct Append<'a> {
    pub before: Option<LogId>,
    pub entries: &'a [Entry],
    pub committed: Option<LogId>,
}

/// Checks a leader's entries: they are consecutive from the entry before them, their terms are at
/// most the leader's, and each can be applied.
pub(in crate::raft) fn append(vote: &Vote, append: &Append<'_>, check: &Check) -> Checked {
    let Append { mut before, entries, committed } = *append;
    let vote = vote.leader_id.term;
    log_id("the entry before", before, vote)?;
    log_id("the committed entry", committed, vote)?;
    if entries.len() > ENTRIES_MAX {
        return Err(Implausible::TooMany(entries.len()));
    }
    for entry in entries {
        follows(before, entry.log_id)?;
        log_id("an entry", Some(entry.log_id), vote)?;
        applies(entry, check)?;
        before = Some(entry.log_id);
    }
    Ok(())
}

fn follows(before: Option<LogId>, id: LogId) -> Checked {
    let expected = before.map_or(0, |before| before.index.saturating_add(1));
    if id.index != expected {
        return Err(Implausible::Gap { expected, got: id.index });
    }
    match before.map(|before| before.leader_id.term) {
        Some(before) if id.leader_id.term < before => {
            Err(Implausible::TermFalls { index: id.index, term: id.leader_id.term, before })
        }
        _ => Ok(()),
    }
}

fn applies(entry: &Entry, check: &Check) -> Checked {
    match &entry.payload {
        EntryPayload::Blank => Ok(()),
        EntryPayload::Normal(command) => {
            check(&command.0).map_err(|why| Implausible::Entry { index: entry.log_id.index, why })
        }
        EntryPayload::Membership(membership) => has_voters("a membership entry", membership),
    }
}

fn has_voters(what: &'static str, membership: &Membership) -> Checked {
    let configs = membership.get_joint_config();
    let is_empty = configs.is_empty() || configs.iter().any(|voters| voters.is_empty());
    if is_empty { Err(Implausible::NoVoters(what)) } else { Ok(()) }
}

/// Checks the head of a snapshot that the leader of `vote` sends.
pub(in crate::raft) fn snapshot(vote: &Vote, meta: &SnapshotMeta) -> Checked {
    let Some(last) = meta.last_log_id else {
        return Err(Implausible::NotSent("the snapshot's last entry"));
    };
    log_id("the snapshot's last entry", Some(last), vote.leader_id.term)?;
    has_voters("the snapshot's membership", meta.last_membership.membership())?;
    match *meta.last_membership.log_id() {
        Some(membership) if membership > last || membership.index > last.index => {
            Err(Implausible::LaterMembership { membership, last })
        }
        _ => Ok(()),
    }
}

/// Checks what a follower says it has stored: no more than was sent.
pub(in crate::raft) fn taken(
    before: Option<LogId>,
    entries: &[Entry],
    last: Option<LogId>,
) -> Checked {
    let is_sent = last == before || entries.iter().any(|entry| Some(entry.log_id) == last);
    if is_sent { Ok(()) } else { Err(Implausible::NotSent("the entry that was acknowledged")) }
}

#[cfg(test)]
mod tests;
