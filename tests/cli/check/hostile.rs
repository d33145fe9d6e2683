//! Malicious images: `check` always answers, within limits of time and memory.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use overcoat::check::{CheckRequest, check};

use super::programs::programs;
use super::{base, clean};
use crate::support::newc::{Archive, gzip};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// An archive with input for each pass.
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
fn damaged_overlays_get_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("base.cpio"), base().bytes()).unwrap();
    let request = |images: Vec<PathBuf>| CheckRequest {
        name: "damaged".to_owned(),
        images,
        lower_layers: 1,
        ..CheckRequest::default()
    };
    let whole = rich().bytes();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut readable = 0;
    for round in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random.next() % 12 {
            let at = random.next() as usize % bytes.len();
            match random.next() % 4 {
                // A header digit stays a digit, so that reading continues.
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
        // Damage of the overlay is a finding; an error would concern the base.
        let report = check(&request).unwrap();
        let is_readable = report.not_run.iter().all(|n| !n.reason.contains("cannot be read"));
        readable += usize::from(is_readable);
    }
    assert!(readable > 100, "only {readable} overlays were readable");
}

#[test]
fn loops_and_huge_sizes_do_not_hang_the_check() {
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
    // Program headers with the largest possible sizes.
    let mut program = programs().program.clone();
    for at in (64..program.len().min(800)).step_by(8) {
        program[at + 4..at + 7].fill(0x7f);
    }
    archive.program("usr/bin/large", program);
    archive.file("etc/systemd/system/many.service", "[Service]\nExecStart=\\\n".repeat(20_000));
    std::fs::write(path("o.cpio"), archive.bytes()).unwrap();
    let request = CheckRequest {
        name: "o".to_owned(),
        images: vec![path("base.cpio"), path("o.cpio")],
        lower_layers: 1,
        ..CheckRequest::default()
    };
    let report = check(&request).unwrap();
    let found = |lint: &str| report.findings.iter().filter(|f| f.lint.name == lint).count();
    assert!(found("works/dangling-link") >= 2, "{:#?}", report.findings);
    assert_eq!(found("works/alternative"), 1);
}

/// Takes days if holes are read.
#[test]
fn huge_sparse_files_are_checked_quickly() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let package = "Package: large\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n";
    for image in ["base", "over"] {
        for dir in ["opt", "etc/sudoers.d", "srv"] {
            std::fs::create_dir_all(path(image).join(dir)).unwrap();
        }
        for name in ["opt/one", "opt/two", "opt/setuid", "etc/sudoers.d/large", "srv/hole"] {
            let file = std::fs::File::create(path(image).join(name)).unwrap();
            file.set_len(if name == "srv/hole" { 70_001 } else { 7 << 40 }).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let other = [&[1], &[0; 70_000][..]].concat();
        std::fs::write(path(image).join("srv/other"), other).unwrap();
        std::fs::write(path(image).join("srv/zeros"), [0; 70_001]).unwrap();
    }
    let info = path("over/var/lib/dpkg/info");
    std::fs::create_dir_all(&info).unwrap();
    std::fs::write(info.join("../status"), package).unwrap();
    std::fs::write(info.join("large.list"), "/.\n/opt/setuid\n").unwrap();
    let sums = "0123456789abcdef0123456789abcdef  opt/setuid\n";
    std::fs::write(info.join("large.md5sums"), sums).unwrap();
    let setuid = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(path("over/opt/setuid"), setuid).unwrap();
    for (lower_layers, images) in [(1, &["base", "over"][..]), (0, &["over"][..])] {
        let images: Vec<PathBuf> = images.iter().map(|name| path(name)).collect();
        let name = "o".to_owned();
        let request = CheckRequest { name, images, lower_layers, ..CheckRequest::default() };
        let report = check(&request).unwrap();
        let found = |lint: &str| -> Vec<String> {
            let found = report.findings.iter().filter(|finding| finding.lint.name == lint);
            found.filter_map(|finding| finding.shown_path()).collect()
        };
        assert_eq!(found("safe/setuid"), ["/opt/setuid"]);
        match lower_layers {
            0 => assert_eq!(found("lean/duplicate"), ["/etc/sudoers.d/large", "/srv/hole"]),
            _ => assert!(found("lean/same-as-base").contains(&"/opt/one".to_owned())),
        }
    }
}

