//! `base`, with a replacement for mmdebstrap that prints a small tar.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{at_both_privileges, eventually, hear_signals, processes, tools};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Prints a root with the entries that mmdebstrap can create, including hard links and extended
/// attributes.
const MMDEBSTRAP: &str = r#"#!/usr/bin/python3
import io, os, sys, tarfile
folder = os.path.dirname(sys.argv[0])
open(os.path.join(folder, "arguments"), "w").write("\n".join(sys.argv[1:]))
open(os.path.join(folder, "environment"), "w").write("\n".join("=".join(item) for item in os.environ.items()))
tar = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT)
def add(name, type=tarfile.REGTYPE, mode=0o644, content=b"", xattr=None, **more):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime, info.size = type, mode, 1600000000, len(content)
    if xattr:
        info.pax_headers = {"SCHILY.xattr." + name: value for name, value in xattr.items()}
    for key, value in more.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))
# Like mmdebstrap, which writes /dev first, and omits it with its devices.
if "--skip=output/dev" not in sys.argv:
    add("./dev/", tarfile.DIRTYPE, 0o755)
    add("./dev/null", tarfile.CHRTYPE, 0o666, devmajor=1, devminor=3)
    add("./dev/pts/", tarfile.DIRTYPE, 0o755)
add("./", tarfile.DIRTYPE, 0o755)
for name in ("etc", "etc/apt", "etc/apt/apt.conf.d", "proc", "run", "srv", "sys", "usr"):
    add("./" + name, tarfile.DIRTYPE, 0o755)
add("./tmp", tarfile.DIRTYPE, 0o1777)
add("./etc/apt/apt.conf.d/99mmdebstrap", content=b"Acquire::http::Proxy \"http://host:1\";\n")
add("./etc/hostname", content=b"mine\n")
add("./etc/hostname-too", tarfile.LNKTYPE, linkname="./etc/hostname")
add("./usr/su", mode=0o4755, content=b"x" * 70000, uid=0, gid=42)
add("./usr/ping", mode=0o755, content=b"ping", xattr={"user.note": "kept"})
add("./srv/later", mode=0o600, content=b"later", mtime=1900000000, uid=100, gid=65534)
add("./srv/disk", tarfile.BLKTYPE, 0o660, devmajor=8, devminor=1, gid=6)
add("./srv/pipe", tarfile.FIFOTYPE, 0o600)
add("./lib", tarfile.SYMTYPE, 0o777, linkname="usr/lib")
tar.close()
print("I: done", file=sys.stderr)
"#;

fn overcoat(dir: &Path, output: &str) -> Output {
    command(dir, output).output().unwrap()
}

fn command(dir: &Path, output: &str) -> Command {
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_overcoat"));
    command
        .args(["base", "base.yml", "-o", output])
        .current_dir(dir)
        .env("PATH", path)
        .env("CALLER", "1")
        .env("SOURCE_DATE_EPOCH", "1700000000");
    hear_signals(&mut command);
    command
}

fn prepare(dir: &Path) {
    fs::write(dir.join("mmdebstrap"), MMDEBSTRAP).unwrap();
    fs::set_permissions(dir.join("mmdebstrap"), fs::Permissions::from_mode(0o755)).unwrap();
    let files = dir.join("provisioner/files/etc");
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("motd.j2"), "{{ greeting }}\n").unwrap();
    fs::write(
        dir.join("provisioner/provisioner.yml"),
        "variables: {greeting: hello}\nfiles: files\n",
    )
    .unwrap();
    fs::write(
        dir.join("base.yml"),
        "kind: base\nrelease: bookworm\npackages: [udev, kmod]\nprovisioner: provisioner\n",
    )
    .unwrap();
}

