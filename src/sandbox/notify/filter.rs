//! The seccomp filter: the calls that the kernel passes to the daemon.
//!
//! Invariants:
//! - `execve` is passed at every privilege, so that services do not start ([`super::services`]);
//! - of the other calls only those that fail in a user namespace are passed: `mknod` of a device
//!   (except the character device 0:0, which the kernel allows), and `chown` to an id beyond the
//!   map. All others, including `mknod` of a fifo and `chown` to a mapped id, run at full speed;
//! - every entry into the kernel is covered: x86_64, its x32 variant and i386; aarch64 and 32-bit
//!   arm; riscv64. Calls of other architectures are allowed: the kernel rejects them itself;
//! - the filter is built, and notifications are read, from the one table [`CALLS`], so the two
//!   cannot disagree.
//!
//! The filter checks the low 32 bits of the mode and the ids, as the kernel does.

use libc::sock_filter;

/// An architecture, as in `AUDIT_ARCH_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arch(u32);

pub(super) const X86_64: Arch = Arch(0xc000_003e);
pub(super) const I386: Arch = Arch(0x4000_0003);
pub(super) const AARCH64: Arch = Arch(0xc000_00b7);
pub(super) const ARM: Arch = Arch(0x4000_0028);
pub(super) const RISCV64: Arch = Arch(0xc000_00f3);

/// The bit that marks a call of the x32 variant. Other than that its numbers are those of x86_64.
const X32_BIT: u32 = 0x4000_0000;

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
}

const fn chown(follow: bool, narrow: bool) -> Call {
    Call::Chown { follow, narrow }
}

/// Every call that is passed to the daemon: architecture, number, call.
const CALLS: [(Arch, u32, Call); 41] = [
    (X86_64, 133, Call::Mknod(PathStart::WorkingDirectory)),
    (X86_64, 259, Call::Mknod(PathStart::Descriptor)),
    (X86_64, 92, chown(true, false)),
    (X86_64, 93, Call::Fchown { narrow: false }),
    (X86_64, 94, chown(false, false)),
    (X86_64, 260, Call::Fchownat),
    (X86_64, 59, Call::Execute(PathStart::WorkingDirectory)),
    (X86_64, 322, Call::Execute(PathStart::Descriptor)),
    // The x32 variant has its own numbers for these two.
    (X86_64, 520, Call::Execute(PathStart::WorkingDirectory)),
    (X86_64, 545, Call::Execute(PathStart::Descriptor)),
    (I386, 14, Call::Mknod(PathStart::WorkingDirectory)),
    (I386, 297, Call::Mknod(PathStart::Descriptor)),
    (I386, 16, chown(false, true)),
    (I386, 95, Call::Fchown { narrow: true }),
    (I386, 182, chown(true, true)),
    (I386, 198, chown(false, false)),
    (I386, 207, Call::Fchown { narrow: false }),
    (I386, 212, chown(true, false)),
    (I386, 298, Call::Fchownat),
    (I386, 11, Call::Execute(PathStart::WorkingDirectory)),
    (I386, 358, Call::Execute(PathStart::Descriptor)),
    (ARM, 14, Call::Mknod(PathStart::WorkingDirectory)),
    (ARM, 324, Call::Mknod(PathStart::Descriptor)),
    (ARM, 16, chown(false, true)),
    (ARM, 95, Call::Fchown { narrow: true }),
    (ARM, 182, chown(true, true)),
    (ARM, 198, chown(false, false)),
    (ARM, 207, Call::Fchown { narrow: false }),
    (ARM, 212, chown(true, false)),
    (ARM, 11, Call::Execute(PathStart::WorkingDirectory)),
    (ARM, 387, Call::Execute(PathStart::Descriptor)),
    (AARCH64, 33, Call::Mknod(PathStart::Descriptor)),
    (AARCH64, 54, Call::Fchownat),
    (AARCH64, 55, Call::Fchown { narrow: false }),
    (AARCH64, 221, Call::Execute(PathStart::WorkingDirectory)),
    (AARCH64, 281, Call::Execute(PathStart::Descriptor)),
    (RISCV64, 33, Call::Mknod(PathStart::Descriptor)),
    (RISCV64, 54, Call::Fchownat),
    (RISCV64, 55, Call::Fchown { narrow: false }),
    (RISCV64, 221, Call::Execute(PathStart::WorkingDirectory)),
    (RISCV64, 281, Call::Execute(PathStart::Descriptor)),
];

impl Call {
    /// Finds the call for the architecture and number in a notification.
    pub(super) fn find(arch: u32, number: i32) -> Option<Self> {
        let mut number = number as u32;
        if arch == X86_64.0 {
            number &= !X32_BIT;
        }
        CALLS.iter().find(|(of, n, _)| of.0 == arch && *n == number).map(|(_, _, call)| *call)
    }

