//! How training programs lay out their checkpoints: which names are checkpoints, of which step,
//! and what is there once one is finished.
//!
//! | layout | a checkpoint | finished when |
//! |---|---|---|
//! | `hf-trainer` | `checkpoint-N/` | `trainer_state.json` is in it, and nothing has changed for a while: other ranks write their random state after it |
//! | `lightning` | `epoch=E-step=N.ckpt`, with metrics and a version (`-v1`) or without, a file or a directory | nothing has changed for a while: it is written in place |
//! | `deepspeed` | `global_stepN/` | `latest` beside it names it or a later one |
//! | `megatron` | `iter_NNNNNNN/` | `latest_checkpointed_iteration.txt` beside it names it or a later one |
//! | `dcp` | `step-N/`, `step_N/` or `N/` | `.metadata` is in it, which is renamed into place last |
//! | a pattern | `{step}` stands for the number | as the configuration says |
//!
//! In all of them the list of files, with sizes and times, must stay as it is for the quiet time.

use std::str::FromStr;

/// How checkpoints are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    HfTrainer,
    Lightning,
    DeepSpeed,
    Megatron,
    Dcp,
    /// What stands before and after the number.
    Pattern {
        before: String,
        after: String,
    },
}

/// A file beside the checkpoints that names the newest finished one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    pub file: &'static str,
    /// Before the number in that file.
    before: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedLayout {
    #[error(
        "unknown layout {0:?}: expected hf-trainer, lightning, deepspeed, megatron, dcp, or a pattern with {{step}}, like run-{{step}}"
    )]
    Unknown(String),
    #[error("malformed pattern {0:?}: expected one name with {{step}} once, like run-{{step}}")]
    Pattern(String),
}

impl FromStr for Layout {
    type Err = MalformedLayout;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "hf-trainer" => Self::HfTrainer,
            "lightning" => Self::Lightning,
            "deepspeed" => Self::DeepSpeed,
            "megatron" => Self::Megatron,
            "dcp" => Self::Dcp,
            other => {
                let Some((before, after)) = other.split_once("{step}") else {
                    return Err(MalformedLayout::Unknown(other.to_owned()));
                };
                let digits = |text: &str| text.contains(|c: char| c.is_ascii_digit());
                // Digits beside the number would be taken for a part of it.
                if other.contains('/')
                    || after.contains("{step}")
                    || before.ends_with(|c: char| c.is_ascii_digit())
                    || digits(&after.chars().take(1).collect::<String>())
                {
                    return Err(MalformedLayout::Pattern(other.to_owned()));
                }
                Self::Pattern { before: before.to_owned(), after: after.to_owned() }
            }
        })
    }
}

/// Before names that this agent gives to what it is about to remove.
pub const OWN_PREFIX: &str = ".cairn-agent-";

impl Layout {
    /// The step of an entry of the watched directory, by its name; `None` if it is no checkpoint.
    pub fn step(&self, name: &str) -> Option<u64> {
        if name.starts_with(OWN_PREFIX) {
            return None;
        }
        match self {
            Self::HfTrainer => number(name.strip_prefix("checkpoint-")?),
            Self::Lightning => {
                let stem = name.strip_suffix(".ckpt")?;
                let (_, step) = stem.rsplit_once("step=")?;
                // A version may follow, of the same step.
                let step = versioned(step).map_or(step, |(rest, _)| rest);
                // And metrics: step=1200-val_loss=0.30.
                match step.split_once('-') {
                    Some((step, metrics)) if metrics.contains('=') => number(step),
                    Some(_) => None,
                    None => number(step),
                }
            }
            Self::DeepSpeed => number(name.strip_prefix("global_step")?),
            Self::Megatron => number(name.strip_prefix("iter_")?),
            Self::Dcp => {
                let step = ["step-", "step_"].iter().find_map(|it| name.strip_prefix(it));
                number(step.unwrap_or(name))
            }
            Self::Pattern { before, after } => {
                number(name.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?)
            }
        }
    }

    /// Of names of one step, the one with the lowest version counts, which was written first: a program
    /// adds `-v1` where a file of the name is there already.
    pub fn version(&self, name: &str) -> u64 {
        match self {
            Self::Lightning => {
                let stem = name.strip_suffix(".ckpt").unwrap_or(name);
                versioned(stem).map_or(0, |(_, version)| version)
            }
            _ => 0,
        }
    }

