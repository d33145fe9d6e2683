//! Lint of scripts whose interpreter is missing.

use super::is_elsewhere;
use super::lints::INTERPRETER;
use crate::check::context::{CheckContext, Roots, program as program_file, resolve};
use crate::check::{Finding, Findings, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode, WalkControl};
use crate::text::escape::escape;

/// Bytes of the first line that the kernel reads (`BINPRM_BUF_SIZE`).
const BINPRM_BUF_SIZE: usize = 256;
/// Directories whose executable files are run; elsewhere they may be data.
const PROGRAM_DIRS: [&[u8]; 10] = [
    b"usr/local/sbin/",
    b"usr/local/bin/",
    b"usr/sbin/",
    b"usr/bin/",
    b"sbin/",
    b"bin/",
    b"etc/",
    b"usr/lib/systemd/",
    b"usr/libexec/",
    b"opt/",
];

pub(super) fn interpreters(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let Roots { view, lower } = context.roots()?;
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        let skipped = node.path.starts_with(b"usr/share/doc/") || is_elsewhere(&node.path);
        if !node.is_file() || node.attr.mode & 0o111 == 0 || node.attr.size < 4 || skipped {
            continue;
        }
        let head = view.head(node, BINPRM_BUF_SIZE)?;
        let is_program = PROGRAM_DIRS.iter().any(|dir| node.path.starts_with(dir));
        if let Some(what) = malformed(&head) {
            if is_program && !entry.same_content(context.roots()?)? {
                context.add_unless_packaged(&INTERPRETER, node, what, findings)?;
            }
            continue;
        }
        let Some(named) = interpreter(view, &head)? else { continue };
        let Some(what) = fault(&named) else { continue };
        let before = lower.as_ref().map(|lower| interpreter(lower, &head)).transpose()?.flatten();
        let was_there = before.is_some_and(|named| fault(&named).is_none());
        if is_program && !was_there {
            // A package may only suggest the interpreters of its scripts.
            context.add_unless_packaged(&INTERPRETER, node, what, findings)?;
            continue;
        }
        let finding = Finding::new(&INTERPRETER, context.layer_name(node), Some(&node.path), what);
        findings.push(if is_program { finding } else { finding.severity(Severity::Note) });
    }
    broken_lower_scripts(context, findings)
}

/// Finds scripts of the lower layers whose interpreter an overlay removes.
fn broken_lower_scripts(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let Some(lower) = &roots.lower else { return Ok(()) };
    let difference = context.difference()?;
    let replaced = difference.overlaid.iter().any(|entry| {
        // A replaced program that is still a program can run scripts.
        let was = entry.lower.as_ref().filter(|before| !before.is_dir());
        was.is_some() && (!entry.node.is_file() || entry.node.attr.mode & 0o111 == 0)
    });
    if difference.removed.is_empty() && !replaced {
        return Ok(());
    }
    let view = &roots.view;
    for dir in PROGRAM_DIRS {
        let Some(dir) = resolve(view, dir)?.filter(ViewNode::is_dir) else { continue };
        view.walk::<PassError>(&dir, &mut |node| {
            let skipped = node.layer() >= context.first_checked() || is_elsewhere(&node.path);
            if skipped || !node.is_file() || node.attr.mode & 0o111 == 0 || node.attr.size < 4 {
                return Ok(WalkControl::Into);
            }
            let head = view.head(node, BINPRM_BUF_SIZE)?;
            let Some(named) = interpreter(view, &head)? else { return Ok(WalkControl::Into) };
            let Some(what) = fault(&named) else { return Ok(WalkControl::Into) };
            let Some(before) = interpreter(lower, &head)? else { return Ok(WalkControl::Into) };
            if fault(&before).is_none() {
                let paths: Vec<_> = before.1.into_iter().map(|node| node.path).collect();
                let what = format!("base file broken by the overlay: {what}");
                let finding = Finding::new(&INTERPRETER, "", Some(&node.path), what);
                findings.push(finding.attributed_to(context.responsible_layers(&paths)?));
            }
            Ok(WalkControl::Into)
        })?;
    }
    Ok(())
}

/// Describes the fault of a script's interpreter, if any.
fn fault((program, found): &Named) -> Option<String> {
    Some(match found {
        None if program.ends_with(b"\r") => {
            let program = escape(program.trim_ascii_end()).into_owned();
            format!("the line of its interpreter {program} ends with CR, which is part of the name")
        }
        None => format!("its interpreter {} does not exist", escape(program)),
        Some(node) if node.is_file() && node.attr.mode & 0o111 == 0 => {
            format!("its interpreter {} is not executable", escape(program))
        }
        Some(node) if !node.is_file() => {
            format!("its interpreter {} is not a regular file", escape(program))
        }
        Some(_) => return None,
    })
}

/// Describes a first line with which the kernel cannot find any interpreter.
fn malformed(head: &[u8]) -> Option<String> {
    if head.starts_with(b"\xef\xbb\xbf#!") {
        return Some("a byte order mark precedes #!, so the kernel does not run it".to_owned());
    }
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let program = line.trim_ascii().split(u8::is_ascii_whitespace).next()?;
    let relative = !program.is_empty() && !program.starts_with(b"/");
    relative.then(|| {
        let program = escape(program);
        format!("its interpreter {program} is relative to the current directory")
    })
}

/// The name of an interpreter, and its file if it exists.
type Named = (Vec<u8>, Option<ViewNode>);

/// Returns the interpreter that a script's first line names; `None` if the file is not a script.
fn interpreter(view: &StackView, head: &[u8]) -> Result<Option<Named>, LookError> {
    let Some(line) = head.strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut words =
        line.split(|&byte| byte == b' ' || byte == b'\t').filter(|word| !word.is_empty());
    let Some(program) = words.next() else { return Ok(None) };
    // `malformed` reports relative paths.
    if !program.starts_with(b"/") {
        return Ok(None);
    }
    let found = resolve(view, program)?;
    if found.is_some() && program.ends_with(b"/env") {
        let mut words = words.skip_while(|word| word.starts_with(b"-") || word.contains(&b'='));
        if let Some(name) = words.next().filter(|name| !name.contains(&b'/')) {
            return Ok(Some((name.to_vec(), program_file(view, name)?)));
        }
    }
    Ok(Some((program.to_vec(), found)))
}
