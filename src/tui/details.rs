//! The details of one path, as lines.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::app::App;
use super::wrap::wrap_hanging;
use crate::cli::ui::format::{brief, file_type_name, group, mode_text, time, user};
use crate::image::diff::ChangeKind;
use crate::image::view::LayerNode;
use crate::report::{plain, shown};
use crate::text::size::size_text;

/// Returns the details of `path`, in full if `all`, else in short.
pub(crate) fn details(app: &App, path: &[u8], all: bool, width: usize) -> Vec<Line<'static>> {
    let subject = &*app.subject;
    let change = app.changes.as_ref().and_then(|changes| changes.by_path.get(path));
    let gone = change.is_some_and(|change| change.new.is_none());
    let view = if gone { &subject.base } else { &subject.view };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let dim = Style::new().add_modifier(Modifier::DIM);
    let mut lines = wrap_hanging(Span::raw(" "), &format!("/{}", shown(path)), bold, 1, width);
    let mut add = |key: &str, value: String| {
        let key = Span::styled(format!(" {key:<10}"), dim);
        lines.extend(wrap_hanging(key, &value, Style::new(), 11, width));
    };
    let node = match view.find(path, fs_model::tree::Follow::No) {
        Ok(Some(node)) => node,
        Ok(None) => return lines,
        Err(error) => {
            add("error", plain(&error.to_string()).into_owned());
            return lines;
        }
    };
    let attr = &node.attr;
    let owner = |attr: &fs_model::Attr| {
        let (user, group) = (user(&subject.accounts, attr.uid), group(&subject.accounts, attr.gid));
        format!("{}:{}", plain(&user), plain(&group))
    };
    add("type", format!("{}  {} {}  {}", brief(attr), mode_text(attr), owner(attr), time(attr)));
    if let Some(change) = change {
        let by = match change.layer {
            Some(layer) => format!(" by {}", subject.names[layer]),
            None => String::new(),
        };
        add(
            "change",
            match change.kind {
                ChangeKind::Changed => format!("changed{by}: {}", change.what),
                kind => format!("{}{by}", kind.word()),
            },
        );
    }
    if let Some(held) = change.map(|change| change.removed).filter(|held| held.entries > 0) {
        add("held", format!("{} in {} names", size_text(held.bytes), held.entries));
    }
    if node.is_link() {
        match view.link(&node) {
            Ok(target) => add("target", shown(&target).into_owned()),
            Err(error) => add("error", plain(&error.to_string()).into_owned()),
        }
    }
    if node.is_dir() && !gone {
        let sum = app.sums.get(path);
        let count = app.changes.as_ref().and_then(|changes| changes.counts_below.get(path));
        add(
            "content",
            match (sum, count) {
                (None, _) => "counting…".to_owned(),
                (Some(sum), None) => format!("{} in {} files", size_text(sum.bytes), sum.files),
                (Some(sum), Some(count)) => {
                    format!("{} in {} files, {count} changes", size_text(sum.bytes), sum.files)
                }
            },
        );
    }
    if let Some(owner) = app.owners.as_ref().and_then(|owners| owners.get(path)) {
        add("package", plain(owner).into_owned());
    }
    match subject.view.places(path) {
        Ok(places) => {
            for (layer, place) in places.iter().enumerate().rev() {
                let entry = match place {
                    None => continue,
                    Some(LayerNode::Whiteout) => "whiteout (deleted)".to_owned(),
                    Some(LayerNode::Object(attr)) if all => {
                        format!(
                            "{}  {} {}  {}",
                            brief(attr),
                            mode_text(attr),
                            owner(attr),
                            time(attr)
                        )
                    }
                    Some(LayerNode::Object(attr)) => brief(attr),
                };
                add(&format!("layer {layer}"), format!("{}: {entry}", subject.names[layer]));
            }
        }
        Err(error) => add("error", plain(&error.to_string()).into_owned()),
    }
    for finding in app.findings().iter().filter(|finding| finding.path.as_deref() == Some(path)) {
        add(finding.severity.word(), format!("{}: {}", finding.lint.name, plain(&finding.message)));
        if all {
            add("", finding.lint.why.to_owned());
            add("fix", plain(&finding.fix).into_owned());
        }
    }
    if !all {
        return lines;
    }
    add(
        "links",
        match attr.nlink {
            0 | 1 => format!("{}, 1 link", file_type_name(attr.kind)),
            links => format!("{}, {links} links", file_type_name(attr.kind)),
        },
    );
    match view.xattrs(&node) {
        Ok(xattrs) => {
            for (name, value) in xattrs {
                add("xattr", format!("{} = {}", shown(&name), shown(&value)));
            }
        }
        Err(error) => add("error", plain(&error.to_string()).into_owned()),
    }
    if node.is_file() && !gone {
        add(
            "SHA-256",
            match &app.digest {
                Some((of, digest)) if of == path => digest.clone(),
                _ => "press x to compute".to_owned(),
            },
        );
    }
    lines
}
