//! Variables of groups, hosts and roles, compared with those of Ansible.

use std::process::Command;

use serde_json::{Value, json};

use super::*;

/// The roles, the config files and the wrapper playbooks of a tree with an image of each kind.
const IMAGES: &[(&str, &str)] = &[
    ("vars/b.yml", "provisioner: roles/basefs/b\n"),
    ("vars/o.yml", "provisioner: roles/overlay/o\nof_config: config\n"),
    ("vars/i.yml", "provisioner: roles/initrd/i\n"),
    ("roles/basefs/b/tasks/main.yml", TASKS),
    ("roles/overlay/o/tasks/main.yml", TASKS),
    ("roles/initrd/i/tasks/main.yml", "- command: mkinitramfs\n"),
    (
        "common/basefs_wrapper.yml",
        "- hosts: basefs_build_chroot\n  roles: [\"../{{ provisioner }}\"]\n",
    ),
    ("common/overlay_wrapper.yml", "- hosts: gpu\n  roles: [\"../{{ provisioner }}\"]\n"),
];

/// Files with variables of all places.
const VARIABLES: &[(&str, &str)] = &[
    ("group_vars/all.yml", "place: all\nof_all: all\nof_middle: all\ncase: {a: [yes, 0644]}\n"),
    ("group_vars/site", "place: site\nfile_only: 1:30\nof_middle: site\n"),
    ("group_vars/basefs_build_chroot", "kind: base file\nbase_only: yes\n"),
    ("group_vars/gpu/main.yml", "kind: gpu file\nexponent: 7e4\n"),
    ("group_vars/gpu/more.yaml", "octal: 0o22\ncommon: &c {x: 1, y: 2}\nmore: {<<: *c, y: 3}\n"),
    ("group_vars/middle.json", "{\"of_middle\": \"middle file\"}\n"),
    ("group_vars/build_local", "local_only: 1\nkind: local\n"),
    ("host_vars/gpu-root.yml", "of_host: host file\n"),
    ("host_vars/localhost", "of_host: localhost\n"),
];

const INI: &str = "
[build_local]
localhost ansible_connection=local
[basefs_build_chroot]
/tmp/base ansible_connection=chroot of_host=line flag=False listed=\"['a', 'b']\" n=5 t='x y' # no
[gpu]
gpu-root ansible_connection=chroot of_host=line number=010
[initrd_build_env_chroot]
/tmp/initrd ansible_connection=chroot
[overlay_build_chroot:children]
gpu
[all:vars]
place=ini all
shadowed=ini all
[site:vars]
ini_only=yes
shadowed=ini site
none=None
quoted=\"a b\"
words=[\"x\", 'y', 1.5, True]
mapping={'a': {'b': [1, 0x1f]}}
list_without_brackets=80,443
hash=a #b
text={{ place }}
[middle:vars]
shadowed=ini middle
[basefs_build_chroot:vars]
kind=base
shadowed=ini base
[gpu:vars]
kind=gpu
[first:vars]
priority=first
[second:vars]
priority=second
ansible_group_priority=0
[site:children]
build_local
middle
initrd_build_env_chroot
[middle:children]
basefs_build_chroot
overlay_build_chroot
[first]
/tmp/base
[second]
/tmp/base
";

const YAML: &str = "
all:
  vars: {place: yaml all, shadowed: yaml all}
  children:
    site:
      vars: {flag: off, octal: 0755, none: ~, words: [x, 1_000]}
      children:
        build_local: {hosts: {localhost: {ansible_connection: local}}}
        middle:
          vars: {shadowed: yaml middle}
          children:
            basefs_build_chroot:
              hosts: {/tmp/base: {of_host: line, base_host: 22:22}}
              vars: {kind: base}
            overlay_build_chroot:
              children: {gpu: }
        initrd_build_env_chroot: {hosts: /tmp/initrd}
    gpu:
      hosts: {gpu-root: }
      vars: {kind: gpu}
";

/// Returns the variables that Ansible gives to each host.
fn of_ansible(folder: &Path, inventory: &str) -> Value {
    let output = Command::new("ansible-inventory")
        .args(["-i", inventory, "--list"])
        .current_dir(folder)
        .env("HOME", folder)
        .output()
        .expect("Ansible is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    listed["_meta"]["hostvars"].clone()
}

/// Returns the variables of an image as JSON.
fn of_image(project: &Project, name: &str) -> Value {
    let variables = member(project, name).image.variables();
    variables.map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

#[test]
fn images_have_the_variables_that_ansible_gives_to_their_hosts() {
    for (inventory, text) in
        [("hosts", INI), ("hosts.ini", INI), ("hosts.yml", YAML), ("hosts", YAML)]
    {
        let dir = tempfile::tempdir().unwrap();
        write_files(dir.path(), IMAGES);
        write_files(dir.path(), VARIABLES);
        write_files(dir.path(), &[(inventory, text)]);
        let (imported, project) = imported(dir.path(), None);
        let wanted = of_ansible(dir.path(), inventory);
        for (image, host) in [("b", "/tmp/base"), ("o", "gpu-root"), ("i", "/tmp/initrd")] {
            let mut wanted = wanted[host].as_object().unwrap().clone();
            wanted.retain(|name, _| !name.starts_with("ansible_"));
            match image {
                "o" => drop(wanted.insert("of_config".to_owned(), json!("config"))),
                // Its role creates the initrd.
                "i" => drop(wanted.insert("boot_script".to_owned(), json!("local"))),
                _ => {}
            }
            let found = of_image(&project, image);
            assert_eq!(found, Value::Object(wanted), "{inventory} {image}\n{}", imported.text);
        }
        // A variable that all images have with the same value is one of the project.
        let project = imported.text.split("\nimages:").next().unwrap();
        assert!(project.contains("\n  of_all: all\n"), "{}", imported.text);
        for other in ["  kind:", "  of_host:", "  base_only:"] {
            assert!(!project.contains(other), "{}", imported.text);
        }
        assert!(project.contains("no image: local_only."), "{}", imported.text);
    }
}

#[test]
fn variables_of_the_host_around_builds_are_settings() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), IMAGES);
    write_files(
        dir.path(),
        &[
            ("hosts", INI),
            ("group_vars/build_local", "debootstrap_release: trixie\n"),
            ("group_vars/basefs_build_chroot", "debootstrap_release: bookworm\n"),
        ],
    );
    let (imported, project) = imported(dir.path(), None);
    assert!(imported.text.contains("\nrelease: trixie "), "{}", imported.text);
    let Source::Base(Root::Debian(base)) = &member(&project, "b").image.source else { panic!() };
    assert_eq!(base.release, "trixie");
}

