//! Options that several subcommands share.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fs_model::Ino;
use fs_model::delta::{Change, Delta, DeltaEntry, Object};
use fs_model::tree::XattrSupport;
pub(crate) use provisioners::image::manifest_path;
use provisioners::image::{ImageLocation, parse_size};
use sha2::{Digest, Sha256};
use tracing::level_filters::LevelFilter;

use crate::cli::ui::progress::SealProgress;
use crate::cli::{CommandError, eprint_status, print};
use crate::fuse::{ForeignOwners, OVERFLOW_ID};
use crate::manifest::lower::{LowerRecords, lower_records};
use crate::root::{FinishedRoot, RootOptions, ServedRoot, default_upper_limit};
use crate::sandbox::{Bind, Network, widening_command};
use crate::seal::manifest::hex;
use crate::seal::{Format, ManifestInfo, Output, SealOptions, Summary, Warning, seal};
use crate::text::escape::escape;

/// Values of `--network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkArg {
    /// The host's network
    Host,
    /// A loopback interface only
    None,
}

/// Options of a root.
#[derive(Debug, Args)]
pub(crate) struct RootArgs {
    /// Network in the root (default: host, or the image file's setting)
    #[arg(long, value_name = "WHICH", value_enum)]
    pub(crate) network: Option<NetworkArg>,

    /// Memory limit of the changes, such as 2G (default: half of the machine's memory)
    #[arg(long, value_name = "SIZE", value_parser = size_value)]
    pub(crate) upper_size: Option<u64>,

    /// Show a host file or directory in the root; it is never part of the artifact
    #[arg(long, value_name = "HOST:PATH[:ro]", value_parser = bind)]
    pub(crate) bind: Vec<Bind>,
}

impl RootArgs {
    /// Returns the options of the root. `network` and `upper_size` are the values of an image file;
    /// the command line takes precedence.
    pub(crate) fn root(
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
            report: crate::cli::eprint_status,
        }
    }
}

/// Options of a written archive.
#[derive(Debug, Args)]
pub(crate) struct SealArgs {
    /// Format of the archive (default: by the output's name)
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub(crate) format: Option<Format>,

    /// Compression level
    ///
    /// gzip: 1 to 9 (default 6); zstd: 1 to 19 (default 3); squashfs: 1 to 22 (default 9).
    #[arg(long, value_name = "N")]
    pub(crate) level: Option<u32>,

    /// Number of compression threads, which does not affect the output
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,

    /// Do not write a manifest beside the archive
    #[arg(long)]
    pub(crate) no_manifest: bool,

    /// Print a report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl SealArgs {
    /// Rejects `--json` for an archive on standard output.
    pub(crate) fn check_stdout(&self) -> Result<(), CommandError> {
        match self.json {
            true => Err(CommandError::message(
                "--json and the archive cannot both go to standard output: give a file",
            )),
            false => Ok(()),
        }
    }

