//! The screens of `inspect` in a real terminal.

use super::scene::Scene;
use crate::support::processes::family;
use crate::support::stage::{Who, finish};
use crate::support::tmux::Tmux;

const START: &str = "./overcoat inspect base.squashfs over.cpio.gz";

impl Scene {
    fn terminal(&self, size: (u16, u16), variables: &str) -> Tmux<'_> {
        Tmux::start(&self.stage, Who::Unprivileged, size, variables)
    }
}

/// Types the command and waits until counting, comparing and checking are complete.
fn open(tmux: &Tmux<'_>) {
    tmux.press(&[START, "Enter"]);
    tmux.until_so("all results are complete", |screen| {
        screen.contains(" files") && screen.contains("warning") && screen.contains("* 1")
    });
}

/// Searches for text, which selects the first match.
fn find(tmux: &Tmux<'_>, what: &str, path: &str) {
    tmux.press(&["/"]);
    tmux.press(&["-l", what]);
    tmux.press(&["Enter"]);
    tmux.until_so(path, |screen| {
        screen.lines().any(|line| {
            line.trim_start_matches(|c| c != '\u{2502}').trim_start_matches('\u{2502}').trim()
                == path
                || line.trim() == path
        })
    });
}

#[test]
fn tree_shows_layers_changes_and_sizes() {
    let scene = Scene::new();
    let tmux = scene.terminal((80, 24), "");
    open(&tmux);
    let screen = tmux.until("over.cpio.gz on base.squashfs");
    // Only the first level is open; sizes include all entries below.
    assert!(screen.contains("* 1    1.1 MB    \u{25b8} usr"), "{screen}");
    assert!(!screen.contains("motd"), "{screen}");
    // In etc: a changed and a deleted file, each with its layer.
    find(&tmux, "motd", "/etc/motd");
    let screen = tmux.until("layer 0   base.squashfs: file, 27 bytes");
    assert!(screen.contains("D 1      15 B        gone*\n"), "{screen}");
    assert!(screen.contains("M 1      30 B        motd*\n"), "{screen}");
    assert!(screen.contains("change    changed by over.cpio.gz: content"), "{screen}");
    assert!(screen.contains("layer 1   over.cpio.gz: file, 30 bytes"), "{screen}");
    // The text difference.
    tmux.press(&["v"]);
    let screen = tmux.until("+to the overlay");
    assert!(screen.contains("-to the base") && screen.contains(" welcome"), "{screen}");
    tmux.press(&["q"]);
    tmux.until("? help");
    // All details of a file: its state in the base, a finding, its digest.
    find(&tmux, "etc/mode", "/etc/mode");
    tmux.press(&["i"]);
    let screen = tmux.until("SHA-256");
    assert!(screen.contains("-rwsr-xr-x 0:0") && screen.contains("safe/setuid"), "{screen}");
    assert!(screen.contains("-rwxr-xr-x 0:0") && screen.contains("fix"), "{screen}");
    tmux.press(&["x"]);
    let digest = scene.stage.sh("sha256sum <o/etc/mode | cut -c-64");
    tmux.until(digest.trim());
    tmux.press(&["q"]);
    // Only deleted entries, including those of a deleted directory, with their state in the base.
    tmux.press(&["d"]);
    let screen = tmux.until("only deleted");
    for line in ["15 B        gone*", "11.0 kB      \u{25be} old", "5.0 kB          one*"] {
        assert!(
            screen.lines().any(|one| one.starts_with(" D 1") && one.ends_with(line)),
            "{line}: {screen}"
        );
    }
    assert!(!screen.contains("motd"), "{screen}");
    find(&tmux, "two", "/srv/old/two");
    tmux.until("deleted by over.cpio.gz");
    tmux.press(&["v"]);
    tmux.until("+++ /dev/null");
    tmux.press(&["q", "Escape"]);
    tmux.until_so("all again", |screen| {
        screen.contains("\n /srv/old/two\n") && !screen.contains("only")
    });
    // Sorted by size.
    tmux.press(&["g", "s"]);
    let screen = tmux.until("by size");
    let line = |name: &str| screen.lines().position(|line| line.ends_with(name)).unwrap();
    assert!(line(" usr") < line(" srv") && line(" srv") < line(" etc"), "{screen}");
    // From a finding to its file.
    tmux.press(&["c"]);
    tmux.until("Findings");
    let screen = tmux.until("fix: ");
    let first = screen.lines().nth(1).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    assert!(first.starts_with('/'), "{screen}");
    tmux.press(&["Enter"]);
    tmux.until(&format!("\n {first}\n"));
    tmux.press(&["?"]);
    tmux.until("Ctrl-Z: suspend");
    tmux.press(&["q", "q"]);
    tmux.until_gone("base.squashfs: ");
}

