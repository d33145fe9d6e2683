//! The system calls that the daemon can answer: their numbers on each architecture, and the layout
//! of their arguments.
//!
//! [`super::filter`] passes the calls to the daemon, and [`super::listener`] finds them again in
//! notifications, both by the one table [`CALLS`]. Every entry into the kernel is covered: x86_64,
//! its x32 variant and i386; aarch64 and 32-bit arm; riscv64. Calls of other architectures are
//! allowed: the kernel rejects them itself.

/// An architecture, as in `AUDIT_ARCH_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arch(pub(super) u32);

pub(super) const X86_64: Arch = Arch(0xc000_003e);
pub(super) const I386: Arch = Arch(0x4000_0003);
pub(super) const AARCH64: Arch = Arch(0xc000_00b7);
pub(super) const ARM: Arch = Arch(0x4000_0028);
pub(super) const RISCV64: Arch = Arch(0xc000_00f3);

/// The bit that marks a call of the x32 variant. Other than that its numbers are those of x86_64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// The start of a call's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathStart {
    /// The working directory; the path is argument 0.
    WorkingDirectory,
    /// The descriptor in argument 0; the path is argument 1.
    Descriptor,
}

/// A system call, and the layout of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `mknod`, `mknodat`: mode and device follow the path.
    Mknod(PathStart),
    /// `chown`, `lchown`: the ids follow the path; `narrow` ids have 16 bits.
    Chown { follow: bool, narrow: bool },
    /// `fchown`: argument 0 is a descriptor.
    Fchown { narrow: bool },
    /// `fchownat`: the ids follow the path, then the flags.
    Fchownat,
    /// `execve`, `execveat`: the arguments follow the path.
    Execute(PathStart),
    /// A call that reads or changes credentials; `narrow` ids have 16 bits.
    Identity { call: IdentityCall, narrow: bool },
    /// `stat`, `lstat`: the buffer follows the path.
    Stat { follow: bool, layout: StatLayout },
    /// `fstat`: argument 0 is a descriptor, argument 1 the buffer.
    Fstat(StatLayout),
    /// `fstatat`: the buffer follows the path, then the flags.
    Fstatat(StatLayout),
    /// `statx`: flags, mask and the buffer follow the path.
    Statx,
    /// `access`, `faccessat`: the mode follows the path.
    Access(PathStart),
    /// `faccessat2`: the mode follows the path, then the flags.
    Faccessat2,
    /// `prctl`: argument 0 is the option.
    Prctl,
    /// `setrlimit`: argument 0 is the resource.
    Setrlimit,
    /// `prlimit64`: argument 1 is the resource, 2 the new and 3 the old limit.
    Prlimit,
    /// A call that needs a capability.
    Privileged(PrivilegedCall),
    /// A call that would bypass the supervisor: it does not exist in the sandbox.
    Missing,
}

/// A call that reads or changes credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdentityCall {
    Getuid,
    Geteuid,
    Getgid,
    Getegid,
    Getresuid,
    Getresgid,
    Getgroups,
    Setuid,
    Setgid,
    Setreuid,
    Setregid,
    Setresuid,
    Setresgid,
    Setfsuid,
    Setfsgid,
    Setgroups,
    Capget,
    Capset,
}

impl IdentityCall {
    /// Whether this call only reads ids of users and groups, but not supplementary groups.
    pub(super) fn reads_ids(self) -> bool {
        use IdentityCall::{Getegid, Geteuid, Getgid, Getresgid, Getresuid, Getuid};
        matches!(self, Getuid | Geteuid | Getgid | Getegid | Getresuid | Getresgid)
    }
}

/// A call that needs a capability, which the kernel finds in every process of a user namespace with
/// a single id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PrivilegedCall {
    Mount,
    Umount,
    Umount2,
    PivotRoot,
    MoveMount,
    Fsopen,
    Fsmount,
    Fspick,
    MountSetattr,
    Chroot,
    Sethostname,
    Setdomainname,
    /// Argument 0 has the namespaces; a user namespace needs no capability.
    Unshare,
}

/// The layout of the buffer of a call of the `stat` family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatLayout {
    /// `struct stat` of x86_64.
    X86_64,
    /// `struct stat` of aarch64 and riscv64 (`asm-generic/stat.h`).
    Generic,
    /// `struct stat` of i386.
    I386,
    /// `struct stat64` of i386.
    I386Wide,
}

const fn chown(follow: bool, narrow: bool) -> Call {
    Call::Chown { follow, narrow }
}

const fn wide(call: IdentityCall) -> Call {
    Call::Identity { call, narrow: false }
}

