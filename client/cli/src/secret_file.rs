//! Files with secrets: made for their owner only, and never over another file.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use cairn_host::tls::is_open_to_others;

use crate::exit::Failure;
use crate::output::Output;

/// Writes one line to a file that does not exist yet.
pub fn write(path: &Path, line: &str) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(path).with_context(|| format!("create {}", path.display()))?;
    writeln!(out, "{line}").with_context(|| format!("write {}", path.display()))?;
    out.sync_all().with_context(|| format!("sync {}", path.display()))?;
    Ok(())
}

/// Warns where other users could read or change the file.
pub fn warn_if_open(output: &Output, path: &Path) {
    if is_open_to_others(path) {
        output.say(format!(
            "warning: other users of this machine can read or change {}: run chmod 600 on it",
            path.display()
        ));
    }
}
