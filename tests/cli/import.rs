//! `import` of an on-imagebuilder tree, and builds of the project at both privileges, with
//! unchanged roles and the real `ansible-playbook`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::snapshot::{self, Transcript};
use crate::support::stage::{BOTH_USERS, EPOCH, Finished, Stage, Who, finish};

const BASE: &str = r#"---
- name: sources
  lineinfile: {path: /etc/apt/sources.list, line: "{{ item.line }}", create: true}
  loop: "{{ repository_lists }}"
- name: the hosts file
  lineinfile:
    dest: /etc/hosts
    line: 127.0.1.1 {{ host }}
    create: yes
- name: the name
  copy: {content: "{{ host }}\n", dest: /etc/hostname}
- name: a user
  user: name=monorail shell=/bin/sh uid=4242 system=no
- name: folders
  file: path={{ item }} state=directory mode=0777
  with_items:
    - /opt/downloads
    - '{{ extra_path }}'
- name: for the boot server
  local_action: command cp {{ build_root }}/etc/debian_version {{ build_artifact_path }}/version
"#;

const OVERLAY: &str = r#"---
- name: Update apt cache
  apt: update_cache=yes
- name: Install required packages
  apt: name="{{ item.package }}={{ item.version }}"
  with_items: "{{ discovery_overlay_package_manifest }}"
- name: another way to
  package: {name: [ethtool], state: present}
- include_tasks: files.yml
- name: a service
  service: {name: smartmontools, enabled: false}
- name: from the web
  get_url: {url: "{{ tool_url }}", dest: /opt/tool, mode: "0755"}
- name: from a file
  get_url: {url: "file:///etc/debian_version", dest: /opt/version}
- name: what is asked for
  command: cat /opt/version
  register: version
  changed_when: false
- name: a shell with more of it
  shell: |
    echo "{{ version.stdout }} {{ ansible_distribution }}" >/opt/facts
    chown monorail:adm /opt/facts
- name: on the host, in the tree of the root
  shell: echo {{ overlayfs_archive_name }} >{{ overlayfs_build_root }}/opt/delegated
  delegate_to: localhost
"#;

const FILES: &str = r#"- name: a hook
  copy: {src: rc.local.hooks, dest: /opt/rc.local.hooks, mode: "0755", owner: monorail, group: adm}
- name: a template
  template: {src: discovery.conf.j2, dest: /etc/discovery.conf, mode: "0640"}
  notify: [notified]
- name: not here
  file: {path: /opt/unwanted, state: touch}
  when: not wanted | bool
"#;

/// Writes a tree in the layout of on-imagebuilder, whose artifacts are written to `artifacts`.
fn tree(stage: &Stage, name: &str, artifacts: &Path, tool_url: &str) -> PathBuf {
    let write = |path: &str, text: &str| stage.write(format!("{name}/{path}"), text);
    let root = "/tmp/on-imagebuilder";
    write(
        "hosts",
        &format!(
            "[build_local]\nlocalhost ansible_connection=local\n\n\
             [overlay_build_chroot]\n{root}/overlay/root ansible_connection=chroot\n\n\
             [on_imagebuild:vars]\nbasefs_build_root={root}/base/rootfs\n\
             overlayfs_build_root={root}/overlay/root\noverlayfs_lower_dir={root}/overlay/lower\n\
             build_artifact_path={}\n",
            artifacts.display()
        ),
    );
    write(
        "group_vars/on_imagebuild",
        &format!(
            "apt_server: archive.example.org\ndebootstrap_release: bookworm\n\
             debootstrap_variant: \"--variant=minbase\"\n\
             debootstrap_apt_server: http://{{{{ apt_server }}}}/debian\n\
             ansible_dependencies: \"python,python-apt\"\n\
             repository_lists:\n  - {{line: \"deb [trusted=yes] file:/repo ./\"}}\n\
             host: monorail-micro\nwanted: yes\ntool_url: {tool_url}\n"
        ),
    );
    write(
        "vars/basefs.yml",
        "provisioner: roles/basefs/provision_rootfs\nbuild_root: '{{ basefs_build_root }}'\n\
         build_root_size: 1000m\nextra_path: /opt/drivers\n",
    );
    // Ansible accepts `keep: yes` as a boolean; a project does not.
    write(
        "vars/discovery_overlay.yml",
        "provisioner: roles/overlay/provision_discovery_overlay\nkeep: yes\n\
         overlayfs_archive_name: \"discovery.overlay.cpio\"\n\
         discovery_overlay_package_manifest:\n  - { package: \"lsscsi\", version: \"*\" }\n  \
         - { package: \"smartmontools\", version: \"*\" }\n",
    );
    write("vars/small.yml", "# provisioner: roles/overlay/small\ngreeting: of the config file\n");
    write("roles/basefs/provision_rootfs/tasks/main.yml", "- import_tasks: provision.yml\n");
    write("roles/basefs/provision_rootfs/tasks/provision.yml", BASE);
    let overlay = |path: &str, text: &str| {
        write(&format!("roles/overlay/provision_discovery_overlay/{path}"), text)
    };
    overlay("tasks/main.yml", OVERLAY);
    overlay("tasks/files.yml", FILES);
    overlay("files/rc.local.hooks", "#!/bin/sh\n");
    overlay("templates/discovery.conf.j2", "{{ host }} {{ level }} {{ keep }}\n");
    overlay("handlers/main.yml", "- {name: notified, shell: \"echo notified >/opt/notified\"}\n");
    overlay("defaults/main.yml", "level: 3\nhost: nobody\n");
    overlay("meta/main.yml", "dependencies:\n  - {role: overlay/common, common: given}\n");
    write(
        "roles/overlay/common/tasks/main.yml",
        "- {copy: {content: \"{{ common }}\\n\", dest: /opt/common}}\n",
    );
    write(
        "roles/overlay/small/tasks/main.yml",
        "- {copy: {content: \"{{ greeting }}\\n\", dest: /etc/motd}}\n",
    );
    write("common/overlay_wrapper.yml", "- hosts: build_local\n  tasks:\n    - include: x.yml\n");
    write("common/tasks/clean_fs.yml", "- command: apt-get clean\n");
    stage.path(name)
}

