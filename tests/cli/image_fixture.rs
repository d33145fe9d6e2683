//! Images for the commands that read them without mounting them.
//!
//! [`differential`](crate::differential) compares their results for random layers with the kernel.

use std::path::{Path, PathBuf};

use crate::support::newc::Archive;
use crate::support::stage::{Finished, Stage, Who, finish};

/// Makes a base and an overlay from the folders `base` and `over` in `layers`, which `script`
/// fills.
pub(crate) fn layers(stage: &Stage, script: &str) -> (PathBuf, PathBuf) {
    stage.sh(&format!(
        "mkdir -p layers/base layers/over; chmod 755 layers; cd layers; {script}
         mksquashfs base base.squashfs -quiet -no-progress >/dev/null
         cd over; find . | LC_ALL=C sort | cpio --quiet -H newc -o | gzip >../over.cpio.gz"
    ));
    (stage.path("layers/base.squashfs"), stage.path("layers/over.cpio.gz"))
}

pub(crate) const SMALL: &str = "
    mkdir -p base/etc base/usr/bin base/usr/share/doc/pkg over/etc
    printf 'root:x:0:0::/root:/bin/sh\\nalice:x:1000:1000::/:/bin/sh\\n' >base/etc/passwd
    printf 'root:x:0:\\nstaff:x:1000:\\n' >base/etc/group
    printf 'one\\ntwo\\nthree\\n' >base/etc/motd; echo gone >base/etc/issue
    echo doc >base/usr/share/doc/pkg/copyright; ln -s usr/bin base/bin
    printf tool >base/usr/bin/tool; chmod 4755 base/usr/bin/tool; ln base/usr/bin/tool base/usr/bin/same
    printf 'one\\n2\\nthree\\n' >over/etc/motd; mknod over/etc/issue c 0 0; chown 1000:1000 over/etc/motd
    find base over -exec touch -h -d @1600000000 {} +";

pub(crate) fn overcoat(
    stage: &Stage,
    who: Who,
    command: &str,
    images: &[&Path],
    rest: &[&str],
) -> Finished {
    finish(stage.overcoat(who).arg(command).args(images).args(rest))
}

/// Writes a base and an overlay as archives, whose bytes depend on no other program, into a new
/// folder.
pub(crate) fn archives() -> tempfile::TempDir {
    let status = |packages: &[(&str, &str)]| -> String {
        let paragraph = |(name, version): &(&str, &str)| {
            format!(
                "Package: {name}\nStatus: install ok installed\nArchitecture: all\n\
                 Version: {version}\n\n"
            )
        };
        packages.iter().map(paragraph).collect()
    };
    let mut base = Archive::new();
    base.link("bin", "usr/bin");
    base.file("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n");
    base.file("etc/group", "root:x:0:\nstaff:x:1000:\n");
    base.file("etc/issue", "gone\n");
    base.file("etc/motd", "one\ntwo\nthree\n");
    let tool = base.put("usr/bin/tool", 0o104755, "tool");
    tool.nlink = 2;
    let ino = tool.ino;
    let same = base.put("usr/bin/same", 0o104755, "tool");
    (same.ino, same.nlink) = (ino, 2);
    base.file("usr/share/doc/tool/copyright", "c".repeat(5000));
    base.file("usr/share/old/one", "1");
    base.file("usr/share/old/two", "2");
    base.file("var/lib/dpkg/status", status(&[("gone", "1"), ("tool", "1.9")]));
    base.file("var/lib/dpkg/info/tool.list", "/.\n/usr/bin/tool\n/usr/bin/same\n");
    let mut over = Archive::new();
    over.put("etc/motd", 0o100600, "one\n2\nthree\n").uid = 1000;
    over.whiteout("etc/issue");
    over.whiteout("usr/share/old");
    over.program("usr/local/bin/report", "#!/bin/sh\necho report\n");
    over.file("var/lib/dpkg/status", status(&[("new", "2"), ("tool", "1.10")]));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("base.cpio"), base.bytes()).unwrap();
    std::fs::write(folder.path().join("over.cpio"), over.bytes()).unwrap();
    folder
}
