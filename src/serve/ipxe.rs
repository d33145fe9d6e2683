//! Boot instructions for machines: the kernel command line and iPXE scripts.
//!
//! Image names consist of letters, digits and `-_+.`, the server's URL was validated, and file
//! names are percent-encoded in URLs, so none of them can add a word or a line to a script.

use std::fmt::Write;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use super::artifact::ArtifactVersion;
use super::catalogue::{BootFiles, Catalogue, ServedImage};

/// The version of each file of a [`Catalogue`]; `None` for files that do not exist.
pub(super) type Versions = [Option<Arc<ArtifactVersion>>];

/// The name of the initrd in iPXE.
const INITRD: &str = "initrd.img";

/// Maximum length of an x86 kernel's command line, in bytes, without the terminating NUL
/// (COMMAND_LINE_SIZE).
const MAX_COMMAND_LINE_LENGTH: usize = 2047;

/// The boot commands of one image, for a client that reached the server by a certain URL.
#[derive(Debug)]
pub(super) struct BootCommands {
    pub(super) kernel: String,
    pub(super) initrd: String,
    /// The kernel's command line.
    pub(super) parameters: String,
}

/// Returns the path of the server's URL that precedes all paths: empty, or a reverse proxy's path.
pub(super) fn prefix(server: &str) -> &str {
    let host = server.split_once("://").map_or(server, |(_, host)| host);
    host.find('/').map_or("", |at| &host[at..])
}

/// Returns the URL of a file. `server` has no trailing slash.
pub(super) fn url(server: &str, name: &str) -> String {
    format!("{server}/{}", encoded(name))
}

/// Percent-encodes a name for a URL.
fn encoded(name: &str) -> PercentEncode<'_> {
    // The unreserved characters of RFC 3986, and two that are common in file names.
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'+')
        .remove(b'/');
    utf8_percent_encode(name, ENCODED)
}

/// Returns the boot commands of an image.
///
/// # Errors
/// Fails if a file is missing or the command line is too long.
pub(super) fn boot_commands(
    catalogue: &Catalogue,
    boot: &BootFiles,
    versions: &Versions,
    server: &str,
) -> Result<BootCommands, String> {
    let name = |file: usize| &catalogue.files[file].name;
    if let Some(missing) = boot.files().find(|&file| versions[file].is_none()) {
        return Err(format!("{} has not been built yet", name(missing)));
    }
    let digest = |file: usize| versions[file].as_ref().map_or("", |version| &version.sha256);
    let each = |of: &dyn Fn(usize) -> String| {
        boot.overlays.iter().map(|&overlay| of(overlay)).collect::<Vec<_>>().join(",")
    };
    let mut words = Vec::new();
    if !boot.has_own_script {
        words.push("boot=overcoat".to_owned());
    }
    words.push(format!("BASEFS={}", url(server, name(boot.base))));
    if !boot.overlays.is_empty() {
        words.push(format!("OVERLAYFS={}", each(&|file| url(server, name(file)))));
    }
    words.push("BOOTIF=01-${netX/mac:hexhyp}".to_owned());
    words.push(format!("BASEFS_SHA256={}", digest(boot.base)));
    if !boot.overlays.is_empty() {
        words.push(format!("OVERLAYFS_SHA256={}", each(&|file| digest(file).to_owned())));
    }
    // The kernel sends the system's own messages to the last console.
    words.push("console=tty0 console=ttyS0".to_owned());
    if !catalogue.append.is_empty() {
        words.push(catalogue.append.clone());
    }
    let parameters = words.join(" ");
    // iPXE adds `initrd=`.
    let length = parameters.len() + INITRD.len() + " initrd=".len();
    if length > MAX_COMMAND_LINE_LENGTH {
        return Err(format!(
            "its kernel command line has {length} bytes, and the limit is \
             {MAX_COMMAND_LINE_LENGTH}: use fewer overlays, or shorter names"
        ));
    }
    let (kernel, initrd) = (url(server, name(boot.kernel)), url(server, name(boot.initrd)));
    Ok(BootCommands { kernel, initrd, parameters })
}

impl BootCommands {
    /// Returns the script that boots `image`.
    pub(super) fn script(&self, image: &ServedImage) -> String {
        format!("#!ipxe\n# {}\n{}boot\n", label(image), self.load())
    }

    /// Returns the commands that load the kernel and the initrd.
    pub(super) fn load(&self) -> String {
        let BootCommands { kernel, initrd, parameters } = self;
        format!("kernel {kernel} initrd={INITRD} {parameters}\ninitrd --name {INITRD} {initrd}\n")
    }
}

/// Returns the name of an image and of its layers.
fn label(image: &ServedImage) -> String {
    match image.layers.as_slice() {
        [] => image.name.clone(),
        layers => format!("{} on {}", image.name, layers.join(" and ")),
    }
}

/// Returns a script with a menu of the images whose files all exist.
pub(super) fn menu(catalogue: &Catalogue, server: &str) -> String {
    let mut text = format!("#!ipxe\nmenu overcoat at {server}\n");
    let mut found = false;
    // Overlays are booted more often than bare bases, and come first.
    for kind in ["overlay", "base"] {
        for image in &catalogue.images {
            let exists = |file: usize| catalogue.files[file].path.is_file();
            if image.kind == kind
                && let Some(Ok(boot)) = &image.boot
                && boot.files().all(exists)
            {
                found = true;
                let _ = writeln!(text, "item {} {}", image.name, label(image));
            }
        }
    }
    if !found {
        return format!("#!ipxe\necho {server} has no bootable image\nexit 1\n");
    }
    let _ = writeln!(text, "choose image || exit 1\nchain {server}/boot/${{image}}.ipxe");
    text
}
