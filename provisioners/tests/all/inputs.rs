//! The inputs of provisioners, which determine whether an image is out of date.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::common::write_files;
use provisioners::{Project, Provisioner};

fn inputs(folder: &Path) -> Vec<(String, String)> {
    let inputs = Provisioner::load(folder).unwrap().inputs().unwrap();
    inputs.into_iter().map(|(name, digest)| (name, digest.to_string())).collect()
}

fn names(folder: &Path) -> Vec<String> {
    inputs(folder).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn inputs_are_the_files_named_by_steps() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = "packages: [lshw, ./debs/a.deb]\nfiles: files\nscripts: [scripts/1]\n";
    let files = [
        ("provisioner.yml", yaml),
        ("debs/a.deb", ""),
        ("debs/b.deb", ""),
        ("files/etc/a.j2", ""),
        ("files/empty/.gitkeep", ""),
        ("scripts/1", ""),
        ("scripts/2", ""),
        ("README.md", ""),
    ];
    write_files(dir.path(), &files);
    symlink("nowhere", dir.path().join("files/link")).unwrap();
    let wanted = [
        "debs/a.deb",
        "files/empty (an empty directory)",
        "files/etc/a.j2",
        "files/link",
        "provisioner.yml",
        "scripts/1",
    ];
    assert_eq!(names(dir.path()), wanted);

    let outside = "scripts: [{path: scripts/1, outside: true}]\n";
    write_files(dir.path(), &[("provisioner.yml", outside), (".git/index", "")]);
    let all = names(dir.path());
    assert!(all.contains(&"README.md".to_owned()) && all.contains(&"scripts/2".to_owned()));
    assert!(!all.iter().any(|name| name.contains(".git")), "{all:?}");
}

#[test]
fn digest_depends_on_type_content_execute_bit_and_target_only() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &[("provisioner.yml", "files: files\n"), ("files/a", "1")]);
    let (file, link) = (dir.path().join("files/a"), dir.path().join("files/l"));
    symlink("x", &link).unwrap();
    let mut before = inputs(dir.path());
    assert_eq!(before[0].1, "3f524cdc07a11d7c6220bdb049fe8dd41b27483c96cc59b581e022d547290d69");
    let mut changes = |what: &str, expected: bool| {
        let now = inputs(dir.path());
        assert_eq!(now != before, expected, "{what}");
        before = now;
    };
    fs::File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    changes("time", false);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    changes("mode for others", false);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    changes("executable", true);
    fs::write(&file, "2").unwrap();
    changes("content", true);
    fs::remove_file(&link).unwrap();
    symlink("y", &link).unwrap();
    changes("target", true);
    fs::remove_file(&link).unwrap();
    fs::write(&link, "y").unwrap();
    changes("kind", true);
}

/// Tests every way in which a role can name others, and a role that is not named.
#[test]
fn inputs_of_a_role_include_roles_that_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let task = "- block:\n  - ansible.builtin.include_role:\n      name: by_block\n- import_role: name=by_line tasks_from=x\n";
    let files = [
        ("overlay/main/tasks/main.yml", task),
        ("overlay/main/handlers/main.yml", "- include_role: {name: basefs/handler}\n"),
        (
            "overlay/main/meta/main.yml",
            "dependencies:\n- by_name\n- {role: basefs/common}\n- src: installed\n",
        ),
        ("overlay/main/files/x", ""),
        ("overlay/by_block/tasks/main.yml", "# include_role: {name: unused}\n- debug: {}\n"),
        ("overlay/by_line/tasks/main.yml", "- include_role: {name: main}\n"),
        ("overlay/by_name/defaults/main.yml", "a: 1\n"),
        ("overlay/unused/tasks/main.yml", "- debug: {}\n"),
        ("basefs/handler/tasks/main.yml", "- debug: {}\n"),
        ("basefs/common/tasks/main.yml", "- import_role:\n    name: beside\n"),
        ("basefs/beside/tasks/main.yml", "- debug: {}\n"),
        ("basefs/unused/tasks/main.yml", "- debug: {}\n"),
    ];
    write_files(dir.path(), &files);
    let role = dir.path().join("overlay/main");
    let found: Vec<String> = names(&role)
        .into_iter()
        .filter(|name| !name.ends_with('s') && !name.ends_with("meta"))
        .collect();
    let wanted = [
        "../../basefs/beside/tasks/main.yml",
        "../../basefs/common/tasks/main.yml",
        "../../basefs/handler/tasks/main.yml",
        "../by_block/tasks/main.yml",
        "../by_line/tasks/main.yml",
        "../by_name/defaults/main.yml",
        "files/x",
        "handlers/main.yml",
        "meta/main.yml",
        "tasks/main.yml",
    ];
    assert_eq!(found, wanted);
}

