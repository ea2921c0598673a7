//! Exit codes: what a script can rely on.

/// How a verb ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unreachable = 5,
    NotYetFull = 6,
    Damaged = 7,
    BelowPolicy = 8,
    CheckFailed = 9,
    Interrupted = 130,
}

/// The text of `cairn help exit-codes`.
pub const EXIT_CODES: &str = "\
Exit codes of every cairn verb:
    0  done
    1  failed, or the result could not be written; the error says why
    2  wrong flags or arguments
    3  no such checkpoint, file, node, ref or hold
    4  refused: the step exists, the attempt is fenced, a policy cannot be met,
       the ref was moved, the checkpoint is in quarantine, or a ref or a hold
       keeps it
    5  no cluster answered in time, or its nodes were too busy: try again;
       verify: good as far as it went, but some nodes did not answer
    6  put: durable on W replicas, but not committed or not full within
       --wait-timeout
    7  segment data is damaged, or no node can send it; verify: a replica was
       bad
    8  status, verify: data is below its policy, or there is no room; a wait
       timed out; agent status: the agent does not run, or a job has failed;
       drill: no majority of the voters would be left
    9  drill: everything was restored, but --check failed
  130  interrupted
";

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows its exit code and, where we know the fix, a hint.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), hint: None }
    }

    pub fn usage(text: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, anyhow::anyhow!("{text}"))
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

/// What a verb returns: its exit code, or why it failed.
pub type Outcome = Result<Exit, Failure>;
