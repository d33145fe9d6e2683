//! A builder of newc archives, which can write invalid ones.

use std::io::Write;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

pub const DIR: u32 = 0o040755;
pub const FILE: u32 = 0o100644;
pub const PROGRAM: u32 = 0o100755;
pub const LINK: u32 = 0o120777;
pub const CHAR: u32 = 0o020600;

/// An entry with all header fields.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub ino: u32,
    pub nlink: u32,
    pub mtime: u32,
    pub rdev: [u32; 2],
    pub data: Vec<u8>,
    /// The checksum of the header; makes the entry one of the format with checksums (070702).
    pub sum: Option<u32>,
    /// The value of the checksum field in the other format.
    pub check: u32,
}

/// An archive that is being built.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    pub entries: Vec<Entry>,
}

impl Archive {
    /// Creates an archive with an entry for the root.
    pub fn new() -> Self {
        let mut archive = Archive::default();
        archive.raw(".", DIR, "");
        archive
    }

    /// Appends an entry without its parents.
    pub fn raw(&mut self, name: &str, mode: u32, data: impl AsRef<[u8]>) -> &mut Entry {
        self.entries.push(Entry {
            name: name.to_owned(),
            mode,
            uid: 0,
            gid: 0,
            ino: self.entries.len() as u32 + 1,
            nlink: 1,
            mtime: 1_700_000_000,
            rdev: [0, 0],
            data: data.as_ref().to_vec(),
            sum: None,
            check: 0,
        });
        self.entries.last_mut().unwrap()
    }

    /// Appends missing parents and an entry; replaces an entry with the same name.
    pub fn put(&mut self, name: &str, mode: u32, data: impl AsRef<[u8]>) -> &mut Entry {
        for (at, _) in name.match_indices('/') {
            if !self.entries.iter().any(|entry| entry.name == name[..at]) {
                self.raw(&name[..at], DIR, "");
            }
        }
        self.entries.retain(|entry| entry.name != name);
        self.raw(name, mode, data)
    }

    pub fn file(&mut self, name: &str, data: impl AsRef<[u8]>) -> &mut Entry {
        self.put(name, FILE, data)
    }

    pub fn program(&mut self, name: &str, data: impl AsRef<[u8]>) -> &mut Entry {
        self.put(name, PROGRAM, data)
    }

    pub fn link(&mut self, name: &str, target: &str) -> &mut Entry {
        self.put(name, LINK, target)
    }

    /// Appends a whiteout.
    pub fn whiteout(&mut self, name: &str) {
        self.put(name, CHAR, "");
    }

    /// Returns the bytes without a trailer.
    pub fn open_end(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in &self.entries {
            write(entry, &mut bytes);
        }
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.open_end();
        let mut trailer = Archive::default();
        trailer.raw("TRAILER!!!", 0, "").ino = 0;
        write(&trailer.entries[0], &mut bytes);
        bytes
    }

    /// Returns the archive in one gzip member.
    pub fn gzip(&self) -> Vec<u8> {
        gzip(&self.bytes())
    }
}

fn write(entry: &Entry, bytes: &mut Vec<u8>) {
    let magic = if entry.sum.is_some() { "070702" } else { "070701" };
    let fields = [
        entry.ino,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.nlink,
        entry.mtime,
        entry.data.len() as u32,
        0,
        0,
        entry.rdev[0],
        entry.rdev[1],
        entry.name.len() as u32 + 1,
        entry.sum.unwrap_or(entry.check),
    ];
    bytes.extend(magic.bytes());
    fields.iter().for_each(|field| bytes.extend(format!("{field:08x}").bytes()));
    bytes.extend(entry.name.bytes().chain([0]));
    pad(bytes);
    bytes.extend(&entry.data);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Compresses with a header field that the kernel does not support.
pub fn gzip_with_extra(bytes: &[u8]) -> Vec<u8> {
    let builder = GzBuilder::new().extra(&b"BC\x02\0\0\0"[..]);
    let mut encoder = builder.write(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
