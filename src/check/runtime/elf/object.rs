//! Reads the data of an ELF file that the dynamic loader uses: elf(5), and the "symbol versioning"
//! chapter of the Linux Standard Base.
//!
//! Only the headers, the dynamic section and its tables are read, each with a limit. Malformed
//! files are treated as non-ELF, as the kernel does.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use ::object::elf::{self, Machine};
use ::object::read::elf::{Dyn, FileHeader, ProgramHeader};
use ::object::{Endianness, pod};

use crate::image::view::{LookError, StackView, ViewNode};

/// Bytes at the start of a file that contain the headers.
const HEADER_SIZE: usize = 4096;
/// Maximum bytes that are read of a table; the largest known tables are half this size.
const MAX_TABLE: u64 = 8 << 20;
/// Maximum entries that are read of a table.
const MAX_ENTRIES: usize = 1 << 16;
/// Maximum needed libraries of a file.
const MAX_NEEDED: usize = 4096;
/// Maximum directories of a search path.
const MAX_DIRS: usize = 64;
/// Maximum bytes of strings that are copied from a file. The limit is also four times the file
/// size, because entries of a table may refer to one long string repeatedly.
const MAX_STRINGS: usize = 1 << 20;

/// The data of an ELF file that the dynamic loader uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ElfObject {
    pub(super) machine: u16,
    pub(super) is_64: bool,
    pub(super) little: bool,
    /// File offset of the end of the last loaded segment.
    pub(super) end: u64,
    /// The loader (`PT_INTERP`).
    pub(super) interpreter: Option<Vec<u8>>,
    /// The needed libraries (`DT_NEEDED`).
    pub(super) needed: Vec<Vec<u8>>,
    pub(super) rpath: Vec<Vec<u8>>,
    pub(super) runpath: Vec<Vec<u8>>,
    /// The needed versions of libraries.
    pub(super) versions: Vec<NeededVersion>,
    /// The versions that it defines.
    pub(super) defines: BTreeSet<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NeededVersion {
    /// The library.
    pub(super) library: Arc<[u8]>,
    pub(super) name: Vec<u8>,
    /// Whether the version is optional.
    pub(super) weak: bool,
}

impl ElfObject {
    /// Returns whether both can be loaded into one process.
    pub(super) fn is_compatible(&self, other: &ElfObject) -> bool {
        let abi = |object: &ElfObject| (object.machine, object.is_64, object.little);
        abi(self) == abi(other)
    }

    /// Returns the name of its architecture.
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

/// Reads a file; `None` if it is not a program or library.
pub(super) fn read(view: &StackView, node: &ViewNode) -> Result<Option<ElfObject>, LookError> {
    let head = view.head(node, HEADER_SIZE)?;
    if !head.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let file = ElfFile { view, node };
    match head.get(4) {
        Some(1) => parse::<elf::FileHeader32<Endianness>>(&file, &head),
        Some(2) => parse::<elf::FileHeader64<Endianness>>(&file, &head),
        _ => Ok(None),
    }
}

struct ElfFile<'a> {
    view: &'a StackView,
    node: &'a ViewNode,
}

