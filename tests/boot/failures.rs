//! Boots that must fail, each with its phase and an actionable message.

use std::fs;

use crate::machine::Site;

#[test]
fn fetch_verify_mount_and_network_failures_are_reported() {
    let site = Site::new();
    let wrong = "7".repeat(64);
    let base = site.url("base.squashfs");

    let console = site.boot("BASEFS=http://10.0.2.2:9/base.squashfs", &[]);
    console.failed("fetch", &["http://10.0.2.2:9/base.squashfs", "refused", "tried 3 times"]);
    assert_eq!(console.lines().iter().filter(|line| line.starts_with("trying ")).count(), 2);

    // With a static address, for a card that has another name here.
    let line = "ip=10.0.2.77::10.0.2.2:255.255.255.0::eth7:off";
    let console = site.boot(&format!("BASEFS={} {line}", site.url("nowhere")), &[]);
    console.failed("fetch", &["/nowhere", "404"]);
    assert!(
        console.0.contains(" 10.0.2.77 netmask 255.255.255.0 gateway 10.0.2.2"),
        "{}",
        console.0
    );
    assert!(!console.0.contains("overcoat: trying"), "{}", console.0);

    let line = format!("BASEFS_SHA256={wrong}");
    site.boot(&line, &[]).failed("verify", &[&base, &site.digest("base.squashfs"), &wrong]);
    site.boot("BASEFS_SHA256=12", &[]).failed("verify", &["invalid SHA-256 12"]);
    site.boot("BASEFS_SHA256=", &[]).failed("verify", &["BASEFS_SHA256= has no digest"]);

    fs::write(site.artifact("page"), "<html>").unwrap();
    site.boot(&format!("BASEFS={}", site.url("page")), &[]).failed("mount", &["not a squashfs"]);

    let console = site.boot("BASEFS= OVERCOAT_ON_FAILURE=poweroff", &[]);
    console.failed("fetch", &["has no BASEFS="]);
    assert!(console.0.contains("reboot: Power down"), "{}", console.0);
    site.boot("BOOTIF=01-52-54-00-00-00-99", &[]).failed(
        "network",
        &["no interface has the address", "52:54:00:00:00:99", "52:54:00:12:34:56"],
    );
    let nowhere = ["-netdev", "hubport,id=n1,hubid=1", "-device", "virtio-net-pci,netdev=n1"];
    site.boot("", &nowhere).failed("network", &["no answer to DHCP"]);
}

#[test]
fn damaged_or_too_large_overlays_and_missing_init_are_reported() {
    let site = Site::new();
    site.overlay("whole.cpio.gz", &[], "head -c 3000000 /dev/urandom >/srv/noise");
    site.overlay("noinit.cpio.gz", &[], "mkdir -p /sbin; echo >/sbin/init; chmod 755 /sbin/init");
    site.overlay("removes.cpio.zst", &["noinit.cpio.gz"], "rm /sbin/init");
    site.overlay("large.cpio.gz", &[], "head -c 400000000 /dev/zero >/srv/zeros");
    site.stage.sh("cd public; gzip -dc whole.cpio.gz >whole.cpio; zstd -q whole.cpio
         for s in cpio cpio.gz cpio.zst; do head -c 1500000 whole.$s >cut.$s; done
         at=$(grep -abo TRAILER whole.cpio | tail -n 1 | cut -d: -f1)
         head -c $((at - 110)) whole.cpio >noend.cpio
         mkdir in; echo >evil; (cd in; echo ../evil | cpio --quiet -o -H newc) | gzip >out.cpio.gz
         echo '<html>' | gzip >page.gz; echo '<html>' >page
         truncate -s 3G huge");
    site.overlay(
        "small.cpio.gz",
        &[],
        "mkdir /srv/s; cd /srv/s; for n in $(seq 40000); do echo >$n; done",
    );
    let boot = |overlay: &str, line: &str, machine: &[&str]| {
        site.boot(&format!("OVERLAYFS={} {line}", site.url(overlay)), machine)
    };
    for (name, message) in [
        ("cut.cpio", "short read"),
        ("cut.cpio.gz", "damaged: gzip: unexpected end of file"),
        ("cut.cpio.zst", "damaged: zstd: Read error"),
        ("noend.cpio", "truncated: the archive has no trailer"),
        ("out.cpio.gz", "../evil: a path outside of the overlay"),
        ("page", "neither gzip, zstd nor a newc cpio archive"),
        ("page.gz", "contains no newc cpio archive"),
    ] {
        boot(name, "", &[]).failed("unpack", &[&site.url(name), message]);
    }
    boot("large.cpio.gz", "", &["-m", "512M"])
        .failed("unpack", &["not enough space: 382 MiB are needed", "add RAM"]);
    boot("huge", "", &[]).failed("fetch", &["not enough space: 3072 MiB are needed", "add RAM"]);
    boot("large.cpio.gz", "OVERCOAT_SIZE=200M", &[])
        .failed("unpack", &["not enough space: 382 MiB are needed", "OVERCOAT_SIZE="]);

    // Each file takes a page.
    boot("small.cpio.gz", "OVERCOAT_SIZE=160M", &[])
        .failed("unpack", &["not enough space: more than ", "MiB are needed"]);
    // The number of inodes is limited to half the number of pages.
    boot("small.cpio.gz", "", &["-m", "256M"]).failed("unpack", &["not enough space: "]);

    let pair = site.urls(&["noinit.cpio.gz", "removes.cpio.zst"]);
    let console = site.boot(&format!("OVERLAYFS={pair}"), &[]);
    let message = format!(
        "/sbin/init does not exist: {} removes /usr/sbin/init",
        site.url("removes.cpio.zst")
    );
    console.failed("init", &[&message]);
    boot("noinit.cpio.gz", "init=/no/such", &[])
        .failed("init", &["/no/such does not exist: no layer"]);
}
