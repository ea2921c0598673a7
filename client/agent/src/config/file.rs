//! The configuration as it is written in TOML, and what is checked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use cairn_client::{Address, Isolation, Links, PolicyChange, Rate, Selector, VerifyLevel};
use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;

use super::{
    Bandwidth, Config, Hooks, JOBS_MAX, Job, Kind, PUTS_PARALLEL_MAX, Required, Scheduled, Watch,
    Work,
};
use crate::drill::{self, DrillPlan};
use crate::layout::Layout;
use crate::schedule::{Missed, Rhythm, Schedule};
use crate::window::Windows;
use crate::zone::Zone;

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Problem {
    pub place: String,
    pub problem: String,
}

type Checked<T> = Result<T, Problem>;

fn problem<T>(place: impl Into<String>, problem: impl ToString) -> Checked<T> {
    Err(Problem { place: place.into(), problem: problem.to_string() })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    state: PathBuf,
    poll: Option<String>,
    puts_parallel: Option<usize>,
    time_zone: Option<String>,
    metrics_listen: Option<SocketAddr>,
    metrics_file: Option<PathBuf>,
    #[serde(default)]
    bandwidth: Vec<BandwidthFile>,
    #[serde(default)]
    job: Vec<JobFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BandwidthFile {
    #[serde(default)]
    windows: Vec<String>,
    rate: ByteSize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JobFile {
    name: String,
    namespace: String,
    // Of a watch.
    watch: Option<PathBuf>,
    layout: Option<String>,
    marker: Option<String>,
    quiet: Option<String>,
    keep_local: Option<u32>,
    // Of a schedule.
    #[serde(default)]
    paths: Vec<PathBuf>,
    cron: Option<String>,
    every: Option<String>,
    jitter: Option<String>,
    missed: Option<MissedFile>,
    verify: Option<LevelFile>,
    // Where a drill restores.
    drill: Option<PathBuf>,
    #[serde(default)]
    lose: Vec<String>,
    check: Option<Vec<String>>,
    // Of both.
    time_zone: Option<String>,
    #[serde(default)]
    windows: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    replicas: Option<u32>,
    write_quorum: Option<u32>,
    min_racks: Option<u32>,
    isolation: Option<IsolationFile>,
    wait_full: Option<String>,
    #[serde(default)]
    replace: bool,
    links: Option<LinksFile>,
    #[serde(default)]
    exclude: Vec<String>,
    before: Option<Vec<String>>,
    after: Option<Vec<String>>,
    hook_timeout: Option<String>,
    tries: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum MissedFile {
    Run,
    Skip,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LevelFile {
    Metadata,
    Replicas,
    Restore,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum IsolationFile {
    Hard,
    Soft,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LinksFile {
    Refuse,
    Skip,
    Follow,
}

/// Labels that the agent sets itself begin with this.
const OWN_LABELS: &str = "cairn.agent";
/// As the cluster bounds them; the agent's own labels have the rest of its 32.
const LABELS_MAX: usize = 24;
const LABEL_BYTES_MAX: usize = 255;
const REPLICAS_MAX: u32 = 7;
/// Of each time in the file: a longer one is a mistake.
const TIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Of `poll`: what is due wakes the agent by itself, new files do not.
const POLL_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest name of a job: it is part of a label.
const NAME_BYTES_MAX: usize = 64;

impl File {
    pub fn checked(self, path: &Path) -> Checked<Config> {
        let base = path.parent().unwrap_or(Path::new("."));
        let zone = zone("time_zone", self.time_zone.as_deref(), &Zone::utc())?;
        if let Some(listen) = self.metrics_listen.filter(|listen| !listen.ip().is_loopback()) {
            return problem("metrics_listen", format!("{listen} is not a loopback address"));
        }
        let puts_parallel = self.puts_parallel.unwrap_or(2);
        if !(1..=PUTS_PARALLEL_MAX).contains(&puts_parallel) {
            let text = format!("expected 1 to {PUTS_PARALLEL_MAX}, got {puts_parallel}");
            return problem("puts_parallel", text);
        }
        if self.job.is_empty() || self.job.len() > JOBS_MAX {
            let text = format!("expected 1 to {JOBS_MAX} jobs, got {}", self.job.len());
            return problem("job", text);
        }
        let mut names = BTreeSet::new();
        let mut jobs = Vec::new();
        for job in self.job {
            let place = format!("job {:?}", job.name);
            if !names.insert(job.name.clone()) {
                return problem(place, "another job has this name");
            }
            jobs.push(Arc::new(job.checked(base, &zone)?));
        }
        two_of_one_directory(&jobs)?;
        let limit = |limit: &BandwidthFile| {
            let place = "bandwidth";
            let rate = limit.rate.as_u64();
            let bytes_per_second = match NonZeroU64::new(rate).filter(|_| rate >= Rate::MIN) {
                Some(rate) => rate,
                None => {
                    let least = ByteSize::b(Rate::MIN).display().iec();
                    return problem(place, format!("the least rate is {least} a second"));
                }
            };
            Ok(Bandwidth { windows: windows(place, &limit.windows, &zone)?, bytes_per_second })
        };
        let poll = time("poll", self.poll.as_deref(), Duration::from_secs(10))?;
        if poll > POLL_MAX {
            return problem("poll", "expected at most 1day");
        }
        Ok(Config {
            state: base.join(self.state),
            poll: poll.max(Duration::from_millis(50)),
            puts_parallel,
            metrics_listen: self.metrics_listen,
            metrics_file: self.metrics_file.map(|file| base.join(file)),
            bandwidth: self.bandwidth.iter().map(limit).collect::<Checked<_>>()?,
            jobs,
        })
    }
}

/// Two jobs that remove local files must not share a directory: neither knows what the other keeps.
fn two_of_one_directory(jobs: &[Arc<Job>]) -> Checked<()> {
    let mut seen: BTreeMap<&Path, &str> = BTreeMap::new();
    for job in jobs {
        let Kind::Watch(watch) = &job.kind else { continue };
        if let Some(other) = seen.insert(&watch.directory, &job.name) {
            let text = format!("job {other:?} watches the same directory");
            return problem(format!("job {:?}", job.name), text);
        }
    }
    Ok(())
}

impl JobFile {
    fn checked(self, base: &Path, zone_of_all: &Zone) -> Checked<Job> {
        let place = format!("job {:?}", self.name);
        let at = |key: &str| format!("{place}, {key}");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty()
            || self.name.len() > NAME_BYTES_MAX
            || !self.name.chars().all(is_plain)
        {
            let text = format!("expected 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'");
            return problem(at("name"), text);
        }
        let namespace = parsed(&at("namespace"), &self.namespace)?;
        let zone = zone(&at("time_zone"), self.time_zone.as_deref(), zone_of_all)?;
        if let Some(label) = self.labels.keys().find(|label| label.starts_with(OWN_LABELS)) {
            let text =
                format!("{label:?}: labels that begin with {OWN_LABELS} are the agent's own");
            return problem(at("labels"), text);
        }
        for (key, command) in [("before", &self.before), ("after", &self.after)] {
            if command.as_ref().is_some_and(Vec::is_empty) {
                return problem(at(key), "expected a program and its arguments");
            }
        }
        self.check_terms(&place)?;
        let tries = self.tries.unwrap_or(10);
        if tries == 0 {
            return problem(at("tries"), "expected 1 or more");
        }
        let hook_timeout =
            time(&at("hook_timeout"), self.hook_timeout.as_deref(), Duration::from_secs(300))?;
        if hook_timeout.is_zero() {
            return problem(at("hook_timeout"), "expected more than 0s");
        }
        let wait_full = self.wait_full.as_deref();
        let wait_full =
            wait_full.map(|text| time(&at("wait_full"), Some(text), Duration::ZERO)).transpose()?;
        let windows = windows(&at("windows"), &self.windows, &zone)?;
        let kind = self.kind(base, &place)?;
        if let Kind::Schedule(scheduled) = &kind
            && !scheduled.schedule.has_room_for_jitter(&windows)
        {
            return problem(at("jitter"), "expected less than the time from one run to the next");
        }
        Ok(Job {
            kind,
            windows,
            policy: PolicyChange {
                replicas: self.replicas,
                write_quorum: self.write_quorum,
                min_racks: self.min_racks,
                isolation: self.isolation.map(|it| match it {
                    IsolationFile::Hard => Isolation::Hard,
                    IsolationFile::Soft => Isolation::Soft,
                }),
                keep_last: None,
            },
            links: match self.links.unwrap_or(LinksFile::Refuse) {
                LinksFile::Refuse => Links::Refuse,
                LinksFile::Skip => Links::Skip,
                LinksFile::Follow => Links::Follow,
            },
            exclude: globs(&at("exclude"), &self.exclude)?,
            hooks: Hooks { before: self.before, after: self.after, timeout: hook_timeout },
            name: self.name,
            namespace,
            labels: self.labels,
            wait_full,
            replace: self.replace,
            tries,
        })
    }

    /// What the cluster would refuse at each put.
    fn check_terms(&self, place: &str) -> Checked<()> {
        let at = |key: &str| format!("{place}, {key}");
        if self.labels.len() > LABELS_MAX {
            let text = format!("expected at most {LABELS_MAX}, got {}", self.labels.len());
            return problem(at("labels"), text);
        }
        let is_bad =
            |text: &str| text.len() > LABEL_BYTES_MAX || text.contains(|c: char| c.is_control());
        let bad =
            self.labels.iter().find(|(key, value)| key.is_empty() || is_bad(key) || is_bad(value));
        if let Some((key, _)) = bad {
            let text = format!("{key:?}: at most {LABEL_BYTES_MAX} bytes, none of control");
            return problem(at("labels"), text);
        }
        let most = self.replicas.unwrap_or(REPLICAS_MAX);
        for (key, value, most) in [
            ("replicas", self.replicas, REPLICAS_MAX),
            ("write_quorum", self.write_quorum, most),
            ("min_racks", self.min_racks, most),
        ] {
            if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
                return problem(at(key), format!("expected 1 to {most}, got {value}"));
            }
        }
        Ok(())
    }

    fn kind(&self, base: &Path, place: &str) -> Checked<Kind> {
        let at = |key: &str| format!("{place}, {key}");
        let Some(directory) = &self.watch else { return self.scheduled(base, place) };
        let of_schedules = [
            ("paths", !self.paths.is_empty()),
            ("cron", self.cron.is_some()),
            ("every", self.every.is_some()),
            ("jitter", self.jitter.is_some()),
            ("missed", self.missed.is_some()),
            ("verify", self.verify.is_some()),
            ("drill", self.drill.is_some()),
        ];
        if let Some((key, _)) = of_schedules.iter().find(|(_, is_given)| *is_given) {
            return problem(at(key), "a job that watches a directory has no schedule");
        }
        let Some(layout) = &self.layout else {
            return problem(at("layout"), "missing: a watched directory needs a layout");
        };
        let layout: Layout = parsed(&at("layout"), layout)?;
        let of_layout = layout.required().iter();
        let required =
            |&(name, is_last): &(&str, bool)| Required { name: name.to_owned(), is_last };
        let mut required: Vec<Required> = of_layout.map(required).collect();
        if let Some(marker) = &self.marker {
            if marker.is_empty() || marker.contains('/') {
                return problem(at("marker"), "expected the name of a file in the checkpoint");
            }
            required.push(Required { name: marker.clone(), is_last: true });
        }
        if self.keep_local == Some(0) {
            return problem(at("keep_local"), "expected 1 or more: the newest one always stays");
        }
        let quiet = Duration::from_secs(layout.quiet_seconds());
        Ok(Kind::Watch(Watch {
            directory: base.join(directory),
            layout,
            required,
            quiet: time(&at("quiet"), self.quiet.as_deref(), quiet)?,
            keep_local: self.keep_local,
        }))
    }

    fn scheduled(&self, base: &Path, place: &str) -> Checked<Kind> {
        let at = |key: &str| format!("{place}, {key}");
        let of_watches = [
            ("layout", self.layout.is_some()),
            ("marker", self.marker.is_some()),
            ("quiet", self.quiet.is_some()),
            ("keep_local", self.keep_local.is_some()),
        ];
        if let Some((key, _)) = of_watches.iter().find(|(_, is_given)| *is_given) {
            return problem(at(key), "only a job with `watch` has this key");
        }
        let rhythm = match (&self.cron, &self.every) {
            (Some(cron), None) => Rhythm::Cron(Box::new(parsed(&at("cron"), cron)?)),
            (None, Some(every)) => {
                let every = time(&at("every"), Some(every), Duration::ZERO)?;
                let ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
                if ms < 1_000 {
                    return problem(at("every"), "the shortest interval is 1s");
                }
                Rhythm::Every { ms }
            }
            _ => return problem(place, "expected one of `watch`, `cron` and `every`"),
        };
        let jitter = time(&at("jitter"), self.jitter.as_deref(), Duration::ZERO)?;
        let schedule = Schedule {
            rhythm,
            missed: match self.missed.unwrap_or(MissedFile::Run) {
                MissedFile::Run => Missed::Run,
                MissedFile::Skip => Missed::Skip,
            },
            jitter_ms: u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX),
        };
        Ok(Kind::Schedule(Scheduled { work: self.work(base, place)?, schedule }))
    }

    fn work(&self, base: &Path, place: &str) -> Checked<Work> {
        let at = |key: &str| format!("{place}, {key}");
        if self.drill.is_none() && (!self.lose.is_empty() || self.check.is_some()) {
            return problem(place, "only a drill has `lose` and `check`");
        }
        if self.check.as_ref().is_some_and(Vec::is_empty) {
            return problem(at("check"), "expected a program and its arguments");
        }
        match (self.paths.is_empty(), self.verify, &self.drill) {
            (false, None, None) => {
                let paths = self.paths.iter().map(|path| base.join(path)).collect();
                Ok(Work::Store { paths })
            }
            (true, Some(level), None) => Ok(Work::Verify {
                level: match level {
                    LevelFile::Metadata => VerifyLevel::Metadata,
                    LevelFile::Replicas => VerifyLevel::Replicas,
                    LevelFile::Restore => VerifyLevel::Restore,
                },
            }),
            (true, None, Some(scratch)) => {
                let namespace = parsed(&at("namespace"), &self.namespace)?;
                let lost = drill::lost(&self.lose).or_else(|error| problem(at("lose"), error))?;
                let limit = self.hook_timeout.as_deref();
                let plan = DrillPlan {
                    address: Address { namespace, selector: Selector::Latest },
                    words: self.lose.clone(),
                    lost,
                    check: self.check.clone(),
                    check_timeout: time(&at("hook_timeout"), limit, Duration::from_secs(300))?,
                };
                Ok(Work::Drill { plan: Box::new(plan), scratch: base.join(scratch) })
            }
            _ => problem(place, "a schedule has one of `paths`, `verify` and `drill`"),
        }
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(place: &str, text: &str) -> Checked<T> {
    text.parse().or_else(|error| problem(place, error))
}

fn time(place: &str, text: Option<&str>, default: Duration) -> Checked<Duration> {
    let Some(text) = text else { return Ok(default) };
    match humantime::parse_duration(text) {
        Ok(time) if time > TIME_MAX => {
            let most = humantime::format_duration(TIME_MAX);
            problem(place, format!("expected at most {most}, got {text}"))
        }
        Ok(time) => Ok(time),
        Err(error) => problem(place, format!("malformed time {text:?}: {error}")),
    }
}

fn zone(place: &str, name: Option<&str>, default: &Zone) -> Checked<Zone> {
    match name {
        Some(name) => Zone::named(name).or_else(|error| problem(place, error)),
        None => Ok(default.clone()),
    }
}

fn windows(place: &str, texts: &[String], zone: &Zone) -> Checked<Windows> {
    let windows = texts.iter().map(|text| parsed(place, text)).collect::<Checked<_>>()?;
    Ok(Windows { zone: zone.clone(), windows })
}

/// As of `put --exclude`: a glob without a slash is matched against each last component.
fn globs(place: &str, texts: &[String]) -> Checked<Vec<(bool, GlobMatcher)>> {
    let matcher = |text: &String| {
        let whole = text.contains('/');
        let plain = text.trim_start_matches("./").trim_end_matches('/');
        match GlobBuilder::new(plain).literal_separator(true).build() {
            Ok(glob) => Ok((whole, glob.compile_matcher())),
            Err(error) => problem(place, error),
        }
    };
    texts.iter().map(matcher).collect()
}
