//! What the loader wants to know of an ELF file: elf(5), and the "symbol versioning" chapter of the
//! Linux Standard Base for versions.
//!
//! Only the ranges that tell it are read: the headers, the dynamic section, and its tables, each
//! bounded. A file that makes no sense is none, as the kernel has it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use ::object::elf::{self, Machine};
use ::object::read::elf::{Dyn, FileHeader, ProgramHeader};
use ::object::{Endianness, pod};

use crate::look::{LookError, Node, View};

/// Where the headers are.
const HEAD: usize = 4096;
/// The most of one table that is read: no library has one of half the size.
const TABLE: u64 = 8 << 20;
/// The most entries of one table.
const ENTRIES: usize = 1 << 16;
/// The most libraries that a file needs.
const NEEDED: usize = 4096;
/// The most directories of one list.
const DIRS: usize = 64;
/// The most bytes of names that are kept of a file, and not many times what it has itself: tables
/// that name one long string again and again would make much of little.
const KEPT: usize = 1 << 20;

/// What a loader finds in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) machine: u16,
    pub(super) is_64: bool,
    pub(super) little: bool,
    /// Where the last of what is loaded of it ends, in the file.
    pub(super) end: u64,
    /// The program that loads it (`PT_INTERP`).
    pub(super) interpreter: Option<Vec<u8>>,
    /// The libraries that it needs (`DT_NEEDED`).
    pub(super) needed: Vec<Vec<u8>>,
    pub(super) rpath: Vec<Vec<u8>>,
    pub(super) runpath: Vec<Vec<u8>>,
    /// Versions that it needs, and of which library.
    pub(super) versions: Vec<Version>,
    /// The versions that it has.
    pub(super) defines: BTreeSet<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) of: Arc<[u8]>,
    pub(super) name: Vec<u8>,
    /// It may be missing.
    pub(super) weak: bool,
}

impl Object {
    /// Whether code of both can be in one process.
    pub(super) fn is_like(&self, other: &Object) -> bool {
        let of = |object: &Object| (object.machine, object.is_64, object.little);
        of(self) == of(other)
    }

    /// The name of its machine.
    pub(super) fn machine_name(&self) -> String {
        let name = match Machine(self.machine) {
            elf::EM_386 => "i386",
            elf::EM_X86_64 if self.is_64 => "x86-64",
            elf::EM_X86_64 => "x32",
            elf::EM_AARCH64 => "arm64",
            elf::EM_ARM => "arm",
            elf::EM_RISCV => "riscv",
            elf::EM_PPC64 => "ppc64",
            elf::EM_PPC => "ppc",
            elf::EM_S390 => "s390",
            elf::EM_MIPS => "mips",
            elf::EM_LOONGARCH => "loongarch",
            Machine(number) => return format!("machine {number}"),
        };
        name.to_owned()
    }
}

/// Reads a file; nothing if it is no program or library.
pub(super) fn read(view: &View, node: &Node) -> Result<Option<Object>, LookError> {
    let head = view.head(node, HEAD)?;
    if !head.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let file = File { view, node };
    match head.get(4) {
        Some(1) => parse::<elf::FileHeader32<Endianness>>(&file, &head),
        Some(2) => parse::<elf::FileHeader64<Endianness>>(&file, &head),
        _ => Ok(None),
    }
}

struct File<'a> {
    view: &'a View,
    node: &'a Node,
}

