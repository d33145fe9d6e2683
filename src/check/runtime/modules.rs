//! Lints of kernel modules: whether they match the kernel that boots, and whether modprobe finds
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use ::object::elf::{FileHeader32, FileHeader64};
use ::object::read::elf::{FileHeader, SectionHeader};
use ::object::{Endianness, FileKind};

use super::lints::{KERNEL_MODULES, MODULE_FILES, MODULE_INDEX};
use crate::check::Finding;
use crate::check::context::{CheckContext, resolve};
use crate::check::{Findings, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode};
use crate::text::escape::escape;

/// Directories of modules, with merged /usr and without.
const MODULE_DIRS: [&[u8]; 2] = [b"usr/lib/modules/", b"lib/modules/"];
const SUFFIXES: [&[u8]; 4] = [b".ko", b".ko.xz", b".ko.zst", b".ko.gz"];
/// Maximum bytes of a decompressed module or of an index.
const MAX_MODULE: u64 = 64 << 20;
/// Number of modules in a kernel's own directory that are read: they are all of one build.
const SAMPLE: usize = 8;

/// The modules of one kernel in checked layers.
#[derive(Default)]
struct KernelModules<'a> {
    nodes: Vec<&'a ViewNode>,
    /// The directory, such as `usr/lib/modules/6.1.0-30-amd64`.
    dir: Vec<u8>,
}

/// Modules by kernel version.
type ModulesByKernel<'a> = BTreeMap<Vec<u8>, KernelModules<'a>>;

fn overlay_modules<'a>(context: &'a CheckContext<'_>) -> Result<ModulesByKernel<'a>, PassError> {
    let mut kernels = ModulesByKernel::new();
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        let Some((dir, version)) = kernel_of(&node.path) else { continue };
        if node.is_file() && SUFFIXES.iter().any(|end| node.path.ends_with(end)) {
            let modules = kernels.entry(version.to_vec()).or_default();
            modules.nodes.push(node);
            modules.dir = dir.to_vec();
        }
    }
    Ok(kernels)
}

