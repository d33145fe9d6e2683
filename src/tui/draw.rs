//! Draws the screens, for any size of terminal, with and without colours.
//!
//! Colours only repeat information that is also shown as text, such as the letter of a change or
//! the number of a layer. They are the 16 colours of the terminal, so that they fit its background.

use bytesize::ByteSize;
use fs_model::FileType;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::app::{App, Page};
use super::details::details;
use super::tree::{Sort, TreeEntry};
use super::wrap::wrap_hanging;
use crate::check::{Finding, Severity};
use crate::image::diff::ChangeKind;
use crate::report::{plain, shown};
use crate::text::size::size_text;

/// Capabilities of the terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TerminalStyle {
    pub(crate) colour: bool,
    /// Whether the terminal has more than ASCII.
    pub(crate) unicode: bool,
}

/// Colours of overlays, repeated after the sixth. They are distinguishable with colour blindness.
const LAYERS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::LightBlue, Color::LightRed];

const HELP: &[(&str, &str)] = &[
    ("up down, j k", "move by a row; PgUp PgDn: by a page; Home End, g G: to the start or end"),
    ("right, l, Enter", "open a directory"),
    ("left, h", "close a directory, or go to the parent"),
    ("Enter on a file, i", "details: layers, attributes, findings"),
    ("v", "view a file, or its difference from the base's"),
    ("x", "compute the SHA-256 of a file"),
    ("a m d", "filter: added, modified, deleted; can be combined; again: off"),
    ("b", "filter: files of 1 MB or more"),
    ("0, Esc", "remove all filters"),
    ("s", "sort by name or by size"),
    ("/", "search in names, or in paths if the text has a /; n N: next, previous"),
    ("c", "findings of check; Enter: go to the file"),
    ("q", "back, or quit; Ctrl-C: quit; Ctrl-Z: suspend"),
    ("", ""),
    ("A M D", "added, modified, deleted; *: changes inside the directory"),
    ("0 1 2 …", "layer that provides the file: 0 is the base"),
];

impl TerminalStyle {
    fn colour(self, style: Style, colour: Color) -> Style {
        if self.colour { style.fg(colour) } else { style }
    }

    fn layer(self, layer: usize) -> Style {
        match layer.checked_sub(1) {
            None => Style::new(),
            Some(overlay) => self.colour(Style::new(), LAYERS[overlay % LAYERS.len()]),
        }
    }

    fn change(self, kind: Option<ChangeKind>) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match kind {
            None => Style::new(),
            Some(ChangeKind::Added) => self.colour(bold, Color::Cyan),
            Some(ChangeKind::Changed) => self.colour(bold, Color::Yellow),
            Some(ChangeKind::Deleted) => self.colour(bold, Color::LightRed),
        }
    }

    fn severity(self, severity: Severity) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match severity {
            Severity::Error => self.colour(bold, Color::LightRed),
            Severity::Warning => self.colour(bold, Color::Yellow),
            Severity::Note => self.colour(Style::new(), Color::Cyan),
        }
    }

    fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

/// Draws the whole screen.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &mut App, look: TerminalStyle) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    head_line(frame, head, app, look);
    match &app.page {
        Page::Tree => tree(frame, body, app, look),
        Page::Details(path) => {
            let lines = details(app, path, true, usize::from(body.width));
            lines_page(frame, body, app, lines);
        }
        Page::Text(_, lines) => {
            let lines = match lines {
                None => vec![Line::raw("reading…")],
                Some(lines) => lines.iter().map(|line| text_line(line, look)).collect(),
            };
            lines_page(frame, body, app, lines);
        }
        Page::Findings => findings(frame, body, app, look),
        Page::Help => {
            let key = Style::new().add_modifier(Modifier::BOLD);
            let line = |(keys, what): &(&'static str, &'static str)| {
                let keys = Span::styled(format!("  {keys:<20}"), key);
                wrap_hanging(keys, what, Style::new(), 22, usize::from(body.width))
            };
            lines_page(frame, body, app, HELP.iter().flat_map(line).collect());
        }
    }
    foot_line(frame, foot, app, look);
}

fn head_line(frame: &mut Frame<'_>, area: Rect, app: &App, look: TerminalStyle) {
    let names = &app.subject.names;
    let stack = match names.split_first() {
        Some((base, [])) => base.clone(),
        Some((base, overlays)) => format!("{} on {base}", overlays.join(" + ")),
        None => String::new(),
    };
    let left = match &app.page {
        Page::Tree => stack,
        _ => app.title(),
    };
    let right = match app.sums.get(b"") {
        Some(sum) => format!("{} in {} files", size_text(sum.bytes), sum.files),
        None => format!("counting… {}", app.sums.names.load(std::sync::atomic::Ordering::Relaxed)),
    };
    bar(frame, area, &format!(" {left}"), &format!("{right} "), look);
}

