//! `du`: disk usage in images, and the RAM that they need.

use clap::Args as ClapArgs;
use fs_model::tree::Follow;
use serde_json::{Value, json};

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::format::display_path;
use crate::cli::ui::image_args::{ImageArgs, OpenedImages, labels};
use crate::cli::ui::stdout::StdoutWriter;
use crate::image::view::packages::DpkgDatabase;
use crate::image::view::usage::{self, DiskUsage};
use crate::text::escape::escape;
use crate::text::size::size_text;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    images: ImageArgs,

    /// Depth of the directories to show below each path
    #[arg(short = 'L', long, value_name = "N", default_value_t = 1)]
    depth: usize,

    /// Show the usage by Debian package instead of by directory
    #[arg(long, conflicts_with = "ram")]
    packages: bool,

    /// Show the RAM that a booted machine needs for each layer
    #[arg(long)]
    ram: bool,

    /// Print exact sizes in bytes
    #[arg(short, long)]
    bytes: bool,

    /// Print the usage as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let opened = args.images.open(ui)?;
    if args.ram {
        return ram(ui, args, &opened);
    }
    let view = &opened.view;
    let owners = match args.packages {
        true => Some(DpkgDatabase::read(view)?.owners(view)?),
        false => None,
    };
    let mut out = StdoutWriter::new();
    let mut items: Vec<Value> = Vec::new();
    let code = opened.each(Follow::Yes, &mut |top| {
        let mut lines: Vec<(String, DiskUsage)> = Vec::new();
        match &owners {
            None => {
                for (path, usage) in usage::by_directory(view, &top, args.depth)? {
                    items.push(json!({
                        "path": escape(&path), "bytes": usage.bytes, "entries": usage.entries,
                    }));
                    lines.push((display_path(&path), usage));
                }
            }
            Some(owners) => {
                let sums = usage::by_package(view, &top, owners)?;
                let mut sums: Vec<_> = sums.into_iter().collect();
                sums.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.bytes));
                for (package, usage) in sums {
                    items.push(json!({
                        "path": escape(&top.path), "package": package,
                        "bytes": usage.bytes, "entries": usage.entries,
                    }));
                    let name = package.unwrap_or_else(|| "(no package)".to_owned());
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
        let document = json!({ "schema": 1, "layers": view.names(), key: items });
        out.line(&document.to_string())?;
    }
    out.finish()?;
    Ok(code)
}

fn amount(args: &Args, bytes: u64) -> String {
    if args.bytes { bytes.to_string() } else { size_text(bytes) }
}

/// Prints the RAM that booting needs. See docs/BOOT.md for the memory layout.
fn ram(ui: &Ui, args: &Args, opened: &OpenedImages) -> CommandResult {
    if !opened.paths.is_empty() {
        return Err(CommandError::user("--ram applies to whole images: remove the paths"));
    }
    let view = &opened.view;
    let mut layers = Vec::new();
    let mut needed = 0;
    let mut lines = Vec::new();
    let mut cache = 0;
    for (index, (image, label)) in opened.images.iter().zip(labels(view)).enumerate() {
        let memory = usage::memory(view, index)?;
        let file = crate::image::open::ImageFile::open(image).ok().map(|file| file.size());
        // A squashfs base stays an image in memory; everything else is unpacked into a tmpfs.
        let image_bytes = file.filter(|_| index == 0 && crate::image::open::is_squashfs(image));
        let takes =
            image_bytes.map_or_else(|| memory.tmpfs(), |bytes| bytes.next_multiple_of(usage::PAGE));
        needed = takes.saturating_add(needed);
        if image_bytes.is_some() {
            cache = memory.pages;
        }
        let how = match image_bytes {
            Some(_) => "image file".to_owned(),
            None => format!(
                "unpacked: {} of pages, {} for {} inodes and names",
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
        ui.print(&document.to_string())?;
        return Ok(std::process::ExitCode::SUCCESS);
    }
    let mut out = StdoutWriter::new();
    for (takes, line) in lines {
        out.line(&format!("{:>11}  {line}", amount(args, takes)))?;
    }
    out.line(&format!("{:>11}  total, permanently in use after the boot", amount(args, needed)))?;
    if cache > 0 {
        out.line(&format!(
            "{:>11}  page cache, after all files of the base were read; reclaimable by the kernel",
            amount(args, cache)
        ))?;
    }
    out.finish()?;
    Ok(std::process::ExitCode::SUCCESS)
}
