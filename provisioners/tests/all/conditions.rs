//! Runs provisioners with conditions, loops and templates in a root with a shell.

use std::fs;
use std::time::Duration;

use crate::common::{Directory, chain, root_with_shell, write_files};
use provisioners::{Image, Observer, Options, Plan, Provisioner, StepInfo};

/// Records events and output of steps.
#[derive(Default)]
struct Recorder {
    events: Vec<String>,
    output: String,
}

impl Observer for Recorder {
    fn finished(&mut self, step: &StepInfo, _: Duration) {
        self.events.push(format!("[{}/{}] {}", step.index + 1, step.total, step.name));
    }
    fn skipped(&mut self, step: &StepInfo, reason: &str) {
        let (number, total) = (step.index + 1, step.total);
        self.events.push(format!("[{number}/{total}] {}: skipped ({reason})", step.name));
    }
    fn output(&mut self, bytes: &[u8]) {
        self.output += &String::from_utf8_lossy(bytes);
    }
}

/// Runs a provisioner with these files, without clean-up.
fn run(yaml: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Recorder) {
    let root = root_with_shell();
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &[("provisioner.yml", &format!("cleanup: {{all: false}}\n{yaml}"))]);
    write_files(dir.path(), files);
    let provisioner = Provisioner::load(dir.path()).unwrap_or_else(|e| panic!("{}", chain(&e)));
    let plan = Plan::new(&[provisioner]).unwrap_or_else(|e| panic!("{}", chain(&e)));
    let mut recorder = Recorder::default();
    plan.run(&mut Directory::new(root.path()), &Options::default(), &mut recorder)
        .unwrap_or_else(|e| panic!("{}", chain(&*e)));
    (root, recorder)
}

#[test]
fn step_with_false_condition_is_skipped_and_counted() {
    let yaml = "
variables: {serial: false, features: [efi, bios], level: 3}
steps:
  - script: hello
    when: serial
  - script: {path: hello, when: \"'efi' in features\"}
  - script: hello
    when: [level > 2, level < 3]
  - script: hello
    when: unknown is not defined
  - packages: [{name: lshw, when: serial}, {name: mdadm, when: level > 5}]
";
    let (_root, recorder) = run(yaml, &[("hello", "echo hello\n")]);
    let wanted = [
        "[1/5] script hello: skipped (when: serial)",
        "[2/5] script hello",
        "[3/5] script hello: skipped (when: level < 3)",
        "[4/5] script hello",
        "[5/5] packages (0): skipped (the step is empty)",
    ];
    assert_eq!(recorder.events, wanted);
    assert_eq!(recorder.output, "hello\nhello\n");
}

#[test]
fn conditions_and_loops_use_variables_of_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = "
variables: {serial: false, ports: [ttyS0]}
steps:
  - {script: hello, when: serial, loop: \"{{ ports }}\"}
";
    let image = "base: x\nprovisioner: .\nvariables: {serial: true, ports: [ttyS1, ttyS2]}\n";
    let files = [("provisioner.yml", yaml), ("hello", ""), ("image.yml", image)];
    write_files(dir.path(), &files);
    let plan = Image::load(&dir.path().join("image.yml")).unwrap().plan().unwrap();
    let names: Vec<&str> = plan.steps().take(2).map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["script hello (item=ttyS1)", "script hello (item=ttyS2)"]);
}

#[test]
fn loop_runs_step_for_each_item() {
    let yaml = "
variables: {servers: [{name: a, port: 1}, {name: b, port: 2}], domain: lab}
steps:
  - script: \"{{ 'hello' }}\"
    loop: [x, 7, \"{{ domain }}.example\"]
  - files: files-{{ item.name }}
    loop: \"{{ servers }}\"
    when: item.port > 1
  - attributes: {\"/etc/{{ item }}\": {mode: \"{{ '06' ~ '00' }}\"}}
    loop: [b.conf]
  - {script: hello, loop: []}
  - {script: hello, loop: \"{{ servers | map(attribute='port') }}\"}
";
    let files = [
        ("hello", "echo \"$OVERCOAT_VAR_item\"\n"),
        ("files-a/etc/a.conf", ""),
        ("files-b/etc/b.conf.j2", "{{ item.port }} {{ domain }}\n"),
    ];
    let (root, recorder) = run(yaml, &files);
    let wanted = [
        "[1/9] script hello (item=x)",
        "[2/9] script hello (item=7)",
        "[3/9] script hello (item=lab.example)",
        "[4/9] files files-{{ item.name }} (item=a): skipped (when: item.port > 1)",
        "[5/9] files files-b (item=b)",
        "[6/9] attributes (item=b.conf)",
        "[7/9] script hello: skipped (the loop is empty)",
        "[8/9] script hello (item=1)",
        "[9/9] script hello (item=2)",
    ];
    assert_eq!(recorder.events, wanted);
    assert_eq!(recorder.output, "x\n7\nlab.example\n1\n2\n");
    assert_eq!(fs::read_to_string(root.path().join("etc/b.conf")).unwrap(), "2 lab\n");
    assert!(!root.path().join("etc/a.conf").exists());
    let mode = std::os::unix::fs::MetadataExt::mode(
        &fs::metadata(root.path().join("etc/b.conf")).unwrap(),
    );
    assert_eq!(mode & 0o7777, 0o600);
}

/// A value may be a list. An empty value is treated as a missing key.
#[test]
fn string_with_a_single_expression_is_replaced_by_its_value() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = "
variables: {tools: [lshw, ipmitool], more: [], nothing: }
packages: \"{{ tools }}\"
recommends: \"{{ tools | length > 5 }}\"
remove: \"{{ more }}\"
users:
  - {name: alice, groups: \"{{ more }}\", shell: \"{{ nothing }}\", comment: \"{{ '' }}\"}
";
    write_files(dir.path(), &[("provisioner.yml", yaml)]);
    let plan = Plan::new(&[Provisioner::load(dir.path()).unwrap()]).unwrap();
    let names: Vec<&str> = plan.steps().take(3).map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["packages (2)", "remove packages (0)", "users (1)"]);
}

#[test]
fn inputs_are_the_whole_folder_if_variables_name_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("provisioner.yml", "variables: {a: 1}\nsteps: [{files: \"files-{{ a }}\"}]\n"),
        ("files-1/x", ""),
        ("files-2/x", ""),
    ];
    write_files(dir.path(), &files);
    let inputs = Provisioner::load(dir.path()).unwrap().inputs().unwrap();
    assert!(inputs.iter().any(|(name, _)| name == "files-2/x"), "{inputs:?}");
}

