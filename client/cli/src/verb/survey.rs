//! What `cairn status` says when nobody leads: each node's own view.

use std::collections::BTreeMap;

use cairn_client::catalogue::View;
use cairn_client::{NodeId, NodeStatus, Voter};
use serde::Serialize;

use crate::output::{plural, table};

/// `status`, if no leader answers.
#[derive(Serialize)]
pub struct SurveyDocument<'a> {
    /// Null.
    leader: (),
    answers: Vec<AnswerRecord<'a>>,
    voters: Vec<VoterRecord>,
    voters_missing: Vec<VoterRecord>,
    /// Number of voters that must answer.
    voters_needed: usize,
    /// One text.
    problems: [String; 1],
}

#[derive(Serialize)]
struct VoterRecord {
    node: u64,
    address: String,
}

#[derive(Serialize)]
struct AnswerRecord<'a> {
    asked: &'a str,
    answered: bool,
    #[serde(flatten)]
    view: ViewRecord<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ViewRecord<'a> {
    Answer {
        node: u64,
        address: &'a str,
        leader: Option<u64>,
        term: u64,
        applied_index: u64,
        silence_ms: u64,
        trouble: Option<&'a str>,
    },
    Silent {
        error: String,
    },
}

impl<'a> AnswerRecord<'a> {
    fn new(asked: &'a str, view: &'a View) -> Self {
        let answered = view.is_ok();
        let view = match view {
            Ok(status) => ViewRecord::Answer {
                node: status.node.0,
                address: &status.address,
                leader: status.leader.map(|id| id.0),
                term: status.term,
                applied_index: status.applied_index,
                silence_ms: status.silence_ms,
                trouble: status.unfit.as_deref(),
            },
            Err(error) => ViewRecord::Silent { error: error.to_string() },
        };
        Self { asked, answered, view }
    }
}

/// The answers, by the address that was asked.
pub struct Survey(pub BTreeMap<String, View>);

impl Survey {
    /// Nodes that answered, each once.
    fn answered(&self) -> BTreeMap<NodeId, &NodeStatus> {
        self.0.values().flatten().map(|status| (status.node, status)).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.answered().is_empty()
    }

    /// The voters, as the node says it that has applied the most.
    fn voters(&self) -> Vec<Voter> {
        let answered = self.answered();
        let newest = answered.values().max_by_key(|status| status.applied_index);
        newest.map(|status| status.voters.clone()).unwrap_or_default()
    }

    /// Voters that did not answer.
    fn missing(&self) -> Vec<Voter> {
        let answered = self.answered();
        let missing = |voter: &Voter| !answered.contains_key(&voter.node);
        self.voters().into_iter().filter(missing).collect()
    }

    fn needed(&self) -> usize {
        self.voters().len() / 2 + 1
    }

    /// What is wrong, as far as the answers tell.
    pub fn verdict(&self) -> String {
        let (voters, missing) = (self.voters().len(), self.missing());
        let present = voters - missing.len();
        if present < self.needed() {
            let lacking = plural((self.needed() - present) as u64, "voter");
            let names: Vec<String> = missing.iter().map(named).collect();
            return format!(
                "{present} of {voters} voters answer and {} are needed: bring back {lacking} of {}",
                self.needed(),
                names.join(", ")
            );
        }
        let answered = self.answered();
        match answered.values().all(|status| status.leader.is_none()) {
            true => format!("{present} of {voters} voters answer, and no voter knows a leader"),
            false => format!("{present} of {voters} voters answer, and no leader answered a read"),
        }
    }

    pub fn document(&self) -> SurveyDocument<'_> {
        let voters = |voters: Vec<Voter>| {
            let record = |voter: Voter| VoterRecord { node: voter.node.0, address: voter.address };
            voters.into_iter().map(record).collect()
        };
        SurveyDocument {
            leader: (),
            answers: self.0.iter().map(|(asked, view)| AnswerRecord::new(asked, view)).collect(),
            voters: voters(self.voters()),
            voters_missing: voters(self.missing()),
            voters_needed: self.needed(),
            problems: [self.verdict()],
        }
    }

    pub fn text(&self) -> String {
        let head = ["ASKED", "NODE", "LEADER", "TERM", "INDEX", "CONTACT"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (asked, answer) in &self.0 {
            rows.push(match answer {
                Ok(status) => vec![
                    asked.clone(),
                    status.node.to_string(),
                    status.leader.map_or("-".to_owned(), |leader| leader.to_string()),
                    status.term.to_string(),
                    status.applied_index.to_string(),
                    status.unfit.clone().unwrap_or("ok".to_owned()),
                ],
                Err(_) => {
                    let dash = || "-".to_owned();
                    let silent = "does not answer".to_owned();
                    vec![asked.clone(), dash(), dash(), dash(), dash(), silent]
                }
            });
        }
        let missing: Vec<String> = self.missing().iter().map(named).collect();
        let missing = match missing.is_empty() {
            true => "none".to_owned(),
            false => missing.join(", "),
        };
        format!(
            "no leader answers; each node's own answer:\n\n{}\nmissing    {missing}\nhealth     {}\n",
            table(&rows),
            self.verdict()
        )
    }
}

fn named(voter: &Voter) -> String {
    match voter.host.is_empty() {
        true => format!("node {} at {}", voter.node, voter.address),
        false => {
            format!("node {} ({}, {}) at {}", voter.node, voter.host, voter.rack, voter.address)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(node: u64) -> Voter {
        let mut voter = Voter::default();
        voter.node = NodeId(node);
        voter.address = format!("n{node}:7400");
        voter.host = format!("h{node}");
        voter.rack = "a".to_owned();
        voter
    }

    #[test]
    fn missing_voters_and_how_many_are_needed_are_named() {
        let mut one = NodeStatus::default();
        one.node = NodeId(1);
        one.term = 3;
        one.voters = (1..=3).map(voter).collect();
        one.unfit = Some("no leader was heard for 9.0 s".to_owned());
        let silent = || {
            Err(cairn_client::ClientError::Unreachable { endpoints: vec![], last: String::new() })
        };
        let answers = [("n1:7400", Ok(one)), ("n2:7400", silent()), ("n3:7400", silent())];
        let survey = Survey(answers.map(|(at, answer)| (at.to_owned(), answer)).into());
        let text = survey.text();
        assert!(
            text.contains("1 of 3 voters answer and 2 are needed: bring back 1 voter"),
            "{text}"
        );
        assert!(text.contains("node 2 (h2, a) at n2:7400"), "{text}");
        assert!(text.contains("no leader was heard for 9.0 s"), "{text}");
        assert_eq!(survey.document().voters_needed, 2);
        assert_eq!(survey.document().voters_missing[1].node, 3);
    }
}