impl File<'_> {
    /// A range of the file, or what there is of it.
    fn range(&self, offset: u64, size: u64) -> Result<Vec<u8>, LookError> {
        let size = size.min(self.node.attr.size.saturating_sub(offset)).min(TABLE);
        let mut bytes = vec![0; size as usize];
        let read = self.view.read_at(self.node, offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

fn parse<Elf: FileHeader<Endian = Endianness>>(
    file: &File<'_>,
    head: &[u8],
) -> Result<Option<Object>, LookError> {
    let Some((header, endian, programs)) = headers::<Elf>(head) else { return Ok(None) };
    let kind = header.e_type(endian);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Ok(None);
    }
    let mut object = Object {
        machine: header.e_machine(endian).0,
        is_64: header.is_type_64(),
        little: endian == Endianness::Little,
        ..Object::default()
    };
    let mut dynamic = None;
    let mut loads = Vec::new();
    for program in programs {
        let (offset, size) = program.file_range(endian);
        match program.p_type(endian) {
            elf::PT_INTERP => {
                let mut path = file.range(offset, size.min(4096))?;
                path.truncate(path.iter().position(|&byte| byte == 0).unwrap_or(path.len()));
                object.interpreter = Some(path);
            }
            elf::PT_DYNAMIC => dynamic = Some((offset, size)),
            elf::PT_LOAD => {
                loads.push((program.p_vaddr(endian).into(), offset, size));
                if size > 0 {
                    object.end = object.end.max(offset.saturating_add(size));
                }
            }
            _ => {}
        }
    }
    let Some((offset, size)) = dynamic else { return Ok(Some(object)) };
    let entries = file.range(offset, size)?;
    let entries = array::<Elf::Dyn>(&entries);
    let entries: Vec<(i64, u64)> = entries
        .iter()
        .map(|entry| (entry.d_tag(endian).0, entry.d_val(endian).into()))
        .take_while(|(tag, _)| *tag != elf::DT_NULL.0)
        .collect();
    let value = |tag: elf::DynamicTag| {
        entries.iter().find(|(other, _)| *other == tag.0).map(|(_, value)| *value)
    };
    // Where an address of the loaded file is in the file, and how much of it there is.
    let place = |address: u64| {
        loads.iter().find_map(|&(start, offset, size): &(u64, u64, u64)| {
            let within = address.checked_sub(start).filter(|within| *within < size)?;
            Some((offset.checked_add(within)?, size - within))
        })
    };
    let table = |tag: elf::DynamicTag, size: Option<u64>| match value(tag).and_then(place) {
        Some((offset, most)) => file.range(offset, size.map_or(most, |size| size.min(most))),
        None => Ok(Vec::new()),
    };
    let strings = Strings::new(table(elf::DT_STRTAB, value(elf::DT_STRSZ))?, file.node.attr.size);
    for &(tag, value) in &entries {
        match elf::DynamicTag(tag) {
            elf::DT_NEEDED if object.needed.len() >= NEEDED => {}
            elf::DT_NEEDED => object.needed.extend(strings.at(value)),
            elf::DT_RPATH => object.rpath = dirs(strings.at(value)),
            elf::DT_RUNPATH => object.runpath = dirs(strings.at(value)),
            _ => {}
        }
    }
    // Neither says how long it is; both stand in front of the code, and are short.
    const VERSIONS: u64 = 1 << 20;
    if value(elf::DT_VERNEED).is_some() {
        let needs = table(elf::DT_VERNEED, Some(VERSIONS))?;
        object.versions = needed_versions(&needs, endian, &strings);
    }
    if value(elf::DT_VERDEF).is_some() {
        let defines = table(elf::DT_VERDEF, Some(VERSIONS))?;
        object.defines = defined_versions(&defines, endian, &strings);
    }
    Ok(Some(object))
}

fn headers<Elf: FileHeader<Endian = Endianness>>(
    head: &[u8],
) -> Option<(&Elf, Endianness, &[Elf::ProgramHeader])> {
    let header = Elf::parse(head).ok()?;
    let endian = header.endian().ok()?;
    Some((header, endian, header.program_headers(endian, head).ok()?))
}

/// As many whole items as there are.
fn array<T: pod::Pod>(bytes: &[u8]) -> &[T] {
    let count = bytes.len() / size_of::<T>();
    pod::slice_from_bytes(bytes, count).map_or(&[], |(items, _)| items)
}

/// The item at an offset.
fn item<T: pod::Pod>(bytes: &[u8], offset: usize) -> Option<&T> {
    pod::from_bytes(bytes.get(offset..)?).ok().map(|(item, _)| item)
}

/// A table of strings that end with NUL.
struct Strings {
    bytes: Vec<u8>,
    /// How many bytes may still be kept of it.
    left: Cell<usize>,
}

impl Strings {
    /// The table of a file of this size.
    fn new(bytes: Vec<u8>, size: u64) -> Self {
        let most = usize::try_from(size.saturating_mul(4)).unwrap_or(KEPT);
        Strings { bytes, left: Cell::new(KEPT.min(most)) }
    }

    /// The string at an offset; nothing once too many bytes have been handed out.
    fn at(&self, offset: u64) -> Option<Vec<u8>> {
        let rest = self.bytes.get(usize::try_from(offset).ok()?..)?;
        // The longest path that the loader takes.
        let rest = &rest[..rest.len().min(4096)];
        let left = self.left.replace(0);
        if left == 0 {
            return None;
        }
        let string = &rest[..memchr::memchr(0, rest).unwrap_or(rest.len())];
        // With what it takes to keep it.
        let left = left.checked_sub(string.len() + 32)?;
        self.left.set(left);
        (string.len() < rest.len()).then(|| string.to_vec())
    }
}

fn dirs(list: Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let list = list.unwrap_or_default();
    let dirs = list.split(|&byte| byte == b':').filter(|dir| !dir.is_empty());
    dirs.take(DIRS).map(<[u8]>::to_vec).collect()
}

fn needed_versions(bytes: &[u8], endian: Endianness, strings: &Strings) -> Vec<Version> {
    let mut versions = Vec::new();
    let mut at = 0usize;
    while let Some(need) = item::<elf::Verneed<Endianness>>(bytes, at) {
        let of: Option<Arc<[u8]>> = strings.at(need.vn_file.get(endian).into()).map(Into::into);
        let mut aux_at = at.saturating_add(need.vn_aux.get(endian) as usize);
        for _ in 0..need.vn_cnt.get(endian) {
            let Some(aux) = item::<elf::Vernaux<Endianness>>(bytes, aux_at) else { break };
            if versions.len() >= ENTRIES {
                return versions;
            }
            if let (Some(of), Some(name)) = (&of, strings.at(aux.vna_name.get(endian).into())) {
                let weak = aux.vna_flags.get(endian).0 & elf::VER_FLG_WEAK.0 != 0;
                versions.push(Version { of: of.clone(), name, weak });
            }
            match aux.vna_next.get(endian) {
                0 => break,
                next => aux_at = aux_at.saturating_add(next as usize),
            }
        }
        match need.vn_next.get(endian) {
            0 => break,
            next => at = at.saturating_add(next as usize),
        }
    }
    versions
}

fn defined_versions(bytes: &[u8], endian: Endianness, strings: &Strings) -> BTreeSet<Vec<u8>> {
    let mut versions = BTreeSet::new();
    let mut at = 0usize;
    while let Some(define) = item::<elf::Verdef<Endianness>>(bytes, at) {
        // The first name is the version, the others are its parents.
        let aux_at = at.saturating_add(define.vd_aux.get(endian) as usize);
        if let Some(aux) = item::<elf::Verdaux<Endianness>>(bytes, aux_at) {
            versions.extend(strings.at(aux.vda_name.get(endian).into()));
        }
        match define.vd_next.get(endian) {
            next if next == 0 || versions.len() >= ENTRIES => break,
            next => at = at.saturating_add(next as usize),
        }
    }
    versions
}
