//! The target of the boot (systemd.special(7)), and files with words of the kernel command line.

use super::files::{drop_in_nodes, files_in};
use super::inspector::{Inspector, shown};
use crate::check::context::{MAX_LINKS, link_target_path, resolve};
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode};
use crate::text::escape::escape;
use fs_model::tree::Follow;

pub(super) static DEFAULT_TARGET: Lint = Lint {
    name: "config/default-target",
    severity: Severity::Error,
    summary: "a default target that does not start the system",
    why: "systemd starts default.target at boot, unless `systemd.unit=` on the kernel command line \
          names another one. If it is missing or masked, systemd starts rescue.target, which asks \
          for the password of root; reboot.target and its relatives end the boot.",
    fix: "select a target: `systemctl set-default multi-user.target`",
};

pub(super) static KERNEL_COMMAND_LINE: Lint = Lint {
    name: "config/kernel-command-line",
    severity: Severity::Note,
    summary: "words for the kernel command line in a file that is not read",
    why: "The boot loader of a disk, or a script that configures it, reads the file. A machine \
          that boots from the network gets its command line from the boot server.",
    fix: "add the words to the boot script of the server: `overcoat serve --append`",
};

/// Directories of system units by precedence.
const UNIT_DIRS: [&str; 4] = [
    "etc/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// Targets after which a machine does not run its services.
const BAD_TARGETS: [&str; 14] = [
    "ctrl-alt-del.target",
    "emergency.target",
    "exit.target",
    "halt.target",
    "hibernate.target",
    "kexec.target",
    "poweroff.target",
    "reboot.target",
    "rescue.target",
    "runlevel0.target",
    "runlevel1.target",
    "runlevel6.target",
    "shutdown.target",
    "suspend.target",
];

/// Finds faults of default.target.
pub(super) fn default_target(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let Some(systemd) = resolve(view, b"lib/systemd/systemd")? else { return Ok(()) };
    for dir in UNIT_DIRS {
        let path = format!("{dir}/default.target");
        if let Some(node) = find(view, path.as_bytes())? {
            if let Some((message, cause)) = target_fault(view, &node)? {
                faults.push(Fault::new(&DEFAULT_TARGET, &node, message).cause(&cause));
            }
            return Ok(());
        }
    }
    let fault = Fault::new(&DEFAULT_TARGET, &systemd, "there is no default.target");
    faults.push(
        UNIT_DIRS
            .iter()
            .fold(fault, |fault, dir| fault.cause(format!("{dir}/default.target").as_bytes())),
    );
    Ok(())
}

/// Like [`StackView::find`] without following the last link; `None` for too many links.
fn find(view: &StackView, path: &[u8]) -> Result<Option<ViewNode>, LookError> {
    match view.find(path, Follow::No) {
        Err(LookError::Path { .. }) => Ok(None),
        found => found,
    }
}

/// Describes the fault of the target that a link leads to, with the path that causes it.
fn target_fault(view: &StackView, node: &ViewNode) -> Result<Option<(String, Vec<u8>)>, LookError> {
    let mut node = node.clone();
    for _ in 0..MAX_LINKS {
        let name = String::from_utf8_lossy(node.name()).into_owned();
        if BAD_TARGETS.contains(&name.as_str()) {
            return Ok(Some((format!("it leads to {name}"), Vec::new())));
        }
        if node.is_file() && node.attr.size == 0 {
            return Ok(Some((format!("{name} is an empty file, which masks it"), node.path)));
        }
        if !node.is_link() {
            return Ok(None);
        }
        let target = link_target_path(&node.path, &view.link(&node)?);
        if target == b"dev/null" {
            return Ok(Some((format!("{name} is masked"), node.path)));
        }
        node = match find(view, &target)? {
            Some(next) => next,
            // systemd finds a unit of this name in any directory.
            None => {
                let name = target.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
                for dir in UNIT_DIRS {
                    let path = [dir.as_bytes(), b"/", name].concat();
                    if resolve(view, &path)?.is_some() {
                        return Ok(None);
                    }
                }
                let message = format!("it leads to {}, which does not exist", escape(name));
                return Ok(Some((message, target)));
            }
        };
    }
    Ok(None)
}

/// Finds words of kernel command lines that nothing reads.
pub(super) fn command_line(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let mut inspector = Inspector::new(view, faults);
    let mut nodes: Vec<ViewNode> = resolve(view, b"etc/default/grub")?.into_iter().collect();
    nodes.extend(drop_in_nodes(view, &["etc/default/grub.d"], ".cfg")?);
    for node in nodes.into_iter().filter(ViewNode::is_file) {
        let file = inspector.open(node)?;
        for (line, text) in file.entries(&['#']) {
            let text = text.strip_prefix("export ").unwrap_or(text);
            if let Some((key, value)) = text.split_once('=')
                && key.starts_with("GRUB_CMDLINE_LINUX")
            {
                add_words(&mut inspector, &file.node, line, value);
            }
        }
    }
    let mut nodes: Vec<ViewNode> = resolve(view, b"etc/kernel/cmdline")?.into_iter().collect();
    nodes.extend(drop_in_nodes(view, &["etc/kernel/cmdline.d"], ".conf")?);
    for node in nodes.into_iter().filter(ViewNode::is_file) {
        let file = inspector.open(node)?;
        for (line, text) in file.entries(&['#']) {
            add_words(&mut inspector, &file.node, line, text);
        }
    }
    for (_, node) in files_in(view, "boot/loader/entries")? {
        let file = inspector.open(node)?;
        for (line, text) in file.entries(&['#']) {
            if let Some(words) = text.strip_prefix("options") {
                add_words(&mut inspector, &file.node, line, words);
            }
        }
    }
    Ok(())
}

/// Reports the words of a command line, without those that only a boot from a disk needs or that
/// are the defaults of distributions.
fn add_words(inspector: &mut Inspector<'_>, node: &ViewNode, line: usize, words: &str) {
    const DEFAULTS: [&str; 6] = ["quiet", "splash", "ro", "rw", "rhgb", "\\"];
    let quotes = |c| c == '"' || c == '\'';
    let words: Vec<&str> = words
        .split_whitespace()
        .map(|word| word.trim_matches(quotes))
        .filter(|word| !word.is_empty() && !word.starts_with(['$', '#']))
        .filter(|word| !DEFAULTS.contains(word) && !word.starts_with("root="))
        .collect();
    if !words.is_empty() {
        let message = format!("a machine does not get {}", shown(&words.join(" ")));
        inspector.add(Fault::new(&KERNEL_COMMAND_LINE, node, message).line(line));
    }
}
