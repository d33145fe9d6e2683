//! Files of systemd-networkd, the resolver and ifupdown.

use super::{assert_found, found};
use crate::support::newc::Archive;

/// Checks the finding of a file of systemd-networkd with this content.
#[track_caller]
fn assert_line(name: &str, content: &str, expected: &str) {
    let path = format!("etc/systemd/network/{name}");
    let expected: Vec<String> = match expected {
        "" => Vec::new(),
        text => vec![format!("network-file /{path}{text}")],
    };
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let unit =
        ("usr/lib/systemd/system/systemd-networkd.service", "[Service]\nExecStart=/bin/sh\n");
    let enabled = "etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
    let id = ("etc/machine-id", "");
    assert_found(&[unit, (enabled, unit.1), id, (&path, content)], &expected);
}

#[test]
fn lines_that_systemd_networkd_ignores_are_reported() {
    let network = |text: &str| format!("[Match]\nName=a\n{text}\n");
    for (text, expected) in [
        ("[Network]\nAddress=192.0.2.1/33", ":4: invalid value 192.0.2.1/33 of Address="),
        ("[Network]\nGateway=router", ":4: invalid value router of Gateway="),
        ("[Network]\nDNS=192.0.2.1, 192.0.2.2", ":4: invalid value 192.0.2.1, of DNS="),
        ("[Network]\nDHCP=dhcp", ":4: invalid value dhcp of DHCP="),
        ("[Network]\nAdress=192.0.2.1", ":4: unknown key Adress=; did you mean Address=?"),
        ("[Network]\nRouteMetric=5", ":4: the key RouteMetric= is not valid in [Network], but in"),
        ("[Netwrok]\nDHCP=yes", ":3: unknown section [Netwrok]"),
        ("[Network]\nDHCP yes", ":4: the line has no `=`: DHCP yes"),
        ("[Network]\n=yes", ":4: the line has no key"),
        ("[Network\nDHCP=yes", ":3: invalid section header [Network"),
    ] {
        assert_line("a.network", &network(text), expected);
    }
    for text in [
        "[Network]\n# a\n; b\nDHCP=yes\nDNS=192.0.2.1 \\\n# c\n  2001:db8::1\nQuiteNew=1",
        "[Address]\nAddress=192.0.2.1/24\n[Route]\nGateway=_dhcp4\nDestination=0.0.0.0/0",
        "[X-Mine]\nany\n[Network]\nX-Mine=1\nAddress=\n[DHCPv4]\nRouteMetric=5",
        "[IPv6PrefixDelegation]\nManaged=yes",
    ] {
        assert_line("a.network", &network(text), "");
    }
    let expected = ": it has no setting in [Match], so it is ignored";
    assert_line("a.network", "[Network]\nDHCP=yes\n", expected);
    assert_line("a.network", "[Match]\nName=\n[Network]\nDHCP=yes\n", expected);
    assert_line("a.link", "[Link]\nName=a\n", expected);
    assert_line("a.network", "DHCP=yes\n[Match]\nName=a\n", ":1: DHCP= is outside of any section");
    assert_line("a.network", "", "");
    // A file of /etc hides one of /usr/lib.
    let hidden = ("usr/lib/systemd/network/a.link", "[Link]\nName=a\n");
    let expected = "network-file /usr/lib/systemd/network/a.link: it has no setting in [Match]";
    assert_found(&[hidden], &[expected]);
    assert_found(&[hidden, ("etc/systemd/network/a.link", "")], &[]);
    assert_line("a.network.d/b.conf", "[Network]\nDHCP=yes\n", "");
    assert_line("a.netdev", "[NetDev]\nName=a\n", ": it has no Kind= or no Name= in [NetDev]");
    assert_line("a.netdev", "[NetDev]\nName=a\nKind=bridge\n[Bridge]\nSTP=yes\n", "");
    let expected = ":3: unknown kind brigde; did you mean bridge?";
    assert_line("a.netdev", "[NetDev]\nName=a\nKind=brigde\n", expected);
    assert_line("a.link", "[Match]\nMACAddress=a\n[Link]\nNmae=a\n", ":4: unknown key Nmae=");
    assert_line("a.conf", "[Match]\nName=a\n", ": its name does not end in .network, .netdev or");
    assert_line("README", "a\n", "");
    assert_line("a.network.disabled", "a\n", "");
}

