//! Splits an image as the kernel's initramfs unpacker does (`init/initramfs.c`): a sequence of
//! archives and compressed members, with zeros between them.
//!
//! Input that the kernel would reject is passed to the [`Sink`] where reading can continue after
//! it. Memory is bounded: the content is processed in chunks.

use std::io::{BufRead, Read};

use flate2::bufread::GzDecoder;

/// Bytes decoded at a time.
const CHUNK_SIZE: usize = 64 << 10;
/// Maximum unpacked bytes. Real images are smaller; the limit bounds the time for malicious ones.
const MAX_UNPACKED: u64 = 16 << 30;

/// Compression of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip {
        /// The header's flags (RFC 1952, 2.3.1).
        flags: u8,
    },
    Zstd,
}

/// Receives the parts of an image.
pub(super) trait Sink {
    /// Begins a compressed member.
    fn member(&mut self, compression: Compression);
    /// Receives decoded bytes of the member; returns false to stop.
    fn bytes(&mut self, bytes: &[u8]) -> bool;
    /// Ends the member.
    fn end_of_member(&mut self);
    /// Receives uncompressed bytes, and returns how many belong to the archive.
    fn plain(&mut self, bytes: &[u8]) -> usize;
    /// Returns whether an archive has begun and not ended.
    fn within(&self) -> bool;
}

/// Reason why an image was not read completely.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamError {
    /// Unsupported format, with its description.
    Unknown(&'static str),
    /// A compressed member is damaged or truncated: the format and the decoder's error.
    Damaged(&'static str, String),
    /// Unknown data at this byte offset of the image.
    Junk(usize),
    /// The content exceeds [`MAX_UNPACKED`], or the sink stopped.
    TooMuch,
}

/// Reads an image and passes its parts to `sink`.
pub(super) fn read(image: &[u8], sink: &mut dyn Sink) -> Result<(), StreamError> {
    let mut at = 0;
    let mut budget = MAX_UNPACKED;
    while at < image.len() {
        let rest = &image[at..];
        let zeros = rest.iter().take_while(|&&byte| byte == 0).count();
        if zeros > 0 && !sink.within() {
            at += zeros;
            continue;
        }
        at += match rest {
            [0x1f, 0x8b, ..] => {
                sink.member(Compression::Gzip { flags: rest.get(3).copied().unwrap_or_default() });
                let mut decoder = GzDecoder::new(rest);
                pump(&mut decoder, "gzip", &mut budget, sink)?;
                rest.len() - decoder.into_inner().len()
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                sink.member(Compression::Zstd);
                let damaged = |e: std::io::Error| StreamError::Damaged("zstd", e.to_string());
                let decoder = zstd::stream::read::Decoder::with_buffer(rest).map_err(damaged)?;
                let mut decoder = decoder.single_frame();
                pump(&mut decoder, "zstd", &mut budget, sink)?;
                rest.len() - decoder.finish().fill_buf().map_or(0, <[u8]>::len)
            }
            _ if rest.starts_with(b"07070") || sink.within() => {
                let consumed = sink.plain(rest);
                if consumed == 0 {
                    return Err(StreamError::Junk(at));
                }
                consumed
            }
            _ => {
                return Err(match unsupported_format(rest) {
                    Some(what) => StreamError::Unknown(what),
                    None if at == 0 => StreamError::Unknown("in an unknown format"),
                    None => StreamError::Junk(at),
                });
            }
        };
    }
    Ok(())
}

fn pump(
    decoder: &mut dyn Read,
    what: &'static str,
    budget: &mut u64,
    sink: &mut dyn Sink,
) -> Result<(), StreamError> {
    let mut buffer = vec![0; CHUNK_SIZE];
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                *budget = budget.checked_sub(length as u64).ok_or(StreamError::TooMuch)?;
                if !sink.bytes(&buffer[..length]) {
                    return Err(StreamError::TooMuch);
                }
            }
            Err(error) => return Err(StreamError::Damaged(what, error.to_string())),
        }
    }
    sink.end_of_member();
    Ok(())
}

/// Recognises unsupported formats by their first bytes.
fn unsupported_format(bytes: &[u8]) -> Option<&'static str> {
    let magics: [(&[u8], &str); 10] = [
        (b"\xfd7zXZ", "compressed with xz"),
        (b"BZh", "compressed with bzip2"),
        (b"\x02\x21\x4c\x18", "compressed with lz4"),
        (b"\x04\x22\x4d\x18", "compressed with lz4"),
        (b"\x89LZO", "compressed with lzo"),
        (b"\x5d\0\0", "compressed with lzma"),
        (b"\x1f\x9d", "compressed with LZW"),
        (b"\xc7\x71", "an archive in the old binary cpio format"),
        (b"\x71\xc7", "an archive in the old binary cpio format"),
        (b"\x7fELF", "an ELF file"),
    ];
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar archive with a damaged header");
    }
    magics.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, what)| *what)
}
