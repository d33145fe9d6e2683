//! apt inside, by the way that the host has to its package sources.

mod support;

use overcoat::sandbox::{Bind, Host, Network, Plan, ScratchFile, When, default_environment};
use support::{Lab, MemFs, at_both_privileges, make_mount_points, plan, shell};

fn lab(plan: Plan) -> Lab {
    let fs = MemFs::from_tar(&support::base(), plan.privilege.max_uid());
    make_mount_points(&plan, &fs);
    for ScratchFile { path, content, mode, when } in Host::current().scratch_files(&plan) {
        let mut tree = fs.lock();
        if when == When::Always || tree.find(path.to_str().unwrap()).is_none() {
            tree.file(&path, &content, mode as u16);
        }
    }
    Lab::with(plan, fs)
}

fn ok(lab: &Lab, script: &str) -> String {
    let mut spec = shell(script);
    spec.env = default_environment(std::env::vars_os());
    let (status, output) = lab.run_spec(spec);
    assert!(status.success(), "{script}\n{status}\n{output}");
    output
}

#[test]
fn apt_reads_the_hosts_settings_and_services_stay_off() {
    at_both_privileges("apt_reads_the_hosts_settings_and_services_stay_off", || {
        let lab = lab(Plan { network: Network::None, ..plan() });
        let dump = ok(&lab, "apt-config dump APT::Sandbox::User");
        assert_eq!(dump, "APT::Sandbox::User \"root\";\n");
        assert_eq!(ok(&lab, "policy-rc.d x start; echo $?"), "101\n");
        assert_eq!(ok(&lab, "getent hosts overcoat | tr -s ' '"), "127.0.0.1 localhost overcoat\n");
        lab.end();
    });
}

/// Packages with daemons and users, from the repository beside the base.
#[test]
fn apt_installs_packages_from_a_bound_folder() {
    at_both_privileges("apt_installs_packages_from_a_bound_folder", || {
        let repository = support::base().with_file_name("repo");
        assert!(repository.is_dir(), "the tests need packages at {}", repository.display());
        let mut plan = Plan { network: Network::None, ..plan() };
        plan.binds.push(Bind { host: repository, inside: "/repo".into(), read_only: true });
        let lab = lab(plan);
        let output = ok(
            &lab,
            "
            echo 'deb [trusted=yes] file:/repo ./' > /etc/apt/sources.list
            apt-get update -qq && apt-get install -y --no-install-recommends lldpd lsscsi
        ",
        );
        for trouble in ["Failed", "error", "Running in chroot", "Operation not permitted"] {
            assert!(!output.contains(trouble), "{trouble}\n{output}");
        }
        assert!(ok(&lab, "getent passwd _lldpd").starts_with("_lldpd:"));
        ok(&lab, "lsscsi --version 2>&1; test -x /usr/sbin/lldpd; ! pgrep lldpd");
        lab.end();
    });
}

/// Needs a network, which a test may not take for granted: `--ignored` runs it.
#[test]
#[ignore = "needs the network"]
fn apt_updates_from_the_network() {
    at_both_privileges("apt_updates_from_the_network", || {
        let lab = lab(plan());
        let output = ok(
            &lab,
            "
            echo 'deb http://deb.debian.org/debian bookworm main' > /etc/apt/sources.list
            apt-get update && apt-get install -y --no-install-recommends hello && hello
        ",
        );
        assert!(output.contains("Hello, world!"), "{output}");
        let https = ok(
            &lab,
            "python3 -c '
import urllib.request
print(urllib.request.urlopen(\"https://deb.debian.org/debian/\").status)'",
        );
        assert_eq!(https, "200\n");
        lab.end();
    });
}
