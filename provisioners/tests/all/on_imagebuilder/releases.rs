//! Imports of trees of old releases: what differs in the release that the user chooses.

use super::*;

/// Variables for all images of a tree of a release of Ubuntu, or of Debian.
fn globals(release: &str, more: &str) -> String {
    let name = if ["trusty", "noble"].contains(&release) { "ubuntu" } else { "debian" };
    format!(
        "apt_server: archive.example.org\ndebootstrap_release: {release}\n\
         debootstrap_apt_server: http://{{{{ apt_server }}}}/{name}\n{more}"
    )
}

#[test]
fn kernel_versions_of_config_files_are_named() {
    for (config, own, names) in [
        ("", "", "my_kernel_version"),
        (
            "initrd_kernel_version: 3.16.0-30\n",
            "",
            "initrd_kernel_version in vars/initrd.yml, my_kernel_version",
        ),
        // The version is that of the other variable.
        ("initrd_kernel_version: '{{ my_kernel_version }}'\n", "", "my_kernel_version"),
        // The project has a copy of the variables.
        (
            "initrd_kernel_version: 3.16.0-30\nother: yes\n",
            "",
            "initrd_kernel_version, my_kernel_version",
        ),
        ("", "other_kernel_version: '{{ my_kernel_version }}'\n", "my_kernel_version"),
    ] {
        let dir = tree(&[
            (
                "group_vars/on_imagebuild",
                &globals("trusty", &format!("my_kernel_version: '3'\n{own}")),
            ),
            ("vars/initrd.yml", &format!("provisioner: roles/initrd/own\n{config}")),
        ]);
        let text = import(dir.path(), None).unwrap().text.replace("\n# ", " ");
        let advice = format!("a kernel of that release to {names}, and wherever else this file");
        assert!(text.contains(&advice), "{config}{text}");
    }
}

#[test]
fn packages_of_ubuntu_are_named_with_those_of_debian() {
    let config = "packages:
  - {package: linux-firmware, version: '1.127.*'}
  - {package: lib32gcc1, version: '1:4.9'}
  - {package: lib32z1, version: '1'}
other: [linux-firmware]
";
    let tasks = "- apt: name=nodejs-legacy
- apt: {name: [lib32bz2-1.0, curl]}
- apt: {name: lib32ncurses5, state: absent}
- apt: pkg={{ item }}
  with_items: [linux-generic]
";
    let renamed = [
        "roles/overlay/flash/tasks/main.yml:1: the package `nodejs-legacy` has another name now: write \
         `nodejs`",
        "vars/flash.yml:3: the package `lib32gcc1` has another name now: write `lib32gcc-s1`",
    ];
    let of_ubuntu = [
        "roles/overlay/flash/tasks/main.yml:2: `lib32bz2-1.0` is a package of Ubuntu: for Debian write \
         libbz2-1.0:i386, and run `dpkg --add-architecture i386` before",
        "roles/overlay/flash/tasks/main.yml:5: `linux-generic` is a package of Ubuntu: for Debian write \
         linux-image-amd64",
        "vars/flash.yml:2: `linux-firmware` is a package of Ubuntu: for Debian write \
         firmware-linux-free, or firmware-linux of the component non-free-firmware",
    ];
    for (release, has_all) in [("trusty", true), ("bookworm", true), ("noble", false)] {
        let dir = tree(&[
            ("group_vars/on_imagebuild", &globals(release, "")),
            ("vars/flash.yml", config),
            ("roles/overlay/flash/tasks/main.yml", tasks),
        ]);
        let mut wanted = renamed.to_vec();
        if has_all {
            wanted.extend(of_ubuntu);
        }
        wanted.sort_unstable();
        let notes = notes(&imported(dir.path(), None).0);
        let found: Vec<_> = notes.iter().filter(|n| n.contains("package")).collect();
        assert_eq!(found, wanted, "{release}");
    }
}

#[test]
fn archives_that_the_base_has_and_components_of_ubuntu_are_named() {
    let again = |suites: &str| {
        format!(
            "the base has {suites} already: delete the line, because apt warns of archives that are \
             configured twice."
        )
    };
    let debian = "For a release of Debian, write its components (main, contrib, non-free, \
                  non-free-firmware) instead of Ubuntu's universe.";
    let list = "list: 'deb http://{{ apt_server }}/ubuntu/'\nlists:\n";
    let lines = |lines: &[&str]| {
        let lines = lines.iter().map(|line| format!("  - {{line: \"{line}\"}}\n"));
        format!("{list}{}", lines.collect::<String>())
    };
    for (release, more, wanted) in [
        (
            "trusty",
            lines(&["{{ list }} trusty-updates main", "{{ list }} trusty universe"]),
            format!("{} {debian}", again("trusty-updates")),
        ),
        (
            "noble",
            lines(&["{{ list }} {{ debootstrap_release }} main", "{{ list }} noble-security main"]),
            again("noble, noble-security"),
        ),
        // Other components, another archive, and a release of Ubuntu that stays.
        ("noble", lines(&["{{ list }} noble-updates main universe"]), String::new()),
        ("trusty", lines(&["deb http://other/ubuntu trusty-updates main"]), String::new()),
        ("trusty", lines(&["deb http://archive.example.org/ubuntu trusty ./"]), String::new()),
        (
            "noble",
            "debootstrap_components: main,universe\nlists: [deb http://archive.example.org/ubuntu \
             noble-updates universe]\n"
                .to_owned(),
            again("noble-updates"),
        ),
    ] {
        let dir = tree(&[("group_vars/on_imagebuild", &globals(release, &more))]);
        let text = imported(dir.path(), None).0.text.replace("\n  # ", " ");
        let comment = format!(" Check: {wanted}\n  lists:");
        let has_any = text.contains("configured twice") || text.contains("Ubuntu's universe");
        assert_eq!(
            (text.contains(&comment), has_any),
            (!wanted.is_empty(), !wanted.is_empty()),
            "{text}"
        );
    }
    // A variable of one kind of images.
    let line = "lists: [deb http://archive.example.org/ubuntu noble-updates main]\n";
    let dir = tree(&[
        ("group_vars/on_imagebuild", &globals("noble", "")),
        ("group_vars/overlay_build_chroot", line),
    ]);
    let text = imported(dir.path(), None).0.text.replace("\n      # ", " ");
    let comment = format!(" Check: {}\n      lists:", again("noble-updates"));
    assert!(text.contains(&comment), "{text}");
    // In a role, and in a config file.
    let line = "deb http://archive.example.org/debian bookworm-updates main";
    let dir = tree(&[
        ("group_vars/on_imagebuild", &globals("bookworm", "")),
        (
            "roles/overlay/flash/tasks/main.yml",
            &format!("- lineinfile: dest=/x line=\"{line}\" create=yes\n"),
        ),
        ("roles/overlay/flash/templates/x.list", &format!("# {line}\n{line}\n")),
        ("vars/flash.yml", &format!("own: {line}\n")),
    ]);
    let notes = notes(&imported(dir.path(), None).0);
    let text = again("bookworm-updates");
    for place in [
        "roles/overlay/flash/tasks/main.yml:1",
        "roles/overlay/flash/templates/x.list:2",
        "vars/flash.yml:1",
    ] {
        assert!(notes.contains(&format!("{place}: {text}")), "{place} {notes:#?}");
    }
    assert_eq!(notes.iter().filter(|note| note.contains("configured twice")).count(), 3);
}
