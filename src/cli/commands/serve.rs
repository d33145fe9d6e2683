//! `serve`: serves a project's artifacts over HTTP until a signal requests termination.

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use provisioners::Project;

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::project_images;
use crate::sandbox::Signals;
use crate::serve::{BootServer, Catalogue, CatalogueError, ClientTimeouts};

/// Time for running transfers to complete after the first signal.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Project file or directory (default: overcoat.yml in this directory or the nearest parent)
    #[arg(value_name = "PROJECT")]
    project: Option<PathBuf>,

    /// Address and port to listen on; port 0 selects a free port
    ///
    /// The default address can only be reached from this machine.
    #[arg(short, long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    listen: SocketAddr,

    /// Image that boot.ipxe boots (default: the only overlay, or else a menu)
    #[arg(long, value_name = "NAME")]
    default: Option<String>,

    /// URL under which machines reach this server
    ///
    /// By default, the server uses the address of each request. Needed behind a proxy, such as one
    /// that adds https.
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Additional kernel parameters, as one string
    #[arg(long, value_name = "PARAMETERS", allow_hyphen_values = true)]
    append: Option<String>,

    /// Time-outs in milliseconds: request head, stalled client, shutdown (for tests)
    #[arg(long, hide = true, value_delimiter = ',', value_name = "MS")]
    time_outs: Vec<u64>,
}

/// Settings from the command line, which also apply when the project is reloaded.
struct ServeSettings {
    default: Option<String>,
    append: Option<String>,
    url: Option<String>,
}

impl ServeSettings {
    fn catalogue(&self, project: &Project) -> Result<Catalogue, CatalogueError> {
        let catalogue = Catalogue::new(project, self.default.as_deref(), self.append.as_deref())?;
        match &self.url {
            Some(url) => catalogue.reached_at(url),
            None => Ok(catalogue),
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if text.parse::<u16>().is_ok() {
        return Err(format!("no address before the port: use 0.0.0.0:{text} for all addresses"));
    }
    let found = text.to_socket_addrs().map_err(|error| error.to_string())?.next();
    found.ok_or_else(|| "the name has no address".to_owned())
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let named: Vec<String> =
        args.project.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let project = match (project_images::find(&named, None)?, &args.project) {
        (Some((project, rest)), _) if rest.is_empty() => project,
        (_, Some(path)) => {
            return Err(CommandError::user(format!(
                "{} is not a project: give a file with `images:`, or a directory with overcoat.yml",
                path.display()
            )));
        }
        (_, None) => return Err(CommandError::user("no project found")),
    };
    let settings = ServeSettings {
        default: args.default.clone(),
        append: args.append.clone(),
        url: args.url.clone(),
    };
    let catalogue = settings.catalogue(&project)?;
    let file = project.file.clone();
    let read = move || {
        let project = Project::load(&file).map_err(|error| error.to_string())?;
        settings.catalogue(&project).map_err(|error| error.to_string())
    };
    let mut limits = ClientTimeouts::default();
    let mut grace = SHUTDOWN_GRACE;
    if let &[head, stall, end] = args.time_outs.as_slice() {
        limits.head = Duration::from_millis(head);
        limits.stall = Duration::from_millis(stall);
        grace = Duration::from_millis(end);
    }
    // Before threads are created, so that they inherit the blocked signals.
    let signals = Signals::take()?;
    let server = BootServer::start(catalogue, &project.file, Arc::new(read), args.listen, limits)
        .map_err(|error| {
        CommandError::system(format!("cannot listen on {}", args.listen), error)
    })?;
    let images = project.images();
    let files = project.output.display();
    let built = images.iter().filter(|image| image.files().iter().all(|f| f.exists())).count();
    ui.status(&format!(
        "listening on http://{}/ ({built} of {} images are built in {files})",
        server.address(),
        images.len(),
    ));
    if built == 0 {
        ui.status("no image is built yet: run `overcoat build`");
    }
    if args.url.as_ref().is_some_and(|url| url.starts_with("https:")) {
        ui.status(
            "https requires an iPXE with https support, and initrds built with the variable \
             https: true",
        );
    }
    wait(&signals)?;
    let again = std::cell::Cell::new(None);
    let cut = server.stop(grace, || {
        again.set(again.get().or_else(|| signals.interruption()));
        again.get().is_some()
    });
    if cut > 0 {
        let connections = if cut == 1 { "connection" } else { "connections" };
        ui.status(&format!("closed {cut} unfinished {connections}"));
    }
    match again.get() {
        Some(signal) => Err(CommandError::signal(signal as i32)),
        // A signal is the normal way to stop the server.
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Waits for a signal that requests termination.
fn wait(signals: &Signals) -> Result<(), CommandError> {
    loop {
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) if signals.interruption().is_some() => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
    }
}