    /// Returns the index of the first argument after the path or the descriptor.
    pub(super) fn first_after_path(self) -> usize {
        match self {
            Call::Mknod(PathStart::WorkingDirectory)
            | Call::Execute(PathStart::WorkingDirectory)
            | Call::Chown { .. }
            | Call::Fchown { .. } => 1,
            Call::Mknod(PathStart::Descriptor)
            | Call::Execute(PathStart::Descriptor)
            | Call::Fchownat => 2,
        }
    }

    fn narrow(self) -> bool {
        matches!(self, Call::Chown { narrow: true, .. } | Call::Fchown { narrow: true })
    }
}

/// Returns whether a process that makes this call has pointers of 64 bits.
pub(super) fn has_wide_pointers(arch: u32, number: i32) -> bool {
    match Arch(arch) {
        X86_64 => number as u32 & X32_BIT == 0,
        arch => arch == AARCH64 || arch == RISCV64,
    }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn argument(index: usize) -> u32 {
    let low = if cfg!(target_endian = "big") { 4 } else { 0 };
    16 + 8 * index as u32 + low
}

const fn op(code: u32, k: u32) -> sock_filter {
    branch(code, k, 0, 0)
}

/// Makes an instruction that skips the next `yes` or `no` instructions.
const fn branch(code: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: yes, jf: no, k }
}

const ALLOW: sock_filter = op(RETURN, libc::SECCOMP_RET_ALLOW);
const ASK: sock_filter = op(RETURN, libc::SECCOMP_RET_USER_NOTIF);

/// The largest user and group id of a user namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct MaxIds {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Builds the filter for a user namespace with these largest ids, or for root without one.
pub(super) fn build(namespace: Option<MaxIds>) -> Vec<sock_filter> {
    let mut program = vec![op(LOAD, ARCH)];
    for arch in [X86_64, I386, AARCH64, ARM, RISCV64] {
        let block = arch_block(arch, namespace);
        // The block may be longer than a conditional branch can skip.
        program.push(branch(IF_EQUAL, arch.0, 1, 0));
        program.push(op(JUMP, block.len() as u32));
        program.extend(block);
    }
    program.push(ALLOW);
    program
}

fn arch_block(arch: Arch, namespace: Option<MaxIds>) -> Vec<sock_filter> {
    let number_mask = if arch == X86_64 { !X32_BIT } else { u32::MAX };
    let mut block = vec![op(LOAD, NUMBER), op(AND, number_mask)];
    for (_, number, call) in CALLS.iter().filter(|(of, _, _)| *of == arch) {
        let check = match (call, namespace) {
            (Call::Execute(_), _) => vec![ASK],
            (_, Some(max)) => check(*call, max),
            (_, None) => continue,
        };
        block.push(branch(IF_EQUAL, *number, 0, check.len() as u8));
        block.extend(check);
    }
    block.push(ALLOW);
    block
}

