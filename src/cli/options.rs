//! Options that several subcommands share, and what they mean.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fs_model::delta::Delta;
use fs_model::{Ino, Tree};
use provisioners::image::parse_size;

use super::progress::SealProgress;
use super::{Failure, print, say};
use crate::root::{Finished, RootOptions, default_upper_limit};
use crate::sandbox::{Bind, Network};
use crate::seal::{BaseLayer, Format, ManifestInfo, Output, SealOptions, Summary, seal};

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
        format: Format,
        network: Network,
        upper_size: Option<u64>,
        digests: bool,
    ) -> RootOptions {
        RootOptions {
            layers,
            upper_limit: self.upper_size.or(upper_size).unwrap_or_else(default_upper_limit),
            xattrs: format.xattrs(),
            network: match self.network {
                Some(NetworkArg::Host) => Network::Host,
                Some(NetworkArg::None) => Network::None,
                None => network,
            },
            binds: self.bind.clone(),
            digests,
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
            crate::seal::squashfs::available().map_err(Failure::message)?;
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

/// Where a sealed archive goes.
#[derive(Debug)]
pub(super) struct Outputs {
    archive: Output,
    manifest: Option<Output>,
}

impl Outputs {
    /// Opens the outputs, so that what cannot be written is known before any work is done.
    pub(super) fn open(path: &Path, args: &SealArgs) -> Result<Outputs, Failure> {
        if path == Path::new("-") {
            args.check_stdout()?;
            return Ok(Outputs { archive: Output::stdout()?, manifest: None });
        }
        let archive = Output::file(path)?;
        let manifest = match args.no_manifest {
            true => None,
            false => Some(Output::file(&manifest_path(path))?),
        };
        Ok(Outputs { archive, manifest })
    }

    /// Seals what changed.
    pub(super) fn seal(
        self,
        tree: &Tree,
        delta: &Delta,
        layers: Vec<BaseLayer>,
        options: &SealOptions,
    ) -> Result<Summary, Failure> {
        let manifest = self.manifest.map(|output| (output, ManifestInfo { layers }));
        let mut progress = SealProgress::default();
        let mut tell = |p| progress.tell(p);
        let summary = seal(delta, tree, options, self.archive, manifest, &mut tell)?;
        for warning in &summary.warnings {
            say(&format!("warning: {warning}"));
        }
        Ok(summary)
    }
}

/// Seals the tree of a root that has ended.
pub(super) fn seal_finished(
    finished: Finished,
    path: &Path,
    outputs: Outputs,
    args: &SealArgs,
    options: &SealOptions,
) -> Result<(), Failure> {
    let Finished { tree, layers } = finished;
    let delta = tree.delta()?.with_root(tree.attr(Ino::ROOT)?);
    let summary = outputs.seal(&tree, &delta, layers, options)?;
    report(&report_json(path, &summary), args.json)
}

/// What was written, for programs.
pub(super) fn report_json(path: &Path, summary: &Summary) -> serde_json::Value {
    serde_json::json!({
        "schema": 1,
        "output": path.to_string_lossy(),
        "size": summary.size,
        "sha256": crate::seal::manifest::hex(&summary.sha256),
        "entries": summary.entries,
        "counts": summary.counts,
        "content": summary.content,
        "warnings": summary.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
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
        "{name}: {} in {} entries, sha256 {}",
        size_text(number("size")),
        number("entries"),
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

/// `NAME.manifest.json` beside the archive `NAME.cpio.gz`.
pub(super) fn manifest_path(archive: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let name = archive.file_name().unwrap_or_default().as_bytes();
    let stem = Format::ALL
        .iter()
        .find_map(|f| name.strip_suffix(format!(".{f}").as_bytes()))
        .unwrap_or(name);
    let name = [stem, b".manifest.json"].concat();
    archive.with_file_name(std::ffi::OsString::from_vec(name))
}

/// A number of bytes on the command line.
pub(super) fn size_value(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "write a size such as 512M or 2G".to_owned())
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
