//! The HTML page: the served images and how each is booted.
//!
//! The page is self-contained: it loads no resources and runs no script.

use std::fmt::{self, Write};
use std::time::SystemTime;

use super::artifact::ArtifactVersion;
use super::catalogue::{Catalogue, ServedImage};
use super::ipxe::{BootCommands, Versions, boot_commands, prefix, url};
use crate::text::size::size_text;

const STYLE: &str = include_str!("page.css");

/// Returns the page for a client that reached the server by the URL `server`.
pub(super) fn page(catalogue: &Catalogue, versions: &Versions, server: &str) -> String {
    let mut text = String::with_capacity(16 << 10);
    // Writing to a string does not fail.
    let _ = write_page(&mut text, catalogue, versions, server);
    text
}

/// The Content-Security-Policy of the page: only its own style is allowed.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                                 form-action 'none'; frame-ancestors 'none'";

fn write_page(
    out: &mut String,
    catalogue: &Catalogue,
    versions: &Versions,
    server: &str,
) -> fmt::Result {
    let (title, server_text) = (Escaped(&catalogue.title), Escaped(server));
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{title} – overcoat</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>{title}</h1>\n<p>Images for machines that boot over the network, served by \
         overcoat at {server_text}.</p>\n</header>\n<main>\n"
    )?;
    write_start(out, catalogue, server)?;
    for (kind, heading) in
        [("overlay", "Overlays"), ("base", "Bases"), ("initrd", "Kernels and initrds")]
    {
        let mut images = catalogue.images.iter().filter(|image| image.kind == kind).peekable();
        if images.peek().is_none() {
            continue;
        }
        writeln!(out, "<section aria-labelledby=\"{kind}s\">\n<h2 id=\"{kind}s\">{heading}</h2>")?;
        for image in images {
            write_image(out, catalogue, versions, image, server)?;
        }
        out.push_str("</section>\n");
    }
    writeln!(
        out,
        "</main>\n<footer>\n<p>For programs: <a href=\"{}/index.json\">index.json</a>.</p>\n\
         </footer>\n</body>\n</html>",
        Escaped(prefix(server))
    )
}

/// Writes the instructions for booting a machine from this server.
fn write_start(out: &mut String, catalogue: &Catalogue, server: &str) -> fmt::Result {
    let (at, server) = (Escaped(prefix(server)), Escaped(server));
    let what = match catalogue.default {
        Some(index) => format!("it boots {}", catalogue.images[index].name),
        None => "it shows a menu".to_owned(),
    };
    writeln!(
        out,
        "<section aria-labelledby=\"start\">\n<h2 id=\"start\">Boot a machine</h2>\n\
         <p>Let iPXE run <a href=\"{at}/boot.ipxe\">boot.ipxe</a>: {}. Set its URL as the file name in \
         DHCP, or enter at iPXE’s prompt:</p>\n\
         <pre tabindex=\"0\"><code>chain {server}/boot.ipxe</code></pre>\n</section>",
        Escaped(&what)
    )
}

fn write_image(
    out: &mut String,
    catalogue: &Catalogue,
    versions: &Versions,
    image: &ServedImage,
    server: &str,
) -> fmt::Result {
    let name = Escaped(&image.name);
    write!(out, "<article aria-labelledby=\"image-{name}\">\n<h3 id=\"image-{name}\">{name}")?;
    if catalogue.default.is_some_and(|index| catalogue.images[index].name == image.name) {
        out.push_str(" <span class=\"mark\">default</span>");
    }
    out.push_str("</h3>\n");
    if let Some(description) = &image.description {
        writeln!(out, "<p>{}</p>", Escaped(description))?;
    }
    if !image.layers.is_empty() {
        let verb = if image.kind == "overlay" { "Overlay of" } else { "Made on" };
        writeln!(out, "<p class=\"on\">{verb} {}</p>", Escaped(&image.layers.join(", then ")))?;
    }
    if image.files.iter().all(|&(file, _)| versions[file].is_none()) {
        writeln!(
            out,
            "<p class=\"no\">Not built yet: <code>overcoat build {name}</code></p>\n</article>"
        )?;
        return Ok(());
    }
    write_files(out, catalogue, versions, image, server)?;
    let boot = image.boot.as_ref().map(|boot| match boot {
        Ok(boot) => boot_commands(catalogue, boot, versions, server),
        Err(why) => Err(why.clone()),
    });
    match boot {
        None => {}
        Some(Err(why)) => {
            writeln!(out, "<p class=\"no\">Cannot be booted: {}.</p>", Escaped(&why))?
        }
        Some(Ok(commands)) => write_boot(out, image, &commands, server)?,
    }
    out.push_str("</article>\n");
    Ok(())
}

fn write_files(
    out: &mut String,
    catalogue: &Catalogue,
    versions: &Versions,
    image: &ServedImage,
    server: &str,
) -> fmt::Result {
    let link = |name: &str| url(prefix(server), name);
    let existing = |file: usize| {
        versions[file].as_deref().map(|version| (&catalogue.files[file].name, version))
    };
    writeln!(
        out,
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Files of {}\">\n<table>\n\
         <thead><tr><th scope=\"col\">File</th><th scope=\"col\" class=\"number\">Size</th>\
         <th scope=\"col\">SHA-256</th><th scope=\"col\">Built</th></tr></thead>\n<tbody>",
        Escaped(&image.name)
    )?;
    for &(file, manifest) in &image.files {
        let Some((name, version)) = existing(file) else { continue };
        let ArtifactVersion { sha256, modified, entity, .. } = version;
        let size = entity.size;
        let (to, shown) = (link(name), Escaped(name));
        write!(out, "<tr><th scope=\"row\"><a href=\"{}\">{shown}</a>", Escaped(&to))?;
        if let Some((name, _)) = manifest.and_then(existing) {
            write!(out, " <a class=\"aside\" href=\"{}\">manifest</a>", Escaped(&link(name)))?;
        }
        let (iso, built) = (minute_text(*modified, "T", "Z"), minute_text(*modified, " ", " UTC"));
        writeln!(
            out,
            "</th><td class=\"number\" title=\"{size} bytes\">{}</td>\
             <td><code class=\"digest\" tabindex=\"0\" title=\"{sha256}\">{sha256}</code></td>\
             <td><time datetime=\"{iso}\">{built}</time></td></tr>",
            size_text(size)
        )?;
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    Ok(())
}

fn write_boot(
    out: &mut String,
    image: &ServedImage,
    commands: &BootCommands,
    server: &str,
) -> fmt::Result {
    let (name, at) = (Escaped(&image.name), Escaped(prefix(server)));
    writeln!(
        out,
        "<p>Script: <a href=\"{at}/boot/{name}.ipxe\">boot/{name}.ipxe</a>. Try it here: \
         <code>overcoat boot {name}</code></p>\n\
         <pre tabindex=\"0\" aria-label=\"iPXE commands that boot {name}\"><code>{}boot</code></pre>",
        Escaped(&commands.load())
    )
}

/// Text escaped for HTML elements and quoted attributes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// Formats a time to the minute, in UTC.
fn minute_text(time: SystemTime, between: &str, after: &str) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let minute = crate::text::time::minute(seconds.try_into().unwrap_or(i64::MAX), between);
    format!("{minute}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        let text = Escaped("<a href='x' title=\"y\">&amp;").to_string();
        assert_eq!(text, "&lt;a href=&#39;x&#39; title=&quot;y&quot;&gt;&amp;amp;");
    }
}
