//! Ansible roles, run by the real `ansible-playbook` at both privileges.

use std::fs;
use std::path::PathBuf;

use crate::support::stage::{EACH_PRIVILEGE, EPOCH, REPOSITORY, Stage, Who, finish};

const TASKS: &str = r#"
- name: a file
  copy: {src: motd, dest: /etc/motd, mode: "0640", group: adm}
- name: a template
  template: {src: demo.conf.j2, dest: /etc/demo.conf}
  notify: record
- name: a line
  lineinfile: {path: /etc/hosts, line: "10.0.0.1 boot"}
- name: a user
  user: {name: netboot, uid: 4242, shell: /bin/sh, password_expire_max: 99}
- name: a folder and a link
  file: {path: "{{ item.path }}", state: "{{ item.state }}", src: "{{ item.src | default(omit) }}"}
  with_items:
    - {path: /srv/demo, state: directory}
    - {path: /srv/link, state: link, src: demo}
- name: a command for each
  shell: echo {{ item }} >/srv/demo/{{ item }}
  loop: "{{ words }}"
- name: a package of the local repository
  apt: {name: lsscsi, state: present, update_cache: true}
- name: the unwanted task
  command: touch /srv/unwanted
  when: level > 5
- name: on the host, with the root's path
  local_action: shell test -d {{ build_artifact_path }} && echo outside >{{ build_root }}/srv/local
- name: the same in another way
  shell: cat {{ build_root }}/etc/debian_version >{{ build_root }}/srv/delegated
  delegate_to: localhost
- name: facts are those of the root
  copy: {content: "{{ ansible_distribution }} {{ ansible_connection }}\n", dest: /srv/facts}
- name: the environment is not the caller's
  shell: env | sort >/srv/env; echo "{{ ansible_env.HOME }} {{ ansible_env.PATH }}" >>/srv/env; ldconfig -p >/dev/null
- name: the environment on the host is
  local_action: shell echo $HOME >{{ build_root }}/srv/home
- name: only when it is asked for
  command: touch /srv/tagged
  tags: [never, extra]
"#;

/// Writes a role that uses every folder of a role, its dependency, and an image with the role.
fn project(stage: &Stage) -> PathBuf {
    let role = |path: &str, content: &str| stage.write(format!("roles/overlay/{path}"), content);
    role("demo/tasks/main.yml", TASKS);
    role("demo/handlers/main.yml", "- {name: record, shell: echo notified >/srv/notified}\n");
    role("demo/defaults/main.yml", "greeting: by default\nlevel: 1\nwords: [a]\n");
    role("demo/vars/main.yml", "of_the_role: kept\n");
    role("demo/meta/main.yml", "dependencies: [{role: overlay/common}]\n");
    role("demo/files/motd", "hello\n");
    // The settings of the caller have no effect.
    stage.write("roles/.ansible.cfg", "[defaults]\nansible_managed = by {uid} on {host}\n");
    let template = "# {{ ansible_managed }}\n\
                    {{ greeting }} {{ level }} {{ of_the_role }} {{ site.name }}\n";
    role("demo/templates/demo.conf.j2", template);
    role("common/tasks/main.yml", "- file: {path: /srv/common, state: touch}\n");
    stage.write("sources/provisioner.yml", "files: files\n");
    let sources = REPOSITORY;
    stage.write("sources/files/etc/apt/sources.list", sources);
    let text = format!(
        "base: {}\nprovisioner: [sources, roles/overlay/demo]\nnetwork: none\n\
         variables: {{greeting: hello, words: [x, y], site: {{name: lab}}}}\n",
        stage.debian().display()
    );
    stage.write("image.yml", text)
}

fn build(stage: &Stage, who: Who, image: &PathBuf) -> PathBuf {
    let output = stage.out(who).join("demo.cpio.gz");
    let repository = stage.bind_repository();
    let mut command = stage.overcoat(who);
    command.arg("build").arg(image).arg("-o").arg(&output).args(["--bind", &repository]);
    // The PATH of an ordinary user, without the sbin directories.
    command.env("HOME", stage.path("roles")).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.env("WHOSE", "the caller");
    finish(command.env("SOURCE_DATE_EPOCH", EPOCH)).ok().stderr_has(&["ansible role demo"]);
    output
}

