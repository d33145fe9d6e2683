//! Imports of tar archives compared with GNU tar: the same archive, extracted by root into a tmpfs
//! and imported into a tree, must become the same files.
//!
//! Without root GNU tar cannot set owners and make devices, and the comparisons are left out.

mod odd;
mod random;
mod raw;
mod roundtrip;
mod snapshot;
#[path = "../support/tools.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with other test binaries")]
mod tools;
mod writers;

/// A generator of pseudo-random numbers (xorshift64*), for tests that a seed repeats.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `times` on average.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// The seeds to run: those of the environment's `TAR_SEEDS`, as `FIRST..END`, or `usual`.
fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(seeds) = std::env::var("TAR_SEEDS") else { return usual };
    let (first, end) = seeds.split_once("..").expect("TAR_SEEDS=FIRST..END");
    first.parse().unwrap()..end.parse().unwrap()
}

/// Whether GNU tar can be the reference here.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not root: GNU tar cannot set owners, so nothing is compared");
    }
    root
}

/// A directory on a tmpfs, which keeps all attributes.
fn memory_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("overcoat-tar-").tempdir_in("/dev/shm").unwrap()
}
