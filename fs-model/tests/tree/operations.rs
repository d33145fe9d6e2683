//! Random operations. Numbers select one of the existing objects, modulo their count.

use fs_model::tree::{RenameMode, XattrFlags};
use fs_model::{FileType, Time};
use proptest::prelude::*;

use crate::generate::{NAMES, offset};

/// Index of an object that the harness references.
pub(crate) type Held = usize;

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Lookup(Held, Name),
    Forget(Held),
    Make(Held, Name, Node),
    Link(Held, Held, Name),
    Unlink(Held, Name),
    Rmdir(Held, Name),
    Rename(Held, Name, Held, Name, RenameMode),
    Read(Held, u64, u64),
    Write(Held, u64, u64, u8),
    Append(Held, u64, u8),
    Truncate(Held, u64),
    Zero(Held, u64, u64, bool),
    Extend(Held, u64),
    Copy(Held, u64, Held, u64, u64),
    NextData(Held, u64),
    ReadLink(Held),
    SetAttr(Held, Option<u16>, Option<u32>, Option<Time>, Option<Time>),
    SetXattr(Held, u8, u8, XattrFlags),
    RemoveXattr(Held, u8),
    LayScratch(Held, Name, Node),
    Lend(Held, Name, u64, u8),
    EndLoan(Held, Name, Held),
    Revert(Held, Name),
    /// Compare everything, listing directories in pages of this many names.
    Compare(usize),
    CheckDelta,
    /// Replace a file by a copy, like editors do.
    Rewrite(Held, Name),
    /// Start listing a directory in parts.
    OpenListing(Held),
    /// List this many more names.
    ListPart(usize),
    /// Continue listing after a name that was listed before.
    SeekListing(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Name(pub(crate) Vec<u8>);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) kind: FileType,
    pub(crate) mode: u16,
    pub(crate) owner: u32,
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        60 => (0..NAMES.len()).prop_map(|n| NAMES[n].to_vec()),
        1 => prop_oneof![
            Just(b".".to_vec()),
            Just(b"..".to_vec()),
            Just(b"".to_vec()),
            Just(b"a/b".to_vec()),
            Just(vec![b'n'; 256])
        ],
    ]
    .prop_map(Name)
}

fn node() -> impl Strategy<Value = Node> {
    let kind = prop_oneof![
        6 => Just(FileType::Directory),
        6 => Just(FileType::Regular),
        1 => Just(FileType::Symlink),
        1 => Just(FileType::CharDevice),
        1 => Just(FileType::BlockDevice),
        1 => Just(FileType::Fifo),
        1 => Just(FileType::Socket),
    ];
    let mode = prop_oneof![Just(0o755u16), Just(0o644), Just(0o2755)];
    (kind, mode, 0u32..3).prop_map(|(kind, mode, owner)| Node { kind, mode, owner })
}

fn held() -> impl Strategy<Value = Held> {
    // Select the root often.
    prop_oneof![1 => Just(0usize), 3 => any::<usize>()]
}

fn time() -> impl Strategy<Value = Time> {
    (0i64..3).prop_map(Time::from_secs)
}

pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let any_mode = prop_oneof![
        4 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange)
    ];
    let any_flags =
        prop_oneof![Just(XattrFlags::Any), Just(XattrFlags::Create), Just(XattrFlags::Replace)];
    let names = prop_oneof![
        12 => (held(), name()).prop_map(|(d, n)| Lookup(d, n)),
        4 => held().prop_map(Forget),
        10 => (held(), name(), node()).prop_map(|(d, n, node)| Make(d, n, node)),
        5 => (held(), held(), name()).prop_map(|(o, d, n)| Link(o, d, n)),
        8 => (held(), name()).prop_map(|(d, n)| Unlink(d, n)),
        6 => (held(), name()).prop_map(|(d, n)| Rmdir(d, n)),
        14 => (held(), name(), held(), name(), any_mode)
            .prop_map(|(d, n, e, m, mode)| Rename(d, n, e, m, mode)),
        4 => (held(), name(), node()).prop_map(|(d, n, node)| LayScratch(d, n, node)),
        5 => (held(), name(), offset(), 0u8..4).prop_map(|(d, n, len, f)| Lend(d, n, len, f)),
        1 => (held(), name(), held()).prop_map(|(d, n, o)| EndLoan(d, n, o)),
        4 => (held(), name()).prop_map(|(d, n)| Revert(d, n)),
        3 => (1usize..5).prop_map(Compare),
        2 => Just(CheckDelta),
        4 => (held(), name()).prop_map(|(d, n)| Rewrite(d, n)),
        2 => held().prop_map(OpenListing),
        8 => (1usize..4).prop_map(ListPart),
        1 => any::<usize>().prop_map(SeekListing),
    ];
    let contents = prop_oneof![
        2 => (held(), offset(), offset()).prop_map(|(o, at, len)| Read(o, at, len)),
        6 => (held(), offset(), offset(), 0u8..4).prop_map(|(o, at, len, f)| Write(o, at, len, f)),
        2 => (held(), offset(), 0u8..4).prop_map(|(o, len, f)| Append(o, len, f)),
        4 => (held(), offset()).prop_map(|(o, size)| Truncate(o, size)),
        5 => (held(), offset(), offset(), any::<bool>())
            .prop_map(|(o, at, len, grow)| Zero(o, at, len, grow)),
        1 => (held(), offset()).prop_map(|(o, end)| Extend(o, end)),
        2 => (held(), offset(), held(), offset(), offset())
            .prop_map(|(a, at, b, to, len)| Copy(a, at, b, to, len)),
        3 => (held(), offset()).prop_map(|(o, at)| NextData(o, at)),
        1 => held().prop_map(ReadLink),
    ];
    let attributes = prop_oneof![
        4 => (
            held(),
            prop::option::of(prop_oneof![Just(0o755u16), Just(0o644), Just(0o2775)]),
            prop::option::of(0u32..3),
            prop::option::of(time()),
            prop::option::of(time())
        )
            .prop_map(|(o, mode, owner, atime, mtime)| SetAttr(o, mode, owner, atime, mtime)),
        1 => (held(), 0u8..2, 0u8..3, any_flags)
            .prop_map(|(o, n, v, flags)| SetXattr(o, n, v, flags)),
        1 => (held(), 0u8..2).prop_map(|(o, n)| RemoveXattr(o, n)),
    ];
    prop_oneof![6 => names, 3 => contents, 1 => attributes]
}
