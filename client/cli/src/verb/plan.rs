//! `cairn plan`: what a cluster of a given size can do, before it is bought.

use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use crate::capacity::failures::{Failure, failures};
use crate::capacity::space::{Space, kept_ages, most_on, space};
use crate::capacity::transfer::{Transfer, catch_up, put, restore};
use crate::capacity::{InputError, Inputs};
use crate::exit::{Exit, Failure as Failed, Outcome};
use crate::output::{bytes, table};
use crate::session::Session;

/// Checkpoints that rules on the command line may keep.
const KEEP_MAX: u64 = 1_000_000;

#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Size of one checkpoint, such as 5TB
    #[arg(long, value_name = "BYTES")]
    bytes: ByteSize,
    /// Time between two checkpoints, such as 10m
    #[arg(long, value_name = "TIME")]
    interval: humantime::Duration,
    /// Number of nodes
    #[arg(long, value_name = "COUNT")]
    nodes: u32,
    /// Space for segments on each node, such as 30TB
    #[arg(long, value_name = "BYTES")]
    disk: ByteSize,
    /// Number of racks [default: 3, or as many as there are nodes]
    #[arg(long, value_name = "COUNT")]
    racks: Option<u32>,
    /// Replicas of each segment
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    replicas: u32,
    /// Replicas that a commit waits for
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    write_quorum: u32,
    /// Racks that these stand in [default: 2, or fewer where there are fewer]
    #[arg(long, value_name = "COUNT")]
    min_racks: Option<u32>,
    /// Share of each checkpoint that the one before it does not have, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    new_fraction: f64,
    /// Keep the newest COUNT checkpoints [default: as many as fit]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=KEEP_MAX))]
    keep_last: Option<u64>,
    /// Keep the newest checkpoint of each of the last COUNT days
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=KEEP_MAX))]
    keep_daily: Option<u64>,
    /// Rate of a node's network in each direction: 100Gb is bits, 12GB is bytes a second
    #[arg(long, value_name = "RATE", default_value = "25Gb", value_parser = rate)]
    nic: f64,
    /// Rate at which a node's disk writes durably, and reads
    #[arg(long, value_name = "RATE", default_value = "2GB", value_parser = rate)]
    disk_rate: f64,
    /// Hosts that write a checkpoint together, and restore it
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    writers: u32,
    /// Rate of a writer's network [default: that of --nic]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    writer_nic: Option<f64>,
    /// Rate at which a writer reads and hashes its files
    #[arg(long, value_name = "RATE", default_value = "2GB", value_parser = rate)]
    hash_rate: f64,
    /// Time of one request: round trip, and one sync of a disk
    #[arg(long, value_name = "TIME", default_value = "2ms")]
    delay: humantime::Duration,
    /// How long a deleted checkpoint still takes space
    #[arg(long, value_name = "TIME", default_value = "1h")]
    grace: humantime::Duration,
    /// How long a node is down before its replicas are made elsewhere
    #[arg(long, value_name = "TIME", default_value = "10m")]
    replace_after: humantime::Duration,
    /// Share of each disk that is planned with, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.85)]
    fill: f64,
    /// Share of networks and disks that making replicas again may take, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    catch_up_share: f64,
}

pub fn run(session: &Session, args: PlanArgs) -> Outcome {
    let inputs = inputs(&args);
    inputs.check().map_err(|error| {
        let failure = Failed::usage(&error);
        match error {
            InputError::FewNodes { .. } => {
                failure.with_hint("name more --nodes, or fewer --replicas")
            }
            InputError::MinRacks { .. } => {
                failure.with_hint("name more --racks, or fewer --min-racks")
            }
            _ => failure,
        }
    })?;
    let plan = Plan::of(&inputs);
    session.output.result(&plan.document(&inputs), || plan.text(&inputs))?;
    Ok(Exit::Ok)
}

/// Both forms of the result.
#[cfg(test)]
pub(super) fn shown(args: &PlanArgs) -> serde_json::Result<(String, serde_json::Value)> {
    let inputs = inputs(args);
    let plan = Plan::of(&inputs);
    Ok((plan.text(&inputs), serde_json::to_value(plan.document(&inputs))?))
}

fn inputs(args: &PlanArgs) -> Inputs {
    let racks = args.racks.unwrap_or(3.min(args.nodes));
    let interval = args.interval.as_secs_f64();
    let rules = (args.keep_last, args.keep_daily);
    let kept = match rules {
        (None, None) => None,
        (last, days) => Some(kept_ages(last.unwrap_or(0), days.unwrap_or(0), interval)),
    };
    Inputs {
        bytes: args.bytes.as_u64() as f64,
        interval,
        new_fraction: args.new_fraction,
        nodes: args.nodes,
        racks,
        replicas: args.replicas,
        write_quorum: args.write_quorum,
        min_racks: args.min_racks.unwrap_or(2.min(racks).min(args.write_quorum)),
        disk: args.disk.as_u64() as f64,
        fill: args.fill,
        disk_rate: args.disk_rate,
        node_rate: args.nic,
        writers: args.writers,
        writer_rate: args.writer_nic.unwrap_or(args.nic),
        hash_rate: args.hash_rate,
        delay: args.delay.as_secs_f64(),
        grace: args.grace.as_secs_f64(),
        replace_after: args.replace_after.as_secs_f64(),
        catch_up_share: args.catch_up_share,
        kept,
    }
}

