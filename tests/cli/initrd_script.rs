//! The functions of the initrd's boot script, in the shell of busybox.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;

use crate::support::tools::sh;

const SCRIPT: &str = "provisioners/library/initrd/files/etc/initramfs-tools/scripts/overcoat";

/// Sources the boot script and runs `text`, with the kernel command line `line`; returns the
/// output.
fn run(line: &str, text: &str) -> String {
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
fn parameters_are_read_literally() {
    let line = "quiet BASEFS=http://x/a?b=c&d=* XBASEFS=no OVERLAYFS= BASEFS_SHA256=1 init=/x\n";
    let text = "oc_parameter BASEFS; oc_parameter OVERLAYFS; oc_parameter NONE; oc_parameter quiet";
    assert_eq!(run(line, text), "http://x/a?b=c&d=*\n\n\n\n");
    assert_eq!(run("A=1 A=2\n", "oc_parameter A"), "2\n");
    let text =
        "for l in '' a a,b ,b a,,c; do oc_parts $l; done; oc_part a 1; oc_part a 2; oc_part ,b 2";
    assert_eq!(run("", text), "0\n1\n2\n2\n3\na\n\nb\n");
}

#[test]
fn paths_are_files_on_the_server_of_api_cb() {
    let url = "http://other:1/d?e=f*";
    for (server, value, wanted) in [
        ("API_CB=10.1.1.1:9080", "common/base.img", "http://10.1.1.1:9080/common/base.img"),
        ("API_CB=host", "/base.img", "http://host/base.img"),
        ("API_CB=host", "a,,/b", "http://host/a,,http://host/b"),
        ("API_CB=host", url, url),
        ("API_CB=host", &format!("{url},x"), &format!("{url},http://host/x")),
        ("API_CB=host", "ftp://x/y", "ftp://x/y"),
        ("API_CB=host", "", ""),
        ("API_CB=", "/base.img", "/base.img"),
        ("quiet", "base.img", "base.img"),
    ] {
        let text = "oc_urls \"$(oc_parameter BASEFS)\"";
        assert_eq!(run(&format!("BASEFS={value} {server}\n"), text), format!("{wanted}\n"));
    }
    let fail = "oc_fail() { echo \"$*\"; exit; }; oc_fetch /base.img file";
    assert_eq!(
        run("quiet\n", fail),
        "fetch /base.img: not an http or https URL: a path needs API_CB=HOST:PORT on the kernel \
         command line\n"
    );
    // The script of a machine reads both parameters so.
    let text = "mount() { :; }; mkdir() { :; }; oc_network() { :; }; oc_verify() { :; }
        oc_mount_base() { :; }; oc_unpack() { :; }; oc_console=/dev/null; oc_default_size() { :; }
        oc_modules() { exit; }; oc_fetch() { echo $1; }; mountroot";
    assert_eq!(
        run("API_CB=h:1 OVERLAYFS=/o,p BASEFS=/b\n", text),
        "http://h:1/b\nhttp://h:1/o\nhttp://h:1/p\n"
    );
}

#[test]
fn bootif_accepts_both_address_forms() {
    let text = "for a in 01-52-54-00-AB-cd-ef 52:54:00:AB:cd:ef 52-54-00-ab-cd-ef 01:52:54:00:ab:cd:ef; \
                do oc_address $a; done; oc_address ''";
    assert_eq!(run("", text), "52:54:00:ab:cd:ef\n".repeat(4) + "\n");
}

#[test]
fn retry_delay_doubles_up_to_30_seconds() {
    let text = "for n in 1 2 3 4 5 6 7 99; do oc_backoff $n; done | tr '\\n' ' '";
    assert_eq!(run("", text), "1 2 4 8 16 30 30 30 ");
}

#[test]
fn failure_action_follows_the_parameters() {
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
        assert_eq!(run(line, &format!("{panic}\noc_action")).trim(), action, "{line} {panic}");
    }
}

