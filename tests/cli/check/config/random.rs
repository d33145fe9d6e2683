//! Random contents of all files that the lints read.

use std::time::{Duration, Instant};

use super::{Pair, base};
use crate::support::newc::Archive;

/// Files that a survey reads.
const FILES: [&str; 28] = [
    "boot/loader/entries/a.conf",
    "etc/binfmt.d/a.conf",
    "etc/crypttab",
    "etc/dbus-1/system.d/a.conf",
    "etc/default/grub",
    "etc/fstab",
    "etc/group",
    "etc/hostname",
    "etc/hosts",
    "etc/kernel/cmdline",
    "etc/ld.so.conf",
    "etc/modprobe.d/a.conf",
    "etc/modules-load.d/a.conf",
    "etc/network/interfaces",
    "etc/network/interfaces.d/a",
    "etc/passwd",
    "etc/resolv.conf",
    "etc/shadow",
    "etc/sysctl.conf",
    "etc/sysctl.d/a.conf",
    "etc/systemd/network/a.link",
    "etc/systemd/network/a.netdev",
    "etc/systemd/network/a.network",
    "etc/systemd/network/a.network.d/b.conf",
    "etc/sysusers.d/a.conf",
    "etc/tmpfiles.d/a.conf",
    "etc/udev/rules.d/a.rules",
    "usr/lib/modules/6.1.0-1/modules.alias",
];
/// Pieces of the syntaxes.
const PIECES: [&str; 64] = [
    "\n",
    "\n",
    "\n",
    " ",
    " ",
    "\t",
    "\\\n",
    "\\",
    "\"",
    "'",
    "=",
    "==",
    "+=",
    "!=",
    ":",
    ":",
    ",",
    "[",
    "]",
    "[Match]\n",
    "[Network]\n",
    "[NetDev]\n",
    "{",
    "}",
    "#",
    ";",
    "*",
    "?",
    "%",
    "$",
    "-",
    "/",
    "/",
    "/dev/sda1",
    "UUID=",
    "ext4",
    "nfs",
    "fuse.",
    "none",
    "swap",
    "iface",
    "auto",
    "inet",
    "source",
    "include",
    "KERNEL",
    "RUN",
    "GOTO=\"a\"",
    "LABEL=\"a\"",
    "IMPORT{program}",
    "e\"",
    "u",
    "d",
    "0",
    "192.0.2.1",
    "::1",
    "<",
    ">",
    "<policy user=\"",
    "<!DOCTYPE a [<!ENTITY a \"&a;\">]>",
    "&a;",
    "ä",
    "\u{2028}",
    "\0",
];

/// A generator of numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn text(&mut self, pieces: usize) -> Vec<u8> {
        let mut text = Vec::new();
        for _ in 0..pieces {
            match self.below(12) {
                0 => text.push(u8::try_from(self.below(256)).unwrap()),
                _ => text.extend(PIECES[self.below(PIECES.len())].bytes()),
            }
        }
        text
    }
}

/// A base on which each survey runs.
fn readers() -> Archive {
    let mut base = base();
    for program in
        ["usr/sbin/ifup", "usr/lib/systemd/systemd-udevd", "usr/lib/systemd/systemd-sysctl"]
    {
        base.program(program, "");
    }
    base
}

#[test]
fn random_contents_are_reported_or_accepted() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..40 {
        let mut overlay = Archive::new();
        for path in FILES {
            let pieces = random.below(400);
            overlay.file(path, random.text(pieces));
        }
        // The test of a panic is in the helper.
        Pair::new(&readers(), &overlay.gzip()).findings(&["--only", "config"]);
    }
}

#[test]
fn large_contents_are_checked_quickly() {
    let mut random = Random(7);
    let line = |text: &str| text.repeat((128 << 10) / text.len());
    let made = [
        line("\n"),
        line("a\n"),
        line("\\\n"),
        line("a b c d e f\n"),
        line("\"A\"==\"b\","),
        line("GOTO=\"a\"\n"),
        line("Adresss=1\n"),
        line("[Match]\nAdress=1\n"),
        line("<a>"),
        format!("<a {}/>", (0..4000).map(|n| format!("a{n}='' ")).collect::<String>()),
        format!("<a>{}</a>", "<policy user='none'/>\n".repeat(3000)),
        (0..8000).map(|n| format!("iface a{n} inet dhcp\nauto b{n}\n")).collect(),
        (0..8000).map(|n| format!("alias a:{n}* b\n")).collect(),
        line("source *\n"),
        line("include a*\n"),
        (0..10_000).map(|n| format!("Unknown{n}=1\n")).collect(),
        String::from_utf8_lossy(&random.text(40_000)).into_owned(),
    ];
    for text in &made {
        let mut overlay = Archive::new();
        for path in FILES.iter().filter(|path| !["etc/passwd", "etc/group"].contains(path)) {
            overlay.file(path, text);
        }
        let pair = Pair::new(&readers(), &overlay.gzip());
        let start = Instant::now();
        let found =
            pair.findings(&["--only", "config", "--skip", "config/shadow,config/account-line"]);
        assert!(found.len() < 28 * 101, "{} findings", found.len());
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}: {:.20}", start.elapsed(), text);
    }
}
