//! The configuration of an agent, checked. [`Config::read`] takes it from a file.

mod file;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{Links, Namespace, PolicyChange, VerifyLevel};
use globset::GlobMatcher;

use crate::drill::DrillPlan;
use crate::layout::Layout;
use crate::schedule::Schedule;
use crate::window::Windows;

/// Jobs of one agent: each costs a look at its directory per poll.
pub const JOBS_MAX: usize = 100;
/// Checkpoints that are put at the same time.
pub const PUTS_PARALLEL_MAX: usize = 16;

#[derive(Debug, Clone)]
pub struct Config {
    /// Holds the journal, the status and the lock; one agent per directory.
    pub state: PathBuf,
    pub poll: Duration,
    pub puts_parallel: usize,
    pub metrics_listen: Option<SocketAddr>,
    pub metrics_file: Option<PathBuf>,
    /// The first one whose windows are open holds.
    pub bandwidth: Vec<Bandwidth>,
    pub jobs: Vec<Arc<Job>>,
}

/// A limit on what all uploads of the agent send.
#[derive(Debug, Clone)]
pub struct Bandwidth {
    pub windows: Windows,
    pub bytes_per_second: NonZeroU64,
}

#[derive(Debug, Clone)]
pub struct Job {
    pub name: String,
    pub namespace: Namespace,
    pub kind: Kind,
    /// Puts begin only while one of them is open.
    pub windows: Windows,
    pub labels: BTreeMap<String, String>,
    pub policy: PolicyChange,
    /// Wait for all replicas after the commit, this long.
    pub wait_full: Option<Duration>,
    /// Takes the place of what is committed under a step that was written again.
    pub replace: bool,
    pub links: Links,
    /// Each with whether it is matched against whole names.
    pub exclude: Vec<(bool, GlobMatcher)>,
    pub hooks: Hooks,
    /// Tries in a row, before one an hour.
    pub tries: u32,
}

#[derive(Debug, Clone)]
pub enum Kind {
    Watch(Watch),
    Schedule(Scheduled),
}

/// Checkpoints that a program writes into a directory.
#[derive(Debug, Clone)]
pub struct Watch {
    pub directory: PathBuf,
    pub layout: Layout,
    /// Files that are in a finished checkpoint.
    pub required: Vec<Required>,
    pub quiet: Duration,
    /// How many of the stored ones stay on the local disk; `None` keeps all.
    pub keep_local: Option<u32>,
}

/// A file that is in a finished checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Required {
    pub name: String,
    /// It is written after all that is not required.
    pub is_last: bool,
}

/// What is done at set times.
#[derive(Debug, Clone)]
pub struct Scheduled {
    pub work: Work,
    pub schedule: Schedule,
}

#[derive(Debug, Clone)]
pub enum Work {
    /// Stores files.
    Store { paths: Vec<PathBuf> },
    /// Verifies the newest good checkpoint of the namespace.
    Verify { level: VerifyLevel },
    /// Restores the newest good checkpoint as if nodes were lost. `scratch` is made below it.
    Drill { plan: Box<DrillPlan>, scratch: PathBuf },
}

/// Commands before and after each put.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    pub before: Option<Vec<String>>,
    pub after: Option<Vec<String>>,
    pub timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{}: {error}", path.display())]
    Parse { path: PathBuf, error: Box<toml::de::Error> },
    #[error("{}: {place}: {problem}", path.display())]
    Value { path: PathBuf, place: String, problem: String },
}

impl Config {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(path, &text)
    }

    /// Of a file's text; `path` is for messages, and what relative paths are relative to.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: file::File = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            error: Box::new(error),
        })?;
        file.checked(path).map_err(|file::Problem { place, problem }| ConfigError::Value {
            path: path.to_owned(),
            place,
            problem,
        })
    }

    /// The limit that holds now.
    pub fn bytes_per_second(&self, wall_ms: u64) -> Option<NonZeroU64> {
        let open = self.bandwidth.iter().find(|limit| limit.windows.are_open(wall_ms));
        open.map(|limit| limit.bytes_per_second)
    }
}

impl Kind {
    /// `watch`, `schedule`, `verify` or `drill`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Watch(_) => "watch",
            Self::Schedule(Scheduled { work: Work::Store { .. }, .. }) => "schedule",
            Self::Schedule(Scheduled { work: Work::Verify { .. }, .. }) => "verify",
            Self::Schedule(Scheduled { work: Work::Drill { .. }, .. }) => "drill",
        }
    }
}

