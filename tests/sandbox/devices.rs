//! Device nodes and owners outside of the id map are recorded as requested, at both privileges.

use std::process::Command;

use crate::support::{Lab, ServedTree, at_both_privileges, plan};
use fs_model::FileType::{self, BlockDevice, CharDevice};

fn device(tree: &ServedTree, path: &str) -> (FileType, u32, u32, u16) {
    let attr = tree.get(path);
    (attr.kind, attr.rdev.major, attr.rdev.minor, attr.mode)
}

#[test]
fn device_nodes_are_recorded() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        lab.ok("
            set -e
            mkdir -p /srv/a/b /srv/jail/bin
            ln -s a/b /srv/rel
            ln -s /srv/a /srv/abs
            mknod -m 600 /srv/char c 1 3
            cd /srv/a
            mknod b/../block b 8 17
            mknod ../rel/by-rel c 259 300
            umask 077; mknod /srv/abs/b/by-abs c 5 1; umask 022
            mknod /srv/fifo p
            stat -c '%F %t:%T' /srv/char /srv/a/block
        ");
        assert_eq!(device(&lab.tree, "srv/char"), (CharDevice, 1, 3, 0o600));
        assert_eq!(device(&lab.tree, "srv/a/block"), (BlockDevice, 8, 17, 0o644));
        assert_eq!(device(&lab.tree, "srv/a/b/by-rel"), (CharDevice, 259, 300, 0o644));
        assert_eq!(device(&lab.tree, "srv/a/b/by-abs"), (CharDevice, 5, 1, 0o600));
        assert_eq!(
            lab.ok("stat -c '%F %t:%T' /srv/char /srv/a/block"),
            "character special file 1:3\nblock special file 8:11\n"
        );
        lab.end();
    });
}