#[test]
fn hostile_names_are_shown_as_text() {
    let scene = Scene::new();
    // Wide enough that no name is cut off.
    let tmux = scene.terminal((120, 40), "");
    open(&tmux);
    find(&tmux, "wide", "/srv/hostile/wide \u{6f22}\u{5b57} \u{1f9e5}");
    let screen = tmux.screen();
    for name in [
        "esc\\x1b[31m\\x1b]0;harm\\x07red",
        "line\\x0afeed",
        "right\\xe2\\x80\\xaegpj.exe",
        "<img src=x onerror=window.harm=2>",
        "link@",
    ] {
        assert!(screen.contains(name), "{name}: {screen}");
    }
    // A wide name does not shift the rest of its line.
    let borders: Vec<_> = screen.lines().filter(|line| line.contains('\u{2502}')).collect();
    assert!(borders.len() > 20, "{screen}");
    assert!(!tmux.ask(&["display-message", "-p", "#{pane_title}"]).contains("harm"));
    // Searches match the displayed text, and hostile search terms are plain text.
    find(&tmux, "gpj", "/srv/hostile/right\\xe2\\x80\\xaegpj.exe");
    tmux.press(&["/"]);
    tmux.press(&["-l", "\u{202e}none"]);
    tmux.press(&["Enter"]);
    tmux.until("\\xe2\\x80\\xaenone not found");
    tmux.press(&["q"]);
    tmux.until_gone("over.cpio.gz on");
}

#[test]
fn terminal_is_restored() {
    let scene = Scene::new();
    let tmux = scene.terminal((80, 24), "");
    let pid = || {
        let shell = tmux.ask(&["display-message", "-p", "#{pane_pid}"]);
        let name =
            |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let family = family(shell.trim().parse().unwrap());
        family.into_iter().find(|pid| name(pid) == "overcoat\n").unwrap()
    };
    let settings = |name: &str| {
        tmux.press(&[&format!("clear; stty -a >user.tmp/{name}; echo done {name}"), "Enter"]);
        tmux.until(&format!("done {name}\n$"));
        scene.stage.sh(&format!("cat user.tmp/{name}"))
    };
    let before = settings("before");
    let is_back = |name: &str| {
        tmux.until_gone("over.cpio.gz on");
        assert_eq!(
            tmux.ask(&["display-message", "-p", "#{alternate_on}#{cursor_flag}"]).trim(),
            "01"
        );
        assert_eq!(settings(name), before);
    };
    for (name, end) in [("quit", "q"), ("control", "C-c")] {
        open(&tmux);
        tmux.press(&[end]);
        is_back(name);
    }
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        tmux.press(&["clear", "Enter"]);
        tmux.press(&[&format!("{START}; echo ended: $?"), "Enter"]);
        tmux.until("warning");
        scene.stage.sh(&format!("kill -{signal} {}", pid()));
        tmux.until(&format!("ended: {code}"));
        is_back(signal);
    }
    // Suspending and resuming, by a key and by a signal.
    open(&tmux);
    for by_key in [true, false] {
        if by_key {
            tmux.press(&["C-z"]);
        } else {
            scene.stage.sh(&format!("kill -TSTP {}", pid()));
        }
        tmux.until_gone("over.cpio.gz on");
        is_back(if by_key { "key" } else { "signal" });
        tmux.press(&["fg", "Enter"]);
        tmux.until("over.cpio.gz on");
        tmux.press(&["Down"]);
    }
    tmux.press(&["q"]);
    is_back("last");
}

/// Whether the screen has one of the terminal's sixteen colours, in tmux's notation.
fn is_coloured(tmux: &Tmux<'_>) -> bool {
    let colours = tmux.colours();
    let numbers = colours.split("\u{1b}[").filter_map(|part| part.split_once('m'));
    numbers
        .flat_map(|(numbers, _)| numbers.split(';'))
        .any(|number| number == "38" || matches!(number.parse(), Ok(30..=37 | 90..=97)))
}

#[test]
fn any_size_works_and_colours_are_optional() {
    let scene = Scene::new();
    let tmux = scene.terminal((80, 24), "");
    open(&tmux);
    assert!(is_coloured(&tmux), "{:?}", tmux.colours());
    for (columns, lines) in [(200, 50), (20, 4), (3, 2), (120, 5), (79, 24)] {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        tmux.ask(&["resize-window", "-x", &columns, "-y", &lines]);
        for key in ["i", "q", "c", "q", "v", "q", "?", "End", "q", "End", "Home"] {
            tmux.press(&[key]);
        }
    }
    tmux.until("over.cpio.gz on base.squashfs");
    tmux.press(&["q"]);
    tmux.until_gone("over.cpio.gz on");
    drop(tmux);
    // Without colours, in ASCII.
    let tmux = scene.terminal((80, 24), "NO_COLOR=1 LC_ALL=C");
    open(&tmux);
    let screen = tmux.screen();
    assert!(screen.contains("* 1    1.1 MB    + usr"), "{screen}");
    assert!(!is_coloured(&tmux), "{:?}", tmux.colours());
    let colours = tmux.colours();
    assert!(colours.contains("\u{1b}[7m"), "{colours:?}");
    tmux.press(&["q"]);
    tmux.until_gone("over.cpio.gz on");
}

#[test]
fn without_a_terminal_alternatives_are_suggested() {
    let scene = Scene::new();
    let mut command = scene.stage.overcoat(Who::Unprivileged);
    command.arg("inspect").args([&scene.base, &scene.overlay]);
    let output = finish(&mut command).code(2).stderr_has(&["--html FILE", "overcoat diff"]);
    assert!(output.stdout.is_empty());
}
