//! What roots need: the kernel, FUSE, namespaces with ids, and all of it together.

use nix::unistd::Uid;

use super::{Finding, State};
use crate::root::{RootOptions, UnstartedRoot, default_upper_limit};
use crate::sandbox::{Network, Privilege, SandboxError, probe, users_may_share};

/// What all that runs something in a root is for.
const ALL: &str = "build, run, shell";
/// Ids that Debian and its packages use.
const ENOUGH: u32 = 65534;

/// All of them, in the order in which one needs the other.
pub(super) fn findings() -> Vec<Finding> {
    let root = Uid::effective().is_root();
    let mut findings = vec![kernel()];
    findings.push(Finding::of(
        "fuse",
        "build, run, shell, mount",
        State::Fault,
        probe::fuse_device().map(|()| "/dev/fuse opens".to_owned()),
    ));
    match root {
        true => findings.extend([rights(), notification()]),
        false => findings.extend([user_namespaces(), programs(), ids(), notification()]),
    }
    findings.push(sandbox(super::is_ready(&findings)));
    // By a process that has no threads any more.
    findings.extend([mount(root), memory(), container()]);
    if !root {
        findings.push(sharing());
    }
    findings
}

fn kernel() -> Finding {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let says = format!("Linux {release}");
    match probe::is_new_enough() {
        true => Finding::new("kernel", ALL, State::Works, says),
        false => {
            let says = format!("{says}: overcoat needs 5.12 or newer");
            Finding::new("kernel", ALL, State::Fault, says).advice("boot a newer kernel")
        }
    }
}

fn rights() -> Finding {
    let says = "root, with the right to mount; no user namespace is needed".to_owned();
    Finding::of("rights", ALL, State::Fault, probe::root().map(|()| says))
}

fn user_namespaces() -> Finding {
    let tried = probe::user_namespace();
    let says = "one was made, and something mounted in it".to_owned();
    Finding::of("user namespaces", ALL, State::Fault, tried.map(|()| says))
        .without("only root can build")
}

fn programs() -> Finding {
    let says = "newuidmap and newgidmap are there".to_owned();
    Finding::of("id programs", ALL, State::Fault, probe::mappers().map(|()| says))
        .without("only root can build")
}

/// Subordinate ids, and that a namespace can have them.
fn ids() -> Finding {
    let finding = |tried| {
        Finding::of("subordinate ids", ALL, State::Fault, tried).without("only root can build")
    };
    let (uids, gids) = match probe::subordinate_ids() {
        Ok(ids) => ids,
        Err(error) => return finding(Err(error)),
    };
    let unmapped = |why: &str| {
        let says = format!("{} users, {} groups; {why}", uids.max(), gids.max());
        Finding { state: State::Untried, ..finding(Ok(says)) }
    };
    if probe::mappers().is_err() || probe::user_namespace().is_err() {
        return unmapped("whether they can be used was not tried: see above");
    }
    if let Err(error) = probe::map_ids(&uids, &gids) {
        return match probe::may_gain_privileges() {
            true => finding(Err(error)),
            false => finding(Err(error)).advice(
                "this process may gain no privileges (no_new_privs): start it without \
                 NoNewPrivileges= or --security-opt no-new-privileges",
            ),
        };
    }
    let least = uids.max().min(gids.max());
    if least < ENOUGH {
        let says = format!(
            "{least} ids: owners above {least} are shown inside as aliases, and processes cannot \
             run as such users"
        );
        let note = Finding { state: State::Note, ..finding(Ok(says)) };
        let more = ENOUGH + 1;
        return note
            .without("what is built is right all the same: such owners are recorded")
            .advice(format!(
                "{more} are usual: make the range in /etc/subuid and /etc/subgid larger"
            ));
    }
    finding(Ok(format!(
        "{} users, {} groups, and they can be used; owners above {least} are shown inside as \
         aliases",
        uids.max(),
        gids.max()
    )))
}

