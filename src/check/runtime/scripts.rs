//! Scripts and their interpreters.

use super::is_elsewhere;
use super::lints::INTERPRETER;
use crate::check::context::{CheckContext, Roots, resolve};
use crate::check::security::of_package;
use crate::check::{Finding, Findings, Severity, PassError};
use crate::look::{LookError, Node, View, Walk};
use crate::seal::path::escape;

/// How much of a first line the kernel reads (`BINPRM_BUF_SIZE`).
const LINE: usize = 256;
/// Where what `env` is to find is looked for.
const PATH: [&[u8]; 6] =
    [b"usr/local/sbin", b"usr/local/bin", b"usr/sbin", b"usr/bin", b"sbin", b"bin"];
/// Where something is put to be run, and not to be read.
const RUN: [&[u8]; 10] = [
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
    let Roots { view, below } = context.roots()?;
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        let passed_over = node.path.starts_with(b"usr/share/doc/") || is_elsewhere(&node.path);
        if !node.is_file() || node.attr.mode & 0o111 == 0 || node.attr.size < 4 || passed_over {
            continue;
        }
        let head = view.head(node, LINE)?;
        let to_run = RUN.iter().any(|dir| node.path.starts_with(dir));
        if let Some(what) = malformed(&head) {
            if to_run && !entry.same_content(context.roots()?)? {
                of_package(context, &INTERPRETER, node, what, findings)?;
            }
            continue;
        }
        let Some(named) = interpreter(view, &head)? else { continue };
        let Some(what) = fault(&named) else { continue };
        let before = below.as_ref().map(|below| interpreter(below, &head)).transpose()?.flatten();
        let was_there = before.is_some_and(|named| fault(&named).is_none());
        if to_run && !was_there {
            // Packages have scripts of which they only suggest the interpreters.
            of_package(context, &INTERPRETER, node, what, findings)?;
            continue;
        }
        let finding = Finding::new(&INTERPRETER, context.layer_name(node), Some(&node.path), what);
        findings.push(if to_run { finding } else { finding.severity(Severity::Note) });
    }
    broken(context, findings)
}

/// Scripts of what is beneath whose interpreter was there before.
fn broken(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let roots = context.roots()?;
    let Some(below) = &roots.below else { return Ok(()) };
    let difference = context.difference()?;
    let replaced = difference.overlaid.iter().any(|brought| {
        // A program that is a program still is none the less an interpreter.
        let was = entry.lower.as_ref().filter(|before| !before.is_dir());
        was.is_some() && (!entry.node.is_file() || entry.node.attr.mode & 0o111 == 0)
    });
    if difference.removed.is_empty() && !replaced {
        return Ok(());
    }
    let view = &roots.view;
    for dir in RUN {
        let Some(dir) = resolve(view, dir)?.filter(Node::is_dir) else { continue };
        view.walk::<PassError>(&dir, &mut |node| {
            let of_others = node.layer() >= context.first_checked() || is_elsewhere(&node.path);
            if of_others || !node.is_file() || node.attr.mode & 0o111 == 0 || node.attr.size < 4 {
                return Ok(Walk::Into);
            }
            let head = view.head(node, LINE)?;
            let Some(named) = interpreter(view, &head)? else { return Ok(Walk::Into) };
            let Some(what) = fault(&named) else { return Ok(Walk::Into) };
            let Some(before) = interpreter(below, &head)? else { return Ok(Walk::Into) };
            if fault(&before).is_none() {
                let paths: Vec<_> = before.1.into_iter().map(|node| node.path).collect();
                let what = format!("of the base, {what}; the overlay changed that");
                let finding = Finding::new(&INTERPRETER, "", Some(&node.path), what);
                findings.push(finding.attributed_to(context.responsible_layers(&paths)?));
            }
            Ok(Walk::Into)
        })?;
    }
    Ok(())
}

/// What is wrong with the program that is to run a script.
fn fault((program, found): &Named) -> Option<String> {
    Some(match found {
        None if program.ends_with(b"\r") => {
            let program = escape(program.trim_ascii_end()).into_owned();
            format!("the line that names {program} ends with CR, which is taken for a part of it")
        }
        None => format!("its interpreter {} is not there", escape(program)),
        Some(node) if node.is_file() && node.attr.mode & 0o111 == 0 => {
            format!("its interpreter {} is not executable", escape(program))
        }
        Some(node) if !node.is_file() => {
            format!("its interpreter {} is no program", escape(program))
        }
        Some(_) => return None,
    })
}

/// Why the kernel does not find a script's interpreter, whatever there is.
fn malformed(head: &[u8]) -> Option<String> {
    if head.starts_with(b"\xef\xbb\xbf#!") {
        return Some("a byte order mark is before its #!, and so it is no script".to_owned());
    }
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let program = line.trim_ascii().split(u8::is_ascii_whitespace).next()?;
    let relative = !program.is_empty() && !program.starts_with(b"/");
    relative.then(|| {
        let program = escape(program);
        format!("its interpreter {program} is looked for in whatever directory it is run in")
    })
}

/// A program by its name, and what is there.
type Named = (Vec<u8>, Option<Node>);

/// What a script's first line names, and what is there; nothing for what is no script.
fn interpreter(view: &View, head: &[u8]) -> Result<Option<Named>, LookError> {
    let Some(line) = head.strip_prefix(b"#!") else { return Ok(None) };
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut words =
        line.split(|&byte| byte == b' ' || byte == b'\t').filter(|word| !word.is_empty());
    let Some(program) = words.next() else { return Ok(None) };
    // A relative one depends on where it is run.
    if !program.starts_with(b"/") {
        return Ok(None);
    }
    let found = resolve(view, program)?;
    if found.is_some() && program.ends_with(b"/env") {
        let mut words = words.skip_while(|word| word.starts_with(b"-") || word.contains(&b'='));
        if let Some(name) = words.next().filter(|name| !name.contains(&b'/')) {
            for dir in PATH {
                let at = resolve(view, &crate::look::join(dir, name))?;
                if at.as_ref().is_some_and(Node::is_file) {
                    return Ok(Some((name.to_vec(), at)));
                }
            }
            return Ok(Some((name.to_vec(), None)));
        }
    }
    Ok(Some((program.to_vec(), found)))
}