/// A rate in bytes a second: `100Gb`, `100Gbit/s` and `100Gbps` are bits, `12GB` and `12GB/s` bytes.
fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("expected a rate such as 100Gb or 12GB, got {text}");
    let name = text.trim().trim_end_matches("/s");
    let bits = ["bit", "bps", "b"].iter().find_map(|unit| name.strip_suffix(unit));
    let (number, per_byte) = match bits {
        Some(bits) => (format!("{bits}B"), 8.0),
        None => (name.to_owned(), 1.0),
    };
    // Without a unit it would be bytes a second, which nobody means.
    if number.ends_with(|end: char| end.is_ascii_digit()) {
        return Err(format!("{}: a unit is missing", wrong()));
    }
    let bytes: ByteSize = number.parse().map_err(|_| wrong())?;
    Ok(bytes.as_u64() as f64 / per_byte)
}

/// What comes of the inputs.
struct Plan {
    space: Space,
    put: Transfer,
    restore: Transfer,
    restore_each: Transfer,
    failures: Vec<(Failure, Option<Transfer>)>,
}

impl Plan {
    fn of(inputs: &Inputs) -> Self {
        let space = space(inputs);
        let again = |failure: Failure| {
            let lost = f64::from(inputs.nodes - failure.nodes_left) * space.fullest_node;
            // What cannot have all its replicas is not made whole.
            let can = failure.nodes_left >= inputs.replicas && failure.replicas_left > 0;
            let can = can && space.fits_on(failure.nodes_left);
            let transfer = catch_up(inputs, lost.min(space.stored), failure.nodes_left);
            (failure, transfer.filter(|_| can))
        };
        Self {
            put: put(inputs, &space),
            restore: restore(inputs, false),
            restore_each: restore(inputs, true),
            failures: failures(inputs).into_iter().map(again).collect(),
            space,
        }
    }

    fn keeps_up(&self, inputs: &Inputs) -> bool {
        self.put.seconds <= inputs.interval
    }

    fn document(&self, inputs: &Inputs) -> Document {
        let transfer = |it: &Transfer| TransferDocument {
            bytes: it.bytes as u64,
            seconds: rounded(it.seconds),
            limited_by: it.bottleneck(),
        };
        let space = &self.space;
        Document {
            fits: space.fits(),
            keeps_up: self.keeps_up(inputs),
            checkpoints: space.checkpoints,
            oldest_seconds: rounded(space.oldest),
            bytes_unique: space.unique as u64,
            bytes_stored: space.stored as u64,
            bytes_usable: space.usable as u64,
            bytes_fullest_node: space.fullest_node as u64,
            bytes_usable_node: space.usable_node as u64,
            newest_age_seconds_max: rounded(inputs.interval + self.put.seconds),
            put: transfer(&self.put),
            restore: transfer(&self.restore),
            restore_by_each: transfer(&self.restore_each),
            failures: self
                .failures
                .iter()
                .map(|(failure, again)| FailureDocument {
                    lost: failure.name,
                    replicas_left: failure.replicas_left,
                    fresh_replicas_left: failure.fresh_left,
                    commits_go_on: failure.writes,
                    catch_up: again.as_ref().map(transfer),
                })
                .collect(),
        }
    }

    fn text(&self, inputs: &Inputs) -> String {
        let space = &self.space;
        let size = |bytes_of: f64| bytes(bytes_of as u64);
        let mut text = format!("{}\n", self.space_line(inputs));
        if let Some(less) = self.less_line(inputs) {
            text += &format!("{less}\n");
        }
        text += &format!("{}\n\n", self.pace_line(inputs));
        let head = |cells: &[&str]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut rows = vec![head(&["SPACE", "BYTES", ""])];
        let row = |what: &str, count: f64, note: String| vec![what.to_owned(), size(count), note];
        let new = f64::from(inputs.replicas) * inputs.new_bytes();
        rows.push(row("stored by each checkpoint", new, format!("{} replicas", inputs.replicas)));
        rows.push(row("stored in all", space.stored, format!("of {}", size(space.usable))));
        rows.push(row(
            "on the fullest node",
            space.fullest_node,
            format!("of {}", size(space.usable_node)),
        ));
        text += &table(&rows);
        text.push('\n');

        let mut rows = vec![head(&["TRANSFER", "TAKES", "BYTES", "LIMITED BY"])];
        let mut row = |what: String, it: &Transfer| {
            rows.push(vec![what, time(it.seconds), size(it.bytes), it.bottleneck().to_owned()]);
        };
        row("put".to_owned(), &self.put);
        row("restore, once".to_owned(), &self.restore);
        row(format!("restore by each of {}", inputs.writers), &self.restore_each);
        for (failure, again) in &self.failures {
            if let Some(again) = again {
                row(format!("{} made again", failure.name), again);
            }
        }
        text += &table(&rows);
        text.push('\n');

        let mut rows = vec![head(&[
            "LOST",
            "REPLICAS LEFT",
            "OF A NEW COMMIT",
            "COMMITS GO ON",
            "WHOLE AGAIN IN",
        ])];
        for (failure, again) in &self.failures {
            rows.push(vec![
                failure.name.to_owned(),
                format!("{} of {}", failure.replicas_left, inputs.replicas),
                format!("{} of {}", failure.fresh_left, inputs.write_quorum),
                if failure.writes { "yes" } else { "no" }.to_owned(),
                again.as_ref().map_or("when replaced".to_owned(), |again| time(again.seconds)),
            ]);
        }
        text + &table(&rows)
    }

