//! udev rules, modules, kernel parameters, binary formats, and files of D-Bus and ld.so.

use super::{assert_found, found};
use crate::support::newc::Archive;

/// Checks the finding of a udev rule.
#[track_caller]
fn assert_rule(text: &str, expected: &str) {
    let udevd = ("usr/lib/systemd/systemd-udevd", "");
    let path = "etc/udev/rules.d/a.rules";
    let expected: Vec<String> = match expected {
        "" => Vec::new(),
        text => vec![format!("udev-rule /{path}:{text}")],
    };
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    assert_found(&[udevd, (path, text), ("usr/lib/udev/tool", "")], &expected);
}

#[test]
fn rules_that_udev_ignores_are_reported() {
    for (text, expected) in [
        (
            "KERNEL=\"sda\", MODE=\"0660\"",
            "1: the operator = is not valid for KERNEL; a condition is",
        ),
        ("KERNEL==\"sda\", MODE==\"0660\"", "1: the operator == is not valid for MODE; an assign"),
        ("KERNEL==sda, MODE=\"0660\"", "1: it is not KEY==\"value\" or KEY=\"value\": KERNEL==sda"),
        ("KERNEL==\"sda, MODE=0660", "1: it is not KEY==\"value\""),
        ("KERNL==\"sda\", MODE=\"0660\"", "1: unknown key KERNL"),
        ("ATTR==\"a\", MODE=\"0660\"", "1: ATTR needs an attribute"),
        ("KERNEL{a}==\"a\", MODE=\"0660\"", "1: KERNEL takes no attribute"),
        ("KERNEL==\"a\", MODE=\"rw\"", "1: invalid mode rw"),
        ("KERNEL==\"a\", OWNER=\"none\"", "1: unknown user none"),
        ("KERNEL==\"a\", GROUP=\"none\"", "1: unknown group none"),
        ("KERNEL==\"a\", RUN+=\"/usr/bin/none -a\"", "1: the program /usr/bin/none does not exist"),
        ("PROGRAM=\"none\", MODE=\"0660\"", "1: the program none does not exist"),
        ("IMPORT{program}=\"/bin/none\"", "1: the program /bin/none does not exist"),
        ("RUN{builtin}+=\"none\"", "1: unknown builtin command none"),
        ("IMPORT{none}=\"a\"", "1: unknown attribute IMPORT{none}"),
        ("KERNEL==\"a\", OPTIONS+=\"last_rule\"", "1: unknown value last_rule of OPTIONS"),
        ("NAME=\"\"", "1: NAME=\"\" has no effect"),
        ("ENV{DEVNAME}=\"a\"", "1: ENV{DEVNAME} cannot be set"),
        ("# a\nKERNEL==\"a\"", "2: it has conditions only"),
        ("LABEL=\"a\"\nGOTO=\"a\"", "2: GOTO=\"a\" has no LABEL=\"a\" after it"),
        ("KERNEL==\"a\", \\\n# b\n  MODE=\"x\"\n", "1: invalid mode x"),
    ] {
        assert_rule(text, expected);
    }
    let accepted = "# a\n\n  # b\nACTION!=\"add\", GOTO=\"end\"\n\
        SUBSYSTEM==\"net\" NAME=\"lan%n\"\n\
        KERNEL==\"sd*\",SYMLINK+=\"a/$kernel\",OWNER=\"games\",GROUP=\"60\",MODE=\"0660\"\n\
        ATTR{a}==\"?*\", ENV{A}=\"$attr{a}\", TAG+=\"b\", TAG-=\"c\", \
        OPTIONS+=\"link_priority=5\"\n\
        KERNEL==i\"A\", ENV{B}=e\"a\\\"b\\n\", \
        RUN+=\"tool \\\"a\\\" b\", RUN{builtin}+=\"kmod load a\"\n\
        TEST==\"/bin/none\", RUN+=\"/bin/none\"\nRUN+=\"$env{A}\"\nIMPORT{program}=\"path_id a\"\n\
        PROGRAM==\"/bin/sh -c 'a'\", RESULT==\"b\", GROUP=\"$env{A}\", MODE:=\"$env{B}\"\n\
        IMPORT{builtin}=\"hwdb\"\nRUN+=\"'/bin/sh' -c a\"\nTEST{0111}==\"/a\", SYSCTL{a}=\"b\"\n\
        SECLABEL{selinux}=\"a\", \nRUN+=\"/run/a\"\nLABEL=\"end\"\n";
    assert_rule(accepted, "");
    let udevd = ("usr/lib/systemd/systemd-udevd", "");
    let names = [
        udevd,
        ("etc/udev/rules.d/a.rule", "x\n"),
        ("etc/udev/rules.d/README", "x\n"),
        ("etc/udev/rules.d/a.rules.bak", "x\n"),
        // A program that a package only recommends, and one of its own.
        ("usr/lib/udev/rules.d/b.rules", "RUN+=\"/bin/none\"\nRUN+=\"none\"\n"),
    ];
    let expected = [
        "udev-rule /usr/lib/udev/rules.d/b.rules:2: the program none does not exist",
        "udev-rule /etc/udev/rules.d/a.rule: its name does not end in .rules",
    ];
    assert_found(&names, &expected);
    assert_found(&[("etc/udev/rules.d/a.rules", "KERNEL=\"a\"\n")], &[]);
}
