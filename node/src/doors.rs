//! Every way in, and what a caller needs to come in by it.
//!
//! A row says what is asked before the request is read. Which namespace is touched, only the service
//! knows, and asks again: [`Caller::check`](crate::caller::Caller::check), and for commands
//! `Catalogue::authorize`. A test compares the rows with the generated services.

use cairn_proto::refused::refusal_status;
use cairn_types::command::Refusal;
use cairn_types::rights::{Need, Right};
use tonic::Status;

use crate::caller::{Caller, nobody, not_allowed};

/// What a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Nothing: the answer is numbers without names.
    Anybody,
    /// This, for some namespace at least.
    Need(Need),
    /// Nodes come in by it too, with the cluster's key alone: they fetch each other's replicas, and
    /// the leaders' manifests. Others need this.
    NodeOr(Need),
    /// Any right. What it is told goes by its rights.
    Known,
    /// Any right, or to be a node.
    NodeOrKnown,
    /// What the command in it needs.
    Command,
    /// To operate everything, or the cluster's key, also where tokens are required: else nobody could
    /// set them right.
    Tokens,
}

const READ: Door = Door::Need(Need::Read);
const WRITE: Door = Door::Need(Need::Write);
const OPERATE: Door = Door::Need(Need::Operate);
const NODE: Door = Door::Need(Need::Node);
const NODE_OR_READ: Door = Door::NodeOr(Need::Read);

/// By path; sorted.
pub const DOORS: [(&str, Door); 43] = [
    ("/cairn.v1.Admin/AskSlot", NODE),
    ("/cairn.v1.Admin/Audit", READ),
    ("/cairn.v1.Admin/CheckAudit", OPERATE),
    ("/cairn.v1.Admin/Heartbeat", NODE),
    ("/cairn.v1.Admin/Hello", NODE),
    ("/cairn.v1.Admin/Join", NODE),
    ("/cairn.v1.Admin/ListQuarantine", OPERATE),
    ("/cairn.v1.Admin/NodeStatus", Door::NodeOrKnown),
    ("/cairn.v1.Admin/Report", NODE),
    ("/cairn.v1.Admin/Restore", OPERATE),
    ("/cairn.v1.Admin/Scrub", OPERATE),
    ("/cairn.v1.Catalogue/Execute", Door::Command),
    ("/cairn.v1.Catalogue/ExecuteForwarded", NODE),
    ("/cairn.v1.Catalogue/Hasten", Door::Known),
    ("/cairn.v1.Catalogue/List", READ),
    ("/cairn.v1.Catalogue/ListHolds", READ),
    ("/cairn.v1.Catalogue/ListPolicies", READ),
    ("/cairn.v1.Catalogue/ListRefs", READ),
    ("/cairn.v1.Catalogue/ListTokens", Door::Tokens),
    ("/cairn.v1.Catalogue/Locate", Door::Known),
    ("/cairn.v1.Catalogue/PlanDrain", OPERATE),
    ("/cairn.v1.Catalogue/PlanRemoval", OPERATE),
    ("/cairn.v1.Catalogue/PlanRetention", READ),
    ("/cairn.v1.Catalogue/PlanTimeRepair", OPERATE),
    ("/cairn.v1.Catalogue/Resolve", Door::Known),
    ("/cairn.v1.Catalogue/ShowPolicy", READ),
    ("/cairn.v1.Catalogue/Status", Door::Known),
    ("/cairn.v1.Catalogue/Usage", READ),
    ("/cairn.v1.Catalogue/Watch", READ),
    ("/cairn.v1.Raft/Append", NODE),
    ("/cairn.v1.Raft/BeginSnapshot", NODE),
    ("/cairn.v1.Raft/PreVote", NODE),
    ("/cairn.v1.Raft/ReadIndex", NODE),
    ("/cairn.v1.Raft/SendSnapshot", NODE),
    ("/cairn.v1.Raft/TransferLeader", NODE),
    ("/cairn.v1.Raft/Vote", NODE),
    ("/cairn.v1.Segments/Get", NODE_OR_READ),
    ("/cairn.v1.Segments/Put", WRITE),
    ("/cairn.v1.Segments/Suspect", NODE_OR_READ),
    ("/grpc.health.v1.Health/Check", Door::Anybody),
    ("/grpc.health.v1.Health/Watch", Door::Anybody),
    ("/healthz", Door::Anybody),
    ("/metrics", Door::Anybody),
];