#[test]
fn base_is_built_from_a_tar_stream() {
    at_both_privileges(|| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        prepare(dir);
        let made = command(dir, "base.squashfs").arg("--keep-logs").output().unwrap();
        let printed = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(made.status.success(), "{printed}");
        let log = fs::read_to_string(dir.join("base.squashfs.log")).unwrap();
        assert!(log.starts_with("=== mmdebstrap\nI: done\n=== [1/15] files\n"), "{log}");

        let arguments = fs::read_to_string(dir.join("arguments")).unwrap();
        for argument in ["--variant=minbase", "--include=udev,kmod", "bookworm"] {
            assert!(arguments.lines().any(|line| line == argument), "{argument} in {arguments}");
        }
        // Maintainer scripts see the environment.
        let environment = fs::read_to_string(dir.join("environment")).unwrap();
        for line in ["SOURCE_DATE_EPOCH=1700000000", "USER=root", "HOME=/root"] {
            assert!(environment.lines().any(|other| other == line), "{environment}");
        }
        assert!(!environment.contains("CALLER"), "{environment}");
        let listed = Command::new("unsquashfs")
            .args(["-lln", "base.squashfs"])
            .env("TZ", "UTC")
            .current_dir(dir)
            .output()
            .unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let line = |name: &str| {
            let end = format!("squashfs-root{name}");
            let line = listed.lines().find(|line| line.ends_with(&end));
            line.unwrap_or_else(|| panic!("{name} in\n{listed}"))
        };
        for (name, has) in [
            ("", "drwxr-xr-x 0/0 "),
            ("", " 2023-11-14 "),
            // A machine cannot boot without /dev.
            ("/dev", "drwxr-xr-x 0/0 "),
            ("/tmp", "drwxrwxrwt 0/0 "),
            ("/usr/su", "-rwsr-xr-x 0/42 "),
            ("/usr/su", " 70000 2020-09-13 "),
            ("/srv/later", "-rw------- 100/65534 "),
            ("/srv/later", " 2023-11-14 "),
            ("/srv/disk", "brw-rw---- 0/6 "),
            ("/srv/disk", "8,  1"),
            ("/srv/pipe", "prw------- 0/0 "),
            ("/etc/motd", "-rw-r--r-- 0/0 "),
            ("/lib -> usr/lib", "lrwxrwxrwx"),
        ] {
            assert!(line(name).contains(has), "{has} in {}", line(name));
        }
        for gone in ["/dev/null", "/dev/pts", "99mmdebstrap", "policy-rc.d", "resolv.conf"] {
            assert!(!listed.contains(gone), "{gone} in\n{listed}");
        }
        let unpacked = Command::new("sh")
            .args([
                "-ec",
                "unsquashfs -quiet -no-progress -dest out base.squashfs etc usr/ping &&
                test $(stat -c %i out/etc/hostname) = $(stat -c %i out/etc/hostname-too) &&
                cat out/etc/hostname-too out/etc/motd &&
                python3 -c 'import os; print(os.getxattr(\"out/usr/ping\", \"user.note\"))'",
            ])
            .current_dir(dir)
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&unpacked.stderr).into_owned();
        assert_eq!(unpacked.stdout, b"mine\nhello\nb'kept'\n", "{printed}");

        // A second build has the same bytes.
        let made = overcoat(dir, "again.squashfs");
        assert!(made.status.success());
        let image = fs::read(dir.join("base.squashfs")).unwrap();
        assert!(image == fs::read(dir.join("again.squashfs")).unwrap(), "two images differ");
        let manifest = fs::read_to_string(dir.join("base.squashfs.manifest.json")).unwrap();
        let digest = manifest.lines().find(|line| line.starts_with("\"archive\"")).unwrap();
        // Not compared: depends on the versions of overcoat and squashfs-tools.
        println!("{digest}");
    });
}

