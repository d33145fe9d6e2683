//! Packages that only Ubuntu has, or that supported releases have under another name.

/// The packages that supported releases of Ubuntu have and Debian does not, with what to write
/// there.
const UBUNTU_PACKAGES: [(&str, &str); 8] = [
    ("busybox-initramfs", "busybox"),
    ("lib32bz2-1.0", "libbz2-1.0:i386, and run `dpkg --add-architecture i386` before"),
    ("linux-firmware", "firmware-linux-free, or firmware-linux of the component non-free-firmware"),
    ("linux-generic", "linux-image-amd64"),
    ("linux-headers-generic", "linux-headers-amd64"),
    ("linux-image-generic", "linux-image-amd64"),
    ("linux-image-virtual", "linux-image-cloud-amd64"),
    ("linux-virtual", "linux-image-cloud-amd64"),
];

/// The packages that supported releases of Debian and Ubuntu have under another name.
const RENAMED_PACKAGES: [(&str, &str); 5] = [
    ("lib32gcc1", "lib32gcc-s1"),
    ("lib32ncurses5", "lib32ncurses6"),
    ("lib32tinfo5", "lib32tinfo6"),
    ("libgcc1", "libgcc-s1"),
    ("nodejs-legacy", "nodejs"),
];

/// Returns the problem of a package, without its version. `stays_on_ubuntu` is whether the release
/// of the tree is a supported one of Ubuntu.
pub(super) fn problem(name: &str, stays_on_ubuntu: bool) -> Option<String> {
    let of = |list: &[(&str, &'static str)]| {
        list.iter().find(|(package, _)| *package == name).map(|(_, instead)| *instead)
    };
    if let Some(instead) = of(&RENAMED_PACKAGES) {
        return Some(format!("the package `{name}` has another name now: write `{instead}`"));
    }
    let instead = of(&UBUNTU_PACKAGES).filter(|_| !stays_on_ubuntu)?;
    Some(format!("`{name}` is a package of Ubuntu: for Debian write {instead}"))
}