/// Roles share files by links. One of the links leads to a parent folder.
#[test]
fn inputs_of_a_role_include_link_targets() {
    let dir = tempfile::tempdir().unwrap();
    let files = [("roles/main/tasks/main.yml", ""), ("shared/files/a", "1"), ("shared/b", "1")];
    write_files(dir.path(), &files);
    let role = dir.path().join("roles/main");
    symlink("../../shared/files", role.join("files")).unwrap();
    symlink("../../shared/b", role.join("b")).unwrap();
    symlink("..", dir.path().join("shared/files/loop")).unwrap();
    symlink("/nowhere", role.join("dangling")).unwrap();
    let mut before = inputs(&role);
    for name in ["shared/files/a", "shared/b"] {
        fs::write(dir.path().join(name), "2").unwrap();
        let now = inputs(&role);
        assert_ne!(now, before, "{name}");
        before = now;
    }
}

/// If a name depends on variables or a file cannot be parsed, all roles count: a needless build is
/// better than a missing one.
#[test]
fn unknown_role_name_includes_all_roles() {
    for task in [
        "- include_role: {name: \"{{ kind }}\"}\n",
        "- include_role: {name: \"{{ item }}\"}\n  vars: {x: !unsafe y}\n",
        "- action: include_role name=other\n",
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_files(
            dir.path(),
            &[
                ("overlay/main/tasks/main.yml", task),
                ("overlay/other/tasks/main.yml", "- debug: {}\n"),
                ("basefs/another/tasks/main.yml", "- debug: {}\n"),
                ("overlay/no_role/x", ""),
            ],
        );
        let names = names(&dir.path().join("overlay/main"));
        let has = |name: &str| names.iter().any(|n| n == name);
        assert!(has("../other/tasks/main.yml"), "{task}: {names:?}");
        assert!(has("../../basefs/another/tasks/main.yml"), "{task}: {names:?}");
        assert!(!has("../no_role/x"), "{task}");
    }
}

/// Tags of Ansible do not hide the names in a file.
#[test]
fn inputs_of_a_role_with_tags_are_only_the_roles_that_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = "- include_role: {name: named}\n  vars: {x: !unsafe '{{ y', z: !vault 00}\n";
    write_files(
        dir.path(),
        &[
            ("roles/main/tasks/main.yml", tasks),
            ("roles/named/tasks/main.yml", "[]"),
            ("roles/unused/tasks/main.yml", "[]"),
        ],
    );
    let wanted = ["../named/tasks/main.yml", "tasks/main.yml"];
    assert_eq!(names(&dir.path().join("roles/main")), wanted);
}

/// A file has the same name for all kinds of steps, and non-empty folders are not inputs.
#[test]
fn input_names_do_not_depend_on_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let files = [("debs/a.deb", ""), ("files/etc/a", ""), ("script", ""), ("files/b/.gitkeep", "")];
    write_files(dir.path(), &files);
    let names_of = |yaml: &str| {
        write_files(dir.path(), &[("provisioner.yml", yaml)]);
        names(dir.path())
    };
    let steps = "packages: [./debs/a.deb]\nfiles: files\n";
    let named = names_of(&format!("{steps}scripts: [script]\n"));
    assert_eq!(names_of("scripts: [{path: script, outside: true}]\n"), named);
    assert_eq!(names_of(&format!("{steps}scripts: [\"{{{{ 'script' }}}}\"]\n")), named);
    let wanted =
        ["debs/a.deb", "files/b (an empty directory)", "files/etc/a", "provisioner.yml", "script"];
    assert_eq!(named, wanted);
}

/// Tests every way in which a role can name a file outside its folder.
#[test]
fn inputs_of_a_role_include_files_outside_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = r#"
- include_tasks: ../../../common/tasks/x.yml
- include_vars: {file: "{{ role_path }}/../../shared/vars.yml"}
- copy: src=../../../shared/with_equals dest=/etc/x
- copy: {src: ../../../shared/folder/, dest: /srv}
- template: {src: '../../../shared/t.j2', dest: /etc/t}
- vars: {x: !unsafe "a file with tags"}
# - copy: {src: ../../../shared/comment, dest: /srv}
- shell: cd ../.. && ls ../../../shared/unread.d
  args: {chdir: ../..}
