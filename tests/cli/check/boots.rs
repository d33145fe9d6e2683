//! Lints of the boot of a machine: first boots, host keys, modules, init.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{Pair, base, findings, programs::programs};
use crate::support::newc::Archive;

/// Returns the message of the lint's finding, if any.
fn message(base: &Archive, overlay: &Archive, lint: &str) -> Option<String> {
    let found = Pair::new(base, &overlay.clone().gzip()).findings(&["--only", lint]);
    assert!(found.len() < 2, "{found:#?}");
    Some(found.first()?["message"].as_str().unwrap().to_owned())
}

const LINK: &str = "etc/systemd/system/multi-user.target.wants/toy.service";
const INSTALL: &str = "[Install]\nWantedBy=multi-user.target\n";

/// A base with the enabled unit `toy.service` and a machine id.
fn toy(id: Option<&str>) -> Archive {
    let mut base = base();
    let unit = format!("[Service]\nExecStart=/usr/bin/demo\n{INSTALL}");
    base.file("usr/lib/systemd/system/toy.service", unit);
    base.link(LINK, "/usr/lib/systemd/system/toy.service");
    if let Some(id) = id {
        base.file("etc/machine-id", id);
    }
    base
}

#[test]
fn unit_that_a_first_boot_enables_is_reported() {
    let found = |base: &Archive, make: &dyn Fn(&mut Archive)| {
        let mut overlay = Archive::new();
        make(&mut overlay);
        message(base, &overlay, "works/first-boot")
    };
    let off = |overlay: &mut Archive| overlay.whiteout(LINK);
    for first in [None, Some("uninitialized\n"), Some("uninitialized")] {
        let output = found(&toy(first), &off).unwrap();
        assert!(output.contains("enable toy.service"), "{output}");
        // It is already enabled.
        assert_eq!(found(&toy(first), &|_| {}), None, "{first:?}");
    }
    for other in ["", "0123456789abcdef0123456789abcdef\n"] {
        assert_eq!(found(&toy(Some(other)), &off), None, "{other:?}");
        let output = found(&toy(Some(other)), &|overlay| {
            off(overlay);
            overlay.whiteout("etc/machine-id");
        });
        assert!(output.unwrap().contains("enable toy.service"), "{other:?}");
    }
    let first = toy(None);
    let rule = |file: &'static str, rule: &'static str| {
        found(&first, &move |overlay: &mut Archive| {
            off(overlay);
            overlay.file("usr/lib/systemd/system-preset/99-all.preset", "disable toy.*\n");
            overlay.file(&format!("etc/systemd/system-preset/{file}"), rule);
        })
    };
    assert_eq!(rule("00-site.preset", "# nothing\n"), None);
    assert!(rule("00-site.preset", "enable t?y.service\n").is_some());
    assert!(rule("99-all.preset", "enable toy.service\n").is_some());
    assert_eq!(rule("99-b.preset", "enable toy.service\n"), None);
    let masked = |overlay: &mut Archive| {
        off(overlay);
        overlay.link("etc/systemd/system/toy.service", "/dev/null");
    };
    assert_eq!(found(&first, &masked), None);
    // A unit is also enabled by its alias.
    let alias = |overlay: &mut Archive| {
        overlay.file(
            "usr/lib/systemd/system/one.service",
            "[Service]\nExecStart=/usr/bin/demo\n[Install]\nAlias=two.service\n",
        );
        overlay.link("etc/systemd/system/two.service", "/usr/lib/systemd/system/one.service");
    };
    assert_eq!(found(&first, &alias), None);
    // A template without a default instance is not enabled.
    let template = |overlay: &mut Archive| {
        let unit = format!("[Service]\nExecStart=/usr/bin/demo\n{INSTALL}");
        overlay.file("usr/lib/systemd/system/one@.service", unit);
    };
    assert_eq!(found(&first, &template), None);
}

#[test]
fn full_presets_disable_units() {
    let found = |release: &str| {
        let mut overlay = Archive::new();
        overlay.file("etc/os-release", release);
        overlay.file("usr/lib/systemd/system-preset/99-all.preset", "disable *\n");
        message(&toy(None), &overlay, "works/first-boot")
    };
    assert!(
        found("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n")
            .unwrap()
            .contains("disable toy.service")
    );
    assert_eq!(found("ID=debian\n"), None);
}