/// Archives with holes, values with newlines and headers without a magic, compressed or not.
#[test]
fn base_is_built_from_archives_of_other_tools() {
    at_both_privileges(|| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let written = tools::sh(
            dir,
            r#"
            mkdir -p r/srv r/dev
            truncate -s 3M r/srv/disk && printf middle >>r/srv/disk && truncate -s 6M r/srv/disk
            printf end >>r/srv/disk
            ln -s srv r/link
            for version in 0.0 0.1 1.0; do
                tar -C r --format=posix -S --sparse-version=$version -cf posix-$version.tar .
            done
            tar -C r --format=gnu -S -cf - . | zstd -q >gnu.tar.zst
            { tar -C r --format=v7 -cf - . | gzip; head -c 10000 /dev/zero; } >v7.tar.gz
            bsdtar -C r --format=pax -cf - . | xz >bsdtar.tar.xz
            python3 - <<'E'
import io, tarfile
with tarfile.open("python.tar", "w", format=tarfile.PAX_FORMAT) as tar:
    tar.add("r", ".")
    entry = tarfile.TarInfo("srv/" + "n" * 120 + "\nx")
    entry.size = 1
    entry.pax_headers = {"comment": "two\nlines", "SCHILY.xattr.user.a": "1\n2"}
    tar.addfile(entry, io.BytesIO(b"x"))
E
            ls *.tar*"#,
        );
        let archives = String::from_utf8(written.stdout).unwrap();
        assert_eq!(archives.lines().count(), 7, "{archives}");
        for archive in archives.lines() {
            fs::write(dir.join("base.yml"), format!("kind: base\nfrom: {archive}\n")).unwrap();
            let made = overcoat(dir, "base.squashfs");
            let printed = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(made.status.success() && !printed.contains("warning"), "{archive}: {printed}");
            let overcoat = env!("CARGO_BIN_EXE_overcoat");
            let script = format!("{overcoat} cat base.squashfs :/srv/disk | cmp - r/srv/disk");
            tools::sh(dir, &script);
            if archive == "python.tar" {
                let name = format!(":/srv/{}\nx", "n".repeat(120));
                let mut stat = Command::new(overcoat);
                let stat = stat.args(["stat", "base.squashfs", &name]).current_dir(dir).output();
                let shown = String::from_utf8(stat.unwrap().stdout).unwrap();
                assert!(shown.contains("user.a") && shown.contains("0x310a32"), "{shown}");
            }
        }
    });
}

#[test]
fn lost_access_lists_are_reported_and_never_widen_the_mode() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    tools::sh(
        dir,
        r#"python3 - <<'E'
import tarfile
with tarfile.open("lists.tar", "w", format=tarfile.PAX_FORMAT) as tar:
    entry = tarfile.TarInfo("srv/shared")
    entry.mode = 0o660
    entry.pax_headers = {"SCHILY.acl.access": "user::rw-\nuser:7:rw-\ngroup::r--\nmask::rw-\nother::---\n"}
    tar.addfile(entry)
E"#,
    );
    fs::write(dir.join("base.yml"), "kind: base\nfrom: lists.tar\n").unwrap();
    let made = overcoat(dir, "base.squashfs");
    let printed = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success() && printed.contains("srv/shared"), "{printed}");
    let listed = tools::sh(dir, "unsquashfs -lln base.squashfs srv/shared");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("-rw-r----- 0/0"), "{listed}");
}

#[test]
fn unreadable_archive_is_rejected_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    tools::sh(
        dir,
        "mkdir -p r/srv && head -c 30000 /dev/urandom >r/srv/data
        tar -C r -cf whole.tar . && head -c 20000 whole.tar >short.tar
        gzip <whole.tar | head -c 20000 >short.tar.gz
        { gzip <whole.tar; echo more; } >more.tar.gz
        tar -P --transform 's,^r/srv/data,../data,' -cf up.tar r/srv/data",
    );
    for (archive, printed) in [
        ("short.tar", "short.tar: ./srv/data: the archive ends early"),
        ("short.tar.gz", "short.tar.gz: ./srv/data: "),
        ("more.tar.gz", "more.tar.gz: trailing data after the compressed data"),
        ("up.tar", "cannot import ../data: its name contains `..`"),
    ] {
        fs::write(dir.join("base.yml"), format!("kind: base\nfrom: {archive}\n")).unwrap();
        let made = overcoat(dir, "base.squashfs");
        let words = String::from_utf8_lossy(&made.stderr).into_owned();
        assert_eq!(made.status.code(), Some(2), "{archive}: {words}");
        assert!(words.contains(printed), "{archive}: {words}");
        assert!(!dir.join("base.squashfs").exists());
    }
}

