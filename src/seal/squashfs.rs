//! squashfs, by `mksquashfs -tar` of squashfs-tools 4.5 or later: it reads a tar stream from
//! standard input and uses all processors. (`sqfstar` is the same program, but version 4.5 of it
//! has no option for the compression level.)
//!
//! mksquashfs ignores the tar's entry for the root. The root's mode is an option. Its owner is the
//! user who runs mksquashfs (before 4.6 no option changes that), so it runs in a user namespace
//! that maps that user to the right owner. The root's time is that of the build, clamped to the
//! image's own time, so only an image with times in the future shows when it was built.
//!
//! mksquashfs writes to an anonymous file in memory, which is copied to the output when it is
//! complete: nothing is staged on disk, and a failure leaves nothing behind. Its only input is this
//! process, so it ends when this process ends, for whatever reason.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, Command, Stdio};

use fs_model::attr::Attr;
use nix::unistd::{getgid, getuid};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use crate::sandbox::MissingRequirement;

/// The default level. That of squashfs-tools is 15, which takes six times as long and saves 6 %
/// (measured on a Debian base).
pub(super) const DEFAULT_LEVEL: u32 = 9;

/// Bytes kept of mksquashfs's error output for the message.
const MESSAGE_LIMIT: u64 = 4096;

/// Returns the error for a missing `mksquashfs`.
fn missing() -> MissingRequirement {
    MissingRequirement::program("mksquashfs", "squashfs-tools")
}

/// Checks that images can be written here, before any work is done.
///
/// # Errors
/// Returns the missing requirement, and how to meet it.
pub(crate) fn available() -> Result<(), MissingRequirement> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("mksquashfs").is_file());
    if found { Ok(()) } else { Err(missing()) }
}

/// Writes an empty image in the same way as bases are written.
///
/// # Errors
/// Returns why it cannot be written.
pub(crate) fn write_empty_image() -> io::Result<()> {
    const END_OF_ARCHIVE: [u8; 1024] = [0; 1024];
    let mut squashfs = Mksquashfs::new(Vec::new(), DEFAULT_LEVEL, 1, Some(0), None)?;
    squashfs.write_all(&END_OF_ARCHIVE)?;
    squashfs.finish().map(drop)
}

/// Returns a `mksquashfs` command whose user appears to it as `uid` and `gid`.
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

/// A writer that passes its input through `mksquashfs` to another writer.
#[derive(Debug)]
pub(super) struct Mksquashfs<W: Write> {
    /// Taken by `finish`.
    inner: Option<W>,
    child: Child,
    input: Option<ChildStdin>,
    image: File,
}

impl<W: Write> Mksquashfs<W> {
    /// Starts `mksquashfs`. `root` has the attributes of the image's root, or is `None` for an
    /// empty image. `epoch` is the image's own time and the latest time in it.
    ///
    /// # Errors
    /// Fails if `mksquashfs` is not installed.
    pub(super) fn new(
        inner: W,
        level: u32,
        threads: usize,
        epoch: Option<u32>,
        root: Option<&Attr>,
    ) -> io::Result<Self> {
        // Inherited, because this process's descriptors are not accessible from another user
        // namespace.
        let image = File::from(rustix::fs::memfd_create("squashfs", MemfdFlags::empty())?);
        let (mode, uid, gid) = root.map_or((0o755, 0, 0), |root| (root.mode, root.uid, root.gid));
        let mut command = program(uid, gid);
        command
            .arg("-")
            .arg(format!("/proc/self/fd/{}", image.as_raw_fd()))
            .args(["-tar", "-noappend", "-quiet", "-no-progress"])
            // With `-tailends`, the default for tar, mksquashfs 4.5.1 damages files whose first
            // blocks are another file's (upstream's commit 04d3bc80), and writes files in which
            // SEEK_DATA of the kernel fails with EIO. The option has no effect before `-tar`,
            // which sets the default.
            .arg("-no-tailends")
            .args(["-comp", "zstd", "-Xcompression-level"])
            .arg(level.to_string())
            .arg("-processors")
            .arg(threads.to_string())
            .arg("-root-mode")
            .arg(format!("{mode:o}"))
            // mksquashfs rejects SOURCE_DATE_EPOCH together with an option that sets a time.
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

    /// Ends the image and returns it.
    ///
    /// # Errors
    /// Returns mksquashfs's error output.
    pub(super) fn complete(&mut self) -> io::Result<&File> {
        drop(self.input.take());
        self.check()?;
        Ok(&self.image)
    }

    /// Ends the image, copies it to the writer and returns the writer.
    ///
    /// # Errors
    /// Returns mksquashfs's error output, or an error of the writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.complete()?;
        // mksquashfs wrote through its own open file, so this one's offset is still 0.
        self.image.seek(SeekFrom::Start(0))?;
        let mut inner = self.inner.take().ok_or(io::ErrorKind::Other)?;
        io::copy(&mut self.image, &mut inner)?;
        Ok(inner)
    }

    /// Waits for mksquashfs and returns its error output if it failed.
    fn check(&mut self) -> io::Result<()> {
        let mut message = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            // It does not write more than a pipe holds before it ends.
            let _ = stderr.take(MESSAGE_LIMIT).read_to_string(&mut message);
        }
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("mksquashfs failed ({status}): {}", message.trim())))
    }
}

impl<W: Write> Write for Mksquashfs<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Some(input) = &mut self.input {
            match input.write(data) {
                // It ended before its input did. If it failed, its error output has the reason.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    self.input = None;
                    self.check()?;
                }
                result => return result,
            }
        }
        // It may end before it reads the zeros after the end of the archive.
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
        // Not finished: kill it. Both calls fail only when it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_after_the_archive_may_stay_unread() {
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
