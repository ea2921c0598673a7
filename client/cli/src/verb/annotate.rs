//! `cairn annotate`

use std::collections::BTreeMap;

use cairn_client::Annotation;
use cairn_types::model::{CheckpointInfo, Metric};
use clap::Args;

use super::ls::CheckpointRecord;
use super::put::parse_labels;
use crate::address;
use crate::exit::{Exit, Failure, Outcome};
use crate::foreign;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct AnnotateArgs {
    /// NAMESPACE@SELECTOR, such as run1@1000 (`cairn help selectors`)
    address: String,
    /// Label to set; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Metric to set, such as loss=2.31; may be repeated
    #[arg(long = "metric", value_name = "NAME=NUMBER")]
    metrics: Vec<String>,
    /// Label or metric to remove, before others are set; may be repeated
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
}

pub fn run(session: &Session, args: AnnotateArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    let change = Annotation {
        labels: parse_labels(&args.labels)?,
        metrics: parse_metrics(&args.metrics)?,
        remove: args.remove,
    };
    if change == Annotation::default() {
        return Err(Failure::usage("nothing to change")
            .with_hint("give --label KEY=VALUE, --metric NAME=NUMBER or --remove NAME"));
    }
    let info = session
        .with_client_about(&address, async |client| client.annotate(&address, change).await)?;
    session.output.result(&CheckpointRecord::new(&info), || text(&info))?;
    Ok(Exit::Ok)
}

fn parse_metrics(metrics: &[String]) -> Result<BTreeMap<String, Metric>, Failure> {
    let mut parsed = BTreeMap::new();
    for text in metrics {
        let malformed = || {
            Failure::usage(format!(
                "malformed metric {text:?}: expected NAME=NUMBER, a finite number"
            ))
        };
        let (name, value) =
            text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(malformed)?;
        let value = value.parse().ok().and_then(Metric::new).ok_or_else(malformed)?;
        if parsed.insert(name.to_owned(), value).is_some_and(|before| before != value) {
            return Err(Failure::usage(format!("metric {name} is given twice")));
        }
    }
    Ok(parsed)
}

fn text(info: &CheckpointInfo) -> String {
    format!("{}@{}\n{}", info.namespace, info.step, annotations(info))
}

/// A line for each label and metric.
pub fn annotations(info: &CheckpointInfo) -> String {
    let labels = info
        .labels
        .iter()
        .map(|(key, value)| format!("label {}={}\n", foreign::text(key), foreign::text(value)));
    let metrics = info.metrics.iter();
    let metrics = metrics
        .map(|(name, metric)| format!("metric {}={}\n", foreign::text(name), metric.value()));
    labels.chain(metrics).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_finite_numbers() {
        let parse = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            parse_metrics(&texts)
        };
        let parsed = parse(&["loss=2.5", "steps=1e6"]).unwrap();
        assert_eq!(parsed["loss"], Metric::new(2.5).unwrap());
        assert_eq!(parsed["steps"].value(), 1_000_000.0);
        for bad in ["loss", "=1", "loss=", "loss=NaN", "loss=inf", "loss=2,5"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
        assert!(parse(&["loss=1", "loss=2"]).is_err());
    }
}
