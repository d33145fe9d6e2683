//! The bytes of an image, as the kernel's initramfs unpacker takes them apart
//! (`init/initramfs.c`): archives and compressed members one after the other, with zeros between
//! them.
//!
//! Nothing is refused here that can be gone on from: what the kernel would not take is told to the
//! [`Sink`], and the next byte is looked at. Memory is bounded: content passes through in pieces.

use std::io::{BufRead, Read};

use flate2::bufread::GzDecoder;

/// Bytes that are decoded at a time.
const PIECE: usize = 64 << 10;
/// More than any machine unpacks: an image that claims more is there to cost time.
const MOST: u64 = 16 << 30;

/// A compression by which images are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip {
        /// The header's flags (RFC 1952, 2.3.1).
        flags: u8,
    },
    Zstd,
}

/// What an image consists of, piece by piece.
pub(super) trait Sink {
    /// A compressed member begins.
    fn member(&mut self, compression: Compression);
    /// Some of what is in it. Nothing more is wanted when `false` comes back.
    fn bytes(&mut self, bytes: &[u8]) -> bool;
    /// It is at its end.
    fn end_of_member(&mut self);
    /// Takes of a plain archive what belongs to it: how many bytes.
    fn plain(&mut self, bytes: &[u8]) -> usize;
    /// Whether an archive has begun and not ended.
    fn within(&self) -> bool;
}

/// Why an image was not read to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is not one at all, or compressed in a way that is not read here.
    Unknown(&'static str),
    /// A compressed member is damaged or cut off: what it is, and what the decoder says.
    Damaged(&'static str, String),
    /// What follows at this byte of the image is nothing that is known.
    Junk(usize),
    /// It would take more than anybody has.
    TooMuch,
}

/// Takes an image apart.
pub(super) fn read(image: &[u8], sink: &mut dyn Sink) -> Result<(), Trouble> {
    let mut at = 0;
    let mut budget = MOST;
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
                let damaged = |e: std::io::Error| Trouble::Damaged("zstd", e.to_string());
                let decoder = zstd::stream::read::Decoder::with_buffer(rest).map_err(damaged)?;
                let mut decoder = decoder.single_frame();
                pump(&mut decoder, "zstd", &mut budget, sink)?;
                rest.len() - decoder.finish().fill_buf().map_or(0, <[u8]>::len)
            }
            _ if rest.starts_with(b"07070") || sink.within() => {
                let taken = sink.plain(rest);
                // Something that it does not want.
                if taken == 0 {
                    return Err(Trouble::Junk(at));
                }
                taken
            }
            _ => {
                return Err(match known(rest) {
                    Some(what) => Trouble::Unknown(what),
                    None if at == 0 => Trouble::Unknown("something else"),
                    None => Trouble::Junk(at),
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
) -> Result<(), Trouble> {
    let mut buffer = vec![0; PIECE];
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                *budget = budget.checked_sub(length as u64).ok_or(Trouble::TooMuch)?;
                if !sink.bytes(&buffer[..length]) {
                    return Err(Trouble::TooMuch);
                }
            }
            Err(error) => return Err(Trouble::Damaged(what, error.to_string())),
        }
    }
    sink.end_of_member();
    Ok(())
}

/// What begins with these bytes, of what is not read here.
fn known(bytes: &[u8]) -> Option<&'static str> {
    let magics: [(&[u8], &str); 10] = [
        (b"\xfd7zXZ", "compressed with xz"),
        (b"BZh", "compressed with bzip2"),
        (b"\x02\x21\x4c\x18", "compressed with lz4"),
        (b"\x04\x22\x4d\x18", "compressed with lz4"),
        (b"\x89LZO", "compressed with lzo"),
        (b"\x5d\0\0", "compressed with lzma"),
        (b"\x1f\x9d", "compressed with LZW"),
        (b"\xc7\x71", "an archive of the old binary cpio format"),
        (b"\x71\xc7", "an archive of the old binary cpio format"),
        (b"\x7fELF", "a program"),
    ];
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar archive");
    }
    magics.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, what)| *what)
}
