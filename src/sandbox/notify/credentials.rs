//! User ids, group ids and capabilities of processes, as the kernel would change them
//! (credentials(7), capabilities(7), `kernel/sys.c`, `security/commoncap.c`).
//!
//! At [`Privilege::None`](crate::sandbox::Privilege::None) the kernel knows one id, so the daemon
//! answers the calls that read and change credentials. It keeps each set of credentials once, in
//! [`CredentialTable`], and stores its number in the process, as the limit `RLIMIT_LOCKS`: the
//! kernel copies limits to children, keeps them in an execution and shares them among the threads
//! of a process, and has not used this one since Linux 2.4.25. So no event can be missed. A process
//! whose limit is the highest that it can have is root.
//!
//! Not modelled: ambient capabilities, the bounding set, securebits other than `PR_SET_KEEPCAPS`,
//! and capabilities of files.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::Mutex;

pub(super) const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
pub(super) const CAP_SETPCAP: u32 = 8;
const CAP_LINUX_IMMUTABLE: u32 = 9;
pub(super) const CAP_SYS_CHROOT: u32 = 18;
pub(crate) const CAP_SYS_ADMIN: u32 = 21;
pub(super) const CAP_MKNOD: u32 = 27;
pub(crate) const CAP_SETFCAP: u32 = 31;
const CAP_MAC_OVERRIDE: u32 = 32;
/// All capabilities of Linux 5.9 and newer.
const ALL_CAPABILITIES: u64 = (1 << 41) - 1;
/// Capabilities that follow the file system user id (`CAP_FS_SET`).
const FILE_CAPABILITIES: u64 = 1 << CAP_CHOWN
    | 1 << CAP_DAC_OVERRIDE
    | 1 << CAP_DAC_READ_SEARCH
    | 1 << CAP_FOWNER
    | 1 << CAP_FSETID
    | 1 << CAP_LINUX_IMMUTABLE
    | 1 << CAP_MKNOD
    | 1 << CAP_MAC_OVERRIDE;

/// The most supplementary groups of a process (`NGROUPS_MAX`).
pub(super) const MAX_GROUPS: usize = 65_536;
/// Maximum memory of a table, in bytes. A program that sets random ids gets `EAGAIN` beyond it.
const MAX_TABLE_BYTES: usize = 64 << 20;

/// The four user ids or group ids of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) fs: u32,
}

impl Ids {
    const ROOT: Ids = Ids { real: 0, effective: 0, saved: 0, fs: 0 };

    /// Whether a process may take this id without a capability.
    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// `setuid(2)`, `setgid(2)`.
    fn set(self, id: u32, capable: bool) -> Result<Self, Errno> {
        match id {
            _ if capable => Ok(Ids { real: id, effective: id, saved: id, fs: id }),
            id if id == self.real || id == self.saved => Ok(Ids { effective: id, fs: id, ..self }),
            _ => Err(Errno::EPERM),
        }
    }

    /// `setreuid(2)`, `setregid(2)`.
    fn set_real_effective(
        self,
        real: Option<u32>,
        effective: Option<u32>,
        capable: bool,
    ) -> Result<Self, Errno> {
        let may_be_real = real.is_none_or(|id| id == self.real || id == self.effective);
        let may_set = may_be_real && effective.is_none_or(|id| self.has(id));
        if !(capable || may_set) {
            return Err(Errno::EPERM);
        }
        let mut new = self;
        new.real = real.unwrap_or(self.real);
        new.effective = effective.unwrap_or(self.effective);
        if real.is_some() || effective.is_some_and(|id| id != self.real) {
            new.saved = new.effective;
        }
        new.fs = new.effective;
        Ok(new)
    }

    /// `setresuid(2)`, `setresgid(2)`.
    fn set_all(self, ids: [Option<u32>; 3], capable: bool) -> Result<Self, Errno> {
        if !capable && ids.iter().flatten().any(|id| !self.has(*id)) {
            return Err(Errno::EPERM);
        }
        let [real, effective, saved] = ids;
        // Linux 6.2 and newer then leave the file system id as it is.
        let changes = real.is_some_and(|id| id != self.real)
            || effective.is_some_and(|id| id != self.effective || id != self.fs)
            || saved.is_some_and(|id| id != self.saved);
        if !changes {
            return Ok(self);
        }
        let effective = effective.unwrap_or(self.effective);
        Ok(Ids {
            real: real.unwrap_or(self.real),
            effective,
            saved: saved.unwrap_or(self.saved),
            fs: effective,
        })
    }