/// What a path needs; `None` where there is nothing.
pub fn door(path: &str) -> Option<Door> {
    let row = DOORS.binary_search_by(|row| row.0.cmp(path));
    row.ok().map(|row| DOORS[row].1)
}

/// Whether `caller` may come in by `door`, as far as can be told without the request. `required`:
/// whether the cluster wants a token from all but its nodes.
pub fn admit(caller: &Caller, door: Door, required: impl Fn() -> bool) -> Result<(), Status> {
    if door == Door::Anybody {
        return Ok(());
    }
    let token = match caller {
        Caller::Nobody => {
            return Err(nobody());
        }
        Caller::Key | Caller::Local => {
            // Which of the key's holders are nodes, nothing tells.
            let is_nodes = matches!(door, NODE | Door::NodeOr(_) | Door::NodeOrKnown);
            let is_enough = is_nodes || matches!(door, Door::Command | Door::Tokens);
            return if is_enough || !required() { Ok(()) } else { Err(wants_token()) };
        }
        Caller::Subject(token) => &token.subject,
    };
    let rights = token.grant.rights;
    let allowed = match door {
        Door::Anybody => true,
        Door::Need(need) | Door::NodeOr(need) => {
            need.right().is_some_and(|right| rights.gives(right))
        }
        Door::Known | Door::NodeOrKnown | Door::Command => !rights.is_empty(),
        Door::Tokens => token.grant.allows_everywhere(Right::Operate),
    };
    let what = match door {
        Door::Need(need) | Door::NodeOr(need) => {
            need.right().map_or("speak for a node", Right::word)
        }
        Door::Tokens => Right::Operate.word(),
        Door::Anybody | Door::Known | Door::NodeOrKnown | Door::Command => "do anything",
    };
    if allowed { Ok(()) } else { Err(not_allowed(token, what, "any namespace")) }
}

