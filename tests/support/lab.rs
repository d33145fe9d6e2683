//! The lab that `tests/set-up.sh` prepares: an unprivileged user, a Debian base and a package
//! repository.

use std::path::{Path, PathBuf};

/// The unprivileged user of the tests.
pub const USER: &str = "overcoat-test";

/// Returns the folder of the lab.
pub fn folder() -> PathBuf {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("build/lab");
    std::env::var_os("OVERCOAT_LAB").map_or_else(ours, PathBuf::from)
}

/// Returns the path of a file or folder of the lab.
///
/// # Panics
/// Panics if it does not exist.
pub fn file(name: &str) -> PathBuf {
    let path = folder().join(name);
    let help = "run tests/set-up.sh as root, or point OVERCOAT_LAB at a lab that it made";
    assert!(path.exists(), "the tests need {}: {help}", path.display());
    path
}
