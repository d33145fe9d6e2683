//! Imports of on-imagebuilder trees.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{chain, write_files};
use provisioners::image::{Format, Root, Source};
use provisioners::on_imagebuilder::{self, ImportError, Imported, fixes, import};
use provisioners::project::Member;
use provisioners::{FILE_NAME, Project};

mod groups;
mod initrds;
mod releases;
mod to_do;

const TASKS: &str = "- command: touch /srv/x\n";

/// A tree like the original: two bases, overlays, an initrd, and variables of the wrapper
/// playbooks.
const TREE: &[(&str, &str)] = &[
    (
        "hosts",
        "[build_local]\nlocalhost ansible_connection=local\n\n[on_imagebuild:vars]\n\
         # where\nbuild_artifact_path=/srv/builds\noverlayfs_build_root=/tmp/overlay\n\
         overlayfs_lower_dir=/tmp/lower\n",
    ),
    (
        "group_vars/on_imagebuild",
        "apt_server: cache:3142\ndebootstrap_release: bookworm\ndebootstrap_arch: amd64\n\
         debootstrap_apt_server: http://{{ apt_server }}/debian\n\
         debootstrap_variant: \"--variant=minbase\"\nkernel_version: 6.1.0-28\n\
         ansible_dependencies: \"python,python-apt\"\n\
         basefs_image_name: \"base.{{ debootstrap_release }}.squashfs.img\"\n\
         repositories:\n  - {dest: /etc/apt/sources.list, line: \"deb http://{{ apt_server }}/debian x main\"}\n\
         wants_docs: no\nfile_mode: 0640\n",
    ),
    ("vars/basefs.yml", "provisioner: roles/basefs/root\nbuild_root: '{{ basefs_build_root }}'\n"),
    (
        "vars/basefs-full.yml",
        "provisioner: roles/basefs/root\nbasefs_image_name: full.squashfs.img\n\
         debootstrap_variant: \" \"\n",
    ),
    (
        "vars/discovery.yml",
        "provisioner: roles/overlay/discovery\noverlayfs_archive_name: discovery.overlay.cpio\n",
    ),
    (
        "vars/oem/raid.yml",
        "# provisioner: roles/oem/overlay/raid\nbasefs_image_name: full.squashfs.img\ntools: yes\n",
    ),
    ("vars/flash.yml", "device: 5\n"),
    (
        "vars/initrd.yml",
        "provisioner: roles/initrd/own\ninitrd_kernel_version: '{{ kernel_version }}'\n",
    ),
    ("vars/syslinux.yml", "gittag: syslinux-4.04\n"),
    ("vars/lost.yml", "provisioner: roles/overlay/lost\n"),
    (
        "build.sh",
        "#!/bin/sh\nansible-playbook -i hosts common/overlay_wrapper.yml \\\n  -e \"config_file=vars/flash.yml \\\n  provisioner=roles/overlay/flash\"\n",
    ),
    ("roles/basefs/root/tasks/main.yml", TASKS),
    (
        "roles/overlay/discovery/tasks/main.yml",
        "- local_action: command touch {{ overlayfs_build_root }}/x\n",
    ),
    ("roles/oem/overlay/raid/tasks/main.yml", "- {command: \"true\", sudo: yes}\n"),
    ("roles/overlay/flash/tasks/main.yml", TASKS),
    (
        "roles/initrd/own/tasks/main.yml",
        "- command: apt-get install -y linux-image-{{ initrd_kernel_version }}\n",
    ),
    ("common/tasks/clean_fs.yml", TASKS),
];

fn tree(more: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), TREE);
    write_files(dir.path(), more);
    dir
}

fn imported(folder: &Path, base: Option<&str>) -> (Imported, Project) {
    let imported = import(folder, base).unwrap_or_else(|e| panic!("{}", chain(&e)));
    fs::write(folder.join("overcoat.yml"), &imported.text).unwrap();
    let project = Project::load(&folder.join("overcoat.yml"));
    let project = project.unwrap_or_else(|e| panic!("{}\n{}", chain(&e), imported.text));
    (imported, project)
}

