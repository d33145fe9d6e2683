//! Kernel modules: whether they are for the kernel that boots, and whether modprobe finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use ::object::elf::{FileHeader32, FileHeader64};
use ::object::read::elf::{FileHeader, SectionHeader};
use ::object::{Endianness, FileKind};

use super::lints::{KERNEL_MODULES, MODULE_FILES, MODULE_INDEX};
use crate::check::Finding;
use crate::check::context::{CheckContext, resolve};
use crate::check::{Findings, Severity, PassError};
use crate::look::{LookError, Node, View};
use crate::seal::path::escape;

/// Where modules are, with merged /usr and without.
const PLACES: [&[u8]; 2] = [b"usr/lib/modules/", b"lib/modules/"];
const ENDS: [&[u8]; 4] = [b".ko", b".ko.xz", b".ko.zst", b".ko.gz"];
/// The most of a module, unpacked, or of an index, that is read.
const MOST: u64 = 64 << 20;
/// How many modules that came with their kernel are looked into: they are all of one build.
const SAMPLE: usize = 8;

/// The modules of one kernel that overlays bring.
#[derive(Default)]
struct Modules<'a> {
    nodes: Vec<&'a Node>,
    /// `usr/lib/modules/6.1.0-30-amd64`
    dir: Vec<u8>,
}

type Kernels<'a> = BTreeMap<Vec<u8>, Modules<'a>>;

fn brought<'a>(context: &'a CheckContext<'_>) -> Result<Kernels<'a>, PassError> {
    let mut kernels = Kernels::new();
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        let Some((dir, version)) = kernel_of(&node.path) else { continue };
        if node.is_file() && ENDS.iter().any(|end| node.path.ends_with(end)) {
            let modules = kernels.entry(version.to_vec()).or_default();
            modules.nodes.push(node);
            modules.dir = dir.to_vec();
        }
    }
    Ok(kernels)
}

