//! What the user has to do after an import, and what `fixes` leaves to the user.

use super::*;

/// The text of a file after all fixes.
fn fixed(folder: &Path, file: &str) -> String {
    let changes = fixes(folder).unwrap();
    let change = changes.into_iter().find(|change| change.file == Path::new(file));
    change.map_or_else(|| fs::read_to_string(folder.join(file)).unwrap(), |change| change.after)
}

#[test]
fn names_in_loops_get_braces_only_if_something_defines_them() {
    let file = "roles/overlay/discovery/tasks/main.yml";
    let sources = [
        "in_globals",
        "in_group_folder",
        "in_host",
        "in_inventory",
        "in_config",
        "in_other_config",
        "in_defaults",
        "in_vars",
        "in_included",
        "set_as_fact",
        "registered",
        "of_block",
        "given_to_role",
        "ansible_mounts",
    ];
    let mut text = "- block:
    - set_fact: set_as_fact=x
    - include_vars: more.yml
    - command: x
      register: registered
  vars: {of_block: [x]}
"
    .to_owned();
    for name in sources.iter().chain(&["lshw", "true", "not_included"]) {
        text.push_str(&format!("- command: x\n  with_items: {name}\n"));
    }
    let wrapper = "- hosts: overlay_build_chroot
  roles:
    - ../{{ provisioner }}
    - {role: ../roles/site, given_to_role: [x]}
";
    let dir = tree(&[
        (file, text.as_str()),
        ("group_vars/all/main.yml", "in_group_folder: [x]\n"),
        ("group_vars/other.json", "{\"in_globals\": [1]}\n"),
        ("host_vars/localhost", "in_host: [x]\n"),
        ("hosts", "[all:vars]\nin_inventory=x\n"),
        ("vars/discovery.yml", "provisioner: roles/overlay/discovery\nin_config: [x]\n"),
        ("vars/syslinux.yml", "in_other_config: [x]\n"),
        ("roles/overlay/discovery/defaults/main.yml", "in_defaults: [x]\n"),
        ("roles/overlay/discovery/vars/main.yml", "in_vars: [x]\n"),
        ("roles/overlay/discovery/files/more.yml", "in_included: [x]\n"),
        ("roles/overlay/discovery/files/other.yml", "not_included: [x]\n"),
        ("roles/site/tasks/main.yml", TASKS),
        ("common/overlay_wrapper.yml", wrapper),
    ]);
    let mut wanted = text.clone();
    for name in sources {
        let (old, new) =
            (format!("with_items: {name}\n"), format!("with_items: \"{{{{ {name} }}}}\"\n"));
        wanted = wanted.replace(&old, &new);
    }
    assert_eq!(fixed(dir.path(), file), wanted);
    let (imported, _) = imported(dir.path(), None);
    let of_lshw: Vec<_> = notes(&imported).into_iter().filter(|n| n.contains("lshw")).collect();
    let note = format!(
        "{file}:36: `with_items: lshw` is one item; if it is meant as a variable, write \
         `with_items: \"{{{{ lshw }}}}\"`"
    );
    assert_eq!(of_lshw, [note]);
}

#[test]
fn literal_item_does_not_change_the_choice_of_a_role() {
    let role = "- command: x\n  with_items: lshw\n";
    let dir = tree(&[
        ("roles/overlay/one/tasks/main.yml", role),
        ("roles/overlay/other/tasks/main.yml", "- debug: {msg: '{{ size }}'}\n"),
        ("vars/one.yml", "# provisioner: roles/overlay/one\nsize: 1\n"),
    ]);
    let (_, project) = imported(dir.path(), None);
    assert_eq!(member(&project, "one").image.provisioners[0].name(), "one");
}

