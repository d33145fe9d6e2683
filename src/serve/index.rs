//! The JSON index of the served images and files.

use serde_json::{Value, json};

use super::catalogue::{Catalogue, ServedImage};
use super::ipxe::{Versions, boot_commands, prefix, url};

/// The version of the index format. Adding keys does not change it.
const SCHEMA: u32 = 1;

/// Returns the index for a client that reached the server by the URL `server`.
pub(super) fn index(catalogue: &Catalogue, versions: &Versions, server: &str) -> String {
    let at = prefix(server);
    let file = |file: usize| {
        let name = &catalogue.files[file].name;
        versions[file].as_ref().map(|version| {
            json!({
                "name": name,
                "url": url(at, name),
                "size": version.entity.size,
                "sha256": version.sha256,
                "modified": httpdate::fmt_http_date(version.modified),
            })
        })
    };
    let image = |image: &ServedImage| {
        let files: Vec<Value> = image
            .files
            .iter()
            .filter_map(|&(made, manifest)| {
                let mut made = file(made)?;
                if let Some(manifest) = manifest.and_then(file) {
                    made["manifest"] = manifest["url"].clone();
                }
                Some(made)
            })
            .collect();
        let mut value = json!({
            "name": image.name,
            "kind": image.kind,
            "layers": image.layers,
            "files": files,
        });
        if let Some(description) = &image.description {
            value["description"] = json!(description);
        }
        let boot = image.boot.as_ref().map(|boot| {
            boot.as_ref()
                .map_err(Clone::clone)
                .and_then(|boot| boot_commands(catalogue, boot, versions, server))
        });
        match boot {
            None => {}
            Some(Ok(commands)) => {
                value["boot"] = json!({
                    "script": format!("{at}/boot/{}.ipxe", image.name),
                    "kernel": commands.kernel,
                    "initrd": commands.initrd,
                    "parameters": commands.parameters,
                });
            }
            Some(Err(why)) => value["not_bootable"] = json!(why),
        }
        value
    };
    let index = json!({
        "schema": SCHEMA,
        "project": catalogue.title,
        "default": catalogue.default.map(|index| &catalogue.images[index].name),
        "images": catalogue.images.iter().map(image).collect::<Vec<_>>(),
    });
    format!("{index:#}\n")
}