fn notification() -> Finding {
    match probe::seccomp_notification() {
        true => {
            let says = "system calls can be asked about".to_owned();
            Finding::new("seccomp", ALL, State::Works, says)
        }
        false => {
            let says = "the kernel has no user notification of system calls".to_owned();
            Finding::new("seccomp", ALL, State::Fault, says)
                .advice("boot a kernel with CONFIG_SECCOMP_FILTER")
        }
    }
}

/// An empty root, with everything that one has.
fn sandbox(worth_trying: bool) -> Finding {
    let name = "root";
    if !worth_trying {
        let says = "not tried: see above".to_owned();
        return Finding::new(name, ALL, State::Untried, says);
    }
    let options = RootOptions {
        layers: Vec::new(),
        upper_limit: default_upper_limit(),
        xattrs: fs_model::tree::XattrSupport::All,
        network: Network::Host,
        binds: Vec::new(),
        apt_proxy: None,
        digests: false,
        report: |_| {},
    };
    let tried = Privilege::detect().map_err(crate::root::RootError::from).and_then(|privilege| {
        UnstartedRoot::new(options)?.start(privilege)?.finish()?;
        Ok(())
    });
    match tried {
        Ok(()) => {
            let says = "an empty one was mounted, entered and ended".to_owned();
            Finding::new(name, ALL, State::Works, says)
        }
        Err(error) => Finding::new(name, ALL, State::Fault, error.to_string()),
    }
}

fn mount(root: bool) -> Finding {
    let (name, purpose) = ("mount", "mount");
    if let Err(error) = probe::fuse_device() {
        drop(error);
        let says = "not tried: see above".to_owned();
        return Finding::new(name, purpose, State::Untried, says);
    }
    let how = if root { "" } else { ", by fusermount3" };
    let says = format!("a file system was mounted and unmounted{how}");
    let tried = match probe::host_mount() {
        // The one reason for which a helper that is there is refused.
        Err(SandboxError::Mount { message, .. }) if !root && !message.contains("fuse.conf") => {
            let finding = Finding::new(name, purpose, State::Lacks, message);
            return finding
                .mended_by("apt install --reinstall fuse3")
                .without("run and shell show the same root, to one command");
        }
        tried => tried.map(|()| says),
    };
    Finding::of(name, purpose, State::Lacks, tried)
        .without("run and shell show the same root, to one command")
}

fn sharing() -> Finding {
    let (name, purpose) = ("shared mounts", "mount");
    match users_may_share() {
        true => {
            let says = "others, root too, can see what you mount".to_owned();
            Finding::new(name, purpose, State::Works, says)
        }
        false => {
            let says = "nobody else, not even root, sees what you mount".to_owned();
            Finding::new(name, purpose, State::Lacks, says)
                .mended_by("echo user_allow_other >>/etc/fuse.conf")
        }
    }
}

fn memory() -> Finding {
    let limit = default_upper_limit();
    let text = crate::doctor::tools::size;
    let available = available_memory();
    let says = match available {
        Some(available) => {
            format!("changes may take {}, and {} is available now", text(limit), text(available))
        }
        None => format!("changes may take {}", text(limit)),
    };
    match available.is_some_and(|available| available < limit) {
        true => Finding::new("memory", ALL, State::Note, says).advice(
            "give less with --upper-size: a build that takes more fails then, and nothing else",
        ),
        false => Finding::new("memory", ALL, State::Works, says),
    }
}

fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn container() -> Finding {
    let name = "container";
    match (probe::proc_is_masked(), probe::is_container()) {
        (true, _) => {
            let says = "parts of /proc are masked, as in a container".to_owned();
            Finding::new(name, ALL, State::Note, says)
                .without(
                    "a root has the /proc of this container: its commands see processes of both",
                )
                .advice("start the container with --security-opt systempaths=unconfined")
        }
        (false, true) => {
            Finding::new(name, ALL, State::Works, "this is one, and nothing is masked".to_owned())
        }
        (false, false) => Finding::new(name, ALL, State::Works, "this is none".to_owned()),
    }
}
