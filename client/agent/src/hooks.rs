//! Commands of the user: before and after a put, and the check of a drill. Each runs in a process group of its own, which is
//! killed as a whole once its time is over or the agent stops.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::time::timeout;

/// The agent's own token, and how it gets it: no user's command is given them. What names a file
/// stays: the file's mode says who reads it.
const SECRETS: [&str; 2] = ["CAIRN_TOKEN", "CAIRN_TOKEN_COMMAND"];

/// Runs a command; its output goes to the agent's stderr.
pub async fn run(
    command: &[String],
    variables: &[(&'static str, String)],
    directory: Option<&Path>,
    limit: Duration,
) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let failed = |what: &str| format!("{program}: {what}");
    let output = std::io::stderr();
    let output = rustix::io::dup(&output).map_err(|error| failed(&error.to_string()))?;
    let mut command = without_secrets(program);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let mut child = command
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::from(output))
        .process_group(0)
        .spawn()
        .map_err(|error| failed(&error.to_string()))?;
    // Of a group of its own, the id is that of its first process.
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let _group = Group(group);
    match timeout(limit, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(&status.to_string())),
        Ok(Err(error)) => Err(failed(&error.to_string())),
        Err(_) => Err(failed(&format!("not done after {}", humantime::format_duration(limit)))),
    }
}

fn without_secrets(program: &str) -> Command {
    let mut command = Command::new(program);
    for secret in SECRETS {
        command.env_remove(secret);
    }
    command
}

/// Kills what is left of a group when it is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Nothing is left of most.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_hook_has_its_variables_and_its_exit_code_counts() {
        let long = Duration::from_secs(60);
        let variables = [("CAIRN_AGENT_STEP", "7".to_owned())];
        run(&shell("test \"$CAIRN_AGENT_STEP\" = 7"), &variables, None, long).await.unwrap();
        let why = run(&shell("exit 3"), &[], None, long).await.unwrap_err();
        assert!(why.contains('3'), "{why}");
        let why = run(&["/does/not/exist".to_owned()], &[], None, long).await.unwrap_err();
        assert!(why.contains("/does/not/exist"), "{why}");
    }

    #[test]
    fn a_hook_is_not_given_the_agents_token() {
        let command = without_secrets("/bin/sh");
        let changed: Vec<_> = command.as_std().get_envs().collect();
        for secret in ["CAIRN_TOKEN", "CAIRN_TOKEN_COMMAND"] {
            assert!(changed.contains(&(secret.as_ref(), None)), "{secret} is handed on");
        }
    }

    /// The child of the hook's shell goes, too.
    #[tokio::test]
    async fn a_hook_that_takes_too_long_is_killed_with_all_its_processes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let script = format!("echo $$ > {0}; sleep 1000 & echo $! >> {0}; wait", file.display());
        let limit = Duration::from_millis(300);
        let mut pids = Vec::new();
        // A slow machine may not have come to the second line in time.
        while pids.len() < 2 {
            let why = run(&shell(&script), &[], None, limit).await.unwrap_err();
            assert!(why.contains("not done after"), "{why}");
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            pids = text.lines().filter_map(|line| line.parse::<i32>().ok()).collect();
        }
        for pid in pids {
            let path = format!("/proc/{pid}/stat");
            let is_over = || match std::fs::read_to_string(&path) {
                // A zombie waits for its parent only.
                Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")),
                Err(_) => true,
            };
            tokio::time::timeout(Duration::from_secs(60), async {
                while !is_over() {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .unwrap();
        }
    }
}
