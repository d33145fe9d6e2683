//! `stat`: all that is known of an object in images.

use clap::Args as ClapArgs;
use fs_model::stack::{Pristine, Source};
use fs_model::tree::Follow;
use serde::Serialize;
use serde_json::json;

use super::images::{Images, Opened, labels};
use super::options::size_text;
use super::out::{Document, Out};
use super::shown::{Shown, brief, group, inside, mode_text, time, user, words};
use super::{Failure, Outcome};
use crate::look::accounts::Accounts;
use crate::look::packages::{Owners, Packages};
use crate::look::{LookError, Node, Place, View, Walk};
use crate::seal::manifest::hex;
use crate::seal::path::escape;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    images: Images,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let opened = args.images.open()?;
    let view = &opened.view;
    let known = Known {
        accounts: Accounts::read(view)?,
        owners: Packages::read(view)?.owners(view)?,
        labels: labels(view),
    };
    let mut out = Out::new();
    let code = match args.json {
        false => {
            let mut first = true;
            opened.each(Follow::No, &mut |node| {
                if !std::mem::take(&mut first) {
                    out.line("")?;
                }
                let facts = Facts::of(&opened, &known, &node)?;
                facts.write(&node, &known, &mut out)
            })?
        }
        true => {
            let head = json!({ "schema": 1, "layers": view.names() });
            let mut document = Document::begin(&mut out, &head, "objects")?;
            let code = opened.each(Follow::No, &mut |node| {
                document.item(&mut out, &Facts::of(&opened, &known, &node)?)
            })?;
            document.end(&mut out, &[])?;
            code
        }
    };
    out.finish()?;
    Ok(code)
}

struct Known {
    accounts: Accounts,
    owners: Owners,
    labels: Vec<String>,
}

/// All of an object.
#[derive(Debug, Serialize)]
struct Facts {
    path: String,
    #[serde(flatten)]
    object: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// Of a regular file.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    package: Option<String>,
    /// Values in hexadecimal digits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<(String, String)>,
    /// All names of a file that has several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    /// Index of the layer it comes from.
    layer: usize,
    /// What each layer has there itself.
    places: Vec<Option<Had>>,
    /// Layers of which something is hidden.
    hides: Vec<usize>,
    #[serde(skip)]
    shown: Vec<Option<Place>>,
    #[serde(skip)]
    merged: Vec<usize>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Had {
    Object(Shown),
    Whiteout,
}

impl Facts {
    fn of(opened: &Opened, known: &Known, node: &Node) -> Result<Facts, Failure> {
        let view = &opened.view;
        let attr = &node.attr;
        let layered = view.layers_at(node.clone())?;
        let mut places = vec![None; view.names().len()];
        for (layer, place) in &layered.has {
            places[*layer] = Some(place.clone());
        }
        let had = |place: &Option<Place>| {
            place.as_ref().map(|place| match place {
                Place::Object(attr) => Had::Object(Shown::of(attr)),
                Place::Whiteout => Had::Whiteout,
            })
        };
        let several = !node.is_dir() && attr.nlink > 1;
        let xattrs = view.xattrs(node)?;
        Ok(Facts {
            path: escape(&node.path).into_owned(),
            object: Shown::new(view, node)?,
            owner: known.accounts.user(attr.uid).map(str::to_owned),
            group: known.accounts.group(attr.gid).map(str::to_owned),
            sha256: if node.is_file() { Some(hex(&view.digest(node)?)) } else { None },
            // A directory belongs to many.
            package: known.owners.of(&node.path).filter(|_| !node.is_dir()).map(str::to_owned),
            xattrs: xattrs
                .iter()
                .map(|(name, value)| (escape(name).into_owned(), hex(value)))
                .collect(),
            names: if several { names(view, node)? } else { Vec::new() },
            layer: node.layer(),
            places: places.iter().map(had).collect(),
            hides: layered.hidden().map(|(layer, _)| layer).collect(),
            merged: layered.adds_to().collect(),
            shown: places,
        })
    }

    fn write(&self, node: &Node, known: &Known, out: &mut Out) -> Result<(), Failure> {
        let attr = &node.attr;
        out.line(&inside(&node.path))?;
        let mut line = |name: &str, value: &str| out.line(&format!("  {name:9} {value}"));
        line("type", words(attr.kind))?;
        if let Some(target) = &self.object.target {
            line("target", target)?;
        }
        if let Some([major, minor]) = self.object.device {
            line("device", &format!("{major}:{minor}"))?;
        }
        if let Some(size) = self.object.size {
            let exact = if size < 1000 { String::new() } else { format!(" ({size} bytes)") };
            line("size", &format!("{}{exact}", size_text(size)))?;
        }
        line("mode", &format!("{:04o} {}", attr.mode, mode_text(attr)))?;
        let named = |number: u32, name: String| match number.to_string() == name {
            true => name,
            false => format!("{number} {name}"),
        };
        line("owner", &named(attr.uid, user(&known.accounts, attr.uid)))?;
        line("group", &named(attr.gid, group(&known.accounts, attr.gid)))?;
        line("modified", &format!("{} UTC ({})", time(attr), attr.mtime.secs))?;
        if let Some(sha256) = &self.sha256 {
            line("sha256", sha256)?;
        }
        if let Some(package) = &self.package {
            line("package", &escape(package.as_bytes()))?;
        }
        for (name, value) in &self.xattrs {
            line("xattr", &format!("{name} = 0x{value}"))?;
        }
        for name in &self.names {
            line("link", &format!("/{name}"))?;
        }
        for (layer, place) in self.shown.iter().enumerate().rev() {
            let what = match place {
                None => continue,
                Some(Place::Whiteout) => "deleted".to_owned(),
                Some(Place::Object(attr)) => {
                    let hidden = match layer {
                        layer if layer == self.layer => "",
                        layer if self.merged.contains(&layer) => ", merged",
                        _ => ", hidden",
                    };
                    let (user, group) =
                        (user(&known.accounts, attr.uid), group(&known.accounts, attr.gid));
                    format!("{}, {:04o} {user}:{group}{hidden}", brief(attr), attr.mode)
                }
            };
            line("layer", &format!("{}: {what}", known.labels[layer]))?;
        }
        Ok(())
    }
}

/// All names of an object, in tree order.
fn names(view: &View, node: &Node) -> Result<Vec<String>, LookError> {
    let source: Source = node.found.source();
    let mut names = Vec::new();
    view.walk::<LookError>(&view.root()?, &mut |other| {
        if matches!(&other.found, Pristine::Object { source: same, .. } if *same == source) {
            names.push(escape(&other.path).into_owned());
        }
        Ok(Walk::Into)
    })?;
    Ok(names)
}
