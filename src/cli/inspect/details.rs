//! What is known of one path, as lines.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::app::App;
use super::wrap::hang;
use crate::cli::options::size_text;
use crate::cli::shown::{brief, group, mode_text, time, user, words};
use crate::diff::Kind;
use crate::inspect::{plain, shown};
use crate::look::Place;

/// The lines: few of them, or all that there is to tell.
pub(super) fn details(app: &App, path: &[u8], all: bool, width: usize) -> Vec<Line<'static>> {
    let subject = &*app.subject;
    let change = app.changes.as_ref().and_then(|changes| changes.by_path.get(path));
    let gone = change.is_some_and(|change| change.new.is_none());
    let view = if gone { &subject.base } else { &subject.view };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let dim = Style::new().add_modifier(Modifier::DIM);
    let mut lines = hang(Span::raw(" "), &format!("/{}", shown(path)), bold, 1, width);
    let mut tell = |key: &str, value: String| {
        let key = Span::styled(format!(" {key:<10}"), dim);
        lines.extend(hang(key, &value, Style::new(), 11, width));
    };
    let node = match view.find(path, fs_model::tree::Follow::No) {
        Ok(Some(node)) => node,
        Ok(None) => return lines,
        Err(error) => {
            tell("error", plain(&error.to_string()).into_owned());
            return lines;
        }
    };
    let attr = &node.attr;
    let owner = |attr: &fs_model::Attr| {
        let (user, group) = (user(&subject.accounts, attr.uid), group(&subject.accounts, attr.gid));
        format!("{}:{}", plain(&user), plain(&group))
    };
    tell("is", format!("{}  {} {}  {}", brief(attr), mode_text(attr), owner(attr), time(attr)));
    if let Some(change) = change {
        let by = match change.layer {
            Some(layer) => format!(" by {}", subject.names[layer]),
            None => String::new(),
        };
        tell(
            "change",
            match change.kind {
                Kind::Changed => format!("changed{by}: {}", change.what),
                kind => format!("{}{by}", kind.word()),
            },
        );
    }
    if let Some(held) = change.map(|change| change.beneath).filter(|held| held.entries > 0) {
        tell("held", format!("{} in {} names", size_text(held.bytes), held.entries));
    }
    if node.is_link() {
        match view.link(&node) {
            Ok(target) => tell("points to", shown(&target).into_owned()),
            Err(error) => tell("error", plain(&error.to_string()).into_owned()),
        }
    }
    if node.is_dir() && !gone {
        let sum = app.sums.of(path);
        let beneath = app.changes.as_ref().and_then(|changes| changes.beneath.get(path));
        tell(
            "holds",
            match (sum, beneath) {
                (None, _) => "still counting…".to_owned(),
                (Some(sum), None) => format!("{} in {} files", size_text(sum.bytes), sum.files),
                (Some(sum), Some(beneath)) => {
                    format!("{} in {} files, {beneath} changes", size_text(sum.bytes), sum.files)
                }
            },
        );
    }
    if let Some(owner) = app.owners.as_ref().and_then(|owners| owners.of(path)) {
        tell("package", plain(owner).into_owned());
    }
    match subject.view.places(path) {
        Ok(places) => {
            for (layer, place) in places.iter().enumerate().rev() {
                let has = match place {
                    None => continue,
                    Some(Place::Whiteout) => "deletes it".to_owned(),
                    Some(Place::Object(attr)) if all => {
                        format!(
                            "{}  {} {}  {}",
                            brief(attr),
                            mode_text(attr),
                            owner(attr),
                            time(attr)
                        )
                    }
                    Some(Place::Object(attr)) => brief(attr),
                };
                tell(&format!("layer {layer}"), format!("{}: {has}", subject.names[layer]));
            }
        }
        Err(error) => tell("error", plain(&error.to_string()).into_owned()),
    }
    for finding in app.findings().iter().filter(|finding| finding.path.as_deref() == Some(path)) {
        tell(
            finding.severity.word(),
            format!("{}: {}", finding.lint.name, plain(&finding.message)),
        );
        if all {
            tell("", finding.lint.why.to_owned());
            tell("mend", plain(&finding.fix).into_owned());
        }
    }
    if !all {
        return lines;
    }
    tell(
        "object",
        match attr.nlink {
            0 | 1 => format!("{}, one name", words(attr.kind)),
            names => format!("{}, {names} names", words(attr.kind)),
        },
    );
    match view.xattrs(&node) {
        Ok(xattrs) => {
            for (name, value) in xattrs {
                tell("xattr", format!("{} = {}", shown(&name), shown(&value)));
            }
        }
        Err(error) => tell("error", plain(&error.to_string()).into_owned()),
    }
    if node.is_file() && !gone {
        tell(
            "SHA-256",
            match &app.digest {
                Some((of, digest)) if of == path => digest.clone(),
                _ => "press x".to_owned(),
            },
        );
    }
    lines
}