/// A program whose dynamic section names one library with a long name `count` times, and many
/// search directories.
fn needy(count: usize) -> Vec<u8> {
    let string = [vec![b'x'; 4000], b"\0".to_vec()].concat();
    let dirs = [b"/a:".repeat(1200), b"\0".to_vec()].concat();
    let (strings, dynamic) = (0x1000u64, 0x4000u64);
    let size = dynamic + 16 * (count as u64 + 5);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([3u16, 62].map(u16::to_le_bytes).concat());
    file.extend(1u32.to_le_bytes());
    file.extend([0u64, 64, 0].map(u64::to_le_bytes).concat());
    file.extend([0u16, 0, 64, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat());
    for (kind, start, size) in [(1u32, 0, size), (2, dynamic, size - dynamic)] {
        file.extend([kind, 4].map(u32::to_le_bytes).concat());
        file.extend([start, start, start, size, size, 8].map(u64::to_le_bytes).concat());
    }
    file.resize(strings as usize, 0);
    file.extend([string.clone(), dirs].concat());
    file.resize(dynamic as usize, 0);
    let mut entry = |tag: u64, value: u64| file.extend([tag, value].map(u64::to_le_bytes).concat());
    entry(5, strings);
    entry(10, dynamic - strings);
    entry(29, string.len() as u64);
    (0..count).for_each(|number| entry(1, number as u64 % 4000));
    entry(0, 0);
    file.resize(size as usize, 0);
    file
}

/// Runs `check` with a limit of memory.
fn within(kilobytes: u32, folder: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_overcoat");
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("ulimit -v {kilobytes}; exec \"$@\""), "sh", program, "check"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.into_owned())
}

#[test]
fn small_malicious_image_needs_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("base.cpio"), base().bytes()).unwrap();
    let mut archive = Archive::new();
    for number in 0..2 {
        archive.program(&format!("usr/bin/{number}"), needy(500_000));
    }
    // Unknown keys, all different.
    let keys: String = (0..20_000).map(|number| format!("Exec{number}=1\n")).collect();
    archive.file("etc/systemd/system/keys.service", format!("[Service]\n{keys}"));
    std::fs::write(path("o.cpio.gz"), archive.gzip()).unwrap();
    let (code, output) = within(1_500_000, folder.path(), &["base.cpio", "o.cpio.gz"]);
    let start: String = output.chars().take(1000).collect();
    assert_eq!(code, Some(1), "{start}");
    assert!(output.contains("usr/bin/0: it needs xxx"), "{start}");

    // Directories that are nested deeper than PATH_MAX.
    let mut nested = String::new();
    let mut name = String::new();
    for _ in 0..2100 {
        name.push_str(if name.is_empty() { "d" } else { "/d" });
        nested.push_str(&format!("{name} d 755 0 0\n"));
    }
    std::fs::write(path("nested"), nested).unwrap();
    std::fs::create_dir(path("empty")).unwrap();
    let made = std::process::Command::new("mksquashfs")
        .args(["empty", "deep.squashfs", "-pf", "nested", "-quiet", "-no-progress"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (code, output) = within(1_500_000, folder.path(), &["base.cpio", "deep.squashfs"]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("nested deeper than"), "{output}");
    // With `archive/unreadable` disabled it is an error.
    let arguments = ["base.cpio", "deep.squashfs", "--only", "works"];
    assert_eq!(within(1_500_000, folder.path(), &arguments).0, Some(2));
}

#[test]
fn memory_of_units_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("base.cpio"), base().bytes()).unwrap();
    let text = "[Service]\n".to_owned() + &"a=\n".repeat(340_000);
    let dir = "etc/systemd/system";

    // One file with many names.
    let mut names = Archive::new();
    names.file(&format!("{dir}/0.service"), &text);
    let first = names.entries.last().unwrap().ino;
    for number in 1..200 {
        names.file(&format!("{dir}/{number}.service"), "");
    }
    for entry in names.entries.iter_mut().filter(|entry| entry.name.ends_with(".service")) {
        (entry.ino, entry.nlink) = (first, 200);
    }
    // A drop-in for all services.
    let mut drop_in = Archive::new();
    drop_in.file(&format!("{dir}/service.d/all.conf"), &text);
    for number in 0..200 {
        drop_in.file(&format!("{dir}/{number}.service"), "[Service]\nExecStart=/usr/bin/demo\n");
    }
    // A section with a long name and many lines.
    let mut section = Archive::new();
    let name = "x".repeat(500_000);
    section.file(&format!("{dir}/x.service"), format!("[{name}]\n{}", "a=\n".repeat(80_000)));
    // A directory of many drop-ins with many names.
    let mut links = Archive::new();
    for number in 0..1500 {
        links.file(&format!("opt/{number}.conf"), "");
        links.link(&format!("{dir}/{number}.service.d"), "/opt");
    }
    // Many accounts.
    let mut accounts = Archive::new();
    for number in 0..5 {
        let names: String = (0..800_000).map(|name| format!("g {number}{name}\n")).collect();
        accounts.file(&format!("usr/lib/sysusers.d/{number}.conf"), names);
    }
    for (archive, runs) in
        [(names, false), (drop_in, false), (section, true), (links, false), (accounts, false)]
    {
        std::fs::write(path("o.cpio.gz"), archive.gzip()).unwrap();
        let arguments = ["base.cpio", "o.cpio.gz", "--only", "works/unit-exec"];
        let (code, output) = within(600_000, folder.path(), &arguments);
        let start: String = output.chars().take(1000).collect();
        assert_eq!(code, Some(0), "{start}");
        let not_run = "the units of the root take more than 32 MiB of memory";
        assert_eq!(output.contains(not_run), !runs, "{start}");
    }
}

