//! Options that several subcommands share.

use clap::{Args, ValueEnum};
use provisioners::image::parse_size;

use super::Ui;
use crate::build::{RootSettings, SealSettings};
use crate::sandbox::{Bind, Network, PrivilegeChoice};
use crate::seal::Format;

/// Values of `--network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkArg {
    /// The host's network
    Host,
    /// A loopback interface only
    None,
}

/// The option `--privilege`.
#[derive(Debug, Args)]
pub(crate) struct PrivilegeOption {
    /// Privilege to use (default: auto, the highest that is available)
    ///
    /// root: without a user namespace. subordinate: with the user's subordinate ids. none: with no
    /// other ids. The artifacts have the same bytes.
    #[arg(
        long,
        value_name = "WHICH",
        value_enum,
        env = "OVERCOAT_PRIVILEGE",
        hide_env_values = true,
        default_value = "auto",
        hide_default_value = true
    )]
    privilege: PrivilegeArg,
}

impl PrivilegeOption {
    pub(crate) fn choice(&self) -> PrivilegeChoice {
        self.privilege.into()
    }
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

    #[command(flatten)]
    pub(crate) privilege: PrivilegeOption,
}

/// The values of `--privilege`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum PrivilegeArg {
    Auto,
    Root,
    Subordinate,
    None,
}

impl From<PrivilegeArg> for PrivilegeChoice {
    fn from(value: PrivilegeArg) -> Self {
        match value {
            PrivilegeArg::Auto => PrivilegeChoice::Auto,
            PrivilegeArg::Root => PrivilegeChoice::Root,
            PrivilegeArg::Subordinate => PrivilegeChoice::Subordinate,
            PrivilegeArg::None => PrivilegeChoice::None,
        }
    }
}

impl RootArgs {
    pub(crate) fn settings(&self, ui: &Ui) -> RootSettings {
        RootSettings {
            network: self.network.map(|network| match network {
                NetworkArg::Host => Network::Host,
                NetworkArg::None => Network::None,
            }),
            upper_size: self.upper_size,
            binds: self.bind.clone(),
            privilege: self.privilege.choice(),
            report: ui.report_fn(),
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
    pub(crate) fn settings(&self) -> SealSettings {
        SealSettings {
            format: self.format,
            level: self.level,
            threads: self.threads,
            manifest: !self.no_manifest,
            reports_on_stdout: self.json,
        }
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
    Format::from_name(text).ok_or_else(|| {
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
