//! Random system calls on few names, so that they interact.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{FallocateFlags, FileType, OFlags, RenameFlags, XattrFlags};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Attributes in the user and trusted namespaces.
pub(super) const XATTRS: [&str; 3] = ["user.a", "user.b", "trusted.a"];

pub(super) type Name = PathBuf;

/// A file given by its name, or an open file whose name may have changed.
#[derive(Clone, Debug)]
pub(super) enum File {
    Named(Name),
    Held(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Sync {
    File,
    Data,
    All,
}

/// A time to set: seconds and nanoseconds, the current time, or no change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stamp {
    At(i64, i64),
    Now,
    Omit,
}

#[derive(Clone, Debug)]
pub(super) enum Call {
    Mkdir(Name, u32),
    Rmdir(Name),
    Unlink(Name),
    /// Opens for writing, with more flags and a mode.
    Open(Name, OFlags, u32),
    Rename(Name, Name, RenameFlags),
    Link(Name, Name),
    Symlink(Name, Name),
    Node(Name, FileType, u32),
    Chmod(Name, u32),
    Chown(Name, u32, u32),
    Utimens(Name, Stamp, Stamp),
    Stat(Name),
    ReadLink(Name),
    List(Name),
    /// Opens a file and keeps it open.
    Hold(usize, Name, OFlags),
    StatHeld(usize),
    Write(File, u64, usize, u8),
    Append(Name, usize),
    Truncate(File, u64),
    Allocate(File, FallocateFlags, u64, u64),
    Copy(File, u64, File, u64, usize),
    Read(File),
    Seek(File, u64),
    Map(File, u64, usize, u8),
    Sync(File, Sync),
    SetXattr(Name, usize, u8, XattrFlags),
    GetXattr(Name, usize, usize),
    RemoveXattr(Name, usize),
    /// Sets an attribute in an unknown namespace or with an invalid value.
    WrongXattr(Name),
    /// Opens a directory, which is listed in parts.
    HoldDir(usize, Name),
    /// Lists more entries, with a buffer of this size.
    ListPart(usize, usize),
    /// Seeks to the position after an earlier entry.
    SeekDir(usize, usize),
    Statfs,
}

/// The kind of name with which a call can succeed.
#[derive(Clone, Copy, Debug)]
enum Means {
    Anything,
    File,
    Directory,
    /// A name in an existing directory, whether it exists or not.
    New,
}

/// Existing names, without deep directories, so that paths do not grow without limit.
#[derive(Debug, Default)]
pub(super) struct There {
    all: Vec<Name>,
    files: Vec<Name>,
    dirs: Vec<Name>,
}

impl There {
    pub(super) fn below(root: &Path) -> There {
        let mut there = There { dirs: vec![Name::new()], ..There::default() };
        let mut at = 0;
        while let Some(dir) = there.dirs.get(at).cloned() {
            at += 1;
            for entry in std::fs::read_dir(root.join(&dir)).unwrap().flatten() {
                let (name, kind) = (dir.join(entry.file_name()), entry.file_type().unwrap());
                if kind.is_dir() && name.components().count() < 4 {
                    there.dirs.push(name.clone());
                } else if kind.is_file() {
                    there.files.push(name.clone());
                }
                there.all.push(name);
            }
        }
        // The order of a listing depends on the file system.
        there.all.sort();
        there.files.sort();
        there.dirs.sort();
        there
    }
}

impl Call {
    fn names_mut(&mut self) -> Vec<(&mut Name, Means)> {
        use Means::{Anything, Directory, New};
        match self {
            Call::Mkdir(p, _) | Call::Symlink(_, p) | Call::Node(p, ..) => vec![(p, New)],
            Call::Open(p, flags, _) | Call::Hold(_, p, flags) => {
                vec![(p, if flags.contains(OFlags::CREATE) { New } else { Means::File })]
            }
            Call::Rmdir(p) | Call::List(p) | Call::HoldDir(_, p) => vec![(p, Directory)],
            Call::Rename(a, b, flags) => {
                let exchanged = flags.contains(RenameFlags::EXCHANGE);
                vec![(a, Anything), (b, if exchanged { Anything } else { New })]
            }
            Call::Link(a, b) => vec![(a, Anything), (b, New)],
            Call::Unlink(p)
            | Call::Chmod(p, _)
            | Call::Chown(p, ..)
            | Call::Utimens(p, ..)
            | Call::Stat(p)
            | Call::ReadLink(p)
            | Call::SetXattr(p, ..)
            | Call::GetXattr(p, ..)
            | Call::RemoveXattr(p, _)
            | Call::WrongXattr(p) => vec![(p, Anything)],
            Call::Copy(File::Named(a), _, File::Named(b), ..) => {
                vec![(a, Means::File), (b, Means::File)]
            }
            Call::Append(p, _)
            | Call::Write(File::Named(p), ..)
            | Call::Truncate(File::Named(p), _)
            | Call::Allocate(File::Named(p), ..)
            | Call::Copy(File::Named(p), ..)
            | Call::Copy(_, _, File::Named(p), ..)
            | Call::Read(File::Named(p))
            | Call::Seek(File::Named(p), _)
            | Call::Map(File::Named(p), ..)
            | Call::Sync(File::Named(p), _) => vec![(p, Means::File)],
            _ => Vec::new(),
        }
    }

