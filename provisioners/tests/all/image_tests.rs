//! Tests that travel with a provisioner. Their scripts run here as they do in an image.

use std::fs;
use std::path::Path;
use std::process::Command;

use provisioners::{Image, ImageTest};
use tempfile::TempDir;

/// A project directory with one provisioner.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tests = dir.path().join("tool/tests/booted");
    fs::create_dir_all(tests).unwrap();
    let provisioner = "variables: {server: a.org, port: 22}\nscripts: [scripts/x.sh]\n";
    fs::write(dir.path().join("tool/provisioner.yml"), provisioner).unwrap();
    fs::create_dir(dir.path().join("tool/scripts")).unwrap();
    fs::write(dir.path().join("tool/scripts/x.sh"), "true\n").unwrap();
    dir
}

/// Returns the tests of an image with these further keys.
fn tests(dir: &Path, keys: &str) -> Result<Vec<ImageTest>, String> {
    let text = format!("base: base.squashfs\nprovisioner: tool\noutput: o.cpio.gz\n{keys}");
    fs::write(dir.join("image.yml"), text).unwrap();
    let image = Image::load(&dir.join("image.yml")).map_err(|error| error.to_string())?;
    image.tests().map_err(|error| {
        let source = std::error::Error::source(&error);
        format!("{error}: {}", source.map(ToString::to_string).unwrap_or_default())
    })
}

/// Returns whether a test passes, and its output.
fn run(test: &ImageTest) -> (bool, String) {
    let mut command = Command::new(&test.shell);
    command.args(["-c", &test.script]).envs(test.environment.clone());
    let output = command.output().unwrap();
    let text =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.success(), text)
}

#[test]
fn scripts_and_expectations_of_provisioners_and_projects_are_tests() {
    let dir = directory();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("tool/tests/address.sh", "#!/usr/bin/env bash\n[[ $OVERCOAT_VAR_server = b.org ]]\n");
    write("tool/tests/data.txt", "data of a test\n");
    write("tool/tests/all.yml", "- port: \"{{ port }}\"\n- {name: a name, file: /etc/x}\n");
    write("tool/tests/booted/up.sh", "true\n");
    write("tool/tests/booted/more.yml", "- command: id\n- {package: x, when: port == 23}\n");
    write("site.yml", "- {group: root, time_out: 5}\n");
    let tests =
        tests(dir.path(), "variables: {server: b.org}\ncheck: {tests: [site.yml]}\n").unwrap();
    let shown: Vec<String> = tests
        .iter()
        .map(|test| {
            format!(
                "{}{} {} s",
                test.name,
                if test.booted { " (booted)" } else { "" },
                test.time_out
            )
        })
        .collect();
    let expected = [
        "tool: address 30 s",
        "tool: port 22/tcp (booted) 30 s",
        "tool: a name 30 s",
        "tool: command id (booted) 30 s",
        "tool: up (booted) 30 s",
        "project: group root 5 s",
    ];
    assert_eq!(shown, expected);
    assert_eq!(run(&tests[0]), (true, String::new()));
    assert_eq!((tests[0].shell.as_str(), tests[2].line), ("bash", Some(2)));
}

