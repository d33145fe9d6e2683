//! The entries of newc archives out of a stream of pieces, as the kernel's unpacker reads them
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`), but telling of what it finds odd.

use crc32fast::Hasher;
use fs_model::FileType;
use fs_model::layer::cpio::header::{HEADER_SIZE, Header, TRAILER};

/// The longest name with its NUL, and the longest target: the kernel drops what has a longer one.
pub(super) const PATH_MAX: usize = 4096;

/// An entry, whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// As it stands there, up to [`PATH_MAX`] bytes of it, without the NUL.
    pub(super) name: Vec<u8>,
    /// Whether a NUL stood at its end, and nowhere else.
    pub(super) name_ends: bool,
    /// What its header says.
    pub(super) header: Header,
    /// The CRC-32 of the content.
    pub(super) crc: u32,
    /// Whether the sum of its bytes is the one that it should be, where there is one.
    pub(super) sum: bool,
}

impl Entry {
    /// The type, if it is one.
    pub(super) fn kind(&self) -> Option<FileType> {
        self.header.kind().ok()
    }
}

/// What the parser meets.
#[derive(Debug)]
pub(super) enum Met {
    Entry(Entry),
    Trailer,
    /// No header where one must be, after this entry if any: the archive cannot be read on.
    NoHeader([u8; 6]),
    /// Between two archives, or after the last, there is something else.
    Junk,
}

enum State {
    /// Before an archive.
    Idle,
    /// So much of a header.
    Header(Vec<u8>),
    /// So many bytes of a name are to come.
    Name(Begun, usize),
    /// So many bytes are to be passed over before the content.
    Gap(Begun, usize),
    /// So many bytes of content are to come.
    Body(Begun, u64),
    /// So many bytes are to be passed over before the next header.
    Pad(usize),
    /// Nothing can be made of the rest.
    Lost,
}

/// An entry of which not all was read.
struct Begun {
    entry: Entry,
    sum: u32,
    hasher: Hasher,
}

/// Reads entries.
pub(super) struct Parser {
    state: State,
}

impl Parser {
    pub(super) fn new() -> Self {
        Parser { state: State::Idle }
    }

    /// Whether an archive has begun and not ended.
    pub(super) fn within(&self) -> bool {
        !matches!(self.state, State::Idle | State::Lost)
    }

    /// Whether it is in the middle of an entry.
    pub(super) fn within_entry(&self) -> bool {
        match &self.state {
            State::Idle | State::Lost | State::Pad(_) => false,
            State::Header(bytes) => !bytes.is_empty(),
            State::Name(..) | State::Gap(..) | State::Body(..) => true,
        }
    }

    /// Whether nothing can be made of the rest.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Forgets that an archive has begun.
    pub(super) fn reset(&mut self) {
        self.state = State::Idle;
    }

    /// Reads on, to the end of `bytes`, or no further than to the end of one archive; how much was
    /// read.
    pub(super) fn feed(&mut self, bytes: &[u8], one: bool, meet: &mut dyn FnMut(Met)) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let state = std::mem::replace(&mut self.state, State::Lost);
            // What follows an archive without a trailer may be something else.
            if let State::Header(header) = &state
                && one
                && header.is_empty()
                && !rest.starts_with(&b"07070"[..rest.len().min(5)])
            {
                self.state = state;
                return at;
            }
            let (state, step) = match state {
                State::Lost => return bytes.len(),
                State::Idle => match rest[0] {
                    0 => (State::Idle, rest.iter().take_while(|&&byte| byte == 0).count()),
                    b'0' => (State::Header(Vec::with_capacity(HEADER_SIZE)), 0),
                    _ => {
                        meet(Met::Junk);
                        (State::Lost, 0)
                    }
                },
                State::Header(mut header) => {
                    let step = (HEADER_SIZE - header.len()).min(rest.len());
                    header.extend_from_slice(&rest[..step]);
                    (
                        if header.len() < HEADER_SIZE {
                            State::Header(header)
                        } else {
                            begin(&header, meet)
                        },
                        step,
                    )
                }
                State::Name(mut begun, left) => {
                    let step = left.min(rest.len());
                    let name = &mut begun.entry.name;
                    let kept = step.min(PATH_MAX.saturating_sub(name.len()));
                    name.extend_from_slice(&rest[..kept]);
                    let state = match left - step {
                        0 if begun.entry.name.strip_suffix(b"\0") == Some(TRAILER) => {
                            meet(Met::Trailer);
                            State::Idle
                        }
                        0 => after_name(begun, meet),
                        left => State::Name(begun, left),
                    };
                    if one && matches!(state, State::Idle) {
                        self.state = state;
                        return at + step;
                    }
                    (state, step)
                }
                State::Gap(begun, left) => {
                    let step = left.min(rest.len());
                    let state = match left - step {
                        0 => content(begun, meet),
                        left => State::Gap(begun, left),
                    };
                    (state, step)
                }
                State::Body(mut begun, left) => {
                    let step = left.min(rest.len() as u64) as usize;
                    begun.add(&rest[..step]);
                    let state = match left - step as u64 {
                        0 => end(begun, meet),
                        left => State::Body(begun, left),
                    };
                    (state, step)
                }
                State::Pad(left) => {
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

impl Begun {
    fn add(&mut self, content: &[u8]) {
        self.hasher.update(content);
        if self.entry.header.checksum.is_some() {
            let add = |sum: u32, &byte: &u8| sum.wrapping_add(byte.into());
            self.sum = content.iter().fold(self.sum, add);
        }
    }
}

fn begin(header: &[u8], meet: &mut dyn FnMut(Met)) -> State {
    match parse(header) {
        Some(begun) if begun.entry.header.name_size > 0 => {
            let left = begun.entry.header.name_size as usize;
            State::Name(begun, left)
        }
        _ => {
            let mut magic = [0; 6];
            magic.copy_from_slice(&header[..6]);
            meet(Met::NoHeader(magic));
            State::Lost
        }
    }
}

fn after_name(mut begun: Begun, meet: &mut dyn FnMut(Met)) -> State {
    let entry = &mut begun.entry;
    let end = entry.name.iter().position(|&byte| byte == 0);
    entry.name_ends = end == Some(entry.header.name_size as usize - 1);
    entry.name.truncate(end.unwrap_or(entry.name.len()));
    match padding(HEADER_SIZE as u64 + u64::from(entry.header.name_size)) {
        0 => content(begun, meet),
        gap => State::Gap(begun, gap),
    }
}

fn content(begun: Begun, meet: &mut dyn FnMut(Met)) -> State {
    match begun.entry.header.size {
        0 => end(begun, meet),
        size => State::Body(begun, size.into()),
    }
}

fn end(begun: Begun, meet: &mut dyn FnMut(Met)) -> State {
    let Begun { mut entry, sum, hasher } = begun;
    entry.crc = hasher.finalize();
    let size = entry.header.size;
    entry.sum = entry.header.checksum.is_none_or(|stated| stated == sum || size == 0);
    meet(Met::Entry(entry));
    pad(padding(size.into()))
}

fn pad(left: usize) -> State {
    match left {
        0 => State::Header(Vec::with_capacity(HEADER_SIZE)),
        left => State::Pad(left),
    }
}

fn padding(length: u64) -> usize {
    (length.next_multiple_of(4) - length) as usize
}

fn parse(header: &[u8]) -> Option<Begun> {
    let header = Header::read(header.try_into().ok()?).ok()?;
    Some(Begun { entry: Entry { header, ..Entry::default() }, sum: 0, hasher: Hasher::new() })
}