#[test]
fn free_space_is_limited_by_tmpfs_and_memory() {
    let text = "df() { echo; echo tmpfs 9 9 $left 9 /; }
        oc_meminfo=meminfo; oc_reserve=1048576
        for pair in 2048:8192 8192:2048 500:500; do
          left=${pair%:*}; echo MemAvailable: ${pair#*:} kB >meminfo; oc_free; done";
    assert_eq!(run("", text), "1048576\n1048576\n0\n");
}

#[test]
fn default_size_of_the_tmpfs_leaves_memory_for_inodes() {
    let text = "oc_meminfo=meminfo
        for pair in 1000000:990000 222000:150000 100000: ; do
          printf 'MemTotal: %s kB\\n' ${pair%:*} >meminfo
          [ -z ${pair#*:} ] || printf 'MemAvailable: %s kB\\n' ${pair#*:} >>meminfo
          oc_default_size; done";
    assert_eq!(run("", text), "900000k\n117232k\n90000k\n");
}

#[test]
fn length_is_taken_from_the_last_successful_response() {
    let answer = |text: &str| {
        run("", &format!("printf '{text}' >printed; oc_length printed; oc_status printed"))
    };
    assert_eq!(answer("  HTTP/1.1 200 OK\\r\\n  Content-Length: 12\\r\\n"), "12\n200\n");
    let moved = "HTTP/1.1 302 Found\\r\\nContent-Length: 9\\r\\n\\r\\nHTTP/2 206\\r\\ncontent-length: 7\\r\\n";
    assert_eq!(answer(moved), "7\n206\n");
    assert_eq!(answer("HTTP/1.1 404 No\\r\\nContent-Length: 9\\r\\n"), "404\n");
    assert_eq!(answer("HTTP/1.1 200 OK\\r\\nContent-Length: x\\r\\n"), "200\n");
}

#[test]
fn missing_digest_is_not_treated_as_unset() {
    let hex = "7".repeat(64);
    let full = "x".repeat(2100);
    for (line, count, expected) in [
        ("BASEFS=u".to_owned(), 1, "fine"),
        (format!("N={hex}"), 1, "fine"),
        (format!("N={hex},{hex}"), 2, "fine"),
        (format!("N=,{hex}"), 2, "fine"),
        ("N=".to_owned(), 0, "fine"),
        ("N=".to_owned(), 1, "N= has no digest"),
        ("N=,".to_owned(), 2, "N= has no digest"),
        (format!("N={hex}"), 2, "N= has 1 digests for 2 files"),
        (format!("N={hex},{hex}"), 1, "N= has 2 digests for 1 files"),
        (format!("N={}", &hex[1..]), 1, "invalid SHA-256"),
        (format!("N={}g", &hex[1..]), 1, "invalid SHA-256"),
        (format!("quiet {full}"), 0, "fine"),
        (format!("quiet {full}"), 1, "is truncated and lacks N="),
        (format!("N={hex} {full}"), 1, "fine"),
    ] {
        let text =
            format!("oc_fail() {{ echo \"$*\"; exit; }}; oc_check_digests N {count}; echo fine");
        let printed = run(&format!("{line}\n"), &text);
        assert!(printed.contains(expected), "{line} for {count}: {printed}");
    }
}

#[test]
fn fixed_address_uses_the_current_interface_name() {
    let text =
        "IP=10.0.0.5::10.0.0.1:255.255.255.0::eth0:off; oc_ip_of ens3; oc_ip_field 1; oc_ip_field 6
         IP=10.0.0.5::::box; oc_ip_of ens3; oc_ip_field 6; IP=dhcp; oc_ip_field 1; oc_ip_field 6";
    assert_eq!(
        run("", text),
        "10.0.0.5::10.0.0.1:255.255.255.0::ens3:off\n10.0.0.5\neth0\n10.0.0.5::::box:ens3\n\n"
    );
}

/// Starts an HTTP server that sends one response for each connection, repeating the last one.
/// Returns its URL and a channel with the heads of the requests.
fn answers(answers: Vec<String>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let (sender, heads) = mpsc::channel();
    std::thread::spawn(move || {
        let (last, _) = answers.split_last().unwrap();
        for answer in answers.iter().chain(std::iter::repeat(last)) {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            // The client may close the connection early.
            let _ = stream.write_all(answer.as_bytes());
            if sender.send(String::from_utf8(head).unwrap()).is_err() {
                return;
            }
        }
    });
    (url, heads)
}

#[test]
fn download_is_not_resumed_from_a_changed_file() {
    let whole = |tag: &str, length: usize, content: &str| {
        format!("HTTP/1.1 200 OK\r\n{tag}Content-Length: {length}\r\n\r\n{content}")
    };
    let (a, b) = ("ETag: \"a\"\r\n", "ETag: \"b\"\r\n");
    let rest = format!(
        "HTTP/1.1 206 Partial Content\r\n{a}Content-Length: 6\r\nContent-Range: bytes 4-9/10\r\n\r\nAAAAAA"
    );
    let broken = whole(a, 10, "aaaa");
    let cases = [
        (vec![broken.clone(), rest.clone()], "aaaaAAAAAA", true),
        // The file was replaced, and the second download breaks too.
        (vec![broken.clone(), whole(b, 3, "bbb")], "bbb", true),
        (vec![broken, whole(b, 9, "bb"), whole(b, 3, "bbb")], "bbb", true),
        // Without an ETag, a changed file cannot be detected.
        (vec![whole("", 10, "aaaa"), whole("", 3, "bbb")], "bbb", false),
    ];
    sh(Path::new("/"), "command -v curl");
    for curl in ["$(command -v curl)", "none"] {
        for (sent, file, goes_on) in &cases {
            let (url, heads) = answers(sent.clone());
            let text = format!(
                "mkdir bin; ln -s $(command -v busybox) bin/wget; oc_curl={curl}; PATH=$PWD/bin:$PATH
                 oc_console=/dev/null; oc_free() {{ echo 1000000; }}; oc_backoff() {{ echo 0; }}
                 oc_fail() {{ echo \"$*\"; exit; }}
                 oc_fetch {url} file; cat file"
            );
            assert_eq!(run("", &text), *file, "{curl}: {sent:?}");
            let heads: Vec<_> = heads.try_iter().map(|head| head.to_lowercase()).collect();
            let second =
                (heads[1].contains("range: bytes=4-"), heads[1].contains("if-range: \"a\""));
            assert_eq!(second, (*goes_on, *goes_on), "{curl}: {heads:?}");
        }
    }
}

#[test]
fn folder_with_only_indexes_has_no_modules() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("6.1.0-1");
    let text = format!("oc_has_modules {} && echo yes || echo no", path.display());
    let has = || run("", &text);
    assert_eq!(has(), "no\n");
    std::fs::create_dir_all(path.join("kernel/net")).unwrap();
    std::fs::write(path.join("modules.dep"), "kernel/net/dummy.ko:\n").unwrap();
    assert_eq!(has(), "no\n");
    std::fs::write(path.join("kernel/net/dummy.ko.xz"), "module").unwrap();
    assert_eq!(has(), "yes\n");
}
