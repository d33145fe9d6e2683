//! Options that several subcommands share, and what they mean.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fs_model::Ino;
use fs_model::delta::{Change, Delta, DeltaEntry};
use fs_model::tree::XattrSupport;
pub(super) use provisioners::image::manifest_path;
use provisioners::image::{ImageLocation, parse_size};
use sha2::{Digest, Sha256};
use tracing::level_filters::LevelFilter;

use super::progress::SealProgress;
use super::{Failure, print, say};
use crate::below::{LowerRecords, lower_records};
use crate::fuse::{ForeignOwners, OVERFLOW_ID};
use crate::root::{FinishedRoot, RootOptions, ServedRoot, default_upper_limit};
use crate::sandbox::{Bind, Network, widening_command};
use crate::seal::manifest::hex;
use crate::seal::path::escape;
use crate::seal::{Format, ManifestInfo, Output, SealOptions, Summary, Warning, seal};

/// The network inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum NetworkArg {
    /// The host's
    Host,
    /// A loopback interface and nothing else
    None,
}

/// What a root is like.
#[derive(Debug, Args)]
pub(super) struct RootArgs {
    /// The network inside
    #[arg(long, value_name = "WHICH", value_enum)]
    pub(super) network: Option<NetworkArg>,

    /// The most that changes may take in memory, such as 2G; half of the machine's by default
    #[arg(long, value_name = "SIZE", value_parser = size_value)]
    pub(super) upper_size: Option<u64>,

    /// Show a host folder or file inside; it is never captured
    #[arg(long, value_name = "HOST:PATH[:ro]", value_parser = bind)]
    pub(super) bind: Vec<Bind>,
}

impl RootArgs {
    /// The root's options, where a file may have said something too.
    pub(super) fn root(
        &self,
        layers: Vec<PathBuf>,
        xattrs: XattrSupport,
        network: Network,
        upper_size: Option<u64>,
        digests: bool,
    ) -> RootOptions {
        RootOptions {
            layers,
            upper_limit: self.upper_size.or(upper_size).unwrap_or_else(default_upper_limit),
            xattrs,
            network: match self.network {
                Some(NetworkArg::Host) => Network::Host,
                Some(NetworkArg::None) => Network::None,
                None => network,
            },
            binds: self.bind.clone(),
            apt_proxy: None,
            digests,
            report: super::say,
        }
    }
}

/// How an archive is written.
#[derive(Debug, Args)]
pub(super) struct SealArgs {
    /// The archive's format; by default what the output's name ends in
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub(super) format: Option<Format>,

    /// Compression level: gzip 1 to 9 (6), zstd 1 to 19 (3), squashfs 1 to 22 (9)
    #[arg(long, value_name = "N")]
    pub(super) level: Option<u32>,

    /// Threads that compress; the bytes do not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) threads: Option<u16>,

    /// Write no manifest beside the archive
    #[arg(long)]
    pub(super) no_manifest: bool,

    /// Print what was written as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl SealArgs {
    /// Standard output, which is to be the archive's, can have nothing else.
    pub(super) fn check_stdout(&self) -> Result<(), Failure> {
        match self.json {
            true => Err(Failure::message(
                "--json and the archive cannot both go to standard output: name a file",
            )),
            false => Ok(()),
        }
    }

    /// The format for `output`, where `otherwise` stands for what a file said; it has the level
    /// that was asked for.
    pub(super) fn format_for(
        &self,
        output: &Path,
        otherwise: Option<Format>,
    ) -> Result<Format, Failure> {
        use std::os::unix::ffi::OsStrExt;
        let format = self
            .format
            .or(otherwise)
            .or_else(|| Format::from_file_name(output.file_name()?.as_bytes()))
            .or((output == Path::new("-")).then_some(Format::CpioGz))
            .ok_or_else(|| {
                let names: Vec<_> = Format::ALL.iter().map(|f| format!(".{f}")).collect();
                Failure::message(format!(
                    "{}: the name does not say which format; let it end in one of {}, or give a \
                     --format",
                    output.display(),
                    names.join(", ")
                ))
            })?;
        format.level(self.level)?;
        if format == Format::Squashfs {
            crate::seal::squashfs::available()?;
        }
        Ok(format)
    }

    pub(super) fn options(&self, format: Format, epoch: Option<u64>) -> SealOptions {
        let defaults = SealOptions::new(format);
        SealOptions {
            level: self.level,
            threads: self.threads.map_or(defaults.threads, usize::from),
            source_date_epoch: epoch,
            ..defaults
        }
    }
}

/// Adds the variables with the paths of the root's lent files.
pub(super) fn add_environment(environment: &mut Vec<(OsString, OsString)>, root: &ServedRoot) {
    environment.extend(root.environment().into_iter().map(|(n, v)| (n.into(), v.into())));
}

