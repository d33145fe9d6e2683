//! Completion in real shells on a terminal, by pressing the key.

use crate::support::stage::{Stage, Who, finish};
use crate::support::terminal::OnTerminal;

/// Completes the end of `line` in a shell whose working directory is `folder`. Returns the
/// arguments that the command receives; the command is `show`, which is completed like overcoat.
fn completed(stage: &Stage, shell: &str, folder: &str, line: &str) -> String {
    let who = Who::Unprivileged;
    let (options, completion): (&[&str], &str) = match shell {
        "bash" => (
            &["--norc", "--noprofile", "-i"],
            "source <(overcoat completions bash); complete -o nospace -F _clap_complete_overcoat show",
        ),
        "zsh" => (
            &["-f", "-i"],
            "autoload -U compinit; compinit -u -D; source <(overcoat completions zsh); \
             compdef _clap_dynamic_completer_overcoat show",
        ),
        shell => panic!("{shell}"),
    };
    let mut command = stage.command(who, shell);
    command.args(options).current_dir(stage.out(who).join(folder));
    command.env("PATH", format!("{}:/usr/bin:/bin", stage.path("").display()));
    command.env("HOME", stage.temporary(who)).env("TERM", "dumb").env("INPUTRC", "/dev/null");
    let mut terminal = OnTerminal::start(command);
    // The terminal also shows the typed text, which must differ from the output.
    let show = "show() { printf 'gi''ven:'; printf '<%s>' \"$@\"; echo ':en''d'; }";
    terminal.type_in(&format!("{completion}; {show}; echo rea''dy\n"));
    terminal.until("ready");
    terminal.type_in(&format!("show {line}\t\n"));
    terminal.until("given:");
    let given = terminal.until(":end");
    terminal.type_in("exit\n");
    terminal.child.wait().unwrap();
    given.trim_end_matches(":end").to_owned()
}

/// Returns the words that fish offers at the end of `line`, without options and descriptions.
fn offered(stage: &Stage, folder: &str, line: &str) -> Vec<String> {
    let who = Who::Unprivileged;
    let mut command = stage.command(who, "fish");
    command.args(["--no-config", "-c"]);
    command.arg(format!("overcoat completions fish | source; complete -C 'overcoat {line}'"));
    command.current_dir(stage.out(who).join(folder));
    command.env("PATH", format!("{}:/usr/bin:/bin", stage.path("").display()));
    let text = finish(command.env("HOME", stage.temporary(who))).ok().text();
    let words = text.lines().map(|line| line.split('\t').next().unwrap().to_owned());
    words.filter(|word| !word.starts_with('-')).collect()
}

/// Creates a project, and beside it a base image and an archive.
fn site() -> Stage {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    finish(stage.overcoat(who).args(["init", "site"])).ok();
    let out = stage.out(who).display().to_string();
    stage.sh(&format!(
        "cp -L '{}' '{out}/base.squashfs'; echo no image >'{out}/basement.txt'
         mkdir -p over/etc/overlaid; (cd over && find . | cpio --quiet -o -H newc) >'{out}/over.cpio'
         chown -R overcoat-test: '{out}'",
        stage.debian().display()
    ));
    stage
}

#[test]
fn images_of_a_project_are_completed_by_name() {
    let stage = site();
    for shell in ["bash", "zsh"] {
        assert_eq!(completed(&stage, shell, "site", "build ba"), "<build><base>", "{shell}");
        // Another project can be given.
        assert_eq!(
            completed(&stage, shell, "", "build site dis"),
            "<build><site><discovery>",
            "{shell}"
        );
        for command in ["rollback", "status", "promote ../base.squashfs"] {
            let given = completed(&stage, shell, "site", &format!("{command} dis"));
            let command = command.replace(' ', "><");
            assert_eq!(given, format!("<{command}><discovery>"), "{shell}");
        }
        let given = completed(&stage, shell, "", "build -p site/overcoat.yml bo");
        assert_eq!(given, "<build><-p><site/overcoat.yml><boot>", "{shell}");
    }
    assert_eq!(
        offered(&stage, "site", "build "),
        ["base", "discovery", "boot", "overcoat.yml", "provisioners/"]
    );
    // An initrd alone cannot be booted, and is no layer.
    assert_eq!(offered(&stage, "site", "boot b"), ["base"]);
    for command in ["ls", "run", "mount", "inspect", "diff --from"] {
        let all = offered(&stage, "site", &format!("{command} "));
        assert!(all.starts_with(&["base".into(), "discovery".into()]), "{command}: {all:?}");
        assert!(!all.contains(&"boot".to_owned()), "{command}: {all:?}");
    }
    assert_eq!(offered(&stage, "", "cat -p site dis"), ["discovery"]);
}

