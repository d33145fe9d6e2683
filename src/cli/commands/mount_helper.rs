//! Helper of mount(8) for the type `fuse.overcoat`. mount(8) runs this program by the name
//! `mount.fuse.overcoat` (see *External helpers* in mount(8)):
//!
//! ```text
//! mount.fuse.overcoat SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]
//! ```
//!
//! If that name is not installed, libfuse's own helper runs `overcoat SPEC DIR -o OPTIONS`.
//!
//! SPEC is the images, the lowest first, separated by colons; a colon in a name is escaped as `\:`
//! and a backslash as `\\`. mount(8) always passes `rw` or `ro`; `rw` is its default.
//! Exit codes are those of mount(8): 1 for incorrect arguments, 32 for a failed mount.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::command;
use crate::cli::commands::mount::{RootMount, mount};
use crate::cli::ui::Ui;
use crate::cli::ui::args::size_value;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::image_args::BaseOffset;
use crate::sandbox::{HostMount, MountOptions};

/// Program names that make this program a helper of mount(8).
const NAMES: [&str; 2] = ["mount.fuse.overcoat", "mount.overcoat"];

/// Options that are handled by mount(8) or have no effect on this file system.
const IGNORED: [&str; 28] = [
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "dev",
    "suid",
    "exec",
    // Writes are never delayed.
    "async",
    "sync",
    "dirsync",
    "atime",
    "relatime",
    "norelatime",
    "lazytime",
    "nolazytime",
    "allow_other",
    "default_permissions",
    "nostrictatime",
    "nomand",
    "silent",
];

/// Returns whether this program was run by mount(8), judging by its name and arguments.
pub(crate) fn is_called(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| NAMES.iter().any(|ours| name == *ours)) {
        return true;
    }
    // libfuse's helper always passes `rw` or `ro`, and its first argument is not a subcommand.
    let [_, spec, dir, o, options] = arguments else { return false };
    let mut options = options.as_bytes().split(|&byte| byte == b',');
    o == "-o"
        && Path::new(dir).is_absolute()
        && options.any(|option| option == b"rw" || option == b"ro")
        && command().find_subcommand(spec).is_none()
}

/// Runs as a helper of mount(8).
pub(crate) fn run(ui: &Ui, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let request = match MountRequest::parse(arguments) {
        Ok(request) => request,
        Err(message) => {
            ui.error(&message);
            return ExitCode::from(1);
        }
    };
    if request.fake {
        return ExitCode::SUCCESS;
    }
    if request.remount {
        return match HostMount::remount(&request.dir, &request.options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => CommandError::from(error).with_exit_code(32).report(ui),
        };
    }
    let mut layers = request.images;
    request.offset.apply(&mut layers);
    let root = RootMount {
        layers,
        dir: request.dir,
        rw: !request.options.read_only,
        upper_size: request.upper_size,
        foreground: false,
    };
    match mount(ui, root, &request.options) {
        Ok(code) => code,
        Err(error) => error.with_exit_code(32).report(ui),
    }
}

/// The parsed arguments of mount(8).
#[derive(Debug)]
struct MountRequest {
    images: Vec<PathBuf>,
    dir: PathBuf,
    options: MountOptions,
    upper_size: Option<u64>,
    offset: BaseOffset,
    /// Change the options of an existing mount.
    remount: bool,
    /// Only check the arguments (`-f`).
    fake: bool,
}

impl MountRequest {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<MountRequest, String> {
        let mut positional: Vec<OsString> = Vec::new();
        let mut options: Vec<OsString> = Vec::new();
        let (mut fake, mut sloppy) = (false, false);
        while let Some(argument) = arguments.next() {
            match argument.as_bytes() {
                b"-o" => options.push(arguments.next().ok_or("-o requires options")?),
                b"-t" => drop(arguments.next()),
                b"-N" => return Err("mounting in another namespace is not supported".to_owned()),
                [b'-', letters @ ..] if !letters.is_empty() => {
                    for letter in letters {
                        match letter {
                            b's' => sloppy = true,
                            b'f' => fake = true,
                            b'n' | b'v' => {}
                            _ => return Err(format!("{}: unknown option", argument.display())),
                        }
                    }
                }
                _ => positional.push(argument),
            }
        }
        let [spec, dir] = <[OsString; 2]>::try_from(positional)
            .map_err(|_| "usage: mount -t fuse.overcoat BASE[:OVERLAY…] DIR [-o OPTIONS]")?;
        let mut request = MountRequest {
            images: images(spec.as_bytes())?,
            dir: dir.into(),
            options: MountOptions { source: Some(spec), ..MountOptions::default() },
            upper_size: None,
            offset: BaseOffset::default(),
            remount: false,
            fake,
        };
        for option in options.iter().flat_map(|list| list.as_bytes().split(|&byte| byte == b',')) {
            let text = String::from_utf8_lossy(option);
            if !request.apply(&text)? && !sloppy {
                return Err(format!(
                    "{text}: unknown mount option; supported are ro, rw, upper_size=SIZE, \
                     offset=BYTES, nosuid, nodev, noexec and noatime"
                ));
            }
        }
        if request.upper_size.is_some() && request.options.read_only && !request.remount {
            return Err(
                "upper_size limits the size of changes, but the mount is read-only: remove ro or \
                 upper_size"
                    .to_owned(),
            );
        }
        Ok(request)
    }

