//! Programs on a pseudo-terminal that the test controls.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::termios::{Termios, tcgetattr};

/// A program on a pseudo-terminal that the test controls.
pub struct OnTerminal {
    pub child: Child,
    pub master: File,
    slave: OwnedFd,
    before: Termios,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl OnTerminal {
    pub fn start(mut command: Command) -> Self {
        let size = libc::winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(&size, None).unwrap();
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: only two system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let before = tcgetattr(&pty.slave).unwrap();
        let child = command.spawn().unwrap();
        let (sender, output) = channel();
        let mut reader = File::from(pty.master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        let master = File::from(pty.master);
        OnTerminal { child, master, slave: pty.slave, before, output, seen: String::new() }
    }

    /// Waits for `text` in the output after the last match; returns the output up to its end.
    pub fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            match self.output.recv_timeout(Duration::from_secs(20)) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {text:?} ({error}) after {:?}", self.seen),
            }
        }
    }

    pub fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Hangs the terminal up, as when its window is closed, and waits for the exit code.
    pub fn hang_up(&mut self) -> Option<i32> {
        const TIOCVHANGUP: libc::c_ulong = 0x5437;
        // SAFETY: TIOCVHANGUP has no argument.
        assert_eq!(unsafe { libc::ioctl(self.slave.as_raw_fd(), TIOCVHANGUP) }, 0);
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), None);
        status.code()
    }

    /// Waits for the exit code, and checks that the terminal settings are restored.
    pub fn end(&mut self) -> Option<i32> {
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), None);
        let after = tcgetattr(&self.slave).unwrap();
        assert_eq!(after.local_flags, self.before.local_flags);
        assert_eq!(after.input_flags, self.before.input_flags);
        assert_eq!(after.output_flags, self.before.output_flags);
        status.code()
    }
}