#[test]
fn started_ssh_server_needs_host_keys_or_a_generator() {
    let server = |make: &dyn Fn(&mut Archive)| {
        let mut overlay = Archive::new();
        overlay.program("usr/sbin/sshd", &programs().program);
        overlay
            .file("usr/lib/systemd/system/ssh.service", "[Service]\nExecStart=/usr/sbin/sshd -D\n");
        overlay.link(
            "etc/systemd/system/multi-user.target.wants/ssh.service",
            "/usr/lib/systemd/system/ssh.service",
        );
        make(&mut overlay);
        message(&base(), &overlay, "works/ssh-host-keys").is_some()
    };
    let started = |overlay: &mut Archive, exec: &str| {
        overlay.file("etc/systemd/system/keys.service", format!("[Service]\nExecStart={exec}\n"));
        overlay.link("etc/systemd/system/multi-user.target.wants/keys.service", "../keys.service");
    };
    assert!(server(&|_| {}));
    assert!(server(&|overlay| started(overlay, "/usr/bin/demo")));
    assert!(!server(&|overlay| started(overlay, "-/usr/bin/ssh-keygen -A")));
    assert!(!server(&|overlay| {
        started(overlay, "/usr/local/bin/keys");
        overlay.program("usr/local/bin/keys", "#!/bin/sh\nssh-keygen -A\n");
    }));
    // A unit that is not started generates no keys.
    assert!(server(&|overlay| {
        overlay.file(
            "etc/systemd/system/keys.service",
            "[Service]\nExecStart=/usr/bin/ssh-keygen -A\n",
        );
    }));
    assert!(!server(&|overlay| {
        overlay.file("etc/ssh/ssh_host_rsa_key", "key");
    }));
    assert!(!server(&|overlay| {
        overlay.file("etc/ssh/sshd_config.d/a.conf", "HostKey /run/keys/rsa\n");
    }));
    assert!(server(&|overlay| {
        overlay.file("etc/ssh/sshd_config", "hostkey /srv/none\n");
        overlay.file("etc/ssh/ssh_host_rsa_key", "key");
    }));
    assert!(!server(&|overlay| {
        overlay.whiteout("etc/systemd/system/multi-user.target.wants/ssh.service");
        overlay.entries.retain(|entry| !entry.name.ends_with("wants/ssh.service"));
    }));
}

#[test]
fn partly_missing_modules_are_a_note() {
    let mut overlay = Archive::new();
    let dir = "usr/lib/modules/6.1.0-1";
    overlay.file(&format!("{dir}/modules.dep"), "kernel/one.ko:\nkernel/two.ko: kernel/one.ko\n");
    let found = Pair::new(&base(), &overlay.gzip()).findings(&["--only", "works/module-files"]);
    let [found] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(
        (&found["severity"], &found["path"]),
        (&Value::from("note"), &Value::from(format!("/{dir}")))
    );
    assert!(found["message"].as_str().unwrap().contains("1 of the 2 modules"), "{found:#?}");
}

#[test]
fn complete_root_without_init_is_reported() {
    let mut bare = base();
    bare.entries.retain(|entry| entry.name != "usr/sbin/init");
    let mut overlay = Archive::new();
    overlay.program("usr/sbin/init", &programs().program);
    let pair = Pair::new(&bare, &overlay.gzip());
    let found = |arguments: &[&str]| {
        let output = pair.check(&[&["--json", "--only", "works/needed"], arguments].concat());
        let found = findings(&output);
        let paths = found.iter().map(|finding| finding["path"].as_str().unwrap().to_owned());
        paths.collect::<Vec<_>>()
    };
    assert_eq!(found(&["--whole", "base.cpio"]), ["/sbin/init"]);
    assert_eq!(found(&["base.cpio"]), ["/sbin/init"]);
    assert_eq!(found(&["--whole", "base.cpio", "o.cpio.gz"]), [""; 0]);
    assert_eq!(found(&["base.cpio", "o.cpio.gz"]), [""; 0]);
}

/// A small random generator (splitmix64), reproducible by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

const UNITS: [&str; 6] =
    ["a.service", "b.service", "ab.socket", "c@.service", "d.timer", "e-x.service"];

