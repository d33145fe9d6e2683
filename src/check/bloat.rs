//! Lints (`lean/…`) of files that could be left out of an overlay, with the bytes that this saves.
//!
//! Sizes are memory on the machine: an overlay is unpacked to a tmpfs, in pages of 4 KiB.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest, Sha256};

use super::context::{CheckContext, StackImage};
use super::{Finding, Findings, Lint, Pass, PassError, Severity};
use crate::image::view::usage::{self, PAGE};
use crate::image::view::{LookError, StackView, ViewNode};
use crate::text::escape::escape;
use crate::text::list;

const CLEAN: &str =
    "let overcoat's clean-up delete the files (`cleanup:`), or delete them in the last step";

static CACHE: Lint = Lint {
    name: "lean/cache",
    severity: Severity::Warning,
    summary: "caches",
    why: "Package lists, downloaded packages and other caches are useless on a machine that runs \
          from memory, and they occupy memory until it shuts down.",
    fix: CLEAN,
};

static DOCS: Lint = Lint {
    name: "lean/docs",
    severity: Severity::Note,
    summary: "documentation",
    why: "Manual pages are rarely read on a machine that was booted for one task.",
    fix: CLEAN,
};

static LOCALES: Lint = Lint {
    name: "lean/locales",
    severity: Severity::Note,
    summary: "translations",
    why: "Messages in languages that the machine does not use.",
    fix: CLEAN,
};

static LOGS: Lint = Lint {
    name: "lean/logs",
    severity: Severity::Warning,
    summary: "logs of the build",
    why: "They are about the machine on which the overlay was built, not about the one that boots \
          it.",
    fix: CLEAN,
};

static PYTHON: Lint = Lint {
    name: "lean/python-bytecode",
    severity: Severity::Note,
    summary: "compiled Python modules",
    why: "Python compiles them again from the sources. They save a tenth of a second at the first \
          start of a program, and are as large as the sources; they also contain times, which may \
          make two builds differ.",
    fix: CLEAN,
};

static LEFTOVER: Lint = Lint {
    name: "lean/leftover",
    severity: Severity::Warning,
    summary: "temporary and backup files",
    why: "Temporary files, and backups that package tools and editors keep of changed files. The \
          machine does not use them; some contain old passwords.",
    fix: CLEAN,
};

static SAME_AS_BASE: Lint = Lint {
    name: "lean/same-as-base",
    severity: Severity::Warning,
    summary: "files that are identical to the base's",
    why: "They take space twice, and hide a newer base's version. A file that differs only in its \
          time, such as a copy, is a note: the time may be intended.",
    fix: "build the overlay with overcoat, which leaves out unchanged files",
};

/// How to fix [`SAME_AS_BASE`] in an overlay that overcoat built, which has no file of the layers
/// that it was built on.
const BUILT_ON_OTHER_LAYERS: &str =
    "it was built on another base, which differed: build it again on this one (`build --rebase`)";

static DUPLICATE: Lint = Lint {
    name: "lean/duplicate",
    severity: Severity::Note,
    summary: "several files with the same content",
    why: "Compression finds copies only within its window, and each copy takes its own memory.",
    fix: "replace the copies by hard links or symbolic links",
};

static SIZE_BUDGET: Lint = Lint {
    name: "lean/size-budget",
    severity: Severity::Error,
    summary: "the archive exceeds its size limit",
    why: "The project limits the size of an overlay, which each machine downloads before it boots. \
          The limit does not apply to a base.",
    fix: "remove files (`overcoat du` shows the sizes), or raise `budget:`",
};

static RAM_BUDGET: Lint = Lint {
    name: "lean/ram-budget",
    severity: Severity::Error,
    summary: "the overlay exceeds its memory limit",
    why: "The project limits the memory of an overlay, which is unpacked in the machine's memory \
          until it shuts down. The size is the one that `overcoat du --ram` prints. The limit does \
          not apply to a base, which is not unpacked.",
    fix: "remove files (`overcoat du` shows the sizes), or raise `budget:`",
};