/// Returns the instructions that check one call; every path through them returns.
fn check(call: Call, max: MaxIds) -> Vec<sock_filter> {
    let first = call.first_after_path();
    if let Call::Mknod(_) = call {
        return vec![
            op(LOAD, argument(first)),
            op(AND, libc::S_IFMT),
            branch(IF_EQUAL, libc::S_IFBLK, 3, 0),
            branch(IF_EQUAL, libc::S_IFCHR, 0, 3),
            op(LOAD, argument(first + 1)),
            branch(IF_EQUAL, 0, 1, 0),
            ASK,
            ALLOW,
        ];
    }
    let mask = if call.narrow() { 0xffff } else { u32::MAX };
    vec![
        op(LOAD, argument(first)),
        op(AND, mask),
        branch(IF_EQUAL, mask, 1, 0), // -1: keep the owner
        branch(IF_GREATER, max.uid, 5, 0),
        op(LOAD, argument(first + 1)),
        op(AND, mask),
        branch(IF_EQUAL, mask, 1, 0),
        branch(IF_GREATER, max.gid, 1, 0),
        ALLOW,
        ASK,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does; returns whether it passes the call to the daemon.
    fn asks(program: &[sock_filter], arch: Arch, number: u32, args: [u64; 6]) -> bool {
        let mut data = Vec::new();
        data.extend_from_slice(&number.to_ne_bytes());
        data.extend_from_slice(&arch.0.to_ne_bytes());
        data.extend_from_slice(&0_u64.to_ne_bytes());
        args.iter().for_each(|arg| data.extend_from_slice(&arg.to_ne_bytes()));
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let ins = program[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { ins.jt } else { ins.jf });
            match u32::from(ins.code) {
                LOAD => {
                    a = u32::from_ne_bytes(*data[ins.k as usize..].first_chunk().unwrap());
                }
                AND => a &= ins.k,
                JUMP => at += ins.k as usize,
                IF_EQUAL => at += branch(a == ins.k),
                IF_GREATER => at += branch(a > ins.k),
                RETURN => return ins.k == libc::SECCOMP_RET_USER_NOTIF,
                code => panic!("unknown instruction {code}"),
            }
        }
    }

    fn ids(uid: u32, gid: u32) -> Option<MaxIds> {
        Some(MaxIds { uid, gid })
    }

    const MAX: u32 = 65536;
    const NONE: u64 = 0xffff_ffff;

    #[test]
    fn only_mknod_of_devices_is_passed() {
        let program = build(ids(MAX, MAX));
        for (arch, number, first) in [
            (X86_64, 133, 1),
            (X86_64, 259, 2),
            (X86_64, 133 | X32_BIT, 1),
            (I386, 14, 1),
            (I386, 297, 2),
            (ARM, 324, 2),
            (AARCH64, 33, 2),
        ] {
            let case = |mode: u32, dev: u64| {
                let mut args = [7; 6];
                // The kernel ignores these bits.
                args[first] = u64::from(mode) | 0xdead_0000_0000;
                args[first + 1] = dev | 0xdead_0000_0000;
                asks(&program, arch, number, args)
            };
            assert!(case(libc::S_IFCHR | 0o666, 0x103), "{arch:?} {number}");
            assert!(case(libc::S_IFBLK | 0o660, 0x800));
            assert!(case(libc::S_IFBLK, 0));
            assert!(!case(libc::S_IFCHR, 0));
            for other in [libc::S_IFIFO, libc::S_IFREG, libc::S_IFSOCK, 0] {
                assert!(!case(other | 0o644, 0x103));
            }
        }
    }

    #[test]
    fn only_chown_beyond_the_map_is_passed() {
        let program = build(ids(MAX, MAX + 5));
        for (arch, number, first) in [
            (X86_64, 92, 1),
            (X86_64, 93, 1),
            (X86_64, 94 | X32_BIT, 1),
            (X86_64, 260, 2),
            (I386, 212, 1),
            (I386, 298, 2),
            (AARCH64, 54, 2),
        ] {
            let case = |uid: u64, gid: u64| {
                let mut args = [7; 6];
                (args[first], args[first + 1]) = (uid, gid);
                asks(&program, arch, number, args)
            };
            assert!(case(65537, 0), "{arch:?} {number}");
            assert!(case(NONE, 65542));
            assert!(case(0, 100_000));
            assert!(!case(NONE, NONE));
            assert!(!case(u64::MAX, u64::MAX));
            assert!(!case(65536, 65541));
            assert!(!case(0, 0));
        }
    }

    #[test]
    fn narrow_ids_have_sixteen_bits() {
        let program = build(ids(1000, 1000));
        let case = |uid, gid| asks(&program, I386, 182, [0, uid, gid, 0, 0, 0]);
        assert!(case(1001, 0));
        assert!(!case(0xffff, 0xffff));
        assert!(!case(0x1_0005, 5));
        assert!(!asks(&build(ids(MAX, MAX)), I386, 16, [0, 65534, 65534, 0, 0, 0]));
    }

    #[test]
    fn all_other_calls_are_allowed() {
        let program = build(ids(MAX, MAX));
        let as_root = build(None);
        let beyond = [100_000; 6];
        for arch in [X86_64, I386, AARCH64, ARM, RISCV64, Arch(0x1234)] {
            for number in 0..1024 {
                let call = Call::find(arch.0, number as i32);
                let asked = asks(&program, arch, number, beyond);
                assert!(call.is_some() || !asked, "{arch:?} {number}");
                let execute = matches!(call, Some(Call::Execute(_)));
                assert_eq!(asks(&as_root, arch, number, beyond), execute, "{arch:?} {number}");
            }
        }
        assert!(program.len() < 4096);
    }

    #[test]
    fn all_execve_variants_are_passed() {
        for program in [build(ids(MAX, MAX)), build(None)] {
            for (arch, numbers) in [
                (X86_64, &[59, 322, 520 | X32_BIT, 545 | X32_BIT][..]),
                (I386, &[11, 358]),
                (ARM, &[11, 387]),
                (AARCH64, &[221, 281]),
                (RISCV64, &[221, 281]),
            ] {
                for number in numbers {
                    assert!(asks(&program, arch, *number, [0; 6]), "{arch:?} {number}");
                }
            }
        }
    }
}
