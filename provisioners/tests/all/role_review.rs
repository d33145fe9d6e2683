//! Problems of Ansible roles that are found before they run.

use crate::common::{chain, write_files};
use provisioners::Image;

/// Returns the problems of the role `roles/x`, which has these files, with these variables.
fn problems(files: &[(&str, &str)], variables: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let image = format!("base: base.squashfs\nprovisioner: roles/x\nvariables: {{{variables}}}\n");
    write_files(dir.path(), files);
    write_files(dir.path(), &[("image.yml", &image)]);
    let image = Image::load(&dir.path().join("image.yml")).unwrap();
    let plan = image.plan().unwrap_or_else(|e| panic!("{}", chain(&e)));
    let problems = plan.role_problems().unwrap();
    let folder = format!("{}/", dir.path().display());
    problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
}

fn undefined(place: &str, name: &str) -> String {
    format!("roles/x/{place}: `{name}` is not defined: add it to the variables of the image")
}

#[test]
fn undefined_variables_are_found_with_their_line() {
    let found = problems(
        &[
            (
                "roles/x/tasks/main.yml",
                "- copy: content={{ greeting }} dest=/etc/motd
- debug:
    msg: \"{{ packages_of_x | length }}\"
  when: wanted
- debug: var=shown
- command: echo {{ item }}
  with_items: old_list
- assert: {that: [count > 1]}
- template: src=a.j2 dest=/etc/a
",
            ),
            ("roles/x/templates/a.j2", "one\n{% for n in names %}{{ n }}{{ last }}{% endfor %}\n"),
        ],
        "greeting: 'hello {{ who }}', names: [a]",
    );
    let wanted = [
        undefined("tasks/main.yml:3", "packages_of_x"),
        undefined("tasks/main.yml:4", "wanted"),
        undefined("tasks/main.yml:7", "old_list"),
        undefined("tasks/main.yml:8", "count"),
        undefined("templates/a.j2:2", "last"),
        "roles/x/tasks/main.yml:1: `who` is not defined, but the value of `greeting` uses it: add it \
         to the variables of the image"
            .to_owned(),
    ];
    for problem in &wanted {
        assert!(found.contains(problem), "{problem}\n{found:#?}");
    }
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
}

