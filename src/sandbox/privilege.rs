//! The available privilege, and how ids inside map to ids on the host.
//!
//! Invariants of an [`IdMap`]: ids inside run from 0 to [`IdMap::max`] without a gap; 0 is the
//! calling user (the host's root at [`Privilege::Root`]).

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid};

use super::error::{During, SandboxError};
use super::host::{find_program, user_name};
use super::requirement::MissingRequirement;
use super::sys;

/// A range of `count` ids, from `inside` in the namespace and from `outside` on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// The number of ids.
    pub count: u32,
}

/// A map from the ids (of users or groups) inside to those of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    ranges: Vec<IdRange>,
}

impl IdMap {
    /// Creates a map of every id to itself.
    fn identity() -> Self {
        IdMap { ranges: vec![IdRange { inside: 0, outside: 0, count: u32::MAX }] }
    }

    /// Creates a map of 0 to `own`, and of 1 and up to the `(first, count)` ranges in order.
    fn subordinate(own: u32, subordinate: &[(u32, u32)]) -> Self {
        let mut ranges = vec![IdRange { inside: 0, outside: own, count: 1 }];
        let mut next = 1_u32;
        for &(outside, count) in subordinate {
            let count = count.min(u32::MAX - next);
            if count > 0 {
                ranges.push(IdRange { inside: next, outside, count });
                next += count;
            }
        }
        IdMap { ranges }
    }

    /// Creates a map of each id to itself that exists in this process's own user namespace.
    fn of_own_namespace(kind: &str) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/self/{kind}"))?;
        let ranges = text.lines().filter_map(|line| {
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
            let (inside, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
            Some(IdRange { inside, outside: inside, count })
        });
        Ok(IdMap { ranges: ranges.collect() })
    }

    /// Returns the content of `/proc/PID/uid_map`.
    fn to_file(&self) -> String {
        let line =
            |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
        self.ranges.iter().map(line).collect()
    }

    /// Returns the largest id that exists inside. The kernel rejects larger ones there.
    pub fn max(&self) -> u32 {
        self.ranges.iter().map(|range| range.inside + (range.count - 1)).max().unwrap_or(0)
    }

    /// Returns the id inside of the host's id `outside`, if it is mapped.
    pub fn to_inside(&self, outside: u32) -> Option<u32> {
        self.ranges.iter().find_map(|range| {
            let offset = outside.checked_sub(range.outside)?;
            (offset < range.count).then(|| range.inside + offset)
        })
    }

    /// Returns the arguments of `newuidmap` and `newgidmap` after the process id.
    fn arguments(&self) -> Vec<String> {
        let numbers = |range: &IdRange| [range.inside, range.outside, range.count];
        self.ranges.iter().flat_map(numbers).map(|number| number.to_string()).collect()
    }
}

/// The privilege that a sandbox is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Privilege {
    /// Real root: no user namespace, and the kernel itself makes device nodes.
    Root,
    /// A user namespace with the user's subordinate ids. The supervisor records device nodes and
    /// ids beyond the map.
    Subordinate {
        /// The map of user ids.
        uids: IdMap,
        /// The map of group ids.
        gids: IdMap,
    },
    /// A user namespace that maps one id. The supervisor answers all calls that read or change
    /// owners, credentials and devices.
    None,
}

/// A request for a privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivilegeChoice {
    /// The highest that is available.
    #[default]
    Auto,
    /// [`Privilege::Root`].
    Root,
    /// [`Privilege::Subordinate`].
    Subordinate,
    /// [`Privilege::None`].
    None,
}

/// The privilege that a request leads to.
#[derive(Debug)]
pub struct SelectedPrivilege {
    /// The privilege.
    pub privilege: Privilege,
    /// Why a higher one is not available.
    pub declined: Option<SandboxError>,
}

impl PrivilegeChoice {
    /// Returns the privilege that is available to this process.
    ///
    /// # Errors
    /// Returns the missing requirement, and how to meet it.
    pub fn select(self) -> Result<SelectedPrivilege, SandboxError> {
        let only = |privilege| SelectedPrivilege { privilege, declined: None };
        match self {
            PrivilegeChoice::Root => Privilege::root().map(only),
            PrivilegeChoice::Subordinate => Privilege::subordinate().map(only),
            PrivilegeChoice::None => Privilege::none().map(only),
            PrivilegeChoice::Auto => select_highest(),
        }
    }
}

