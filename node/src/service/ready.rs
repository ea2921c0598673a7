//! Whether this node serves, for `/healthz`, the health service, metrics and its status.

use std::time::Duration;

use crate::raft::Contact;
use crate::shared::Member;

/// A node without a leader, or a leader without a majority, is healthy for so long: more than
/// the loss of a leader takes (2 s, see the runbook), little enough for an alert within a minute.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Why this node does not serve: it is not registered, or it is without the others.
pub fn why_not(member: &Member) -> Option<String> {
    if member.this.incarnation().is_none() {
        return Some("not registered with the cluster yet".to_owned());
    }
    let trouble = member.health.trouble();
    if !trouble.is_none() {
        return Some(trouble.text());
    }
    let Contact { leads, silence, ever } = member.consensus.contact();
    let seconds = silence.as_secs_f64();
    match (leads, ever) {
        (_, true) if silence < SILENCE_MAX => None,
        (true, _) => Some(format!(
            "this node led, and no majority of the voters has answered it for {seconds:.1} s"
        )),
        (false, true) => Some(format!("no leader was heard for {seconds:.1} s")),
        (false, false) => Some(format!("no leader was heard since the start, {seconds:.1} s ago")),
    }
}

pub fn is_ready(member: &Member) -> bool {
    why_not(member).is_none()
}