/// Creates a root with a few units, some of them enabled or masked, and preset rules.
fn random_root(random: &mut Random, root: &Path) {
    let (ours, theirs) = (root.join("etc/systemd/system"), root.join("usr/lib/systemd/system"));
    for dir in [&ours, &theirs] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::create_dir_all(root.join("usr/lib/systemd/system-preset")).unwrap();
    fs::create_dir_all(root.join("etc/systemd/system-preset")).unwrap();
    fs::create_dir_all(ours.join("multi-user.target.wants")).unwrap();
    fs::create_dir_all(theirs.join("other.target.wants")).unwrap();
    fs::write(root.join("usr/lib/systemd/systemd"), "").unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    for unit in UNITS {
        let (stem, kind) = unit.split_once('.').unwrap();
        let section = match kind {
            "socket" => "[Socket]\nListenStream=/run/x\nService=a.service\n",
            "timer" => "[Timer]\nOnBootSec=1\nUnit=a.service\n",
            _ => "[Service]\nExecStart=/bin/true\n",
        };
        let install = random.pick(&[
            "",
            "[Install]\nWantedBy=multi-user.target\n",
            "[Install]\nWantedBy=multi-user.target other.target\n",
            "[Install]\nRequiredBy=other.target\n",
            "[Install]\nAlias=ALIAS\n",
        ]);
        let alias = format!("alias-{stem}.{kind}");
        let mut install = install.replace("ALIAS", &alias);
        if stem.ends_with('@') && !install.is_empty() && random.below(2) == 0 {
            install += "DefaultInstance=x\n";
        }
        fs::write(theirs.join(unit), format!("{section}{install}")).unwrap();
        let name = unit.replace("@.", "@x.");
        let _ = match random.below(8) {
            0 => symlink("/dev/null", ours.join(unit)),
            1 | 2 => symlink(theirs.join(unit), ours.join("multi-user.target.wants").join(name)),
            3 => symlink("../".to_owned() + unit, theirs.join("other.target.wants").join(name)),
            _ => Ok(()),
        };
    }
    for (dir, file) in [("usr/lib", "90-a"), ("usr/lib", "50-b"), ("etc", "90-a"), ("etc", "70-c")]
    {
        let mut text = String::new();
        for _ in 0..random.below(3) {
            let policy = random.pick(&["enable", "disable", "# enable", "disable"]);
            let pattern = random.pick(&["*", "a*", "?.service", "[bc]*", "*.timer", "e-x.service"]);
            text += &format!("{policy} {pattern}\n");
        }
        if random.below(2) == 0 {
            fs::write(root.join(format!("{dir}/systemd/system-preset/{file}.preset")), text)
                .unwrap();
        }
    }
}

/// Returns the links in /etc: directory and name, `multi-user.target.wants/a.service`.
fn links(root: &Path) -> BTreeSet<String> {
    let ours = root.join("etc/systemd/system");
    let mut found = BTreeSet::new();
    for dir in fs::read_dir(&ours).unwrap().map(|entry| entry.unwrap().path()) {
        let below = dir.is_dir().then(|| fs::read_dir(&dir).unwrap());
        let below = below.into_iter().flatten().map(|entry| entry.unwrap().path());
        for path in below.chain([dir.clone()]).filter(|path| path.is_symlink()) {
            found.insert(path.strip_prefix(&ours).unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

/// `systemctl preset-all` applies the presets as a first boot does. A unit that is enabled in part
/// or by a link in /usr/lib counts as enabled.
#[test]
fn first_boot_enables_the_units_of_systemctl_preset_all() {
    let mut random = Random(3);
    let mut changed = 0;
    for round in 0..150 {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        random_root(&mut random, &root);
        let output =
            super::run(folder.path(), &["--whole", "--json", "--only", "works/first-boot", "root"]);
        let found = findings(&output);
        let message = found.first().map_or("", |finding| finding["message"].as_str().unwrap());
        let ours: BTreeSet<&str> = message
            .rsplit_once("presets enable ")
            .map_or_else(BTreeSet::new, |(_, names)| names.split(", ").collect());

        let before = links(&root);
        let output = Command::new("systemctl")
            .args(["preset-all", "--preset-mode=enable-only", "--quiet", "--root"])
            .arg(&root)
            .output()
            .expect("systemctl is there: tests/set-up.sh installs systemd");
        let after = links(&root);
        let new: BTreeSet<&String> = after.difference(&before).collect();
        let is_static = |link: &str| root.join("usr/lib/systemd/system").join(link).is_symlink();
        let mut theirs = BTreeSet::new();
        for unit in UNITS {
            let text = fs::read_to_string(root.join("usr/lib/systemd/system").join(unit)).unwrap();
            let (stem, kind) = unit.split_once('.').unwrap();
            let names = [unit.replace("@.", "@x."), format!("alias-{stem}.{kind}")];
            let of_unit: Vec<_> = after
                .iter()
                .filter(|link| names.iter().any(|name| link.rsplit('/').next() == Some(name)))
                .collect();
            // `check` does not complete a partly enabled unit.
            let was_enabled = of_unit.iter().any(|link| {
                before.contains(*link) && text.contains(link.split(".wants").next().unwrap())
            }) || of_unit.iter().any(|link| is_static(link));
            if of_unit.iter().any(|link| new.contains(link)) && !was_enabled {
                theirs.insert(unit);
            }
        }
        changed += theirs.len();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(ours, theirs, "round {round}: {message}\n{new:?}\n{stderr}");
    }
    assert!(changed > 100, "only {changed} units were enabled in all rounds");
}