"#;
    let files = [
        ("roles/overlay/main/tasks/main.yml", tasks),
        ("roles/common/tasks/x.yml", "- import_tasks: ../more/y.yml\n"),
        ("roles/common/more/y.yml", "- include_role: {name: overlay/other}\n"),
        ("roles/overlay/other/tasks/main.yml", "- debug: {}\n"),
        ("roles/shared/vars.yml", ""),
        ("roles/shared/with_equals", ""),
        ("roles/shared/folder/a", ""),
        ("roles/shared/t.j2", ""),
        ("roles/shared/comment", ""),
        ("roles/overlay/unused/x", ""),
    ];
    write_files(dir.path(), &files);
    let wanted = [
        "../../common/more/y.yml",
        "../../common/tasks/x.yml",
        "../../overlay/other/tasks/main.yml",
        "../../shared/folder/a",
        "../../shared/t.j2",
        "../../shared/vars.yml",
        "../../shared/with_equals",
        "tasks/main.yml",
    ];
    assert_eq!(names(&dir.path().join("roles/overlay/main")), wanted);
}

/// Quotes, blanks and brackets in a path, patterns, and escaped quotes.
#[test]
fn inputs_of_a_role_include_files_outside_with_any_name() {
    let tasks = r#"
- copy: {src: ../../shared/flow kv.txt, dest: /x}
- copy: src='../../../shared/quoted kv.txt' dest=/x
- copy: {src: "../../../shared/a (1), b=c [2].txt", dest: /x}
- copy: src={{ item }} dest=/x
  with_fileglob: ../../../shared/*.glob
- copy: src={{ item }} dest=/x
  with_fileglob: "{{ role_path }}/../../shared/*.more"
- debug: msg="{{ lookup(\"file\", \"../../../shared/escaped\") }}"
- debug: {msg: "{{ lookup('file', role_path + '/../../shared/joined') }}"}
- copy:
    content: |
      one
      {{ lookup('file', "../../../shared/in text") }}
    dest: /x
"#;
    let dir = tempfile::tempdir().unwrap();
    let mut wanted: Vec<String> = Vec::new();
    for name in [
        "flow kv.txt",
        "quoted kv.txt",
        "a (1), b=c [2].txt",
        "one.glob",
        "two.glob",
        "three.more",
        "escaped",
        "joined",
        "in text",
    ] {
        write_files(dir.path(), &[(&format!("roles/shared/{name}"), "")]);
        wanted.push(format!("../../shared/{name}"));
    }
    write_files(
        dir.path(),
        &[("roles/overlay/main/tasks/main.yml", tasks), ("roles/shared/1.less", "")],
    );
    wanted.push("tasks/main.yml".to_owned());
    wanted.sort();
    assert_eq!(names(&dir.path().join("roles/overlay/main")), wanted);
}

#[test]
fn names_that_are_not_utf8_are_different_inputs() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &[("tasks/main.yml", "[]"), ("files/\\xff", "")]);
    for byte in [0xfe, 0xff] {
        fs::write(dir.path().join("files").join(OsStr::from_bytes(&[byte])), "").unwrap();
    }
    let wanted = ["files/\\\\xff", "files/\\xfe", "files/\\xff", "tasks/main.yml"];
    assert_eq!(names(dir.path()), wanted);
}

#[test]
fn readme_and_empty_directories_of_a_role_are_not_inputs() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &[("tasks/main.yml", "- debug: {}\n"), ("README.md", "")]);
    fs::create_dir_all(dir.path().join("vars/deep")).unwrap();
    fs::create_dir_all(dir.path().join("handlers")).unwrap();
    assert_eq!(names(dir.path()), ["tasks/main.yml"]);
    // A task may copy these.
    write_files(dir.path(), &[("files/README", "")]);
    fs::create_dir_all(dir.path().join("files/tree/empty")).unwrap();
    let copied = ["files/README", "files/tree/empty (an empty directory)", "tasks/main.yml"];
    assert_eq!(names(dir.path()), copied);
    for task in ["copy: src=../README.md dest=/x", "copy: src='{{ role_path }}/' dest=/x"] {
        write_files(dir.path(), &[("tasks/main.yml", &format!("- {task}\n"))]);
        assert!(names(dir.path()).contains(&"README.md".to_owned()), "{task}");
    }
    let task = "- copy: src={{ role_path }}/files/tree dest=/x\n";
    write_files(dir.path(), &[("tasks/main.yml", task)]);
    assert_eq!(names(dir.path()), copied);
}

/// Returns the variables that are inputs of the only image of a project, with the role `main`.
fn variables(folder: &Path, given: &str) -> Vec<String> {
    let text = format!(
        "variables: {given}\nimages: {{a: {{base: ./b.squashfs, provisioner: roles/overlay/main}}}}"
    );
    let project = Project::parse(&folder.join("overcoat.yml"), text).unwrap();
    let inputs = project.images()[0].image.inputs().unwrap();
    let names = inputs.keys().filter_map(|name| name.strip_prefix("variable "));
    names.map(str::to_owned).collect()
}

#[test]
fn variables_count_for_a_role_that_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        (
            "roles/overlay/main/tasks/main.yml",
            "- include_role: {name: named}\n- import_tasks: ../../../shared/tasks.yml\n\
             - shell: echo {{ in_task }}\n  vars: {x: 1}\n- include_vars: vars.yml\n\
             - template: {src: '{{ item }}', dest: /etc/x}\n  with_items: [x.j2]\n\
             - include_tasks: '{{ ansible_os_family }}.yml'\n",
        ),
        ("roles/overlay/main/templates/deep/x.j2", "{% if in_template is defined %}x{% endif %}"),
        ("roles/overlay/main/files/copied", "in_file"),
        ("roles/overlay/main/library/module.py", "module = in_module"),
        ("roles/overlay/named/defaults/main.yml", "of_named_role: 1\n"),
        ("roles/overlay/other/defaults/main.yml", "of_other_role: 1\n"),
        ("shared/tasks.yml", "- debug: {var: outside}\n"),
    ];
    write_files(dir.path(), &files);
    let given = "{in_task: '{{ in_value }}', in_value: '{{ deeper }}', deeper: 1, in_template: 1, \
                 in_file: 1, in_module: 1, of_named_role: 1, of_other_role: 1, outside: 1, \
                 ansible_become: true, unused: '{{ also }}', also: 1, in: 1, in_tasks: 1, task: 1}";
    let used = [
        "ansible_become",
        "deeper",
        "in_file",
        "in_module",
        "in_task",
        "in_template",
        "in_value",
        "of_named_role",
        "outside",
    ];
    assert_eq!(variables(dir.path(), given), used);
    // Any word counts.
    write_files(dir.path(), &[("roles/overlay/main/templates/y.j2", "{% for x in y %}")]);
    assert!(variables(dir.path(), given).contains(&"in".to_owned()));
}

/// A role that may use variables without their names, or files that are not inputs.
#[test]
fn all_variables_count_for_a_role_that_may_use_any() {
    let used = |path: &str, text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let main = "roles/overlay/main/tasks/main.yml";
        write_files(dir.path(), &[(main, "- debug: {}\n"), (path, text)]);
        variables(dir.path(), "{x_1: 1, x_2: 1}").len()
    };
    let task = |text: &str| used("roles/overlay/main/tasks/main.yml", &format!("- {text}\n"));
    for text in [
        "debug: msg={{ vars['x_' + n] }}",
        "debug: msg={{ vars.values() }}",
        "debug: msg={{ lookup('vars', 'x_' + n) }}",
        "debug: msg={{ lookup('ansible.builtin.vars', n) }}",
        "debug: msg={{ hostvars[inventory_hostname] }}",
        "debug: msg={{ q('varnames', '^x') }}",
        "debug: msg={{ lookup('template', '/srv/x.j2') }}",
        r#"debug: msg="{{ lookup(\"vars\", \"x_\" ~ n) }}""#,
        r#"debug: msg="{{ lookup(\"template\", \"/srv/x.j2\") }}""#,
        "include_tasks: '{{ name }}.yml'",
        "include_tasks: /srv/tasks.yml",
        "include: \"/srv/tasks.yml\"",
        "include_vars: {file: /srv/vars.yml}",
        "ansible.builtin.include_vars:\n    dir: '{{ folder }}'",
        "template: src=/srv/x.j2 dest=/etc/x",
        "template: {src: '{{ folder }}/x.j2', dest: /etc/x}",
        "template: {src: '{{ item }}', dest: /etc/x}\n  with_fileglob: /srv/*.j2",
        "include_role: {name: installed}",
        "include_role: {name: '{{ name }}'}",
    ] {
        assert_eq!(task(text), 2, "{text}");
    }
    assert_eq!(used("roles/overlay/main/action_plugins/x.py", "class ActionModule: pass"), 2);
    assert_eq!(used("roles/overlay/main/templates/x.j2", "{{ vars | to_json }}"), 2);
    assert_eq!(used("roles/overlay/main/meta/main.yml", "dependencies: [installed]\n"), 2);
    for text in [
        "debug: msg=hello\n  vars:\n    n: 1",
        "include_vars: ../vars/main.yml",
        "include_tasks: '{{ role_path }}/tasks/x.yml'",
        "copy: src=/srv/x dest=/etc/x",
        "debug: {}\n# include_tasks: '{{ name }}.yml'",
        "file: path=/{{ dd }} state=directory",
        "{file: {path: '/{{ dd }}', state: directory}}",
        "file:\n    path: '/{{ dd }}'",
        "debug: {msg: !unsafe 'include {{ x }}'}",
    ] {
        assert_eq!(task(text), 0, "{text}");
    }
    assert_eq!(used("roles/overlay/main/files/x.py", "import os"), 0);
}

/// Returns why the project is rejected, if it is.
fn rejected(folder: &Path, text: &str) -> Option<String> {
    Project::parse(&folder.join("overcoat.yml"), text.to_owned()).err().map(|e| e.to_string())
}

#[test]
fn no_output_may_be_an_input() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("one/provisioner.yml", "files: files\npackages: [./x.deb]\nscripts: [do]\n"),
        ("one/files/etc/x", ""),
        ("one/x.deb", ""),
        ("one/do", ""),
        ("outside/provisioner.yml", "scripts: [{path: do, outside: true}]\n"),
        ("outside/do", ""),
        ("role/tasks/main.yml", "- debug: {}\n"),
        ("tree/x", ""),
        ("variables.yml", "{}\n"),
        ("keys.gpg", ""),
        ("base.squashfs", ""),
    ];
    write_files(dir.path(), &files);
    symlink("one", dir.path().join("link")).unwrap();
    let images = "  base: {kind: base, release: x, keyring: keys.gpg}\n\
                  \x20 tree: {kind: base, from: tree}\n\
                  \x20 one: {base: base, provisioner: [one, outside, role], config_file: variables.yml}\n\
                  \x20 two: {base: ./base.squashfs}\n";
    let with = |output: &str| {
        format!("images:\n{images}  new: {{base: base, output: ../{output}, format: cpio}}\n")
    };
    for file in [
        "overcoat.yml",
        "one/provisioner.yml",
        "one/files/etc/x",
        "one/files/new",
        "one/x.deb",
        "link/do",
        "outside/new",
        "role/new",
        "tree/new",
        "variables.yml",
        "keys.gpg",
    ] {
        let error = rejected(dir.path(), &with(file)).unwrap_or_default();
        assert!(error.contains("built from") && error.contains(file), "{file}: {error}");
        let project = format!("images:\n{images}");
        let project = Project::parse(&dir.path().join("overcoat.yml"), project).unwrap();
        assert!(project.input_at(&dir.path().join(file)).unwrap().is_some(), "{file}");
    }
    for file in ["new", "one/new", "tree2/new"] {
        assert_eq!(rejected(dir.path(), &with(file)), None, "{file}");
    }
    // Layers that other images do not make.
    let project = Project::parse(&dir.path().join("overcoat.yml"), with("new")).unwrap();
    for (file, image) in [("base.squashfs", "two"), ("build/base.squashfs", "one")] {
        let (member, _) = project.input_at(&dir.path().join(file)).unwrap().unwrap();
        assert_eq!(member.name, image);
    }
    assert_eq!(project.input_at(&dir.path().join("next.squashfs")).unwrap().map(|_| ()), None);
}

#[test]
fn path_of_an_artifact_needs_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let text = "images:\n  b: {base: build/../build/a.squashfs}\n  a: {kind: base, from: .}\n";
    let project = Project::parse(&dir.path().join("overcoat.yml"), text.to_owned()).unwrap();
    assert_eq!(project.with_needs(&[0]), [1, 0]);
    // A symbolic link to another artifact would be followed.
    write_files(dir.path(), &[("build/a.squashfs", "")]);
    symlink("a.squashfs", dir.path().join("build/c.cpio.gz")).unwrap();
    let error = rejected(dir.path(), &format!("{text}  c: {{base: a}}\n")).unwrap();
    assert!(error.contains("`a` writes `c.cpio.gz` too"), "{error}");
}

#[test]
fn results_in_the_directory_of_a_root_are_no_inputs() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &[("etc/x", "")]);
    let inputs = || {
        let text = "images: {a: {kind: base, from: .}}".to_owned();
        let project = Project::parse(&dir.path().join("overcoat.yml"), text).unwrap();
        project.images()[0].image.inputs().unwrap()
    };
    let before = inputs();
    write_files(dir.path(), &[("build/a.squashfs", ""), ("build/.overcoat/a.json", "")]);
    assert_eq!(inputs(), before);
    write_files(dir.path(), &[("etc/build/x", "")]);
    assert_ne!(inputs(), before);
}

#[test]
fn list_of_formats_adds_suffixes() {
    let outputs = |image: &str| {
        let text = format!("images: {{a: {{kind: base, from: ., {image}}}}}");
        let project = Project::parse(Path::new("/x/overcoat.yml"), text).unwrap();
        let outputs = project.images()[0].image.outputs.clone().into_iter();
        outputs
            .map(|(path, _)| path.strip_prefix("/x/build").unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for (image, files) in [
        ("output: alpha, format: [cpio.zst]", &["alpha.cpio.zst"][..]),
        ("output: alpha, format: [cpio.zst, cpio]", &["alpha.cpio.zst", "alpha.cpio"]),
        ("output: alpha, format: cpio.zst", &["alpha"]),
        ("output: alpha.cpio.zst, format: [cpio.zst]", &["alpha.cpio.zst"]),
        ("format: [cpio.zst]", &["a.cpio.zst"]),
    ] {
        assert_eq!(outputs(image), files.iter().map(Path::new).collect::<Vec<_>>(), "{image}");
    }
}

#[test]
fn files_named_by_variables_of_a_role_are_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        (
            "roles/overlay/main/tasks/main.yml",
            "- copy: src={{ host_file }} dest=/etc/x\n- include_role: {name: named}\n",
        ),
        (
            "roles/overlay/named/tasks/main.yml",
            "- copy: src={{ item }} dest=/y\n  loop: '{{ all }}'\n",
        ),
        ("roles/overlay/named/files/own", ""),
        ("extra/a.txt", ""),
        ("extra/b.txt", ""),
        ("extra/c.txt", ""),
        ("extra/d/e", ""),
    ];
    write_files(dir.path(), &files);
    let inputs = || {
        let text = "variables: {host_file: ../../../extra/a.txt, all: [own, ../../../extra/b.txt, \
                    {x: ../../../../extra/d}], unused: ../../../extra/c.txt, lost: ../../../none}\n\
                    images: {a: {base: ./b.squashfs, provisioner: roles/overlay/main}}";
        let project = Project::parse(&dir.path().join("overcoat.yml"), text.to_owned()).unwrap();
        project.images()[0].image.inputs().unwrap()
    };
    let before = inputs();
    let outside: Vec<_> = before.keys().filter(|name| name.contains("extra/")).collect();
    assert_eq!(
        outside,
        ["main: ../../../extra/a.txt", "main: ../../../extra/b.txt", "main: ../../../extra/d/e",]
    );
    write_files(dir.path(), &[("extra/a.txt", "changed")]);
    assert_ne!(inputs(), before);
}

#[test]
fn tests_and_files_of_editors_are_no_inputs_of_a_role() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("tasks/main.yml", "- debug: {}\n"),
        ("tasks/.main.yml.swp", ""),
        ("tasks/main.yml~", ""),
        ("tasks/#main.yml#", ""),
        ("vars/.#main.yml", ""),
        ("tests/test.yml", ""),
        ("molecule/default/converge.yml", ""),
        (".gitignore", ""),
        (".github/workflows/ci.yml", ""),
        ("files/tests/x", ""),
        ("files/copied~", ""),
    ];
    write_files(dir.path(), &files);
    assert_eq!(names(dir.path()), ["files/copied~", "files/tests/x", "tasks/main.yml"]);
    let task = "- copy: src=../tests/test.yml dest=/x\n";
    write_files(dir.path(), &[("tasks/main.yml", task)]);
    assert!(names(dir.path()).contains(&"tests/test.yml".to_owned()));
    let task = "- copy: src={{ role_path }} dest=/x\n";
    write_files(dir.path(), &[("tasks/main.yml", task)]);
    assert!(names(dir.path()).contains(&".gitignore".to_owned()));
}