/// Starts an HTTP server on the loopback interface that sends a script for each request; returns
/// its URL.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/tool", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                request.push(byte[0]);
            }
            let body = "#!/bin/sh\necho tool\n";
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            // The client may close the connection early.
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    url
}

fn import(stage: &Stage, who: Who, folder: &Path, more: &[&str]) -> Finished {
    stage.give(folder, who);
    finish(stage.overcoat(who).arg("import").arg(folder).args(more))
}

#[test]
fn imported_tree_builds_to_the_same_bytes_at_both_privileges() {
    let stage = Stage::new();
    let url = server();
    let artifacts = BOTH_USERS.map(|who| {
        let artifacts = stage.out(who).join("builds");
        let folder = tree(&stage, &format!("{who:?}"), &artifacts, &url);
        import(&stage, who, &folder, &[]).ok().stderr_has(&["overcoat.yml: 3 images: basefs, "]);
        // Tests have no mirror, so the base is built from an archive of the lab.
        let file = folder.join("overcoat.yml");
        let text = fs::read_to_string(&file).unwrap();
        let from = format!("from: {}", stage.lab().join("base.tar").display());
        let edited = text
            .replace("variant: minbase", &from)
            .replace("    packages: [python3, python3-apt, systemd-sysv, udev, kmod, dbus]\n", "");
        fs::write(&file, edited).unwrap();
        let repository = stage.bind_repository();
        let mut build = stage.overcoat(who);
        build.arg("build").arg(&folder).args(["--bind", &repository]);
        finish(build.env("SOURCE_DATE_EPOCH", EPOCH)).ok();
        artifacts
    });
    let [_, user] = &artifacts;
    let overlay = user.join("discovery.overlay.cpio.gz");
    let read = |name: &str| stage.archived_file(&overlay, name);
    assert_eq!(read("etc/discovery.conf"), "monorail-micro 3 True\n");
    assert_eq!(read("opt/common"), "given\n");
    assert_eq!(read("opt/notified"), "notified\n");
    assert_eq!(read("opt/tool"), "#!/bin/sh\necho tool\n");
    assert!(read("opt/version").starts_with("12"));
    assert!(read("opt/facts").ends_with(" Debian\n"));
    assert_eq!(read("opt/delegated"), "discovery.overlay.cpio\n");
    assert_eq!(
        stage.archived_file(&user.join("small.cpio.gz"), "etc/motd"),
        "of the config file\n"
    );
    let listing = stage.archive_listing(&overlay);
    for there in ["usr/bin/lsscsi", "sbin/ethtool", "usr/sbin/smartctl"] {
        assert!(listing.contains(there), "{there}\n{listing}");
    }
    assert!(!listing.contains("opt/unwanted"));
    let hook = listing.lines().find(|line| line.ends_with("opt/rc.local.hooks")).unwrap();
    assert!(hook.starts_with("-rwxr-xr-x   1 4242     4 "), "{hook}");
    // The base has the changes of its role, whose local action wrote to the artifacts.
    assert!(fs::read_to_string(user.join("version")).unwrap().starts_with("12"));
    let base = stage.sh(&format!(
        "unsquashfs -cat '{}' etc/hosts etc/hostname etc/passwd",
        user.join("basefs.squashfs").display()
    ));
    for line in ["127.0.1.1 monorail-micro\n", "monorail:x:4242:"] {
        assert!(base.contains(line), "{base}");
    }
    for file in ["basefs.squashfs", "discovery.overlay.cpio.gz", "small.cpio.gz"] {
        let [root, user] = artifacts.each_ref().map(|folder| fs::read(folder.join(file)).unwrap());
        assert!(root == user, "{file} differs");
    }
}

