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

#[test]
fn lines_that_modprobe_ignores_are_reported() {
    let modprobe = "# a\nblacklist a\nblacklst b\noptions a\noptions a b=1 \\\n c=2\nblacklist\n\
        install a /bin/true\ninstall b /bin/sh -c c\nfoo\nalias net-pf-* a\nsoftdep a pre: b\n\
        install c modprobe -i c\n";
    let expected = [
        "modprobe /etc/modprobe.d/a.conf:3: unknown command blacklst; did you mean blacklist?",
        "modprobe /etc/modprobe.d/a.conf:4: options has 1 arguments, not 2",
        "modprobe /etc/modprobe.d/a.conf:7: blacklist has 0 arguments, not 1",
        "modprobe /etc/modprobe.d/a.conf:8: the program /bin/true of a does not exist",
        "modprobe /etc/modprobe.d/a.conf:10: unknown command foo",
    ];
    assert_found(&[("etc/modprobe.d/a.conf", modprobe)], &expected);
    let expected = ["modprobe /etc/modprobe.d/a.conf:1: the lines end with CR"];
    assert_found(&[("etc/modprobe.d/a.conf", "blacklist a\r\nblacklist b\r\n")], &expected);
    let expected = ["modprobe /etc/modprobe.d/blacklist: its name does not end in .conf"];
    assert_found(&[("etc/modprobe.d/blacklist", "blacklist a\n")], &expected);
}

#[test]
fn modules_that_no_kernel_has_are_reported() {
    let dir = "usr/lib/modules/6.1.0-1";
    let indices = |base: &mut Archive| {
        base.file(&format!("{dir}/modules.builtin"), "kernel/b-c.ko\n");
        base.file(&format!("{dir}/modules.alias"), "alias net-pf-10 ipv6\nalias pci:v1* one\n");
    };
    let loaded = "# a\n; b\none\nb_c\nnet_pf_10\npci:v1d2\nnone\n";
    let make = |overlay: &mut Archive| {
        overlay.file("etc/modules-load.d/a.conf", loaded);
    };
    let expected = ["modules-load /etc/modules-load.d/a.conf:7: no kernel has the module none"];
    assert_eq!(found(indices, make), expected);
    // The kernel may come from another image.
    let without = |base: &mut Archive| {
        base.entries.retain(|entry| !entry.name.starts_with("usr/lib/modules"));
    };
    assert_eq!(found(without, make), [""; 0]);
}

#[test]
fn kernel_parameters_and_formats_that_are_not_set_are_reported() {
    let sysctl = "# a\n; b\nnet.ipv4.ip_forward = 1\n-net.a=1\n-net.b\nnet.c 1\nsysctl -w a=1\n";
    let expected = [
        "sysctl /etc/sysctl.d/a.conf:6: it is not NAME = VALUE: net.c 1",
        "sysctl /etc/sysctl.d/a.conf:7: the name sysctl -w a has a blank",
    ];
    assert_found(&[("etc/sysctl.d/a.conf", sysctl)], &expected);
    let expected = ["sysctl /etc/sysctl.d/a: its name does not end in .conf"];
    assert_found(&[("etc/sysctl.d/a", "a=1\n"), ("etc/sysctl.d/README.sysctl", "a\n")], &expected);
    // systemd reads the old file only through a link.
    let program = |base: &mut Archive| {
        base.program("usr/lib/systemd/systemd-sysctl", "");
    };
    let old = |text: &'static str| {
        move |overlay: &mut Archive| {
            overlay.file("etc/sysctl.conf", text);
        }
    };
    let expected = "sysctl /etc/sysctl.conf:2: systemd does not read this file: /etc/sysctl.d has \
                    no link to it";
    assert_eq!(found(program, old("# a\nb=1\n")), [expected]);
    assert_eq!(found(program, old("# a\n")), [""; 0]);
    let linked = |base: &mut Archive| {
        program(base);
        base.link("etc/sysctl.d/99-sysctl.conf", "../sysctl.conf");
    };
    assert_eq!(found(linked, old("b=1\n")), [""; 0]);
    let binfmt = "# a\n:a:M::MZ::/bin/sh:\n:b:E::exe::/bin/none:F\n:c:X::d::/bin/sh:\n\
        :d:M::MZ:/bin/sh\n\
        :e/f:M::MZ::/bin/sh:\n";
    let expected = [
        "binfmt /etc/binfmt.d/a.conf:3: the interpreter /bin/none does not exist",
        "binfmt /etc/binfmt.d/a.conf:4: the type X is neither E nor M",
        "binfmt /etc/binfmt.d/a.conf:5: it has 5 fields, not 7",
        "binfmt /etc/binfmt.d/a.conf:6: invalid name e/f",
    ];
    assert_found(&[("etc/binfmt.d/a.conf", binfmt)], &expected);
}