impl ElfFile<'_> {
    /// Reads a range of the file, truncated at the end of the file and at [`MAX_TABLE`].
    fn range(&self, offset: u64, size: u64) -> Result<Vec<u8>, LookError> {
        let size = size.min(self.node.attr.size.saturating_sub(offset)).min(MAX_TABLE);
        let mut bytes = vec![0; size as usize];
        let read = self.view.read_at(self.node, offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}

fn parse<Elf: FileHeader<Endian = Endianness>>(
    file: &ElfFile<'_>,
    head: &[u8],
) -> Result<Option<ElfObject>, LookError> {
    let Some((header, endian, programs)) = headers::<Elf>(head) else { return Ok(None) };
    let kind = header.e_type(endian);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Ok(None);
    }
    let mut object = ElfObject {
        machine: header.e_machine(endian).0,
        is_64: header.is_type_64(),
        little: endian == Endianness::Little,
        ..ElfObject::default()
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
    // Translates an address to a file offset and the size of the rest of its segment.
    let file_range = |address: u64| {
        loads.iter().find_map(|&(start, offset, size): &(u64, u64, u64)| {
            let within = address.checked_sub(start).filter(|within| *within < size)?;
            Some((offset.checked_add(within)?, size - within))
        })
    };
    let table = |tag: elf::DynamicTag, size: Option<u64>| match value(tag).and_then(file_range) {
        Some((offset, rest)) => file.range(offset, size.map_or(rest, |size| size.min(rest))),
        None => Ok(Vec::new()),
    };
    let strings =
        StringTable::new(table(elf::DT_STRTAB, value(elf::DT_STRSZ))?, file.node.attr.size);
    for &(tag, value) in &entries {
        match elf::DynamicTag(tag) {
            elf::DT_NEEDED if object.needed.len() >= MAX_NEEDED => {}
            elf::DT_NEEDED => object.needed.extend(strings.at(value)),
            elf::DT_RPATH => object.rpath = dirs(strings.at(value)),
            elf::DT_RUNPATH => object.runpath = dirs(strings.at(value)),
            _ => {}
        }
    }
    // The file does not state the size of these tables. They are small.
    const MAX_VERSION_TABLE: u64 = 1 << 20;
    if value(elf::DT_VERNEED).is_some() {
        let needs = table(elf::DT_VERNEED, Some(MAX_VERSION_TABLE))?;
        object.versions = needed_versions(&needs, endian, &strings);
    }
    if value(elf::DT_VERDEF).is_some() {
        let defines = table(elf::DT_VERDEF, Some(MAX_VERSION_TABLE))?;
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

/// Returns the complete items of a table.
fn array<T: pod::Pod>(bytes: &[u8]) -> &[T] {
    let count = bytes.len() / size_of::<T>();
    pod::slice_from_bytes(bytes, count).map_or(&[], |(items, _)| items)
}

/// Returns the item at an offset.
fn item<T: pod::Pod>(bytes: &[u8], offset: usize) -> Option<&T> {
    pod::from_bytes(bytes.get(offset..)?).ok().map(|(item, _)| item)
}

/// A table of NUL-terminated strings.
struct StringTable {
    bytes: Vec<u8>,
    /// Bytes that may still be copied.
    left: Cell<usize>,
}

impl StringTable {
    /// Creates the table of a file of `file_size` bytes.
    fn new(bytes: Vec<u8>, file_size: u64) -> Self {
        let limit = usize::try_from(file_size.saturating_mul(4)).unwrap_or(MAX_STRINGS);
        StringTable { bytes, left: Cell::new(MAX_STRINGS.min(limit)) }
    }

    /// Returns the string at an offset; `None` after the limit of copied bytes is exceeded.
    fn at(&self, offset: u64) -> Option<Vec<u8>> {
        let rest = self.bytes.get(usize::try_from(offset).ok()?..)?;
        // PATH_MAX, the loader's limit.
        let rest = &rest[..rest.len().min(4096)];
        let left = self.left.replace(0);
        if left == 0 {
            return None;
        }
        let string = &rest[..memchr::memchr(0, rest).unwrap_or(rest.len())];
        // A string has about 32 bytes of overhead.
        let left = left.checked_sub(string.len() + 32)?;
        self.left.set(left);
        (string.len() < rest.len()).then(|| string.to_vec())
    }
}

fn dirs(list: Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let list = list.unwrap_or_default();
    let dirs = list.split(|&byte| byte == b':').filter(|dir| !dir.is_empty());
    dirs.take(MAX_DIRS).map(<[u8]>::to_vec).collect()
}

fn needed_versions(bytes: &[u8], endian: Endianness, strings: &StringTable) -> Vec<NeededVersion> {
    let mut versions = Vec::new();
    let mut at = 0usize;
    while let Some(need) = item::<elf::Verneed<Endianness>>(bytes, at) {
        let library: Option<Arc<[u8]>> =
            strings.at(need.vn_file.get(endian).into()).map(Into::into);
        let mut aux_at = at.saturating_add(need.vn_aux.get(endian) as usize);
        for _ in 0..need.vn_cnt.get(endian) {
            let Some(aux) = item::<elf::Vernaux<Endianness>>(bytes, aux_at) else { break };
            if versions.len() >= MAX_ENTRIES {
                return versions;
            }
            if let (Some(library), Some(name)) =
                (&library, strings.at(aux.vna_name.get(endian).into()))
            {
                let weak = aux.vna_flags.get(endian).0 & elf::VER_FLG_WEAK.0 != 0;
                versions.push(NeededVersion { library: library.clone(), name, weak });
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

fn defined_versions(bytes: &[u8], endian: Endianness, strings: &StringTable) -> BTreeSet<Vec<u8>> {
    let mut versions = BTreeSet::new();
    let mut at = 0usize;
    while let Some(define) = item::<elf::Verdef<Endianness>>(bytes, at) {
        // The first name is the version, the others are its parents.
        let aux_at = at.saturating_add(define.vd_aux.get(endian) as usize);
        if let Some(aux) = item::<elf::Verdaux<Endianness>>(bytes, aux_at) {
            versions.extend(strings.at(aux.vda_name.get(endian).into()));
        }
        match define.vd_next.get(endian) {
            next if next == 0 || versions.len() >= MAX_ENTRIES => break,
            next => at = at.saturating_add(next as usize),
        }
    }
    versions
}