#[test]
fn imported_project_explains_guesses_and_warnings_name_what_is_left_out() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = tree(&stage, "tree", Path::new("/srv/builds"), "http://example.org/tool");
    stage.write("tree/vars/lost.yml", "greeting: of no role\n");
    stage.write(
        "tree/roles/overlay/small/tasks/main.yml",
        "- include: more.yml\n- {debug: {msg: x}, with_items: names, sudo: yes}\n",
    );
    stage.give(&folder, who);
    let mut transcript = Transcript::new(stage.path(""));
    transcript.run(stage.overcoat(who), "import tree").ok();
    transcript.run(stage.overcoat(who), "import tree").code(2);
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("import_messages", transcript.text());
    let file = fs::read_to_string(folder.join("overcoat.yml")).unwrap();
    insta::assert_snapshot!("imported_project", file);
}

#[test]
fn existing_base_can_be_used() {
    let stage = Stage::new();
    let folder = tree(&stage, "tree", &stage.out(Who::Unprivileged), "file:///etc/hostname");
    import(&stage, Who::Unprivileged, &folder, &["--base", "no.squashfs"])
        .code(2)
        .stderr_has(&["no.squashfs not found", "is relative to"]);
    let base = stage.debian();
    let base = base.to_str().unwrap();
    import(&stage, Who::Unprivileged, &folder, &["--base", base]).ok().stderr_has(&[
        "left out: ",
        " is the base",
        "2 images: discovery_overlay, small",
    ]);
    let mut build = stage.overcoat(Who::Unprivileged);
    finish(build.arg("build").arg(&folder).arg("small")).ok();
    let overlay = stage.out(Who::Unprivileged).join("small.cpio.gz");
    assert_eq!(stage.archived_file(&overlay, "etc/motd"), "of the config file\n");
}

#[test]
fn existing_project_file_is_kept() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = tree(&stage, "tree", &stage.out(who), "file:///etc/hostname");
    let old = stage.write("tree/overcoat.yml", "mine\n");
    import(&stage, who, &folder, &[]).code(2).stderr_has(&[
        "overcoat.yml already exists; --add keeps it",
        "--force overwrites it and all changes",
    ]);
    assert_eq!(fs::read_to_string(&old).unwrap(), "mine\n");
    // Standard output can be used although the file exists.
    let shown = import(&stage, who, &folder, &["-o", "-"]).ok().text();
    stage.give(&old, who);
    import(&stage, who, &folder, &["--force"]).ok();
    assert_eq!(fs::read_to_string(&old).unwrap(), shown);
    let elsewhere = stage.out(who).join("overcoat.yml");
    let parts = ["is not in", "relative to its file"];
    import(&stage, who, &folder, &["-o", elsewhere.to_str().unwrap()]).code(2).stderr_has(&parts);
    assert!(!elsewhere.exists());
    import(&stage, who, &stage.out(who), &[])
        .code(2)
        .stderr_has(&["is not an on-imagebuilder tree"]);
}

