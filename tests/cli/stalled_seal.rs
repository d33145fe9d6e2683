//! Seals whose output is not read, while the mount waits for them.

use std::fs;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use crate::mount_fixture::{MountPoint, folder_base};
use crate::support::processes::eventually;
use crate::support::stage::{BOTH_USERS, Stage, Who, finish};

/// A mount that is being sealed into a full pipe, and a program that waits to write to the mount.
struct StalledSeal<'a> {
    mnt: MountPoint<'a>,
    reader: PipeReader,
    seal: Child,
    writer: Child,
}

impl<'a> StalledSeal<'a> {
    fn new(stage: &'a Stage, who: Who) -> Self {
        let base = folder_base(stage);
        let mnt = MountPoint::new(stage, who);
        mnt.mount(&["--rw"], &[&base]).ok();
        mnt.sh("head -c 1M /dev/urandom > mnt/large").ok();
        let (reader, pipe) = std::io::pipe().unwrap();
        let mut seal = stage.overcoat(who);
        seal.arg("seal").arg(&mnt.dir).args(["--format", "cpio", "-o", "-"]);
        let seal = seal.stdout(pipe.try_clone().unwrap()).stderr(Stdio::piped()).spawn().unwrap();
        eventually("the pipe is full", || {
            let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 0
        });
        drop(pipe);
        let writer = stage.command(who, "touch").arg(mnt.dir.join("new")).spawn().unwrap();
        eventually("a program waits for the seal", || {
            let waits = fs::read_to_string(format!("/proc/{}/wchan", writer.id()));
            waits.is_ok_and(|function| function.contains("request_wait"))
        });
        StalledSeal { mnt, reader, seal, writer }
    }

    /// Checks that the seal fails with `message` and nothing remains, although the pipe is still
    /// open for reading.
    fn assert_fails(self, message: &str) {
        let output = self.seal.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(message), "{stderr}");
        let mut writer = self.writer;
        writer.wait().unwrap();
        self.mnt.assert_unmounted();
        drop(self.reader);
    }
}

#[test]
fn terminated_server_does_not_wait_for_the_reader() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let stalled = StalledSeal::new(&stage, who);
        kill(stalled.mnt.servers()[0], Signal::SIGTERM).unwrap();
        stalled.assert_fails("the root was unmounted");
    }
}

#[test]
fn lazy_unmount_does_not_wait_for_the_reader() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let stalled = StalledSeal::new(&stage, who);
        finish(stage.overcoat(who).args(["umount", "--lazy"]).arg(&stalled.mnt.dir)).ok();
        stalled.assert_fails("the root was unmounted");
    }
}

#[test]
fn mount_continues_when_a_stalled_seal_is_killed() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let mut stalled = StalledSeal::new(&stage, who);
    stalled.seal.kill().unwrap();
    stalled.seal.wait().unwrap();
    assert!(stalled.writer.wait().unwrap().success());
    let all = stalled.mnt.seal(&["-o", "-"]).ok();
    assert!(all.stdout.len() > 1 << 20);
    stalled.mnt.end();
}

#[test]
fn slow_reader_gets_the_whole_archive() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let mut stalled = StalledSeal::new(&stage, who);
    let mut all = Vec::new();
    stalled.reader.read_to_end(&mut all).unwrap();
    assert!(stalled.seal.wait().unwrap().success());
    assert!(stalled.writer.wait().unwrap().success());
    assert!(all.len() > 1 << 20 && all.windows(10).any(|bytes| bytes == b"TRAILER!!!"));
    stalled.mnt.umount().ok();
}

#[test]
fn second_signal_ends_a_server_whose_mount_is_in_use() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let base = folder_base(&stage);
        let mnt = MountPoint::new(&stage, who);
        mnt.mount(&["--rw"], &[&base]).ok();
        let mut user = stage.command(who, "sh");
        let user = user.args(["-c", "cd mnt; echo in; read x"]);
        let mut user = user.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        user.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let server = mnt.servers()[0];
        kill(server, Signal::SIGTERM).unwrap();
        eventually("the mount is gone", || mnt.mounts_are_unchanged());
        // The server remains while a process uses the mount.
        assert_eq!(mnt.servers(), [server]);
        kill(server, Signal::SIGTERM).unwrap();
        eventually("the server has ended", || mnt.servers().is_empty());
        drop(user.stdin.take());
        user.wait().unwrap();
    }
}