/// `SOURCE_DATE_EPOCH` of the environment, or else what a file said.
pub(super) fn source_date_epoch(otherwise: Option<i64>) -> Result<Option<u64>, Failure> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(epoch) => Ok(Some(epoch)),
            Err(_) => Err(Failure::message(format!(
                "SOURCE_DATE_EPOCH is `{text}`: it must be seconds since 1970, as \
                 `git log -1 --format=%ct` gives them"
            ))),
        },
        Ok(_) | Err(std::env::VarError::NotPresent) => {
            Ok(otherwise.and_then(|epoch| u64::try_from(epoch).ok()))
        }
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Failure::message("SOURCE_DATE_EPOCH is not a number"))
        }
    }
}

/// Where a sealed tree goes: an archive, or several of different formats.
#[derive(Debug)]
pub(super) struct Outputs(Vec<Sealing>);

#[derive(Debug)]
struct Sealing {
    path: PathBuf,
    format: Format,
    archive: Output,
    manifest: Option<Output>,
}

impl Outputs {
    /// Opens the outputs, so that what cannot be written is known before any work is done.
    pub(super) fn open(
        files: impl IntoIterator<Item = (PathBuf, Format)>,
        args: &SealArgs,
    ) -> Result<Outputs, Failure> {
        let open = |(path, format): (PathBuf, Format)| {
            if path == Path::new("-") {
                args.check_stdout()?;
                return Ok(Sealing { path, format, archive: Output::stdout()?, manifest: None });
            }
            let archive = Output::file(&path)?;
            let manifest = match args.no_manifest {
                true => None,
                false => Some(Output::file(&manifest_path(&path))?),
            };
            Ok(Sealing { path, format, archive, manifest })
        };
        files.into_iter().map(open).collect::<Result<_, Failure>>().map(Outputs)
    }

    /// Which extended attributes the root may have: those that all of them can carry.
    pub(super) fn xattrs(&self) -> XattrSupport {
        let each = || self.0.iter().map(|sealing| sealing.format.xattrs());
        [XattrSupport::None, XattrSupport::WithoutAcls]
            .into_iter()
            .find(|least| each().any(|support| support == *least))
            .or(each().next())
            .unwrap_or(XattrSupport::None)
    }

    /// Seals the tree of a root that has ended, and tells what was written.
    pub(super) fn seal(
        self,
        finished: FinishedRoot,
        args: &SealArgs,
        epoch: Option<u64>,
    ) -> Result<(), Failure> {
        super::say_warnings(&finished.clean_copies()?);
        let FinishedRoot { tree, layers, .. } = finished;
        let delta = tree.delta()?.with_root(tree.attr(Ino::ROOT)?);
        warn_of_copied_owners(&delta);
        let wanted = self.0.iter().any(|sealing| sealing.manifest.is_some());
        let lower =
            if wanted { lower_records(&delta, tree.layers())? } else { LowerRecords::new() };
        let info = ManifestInfo { layers, lower };
        for Sealing { path, format, archive, manifest } in self.0 {
            let options = args.options(format, epoch);
            let manifest = manifest.map(|output| (output, info.clone()));
            let mut progress = SealProgress::default();
            let mut tell = |p| progress.tell(p);
            let summary = seal(&delta, &*tree, &options, archive, manifest, &mut tell)?;
            drop(progress);
            warn(&summary.warnings);
            report(&report_json(&path, &summary), args.json)?;
        }
        Ok(())
    }
}

/// Tells what an archive lacks: with `-v` all of it, otherwise as much as somebody reads.
pub(super) fn warn(warnings: &[Warning]) {
    const SHOWN: usize = 10;
    if LevelFilter::current() >= LevelFilter::INFO {
        warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
        return;
    }
    for warning in warnings.iter().take(SHOWN) {
        say(&format!("warning: {}", warning.brief()));
    }
    if warnings.len() > SHOWN {
        say(&format!("…and {} more warnings; -v shows all", warnings.len() - SHOWN));
    }
}

