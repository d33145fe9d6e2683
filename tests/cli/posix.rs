//! Compares the behaviour of a root with a tmpfs in the same sandbox, case by case. `posix.py` has
//! the cases; docs/SEMANTICS.md refers to them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::stage::{BOTH_USERS, Finished, Stage, Who, finish};

const CASES: &str = include_str!("posix.py");
/// Path of the script inside.
const SCRIPT: &str = "/posix.py";

/// Differences from a tmpfs: the case, the outcome in a root, the reason.
const DIFFERENT: &[(&str, &str, &str)] = &[
    (
        "renaming_to_leave_a_whiteout",
        "'EINVAL'",
        "a whiteout means a deletion in every layer, so it cannot be created",
    ),
    ("a_device_like_a_whiteout", "'EPERM'", "as before"),
    (
        "reading_updates_the_access_time",
        "(False, False)",
        "the kernel answers most reads of a FUSE mount from its cache",
    ),
    (
        "changing_the_owner_to_itself_clears_setuid",
        "('0o4777', '0o2777')",
        "the request equals that for a write by root in a user namespace",
    ),
    ("zeroing_a_range", "'ok'", "a tmpfs does not support it"),
    ("unnamed_files", "'ENOTSUP'", "the FUSE library does not support O_TMPFILE"),
    ("birth_time", "False", "FUSE attributes do not contain it"),
    (
        "attributes_of_overlayfs",
        "('ENOTSUP', [])",
        "they have an effect in an overlay, so they cannot be set as attributes",
    ),
    ("flags_of_a_file_by_ioctl", "'ENOTTY'", "not supported"),
    ("seals_of_a_file", "'EINVAL'", "not supported"),
    ("block_number_of_a_file", "True", "the kernel's FUSE returns 0 if the block is unknown"),
    ("written_zeros", "(('ENXIO', 0), 69632, 73728)", "zeros use no memory"),
    ("allocating_uses_blocks", "0", "only written data uses memory"),
    ("blocks_of_a_sparse_file", "22", "pages near each other are stored in one piece"),
    ("handles_of_dropped_inodes", "True", "the FUSE library has no look-up by inode number"),
];

/// Cases whose outcome in a root differs only without root, with the reason.
const DIFFERENT_UNPRIVILEGED: [(&str, &str, &str); 1] = [(
    "writing_as_root_keeps_setuid",
    "('0o4777', '0o2777')",
    "the kernel clears the bits in a tmpfs in a user namespace; the outcome is that of real root",
)];

/// Returns a command that runs `shell` in a root with the script.
fn inside(stage: &Stage, who: Who, layers: &[&Path], save: &Path, shell: &str) -> Finished {
    let script = stage.write("posix.py", CASES);
    let mut command = stage.overcoat(who);
    let shown = format!("{}:{SCRIPT}:ro", script.display());
    command.arg("run").args(layers).args(["--bind", &shown, "--save"]).arg(save);
    if who == Who::Root {
        command.args(["--bind", "/proc/sys/vm/drop_caches:/drop_caches"]);
    }
    finish(command.args(["--", "sh", "-euc", shell])).ok()
}

/// Parses the outcomes of one run by case.
fn outcomes(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"))).collect()
}

/// Returns the unexpected differences between the outcomes in a root and in a tmpfs.
fn compare(what: &str, who: Who, root: &str, tmpfs: &str) -> Vec<String> {
    let (root, tmpfs) = (outcomes(root), outcomes(tmpfs));
    assert!(root.len() > 100 && root.len() == tmpfs.len(), "{what}: {root:#?}\n{tmpfs:#?}");
    let mut wrong = Vec::new();
    for ((case, found), (_, expected)) in root.iter().zip(&tmpfs) {
        let unprivileged = DIFFERENT_UNPRIVILEGED.iter().filter(|_| who == Who::Unprivileged);
        let mut all = DIFFERENT.iter().chain(unprivileged);
        let different = all.find(|(name, _, _)| name == case);
        // Some cases depend on the privilege.
        if who == Who::Root && different.is_some_and(|(_, outcome, _)| outcome == expected) {
            wrong.push(format!("{what}: {case}: the outcome in a tmpfs is also {expected}"));
        }
        let expected = different.map_or(*expected, |(_, outcome, _)| outcome);
        if *found != expected || found.contains("ended early") || found.contains("killed") {
            wrong.push(format!("{what}: {case}\n   found {found}\nexpected {expected}"));
        }
    }
    wrong
}

#[test]
fn root_behaves_like_a_tmpfs() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let base = stage.debian();
        let (lower, changed) =
            (stage.out(who).join("lower.squashfs"), stage.out(who).join("changed.tar"));
        let init = format!("python3 {SCRIPT} init");
        let check = format!("python3 {SCRIPT} check");
        inside(&stage, who, &[&base], &lower, &format!("{init} /lower"));
        let shell = format!(
            "{init} /upper; {init} /tmp/posix
             for place in /lower /upper /tmp/posix; do {check} $place; echo @; done"
        );
        let text = inside(&stage, who, &[&base, &lower], &changed, &shell).text();
        let parts: Vec<_> = text.split("@\n").collect();
        let mut wrong = compare(&format!("{who:?}, of a layer"), who, parts[0], parts[2]);
        wrong.extend(compare(&format!("{who:?}, made here"), who, parts[1], parts[2]));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for place in ["lower", "upper"] {
            assert_mapped_data_is_sealed(&changed, place);
        }
    }
}

/// Checks that data written only through a shared mapping is in the overlay.
fn assert_mapped_data_is_sealed(archive: &Path, place: &str) {
    let name = format!("{place}/a_shared_mapping_is_the_file/file");
    let tar = Command::new("tar").arg("-xOf").arg(archive).arg(name).output().unwrap();
    assert_eq!(&tar.stdout[..6], b"abcDEF");
    assert_eq!(tar.stdout[9_999], 7);
}

#[test]
fn every_documented_difference_has_a_case() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SEMANTICS.md"));
    let page = page.unwrap();
    let named: Vec<_> = page.split('`').skip(1).step_by(2).filter(|w| w.contains('_')).collect();
    let is_case = |name: &str| CASES.contains(&format!("@case\ndef {name}():"));
    for name in &named {
        // Names of kernel constants are in capitals.
        assert!(is_case(name) || name.to_uppercase() == **name, "no case {name:?}");
    }
    for (name, _, _) in DIFFERENT {
        assert!(is_case(name) && named.contains(name), "{name:?} is not documented");
    }
}