impl Job {
    /// Whether a file or directory is left out, by its name below the checkpoint.
    pub fn excludes(&self, name: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        self.exclude.iter().any(|(whole, matcher)| {
            let name = if *whole { name } else { last };
            matcher.is_match(Path::new(std::ffi::OsStr::from_bytes(name)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/cairn/agent.toml"), text)
    }

    const WATCH: &str = "[[job]]\nname = 'j'\nnamespace = 'n'\nwatch = '/w'\nlayout = 'dcp'\n";

    #[test]
    fn a_short_configuration_has_the_defaults() {
        let config = parse(&format!("state = 'state'\n{WATCH}")).unwrap();
        assert_eq!(config.state, Path::new("/etc/cairn/state"), "relative to the file");
        assert_eq!((config.poll, config.puts_parallel), (Duration::from_secs(10), 2));
        let Kind::Watch(watch) = &config.jobs[0].kind else { panic!("not a watch") };
        assert_eq!(watch.directory, Path::new("/w"));
        assert_eq!((watch.quiet, watch.keep_local), (Duration::from_secs(10), None));
        let metadata = Required { name: ".metadata".to_owned(), is_last: true };
        assert_eq!(watch.required, [metadata]);
        assert_eq!(config.bytes_per_second(0), None);
    }

    #[test]
    fn the_sample_configuration_is_good() {
        let text = include_str!("../../../../deploy/cairn-agent.toml");
        let config = parse(text).unwrap();
        assert_eq!(config.jobs.len(), 4);
        // And so are the keys that it only names: each takes its place, or is new.
        let is_key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let mut count = 0;
        for key in text.lines().filter_map(|line| line.strip_prefix("# ")).filter(|it| is_key(it)) {
            let line = format!("# {key}");
            let all = text.replacen(&line, key, 1);
            parse(&all).unwrap_or_else(|error| panic!("{key}: {error}"));
            count += 1;
        }
        assert!(count > 8, "{count}");
    }

    #[test]
    fn the_first_open_limit_holds() {
        let limits = "[[bandwidth]]\nwindows = ['08:00-20:00']\nrate = '100MiB'\n\
                      [[bandwidth]]\nrate = '1GiB'\n";
        let config = parse(&format!("state = 's'\n{limits}{WATCH}")).unwrap();
        let at = |hour: u64| config.bytes_per_second(hour * 3_600_000).map(u64::from);
        assert_eq!((at(7), at(8), at(20)), (Some(1 << 30), Some(100 << 20), Some(1 << 30)));
    }

    const DRILL: &str = "drill = '/tmp'\nevery = '1h'";

    #[test]
    fn mistakes_are_named_with_their_place() {
        let schedule = "[[job]]\nname = 'j'\nnamespace = 'n'\npaths = ['/p']\n";
        let table = [
            (format!("state = 's'\nstats = 1\n{WATCH}"), "unknown field `stats`"),
            ("state = 's'".to_owned(), "expected 1 to 100 jobs, got 0"),
            (format!("state = 's'\n{WATCH}{WATCH}"), "another job has this name"),
            (
                format!("state = 's'\n{WATCH}{}", WATCH.replace("'j'", "'k'")),
                "watches the same directory",
            ),
            (format!("state = 's'\nmetrics_listen = '0.0.0.0:9'\n{WATCH}"), "not a loopback"),
            (format!("state = 's'\npoll = 'soon'\n{WATCH}"), "poll: malformed time"),
            (format!("state = 's'\ntime_zone = 'Mars'\n{WATCH}"), "unknown time zone"),
            (format!("state = 's'\n{WATCH}keep_local = 0\n"), "keep_local: expected 1 or more"),
            (format!("state = 's'\n{WATCH}cron = '* * * * *'\n"), "cron: a job that watches"),
            (format!("state = 's'\n{WATCH}marker = 'a/b'\n"), "marker: expected the name"),
            (format!("state = 's'\n{WATCH}windows = ['8-20']\n"), "malformed window"),
            (format!("state = 's'\n{WATCH}before = []\n"), "before: expected a program"),
            (format!("state = 's'\n{WATCH}exclude = ['[']\n"), "exclude"),
            (
                format!("state = 's'\n{WATCH}labels = {{ 'cairn.agent.job' = 'x' }}\n"),
                "are the agent's own",
            ),
            (format!("state = 's'\n{schedule}"), "expected one of `watch`, `cron` and `every`"),
            (format!("state = 's'\n{schedule}cron = '61 * * * *'\n"), "malformed cron expression"),
            (format!("state = 's'\n{schedule}every = '1ms'\n"), "the shortest interval"),
            (
                format!("state = 's'\n{schedule}every = '1h'\nverify = 'all'\n"),
                "unknown variant `all`",
            ),
            (
                format!("state = 's'\n{schedule}every = '1h'\nverify = 'replicas'\n"),
                "one of `paths`",
            ),
            (format!("state = 's'\n{schedule}every = '1h'\nlose = ['rack=a']\n"), "only a drill"),
            (
                format!("state = 's'\n{}lose = ['a']\n", schedule.replace("paths = ['/p']", DRILL)),
                "expected rack=NAME",
            ),
            (format!("state = 's'\n{schedule}every = '1h'\nquiet = '1s'\n"), "only a job with"),
            (
                format!("state = 's'\npoll = '9223372036854775807s'\n{WATCH}"),
                "poll: expected at most",
            ),
            (format!("state = 's'\npoll = '2d'\n{WATCH}"), "poll: expected at most 1day"),
            (format!("state = 's'\n{WATCH}quiet = '10y'\n"), "quiet: expected at most"),
            (format!("state = 's'\n{WATCH}hook_timeout = '0s'\n"), "hook_timeout: expected more"),
            (
                format!("state = 's'\n{WATCH}replicas = 2\nwrite_quorum = 9\n"),
                "write_quorum: expected 1 to 2, got 9",
            ),
            (format!("state = 's'\n{WATCH}replicas = 0\n"), "replicas: expected 1 to 7, got 0"),
            (
                format!("state = 's'\n{WATCH}labels = {{ a = \"x\\n\" }}\n"),
                "at most 255 bytes, none of control",
            ),
            (
                format!("state = 's'\n{schedule}every = '1h'\njitter = '1h'\n"),
                "jitter: expected less than",
            ),
            (
                format!("state = 's'\n[[bandwidth]]\nrate = '1kB'\n{WATCH}"),
                "the least rate is 1.0 MiB a second",
            ),
        ];
        for (text, wanted) in table {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{wanted:?} is not in {error:?}");
            assert!(error.starts_with("/etc/cairn/agent.toml: "), "{error}");
        }
    }
}
