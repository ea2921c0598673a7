//! `cairn commit`

use cairn_types::ids::Selector;
use cairn_types::model::Durability;
use clap::Args;
use serde::Serialize;

use crate::address;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::plural;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct CommitArgs {
    /// NAMESPACE@STEP, such as run1@1000; `cairn ls --open` lists what can be committed
    address: String,
}

pub fn run(session: &Session, args: CommitArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    let Selector::Step(step) = address.selector else {
        return Err(Failure::usage(format!("{address} names no step"))
            .with_hint("commit needs a number after the @, such as run1@1000"));
    };
    let closed =
        session.with_client(async |client| client.close_upload(&address.namespace, step).await)?;
    let document = CommitDocument {
        namespace: address.namespace.as_str(),
        step: step.0,
        id: closed.checkpoint.0,
        attempt: closed.attempt.0,
        replicas: closed.durability.replicas_min,
        replicas_wanted: closed.durability.replicas_wanted,
        racks: closed.durability.racks_min,
    };
    session.output.result(&document, || text(&address.to_string(), &closed.durability))?;
    Ok(Exit::Ok)
}

/// `commit`.
#[derive(Serialize)]
struct CommitDocument<'a> {
    namespace: &'a str,
    step: u64,
    id: u64,
    attempt: u64,
    /// The least of all segments.
    replicas: u32,
    replicas_wanted: u32,
    racks: u32,
}

fn text(name: &str, durability: &Durability) -> String {
    let racks = plural(u64::from(durability.racks_min), "rack");
    let (have, want) = (durability.replicas_min, durability.replicas_wanted);
    format!("committed {name}: {have} of {want} replicas, {racks}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_how_safe_it_is() {
        let durability = Durability {
            replicas_wanted: 3,
            replicas_min: 2,
            racks_min: 1,
            ..Durability::default()
        };
        assert_eq!(text("a/b@7", &durability), "committed a/b@7: 2 of 3 replicas, 1 rack\n");
    }
}
