//! The functions of the boot script, by busybox's shell.

use std::path::Path;

use crate::support::tools::sh;

const SCRIPT: &str = "provisioners/library/initrd/files/etc/initramfs-tools/scripts/overcoat";

/// What a script prints that has read the boot script; `line` is the kernel command line.
fn says(line: &str, text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("line"), line).unwrap();
    std::fs::write(
        folder.path().join("text"),
        format!(". $1\noc_cmdline=line\noc_dir=$PWD\n{text}"),
    )
    .unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(SCRIPT);
    let output = sh(folder.path(), &format!("busybox sh text {}", path.display()));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn parameters_are_read_as_they_stand() {
    let line = "quiet BASEFS=http://x/a?b=c&d=* XBASEFS=no OVERLAYFS= BASEFS_SHA256=1 init=/x\n";
    let text = "oc_parameter BASEFS; oc_parameter OVERLAYFS; oc_parameter NONE; oc_parameter quiet";
    assert_eq!(says(line, text), "http://x/a?b=c&d=*\n\n\n\n");
    assert_eq!(says("A=1 A=2\n", "oc_parameter A"), "2\n");
    let text =
        "for l in '' a a,b ,b a,,c; do oc_parts $l; done; oc_part a 1; oc_part a 2; oc_part ,b 2";
    assert_eq!(says("", text), "0\n1\n2\n2\n3\na\n\nb\n");
}

#[test]
fn bootif_is_an_address_in_either_form() {
    let text = "for a in 01-52-54-00-AB-cd-ef 52:54:00:AB:cd:ef 52-54-00-ab-cd-ef 01:52:54:00:ab:cd:ef; \
                do oc_address $a; done; oc_address ''";
    assert_eq!(says("", text), "52:54:00:ab:cd:ef\n".repeat(4) + "\n");
}

#[test]
fn waiting_doubles_to_half_a_minute() {
    let text = "for n in 1 2 3 4 5 6 7 99; do oc_backoff $n; done | tr '\\n' ' '";
    assert_eq!(says("", text), "1 2 4 8 16 30 30 30 ");
}

#[test]
fn a_failure_ends_as_it_should() {
    let wanted = [
        ("", "", "shell"),
        ("", "panic=30", "reboot:30"),
        ("", "panic=-1", "reboot:10"),
        ("OVERCOAT_ON_FAILURE=shell", "panic=30", "shell"),
        ("OVERCOAT_ON_FAILURE=reboot", "", "reboot:10"),
        ("OVERCOAT_ON_FAILURE=reboot:90", "", "reboot:90"),
        ("OVERCOAT_ON_FAILURE=reboot:x", "", "reboot:10"),
        ("OVERCOAT_ON_FAILURE=poweroff", "", "poweroff"),
        ("OVERCOAT_ON_FAILURE=halt", "", "halt"),
        ("OVERCOAT_ON_FAILURE=nonsense", "", "shell"),
    ];
    for (line, panic, action) in wanted {
        assert_eq!(says(line, &format!("{panic}\noc_action")).trim(), action, "{line} {panic}");
    }
}

#[test]
fn room_is_what_the_tmpfs_and_the_memory_have() {
    let text = "df() { echo; echo tmpfs 9 9 $left 9 /; }
        oc_meminfo=meminfo; oc_reserve=1048576
        for pair in 2048:8192 8192:2048 500:500; do
          left=${pair%:*}; echo MemAvailable: ${pair#*:} kB >meminfo; oc_free; done";
    assert_eq!(says("", text), "1048576\n1048576\n0\n");
}

#[test]
fn the_length_is_that_of_the_last_good_answer() {
    let answer =
        |text: &str| says("", &format!("printf '{text}' >said; oc_length said; oc_status said"));
    assert_eq!(answer("  HTTP/1.1 200 OK\\r\\n  Content-Length: 12\\r\\n"), "12\n200\n");
    let moved = "HTTP/1.1 302 Found\\r\\nContent-Length: 9\\r\\n\\r\\nHTTP/2 206\\r\\ncontent-length: 7\\r\\n";
    assert_eq!(answer(moved), "7\n206\n");
    assert_eq!(answer("HTTP/1.1 404 No\\r\\nContent-Length: 9\\r\\n"), "404\n");
    assert_eq!(answer("HTTP/1.1 200 OK\\r\\nContent-Length: x\\r\\n"), "200\n");
}
