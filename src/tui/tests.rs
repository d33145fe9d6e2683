//! Tests of keys and drawing, without a terminal.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::app::{App, KeyAction, Page};
use super::draw::{TerminalStyle, draw};
use super::gather::InspectedStack;
use crate::check::LintSelection;
use crate::image::view::StackView;
use crate::image::view::accounts::Accounts;

const LOOK: TerminalStyle = TerminalStyle { colour: false, unicode: true };

fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// An application on a base and an overlay, both directories. Jobs run synchronously.
struct Screens {
    _folder: tempfile::TempDir,
    app: App,
}

impl Screens {
    fn new() -> Screens {
        let folder = tempfile::tempdir().unwrap();
        let images = ["base", "over"].map(|name| folder.path().join(name));
        for (name, content) in [("etc/motd", "one\n"), ("etc/same", "same"), ("usr/big", "")] {
            write(&images[0], name, content);
        }
        fs::File::create(images[0].join("usr/big")).unwrap().set_len(3_000_000).unwrap();
        write(&images[1], "etc/motd", "two\n");
        write(&images[1], "etc/new/file", "\tnew\u{1b}[2J\n");
        let view = StackView::open(&images).unwrap();
        let base = view.lowest(1).unwrap();
        let accounts = Accounts::read(&view).unwrap();
        let names = vec!["base".to_owned(), "over".to_owned()];
        let images = images.to_vec();
        let selection = LintSelection::default();
        let subject = InspectedStack { view, base, images, names, accounts, selection };
        let app = App::new(Arc::new(subject), false).unwrap();
        Screens { _folder: folder, app }
    }

    /// Runs all jobs, including those that are created meanwhile.
    fn run_jobs(&mut self) {
        while let Some(job) = self.app.jobs.pop() {
            let news = std::cell::RefCell::new(Vec::new());
            job.run(&self.app.subject, &self.app.sums, &|one| news.borrow_mut().push(one));
            news.into_inner().into_iter().for_each(|one| self.app.handle(one));
        }
    }

    fn press(&mut self, code: KeyCode) -> KeyAction {
        let next = self.app.key(KeyEvent::new(code, KeyModifiers::NONE));
        self.run_jobs();
        next
    }

    fn keys(&mut self, keys: &str) {
        for key in keys.chars() {
            self.press(match key {
                '\n' => KeyCode::Enter,
                key => KeyCode::Char(key),
            });
        }
    }

    fn drawn(&mut self, columns: u16, lines: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| draw(frame, &mut self.app, LOOK)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = buffer.content().chunks(usize::from(columns));
        let row = |row: &[ratatui::buffer::Cell]| {
            row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned() + "\n"
        };
        rows.map(row).collect()
    }
}

#[test]
fn tree_is_drawn_before_jobs_are_done() {
    let mut screens = Screens::new();
    let drawn = screens.drawn(60, 10);
    assert!(drawn.contains("\u{2026}    \u{25b8} etc"), "{drawn}");
    assert!(drawn.contains("counting\u{2026} 0"), "{drawn}");
    screens.run_jobs();
    let drawn = screens.drawn(60, 10);
    assert!(drawn.contains(" * 1      17 B    \u{25b8} etc"), "{drawn}");
    assert!(drawn.contains("   0    3.0 MB    \u{25b8} usr"), "{drawn}");
}

#[test]
fn filters_combine_and_keep_the_cursor() {
    let mut screens = Screens::new();
    screens.run_jobs();
    screens.keys("/motd\n");
    screens.keys("a");
    let drawn = screens.drawn(60, 10);
    assert!(drawn.contains("A 1") && !drawn.contains(" motd\n"), "{drawn}");
    screens.keys("m");
    let drawn = screens.drawn(60, 10);
    assert!(drawn.contains("A 1") && drawn.contains(" motd\n"), "{drawn}");
    screens.keys("amb");
    let drawn = screens.drawn(60, 10);
    assert!(drawn.contains("big") && !drawn.contains("etc"), "{drawn}");
    screens.press(KeyCode::Esc);
    let drawn = screens.drawn(60, 10);
    assert!(drawn.contains("etc") && drawn.contains("big"), "{drawn}");
}

#[test]
fn search_wraps_around_and_reports_no_match() {
    let mut screens = Screens::new();
    screens.run_jobs();
    let at = |screens: &Screens| {
        String::from_utf8(screens.app.tree.current().node.path.clone()).unwrap()
    };
    screens.keys("/e\n");
    assert_eq!(at(&screens), "etc");
    screens.keys("n");
    assert_eq!(at(&screens), "etc/new");
    screens.keys("nnn");
    assert_eq!(at(&screens), "etc");
    screens.keys("N");
    assert_eq!(at(&screens), "etc/same");
    screens.keys("/Etc\n");
    assert_eq!(screens.app.message.as_deref(), Some("Etc not found"));
    // Backwards from the first row, too.
    screens.press(KeyCode::Home);
    screens.keys("N");
    assert_eq!(screens.app.message.as_deref(), Some("Etc not found"));
    assert_eq!(at(&screens), "");
}

#[test]
fn control_characters_of_files_are_escaped() {
    let mut screens = Screens::new();
    screens.run_jobs();
    screens.keys("/file\nv");
    let drawn = screens.drawn(60, 10);
    assert!(drawn.contains("+        new\\x1b[2J"), "{drawn}");
    screens.keys("q/same\nv");
    let drawn = screens.drawn(60, 10);
    assert!(drawn.lines().nth(1) == Some("same"), "{drawn}");
}

#[test]
fn every_page_can_be_drawn_at_every_size() {
    let mut screens = Screens::new();
    for keys in ["", "i", "q?", "qc", "q/new\nv", "q/motd\nv", "q/x"] {
        screens.keys(keys);
        for columns in (1..40).chain([79, 109, 110, 300]) {
            for lines in [1, 2, 3, 5, 15, 16, 24, 80] {
                screens.drawn(columns, lines);
            }
        }
    }
    assert_eq!(screens.press(KeyCode::Esc), KeyAction::Go);
    assert_eq!(screens.app.page, Page::Tree);
    assert_eq!(screens.press(KeyCode::Char('q')), KeyAction::Quit);
}
