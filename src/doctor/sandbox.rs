//! Requirements of roots: the kernel, FUSE, namespaces and ids, and all of them together.

use nix::unistd::Uid;

use super::{DoctorFinding, DoctorState};
use crate::root::supervise::ReportFn;
use crate::root::{RootError, RootOptions, UnstartedRoot, default_upper_limit};
use crate::sandbox::{Network, Privilege, PrivilegeChoice, SandboxError, probe, users_may_share};
use crate::text::error::describe;

/// The commands that run something in a root.
const ROOT_COMMANDS: &str = "build, run, shell";
/// The consequence of missing subordinate ids.
const SINGLE_ID: &str = "builds work with a single id, with the same bytes, but more slowly";
/// The highest id that Debian and its packages use.
const MAX_DEBIAN_ID: u32 = 65534;

/// Returns all findings, each after those that it depends on.
pub(super) fn findings() -> Vec<DoctorFinding> {
    let root = Uid::effective().is_root();
    let mut findings = vec![kernel()];
    findings.push(DoctorFinding::from_result(
        "fuse",
        "build, run, shell, mount",
        DoctorState::Fault,
        probe::fuse_device().map(|()| "/dev/fuse opens".to_owned()),
    ));
    match root {
        true if probe::root().is_ok() => findings.extend([rights(), notification()]),
        true => findings.extend([rights(), user_namespaces(), notification()]),
        false => findings.extend([user_namespaces(), programs(), ids(), notification()]),
    }
    findings.push(privilege());
    findings.push(sandbox(super::is_ready(&findings)));
    // These run in forked processes: no threads may exist.
    findings.extend([mount(root), memory(), container()]);
    if !root {
        findings.push(sharing());
    }
    findings
}

fn kernel() -> DoctorFinding {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let message = format!("Linux {release}");
    match probe::is_new_enough() {
        true => DoctorFinding::new("kernel", ROOT_COMMANDS, DoctorState::Works, message),
        false => {
            let message = format!("{message}: overcoat needs 5.12 or newer");
            DoctorFinding::new("kernel", ROOT_COMMANDS, DoctorState::Fault, message)
                .advice("boot a newer kernel")
        }
    }
}

/// Returns the privilege that commands use.
fn privilege() -> DoctorFinding {
    let message = PrivilegeChoice::Auto
        .select()
        .map(|selected| format!("commands use the privilege `{}`", selected.privilege.name()));
    DoctorFinding::from_result("privilege", ROOT_COMMANDS, DoctorState::Fault, message)
}

fn rights() -> DoctorFinding {
    let message =
        "running as root with the capability to mount; no user namespace is needed".to_owned();
    DoctorFinding::from_result(
        "rights",
        "the privilege `root`",
        DoctorState::Lacks,
        probe::root().map(|()| message),
    )
    .without("builds need a user namespace")
}

fn user_namespaces() -> DoctorFinding {
    let tried = probe::user_namespace();
    let message = "a user namespace was created, with a mount in it".to_owned();
    DoctorFinding::from_result(
        "user namespaces",
        ROOT_COMMANDS,
        DoctorState::Fault,
        tried.map(|()| message),
    )
    .without("only root can build")
}

fn programs() -> DoctorFinding {
    let message = "newuidmap and newgidmap are installed".to_owned();
    DoctorFinding::from_result(
        "id programs",
        "the privilege `subordinate`",
        DoctorState::Lacks,
        probe::mappers().map(|()| message),
    )
    .without(SINGLE_ID)
}

/// Tests subordinate ids and mapping them in a namespace.
fn ids() -> DoctorFinding {
    let finding = |tried| {
        let purpose = "the privilege `subordinate`";
        DoctorFinding::from_result("subordinate ids", purpose, DoctorState::Lacks, tried)
            .without(SINGLE_ID)
    };
    let (uids, gids) = match probe::subordinate_ids() {
        Ok(ids) => ids,
        Err(error) => return finding(Err(error)),
    };
    let unmapped = |why: &str| {
        let message = format!("{} users, {} groups; {why}", uids.max(), gids.max());
        DoctorFinding { state: DoctorState::Untried, ..finding(Ok(message)) }
    };
    if probe::mappers().is_err() || probe::user_namespace().is_err() {
        return unmapped("mapping them was not tested because of the problems above");
    }
    if let Err(error) = probe::map_ids(&uids, &gids) {
        return match probe::may_gain_privileges() {
            true => finding(Err(error)),
            false => finding(Err(error)).advice(
                "this process cannot gain privileges (no_new_privs): start it without \
                 NoNewPrivileges= or --security-opt no-new-privileges",
            ),
        };
    }
    let least = uids.max().min(gids.max());
    if least < MAX_DEBIAN_ID {
        let message =
            format!("{least} ids: images with owners above {least} are built with a single id");
        let note = DoctorFinding { state: DoctorState::Note, ..finding(Ok(message)) };
        let more = MAX_DEBIAN_ID + 1;
        return note.without("such builds have the same bytes, but are slower").advice(format!(
            "{more} ids are usual: extend the ranges in /etc/subuid and /etc/subgid"
        ));
    }
    finding(Ok(format!(
        "{} user ids and {} group ids can be mapped; images with owners above {least} are built with \
         a single id",
        uids.max(),
        gids.max()
    )))
}