#[test]
fn failed_bootstrap_leaves_only_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepare(dir);
    fs::write(
        dir.join("mmdebstrap"),
        "#!/bin/sh\nhead -c 5000 /dev/zero\necho no network >&2\nexit 3\n",
    )
    .unwrap();
    let made = overcoat(dir, "base.squashfs");
    let printed = String::from_utf8_lossy(&made.stderr).into_owned();
    assert_eq!(made.status.code(), Some(2), "{printed}");
    assert!(printed.contains("no network") && printed.contains("mmdebstrap failed"), "{printed}");
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["base.squashfs.log", "base.yml", "mmdebstrap", "provisioner"]);
    assert_eq!(fs::read_to_string(dir.join("base.squashfs.log")).unwrap(), "no network\n");
}

#[test]
fn bootstrap_ends_with_overcoat() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepare(dir);
    fs::write(dir.join("mmdebstrap"), "#!/bin/sh\nsleep 1000 & sleep 1001\n").unwrap();
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT] {
        let mut build = command(dir, "base.squashfs").spawn().unwrap();
        let mut family = Vec::new();
        eventually("mmdebstrap has started its children", || {
            family = processes::family(build.id());
            let comm = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm"));
            family.iter().filter(|pid| comm(pid).is_ok_and(|comm| comm == "sleep\n")).count() == 2
        });
        kill(Pid::from_raw(build.id() as i32), signal).unwrap();
        assert!(!build.wait().unwrap().success());
        eventually("all processes have ended", || processes::alive(&family).is_empty());
    }
}

/// As mmdebstrap: has files, mounts and a process of a maintainer script when it ends.
const UNTIDY: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit
mkdir "$TMPDIR/left" && : >"$TMPDIR/left/file"
[ "$(id -u)" != 0 ] || mount -t tmpfs none "$TMPDIR/left" || exit
[ "$(id -u)" != 0 ] || setsid sleep 2001 >&- 2>&- &
[ ! -e wait ] || sleep 2002
tar -c -C provisioner .
"#;

#[test]
fn bootstrap_leaves_no_file_mount_or_process() {
    at_both_privileges(|| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        prepare(dir);
        fs::write(dir.join("mmdebstrap"), UNTIDY).unwrap();
        let temporary = dir.join("temporary");
        fs::create_dir(&temporary).unwrap();
        let is_clean = || {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            let is_mounted = mounts.contains(temporary.to_str().unwrap());
            let is_empty = fs::read_dir(&temporary).unwrap().next().is_none();
            let script = "! grep -lz ^200[12]$ /proc/[0-9]*/cmdline 2>/dev/null";
            !is_mounted
                && is_empty
                && Command::new("sh").args(["-c", script]).status().unwrap().success()
        };
        let mut build = command(dir, "base.squashfs");
        let built = build.env("TMPDIR", &temporary).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        assert!(is_clean());
        fs::write(dir.join("wait"), "").unwrap();
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let mut build =
                command(dir, "base.squashfs").env("TMPDIR", &temporary).spawn().unwrap();
            eventually("mmdebstrap waits", || {
                let family = processes::family(build.id());
                let line = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline"));
                family.iter().any(|pid| line(pid).is_ok_and(|line| line == "sleep\x002002\0"))
            });
            kill(Pid::from_raw(build.id() as i32), signal).unwrap();
            build.wait().unwrap();
            eventually("no file, mount or process is left", is_clean);
        }
    });
}
