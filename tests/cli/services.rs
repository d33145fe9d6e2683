//! Services do not start during a build, and keep the state that was set for them.
//!
//! The tests cover every way to start a service, at both privileges, on roots with and without
//! systemd. Besides services of Debian they use one whose init script and unit start a daemon
//! directly, so that the result does not depend on the scripts of a package.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::support::stage::{BOTH_USERS, Finished, REPOSITORY, Stage, Who, finish};

/// The daemon, init script and unit of the test service, which all leave a trace.
const DAEMON: &str = "#!/bin/sh\necho ran >>/srv/started\nexec sleep 1000\n";
const INIT_SCRIPT: &str = "#!/bin/sh
### BEGIN INIT INFO
# Provides: probe
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
case $1 in
status) exit 3 ;;
initdb) echo made >/srv/initdb ;;
start | restart | reload | force-reload)
  echo \"$0 $1\" >>/srv/started
  /srv/daemon & ;;
esac
";
const UNIT: &str = "[Service]\nExecStart=/srv/daemon\n[Install]\nWantedBy=multi-user.target\n";

/// The init system of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boot {
    Systemd,
    Scripts,
}

const BOOTS: [Boot; 2] = [Boot::Systemd, Boot::Scripts];

/// Returns an overlay with services for a root with this init system, built once.
fn base(stage: &Stage, boot: Boot) -> PathBuf {
    static MADE: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
    let made = MADE[usize::from(boot == Boot::Scripts)].get_or_init(|| {
        stage.write("base/apt/etc/apt/sources.list", REPOSITORY);
        stage.write("base/files/srv/daemon", DAEMON);
        stage.write("base/files/etc/init.d/probe", INIT_SCRIPT);
        stage.write("base/files/lib/systemd/system/probe.service", UNIT);
        stage.write("base/files/lib/systemd/system/unit-only.service", UNIT);
        let systemd = if boot == Boot::Systemd { ", systemd-sysv" } else { "" };
        let steps = format!(
            "steps:\n  - files: apt\n  - packages: [cron, openssh-server, puppet-agent{systemd}]\n  \
             - files: files\n"
        );
        stage.write("base/provisioner.yml", steps);
        let (finished, overlay) = build(stage, Who::Unprivileged, "base", &[]);
        finished.ok();
        std::fs::read(overlay).unwrap()
    });
    stage.write(format!("{boot:?}.cpio"), made)
}

/// Builds `NAME.cpio` with the provisioner `NAME`. The image lists the started daemons.
fn build(stage: &Stage, who: Who, name: &str, overlays: &[PathBuf]) -> (Finished, PathBuf) {
    let image = format!(
        "base: {}\noverlays: {overlays:?}\nprovisioner: [{name}, after]\nnetwork: none\n",
        stage.debian().display()
    );
    stage.write("after/report.sh", format!("{{ {STARTED} }} >/srv/started.txt\n"));
    stage.write("after/provisioner.yml", "scripts: [report.sh]\n");
    let image = stage.write(format!("{name}.yml"), image);
    let output = stage.out(who).join(format!("{name}.cpio"));
    let repository = stage.bind_repository();
    let mut command = stage.overcoat(who);
    command.arg("build").arg(image).arg("-o").arg(&output).args(["--bind", &repository, "-v"]);
    (finish(command.arg("--no-manifest")), output)
}

/// Runs a script on a base.
fn run(stage: &Stage, who: Who, boot: Boot, script: &str) -> Finished {
    let overlay = base(stage, boot);
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).arg(overlay).args(["--network", "none"]);
    finish(command.args(["--", "sh", "-uc", script]))
}

/// Prints all started daemons, detected by each of their traces.
const STARTED: &str = "
cat /srv/started 2>/dev/null || :
for process in /proc/[0-9]*; do
  program=$(readlink $process/exe) || continue
  case $program in
  */sshd | */cron | */sleep) echo \"running: $program\" ;;
  esac
done
";