    /// `setfsuid(2)`, `setfsgid(2)`, which report no error.
    fn set_fs(self, id: u32, capable: bool) -> Self {
        match capable || self.has(id) || id == self.fs {
            true => Ids { fs: id, ..self },
            false => self,
        }
    }

    /// Returns the ids after the execution of a program with this owner, if it has a set-id bit.
    fn after_execution(self, owner: Option<u32>) -> Self {
        let effective = owner.unwrap_or(self.effective);
        Ids { effective, saved: effective, fs: effective, ..self }
    }
}

/// Kinds of access to an object, as bits of a mode.
pub(crate) const EXECUTE: u32 = 1;
pub(crate) const WRITE: u32 = 2;
pub(crate) const READ: u32 = 4;

/// The credentials of a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Credentials {
    pub(super) user: Ids,
    pub(super) group: Ids,
    pub(super) groups: Arc<[u32]>,
    pub(super) permitted: u64,
    pub(super) effective: u64,
    pub(super) inheritable: u64,
    /// `PR_SET_KEEPCAPS`
    pub(super) keeps_capabilities: bool,
}

impl Credentials {
    /// Returns the credentials of root.
    pub(super) fn root() -> Self {
        Credentials {
            user: Ids::ROOT,
            group: Ids::ROOT,
            groups: Arc::new([]),
            permitted: ALL_CAPABILITIES,
            effective: ALL_CAPABILITIES,
            inheritable: 0,
            keeps_capabilities: false,
        }
    }

    /// Returns whether a capability is effective.
    pub(super) fn has(&self, capability: u32) -> bool {
        self.effective >> capability & 1 == 1
    }

    /// `setuid(2)`
    pub(super) fn set_uid(&self, id: u32) -> Result<Self, Errno> {
        Ok(self.with_user(self.user.set(id, self.has(CAP_SETUID))?))
    }

    /// `setgid(2)`
    pub(super) fn set_gid(&self, id: u32) -> Result<Self, Errno> {
        Ok(self.with_group(self.group.set(id, self.has(CAP_SETGID))?))
    }

    /// `setreuid(2)`
    pub(super) fn set_reuid(
        &self,
        real: Option<u32>,
        effective: Option<u32>,
    ) -> Result<Self, Errno> {
        let ids = self.user.set_real_effective(real, effective, self.has(CAP_SETUID))?;
        Ok(self.with_user(ids))
    }

    /// `setregid(2)`
    pub(super) fn set_regid(
        &self,
        real: Option<u32>,
        effective: Option<u32>,
    ) -> Result<Self, Errno> {
        // Unlike `setreuid`, the kernel accepts as real group the real and the effective one, and
        // as effective group all three.
        let ids = self.group.set_real_effective(real, effective, self.has(CAP_SETGID))?;
        Ok(self.with_group(ids))
    }

    /// `setresuid(2)`
    pub(super) fn set_resuid(&self, ids: [Option<u32>; 3]) -> Result<Self, Errno> {
        Ok(self.with_user(self.user.set_all(ids, self.has(CAP_SETUID))?))
    }

    /// `setresgid(2)`
    pub(super) fn set_resgid(&self, ids: [Option<u32>; 3]) -> Result<Self, Errno> {
        Ok(self.with_group(self.group.set_all(ids, self.has(CAP_SETGID))?))
    }

    /// `setfsuid(2)`
    pub(super) fn set_fsuid(&self, id: u32) -> Self {
        let user = self.user.set_fs(id, self.has(CAP_SETUID));
        let mut new = Credentials { user, ..self.clone() };
        match (self.user.fs, user.fs) {
            (0, now) if now != 0 => new.effective &= !FILE_CAPABILITIES,
            (before, 0) if before != 0 => new.effective |= self.permitted & FILE_CAPABILITIES,
            _ => {}
        }
        new
    }

