//! Programs in a real terminal: tmux, to which a test sends keys and whose screen it reads.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::processes::within;
use super::stage::{Stage, Who, finish};

/// A terminal with a shell.
pub struct Tmux<'a> {
    stage: &'a Stage,
    who: Who,
    socket: PathBuf,
}

impl<'a> Tmux<'a> {
    /// Starts a terminal of `size` columns and lines, in the folder of the stage, with these
    /// variables.
    pub fn start(stage: &'a Stage, who: Who, size: (u16, u16), variables: &str) -> Self {
        // A server that is ending keeps its socket for a while.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let socket = format!("tmux-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let tmux = Tmux { stage, who, socket: stage.temporary(who).join(socket) };
        let (columns, lines) = (size.0.to_string(), size.1.to_string());
        let shell = format!("exec env -u NO_COLOR LC_ALL=C.UTF-8 PS1='$ ' {variables} sh");
        let folder = stage.path("");
        let mut command = tmux.command();
        command.args(["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &lines]);
        finish(command.arg("-c").arg(folder).arg(shell)).ok();
        tmux.until("$");
        tmux
    }

    fn command(&self) -> Command {
        let mut command = self.stage.command(self.who, "tmux");
        command.env("LC_ALL", "C.UTF-8").env("SHELL", "/bin/sh").args(["-u", "-S"]);
        command.arg(&self.socket);
        command
    }

    /// Runs a tmux command; returns its output.
    pub fn ask(&self, arguments: &[&str]) -> String {
        finish(self.command().args(arguments)).ok().text()
    }

    /// Presses keys, given by the names that tmux uses (`Down`, `C-z`), or types text.
    pub fn press(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    /// Returns the text of the screen.
    pub fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// Returns the text of the screen, with colours as escape sequences.
    pub fn colours(&self) -> String {
        self.ask(&["capture-pane", "-p", "-e"])
    }

    /// Waits until `text` is on the screen; returns the screen.
    pub fn until(&self, text: &str) -> String {
        self.until_so(text, |screen| screen.contains(text))
    }

    /// Waits until `so` is true of the screen; returns the screen.
    pub fn until_so(&self, what: &str, so: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let mut look = || {
            screen = self.screen();
            so(&screen)
        };
        // The actual screen helps to find the cause.
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            within(Duration::from_secs(20), what, &mut look);
        }));
        assert!(found.is_ok(), "never: {what}\n{screen}");
        screen
    }

    /// Waits until `text` has disappeared from the screen.
    pub fn until_gone(&self, text: &str) -> String {
        self.until_so(&format!("no {text}"), |screen| !screen.contains(text))
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").output();
    }
}
