//! A push parser of newc archives, which reads them as the kernel's unpacker does
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`) and reports anomalies.

use crc32fast::Hasher;
use fs_model::FileType;
use fs_model::layer::cpio::header::{HEADER_SIZE, Header, TRAILER};

/// Maximum bytes of a name with its NUL, and of a link target; the kernel drops longer ones.
pub(super) const PATH_MAX: usize = 4096;

/// A complete entry.
#[derive(Clone, Debug, Default)]
pub(super) struct NewcEntry {
    /// The unmodified name without its NUL, at most [`PATH_MAX`] bytes.
    pub(super) name: Vec<u8>,
    /// Whether the only NUL of the name is its last byte.
    pub(super) name_ends: bool,
    pub(super) header: Header,
    /// CRC-32 of the content.
    pub(super) crc: u32,
    /// Whether the content matches the checksum of the header; true without a checksum.
    pub(super) sum: bool,
}

impl NewcEntry {
    /// Returns the file type; `None` if it is unknown.
    pub(super) fn kind(&self) -> Option<FileType> {
        self.header.kind().ok()
    }
}

/// An event of the parser.
#[derive(Debug)]
pub(super) enum NewcEvent {
    Entry(NewcEntry),
    Trailer,
    /// Invalid header with this magic; the rest of the archive cannot be read.
    NoHeader([u8; 6]),
    /// Unknown data between two archives or after the last one.
    Junk,
}

enum NewcState {
    /// Before an archive.
    Idle,
    /// The bytes of a header read so far.
    Header(Vec<u8>),
    /// Remaining bytes of the name.
    Name(PartialEntry, usize),
    /// Remaining bytes of padding before the content.
    Gap(PartialEntry, usize),
    /// Remaining bytes of the content.
    Body(PartialEntry, u64),
    /// Remaining bytes of padding before the next header.
    Pad(usize),
    /// The rest cannot be parsed.
    Lost,
}

/// An entry that is being read.
struct PartialEntry {
    entry: NewcEntry,
    sum: u32,
    hasher: Hasher,
}

/// Parses a stream of newc archives.
pub(super) struct NewcParser {
    state: NewcState,
}

impl NewcParser {
    pub(super) fn new() -> Self {
        NewcParser { state: NewcState::Idle }
    }

    /// Returns whether an archive has begun and not ended.
    pub(super) fn within(&self) -> bool {
        !matches!(self.state, NewcState::Idle | NewcState::Lost)
    }

    /// Returns whether an entry has begun and not ended.
    pub(super) fn within_entry(&self) -> bool {
        match &self.state {
            NewcState::Idle | NewcState::Lost | NewcState::Pad(_) => false,
            NewcState::Header(bytes) => !bytes.is_empty(),
            NewcState::Name(..) | NewcState::Gap(..) | NewcState::Body(..) => true,
        }
    }

    /// Returns whether the rest cannot be parsed.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.state, NewcState::Lost)
    }

    /// Discards an archive that has begun.
    pub(super) fn reset(&mut self) {
        self.state = NewcState::Idle;
    }

    /// Parses `bytes` to their end, or with `one` at most to the end of an archive. Returns the
    /// number of bytes consumed.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        one: bool,
        emit: &mut dyn FnMut(NewcEvent),
    ) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let state = std::mem::replace(&mut self.state, NewcState::Lost);
            // After an archive without a trailer other data may follow.
            if let NewcState::Header(header) = &state
                && one
                && header.is_empty()
                && !rest.starts_with(&b"07070"[..rest.len().min(5)])
            {
                self.state = state;
                return at;
            }
            let (state, step) = match state {
                NewcState::Lost => return bytes.len(),
                NewcState::Idle => match rest[0] {
                    0 => (NewcState::Idle, rest.iter().take_while(|&&byte| byte == 0).count()),
                    b'0' => (NewcState::Header(Vec::with_capacity(HEADER_SIZE)), 0),
                    _ => {
                        emit(NewcEvent::Junk);
                        (NewcState::Lost, 0)
                    }
                },
                NewcState::Header(mut header) => {
                    let step = (HEADER_SIZE - header.len()).min(rest.len());
                    header.extend_from_slice(&rest[..step]);
                    (
                        if header.len() < HEADER_SIZE {
                            NewcState::Header(header)
                        } else {
                            begin(&header, emit)
                        },
                        step,
                    )
                }
                NewcState::Name(mut begun, left) => {
                    let step = left.min(rest.len());
                    let name = &mut begun.entry.name;
                    let kept = step.min(PATH_MAX.saturating_sub(name.len()));
                    name.extend_from_slice(&rest[..kept]);
                    let state = match left - step {
                        0 if begun.entry.name.strip_suffix(b"\0") == Some(TRAILER) => {
                            emit(NewcEvent::Trailer);
                            NewcState::Idle
                        }
                        0 => after_name(begun, emit),
                        left => NewcState::Name(begun, left),
                    };
                    if one && matches!(state, NewcState::Idle) {
                        self.state = state;
                        return at + step;
                    }
                    (state, step)
                }
                NewcState::Gap(begun, left) => {
                    let step = left.min(rest.len());
                    let state = match left - step {
                        0 => content(begun, emit),
                        left => NewcState::Gap(begun, left),
                    };
                    (state, step)
                }
                NewcState::Body(mut begun, left) => {
                    let step = left.min(rest.len() as u64) as usize;
                    begun.add(&rest[..step]);
                    let state = match left - step as u64 {
                        0 => end(begun, emit),
                        left => NewcState::Body(begun, left),
                    };
                    (state, step)
                }
                NewcState::Pad(left) => {
                    let step = left.min(rest.len());
                    (pad(left - step), step)
                }
            };
            self.state = state;
            at += step;
        }
        at
    }
}

impl PartialEntry {
    fn add(&mut self, content: &[u8]) {
        self.hasher.update(content);
        if self.entry.header.checksum.is_some() {
            let add = |sum: u32, &byte: &u8| sum.wrapping_add(byte.into());
            self.sum = content.iter().fold(self.sum, add);
        }
    }
}

fn begin(header: &[u8], emit: &mut dyn FnMut(NewcEvent)) -> NewcState {
    match parse(header) {
        Some(begun) if begun.entry.header.name_size > 0 => {
            let left = begun.entry.header.name_size as usize;
            NewcState::Name(begun, left)
        }
        _ => {
            let mut magic = [0; 6];
            magic.copy_from_slice(&header[..6]);
            emit(NewcEvent::NoHeader(magic));
            NewcState::Lost
        }
    }
}

fn after_name(mut begun: PartialEntry, emit: &mut dyn FnMut(NewcEvent)) -> NewcState {
    let entry = &mut begun.entry;
    let end = entry.name.iter().position(|&byte| byte == 0);
    entry.name_ends = end == Some(entry.header.name_size as usize - 1);
    entry.name.truncate(end.unwrap_or(entry.name.len()));
    match padding(HEADER_SIZE as u64 + u64::from(entry.header.name_size)) {
        0 => content(begun, emit),
        gap => NewcState::Gap(begun, gap),
    }
}

fn content(begun: PartialEntry, emit: &mut dyn FnMut(NewcEvent)) -> NewcState {
    match begun.entry.header.size {
        0 => end(begun, emit),
        size => NewcState::Body(begun, size.into()),
    }
}

fn end(begun: PartialEntry, emit: &mut dyn FnMut(NewcEvent)) -> NewcState {
    let PartialEntry { mut entry, sum, hasher } = begun;
    entry.crc = hasher.finalize();
    let size = entry.header.size;
    entry.sum = entry.header.checksum.is_none_or(|stated| stated == sum || size == 0);
    emit(NewcEvent::Entry(entry));
    pad(padding(size.into()))
}

fn pad(left: usize) -> NewcState {
    match left {
        0 => NewcState::Header(Vec::with_capacity(HEADER_SIZE)),
        left => NewcState::Pad(left),
    }
}

fn padding(length: u64) -> usize {
    (length.next_multiple_of(4) - length) as usize
}

fn parse(header: &[u8]) -> Option<PartialEntry> {
    let header = Header::read(header.try_into().ok()?).ok()?;
    Some(PartialEntry {
        entry: NewcEntry { header, ..NewcEntry::default() },
        sum: 0,
        hasher: Hasher::new(),
    })
}