#[test]
fn files_that_systemd_networkd_cannot_read_are_reported() {
    let prepare = |base: &mut Archive| {
        let unit = "usr/lib/systemd/system/systemd-networkd.service";
        base.file(unit, "[Service]\nExecStart=/bin/sh\n");
        base.file("etc/passwd", format!("{}systemd-network:x:998:998::/:/bin/sh\n", super::PASSWD));
        base.file("etc/shadow", "root:*:19000::::::\ngames:*:1::::::\nsystemd-network:*:1::::::\n");
        base.file("etc/group", "root:x:0:\nshadow:x:42:\ngames:x:60:\nsystemd-network:x:998:\n");
        base.link(
            "etc/systemd/system/sockets.target.wants/systemd-networkd.socket",
            "/usr/lib/systemd/system/systemd-networkd.socket",
        );
    };
    let path = "etc/systemd/network/a.network";
    let text = "[Match]\nName=a\n";
    let with =
        |mode: u32, gid: u32| found(prepare, |overlay| overlay.put(path, mode, text).gid = gid);
    let expected =
        [format!("network-file /{path}: the user systemd-network cannot read it (mode 0640)")];
    assert_eq!(with(0o100640, 0), expected);
    assert_eq!(with(0o100640, 998), [""; 0]);
    assert_eq!(with(0o100644, 0), [""; 0]);
    let shut = found(prepare, |overlay| {
        overlay.put("etc/systemd/network", 0o040700, "");
        overlay.file(path, text);
        // udev, which runs as root, reads it.
        overlay.file("etc/systemd/network/a.link", "[Match]\nOriginalName=a\n");
    });
    let expected = "systemd-networkd cannot access its directory /etc/systemd/network (0700)";
    assert_eq!(shut, [format!("network-file /{path}: {expected}")]);
}

#[test]
fn network_files_without_systemd_networkd_are_reported() {
    let make = |overlay: &mut Archive| {
        overlay.file("etc/machine-id", "");
        overlay.file("etc/systemd/network/a.network", "[Match]\nName=a\n");
    };
    let expected = "network-file /etc/systemd/network/a.network: systemd-networkd, which reads it";
    assert_eq!(found(|_| {}, make), [format!("{expected}, is not installed")]);
    let prepare = |base: &mut Archive| {
        let unit = "usr/lib/systemd/system/systemd-networkd.service";
        base.file(unit, "[Service]\nExecStart=/bin/sh\n");
    };
    assert_eq!(found(prepare, make), [format!("{expected}, is not enabled")]);
}

