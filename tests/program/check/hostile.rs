//! Images that are made to do harm: whatever is in them, there is an answer, and soon.

use std::path::PathBuf;

use overcoat::check::{Request, check};

use super::archive::{Archive, gzip};
use super::programs::programs;
use super::{base, clean};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// An archive in which each pass finds something to read.
fn rich() -> Archive {
    let made = programs();
    let mut archive = clean();
    archive.program("usr/bin/more", &made.newer_program);
    archive.file("usr/lib/libdemo.so.1.0", &made.newer_library);
    archive.file("usr/lib/modules/6.1.0-1/extra/two.ko", &made.module);
    archive.file("usr/lib/modules/6.1.0-1/extra/two.ko.gz", gzip(&made.module));
    archive.file("etc/ld.so.conf", "include ld.so.conf\ninclude /etc/ld.so.conf.d/*\n/opt/lib\n");
    archive.file("var/lib/dpkg/status", super::STATUS);
    archive.file("usr/lib/sysusers.d/x.conf", "u tool 5\n");
    archive
}

#[test]
fn damaged_overlays_get_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("base.cpio"), base().bytes()).unwrap();
    let request = |images: Vec<PathBuf>| Request {
        name: "damaged".to_owned(),
        images,
        beneath: 1,
        ..Request::default()
    };
    let whole = rich().bytes();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut judged = 0;
    for round in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.next() % 12 {
            let at = random.next() as usize % bytes.len();
            match random.next() % 4 {
                // A digit of a header stays one, so that it is read on.
                0 => bytes[at] = b"0123456789abcdef"[random.next() as usize % 16],
                1 => bytes[at] = 0xff,
                2 => bytes[at] = 0,
                _ => bytes[at] = random.next() as u8,
            }
        }
        if round % 7 == 0 {
            bytes.truncate(random.next() as usize % bytes.len());
        }
        if round % 3 == 0 {
            bytes = gzip(&bytes);
        }
        if bytes.is_empty() {
            continue;
        }
        std::fs::write(path("damaged.cpio"), bytes).unwrap();
        let request = request(vec![path("base.cpio"), path("damaged.cpio")]);
        // That it is damaged is a finding; an error would mean the base.
        let report = check(&request).unwrap();
        judged += usize::from(report.not_run.iter().all(|n| !n.reason.contains("cannot be read")));
    }
    assert!(judged > 100, "only {judged} were read on");
}

#[test]
fn what_leads_in_circles_or_claims_too_much_is_no_way_to_keep_it_busy() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("base.cpio"), base().bytes()).unwrap();
    let mut archive = Archive::new();
    for (name, target) in [
        ("etc/a", "b"),
        ("etc/b", "a"),
        ("etc/passwd", "group"),
        ("etc/group", "passwd"),
        ("etc/alternatives/x", "/etc/alternatives/x"),
        ("etc/systemd/system/x.service", "x.service"),
        ("etc/systemd/system/multi-user.target.wants/x.service", "../x.service"),
        ("var/lib/dpkg/status", "/var/lib/dpkg/status"),
        ("usr/lib/modules/6.1.0-2", "6.1.0-2"),
    ] {
        archive.link(name, target);
    }
    let depth = "d/".repeat(1500);
    archive.file(&format!("{depth}x"), "deep");
    archive.file("etc/ld.so.conf.d/x.conf", "include /etc/ld.so.conf.d/*.conf\n/etc/a\n");
    archive.program("usr/bin/loop", "#!/usr/bin/loop\n");
    // An interpreter, a table and a note as large as a file can claim to be.
    let mut program = programs().program.clone();
    for at in (64..program.len().min(800)).step_by(8) {
        program[at + 4..at + 7].fill(0x7f);
    }
    archive.program("usr/bin/large", program);
    archive.file("etc/systemd/system/many.service", "[Service]\nExecStart=\\\n".repeat(20_000));
    std::fs::write(path("o.cpio"), archive.bytes()).unwrap();
    let request = Request {
        name: "o".to_owned(),
        images: vec![path("base.cpio"), path("o.cpio")],
        beneath: 1,
        ..Request::default()
    };
    let report = check(&request).unwrap();
    let found = |lint: &str| report.findings.iter().filter(|f| f.lint.name == lint).count();
    assert!(found("works/dangling-link") >= 2, "{:#?}", report.findings);
    assert_eq!(found("works/alternative"), 1);
}