    /// Returns the same call on existing names if possible, selected by `number`.
    pub(super) fn aimed(&self, number: usize, there: &There) -> Call {
        let mut call = self.clone();
        for (n, (name, means)) in call.names_mut().into_iter().enumerate() {
            let number = number.rotate_right(16 * n as u32);
            let names = match means {
                Means::Anything => &there.all,
                Means::File => &there.files,
                Means::Directory | Means::New => &there.dirs,
            };
            let last = name.file_name().map(ToOwned::to_owned);
            match (names.get(number % names.len().max(1)), last, means) {
                (Some(dir), Some(last), Means::New) => *name = dir.join(last),
                (Some(found), _, _) => found.clone_into(name),
                (None, _, _) => {}
            }
        }
        call
    }

    /// Returns the names that the call can have changed.
    pub(super) fn names(&mut self) -> Vec<Name> {
        self.names_mut().into_iter().map(|(name, _)| name.clone()).collect()
    }
}

pub(super) fn name() -> impl Strategy<Value = Name> {
    // Deep names rarely exist.
    let depth = prop_oneof![4 => Just(1usize), 3 => Just(2), 1 => Just(3)];
    depth
        .prop_flat_map(|depth| prop::collection::vec(prop::sample::select(&NAMES[..]), depth))
        .prop_map(|names| names.into_iter().collect())
}

pub(super) fn mode() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o755u32, 0o644, 0o4755, 0o2775, 0o1777, 0o000])
}

/// Sizes and offsets, some of them at block boundaries.
pub(super) fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0u64..100,
        1 => prop::sample::select(vec![4096u64, 65_535, 65_536, 131_072, 300_000]),
        1 => 0u64..400_000,
    ]
}

fn file() -> impl Strategy<Value = File> {
    prop_oneof![2 => name().prop_map(File::Named), 1 => held().prop_map(File::Held)]
}

fn held() -> impl Strategy<Value = usize> {
    0..super::side::HELD
}

fn stamp() -> impl Strategy<Value = Stamp> {
    prop_oneof![
        // Neither is the time of a layer: a change of only the nanoseconds would be lost in
        // archives.
        2 => (1_000_000_000i64..1_000_000_003, 0i64..1_000_000_000).prop_map(|(s, n)| Stamp::At(s, n)),
        1 => Just(Stamp::At(super::stack::TIME, 0)),
        1 => Just(Stamp::Now),
        1 => Just(Stamp::Omit),
    ]
}

fn of_names() -> impl Strategy<Value = Call> {
    let open = prop::sample::select(vec![
        OFlags::CREATE,
        OFlags::CREATE | OFlags::EXCL,
        OFlags::CREATE | OFlags::TRUNC,
        OFlags::TRUNC,
        OFlags::NOFOLLOW,
        OFlags::DIRECTORY,
    ]);
    let flags = prop::sample::select(vec![
        RenameFlags::empty(),
        RenameFlags::empty(),
        RenameFlags::empty(),
        RenameFlags::NOREPLACE,
        RenameFlags::EXCHANGE,
        RenameFlags::EXCHANGE,
        RenameFlags::WHITEOUT,
        RenameFlags::EXCHANGE | RenameFlags::NOREPLACE,
    ]);
    let node = prop::sample::select(vec![
        FileType::RegularFile,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
    ]);
    prop_oneof![
        4 => (name(), mode()).prop_map(|(p, m)| Call::Mkdir(p, m)),
        2 => name().prop_map(Call::Rmdir),
        4 => name().prop_map(Call::Unlink),
        5 => (name(), open, mode()).prop_map(|(p, f, m)| Call::Open(p, f, m)),
        9 => (name(), name(), flags).prop_map(|(a, b, f)| Call::Rename(a, b, f)),
        3 => (name(), name()).prop_map(|(a, b)| Call::Link(a, b)),
        1 => (name(), name()).prop_map(|(a, b)| Call::Symlink(a, b)),
        2 => (name(), node, 0u32..4).prop_map(|(p, t, d)| Call::Node(p, t, d)),
        1 => name().prop_map(Call::ReadLink),
        2 => name().prop_map(Call::List),
    ]
}