const fn narrow(call: IdentityCall) -> Call {
    Call::Identity { call, narrow: true }
}

/// Every call that is passed to the daemon: architecture, number, call.
pub(super) const CALLS: [(Arch, u32, Call); 183] = {
    use Call::{Access, Execute, Faccessat2, Fstat, Fstatat, Mknod, Privileged, Stat, Statx};
    use IdentityCall::{
        Capget, Capset, Getegid, Geteuid, Getgid, Getgroups, Getresgid, Getresuid, Getuid,
        Setfsgid, Setfsuid, Setgid, Setgroups, Setregid, Setresgid, Setresuid, Setreuid, Setuid,
    };
    use PathStart::{Descriptor, WorkingDirectory};
    use PrivilegedCall::{
        Chroot, Fsmount, Fsopen, Fspick, Mount, MountSetattr, MoveMount, PivotRoot, Setdomainname,
        Sethostname, Umount, Umount2, Unshare,
    };
    [
        (X86_64, 133, Mknod(WorkingDirectory)),
        (X86_64, 259, Mknod(Descriptor)),
        (X86_64, 92, chown(true, false)),
        (X86_64, 93, Call::Fchown { narrow: false }),
        (X86_64, 94, chown(false, false)),
        (X86_64, 260, Call::Fchownat),
        (X86_64, 59, Execute(WorkingDirectory)),
        (X86_64, 322, Execute(Descriptor)),
        // The x32 variant has its own numbers for these two.
        (X86_64, 520, Execute(WorkingDirectory)),
        (X86_64, 545, Execute(Descriptor)),
        (X86_64, 4, Stat { follow: true, layout: StatLayout::X86_64 }),
        (X86_64, 5, Fstat(StatLayout::X86_64)),
        (X86_64, 6, Stat { follow: false, layout: StatLayout::X86_64 }),
        (X86_64, 262, Fstatat(StatLayout::X86_64)),
        (X86_64, 332, Statx),
        (X86_64, 21, Access(WorkingDirectory)),
        (X86_64, 269, Access(Descriptor)),
        (X86_64, 439, Faccessat2),
        (X86_64, 102, wide(Getuid)),
        (X86_64, 104, wide(Getgid)),
        (X86_64, 105, wide(Setuid)),
        (X86_64, 106, wide(Setgid)),
        (X86_64, 107, wide(Geteuid)),
        (X86_64, 108, wide(Getegid)),
        (X86_64, 113, wide(Setreuid)),
        (X86_64, 114, wide(Setregid)),
        (X86_64, 115, wide(Getgroups)),
        (X86_64, 116, wide(Setgroups)),
        (X86_64, 117, wide(Setresuid)),
        (X86_64, 118, wide(Getresuid)),
        (X86_64, 119, wide(Setresgid)),
        (X86_64, 120, wide(Getresgid)),
        (X86_64, 122, wide(Setfsuid)),
        (X86_64, 123, wide(Setfsgid)),
        (X86_64, 125, wide(Capget)),
        (X86_64, 126, wide(Capset)),
        (X86_64, 157, Call::Prctl),
        (X86_64, 160, Call::Setrlimit),
        (X86_64, 302, Call::Prlimit),
        (X86_64, 165, Privileged(Mount)),
        (X86_64, 166, Privileged(Umount2)),
        (X86_64, 155, Privileged(PivotRoot)),
        (X86_64, 161, Privileged(Chroot)),
        (X86_64, 170, Privileged(Sethostname)),
        (X86_64, 171, Privileged(Setdomainname)),
        (X86_64, 272, Privileged(Unshare)),
        (X86_64, 429, Privileged(MoveMount)),
        (X86_64, 430, Privileged(Fsopen)),
        (X86_64, 432, Privileged(Fsmount)),
        (X86_64, 433, Privileged(Fspick)),
        (X86_64, 442, Privileged(MountSetattr)),
        (X86_64, 425, Call::Missing), // io_uring_setup
        (I386, 14, Mknod(WorkingDirectory)),
        (I386, 297, Mknod(Descriptor)),
        (I386, 16, chown(false, true)),
        (I386, 95, Call::Fchown { narrow: true }),
        (I386, 182, chown(true, true)),
        (I386, 198, chown(false, false)),
        (I386, 207, Call::Fchown { narrow: false }),
        (I386, 212, chown(true, false)),
        (I386, 298, Call::Fchownat),
        (I386, 11, Execute(WorkingDirectory)),
        (I386, 358, Execute(Descriptor)),
        (I386, 106, Stat { follow: true, layout: StatLayout::I386 }),
        (I386, 107, Stat { follow: false, layout: StatLayout::I386 }),
        (I386, 108, Fstat(StatLayout::I386)),
        (I386, 195, Stat { follow: true, layout: StatLayout::I386Wide }),
        (I386, 196, Stat { follow: false, layout: StatLayout::I386Wide }),
        (I386, 197, Fstat(StatLayout::I386Wide)),
        (I386, 300, Fstatat(StatLayout::I386Wide)),
        (I386, 383, Statx),
        (I386, 33, Access(WorkingDirectory)),
        (I386, 307, Access(Descriptor)),
        (I386, 439, Faccessat2),
        (I386, 24, narrow(Getuid)),
        (I386, 47, narrow(Getgid)),
        (I386, 49, narrow(Geteuid)),
        (I386, 50, narrow(Getegid)),
        (I386, 23, narrow(Setuid)),
        (I386, 46, narrow(Setgid)),
        (I386, 70, narrow(Setreuid)),
        (I386, 71, narrow(Setregid)),
        (I386, 80, narrow(Getgroups)),
        (I386, 81, narrow(Setgroups)),
        (I386, 138, narrow(Setfsuid)),
        (I386, 139, narrow(Setfsgid)),
        (I386, 164, narrow(Setresuid)),
        (I386, 165, narrow(Getresuid)),
        (I386, 170, narrow(Setresgid)),
        (I386, 171, narrow(Getresgid)),
        (I386, 199, wide(Getuid)),
        (I386, 200, wide(Getgid)),
        (I386, 201, wide(Geteuid)),
        (I386, 202, wide(Getegid)),
        (I386, 203, wide(Setreuid)),
        (I386, 204, wide(Setregid)),
        (I386, 205, wide(Getgroups)),
        (I386, 206, wide(Setgroups)),
        (I386, 208, wide(Setresuid)),
        (I386, 209, wide(Getresuid)),
        (I386, 210, wide(Setresgid)),
        (I386, 211, wide(Getresgid)),
        (I386, 213, wide(Setuid)),
        (I386, 214, wide(Setgid)),
        (I386, 215, wide(Setfsuid)),
        (I386, 216, wide(Setfsgid)),
        (I386, 184, wide(Capget)),
        (I386, 185, wide(Capset)),
        (I386, 172, Call::Prctl),
        (I386, 75, Call::Setrlimit),
        (I386, 340, Call::Prlimit),
        (I386, 21, Privileged(Mount)),
        (I386, 22, Privileged(Umount)),
        (I386, 52, Privileged(Umount2)),
        (I386, 217, Privileged(PivotRoot)),
        (I386, 61, Privileged(Chroot)),
        (I386, 74, Privileged(Sethostname)),
        (I386, 121, Privileged(Setdomainname)),
        (I386, 310, Privileged(Unshare)),
        (I386, 429, Privileged(MoveMount)),
        (I386, 430, Privileged(Fsopen)),
        (I386, 432, Privileged(Fsmount)),
        (I386, 433, Privileged(Fspick)),
        (I386, 442, Privileged(MountSetattr)),
        (I386, 425, Call::Missing), // io_uring_setup
        // Programs for these have not been built since the last century.
        (I386, 18, Call::Missing), // oldstat
        (I386, 28, Call::Missing), // oldfstat
        (I386, 84, Call::Missing), // oldlstat
        (ARM, 14, Mknod(WorkingDirectory)),
        (ARM, 324, Mknod(Descriptor)),
        (ARM, 16, chown(false, true)),
        (ARM, 95, Call::Fchown { narrow: true }),
        (ARM, 182, chown(true, true)),
        (ARM, 198, chown(false, false)),
        (ARM, 207, Call::Fchown { narrow: false }),
        (ARM, 212, chown(true, false)),
        (ARM, 325, Call::Fchownat),
        (ARM, 11, Execute(WorkingDirectory)),
        (ARM, 387, Execute(Descriptor)),
        (AARCH64, 33, Mknod(Descriptor)),
        (AARCH64, 54, Call::Fchownat),
        (AARCH64, 55, Call::Fchown { narrow: false }),
        (AARCH64, 221, Execute(WorkingDirectory)),
        (AARCH64, 281, Execute(Descriptor)),
        (AARCH64, 79, Fstatat(StatLayout::Generic)),
        (AARCH64, 80, Fstat(StatLayout::Generic)),
        (AARCH64, 291, Statx),
        (AARCH64, 48, Access(Descriptor)),
        (AARCH64, 439, Faccessat2),
        (AARCH64, 143, wide(Setregid)),
        (AARCH64, 144, wide(Setgid)),
        (AARCH64, 145, wide(Setreuid)),
        (AARCH64, 146, wide(Setuid)),
        (AARCH64, 147, wide(Setresuid)),
        (AARCH64, 148, wide(Getresuid)),
        (AARCH64, 149, wide(Setresgid)),
        (AARCH64, 150, wide(Getresgid)),
        (AARCH64, 151, wide(Setfsuid)),
        (AARCH64, 152, wide(Setfsgid)),
        (AARCH64, 158, wide(Getgroups)),
        (AARCH64, 159, wide(Setgroups)),
        (AARCH64, 174, wide(Getuid)),
        (AARCH64, 175, wide(Geteuid)),
        (AARCH64, 176, wide(Getgid)),
        (AARCH64, 177, wide(Getegid)),
        (AARCH64, 90, wide(Capget)),
        (AARCH64, 91, wide(Capset)),
        (AARCH64, 167, Call::Prctl),
        (AARCH64, 164, Call::Setrlimit),
        (AARCH64, 261, Call::Prlimit),
        (AARCH64, 40, Privileged(Mount)),
        (AARCH64, 39, Privileged(Umount2)),
        (AARCH64, 41, Privileged(PivotRoot)),
        (AARCH64, 51, Privileged(Chroot)),
        (AARCH64, 161, Privileged(Sethostname)),
        (AARCH64, 162, Privileged(Setdomainname)),
        (AARCH64, 97, Privileged(Unshare)),
        (AARCH64, 429, Privileged(MoveMount)),
        (AARCH64, 430, Privileged(Fsopen)),
        (AARCH64, 432, Privileged(Fsmount)),
        (AARCH64, 433, Privileged(Fspick)),
        (AARCH64, 442, Privileged(MountSetattr)),
        (AARCH64, 425, Call::Missing), // io_uring_setup
    ]
};