    fn space_line(&self, inputs: &Inputs) -> String {
        let space = &self.space;
        let (many, oldest) = (space.checkpoints, time(space.oldest));
        match (&inputs.kept, space.fits()) {
            (None, true) => format!("fits          {many} checkpoints; the oldest is {oldest} old"),
            (Some(_), true) => format!("fits          the {many} kept; the oldest is {oldest} old"),
            (None, false) => "does not fit  not even one checkpoint".to_owned(),
            (Some(_), false) => format!(
                "does not fit  the fullest node would hold {} of {}",
                bytes(space.fullest_node as u64),
                bytes(space.usable_node as u64)
            ),
        }
    }

    /// How many fit where lost replicas can be made again on the nodes that are left.
    fn less_line(&self, inputs: &Inputs) -> Option<String> {
        if inputs.kept.is_some() || !self.space.fits() {
            return None;
        }
        let (_, largest) = inputs.rack_sizes();
        // A small rack may be full before the others.
        let on = |nodes: u32| most_on(inputs, nodes).min(self.space.checkpoints);
        let node = on(inputs.nodes - 1);
        let rack = match largest {
            2.. => format!(", {} after a rack", on(inputs.nodes - largest)),
            _ => String::new(),
        };
        Some(format!("              {node} fit with all replicas after a node is lost{rack}"))
    }

    fn pace_line(&self, inputs: &Inputs) -> String {
        let (takes, every) = (time(self.put.seconds), time(inputs.interval));
        let share = self.put.seconds / inputs.interval * 100.0;
        let limit = self.put.bottleneck();
        let verdict = if self.keeps_up(inputs) { "keeps up " } else { "too slow " };
        format!(
            "{verdict}     a put takes {takes} of {every} ({share:.0} %)\n              \
             limited by {limit}"
        )
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

/// `9.4s`, `3m 8s`, `2h 5m`, `4d 3h`: two units at most.
fn time(seconds: f64) -> String {
    // Far beyond any plan, and within the integer.
    let whole = seconds.min(1e15).round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3_600 => format!("{minutes}m {}s", whole % 60),
        3_600..86_400 => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[derive(Serialize)]
struct Document {
    fits: bool,
    keeps_up: bool,
    checkpoints: u64,
    oldest_seconds: f64,
    bytes_unique: u64,
    bytes_stored: u64,
    bytes_usable: u64,
    bytes_fullest_node: u64,
    bytes_usable_node: u64,
    newest_age_seconds_max: f64,
    put: TransferDocument,
    restore: TransferDocument,
    restore_by_each: TransferDocument,
    failures: Vec<FailureDocument>,
}

#[derive(Serialize)]
struct TransferDocument {
    bytes: u64,
    seconds: f64,
    limited_by: &'static str,
}

#[derive(Serialize)]
struct FailureDocument {
    lost: &'static str,
    replicas_left: u32,
    fresh_replicas_left: u32,
    commits_go_on: bool,
    catch_up: Option<TransferDocument>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits_or_bytes() {
        assert_eq!(rate("100Gb"), Ok(12.5e9));
        assert_eq!(rate("100Gbit/s"), Ok(12.5e9));
        assert_eq!(rate("800Mbps"), Ok(100e6));
        assert_eq!(rate("2GB"), Ok(2e9));
        assert_eq!(rate("1GiB/s"), Ok((1u64 << 30) as f64));
        assert!(rate("fast").is_err());
        assert!(rate("100").is_err());
        assert!(rate("").is_err());
    }

    #[test]
    fn times_have_two_units() {
        assert_eq!(time(0.04), "0.0s");
        assert_eq!(time(9.44), "9.4s");
        assert_eq!(time(188.0), "3m 8s");
        assert_eq!(time(59.99), "1m 0s");
        assert_eq!(time(7_500.0), "2h 5m");
        assert_eq!(time(360_000.0), "4d 4h");
    }
}
