//! What mount(8) runs for the type `fuse.overcoat`: this program, by the name
//! `mount.fuse.overcoat`, as *External helpers* in mount(8) has it:
//!
//! ```text
//! mount.fuse.overcoat SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]
//! ```
//!
//! Where there is no such name, libfuse's own helper runs `overcoat SPEC DIR -o OPTIONS`.
//!
//! SPEC is the images, the lowest first, with colons between; a colon in a name is written `\:` and
//! a backslash `\\`. mount(8) always says `rw` or `ro`, and `rw` where the user said nothing.
//! Exit codes are mount(8)'s: 1 for what makes no sense, 32 for what did not work.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::images::BaseOffset;
use super::options::size_value;
use super::{Failure, command, describe, mount, say};
use crate::sandbox::{HostMount, MountOptions};

/// By which names this program is a helper of mount(8).
const NAMES: [&str; 2] = ["mount.fuse.overcoat", "mount.overcoat"];

/// Options that say nothing to a file system, or what is so anyway.
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
    // Nothing is written later than it is written.
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

/// Whether mount(8) calls, by the name of the program and its arguments.
pub(super) fn is_called(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| NAMES.iter().any(|ours| name == *ours)) {
        return true;
    }
    // What libfuse says always has `rw` or `ro` in it, and is no command of ours.
    let [_, spec, dir, o, options] = arguments else { return false };
    let mut options = options.as_bytes().split(|&byte| byte == b',');
    o == "-o"
        && Path::new(dir).is_absolute()
        && options.any(|option| option == b"rw" || option == b"ro")
        && command().find_subcommand(spec).is_none()
}

/// Does what mount(8) asks for.
pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let request = match Request::parse(arguments) {
        Ok(request) => request,
        Err(message) => {
            say(&format!("error: {message}"));
            return ExitCode::from(1);
        }
    };
    if request.fake {
        return ExitCode::SUCCESS;
    }
    if request.remount {
        return match HostMount::remount(&request.dir, &request.options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("error: {}", describe(&error)));
                ExitCode::from(32)
            }
        };
    }
    let args = mount::Args {
        paths: request.images.into_iter().chain([request.dir]).collect(),
        rw: !request.options.read_only,
        offset: request.offset,
        upper_size: request.upper_size,
        foreground: false,
    };
    match mount::mount(&args, &request.options) {
        Ok(code) => code,
        Err(Failure::Error(_, error)) => {
            say(&format!("error: {}", describe(&*error)));
            ExitCode::from(32)
        }
        Err(Failure::Signal(_) | Failure::Enough) => ExitCode::from(32),
    }
}

/// What mount(8) asks for.
#[derive(Debug)]
struct Request {
    images: Vec<PathBuf>,
    dir: PathBuf,
    options: MountOptions,
    upper_size: Option<u64>,
    offset: BaseOffset,
    /// Change the options of an existing mount.
    remount: bool,
    fake: bool,
}

impl Request {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Request, String> {
        let mut named: Vec<OsString> = Vec::new();
        let mut options: Vec<OsString> = Vec::new();
        let (mut fake, mut sloppy) = (false, false);
        while let Some(argument) = arguments.next() {
            match argument.as_bytes() {
                b"-o" => options.push(arguments.next().ok_or("-o takes options")?),
                b"-t" => drop(arguments.next()),
                b"-N" => return Err("mounting in another namespace is not supported".to_owned()),
                [b'-', letters @ ..] if !letters.is_empty() => {
                    for letter in letters {
                        match letter {
                            b's' => sloppy = true,
                            b'f' => fake = true,
                            b'n' | b'v' => {}
                            _ => return Err(format!("{}: no such option", argument.display())),
                        }
                    }
                }
                _ => named.push(argument),
            }
        }
        let [spec, dir] = <[OsString; 2]>::try_from(named)
            .map_err(|_| "usage: mount -t fuse.overcoat BASE[:OVERLAY…] DIR [-o OPTIONS]")?;
        let mut request = Request {
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
            if !request.take(&text)? && !sloppy {
                return Err(format!(
                    "{text}: no option of this file system; there are ro, rw, upper_size=SIZE, \
                     offset=BYTES, nosuid, nodev, noexec and noatime"
                ));
            }
        }
        if request.upper_size.is_some() && request.options.read_only && !request.remount {
            return Err(
                "upper_size limits what changes, and nothing can change in what is mounted \
                        read-only: leave ro out, or upper_size"
                    .to_owned(),
            );
        }
        Ok(request)
    }

    /// Takes an option; whether there is such a one.
    fn take(&mut self, option: &str) -> Result<bool, String> {
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
            // Of the base, as mount(8) has it for loop devices.
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

/// The images of a SPEC.
fn images(spec: &[u8]) -> Result<Vec<PathBuf>, String> {
    let shown = OsStr::from_bytes(spec).display();
    let mut images = vec![Vec::new()];
    let mut bytes = spec.iter().copied();
    while let Some(byte) = bytes.next() {
        // There is one from the beginning.
        let Some(image) = images.last_mut() else { break };
        match byte {
            b':' => images.push(Vec::new()),
            b'\\' => match bytes.next() {
                Some(escaped @ (b':' | b'\\')) => image.push(escaped),
                _ => {
                    return Err(format!(
                        "{shown}: a backslash stands before a colon or a backslash: write \\\\ for \
                         one that is in a name"
                    ));
                }
            },
            byte => image.push(byte),
        }
    }
    if images.iter().any(Vec::is_empty) {
        return Err(format!("{shown}: an image's name is empty; write BASE or BASE:OVERLAY:…"));
    }
    Ok(images.into_iter().map(|image| PathBuf::from(OsString::from_vec(image))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Request, String> {
        Request::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn images_of_any_name_can_be_told() {
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
    fn what_libfuse_runs_is_told_from_commands() {
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
    fn options_of_fstab_are_taken_and_others_are_not() {
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
        assert!(both.contains("leave ro out"), "{both}");
        assert!(parse(&["base", "/mnt", "-o", "upper_size=1G,ro,rw"]).is_ok());
        let offset = |value: &str| parse(&["base", "/mnt", "-o", &format!("ro,offset={value}")]);
        let mut images = [PathBuf::from("base"), PathBuf::from("over")];
        offset("0x8000").unwrap().offset.apply(&mut images);
        assert_eq!(images, ["base@32768", "over"].map(PathBuf::from));
        assert!(offset("here").unwrap_err().contains("32768"));
        assert!(parse(&["base"]).is_err());
        // mount(8) repeats all options of the mount.
        let line = "rw,nosuid,relatime,user_id=0,group_id=0,allow_other,remount,ro";
        let request = parse(&["base", "/mnt", "-o", line]).unwrap();
        assert!(request.remount && request.options.read_only && request.options.no_setuid);
    }
}