#[test]
fn expectations_pass_or_say_what_differs() {
    let dir = directory();
    let file = dir.path().join("x");
    fs::write(&file, "server = a.org\nit's 5\n").unwrap();
    std::os::unix::fs::symlink("x", dir.path().join("link")).unwrap();
    let me = |option: &str| {
        let output = Command::new("id").arg(option).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (x, link, none) = (path("x"), path("link"), path("none"));
    let cases = [
        (
            format!(
                "{{file: {x}, mode: \"0644\", owner: {0}, group: {1}, type: file}}",
                me("-un"),
                me("-gn")
            ),
            "",
        ),
        (
            format!("{{file: {x}, contains: [\"server = \", \"it's\"], matches: \"^it.*[0-9]$\"}}"),
            "",
        ),
        (format!("{{file: {link}, type: link, target: x}}"), ""),
        (format!("{{file: {none}, exists: false}}"), ""),
        (format!("{{file: {none}}}"), "none does not exist"),
        (format!("{{file: {x}, exists: false}}"), "x exists"),
        (format!("{{file: {x}, mode: \"0600\"}}"), "is 644, not 600"),
        (format!("{{file: {x}, type: directory}}"), "is not a directory"),
        (format!("{{file: {x}, contains: it’s}}"), "does not contain it’s"),
        (format!("{{file: {x}, matches: \"^5\"}}"), "matches ^5"),
        (format!("{{file: {link}, target: y}}"), "is x, not y"),
        ("{user: root, uid: 0, gid: 0, home: /root, groups: [root]}".to_owned(), ""),
        ("{user: nobody-here, exists: false}".to_owned(), ""),
        ("{user: root, uid: 5}".to_owned(), "uid of root is 0, not 5"),
        ("{user: nobody-here}".to_owned(), "nobody-here does not exist"),
        ("{user: root, groups: nogroup}".to_owned(), "root is not in group nogroup"),
        ("{group: root, gid: 0}".to_owned(), ""),
        ("{group: root, gid: 7}".to_owned(), "gid of root is 0, not 7"),
        ("{package: dpkg}".to_owned(), ""),
        ("{package: no-such-package, installed: false}".to_owned(), ""),
        ("{package: no-such-package}".to_owned(), "no-such-package is not installed"),
        ("{package: dpkg, installed: false}".to_owned(), "is installed"),
        ("{package: dpkg, version: \"0\"}".to_owned(), ", not 0"),
        ("{command: \"echo a; exit 3\", exit: 3, output: a}".to_owned(), ""),
        ("{command: \"printf 'a\\\\nb'\", output: [a, b]}".to_owned(), ""),
        ("{command: \"echo why; exit 3\"}".to_owned(), "why\n\nexit code 3, not 0"),
        ("{command: \"echo a\", output: b}".to_owned(), "the output does not contain b"),
    ];
    let list: String = cases.iter().map(|(text, _)| format!("- {text}\n")).collect();
    fs::write(dir.path().join("tool/tests/all.yml"), list).unwrap();
    for (test, (text, problem)) in tests(dir.path(), "").unwrap().iter().zip(&cases) {
        let (passed, output) = run(test);
        assert_eq!(passed, problem.is_empty(), "{text}: {output}");
        assert!(output.contains(problem), "{text}: {output}");
        assert!(!passed || output.is_empty(), "{text}: {output}");
    }
}

/// The scripts for ports read the kernel's tables.
#[test]
fn listening_ports_are_found() {
    let dir = directory();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let [of_tcp, of_udp] = [tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port()];
    let list = format!(
        "- port: {of_tcp}\n- {{port: {of_udp}, protocol: udp}}\n\
         - {{port: {of_tcp}, listening: false}}\n- port: 1\n- {{port: 1, listening: false}}\n"
    );
    fs::write(dir.path().join("tool/tests/all.yml"), list).unwrap();
    let found: Vec<bool> = tests(dir.path(), "").unwrap().iter().map(|test| run(test).0).collect();
    assert_eq!(found, [true, true, false, false, true]);
}

#[test]
fn mistakes_in_tests_are_reported_with_their_position() {
    let dir = directory();
    for (text, message) in [
        ("- {file: /x, port: 1}", "has the keys file and port"),
        ("- {name: x}", "is about nothing"),
        ("- {file: /x, mode: 644x}", "invalid mode"),
        ("- {file: /x, contain: y}", "did you mean `contains`?"),
        ("- {port: 70000}", "at most 65535"),
        ("- {port: 22, booted: false}", "only in a booted machine"),
        ("- {file: \"{{ none }}\"}", "none"),
        ("- {file: /x, type: fifo}", "unknown type"),
        ("- {file: /x, time_out: 0}", "expected 1 to 86400 seconds"),
        ("- {file: /x, time_out: 18446744073709551615}", "expected 1 to 86400 seconds"),
    ] {
        fs::write(dir.path().join("tool/tests/all.yml"), format!("{text}\n")).unwrap();
        let error = tests(dir.path(), "").unwrap_err();
        assert!(error.contains(message) && error.contains("all.yml:1"), "{text}: {error}");
    }
    fs::remove_file(dir.path().join("tool/tests/all.yml")).unwrap();
    fs::write(dir.path().join("tool/tests/x.sh"), "#!/usr/bin/python3\n").unwrap();
    assert!(tests(dir.path(), "").unwrap_err().contains("names no shell"));
}
