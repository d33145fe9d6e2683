//! A base and an overlay with known content.

use std::path::PathBuf;

use crate::support::stage::Stage;

/// Names that would do harm if they were interpreted.
pub(super) const HOSTILE: [&str; 7] = [
    "</script><script>window.harm=1<",
    "<img src=x onerror=window.harm=2>",
    "{script}{data}<!--",
    "esc\u{1b}[31m\u{1b}]0;harm\u{7}red",
    "line\nfeed",
    "right\u{202e}gpj.exe",
    "wide \u{6f22}\u{5b57} \u{1f9e5}",
];

/// The images, and the stage that they are in.
pub(super) struct Scene {
    pub(super) stage: Stage,
    pub(super) base: PathBuf,
    pub(super) overlay: PathBuf,
}

impl Scene {
    pub(super) fn new() -> Scene {
        let stage = Stage::new();
        let status = "Package: shells\nStatus: install ok installed\nArchitecture: all\nVersion: 1-2\n\n\
                      Package: <b>bold</b>\nStatus: install ok installed\nArchitecture: all\nVersion: 2\n";
        stage.write("b/var/lib/dpkg/status", status);
        stage.write("b/var/lib/dpkg/info/shells.list", "/.\n/usr/bin/sh\n/usr/bin/dash\n");
        stage.write("b/etc/motd", "welcome\nto the base\nof all\n");
        stage.write("b/etc/mode", "the same");
        stage.write("b/etc/shadow", "root:*:1::::::\n");
        stage.write("o/etc/shadow", "root:$y$jam$secret:1::::::\n");
        stage.write("b/etc/gone", "no longer there");
        stage.write("b/srv/old/one", "1".repeat(5000));
        stage.write("b/srv/old/two", "2".repeat(6000));
        stage.write("b/usr/bin/sh", "#".repeat(120_000));
        stage.write("b/usr/share/big", "b".repeat(700_000));
        stage.write("o/etc/motd", "welcome\nto the overlay\nof all\n");
        stage.write("o/etc/mode", "the same");
        stage.write("o/usr/bin/new", "n".repeat(250_000));
        stage.write("o/usr/share/doc/new/README", "read me\n");
        for name in HOSTILE {
            stage.write(format!("o/srv/hostile/{name}"), "x".repeat(3000));
        }
        stage.sh("ln b/usr/bin/sh b/usr/bin/dash
            ln o/usr/bin/new o/usr/bin/newer
            ln -s '<b>target</b></script><script>window.harm=3</script>' o/srv/hostile/link
            chmod 640 b/etc/shadow o/etc/shadow
            chmod 4755 o/etc/mode
            mknod o/etc/gone c 0 0
            mknod o/srv/old c 0 0
            find b o -exec touch -h -d @1700000000 {} +
            mksquashfs b base.squashfs -quiet -no-progress -all-time 0
            cd o && find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -o -H newc | gzip -n >../over.cpio.gz");
        let (base, overlay) = (stage.path("base.squashfs"), stage.path("over.cpio.gz"));
        Scene { stage, base, overlay }
    }

    /// Mounts the same layers with the kernel; returns the folder.
    pub(super) fn mounted(&self) -> PathBuf {
        self.stage.sh("mkdir -p low up merged
            mount -t squashfs -o loop,ro base.squashfs low
            gzip -dc over.cpio.gz | (cd up && cpio --quiet -idm)
            mount -t overlay -o ro,lowerdir=up:low overlay merged");
        self.stage.path("merged")
    }
}
