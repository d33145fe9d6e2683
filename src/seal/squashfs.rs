//! squashfs, by `sqfstar` of squashfs-tools: it reads a tar stream on its standard input and uses
//! all processors.
//!
//! It writes into a file in memory that has no name, which is copied to the output when all of it
//! is there: nothing is staged on disk, and a failure leaves nothing behind. It gets its input from
//! this process alone, so it ends when this process does, however that ends.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::fs::MemfdFlags;

/// The level when none is asked for: zstd's own default in squashfs-tools.
pub(super) const DEFAULT_LEVEL: u32 = 15;

/// How much of what sqfstar says is kept for the message, in bytes.
const MESSAGE_LIMIT: u64 = 4096;

/// A `sqfstar` in front of a writer.
#[derive(Debug)]
pub(super) struct Sqfstar<W: Write> {
    /// Taken by `finish`.
    inner: Option<W>,
    child: Child,
    input: Option<ChildStdin>,
    image: File,
}

impl<W: Write> Sqfstar<W> {
    /// Starts `sqfstar`. `epoch` is the time that the image states as its own, now if absent.
    ///
    /// # Errors
    /// When it is not installed.
    pub(super) fn new(
        inner: W,
        level: u32,
        threads: usize,
        epoch: Option<u32>,
    ) -> io::Result<Self> {
        let image = File::from(rustix::fs::memfd_create("squashfs", MemfdFlags::CLOEXEC)?);
        let mut command = Command::new("sqfstar");
        command
            .args(["-quiet", "-no-progress", "-force", "-comp", "zstd", "-Xcompression-level"])
            .arg(level.to_string())
            .arg("-processors")
            .arg(threads.to_string())
            // It takes one or the other, not both.
            .env_remove("SOURCE_DATE_EPOCH");
        if let Some(epoch) = epoch {
            command.arg("-mkfs-time").arg(epoch.to_string());
        }
        command
            .arg(format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::new(
                io::ErrorKind::NotFound,
                "sqfstar is not installed; as root: `apt install squashfs-tools`",
            ),
            _ => error,
        })?;
        let input = child.stdin.take();
        Ok(Sqfstar { inner: Some(inner), child, input, image })
    }

    /// Ends the image, copies it to the writer, and gives that back.
    ///
    /// # Errors
    /// What sqfstar said, or those of the writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        drop(self.input.take());
        self.check()?;
        // sqfstar wrote through an open file of its own, so this one still stands at the beginning.
        self.image.seek(SeekFrom::Start(0))?;
        let mut inner = self.inner.take().ok_or(io::ErrorKind::Other)?;
        io::copy(&mut self.image, &mut inner)?;
        Ok(inner)
    }

    /// Waits for sqfstar and makes an error of what it says if it failed.
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
        Err(io::Error::other(format!("sqfstar failed ({status}): {}", said.trim())))
    }
}

impl<W: Write> Write for Sqfstar<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let Some(input) = &mut self.input else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        match input.write(data) {
            // It ended before its input did: what it said is the reason.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.input = None;
                self.check()?;
                Err(io::Error::other("sqfstar ended early"))
            }
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Drop for Sqfstar<W> {
    fn drop(&mut self) {
        drop(self.input.take());
        // Given up: it need not go on. Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