#[test]
fn parameters_of_the_role_of_images_override_all_other_variables() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), IMAGES);
    write_files(
        dir.path(),
        &[
            ("group_vars/all.yml", "mode: all\n"),
            ("vars/o.yml", "provisioner: roles/overlay/o\nmode: config\nkept: yes\nlevel: 1\n"),
            (
                "common/overlay_wrapper.yml",
                "- hosts: overlay_build_chroot
  roles:
    - role: \"../{{ provisioner }}\"
      mode: site
      tags: [x]
      when: ok
      vars: {level: 0755}
",
            ),
        ],
    );
    let (imported, project) = imported(dir.path(), None);
    let wanted = json!({"mode": "site", "kept": true, "level": 493});
    assert_eq!(of_image(&project, "o"), wanted, "{}", imported.text);
    assert_eq!(of_image(&project, "b"), json!({"mode": "all"}));
    let note = "common/overlay_wrapper.yml:3: not converted: `when` of the role of the images; \
                write it in the roles";
    assert!(notes(&imported).contains(&note.to_owned()), "{:#?}", notes(&imported));
}

#[test]
fn inventories_that_are_not_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), IMAGES);
    write_files(
        dir.path(),
        &[
            ("hosts", "#!/bin/sh\necho {}\n"),
            ("hosts.yml", "all: [\n"),
            ("hosts.ini", "[all]\nx a='b\n"),
            ("inventory/broken", "# the lab\nall:\n  hosts: [\n"),
            ("inventory.yaml", "- all\n"),
            (
                "inventory/lab",
                "[all:vars]\nof_lab=3\n[gpu]\nx\n[basefs_build_chroot]\ny\n[initrd_build_env_chroot]\nz\n[empty]\n[empty:vars]\nof_empty=1\n[undeclared:vars]\nof_undeclared=2\n",
            ),
            ("group_vars/lab", "in_lab: 1\n"),
            ("group_vars/empty", "in_empty: 1\n"),
            ("group_vars/undeclared", "in_undeclared: 3\n"),
        ],
    );
    let (imported, project) = imported(dir.path(), None);
    let notes = notes(&imported);
    for start in [
        "hosts: not read: it is a program; ",
        "hosts.yml:2: the inventory is not read: ",
        "hosts.ini:2: not read: a quote is not closed",
        "inventory/broken:4: the inventory is not read: ",
        "inventory.yaml: not read: an inventory in YAML is a mapping of groups",
        "group_vars/lab: not converted: the inventory has no group lab, so Ansible does not ",
    ] {
        assert!(notes.iter().any(|note| note.starts_with(start)), "{start}\n{notes:#?}");
    }
    assert_eq!(
        of_image(&project, "b"),
        json!({"of_lab": 3, "of_undeclared": 2, "in_undeclared": 3})
    );
}