#[test]
fn lines_that_tmpfiles_and_sysusers_reject_are_reported() {
    for (line, expected) in [
        ("d", "it has no path"),
        ("y /a", "unknown type y"),
        ("d* /a", "invalid modifier *"),
        ("d!! /a", "invalid modifier !"),
        ("d a", "the path a is not absolute"),
        ("d /a 0999", "invalid mode 0999"),
        ("d /a 0755 none", "unknown user none"),
        ("d /a 0755 root none", "unknown group none"),
        ("w /sys/a - - - -", "the type w needs an argument"),
        ("d \"/a", "a quote is not closed"),
    ] {
        let expected = format!("tmpfiles /etc/tmpfiles.d/a.conf:2: {expected}");
        assert_found(&[("etc/tmpfiles.d/a.conf", &format!("# a\n{line}\n"))], &[&expected]);
    }
    let accepted = "d /run/a 0755 games games -\nD! /b 1777\nf+! /c ~0640 :root :60 - text here\n\
        L+ /d - - - - ../e\nr! /tmp/.X[0-9]*-lock\nd %t/f - %u %g 10d\nz \"/g h\" :~0600\n\
        a+ /i - - - - g:60:r\nx /tmp/j*\nd /k 0755 daemon-x daemon-x\n";
    let sysusers = ("usr/lib/sysusers.d/x.conf", "u daemon-x - \"X\" / /bin/sh\n");
    assert_found(&[("etc/tmpfiles.d/a.conf", accepted), sysusers], &[]);
    for (line, expected) in [
        ("u", "it has no name"),
        ("x a", "unknown type x"),
        ("u a/b", "invalid name a/b"),
        ("u 12", "invalid name 12"),
        ("u a b", "invalid id b"),
        ("g a 1:2", "invalid id 1:2"),
        ("m a", "a line of type m needs a group"),
        ("r a 1-2", "a line of type r has no name"),
        ("r - a", "a line of type r needs a range"),
        ("g a 1 \"A\"", "a line of type g has only a name"),
        ("u a 1 \"A\" home", "the home directory home is not absolute"),
        ("u a 1 \"A\" / sh", "the shell sh is not absolute"),
        ("u a 1 A B / /bin/sh x", "it has more than six fields: /bin/sh x"),
        ("u a 1 \"A", "a quote is not closed"),
    ] {
        let expected = format!("sysusers /etc/sysusers.d/a.conf:1: {expected}");
        let findings = [expected.as_str()];
        assert_found(&[("etc/sysusers.d/a.conf", line)], &findings);
    }
    let accepted = "# a\nu a - \"A b\" /var/a\nu! b 5:60 - - -\nu c 7:c\nu d /usr/bin/demo\ng e 8\n\
        m a e\nr - 500-900\nu f -:60\nu g%i -\n";
    assert_found(&[("etc/sysusers.d/a.conf", accepted)], &[]);
}

#[test]
fn missing_directories_of_libraries_are_notes() {
    let conf = "# a\n/usr/none # b\n/usr/lib, /usr/local/lib/x:/mnt/y\n/usr/share\n";
    assert_found(
        &[("etc/ld.so.conf.d/a.conf", conf)],
        &["ld-so /etc/ld.so.conf.d/a.conf:2: the directory /usr/none does not exist"],
    );
}

#[test]
fn policies_that_the_bus_ignores_are_reported() {
    let policy = |text: &str| {
        format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN\"\n \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
             <busconfig>\n{text}\n</busconfig>\n"
        )
    };
    let path = "/etc/dbus-1/system.d/a.conf";
    for (text, expected) in [
        ("<policy user=\"none\"><allow own=\"a\"/></policy>", "4: unknown user none"),
        ("<policy group=\"none\"></policy>", "4: unknown group none"),
        ("<policy context=\"default\">\n<deny user=\"none\"/></policy>", "5: unknown user none"),
        ("<policy user=\"root\">", "5: it is not well-formed XML"),
        ("<policy user=root/>", "4: it is not well-formed XML"),
    ] {
        let expected = format!("dbus-policy {path}:{expected}");
        assert_found(&[(&path[1..], &policy(text))], &[&expected]);
    }
    let accepted = "<!-- a -->\n<policy user=\"games\"><allow own=\"a\"/></policy>\n\
        <policy context=\"default\"><allow user=\"*\"/><allow send_destination=\"a\"/></policy>\n\
        <policy group=\"60\"/><policy at_console=\"true\"/>";
    assert_found(&[(&path[1..], &policy(accepted)), ("etc/dbus-1/system.d/README", "<")], &[]);
}