    /// Files that are in a finished checkpoint, each with whether it is written after all others.
    pub fn required(&self) -> &'static [(&'static str, bool)] {
        match self {
            Self::HfTrainer => &[("trainer_state.json", false)],
            Self::Dcp => &[(".metadata", true)],
            _ => &[],
        }
    }

    pub fn pointer(&self) -> Option<Pointer> {
        match self {
            Self::DeepSpeed => Some(Pointer { file: "latest", before: "global_step" }),
            Self::Megatron => {
                Some(Pointer { file: "latest_checkpointed_iteration.txt", before: "" })
            }
            _ => None,
        }
    }

    /// The file in a checkpoint, and the key in it, that name the best checkpoint so far.
    pub fn best(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::HfTrainer => Some(("trainer_state.json", "best_model_checkpoint")),
            _ => None,
        }
    }

    /// Whether a name without a step is so near to the layout's that a person should hear of it.
    pub fn is_nearly(&self, name: &str) -> bool {
        match self {
            Self::Lightning => name.ends_with(".ckpt") && !name.starts_with("last"),
            _ => false,
        }
    }

    /// How long nothing may have changed, where the configuration does not say.
    pub fn quiet_seconds(&self) -> u64 {
        match self {
            // Nothing else tells the end of the writing.
            Self::Lightning | Self::Pattern { .. } => 60,
            Self::HfTrainer => 30,
            Self::DeepSpeed | Self::Megatron | Self::Dcp => 10,
        }
    }
}

impl Pointer {
    /// The step in the text of the file.
    pub fn step(self, text: &str) -> Option<u64> {
        number(text.trim().strip_prefix(self.before)?)
    }
}

/// What stands before `-vN`, and the number.
fn versioned(text: &str) -> Option<(&str, u64)> {
    let (rest, version) = text.rsplit_once("-v")?;
    Some((rest, number(version)?))
}

/// Decimal digits only: `-5`, `+5` and `5-tmp` are no steps.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_layout_have_their_steps() {
        type Names = &'static [(&'static str, Option<u64>)];
        let table: [(&str, Names); 7] = [
            (
                "hf-trainer",
                &[
                    ("checkpoint-500", Some(500)),
                    ("tmp-checkpoint-500", None),
                    ("checkpoint-500.tmp", None),
                    ("checkpoint-", None),
                    ("runs", None),
                    (".cairn-agent-trash-checkpoint-500", None),
                ],
            ),
            (
                "lightning",
                &[
                    ("epoch=3-step=1200.ckpt", Some(1200)),
                    ("model-step=7.ckpt", Some(7)),
                    ("last.ckpt", None),
                    ("epoch=3-step=1200-val_loss=0.30.ckpt", Some(1200)),
                    ("step=1200-epoch=3-val-loss=-0.30.ckpt", Some(1200)),
                    ("epoch=3-step=1200-v1.ckpt", Some(1200)),
                    ("epoch=3-step=1200-val_loss=0.30-v12.ckpt", Some(1200)),
                    ("epoch=3-step=1200-v.ckpt", None),
                    ("epoch=3-step=1200-vx.ckpt", None),
                    ("epoch=3-step=1200.ckpt.tmp", None),
                ],
            ),
            ("deepspeed", &[("global_step10", Some(10)), ("latest", None), ("global_step", None)]),
            (
                "megatron",
                &[
                    ("iter_0000100", Some(100)),
                    ("release", None),
                    ("latest_checkpointed_iteration.txt", None),
                ],
            ),
            (
                "dcp",
                &[
                    ("step-10", Some(10)),
                    ("step_10", Some(10)),
                    ("10", Some(10)),
                    ("step-10.tmp", None),
                    ("step--1", None),
                ],
            ),
            ("run-{step}", &[("run-4", Some(4)), ("run-4.tmp", None), ("run-x", None)]),
            ("m{step}.pt", &[("m4.pt", Some(4)), ("m99999999999999999999.pt", None)]),
        ];
        for (layout, names) in table {
            let parsed: Layout = layout.parse().unwrap();
            for (name, step) in names {
                assert_eq!(parsed.step(name), *step, "{layout} {name}");
            }
        }
    }

    #[test]
    fn the_name_without_a_version_comes_first() {
        let names = ["step=1.ckpt", "step=1-v1.ckpt", "step=1-v2.ckpt", "step=1-v10.ckpt"];
        let versions = names.map(|name| Layout::Lightning.version(name));
        assert_eq!(versions, [0, 1, 2, 10]);
        assert_eq!(Layout::Dcp.version("step-1-v7"), 0);
    }

    #[test]
    fn names_that_are_nearly_those_of_a_layout_are_known_as_such() {
        for (name, is_nearly) in [
            ("epoch=3-step=1200-v1-best.ckpt", true),
            ("best.ckpt", true),
            ("last.ckpt", false),
            ("last-v1.ckpt", false),
            ("hparams.yaml", false),
        ] {
            assert_eq!(Layout::Lightning.is_nearly(name), is_nearly, "{name}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in ["", "huggingface", "a/{step}", "{step}{step}", "v2{step}", "{step}0"] {
            assert!(text.parse::<Layout>().is_err(), "{text}");
        }
    }

    #[test]
    fn pointers_name_a_step_or_nothing() {
        let deepspeed = Layout::DeepSpeed.pointer().unwrap();
        assert_eq!(deepspeed.step("global_step40\n"), Some(40));
        assert_eq!(deepspeed.step("global_st"), None, "half written");
        let megatron = Layout::Megatron.pointer().unwrap();
        assert_eq!(megatron.step("100"), Some(100));
        assert_eq!(megatron.step("release"), None);
    }
}
