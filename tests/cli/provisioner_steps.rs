//! Provisioner steps on a Debian base at both privileges: users, services, removed packages,
//! conditions and loops.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::stage::{BOTH_USERS, EPOCH, Finished, REPOSITORY, Stage, Who, finish};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOVercoatOVercoatOVercoatOVercoatOVerco a@b";

/// Uses every kind of step, with loops and conditions.
const YAML: &str = r#"
variables:
  admins: [{name: alice, uid: 4001, keys: [KEY]}, {name: bob, uid: 4002, keys: []}]
  ports: [ttyS0, ttyS1]
  serial: true
  demo: false
steps:
  - files: files
  - update: true
  - packages: [systemd, {name: lshw, when: demo}, {name: lsscsi, when: serial}]
  - groups: [{name: operators, gid: 4100}, {name: hidden, system: true}]
  - users:
      - name: "{{ item.name }}"
        uid: "{{ item.uid }}"
        groups: [operators, "{{ 'adm' if item.uid == 4001 else 'audio' }}"]
        shell: /bin/bash
        comment: Administrator {{ item.name }}
        authorized_keys: "{{ item.keys }}"
    loop: "{{ admins }}"
  - users:
      - {name: daemon-of-ours, system: true, home: /var/lib/ours, group: hidden}
      - {name: root, password_hash: "$6$abcdefgh$0123456789"}
      - {name: games, shell: /bin/sh, groups: [operators], comment: Changed}
      - {name: nobody-else, when: demo}
      - {name: www-data, create_home: true, authorized_keys: [KEY]}
  - users: [{name: bob, shell: /bin/sh, groups: [audio]}]
  - services:
      enable: [ours, "getty@{{ item }}"]
      mask: systemd-networkd
      default_target: rescue
    loop: "{{ ports }}"
  - services: {disable: fstrim.timer}
  - purge: [ca-certificates]
  - script: count
    when: demo
  - script: count
    loop: [one, "{{ ports | length }}"]
"#;

const UNIT: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

fn project(stage: &Stage, yaml: &str) -> PathBuf {
    stage.write("p/provisioner.yml", yaml.replace("KEY", &format!("{KEY:?}")));
    stage.write("p/files/etc/apt/sources.list", REPOSITORY);
    stage.write("p/files/etc/systemd/system/ours.service", UNIT);
    stage.write("p/count", "echo \"$OVERCOAT_VAR_item\" >>/srv/counted\n");
    let base = stage.debian();
    let text = format!("base: {}\nprovisioner: p\nnetwork: none\n", base.display());
    stage.write("image.yml", text)
}

fn build(stage: &Stage, who: Who, image: &Path) -> (PathBuf, Finished) {
    let output = stage.out(who).join("native.cpio.gz");
    let repository = stage.bind_repository();
    let mut command = stage.overcoat(who);
    command.arg("build").arg(image).arg("-o").arg(&output).args(["--bind", &repository]);
    let finished = finish(command.env("SOURCE_DATE_EPOCH", EPOCH));
    (output, finished)
}

