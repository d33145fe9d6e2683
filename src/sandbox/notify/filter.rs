//! The seccomp filter: the calls that the kernel passes to the daemon.
//!
//! Invariants:
//! - `execve` is passed at every privilege, so that services do not start ([`super::services`]);
//! - with subordinate ids only those of the other calls are passed that fail in a user namespace:
//!   `mknod` of a device (except the character device 0:0, which the kernel allows), and `chown` to
//!   an id beyond the map. All others, including `mknod` of a fifo and `chown` to a mapped id, run
//!   at full speed;
//! - with a single id all calls that read or change owners and credentials, or that need a
//!   capability, are passed, and calls that would bypass them do not exist;
//! - the filter is built, and notifications are read, from one table ([`super::calls`]), so the two
//!   cannot disagree.
//!
//! The filter checks the low 32 bits of the mode and the ids, as the kernel does.

use libc::sock_filter;

use super::calls::{AARCH64, ARM, Arch, CALLS, Call, I386, RISCV64, X32_BIT, X86_64};

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

const DOES_NOT_EXIST: sock_filter =
    op(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32 & libc::SECCOMP_RET_DATA);

/// The calls that are passed to the daemon.
#[derive(Debug, Clone, Copy)]
pub(super) enum PassedCalls {
    /// Executions: for root without a user namespace.
    Executions,
    /// Also devices, and ids beyond these: for a user namespace with subordinate ids.
    BeyondMap { uid: u32, gid: u32 },
    /// All: for a user namespace with a single id.
    All,
}

/// Builds the filter.
pub(super) fn build(passed: PassedCalls) -> Vec<sock_filter> {
    let mut program = vec![op(LOAD, ARCH)];
    for arch in [X86_64, I386, AARCH64, ARM, RISCV64] {
        let block = arch_block(arch, passed);
        // The block may be longer than a conditional branch can skip.
        program.push(branch(IF_EQUAL, arch.0, 1, 0));
        program.push(op(JUMP, block.len() as u32));
        program.extend(block);
    }
    program.push(ALLOW);
    program
}

fn arch_block(arch: Arch, passed: PassedCalls) -> Vec<sock_filter> {
    if arch == ARM && matches!(passed, PassedCalls::All) {
        // The daemon does not know the layout of its structures.
        return vec![DOES_NOT_EXIST];
    }
    let number_mask = if arch == X86_64 { !X32_BIT } else { u32::MAX };
    let mut block = vec![op(LOAD, NUMBER), op(AND, number_mask)];
    for (_, number, call) in CALLS.iter().filter(|(of, _, _)| *of == arch.numbered_as()) {
        let check = match (call, passed) {
            (Call::Execute(_), _) => vec![ASK],
            (Call::Mknod(_), PassedCalls::BeyondMap { .. } | PassedCalls::All) => {
                check_device(*call)
            }
            (
                Call::Chown { .. } | Call::Fchown { .. } | Call::Fchownat,
                PassedCalls::BeyondMap { uid, gid },
            ) => check_ids(*call, uid, gid),
            (_, PassedCalls::All) => check_all(*call),
            _ => continue,
        };
        block.push(branch(IF_EQUAL, *number, 0, check.len() as u8));
        block.extend(check);
    }
    block.push(ALLOW);
    block
}

/// Returns the instructions for one call when all are passed; every path through them returns.
fn check_all(call: Call) -> Vec<sock_filter> {
    let only_if =
        |index, value| vec![op(LOAD, argument(index)), branch(IF_EQUAL, value, 0, 1), ASK, ALLOW];
    match call {
        Call::Missing => vec![DOES_NOT_EXIST],
        Call::Setrlimit => only_if(0, libc::RLIMIT_LOCKS),
        Call::Prlimit => only_if(1, libc::RLIMIT_LOCKS),
        Call::Prctl => vec![
            op(LOAD, argument(0)),
            branch(IF_EQUAL, libc::PR_SET_KEEPCAPS as u32, 1, 0),
            branch(IF_EQUAL, libc::PR_GET_KEEPCAPS as u32, 0, 1),
            ASK,
            ALLOW,
        ],
        _ => vec![ASK],
    }
}

/// Returns the instructions that pass `mknod` of a device; every path through them returns.
fn check_device(call: Call) -> Vec<sock_filter> {
    let first = call.first_after_path();
    vec![
        op(LOAD, argument(first)),
        op(AND, libc::S_IFMT),
        branch(IF_EQUAL, libc::S_IFBLK, 3, 0),
        branch(IF_EQUAL, libc::S_IFCHR, 0, 3),
        op(LOAD, argument(first + 1)),
        branch(IF_EQUAL, 0, 1, 0),
        ASK,
        ALLOW,
    ]
}

/// Returns the instructions that pass a change of owner to an id beyond these; every path through
/// them returns.
fn check_ids(call: Call, max_uid: u32, max_gid: u32) -> Vec<sock_filter> {
    let first = call.first_after_path();
    let mask = if call.narrow() { 0xffff } else { u32::MAX };
    vec![
        op(LOAD, argument(first)),
        op(AND, mask),
        branch(IF_EQUAL, mask, 1, 0), // -1: keep the owner
        branch(IF_GREATER, max_uid, 5, 0),
        op(LOAD, argument(first + 1)),
        op(AND, mask),
        branch(IF_EQUAL, mask, 1, 0),
        branch(IF_GREATER, max_gid, 1, 0),
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

    fn ids(uid: u32, gid: u32) -> PassedCalls {
        PassedCalls::BeyondMap { uid, gid }
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
        let as_root = build(PassedCalls::Executions);
        let all = build(PassedCalls::All);
        let beyond = [100_000; 6];
        for arch in [X86_64, I386, AARCH64, ARM, RISCV64, Arch(0x1234)] {
            for number in 0..1024 {
                let call = Call::find(arch.0, number as i32);
                let asked = asks(&program, arch, number, beyond);
                assert!(call.is_some() || !asked, "{arch:?} {number}");
                assert!(call.is_some() || arch == ARM || !asks(&all, arch, number, beyond));
                let execute = matches!(call, Some(Call::Execute(_)));
                assert_eq!(asks(&as_root, arch, number, beyond), execute, "{arch:?} {number}");
            }
        }
        assert!(all.len() < 4096);
    }

    #[test]
    fn all_execve_variants_are_passed() {
        for program in [build(ids(MAX, MAX)), build(PassedCalls::Executions)] {
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