fn add(folder: &Path, text: &str, base: Option<&str>) -> Result<Imported, ImportError> {
    on_imagebuilder::add(folder, &folder.join("overcoat.yml"), text, base)
}

fn member<'a>(project: &'a Project, name: &str) -> &'a Member {
    &project.images()[project.find(name).unwrap()]
}

fn names<'a>(project: &'a Project, places: &[usize]) -> Vec<&'a str> {
    places.iter().map(|index| project.images()[*index].name.as_str()).collect()
}

fn output(member: &Member) -> (&str, Format) {
    let (path, format) = &member.image.outputs[0];
    (path.to_str().unwrap(), *format)
}

fn notes(imported: &Imported) -> Vec<String> {
    imported.notes.iter().map(ToString::to_string).collect()
}

fn accounts(imported: &Imported) -> Vec<String> {
    let shown = imported.accounts.iter().map(|a| format!("{}: {}", a.path.display(), a.text));
    shown.collect()
}

#[test]
fn tree_becomes_a_valid_project() {
    let dir = tree(&[]);
    let (imported, project) = imported(dir.path(), None);
    let kinds: Vec<_> = project.images().iter().map(|m| (m.name.as_str(), m.kind())).collect();
    let wanted = [
        ("basefs", "base"),
        ("basefs-full", "base"),
        ("discovery", "overlay"),
        ("flash", "overlay"),
        ("raid", "overlay"),
        ("initrd", "initrd"),
    ];
    assert_eq!(kinds, wanted);
    assert_eq!(imported.images, wanted.map(|(name, _)| name));
    assert_eq!(project.output, Path::new("/srv/builds"));
    let base = |name: &str| match &member(&project, name).image.source {
        Source::Base(Root::Debian(debian)) => debian.clone(),
        other => panic!("{other:?}"),
    };
    let small = base("basefs");
    assert_eq!(small.release, "bookworm");
    let mirrors = [
        "http://cache:3142/debian",
        "deb http://cache:3142/debian bookworm-updates main",
        "deb http://cache:3142/debian-security bookworm-security main",
    ];
    assert_eq!(small.mirrors, mirrors);
    assert_eq!(small.architecture.as_deref(), Some("amd64"));
    assert_eq!(
        (small.variant.as_str(), base("basefs-full").variant.as_str()),
        ("minbase", "important")
    );
    let packages = ["python3", "python3-apt", "systemd-sysv", "udev", "kmod", "dbus"];
    assert_eq!(small.packages, packages);
    assert_eq!(
        output(member(&project, "basefs")),
        ("/srv/builds/base.bookworm.squashfs.img", Format::Squashfs)
    );
    assert_eq!(
        output(member(&project, "discovery")),
        ("/srv/builds/discovery.overlay.cpio.gz", Format::CpioGz)
    );
    assert_eq!(output(member(&project, "flash")), ("/srv/builds/flash.cpio.gz", Format::CpioGz));
    // The base is selected by the name of its image.
    for (name, base) in [("discovery", "basefs"), ("raid", "basefs-full"), ("initrd", "basefs")] {
        assert_eq!(names(&project, &member(&project, name).needs), [base], "{name}");
    }
    let Source::Initrd { yields, .. } = &member(&project, "initrd").image.source else { panic!() };
    let yields: Vec<_> = yields.iter().map(|y| (y.name.as_str(), y.pattern.as_str())).collect();
    let wanted = [
        ("vmlinuz-6.1.0-28", "/boot/vmlinuz-6.1.0-28"),
        ("initrd.img-6.1.0-28", "/boot/initrd.img-6.1.0-28"),
    ];
    assert_eq!(yields, wanted);
    let provisioners = |name: &str| -> Vec<String> {
        member(&project, name).image.provisioners.iter().map(|p| p.name()).collect()
    };
    assert_eq!(provisioners("raid"), ["raid"]);
    assert_eq!(provisioners("initrd"), ["own", "initrd"]);
}