#[test]
fn tree_of_an_old_release_has_packages_of_supported_releases() {
    for (release, is_old) in
        [("trusty", true), ("precise", true), ("stretch", true), ("noble", false)]
    {
        let globals = format!(
            "apt_server: archive.ubuntu.com\ndebootstrap_release: {release}\n\
             debootstrap_apt_server: http://{{{{ apt_server }}}}/ubuntu\nmy_kernel_version: 3.16\n"
        );
        let tasks = format!("- apt_repository: repo='deb http://x/ {release} main'\n");
        let dir = tree(&[
            ("group_vars/on_imagebuild", globals.as_str()),
            ("roles/overlay/flash/tasks/main.yml", tasks.as_str()),
        ]);
        let (imported, project) = imported(dir.path(), None);
        let Source::Base(Root::Debian(base)) = &member(&project, "basefs").image.source else {
            panic!("no base")
        };
        let packages = ["python3", "python3-apt", "systemd-sysv", "udev", "kmod", "dbus"];
        assert_eq!(base.packages, packages, "{release}");
        let text = imported.text.replace("\n# ", " ");
        let advice = format!(
            "Check: {release} is end of life: current mirrors do not have it, or its Python is \
             too old for Ansible. Write a supported release, such as noble, for each {release} in \
             this file, and delete this comment. Write the version of a kernel of that release to \
             my_kernel_version, and wherever else this file has the old one. For a release of Debian, such as bookworm, also delete `mirror`"
        );
        assert_eq!(text.contains(&advice), is_old, "{text}");
        let note = format!(
            "roles/overlay/flash/tasks/main.yml:1: `{release}` is end of life: write the release \
             of the project"
        );
        assert_eq!(notes(&imported).contains(&note), is_old, "{:#?}", notes(&imported));
    }
}

#[test]
fn files_that_are_not_converted_are_noted() {
    let dir = tree(&[
        ("roles/strange/tasks/main.yml", TASKS),
        ("vars/kind.yml", "provisioner: roles/strange\n"),
        ("vars/secret.yml", "$ANSIBLE_VAULT;1.1;AES256\n6162\n"),
        ("vars/yaml.yml", "provisioner: roles/overlay/flash\na: [\n"),
        ("group_vars/all/main.yml", "of_all: 1\n"),
        ("group_vars/all/more.json", "{\"of_json\": 2}\n"),
        ("host_vars/localhost.yml", "of_host: 3\n"),
    ]);
    let (imported, project) = imported(dir.path(), None);
    let notes = notes(&imported);
    let add = ", then add it with `overcoat import --add`";
    for (start, end) in [
        ("vars/kind.yml: left out: the kind of roles/strange is unknown", add),
        ("vars/lost.yml: left out: its provisioner roles/overlay/lost has no", add),
        ("vars/secret.yml: left out: it is encrypted; decrypt it with `ansible-vault", add),
        ("vars/yaml.yml:3: left out: ", add),
        ("host_vars/localhost.yml: not converted: variables of a host in which no", "project"),
    ] {
        let found = notes.iter().filter(|note| note.starts_with(start) && note.ends_with(end));
        assert_eq!(found.count(), 1, "{start}\n{notes:#?}");
    }
    let given: Vec<&str> = member(&project, "flash").image.variables().map(|(n, _)| n).collect();
    assert!(["of_all", "of_json"].iter().all(|name| given.contains(name)), "{given:?}");
}

#[test]
fn variables_of_roles_on_the_host_are_explained() {
    let dir = tree(&[
        ("common/ipxe_builder.yml", "- hosts: build_local\n  roles: [../roles/ipxe]\n"),
        ("roles/ipxe/tasks/main.yml", "- git: repo=x version={{ gitbranch }}\n"),
        ("vars/ipxe.yml", "gitbranch: master\n"),
    ]);
    let (imported, _) = imported(dir.path(), None);
    let reason = "vars/ipxe.yml: left out: it sets variables that only roles/ipxe uses, which \
                  common/ipxe_builder.yml runs on the host";
    assert!(accounts(&imported).contains(&reason.to_owned()), "{:#?}", accounts(&imported));
    // A role of an image uses it, too.
    write_files(
        dir.path(),
        &[("roles/overlay/flash/tasks/main.yml", "- debug: {msg: '{{ gitbranch }}'}\n")],
    );
    let accounts = accounts(&import(dir.path(), None).unwrap());
    let reason = "vars/ipxe.yml: left out: it names no provisioner; to make an image";
    assert!(accounts.iter().any(|account| account.starts_with(reason)), "{accounts:#?}");
}