/// Builds a squashfs image without fragments.
fn squashed(folder: &std::path::Path, root: &str, image: &str) -> Vec<u8> {
    let made = std::process::Command::new("mksquashfs")
        .args([root, image, "-quiet", "-no-progress", "-no-fragments", "-all-root"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::read(folder.join(image)).unwrap()
}

#[test]
fn damage_is_one_finding_among_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("base.cpio"), base().bytes()).unwrap();
    std::fs::create_dir_all(path("root/opt")).unwrap();
    // The first file: its blocks follow the superblock.
    std::fs::write(path("root/opt/a"), "A=1 and so on\n".repeat(2000)).unwrap();
    let all = path("root/opt/all");
    std::fs::create_dir(&all).unwrap();
    std::fs::set_permissions(&all, std::fs::Permissions::from_mode(0o777)).unwrap();
    let whole = squashed(folder.path(), "root", "o.squashfs");
    let lints = |arguments: &[&str]| {
        let output = super::run(folder.path(), &[arguments, &["--json"]].concat());
        assert!(output.code < 2, "{}", output.stderr);
        let findings = super::findings(&output);
        let line = |finding: &serde_json::Value| {
            ["lint", "path", "layer"].map(|key| finding[key].as_str().unwrap().to_owned()).join(" ")
        };
        findings.iter().map(line).collect::<Vec<_>>()
    };
    let all = "safe/world-writable /opt/all o.squashfs".to_owned();
    assert_eq!(lints(&["base.cpio", "o.squashfs"]), std::slice::from_ref(&all));

    let mut block = whole.clone();
    block[96 + 20..96 + 40].fill(0xff);
    std::fs::write(path("o.squashfs"), block).unwrap();
    let damage = "archive/unreadable /opt/a o.squashfs".to_owned();
    assert_eq!(lints(&["base.cpio", "o.squashfs"]), [damage.clone(), all.clone()]);
    assert_eq!(lints(&["o.squashfs"]), [damage, all]);
    let output = super::run(folder.path(), &["base.cpio", "o.squashfs"]);
    let reason = "a layer cannot be read: /opt/a: o.squashfs: damaged";
    assert!(output.stderr.contains(reason), "{}", output.stderr);
    // In a lower layer the damage does not matter unless the file is read.
    let output = super::run(folder.path(), &["o.squashfs", "base.cpio", "--only", "works,safe"]);
    assert_eq!(output.code, 0, "{}", output.stderr);

    // Damage to all directories.
    let mut directories = whole;
    let at = u64::from_le_bytes(directories[72..80].try_into().unwrap()) as usize;
    directories[at + 2..at + 20].fill(0xff);
    std::fs::write(path("o.squashfs"), directories).unwrap();
    for arguments in [&["base.cpio", "o.squashfs"][..], &["o.squashfs"]] {
        assert_eq!(lints(arguments), ["archive/unreadable / o.squashfs"]);
    }
    let output = super::run(folder.path(), &["o.squashfs", "base.cpio"]);
    assert_eq!(output.code, 2, "{}", output.stderr);
}