impl Arch {
    /// Returns the architecture whose rows in [`CALLS`] are those of this one.
    pub(super) fn numbered_as(self) -> Self {
        // Both have the numbers of asm-generic/unistd.h.
        if self == RISCV64 { AARCH64 } else { self }
    }
}

impl Call {
    /// Finds the call for the architecture and number in a notification.
    pub(super) fn find(arch: u32, number: i32) -> Option<Self> {
        let mut number = number as u32;
        if arch == X86_64.0 {
            number &= !X32_BIT;
        }
        let arch = Arch(arch).numbered_as();
        CALLS.iter().find(|(of, n, _)| *of == arch && *n == number).map(|(_, _, call)| *call)
    }

    /// Returns the index of the first argument after the path or the descriptor.
    pub(super) fn first_after_path(self) -> usize {
        match self {
            Call::Mknod(PathStart::Descriptor)
            | Call::Execute(PathStart::Descriptor)
            | Call::Access(PathStart::Descriptor)
            | Call::Faccessat2
            | Call::Fchownat
            | Call::Fstatat(_)
            | Call::Statx => 2,
            _ => 1,
        }
    }

    /// Whether this call is one of the `stat` family.
    pub(super) fn reads_attributes(self) -> bool {
        matches!(self, Call::Stat { .. } | Call::Fstat(_) | Call::Fstatat(_) | Call::Statx)
    }

