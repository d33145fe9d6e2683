//! A server with artifacts, and machines that boot from it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::support::stage::{EPOCH, Stage, Who, finish};

/// An init for tests that do not need systemd: it prints the output of `/look` and powers off.
pub(crate) const PROBE: &str = "#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec >/dev/console 2>&1
echo PROBE
/look
echo END
echo o >/proc/sysrq-trigger
sleep 60
";

/// A kernel and its initrd.
#[derive(Clone)]
struct Loads {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
}

/// A folder with artifacts, served.
pub(crate) struct Site {
    pub(crate) stage: Stage,
    server: Child,
    port: u16,
}

impl Site {
    /// Creates a site with the lab's Debian base as `base.squashfs`.
    pub(crate) fn new() -> Self {
        let stage = Stage::new();
        let folder = stage.path("public");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink(stage.debian(), folder.join("base.squashfs")).unwrap();
        let (server, port) = serve(&folder, &[], &stage.path("requests"));
        Site { stage, server, port }
    }

    /// Builds the kernel and the initrd, once without and once with `variables`.
    fn loads(&self, variables: &'static str) -> Loads {
        static PLAIN: OnceLock<Loads> = OnceLock::new();
        static OTHER: OnceLock<Loads> = OnceLock::new();
        let once = if variables.is_empty() { &PLAIN } else { &OTHER };
        once.get_or_init(|| {
            self.project(&format!(
                "  initrd: {{kind: initrd, base: {}, provisioner: [sources, 'library:initrd'], \
                 variables: {{{variables}}}}}\n",
                self.stage.debian().display()
            ));
            let read = |name| fs::read(self.stage.path("project/out").join(name)).unwrap();
            Loads { kernel: read("vmlinuz"), initrd: read("initrd.img") }
        })
        .clone()
    }

    /// Builds images from the lab's package repository.
    pub(crate) fn project(&self, images: &str) {
        self.stage.write("project/sources/provisioner.yml", "files: files\n");
        let list = "deb [trusted=yes] file:/repo ./\n";
        self.stage.write("project/sources/files/etc/apt/sources.list", list);
        let text = format!("output: out\nnetwork: none\nimages:\n{images}");
        self.stage.write("project/overcoat.yml", text);
        let repository = format!("{}:/repo:ro", self.stage.lab().join("repo").display());
        let mut build = self.stage.overcoat(Who::Root);
        build.current_dir(self.stage.path("project")).env("SOURCE_DATE_EPOCH", EPOCH);
        finish(build.args(["build", "--bind", &repository])).ok();
    }

    /// Makes an overlay of the changes by a script to the base and `below`.
    pub(crate) fn overlay(&self, name: &str, below: &[&str], script: &str) {
        let mut run = self.stage.overcoat(Who::Root);
        run.arg("run").arg(self.stage.debian());
        run.args(below.iter().map(|name| self.artifact(name)));
        run.args(["--network", "none", "--no-manifest", "--save"]).arg(self.artifact(name));
        let script = format!("write() {{ cat >$1; chmod 755 $1; }}\n{script}");
        finish(run.args(["--", "sh", "-ec", &script])).ok();
    }

    /// Makes an overlay whose `/probe` runs `look`.
    pub(crate) fn probe(&self, name: &str, below: &[&str], look: &str, script: &str) {
        let all = format!(
            "write /probe <<'...'\n{PROBE}...\nwrite /look <<'...'\n#!/bin/sh\n{look}\n...\n{script}"
        );
        self.overlay(name, below, &all);
    }

    /// Returns the path of an artifact.
    pub(crate) fn artifact(&self, name: &str) -> PathBuf {
        self.stage.path("public").join(name)
    }