#[test]
fn variables_that_a_role_may_define_are_no_problem() {
    let tasks = "- command: uname
  register: result
- set_fact: {fact: 1}
- debug: {msg: \"{{ result.stdout }} {{ fact }} {{ ansible_distribution }} {{ role_path }}\"}
- debug: {msg: \"{{ a }} {{ b }} {{ local }} {{ one.x }} {{ index }} {{ given }}\"}
  vars: {local: 1}
  loop: [{x: 1}]
  loop_control: {loop_var: one, index_var: index}
- debug: {msg: \"{{ maybe | default('x') }} {{ other.y|d(1) }}\"}
- debug: {msg: \"{{ checked }}\"}
  when: checked is defined
- debug: {msg: \"{{ never }}\"}
  when: [ansible_os_family == 'RedHat']
- block:
    - debug: {msg: \"{{ neither }}\"}
  when: not given
- debug: {msg: \"{{ lookup('env', 'HOME') }} {% set own = 1 %}{{ own }} {{ 'a'.split('.')[0] }}\"}
- name: \"{{ only_shown }}\"
  command: \"true\"
";
    let files: &[(&str, &str)] = &[
        ("roles/x/tasks/main.yml", tasks),
        ("roles/x/defaults/main.yml", "a: 1\n"),
        ("roles/x/vars/main.yml", "b: 1\n"),
    ];
    assert_eq!(problems(files, "given: true"), [] as [&str; 0]);
    // These may define any variables.
    for more in [
        "- include_vars: \"{{ ansible_distribution }}.yml\"\n",
        "- mount_facts: {}\n",
        "- include_role: {name: \"{{ given }}\"}\n",
    ] {
        let tasks = format!("{more}- debug: {{msg: \"{{{{ unknown }}}}\"}}\n");
        let files: &[(&str, &str)] = &[("roles/x/tasks/main.yml", &tasks)];
        assert_eq!(problems(files, "given: true"), [] as [&str; 0], "{more}");
    }
}

#[test]
fn variables_of_named_roles_count() {
    let files: &[(&str, &str)] = &[
        ("roles/x/tasks/main.yml", "- debug: {msg: \"{{ of_y }}\"}\n"),
        ("roles/x/meta/main.yml", "dependencies: [{role: y, passed: 1}]\n"),
        ("roles/y/tasks/main.yml", "- debug: {msg: \"{{ passed }} {{ lost }}\"}\n"),
        ("roles/y/defaults/main.yml", "of_y: 1\n"),
    ];
    let wanted = "roles/y/tasks/main.yml:1: `lost` is not defined: add it to the variables of the \
                  image";
    assert_eq!(problems(files, ""), [wanted]);
}

#[test]
fn missing_files_are_found_with_their_line() {
    let tasks = "- copy: src={{ role_path }}/../../files/{{ tool }} dest=/opt/
- copy: {src: here.conf, dest: /etc}
- copy:
    src: lost.conf
    dest: /etc
- template: src=lost.j2 dest=/etc/lost
- copy: src={{ item }} dest=/etc
  with_items: [here.conf, gone.conf]
- copy: src={{ item.file }} dest=/etc
  loop: \"{{ tools }}\"
- script: lost.sh --option
- include_tasks: more.yml
- unarchive: {src: lost.tar, dest: /}
";
    let files: &[(&str, &str)] =
        &[("roles/x/tasks/main.yml", tasks), ("roles/x/files/here.conf", ""), ("files/there", "")];
    let no_file = |line: usize, module: &str, path: &str| {
        format!("roles/x/tasks/main.yml:{line}: the file of `{module}` does not exist: {path}")
    };
    assert_eq!(
        problems(files, "tool: tool.deb, tools: [{file: a}, {file: here.conf}]"),
        [
            no_file(1, "copy", "files/tool.deb"),
            no_file(4, "copy", "roles/x/files/lost.conf"),
            no_file(6, "template", "roles/x/templates/lost.j2"),
            no_file(7, "copy", "roles/x/files/gone.conf"),
            no_file(9, "copy", "roles/x/files/a"),
            no_file(11, "script", "roles/x/files/lost.sh"),
            no_file(12, "include_tasks", "roles/x/tasks/more.yml"),
            no_file(13, "unarchive", "roles/x/files/lost.tar"),
        ]
    );
}

#[test]
fn files_that_may_exist_when_the_task_runs_are_no_problem() {
    let tasks = "- copy: src=/etc/hostname dest=/etc/x remote_src=yes
- unarchive: {src: 'http://example.org/x.tar', dest: /}
- unarchive: {src: /srv/x.tar, dest: /, copy: no}
- copy: src={{ item }} dest=/etc
  with_fileglob: ['*.conf']
- command: mktemp
  register: made
- copy: src={{ made.stdout }} dest=/etc
- copy: src=lost dest=/etc
  when: made.rc == 0
- copy: src=lost dest=/etc
  when: no_more is defined and no_more
- copy: {content: x, dest: /etc/x}
- copy: src=beside.txt dest=/etc
- copy: src=lost dest=/etc
  when: not given
";
    let files: &[(&str, &str)] =
        &[("roles/x/tasks/main.yml", tasks), ("roles/x/tasks/beside.txt", "")];
    assert_eq!(problems(files, "given: true"), [] as [&str; 0]);
    // A task on the host may create it.
    let tasks = "- local_action: command make tool\n- copy: src=tool dest=/opt\n";
    assert_eq!(problems(&[("roles/x/tasks/main.yml", tasks)], ""), [] as [&str; 0]);
}

#[test]
fn roles_that_build_well_have_no_problems() {
    for tasks in [
        "- set_fact: {\"{{ item.key }}\": 1}\n  loop: [{key: a}]\n- debug: {msg: '{{ a }}'}\n",
        "- debug: {msg: \"{{ lookup('vars', 'x', default='') }} {{ y }}\"}\n",
        "- assemble: {src: /srv/parts, dest: /etc/all}\n",
        "- copy: {src: ~/.bashrc, dest: /root}\n- copy: {src: lost, dest: /x, remote_src: y}\n",
        "- template: src=off.j2 dest=/x\n  when: tls\n",
        "- debug: {msg: '{{ of_vault }}'}\n",
    ] {
        let files: &[(&str, &str)] = &[
            ("roles/x/tasks/main.yml", tasks),
            ("roles/x/templates/off.j2", "{{ certificate }}\n"),
            ("roles/x/defaults/main.yml", "tls: false\n"),
        ];
        let vault = [("roles/x/vars/main.yml", "of_vault: !vault |\n  x\n")];
        let files = [files, if tasks.contains("vault") { &vault } else { &[] }].concat();
        assert_eq!(problems(&files, ""), [] as [&str; 0], "{tasks}");
    }
    let files: &[(&str, &str)] = &[
        ("roles/x/tasks/main.yml", "- template: src=a.j2 dest=/x\n"),
        ("roles/x/templates/a.j2", "{% set own = 1 %}{% include 'b.j2' %}{{ template_path }}\n"),
        ("roles/x/templates/b.j2", "{{ own }}\n"),
    ];
    assert_eq!(problems(files, ""), [] as [&str; 0]);
}

#[test]
fn hostile_expressions_take_no_time_and_no_stack() {
    for (key, expression) in [
        ("when", "a or ".repeat(50_000) + "a"),
        ("when", "not ".repeat(50_000) + "a"),
        ("when", "a.".repeat(50_000) + "a"),
        ("with_items", "[".repeat(50_000)),
        ("include_tasks", "{% for i in range(100000) %}".repeat(3) + &"{% endfor %}".repeat(3)),
        ("include_tasks", "{{ 'x' * 1000000000 }}".to_owned()),
        ("include_tasks", format!("{{{{ {}a }}}}", "-".repeat(50_000))),
    ] {
        let tasks = format!("- command: \"true\"\n- {{debug: {{}}, {key}: \"{expression}\"}}\n");
        problems(&[("roles/x/tasks/main.yml", &tasks)], "");
        let template = format!("{{{{ {expression} }}}}{{% if {expression} %}}{{% endif %}}\n");
        let files: &[(&str, &str)] = &[
            ("roles/x/tasks/main.yml", "- template: src=a.j2 dest=/x\n"),
            ("roles/x/templates/a.j2", &template),
        ];
        problems(files, "");
    }
}

#[test]
fn role_with_mistakes_is_left_to_ansible() {
    let files: &[(&str, &str)] = &[
        (
            "roles/x/tasks/main.yml",
            "- debug: {msg: \"{{ broken\"}\n- copy: src={{ }} dest=x\n- 5\n",
        ),
        ("roles/x/tasks/other.yml", "a: [\n"),
        ("roles/x/templates/a.j2", "{{ x.items() if }}\n"),
        ("roles/x/templates/b.j2", "#jinja2: variable_start_string: '[['\n{{ other }}\n"),
        ("roles/x/vars/main.yml", "- 1\n"),
    ];
    assert_eq!(problems(files, ""), [] as [&str; 0]);
}