    /// `setfsgid(2)`
    pub(super) fn set_fsgid(&self, id: u32) -> Self {
        self.with_group(self.group.set_fs(id, self.has(CAP_SETGID)))
    }

    /// `setgroups(2)`. The kernel sorts the groups.
    pub(super) fn set_groups(&self, mut groups: Vec<u32>) -> Result<Self, Errno> {
        if !self.has(CAP_SETGID) {
            return Err(Errno::EPERM);
        }
        groups.sort_unstable();
        Ok(Credentials { groups: groups.into(), ..self.clone() })
    }

    /// `capset(2)`
    pub(super) fn set_capabilities(
        &self,
        effective: u64,
        permitted: u64,
        inheritable: u64,
    ) -> Result<Self, Errno> {
        let [effective, permitted, inheritable] =
            [effective, permitted, inheritable].map(|set| set & ALL_CAPABILITIES);
        let may_inherit =
            self.has(CAP_SETPCAP) || inheritable & !(self.inheritable | self.permitted) == 0;
        if !may_inherit || permitted & !self.permitted != 0 || effective & !permitted != 0 {
            return Err(Errno::EPERM);
        }
        Ok(Credentials { effective, permitted, inheritable, ..self.clone() })
    }

    /// Returns the credentials after the execution of a program. `user` and `group` are its owner
    /// and group as far as it has their set-id bits.
    pub(super) fn after_execution(&self, user: Option<u32>, group: Option<u32>) -> Self {
        let user = self.user.after_execution(user);
        let group = self.group.after_execution(group);
        let is_root = user.real == 0 || user.effective == 0;
        let permitted = if is_root { ALL_CAPABILITIES } else { 0 };
        let effective = if user.effective == 0 { permitted } else { 0 };
        let keeps_capabilities = false;
        Credentials { user, group, permitted, effective, keeps_capabilities, ..self.clone() }
    }

    /// Returns the credentials that `access(2)` checks: those of the real user.
    pub(super) fn for_access(&self) -> Self {
        let mut new = self.clone();
        (new.user.fs, new.group.fs) = (self.user.real, self.group.real);
        new.effective = if self.user.real == 0 { self.permitted } else { 0 };
        new
    }

    /// Changes the user ids and adapts the capabilities (`cap_emulate_setxuid`).
    fn with_user(&self, user: Ids) -> Self {
        let mut new = Credentials { user, ..self.clone() };
        if self.user.has(0) && !user.has(0) && !self.keeps_capabilities {
            (new.permitted, new.effective) = (0, 0);
        }
        match (self.user.effective, user.effective) {
            (0, now) if now != 0 => new.effective = 0,
            (before, 0) if before != 0 => new.effective = new.permitted,
            _ => {}
        }
        new
    }

    fn with_group(&self, group: Ids) -> Self {
        Credentials { group, ..self.clone() }
    }

    /// Returns whether the process is in a group, by its file system group or another one.
    pub(super) fn is_in_group(&self, group: u32) -> bool {
        self.group.fs == group || self.groups.contains(&group)
    }

    /// Returns whether the process may access an object with this mode and owner in all of the ways
    /// `wanted` (`generic_permission` in `fs/namei.c`, without access control lists).
    pub(super) fn may_access(&self, mode: u32, (uid, gid): (u32, u32), wanted: u32) -> bool {
        let class = match () {
            () if uid == self.user.fs => 6,
            () if self.is_in_group(gid) => 3,
            () => 0,
        };
        if mode >> class & wanted == wanted {
            return true;
        }
        if mode & libc::S_IFMT == libc::S_IFDIR {
            return wanted & WRITE == 0 && self.has(CAP_DAC_READ_SEARCH)
                || self.has(CAP_DAC_OVERRIDE);
        }
        let anyone_executes = mode & 0o111 != 0;
        wanted == READ && self.has(CAP_DAC_READ_SEARCH)
            || (wanted & EXECUTE == 0 || anyone_executes) && self.has(CAP_DAC_OVERRIDE)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.groups)
    }
}

/// The credentials of all processes of a sandbox, by the number that the processes carry.
#[derive(Debug, Default)]
pub(crate) struct CredentialTable(Mutex<Numbered>);

