//! The token of this run: from a file, the environment, or a command. Never from an argument, which
//! every user of the machine can read.

use std::io::Read;
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow};
use cairn_host::token::{FileError, Token};

use crate::exit::Failure;
use crate::secret_file::warn_if_open;
use crate::session::Session;

/// Longest output of a command, bytes: twice the longest token.
const OUTPUT_BYTES_MAX: u64 = 16 << 10;

impl Session {
    /// The token that the flags and the environment name, if any. The first of these counts:
    /// `--token-file` or CAIRN_TOKEN_FILE, CAIRN_TOKEN, CAIRN_TOKEN_COMMAND.
    pub fn token(&self) -> Result<Option<Token>, Failure> {
        let path = self.global.token_file.as_deref().filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = path {
            let token = Token::load(path).map_err(file_failure)?;
            warn_if_open(&self.output, path);
            return Ok(Some(token));
        }
        if let Some(text) = variable("CAIRN_TOKEN") {
            return parsed("CAIRN_TOKEN", &text).map(Some);
        }
        match variable("CAIRN_TOKEN_COMMAND") {
            Some(command) => parsed("CAIRN_TOKEN_COMMAND", &output_of(&command)?).map(Some),
            None => Ok(None),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn parsed(source: &str, text: &str) -> Result<Token, Failure> {
    Token::from_text(text).map_err(|error| {
        Failure::usage(format!("{source} gives no token: {error}"))
            .with_hint("a token is one line that `cairn token new` printed")
    })
}

pub fn file_failure(error: FileError) -> Failure {
    Failure::usage(error)
}

/// What the shell prints for a command, within bounds.
fn output_of(command: &str) -> Result<String, Failure> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = shell.spawn().context("run CAIRN_TOKEN_COMMAND")?;
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(OUTPUT_BYTES_MAX).read_to_string(&mut text);
        read.context("read the output of CAIRN_TOKEN_COMMAND")?;
    }
    let status = child.wait().context("wait for CAIRN_TOKEN_COMMAND")?;
    match status.success() {
        true => Ok(text),
        false => Err(anyhow!("CAIRN_TOKEN_COMMAND failed: {status}").into()),
    }
}