/// Returns the highest available privilege. The error is that of the lowest one.
fn select_highest() -> Result<SelectedPrivilege, SandboxError> {
    let mut declined = None;
    if Uid::effective().is_root() {
        match Privilege::root() {
            Ok(privilege) => return Ok(SelectedPrivilege { privilege, declined }),
            Err(error) => declined = Some(error),
        }
    }
    match Privilege::subordinate() {
        Ok(privilege) => return Ok(SelectedPrivilege { privilege, declined }),
        Err(error) => declined = declined.or(Some(error)),
    }
    Ok(SelectedPrivilege { privilege: Privilege::none()?, declined })
}

impl Privilege {
    /// Returns the name of this privilege, as [`PrivilegeChoice`] has it on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Privilege::Root => "root",
            Privilege::Subordinate { .. } => "subordinate",
            Privilege::None => "none",
        }
    }

    /// Returns the highest privilege that is available to this process.
    ///
    /// # Errors
    /// Returns the missing requirement, and how to meet it.
    pub fn detect() -> Result<Self, SandboxError> {
        Ok(PrivilegeChoice::Auto.select()?.privilege)
    }

    /// Returns the privilege of root.
    ///
    /// # Errors
    /// Fails if this process is not root with the capability to mount.
    pub fn root() -> Result<Self, SandboxError> {
        open_fuse_device()?;
        check_root()?;
        Ok(Privilege::Root)
    }

    /// Returns a user namespace with the subordinate ids of the calling user.
    ///
    /// # Errors
    /// Returns the missing requirement, and how to meet it.
    pub fn subordinate() -> Result<Self, SandboxError> {
        open_fuse_device()?;
        user_namespaces_are_on()?;
        if let Some((uids, gids)) = own_id_maps()? {
            return Ok(Privilege::Subordinate { uids, gids });
        }
        for program in ID_MAP_PROGRAMS {
            id_map_program(program)?;
            if let Some(missing) = missing_rights(program) {
                return Err(missing.into());
            }
        }
        let (uids, gids) = subordinate_id_maps()?;
        if !may_gain_privileges() {
            return Err(SandboxError::NoNewPrivileges);
        }
        Ok(Privilege::Subordinate { uids, gids })
    }

    /// Returns a user namespace with one id.
    ///
    /// # Errors
    /// Returns the missing requirement, and how to meet it.
    pub fn none() -> Result<Self, SandboxError> {
        open_fuse_device()?;
        user_namespaces_are_on()?;
        Ok(Privilege::None)
    }

    /// Whether the supervisor records device nodes although this is root: a container may lack
    /// `CAP_MKNOD`.
    pub(super) fn is_root_without_devices(&self) -> bool {
        *self == Privilege::Root && !has_effective(CAP_MKNOD)
    }

    /// Whether a network without interfaces has no loopback interface either: a container may lack
    /// `CAP_NET_ADMIN`.
    pub(crate) fn lacks_loopback(&self) -> bool {
        *self == Privilege::Root && !has_effective(CAP_NET_ADMIN)
    }

    /// Returns whether the sandbox has its own user namespace.
    pub fn has_user_namespace(&self) -> bool {
        !matches!(self, Privilege::Root)
    }

    /// Returns the largest user id that the kernel accepts inside. Larger ids are recorded in the
    /// tree and shown as aliases ([`OwnerAliases`](crate::fuse::OwnerAliases)).
    pub fn max_uid(&self) -> u32 {
        self.uids().max()
    }

    /// Returns the largest group id; see [`Privilege::max_uid`].
    pub fn max_gid(&self) -> u32 {
        self.gids().max()
    }

    /// Returns the map of user ids.
    pub fn uids(&self) -> IdMap {
        match self {
            Privilege::Root => IdMap::identity(),
            Privilege::Subordinate { uids, .. } => uids.clone(),
            Privilege::None => IdMap::subordinate(Uid::effective().as_raw(), &[]),
        }
    }

    /// Returns the map of group ids.
    pub fn gids(&self) -> IdMap {
        match self {
            Privilege::Root => IdMap::identity(),
            Privilege::Subordinate { gids, .. } => gids.clone(),
            Privilege::None => IdMap::subordinate(Gid::effective().as_raw(), &[]),
        }
    }
}