/// Runs each command, also with an empty environment, and checks that it succeeds and starts
/// nothing.
fn assert_starts_nothing(stage: &Stage, who: Who, boot: Boot, commands: &str) {
    let commands = commands.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: String = commands
        .flat_map(|line| [line.to_owned(), format!("env -i sh -c '{line}'")])
        .enumerate()
        .map(|(n, line)| {
            format!(
                "({line}) >/tmp/printed 2>&1 || {{ echo \"command {n}: $?\"; cat /tmp/printed; }}\n"
            )
        })
        .collect();
    let printed = run(stage, who, boot, &(lines + STARTED)).ok().text();
    assert_eq!(printed, "", "{who:?} {boot:?}");
}

const BY_SCRIPTS: &str = "
    invoke-rc.d probe start
    invoke-rc.d --force probe restart
    invoke-rc.d cron start
    invoke-rc.d --force ssh start
    service probe start
    service probe reload
    service cron restart
    service ssh start
    /etc/init.d/probe start
    /etc/init.d/ssh start
    /etc/init.d/cron force-reload
    sh -e /etc/init.d/probe start
    bash /etc/init.d/ssh start
    cd /etc/init.d; ./probe start
    cd /tmp; ../etc/init.d/probe start
    cd /etc/init.d; sh probe start
    cd /etc/init.d; /proc/self/cwd/probe start
    cd /etc; sh /proc/self/cwd/init.d/probe start
    exec 3</etc/init.d/probe; /proc/self/fd/3 start
    exec 3</etc/init.d/probe; sh /dev/fd/3 start
    exec 3</etc/init.d; /proc/self/fd/3/probe start; sh /dev/fd/3/probe start
    exec 3</etc/init.d/probe; bash -c \"exec /proc/\\$\\$/fd/3 start\"
    sh /dev/stdin start </etc/init.d/probe
    sh /proc/self/root/etc/init.d/probe start
    ln -f /etc/init.d/probe /srv/linked; /srv/linked start; sh /srv/linked start
    ln -sf ../init.d/probe /etc/rc2.d/S01probe; /etc/rc2.d/S01probe start
    ln -sf /etc/init.d/probe /usr/local/bin/probe; probe start
    ln -sfn /etc/init.d /srv/scripts; sh /srv/scripts/probe start; /srv/scripts/probe start
    cp /etc/init.d/cron /tmp/copy; /tmp/copy start
    su root -s /bin/sh -c \"service probe start\"
    chroot / /etc/init.d/probe start
    unshare --mount /etc/init.d/probe start
    nice /etc/init.d/probe start
    perl -e \"exec qw(/etc/init.d/probe start)\"
    start-stop-daemon --start --exec /srv/daemon
    start-stop-daemon -S -b -x /srv/daemon
    bash -c \". /etc/init.d/cron start\"
    mkdir -p /srv/jail; mount --rbind / /srv/jail; chroot /srv/jail service probe start; umount -l /srv/jail
";

#[test]
fn init_scripts_start_nothing() {
    let stage = Stage::new();
    for boot in BOOTS {
        for who in BOTH_USERS {
            assert_starts_nothing(&stage, who, boot, BY_SCRIPTS);
        }
    }
}

