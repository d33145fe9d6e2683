//! Contents of compressed files, which may include a lent file: archives, and the objects of a
//! repository in which a package or step commits `/etc` (etckeeper).

use std::io::Read;

use flate2::bufread::ZlibDecoder;

use crate::root::compression::Compression;

/// Maximum bytes that are decompressed of a file.
const MAX_DECODED_BYTES: u64 = 256 << 20;

/// Whether the file at `path`, which begins with `head`, is searched as a compressed file. Files
/// below `/usr` are not: packages contain thousands of compressed files there.
pub(super) fn is_searched(path: &[u8], head: &[u8]) -> bool {
    let of_package = path.starts_with(b"usr/") && !path.starts_with(b"usr/local/");
    !of_package && (is_zlib(head) || Compression::detect(head).is_some())
}

/// Returns the decompressed content of a file, up to a limit and the first error; empty if the file
/// is not compressed.
pub(super) fn decode(content: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let reader = match Compression::detect(content) {
        Some(compression) => compression.decoder(content).ok(),
        None if is_zlib(content) => Some(Box::new(ZlibDecoder::new(content)) as Box<dyn Read>),
        None => None,
    };
    let Some(reader) = reader else { return decoded };
    // A truncated file is searched as far as it can be read.
    let _ = reader.take(MAX_DECODED_BYTES).read_to_end(&mut decoded);
    // git-hash-object(1): the text of a blob follows a header that ends with NUL.
    if decoded.starts_with(b"blob ")
        && let Some(end) = decoded.iter().position(|&byte| byte == 0)
    {
        decoded.drain(..=end);
    }
    decoded
}

/// Whether a file begins with the header of a zlib stream with the largest window (RFC 1950). Text
/// that begins with `x^` does, too.
fn is_zlib(head: &[u8]) -> bool {
    matches!(head, [0x78, flags, ..] if (0x7800 | u16::from(*flags)).is_multiple_of(31))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    #[test]
    fn blobs_of_git_are_decoded_without_their_header() {
        for level in [0, 1, 6, 9] {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
            encoder.write_all(b"blob 21\0nameserver 192.0.2.11").unwrap();
            let object = encoder.finish().unwrap();
            assert!(is_searched(b"etc/.git/objects/5e/1c309dae", &object));
            assert_eq!(decode(&object), b"nameserver 192.0.2.11");
        }
        assert!(!is_searched(b"etc/x", b"xylophone"));
    }

    #[test]
    fn decoding_ends_at_damage() {
        for content in [&b"\x1f\x8b\x08"[..], b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0\0", b"x^2"] {
            assert_eq!(decode(content), b"");
        }
    }
}
