//! Compressed files of any content: gzip, xz and zstd.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// The compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// Maximum bytes at the start of a file that show its compression.
    pub(crate) const HEAD_BYTES: usize = 6;

    /// Returns the compression of a file that begins with `head`.
    pub(crate) fn detect(head: &[u8]) -> Option<Compression> {
        match head {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Returns a reader of the decompressed content of `file`.
    ///
    /// # Errors
    /// Fails if no decoder can be created.
    pub(crate) fn decoder<'a>(self, file: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::Gzip => Box::new(GzipMembers(Some(GzDecoder::new(file)))),
            Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
        })
    }
}

/// A reader of the members of a gzip file, as gzip itself reads them: zeros may follow the last
/// one. Holds the current member; `None` at the end.
struct GzipMembers<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(mut member) = self.0.take() {
            let read = member.read(buffer);
            if !matches!(read, Ok(0)) || buffer.is_empty() {
                self.0 = Some(member);
                return read;
            }
            let mut rest = member.into_inner();
            loop {
                match rest.fill_buf() {
                    Ok([]) => break,
                    Ok([0x1f, ..]) => {
                        self.0 = Some(GzDecoder::new(rest));
                        break;
                    }
                    Ok([0, ..]) => rest.consume(1),
                    Ok(_) => {
                        let what = "trailing data after the compressed data";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(0)
    }
}