    /// Returns the URL of an artifact inside the machines.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://10.0.2.2:{}/{name}", self.port)
    }

    /// Returns the URLs of several artifacts, separated by commas.
    pub(crate) fn urls(&self, names: &[&str]) -> String {
        names.iter().map(|name| self.url(name)).collect::<Vec<_>>().join(",")
    }

    /// Returns the SHA-256 of an artifact.
    pub(crate) fn digest(&self, name: &str) -> String {
        self.stage.sh(&format!("sha256sum <public/{name}"))[..64].to_owned()
    }

    /// Returns the log of requests to the server.
    pub(crate) fn requests(&self) -> String {
        fs::read_to_string(self.stage.path("requests")).unwrap()
    }

    /// Boots a machine with the library's initrd; returns its console output once it has ended.
    pub(crate) fn boot(&self, command_line: &str, machine: &[&str]) -> Console {
        self.boot_with("", command_line, machine)
    }

    /// Like [`Site::boot`], with variables of the provisioner.
    pub(crate) fn boot_with(
        &self,
        variables: &'static str,
        command_line: &str,
        machine: &[&str],
    ) -> Console {
        let Loads { kernel, initrd } = self.loads(variables);
        let kernel = self.stage.write("vmlinuz", kernel);
        let initrd = self.stage.write("initrd.img", initrd);
        let line = format!(
            "boot=overcoat BASEFS={} OVERCOAT_RETRIES=2 OVERCOAT_ON_FAILURE=reboot:0 \
             {command_line}",
            self.url("base.squashfs")
        );
        qemu(&kernel, &initrd, &line, machine)
    }

    /// Makes overlays that turn the lab's base into a bootable system, `system.cpio.*`, and one
    /// with a unit that prints its findings and powers off, `unit.cpio.*`, unless the kernel
    /// command line has `overcoat.quiet`. They are built once.
    pub(crate) fn system(&self) {
        const NAMES: [&str; 4] =
            ["system.cpio.gz", "system.cpio.zst", "unit.cpio.gz", "unit.cpio.zst"];
        static BUILT: OnceLock<[Vec<u8>; 4]> = OnceLock::new();
        let built = BUILT.get_or_init(|| {
    let system = "packages: [systemd-sysv, systemd-resolved, dbus, udev, kmod, netbase, iproute2, \
                  iputils-ping, curl, openssh-server]\n";
    self.stage.write("project/system/provisioner.yml", system);
    self.stage.write(
        "project/unit/provisioner.yml",
        "files: files\nservices: {enable: [probe.service]}\n",
    );
    self.stage.write(
        "project/unit/files/etc/systemd/system/probe.service",
        "[Unit]\nConditionKernelCommandLine=!overcoat.quiet\nAfter=multi-user.target network-online.target\nWants=network-online.target\n\
         [Service]\nType=oneshot\nExecStart=/usr/local/bin/probe\n\
         [Install]\nWantedBy=graphical.target multi-user.target\n",
    );
    self.stage.write(
        "project/unit/files/usr/local/bin/probe",
        "#!/bin/sh\nexec >/dev/console 2>&1\necho PROBE\nsystemctl is-active multi-user.target\n\
         systemctl --failed --no-legend --plain\nip -4 -br address; findmnt -no FSTYPE /\n\
         ls -1 /run/overcoat\nmodinfo -F name squashfs; stat -c \"%a %u:%g\" /usr /usr/lib\necho\necho END\nsystemctl --no-block poweroff\n",
    );
    self.stage.write("project/unit/files/etc/unit", "of the unit\n");
    self.project(&format!(
        "  system: {{base: {}, provisioner: [sources, system, 'library:debian-base'], \
         format: [cpio.gz, cpio.zst]}}
  unit: {{base: {0}, overlays: [system], provisioner: unit, format: [cpio.gz, cpio.zst]}}\n",
        self.stage.debian().display()
    ));
    NAMES.map(|name| fs::read(self.stage.path("project/out").join(name)).unwrap())
        });
        for (name, content) in NAMES.iter().zip(built) {
            self.stage.write(format!("public/{name}"), content);
        }
    }

    /// Returns the lab's kernel and the library's initrd.
    pub(crate) fn kernel_and_initrd(&self) -> (PathBuf, PathBuf) {
        let loads = self.loads("");
        (self.stage.write("vmlinuz", loads.kernel), self.stage.write("initrd.img", loads.initrd))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Serves a folder on the loopback interface; returns the server and its port.
pub(crate) fn serve(folder: &Path, certificate: &[&Path], requests: &Path) -> (Child, u16) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boot/server.py");
    let mut server = Command::new("python3")
        .arg(program)
        .arg(folder)
        .args(certificate)
        .stdout(Stdio::piped())
        .stderr(fs::File::create(requests).unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (server, line.trim().parse().unwrap())
}

/// Runs a machine with 1 GiB and a network card, unless `machine` has other options, until it ends.
pub(crate) fn qemu(kernel: &Path, initrd: &Path, line: &str, machine: &[&str]) -> Console {
    let mut command = Command::new("timeout");
    command.args(
        "300 qemu-system-x86_64 -accel tcg -cpu max -m 1G -display none -serial stdio \
                  -monitor none -no-reboot -netdev user,id=n0"
            .split_whitespace(),
    );
    if !machine.contains(&"-device") {
        command.args(["-device", "virtio-net-pci,netdev=n0"]);
    }
    command.args(machine).arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command
        .args(["-append", &format!("console=ttyS0 norandmaps tsc=reliable {line}")])
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(
        output.status.success(),
        "{}: {text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Console(text)
}

/// The console output of a machine.
pub(crate) struct Console(pub(crate) String);

impl Console {
    /// Returns the initrd's lines, without the `overcoat: ` prefix.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.0.lines().filter_map(|line| line.strip_prefix("overcoat: ")).collect()
    }

    /// Returns the output of the probe.
    pub(crate) fn probe(&self) -> &str {
        let output = self.0.split_once("PROBE\n").and_then(|(_, rest)| rest.split_once("\nEND"));
        output.unwrap_or_else(|| panic!("no probe: {}", self.0)).0
    }

    /// Checks that the output of the probe contains each of `parts`.
    pub(crate) fn shows(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.probe().contains(part), "no {part:?} in {}", self.0);
        }
    }

    /// Checks that there is one failure, in `phase`, whose message contains `parts`.
    pub(crate) fn failed(&self, phase: &str, parts: &[&str]) {
        let failures: Vec<_> =
            self.lines().into_iter().filter(|line| line.starts_with("failed: ")).collect();
        let [line] = failures[..] else { panic!("not one failure: {}", self.0) };
        assert!(line.starts_with(&format!("failed: {phase}: ")), "not {phase}: {line}");
        for part in parts {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
        assert!(!self.0.contains("PROBE\n") && !self.0.contains("Terminated"), "{}", self.0);
    }
}
