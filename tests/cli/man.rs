//! `man`, which prints manual pages, and the files of `make install`.

use std::process::Command;

use crate::reference::command_names;
use crate::support::stage::{Stage, Who, finish};

#[test]
fn every_command_has_a_valid_page() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    finish(stage.overcoat(who).args(["man", "--dir", "pages/man1"])).ok();
    let help = finish(stage.overcoat(who).arg("--help")).ok().text();
    let mut pages = vec!["overcoat".to_owned()];
    pages.extend(command_names(&help).iter().map(|name| format!("overcoat-{name}")));
    assert!(pages.len() > 12, "{pages:?}");
    for page in &pages {
        let file = stage.out(who).join(format!("pages/man1/{page}.1"));
        let file = file.display();
        assert_eq!(stage.sh(&format!("man --warnings -E UTF-8 -l '{file}' 2>&1 >/dev/null")), "");
        assert_eq!(stage.sh(&format!("groff -man -ww -z -Tutf8 '{file}' 2>&1")), "");
        let text = stage.sh(&format!("MANWIDTH=80 man -E UTF-8 -l '{file}'"));
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"] {
            assert!(text.contains(&format!("\n{section}\n")), "{page}: no {section}\n{text}");
        }
        let own = if page == "overcoat" {
            &["EXIT STATUS", "ENVIRONMENT", "FILES"][..]
        } else {
            &["EXAMPLES", "SEE ALSO"]
        };
        for section in own {
            assert!(text.contains(&format!("\n{section}\n")), "{page}: no {section}\n{text}");
        }
        let line = stage.sh(&format!("lexgrog '{file}'"));
        assert!(line.contains(&format!("\"{page} - ")), "{line}");
    }
    let count = stage.sh(&format!("ls '{}/pages/man1' | wc -l", stage.out(who).display()));
    assert_eq!(count.trim(), pages.len().to_string());
}

#[test]
fn page_is_written_to_standard_output() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let page = finish(stage.overcoat(who).args(["man", "build"])).ok().text();
    assert!(page.starts_with(".TH \"OVERCOAT-BUILD\" 1"), "{page}");
    finish(stage.overcoat(who).args(["man", "biuld"])).code(2).stderr_has(&["biuld", "build, "]);
}

#[test]
fn make_install_and_uninstall_cover_all_files() {
    let stage = Stage::new();
    let make = |target: &str| {
        let mut command = Command::new("make");
        command.arg("-s").current_dir(env!("CARGO_MANIFEST_DIR"));
        // Installs the program under test, which is not built again.
        command.arg(format!("program={}", stage.path("overcoat").display())).args(["CARGO=true"]);
        command.arg(format!("DESTDIR={}", stage.path("dest").display())).arg("PREFIX=/usr");
        finish(command.arg(target)).ok();
    };
    make("install");
    let files = stage.sh("cd dest && find . -type f | sort");
    for file in [
        "./usr/bin/overcoat",
        "./usr/share/man/man1/overcoat.1",
        "./usr/share/man/man1/overcoat-build.1",
        "./usr/share/bash-completion/completions/overcoat",
        "./usr/share/zsh/site-functions/_overcoat",
        "./usr/share/fish/vendor_completions.d/overcoat.fish",
    ] {
        assert!(files.lines().any(|line| line == file), "no {file}\n{files}");
    }
    assert_eq!(stage.sh("find dest -type f ! -perm -a+r; find dest -type f -size 0"), "");
    let other_page = "dest/usr/share/man/man1/another.1";
    stage.sh(&format!("touch {other_page}"));
    make("uninstall");
    assert_eq!(stage.sh("find dest -type f"), format!("{other_page}\n"));
}
