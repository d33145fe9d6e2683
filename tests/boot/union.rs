//! The root of a booted machine.

use std::path::Path;

use crate::machine::{Site, serve};

/// Two cards: the machine boots from the second one; the first has no network.
const TWO_CARDS: [&str; 6] = [
    "-netdev",
    "hubport,id=n1,hubid=1",
    "-device",
    "virtio-net-pci,netdev=n1,mac=52:54:00:00:00:01",
    "-device",
    "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:AB",
];

#[test]
fn overlays_are_stacked_as_by_overlayfs() {
    let site = Site::new();
    let look = "cd /srv; grep -r . a b d c 2>/dev/null
stat -c '%a %u:%g %s %h %n' / /srv/[a-e]* /usr/share/bug /run/overcoat
stat -c 'time %Y' /srv/a
ls /etc/motd
mv /usr/share/doc /usr/share/papers && echo renamed
ls -1 /run/overcoat /run/overcoat/images /run/overcoat/layers
cat /run/overcoat/log
grep -c ' /run/overcoat/base squashfs ro' /proc/mounts
grep overcoat /etc/fstab";
    site.probe(
        "one.cpio.gz",
        &[],
        look,
        "cd /srv; for f in a b c; do echo one >$f; done; mkdir d; echo one >d/x; ln a e
         rm /etc/motd; chmod 750 /; chown 12:34 b; rm -r /usr/share/bug; echo f >/usr/share/bug",
    );
    site.overlay(
        "two.cpio.zst",
        &["one.cpio.gz"],
        "cd /srv; echo two >b; rm a e c; rm -r d; echo file >d; mkdir c; echo two >c/y
         echo new >/etc/motd; rm /usr/share/bug; mkdir /usr/share/bug",
    );
    site.overlay(
        "three.cpio",
        &["one.cpio.gz", "two.cpio.zst"],
        "cd /srv; echo three >a; touch -d @1500000000 a; rm d; mkdir d; echo three >d/z; rm -r c
         chmod 711 /",
    );
    let overlays = site.urls(&["busy/one.cpio.gz", "plain/two.cpio.zst", "moved/three.cpio"]);
    let line = format!(
        "BOOTIF=01-52-54-00-00-00-ab BASEFS={} BASEFS_SHA256={} OVERLAYFS={overlays} \
         OVERLAYFS_SHA256=,{}, OVERCOAT_MODULES=no init=/probe",
        site.url("flaky/base.squashfs"),
        site.digest("base.squashfs"),
        site.digest("two.cpio.zst").to_uppercase(),
    );
    let console = site.boot(&line, &TWO_CARDS);
    assert!(!console.probe().contains("modules"), "{}", console.0);
    console.shows(&[
        "a:three\n",
        "\nb:two\n",
        "\nd/z:three\n",
        "\n711 0:0 ",
        "\n644 12:34 4 1 /srv/b\n",
        "\n755 0:0 60 2 /srv/d\n",
        "\n755 0:0 40 2 /usr/share/bug\n",
        "\n700 0:0 160 7 /run/overcoat\n",
        "\ntime 1500000000\n",
        "\n/etc/motd\n",
        "\nrenamed\n",
        "\nbase\nimages\nlayers\nlog\nupper\nwork\n",
        "/images:\nbase\n",
        "/layers:\n1\n2\n3\n",
        "\n1\n",
        "\novercoat: root mounted\n",
    ]);
    assert!(
        !console.probe().contains("/srv/c") && !console.probe().contains("d/x"),
        "{}",
        console.0
    );

    // The console and the requests: an interrupted download continues in the middle.
    let size = std::fs::metadata(site.artifact("base.squashfs")).unwrap().len();
    let base = site.url("flaky/base.squashfs");
    let lines = console.lines();
    assert!(lines[0].starts_with("network: ") && lines[0].contains(" 10.0.2.15 "), "{lines:?}");
    assert_eq!(lines[1], format!("fetching {base}"));
    assert!(lines[2].starts_with(&format!("trying {base} again in 1 s: ")), "{lines:?}");
    // The probe prints the log a second time.
    let end = lines.iter().position(|line| *line == "root mounted").unwrap();
    let lines = &lines[..=end];
    assert_eq!(lines[3], format!("fetched {base}: {size} bytes"));
    assert_eq!(lines[4], format!("verified {base}"));
    for (name, tries) in
        [("busy/one.cpio.gz", 2), ("plain/two.cpio.zst", 0), ("moved/three.cpio", 0)]
    {
        let url = site.url(name);
        let count = |what: &str| lines.iter().filter(|line| line.starts_with(what)).count();
        assert_eq!(count(&format!("trying {url} again")), tries, "{lines:?}");
        assert_eq!(count(&format!("fetched {url}: ")), 1, "{lines:?}");
        assert_eq!(count(&format!("unpacked {url}")), 1, "{lines:?}");
        assert_eq!(
            count(&format!("verified {url}")),
            usize::from(name.contains("two")),
            "{lines:?}"
        );
    }
    let requests = site.requests();
    assert!(
        requests.contains(&format!("/flaky/base.squashfs 2 bytes={}-\n", size / 2)),
        "{requests}"
    );
}

