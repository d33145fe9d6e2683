//! `serve`: a project's artifacts over HTTP, until a signal asks to end.

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

use super::{Failure, Outcome, project, say};
use crate::sandbox::Signals;
use crate::serve::{Catalogue, CatalogueError, Limits, Server};

/// How long what is being sent has to come to its end.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The project: its file or folder; by default the nearest overcoat.yml here or above
    #[arg(value_name = "PROJECT")]
    project: Option<PathBuf>,

    /// Where to listen; port 0 takes any that is free. Only this machine can reach the default
    #[arg(short, long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    listen: SocketAddr,

    /// The image that boot.ipxe boots; without it, the only overlay, or else a menu
    #[arg(long, value_name = "NAME")]
    default: Option<String>,

    /// Where machines reach this server, if not where whoever asks has reached it: behind a proxy
    /// that speaks https, say
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// More kernel parameters, in one string
    #[arg(long, value_name = "PARAMETERS", allow_hyphen_values = true)]
    append: Option<String>,

    /// Milliseconds for the head of a request, for a client that does not read, and for the end
    #[arg(long, hide = true, value_delimiter = ',', value_name = "MS")]
    time_outs: Vec<u64>,
}

/// What the user says of how a project is served.
struct Shown {
    default: Option<String>,
    append: Option<String>,
    url: Option<String>,
}

impl Shown {
    fn catalogue(&self, project: &Project) -> Result<Catalogue, CatalogueError> {
        let catalogue = Catalogue::of(project, self.default.as_deref(), self.append.as_deref())?;
        match &self.url {
            Some(url) => catalogue.reached_at(url),
            None => Ok(catalogue),
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if text.parse::<u16>().is_ok() {
        return Err(format!("write an address before the port: 0.0.0.0:{text} for all of them"));
    }
    let found = text.to_socket_addrs().map_err(|error| error.to_string())?.next();
    found.ok_or_else(|| "it has no address".to_owned())
}

pub(super) fn run(args: &Args) -> Outcome {
    let named: Vec<String> =
        args.project.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let project = match (project::find(&named, None)?, &args.project) {
        (Some((project, rest)), _) if rest.is_empty() => project,
        (_, Some(path)) => {
            let path = path.display();
            let help = "name a file that has `images:`, or the folder of an overcoat.yml";
            return Err(Failure::message(format!("{path} is no project: {help}")));
        }
        (_, None) => return Err(Failure::message("there is no project")),
    };
    let shown =
        Shown { default: args.default.clone(), append: args.append.clone(), url: args.url.clone() };
    let catalogue = shown.catalogue(&project)?;
    let file = project.file.clone();
    let read = move || {
        let project = Project::load(&file).map_err(|error| error.to_string())?;
        shown.catalogue(&project).map_err(|error| error.to_string())
    };
    let mut limits = Limits::default();
    let mut grace = GRACE;
    if let &[head, stall, end] = args.time_outs.as_slice() {
        limits.head = Duration::from_millis(head);
        limits.stall = Duration::from_millis(stall);
        grace = Duration::from_millis(end);
    }
    // Before there are threads: they are not to have them.
    let signals = Signals::take()?;
    let server = Server::start(catalogue, &project.file, Arc::new(read), args.listen, limits)
        .map_err(|error| Failure::message(format!("cannot listen at {}: {error}", args.listen)))?;
    let images = project.images();
    let files = project.output.display();
    let built = images.iter().filter(|image| image.files().iter().all(|f| f.exists())).count();
    say(&format!(
        "listening at http://{}/ ({built} of {} images are in {files})",
        server.address(),
        images.len(),
    ));
    if built == 0 {
        say("nothing was built yet: `overcoat build`");
    }
    if args.url.as_ref().is_some_and(|url| url.starts_with("https:")) {
        say("https needs an iPXE that knows it, and initrds made with the variable https: true");
    }
    wait(&signals)?;
    let again = std::cell::Cell::new(None);
    let cut = server.stop(grace, || {
        again.set(again.get().or_else(|| signals.interruption()));
        again.get().is_some()
    });
    if cut > 0 {
        let were = if cut == 1 { "connection was" } else { "connections were" };
        say(&format!("{cut} {were} cut off"));
    }
    match again.get() {
        Some(signal) => Err(Failure::Signal(signal as i32)),
        // To be asked to end is how a server ends.
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Waits for a signal that asks to end.
fn wait(signals: &Signals) -> Result<(), Failure> {
    loop {
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) if signals.interruption().is_some() => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
    }
}
