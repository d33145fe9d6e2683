//! What a machine is told to boot: the kernel's command line, and iPXE's scripts.
//!
//! Names of images are made of letters, digits and `-_+.`, the server's URL was checked, and names
//! of files are encoded in URLs: nothing of them can be a word or a line of its own.

use std::fmt::Write;
use std::sync::Arc;

use super::artifact::Version;
use super::catalogue::{Boot, Catalogue, Image};

/// What is known of each file of a [`Catalogue`]; nothing of those that are not there.
pub(super) type Versions = [Option<Arc<Version>>];

/// The name under which iPXE hands the initrd to the kernel.
const INITRD: &str = "initrd.img";

/// The longest command line that an x86 kernel takes whole.
const LONGEST: usize = 2047;

/// How one image is booted, by somebody who reached the server by a certain name.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) kernel: String,
    pub(super) initrd: String,
    /// The kernel's command line.
    pub(super) parameters: String,
}

/// What stands before all paths of a server at this URL: nothing, or a path of its own.
pub(super) fn prefix(server: &str) -> &str {
    let host = server.split_once("://").map_or(server, |(_, host)| host);
    host.find('/').map_or("", |at| &host[at..])
}

/// The URL of a file, by that of the server, which has no slash at its end.
pub(super) fn url(server: &str, name: &str) -> String {
    format!("{server}/{}", encoded(name))
}

/// A name as it stands in a URL.
pub(super) fn encoded(name: &str) -> String {
    let mut text = String::new();
    for &byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// How it is booted.
///
/// # Errors
/// What is missing, or why it cannot be.
pub(super) fn lines(
    catalogue: &Catalogue,
    boot: &Boot,
    versions: &Versions,
    server: &str,
) -> Result<Lines, String> {
    let name = |file: usize| &catalogue.files[file].name;
    if let Some(missing) = boot.files().find(|&file| versions[file].is_none()) {
        return Err(format!("{} was not built yet", name(missing)));
    }
    let digest = |file: usize| versions[file].as_ref().map_or("", |version| &version.sha256);
    let each = |of: &dyn Fn(usize) -> String| {
        boot.overlays.iter().map(|&overlay| of(overlay)).collect::<Vec<_>>().join(",")
    };
    let mut words = vec!["boot=overcoat".to_owned()];
    words.push(format!("BASEFS={}", url(server, name(boot.base))));
    if !boot.overlays.is_empty() {
        words.push(format!("OVERLAYFS={}", each(&|file| url(server, name(file)))));
    }
    words.push("BOOTIF=01-${netX/mac:hexhyp}".to_owned());
    words.push(format!("BASEFS_SHA256={}", digest(boot.base)));
    if !boot.overlays.is_empty() {
        words.push(format!("OVERLAYFS_SHA256={}", each(&|file| digest(file).to_owned())));
    }
    // What is said last is where the system's own messages go.
    words.push("console=tty0 console=ttyS0".to_owned());
    if !catalogue.append.is_empty() {
        words.push(catalogue.append.clone());
    }
    let parameters = words.join(" ");
    // `initrd=` is a part of it, too.
    let length = parameters.len() + INITRD.len() + " initrd=".len();
    if length > LONGEST {
        return Err(format!(
            "its kernel's command line has {length} bytes, and kernels take {LONGEST}: use fewer \
             overlays, or shorter names"
        ));
    }
    let (kernel, initrd) = (url(server, name(boot.kernel)), url(server, name(boot.initrd)));
    Ok(Lines { kernel, initrd, parameters })
}

impl Lines {
    /// The script that boots it.
    pub(super) fn script(&self, image: &Image) -> String {
        format!("#!ipxe\n# {}\n{}boot\n", what(image), self.commands())
    }

    /// The commands that load it.
    pub(super) fn commands(&self) -> String {
        let Lines { kernel, initrd, parameters } = self;
        format!("kernel {kernel} initrd={INITRD} {parameters}\ninitrd --name {INITRD} {initrd}\n")
    }
}

/// An image and what it lies on, in words.
fn what(image: &Image) -> String {
    match image.layers.as_slice() {
        [] => image.name.clone(),
        layers => format!("{} on {}", image.name, layers.join(" and ")),
    }
}

/// A script that asks which image to boot, of those whose files are there.
pub(super) fn menu(catalogue: &Catalogue, server: &str) -> String {
    let mut text = format!("#!ipxe\nmenu overcoat at {server}\n");
    let mut any = false;
    // Overlays are what one boots; the bare bases come after them.
    for kind in ["overlay", "base"] {
        for image in &catalogue.images {
            let there = |file: usize| catalogue.files[file].path.is_file();
            if image.kind == kind
                && let Some(Ok(boot)) = &image.boot
                && boot.files().all(there)
            {
                any = true;
                let _ = writeln!(text, "item {} {}", image.name, what(image));
            }
        }
    }
    if !any {
        return format!("#!ipxe\necho {server} has nothing that could be booted\nexit 1\n");
    }
    let _ = writeln!(text, "choose image || exit 1\nchain {server}/boot/${{image}}.ipxe");
    text
}
