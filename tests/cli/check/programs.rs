//! Programs, libraries and a kernel module, built by the host's compiler and linker.

use std::sync::OnceLock;

use crate::support::tools::sh;

#[derive(Debug)]
pub(super) struct Programs {
    /// An ELF file for the path of the loader.
    pub(super) loader: Vec<u8>,
    /// `libdemo.so.1`, with the version DEMO_1.
    pub(super) library: Vec<u8>,
    /// The same with DEMO_2 too.
    pub(super) newer_library: Vec<u8>,
    /// Needs DEMO_1 of `libdemo.so.1`.
    pub(super) program: Vec<u8>,
    /// Needs DEMO_2 of it.
    pub(super) newer_program: Vec<u8>,
    /// Needs `libother.so.1`.
    pub(super) other_program: Vec<u8>,
    pub(super) other_library: Vec<u8>,
    /// Names another loader.
    pub(super) foreign_program: Vec<u8>,
    /// Needs `libprivate.so.1`, with the search path `$ORIGIN/../lib/private`.
    pub(super) private_program: Vec<u8>,
    /// `libchain.so.1`, which needs `libdemo.so.1`.
    pub(super) chain_library: Vec<u8>,
    /// Needs `libchain.so.1`.
    pub(super) chain_program: Vec<u8>,
    /// Needs `libother.so.1`, with the search path `$ORIGIN/../lib`, which also applies to the
    /// libraries that it loads (`DT_RPATH`).
    pub(super) vendor_program: Vec<u8>,
    /// `libmore.so.1`, which needs `libother.so.1`.
    pub(super) more_library: Vec<u8>,
    /// The same with a loader.
    pub(super) more_library_that_runs: Vec<u8>,
    /// Needs `libmore.so.1`.
    pub(super) more_program: Vec<u8>,
    /// The same with the `DT_RPATH` of the vendor's program.
    pub(super) vendor_more_program: Vec<u8>,
    /// From OpenJDK: all but libjvm.so have the `DT_RPATH` `$ORIGIN`.
    pub(super) java: Vec<u8>,
    pub(super) libjli: Vec<u8>,
    /// Needs libjvm.so.
    pub(super) libjava: Vec<u8>,
    /// Needs libjvm.so and libjava.so.
    pub(super) libnet: Vec<u8>,
    pub(super) libjvm: Vec<u8>,
    pub(super) libjsig: Vec<u8>,
    /// A module for the kernel 6.1.0-1.
    pub(super) module: Vec<u8>,
}

/// Builds each program once.
pub(super) fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"
            cat >lib.c <<'END'
            int demo(void) { return 1; }
            int demo2(void) { return 2; }
END
            echo 'DEMO_1 { global: demo; local: *; };' >1.map
            echo 'DEMO_1 { global: demo; local: *; }; DEMO_2 { global: demo2; } DEMO_1;' >2.map
            echo 'extern int demo(void); void _start(void) { demo(); }' >1.c
            echo 'extern int demo2(void); void _start(void) { demo2(); }' >2.c
            echo 'extern int demo(void); int chain(void) { return demo(); }' >chain.c
            echo 'extern int chain(void); void _start(void) { chain(); }' >3.c
            cat >module.c <<'END'
            __attribute__((section(".modinfo"), used))
            static const char magic[] = "license=GPL\0vermagic=6.1.0-1 SMP mod_unload ";
END
            library() { cc -shared -nostdlib -o "$1" -Wl,-soname,"$2" lib.c $3; }
            program() { cc -nostdlib -fPIE -pie -o "$1" "$2" "$3" -Wl,-dynamic-linker,"$4" $5; }
            library loader ld-demo.so.2 ''
            library library libdemo.so.1 -Wl,--version-script=1.map
            library newer_library libdemo.so.1 -Wl,--version-script=2.map
            library other_library libother.so.1 ''
            library private_library libprivate.so.1 ''
            ld=/lib64/ld-demo.so.2
            program program 1.c library $ld ''
            program newer_program 2.c newer_library $ld ''
            program other_program 1.c other_library $ld ''
            program foreign_program 1.c library /lib/ld-foreign.so.1 ''
            program private_program 1.c private_library $ld \
                '-Wl,-rpath,$ORIGIN/../lib/private -Wl,--enable-new-dtags'
            cc -shared -nostdlib -o chain_library -Wl,-soname,libchain.so.1 chain.c library
            program chain_program 3.c chain_library $ld -Wl,--unresolved-symbols=ignore-in-shared-libs
            rpath() { echo "-Wl,-rpath,$1 -Wl,--disable-new-dtags -Wl,--allow-shlib-undefined"; }
            of() { out=$1 name=$2; shift 2; cc -shared -nostdlib -o $out -Wl,-soname,$name "$@"; }
            program vendor_program 1.c other_library $ld "$(rpath '$ORIGIN/../lib')"
            of more_library libmore.so.1 chain.c other_library
            echo 'const char ld[] __attribute__((section(".interp"))) = "/lib64/ld-demo.so.2";' >ld.c
            of more_library_that_runs libmore.so.1 chain.c ld.c other_library
            program more_program 3.c more_library $ld -Wl,--unresolved-symbols=ignore-in-shared-libs
            program vendor_more_program 3.c more_library $ld "$(rpath '$ORIGIN/../lib')"
            of libjvm libjvm.so lib.c
            of libjsig libjsig.so lib.c $(rpath '$ORIGIN')
            of libjli libjli.so lib.c $(rpath '$ORIGIN')
            of libjava libjava.so chain.c libjvm $(rpath '$ORIGIN')
            of libnet libnet.so 3.c libjvm libjava $(rpath '$ORIGIN')
            program java 1.c libjli $ld "$(rpath '$ORIGIN/../lib')"
            cc -c -o module module.c
        "#;
        sh(dir.path(), script);
        let made = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        Programs {
            loader: made("loader"),
            library: made("library"),
            newer_library: made("newer_library"),
            program: made("program"),
            newer_program: made("newer_program"),
            other_program: made("other_program"),
            other_library: made("other_library"),
            foreign_program: made("foreign_program"),
            private_program: made("private_program"),
            chain_library: made("chain_library"),
            chain_program: made("chain_program"),
            vendor_program: made("vendor_program"),
            more_library: made("more_library"),
            more_library_that_runs: made("more_library_that_runs"),
            more_program: made("more_program"),
            vendor_more_program: made("vendor_more_program"),
            java: made("java"),
            libjli: made("libjli"),
            libjava: made("libjava"),
            libnet: made("libnet"),
            libjvm: made("libjvm"),
            libjsig: made("libjsig"),
            module: made("module"),
        }
    })
}

/// Changes the machine in the header of a program.
pub(super) fn for_another_machine(program: &[u8]) -> Vec<u8> {
    const EM_S390: [u8; 2] = [22, 0];
    let mut program = program.to_vec();
    program[18..20].copy_from_slice(&EM_S390);
    program
}
