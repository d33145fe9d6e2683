//! The tree that the threads share, and what they have agreed to find in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use fs_model::layer::Layer;
use fs_model::tree::{NewNode, Tree, TreeOptions, XattrSupport};
use fs_model::{FsError, Ino};

use crate::THREADS;
use crate::layer::MemoryLayer;

/// Bytes of a block that is written at once. Blocks lie across the edges of chunks.
pub(crate) const BLOCK: usize = 24 << 10;
pub(crate) const BLOCKS: usize = 8;
/// Bytes of a record of the logs: who wrote it, and its number.
pub(crate) const RECORD: usize = 16;
/// Names in each of the directories in which objects are moved around.
pub(crate) const PLACES: usize = 8;
/// Names that are made and removed in each of them.
pub(crate) const MADE: usize = 2;
/// Names that one file is given.
pub(crate) const LINKS: usize = 6;
/// Names that nobody touches.
pub(crate) const STAYING: usize = 12;
/// Files of each kind: the first is a layer's, if there is one, the second was made.
pub(crate) const FILES: usize = 2;

pub(crate) struct World {
    pub(crate) tree: Tree,
    pub(crate) layer: Option<MemoryLayer>,
    /// Where everything happens. One reference of each is held.
    pub(crate) dirs: Vec<Ino>,
    /// What is moved around: files and directories. One reference of each is held.
    pub(crate) tokens: Vec<Ino>,
    pub(crate) token_dirs: Vec<Ino>,
    pub(crate) blocks: Vec<Ino>,
    pub(crate) logs: Vec<Ino>,
    pub(crate) linked: Vec<Ino>,
    pub(crate) changing: Vec<Ino>,
    /// The last generation that each thread wrote into each block, and 0 for nothing.
    pub(crate) written: Vec<Vec<Vec<AtomicU64>>>,
    /// Records that each thread has appended to each log.
    pub(crate) appended: Vec<Vec<AtomicU64>>,
    /// How often each name was made, less how often it was removed.
    pub(crate) balance: BTreeMap<(usize, Vec<u8>), AtomicI64>,
    steps: AtomicU64,
    full: AtomicBool,
    limited: bool,
}

pub(crate) const FILE: NewNode<'static> = NewNode::file(0o600, 0, 0);
pub(crate) const DIR: NewNode<'static> = NewNode::directory(0o700, 0, 0);

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

/// `count` words of the generation `generation`.
pub(crate) fn words(generation: u64, count: usize) -> Vec<u8> {
    generation.to_ne_bytes().repeat(count)
}

/// The generation of which all of `bytes` are.
///
/// # Panics
/// When they are of several.
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
        // Every other place is taken, half of those by directories.
        let mut tokens = Vec::new();
        let mut token_dirs = Vec::new();
        for (n, dir) in dirs.iter().enumerate() {
            for at in (0..PLACES).step_by(2) {
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
        let names = (0..dirs.len()).flat_map(|dir| (0..MADE).map(move |n| (dir, made(n))));
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

    /// Whether there is room for less than all.
    pub(crate) fn is_limited(&self) -> bool {
        self.limited
    }

    pub(crate) fn was_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// What came of a call that may be refused as `refused` says, or for want of room where there
    /// is not enough.
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

    /// Counts a name of directory `dir` that came (1) or went (-1).
    pub(crate) fn count(&self, dir: usize, name: &[u8], by: i64) {
        self.balance[&(dir, name.to_vec())].fetch_add(by, Ordering::Relaxed);
    }
}

fn counters(count: u64) -> impl Iterator<Item = AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0))
}

fn find_or_make(tree: &Tree, dir: Ino, name: &[u8], node: &NewNode<'_>) -> Ino {
    match tree.lookup(dir, name) {
        Ok(entry) => entry.ino,
        Err(FsError::NotFound) => tree.make(dir, name, node).unwrap().ino,
        Err(error) => panic!("{error}"),
    }
}

/// A layer with a part of everything, so that the rest is made over it.
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