#[test]
fn image_files_are_completed_by_content() {
    let stage = site();
    for shell in ["bash", "zsh"] {
        let given = completed(&stage, shell, "", "run bas");
        assert_eq!(given, "<run><base.squashfs>", "{shell}");
    }
    assert_eq!(offered(&stage, "", "run base.squashfs "), ["base.squashfs", "over.cpio", "site/"]);
}

#[test]
fn paths_inside_images_are_completed() {
    let stage = site();
    for shell in ["bash", "zsh"] {
        let cases = [
            (":/et", ":/etc/"),
            // Paths of all images; the leading slash is optional.
            (":/etc/overl", ":/etc/overlaid/"),
            (":etc/hostn", ":etc/hostname"),
            // Through a symbolic link in the base.
            (":/bin/dp", ":/bin/dpkg"),
            ("--layers :/us", ":/usr/"),
        ];
        for (path, expected) in cases {
            let given = completed(&stage, shell, "", &format!("ls base.squashfs over.cpio {path}"));
            let word = given.rsplit('<').next().unwrap();
            assert!(word.starts_with(expected), "{shell}: {path}: {given}");
        }
        // Paths of the host are not offered.
        let given = completed(&stage, shell, "", "ls over.cpio :/us");
        assert_eq!(given, "<ls><over.cpio><:/us>", "{shell}");
    }
    assert_eq!(offered(&stage, "", "cat over.cpio :"), [":/etc/"]);
    // In the layers that a name selects.
    stage.sh(&format!(
        "cd '{}'; mkdir site/build; ln base.squashfs over.cpio site/build",
        stage.out(Who::Unprivileged).display()
    ));
    for shell in ["bash", "zsh"] {
        let given = completed(&stage, shell, "site", "cat base :/etc/hostn");
        assert!(given.contains(":/etc/hostname"), "{shell}: {given}");
    }
    assert_eq!(
        offered(&stage, "site", "stat base build/over.cpio :/etc/overl"),
        [":/etc/overlaid/"]
    );
    assert_eq!(offered(&stage, "", "stat base.squashfs :/etc/hostn"), [":/etc/hostname"]);
    let all = offered(&stage, "", "diff base.squashfs ");
    assert!(all.contains(&":/".to_owned()) && all.contains(&"over.cpio".to_owned()), "{all:?}");
}

#[test]
fn hostile_names_are_not_executed() {
    let stage = site();
    let who = Who::Unprivileged;
    let out = stage.out(who).display().to_string();
    stage.sh(&format!(
        r#"mkdir -p bad; for name in 'one;touch HIT' 'two$(touch HIT)' 'three`touch HIT`' 'four a'
        do echo >"bad/$name"; done
        echo >"bad/five
touch HIT"; mkdir bad/five
        (cd bad && find . -print0 | cpio --quiet --null -o -H newc) >'{out}/bad.cpio'"#
    ));
    let names = [
        (":/on", "<:/one;touch HIT>"),
        (":/tw", "<:/two$(touch HIT)>"),
        (":/th", "<:/three`touch HIT`>"),
        (":/fo", "<:/four a>"),
        // Names with a newline cannot be offered.
        (":/fi", "<:/five/>"),
    ];
    for shell in ["bash", "zsh"] {
        for (path, expected) in names {
            let given = completed(&stage, shell, "", &format!("ls bad.cpio {path}"));
            assert_eq!(given, format!("<ls><bad.cpio>{expected}"), "{shell}");
        }
    }
    assert_eq!(offered(&stage, "", "ls bad.cpio :/fi"), [":/five/"]);
    assert_eq!(stage.sh(&format!("find '{out}' -name HIT")), "");
}

#[test]
fn commands_and_options_are_completed() {
    let stage = site();
    for shell in ["bash", "zsh"] {
        assert_eq!(completed(&stage, shell, "", "doc"), "<doctor>", "{shell}");
        assert_eq!(completed(&stage, shell, "", "build --exp"), "<build><--explain>", "{shell}");
    }
    assert_eq!(
        offered(&stage, "", "completions "),
        ["bash", "zsh", "fish", "elvish", "powershell"]
    );
}

#[test]
fn unreadable_input_completes_to_nothing_silently() {
    let stage = site();
    let out = stage.out(Who::Unprivileged).display().to_string();
    stage.sh(&format!("echo 'images: [' >'{out}/site/overcoat.yml'"));
    assert_eq!(completed(&stage, "bash", "site", "build ba"), "<build><ba>");
    for line in ["build ba", "boot d", "run /no/such/", "ls :/", "ls none :/"] {
        assert_eq!(offered(&stage, "site", line), [""; 0], "{line}");
    }
}

#[test]
fn every_shell_has_a_script() {
    let stage = Stage::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = finish(stage.overcoat(Who::Unprivileged).args(["completions", shell])).ok();
        assert!(script.text().contains("OVERCOAT_COMPLETE"), "{shell}");
    }
    finish(stage.overcoat(Who::Unprivileged).args(["completions", "tcsh"]))
        .code(2)
        .stderr_has(&["tcsh"]);
}