/// The answer to a caller without a token where there must be one.
pub fn wants_token() -> Status {
    refusal_status(&Refusal::BadToken("none is given, and this cluster wants one".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cairn_host::token::Verified;
    use cairn_types::ids::TokenId;
    use cairn_types::rights::{Grant, TokenSubject};

    use super::*;

    fn subject(rights: &[Right], namespaces: &[&str]) -> Caller {
        let namespaces = namespaces.iter().map(|name| name.parse().unwrap()).collect();
        let subject = TokenSubject {
            name: "ci".into(),
            issuer: TokenId(1),
            tokens: vec![TokenId(2)],
            grant: Grant { rights: rights.iter().copied().collect(), namespaces },
        };
        Caller::Subject(Arc::new(Verified { subject, issued_ms: 0, expires_ms: u64::MAX }))
    }

    #[test]
    fn every_method_of_every_service_has_a_door() {
        assert!(DOORS.is_sorted_by(|one, two| one.0 < two.0), "rows are found by halving");
        for path in cairn_proto::METHODS {
            assert!(door(path).is_some(), "{path} is not in the table");
        }
        let beside = ["/grpc.health.v1.Health/", "/healthz", "/metrics"];
        for (path, door) in DOORS {
            let is_beside = beside.iter().any(|it| path.starts_with(it));
            assert_eq!(cairn_proto::METHODS.contains(&path), !is_beside, "{path} is no method");
            // What names nothing is all that is open.
            assert_eq!(door == Door::Anybody, is_beside, "{path}");
        }
    }

    /// Who may come in by a door: one letter for each right alone (read, write, delete, operate), and
    /// `o` where it may hold in some namespaces only.
    fn letters(door: Door) -> String {
        let allowed = |rights: &[Right], namespaces: &[&str]| {
            admit(&subject(rights, namespaces), door, || true).is_ok()
        };
        let mut letters = String::new();
        for (right, letter) in Right::ALL.into_iter().zip("rwdo".chars()) {
            if allowed(&[right], &[]) {
                letters.push(letter);
            }
            if !allowed(&[right], &["team"]) && allowed(&[right], &[]) {
                letters.push('*');
            }
        }
        assert!(!allowed(&[], &[]) || door == Door::Anybody, "a token without rights");
        letters
    }

    #[test]
    fn every_door_against_every_right() {
        let want = |path: &str| match path {
            "/healthz" | "/metrics" => "rwdo",
            path if path.starts_with("/grpc.health.v1.") => "rwdo",
            path if path.starts_with("/cairn.v1.Raft/") => "",
            "/cairn.v1.Admin/AskSlot"
            | "/cairn.v1.Admin/Heartbeat"
            | "/cairn.v1.Admin/Hello"
            | "/cairn.v1.Admin/Join"
            | "/cairn.v1.Admin/Report"
            | "/cairn.v1.Catalogue/ExecuteForwarded" => "",
            "/cairn.v1.Admin/CheckAudit"
            | "/cairn.v1.Admin/ListQuarantine"
            | "/cairn.v1.Admin/Restore"
            | "/cairn.v1.Admin/Scrub"
            | "/cairn.v1.Catalogue/PlanDrain"
            | "/cairn.v1.Catalogue/PlanRemoval"
            | "/cairn.v1.Catalogue/PlanTimeRepair" => "o",
            "/cairn.v1.Catalogue/ListTokens" => "o*",
            "/cairn.v1.Segments/Put" => "wo",
            "/cairn.v1.Admin/Audit"
            | "/cairn.v1.Segments/Get"
            | "/cairn.v1.Segments/Suspect"
            | "/cairn.v1.Catalogue/List"
            | "/cairn.v1.Catalogue/ListHolds"
            | "/cairn.v1.Catalogue/ListPolicies"
            | "/cairn.v1.Catalogue/ListRefs"
            | "/cairn.v1.Catalogue/PlanRetention"
            | "/cairn.v1.Catalogue/ShowPolicy"
            | "/cairn.v1.Catalogue/Usage"
            | "/cairn.v1.Catalogue/Watch" => "ro",
            "/cairn.v1.Admin/NodeStatus"
            | "/cairn.v1.Catalogue/Execute"
            | "/cairn.v1.Catalogue/Hasten"
            | "/cairn.v1.Catalogue/Locate"
            | "/cairn.v1.Catalogue/Resolve"
            | "/cairn.v1.Catalogue/Status" => "rwdo",
            path => panic!("{path} is not decided on here"),
        };
        for (path, door) in DOORS {
            assert_eq!(letters(door), want(path), "{path}");
        }
    }

    #[test]
    fn without_a_token_the_key_is_all_or_only_a_nodes() {
        // What a node calls at another: without one of these it could neither join nor repair.
        let nodes = |path: &str| {
            path.starts_with("/cairn.v1.Raft/")
                || [
                    "/cairn.v1.Admin/AskSlot",
                    "/cairn.v1.Admin/Heartbeat",
                    "/cairn.v1.Admin/Hello",
                    "/cairn.v1.Admin/Join",
                    "/cairn.v1.Admin/NodeStatus",
                    "/cairn.v1.Admin/Report",
                    "/cairn.v1.Catalogue/ExecuteForwarded",
                    "/cairn.v1.Segments/Get",
                    "/cairn.v1.Segments/Suspect",
                ]
                .contains(&path)
        };
        // Tokens can be set right with the key at any time; the command is looked at by the service.
        let tokens = ["/cairn.v1.Catalogue/Execute", "/cairn.v1.Catalogue/ListTokens"];
        let open =
            |path: &str| nodes(path) || tokens.contains(&path) || !path.starts_with("/cairn.v1.");
        for (path, door) in DOORS {
            for caller in [Caller::Key, Caller::Local] {
                assert!(admit(&caller, door, || false).is_ok(), "{path}");
                assert_eq!(admit(&caller, door, || true).is_ok(), open(path), "{path}");
            }
            let nobody = admit(&Caller::Nobody, door, || false);
            assert_eq!(nobody.is_ok(), door == Door::Anybody, "{path}");
        }
    }
}