fn foot_line(frame: &mut Frame<'_>, area: Rect, app: &App, look: TerminalStyle) {
    if let Some(prompt) = &app.prompt {
        let text = format!("/{}", plain(prompt));
        let end = (Line::raw(text.as_str()).width() as u16).min(area.width.saturating_sub(1));
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(text), area);
        frame.set_cursor_position((area.x + end, area.y));
        return;
    }
    let left = match (&app.message, &app.page) {
        (Some(message), _) => plain(message).into_owned(),
        (None, Page::Tree) if area.width >= 110 => {
            "? help  / find  a m d b filter  s sort  i details  v view  c check  q quit".into()
        }
        (None, Page::Tree) => "? help  / find  v view  c check  q quit".into(),
        (None, Page::Details(_)) => "v view  x digest  q back".into(),
        (None, Page::Findings) => "Enter go to file  q back".into(),
        (None, _) => "q back".into(),
    };
    let mut right = Vec::new();
    if app.page == Page::Tree {
        if let Some((at, count)) = app.match_number().filter(|(_, count)| *count > 0) {
            let at = if at == 0 { String::new() } else { format!("{at} of ") };
            right.push(format!("{at}{count} {}", plain(&app.needle)));
        }
        if !app.filter.is_none() {
            right.push(format!("only {}", app.filter.words()));
        }
        if app.sort == Sort::Size {
            right.push("by size".to_owned());
        }
        if app.checks {
            right.push(match app.report {
                Some(_) => app.findings_summary(),
                None => "checking…".to_owned(),
            });
        }
    }
    bar(frame, area, &format!(" {left}"), &format!("  {} ", right.join("  ")), look);
}

/// Draws a line in reverse video with a left and a right text. The left one is cut if necessary.
fn bar(frame: &mut Frame<'_>, area: Rect, left: &str, right: &str, look: TerminalStyle) {
    let right = Line::raw(right);
    let width = (right.width() as u16).min(area.width);
    let [a, b] = Layout::horizontal([Constraint::Min(0), Constraint::Length(width)]).areas(area);
    frame.render_widget(Paragraph::new(Line::raw(left)).style(look.bar()), a);
    frame.render_widget(Paragraph::new(right).style(look.bar()), b);
}

fn tree(frame: &mut Frame<'_>, area: Rect, app: &mut App, look: TerminalStyle) {
    // Tree and details side by side if there is room, else one above the other, else only the tree.
    let (list, pane, borders) = if area.width >= 110 {
        let [list, pane] =
            Layout::horizontal([Constraint::Min(60), Constraint::Percentage(40)]).areas(area);
        (list, Some(pane), Borders::LEFT)
    } else if area.height >= 16 {
        let [list, pane] =
            Layout::vertical([Constraint::Min(0), Constraint::Length(8)]).areas(area);
        (list, Some(pane), Borders::TOP)
    } else {
        (area, None, Borders::NONE)
    };
    app.height = usize::from(list.height).max(1);
    let (cursor, height) = (app.tree.cursor(), app.height);
    app.offset = app.offset.min(cursor).max((cursor + 1).saturating_sub(height));
    app.offset = app.offset.min(app.tree.len().saturating_sub(height));
    let digits = app.subject.names.len().saturating_sub(1).to_string().len();
    let rows = (app.offset..app.tree.len()).take(height).filter_map(|row| {
        let line = row_line(app, app.tree.row(row)?, digits, usize::from(list.width), look);
        Some(if row == cursor { line.style(look.bar()) } else { line })
    });
    let rows: Vec<Line<'_>> = rows.collect();
    frame.render_widget(Paragraph::new(rows), list);
    if let Some(pane) = pane {
        let path = app.tree.current().node.path.clone();
        let block =
            Block::new().borders(borders).border_style(Style::new().add_modifier(Modifier::DIM));
        let block = if look.unicode { block } else { block.border_set(ASCII) };
        let lines = details(app, &path, false, usize::from(block.inner(pane).width));
        frame.render_widget(Paragraph::new(lines).block(block), pane);
    }
}

const ASCII: ratatui::symbols::border::Set<'static> = ratatui::symbols::border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

