//! Helpers for the commands that read images without mounting them.
//!
//! [`differential`](crate::differential) compares their results for random layers with the kernel.

use std::path::{Path, PathBuf};

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
    touch -d @1600000000 base/etc/motd over/etc/motd";

pub(crate) fn overcoat(
    stage: &Stage,
    who: Who,
    command: &str,
    images: &[&Path],
    rest: &[&str],
) -> Finished {
    finish(stage.overcoat(who).arg(command).args(images).args(rest))
}
