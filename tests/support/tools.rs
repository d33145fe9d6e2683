//! Tools of the host.

use std::path::Path;
use std::process::{Command, Output};

/// Runs a shell script in `dir`; it must succeed.
pub fn sh(dir: &Path, script: &str) -> Output {
    let mut command = Command::new("sh");
    command.arg("-euc").arg(script).current_dir(dir).env("LC_ALL", "C");
    let finished = command.output().unwrap();
    assert!(
        finished.status.success(),
        "{script}: {}\n{}{}",
        finished.status,
        String::from_utf8_lossy(&finished.stdout),
        String::from_utf8_lossy(&finished.stderr)
    );
    finished
}
