//! What a program can observe of a root, against what it observes of a tmpfs in the same sandbox,
//! case by case. The cases are in `posix.py`; docs/SEMANTICS.md names them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::stage::{EVERYBODY, Finished, Stage, Who, finish};

const CASES: &str = include_str!("posix.py");
/// Where the script is shown inside.
const SCRIPT: &str = "/posix.py";

/// What a root answers otherwise than a tmpfs: the case, the root's outcome, the reason.
const DIFFERENT: &[(&str, &str, &str)] = &[
    (
        "renaming_to_leave_a_whiteout",
        "'EINVAL'",
        "a whiteout says in every layer that a name is gone: none can be made",
    ),
    ("a_device_like_a_whiteout", "'EPERM'", "as before"),
    (
        "reading_changes_the_time_of_access",
        "(False, False)",
        "the kernel answers most reads of a FUSE mount from its cache, without asking",
    ),
    ("zeroing_a_range", "'ok'", "a tmpfs cannot"),
    ("files_without_a_name", "'ENOTSUP'", "the FUSE library has no such request"),
    ("the_time_of_birth", "False", "FUSE tells none to the kernel without statx"),
    (
        "attributes_of_overlayfs",
        "('ENOTSUP', [])",
        "in an overlay they have an effect, and are no attributes",
    ),
    ("flags_of_a_file_by_ioctl", "'ENOTTY'", "there are none"),
    ("seals_of_a_file", "'EINVAL'", "there are none"),
    ("asking_for_the_block_of_a_file", "True", "the kernel's FUSE says 0 where nobody knows"),
    ("written_zeros", "(('ENXIO', 0), 69632, 73728)", "zeros take no memory"),
    ("allocating_takes_blocks", "0", "memory is taken by what is written"),
    ("blocks_of_a_sparse_file", "22", "pages that lie near each other are kept in one piece"),
    (
        "handles_of_what_the_kernel_has_dropped",
        "True",
        "the FUSE library offers no look-up by number that would find it again",
    ),
];

/// An overcoat command whose root has the script, and runs `shell`.
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

/// The outcomes of one run, by case.
fn outcomes(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"))).collect()
}

/// Compares what a root answers with what a tmpfs does, and gives all that is wrong.
fn compare(what: &str, who: Who, root: &str, tmpfs: &str) -> Vec<String> {
    let (root, tmpfs) = (outcomes(root), outcomes(tmpfs));
    assert!(root.len() > 100 && root.len() == tmpfs.len(), "{what}: {root:#?}\n{tmpfs:#?}");
    let mut wrong = Vec::new();
    for ((case, found), (_, expected)) in root.iter().zip(&tmpfs) {
        let different = DIFFERENT.iter().find(|(name, _, _)| name == case);
        // (There are things that only root can see.)
        if who == Who::Root && different.is_some_and(|(_, outcome, _)| outcome == expected) {
            wrong.push(format!("{what}: {case}: a tmpfs answers {expected} too"));
        }
        let expected = different.map_or(*expected, |(_, outcome, _)| outcome);
        if *found != expected || found.contains("ended early") || found.contains("killed") {
            wrong.push(format!("{what}: {case}\n   found {found}\nexpected {expected}"));
        }
    }
    wrong
}

#[test]
fn a_root_answers_as_a_tmpfs_does() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let base = stage.debian();
        let (lower, changed) =
            (stage.out(who).join("lower.squashfs"), stage.out(who).join("changed.tar"));
        let lay = format!("python3 {SCRIPT} lay");
        let check = format!("python3 {SCRIPT} check");
        inside(&stage, who, &[&base], &lower, &format!("{lay} /lower"));
        let shell = format!(
            "{lay} /upper; {lay} /tmp/posix
             for place in /lower /upper /tmp/posix; do {check} $place; echo @; done"
        );
        let text = inside(&stage, who, &[&base, &lower], &changed, &shell).text();
        let parts: Vec<_> = text.split("@\n").collect();
        let mut wrong = compare(&format!("{who:?}, of a layer"), who, parts[0], parts[2]);
        wrong.extend(compare(&format!("{who:?}, made here"), who, parts[1], parts[2]));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for place in ["lower", "upper"] {
            what_was_mapped_is_sealed(&changed, place);
        }
    }
}

/// What was written through a shared mapping alone is in the overlay.
fn what_was_mapped_is_sealed(archive: &Path, place: &str) {
    let name = format!("{place}/a_shared_mapping_is_the_file/file");
    let tar = Command::new("tar").arg("-xOf").arg(archive).arg(name).output().unwrap();
    assert_eq!(&tar.stdout[..6], b"abcDEF");
    assert_eq!(tar.stdout[9_999], 7);
}

#[test]
fn every_claim_about_semantics_names_a_case() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SEMANTICS.md"));
    let page = page.unwrap();
    let named: Vec<_> = page.split('`').skip(1).step_by(2).filter(|w| w.contains('_')).collect();
    let is_case = |name: &str| CASES.contains(&format!("@case\ndef {name}():"));
    for name in &named {
        // Constants of the kernel are in capitals.
        assert!(is_case(name) || name.to_uppercase() == **name, "no case {name:?}");
    }
    for (name, _, _) in DIFFERENT {
        assert!(is_case(name) && named.contains(name), "{name:?} is not told");
    }
}
