//! A headless Chromium, controlled by the DevTools protocol over pipes: no port, no library.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

/// A browser with one page.
pub struct Browser {
    child: Child,
    commands: File,
    messages: Receiver<Value>,
    session: String,
    sent: u64,
    /// Console messages, exceptions and policy violations of the page.
    pub complaints: Vec<String>,
    /// Requested URLs.
    pub requests: Vec<String>,
}

/// Returns the name of the installed browser.
///
/// # Panics
/// Panics if no browser is installed.
pub fn program() -> &'static str {
    let browser = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|folder| folder.join(name).exists())
    });
    browser.expect("this test needs a browser: apt-get install chromium")
}

/// Adds options that disable background requests and the sandbox of the browser.
pub fn options(command: &mut Command, profile: &Path) {
    command.args("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run".split(' '));
    command.args("--disable-background-networking --disable-component-update".split(' '));
    command.args("--disable-sync --hide-scrollbars".split(' '));
    command.arg(format!("--user-data-dir={}", profile.display()));
}

impl Browser {
    /// Starts a browser; `profile` is an empty folder.
    pub fn start(profile: &Path) -> Browser {
        let (for_it, commands) = std::io::pipe().unwrap();
        let (from_it, its) = std::io::pipe().unwrap();
        let (for_it, its) = (OwnedFd::from(for_it), OwnedFd::from(its));
        let mut command = Command::new(program());
        options(&mut command, profile);
        command.args(["--remote-debugging-pipe", "--window-size=1280,1600", "about:blank"]);
        command.env("HOME", profile).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(profile.join("log")).unwrap());
        let (three, four) = (for_it.as_raw_fd(), its.as_raw_fd());
        // SAFETY: only a few system calls between fork and exec. The descriptors are first
        // duplicated to high numbers, so that neither overwrites the other; dup2 clears
        // close-on-exec.
        unsafe {
            command.pre_exec(move || {
                let high = |fd| match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 64) {
                    -1 => Err(std::io::Error::last_os_error()),
                    fd => Ok(fd),
                };
                let (in_, out) = (high(three)?, high(four)?);
                for (from, to) in [(in_, 3), (out, 4)] {
                    if libc::dup2(from, to) == -1 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                // A process group of its own, which is killed as a whole.
                nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0))?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(from_it).split(0) {
                let Ok(message) = message else { break };
                let Ok(message) = serde_json::from_slice(&message) else { break };
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let commands = File::from(OwnedFd::from(commands));
        let mut browser = Browser {
            child,
            commands,
            messages,
            session: String::new(),
            sent: 0,
            complaints: Vec::new(),
            requests: Vec::new(),
        };
        let targets = browser.call("Target.getTargets", json!({}));
        let pages = targets["targetInfos"].as_array().unwrap();
        let page =
            pages.iter().find(|target| target["type"] == "page").unwrap()["targetId"].clone();
        let attached =
            browser.call("Target.attachToTarget", json!({"targetId": page, "flatten": true}));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method of the protocol, and records the events that arrive meanwhile.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.sent += 1;
        let id = self.sent;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).unwrap();
        let mut kept = VecDeque::new();
        loop {
            let message = self.messages.recv_timeout(Duration::from_secs(60));
            let message = message.unwrap_or_else(|error| panic!("{method}: {error}: {kept:?}"));
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
            kept.push_back(message);
            kept.truncate(20);
        }
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded") => {
                self.complaints.push(parameters.to_string());
            }
            Some("Network.requestWillBeSent") => {
                self.requests.push(parameters["request"]["url"].as_str().unwrap_or("?").to_owned());
            }
            _ => {}
        }
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
    }

    /// Evaluates an expression in the page; waits for promises.
    pub fn value(&mut self, expression: &str) -> Value {
        let result = self.call(
            "Runtime.evaluate",
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true}),
        );
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page; evaluates it in each frame.
    pub fn until(&mut self, expression: &str) {
        let wait = format!(
            "new Promise((done) => {{ const from = performance.now(); const look = () => {{ \
             const there = (() => {{ try {{ return {expression}; }} catch {{ return false; }} }})(); \
             if (there || performance.now() - from > 30000) done(Boolean(there)); \
             else requestAnimationFrame(look); }}; look(); }})"
        );
        assert_eq!(self.value(&wait), true, "never: {expression}; {:?}", self.complaints);
    }

    /// Returns the text of an element.
    pub fn text(&mut self, selector: &str) -> String {
        let found = self.value(&format!("document.querySelector({selector:?}).innerText"));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Presses a key, given by its name (`ArrowDown`), or types a character.
    pub fn press(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "Backspace" => 8,
            "Tab" => 9,
            _ => 0,
        };
        let mut event = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": code});
        if key.chars().count() == 1 || key == "Enter" {
            event["text"] = json!(if key == "Enter" { "\r" } else { key });
        }
        self.call("Input.dispatchKeyEvent", event);
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    /// Types text.
    pub fn type_in(&mut self, text: &str) {
        text.chars().for_each(|c| self.press(&c.to_string()));
    }

    /// Sets the preferred color scheme of the system: light or dark.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Returns a screenshot of the page: PNG in base64.
    pub fn picture(&mut self) -> String {
        let shot = self.call("Page.captureScreenshot", json!({}));
        shot["data"].as_str().unwrap().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // SAFETY: kill has no memory effects; the process group belongs to the browser.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}
