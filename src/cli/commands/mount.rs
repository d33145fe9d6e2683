//! `mount`: mounts a base and overlays as one root in the host's namespace, and serves it in the
//! background.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args as ClapArgs;
use fs_model::Tree;
use fs_model::layer::squashfs::CacheOptions;
use fs_model::tree::{TreeOptions, XattrSupport};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::cli::ui::Ui;
use crate::cli::ui::args::size_value;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::image_args::StackOptions;
use crate::image::open;
use crate::mount::host::MountServer;
use crate::root::default_upper_limit;
use crate::sandbox::{ForkSide, HostMount, MountOptions, fork_process, unmount};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The base, its overlays, and the directory to mount on
    ///
    /// The name of a project's image selects its base, its lower overlays and the image.
    #[arg(required = true, num_args = 2.., value_name = "BASE [OVERLAY] DIR")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    stack: StackOptions,

    /// Mount with a writable layer in memory; `overcoat seal DIR` saves the changes
    #[arg(long)]
    rw: bool,

    /// Memory limit of the changes, such as 2G (default: half of the machine's memory)
    #[arg(long, value_name = "SIZE", value_parser = size_value)]
    upper_size: Option<u64>,

    /// Serve in the foreground
    #[arg(short, long)]
    foreground: bool,
}

/// A root to mount.
#[derive(Debug)]
pub(crate) struct RootMount {
    /// The layers, the lowest first.
    pub(crate) layers: Vec<PathBuf>,
    /// The directory to mount on.
    pub(crate) dir: PathBuf,
    /// Whether it has an upper layer.
    pub(crate) rw: bool,
    /// Maximum size of the upper in bytes.
    pub(crate) upper_size: Option<u64>,
    /// Whether to serve in the foreground.
    pub(crate) foreground: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let Some((dir, images)) = args.paths.split_last() else {
        return Err(CommandError::user("nothing to mount"));
    };
    let root = RootMount {
        layers: args.stack.layers(images)?,
        dir: dir.clone(),
        rw: args.rw,
        upper_size: args.upper_size,
        foreground: args.foreground,
    };
    mount(ui, root, &MountOptions { read_only: !args.rw, ..MountOptions::default() })
}

/// Mounts with the given mount options.
pub(crate) fn mount(ui: &Ui, root: RootMount, how: &MountOptions) -> CommandResult {
    let RootMount { layers: paths, dir, rw, upper_size, foreground } = root;
    if upper_size.is_some() && !rw {
        return Err(CommandError::user(
            "--upper-size limits the size of changes, but the mount is read-only: give --rw too",
        ));
    }
    let layers = open::open(&paths, CacheOptions::default())?;
    let upper_limit = rw.then(|| upper_size.unwrap_or_else(default_upper_limit));
    let options = TreeOptions { upper_limit, xattrs: XattrSupport::All };
    let tree = Arc::new(Tree::new(layers.layers.clone(), options)?);
    let dir = std::path::absolute(dir)?;
    if let Some(layer) = paths.iter().find(|layer| is_inside(&dir, layer)) {
        return Err(CommandError::user(format!(
            "{} is inside the layer {}, so the root would contain itself: give another directory",
            dir.display(),
            layer.display()
        )));
    }
    let mount = HostMount::new(&dir, how)?;
    // From here on every error must unmount.
    let server = MountServer { tree, layers, dir: dir.clone() };
    let result =
        if foreground { serve(server, mount, None) } else { in_background(ui, server, mount) };
    if result.is_err() {
        let _ = unmount(&dir, true);
    }
    result
}

/// Returns whether `dir` is below the directory `layer`. Reading the layer would then send requests
/// to the mount, and its server would wait for itself. Mounting on `layer` itself is fine, because
/// it is already open.
fn is_inside(dir: &Path, layer: &Path) -> bool {
    match (dir.canonicalize(), layer.canonicalize()) {
        (Ok(dir), Ok(layer)) => layer.is_dir() && dir != layer && dir.starts_with(&layer),
        _ => false,
    }
}

/// Serves in a child process and returns when the mount responds.
fn in_background(ui: &Ui, server: MountServer, mount: HostMount) -> CommandResult {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(std::io::Error::from)?;
    match fork_process()? {
        ForkSide::Child => {
            drop(reader);
            let ready = File::from(writer);
            let code = match serve(server, mount, Some(ready)) {
                Ok(code) => code,
                Err(error) if error.is_silent() => ExitCode::SUCCESS,
                Err(error) => error.report(ui),
            };
            Ok(code)
        }
        ForkSide::Parent => {
            drop((writer, mount));
            let mut answer = [0];
            match File::from(reader).read(&mut answer) {
                Ok(1) => Ok(ExitCode::SUCCESS),
                // The server has printed the reason.
                _ => Err(CommandError::user("the mount's server did not start")),
            }
        }
    }
}

fn serve(server: MountServer, mount: HostMount, ready: Option<File>) -> CommandResult {
    server.serve(mount, ready)?;
    Ok(ExitCode::SUCCESS)
}
