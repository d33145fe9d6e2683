//! apt in a sandbox, with the host's settings for package sources.

use crate::support::{Lab, ServedTree, at_both_privileges, lab, plan, shell};
use overcoat::root::lay_mount_points;
use overcoat::root::lend::Loans;
use overcoat::sandbox::{Bind, Network, Plan, default_environment};

fn lab(mut plan: Plan) -> Lab {
    let tree = ServedTree::base(plan.privilege.max_uid());
    lay_mount_points(&tree.mounted_tree, &plan).unwrap();
    let mut loans = Loans::new(&tree.mounted_tree, &plan, None).unwrap();
    plan.hostname = loans.refresh(&tree.mounted_tree).unwrap().hostname;
    Lab::with(plan, tree)
}

fn ok(lab: &Lab, script: &str) -> String {
    let mut spec = shell(script);
    spec.env = default_environment(std::env::vars_os());
    let (status, output) = lab.run_spec(spec);
    assert!(status.success(), "{script}\n{status}\n{output}");
    output
}

#[test]
fn apt_uses_the_host_settings_and_services_do_not_start() {
    at_both_privileges(|| {
        let lab = lab(Plan { network: Network::None, ..plan() });
        let dump = ok(&lab, "apt-config dump APT::Sandbox::User");
        assert_eq!(dump, "APT::Sandbox::User \"root\";\n");
        assert_eq!(ok(&lab, "policy-rc.d x start; echo $?"), "101\n");
        assert!(ok(&lab, "getent hosts $(hostname)").starts_with("127.0.1.1 "));
        lab.end();
    });
}

/// Installs packages with daemons and users from the lab's repository.
#[test]
fn apt_installs_packages_from_a_bound_folder() {
    at_both_privileges(|| {
        let repository = lab::file("repo");
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