#[test]
fn fixes_in_a_copy_leave_the_tree_as_it_is() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = tree(&stage, "tree", Path::new("/srv/builds"), "http://example.org/tool");
    let old = "- include: more.yml\n- {debug: {msg: x}, with_items: greeting, sudo: yes}\n\
               - {debug: {msg: x}, with_items: lshw}\n";
    let task = "roles/overlay/small/tasks/main.yml";
    stage.write(format!("tree/{task}"), old);
    stage.write("tree/.git/config", "");
    let script = stage.write("tree/roles/overlay/small/files/boot", "modprobe overlayfs\n");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    stage.give(&stage.path(""), who);
    let mut transcript = Transcript::new(stage.path(""));
    transcript.run(stage.overcoat(who), "import tree --copy copy --fix").ok();
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("import_fix", transcript.text());
    let copy = stage.path("copy");
    assert_eq!(fs::read_to_string(folder.join(task)).unwrap(), old);
    assert!(!folder.join("overcoat.yml").exists());
    assert!(!copy.join(".git").exists());
    let new = "- import_tasks: more.yml\n\
               - {debug: {msg: x}, with_items: \"{{ greeting }}\", become: yes}\n\
               - {debug: {msg: x}, with_items: lshw}\n";
    assert_eq!(fs::read_to_string(copy.join(task)).unwrap(), new);
    let mode = fs::metadata(copy.join("roles/overlay/small/files/boot")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o755);
    // The copy must be new, and a directory that is no tree is not copied.
    import(&stage, who, &folder, &["--copy", copy.to_str().unwrap()])
        .code(2)
        .stderr_has(&["overcoat.yml already exists"]);
    let inside = folder.join("inside");
    import(&stage, who, &folder, &["--copy", inside.to_str().unwrap()])
        .code(2)
        .stderr_has(&["copy the tree to a directory outside of it"]);
    assert!(!inside.exists());
    let other = stage.path("other");
    import(&stage, who, &stage.out(who), &["--copy", other.to_str().unwrap()]).code(2);
    assert!(!other.exists());
}

#[test]
fn later_config_files_are_added_to_an_existing_project() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = tree(&stage, "tree", &stage.out(who), "file:///etc/hostname");
    import(&stage, who, &folder, &["--add"]).code(2).stderr_has(&["needs an existing project"]);
    import(&stage, who, &folder, &["--base", stage.debian().to_str().unwrap()]).ok();
    let file = folder.join("overcoat.yml");
    let before = fs::read_to_string(&file).unwrap();
    let base = stage.debian();
    let add = ["--add", "--base", base.to_str().unwrap()];
    import(&stage, who, &folder, &add)
        .ok()
        .stderr_has(&["overcoat.yml: it has an image for each config file"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    let later = "provisioner: roles/overlay/small\ngreeting: later\n";
    stage.write("tree/vars/later.yml", later);
    import(&stage, who, &folder, &add).ok().stderr_has(&["overcoat.yml: 1 image added: later"]);
    assert!(fs::read_to_string(&file).unwrap().starts_with(&before));
    finish(stage.overcoat(who).arg("build").arg(&folder).arg("later")).ok();
    let overlay = stage.out(who).join("later.cpio.gz");
    assert_eq!(stage.archived_file(&overlay, "etc/motd"), "later\n");
}

#[test]
fn links_of_a_copied_tree_lead_to_the_same_files() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = tree(&stage, "tree", Path::new("/srv/builds"), "http://example.org/tool");
    stage.write("shared/tool", "of the site\n");
    let links = [
        // Out of the tree, and a missing target there.
        ("roles/overlay/small/files/tool", "../../../../../shared/tool"),
        ("outside", "../shared"),
        ("lost", "../missing"),
        ("roles/inside/out", "../../vars/../../missing"),
        // In the tree, directly and through its parent.
        ("roles/overlay/small/files/near", "../tasks/main.yml"),
        ("roles/overlay/small/files/back", "../../../../../tree/vars/small.yml"),
        ("back", "../tree/vars"),
        ("absolute", "/etc/hostname"),
    ];
    for (link, target) in links {
        let link = folder.join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, link).unwrap();
    }
    stage.give(&stage.path(""), who);
    fs::create_dir(stage.path("deep")).unwrap();
    stage.give(&stage.path("deep"), who);
    let copy = stage.path("deep/copy");
    import(&stage, who, &folder, &["--copy", copy.to_str().unwrap()]).ok();
    let real = |path: &str| copy.join(path).canonicalize().unwrap();
    let (stage_real, copy_real) = (stage.path("").canonicalize().unwrap(), real(""));
    assert_eq!(real("roles/overlay/small/files/tool"), stage_real.join("shared/tool"));
    assert_eq!(real("outside"), stage_real.join("shared"));
    assert_eq!(fs::read_link(copy.join("lost")).unwrap(), stage_real.join("missing"));
    let lost = fs::read_link(copy.join("roles/inside/out")).unwrap();
    assert_eq!(lost, stage_real.join("tree/vars/../../missing"));
    let near = copy_real.join("roles/overlay/small/tasks/main.yml");
    assert_eq!(real("roles/overlay/small/files/near"), near);
    assert_eq!(real("roles/overlay/small/files/back"), copy_real.join("vars/small.yml"));
    assert_eq!(real("back"), copy_real.join("vars"));
    assert_eq!(fs::read_link(copy.join("absolute")).unwrap(), Path::new("/etc/hostname"));
    // The path of a base is such a link, too.
    fs::remove_dir_all(&copy).unwrap();
    stage.write("base.tar", "");
    let more = ["--copy", copy.to_str().unwrap(), "--base", "../base.tar"];
    import(&stage, who, &folder, &more).ok();
    let text = fs::read_to_string(copy.join("overcoat.yml")).unwrap();
    let line = format!("    base: {}\n", stage_real.join("base.tar").display());
    assert!(text.contains(&line), "{text}");
}

