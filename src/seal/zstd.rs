//! zstd, as one frame (RFC 8878) with a content checksum.
//!
//! Linux's initramfs unpacker accepts one frame. zstd's worker threads split the input into jobs by
//! the level alone, so any number of workers gives the same bytes. Compressing without workers
//! gives other bytes, so there is always at least one.

use std::io::{self, Write};

/// The default level.
pub(crate) const DEFAULT_LEVEL: u32 = 3;

/// A zstd compressor that writes to another writer.
pub(crate) struct Zstd<W: Write> {
    encoder: zstd::stream::write::Encoder<'static, W>,
}

impl<W: Write> std::fmt::Debug for Zstd<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zstd").finish_non_exhaustive()
    }
}

impl<W: Write> Zstd<W> {
    /// Starts a frame on `inner` with `threads` workers (at least one). `level` is 1 to 19.
    ///
    /// # Errors
    /// Fails if zstd rejects a parameter.
    pub(crate) fn new(inner: W, level: u32, threads: usize) -> io::Result<Self> {
        let mut encoder = zstd::stream::write::Encoder::new(inner, level.clamp(1, 19) as i32)?;
        encoder.multithread(threads.clamp(1, 64) as u32)?;
        encoder.include_checksum(true)?;
        Ok(Zstd { encoder })
    }

    /// Ends the frame and returns the writer, unflushed.
    ///
    /// # Errors
    /// Returns errors of the writer.
    pub(crate) fn finish(self) -> io::Result<W> {
        self.encoder.finish()
    }
}

impl<W: Write> Write for Zstd<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.encoder.write(data)
    }

    /// Does not end a block: the bytes must depend only on the input.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