#[test]
fn lines_that_the_resolver_ignores_are_reported() {
    let resolv = "# a\n; b\n nameserver 192.0.2.1\nnameserver\nnameserver 192.0.2.300\n\
        nameserver 192.0.2.1\r\nnameservers 192.0.2.1\nfoo bar\nnameserver 192.0.2.1 # c\n\
        nameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver 192.0.2.4\n\
        nameserver 192.0.2.5\n\
        search a b\noptions trust-ad\n";
    let expected = [
        "resolv-conf /etc/resolv.conf:3: a blank precedes nameserver",
        "resolv-conf /etc/resolv.conf:4: nameserver has no address",
        "resolv-conf /etc/resolv.conf:5: invalid address 192.0.2.300",
        "resolv-conf /etc/resolv.conf:6: the line ends with CR",
        "resolv-conf /etc/resolv.conf:7: unknown keyword nameservers; did you mean nameserver?",
        "resolv-conf /etc/resolv.conf:8: unknown keyword foo",
        "resolv-conf /etc/resolv.conf:12: it has more than three name servers",
        "safe/resolv-conf",
    ];
    assert_found(&[("etc/resolv.conf", resolv)], &expected[..7]);
    let hosts = "# a\n127.0.0.1 localhost # b\n::1 ip6-localhost\nfe80::1%lo0 a\n\n192.0.2 a\n\
        192.0.2.1\n192.0.2.1#a\nlocalhost 127.0.0.1\n";
    let expected = [
        "hosts /etc/hosts:6: invalid address 192.0.2",
        "hosts /etc/hosts:7: 192.0.2.1 has no name",
        "hosts /etc/hosts:8: 192.0.2.1 has no name",
        "hosts /etc/hosts:9: invalid address localhost",
    ];
    assert_found(&[("etc/hosts", hosts)], &expected);
    for (name, expected) in [
        ("node 1\n", "hostname /etc/hostname:1: the name node 1 has invalid characters"),
        ("# a\nnöde\n", "hostname /etc/hostname:2: the name nöde has invalid characters"),
        ("-node\n", "hostname /etc/hostname:1: the name -node has an empty part"),
        ("node.\n", "hostname /etc/hostname:1: the name node. has an empty part"),
        ("one\ntwo\n", "hostname /etc/hostname:2: the name two is not in the first line"),
    ] {
        assert_found(&[("etc/hostname", name)], &[expected]);
    }
    let long = "a".repeat(65);
    let expected = "hostname /etc/hostname:1: the name has 65 characters, not at most 64";
    assert_found(&[("etc/hostname", &long)], &[expected]);
    for name in ["", "# none\n", "node-1.example.org\n", "node_1", &"a".repeat(64)] {
        assert_found(&[("etc/hostname", name)], &[]);
    }
}

#[test]
fn interfaces_that_ifup_rejects_or_does_not_start_are_reported() {
    let ifup = ("usr/sbin/ifup", "");
    let file = "etc/network/interfaces";
    for (text, expected) in [
        ("iface\n", "interfaces /etc/network/interfaces:2: iface has no name"),
        ("iface a\n", "interfaces /etc/network/interfaces:2: iface a has no address family"),
        ("iface a inet\n", "interfaces /etc/network/interfaces:2: iface a has no method"),
        ("iface a inet6 dhcp6\n", "interfaces /etc/network/interfaces:2: unknown method dhcp6"),
        ("iface a ipv4 dhcp\n", "interfaces /etc/network/interfaces:2: unknown address family"),
        ("adress 192.0.2.1\n", "interfaces /etc/network/interfaces:2: unknown keyword adress"),
        (
            "iface a inet manual\n up\n",
            "interfaces /etc/network/interfaces:3: the option up has no value",
        ),
        ("iface b inet dhcp\n", "interfaces /etc/network/interfaces:2: nothing brings b up"),
        (
            "auto eth0\niface eth0 inet dhcp\n",
            "interfaces /etc/network/interfaces:3: the name eth0",
        ),
        ("source /etc/none\n", "interfaces /etc/network/interfaces:2: the file /etc/none does not"),
    ] {
        let text = format!("auto a\n{text}");
        assert_found(&[ifup, (file, &text)], &[expected]);
    }
    let accepted = "# a\nauto lo enp1s0\niface lo inet loopback\n\
        source /etc/network/interfaces.d/*\n\
        iface enp1s0 inet static\n  address 192.0.2.1/24\n  # b\n  anything new\n  up ls \\\n -l\n\
        iface enp1s0 inet6 auto\nallow-hotplug enp2s0\niface enp2s0 inet dhcp\n\
        iface base inet dhcp\niface enp3s0 inherits base\nno-auto-down lo\n";
    let sourced = ("etc/network/interfaces.d/a", "auto enp3s0\niface\n");
    let expected = "interfaces /etc/network/interfaces.d/a:2: iface has no name";
    assert_found(&[ifup, (file, accepted), sourced], &[expected]);
    // A pattern brings up its interfaces; ifup ignores names with other characters.
    let ignored = ("etc/network/interfaces.d/a~", "iface\n");
    let text = "auto /enp*\niface enp1s0 inet dhcp\nsource interfaces.d/*\n";
    assert_found(&[ifup, (file, text), ignored], &[]);
    // Without ifup, nothing reads the file.
    assert_found(&[(file, "iface\n")], &[]);
}