    /// Whether the ids of this call have 16 bits.
    pub(super) fn narrow(self) -> bool {
        matches!(
            self,
            Call::Chown { narrow: true, .. }
                | Call::Fchown { narrow: true }
                | Call::Identity { narrow: true, .. }
        )
    }
}

/// Returns whether a process that makes this call has pointers of 64 bits.
pub(super) fn has_wide_pointers(arch: u32, number: i32) -> bool {
    match Arch(arch) {
        X86_64 => number as u32 & X32_BIT == 0,
        arch => arch == AARCH64 || arch == RISCV64,
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Returns the numbers in a header of the kernel (package linux-libc-dev).
    fn numbers(header: &str) -> HashMap<String, u32> {
        let text = std::fs::read_to_string(header).unwrap();
        let number = |line: &str| {
            let mut words = line.strip_prefix("#define ")?.split_whitespace();
            let name = words.next()?;
            // Calls with variants of 32 and 64 bits have the second prefix.
            let name = name.strip_prefix("__NR_").or(name.strip_prefix("__NR3264_"))?;
            Some((name.to_owned(), words.next()?.trim_matches(['(', ')']).parse().ok()?))
        };
        text.lines().filter_map(number).collect()
    }

    /// Returns the name of a call; `of` is its architecture.
    fn name(of: Arch, number: u32, call: Call) -> String {
        let at = |from, plain: &str| match from {
            PathStart::WorkingDirectory => plain.to_owned(),
            PathStart::Descriptor => format!("{plain}at"),
        };
        // On i386 the calls with ids of 32 bits came later.
        let of_i386 = |name: &str, narrow: bool| match of == I386 && !narrow {
            true => format!("{name}32"),
            false => name.to_owned(),
        };
        let suffix = |layout| if layout == StatLayout::I386Wide { "64" } else { "" };
        match call {
            Call::Mknod(from) => at(from, "mknod"),
            Call::Execute(from) => at(from, "execve"),
            Call::Access(PathStart::WorkingDirectory) => "access".to_owned(),
            Call::Access(PathStart::Descriptor) => "faccessat".to_owned(),
            Call::Faccessat2 => "faccessat2".to_owned(),
            Call::Chown { follow: true, narrow } => of_i386("chown", narrow),
            Call::Chown { follow: false, narrow } => of_i386("lchown", narrow),
            Call::Fchown { narrow } => of_i386("fchown", narrow),
            Call::Fchownat => "fchownat".to_owned(),
            Call::Stat { follow: true, layout } => format!("stat{}", suffix(layout)),
            Call::Stat { follow: false, layout } => format!("lstat{}", suffix(layout)),
            Call::Fstat(layout) => format!("fstat{}", suffix(layout)),
            Call::Fstatat(StatLayout::X86_64) => "newfstatat".to_owned(),
            Call::Fstatat(layout) => format!("fstatat{}", suffix(layout)),
            Call::Statx => "statx".to_owned(),
            Call::Identity { call, narrow } => {
                let name = format!("{call:?}").to_lowercase();
                let has_variants = !matches!(call, IdentityCall::Capget | IdentityCall::Capset);
                of_i386(&name, narrow || !has_variants)
            }
            Call::Privileged(call) => {
                let mut name = String::new();
                for letter in format!("{call:?}").chars() {
                    if letter.is_uppercase() && !name.is_empty() {
                        name.push('_');
                    }
                    name.push(letter.to_ascii_lowercase());
                }
                name
            }
            Call::Prctl => "prctl".to_owned(),
            Call::Setrlimit => "setrlimit".to_owned(),
            Call::Prlimit => "prlimit64".to_owned(),
            Call::Missing => match number {
                425 => "io_uring_setup".to_owned(),
                18 => "oldstat".to_owned(),
                28 => "oldfstat".to_owned(),
                84 => "oldlstat".to_owned(),
                _ => panic!("{number}"),
            },
        }
    }

    #[test]
    fn numbers_are_those_of_the_kernels_headers() {
        let asm = "/usr/include/x86_64-linux-gnu/asm";
        let headers = [
            (X86_64, format!("{asm}/unistd_64.h")),
            (I386, format!("{asm}/unistd_32.h")),
            (AARCH64, "/usr/include/asm-generic/unistd.h".to_owned()),
        ];
        for (arch, header) in headers {
            let numbers = numbers(&header);
            for (_, number, call) in CALLS.into_iter().filter(|(of, ..)| *of == arch) {
                // Those of x32 are in a header of their own, with a bit.
                if !matches!((arch, number), (X86_64, 520 | 545)) {
                    let name = name(arch, number, call);
                    assert_eq!(numbers.get(&name), Some(&number), "{name} of {header}");
                }
            }
        }
        // A call of these families that the table lacks would show the ids of the kernel.
        let is_family = |name: &str| {
            let name = name.strip_suffix("32").unwrap_or(name);
            let is_id = name.ends_with("uid") || name.ends_with("gid") || name.ends_with("groups");
            let is_change = name.starts_with("get") || name.starts_with("set");
            is_id && is_change && !matches!(name, "getpgid" | "setpgid" | "getsid" | "setsid")
                || name.contains("chown")
                || name.starts_with("mknod")
                || name.contains("stat") && !name.contains("statfs") && !name.contains("ustat")
                || name.contains("access")
                || name.starts_with("capset")
                || name.starts_with("capget")
                || name.starts_with("execve")
        };
        for (arch, header) in [(X86_64, "unistd_64.h"), (I386, "unistd_32.h")] {
            for (name, number) in numbers(&format!("{asm}/{header}")) {
                let is_known = CALLS.iter().any(|(of, n, _)| *of == arch && *n == number);
                assert!(!is_family(&name) || is_known, "{name} of {header}");
            }
        }
    }
}