#[test]
fn thirty_overlays_are_stacked() {
    let site = Site::new();
    site.probe("0.cpio.gz", &[], "cat /srv/* | sort -n | tr '\\n' ' '; echo", "");
    let mut names = vec!["0.cpio.gz".to_owned()];
    // Links to one archive suffice; the last overlay differs.
    for n in 1..29 {
        let name = format!("{n}.cpio.gz");
        std::os::unix::fs::symlink("0.cpio.gz", site.artifact(&name)).unwrap();
        names.push(name);
    }
    site.overlay("29.cpio", &[], "echo 7 >/srv/last");
    names.push("stuck/29.cpio".to_owned());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let line = format!("OVERLAYFS={} init=/probe", site.urls(&names));
    let console = site.boot(&line, &TWO_CARDS);
    assert_eq!(console.probe().trim(), "7");
    // The stalled download is retried, and so is DHCP on the other card.
    assert!(console.0.contains("again in 1 s: no data for 30 s\n"), "{}", console.0);
    assert!(site.requests().contains("/stuck/29.cpio 2 bytes="), "{}", site.requests());
    assert!(console.0.contains("overcoat: no answer to DHCP on "), "{}", console.0);
}

#[test]
fn system_starts_its_services_and_powers_off() {
    let site = Site::new();
    site.system();
    let names = ["system.cpio.gz", "unit.cpio.zst"];
    let console = site.boot(&format!("OVERLAYFS={}", site.urls(&names)), &[]);
    // The kernel modules are available although no layer contains them.
    console.shows(&["10.0.2.15/24", "overlay\nbase\nimages\nlayers\nlog\nmodules\nupper\nwork"]);
    console.shows(&["\nsquashfs\n", "\n755 0:0\n755 0:0\n"]);
    assert!(!console.0.contains("Failed unmounting"), "{}", console.0);
    assert!(console.probe().starts_with("active\n") || console.probe().starts_with("inactive\n"));
    let failed = console.probe().lines().filter(|line| line.contains(".service")).count();
    assert_eq!(failed, 0, "{}", console.0);
}

#[test]
fn https_verifies_certificates_with_the_given_authority() {
    let site = Site::new();
    site.probe("one.cpio.gz", &[], "echo up", "");
    site.stage.sh(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out certificate -days 36500 \
             -subj /CN=boot -addext subjectAltName=IP:10.0.2.2 2>&1
         openssl req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other -days 36500 \
             -subj /CN=boot -addext subjectAltName=IP:10.0.2.2 2>&1",
    );
    let certificate = std::fs::read_to_string(site.stage.path("certificate")).unwrap();
    // Used by this test only, which builds one initrd with them.
    let variables = format!("https: true, ca_certificates: {certificate:?}");
    let variables: &'static str = Box::leak(variables.into_boxed_str());
    let folder = site.stage.path("public");
    let serve_with = |names: [&str; 2]| {
        let paths = names.map(|name| site.stage.path(name));
        let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
        serve(&folder, &paths, &site.stage.path(format!("requests.{}", names[0])))
    };
    let (mut server, port) = serve_with(["certificate", "key"]);
    let (mut stranger, other) = serve_with(["other", "other.key"]);
    let line = |port| {
        format!(
            "BASEFS=https://10.0.2.2:{port}/flaky/base.squashfs \
             OVERLAYFS=https://10.0.2.2:{port}/busy/one.cpio.gz init=/probe"
        )
    };
    let good = site.boot_with(variables, &line(port), &[]);
    let bad = site.boot_with(variables, &line(other), &[]);
    let plain = site.boot(&line(port), &[]);
    for server in [&mut server, &mut stranger] {
        server.kill().unwrap();
        server.wait().unwrap();
    }
    // Kernel messages can appear between the probe's lines.
    assert!(good.probe().lines().any(|line| line == "up"), "{}", good.0);
    let size = std::fs::metadata(site.artifact("base.squashfs")).unwrap().len();
    let requests = std::fs::read_to_string(site.stage.path("requests.certificate")).unwrap();
    assert!(requests.contains(&format!("base.squashfs 2 bytes={}-\n", size / 2)), "{requests}");
    bad.failed("fetch", &["certificate"]);
    plain.failed("fetch", &["this initrd has no curl", "https: true"]);
}