/// Warns about new files of the user 65534 in a build without root: a copy of a file of the host
/// gets this owner.
fn warn_of_copied_owners(delta: &Delta) {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let is_copy = |entry: &&DeltaEntry| {
        let object = entry.object.filter(|_| entry.change == Change::Added);
        object.is_some_and(|object| object.attr.uid == OVERFLOW_ID)
    };
    let mut copies = delta.entries.iter().filter(is_copy);
    let Some(first) = copies.next() else { return };
    let others = match copies.count() {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    say(&format!(
        "warning: /{}{others}: the owner is 65534 (nobody); without root, programs inside see this \
         owner on files of the host (--bind, /proc, /sys) and give it to copies; if that is wrong, \
         copy without the owner (cp without -a) or set it",
        escape(&first.path)
    ));
}

/// Warns of owners that were shown inside as aliases.
pub(super) fn warn_of_owners(owners: Option<ForeignOwners>) {
    let Some(owners) = owners else { return };
    let pair = |of: fn((u32, u32)) -> u32| match (owners.user, owners.group) {
        (Some(user), Some(group)) => format!("{}:{}", of(user), of(group)),
        (Some(user), None) => of(user).to_string(),
        (None, Some(group)) => format!(":{}", of(group)),
        (None, None) => String::new(),
    };
    let (truth, shown) = (pair(|(truth, _)| truth), pair(|(_, shown)| shown));
    let first = owners.path.as_deref();
    let first = first.map_or(String::new(), |path| format!(" (first at /{})", escape(path)));
    let max = owners.max;
    let widen = match widening_command(max, owners.highest) {
        Some(command) => format!("to map them, as root: {command}"),
        None => "there is no free range of subordinate ids that is large enough".to_owned(),
    };
    say(&format!(
        "warning: owners such as {truth}{first} are above your subordinate range, which ends at \
         {max}, so programs inside saw aliases such as {shown}; the archive has the true owners, \
         but files that programs wrote with numbers of owners, such as tar archives, have the \
         aliases; {widen}"
    ));
    if owners.overflowed {
        say(
            "warning: there were more such owners than aliases: the others were shown as 65534, and \
             giving files to 65534 failed with EOVERFLOW",
        );
    }
}

/// Refuses to write over what is a layer at the same time.
pub(super) fn refuse_layers<'a>(
    files: impl Iterator<Item = &'a PathBuf>,
    layers: &[PathBuf],
) -> Result<(), Failure> {
    let same = |a: &Path, b: &Path| match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    for file in files {
        if layers.iter().any(|layer| same(&ImageLocation::of(layer).file, file)) {
            return Err(Failure::message(format!(
                "{}: is a layer of what would be written there: name another file",
                file.display()
            )));
        }
    }
    Ok(())
}

/// What was written, for programs.
pub(super) fn report_json(path: &Path, summary: &Summary) -> serde_json::Value {
    serde_json::json!({
        "schema": 1,
        "output": path.to_string_lossy(),
        "size": summary.size,
        "sha256": hex(&summary.sha256),
        "entries": summary.entries,
        "counts": summary.counts,
        "content": summary.content,
        "warnings": summary.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// What was written of a file that was taken out of a root, for programs.
pub(super) fn report_file(path: &Path, content: &[u8]) -> serde_json::Value {
    serde_json::json!({
        "schema": 1,
        "output": path.to_string_lossy(),
        "size": content.len(),
        "sha256": hex(&Sha256::digest(content)),
    })
}

/// Tells what was written.
pub(super) fn report(report: &serde_json::Value, json: bool) -> Result<(), Failure> {
    if json {
        return print(&report.to_string());
    }
    let text = |key: &str| report[key].as_str().unwrap_or_default();
    let number = |key: &str| report[key].as_u64().unwrap_or_default();
    let name = match text("output") {
        "-" => "standard output",
        name => name,
    };
    say(&format!(
        "{name}: {}{}, sha256 {}",
        size_text(number("size")),
        report["entries"].as_u64().map_or(String::new(), |n| format!(" in {n} entries")),
        text("sha256").get(..16).unwrap_or_default()
    ));
    Ok(())
}

/// Bytes as a person reads them.
pub(super) fn size_text(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// A number of bytes on the command line.
pub(super) fn size_value(text: &str) -> Result<u64, String> {
    // Less than one file takes: nobody means that.
    const LEAST: u64 = 64 << 10;
    match parse_size(text) {
        None => Err("write a size such as 512M or 2G".to_owned()),
        Some(size @ ..LEAST) => Err(format!(
            "that is {size} bytes, too little for anything: write a unit, such as {}M or 2G",
            if size > 0 { size } else { 512 }
        )),
        Some(size) => Ok(size),
    }
}

fn format(text: &str) -> Result<Format, String> {
    Format::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| {
        let names: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
        format!("the formats are {}", names.join(", "))
    })
}

fn bind(text: &str) -> Result<Bind, String> {
    let (rest, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    match rest.split_once(':') {
        Some((host, inside)) if !host.is_empty() && inside.starts_with('/') => {
            Ok(Bind { host: host.into(), inside: inside.into(), read_only })
        }
        _ => Err("write HOST:PATH or HOST:PATH:ro, with an absolute PATH".to_owned()),
    }
}