pub(super) const CAP_NET_ADMIN: u32 = 12;
pub(super) const CAP_MKNOD: u32 = 27;

/// Whether this process has an effective capability.
pub(super) fn has_effective(capability: u32) -> bool {
    effective_capabilities().is_ok_and(|capabilities| capabilities.has(capability))
}

const CAP_SETFCAP: u32 = 31;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// Returns the id maps that root without the capability to mount can write itself; `None` for other
/// users.
fn own_id_maps() -> Result<Option<(IdMap, IdMap)>, SandboxError> {
    let capabilities = effective_capabilities()?;
    let may_map = capabilities.has(CAP_SETUID) && capabilities.has(CAP_SETGID);
    if !Uid::effective().is_root() || !may_map {
        return Ok(None);
    }
    let map = |kind| IdMap::of_own_namespace(kind).during("reading the ids of this namespace");
    Ok(Some((map("uid_map")?, map("gid_map")?)))
}

/// Programs that write the id maps of a user namespace.
pub(super) const ID_MAP_PROGRAMS: [&str; 2] = ["newuidmap", "newgidmap"];

/// Returns the path of one of these programs.
pub(super) fn id_map_program(program: &str) -> Result<PathBuf, MissingRequirement> {
    find_program(program).ok_or_else(|| MissingRequirement::program(program, "uidmap"))
}

/// Returns the rights that `newuidmap` or `newgidmap` lacks, if that is the reason.
pub(super) fn missing_rights(program: &'static str) -> Option<MissingRequirement> {
    let path = id_map_program(program).ok()?;
    let found = fs::metadata(&path).ok()?;
    let capable = || {
        let mut buffer = [0_u8; 64];
        rustix::fs::getxattr(&path, "security.capability", &mut buffer[..]).is_ok()
    };
    let rights = found.permissions().mode() & 0o4000 != 0 || capable();
    (!rights).then(|| {
        let problem = format!("{} is not setuid and has no capabilities", path.display());
        MissingRequirement::set_user_id(program, &problem)
    })
}

/// Whether executing a program can gain privileges, which `newuidmap` and `fusermount3` require.
pub(super) fn may_gain_privileges() -> bool {
    nix::sys::prctl::get_no_new_privs().is_ok_and(|never| !never)
}

/// Returns the id maps that a user namespace of the calling user can have.
pub(super) fn subordinate_id_maps() -> Result<(IdMap, IdMap), MissingRequirement> {
    let uid = Uid::current();
    let name = user_name(uid);
    let texts = SUBORDINATE_FILES.map(|file| fs::read_to_string(file).unwrap_or_default());
    let is_elsewhere =
        fs::read_to_string("/etc/nsswitch.conf").is_ok_and(|text| has_other_source_of_ids(&text));
    let ranges = |which: usize| {
        let ranges = match &name {
            Some(name) if is_elsewhere => ask_for_ranges(name, which == 1),
            _ => subordinate_ranges(&texts[which], name.as_deref(), uid.as_raw()),
        };
        if ranges.is_empty() {
            let user = name.clone().unwrap_or_else(|| uid.to_string());
            let first = texts.iter().map(|text| first_free(text)).max().unwrap_or_default();
            return Err(MissingRequirement::subordinate_ids(
                &user,
                SUBORDINATE_FILES[which],
                first,
            ));
        }
        Ok(ranges)
    };
    Ok((
        IdMap::subordinate(uid.as_raw(), &ranges(0)?),
        IdMap::subordinate(Gid::current().as_raw(), &ranges(1)?),
    ))
}

/// Returns whether nsswitch.conf(5) has another source of subordinate ids than the files, such as
/// SSSD. The files are not read then.
fn has_other_source_of_ids(text: &str) -> bool {
    let sources = text.lines().find_map(|line| line.trim_start().strip_prefix("subid:"));
    sources.is_some_and(|sources| {
        let source = sources.split_whitespace().next();
        source.is_some_and(|source| source != "files" && !source.starts_with('#'))
    })
}

/// Returns the user's ranges of ids of users or of groups that getsubids(1) prints: (first, count).
fn ask_for_ranges(user: &str, groups: bool) -> Vec<(u32, u32)> {
    let Some(program) = find_program("getsubids") else { return Vec::new() };
    let mut command = Command::new(program);
    if groups {
        command.arg("-g");
    }
    let output = command.arg(user).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    parse_ranges(&text.unwrap_or_default())
}

