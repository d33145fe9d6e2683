//! The tree that the threads share, and the state that they expect in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use fs_model::layer::Layer;
use fs_model::tree::{MknodArgs, Tree, TreeOptions, XattrSupport};
use fs_model::{FsError, Ino};

use crate::THREADS;
use crate::layer::MemoryLayer;

/// Size of a block that is written at once, in bytes. Blocks cross chunk boundaries.
pub(crate) const BLOCK: usize = 24 << 10;
pub(crate) const BLOCKS: usize = 8;
/// Size of a log record in bytes: the writer and the number.
pub(crate) const RECORD: usize = 16;
/// Number of names in each of the directories in which objects are moved.
pub(crate) const MOVE_NAMES: usize = 8;
/// Number of names that are created and removed in each of them.
pub(crate) const TEMPORARY_NAMES: usize = 2;
/// Number of names of a linked file.
pub(crate) const LINKS: usize = 6;
/// Number of names that no thread changes.
pub(crate) const STAYING: usize = 12;
/// Number of files of each kind: the first is from the layer, if there is one, the second is new.
pub(crate) const FILES: usize = 2;

pub(crate) struct World {
    pub(crate) tree: Tree,
    pub(crate) layer: Option<MemoryLayer>,
    /// The directories of all work. One reference of each is held.
    pub(crate) dirs: Vec<Ino>,
    /// The objects that are moved: files and directories. One reference of each is held.
    pub(crate) tokens: Vec<Ino>,
    pub(crate) token_dirs: Vec<Ino>,
    pub(crate) blocks: Vec<Ino>,
    pub(crate) logs: Vec<Ino>,
    pub(crate) linked: Vec<Ino>,
    pub(crate) changing: Vec<Ino>,
    /// The latest generation that each thread wrote to each block; 0 for none.
    pub(crate) written: Vec<Vec<Vec<AtomicU64>>>,
    /// Number of records that each thread appended to each log.
    pub(crate) appended: Vec<Vec<AtomicU64>>,
    /// Number of creations minus removals of each name.
    pub(crate) balance: BTreeMap<(usize, Vec<u8>), AtomicI64>,
    steps: AtomicU64,
    full: AtomicBool,
    limited: bool,
}

pub(crate) const FILE: MknodArgs<'static> = MknodArgs::file(0o600, 0, 0);
pub(crate) const DIR: MknodArgs<'static> = MknodArgs::directory(0o700, 0, 0);

/// The two directories.
const NAMES: [&str; 2] = ["a", "b"];

pub(crate) fn place(n: usize) -> Vec<u8> {
    format!("place-{n}").into_bytes()
}

pub(crate) fn made(n: usize) -> Vec<u8> {
    format!("made-{n}").into_bytes()
}

pub(crate) fn link(n: usize) -> Vec<u8> {
    format!("link-{n}").into_bytes()
}

pub(crate) fn staying(n: usize) -> Vec<u8> {
    format!("staying-{n}").into_bytes()
}

/// Returns `count` words of a generation.
pub(crate) fn words(generation: u64, count: usize) -> Vec<u8> {
    generation.to_ne_bytes().repeat(count)
}

/// Returns the generation of `bytes`.
///
/// # Panics
/// If they contain several generations.
#[track_caller]
pub(crate) fn generation(bytes: &[u8], what: &str) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty() && !words.is_empty(), "{what}: {} bytes", bytes.len());
    assert!(words.iter().all(|word| *word == words[0]), "{what}: torn");
    u64::from_ne_bytes(words[0])
}

