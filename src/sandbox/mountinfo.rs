//! Parser for `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Reads an open mountinfo file from its start. The position of the descriptor, which others share,
/// stays as it is.
pub(super) fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut content = vec![0; 16 << 10];
    let mut len = 0;
    loop {
        match file.read_at(&mut content[len..], len as u64)? {
            0 => break,
            read => len += read,
        }
        if len == content.len() {
            content.resize(2 * len, 0);
        }
    }
    content.truncate(len);
    Ok(content)
}

/// Decodes a path: space, tab, newline and backslash are written as a backslash and three octal
/// digits.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'\\'
            && let Some((digits, tail)) = tail.split_first_chunk::<3>()
            && let Ok(digits) = str::from_utf8(digits)
            && let Ok(byte) = u8::from_str_radix(digits, 8)
        {
            plain.push(byte);
            rest = tail;
        } else {
            plain.push(*first);
        }
    }
    plain
}

/// A mount: one line of the file.
pub(super) struct MountLine<'a> {
    pub(super) id: u64,
    pub(super) parent: u64,
    /// Major and minor number, separated by a colon.
    pub(super) device: &'a [u8],
    /// The directory of the file system that is mounted.
    pub(super) root: Vec<u8>,
    /// The mount point, from the root of the process.
    pub(super) point: Vec<u8>,
    /// The file system's type.
    pub(super) kind: &'a [u8],
}

impl<'a> MountLine<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let mut number = || str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
        // Optional fields end with a dash.
        fields.find(|field| *field == b"-")?;
        let kind = fields.next()?;
        Some(MountLine { id, parent, device, root: unescape(root), point: unescape(point), kind })
    }
}

/// Parses all complete lines.
pub(super) fn lines(mountinfo: &[u8]) -> impl Iterator<Item = MountLine<'_>> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(MountLine::parse)
}