#[test]
fn users_services_conditions_and_loops_give_the_same_bytes_without_root() {
    let stage = Stage::new();
    let image = project(&stage, YAML);
    let overlays = BOTH_USERS.map(|who| {
        let (overlay, finished) = build(&stage, who, &image);
        finished.ok().stderr_has(&[
            "users (1) (item=alice)",
            "package lists",
            "services (item=ttyS1)",
            "script count: skipped (when: demo)",
        ]);
        overlay
    });
    let tree = stage.path("tree");
    fs::create_dir(&tree).unwrap();
    stage.sh(&format!("cd tree && gzip -dc '{}' | cpio -idm --quiet", overlays[1].display()));
    let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap_or_default();
    let line = |file: &str, name: &str| {
        let text = read(file);
        let line = text.lines().find(|line| line.starts_with(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name} in {file}:\n{text}")).to_owned()
    };
    // The day of SOURCE_DATE_EPOCH is 19675.
    let passwd = |name| line("etc/passwd", name);
    assert_eq!(passwd("alice"), "alice:x:4001:4001:Administrator alice:/home/alice:/bin/bash");
    assert_eq!(passwd("bob"), "bob:x:4002:4002:Administrator bob:/home/bob:/bin/sh");
    assert!(passwd("daemon-of-ours").contains(":/var/lib/ours:"));
    assert_eq!(passwd("games"), "games:x:5:60:Changed:/usr/games:/bin/sh");
    assert!(!read("etc/passwd").contains("nobody-else"));
    assert_eq!(line("etc/shadow", "alice"), "alice:!:19675:0:99999:7:::");
    assert_eq!(line("etc/shadow", "root"), "root:$6$abcdefgh$0123456789:19675:0:99999:7:::");
    assert_eq!(line("etc/group", "operators"), "operators:x:4100:alice,games");
    assert_eq!(line("etc/group", "adm"), "adm:x:4:alice");
    assert_eq!(line("etc/group", "audio"), "audio:x:29:bob");
    let stat = |name: &str| stage.sh(&format!("stat -c '%a %u:%g' tree/{name}")).trim().to_owned();
    assert_eq!(read("home/alice/.ssh/authorized_keys"), format!("{KEY}\n"));
    assert_eq!(stat("home/alice/.ssh"), "700 4001:4001");
    assert_eq!(stat("home/alice/.ssh/authorized_keys"), "600 4001:4001");
    assert_eq!(stat("var/www/.ssh/authorized_keys"), "600 33:33");
    assert_eq!(stat("var/www"), "755 33:33");
    assert!(tree.join("home/alice/.bashrc").exists());
    assert!(!tree.join("var/lib/ours").exists());

    let link = |name: &str| {
        let target = fs::read_link(tree.join("etc/systemd/system").join(name));
        target.unwrap_or_else(|e| panic!("{name}: {e}")).display().to_string()
    };
    assert!(link("multi-user.target.wants/ours.service").ends_with("/ours.service"));
    for port in ["ttyS0", "ttyS1"] {
        let name = format!("getty.target.wants/getty@{port}.service");
        assert!(link(&name).ends_with("/getty@.service"));
    }
    assert_eq!(link("systemd-networkd.service"), "/dev/null");
    assert!(link("default.target").ends_with("/rescue.target"));
    assert_eq!(read("srv/counted"), "one\n2\n");
    assert!(tree.join("usr/bin/lsscsi").exists() && !tree.join("usr/bin/lshw").exists());
    // Whiteouts of files of the base.
    for gone in
        ["usr/sbin/update-ca-certificates", "etc/systemd/system/timers.target.wants/fstrim.timer"]
    {
        assert_eq!(stage.sh(&format!("stat -c %F tree/{gone}")), "character special file\n");
    }
    let [root, user] = overlays.map(|overlay| fs::read(overlay).unwrap());
    assert!(
        root == user,
        "{}",
        stage.sh(
            "bsdtar -tvf root/native.cpio.gz >r; bsdtar -tvf user/native.cpio.gz >u; diff r u || :"
        )
    );
}

/// Existing state is kept, so that a second run of the same provisioner changes nothing.
#[test]
fn repeated_provisioner_changes_nothing() {
    let stage = Stage::new();
    let yaml = "
groups: [{name: operators, gid: 4100}]
users:
  - {name: alice, uid: 4001, group: users, groups: [operators, '4'], shell: /bin/sh, comment: A}
  - {name: root, password_hash: '$6$abcdefgh$0123456789'}
";
    let image = project(&stage, yaml);
    let (once, finished) = build(&stage, Who::Unprivileged, &image);
    finished.ok();
    let bytes = fs::read(&once).unwrap();
    let twice =
        fs::read_to_string(&image).unwrap().replace("provisioner: p", "provisioner: [p, p]");
    let (again, finished) = build(&stage, Who::Unprivileged, &stage.write("twice.yml", twice));
    finished.ok();
    assert!(fs::read(again).unwrap() == bytes);
}

#[test]
fn missing_requirements_of_the_image_fail_the_build() {
    let stage = Stage::new();
    let assert_error = |yaml: &str, what: &str| {
        let image = project(&stage, yaml);
        let (output, finished) = build(&stage, Who::Unprivileged, &image);
        finished.code(1).stderr_has(&[what]);
        assert!(!output.exists());
    };
    let systemd = "steps: [{files: files}, {packages: [systemd]}, {services: {enable: [our]}}]";
    assert_error(systemd, "the image has no unit `our.service`; did you mean `ours.service`?");
    assert_error(
        "services: {enable: [fstrim]}",
        "the image has no systemctl: install the package systemd",
    );
    assert_error(
        "users: [{name: a, groups: [audo]}]",
        "no group `audo` for the user `a`; did you mean `audio`?",
    );
    assert_error(
        "users: [{name: a, system: true, authorized_keys: [KEY]}]",
        "the user `a` has no /home/a for its authorized_keys; write `create_home: true`",
    );
    assert_error("remove: [gpg]", "the package `gpg` is not installed; did you mean `gpgv`?");
    assert_error("users: [{name: a, uid: 0}]", "UID 0 is not unique");
}

#[test]
fn overlay_has_no_host_ids_and_no_dates_of_its_base() {
    let stage = Stage::new();
    let listed = |yaml: &str| {
        let image = project(&stage, yaml);
        let (overlay, finished) = build(&stage, Who::Unprivileged, &image);
        finished.ok();
        stage.archive_names(&overlay)
    };
    let days = stage
        .sh(&format!("unsquashfs -cat '{}' etc/shadow | cut -d: -f3", stage.debian().display()));
    let after_the_epoch = |day: &str| day.parse::<i64>().is_ok_and(|day| day > 19_675);
    assert!(days.lines().any(after_the_epoch), "the lab's base must be newer than the epoch");
    let empty = listed("description: does nothing\n");
    assert!(!empty.contains("etc/shadow"), "{empty}");
    let nvme = listed("steps: [{files: files}, {packages: [nvme-cli]}]\n");
    assert!(nvme.contains("usr/sbin/nvme\n") && nvme.contains("etc/nvme"), "{nvme}");
    assert!(!nvme.contains("etc/nvme/host"), "{nvme}");
}

/// dpkg removes directories that do not exist from the lists of all packages when a new package
/// creates them. A base without translations and manuals lacks such directories.
#[test]
fn overlay_has_no_lists_of_the_packages_of_its_base() {
    let stage = Stage::new();
    let small = stage.out(Who::Root).join("small.cpio.gz");
    let mut run = stage.overcoat(Who::Root);
    run.arg("run").arg(stage.debian()).arg("--save").arg(&small);
    finish(run.args(["--", "sh", "-c", "rm -r /usr/share/locale/* /usr/share/man/*"])).ok();
    stage.write("sources/files/etc/apt/sources.list", REPOSITORY);
    stage.write(
        "sources/provisioner.yml",
        "steps: [{files: files}, {packages: [lshw, cpio]}]\ncleanup: {locales: true, docs: true}\n",
    );
    let image = format!(
        "base: {}\noverlays: [{}]\nprovisioner: sources\nnetwork: none\n",
        stage.debian().display(),
        small.display()
    );
    let image = stage.write("image.yml", image);
    let (output, finished) = build(&stage, Who::Unprivileged, &image);
    finished.ok();
    let names = stage.archive_names(&output);
    let lists: Vec<&str> = names.lines().filter(|name| name.ends_with(".list")).collect();
    assert_eq!(
        lists,
        ["etc/apt/sources.list", "var/lib/dpkg/info/cpio.list", "var/lib/dpkg/info/lshw.list"]
    );
}

/// Files that a provisioner writes next to those that clean-up reverts.
const OWN_FILES: [&str; 9] = [
    "root/.ansible/collections/site",
    "root/.config/site",
    "var/backups/site/dump.sql",
    "var/backups/dump.bak",
    "var/cache/apt/archives/site/list",
    "var/cache/apt/site",
    "var/cache/site/data",
    "var/lib/dpkg/site",
    "var/log/site/empty",
];

/// Files of other programs, which clean-up reverts by default.
const REVERTED_FILES: [&str; 12] = [
    "etc/subuid-",
    "root/.ansible/tmp/left",
    "root/.cache/site",
    "root/.python_history",
    "var/backups/alternatives.tar.0",
    "var/backups/apt.extended_states.1.gz",
    "var/backups/dpkg.status.0",
    "var/backups/gshadow.bak",
    "var/cache/apt/archives/x_1_all.deb",
    "var/cache/apt/pkgcache.bin.A1b2C3",
    "var/lib/apt/periodic/update-stamp",
    "var/tmp/site",
];

#[test]
fn clean_up_keeps_files_of_the_provisioner_beside_those_it_reverts() {
    let stage = Stage::new();
    for (name, content) in OWN_FILES.iter().chain(&REVERTED_FILES).map(|name| (name, "own\n")) {
        let content = if name.ends_with("empty") { "" } else { content };
        stage.write(format!("p/files/{name}"), content);
    }
    let (overlay, finished) = build(&stage, Who::Unprivileged, &project(&stage, "files: files\n"));
    finished.ok();
    let names = stage.archive_names(&overlay);
    let in_image = |name: &&&str| names.lines().any(|line| line == **name);
    assert_eq!(OWN_FILES.iter().filter(|name| !in_image(name)).collect::<Vec<_>>(), [&""; 0]);
    assert_eq!(REVERTED_FILES.iter().filter(in_image).collect::<Vec<_>>(), [&""; 0]);
}

/// crontab(1) writes the time and a random name into the header of a file, and removes the three
/// lines of the header when it prints or edits the file.
#[test]
fn crontabs_are_the_same_in_two_builds() {
    let stage = Stage::new();
    let yaml = "
steps:
  - files: files
  - packages: [cron]
  - script: add
";
    let add = "echo '# own' >own; echo '1 2 3 4 5 true' >>own; crontab own; rm own
               crontab -l | sed 's/true/false/' | crontab -u games -
               echo '# (/tmp/x installed on Monday)' >/var/spool/cron/crontabs/other\n";
    stage.write("p/add", add);
    let build = || {
        let image = project(&stage, yaml);
        let (overlay, finished) = build(&stage, Who::Unprivileged, &image);
        finished.ok();
        overlay
    };
    let overlay = build();
    let first = fs::read(&overlay).unwrap();
    let crontab =
        |name: &str| stage.archived_file(&overlay, &format!("var/spool/cron/crontabs/{name}"));
    let header = "# DO NOT EDIT THIS FILE - edit the master and reinstall.
# (/tmp/crontab installed on an unknown date)
# (Cron version -- $Id: crontab.c,v 2.13 1994/01/17 03:20:37 vixie Exp $)
";
    assert_eq!(crontab("root"), format!("{header}# own\n1 2 3 4 5 true\n"));
    assert_eq!(crontab("games"), format!("{header}# own\n1 2 3 4 5 false\n"));
    assert_eq!(crontab("other"), "# (/tmp/x installed on Monday)\n");
    let listing = stage.archive_listing(&overlay);
    let mode = listing.lines().find(|line| line.ends_with("crontabs/root"));
    assert!(mode.is_some_and(|line| line.starts_with("-rw-------")), "{listing}");
    // A header of the base stays, and crontab(1) prints the user's own lines.
    let mut run = stage.overcoat(Who::Unprivileged);
    run.arg("run").arg(stage.debian()).arg(&overlay).args(["--", "crontab", "-l"]);
    assert_eq!(finish(&mut run).ok().text(), "# own\n1 2 3 4 5 true\n");
    build();
    assert!(fs::read(&overlay).unwrap() == first, "two builds differ");
}