/// Checks that modules match the kernel that boots.
pub(super) fn modules(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let kernels = overlay_modules(context)?;
    if kernels.is_empty() {
        return Ok(());
    }
    let boot_kernels = boot_kernels(context)?;
    for (version, modules) in &kernels {
        let layer = context.layer_name(modules.nodes[0]);
        let shown = escape(version);
        if let Some((kernels, what)) = &boot_kernels
            && !kernels.contains(version)
        {
            let kernels: Vec<_> = kernels.iter().map(|kernel| escape(kernel)).collect();
            let message = format!(
                "{} modules are for the kernel {shown}, but {what} {}",
                modules.nodes.len(),
                kernels.join(", ")
            );
            let finding = Finding::new(&KERNEL_MODULES, layer, Some(&modules.dir), message);
            let sure = context.kernel.is_some();
            findings.push(if sure { finding } else { finding.severity(Severity::Warning) });
        }
        built_for(&roots.view, version, modules, context, findings)?;
    }
    // A complete root is consistent by itself.
    match (boot_kernels, &roots.lower) {
        (None, Some(_)) => {
            let reason = "the kernel that boots is unknown; name it with --kernel";
            Err(PassError::CannotRun(reason.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Checks that modprobe finds the modules.
pub(super) fn indices(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    for modules in overlay_modules(context)?.values() {
        index(view, modules, context, findings)?;
    }
    Ok(())
}

/// Checks that the modules that an index names exist.
pub(super) fn files(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let before = roots.lower.as_ref().map(missing).transpose()?.unwrap_or_default();
    for (dir, missing) in missing(&roots.view)? {
        if missing.names.is_empty()
            || before.get(&dir).is_some_and(|before| before.names == missing.names)
        {
            continue;
        }
        let count = missing.names.len();
        let message = match count == missing.indexed {
            true => format!("all {count} modules in modules.dep are missing"),
            false => {
                format!("{count} of the {} modules in modules.dep are missing", missing.indexed)
            }
        };
        let index = crate::image::view::join(&dir, b"modules.dep");
        let mut paths = vec![index];
        paths.extend(
            missing.names.iter().take(SAMPLE).map(|name| crate::image::view::join(&dir, name)),
        );
        let finding = Finding::new(&MODULE_FILES, "", Some(&dir), message);
        let finding = finding.attributed_to(context.responsible_layers(&paths)?);
        findings.push(match count == missing.indexed {
            true => finding,
            false => finding.severity(Severity::Note),
        });
    }
    Ok(())
}

/// The modules of an index that do not exist.
struct MissingModules {
    names: BTreeSet<Vec<u8>>,
    /// Number of modules in the index.
    indexed: usize,
}

/// Returns the missing modules of all kernels of a root, by module directory.
fn missing(view: &StackView) -> Result<BTreeMap<Vec<u8>, MissingModules>, LookError> {
    let mut all = BTreeMap::new();
    for parent in MODULE_DIRS {
        let parent = parent.strip_suffix(b"/").unwrap_or(parent);
        let Some(parent) = resolve(view, parent)?.filter(ViewNode::is_dir) else { continue };
        for dir in view.children(&parent)? {
            let index = crate::image::view::join(&dir.path, b"modules.dep");
            if all.contains_key(&dir.path) {
                continue;
            }
            let Some(index) = resolve(view, &index)?.filter(ViewNode::is_file) else { continue };
            let text = view.head(&index, MAX_MODULE as usize)?;
            let indexed: BTreeSet<&[u8]> = text
                .split(|&byte| byte == b'\n')
                .filter_map(|line| memchr::memchr(b':', line).map(|colon| &line[..colon]))
                .collect();
            let mut names = BTreeSet::new();
            for &name in &indexed {
                if resolve(view, &crate::image::view::join(&dir.path, name))?.is_none() {
                    names.insert(name.to_vec());
                }
            }
            all.insert(dir.path, MissingModules { names, indexed: indexed.len() });
        }
    }
    Ok(all)
}

/// Returns the module directory that contains a path, and its kernel version.
fn kernel_of(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let parent = MODULE_DIRS.iter().find(|parent| path.starts_with(parent))?;
    let rest = &path[parent.len()..];
    let slash = rest.iter().position(|&byte| byte == b'/')?;
    Some((&path[..parent.len() + slash], &rest[..slash]))
}

/// Versions of the kernels that may boot, and the beginning of a message about them.
type BootKernels = (BTreeSet<Vec<u8>>, &'static str);

/// Returns the kernels that may boot: the named one, or else those whose modules the lower layers
/// have.
fn boot_kernels(context: &CheckContext<'_>) -> Result<Option<BootKernels>, PassError> {
    if let Some(kernel) = &context.kernel {
        return match kernel {
            Some(version) => {
                let version = version.clone().into_bytes();
                Ok(Some((BTreeSet::from([version]), "the kernel that boots is")))
            }
            None => Err(PassError::CannotRun("the version of the kernel is unknown".to_owned())),
        };
    }
    let Some(lower) = &context.roots()?.lower else { return Ok(None) };
    let Some(dir) = resolve(lower, b"lib/modules")? else { return Ok(None) };
    let names: BTreeSet<Vec<u8>> = lower
        .children(&dir)?
        .into_iter()
        .filter(ViewNode::is_dir)
        .map(|node| node.name().to_vec())
        .collect();
    Ok((!names.is_empty()).then_some((names, "the base has modules of")))
}

/// Checks that modules are built for the kernel of their directory.
fn built_for(
    view: &StackView,
    version: &[u8],
    modules: &KernelModules<'_>,
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
                "it was built for the kernel {}, but is in the directory of {}",
                escape(built),
                escape(version)
            );
            findings.add(&KERNEL_MODULES, context.layer_name(node), &node.path, message);
        }
    }
    Ok(())
}

/// Checks that modprobe's index lists the modules.
fn index(
    view: &StackView,
    modules: &KernelModules<'_>,
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), LookError> {
    let layer = context.layer_name(modules.nodes[0]);
    let path = crate::image::view::join(&modules.dir, b"modules.dep");
    let Some(index) = resolve(view, &path)?.filter(ViewNode::is_file) else {
        findings.add(&MODULE_INDEX, layer, &modules.dir, "modules.dep is missing");
        return Ok(());
    };
    let text = view.head(&index, MAX_MODULE as usize)?;
    let indexed: BTreeSet<&[u8]> = text
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b':').next())
        .collect();
    for &node in &modules.nodes {
        let name = &node.path[modules.dir.len() + 1..];
        if !indexed.contains(name) {
            findings.add(
                &MODULE_INDEX,
                context.layer_name(node),
                &node.path,
                "modules.dep does not list it",
            );
        }
    }
    Ok(())
}

/// Returns the kernel version and build options of a module, such as
/// `6.1.0-30-amd64 SMP preempt mod_unload`.
fn vermagic(view: &StackView, node: &ViewNode) -> Result<Option<Vec<u8>>, LookError> {
    if node.attr.size > MAX_MODULE {
        return Ok(None);
    }
    let compressed = view.head(node, MAX_MODULE as usize)?;
    let Some(bytes) = decompress(&node.path, compressed) else { return Ok(None) };
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

/// Decompresses a module; `None` if it is damaged.
fn decompress(path: &[u8], compressed: Vec<u8>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = |reader: &mut dyn Read, bytes: &mut Vec<u8>| {
        reader.take(MAX_MODULE).read_to_end(bytes).ok()
    };
    match path.rsplit(|&byte| byte == b'.').next()? {
        b"ko" => return Some(compressed),
        b"xz" => read(&mut liblzma::read::XzDecoder::new(&compressed[..]), &mut bytes)?,
        b"zst" => read(&mut zstd::stream::read::Decoder::new(&compressed[..]).ok()?, &mut bytes)?,
        b"gz" => read(&mut flate2::read::GzDecoder::new(&compressed[..]), &mut bytes)?,
        _ => return None,
    };
    Some(bytes)
}
