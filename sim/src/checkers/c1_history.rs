//! C1, C4, D4, D5 over what clients saw: a history of puts, deletes and reads, judged as it grows.
//!
//! Each namespace has one writer that does one thing at a time, so time orders its versions and
//! judging takes a walk over them. What was acknowledged, or seen once, is there for every later
//! read until something that may remove it begins; what was removed for certain never comes back;
//! what nobody put is never seen.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::checkpoint_files::Files;
use crate::trace;

/// A step and the attempt of an upload: what a client can tell versions of a step apart by.
pub type VersionId = (u64, u64);

struct Version {
    step: u64,
    attempt: u64,
    files: Files,
    invoked: Instant,
    /// First acknowledged, or seen by a reader.
    visible: Option<Instant>,
    /// From when on it may be gone, and from when on it is.
    maybe_gone: Option<Instant>,
    gone: Option<Instant>,
}

#[derive(Default)]
struct Namespace {
    /// In the order they were begun.
    versions: Vec<Version>,
    keep_last: Option<(usize, Instant)>,
}

/// What a read was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Step(u64),
    Latest,
}

#[derive(Default)]
pub struct History {
    namespaces: BTreeMap<String, Namespace>,
}

fn earlier(place: &mut Option<Instant>, time: Instant) {
    *place = Some(place.map_or(time, |old| old.min(time)));
}

impl History {
    pub fn put_begins(&mut self, name: &str, (step, attempt): VersionId, files: &Files) {
        let now = Instant::now();
        let versions = &mut self.namespaces.entry(name.to_owned()).or_default().versions;
        if versions.iter().any(|old| (old.step, old.attempt) == (step, attempt)) {
            return;
        }
        for old in versions.iter_mut().filter(|old| old.step == step) {
            earlier(&mut old.maybe_gone, now);
        }
        let files = files.clone();
        let (visible, maybe_gone, gone) = (None, None, None);
        versions.push(Version { step, attempt, files, invoked: now, visible, maybe_gone, gone });
    }

    /// The version is committed, as of now at the latest.
    pub fn visible(&mut self, name: &str, (step, attempt): VersionId) {
        let now = Instant::now();
        let versions = &mut self.namespaces.entry(name.to_owned()).or_default().versions;
        let place = versions.iter().position(|it| (it.step, it.attempt) == (step, attempt));
        let Some(place) = place else { return };
        earlier(&mut versions[place].visible, now);
        for old in versions[..place].iter_mut().filter(|old| old.step == step) {
            earlier(&mut old.gone, now);
        }
    }

    pub fn delete_begins(&mut self, name: &str, step: u64) {
        let now = Instant::now();
        let versions = &mut self.namespaces.entry(name.to_owned()).or_default().versions;
        for version in versions.iter_mut().filter(|version| version.step == step) {
            earlier(&mut version.maybe_gone, now);
        }
    }

    pub fn deleted(&mut self, name: &str, (step, attempt): VersionId) {
        let now = Instant::now();
        let versions = &mut self.namespaces.entry(name.to_owned()).or_default().versions;
        let meant = |it: &&mut Version| (it.step, it.attempt) == (step, attempt);
        for version in versions.iter_mut().filter(meant) {
            earlier(&mut version.visible, now);
            earlier(&mut version.gone, now);
        }
    }

    pub fn keep_last(&mut self, name: &str, count: usize) {
        let namespace = self.namespaces.entry(name.to_owned()).or_default();
        let keep = namespace.keep_last.map_or(count, |(old, _)| old.min(count));
        let since = namespace.keep_last.map_or(Instant::now(), |(_, since)| since);
        namespace.keep_last = Some((keep, since));
    }

    /// A read between `began` and now found this version, with these files if it got that far.
    pub fn found(
        &mut self,
        name: &str,
        asked: Asked,
        (step, attempt): VersionId,
        began: Instant,
        files: Option<&Files>,
    ) -> Result<(), (&'static str, String)> {
        trace::count("checked.reads", 1);
        let what = format!("{name}@{step} attempt {attempt}");
        let namespace = self.namespaces.entry(name.to_owned()).or_default();
        if matches!(asked, Asked::Step(asked) if asked != step) {
            return Err(("C1", format!("{asked:?} gave {what}")));
        }
        let place = namespace
            .versions
            .iter()
            .position(|it| (it.step, it.attempt) == (step, attempt))
            .ok_or_else(|| ("C2", format!("{what} is visible and nobody put it")))?;
        let version = &namespace.versions[place];
        if let Some(files) = files
            && *files != version.files
        {
            return Err(("D5", format!("{what} read as other bytes than were put")));
        }
        if version.gone.is_some_and(|gone| gone < began) {
            return Err(("C1", format!("{what} was deleted or replaced, and is seen again")));
        }
        if asked == Asked::Latest
            && let Some(visible) = version.visible
        {
            let newer =
                namespace.versions.iter().enumerate().find(|(place, it)| {
                    it.invoked > visible && namespace.must_be_there(*place, began)
                });
            if let Some((_, newer)) = newer {
                let text = format!("latest is {what}, older than {}@{}", newer.step, newer.attempt);
                return Err(("C1", text));
            }
        }
        self.visible(name, (step, attempt));
        Ok(())
    }

    /// A read that began then found nothing.
    pub fn missing(&self, name: &str, asked: Asked, began: Instant) -> Result<(), String> {
        trace::count("checked.reads", 1);
        let Some(namespace) = self.namespaces.get(name) else { return Ok(()) };
        let meant = |step: u64| asked == Asked::Latest || asked == Asked::Step(step);
        let lost =
            namespace.versions.iter().enumerate().find(|(place, version)| {
                meant(version.step) && namespace.must_be_there(*place, began)
            });
        match lost {
            Some((_, version)) => Err(format!(
                "{name}@{} attempt {} was committed and is not found",
                version.step, version.attempt
            )),
            None => Ok(()),
        }
    }

    /// The versions that must be there now.
    pub fn committed(&self) -> Vec<(String, VersionId)> {
        let now = Instant::now();
        let of = |(name, namespace): (&String, &Namespace)| -> Vec<(String, VersionId)> {
            let versions = namespace.versions.iter().enumerate();
            versions
                .filter(|(place, _)| namespace.must_be_there(*place, now))
                .map(|(_, version)| (name.clone(), (version.step, version.attempt)))
                .collect()
        };
        self.namespaces.iter().flat_map(of).collect()
    }

    /// Files of the versions of a step, to compare ranges with.
    pub fn contents(&self, name: &str, step: u64) -> Vec<Files> {
        let versions = self.namespaces.get(name).into_iter().flat_map(|it| &it.versions);
        versions.filter(|it| it.step == step).map(|it| it.files.clone()).collect()
    }
}

impl Namespace {
    fn must_be_there(&self, place: usize, began: Instant) -> bool {
        let version = &self.versions[place];
        let retired = self.keep_last.is_some_and(|(count, _)| {
            self.versions[place + 1..].iter().filter(|it| it.step != version.step).count() >= count
        });
        // A removal that began at any time before now may have happened before the answer.
        version.visible.is_some_and(|visible| visible < began)
            && version.maybe_gone.is_none()
            && version.gone.is_none()
            && !retired
    }
}