    /// Returns the format of `output`: from the command line, from an image file (`configured`), or
    /// from the name.
    ///
    /// # Errors
    /// If the format is unknown or does not support the requested level.
    pub(crate) fn format_for(
        &self,
        output: &Path,
        configured: Option<Format>,
    ) -> Result<Format, CommandError> {
        use std::os::unix::ffi::OsStrExt;
        let format = self
            .format
            .or(configured)
            .or_else(|| Format::from_file_name(output.file_name()?.as_bytes()))
            .or((output == Path::new("-")).then_some(Format::CpioGz))
            .ok_or_else(|| {
                let names: Vec<_> = Format::ALL.iter().map(|f| format!(".{f}")).collect();
                CommandError::message(format!(
                    "{}: unknown format: use a name that ends in one of {}, or give --format",
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

    pub(crate) fn options(&self, format: Format, epoch: Option<u64>) -> SealOptions {
        let defaults = SealOptions::new(format);
        SealOptions {
            level: self.level,
            threads: self.threads.map_or(defaults.threads, usize::from),
            source_date_epoch: epoch,
            ..defaults
        }
    }
}

/// Adds the environment variables that contain paths of the root's lent files.
pub(crate) fn add_environment(environment: &mut Vec<(OsString, OsString)>, root: &ServedRoot) {
    environment.extend(root.environment().into_iter().map(|(n, v)| (n.into(), v.into())));
}

/// Returns `SOURCE_DATE_EPOCH` from the environment, or else the value of an image file.
pub(crate) fn source_date_epoch(configured: Option<i64>) -> Result<Option<u64>, CommandError> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(epoch) => Ok(Some(epoch)),
            Err(_) => Err(CommandError::message(format!(
                "invalid SOURCE_DATE_EPOCH `{text}`: it must be seconds since 1970, as printed by \
                 `git log -1 --format=%ct`"
            ))),
        },
        Ok(_) | Err(std::env::VarError::NotPresent) => {
            Ok(configured.and_then(|epoch| u64::try_from(epoch).ok()))
        }
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(CommandError::message("invalid SOURCE_DATE_EPOCH: it must be seconds since 1970"))
        }
    }
}

/// The archives that a tree is sealed into, one for each format.
#[derive(Debug)]
pub(crate) struct Outputs(Vec<SealTarget>);

#[derive(Debug)]
struct SealTarget {
    path: PathBuf,
    format: Format,
    archive: Output,
    manifest: Option<Output>,
}

impl Outputs {
    /// Opens the outputs, so that errors are reported before any work.
    pub(crate) fn open(
        files: impl IntoIterator<Item = (PathBuf, Format)>,
        args: &SealArgs,
    ) -> Result<Outputs, CommandError> {
        let open = |(path, format): (PathBuf, Format)| {
            if path == Path::new("-") {
                args.check_stdout()?;
                return Ok(SealTarget { path, format, archive: Output::stdout()?, manifest: None });
            }
            let archive = Output::file(&path)?;
            let manifest = match args.no_manifest {
                true => None,
                false => Some(Output::file(&manifest_path(&path))?),
            };
            Ok(SealTarget { path, format, archive, manifest })
        };
        files.into_iter().map(open).collect::<Result<_, CommandError>>().map(Outputs)
    }

    /// Returns the extended attributes that all formats support.
    pub(crate) fn xattrs(&self) -> XattrSupport {
        let each = || self.0.iter().map(|target| target.format.xattrs());
        [XattrSupport::None, XattrSupport::WithoutAcls]
            .into_iter()
            .find(|least| each().any(|support| support == *least))
            .or(each().next())
            .unwrap_or(XattrSupport::None)
    }

