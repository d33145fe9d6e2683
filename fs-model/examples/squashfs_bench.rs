//! Measures the squashfs layer on one image, single-threaded and with cold caches: opening, a walk
//! over all entries with their attributes, and reading every file.
//!
//! `cargo run --release -p fs-model --example squashfs_bench -- IMAGE [READ_SIZE]`
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use fs_model::FileType;
use fs_model::layer::squashfs::{CacheOptions, SquashfsLayer};
use fs_model::layer::{Layer, LayerEntry};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: squashfs_bench IMAGE [READ_SIZE]")?;
    let read_size: usize = args.next().map_or(Ok(1 << 20), |size| size.parse())?;
    let image: Arc<Vec<u8>> = Arc::new(std::fs::read(&path)?);

    let start = Instant::now();
    let layer = SquashfsLayer::open(&path, image, CacheOptions::default())?;
    println!("open       {:>9.3} ms", start.elapsed().as_secs_f64() * 1e3);

    let start = Instant::now();
    let (mut entries, mut files, mut largest) = (0, Vec::new(), (layer.root(), Vec::new()));
    let mut directories = vec![layer.root()];
    while let Some(directory) = directories.pop() {
        let listed = layer.read_dir(directory)?;
        if listed.len() > largest.1.len() {
            largest = (directory, listed.iter().map(|e| e.name.clone()).collect());
        }
        for entry in listed {
            entries += 1;
            let LayerEntry::Object { ino, kind } = entry.entry else { continue };
            let attr = layer.attr(ino)?;
            match kind {
                FileType::Directory => directories.push(ino),
                FileType::Regular => files.push((ino, attr.size)),
                _ => {}
            }
        }
    }
    println!("walk       {:>9.3} ms, {entries} entries", start.elapsed().as_secs_f64() * 1e3);

    let (directory, names) = largest;
    let step = names.len().div_ceil(10_000).max(1);
    for round in ["first", "again"] {
        let start = Instant::now();
        let mut found = 0;
        for name in names.iter().step_by(step) {
            found += usize::from(layer.lookup(directory, name)?.is_some());
        }
        let each = start.elapsed().as_secs_f64() * 1e6 / found.max(1) as f64;
        println!("lookup     {each:>9.3} µs, in {} entries, {round}", names.len());
    }

    // In the order of the image, which is similar to that of a directory walk.
    files.sort();
    let start = Instant::now();
    let mut buf = vec![0; read_size];
    let mut bytes = 0u64;
    for &(ino, size) in &files {
        let mut offset = 0;
        while offset < size {
            offset += layer.read_at(ino, offset, &mut buf)? as u64;
        }
        bytes += size;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "read       {:>9.3} ms, {} files, {:.1} MB, {:.0} MB/s",
        seconds * 1e3,
        files.len(),
        bytes as f64 / 1e6,
        bytes as f64 / 1e6 / seconds
    );
    println!("{:?}", layer.cache_stats());
    Ok(())
}