/// Whether modules are for the kernel that boots.
pub(super) fn modules(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let roots = context.roots()?;
    let kernels = brought(context)?;
    if kernels.is_empty() {
        return Ok(());
    }
    let known = known(context)?;
    for (version, modules) in &kernels {
        let layer = context.layer_name(modules.nodes[0]);
        let shown = escape(version);
        if let Some((kernels, whose)) = &known
            && !kernels.contains(version)
        {
            let kernels: Vec<_> = kernels.iter().map(|kernel| escape(kernel)).collect();
            let message = format!(
                "{} modules of the kernel {shown}, and {whose} {}",
                modules.nodes.len(),
                kernels.join(", ")
            );
            let finding = Finding::new(&KERNEL_MODULES, layer, Some(&modules.dir), message);
            let sure = context.kernel.is_some();
            findings.push(if sure { finding } else { finding.severity(Severity::Warning) });
        }
        built_for(&roots.view, version, modules, context, findings)?;
    }
    // A root that is judged whole is of one build.
    match (known, &roots.below) {
        (None, Some(_)) => {
            let reason = "which kernel boots with them is not known: --kernel names it";
            Err(PassError::CannotRun(reason.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Whether modprobe finds modules.
pub(super) fn indices(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    for modules in brought(context)?.values() {
        index(view, modules, context, findings)?;
    }
    Ok(())
}

/// Whether the modules that an index names are there.
pub(super) fn files(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let roots = context.roots()?;
    let before = roots.below.as_ref().map(missing).transpose()?.unwrap_or_default();
    for (dir, missing) in missing(&roots.view)? {
        if missing.names.is_empty()
            || before.get(&dir).is_some_and(|before| before.names == missing.names)
        {
            continue;
        }
        let count = missing.names.len();
        let message = match count == missing.indexed {
            true => format!("modules.dep names {count} modules, and none of them is there"),
            false => {
                format!("{count} of the {} modules in modules.dep are missing", missing.indexed)
            }
        };
        let index = crate::look::join(&dir, b"modules.dep");
        let mut paths = vec![index];
        paths.extend(missing.names.iter().take(SAMPLE).map(|name| crate::look::join(&dir, name)));
        let finding = Finding::new(&MODULE_FILES, "", Some(&dir), message);
        let finding = finding.attributed_to(context.responsible_layers(&paths)?);
        findings.push(match count == missing.indexed {
            true => finding,
            false => finding.severity(Severity::Note),
        });
    }
    Ok(())
}

/// Of an index, the modules that are not there.
struct Missing {
    names: BTreeSet<Vec<u8>>,
    /// How many modules it names.
    indexed: usize,
}

/// By the directories of all kernels of a root.
fn missing(view: &View) -> Result<BTreeMap<Vec<u8>, Missing>, LookError> {
    let mut all = BTreeMap::new();
    for place in PLACES {
        let Some(place) = resolve(view, place.strip_suffix(b"/").unwrap_or(place))? else { continue };
        if !place.is_dir() {
            continue;
        }
        for dir in view.children(&place)? {
            let index = crate::look::join(&dir.path, b"modules.dep");
            if all.contains_key(&dir.path) {
                continue;
            }
            let Some(index) = resolve(view, &index)?.filter(Node::is_file) else { continue };
            let text = view.head(&index, MOST as usize)?;
            let indexed: BTreeSet<&[u8]> = text
                .split(|&byte| byte == b'\n')
                .filter_map(|line| memchr::memchr(b':', line).map(|colon| &line[..colon]))
                .collect();
            let mut names = BTreeSet::new();
            for &name in &indexed {
                if resolve(view, &crate::look::join(&dir.path, name))?.is_none() {
                    names.insert(name.to_vec());
                }
            }
            all.insert(dir.path, Missing { names, indexed: indexed.len() });
        }
    }
    Ok(all)
}

/// The directory of a kernel's modules, and its version.
fn kernel_of(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let place = PLACES.iter().find(|place| path.starts_with(place))?;
    let rest = &path[place.len()..];
    let slash = rest.iter().position(|&byte| byte == b'/')?;
    Some((&path[..place.len() + slash], &rest[..slash]))
}

type Known = (BTreeSet<Vec<u8>>, &'static str);

/// The kernels that may boot, and how that is known: the one that was named, or else those that the
/// layers beneath have modules of.
fn known(context: &CheckContext<'_>) -> Result<Option<Known>, PassError> {
    if let Some(kernel) = &context.kernel {
        return match kernel {
            Some(version) => {
                let version = version.clone().into_bytes();
                Ok(Some((BTreeSet::from([version]), "the one that boots is")))
            }
            None => Err(PassError::CannotRun("the kernel does not say its version".to_owned())),
        };
    }
    let Some(below) = &context.roots()?.below else { return Ok(None) };
    let Some(dir) = resolve(below, b"lib/modules")? else { return Ok(None) };
    let names: BTreeSet<Vec<u8>> = below
        .children(&dir)?
        .into_iter()
        .filter(Node::is_dir)
        .map(|node| node.name().to_vec())
        .collect();
    Ok((!names.is_empty()).then_some((names, "the base has those of")))
}

/// Whether modules are built for the kernel in whose directory they are.
fn built_for(
    view: &View,
    version: &[u8],
    modules: &Modules<'_>,
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), LookError> {
    let mut sampled = 0;
    for &node in &modules.nodes {
        if node.path[modules.dir.len()..].starts_with(b"/kernel/") {
            sampled += 1;
            if sampled > SAMPLE {
                continue;
            }
        }
        let Some(magic) = vermagic(view, node)? else { continue };
        let built = magic.split(|&byte| byte == b' ').next().unwrap_or_default();
        if built != version {
            let message = format!(
                "it was built for the kernel {}, and is in the directory of {}",
                escape(built),
                escape(version)
            );
            findings.add(&KERNEL_MODULES, context.layer_name(node), &node.path, message);
        }
    }
    Ok(())
}

/// Whether modprobe's index has the modules.
fn index(
    view: &View,
    modules: &Modules<'_>,
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), LookError> {
    let layer = context.layer_name(modules.nodes[0]);
    let path = crate::look::join(&modules.dir, b"modules.dep");
    let Some(index) = resolve(view, &path)?.filter(Node::is_file) else {
        findings.add(&MODULE_INDEX, layer, &modules.dir, "there is no modules.dep for its modules");
        return Ok(());
    };
    let text = view.head(&index, MOST as usize)?;
    let known: BTreeSet<&[u8]> = text
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b':').next())
        .collect();
    for &node in &modules.nodes {
        let name = &node.path[modules.dir.len() + 1..];
        if !known.contains(name) {
            findings.add(
                &MODULE_INDEX,
                context.layer_name(node),
                &node.path,
                "modules.dep does not have it",
            );
        }
    }
    Ok(())
}

/// The kernel that a module was built for, and with what: `6.1.0-30-amd64 SMP preempt mod_unload`.
fn vermagic(view: &View, node: &Node) -> Result<Option<Vec<u8>>, LookError> {
    if node.attr.size > MOST {
        return Ok(None);
    }
    let packed = view.head(node, MOST as usize)?;
    let Some(bytes) = unpacked(&node.path, packed) else { return Ok(None) };
    let section = match FileKind::parse(&bytes[..]) {
        Ok(FileKind::Elf32) => modinfo::<FileHeader32<Endianness>>(&bytes),
        Ok(FileKind::Elf64) => modinfo::<FileHeader64<Endianness>>(&bytes),
        _ => None,
    };
    let mut items = section.unwrap_or_default().split(|&byte| byte == 0);
    Ok(items.find_map(|item| item.strip_prefix(b"vermagic=")).map(<[u8]>::to_vec))
}

fn modinfo<Elf: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<&[u8]> {
    let header = Elf::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, bytes).ok()?;
    let (_, section) = sections.section_by_name(endian, b".modinfo")?;
    section.data(endian, bytes).ok()
}

/// A module as the kernel loads it; nothing for one that is damaged.
fn unpacked(path: &[u8], packed: Vec<u8>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read =
        |reader: &mut dyn Read, bytes: &mut Vec<u8>| reader.take(MOST).read_to_end(bytes).ok();
    match path.rsplit(|&byte| byte == b'.').next()? {
        b"ko" => return Some(packed),
        b"xz" => read(&mut liblzma::read::XzDecoder::new(&packed[..]), &mut bytes)?,
        b"zst" => read(&mut zstd::stream::read::Decoder::new(&packed[..]).ok()?, &mut bytes)?,
        b"gz" => read(&mut flate2::read::GzDecoder::new(&packed[..]), &mut bytes)?,
        _ => return None,
    };
    Some(bytes)
}

/// The version of a kernel image, as `uname -r` has it: of a bzImage by its header
/// (`Documentation/arch/x86/boot.rst`), of one that is not compressed by its banner.
pub(in crate::check) fn kernel_version(image: &[u8]) -> Option<String> {
    let word = |text: &[u8]| {
        let end = text.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(text.len());
        String::from_utf8(text[..end.min(256)].to_vec()).ok().filter(|word| !word.is_empty())
    };
    if image.get(0x202..0x206) == Some(b"HdrS") {
        let pointer = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
        return word(image.get(usize::from(pointer) + 0x200..)?);
    }
    const BANNER: &[u8] = b"Linux version ";
    let at = image.windows(BANNER.len()).position(|window| window == BANNER)?;
    word(&image[at + BANNER.len()..])
}
