//! gzip and zstd streams of archives.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;

/// Returns whether `bytes` begins with a gzip member or a zstd frame.
pub(super) fn is_compressed(bytes: &[u8]) -> bool {
    is_gzip(bytes) || is_zstd(bytes)
}

fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Returns whether `bytes` begins with a frame or a skippable frame (RFC 8878, 3.1).
fn is_zstd(bytes: &[u8]) -> bool {
    match bytes {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => true,
        [first, 0x2a, 0x4d, 0x18, ..] => first >> 4 == 5,
        _ => false,
    }
}

/// Concatenates consecutive gzip members and zstd frames to one stream. Zeros between them are
/// skipped.
pub(super) struct Decoder<'a> {
    rest: &'a [u8],
    member: Option<CompressedMember<'a>>,
}

enum CompressedMember<'a> {
    Gzip(Box<GzDecoder<&'a [u8]>>),
    Zstd(zstd::stream::read::Decoder<'static, &'a [u8]>),
}

impl<'a> Decoder<'a> {
    /// Creates a decoder for the stream at the start of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Decoder { rest: bytes, member: None }
    }

    /// Returns the bytes after the members that were decoded.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = match &mut self.member {
                Some(CompressedMember::Gzip(gzip)) => gzip.read(buf)?,
                Some(CompressedMember::Zstd(zstd)) => zstd.read(buf)?,
                None => 0,
            };
            if length > 0 || buf.is_empty() {
                return Ok(length);
            }
            match self.member.take() {
                Some(CompressedMember::Gzip(gzip)) => self.rest = gzip.into_inner(),
                Some(CompressedMember::Zstd(zstd)) => self.rest = zstd.finish(),
                None => {}
            }
            let zeros = self.rest.iter().take_while(|&&byte| byte == 0).count();
            let rest = &self.rest[zeros..];
            self.member = if is_gzip(rest) {
                Some(CompressedMember::Gzip(Box::new(GzDecoder::new(rest))))
            } else if is_zstd(rest) {
                let zstd = zstd::stream::read::Decoder::with_buffer(rest)?;
                Some(CompressedMember::Zstd(zstd.single_frame()))
            } else {
                return Ok(0);
            };
        }
    }
}
