//! Recognises Ansible roles by their files.

use std::path::Path;

/// A directory with one of these files is an Ansible role.
const TASK_FILES: [&str; 3] = ["tasks/main.yml", "tasks/main.yaml", "tasks/main"];

/// Returns whether `folder` is an Ansible role.
pub(crate) fn is_role(folder: &Path) -> bool {
    TASK_FILES.iter().any(|tasks| folder.join(tasks).is_file())
}

/// Returns whether `folder` has the main file of any part of a role. A role that others include
/// need not have tasks.
pub(super) fn looks_like_role(folder: &Path) -> bool {
    ["tasks", "handlers", "defaults", "vars", "meta"].iter().any(|part| {
        ["main.yml", "main.yaml", "main"].iter().any(|main| folder.join(part).join(main).is_file())
    })
}
