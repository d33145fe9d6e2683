//! `stat`: shows a file's details in each layer.

use clap::Args as ClapArgs;
use fs_model::stack::{LowerEntry, LowerInode};
use fs_model::tree::Follow;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::format::{AttrJson, display_path};
use crate::cli::ui::image_args::{ImageArgs, OpenedImages, labels};
use crate::cli::ui::stdout::{JsonDocument, StdoutWriter};
use crate::image::view::accounts::Accounts;
use crate::image::view::packages::{DpkgDatabase, PackageOwners};
use crate::image::view::{LayerNode, LookError, StackView, ViewNode, WalkControl};
use crate::text::attr::{brief, file_type_name, mode_text, time};
use crate::text::digest::hex;
use crate::text::escape::escape;
use crate::text::size::size_text;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    images: ImageArgs,

    /// Print the details as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let opened = args.images.open(ui)?;
    let view = &opened.view;
    let context = StatContext {
        accounts: Accounts::read(view)?,
        owners: DpkgDatabase::read(view)?.owners(view)?,
        labels: labels(view),
    };
    let mut out = StdoutWriter::new();
    let code = match args.json {
        false => {
            let mut first = true;
            opened.each(Follow::No, &mut |node| {
                if !std::mem::take(&mut first) {
                    out.line("")?;
                }
                let record = StatRecord::new(&opened, &context, &node)?;
                record.write(&node, &context, &mut out)
            })?
        }
        true => {
            let head = json!({ "schema": 1, "layers": view.names() });
            let mut document = JsonDocument::begin(&mut out, &head, "objects")?;
            let code = opened.each(Follow::No, &mut |node| {
                document.item(&mut out, &StatRecord::new(&opened, &context, &node)?)
            })?;
            document.end(&mut out, &Value::Null)?;
            code
        }
    };
    out.finish()?;
    Ok(code)
}

/// Databases of the merged root, and names of the layers.
struct StatContext {
    accounts: Accounts,
    owners: PackageOwners,
    labels: Vec<String>,
}

/// The details of a file.
#[derive(Debug, Serialize)]
struct StatRecord {
    path: String,
    #[serde(flatten)]
    object: AttrJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// For regular files only.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    package: Option<String>,
    /// Names, and values in hexadecimal digits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<(String, String)>,
    /// All paths of a file with several hard links.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    /// Index of the layer that provides the file.
    layer: usize,
    /// The entry of each layer at this path.
    places: Vec<Option<LayerEntryJson>>,
    /// Indices of the layers whose entry is hidden.
    hides: Vec<usize>,
    #[serde(skip)]
    shown: Vec<Option<LayerNode>>,
    #[serde(skip)]
    merged: Vec<usize>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum LayerEntryJson {
    Object(AttrJson),
    Whiteout,
}

impl StatRecord {
    fn new(
        opened: &OpenedImages,
        context: &StatContext,
        node: &ViewNode,
    ) -> Result<StatRecord, CommandError> {
        let view = &opened.view;
        let attr = &node.attr;
        let layered = view.layers_at(node.clone())?;
        let mut places = vec![None; view.names().len()];
        for (layer, place) in &layered.has {
            places[*layer] = Some(place.clone());
        }
        let entry = |place: &Option<LayerNode>| {
            place.as_ref().map(|place| match place {
                LayerNode::Object(attr) => LayerEntryJson::Object(AttrJson::from_attr(attr)),
                LayerNode::Whiteout => LayerEntryJson::Whiteout,
            })
        };
        let several = !node.is_dir() && attr.nlink > 1;
        let xattrs = view.xattrs(node)?;
        Ok(StatRecord {
            path: escape(&node.path).into_owned(),
            object: AttrJson::new(view, node)?,
            owner: context.accounts.user(attr.uid).map(str::to_owned),
            group: context.accounts.group(attr.gid).map(str::to_owned),
            sha256: if node.is_file() { Some(hex(&view.digest(node)?)) } else { None },
            // Directories belong to several packages.
            package: context.owners.get(&node.path).filter(|_| !node.is_dir()).map(str::to_owned),
            xattrs: xattrs
                .iter()
                .map(|(name, value)| (escape(name).into_owned(), hex(value)))
                .collect(),
            names: if several { names(view, node)? } else { Vec::new() },
            layer: node.layer(),
            places: places.iter().map(entry).collect(),
            hides: layered.hidden().map(|(layer, _)| layer).collect(),
            merged: layered.merged_layers().collect(),
            shown: places,
        })
    }

    fn write(
        &self,
        node: &ViewNode,
        context: &StatContext,
        out: &mut StdoutWriter,
    ) -> Result<(), CommandError> {
        let attr = &node.attr;
        out.line(&display_path(&node.path))?;
        let mut line = |name: &str, value: &str| out.line(&format!("  {name:9} {value}"));
        line("type", file_type_name(attr.kind))?;
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
        line("owner", &named(attr.uid, context.accounts.user_text(attr.uid)))?;
        line("group", &named(attr.gid, context.accounts.group_text(attr.gid)))?;
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
                Some(LayerNode::Whiteout) => "deleted".to_owned(),
                Some(LayerNode::Object(attr)) => {
                    let hidden = match layer {
                        layer if layer == self.layer => "",
                        layer if self.merged.contains(&layer) => ", merged",
                        _ => ", hidden",
                    };
                    let (user, group) = (
                        context.accounts.user_text(attr.uid),
                        context.accounts.group_text(attr.gid),
                    );
                    format!("{}, {:04o} {user}:{group}{hidden}", brief(attr), attr.mode)
                }
            };
            line("layer", &format!("{}: {what}", context.labels[layer]))?;
        }
        Ok(())
    }
}

/// Returns all paths of a hard-linked file, in tree order.
fn names(view: &StackView, node: &ViewNode) -> Result<Vec<String>, LookError> {
    let source: LowerInode = node.found.source();
    let mut names = Vec::new();
    view.walk::<LookError>(&view.root()?, &mut |other| {
        if matches!(&other.found, LowerEntry::Object { source: same, .. } if *same == source) {
            names.push(escape(&other.path).into_owned());
        }
        Ok(WalkControl::Into)
    })?;
    Ok(names)
}