#[test]
fn role_runs_unchanged_and_gives_the_same_bytes_without_root() {
    let stage = Stage::new();
    let image = project(&stage);
    let overlays = EACH_PRIVILEGE.map(|who| build(&stage, who, &image));
    let tree = stage.path("tree");
    fs::create_dir(&tree).unwrap();
    let unpack = "cd tree && gzip -dc '{}' | cpio -id --quiet";
    stage.sh(&unpack.replace("{}", &overlays[1].display().to_string()));
    let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap_or_default();
    assert_eq!(read("etc/motd"), "hello\n");
    assert_eq!(read("etc/demo.conf"), "# Ansible managed\nhello 1 kept lab\n");
    assert_eq!(read("srv/notified"), "notified\n");
    // Kernel packages make no initrd.
    assert!(read("srv/env").lines().any(|line| line == "INITRD=No"), "{}", read("srv/env"));
    assert_eq!(read("srv/facts"), "Debian community.general.chroot\n");
    assert_eq!(read("srv/local"), "outside\n");
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env = read("srv/env");
    for line in ["HOME=/root", &format!("PATH={path}"), &format!("/root {path}")] {
        assert!(env.lines().any(|l| l == line), "{line}: {env}");
    }
    assert!(!env.contains("WHOSE") && !env.contains("ANSIBLE_"), "{env}");
    assert_eq!(read("srv/home").trim(), stage.path("roles").to_str().unwrap());
    assert!(read("srv/delegated").starts_with("12"));
    assert!(read("etc/hosts").contains("10.0.0.1 boot\n"));
    assert!(read("etc/passwd").contains("netboot:x:4242:"));
    assert_eq!(fs::read_link(tree.join("srv/link")).unwrap().to_str(), Some("demo"));
    for there in ["srv/demo/x", "srv/demo/y", "srv/common", "usr/bin/lsscsi"] {
        assert!(tree.join(there).exists(), "{there}");
    }
    for missing in ["srv/demo/a", "srv/unwanted", "srv/tagged", "root/.ansible", "tmp/.ansible"] {
        assert!(!tree.join(missing).exists(), "{missing}");
    }
    let [root, user, single] = overlays.map(|overlay| fs::read(overlay).unwrap());
    assert!(root == single, "the privilege `none`");
    assert!(
        root == user,
        "{}",
        stage.sh(
            "bsdtar -tvf root/demo.cpio.gz >r; bsdtar -tvf user/demo.cpio.gz >u; diff r u || :"
        )
    );
}

#[test]
fn missing_python_is_reported_before_the_role_runs() {
    let stage = Stage::new();
    let image = project(&stage);
    stage.write("broken/provisioner.yml", "scripts: [less]\n");
    let printed = "add the package python3 to the base or to a provisioner before the role";
    for less in ["rm /usr/lib/python3*/shutil.py", "rm /usr/bin/python3"] {
        stage.write("broken/less", less);
        let text = fs::read_to_string(&image).unwrap();
        stage.write("less.yml", text.replace("[sources,", "[broken,"));
        let mut command = stage.overcoat(Who::Unprivileged);
        let output = stage.out(Who::Unprivileged).join("demo.cpio.gz");
        command.arg("build").arg(stage.path("less.yml")).arg("-o").arg(&output);
        let finished = finish(&mut command).code(1).stderr_has(&[printed]);
        assert!(!finished.stderr.contains("TASK"), "{less}: {}", finished.stderr);
    }
}

#[test]
fn failed_task_fails_the_build() {
    let stage = Stage::new();
    let image = project(&stage);
    stage.write(
        "roles/overlay/demo/tasks/main.yml",
        "- {name: doomed, command: /no/such/program}\n",
    );
    let mut command = stage.overcoat(Who::Unprivileged);
    let output = stage.out(Who::Unprivileged).join("demo.cpio.gz");
    command.arg("build").arg(image).arg("-o").arg(&output);
    finish(&mut command).code(1).stderr_has(&[
        "ansible role demo",
        "TASK",
        "doomed",
        "/no/such/program",
    ]);
    assert!(!output.exists());
}

#[test]
fn arguments_are_passed_to_ansible() {
    let stage = Stage::new();
    let image = project(&stage);
    let tasks = "- {name: asked for, command: touch /srv/tagged, tags: [never, extra]}\n";
    stage.write("roles/overlay/demo/tasks/main.yml", tasks);
    let output = stage.out(Who::Unprivileged).join("demo.cpio.gz");
    let list = |more: &[&str]| {
        let mut command = stage.overcoat(Who::Unprivileged);
        command.arg("build").arg(&image).arg("-o").arg(&output).args(more);
        let finished = finish(&mut command).ok();
        (stage.archive_names(&output), finished.stderr)
    };
    assert!(!list(&[]).0.contains("srv/tagged"));
    let (names, messages) = list(&["--ansible=--tags=extra", "-v"]);
    assert!(names.contains("srv/tagged"));
    // Each task with its time.
    let task = "overcoat: [2/16] demo: ansible role demo: demo : asked for: ";
    assert!(messages.lines().any(|l| l.starts_with(task) && l.ends_with(" s")), "{messages}");
    assert!(!list(&["--ansible=--tags=extra", "--ansible=--check"]).0.contains("srv/tagged"));
}
