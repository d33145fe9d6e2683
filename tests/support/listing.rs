//! Listings of directory trees, created in the same way inside and outside of a sandbox.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A file system object at one of its paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub kind: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number; zero for other types.
    pub rdev: (u32, u32),
    /// Size in bytes; zero for directories.
    pub size: u64,
    /// Modification time in seconds; zero for directories.
    pub mtime: i64,
    /// First path of an object that has several; `None` if this is the only one.
    pub links: Option<String>,
    /// SHA-256 of a file, target of a symbolic link, or the error of reading either.
    pub content: String,
}

/// Prefix of the content of an unreadable object.
const UNREADABLE: &str = "unreadable";

impl Object {
    /// Returns whether reading the object failed.
    pub fn is_unreadable(&self) -> bool {
        self.content.starts_with(UNREADABLE)
    }
}

/// Objects by path without a leading slash; other bytes than printable ASCII are escaped as `\xNN`.
pub type Listing = BTreeMap<String, Object>;

/// Lists the tree at `root`, without mount points and other file systems.
pub fn list(root: &Path) -> Listing {
    let mut walk = Walk { device: fs::symlink_metadata(root).unwrap().dev(), ..Walk::default() };
    walk.visit(root, "");
    for (path, id) in &walk.ids {
        let names = &walk.names[id];
        if names.len() > 1 {
            let first = names.iter().min().cloned();
            walk.found.get_mut(path).unwrap().links = first;
        }
    }
    walk.found
}

#[derive(Default)]
struct Walk {
    device: u64,
    found: Listing,
    ids: BTreeMap<String, (u64, u64)>,
    names: BTreeMap<(u64, u64), Vec<String>>,
}

impl Walk {
    fn visit(&mut self, full: &Path, path: &str) {
        let meta = match fs::symlink_metadata(full) {
            Ok(meta) => meta,
            Err(error) => return self.unreadable(path, &error),
        };
        if meta.is_dir() && meta.dev() != self.device {
            return;
        }
        let kind = meta.file_type();
        let device = kind.is_char_device() || kind.is_block_device();
        let (name, content) = match () {
            () if kind.is_dir() => ("directory", String::new()),
            () if kind.is_file() => ("file", digest(full)),
            () if kind.is_symlink() => match fs::read_link(full) {
                Ok(target) => ("link", escape(&target.into_os_string().into_vec())),
                Err(error) => ("link", unreadable(&error)),
            },
            () if kind.is_char_device() => ("char", String::new()),
            () if kind.is_block_device() => ("block", String::new()),
            () if kind.is_fifo() => ("fifo", String::new()),
            () => ("socket", String::new()),
        };
        let rdev = if device { meta.rdev() } else { 0 };
        let object = Object {
            kind: name.into(),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: (rustix::fs::major(rdev), rustix::fs::minor(rdev)),
            size: if kind.is_dir() { 0 } else { meta.size() },
            mtime: if kind.is_dir() { 0 } else { meta.mtime() },
            links: None,
            content,
        };
        self.found.insert(path.to_owned(), object);
        if !kind.is_dir() {
            let id = (meta.dev(), meta.ino());
            self.ids.insert(path.to_owned(), id);
            self.names.entry(id).or_default().push(path.to_owned());
            return;
        }
        let entries = fs::read_dir(full)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        let mut names: Vec<_> = match entries {
            Ok(names) => names,
            Err(error) => {
                self.found.get_mut(path).unwrap().content = unreadable(&error);
                return;
            }
        };
        names.sort();
        for name in names {
            let escaped = escape(name.as_bytes());
            let path = if path.is_empty() { escaped } else { format!("{path}/{escaped}") };
            self.visit(&full.join(name), &path);
        }
    }

    fn unreadable(&mut self, path: &str, error: &std::io::Error) {
        let object = Object {
            kind: "unknown".into(),
            mode: 0,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            size: 0,
            mtime: 0,
            links: None,
            content: unreadable(error),
        };
        self.found.insert(path.to_owned(), object);
    }
}

fn unreadable(error: &std::io::Error) -> String {
    format!("{UNREADABLE}: {error}")
}

/// Returns the digest of a file, or the error of reading it.
fn digest(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => {
                    digest.update(&buffer[..n]);
                    total += n as u64;
                }
            }
        }
        // Reading at offsets gives the same bytes as reading from the start.
        let middle = size / 2;
        if size > 0 && file.read_at(&mut buffer[..1], middle)? != 1 {
            return Ok(format!("nothing at {middle} of {size}"));
        }
        match total == size {
            true => Ok(format!("{:x}", digest.finalize())),
            false => Ok(format!("{total} bytes of {size}")),
        }
    };
    read().unwrap_or_else(|error| unreadable(&error))
}

/// Escapes bytes other than printable ASCII.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b' '..=b'~' if byte != b'\\' => text.push(byte as char),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

/// Returns a readable line for each difference; at most a screenful.
pub fn differences(expected: &Listing, found: &Listing) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, object) in expected {
        match found.get(path) {
            None => lines.push(format!("/{path}: missing ({})", object.kind)),
            Some(other) if other != object => {
                lines.push(format!("/{path}:\n    {object:?}\n    {other:?}"));
            }
            Some(_) => {}
        }
    }
    let more = found.keys().filter(|path| !expected.contains_key(*path));
    lines.extend(more.map(|path| format!("/{path}: unexpected ({})", found[path].kind)));
    if lines.len() > 30 {
        let rest = lines.len() - 30;
        lines.truncate(30);
        lines.push(format!("...and {rest} more"));
    }
    lines
}

/// Checks that two listings are equal.
#[track_caller]
pub fn assert_same(what: &str, expected: &Listing, found: &Listing) {
    let lines = differences(expected, found);
    assert!(lines.is_empty(), "{what}: expected and found differ\n{}", lines.join("\n"));
}
