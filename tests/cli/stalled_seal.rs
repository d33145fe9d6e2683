//! Seals whose output nobody takes, while the mount stands still for them.

use std::fs;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use crate::mount::{mount, nothing_is_left, place, servers, umount};
use crate::support::processes::eventually;
use crate::support::stage::{EVERYBODY, Finished, Stage, Who, finish};

/// A mount that is being sealed into a pipe which nobody reads, and a program that writes to it.
struct Stuck {
    dir: PathBuf,
    mounts: String,
    reader: PipeReader,
    seal: Child,
    writer: Child,
}

impl Stuck {
    fn new(stage: &Stage, who: Who, dir: &Path) -> Stuck {
        let base = stage.write("base/file", "of the base").parent().unwrap().to_owned();
        let mounts = Stage::mounts();
        mount(stage, who, &["--rw"], &[&base], dir).ok();
        let fill = format!("head -c 1M /dev/urandom > '{}'/large", dir.display());
        finish(stage.command(who, "sh").args(["-euc", &fill])).ok();
        let (reader, pipe) = std::io::pipe().unwrap();
        let mut seal = stage.overcoat(who);
        seal.arg("seal").arg(dir).args(["--format", "cpio", "-o", "-"]);
        let seal = seal.stdout(pipe.try_clone().unwrap()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the pipe is full", || {
            let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 0
        });
        drop(pipe);
        let writer = stage.command(who, "touch").arg(dir.join("new")).spawn().unwrap();
        eventually("a program waits for the seal", || {
            let waits = fs::read_to_string(format!("/proc/{}/wchan", writer.id()));
            waits.is_ok_and(|function| function.contains("request_wait"))
        });
        Stuck { dir: dir.to_owned(), mounts, reader, seal, writer }
    }

    /// The seal has failed, and all is gone, though the pipe still has its reader.
    fn ends(self, said: &str) {
        let output = self.seal.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{stderr}");
        let mut writer = self.writer;
        writer.wait().unwrap();
        nothing_is_left(&self.dir, &self.mounts);
        drop(self.reader);
    }
}

#[test]
fn a_server_that_is_asked_to_end_does_not_wait_for_the_reader_of_a_seal() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let stuck = Stuck::new(&stage, who, &place(&stage, who));
        kill(servers(&stuck.dir)[0], Signal::SIGTERM).unwrap();
        stuck.ends("the root was unmounted");
    }
}

#[test]
fn a_mount_that_is_taken_away_lazily_does_not_wait_for_the_reader_of_a_seal() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let stuck = Stuck::new(&stage, who, &place(&stage, who));
        finish(stage.overcoat(who).args(["umount", "--lazy"]).arg(&stuck.dir)).ok();
        stuck.ends("the root was unmounted");
    }
}

#[test]
fn a_mount_goes_on_when_a_seal_that_waits_for_its_reader_is_killed() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let mut stuck = Stuck::new(&stage, who, &place(&stage, who));
    stuck.seal.kill().unwrap();
    stuck.seal.wait().unwrap();
    assert!(stuck.writer.wait().unwrap().success());
    let all: Finished = finish(stage.overcoat(who).args(["seal", "mnt", "-o", "-"])).ok();
    assert!(all.stdout.len() > 1 << 20);
    umount(&stage, who, &stuck.dir).ok();
    nothing_is_left(&stuck.dir, &stuck.mounts);
}

#[test]
fn a_slow_reader_of_a_seal_gets_all_of_it() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let mut stuck = Stuck::new(&stage, who, &place(&stage, who));
    let mut all = Vec::new();
    stuck.reader.read_to_end(&mut all).unwrap();
    assert!(stuck.seal.wait().unwrap().success());
    assert!(stuck.writer.wait().unwrap().success());
    assert!(all.len() > 1 << 20 && all.windows(10).any(|bytes| bytes == b"TRAILER!!!"));
    umount(&stage, who, &stuck.dir).ok();
}

#[test]
fn a_server_that_is_asked_twice_ends_whoever_still_uses_its_mount() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let dir = place(&stage, who);
        let base = stage.write("base/file", "of the base").parent().unwrap().to_owned();
        let mounts = Stage::mounts();
        mount(&stage, who, &["--rw"], &[&base], &dir).ok();
        let mut user = stage.command(who, "sh");
        let user = user.args(["-c", "cd mnt; echo in; read x"]);
        let mut user = user.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        user.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let server = servers(&dir)[0];
        kill(server, Signal::SIGTERM).unwrap();
        eventually("the mount is gone", || Stage::mounts() == mounts);
        // Its last user is still there.
        assert_eq!(servers(&dir), [server]);
        kill(server, Signal::SIGTERM).unwrap();
        eventually("the server has ended", || servers(&dir).is_empty());
        drop(user.stdin.take());
        user.wait().unwrap();
    }
}