#[test]
fn steps_at_the_top_level_run_in_documented_order() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = "
services: {enable: [ssh]}
scripts: [hello]
attributes: {/etc: {mode: \"0755\"}}
files: files
users: [alice]
groups: [staff]
purge: [nano]
remove: [vim]
packages: [lshw]
";
    write_files(dir.path(), &[("provisioner.yml", yaml), ("hello", ""), ("files/x", "")]);
    let names: Vec<String> = Provisioner::load(dir.path()).unwrap().steps().collect();
    let wanted = [
        "packages (1)",
        "remove packages (1)",
        "purge packages (1)",
        "groups (1)",
        "users (1)",
        "files",
        "attributes",
        "script hello",
        "services",
    ];
    assert_eq!(names, wanted);
}

/// Groups, units and programs are searched in the root when the step runs.
#[test]
fn missing_objects_of_the_image_are_reported_with_suggestions() {
    let cases = [
        (
            "users: [{name: alice, groups: [lldp]}]",
            "the image has no group `lldp` for the user `alice`; did you mean `lldpd`?",
        ),
        ("users: [alice]", "the image has no useradd: install the package passwd first"),
        ("groups: [staff]", "the image has no groupadd: install the package passwd first"),
        (
            "services: {enable: [ssh]}",
            "the image has no systemctl: install the package systemd first",
        ),
        (
            "remove: [nano]",
            "the image has no /usr/bin/apt-get, which installs and removes packages",
        ),
    ];
    for (yaml, wanted) in cases {
        let (root, dir) = (root_with_shell(), tempfile::tempdir().unwrap());
        write_files(dir.path(), &[("provisioner.yml", yaml)]);
        let plan = Plan::new(&[Provisioner::load(dir.path()).unwrap()]).unwrap();
        let error = plan.run(&mut Directory::new(root.path()), &Options::default(), &mut ());
        assert_eq!(error.unwrap_err().error.to_string(), wanted);
    }
    let (root, dir) = (root_with_shell(), tempfile::tempdir().unwrap());
    let units = "usr/lib/systemd/system";
    write_files(root.path(), &[("usr/bin/systemctl*", ""), (&format!("{units}/ssh.service"), "")]);
    write_files(dir.path(), &[("provisioner.yml", "services: {enable: [sshd]}")]);
    let plan = Plan::new(&[Provisioner::load(dir.path()).unwrap()]).unwrap();
    let error = plan.run(&mut Directory::new(root.path()), &Options::default(), &mut ());
    let wanted = "the image has no unit `sshd.service`; did you mean `ssh.service`?";
    assert_eq!(error.unwrap_err().error.to_string(), wanted);
}

#[test]
fn documented_provisioners_have_no_mistakes() {
    let text = include_str!("../../../docs/PROVISIONERS.md");
    let section = text.split("\n## ").find(|section| section.starts_with("A provisioner")).unwrap();
    let blocks: Vec<&str> = section.split("```yaml\n").skip(1).collect();
    assert_eq!(blocks.len(), 2);
    let mut steps = Vec::new();
    for block in blocks {
        let yaml = block.split("```").next().unwrap();
        let variables = "variables: {features: [], operators: [{name: alice, uid: 4001}]}\n";
        let yaml =
            if yaml.starts_with("steps") { format!("{variables}{yaml}") } else { yaml.into() };
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("provisioner.yml", yaml.as_str()),
            ("debs/local.deb", ""),
            ("files/x", ""),
            ("apt-sources/x", ""),
            ("scripts/10-enable.sh", ""),
            ("scripts/10-configure.sh", ""),
        ];
        write_files(dir.path(), &files);
        let plan = Provisioner::load(dir.path()).map_err(|e| chain(&e));
        let plan = plan.and_then(|p| Plan::new(&[p]).map_err(|e| chain(&e)));
        let plan = plan.unwrap_or_else(|e| panic!("{e}"));
        steps.extend(plan.steps().map(|step| step.name.clone()));
    }
    for step in ["purge packages (1)", "services", "users (1) (item=alice)"] {
        assert!(steps.iter().any(|name| name == step), "{step}: {steps:?}");
    }
}