impl World {
    pub(crate) fn new(layered: bool, limit: u64) -> World {
        let layer = layered.then(base);
        let layers = layer.iter().map(|l| Arc::new(l.clone()) as Arc<dyn Layer>).collect();
        let options = TreeOptions { upper_limit: Some(limit), xattrs: XattrSupport::All };
        let tree = Tree::new(layers, options).unwrap();
        let dirs = NAMES.map(|name| find_or_make(&tree, Ino::ROOT, name.as_bytes(), &DIR)).to_vec();
        let files = |what: &str| -> Vec<Ino> {
            (0..FILES)
                .map(|n| find_or_make(&tree, dirs[n % 2], format!("{what}-{n}").as_bytes(), &FILE))
                .collect()
        };
        let (blocks, logs, linked, changing) =
            (files("blocks"), files("log"), files("linked"), files("changing"));
        // Every other name is in use, half of them by directories.
        let mut tokens = Vec::new();
        let mut token_dirs = Vec::new();
        for (n, dir) in dirs.iter().enumerate() {
            for at in (0..MOVE_NAMES).step_by(2) {
                let is_dir = at % 4 == 0;
                let node = if is_dir { &DIR } else { &FILE };
                let ino = find_or_make(&tree, *dir, &place(at + n), node);
                tokens.push(ino);
                if is_dir {
                    token_dirs.push(ino);
                }
            }
            let current = find_or_make(&tree, *dir, b"current", &FILE);
            tree.forget(current, 1);
            for at in 0..STAYING {
                let ino = find_or_make(&tree, *dir, &staying(at), &FILE);
                tree.forget(ino, 1);
            }
        }
        let names =
            (0..dirs.len()).flat_map(|dir| (0..TEMPORARY_NAMES).map(move |n| (dir, made(n))));
        let links = (0..dirs.len()).flat_map(|dir| (0..LINKS).map(move |n| (dir, link(n))));
        World {
            dirs,
            tokens,
            token_dirs,
            logs,
            linked,
            changing,
            written: blocks
                .iter()
                .map(|_| (0..BLOCKS).map(|_| counters(THREADS).collect()).collect())
                .collect(),
            appended: (0..FILES).map(|_| counters(THREADS).collect()).collect(),
            blocks,
            balance: names.chain(links).map(|key| (key, AtomicI64::new(0))).collect(),
            steps: AtomicU64::new(0),
            full: AtomicBool::new(false),
            limited: limit < u64::MAX,
            tree,
            layer,
        }
    }

    pub(crate) fn progress(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether the size limit is too small for all operations.
    pub(crate) fn is_limited(&self) -> bool {
        self.limited
    }

    pub(crate) fn was_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Returns the successful result of a call; `None` if it failed with an error that `refused`
    /// accepts, or for lack of space where space is limited.
    #[track_caller]
    pub(crate) fn may<T>(
        &self,
        result: Result<T, FsError>,
        refused: impl Fn(&FsError) -> bool,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(FsError::NoSpace { .. }) if self.limited => {
                self.full.store(true, Ordering::Relaxed);
                None
            }
            Err(error) => {
                assert!(refused(&error), "{error}");
                None
            }
        }
    }

    /// Counts a name in directory `dir` that was created (1) or removed (-1).
    pub(crate) fn count(&self, dir: usize, name: &[u8], by: i64) {
        self.balance[&(dir, name.to_vec())].fetch_add(by, Ordering::Relaxed);
    }
}

fn counters(count: u64) -> impl Iterator<Item = AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0))
}

fn find_or_make(tree: &Tree, dir: Ino, name: &[u8], node: &MknodArgs<'_>) -> Ino {
    match tree.lookup(dir, name) {
        Ok(entry) => entry.ino,
        Err(FsError::NotFound) => tree.mknod(dir, name, node).unwrap().ino,
        Err(error) => panic!("{error}"),
    }
}

/// Creates a layer with some of the objects, so that the others are new.
fn base() -> MemoryLayer {
    let mut layer = MemoryLayer::default();
    let a = layer.directory(0, "a");
    layer.file(a, "blocks-0", &[0; BLOCK * BLOCKS]);
    layer.file(a, "log-0", b"");
    layer.file(a, "linked-0", b"linked");
    layer.file(a, "changing-0", b"changing");
    let token = layer.directory(a, "place-0");
    layer.file(token, "inside", b"inside");
    layer.directory(token, "below");
    layer.file(a, "place-2", b"token");
    layer.directory(a, "place-4");
    for n in 0..STAYING / 2 {
        layer.file(a, &format!("staying-{n}"), b"");
    }
    let far = layer.directory(0, "far");
    let away = layer.directory(far, "away");
    layer.file(away, "file", b"far away");
    layer
}
