//! The HTML page: the served images and how each is booted.
//!
//! The page is self-contained: it loads no resources and runs no script.

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value, context};

use super::catalogue::{Catalogue, ServedImage};
use super::ipxe::{Versions, boot_commands, prefix, url};
use crate::text::size::size_text;
use crate::text::time;

/// The Content-Security-Policy of the page: only its own style is allowed.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                                 form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("page.css");
/// The suffix `.html` makes minijinja escape all values for HTML.
const NAME: &str = "page.html";

/// Returns the page for a client that reached the server by the URL `server`.
///
/// # Errors
/// Fails if the template does not match its values: a bug, which the tests find.
pub(super) fn page(
    catalogue: &Catalogue,
    versions: &Versions,
    server: &str,
) -> Result<String, minijinja::Error> {
    let kinds = [("overlay", "Overlays"), ("base", "Bases"), ("initrd", "Kernels and initrds")];
    let sections = kinds.into_iter().filter_map(|(kind, heading)| {
        let images = catalogue.images.iter().filter(|image| image.kind == kind);
        let images: Vec<_> = images.map(|i| image_values(catalogue, versions, i, server)).collect();
        (!images.is_empty()).then(|| context! { kind, heading, images })
    });
    let values = context! {
        title => &catalogue.title,
        style => STYLE,
        server,
        prefix => prefix(server),
        default => catalogue.default.map(|index| &catalogue.images[index].name),
        sections => sections.collect::<Vec<_>>(),
    };
    let mut templates = Environment::new();
    templates.set_syntax(SyntaxConfig::builder().trim_blocks(true).build()?);
    templates.render_named_str(NAME, include_str!("page.html"), values)
}

/// Returns the values of an image: the files that exist, and the commands that load it or the
/// problem that prevents a boot.
fn image_values(
    catalogue: &Catalogue,
    versions: &Versions,
    image: &ServedImage,
    server: &str,
) -> Value {
    let at = prefix(server);
    let files = image.files.iter().filter_map(|&(file, manifest)| {
        let version = versions[file].as_deref()?;
        let name = &catalogue.files[file].name;
        let manifest = manifest.filter(|&manifest| versions[manifest].is_some());
        let (date, time) = date_and_time(version.modified);
        Some(context! {
            name,
            url => url(at, name),
            manifest => manifest.map(|manifest| url(at, &catalogue.files[manifest].name)),
            size => version.entity.size,
            size_text => size_text(version.entity.size),
            sha256 => &version.sha256,
            date,
            time,
        })
    });
    let boot = image.boot.as_ref().map(|boot| {
        let boot = boot.as_ref().map_err(Clone::clone)?;
        boot_commands(catalogue, boot, versions, server)
    });
    let (commands, problem) = match boot {
        None => (None, None),
        Some(Ok(commands)) => (Some(commands.load()), None),
        Some(Err(why)) => (None, Some(why)),
    };
    context! {
        name => &image.name,
        description => image.description.as_deref(),
        layers => image.layers.clone(),
        files => files.collect::<Vec<_>>(),
        commands,
        problem,
    }
}

/// Formats a time in UTC, to the minute.
fn date_and_time(time: SystemTime) -> (String, String) {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let text = time::minute(seconds.try_into().unwrap_or(i64::MAX), " ");
    let (date, minute) = text.split_once(' ').unwrap_or((&text, ""));
    (date.to_owned(), minute.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_values_is_escaped() {
        let catalogue =
            Catalogue { title: "<a href='x' title=\"y\">&amp;".to_owned(), ..Catalogue::default() };
        let page = page(&catalogue, &[], "http://x").unwrap();
        assert!(
            page.contains("<h1>&lt;a href=&#x27;x&#x27; title=&quot;y&quot;&gt;&amp;amp;</h1>"),
            "{page}"
        );
        assert!(page.contains(STYLE));
    }
}