#[test]
fn variables_have_the_same_values_as_in_ansible() {
    let dir = tree(&[]);
    let (imported, project) = imported(dir.path(), None);
    let variables = member(&project, "raid").image.variables();
    let values: BTreeMap<&str, String> =
        variables.map(|(name, value)| (name, value.to_string())).collect();
    let value = |name: &str| values.get(name).map(|text| text.trim_matches('"'));
    assert_eq!(value("wants_docs"), Some("false"));
    assert_eq!(value("file_mode"), Some("416"));
    assert_eq!(value("tools"), Some("true"));
    assert_eq!(value("kernel_version"), Some("6.1.0-28"));
    let line =
        r#"[{"dest":"/etc/apt/sources.list","line":"deb http://{{ apt_server }}/debian x main"}]"#;
    assert_eq!(value("repositories"), Some(line));
    // Converted to a setting, but also kept because a role uses it.
    assert_eq!(value("apt_server"), Some("cache:3142"));
    assert_eq!(value("overlayfs_build_root"), Some("{{ build_root }}"));
    for gone in ["overlayfs_lower_dir", "build_artifact_path", "ansible_dependencies"] {
        assert_eq!(value(gone), None, "{gone}");
        assert!(imported.text.contains(gone), "{gone}");
    }
    // A variable of the image.
    assert_eq!(value("basefs_image_name"), Some("full.squashfs.img"));
}

#[test]
fn omitted_files_and_obsolete_syntax_are_noted() {
    let dir = tree(&[
        ("group_vars/secret.yml", "$ANSIBLE_VAULT;1.1;AES256\n6162\n"),
        ("roles/overlay/flash/vars/main.yml", "own: 1\ndevice: 6\n"),
    ]);
    let (imported, _) = imported(dir.path(), None);
    assert_eq!(
        notes(&imported),
        [
            "common/tasks/clean_fs.yml:1: not converted: this task runs in the root of each image: \
             write it in a role",
            "group_vars/secret.yml: left out: it is encrypted; copy its variables to `variables` of \
             the project, or read it in a role",
            "roles/oem/overlay/raid/tasks/main.yml:1: `sudo` was removed from Ansible: write \
             `become: true`",
            "roles/overlay/flash/vars/main.yml:2: `device` is also in vars/flash.yml, which takes \
             precedence here: remove it from one of them",
            "vars/lost.yml: left out: its provisioner roles/overlay/lost has no tasks/main.yml; name \
             the directory of a role, then add it with `overcoat import --add`",
        ]
    );
    let wanted = [
        "roles/basefs/root: runs in basefs, basefs-full",
        "roles/initrd/own: runs in initrd",
        "roles/oem/overlay/raid: runs in raid",
        "roles/overlay/discovery: runs in discovery",
        "roles/overlay/flash: runs in flash",
        "vars/basefs-full.yml: image basefs-full",
        "vars/basefs.yml: image basefs",
        "vars/discovery.yml: image discovery",
        "vars/flash.yml: image flash",
        "vars/initrd.yml: image initrd",
        "vars/lost.yml: left out: its provisioner roles/overlay/lost has no tasks/main.yml",
        "vars/oem/raid.yml: image raid",
        "vars/syslinux.yml: left out: it names no provisioner; to make an image of it, write \
         `provisioner: roles/overlay/NAME` in it",
    ];
    assert_eq!(accounts(&imported), wanted);
}