static MACHINE_RAM: Lint = Lint {
    name: "lean/machine-ram",
    severity: Severity::Error,
    summary: "the images do not fit into the memory of the project's machines",
    why: "The boot fails with \"not enough space\". At its peak it needs memory for the image of \
          the base, the unpacked overlays and the archive that is being unpacked, holes of files \
          included. The kernel uses about 32 MiB and 1/64 of the memory, and the initrd leaves a \
          tenth of the rest, or 64 MiB, for programs.",
    fix: "remove files (`overcoat du` shows the sizes), or raise `budget: machine:`",
};

pub(super) static PASSES: &[Pass] = &[
    Pass { lints: &[&CACHE, &DOCS, &LOCALES, &LOGS, &PYTHON, &LEFTOVER], run: places },
    Pass { lints: &[&SAME_AS_BASE, &DUPLICATE], run: copies },
    Pass { lints: &[&SIZE_BUDGET, &RAM_BUDGET, &MACHINE_RAM], run: budgets },
];

/// Directories whose whole contents could be left out.
const PLACES: [(&str, &Lint); 18] = [
    ("var/cache/", &CACHE),
    ("var/lib/apt/lists/", &CACHE),
    ("root/.cache/", &CACHE),
    ("root/.npm/", &CACHE),
    ("root/.cargo/registry/", &CACHE),
    ("usr/share/doc/", &DOCS),
    ("usr/share/man/", &DOCS),
    ("usr/share/info/", &DOCS),
    ("usr/share/doc-base/", &DOCS),
    ("usr/share/gtk-doc/", &DOCS),
    ("usr/share/lintian/", &DOCS),
    ("usr/local/share/man/", &DOCS),
    ("usr/share/locale/", &LOCALES),
    ("usr/share/i18n/", &LOCALES),
    ("var/log/", &LOGS),
    ("tmp/", &LEFTOVER),
    ("var/tmp/", &LEFTOVER),
    ("var/crash/", &LEFTOVER),
];
/// Suffixes of backup and temporary files.
const BACKUP_SUFFIXES: [&[u8]; 9] = [
    b"~",
    b".bak",
    b".orig",
    b".rej",
    b".swp",
    b".dpkg-old",
    b".dpkg-new",
    b".dpkg-dist",
    b".dpkg-tmp",
];
/// Backups of the account and package tools.
const BACKUPS: [&str; 9] = [
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
];

/// Total of the files of one finding.
#[derive(Default)]
struct FileTotal {
    files: usize,
    bytes: u64,
}

/// Finds files that could be left out because of their path.
fn places(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let mut totals: BTreeMap<(&'static str, &str, Vec<u8>), (&'static Lint, FileTotal)> =
        BTreeMap::new();
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        if !node.is_file() || node.attr.size == 0 {
            continue;
        }
        let Some((lint, place)) = place(&node.path) else { continue };
        let key = (lint.name, context.layer_name(node), place);
        let (_, total) = totals.entry(key).or_insert((lint, FileTotal::default()));
        total.files += 1;
        total.bytes += memory(node.attr.size);
    }
    for ((_, layer, place), (lint, total)) in totals {
        let message = match total.files {
            1 => "1 file".to_owned(),
            n => format!("{n} files"),
        };
        findings.push(Finding::new(lint, layer, Some(&place), message).saves(total.bytes));
    }
    Ok(())
}

/// Returns the lint that a file belongs to, and the path of the finding.
fn place(path: &[u8]) -> Option<(&'static Lint, Vec<u8>)> {
    let found = PLACES.iter().find(|(dir, _)| path.starts_with(dir.as_bytes()));
    if let Some((dir, lint)) = found {
        // Licences stay: they are small, and some must be distributed. debconf's "cache" contains
        // its only copy of the answers.
        let stays = path.ends_with(b"/copyright")
            || path.starts_with(b"var/cache/debconf/") && path.ends_with(b".dat");
        return (!stays).then(|| (*lint, dir.trim_end_matches('/').into()));
    }
    if path.ends_with(b".pyc") {
        let cut = path.windows(12).position(|window| window == b"/__pycache__");
        let dir = &path[..cut.or(path.iter().rposition(|&byte| byte == b'/')).unwrap_or(0)];
        // One finding for all packages below a path such as /usr/lib/python3.
        let names: Vec<&[u8]> = dir.split(|&byte| byte == b'/').take(3).collect();
        return Some((&PYTHON, names.join(&b'/')));
    }
    let backup = BACKUPS.iter().any(|backup| path == backup.as_bytes());
    let suffix = BACKUP_SUFFIXES.iter().any(|end| path.ends_with(end));
    (backup || suffix).then(|| (&LEFTOVER, path.to_vec()))
}