    /// Seals the tree of a finished root and reports the archives written.
    pub(crate) fn seal(
        self,
        finished: FinishedRoot,
        args: &SealArgs,
        epoch: Option<u64>,
    ) -> Result<(), CommandError> {
        crate::cli::eprint_warnings(&finished.clean_copies()?);
        let FinishedRoot { tree, layers, .. } = finished;
        let delta = tree.delta()?.with_root(tree.attr(Ino::ROOT)?);
        warn_about_copied_owners(&delta);
        let wanted = self.0.iter().any(|target| target.manifest.is_some());
        let lower =
            if wanted { lower_records(&delta, tree.layers())? } else { LowerRecords::new() };
        let info = ManifestInfo { layers, lower };
        for SealTarget { path, format, archive, manifest } in self.0 {
            let options = args.options(format, epoch);
            let manifest = manifest.map(|output| (output, info.clone()));
            let mut progress = SealProgress::default();
            let mut update = |p| progress.update(p);
            let summary = seal(&delta, &*tree, &options, archive, manifest, &mut update)?;
            drop(progress);
            warn(&summary.warnings);
            report(&report_json(&path, &summary), args.json)?;
        }
        Ok(())
    }
}

/// Prints the warnings about an archive: all of them with `-v`, else the first ones in short form.
pub(crate) fn warn(warnings: &[Warning]) {
    const MAX_SHOWN: usize = 10;
    if LevelFilter::current() >= LevelFilter::INFO {
        warnings.iter().for_each(|warning| eprint_status(&format!("warning: {warning}")));
        return;
    }
    for warning in warnings.iter().take(MAX_SHOWN) {
        eprint_status(&format!("warning: {}", warning.brief()));
    }
    if warnings.len() > MAX_SHOWN {
        eprint_status(&format!("…and {} more warnings; -v shows all", warnings.len() - MAX_SHOWN));
    }
}

/// Warns about new files of the user 65534, or of root and the group 65534, in a build without root privileges. Host files are shown
/// with this owner, so copies that preserve the owner get it.
fn warn_about_copied_owners(delta: &Delta) {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let is_copy = |entry: &&DeltaEntry| {
        let object = entry.object.filter(|_| entry.change == Change::Added);
        object.is_some_and(|Object { attr, .. }| {
            attr.uid == OVERFLOW_ID || attr.uid == 0 && attr.gid == OVERFLOW_ID
        })
    };
    let mut copies = delta.entries.iter().filter(is_copy);
    let Some(first) = copies.next() else { return };
    let others = match copies.count() {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    eprint_status(&format!(
        "warning: /{}{others}: owned by 65534 (nobody): without root privileges, host files \
         (--bind, /proc, /sys) have this owner in the root, and so have copies that preserve the \
         owner; if that is wrong, copy without the owner (cp without -a) or set it",
        escape(&first.path)
    ));
}

/// Warns about owners that were shown in the root as aliases.
pub(crate) fn warn_about_owners(owners: Option<ForeignOwners>) {
    let Some(owners) = owners else { return };
    let pair = |select: fn((u32, u32)) -> u32| match (owners.user, owners.group) {
        (Some(user), Some(group)) => format!("{}:{}", select(user), select(group)),
        (Some(user), None) => select(user).to_string(),
        (None, Some(group)) => format!(":{}", select(group)),
        (None, None) => String::new(),
    };
    let (actual, alias) = (pair(|(actual, _)| actual), pair(|(_, alias)| alias));
    let first = owners.path.as_deref();
    let first = first.map_or(String::new(), |path| format!(" (first at /{})", escape(path)));
    let max = owners.max;
    let widen = match widening_command(max, owners.highest) {
        Some(command) => format!("to map them, as root: {command}"),
        None => "no free range of subordinate ids is large enough to map them".to_owned(),
    };
    eprint_status(&format!(
        "warning: owners such as {actual}{first} are above your range of subordinate ids, which \
         ends at {max}, so programs in the root saw aliases such as {alias}; the artifact has the \
         actual owners, but ids that programs wrote into files, such as tar archives, are the \
         aliases; {widen}"
    ));
    if owners.overflowed {
        eprint_status(
            "warning: there were more such owners than aliases: the rest were shown as 65534, and \
             changing an owner to 65534 failed with EOVERFLOW",
        );
    }
}

/// Rejects an output file that is also a layer.
pub(crate) fn reject_layers<'a>(
    files: impl Iterator<Item = &'a PathBuf>,
    layers: &[PathBuf],
) -> Result<(), CommandError> {
    let same = |a: &Path, b: &Path| match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    for file in files {
        if layers.iter().any(|layer| same(&ImageLocation::of(layer).file, file)) {
            return Err(CommandError::message(format!(
                "{}: cannot overwrite a layer of the image itself: give another file",
                file.display()
            )));
        }
    }
    Ok(())
}

/// Returns the JSON report about an archive.
pub(crate) fn report_json(path: &Path, summary: &Summary) -> serde_json::Value {
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

/// Returns the JSON report about a file copied out of a root.
pub(crate) fn report_file(path: &Path, content: &[u8]) -> serde_json::Value {
    serde_json::json!({
        "schema": 1,
        "output": path.to_string_lossy(),
        "size": content.len(),
        "sha256": hex(&Sha256::digest(content)),
    })
}

/// Prints a report, as JSON or as a status line.
pub(crate) fn report(report: &serde_json::Value, json: bool) -> Result<(), CommandError> {
    if json {
        return print(&report.to_string());
    }
    let text = |key: &str| report[key].as_str().unwrap_or_default();
    let number = |key: &str| report[key].as_u64().unwrap_or_default();
    let name = match text("output") {
        "-" => "standard output",
        name => name,
    };
    eprint_status(&format!(
        "{name}: {}{}, sha256 {}",
        size_text(number("size")),
        report["entries"].as_u64().map_or(String::new(), |n| format!(" in {n} entries")),
        text("sha256").get(..16).unwrap_or_default()
    ));
    Ok(())
}

/// Formats a number of bytes for people.
pub(crate) fn size_text(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Parses a size such as `2G`.
pub(crate) fn size_value(text: &str) -> Result<u64, String> {
    // Smaller sizes are rejected as a forgotten unit: they cannot hold a single file.
    const MIN_SIZE: u64 = 64 << 10;
    match parse_size(text) {
        None => Err("use a size such as 512M or 2G".to_owned()),
        Some(size @ ..MIN_SIZE) => Err(format!(
            "{size} bytes are too few: use a unit, such as {}M or 2G",
            if size > 0 { size } else { 512 }
        )),
        Some(size) => Ok(size),
    }
}

fn format(text: &str) -> Result<Format, String> {
    Format::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| {
        let names: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
        format!("use one of {}", names.join(", "))
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
        _ => Err("use HOST:PATH or HOST:PATH:ro, with an absolute PATH".to_owned()),
    }
}
