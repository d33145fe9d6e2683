//! `du`: what takes how much in images, and how much RAM they need.

use clap::Args as ClapArgs;
use fs_model::tree::Follow;
use serde_json::{Value, json};

use super::images::{Images, Opened, labels};
use super::options::size_text;
use super::out::Out;
use super::shown::inside;
use super::{Failure, Outcome, print};
use crate::look::packages::Packages;
use crate::look::usage::{self, Usage};
use crate::seal::path::escape;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    images: Images,

    /// How many names deep below each path
    #[arg(short = 'L', long, value_name = "N", default_value_t = 1)]
    depth: usize,

    /// By Debian package
    #[arg(long, conflicts_with = "ram")]
    packages: bool,

    /// What the layers need in a machine's memory
    #[arg(long)]
    ram: bool,

    /// Bytes, to the last one
    #[arg(short, long)]
    bytes: bool,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let opened = args.images.open()?;
    if args.ram {
        return ram(args, &opened);
    }
    let view = &opened.view;
    let owners = match args.packages {
        true => Some(Packages::read(view)?.owners(view)?),
        false => None,
    };
    let mut out = Out::new();
    let mut told: Vec<Value> = Vec::new();
    let code = opened.each(Follow::Yes, &mut |top| {
        let mut lines: Vec<(String, Usage)> = Vec::new();
        match &owners {
            None => {
                for (path, usage) in usage::by_directory(view, &top, args.depth)? {
                    told.push(json!({
                        "path": escape(&path), "bytes": usage.bytes, "entries": usage.entries,
                    }));
                    lines.push((inside(&path), usage));
                }
            }
            Some(owners) => {
                let sums = usage::by_package(view, &top, owners)?;
                let mut sums: Vec<_> = sums.into_iter().collect();
                sums.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.bytes));
                for (package, usage) in sums {
                    told.push(json!({
                        "path": escape(&top.path), "package": package,
                        "bytes": usage.bytes, "entries": usage.entries,
                    }));
                    let name = package.unwrap_or_else(|| "(of no package)".to_owned());
                    lines.push((escape(name.as_bytes()).into_owned(), usage));
                }
            }
        }
        if args.json {
            return Ok(());
        }
        for (name, usage) in lines {
            let size = amount(args, usage.bytes);
            out.line(&format!("{size:>11} {:8}  {name}", usage.entries))?;
        }
        Ok(())
    })?;
    if args.json {
        let key = if args.packages { "packages" } else { "directories" };
        let document = json!({ "schema": 1, "layers": view.names(), key: told });
        out.line(&document.to_string())?;
    }
    out.finish()?;
    Ok(code)
}

fn amount(args: &Args, bytes: u64) -> String {
    if args.bytes { bytes.to_string() } else { size_text(bytes) }
}

/// What booting needs: docs/BOOT.md says what lies where.
fn ram(args: &Args, opened: &Opened) -> Outcome {
    if !opened.paths.is_empty() {
        return Err(Failure::message("--ram is of whole images: leave the paths inside out"));
    }
    let view = &opened.view;
    let mut layers = Vec::new();
    let mut needed = 0;
    let mut lines = Vec::new();
    let mut cache = 0;
    for (index, (image, label)) in opened.images.iter().zip(labels(view)).enumerate() {
        let memory = usage::memory(view, index)?;
        let file = crate::layers::ImageFile::open(image).ok().map(|file| file.size());
        // A base stays an image; overlays are unpacked, and so is an archive that is alone.
        let image_bytes = file.filter(|_| index == 0 && crate::layers::is_squashfs(image));
        let takes =
            image_bytes.map_or_else(|| memory.tmpfs(), |bytes| bytes.next_multiple_of(usage::PAGE));
        needed = takes.saturating_add(needed);
        if image_bytes.is_some() {
            cache = memory.pages;
        }
        let how = match image_bytes {
            Some(_) => "the image itself".to_owned(),
            None => format!(
                "unpacked: {} in pages, {} for {} inodes and names",
                amount(args, memory.pages),
                amount(args, memory.inodes),
                memory.entries
            ),
        };
        lines.push((takes, format!("{label}: {how}")));
        layers.push(json!({
            "layer": index,
            "file": file,
            "entries": memory.entries,
            "content": memory.content,
            "pages": memory.pages,
            "inodes": memory.inodes,
            "ram": takes,
        }));
    }
    if args.json {
        let document = json!({
            "schema": 1, "layers": view.names(), "memory": layers,
            "ram": needed, "page_cache": cache,
        });
        print(&document.to_string())?;
        return Ok(std::process::ExitCode::SUCCESS);
    }
    let mut out = Out::new();
    for (takes, line) in lines {
        out.line(&format!("{:>11}  {line}", amount(args, takes)))?;
    }
    out.line(&format!("{:>11}  after the boot, always", amount(args, needed)))?;
    if cache > 0 {
        out.line(&format!(
            "{:>11}  more in the page cache, once all files of the base were read; the kernel takes \
             it back when it needs memory",
            amount(args, cache)
        ))?;
    }
    out.finish()?;
    Ok(std::process::ExitCode::SUCCESS)
}