/// Returns the memory of a file's content in a tmpfs, in bytes.
fn memory(size: u64) -> u64 {
    size.next_multiple_of(PAGE)
}

/// Finds files that are identical to the base's file at the same path, or to each other.
fn copies(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    /// Minimum bytes saved: smaller savings are not worth a link.
    const MIN_SAVED: u64 = 64 << 10;
    /// Maximum number of copies that a finding lists.
    const MAX_COPIES: usize = 3;
    let roots = context.roots()?;
    let mut entries = Vec::new();
    // Objects with a name at which the base has another file or none. Their other names have to be
    // in the archive, too: hard links cannot lead to a lower layer.
    let mut new_objects = HashSet::new();
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        if !node.is_file() || node.attr.size == 0 {
            continue;
        }
        let is_same = entry.same_attributes() && entry.same_content(roots)?;
        if !is_same {
            new_objects.insert(node.found.source());
        }
        entries.push((entry, is_same));
    }
    let mut by_size: BTreeMap<u64, Vec<&ViewNode>> = BTreeMap::new();
    for (entry, is_same) in entries {
        let node = &entry.node;
        if let Some(before) = &entry.lower
            && is_same
            && (same_time(before, node) || !is_database(node))
            && !new_objects.contains(&node.found.source())
        {
            let finding = |message| {
                Finding::new(&SAME_AS_BASE, context.layer_name(node), Some(&node.path), message)
                    .saves(memory(node.attr.size))
            };
            findings.push(match same_time(before, node) {
                true => {
                    let finding = finding("content, mode, owner and time are equal to the base's");
                    match context.is_built_by_overcoat(node) {
                        true => finding.fix(BUILT_ON_OTHER_LAYERS),
                        false => finding,
                    }
                }
                // The time may be intended.
                false => finding(
                    "only the time differs; content, mode and owner are equal to the base's",
                )
                .severity(Severity::Note)
                .fix("copy the file with its time (`cp -p`); none if the time is intended"),
            });
            continue;
        }
        // Files that could be left out need no links.
        let left_out = place(&node.path).is_some() || node.path.ends_with(b"/copyright");
        let left_out = left_out || is_database(node);
        if node.attr.size >= PAGE && !left_out {
            by_size.entry(node.attr.size).or_default().push(node);
        }
    }
    // By the directory of the first copy.
    let mut by_dir: BTreeMap<Vec<u8>, Vec<Finding>> = BTreeMap::new();
    for (size, mut nodes) in by_size {
        // Hard links share their memory.
        let mut seen = HashSet::new();
        nodes.retain(|node| seen.insert(node.found.source()));
        if nodes.len() < 2 {
            continue;
        }
        let mut by_digest: BTreeMap<[u8; 32], Vec<&ViewNode>> = BTreeMap::new();
        for node in nodes {
            by_digest.entry(digest(&roots.view, node)?).or_default().push(node);
        }
        let saves = |count: usize| memory(size) * (count as u64 - 1);
        for same in by_digest.into_values().filter(|same| saves(same.len()) >= MIN_SAVED) {
            let others = same[1..].iter().map(|node| format!("/{}", escape(&node.path)));
            let message = format!("same content as {}", list::joined(others, MAX_COPIES));
            let layer = context.layer_name(same[0]);
            let path = &same[0].path;
            let dir = &path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)];
            let finding = Finding::new(&DUPLICATE, layer, Some(path), message);
            by_dir.entry(dir.to_vec()).or_default().push(finding.saves(saves(same.len())));
        }
    }
    for (dir, mut of_dir) in by_dir {
        of_dir.sort_by(|a, b| (b.saves, &a.path).cmp(&(a.saves, &b.path)));
        let all: u64 = of_dir.iter().filter_map(|finding| finding.saves).sum();
        let count = of_dir.len();
        let Some(first) = of_dir.into_iter().next() else { continue };
        findings.push(match count {
            1 => first,
            _ => {
                let path = first.shown_path().unwrap_or_default();
                let what = &first.message;
                let message = format!("{count} files have copies, such as {path}: {what}");
                Finding { path: Some(dir), message, ..first }.saves(all)
            }
        });
    }
    Ok(())
}