/// Parses lines such as `0: alice 100000 65536`.
fn parse_ranges(text: &str) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().skip(2).map(|field| field.parse::<u32>().ok());
        let (first, count) = (numbers.next()??, numbers.next()??);
        (count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    };
    text.lines().filter_map(range).collect()
}

/// Returns the command that extends the calling user's subordinate ranges from the largest mapped
/// id `max` to the user and the group `highest`; `None` when no free range is large enough.
pub(crate) fn widening_command(max: u32, highest: (u32, u32)) -> Option<String> {
    let (user, group) = highest;
    let uid = Uid::current();
    let name = user_name(uid).unwrap_or_else(|| uid.to_string());
    let mut command = "usermod".to_owned();
    for (file, option, highest) in [
        (SUBORDINATE_FILES[0], "--add-subuids", user),
        (SUBORDINATE_FILES[1], "--add-subgids", group),
    ] {
        let Some(more) = highest.checked_sub(max).filter(|more| *more > 0) else { continue };
        let first = first_free(&fs::read_to_string(file).unwrap_or_default());
        let last = first.checked_add(more - 1)?;
        command.push_str(&format!(" {option} {first}-{last}"));
    }
    Some(format!("{command} {name}"))
}

/// Maps root in the user namespace of this process to the user and group that it had before.
pub(super) fn map_single_id(uid: Uid, gid: Gid) -> io::Result<()> {
    // Without this an unprivileged process cannot map a group (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Writes the id maps of the user namespace of `pid`.
pub(super) fn write_id_maps(pid: i32, uids: &IdMap, gids: &IdMap) -> Result<(), SandboxError> {
    if own_id_maps()?.is_some() {
        let write = |kind: &str, map: &IdMap| {
            fs::write(format!("/proc/{pid}/{kind}"), map.to_file()).during("writing the id maps")
        };
        write("uid_map", uids)?;
        return write("gid_map", gids);
    }
    // Both at once: most of the time is spent starting the processes.
    let start = |program: &'static str, map: &IdMap| {
        Command::new(id_map_program(program)?)
            .arg(pid.to_string())
            .args(map.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .during("starting newuidmap and newgidmap")
    };
    let running =
        [("newuidmap", start("newuidmap", uids)?), ("newgidmap", start("newgidmap", gids)?)];
    let mut result = Ok(());
    for (program, child) in running {
        let output = child.wait_with_output().during("waiting for newuidmap and newgidmap")?;
        if !output.status.success() && result.is_ok() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            result = Err(SandboxError::IdMap { program, message });
        }
    }
    result
}