    /// Applies a mount option. Returns `false` if it is unknown.
    fn apply(&mut self, option: &str) -> Result<bool, String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        match (name, value) {
            ("ro", None) => self.options.read_only = true,
            ("rw", None) => self.options.read_only = false,
            ("remount", None) => self.remount = true,
            // Options from /proc/mounts, which mount(8) repeats for a remount.
            ("user_id" | "group_id" | "max_read" | "blksize", Some(_)) => {}
            ("nosuid", None) => self.options.no_setuid = true,
            ("nodev", None) => self.options.no_devices = true,
            ("noexec", None) => self.options.no_programs = true,
            ("noatime", None) => self.options.no_access_times = true,
            ("upper_size" | "upper-size", Some(value)) => {
                let size = size_value(value).map_err(|error| format!("{option}: {error}"))?;
                self.upper_size = Some(size);
            }
            // Offset of the base, named as the option of mount(8) for loop devices.
            ("offset", Some(value)) => {
                self.offset = value.parse().map_err(|error| format!("{option}: {error}"))?;
            }
            ("comment", Some(_)) | ("", None) => {}
            (name, None) if IGNORED.contains(&name) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Parses the images of a SPEC.
fn images(spec: &[u8]) -> Result<Vec<PathBuf>, String> {
    let shown = OsStr::from_bytes(spec).display();
    let mut images = vec![Vec::new()];
    let mut bytes = spec.iter().copied();
    while let Some(byte) = bytes.next() {
        // Never empty.
        let Some(image) = images.last_mut() else { break };
        match byte {
            b':' => images.push(Vec::new()),
            b'\\' => match bytes.next() {
                Some(escaped @ (b':' | b'\\')) => image.push(escaped),
                _ => {
                    return Err(format!(
                        "{shown}: a backslash must be followed by a colon or a backslash: write \
                         \\\\ for a backslash in a name"
                    ));
                }
            },
            byte => image.push(byte),
        }
    }
    if images.iter().any(Vec::is_empty) {
        return Err(format!("{shown}: empty image name: write BASE or BASE:OVERLAY:…"));
    }
    Ok(images.into_iter().map(|image| PathBuf::from(OsString::from_vec(image))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<MountRequest, String> {
        MountRequest::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn spec_supports_image_names_with_colons_and_backslashes() {
        let names = |spec: &str| images(spec.as_bytes()).unwrap();
        assert_eq!(names("base"), [Path::new("base")]);
        assert_eq!(
            names(r"a,b:c\:d:e\\f:g\\\:h"),
            ["a,b", "c:d", r"e\f", r"g\:h"].map(PathBuf::from)
        );
        for wrong in ["", "a:", ":a", "a::b", r"a\b", "a\\"] {
            assert!(images(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn calls_by_libfuse_are_distinguished_from_subcommands() {
        let called =
            |line: &str| is_called(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(called("/sbin/mount.fuse.overcoat base /mnt"));
        assert!(called("overcoat base:over /mnt -o rw,dev,suid"));
        assert!(called("overcoat /srv/base /mnt -o noatime,ro"));
        for command in [
            "overcoat base:over mnt -o rw",
            "overcoat bild /srv/image.yml -o out.cpio.gz",
            "overcoat build /srv/image.yml -o ro",
            "overcoat base /srv/image.yml -o ro",
        ] {
            assert!(!called(command), "{command}");
        }
    }

    #[test]
    fn options_of_fstab_are_accepted_and_unknown_ones_rejected() {
        let line = "rw,nofail,_netdev,x-systemd.automount,allow_other,nosuid,upper_size=1G";
        let request = parse(&["base:over", "/mnt", "-n", "-sv", "-o", line]).unwrap();
        assert_eq!(request.images.len(), 2);
        assert_eq!(request.upper_size, Some(1 << 30));
        assert!(request.options.no_setuid && !request.options.read_only && !request.fake);
        assert!(parse(&["base", "/mnt", "-f", "-o", "ro"]).unwrap().fake);
        assert!(parse(&["base", "/mnt", "-o", "ro,size=5"]).unwrap_err().contains("size=5"));
        assert!(parse(&["base", "/mnt", "-s", "-o", "ro,size=5"]).is_ok());
        assert!(parse(&["base", "/mnt", "-o", "upper_size=much"]).is_err());
        let both = parse(&["base", "/mnt", "-o", "upper_size=1G,ro"]).unwrap_err();
        assert!(both.contains("remove ro"), "{both}");
        assert!(parse(&["base", "/mnt", "-o", "upper_size=1G,ro,rw"]).is_ok());
        let offset = |value: &str| parse(&["base", "/mnt", "-o", &format!("ro,offset={value}")]);
        let mut images = [PathBuf::from("base"), PathBuf::from("over")];
        offset("0x8000").unwrap().offset.apply(&mut images);
        assert_eq!(images, ["base@32768", "over"].map(PathBuf::from));
        assert!(offset("here").unwrap_err().contains("32768"));
        assert!(parse(&["base"]).is_err());
        // For a remount, mount(8) passes all options of the existing mount.
        let line = "rw,nosuid,relatime,user_id=0,group_id=0,allow_other,remount,ro";
        let request = parse(&["base", "/mnt", "-o", line]).unwrap();
        assert!(request.remount && request.options.read_only && request.options.no_setuid);
    }
}