#[test]
fn device_nodes_are_created_by_descriptor_and_in_a_chroot() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        lab.ok("mkdir -p /srv/jail/in/ner /srv/dir; ln -s /in /srv/jail/link; python3 -c '
import os, stat
device = os.makedev(4, 64)
fd = os.open(\"/srv/dir\", os.O_RDONLY)
os.mknod(\"by-fd\", stat.S_IFCHR | 0o620, device, dir_fd=fd)
os.mknod(\"../by-fd-up\", stat.S_IFBLK | 0o620, device, dir_fd=fd)
fd = os.open(\"/srv/dir\", os.O_PATH)
os.mknod(\"by-path-fd\", stat.S_IFCHR | 0o620, device, dir_fd=fd)
os.chroot(\"/srv/jail\")
os.mknod(\"out-of-jail\", stat.S_IFCHR | 0o620, device, dir_fd=fd)
os.chdir(\"/in/ner\")
os.mknod(\"/link/by-root\", stat.S_IFCHR | 0o620, device)
os.mknod(\"../../../../../by-cwd\", stat.S_IFCHR | 0o620, device)
try:
    os.mknod(\"/link/by-root\", stat.S_IFCHR | 0o620, device)
except FileExistsError:
    print(\"exists\")
'");
        for path in [
            "srv/dir/by-fd",
            "srv/dir/by-path-fd",
            "srv/dir/out-of-jail",
            "srv/jail/in/by-root",
            "srv/jail/by-cwd",
        ] {
            assert_eq!(device(&lab.tree, path), (CharDevice, 4, 64, 0o600), "{path}");
        }
        assert_eq!(device(&lab.tree, "srv/by-fd-up"), (BlockDevice, 4, 64, 0o600));
        lab.end();
    });
}

/// As in overlayfs of the kernel: it would hide the entry of the lower layers.
#[test]
fn whiteouts_cannot_be_created_by_commands() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        let (status, output) = lab.run("mknod /srv/whiteout c 0 0");
        assert!(!status.success() && output.contains("not permitted"), "{output}");
        assert!(lab.tree.find("srv/whiteout").is_none());
        lab.end();
    });
}

#[test]
fn device_node_is_owned_by_its_creator() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        // CAP_MKNOD is kept when the file system ids change.
        lab.ok("mkdir -m 777 /srv/open; python3 -c '
import ctypes, os, stat
libc = ctypes.CDLL(None)
libc.setfsgid(6)
libc.setfsuid(3)
' ; setpriv --reuid 3 --regid 6 --clear-groups --inh-caps +mknod --ambient-caps +mknod \
            mknod /srv/open/mine b 7 0");
        let attr = lab.tree.get("srv/open/mine");
        assert_eq!((attr.uid, attr.gid), (3, 6));
        lab.end();
    });
}

#[test]
fn device_nodes_require_the_capability() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        lab.ok("mkdir -m 777 /srv/open");
        let (status, output) = lab.run("setpriv --reuid 3 --clear-groups mknod /srv/open/x c 1 3");
        assert!(!status.success() && output.contains("not permitted"), "{output}");
        let (status, output) =
            lab.run("setpriv --reuid 3 --clear-groups unshare -r mknod /srv/open/y c 1 3");
        assert!(!status.success() && output.contains("not permitted"), "{output}");
        for path in ["srv/open/x", "srv/open/y"] {
            assert!(lab.tree.find(path).is_none(), "{path}");
        }
        lab.end();
    });
}

#[test]
fn device_nodes_on_other_file_systems_are_left_to_the_kernel() {
    at_both_privileges(|| {
        let namespace = plan().privilege.has_user_namespace();
        let lab = Lab::new(plan());
        for path in ["/tmp/x", "/dev/shm/../x", "/run/x"] {
            let made = lab.run(&format!("mknod {path} c 1 3")).0.success();
            assert_eq!(made, !namespace, "{path}");
        }
        // On a mount that was made inside.
        let script = "mkdir -p /srv/mnt && mount -t tmpfs none /srv/mnt && mknod /srv/mnt/x c 1 3";
        assert_eq!(lab.run(script).0.success(), !namespace);
        assert!(lab.tree.find("srv/mnt/x").is_none());
        // In another mount namespace, where the root is still supervised.
        lab.ok("unshare -m sh -c 'mkdir /srv/own && mount -t tmpfs none /srv/own && \
                (mknod /srv/own/x c 1 3; mknod /srv/beside c 1 3)'");
        assert_eq!(device(&lab.tree, "srv/beside"), (CharDevice, 1, 3, 0o644));
        assert!(lab.tree.find("srv/own/x").is_none());
        lab.end();
    });
}

#[test]
fn owners_beyond_the_map_are_recorded() {
    at_both_privileges(|| {
        let namespace = plan().privilege.has_user_namespace();
        let lab = Lab::new(plan());
        lab.ok("
            set -e
            cd /srv
            touch one two three four; ln -s two link
            chown 100000:200000 one
            chown 100000 link
            chown -h 4000000000 link
            chgrp 100000 three
            python3 -c 'import os; f = open(\"four\"); os.fchown(f.fileno(), 100000, 7)'
            stat -c %u:%g one > shown
        ");
        let owner = |path: &str| {
            let attr = lab.tree.get(path);
            (attr.uid, attr.gid)
        };
        assert_eq!(owner("srv/one"), (100_000, 200_000));
        assert_eq!(owner("srv/two"), (100_000, 0));
        assert_eq!(owner("srv/link"), (4_000_000_000, 0));
        assert_eq!(owner("srv/three"), (0, 100_000));
        assert_eq!(owner("srv/four"), (100_000, 7));
        let shown = if namespace { "60588:60598\n" } else { "100000:200000\n" };
        assert_eq!(lab.ok("cat /srv/shown"), shown);
        // Copying a displayed owner sets the recorded one.
        lab.ok("
            set -e
            cd /srv
            cp -a one copied
            mv two /tmp/moved; mv /tmp/moved two
            chown --reference=one three
            tar -cf - one | (mkdir unpacked; tar -C unpacked -xpf -)
            python3 -c 'import os; os.setegid(os.stat(\"one\").st_gid); open(\"made\", \"w\")'
        ");
        for path in ["srv/copied", "srv/three", "srv/unpacked/one"] {
            assert_eq!(owner(path), (100_000, 200_000), "{path}");
        }
        assert_eq!(owner("srv/two"), (100_000, 0));
        assert_eq!(owner("srv/made"), (0, 200_000));
        lab.end();
    });
}

/// A program without a C library, so that no 32-bit library is required.
const I386_PROGRAM: &str = r#"
static int call(int number, long a, long b, long c, long d) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result)
        : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return result;
}
void _start(void) {
    int failed = 0;
    failed |= call(14, (long)"/srv/i386-mknod", 0020600, 0x103, 0);
    failed |= call(297, -100, (long)"srv/i386-mknodat", 0060600, 0x811) << 8;
    failed |= call(212, (long)"/srv/i386-mknod", 100000, -1, 0);
    call(1, failed ? 1 : 0, 0, 0, 0);
}
"#;

#[test]
fn system_calls_of_32_bit_programs_are_supervised() {
    at_both_privileges(|| {
        if !cfg!(target_arch = "x86_64") {
            println!("no 32-bit system calls to test on this architecture");
            return;
        }
        let dir = std::env::temp_dir();
        let program = dir.join(format!("overcoat-test-i386-{}", std::process::id()));
        let source = program.with_extension("c");
        std::fs::write(&source, I386_PROGRAM).unwrap();
        let compiled = Command::new("gcc")
            .args(["-m32", "-static", "-nostdlib", "-ffreestanding", "-fno-pic", "-no-pie", "-O1"])
            .arg("-fno-stack-protector")
            .arg("-o")
            .args([&program, &source])
            .output()
            .expect("gcc starts");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let content = std::fs::read(&program).unwrap();
        std::fs::remove_file(&program).unwrap();
        std::fs::remove_file(&source).unwrap();

        let lab = Lab::new(plan());
        lab.tree.file("usr/bin/i386-test", &content, 0o755);
        lab.ok("/usr/bin/i386-test");
        assert_eq!(device(&lab.tree, "srv/i386-mknod"), (CharDevice, 1, 3, 0o600));
        assert_eq!(device(&lab.tree, "srv/i386-mknodat"), (BlockDevice, 8, 17, 0o600));
        assert_eq!(lab.tree.get("srv/i386-mknod").uid, 100_000);
        lab.end();
    });
}

#[test]
fn processes_can_create_nodes_concurrently() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        lab.ok("for p in 1 2 3 4 5 6 7 8; do
                    (for n in 1 2 3 4 5 6 7 8 9 10; do mknod /srv/$p-$n c $p $n; done) &
                done; wait");
        for p in 1..=8 {
            for n in 1..=10 {
                assert_eq!(device(&lab.tree, &format!("srv/{p}-{n}")), (CharDevice, p, n, 0o644));
            }
        }
        lab.end();
    });
}
