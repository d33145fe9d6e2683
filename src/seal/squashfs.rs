//! squashfs, by `mksquashfs -tar` of squashfs-tools 4.5 or later: it reads a tar stream on its
//! standard input and uses all processors. (`sqfstar` is the same program, but that of 4.5 cannot
//! be told a compression level.)
//!
//! It passes over the tar's own entry for the root. The root's mode is an option; its owner is
//! whoever runs it (before 4.6 no option changes that), so it runs in a user namespace in which
//! that is the right one; its time is that of the build, brought down to the image's own, so only
//! an image that holds times of the future says when it was made.
//!
//! It writes into a file in memory that has no name, which is copied to the output when all of it
//! is there: nothing is staged on disk, and a failure leaves nothing behind. It gets its input from
//! this process alone, so it ends when this process does, however that ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, Command, Stdio};

use fs_model::attr::Attr;
use nix::unistd::{getgid, getuid};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use crate::sandbox::Lack;

/// The level when none is asked for. squashfs-tools' own is 15, which takes six times as long and
/// saves 6 % (measured on a Debian base).
pub(super) const DEFAULT_LEVEL: u32 = 9;

/// How much of what mksquashfs says is kept for the message, in bytes.
const MESSAGE_LIMIT: u64 = 4096;

/// What to say when it is not there.
fn missing() -> Lack {
    Lack::program("mksquashfs", "squashfs-tools")
}

/// Whether images can be written here: asked before any work is done.
///
/// # Errors
/// What is missing, and how to get it.
pub fn available() -> Result<(), Lack> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("mksquashfs").is_file());
    if found { Ok(()) } else { Err(missing()) }
}

/// Writes an image of nothing, as bases are written.
///
/// # Errors
/// What is in the way.
pub fn try_out() -> io::Result<()> {
    const END_OF_ARCHIVE: [u8; 1024] = [0; 1024];
    let mut squashfs = Mksquashfs::new(Vec::new(), DEFAULT_LEVEL, 1, Some(0), None)?;
    squashfs.write_all(&END_OF_ARCHIVE)?;
    squashfs.finish().map(drop)
}

/// `mksquashfs`, run by a user who is `uid` and `gid` to it.
fn program(uid: u32, gid: u32) -> Command {
    if (getuid().as_raw(), getgid().as_raw()) == (uid, gid) {
        return Command::new("mksquashfs");
    }
    let mut command = Command::new("unshare");
    command
        .arg("--user")
        .arg(format!("--map-user={uid}"))
        .arg(format!("--map-group={gid}"))
        .args(["--", "mksquashfs"]);
    command
}

/// A `mksquashfs` in front of a writer.
#[derive(Debug)]
pub(super) struct Mksquashfs<W: Write> {
    /// Taken by `finish`.
    inner: Option<W>,
    child: Child,
    input: Option<ChildStdin>,
    image: File,
}

impl<W: Write> Mksquashfs<W> {
    /// Starts `mksquashfs`. `root` has the attributes of the image's root, if
    /// anything is to be in it; `epoch` is the time that
    /// the image states as its own, and no time in it is later.
    ///
    /// # Errors
    /// When it is not installed.
    pub(super) fn new(
        inner: W,
        level: u32,
        threads: usize,
        epoch: Option<u32>,
        root: Option<&Attr>,
    ) -> io::Result<Self> {
        // Inherited: from another user namespace this process's descriptors cannot be looked up.
        let image = File::from(rustix::fs::memfd_create("squashfs", MemfdFlags::empty())?);
        let (mode, uid, gid) = root.map_or((0o755, 0, 0), |root| (root.mode, root.uid, root.gid));
        let mut command = program(uid, gid);
        command
            .arg("-")
            .arg(format!("/proc/self/fd/{}", image.as_raw_fd()))
            .args(["-tar", "-noappend", "-quiet", "-no-progress"])
            .args(["-comp", "zstd", "-Xcompression-level"])
            .arg(level.to_string())
            .arg("-processors")
            .arg(threads.to_string())
            .arg("-root-mode")
            .arg(format!("{mode:o}"))
            // Beside it no option may set a time.
            .env_remove("SOURCE_DATE_EPOCH");
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::new(io::ErrorKind::NotFound, missing()),
            _ => error,
        })?;
        rustix::io::fcntl_setfd(&image, FdFlags::CLOEXEC)?;
        let input = child.stdin.take();
        Ok(Mksquashfs { inner: Some(inner), child, input, image })
    }

    /// Ends the image, copies it to the writer, and gives that back.
    ///
    /// # Errors
    /// What mksquashfs said, or those of the writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        drop(self.input.take());
        self.check()?;
        // mksquashfs wrote through an open file of its own, so this one still stands at the beginning.
        self.image.seek(SeekFrom::Start(0))?;
        let mut inner = self.inner.take().ok_or(io::ErrorKind::Other)?;
        io::copy(&mut self.image, &mut inner)?;
        Ok(inner)
    }

    /// Waits for mksquashfs and makes an error of what it says if it failed.
    fn check(&mut self) -> io::Result<()> {
        let mut said = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            // More than a pipe holds it does not say before it ends.
            let _ = stderr.take(MESSAGE_LIMIT).read_to_string(&mut said);
        }
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("mksquashfs failed ({status}): {}", said.trim())))
    }
}

impl<W: Write> Write for Mksquashfs<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Some(input) = &mut self.input {
            match input.write(data) {
                // It ended before its input did. If it failed, what it said is the reason.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    self.input = None;
                    self.check()?;
                }
                result => return result,
            }
        }
        // It need not wait for the zeros behind the end of the archive.
        match data.iter().all(|&byte| byte == 0) {
            true => Ok(data.len()),
            false => Err(io::Error::other("mksquashfs ended early")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Drop for Mksquashfs<W> {
    fn drop(&mut self) {
        drop(self.input.take());
        // Given up: it need not go on. Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_may_end_at_the_end_of_the_archive() {
        let mut squashfs = Mksquashfs::new(Vec::new(), DEFAULT_LEVEL, 1, Some(0), None).unwrap();
        squashfs.write_all(&[0; 1024]).unwrap();
        while squashfs.child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        squashfs.write_all(&[0; 4096]).unwrap();
        squashfs.write_all(&[0; 5120]).unwrap();
        assert!(squashfs.write_all(b"more").is_err());
        assert!(squashfs.finish().unwrap().starts_with(b"hsqs"));
    }
}
