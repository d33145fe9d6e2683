//! SHA-256 digests and hexadecimal digits.

use std::io::{self, ErrorKind, Read};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// Bytes read at a time.
const BUFFER_SIZE: usize = 256 << 10;

/// Returns lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Returns the SHA-256 of `bytes` in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Returns the first digits of a digest, which identify one of a few files.
pub(crate) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Returns the SHA-256 of everything that `reader` returns.
///
/// # Errors
/// Fails if reading fails; interrupted reads are repeated.
pub(crate) fn digest_reader(mut reader: impl Read) -> io::Result<[u8; 32]> {
    digest_read_at(u64::MAX, |_, buffer| retry_interrupted(|| reader.read(buffer)))
}

/// Returns the SHA-256 of the content that `read_at` reads into a buffer from an offset; `read_at`
/// returns 0 at the end. `size` is the expected size, which bounds the buffer, not the content.
///
/// # Errors
/// Returns the first error of `read_at`.
pub(crate) fn digest_read_at<E>(
    size: u64,
    mut read_at: impl FnMut(u64, &mut [u8]) -> Result<usize, E>,
) -> Result<[u8; 32], E> {
    let capacity = usize::try_from(size).unwrap_or(BUFFER_SIZE).clamp(1, BUFFER_SIZE);
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; capacity];
    let mut offset = 0;
    loop {
        let read = read_at(offset, &mut buffer)?;
        if read == 0 {
            return Ok(sha256.finalize().into());
        }
        sha256.update(&buffer[..read]);
        offset += read as u64;
    }
}

/// Repeats `read` while it fails with `EINTR`.
///
/// # Errors
/// Returns any other error of `read`.
pub(crate) fn retry_interrupted(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_and_slices_have_the_same_digest() {
        for length in [0, 1, BUFFER_SIZE - 1, BUFFER_SIZE, 2 * BUFFER_SIZE + 7] {
            let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let expected = sha256_hex(&content);
            assert_eq!(hex(&digest_reader(&content[..]).unwrap()), expected);
            let read_at =
                |offset: u64, buffer: &mut [u8]| (&content[offset as usize..]).read(buffer);
            for size in [0, length as u64, u64::MAX] {
                assert_eq!(hex(&digest_read_at(size, read_at).unwrap()), expected);
            }
        }
    }
}