/// The wrapper playbooks of the original tree, with what a site added to them.
const WRAPPERS: &[(&str, &str)] = &[
    (
        "common/overlay_wrapper.yml",
        "- hosts: build_local
  tasks:
    - include: tasks/mount_overlay.yml
    - shell: logger the build begins
- hosts: overlay_build_chroot
  roles:
    - ../roles/site/first
    - ../{{ provisioner }}
    - role: ../roles/site/last
  post_tasks:
    - include: tasks/clean_fs.yml
    - copy: content=x dest=/etc/site
- hosts: build_local
  roles:
    - ../roles/overlay/build_overlay_archive
",
    ),
    (
        "common/tools.yml",
        "- hosts: build_local
  roles: [../roles/ipxe]
",
    ),
    (
        "common/tasks/mount_overlay.yml",
        "- shell: mount -t squashfs {{ squashfs_image_path }} {{ overlayfs_lower_dir }}
- file: {path: '{{ overlayfs_build_root }}/etc/site', state: directory}
",
    ),
    (
        "common/tasks/clean_fs.yml",
        "- command: apt-get clean
- file: path={{ item }} state=absent
  with_items:
    - /usr/share/doc
    - /var/lib/apt/lists
    - /opt/build
- file: path=/etc/motd state=absent
- command: rm -rf /srv
",
    ),
    ("roles/site/first/tasks/main.yml", TASKS),
    ("roles/site/last/tasks/main.yml", TASKS),
    ("roles/ipxe/tasks/main.yml", TASKS),
    (
        "roles/overlay/build_overlay_archive/tasks/main.yml",
        "- shell: find . | cpio -o >{{ build_artifact_path }}/x\n- get_url: {url: http://x/y, dest: /srv}\n",
    ),
];

#[test]
fn additions_to_wrapper_playbooks_run_in_each_image_or_are_noted() {
    let dir = tree(WRAPPERS);
    let (imported, project) = imported(dir.path(), None);
    let provisioners = |name: &str| -> Vec<String> {
        member(&project, name).image.provisioners.iter().map(|p| p.name()).collect()
    };
    assert_eq!(provisioners("discovery"), ["first", "discovery", "last"]);
    assert_eq!(provisioners("basefs"), ["root"]);
    assert!(imported.text.contains("\ncleanup: {docs: true}\n"), "{}", imported.text);
    let host = "not converted: this task runs on the host around each build: write it in a script \
                with `outside: true`";
    let root = "not converted: this task runs in the root of each image: write it in a role";
    let remove = |path: &str| {
        format!("not converted: removes {path}; write a script that removes it in a role")
    };
    let wanted = [
        format!("common/overlay_wrapper.yml:4: {host}"),
        format!("common/overlay_wrapper.yml:12: {root}"),
        format!("common/tasks/clean_fs.yml:6: {}", remove("/opt/build")),
        format!("common/tasks/clean_fs.yml:7: {}", remove("/etc/motd")),
        format!("common/tasks/clean_fs.yml:8: {root}"),
        format!("common/tasks/mount_overlay.yml:2: {host}"),
        format!("roles/overlay/build_overlay_archive/tasks/main.yml:2: {host}"),
    ];
    let of_wrappers = |note: &String| note.contains("not converted");
    assert_eq!(notes(&imported).into_iter().filter(of_wrappers).collect::<Vec<_>>(), wanted);
    for account in [
        "roles/ipxe: left out: common/tools.yml runs it on the host, for no image",
        "roles/overlay/build_overlay_archive: left out: overcoat does this part of \
         common/overlay_wrapper.yml",
        "roles/site/last: runs in discovery, flash, raid",
    ] {
        assert!(accounts(&imported).contains(&account.to_owned()), "{:#?}", accounts(&imported));
    }
}