#[test]
fn failed_import_leaves_no_copy() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = tree(&stage, "tree", Path::new("/srv/builds"), "http://example.org/tool");
    stage.give(&stage.path(""), who);
    let copy = stage.path("copy");
    let to = copy.to_str().unwrap();
    let elsewhere = stage.path("elsewhere/overcoat.yml");
    for output in ["/nonexistent/overcoat.yml", elsewhere.to_str().unwrap(), "overcoat.yml"] {
        import(&stage, who, &folder, &["--copy", to, "-o", output])
            .code(2)
            .stderr_has(&["is not in", "relative to its file"]);
        assert!(!copy.exists(), "{output}");
    }
    // A file that cannot be read.
    let secret = stage.write("tree/docs/secret", "x\n");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    finish(stage.overcoat(who).arg("import").arg(&folder).args(["--copy", to]))
        .code(2)
        .stderr_has(&["cannot copy", "docs/secret"]);
    assert!(!copy.exists());
    // An existing directory is not removed.
    fs::create_dir(&copy).unwrap();
    stage.write("copy/mine", "");
    finish(stage.overcoat(who).arg("import").arg(&folder).args(["--copy", to])).code(2);
    assert!(copy.join("mine").exists());
    fs::remove_dir_all(&copy).unwrap();
    // The file may have another name in the copy.
    fs::remove_file(secret).unwrap();
    let output = copy.join("other.yml");
    import(&stage, who, &folder, &["--copy", to, "-o", output.to_str().unwrap()])
        .ok()
        .stderr_has(&["other.yml: 3 images"]);
    assert!(output.exists());
}

#[test]
fn advice_after_an_import_keeps_an_edited_project() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = tree(&stage, "tree", Path::new("/srv/builds"), "http://example.org/tool");
    let task = "roles/overlay/small/tasks/main.yml";
    let path = stage.write(format!("tree/{task}"), "- {debug: {msg: x}, sudo: yes}\n");
    stage.give(&path, who);
    stage.give(path.parent().unwrap(), who);
    let next = format!("Next: overcoat import {} --fix", folder.display());
    let shown = import(&stage, who, &folder, &["-o", "-"]).ok();
    shown.stderr_has(&[&format!("{next}, then")]);
    import(&stage, who, &folder, &[]).ok().stderr_has(&[&format!("{next} --add, then")]);
    let file = folder.join("overcoat.yml");
    let edited = format!("# mine\n{}", fs::read_to_string(&file).unwrap());
    fs::write(&file, &edited).unwrap();
    import(&stage, who, &folder, &["--fix", "--add"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), edited);
    let fixed = "- {debug: {msg: x}, become: yes}\n";
    assert_eq!(fs::read_to_string(folder.join(task)).unwrap(), fixed);
    // A project file with another name.
    let other = folder.join("other.yml");
    let other = other.to_str().unwrap();
    fs::rename(&file, other).unwrap();
    stage.write("tree/vars/later.yml", "provisioner: roles/overlay/small\ngreeting: later\n");
    import(&stage, who, &folder, &["--add", "-o", other])
        .ok()
        .stderr_has(&["other.yml: 1 image added: later"]);
    // An image with the name of a new config file, and another role.
    stage.write("tree/vars/small2.yml", "# provisioner: roles/overlay/small\ngreeting: two\n");
    let text =
        fs::read_to_string(other).unwrap() + "\n  small2: {base: basefs, provisioner: ./mine}\n";
    stage.write("tree/mine/provisioner.yml", "steps: []\n");
    fs::write(other, text).unwrap();
    import(&stage, who, &folder, &["--add", "-o", other]).ok().stderr_has(&[
        "other.yml: no image added; see the list below",
        "vars/small2.yml: not added: the project has another image small2",
    ]);
}
