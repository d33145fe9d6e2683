//! What goes in comes out, and what fails ends.

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
fn the_bytes_depend_on_the_input_and_the_level_alone() {
    let data = sample(5_000_000);
    for level in [1, 6, 9] {
        let expected = gzipped(&data, level, 1, data.len());
        for (threads, step) in [(1, 1000), (2, 77_777), (7, CHUNK), (3, 1 << 20)] {
            assert!(gzipped(&data, level, threads, step) == expected, "{level} {threads} {step}");
        }
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&expected[..]).read_to_end(&mut back).unwrap();
        assert!(back == data);
    }
}

#[test]
fn the_edges_of_chunks_are_right() {
    let data = sample(3 * CHUNK + 1);
    for length in [0, 1, WINDOW, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 1] {
        let gzip = gzipped(&data[..length], 6, 2, 4096);
        assert_eq!(gzip[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        let mut decoder = flate2::bufread::GzDecoder::new(&gzip[..]);
        let mut back = Vec::new();
        decoder.read_to_end(&mut back).unwrap();
        assert!(back == data[..length], "{length}");
        assert!(decoder.into_inner().is_empty(), "one member, and nothing after it");
    }
}

#[test]
fn long_zeros_are_the_same_bytes_as_without_the_short_cut() {
    let data = vec![0; 10 * CHUNK];
    let gzip = gzipped(&data, 6, 2, 1 << 20);
    let mut deflater = Deflater::new(6, ZeroChunk::default());
    let zeros = || vec![0; WINDOW + CHUNK];
    let first = deflater.deflate(zeros(), WINDOW, false).unwrap();
    let again = Deflater::new(6, ZeroChunk::default()).deflate(zeros(), WINDOW, false).unwrap();
    assert_eq!(first.deflated, again.deflated);
    let count = gzip.windows(first.deflated.len()).filter(|w| **w == *first.deflated).count();
    assert!(count >= 9, "{count}");
    let mut back = Vec::new();
    flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut back).unwrap();
    assert!(back == data);
}

/// Fails after so many bytes.
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
fn a_writer_that_fails_ends_the_work() {
    let data = sample(20_000_000);
    let mut gzip = Gzip::new(Full(100_000), 1, 2).unwrap();
    let error = gzip.write_all(&data).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_worker_that_panics_ends_as_an_error() {
    let mut gzip = Gzip::new(Vec::new(), 6, 1).unwrap();
    // More dictionary than buffer: the worker's split panics.
    let (answer, result) = sync_channel(1);
    let job = Job { buffer: Vec::new(), dictionary: 1, last: false, answer };
    gzip.workers.submit(job).unwrap();
    gzip.pending.push_back(result);
    let error = gzip.write_all(&sample(50 * CHUNK)).and_then(|()| gzip.finish()).unwrap_err();
    assert!(error.to_string().contains("thread"), "{error}");
}

#[test]
fn what_is_held_at_a_time_is_bounded() {
    let mut gzip = Gzip::new(io::sink(), 1, 2).unwrap();
    for _ in 0..200 {
        gzip.write_all(&[7; CHUNK]).unwrap();
        assert!(gzip.pending.len() <= in_flight(2));
        assert!(gzip.spare.len() <= in_flight(2) + 1);
    }
    gzip.finish().unwrap();
}
