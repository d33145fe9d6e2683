//! Ansible roles, as they are, by the real `ansible-playbook`, with and without root rights.

use std::fs;
use std::path::PathBuf;

use crate::support::stage::{EPOCH, EVERYBODY, Stage, Who, finish};

const TASKS: &str = r#"
- name: a file
  copy: {src: motd, dest: /etc/motd, mode: "0640", group: adm}
- name: a template
  template: {src: demo.conf.j2, dest: /etc/demo.conf}
  notify: tell
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
- name: what is not wanted
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

/// A role with all that a role has, one that it depends on, and an image that uses it.
fn project(stage: &Stage) -> PathBuf {
    let role = |path: &str, content: &str| stage.write(format!("roles/overlay/{path}"), content);
    role("demo/tasks/main.yml", TASKS);
    role("demo/handlers/main.yml", "- {name: tell, shell: echo told >/srv/told}\n");
    role("demo/defaults/main.yml", "greeting: by default\nlevel: 1\nwords: [a]\n");
    role("demo/vars/main.yml", "of_the_role: kept\n");
    role("demo/meta/main.yml", "dependencies: [{role: overlay/common}]\n");
    role("demo/files/motd", "hello\n");
    let template = "{{ greeting }} {{ level }} {{ of_the_role }} {{ site.name }}\n";
    role("demo/templates/demo.conf.j2", template);
    role("common/tasks/main.yml", "- file: {path: /srv/common, state: touch}\n");
    stage.write("sources/provisioner.yml", "files: files\n");
    let sources = "deb [trusted=yes] file:/repo ./\n";
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
    let repository = format!("{}:/repo:ro", stage.lab().join("repo").display());
    let mut command = stage.overcoat(who);
    command.arg("build").arg(image).arg("-o").arg(&output).args(["--bind", &repository]);
    // A user's environment, in which programs of the system's own are not found.
    command.env("HOME", stage.path("roles")).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.env("WHOSE", "the caller");
    finish(command.env("SOURCE_DATE_EPOCH", EPOCH)).ok().says(&["ansible role demo"]);
    output
}

#[test]
fn a_role_is_run_as_it_is_and_gives_the_same_bytes_without_root() {
    let stage = Stage::new();
    let image = project(&stage);
    let overlays = EVERYBODY.map(|who| build(&stage, who, &image));
    let tree = stage.path("tree");
    fs::create_dir(&tree).unwrap();
    let unpack = "cd tree && gzip -dc '{}' | cpio -id --quiet";
    stage.sh(&unpack.replace("{}", &overlays[1].display().to_string()));
    let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap_or_default();
    assert_eq!(read("etc/motd"), "hello\n");
    assert_eq!(read("etc/demo.conf"), "hello 1 kept lab\n");
    assert_eq!(read("srv/told"), "told\n");
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
    let [root, user] = overlays.map(|overlay| fs::read(overlay).unwrap());
    assert!(
        root == user,
        "{}",
        stage.sh(
            "bsdtar -tvf root/demo.cpio.gz >r; bsdtar -tvf user/demo.cpio.gz >u; diff r u || :"
        )
    );
}

#[test]
fn a_root_without_a_whole_python_is_told_before_the_role_runs() {
    let stage = Stage::new();
    let image = project(&stage);
    stage.write("broken/provisioner.yml", "scripts: [less]\n");
    let said = "add the package python3 to the base or to a provisioner before the role";
    for less in ["rm /usr/lib/python3*/shutil.py", "rm /usr/bin/python3"] {
        stage.write("broken/less", less);
        let text = fs::read_to_string(&image).unwrap();
        stage.write("less.yml", text.replace("[sources,", "[broken,"));
        let mut command = stage.overcoat(Who::Unprivileged);
        let output = stage.out(Who::Unprivileged).join("demo.cpio.gz");
        command.arg("build").arg(stage.path("less.yml")).arg("-o").arg(&output);
        let finished = finish(&mut command).code(1).says(&[said]);
        assert!(!finished.stderr.contains("TASK"), "{less}: {}", finished.stderr);
    }
}

#[test]
fn a_task_that_fails_is_told_and_fails_the_build() {
    let stage = Stage::new();
    let image = project(&stage);
    stage.write(
        "roles/overlay/demo/tasks/main.yml",
        "- {name: doomed, command: /no/such/program}\n",
    );
    let mut command = stage.overcoat(Who::Unprivileged);
    let output = stage.out(Who::Unprivileged).join("demo.cpio.gz");
    command.arg("build").arg(image).arg("-o").arg(&output);
    finish(&mut command).code(1).says(&["ansible role demo", "TASK", "doomed", "/no/such/program"]);
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
        finish(&mut command).ok();
        stage.sh(&format!("gzip -dc '{}' | cpio -it --quiet", output.display()))
    };
    assert!(!list(&[]).contains("srv/tagged"));
    assert!(list(&["--ansible=--tags=extra"]).contains("srv/tagged"));
    assert!(!list(&["--ansible=--tags=extra", "--ansible=--check"]).contains("srv/tagged"));
}