fn notification() -> DoctorFinding {
    match probe::seccomp_notification() {
        true => {
            let message = "user notification of system calls works".to_owned();
            DoctorFinding::new("seccomp", ROOT_COMMANDS, DoctorState::Works, message)
        }
        false => {
            let message = "the kernel lacks user notification of system calls".to_owned();
            DoctorFinding::new("seccomp", ROOT_COMMANDS, DoctorState::Fault, message)
                .advice("boot a kernel with CONFIG_SECCOMP_FILTER")
        }
    }
}

/// Tests a sandbox with an empty root.
fn sandbox(worth_trying: bool) -> DoctorFinding {
    let name = "root";
    if !worth_trying {
        let message = "not tested because of the problems above".to_owned();
        return DoctorFinding::new(name, ROOT_COMMANDS, DoctorState::Untried, message);
    }
    let options = RootOptions {
        layers: Vec::new(),
        upper_limit: default_upper_limit(),
        xattrs: fs_model::tree::XattrSupport::All,
        network: Network::Host,
        binds: Vec::new(),
        apt_proxy: None,
        digests: false,
        memory_files: None,
        report: ReportFn::default(),
    };
    let tried = Privilege::detect().map_err(RootError::from).and_then(|privilege| {
        UnstartedRoot::new(options)?.start(privilege)?.finish()?;
        Ok(())
    });
    match tried {
        Ok(()) => {
            let message = "an empty root was mounted and entered".to_owned();
            DoctorFinding::new(name, ROOT_COMMANDS, DoctorState::Works, message)
        }
        Err(error) => {
            let message = match &error {
                RootError::Sandbox(error) => error.full_text(),
                error => describe(error),
            };
            DoctorFinding::new(name, ROOT_COMMANDS, DoctorState::Fault, message)
        }
    }
}

fn mount(root: bool) -> DoctorFinding {
    let (name, purpose) = ("mount", "mount");
    if let Err(error) = probe::fuse_device() {
        drop(error);
        let message = "not tested because of the problems above".to_owned();
        return DoctorFinding::new(name, purpose, DoctorState::Untried, message);
    }
    let method = if root { "" } else { " with fusermount3" };
    let message = format!("a file system was mounted and unmounted{method}");
    let tried = match probe::host_mount() {
        // Apart from fuse.conf, an installed fusermount3 fails only if it is not setuid.
        Err(SandboxError::Mount { message, hint, .. })
            if !root && !message.contains("fuse.conf") =>
        {
            let message = match hint {
                Some(hint) => format!("{message}; {hint}"),
                None => message,
            };
            let finding = DoctorFinding::new(name, purpose, DoctorState::Lacks, message);
            return finding
                .fixed_by("apt install --reinstall fuse3")
                .without("`run` and `shell` show the same root to a single command");
        }
        tried => tried.map(|()| message),
    };
    DoctorFinding::from_result(name, purpose, DoctorState::Lacks, tried)
        .without("`run` and `shell` show the same root to a single command")
}

fn sharing() -> DoctorFinding {
    let (name, purpose) = ("shared mounts", "mount");
    match users_may_share() {
        true => {
            let message = "other users, including root, can see your mounts".to_owned();
            DoctorFinding::new(name, purpose, DoctorState::Works, message)
        }
        false => {
            let message = "other users, including root, cannot see your mounts".to_owned();
            DoctorFinding::new(name, purpose, DoctorState::Lacks, message)
                .fixed_by("echo user_allow_other >>/etc/fuse.conf")
        }
    }
}

fn memory() -> DoctorFinding {
    let limit = default_upper_limit();
    let text = crate::doctor::tools::size;
    let available = available_memory();
    let message = match available {
        Some(available) => {
            format!(
                "the limit for changes is {}, and {} is available",
                text(limit),
                text(available)
            )
        }
        None => format!("the limit for changes is {}", text(limit)),
    };
    match available.is_some_and(|available| available < limit) {
        true => DoctorFinding::new("memory", ROOT_COMMANDS, DoctorState::Note, message).advice(
            "lower the limit with --upper-size, so that a build that exceeds it fails before the \
             machine runs out of memory",
        ),
        false => DoctorFinding::new("memory", ROOT_COMMANDS, DoctorState::Works, message),
    }
}

fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn container() -> DoctorFinding {
    let name = "container";
    match (probe::proc_is_masked(), probe::is_container()) {
        (true, _) => {
            let message = "parts of /proc are masked, as in a container".to_owned();
            DoctorFinding::new(name, ROOT_COMMANDS, DoctorState::Note, message)
                .without(
                    "a root has the /proc of this container: its commands also see the processes \
                     outside of the root",
                )
                .advice("start the container with --security-opt systempaths=unconfined")
        }
        (false, true) => DoctorFinding::new(
            name,
            ROOT_COMMANDS,
            DoctorState::Works,
            "this is a container, and /proc is not masked".to_owned(),
        ),
        (false, false) => DoctorFinding::new(
            name,
            ROOT_COMMANDS,
            DoctorState::Works,
            "this is not a container".to_owned(),
        ),
    }
}