fn row_line(
    app: &App,
    entry: &TreeEntry,
    digits: usize,
    width: usize,
    look: TerminalStyle,
) -> Line<'static> {
    let (mark, kind) = app.mark(entry);
    let layer = app.layer(entry);
    let size = match entry.node.attr.kind {
        FileType::Regular | FileType::Directory => app.size(entry).map_or("…".into(), short),
        _ => String::new(),
    };
    let branch = app.tree.is_branch(entry, app.changes.as_ref());
    let handle = match (branch, entry.open, look.unicode) {
        (false, ..) => ' ',
        (true, true, true) => '▾',
        (true, false, true) => '▸',
        (true, true, false) => '-',
        (true, false, false) => '+',
    };
    // Limit the indentation, so that there is room for the name.
    let indent = (2 * entry.depth).min(width / 3);
    let name = match entry.node.name() {
        b"" => "/".to_owned(),
        name => shown(name).into_owned(),
    };
    let mut style = look.layer(layer);
    if entry.node.is_dir() {
        style = style.add_modifier(Modifier::BOLD);
    }
    if entry.gone {
        style = look.change(Some(ChangeKind::Deleted)).add_modifier(Modifier::CROSSED_OUT);
    }
    let ending = match entry.node.attr.kind {
        FileType::Symlink => "@",
        FileType::Fifo => "|",
        FileType::Socket => "=",
        FileType::Regular if entry.node.attr.mode & 0o111 != 0 => "*",
        _ => "",
    };
    Line::from(vec![
        Span::styled(format!(" {mark} "), look.change(kind)),
        Span::styled(format!("{layer:>digits$} "), look.layer(layer)),
        Span::raw(format!("{size:>9}  ")),
        Span::raw(format!("{:indent$}{handle} ", "")),
        Span::styled(name, style),
        Span::styled(ending, Style::new().add_modifier(Modifier::DIM)),
    ])
}

/// Formats a size in at most nine columns.
fn short(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// Draws lines that can be scrolled.
fn lines_page(frame: &mut Frame<'_>, area: Rect, app: &mut App, lines: Vec<Line<'static>>) {
    app.height = usize::from(area.height).max(1);
    app.scroll = app.scroll.min(lines.len().saturating_sub(app.height));
    let seen: Vec<_> = lines.into_iter().skip(app.scroll).take(app.height).collect();
    frame.render_widget(Paragraph::new(seen), area);
}

fn text_line(line: &str, look: TerminalStyle) -> Line<'static> {
    let style = match line.as_bytes() {
        [b'@', b'@', ..] | [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => {
            Style::new().add_modifier(Modifier::DIM)
        }
        [b'+', ..] => look.colour(Style::new(), Color::Cyan),
        [b'-', ..] => look.colour(Style::new(), Color::LightRed),
        _ => Style::new(),
    };
    Line::styled(line.to_owned(), style)
}

fn findings(frame: &mut Frame<'_>, area: Rect, app: &mut App, look: TerminalStyle) {
    app.height = usize::from(area.height).max(1);
    if app.findings().is_empty() {
        let text = match (&app.report, app.checks) {
            (Some(_), _) => "No findings.",
            (None, true) => "Checking…",
            (None, false) => "Not checked (--no-check).",
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let width = usize::from(area.width);
    // Findings have different numbers of lines. Start so that the selected one is visible.
    let first = app.finding.saturating_sub(app.height / 8);
    let mut lines = Vec::new();
    for (index, finding) in app.findings().iter().enumerate().skip(first) {
        let from = lines.len();
        lines.extend(finding_lines(finding, width, look));
        if index == app.finding {
            lines[from] = std::mem::take(&mut lines[from]).style(look.bar());
        }
        if lines.len() > app.height {
            break;
        }
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn finding_lines(finding: &Finding, width: usize, look: TerminalStyle) -> Vec<Line<'static>> {
    let place = match &finding.path {
        Some(path) => format!("/{}", shown(path)),
        None => plain(&finding.layer).into_owned(),
    };
    let mut lines = vec![Line::from(vec![
        Span::styled(format!(" {:<8}", finding.severity.word()), look.severity(finding.severity)),
        Span::raw(format!("{place}  {}", finding.lint.name)),
    ])];
    let text = format!("{}: {}", finding.lint.summary, plain(&finding.message));
    let dim = Style::new().add_modifier(Modifier::DIM);
    let in_ = || Span::raw("   ");
    lines.extend(wrap_hanging(in_(), &text, Style::new(), 5, width));
    lines.extend(wrap_hanging(in_(), &format!("fix: {}", plain(&finding.fix)), dim, 5, width));
    lines
}
