//! Seals a directory tree from memory, to measure the writers and compressors.
//!
//! `cargo bench --bench seal -- TREE [THREADS...]` reads the tree into memory first, so that only
//! sealing is measured; compare with `find | cpio | pigz` on the same tree.

use std::collections::HashMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use fs_model::attr::{Attr, Device, FileType, Time};
use fs_model::delta::{Change, Contents, Delta, DeltaEntry, Object};
use fs_model::error::FsError;
use fs_model::layer::Xattr;
use fs_model::tree::Ino;
use overcoat::seal::{Format, ManifestInfo, Output, SealOptions, seal};

#[derive(Default)]
struct MemoryTree {
    delta: Delta,
    data: HashMap<u64, Vec<u8>>,
}

impl Contents for MemoryTree {
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let data = self.data.get(&ino.0).ok_or(FsError::Stale)?;
        let rest = data.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        self.data.get(&ino.0).cloned().ok_or(FsError::Stale)
    }

    fn xattrs(&self, _: Ino) -> Result<Vec<Xattr>, FsError> {
        Ok(Vec::new())
    }
}

impl MemoryTree {
    fn add(&mut self, root: &Path, path: &Path) {
        let full = root.join(path);
        let meta = std::fs::symlink_metadata(&full).unwrap();
        let kind = FileType::from_mode(meta.mode()).unwrap();
        let data = match kind {
            FileType::Regular => std::fs::read(&full).unwrap(),
            FileType::Symlink => std::fs::read_link(&full).unwrap().into_os_string().into_vec(),
            _ => Vec::new(),
        };
        let time = Time::from_secs(meta.mtime());
        let rdev =
            Device { major: rustix::fs::major(meta.rdev()), minor: rustix::fs::minor(meta.rdev()) };
        let attr = Attr {
            uid: meta.uid(),
            gid: meta.gid(),
            size: data.len() as u64,
            rdev,
            nlink: meta.nlink() as u32,
            ..Attr::new(kind, (meta.mode() & 0o7777) as u16, time)
        };
        self.data.insert(meta.ino(), data);
        self.delta.entries.push(DeltaEntry {
            path: path.as_os_str().as_bytes().into(),
            change: Change::Added,
            object: Some(Object { ino: Ino(meta.ino()), attr }),
        });
        if kind == FileType::Directory {
            let mut names: Vec<_> =
                std::fs::read_dir(&full).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            for name in names {
                self.add(root, &path.join(name));
            }
        }
    }
}

/// Returns the CPU time of this process, with all its threads, in user and kernel mode. It is less
/// noisy than wall-clock time on a busy machine.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // proc(5): utime and stime, in ticks, which are 1/100 s to user space on Linux.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let Some(tree) = args.next() else {
        println!("nothing to measure: give a tree");
        return;
    };
    let threads: Vec<usize> = args.map(|arg| arg.parse().unwrap()).collect();
    let threads = if threads.is_empty() { vec![1, 2] } else { threads };
    let mut tree_data = MemoryTree::default();
    tree_data.add(Path::new(&tree), Path::new(""));
    let dir = tempfile::tempdir().unwrap();
    for format in Format::ALL {
        for &threads in &threads {
            for manifest in [false, true] {
                let options = SealOptions { threads, ..SealOptions::new(format) };
                let archive = Output::file(&dir.path().join("archive")).unwrap();
                let file = Output::file(&dir.path().join("manifest")).unwrap();
                let manifest = manifest.then(|| (file, ManifestInfo::default()));
                let with = if manifest.is_some() { "with" } else { "without" };
                let (start, cpu) = (Instant::now(), cpu_seconds());
                let summary =
                    seal(&tree_data.delta, &tree_data, &options, archive, manifest, &mut |_| ())
                        .unwrap();
                let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
                println!(
                    "{format:9} {threads} threads, {with} manifest: {wall:.2} s, CPU {cpu:.2} s, {} bytes, \
                     {:.0} MB/s",
                    summary.size,
                    summary.content as f64 / wall / 1e6
                );
            }
        }
    }
}