fn same_time(before: &ViewNode, now: &ViewNode) -> bool {
    before.attr.mtime.secs == now.attr.mtime.secs
}

/// Returns whether a file belongs to a program's database. Programs rewrite these, so links and
/// preserved times are useless there.
fn is_database(node: &ViewNode) -> bool {
    node.path.starts_with(b"var/lib/")
}

/// Returns a digest of a file: of each page that is not all zeros, with its offset. Holes are not
/// read, because a small image can contain huge sparse files.
fn digest(view: &StackView, file: &ViewNode) -> Result<[u8; 32], LookError> {
    const CHUNK_SIZE: usize = 64 * PAGE as usize;
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; CHUNK_SIZE];
    let (mut at, mut data) = (0, 0..0);
    loop {
        if at >= data.end {
            let Some(next) = view.next_data(file, at)? else { break };
            data = next;
        }
        let start = data.start.max(at) / PAGE * PAGE;
        let read = view.read_at(file, start, &mut buffer)?;
        if read == 0 {
            break;
        }
        for (offset, page) in
            (start..).step_by(PAGE as usize).zip(buffer[..read].chunks(PAGE as usize))
        {
            if page.iter().any(|&byte| byte != 0) {
                sha256.update(offset.to_le_bytes());
                sha256.update(page);
            }
        }
        at = start + read as u64;
    }
    Ok(sha256.finalize().into())
}

/// Compares the overlays with the project's size limits.
fn budgets(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let budget = context.request.budget;
    // Budgets use powers of 1024.
    let shown = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    // The lowest layer is the base, which has no limit.
    let overlays: Vec<_> = context.checked().filter(|(index, _)| *index > 0).collect();
    if let Some(limit) = budget.size {
        for (_, image) in &overlays {
            let size = image.bytes.as_ref().map_or(0, |bytes| (**bytes).as_ref().len() as u64);
            if size > limit {
                let message = format!("{} exceeds the limit of {}", shown(size), shown(limit));
                let finding = Finding::new(&SIZE_BUDGET, &image.name, None, message);
                findings.push(finding.saves(size - limit));
            }
        }
    }
    if let Some(limit) = budget.ram {
        let view = &context.roots()?.view;
        let mut total = 0;
        for (index, _) in &overlays {
            total += usage::memory(view, *index)?.tmpfs();
        }
        if total > limit {
            let message =
                format!("{} of memory exceeds the limit of {}", shown(total), shown(limit));
            let finding = Finding::new(&RAM_BUDGET, "", None, message);
            let names = overlays.iter().rev().map(|(_, image)| image.name.clone()).collect();
            findings.push(finding.attributed_to(names).saves(total - limit));
        }
    }
    if let Some(machine) = budget.machine {
        let visible = machine.saturating_sub(32 << 20).saturating_sub(machine / 64);
        let limit = visible.saturating_sub((64 << 20).max(visible / 10));
        let peak = boot_peak(context)?;
        if peak > limit {
            let message = format!(
                "the boot needs {} of memory, and a machine with {} has {} for it",
                shown(peak),
                shown(machine),
                shown(limit)
            );
            let finding = Finding::new(&MACHINE_RAM, "", None, message);
            let names = context.checked_names();
            findings.push(finding.attributed_to(names).saves(peak - limit));
        }
    }
    Ok(())
}

/// Returns the memory that the files need at the peak of a boot, in bytes: the lowest image stays
/// as it is, the others are unpacked one after the other.
fn boot_peak(context: &CheckContext<'_>) -> Result<u64, PassError> {
    let view = &context.roots()?.view;
    let size = |image: &StackImage| {
        image.bytes.as_ref().map_or(0, |bytes| (**bytes).as_ref().len() as u64)
    };
    let mut resident = context.images.first().map_or(0, size);
    let mut peak = resident;
    for (index, image) in context.images.iter().enumerate().skip(1) {
        resident = resident.saturating_add(usage::memory(view, index)?.tmpfs());
        peak = peak.max(resident.saturating_add(size(image)));
    }
    Ok(peak)
}