#[test]
fn parameters_that_a_site_added_to_wrappers_and_scripts_are_noted() {
    let dir = tree(&[
        (
            "common/overlay_wrapper.yml",
            "- hosts: overlay_build_chroot
  vars_files:
    - ../{{ config_file }}
    - ../vars/site.yml
  environment: {http_proxy: http://proxy}
  roles:
    - ../{{ provisioner }}
    - {role: ../roles/site/last, tag: x, when: ansible_distribution == 'Ubuntu'}
",
        ),
        // A wrapper of the site, which a script runs for one image.
        (
            "common/gpu_wrapper.yml",
            "- hosts: overlay_build_chroot
  roles:
    - ../{{ provisioner }}
    - ../roles/site/gpu
",
        ),
        (
            "gpu.sh",
            "ansible-playbook common/gpu_wrapper.yml -e 'config_file=vars/gpu.yml provisioner=roles/overlay/flash level=3'\n",
        ),
        ("vars/gpu.yml", "x: 1\n"),
        ("roles/site/last/tasks/main.yml", TASKS),
        ("roles/site/gpu/tasks/main.yml", TASKS),
    ]);
    let (imported, project) = imported(dir.path(), None);
    let provisioners = |name: &str| -> Vec<String> {
        member(&project, name).image.provisioners.iter().map(|p| p.name()).collect()
    };
    assert_eq!(provisioners("gpu"), ["flash", "gpu"]);
    assert_eq!(provisioners("discovery"), ["discovery", "last"]);
    for note in [
        "common/overlay_wrapper.yml:4: not converted: the variables of vars/site.yml; add them \
         to the `variables` of the project",
        "common/overlay_wrapper.yml:5: not converted: `environment` of this play; write it as \
         `environment` of the tasks, or of a block around them, in the roles that need it",
        "common/overlay_wrapper.yml:8: not converted: `tag`, `when` of this role; set variables in \
         `variables` of the images, and conditions in the role",
        "gpu.sh: not converted: the variable level=3 for vars/gpu.yml; add it to the `variables` \
         of the image",
    ] {
        assert!(notes(&imported).contains(&note.to_owned()), "{note}\n{:#?}", notes(&imported));
    }
}

#[test]
fn empty_directories_of_roles_are_no_error() {
    let dir = tree(&[]);
    for part in ["files", "templates/more"] {
        fs::create_dir_all(dir.path().join("roles/overlay/discovery").join(part)).unwrap();
    }
    imported(dir.path(), None);
}

#[test]
fn role_that_no_config_file_names_is_searched_for_obsolete_syntax() {
    let role = "- apt: name={{ item }} state=installed\n  with_items: packages\n";
    let dir = tree(&[("roles/overlay/forgotten/tasks/main.yml", role)]);
    let (imported, _) = imported(dir.path(), None);
    let account = "roles/overlay/forgotten: not used: no config file names it";
    assert!(accounts(&imported).contains(&account.to_owned()));
    let of_role = notes(&imported).into_iter().filter(|note| note.contains("forgotten"));
    assert_eq!(of_role.count(), 2);
}

#[test]
fn comment_that_names_a_role_for_other_variables_is_not_followed() {
    let role = |name: &str| format!("- debug: {{msg: \"{{{{ {name}_packages | length }}}}\"}}\n");
    let raid = "# provisioner: roles/overlay/raid\n";
    let dir = tree(&[
        ("roles/overlay/raid/tasks/main.yml", &role("raid")),
        ("roles/overlay/erase/tasks/main.yml", &role("erase")),
        ("vars/r.yml", &format!("{raid}raid_packages: [x]\n")),
        ("vars/e.yml", &format!("{raid}erase_packages: [x]\n")),
        ("vars/none.yml", &format!("{raid}other: 1\n")),
        ("vars/key.yml", "provisioner: roles/overlay/raid\nerase_packages: [x]\n"),
    ]);
    let (imported, project) = imported(dir.path(), None);
    let provisioner = |name: &str| member(&project, name).image.provisioners[0].name();
    let chosen = ["r", "e", "none", "key"].map(provisioner);
    assert_eq!(chosen, ["raid", "erase", "raid", "raid"]);
    let lacks = "roles/overlay/raid uses `raid_packages`, which no file sets";
    for note in [
        "roles/overlay/raid/tasks/main.yml:1: images key, none: `raid_packages` is not defined: add \
         it to `variables` of the project"
            .to_owned(),
        format!("vars/key.yml: {lacks}; the variables of roles/overlay/erase are all set"),
    ] {
        assert!(notes(&imported).contains(&note), "{note}\n{:#?}", notes(&imported));
    }
    assert!(!notes(&imported).iter().any(|note| note.starts_with("vars/r.yml")));
    // A choice that was made is not in the list of things to do.
    assert!(!notes(&imported).iter().any(|note| note.starts_with("vars/e.yml")));
    let account = format!(
        "vars/e.yml: image e; {lacks}: roles/overlay/erase is used instead, because its variables \
         are all set"
    );
    assert!(accounts(&imported).contains(&account), "{:#?}", accounts(&imported));
    let comment = "    # Chosen by its variables. The config file names roles/overlay/raid.\n    \
                   provisioner: roles/overlay/erase\n";
    assert!(imported.text.contains(comment), "{}", imported.text);
}

#[test]
fn images_with_sshd_generate_host_keys() {
    let dir = tree(&[
        ("roles/basefs/root/tasks/main.yml", "- apt: name=openssh-server\n"),
        ("vars/flash.yml", "packages: [openssh-server]\n"),
    ]);
    let (_, project) = imported(dir.path(), None);
    let has = |name: &str| {
        let provisioners = &member(&project, name).image.provisioners;
        provisioners.iter().any(|p| p.name() == "ssh-host-keys")
    };
    assert_eq!(["basefs", "flash", "discovery"].map(has), [true, true, false]);
}

#[test]
fn roles_of_the_first_versions_have_a_kind_by_name() {
    let dir = tempfile::tempdir().unwrap();
    write_files(
        dir.path(),
        &[
            ("vars/b.yml", "provisioner: roles/provision_rootfs\n"),
            ("vars/i.yml", "provisioner: roles/provision_initrd\n"),
            ("vars/o.yml", "provisioner: roles/provision_raid_overlay\n"),
            ("vars/x.yml", "provisioner: roles/other\n"),
            ("roles/provision_rootfs/tasks/main.yml", TASKS),
            ("roles/provision_initrd/tasks/main.yml", TASKS),
            ("roles/provision_raid_overlay/tasks/main.yml", TASKS),
            ("roles/other/tasks/main.yml", TASKS),
        ],
    );
    let (imported, project) = imported(dir.path(), None);
    let kinds: Vec<_> = project.images().iter().map(|m| (m.name.as_str(), m.kind())).collect();
    assert_eq!(kinds, [("b", "base"), ("o", "overlay"), ("i", "initrd")]);
    let accounts = accounts(&imported);
    assert!(
        accounts.iter().any(|a| a.starts_with("vars/x.yml: left out: the kind of roles/other"))
    );
}

#[test]
fn fixes_change_only_obsolete_lines_and_solve_their_notes() {
    let dir = tree(&[
        (
            "roles/oem/overlay/raid/tasks/main.yml",
            "# keep: this\n- {command: \"true\", sudo: yes}\n- apt: pkg=x state=installed\n",
        ),
        ("roles/oem/overlay/raid/files/boot", "#!/bin/sh\nmodprobe overlayfs\n"),
        ("vars/flash.yml", "flash_packages: [python-yaml] # keep\n"),
    ]);
    let changes = fixes(dir.path()).unwrap();
    let changed: Vec<_> = changes.iter().map(|c| (c.file.to_str().unwrap(), &*c.after)).collect();
    let wanted = [
        ("roles/oem/overlay/raid/files/boot", "#!/bin/sh\nmodprobe overlay\n"),
        (
            "roles/oem/overlay/raid/tasks/main.yml",
            "# keep: this\n- {command: \"true\", become: yes}\n- apt: pkg=x state=present\n",
        ),
        ("vars/flash.yml", "flash_packages: [python3-yaml] # keep\n"),
    ];
    assert_eq!(changed, wanted);
    assert_eq!(import(dir.path(), None).unwrap().notes.iter().filter(|n| n.has_fix).count(), 4);
    for change in changes {
        fs::write(dir.path().join(&change.file), change.after).unwrap();
    }
    assert_eq!(fixes(dir.path()).unwrap(), []);
    assert!(import(dir.path(), None).unwrap().notes.iter().all(|note| !note.has_fix));
}

#[test]
fn config_files_are_added_to_an_edited_project() {
    let dir = tree(&[]);
    let (first, _) = imported(dir.path(), None);
    // The base and its comments were edited, and a key follows the images.
    let edited = first
        .text
        .replace("  basefs:\n", "  # mine\n  small:\n")
        .replace("base: basefs\n", "base: small\n")
        .replace("\n  flash:\n", "\n  flash: # renamed below\n")
        + "\n# network\nnetwork: host\n";
    write_files(
        dir.path(),
        &[
            ("vars/more.yml", "provisioner: roles/overlay/more\nsize: 5\n"),
            (
                "roles/overlay/more/tasks/main.yml",
                "- debug: {msg: \"{{ wants_docs }} {{ late }}\"}\n",
            ),
            ("group_vars/late.yml", "late: 1\n"),
        ],
    );
    let added = add(dir.path(), &edited, None).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(added.images, ["more"]);
    let (start, end) = ("\n  more:\n", "\n# network\n");
    let start = added.text.find(start).unwrap();
    let end = added.text.find(end).unwrap();
    assert_eq!(format!("{}{}", &added.text[..start], &added.text[end..]), edited);
    fs::write(dir.path().join("overcoat.yml"), &added.text).unwrap();
    let project = Project::load(&dir.path().join("overcoat.yml")).unwrap();
    assert_eq!(names(&project, &member(&project, "more").needs), ["small"]);
    let note = "overcoat.yml: `variables` lacks `late`, which roles may use";
    assert!(notes(&added).contains(&note.to_owned()), "{:#?}", notes(&added));
    // Another indentation is kept, and braces are rejected with advice.
    let base = "release: bookworm\nimages:\n    small:\n        kind: base\n        \
                config_file: vars/basefs.yml\n    other: {base: small}\n";
    let indented = add(dir.path(), base, None).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert!(indented.text.starts_with(base), "{}", indented.text);
    assert!(indented.text.contains("\n    more:\n      kind: overlay\n"), "{}", indented.text);
    for flow in ["images: {one: {base: ./b}}\n", "{images: {one: {base: ./b}}}\n"] {
        let error = chain(&add(dir.path(), flow, None).unwrap_err());
        assert!(error.contains("write each image on lines of its own"), "{error}");
    }
    for empty in ["images: {}\n", "images:\n# end\n", "output: x\n"] {
        let project = format!("release: bookworm\n{empty}");
        let added = add(dir.path(), &project, None).unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert_eq!(added.images.len(), 7, "{}", added.text);
    }
    // The mark of the end of the document stays at the end.
    for before in [base, "---\nrelease: bookworm\n"] {
        let with_mark = format!("{before}...\n");
        let added = add(dir.path(), &with_mark, None).unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert!(added.text.starts_with(before), "{}", added.text);
        assert!(
            added.text.contains("  more:\n") && added.text.ends_with("\n...\n"),
            "{}",
            added.text
        );
    }
    // There is nothing more to add.
    let again = add(dir.path(), &added.text, None).unwrap();
    assert_eq!((again.text, again.images), (added.text, vec![]));
}

#[test]
fn encrypted_variables_are_named_and_the_others_read() {
    let vault = "$ANSIBLE_VAULT;1.1;AES256\n          6132\n";
    let globals = format!(
        "debootstrap_release: bullseye\nsecret: !vault |\n          {vault}text: !unsafe '{{{{ x'\n\
         again: 1\nagain: 2\n"
    );
    let dir = tree(&[("group_vars/site", &globals), ("group_vars/zz.yml", "a: [\n")]);
    let (imported, project) = imported(dir.path(), None);
    let notes = notes(&imported);
    let note = "group_vars/site:2: left out: `secret` is encrypted; write it to `variables` of the \
                project, or read it in a role";
    assert!(notes.contains(&note.to_owned()), "{notes:#?}");
    assert!(notes.iter().any(|n| n.starts_with("group_vars/zz.yml:2: left out: ")), "{notes:#?}");
    assert!(imported.text.contains("release: bullseye"), "{}", imported.text);
    assert!(!imported.text.contains("VAULT"), "{}", imported.text);
    assert_eq!(names(&project, &member(&project, "discovery").needs), ["basefs"]);
}

#[test]
fn existing_base_replaces_bases_of_the_tree() {
    let dir = tree(&[]);
    let (imported, project) = imported(dir.path(), Some("../base.squashfs"));
    assert_eq!(imported.images, ["discovery", "flash", "raid", "initrd"]);
    for member in project.images() {
        let layers = member.image.source.layers().unwrap().paths();
        assert_eq!(layers, [dir.path().join("../base.squashfs")]);
    }
    let account = "vars/basefs.yml: left out: ../base.squashfs is the base";
    assert!(accounts(&imported).contains(&account.to_owned()));
}

#[test]
fn tree_without_base_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    write_files(
        dir.path(),
        &[
            ("vars/a.yml", "provisioner: roles/overlay/a\n"),
            ("vars/a.yaml", "provisioner: roles/overlay/a\n"),
            ("vars/x/a.yml", "provisioner: roles/overlay/a\n"),
            ("roles/overlay/a/tasks/main.yml", TASKS),
        ],
    );
    let (imported, project) = imported(dir.path(), None);
    assert_eq!(imported.images, ["a", "a-2", "x-a"]);
    assert_eq!(project.output, dir.path().join("build"));
    // The comments in the project file are in the list of things to do.
    assert_eq!(notes(&imported), [] as [&str; 0]);
    let comment =
        "    # Check: the tree has no base. Write the path of an image, or import with the";
    assert_eq!(imported.text.matches(comment).count(), 3, "{}", imported.text);
}

