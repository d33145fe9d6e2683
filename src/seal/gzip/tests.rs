//! Round trips, reproducible bytes, and failures of writers and workers.

use std::io::Read;

use super::*;

fn gzipped(data: &[u8], level: u32, threads: usize, step: usize) -> Vec<u8> {
    let mut gzip = Gzip::new(Vec::new(), level, threads).unwrap();
    for part in data.chunks(step) {
        gzip.write_all(part).unwrap();
    }
    gzip.finish().unwrap()
}

fn sample(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut data = Vec::with_capacity(length + 16);
    while data.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 3 {
            0 => data.extend_from_slice(&state.to_le_bytes()),
            1 => data.extend_from_slice(b"words that repeat "),
            _ => data.extend_from_within(data.len().saturating_sub(state as usize % 4000)..),
        }
        if state.is_multiple_of(20_000) {
            data.resize(data.len() + 700_000, 0);
        }
    }
    data.truncate(length);
    data
}

#[test]
fn bytes_depend_only_on_input_and_level() {
    let data = sample(5_000_000);
    for level in [1, 6, 9] {
        let expected = gzipped(&data, level, 1, data.len());
        for (threads, step) in [(1, 1000), (2, 77_777), (7, CHUNK_BYTES), (3, 1 << 20)] {
            assert!(gzipped(&data, level, threads, step) == expected, "{level} {threads} {step}");
        }
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&expected[..]).read_to_end(&mut back).unwrap();
        assert!(back == data);
    }
}

#[test]
fn chunk_boundaries_round_trip() {
    let data = sample(3 * CHUNK_BYTES + 1);
    for length in [
        0,
        1,
        WINDOW_BYTES,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        2 * CHUNK_BYTES,
        3 * CHUNK_BYTES + 1,
    ] {
        let gzip = gzipped(&data[..length], 6, 2, 4096);
        assert_eq!(gzip[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        let mut decoder = flate2::bufread::GzDecoder::new(&gzip[..]);
        let mut back = Vec::new();
        decoder.read_to_end(&mut back).unwrap();
        assert!(back == data[..length], "{length}");
        assert!(decoder.into_inner().is_empty(), "data after the member");
    }
}

#[test]
fn cached_zero_chunks_have_the_same_bytes() {
    let data = vec![0; 10 * CHUNK_BYTES];
    let gzip = gzipped(&data, 6, 2, 1 << 20);
    let mut deflater = Deflater::new(6, ZeroChunk::default());
    let zeros = || vec![0; WINDOW_BYTES + CHUNK_BYTES];
    let first = deflater.deflate(zeros(), WINDOW_BYTES, false).unwrap();
    let again =
        Deflater::new(6, ZeroChunk::default()).deflate(zeros(), WINDOW_BYTES, false).unwrap();
    assert_eq!(first.deflated, again.deflated);
    let count = gzip.windows(first.deflated.len()).filter(|w| **w == *first.deflated).count();
    assert!(count >= 9, "{count}");
    let mut back = Vec::new();
    flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut back).unwrap();
    assert!(back == data);
}

/// Fails after this many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn writer_error_ends_compression() {
    let data = sample(20_000_000);
    let mut gzip = Gzip::new(Full(100_000), 1, 2).unwrap();
    let error = gzip.write_all(&data).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn worker_panic_is_an_error() {
    let mut gzip = Gzip::new(Vec::new(), 6, 1).unwrap();
    // More dictionary than buffer: the worker's split panics.
    let (answer, result) = sync_channel(1);
    let job = GzipJob { buffer: Vec::new(), dictionary: 1, last: false, answer };
    gzip.workers.submit(job).unwrap();
    gzip.pending.push_back(result);
    let error = gzip.write_all(&sample(50 * CHUNK_BYTES)).and_then(|()| gzip.finish()).unwrap_err();
    assert!(error.to_string().contains("thread"), "{error}");
}

#[test]
fn chunks_in_memory_are_bounded() {
    let mut gzip = Gzip::new(io::sink(), 1, 2).unwrap();
    for _ in 0..200 {
        gzip.write_all(&[7; CHUNK_BYTES]).unwrap();
        assert!(gzip.pending.len() <= max_chunks(2));
        assert!(gzip.spare.len() <= max_chunks(2) + 1);
    }
    gzip.finish().unwrap();
}