#[derive(Debug, Default)]
struct Numbered {
    /// The credentials except those of root, by number.
    all: Vec<Arc<Credentials>>,
    numbers: HashMap<Arc<Credentials>, u64>,
    bytes: usize,
}

impl CredentialTable {
    /// Returns the credentials of a process: root's, unless it has changed them.
    pub(super) fn of(&self, tid: u32) -> io::Result<Arc<Credentials>> {
        let limit = locks_limit(tid, None)?;
        let table = self.0.lock();
        let number = usize::try_from(limit.rlim_cur).ok();
        let number = number.filter(|_| limit.rlim_cur != limit.rlim_max);
        let found = number.and_then(|number| table.all.get(number));
        Ok(found.cloned().unwrap_or_else(|| Arc::new(Credentials::root())))
    }

    /// Returns whether a process certainly has the credentials of root.
    pub(super) fn is_root(&self, tid: u32) -> bool {
        self.is_unused() || self.of(tid).is_ok_and(|found| *found == Credentials::root())
    }

    /// Returns the user and the group that own files that a process makes.
    pub(crate) fn file_owner(&self, tid: u32) -> (u32, u32) {
        if self.is_unused() {
            return (0, 0);
        }
        // The kernel's own requests have no process.
        self.of(tid).map_or((0, 0), |found| (found.user.fs, found.group.fs))
    }

    /// Returns whether a process may access an object with this mode and owner in all of the ways
    /// `wanted`, which are bits of a mode.
    pub(crate) fn may_access(&self, tid: u32, mode: u32, owner: (u32, u32), wanted: u32) -> bool {
        self.is_unused() || self.of(tid).is_ok_and(|found| found.may_access(mode, owner, wanted))
    }

    /// Returns whether a process may change attributes of an object that this user owns.
    pub(crate) fn owns(&self, tid: u32, user: u32) -> bool {
        let owns = |found: &Credentials| found.user.fs == user || found.has(CAP_FOWNER);
        self.is_unused() || self.of(tid).is_ok_and(|found| owns(&found))
    }

    /// Returns whether a capability of a process is effective.
    pub(crate) fn has(&self, tid: u32, capability: u32) -> bool {
        self.is_unused() || self.of(tid).is_ok_and(|found| found.has(capability))
    }

    /// Gives a process other credentials.
    pub(super) fn assign(&self, tid: u32, credentials: Credentials) -> Result<(), Errno> {
        let rlim_max = locks_limit(tid, None).map_err(|_| Errno::ESRCH)?.rlim_max;
        let rlim_cur = match self.number(credentials)? {
            Some(number) if number >= rlim_max => return Err(Errno::EAGAIN),
            number => number.unwrap_or(rlim_max),
        };
        let limit = libc::rlimit { rlim_cur, rlim_max };
        locks_limit(tid, Some(limit)).map_err(|_| Errno::ESRCH)?;
        Ok(())
    }

    /// Returns the number of these credentials; `None` for those of root.
    fn number(&self, credentials: Credentials) -> Result<Option<u64>, Errno> {
        if credentials == Credentials::root() {
            return Ok(None);
        }
        let mut table = self.0.lock();
        if let Some(&number) = table.numbers.get(&credentials) {
            return Ok(Some(number));
        }
        table.bytes += credentials.bytes();
        if table.bytes > MAX_TABLE_BYTES {
            table.bytes -= credentials.bytes();
            return Err(Errno::EAGAIN);
        }
        let number = table.all.len() as u64;
        let credentials = Arc::new(credentials);
        table.all.push(credentials.clone());
        table.numbers.insert(credentials, number);
        Ok(Some(number))
    }

    /// Whether no process has ever had other credentials than root's.
    pub(crate) fn is_unused(&self) -> bool {
        self.0.lock().all.is_empty()
    }
}

/// Gives this process and its children the credentials of root.
pub(in crate::sandbox) fn carry_root() -> io::Result<()> {
    let own = std::process::id();
    let rlim_max = locks_limit(own, None)?.rlim_max;
    locks_limit(own, Some(libc::rlimit { rlim_cur: rlim_max, rlim_max })).map(drop)
}