#[test]
fn outputs_of_images_get_unique_names() {
    let dir = tempfile::tempdir().unwrap();
    let role = |name: &str| (format!("roles/{name}/r/tasks/main.yml"), "- command: mkinitramfs\n");
    let roles = [role("basefs"), role("overlay"), role("initrd")];
    let mut files: Vec<(&str, &str)> = roles.iter().map(|(p, t)| (p.as_str(), *t)).collect();
    files.extend([
        ("group_vars/all.yml", "basefs_image_name: x.img\noverlayfs_archive_name: y\n"),
        ("vars/b1.yml", "provisioner: roles/basefs/r\n"),
        ("vars/b2.yml", "provisioner: roles/basefs/r\n"),
        ("vars/o1.yml", "provisioner: roles/overlay/r\n"),
        ("vars/o2.yml", "provisioner: roles/overlay/r\n"),
        ("vars/i1.yml", "provisioner: roles/initrd/r\n"),
        ("vars/i2.yml", "provisioner: roles/initrd/r\n"),
    ]);
    write_files(dir.path(), &files);
    let (imported, project) = imported(dir.path(), None);
    assert_eq!(imported.images, ["b1", "b2", "o1", "o2", "i1", "i2"]);
    // No library:initrd is added to a role that creates an initrd.
    assert_eq!(member(&project, "i1").image.provisioners.len(), 1);
    assert!(imported.text.contains("release: bookworm"), "{}", imported.text);
}

#[test]
fn folder_that_is_not_a_tree_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let error = |folder: &Path| chain(&import(folder, None).expect_err("not a tree"));
    assert!(error(dir.path()).contains("it lacks the directory roles/"), "{}", error(dir.path()));
    write_files(dir.path(), &[("roles/overlay/a/tasks/main.yml", TASKS), ("vars/a.yml", "x: 1\n")]);
    let text = error(dir.path());
    assert!(text.contains("vars/a.yml: it names no provisioner"), "{text}");
    assert!(!dir.path().join(FILE_NAME).exists());
}
