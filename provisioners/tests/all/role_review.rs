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
- debug: {}
  when: wanted
- command: echo {{ item }}
  with_items: \"{{ some_list }}\"
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
        undefined("tasks/main.yml:5", "wanted"),
        undefined("tasks/main.yml:7", "some_list"),
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
        "- some.collection.mount_facts: {}\n",
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
    let lost = "- copy: src=tool dest=/opt\n";
    for tasks in [
        "- local_action: command make tool\n",
        "- block: [{command: make tool}]\n  delegate_to: localhost\n",
        "- import_tasks: make.yml\n  delegate_to: localhost\n",
        "- fetch: src=/tool dest={{ role_path }}/files/ flat=yes\n",
    ] {
        let tasks = format!("{tasks}{lost}");
        let make = ("roles/x/tasks/make.yml", "- command: make tool\n");
        assert_eq!(problems(&[("roles/x/tasks/main.yml", &tasks), make], ""), [] as [&str; 0]);
    }
}

#[test]
fn roles_that_build_well_have_no_problems() {
    for tasks in [
        "- set_fact: {\"{{ item.key }}\": 1}\n  loop: [{key: a}]\n- debug: {msg: '{{ a }}'}\n",
        "- debug: {msg: \"{{ lookup('vars', 'x', default='') }}\"}\n",
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
fn files_that_an_earlier_step_may_create_are_not_reported() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = "- copy: src=made dest=/x\n";
    for (script, count) in [("", 1), (", outside: true", 0)] {
        let steps = format!("scripts: [{{path: make.sh{script}}}]\n");
        write_files(
            dir.path(),
            &[
                ("p/provisioner.yml", &steps),
                ("p/make.sh", ""),
                ("roles/x/tasks/main.yml", tasks),
                ("image.yml", "base: base.squashfs\nprovisioner: [p, roles/x]\n"),
            ],
        );
        let plan = Image::load(&dir.path().join("image.yml")).unwrap().plan().unwrap();
        assert_eq!(plan.role_problems().unwrap().len(), count, "{steps}");
    }
}

#[test]
fn variables_of_overcoat_itself_are_not_known() {
    let tasks = "- copy: src={{ build_artifact_path }}/x dest=/x\n\
                 - debug: {msg: '{{ lost }}'}\n  when: build_root == 'root'\n";
    let given = "build_artifact_path: /nowhere, build_root: root";
    assert_eq!(problems(&[("roles/x/tasks/main.yml", tasks)], given), [] as [&str; 0]);
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
    // Roles that depend on each other.
    let meta = format!("dependencies: [{}]\n", "x, y, ".repeat(5));
    let files: Vec<_> = ["x", "y"]
        .into_iter()
        .flat_map(|role| {
            let path = |part: &str| format!("roles/{role}/{part}/main.yml");
            [(path("meta"), meta.as_str()), (path("tasks"), "- debug: {}\n")]
        })
        .collect();
    problems(&files.iter().map(|(path, text)| (path.as_str(), *text)).collect::<Vec<_>>(), "");
    // Each variable uses all of the next level.
    let mut defaults = String::new();
    for (level, name) in (0..9).flat_map(|level| (0..20).map(move |name| (level, name))) {
        let next: String = (0..20).map(|n| format!("{{{{ v{}_{n} }}}}", level + 1)).collect();
        defaults.push_str(&format!("v{level}_{name}: \"{next}\"\n"));
    }
    let each = "- include_tasks: main.yml\n  loop: \"{{ many }}\"\n- block: []\n- block: []\n";
    let tasks = format!("- debug: {{msg: \"{{{{ v0_0 }}}}\"}}\n{each}");
    let many = format!("many: [{}]\n", "1, ".repeat(1000));
    let files: &[(&str, &str)] =
        &[("roles/x/tasks/main.yml", &tasks), ("roles/x/defaults/main.yml", &(defaults + &many))];
    problems(files, "");
}

#[test]
fn unclear_mistakes_of_a_role_are_left_to_ansible() {
    let files: &[(&str, &str)] = &[
        ("roles/x/tasks/main.yml", "- copy: src={{ }} dest=x\n- 5\n"),
        ("roles/x/tasks/other.yml", "a: [\n"),
        ("roles/x/templates/a.j2", "{{ x.items() if }}\n"),
        ("roles/x/templates/b.j2", "#jinja2: variable_start_string: '[['\n{{ other }}\n"),
        ("roles/x/vars/main.yml", "- 1\n"),
    ];
    assert_eq!(problems(files, ""), [] as [&str; 0]);
}

/// Returns `text` as the task file of the role `x`, with other files that some tasks use.
fn role(text: &str) -> Vec<(&str, &str)> {
    vec![
        ("roles/x/tasks/main.yml", text),
        ("roles/x/tasks/bad.yml", "- debug: {msg: '{{ nothing }}'}\n- copy: src=lost dest=/x\n"),
        ("roles/x/tasks/install-a.yml", "- debug: {}\n"),
        ("roles/x/tasks/install-False.yml", "- debug: {}\n"),
        ("roles/x/tasks/install-b.yml", "- debug: {msg: '{{ nothing }}'}\n"),
        ("roles/x/handlers/main.yml", "- {name: h, debug: {msg: '{{ nothing }}'}}\n"),
        ("roles/x/templates/bad.j2", "{{ nothing }}\n"),
        (
            "roles/x/templates/branches.j2",
            "{% if feat %}{{ nothing }}{% elif ansible_x %}{{ nothing }}{% else %}{% endif %}\n\
             {% if not feat %}x{% else %}{{ nothing }}{% endif %}{# {{ nothing }} #}\n\
             {% for x in empty %}{{ x }} {{ nothing }}{% else %}{% endfor %}\n\
             {% for x in uses if x.use %}{{ nothing }}{% endfor %}\n\
             {% set ns = nothing %}{{ ns }}{% raw %}{{ nothing }}{% endraw %}\n\
             {{ nothing if feat else 'x' }}{{ true or nothing }}{{ nothing is string }}\n\
             {% macro m(a) %}{{ nothing }}{% endmacro %}{{ nothing }}\n",
        ),
        (
            "roles/x/defaults/main.yml",
            "feat: false\noff: 'no'\nempty: []\nflavour: a\nuses: [{use: false, n: a}]\n\
             indirect: '{{ feat }}'\nraw: !unsafe '{{ nothing }}'\n\
             secret: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  00\n",
        ),
    ]
}

#[test]
fn tasks_that_may_not_run_have_no_problems() {
    let bad = "include_tasks: bad.yml";
    for tasks in [
        "- BAD\n  when: ansible_distribution == 'Ubuntu'\n",
        "- BAD\n  when: ansible_distribution_major_version|int < 9\n",
        "- BAD\n  when: feat | bool\n",
        "- BAD\n  when: off | bool\n",
        "- BAD\n  when: indirect\n",
        "- BAD\n  when: no\n",
        "- BAD\n  when: false and nothing\n",
        "- BAD\n  when: item.use\n  loop: '{{ uses }}'\n",
        "- BAD\n  loop: '{{ empty }}'\n",
        "- BAD\n  with_dict: {}\n",
        "- BAD\n  tags: never\n",
        "- BAD\n  tags: [x, never]\n",
        "- BAD\n  ignore_errors: yes\n",
        "- BAD\n  failed_when: false\n",
        "- stat: path=/x\n  register: st\n- BAD\n  when: st.stat.exists\n",
        "- command: test -e /x\n  register: st\n- BAD\n  when: st is failed\n",
        "- block: [BADTASK]\n  when: ansible_distribution == 'Ubuntu'\n",
        "- block:\n    - block: [BADTASK]\n  rescue:\n    - debug: {}\n",
        "- block:\n    - debug: {}\n  rescue: [BADTASK]\n",
        "- block: [BADTASK]\n  ignore_errors: true\n",
        "- debug: {}\n",
        "- debug: {}\n  notify: h\n",
        "- include_tasks: install-{{ flavour }}.yml\n",
        "- include_tasks: '{{ ansible_x }}.yml'\n",
        "- meta: end_play\n  when: ansible_x\n- BAD\n",
        "- template: src=branches.j2 dest=/x\n",
        "- template: src=bad.j2 dest=/x\n  when: ansible_x\n",
        "- debug: {msg: \"{{ nothing if feat else 1 }} {{ feat and nothing }}\"}\n",
        "- debug: {var: nothing}\n",
        "- debug: {msg: '{{ nothing in [] }} {{ nothing | items }}'}\n",
        "- debug: {msg: '{{ nothing is none }} {{ nothing is mapping }} {{ nothing is number }}'}\n",
        "- debug: {msg: '{{ nothing is boolean }} {{ nothing is sameas 1 }}'}\n",
        "- debug: {msg: '{{ nothing is integer }} {{ nothing is sequence }}'}\n",
        "- debug: {msg: '{{ nothing is not none }} {{ nothing is in [] }}'}\n",
        "- include_tasks: 'install-{{ feat }}.yml'\n",
        "- debug: {msg: '{{ raw }} {{ secret }}'}\n",
        "- debug: {msg: !unsafe '{{ nothing }} {{ '}\n",
        "- debug: {msg: '{{ module_setup }} {{ gather_subset }}'}\n",
        "- debug: {}\n  vars: {unused: '{{ nothing }}'}\n",
        "- meta: noop\n  when: nothing\n",
        "- include_tasks: {file: install-a.yml, apply: {vars: {unused: '{{ nothing }}'}}}\n",
        "- copy: src={{ item.n }} dest=/x\n  loop: '{{ uses }}'\n  when: item.use\n",
        "- unarchive: src=lost dest=/ creates=/x\n",
        "- include_role: {name: namespace.collection.role}\n",
        "- debug: {msg: \"{{ lookup('file', 'lost', errors='ignore') }}\"}\n",
        "- debug: {}\n  notify: '{{ flavour }}'\n",
    ] {
        let indented = bad.replace("include_tasks: bad.yml", "{include_tasks: bad.yml}");
        let tasks = tasks.replace("BADTASK", &indented).replace("BAD", bad);
        assert_eq!(problems(&role(&tasks), ""), [] as [&str; 0], "{tasks}");
    }
}

#[test]
fn problems_of_tasks_that_certainly_run_are_found() {
    let nothing = "roles/x/tasks/bad.yml:1: `nothing` is not defined: add it to the variables of \
                   the image";
    let lost = "roles/x/tasks/bad.yml:2: the file of `copy` does not exist: roles/x/files/lost";
    for tasks in [
        "- include_tasks: bad.yml\n",
        "- import_tasks: bad.yml\n  when: not feat | bool\n",
        "- block:\n    - debug: {}\n  rescue:\n    - debug: {}\n  always:\n    - include_tasks: bad.yml\n",
        "- include_tasks: '{{ item }}.yml'\n  with_items: [install-a, bad]\n",
        "- include_tasks: bad.yml\n  when: true or nothing\n  tags: x\n",
        "- include_role: {name: x, tasks_from: bad}\n",
        "- stat: path=/x\n  delegate_to: 127.0.0.1\n- include_tasks: bad.yml\n",
        "- debug: {msg: '{{ hostvars[inventory_hostname].x }}'}\n- include_tasks: bad.yml\n",
        "- debug: {msg: !unsafe x}\n- include_tasks: bad.yml\n  ignore_errors: false\n",
        "- include_tasks: bad.yml\n- local_action: command make lost\n",
    ] {
        assert_eq!(problems(&role(tasks), ""), [nothing, lost], "{tasks}");
    }
}

#[test]
fn certain_mistakes_of_a_role_are_found() {
    for (text, problem) in [
        (
            "- debug: {msg: '{{ flavour }'}",
            "1: an expression or a statement of the template has no end",
        ),
        (
            "- debug: {}\n- debug:\n    msg: {{ flavour }}",
            "3: a value that begins with `{{` needs quotes in YAML",
        ),
        ("- include_role: {name: lost}", "1: the role `lost` does not exist"),
        ("- import_role:\n    name: lost", "2: the role `lost` does not exist"),
        (
            "- debug: {}\n  notify:\n    - h\n    - lost",
            "4: no handler has the name `lost`: the task fails if it changes something",
        ),
        (
            "- debug: {msg: \"{{ lookup('file', 'lost') | trim }}\"}",
            "1: the file of `lookup` does not exist: roles/x/files/lost",
        ),
        (
            "- debug: {msg: '{{ greeting }}'}",
            "1: `who` is not defined, but the value of `greeting` uses it: add it to the variables \
             of the image",
        ),
    ] {
        let mut files = role(text);
        files.push(("roles/x/vars/main.yml", "greeting: hello {{ who }}\n"));
        assert_eq!(problems(&files, ""), [format!("roles/x/tasks/main.yml:{problem}")], "{text}");
    }
    let mut files = role("- debug: {}\n");
    files.push(("roles/x/meta/main.yml", "dependencies:\n- x\n- {role: lost}\n"));
    assert_eq!(problems(&files, ""), ["roles/x/meta/main.yml:3: the role `lost` does not exist"]);
}

/// Returns the packages of the role with their places, then the tasks with unknown packages.
fn packages(files: &[(&str, &str)], variables: &str) -> (Vec<String>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let image = format!("base: base.squashfs\nprovisioner: roles/x\nvariables: {{{variables}}}\n");
    write_files(dir.path(), files);
    write_files(dir.path(), &[("image.yml", &image)]);
    let plan = Image::load(&dir.path().join("image.yml")).unwrap().plan().unwrap();
    let folder = format!("{}/roles/x/", dir.path().display());
    let known = plan.packages().unwrap().into_iter();
    let known = known.map(|p| format!("{} {}", p.name, p.place.replace(&folder, "")));
    let unknown = plan.tasks_with_unknown_packages().unwrap().into_iter();
    (known.collect(), unknown.map(|place| place.replace(&folder, "")).collect())
}

#[test]
fn packages_of_a_role_are_found_with_their_place() {
    let defaults = "a: [one, two]\nb:\n  - three\n  - '{{ c }}=1.2'\nc: four\nd: 'five,six'\n\
                    pinned:\n  - name: seven\n    version: '7.1'\n";
    let found = |tasks: &str| {
        let files = [
            ("roles/x/tasks/main.yml", tasks),
            ("roles/x/tasks/each.yml", "- apt: name={{ item }}\n"),
            ("roles/x/defaults/main.yml", defaults),
        ];
        packages(&files, "given: [eight]")
    };
    for (task, known) in [
        ("apt: {name: '{{ a }}'}", vec!["one defaults/main.yml:1", "two defaults/main.yml:1"]),
        (
            "apt: {name: '{{ a + b }}'}",
            vec![
                "one defaults/main.yml:1",
                "two defaults/main.yml:1",
                "three defaults/main.yml:3",
                "four=1.2 defaults/main.yml:4",
            ],
        ),
        ("apt: {name: \"{{ absent | default(['x']) }}\"}", vec!["x tasks/main.yml:1"]),
        (
            "apt: name={{ item }}\n  with_flattened: ['{{ a }}', '{{ d }}']",
            vec![
                "one defaults/main.yml:1",
                "two defaults/main.yml:1",
                "five defaults/main.yml:6",
                "six defaults/main.yml:6",
            ],
        ),
        (
            "include_tasks: each.yml\n  with_items: '{{ a }}'",
            vec!["one tasks/each.yml:1", "two tasks/each.yml:1"],
        ),
        (
            "apt: {name: '{{ item.name }}={{ item.version }}'}\n  loop: '{{ pinned }}'",
            vec!["seven=7.1 defaults/main.yml:9"],
        ),
        ("apt: {name: '{{ given }}'}", vec!["eight tasks/main.yml:1, variable given"]),
        ("apt: name=UPPER", vec!["UPPER tasks/main.yml:1"]),
        ("apt: {deb: /x.deb}", vec![]),
        ("apt: {name: /x.deb}", vec![]),
        ("apt: {update_cache: yes}", vec![]),
        ("apt: {name: '{{ a }}', state: absent}", vec![]),
        ("apt: {name: '{{ ansible_x }}', state: absent}", vec![]),
        ("apt: {name: '{{ a }}'}\n  when: false", vec![]),
    ] {
        let (names, unknown) = found(&format!("- {task}\n"));
        assert!(unknown.is_empty(), "{task}: {unknown:?}");
        assert_eq!(names, known, "{task}");
    }
    for task in [
        "apt: {name: '{{ ansible_x }}'}",
        "apt: {name: ['{{ ansible_x }}', y]}",
        "apt: {name: x}\n  when: ansible_distribution == 'Ubuntu'",
        "apt: {name: '{{ item }}'}\n  with_fileglob: x",
        "apt: {name: x, state: '{{ ansible_x }}'}",
    ] {
        assert_eq!(
            found(&format!("- {task}\n")),
            (vec![], vec!["tasks/main.yml:1".to_owned()]),
            "{task}"
        );
    }
}

/// Ansible reads these before the first task, whatever their conditions are.
#[test]
fn what_ansible_reads_first_is_checked_without_conditions() {
    let meta = "galaxy_info: {author: x}\ndependencies:\n- role: lost_dependency\n  when: false\n";
    let tasks = "- import_role: {name: lost_import}
  when: false
- include_role: {name: lost_include}
  when: false
- block:
    - import_tasks: lost.yml
  when: false
  ignore_errors: true
- import_role: {name: y}
  tags: never
- include_tasks: '{{ some }}.yml'
  when: false
";
    let files: &[(&str, &str)] = &[
        ("roles/x/meta/main.yml", meta),
        ("roles/x/tasks/main.yml", tasks),
        ("roles/x/handlers/main.yml", "- name: h\n  import_role: name=lost_handler\n"),
        ("roles/y/tasks/main.yml", "- import_role: {name: lost_deeper}\n  when: false\n"),
    ];
    let no_role =
        |place: &str, name: &str| format!("roles/{place}: the role `{name}` does not exist");
    assert_eq!(
        problems(files, ""),
        [
            no_role("x/handlers/main.yml:2", "lost_handler"),
            no_role("x/meta/main.yml:3", "lost_dependency"),
            no_role("x/tasks/main.yml:1", "lost_import"),
            "roles/x/tasks/main.yml:6: the file of `import_tasks` does not exist: \
             roles/x/tasks/lost.yml"
                .to_owned(),
            no_role("y/tasks/main.yml:1", "lost_deeper"),
        ]
    );
}

#[test]
fn modules_that_ansible_lacks_are_found() {
    let tasks = "- comand: ls
- name: x
  when: false
  ansible.builtin.nosuchmodule: {}
- block:
    - local_action: nosuchaction x=y
- copy: {content: x, dest: /x}
- mysql_db: {name: x}
- community.other.module: {}
- ansible.builtin.apt: {name: x}
- action: command ls
- meta: noop
- include_tasks: other.yml
- with_items: [a]
  setup: {}
- template: {src: a.j2, dest: /x}
";
    let files = [
        ("roles/x/tasks/main.yml", tasks),
        ("roles/x/tasks/other.yml", "- debug: {}\n"),
        ("roles/x/templates/a.j2", ""),
    ];
    let unknown = |line: usize, name: &str| {
        format!(
            "roles/x/tasks/main.yml:{line}: `{name}` is neither a keyword of tasks nor a module of \
             Ansible"
        )
    };
    assert_eq!(
        problems(&files, ""),
        [
            unknown(1, "comand"),
            unknown(4, "ansible.builtin.nosuchmodule"),
            unknown(6, "nosuchaction"),
        ]
    );
    // The role may have it.
    for more in [
        ("roles/x/library/comand.py", ""),
        ("roles/x/meta/main.yml", "collections: [some.collection]\n"),
    ] {
        assert_eq!(problems(&[files.as_slice(), &[more]].concat(), ""), [] as [&str; 0]);
    }
}

#[test]
fn undefined_variables_in_defaults_are_found() {
    for (default, used) in [
        ("a: '{{ lost }}'", "{{ a }}"),
        ("a: ['{{ lost }}']", "{{ a }}"),
        ("a: {b: '{{ lost }}'}", "{{ a }}"),
        ("a: '{{ b }}'\nb: 'x{{ lost }}'", "{{ a }}"),
    ] {
        let task = format!("- debug: {{msg: \"{used}\"}}\n");
        let files: &[(&str, &str)] =
            &[("roles/x/tasks/main.yml", &task), ("roles/x/defaults/main.yml", default)];
        let found = problems(files, "");
        assert!(
            found.len() == 1 && found[0].contains("`lost` is not defined"),
            "{default}: {found:?}"
        );
    }
    // Newer versions of Ansible render only what is used.
    let files: &[(&str, &str)] = &[
        ("roles/x/tasks/main.yml", "- debug: {msg: \"{{ a.c }}\"}\n"),
        ("roles/x/defaults/main.yml", "a: {b: '{{ lost }}', c: 1}\n"),
    ];
    assert_eq!(problems(files, ""), [] as [&str; 0]);
}
