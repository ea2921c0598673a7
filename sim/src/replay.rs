//! The input that reproduces a run: scenario, seed, changed plan parameters, masked faults.
//!
//! As text it has one word and its value per line, up to the first empty line. `#` begins a remark.
//! A trace file begins with it, and `sim minimize` writes one:
//!
//! ```text
//! scenario mix
//! seed 7
//! set nodes=4
//! mask 3,7,9-20
//! breaks D2
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// Ordinals of faults that do not happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mask(BTreeSet<u32>);

/// The caller's changes to the values from the seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Plan parameters by name.
    pub set: BTreeMap<String, u64>,
    pub mask: Mask,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub scenario: String,
    pub seed: u64,
    pub tuning: Tuning,
    /// The invariant this run is known to break.
    pub breaks: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("line {line}: {text:?} is not one of scenario, seed, set, mask, breaks and its value")]
    Line { line: usize, text: String },
    #[error("line {line}: {error}")]
    Value { line: usize, error: String },
    #[error("no line says {0}")]
    Lacks(&'static str),
}

/// Most ordinals in one item of a mask, so that a typing error does not fill memory.
const RANGE_MAX: u32 = 100_000;

impl Mask {
    pub fn hides(&self, ordinal: u32) -> bool {
        self.0.contains(&ordinal)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<u32> for Mask {
    fn from_iter<T: IntoIterator<Item = u32>>(ordinals: T) -> Self {
        Self(ordinals.into_iter().collect())
    }
}

impl FromStr for Mask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || format!("mask {text:?} is not like 3,7,9-20");
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| hint());
        let mut ordinals = BTreeSet::new();
        for item in text.split(',') {
            let (first, last) = match item.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(item)?, number(item)?),
            };
            if first > last || last - first > RANGE_MAX {
                return Err(hint());
            }
            ordinals.extend(first..=last);
        }
        Ok(Self(ordinals))
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for ordinal in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *ordinal => *last = *ordinal,
                _ => ranges.push((*ordinal, *ordinal)),
            }
        }
        let texts = ranges.into_iter().map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        });
        f.write_str(&texts.collect::<Vec<_>>().join(","))
    }
}

/// `name=value` of a plan parameter.
pub fn parse_set(text: &str) -> Result<(String, u64), String> {
    let parsed = text.split_once('=').and_then(|(name, value)| {
        Some((name.trim().to_owned(), value.trim().parse::<u64>().ok()?))
    });
    parsed.ok_or_else(|| format!("{text:?} is not like nodes=4"))
}

impl Replay {
    pub fn new(scenario: &str, seed: u64, tuning: Tuning) -> Self {
        Self { scenario: scenario.to_owned(), seed, tuning, breaks: None }
    }

    /// The command that reproduces the run.
    pub fn command(&self) -> String {
        let mut line = format!("sim run --scenario {} --seed {}", self.scenario, self.seed);
        for (name, value) in &self.tuning.set {
            line.push_str(&format!(" --set {name}={value}"));
        }
        if !self.tuning.mask.is_empty() {
            line.push_str(&format!(" --mask {}", self.tuning.mask));
        }
        line
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "scenario {}\nseed {}", self.scenario, self.seed)?;
        for (name, value) in &self.tuning.set {
            writeln!(f, "set {name}={value}")?;
        }
        if !self.tuning.mask.is_empty() {
            writeln!(f, "mask {}", self.tuning.mask)?;
        }
        match &self.breaks {
            Some(invariant) => writeln!(f, "breaks {invariant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Replay {
    type Err = ReplayError;

    fn from_str(text: &str) -> Result<Self, ReplayError> {
        let (mut scenario, mut seed, mut breaks) = (None, None, None);
        let mut tuning = Tuning::default();
        for (place, text) in text.lines().enumerate() {
            let (line, text) = (place + 1, text.trim());
            if text.is_empty() {
                break;
            }
            if text.starts_with('#') {
                continue;
            }
            let bad = || ReplayError::Line { line, text: text.chars().take(80).collect() };
            let wrong = |error: String| ReplayError::Value { line, error };
            let (word, value) = text.split_once(' ').ok_or_else(bad)?;
            match word {
                "scenario" => scenario = Some(value.to_owned()),
                "seed" => {
                    let parsed = value.parse().map_err(|_| wrong(format!("seed {value:?}")))?;
                    seed = Some(parsed);
                }
                "set" => {
                    let (name, value) = parse_set(value).map_err(wrong)?;
                    tuning.set.insert(name, value);
                }
                "mask" => tuning.mask = value.parse().map_err(wrong)?,
                "breaks" => breaks = Some(value.to_owned()),
                _ => return Err(bad()),
            }
        }
        let scenario = scenario.ok_or(ReplayError::Lacks("scenario"))?;
        let seed = seed.ok_or(ReplayError::Lacks("seed"))?;
        Ok(Self { scenario, seed, tuning, breaks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_reads_what_it_wrote_and_stops_at_the_trace() {
        let mut replay = Replay::new("mix", 7, Tuning::default());
        replay.tuning.set.insert("nodes".to_owned(), 4);
        replay.tuning.mask = "3,7,9-20,10".parse().unwrap();
        replay.breaks = Some("D2".to_owned());
        assert_eq!(replay.tuning.mask.to_string(), "3,7,9-20");
        let text = format!("{replay}# plan nodes=4\n\n0.000 | n1 | start | p1 life 1\n");
        assert_eq!(text.parse(), Ok(replay.clone()));
        let line = "sim run --scenario mix --seed 7 --set nodes=4 --mask 3,7,9-20";
        assert_eq!(replay.command(), line);
    }

    #[test]
    fn mask_hides_what_it_names() {
        let mask: Mask = "1,4-6".parse().unwrap();
        let hidden: Vec<u32> = (0..9).filter(|ordinal| mask.hides(*ordinal)).collect();
        assert_eq!(hidden, [1, 4, 5, 6]);
        for wrong in ["", "a", "3-", "9-3", "1,,2", "0-4000000000"] {
            assert!(wrong.parse::<Mask>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn replay_says_which_line_is_wrong() {
        let error = |text: &str| text.parse::<Replay>().unwrap_err().to_string();
        assert_eq!(error("scenario mix\n"), "no line says seed");
        assert_eq!(error("seed 7\n\nscenario mix"), "no line says scenario");
        assert!(error("scenario mix\nseed x\n").starts_with("line 2: seed"));
        assert!(error("scenario mix\nseed 7\nmask 3-\n").starts_with("line 3: mask"));
        assert!(error("seed 7\nset nodes\n").starts_with("line 2: \"nodes\""));
        assert!(error("12.3 | n1 | call | #1\n").starts_with("line 1:"));
    }
}