fn of_attributes() -> impl Strategy<Value = Call> {
    let flags =
        prop::sample::select(vec![XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE]);
    let which = || 0..XATTRS.len();
    prop_oneof![
        2 => (name(), mode()).prop_map(|(p, m)| Call::Chmod(p, m)),
        2 => (name(), 0u32..4, 0u32..4).prop_map(|(p, u, g)| Call::Chown(p, u, g)),
        2 => (name(), stamp(), stamp()).prop_map(|(p, a, m)| Call::Utimens(p, a, m)),
        2 => name().prop_map(Call::Stat),
        3 => (name(), which(), any::<u8>(), flags).prop_map(|(p, n, v, f)| Call::SetXattr(p, n, v, f)),
        2 => (name(), which(), prop::sample::select(vec![0usize, 1, 1000]))
            .prop_map(|(p, n, len)| Call::GetXattr(p, n, len)),
        1 => (name(), which()).prop_map(|(p, n)| Call::RemoveXattr(p, n)),
        1 => name().prop_map(Call::WrongXattr),
    ]
}

fn of_contents() -> impl Strategy<Value = Call> {
    let allocate = prop::sample::select(vec![
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        FallocateFlags::PUNCH_HOLE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    ]);
    let hold = prop::sample::select(vec![
        OFlags::RDWR,
        OFlags::RDWR,
        OFlags::RDWR | OFlags::APPEND,
        OFlags::RDWR | OFlags::CREATE,
        OFlags::RDONLY,
    ]);
    let sync = prop::sample::select(vec![Sync::File, Sync::Data, Sync::All]);
    prop_oneof![
        5 => (held(), name(), hold).prop_map(|(h, p, f)| Call::Hold(h, p, f)),
        2 => held().prop_map(Call::StatHeld),
        6 => (file(), size(), 1usize..5000, any::<u8>()).prop_map(|(p, o, l, b)| Call::Write(p, o, l, b)),
        1 => (name(), 1usize..5000).prop_map(|(p, l)| Call::Append(p, l)),
        3 => (file(), size()).prop_map(|(p, l)| Call::Truncate(p, l)),
        3 => (file(), allocate, size(), 1u64..200_000).prop_map(|(p, f, o, l)| Call::Allocate(p, f, o, l)),
        3 => (file(), size(), file(), size(), 0usize..200_000)
            .prop_map(|(a, o, b, p, l)| Call::Copy(a, o, b, p, l)),
        3 => file().prop_map(Call::Read),
        2 => (file(), size()).prop_map(|(p, o)| Call::Seek(p, o)),
        3 => (file(), size(), 1usize..100_000, any::<u8>()).prop_map(|(p, o, l, b)| Call::Map(p, o, l, b)),
        1 => (file(), sync).prop_map(|(p, s)| Call::Sync(p, s)),
    ]
}

fn of_open_directories() -> impl Strategy<Value = Call> {
    let dir = || 0..super::side::HELD_DIRS;
    // Often the root, whose names change most.
    let place = prop_oneof![1 => name(), 1 => Just(Name::from("."))];
    prop_oneof![
        2 => (dir(), place).prop_map(|(d, p)| Call::HoldDir(d, p)),
        6 => (dir(), 24usize..200).prop_map(|(d, l)| Call::ListPart(d, l)),
        1 => (dir(), any::<usize>()).prop_map(|(d, n)| Call::SeekDir(d, n)),
    ]
}

/// A call, and usually a number that selects existing names, so that the call can succeed.
pub(super) fn call() -> impl Strategy<Value = (Call, Option<usize>)> {
    let call = prop_oneof![
        40 => of_names(),
        15 => of_attributes(),
        25 => of_contents(),
        15 => of_open_directories(),
        1 => Just(Call::Statfs),
    ];
    (call, prop::option::weighted(0.7, any::<usize>()))
}