/// Reads the limit that carries the number of a process's credentials, and changes it to `new`.
fn locks_limit(tid: u32, new: Option<libc::rlimit>) -> io::Result<libc::rlimit> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), |new| &raw const *new);
    // SAFETY: the kernel reads `new`, if it is not null, and writes `old`; both outlive the call.
    let result =
        unsafe { libc::prlimit(tid as libc::pid_t, libc::RLIMIT_LOCKS, new, &raw mut old) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(old) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A call that changes credentials.
    #[derive(Debug, Clone)]
    enum Change {
        Uid(u32),
        Gid(u32),
        Reuid(Option<u32>, Option<u32>),
        Regid(Option<u32>, Option<u32>),
        Resuid([Option<u32>; 3]),
        Resgid([Option<u32>; 3]),
        FsUid(u32),
        FsGid(u32),
        Groups(Vec<u32>),
        KeepCapabilities(bool),
        Capabilities(u64, u64, u64),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let id = || prop_oneof![Just(0_u32), 1_u32..4];
        let ids = move || proptest::option::of(id());
        let set = || prop_oneof![Just(0), Just(ALL_CAPABILITIES), Just(1_u64 << CAP_SETUID)];
        let change = prop_oneof![
            id().prop_map(Change::Uid),
            id().prop_map(Change::Gid),
            (ids(), ids()).prop_map(|(r, e)| Change::Reuid(r, e)),
            (ids(), ids()).prop_map(|(r, e)| Change::Regid(r, e)),
            [ids(), ids(), ids()].prop_map(Change::Resuid),
            [ids(), ids(), ids()].prop_map(Change::Resgid),
            id().prop_map(Change::FsUid),
            id().prop_map(Change::FsGid),
            proptest::collection::vec(id(), 0..4).prop_map(Change::Groups),
            any::<bool>().prop_map(Change::KeepCapabilities),
            (set(), set(), set()).prop_map(|(e, p, i)| Change::Capabilities(e, p, i)),
        ];
        proptest::collection::vec(change, 1..12)
    }

    impl Change {
        fn model(&self, old: &Credentials) -> Result<Credentials, Errno> {
            match self {
                Change::Uid(id) => old.set_uid(*id),
                Change::Gid(id) => old.set_gid(*id),
                Change::Reuid(r, e) => old.set_reuid(*r, *e),
                Change::Regid(r, e) => old.set_regid(*r, *e),
                Change::Resuid(ids) => old.set_resuid(*ids),
                Change::Resgid(ids) => old.set_resgid(*ids),
                Change::FsUid(id) => Ok(old.set_fsuid(*id)),
                Change::FsGid(id) => Ok(old.set_fsgid(*id)),
                Change::Groups(groups) => old.set_groups(groups.clone()),
                Change::KeepCapabilities(keeps) => {
                    Ok(Credentials { keeps_capabilities: *keeps, ..old.clone() })
                }
                Change::Capabilities(e, p, i) => old.set_capabilities(*e, *p, *i),
            }
        }

        /// Makes the call, which changes only this thread.
        fn call(&self) -> Result<(), Errno> {
            let some = |id: Option<u32>| id.unwrap_or(u32::MAX);
            // SAFETY: the arguments are numbers, or point to arrays that outlive the call.
            let result = unsafe {
                match self {
                    Change::Uid(id) => libc::syscall(libc::SYS_setuid, *id),
                    Change::Gid(id) => libc::syscall(libc::SYS_setgid, *id),
                    Change::Reuid(r, e) => libc::syscall(libc::SYS_setreuid, some(*r), some(*e)),
                    Change::Regid(r, e) => libc::syscall(libc::SYS_setregid, some(*r), some(*e)),
                    Change::Resuid([r, e, s]) => {
                        libc::syscall(libc::SYS_setresuid, some(*r), some(*e), some(*s))
                    }
                    Change::Resgid([r, e, s]) => {
                        libc::syscall(libc::SYS_setresgid, some(*r), some(*e), some(*s))
                    }
                    Change::FsUid(id) => libc::syscall(libc::SYS_setfsuid, *id).min(0),
                    Change::FsGid(id) => libc::syscall(libc::SYS_setfsgid, *id).min(0),
                    Change::Groups(groups) => {
                        libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr())
                    }
                    Change::KeepCapabilities(keeps) => {
                        libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(*keeps)).into()
                    }
                    Change::Capabilities(e, p, i) => {
                        let header = [0x2008_0522_u32, 0];
                        let low = [e, p, i].map(|set| *set as u32);
                        let sets = [low, [e, p, i].map(|set| (*set >> 32) as u32)];
                        libc::syscall(libc::SYS_capset, &raw const header, &raw const sets)
                    }
                }
            };
            if result < 0 { Err(Errno::last()) } else { Ok(()) }
        }
    }

    /// Returns the credentials of this thread in the kernel.
    fn of_this_thread() -> Credentials {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let ids = |name| {
            let ids: Vec<u32> = field(name).iter().map(|id| id.parse().unwrap()).collect();
            Ids { real: ids[0], effective: ids[1], saved: ids[2], fs: ids[3] }
        };
        let set = |name| u64::from_str_radix(&field(name)[0], 16).unwrap();
        // SAFETY: this option takes no other argument.
        let keeps = unsafe { libc::prctl(libc::PR_GET_KEEPCAPS) };
        Credentials {
            user: ids("Uid:"),
            group: ids("Gid:"),
            groups: field("Groups:").iter().map(|id| id.parse().unwrap()).collect(),
            permitted: set("CapPrm:"),
            effective: set("CapEff:"),
            inheritable: set("CapInh:"),
            keeps_capabilities: keeps == 1,
        }
    }

    #[test]
    fn changes_have_the_kernels_results() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        proptest!(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() }, |(changes in changes())| {
            let compared = std::thread::spawn(move || {
                Change::Groups(Vec::new()).call().unwrap();
                // The tests may run in a container, without some capabilities.
                let mut model = of_this_thread();
                let all = model.permitted;
                for mut change in changes {
                    if let Change::Capabilities(e, p, i) = &mut change {
                        [e, p, i].into_iter().for_each(|set| *set &= all);
                    }
                    let wanted = change.model(&model);
                    prop_assert_eq!(wanted.clone().map(drop), change.call(), "{:?}", change);
                    model = wanted.unwrap_or(model);
                    prop_assert_eq!(&model, &of_this_thread(), "{:?}", change);
                }
                Ok(())
            });
            compared.join().unwrap()?;
        });
    }

    #[test]
    fn execution_sets_saved_ids_and_capabilities() {
        let user = Credentials::root().set_resuid([Some(7), Some(7), Some(7)]).unwrap();
        assert_eq!(user.after_execution(None, None), user);
        let root = user.after_execution(Some(0), None);
        assert_eq!(root.user, Ids { real: 7, effective: 0, saved: 0, fs: 0 });
        assert!(root.has(CAP_SETUID));
        let other = user.after_execution(Some(8), Some(9));
        assert_eq!((other.user.effective, other.user.saved, other.group.fs), (8, 8, 9));
        assert!(!other.has(CAP_SETUID));
        // A process that can return to root cannot after an execution.
        let hidden = Credentials::root().set_resuid([Some(7), Some(7), Some(0)]).unwrap();
        assert!(hidden.set_uid(0).is_ok());
        assert_eq!(hidden.after_execution(None, None).set_uid(0), Err(Errno::EPERM));
        let real = Credentials::root().set_reuid(None, Some(7)).unwrap();
        assert_eq!(real.after_execution(None, None).permitted, ALL_CAPABILITIES);
        assert_eq!(real.after_execution(None, None).effective, 0);
    }

    #[test]
    fn processes_carry_their_credentials() {
        let table = CredentialTable::default();
        let mut command = std::process::Command::new("cat");
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert_eq!(*table.of(child.id()).unwrap(), Credentials::root());
        let user = Credentials::root().set_uid(1000).unwrap();
        table.assign(child.id(), user.clone()).unwrap();
        assert_eq!(*table.of(child.id()).unwrap(), user);
        table.assign(child.id(), Credentials::root()).unwrap();
        assert_eq!(*table.of(child.id()).unwrap(), Credentials::root());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(table.of(child.id()).is_err());
    }
}
