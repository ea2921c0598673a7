//! One run of the binary, as a user or a script sees it.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No verb of these tests takes longer.
const DEADLINE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(2);

/// The binary with the flags that every run of a test shares.
#[derive(Debug, Clone)]
pub struct Cairn {
    program: PathBuf,
    common: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Cairn {
    pub fn new(program: &Path) -> Self {
        Self { program: program.to_owned(), common: Vec::new(), environment: Vec::new() }
    }

    /// Sets a variable for every run.
    pub fn with_variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds flags to every run.
    pub fn with(mut self, flags: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.common.extend(flags.into_iter().map(Into::into));
        self
    }

    /// Runs to the end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        self.start(arguments).finish()
    }

    /// Runs to the end, with stdout going to a file.
    pub fn run_into<A: AsRef<OsStr>>(
        &self,
        out: std::fs::File,
        arguments: impl IntoIterator<Item = A>,
    ) -> Ran {
        self.start_with(Stdio::from(out), arguments).finish()
    }

    /// Runs in the background.
    pub fn start<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Running {
        self.start_with(Stdio::piped(), arguments)
    }

    fn start_with<A: AsRef<OsStr>>(
        &self,
        out: Stdio,
        arguments: impl IntoIterator<Item = A>,
    ) -> Running {
        let mut command = Command::new(&self.program);
        // The surroundings of whoever runs the tests must not leak into what is tested.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command.args(arguments).args(&self.common).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
        let shown = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        Running { child, stdout: Some(stdout), stderr: Some(stderr), shown }
    }
}

fn is_ours(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("CAIRN_"))
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// A process of the binary; killed when dropped.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    shown: String,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL; whether it was still running then.
    pub fn kill(mut self) -> bool {
        let running = self.is_running();
        let _ = self.child.kill();
        let _ = self.child.wait();
        running
    }

    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&self) {
        self.signal(rustix::process::Signal::INT);
    }

    /// SIGHUP, as a terminal that closes sends it.
    pub fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    /// SIGSTOP: nothing of it moves until it may go on.
    pub fn stand_still(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// Waits for its end; a run that outlasts the deadline is a failed test.
    pub fn finish(mut self) -> Ran {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for a child") {
                break status;
            }
            if started.elapsed() > DEADLINE {
                let _ = self.child.kill();
                let said = self.stderr.take().map(|words| words.join());
                panic!("{} is not done after {DEADLINE:?}: {said:?}", self.shown);
            }
            std::thread::sleep(POLL);
        };
        let text = |pipe: Option<JoinHandle<Vec<u8>>>| {
            pipe.and_then(|pipe| pipe.join().ok()).unwrap_or_default()
        };
        Ran {
            shown: std::mem::take(&mut self.shown),
            code: status.code(),
            stdout: text(self.stdout.take()),
            stderr: String::from_utf8_lossy(&text(self.stderr.take())).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    shown: String,
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        self.ends(0)
    }

    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        if self.code != Some(code) {
            let _ = std::io::stderr().write_all(&self.stdout);
            panic!("{} ended with {:?}, not {code}: {}", self.shown, self.code, self.stderr);
        }
        self
    }

    /// Ended with this code and an `error:` line that says `text`.
    #[track_caller]
    pub fn fails(self, code: i32, text: &str) -> Self {
        let ran = self.ends(code);
        let said = ran.stderr.to_lowercase();
        let error = said.lines().any(|line| line.contains("error") && line.contains(text));
        assert!(error, "{} should say {text:?}, but says: {}", ran.shown, ran.stderr);
        ran
    }

    /// Has a `hint:` line that says `text`.
    #[track_caller]
    pub fn hints(self, text: &str) -> Self {
        let hint = self.stderr.lines().any(|line| line.starts_with("hint:") && line.contains(text));
        assert!(hint, "{} should hint {text:?}, but says: {}", self.shown, self.stderr);
        self
    }

    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("stdout is UTF-8")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| {
            panic!("{} printed no JSON ({error}): {:?}", self.shown, self.text())
        })
    }
}