#[test]
fn variables_that_are_left_out_are_listed_with_their_reasons() {
    let dir = tree(&[("group_vars/all.yml", "ansible_user: root\nodd-name: 1\n")]);
    let text = import(dir.path(), None).unwrap().text;
    for line in [
        "# Left out because overcoat sets them: build_artifact_path, ansible_user.\n",
        "# Left out because no role uses them: overlayfs_lower_dir, ",
        "# Left out because their names are invalid, also in Ansible: odd-name.\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

#[test]
fn image_without_its_config_file_is_recognised_by_its_role() {
    let dir = tree(&[]);
    let (first, _) = imported(dir.path(), None);
    let edited = first.text.replace("    config_file: vars/flash.yml\n", "");
    assert_ne!(edited, first.text);
    let same = add(dir.path(), &edited, None).unwrap();
    assert_eq!((same.images.len(), same.not_added.len()), (0, 0));
    assert!(!notes(&same).iter().any(|note| note.contains("not added")), "{:#?}", notes(&same));
    let other =
        edited.replace("provisioner: roles/overlay/flash", "provisioner: roles/overlay/discovery");
    assert_ne!(other, edited);
    let other = add(dir.path(), &other, None).unwrap();
    assert_eq!(other.not_added, [Path::new("vars/flash.yml")]);
    let note = "vars/flash.yml: not added: the project has another image flash; rename that image \
                or this file, then run `overcoat import --add` again";
    assert!(notes(&other).contains(&note.to_owned()), "{:#?}", notes(&other));
}

#[test]
fn added_lines_have_the_line_ends_of_the_project() {
    let dir = tree(&[]);
    let projects = [
        "release: bookworm\nimages:\n  basefs:\n    kind: base\n    config_file: vars/basefs.yml\n",
        "release: bookworm\nimages: {}\noutput: x\n",
        "release: bookworm\n",
        "release: bookworm\nimages:\n  basefs: {kind: base, config_file: vars/basefs.yml}",
    ];
    for project in projects {
        let with_lf = add(dir.path(), project, None).unwrap().text;
        assert!(!with_lf.contains('\r'));
        let with_crlf = add(dir.path(), &project.replace('\n', "\r\n"), None).unwrap().text;
        assert_eq!(with_crlf, with_lf.replace('\n', "\r\n"));
    }
}

#[test]
fn added_overlays_are_built_on_the_base_that_the_project_uses() {
    let more = [
        ("vars/more.yml", "provisioner: roles/overlay/more\n"),
        ("roles/overlay/more/tasks/main.yml", TASKS),
    ];
    for base in ["../base.squashfs", "/srv/base.squashfs", "./base.squashfs"] {
        let dir = tree(&[]);
        let (first, _) = imported(dir.path(), Some(base));
        write_files(dir.path(), &[("base.squashfs", "x")]);
        write_files(dir.path(), &more);
        let added = add(dir.path(), &first.text, None).unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert_eq!(added.images, ["more"]);
        let image = format!("\n  more:\n    kind: overlay\n    base: {base}\n");
        assert!(added.text.contains(&image), "{}", added.text);
        let account = format!("vars/basefs.yml: left out: {base} is the base");
        assert!(accounts(&added).contains(&account), "{:#?}", accounts(&added));
    }
    // A path that an import wrote for a tree without a base is no base.
    let dir = tree(&[]);
    let project = "release: bookworm\nimages:\n  discovery:\n    base: ./base.squashfs\n    config_file: vars/discovery.yml\n";
    let added = add(dir.path(), project, None).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert!(added.images.contains(&"basefs".to_owned()), "{:?}", added.images);
}

#[test]
fn added_base_has_the_release_that_the_project_lacks() {
    let dir = tree(&[]);
    let project =
        "images:\n  discovery:\n    base: ./base.squashfs\n    config_file: vars/discovery.yml\n";
    let added = add(dir.path(), project, None).unwrap_or_else(|e| panic!("{}", chain(&e)));
    let image = "\n  basefs:\n    kind: base\n    release: bookworm\n";
    assert!(added.text.contains(image), "{}", added.text);
    // A release of the project stays.
    let project = format!("release: trixie\n{project}");
    let added = add(dir.path(), &project, None).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(added.text.matches("release:").count(), 1, "{}", added.text);
    // The tree has no release.
    write_files(dir.path(), &[("group_vars/on_imagebuild", "apt_server: cache\n")]);
    let added = add(dir.path(), "images: {}\n", None).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert!(
        added.text.contains("    # Check: there is no debootstrap_release.\n"),
        "{}",
        added.text
    );
}

#[test]
fn mistake_of_the_user_in_a_project_is_not_one_of_the_import() {
    let dir = tree(&[]);
    let project = "images:\n  own:\n    kind: base\n    variant: minbase\n";
    let error = chain(&add(dir.path(), project, None).unwrap_err());
    assert!(
        error.contains("overcoat.yml:3:5: images.own: the key `release` is missing"),
        "{error}"
    );
    assert!(!error.contains("generated"), "{error}");
}

#[test]
fn report_names_images_as_the_project_does() {
    let dir = tree(&[("roles/overlay/discovery/tasks/main.yml", "- copy: src=lost dest=/x\n")]);
    let (first, _) = imported(dir.path(), None);
    let edited = first.text.replace("\n  discovery:\n", "\n  scan:\n");
    assert_ne!(edited, first.text);
    let added = add(dir.path(), &edited, None).unwrap_or_else(|e| panic!("{}", chain(&e)));
    for account in ["roles/overlay/discovery: runs in scan", "vars/discovery.yml: image scan"] {
        assert!(accounts(&added).contains(&account.to_owned()), "{:#?}", accounts(&added));
    }
    let notes = notes(&added);
    assert!(notes.iter().any(|note| note.contains("image scan: the file of `copy`")), "{notes:#?}");
    assert!(!notes.iter().any(|note| note.contains("image discovery")), "{notes:#?}");
}

#[test]
fn file_that_is_not_yaml_has_one_note() {
    let broken = "- command: x\n- copy: a: b\n";
    let dir = tree(&[
        ("roles/overlay/discovery/tasks/main.yml", broken),
        ("roles/overlay/forgotten/tasks/main.yml", broken),
    ]);
    let notes = notes(&imported(dir.path(), None).0);
    for (role, text) in [("discovery", "invalid YAML: "), ("forgotten", "not searched for ")] {
        let of_role: Vec<_> = notes.iter().filter(|note| note.contains(role)).collect();
        assert!(of_role.len() == 1 && of_role[0].contains(text), "{notes:#?}");
    }
}

#[test]
fn config_file_with_a_merged_mapping_is_copied_with_its_entries() {
    let dir = tree(&[(
        "vars/flash.yml",
        "common: &c {a: 1, b: 2}\nmerged: {<<: *c, b: 3}\nlisted: {b: 4, <<: [{a: 5}, *c]}\n",
    )]);
    let (imported, project) = imported(dir.path(), None);
    let variables = member(&project, "flash").image.variables();
    let values: BTreeMap<&str, String> =
        variables.map(|(name, value)| (name, value.to_string())).collect();
    assert_eq!(values["merged"], "{\"a\":1,\"b\":3}", "{}", imported.text);
    assert_eq!(values["listed"], "{\"a\":5,\"b\":4}");
    let text = imported.text.replace("\n    # ", " ");
    assert!(text.contains("(it has a key `<<`)"), "{text}");
}

#[test]
fn files_that_roles_copy_from_the_playbooks_are_searched() {
    let dir = tree(&[
        (
            "roles/basefs/root/tasks/main.yml",
            "- copy: src=\"{{ playbook_dir }}/files/rc.local\" dest=/etc/rc.local mode=0755\n",
        ),
        (
            "common/files/rc.local",
            "#!/bin/sh\nCB=$(cat /proc/cmdline)\nCB=${CB##*API_CB=}\ncurl $CB | sh ||\n  \
             echo b >/proc/sysrq-trigger\n",
        ),
        ("common/templates/mount.j2", "#!/bin/sh\nmodprobe overlayfs\n"),
        ("common/files/data", "no script\n"),
    ]);
    let reset = "common/files/rc.local:5: may reset the machine, depending on `API_CB=` of the kernel \
                 command line, which `overcoat boot` does not send: boot with `overcoat boot NAME \
                 --append API_CB=VALUE`, or without the script by `--append \
                 systemd.mask=rc-local.service`";
    let of_common = |imported: &Imported| -> Vec<String> {
        notes(imported).into_iter().filter(|note| note.starts_with("common/")).collect()
    };
    let (first, _) = imported(dir.path(), None);
    let clean = "common/tasks/clean_fs.yml:1: not converted: this task runs in the root of each image: \
                 write it in a role";
    let module = "common/templates/mount.j2:2: the module `overlayfs` is named `overlay` since Linux \
                  3.18";
    assert_eq!(of_common(&first), [reset, clean, module]);
    for change in fixes(dir.path()).unwrap() {
        fs::write(dir.path().join(&change.file), change.after).unwrap();
    }
    // The role names the file by its own directory now.
    assert_eq!(of_common(&imported(dir.path(), None).0), [reset, clean]);
}

#[test]
fn broken_task_files_of_the_wrappers_are_noted_and_the_clean_up_stays() {
    let broken = "- command: apt-get clean\n- file: path=/usr/share/doc state: absent\n";
    let dir = tree(&[
        ("common/tasks/clean_fs.yml", broken),
        ("common/tasks/mount_overlay.yml", broken),
        ("common/overlay_wrapper.yml", "- hosts: build_local\n  roles: [../roles/build_rootfs]\n"),
        ("roles/build_rootfs/tasks/main.yml", broken),
    ]);
    let (imported, _) = imported(dir.path(), None);
    let found = notes(&imported);
    for (start, end) in [
        (
            "common/tasks/clean_fs.yml:2: not converted: `cleanup` is that of on-imagebuilder; correct \
             the file and import the tree again with --force: ",
            "",
        ),
        ("common/tasks/mount_overlay.yml:2: the tasks are not converted: ", ""),
        ("roles/build_rootfs/tasks/main.yml:2: the tasks are not converted: ", ""),
    ] {
        let of_file: Vec<_> =
            found.iter().filter(|n| n.starts_with(start) && n.ends_with(end)).collect();
        assert_eq!(of_file.len(), 1, "{start}\n{found:#?}");
    }
    assert!(
        imported.text.contains("\ncleanup: {docs: true, locales: true}\n"),
        "{}",
        imported.text
    );
    let text = imported.text.replace("\n# ", " ");
    assert!(text.contains("That of this tree has a mistake and was not read."), "{text}");
}

#[test]
fn advice_about_playbooks_applies_to_their_text() {
    let wrapper = "- host: build_local
  strategy: free
  tasks:
    - shell: uname -r | grep '3.16'
      register: kernel
    - shell: uname -r > /srv/kernel
    - command: uname -m
- hosts: overlay_build_chroot
  register: x
  roles: ['../{{ provisioner }}']
";
    let dir = tree(&[("common/overlay_wrapper.yml", wrapper)]);
    let notes = notes(&imported(dir.path(), None).0);
    let of_wrapper: Vec<_> = notes.iter().filter(|note| note.contains("overlay_wrapper")).collect();
    let wanted = [
        "1: `host` is not a key of a play: correct or delete it",
        "2: not converted: `strategy` of this play; if a role needs it, write the same in its tasks",
        "6: not converted: this task runs on the host around each build: write it in a script with \
         `outside: true`",
        "9: `register` is not a key of a play: correct or delete it",
    ];
    assert_eq!(
        of_wrapper,
        wanted.map(|text| format!("common/overlay_wrapper.yml:{text}")).each_ref()
    );
}

#[test]
fn directory_for_artifacts_in_the_root_is_noted() {
    let tasks = "- file: path={{ build_artifact_path }} state=directory
- local_action: command cp {{ build_root }}/x {{ build_artifact_path }}/x
";
    let dir = tree(&[("roles/overlay/flash/tasks/main.yml", tasks)]);
    let notes = notes(&imported(dir.path(), None).0);
    let found: Vec<_> = notes.iter().filter(|note| note.contains("build_artifact_path")).collect();
    let wanted = "roles/overlay/flash/tasks/main.yml:1: `build_artifact_path` is a directory of the \
                  host, and this task runs in the root, so the path becomes a part of the image: \
                  delete this task, because overcoat creates the directory on the host";
    assert_eq!(found, [wanted]);
}