#[test]
fn init_script_of_a_traced_process_is_rejected() {
    let stage = Stage::new();
    let script = "exec python3 -c '
import ctypes, os
pid = os.fork()
if pid == 0:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
    try:
        os.execv(\"/etc/init.d/probe\", [\"probe\", \"start\"])
    except PermissionError:
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.path.exists(\"/srv/started\"))'";
    for who in BOTH_USERS {
        let finished = run(&stage, who, Boot::Scripts, script).ok();
        assert_eq!(finished.text(), "7 False\n", "{who:?}");
        finished.stderr_has(&["`/etc/init.d/probe start` failed: services", "cannot be traced"]);
    }
}

/// Creates a chroot with the files that the probe needs, at `$jail`.
const JAIL: &str = "mkdir -p $jail/etc/init.d $jail/usr/local/bin; \
    cp -a /bin /sbin /lib $(ls -d /lib64 /lib32 /libx32 2>/dev/null) $jail/; \
    cp -a /usr/bin /usr/sbin /usr/lib $jail/usr/; cp -a /etc/init.d/probe $jail/etc/init.d/; \
    ln -s ../../../etc/init.d/probe $jail/usr/local/bin/probe";

/// Ways to run the init script of a chroot. Its daemon does not exist there, and the script itself
/// leaves the trace `/srv/started`.
const IN_A_JAIL: [&str; 6] = [
    "chroot $jail /etc/init.d/probe start",
    "chroot $jail sh -e /etc/init.d/probe start",
    "chroot $jail sh -c \"cd /etc/init.d; ./probe start\"",
    "chroot $jail start-stop-daemon --start --exec /bin/touch -- /srv/started",
    "unshare --mount chroot $jail /etc/init.d/probe start",
    "$jail/etc/init.d/probe start",
];

#[test]
fn init_scripts_below_other_mounts_start_nothing() {
    let stage = Stage::new();
    let ways = IN_A_JAIL.join("\n");
    let script = format!(
        "ways() {{ {ways}\n }}
        jail=/srv/jail; {JAIL}; mkdir -p $jail/srv /mnt/jail /mnt/scripts
        mount --bind $jail /mnt/jail; jail=/mnt/jail; ways; chroot $jail probe start
        jail=/tmp/jail; {JAIL}; mkdir $jail/srv; ways
        mount --bind /etc/init.d /mnt/scripts; /mnt/scripts/probe start
        cd /mnt/scripts; ./probe start; sh probe start; cd /
        mount --bind /tmp/jail/etc /mnt/scripts; /mnt/scripts/init.d/probe start
        cat /srv/started /srv/jail/srv/started /tmp/jail/srv/started 2>/dev/null
        mkdir /tmp/init.d; cp /etc/init.d/probe /tmp/init.d/; sed -i 's|/srv/daemon.*|:|' /tmp/init.d/probe
        /tmp/init.d/probe start; cat /srv/started"
    );
    for who in BOTH_USERS {
        let printed = run(&stage, who, Boot::Scripts, &script).ok().text();
        assert_eq!(printed, "/tmp/init.d/probe start\n", "{who:?}");
    }
}

#[test]
fn parent_is_notified_when_a_process_is_killed_during_exec() {
    let stage = Stage::new();
    let script = "timeout 60 python3 -c '
import os, time
for n in range(600):
    pid = os.fork()
    if pid == 0:
        command = [[\"/etc/init.d/probe\", \"start\"], [\"/bin/systemctl\", \"enable\", \"--now\", \"cron\"]]
        os.execv(command[n % 2][0], command[n % 2])
    time.sleep(n % 29 / 10000)  # The kill meets another step of the execution each time.
    os.kill(pid, 9)
    os.waitpid(pid, 0)
print(\"all ended\", flush=True)
os._exit(0)' 2>/dev/null; service probe start; systemctl enable --now unit-only 2>&1; cat /srv/started";
    for who in BOTH_USERS {
        let finished = run(&stage, who, Boot::Systemd, script);
        let printed = String::from_utf8_lossy(&finished.stdout).into_owned();
        assert!(
            printed.starts_with("all ended\n") && !printed.contains("probe"),
            "{who:?} {printed}"
        );
        assert!(!finished.stderr.contains("failed: services"), "{who:?} {}", finished.stderr);
    }
}

#[test]
fn programs_of_other_users_start_nothing_and_end() {
    let stage = Stage::new();
    let script = "useradd --create-home bob
        as_bob() { timeout 60 su bob -s /bin/sh -c \"$1\" || echo \"failed: $?\"; }
        mkdir -p /etc/systemd/user; cp /lib/systemd/system/unit-only.service /etc/systemd/user/
        as_bob 'systemctl --user enable --now unit-only 2>/dev/null'
        ls /home/bob/.config/systemd/user/multi-user.target.wants
        timeout 60 runuser -u bob -- systemctl --user --now disable unit-only 2>/dev/null
        ls /home/bob/.config/systemd/user/multi-user.target.wants 2>/dev/null
        as_bob '/etc/init.d/probe start'
        timeout 60 service probe start; timeout 60 systemctl enable --now unit-only 2>/dev/null
        systemctl is-enabled unit-only; cat /srv/started 2>/dev/null; echo end";
    for who in BOTH_USERS {
        let finished = run(&stage, who, Boot::Systemd, script).ok();
        let wanted = "unit-only.service\nenabled\nend\n";
        assert_eq!(finished.text(), wanted, "{who:?} {}", finished.stderr);
        assert!(!finished.stderr.contains("failed: services"), "{who:?} {}", finished.stderr);
    }
}

#[test]
fn syntax_check_of_an_init_script_is_not_a_start() {
    let stage = Stage::new();
    let script = "sh -n /etc/init.d/probe start; echo $?; bash -en /etc/init.d/probe start; echo $?
        echo 'if' >/etc/init.d/broken; sh -n /etc/init.d/broken start 2>/dev/null; echo $?";
    let finished = run(&stage, Who::Unprivileged, Boot::Scripts, script).ok();
    assert_eq!(finished.text(), "0\n0\n2\n");
    assert!(!finished.stderr.contains("do not start"), "{}", finished.stderr);
}

const BY_SYSTEMCTL: &str = "
    systemctl start probe
    systemctl restart ssh
    systemctl reload ssh
    systemctl try-restart probe
    systemctl reload-or-restart probe
    systemctl try-reload-or-restart probe
    systemctl enable --now probe unit-only
    systemctl enable $(yes unit-only | head -n 3000) --now
    systemctl --now mask cron
    systemctl unmask cron
    systemctl isolate multi-user.target
    systemctl default
    systemctl daemon-reload
    systemctl daemon-reexec
    systemctl is-active probe
    systemctl stop probe
    systemctl kill probe
    systemctl preset cron
    deb-systemd-invoke start probe.service
    deb-systemd-invoke restart ssh.service
    telinit 3
    init 3
";

#[test]
fn systemctl_starts_nothing_and_changes_files() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        assert_starts_nothing(&stage, who, Boot::Systemd, BY_SYSTEMCTL);
        let script = "systemctl enable --now unit-only
            systemctl is-enabled unit-only
            readlink /etc/systemd/system/multi-user.target.wants/unit-only.service
            systemctl disable ssh; systemctl is-enabled ssh
            systemctl preset ssh; systemctl is-enabled ssh";
        let printed = run(&stage, who, Boot::Systemd, script).ok().text();
        let wanted = "enabled\n/lib/systemd/system/unit-only.service\ndisabled\nenabled\n";
        assert_eq!(printed, wanted, "{who:?}");
    }
}

#[test]
fn init_scripts_run_actions_other_than_start() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let script = "/etc/init.d/probe initdb && cat /srv/initdb; service probe status; echo $?
            start-stop-daemon --start --test --exec /srv/daemon && echo tested
            service probe start";
        let finished = run(&stage, who, Boot::Scripts, script).ok();
        let printed = finished.text();
        assert!(printed.starts_with("made\n3\n"), "{printed}");
        assert!(printed.ends_with("tested\n"), "{printed}");
        let note =
            "overcoat: `/etc/init.d/probe start`: services do not start or stop during a build";
        assert!(finished.stderr.contains(note), "{}", finished.stderr);
    }
}

#[test]
fn other_scripts_run_unchanged() {
    let stage = Stage::new();
    let script = "
        mkdir -p /srv/init.d /opt/rc && cp /etc/init.d/probe /srv/init.d/ && cp /bin/echo /opt/rc/
        sed -i 's|/srv/daemon.*|:|' /srv/init.d/probe
        /srv/init.d/probe start && cat /srv/started
        /opt/rc/echo start; sh -c 'echo $0 $1' /etc/init.d/probe start
        echo /etc/init.d/probe start; env printf '%s ' /etc/init.d/probe start
        chmod -x /etc/init.d/probe; /etc/init.d/probe start; echo $?
        /etc/init.d/none start; echo $?";
    for who in BOTH_USERS {
        let printed = run(&stage, who, Boot::Scripts, script).ok().text();
        let wanted = "/srv/init.d/probe start\nstart\n/etc/init.d/probe start\n\
                      /etc/init.d/probe start\n/etc/init.d/probe start 126\n127\n";
        assert_eq!(printed, wanted, "{who:?}");
    }
}

const TASKS: &str = "
- service: {name: probe, state: started, enabled: true}
- service: {name: ssh, state: restarted}
- service: {name: cron, state: reloaded}
- service: {name: cron, state: stopped, enabled: false}
- service: {name: cron, state: started}
- systemd: {name: unit-only, state: started, enabled: true, daemon_reload: true}
  when: ansible_service_mgr == 'systemd'
- copy: {content: '{{ ansible_service_mgr }} {{ ansible_virtualization_role }}', dest: /srv/facts}
";

const MANIFEST: &str = "
service { 'probe': ensure => running, enable => true }
service { 'cron': ensure => running, enable => true, subscribe => File['/srv/changed'] }
service { 'ssh': ensure => stopped, enable => false }
file { '/srv/changed': content => 'x' }
";

/// Checks that a build started nothing; returns the links of the services that it enabled.
fn enabled(stage: &Stage, boot: Boot, overlay: &std::path::Path) -> Vec<String> {
    let read = |name: &str| {
        let overlay = overlay.display();
        stage.sh(&format!("cpio -i --quiet --to-stdout {name} <'{overlay}'"))
    };
    assert_eq!(read("srv/started.txt"), "", "{boot:?}");
    let folder = match boot {
        Boot::Systemd => "etc/systemd/system/multi-user.target.wants/",
        Boot::Scripts => "etc/rc2.d/",
    };
    let names = stage.sh(&format!("cpio -it --quiet <'{}'", overlay.display()));
    names.lines().filter_map(|name| name.strip_prefix(folder)).map(str::to_owned).collect()
}

#[test]
fn ansible_enables_services_without_starting_them() {
    let stage = Stage::new();
    stage.write("role/tasks/main.yml", TASKS);
    for boot in BOOTS {
        for who in BOTH_USERS {
            let (finished, overlay) = build(&stage, who, "role", &[base(&stage, boot)]);
            finished.ok();
            let enabled = enabled(&stage, boot, &overlay);
            let facts = stage
                .sh(&format!("cpio -i --quiet --to-stdout srv/facts <'{}'", overlay.display()));
            match boot {
                Boot::Systemd => {
                    assert!(enabled.contains(&"probe.service".to_owned()), "{enabled:?}");
                    assert!(enabled.contains(&"unit-only.service".to_owned()), "{enabled:?}");
                    assert_eq!(facts, "systemd guest");
                }
                Boot::Scripts => {
                    assert!(enabled.iter().any(|name| name.ends_with("probe")), "{enabled:?}");
                    assert_eq!(facts, "sysvinit guest");
                }
            }
        }
    }
}

#[test]
fn puppet_enables_services_without_starting_them() {
    let stage = Stage::new();
    stage.write("puppet/files/site.pp", MANIFEST);
    stage.write("puppet/apply.sh", "puppet apply --detailed-exitcodes /site.pp || test $? = 2\n");
    stage.write("puppet/provisioner.yml", "files: files\nscripts: [apply.sh]\n");
    for boot in BOOTS {
        for who in BOTH_USERS {
            let (finished, overlay) = build(&stage, who, "puppet", &[base(&stage, boot)]);
            finished.ok();
            let enabled = enabled(&stage, boot, &overlay);
            let wanted = if boot == Boot::Systemd { "probe.service" } else { "probe" };
            assert!(enabled.iter().any(|name| name.ends_with(wanted)), "{boot:?} {enabled:?}");
        }
    }
}

#[test]
fn pid_1_is_named_after_the_init_system_of_the_root() {
    let stage = Stage::new();
    // Pid 1 notices a change after a short time.
    let script =
        "becomes() { timeout 60 sh -c \"until grep -qx $1 /proc/1/comm; do :; done\" && echo $1; }
        cat /proc/1/comm
        mv /sbin/init /sbin/init.systemd; ln -s /bin/true /sbin/init; becomes init
        mv /sbin/init.systemd /sbin/init; becomes systemd";
    for who in BOTH_USERS {
        let printed = run(&stage, who, Boot::Systemd, script).ok().text();
        assert_eq!(printed, "systemd\ninit\nsystemd\n", "{who:?}");
        assert_eq!(run(&stage, who, Boot::Scripts, "cat /proc/1/comm").ok().text(), "init\n");
    }
}