/// Returns a hint for an error in a user namespace, if its cause is known.
pub(super) fn user_namespace_hint(errno: i32) -> Option<String> {
    if apparmor_restricts() && matches!(errno, libc::EPERM | libc::EACCES) {
        let missing = MissingRequirement::apparmor();
        return Some(format!("{missing}; {}", missing.hint()));
    }
    let hint = match errno {
        libc::ENOSPC => "too many namespaces: see /proc/sys/user/max_*_namespaces",
        libc::ENOSYS => "overcoat needs Linux 5.12 or newer",
        libc::EPERM if Uid::effective().is_root() && !has_effective(CAP_SETFCAP) => {
            "root needs the capability SETFCAP to map itself: run as another user (in a container: \
             --user 1000:1000), or start the container with --cap-add SETFCAP"
        }
        libc::EPERM => {
            "in a container, its seccomp filter may be the cause: start it with \
             --security-opt seccomp=unconfined --device /dev/fuse"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Whether AppArmor restricts the user namespaces of ordinary users (Ubuntu 23.10 and later).
pub(super) fn apparmor_restricts() -> bool {
    sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1)
}

const CAP_SYS_ADMIN: u32 = 21;

/// A set of capabilities.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capabilities(pub(super) u64);

impl Capabilities {
    pub(super) fn has(self, capability: u32) -> bool {
        self.0 >> capability & 1 == 1
    }
}

/// Checks that root has the capability to mount.
pub(super) fn check_root() -> Result<(), SandboxError> {
    match effective_capabilities()?.has(CAP_SYS_ADMIN) {
        true => Ok(()),
        false => Err(SandboxError::RootWithoutCapabilities),
    }
}

fn effective_capabilities() -> Result<Capabilities, SandboxError> {
    sys::effective_capabilities().map(Capabilities).during("reading the capabilities")
}

/// Opens the FUSE device for a mount.
pub(super) fn open_fuse_device() -> Result<fs::File, SandboxError> {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(file) => Ok(file),
        // ENODEV and ENXIO: the node exists, but the module is missing.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) =>
        {
            Err(MissingRequirement::fuse_device().into())
        }
        Err(error) => Err(MissingRequirement::fuse_access(&error).into()),
    }
}

fn sysctl(name: &str) -> Option<i64> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

/// Checks that no setting forbids user namespaces for this user.
pub(super) fn user_namespaces_are_on() -> Result<(), MissingRequirement> {
    let off = |name: &str, remedy: &str| {
        MissingRequirement::user_namespaces(
            &format!("{name} = 0"),
            format!("sysctl -w {name}={remedy}"),
        )
    };
    if sysctl("kernel/unprivileged_userns_clone") == Some(0) {
        return Err(off("kernel.unprivileged_userns_clone", "1"));
    }
    if sysctl("user/max_user_namespaces") == Some(0) {
        return Err(off("user.max_user_namespaces", "10000"));
    }
    if let Err(error) = fs::metadata("/proc/self/ns/user")
        && error.kind() == io::ErrorKind::NotFound
    {
        let remedy = "boot a kernel with CONFIG_USER_NS";
        return Err(MissingRequirement::user_namespaces(
            "the kernel does not support them",
            remedy,
        ));
    }
    Ok(())
}

/// The files with the subordinate ids of users and of groups.
const SUBORDINATE_FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// Returns the first free id in the text of `/etc/subuid` or `/etc/subgid`, searching from where
/// `useradd` begins.
fn first_free(text: &str) -> u32 {
    let end = |line: &str| {
        let mut numbers = line.trim().split(':').skip(1).map(|field| field.parse::<u32>().ok());
        numbers.next()??.checked_add(numbers.next()??)
    };
    text.lines().filter_map(end).fold(100_000, u32::max)
}

/// Returns a user's ranges in the text of `/etc/subuid` or `/etc/subgid`: (first, count).
fn subordinate_ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let mut ranges = Vec::new();
    for line in text.lines() {
        let mut fields = line.trim().split(':');
        let (Some(owner), Some(first), Some(count)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if Some(owner) != name && owner != uid.to_string() {
            continue;
        }
        if let (Ok(first), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>())
            && count > 0
            && first.checked_add(count).is_some()
        {
            ranges.push((first, count));
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_match_a_user_by_name_or_number() {
        let text = "# comment\nbob:1:2\nalice:100000:65536\n1001:300000:10\nalice:x:1\nalice:5:0\n";
        assert_eq!(
            subordinate_ranges(text, Some("alice"), 1001),
            [(100_000, 65536), (300_000, 10)]
        );
        assert_eq!(subordinate_ranges(text, None, 7), []);
        assert_eq!(first_free(text), 300_010);
        assert_eq!(first_free("bob:1:2\nmallory:4294967295:1\n"), 100_000);
    }

    #[test]
    fn other_sources_of_ids_are_asked() {
        for (text, other) in [
            ("passwd: files sss\n", false),
            ("subid: files\n", false),
            (" subid:  sss\n", true),
            ("#subid: sss\nsubid:\n", false),
        ] {
            assert_eq!(has_other_source_of_ids(text), other, "{text}");
        }
        let text =
            "0: alice 100000 65536\n1: alice 300000 10\n2: alice x 1\nError fetching ranges\n";
        assert_eq!(parse_ranges(text), [(100_000, 65536), (300_000, 10)]);
    }

    #[test]
    fn ids_inside_have_no_gap() {
        let map = IdMap::subordinate(1001, &[(100_000, 65536), (300_000, 10)]);
        assert_eq!(map.max(), 65546);
        assert_eq!(map.to_inside(1001), Some(0));
        assert_eq!(map.to_inside(100_000), Some(1));
        assert_eq!(map.to_inside(300_009), Some(65546));
        assert_eq!(map.to_inside(300_010), None);
        assert_eq!(map.arguments()[..6], ["0", "1001", "1", "1", "100000", "65536"]);
        assert_eq!(IdMap::identity().max(), u32::MAX - 1);
    }
}
