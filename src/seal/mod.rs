//! Writes a delta to an archive.
//!
//! ```text
//! delta ─► plan (numbered, checked) ─► newc | tar ─► gzip | zstd | nothing ─► SHA-256 ─► output
//!               contents ─► read ahead ─┘ └─► SHA-256 of each file ─► manifest, verify (squashfs)
//! ```
//!
//! Invariants:
//! - The same delta, contents and options give the same bytes, with any number of threads.
//! - Each file is read once: the archived bytes are the digested bytes.
//! - Files that a format cannot hold are errors before anything is written, or warnings.
//! - An output gets its name only when all of it is written, and a squashfs image has been read
//!   back.

mod encode;
mod error;
mod format;
pub(crate) mod gzip;
mod lost_xattrs;
mod manifest;
mod newc;
pub mod output;
mod plan;
pub(crate) mod poll_writer;
mod readahead;
pub(crate) mod report;
pub(crate) mod squashfs;
mod tar;
mod verify;
pub(crate) mod zstd;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use fs_model::attr::FileType;
use fs_model::delta::{Contents, Delta};
use fs_model::layer::Xattr;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use error::PATH_TOO_LONG_ADVICE;
pub use error::SealError;
pub(crate) use format::ArchiveFormat;
pub use output::Output;

pub use crate::manifest::{BaseLayer, Format, ManifestInfo};

use crate::manifest::Counts;
use crate::text::escape::escape;
use crate::text::list;
use encode::{ArchiveWriter, Encoder};
use manifest::{DigestingWriter, WrittenArchive};
use newc::clamp;
use plan::{ArchiveItem, ArchivePlan, PATH_LIMIT, is_marker};
use readahead::{BATCH_BYTES, Feed, FileChunk, ReadAhead};
use verify::SentContent;

/// Options for writing an archive.
#[derive(Clone, Debug)]
pub struct SealOptions {
    /// The format.
    pub format: Format,
    /// The compression level; `None` for the format's default.
    pub level: Option<u32>,
    /// The number of threads, at least one. The bytes do not depend on it.
    pub threads: usize,
    /// `SOURCE_DATE_EPOCH`: later times are clamped to it.
    pub source_date_epoch: Option<u64>,
}

impl SealOptions {
    /// Creates options for `format` with its default level, all processors and unchanged times.
    pub fn new(format: Format) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        SealOptions { format, level: None, threads, source_date_epoch: None }
    }
}

/// Progress of a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Entries written.
    pub entries: usize,
    /// Total entries.
    pub entries_total: usize,
    /// Bytes of file content written.
    pub bytes: u64,
    /// Total bytes of file content.
    pub bytes_total: u64,
}

/// Content that the archive lacks or represents differently. Paths are
/// [escaped](crate::text::escape).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Warning {
    /// The format does not support sockets.
    SocketLeftOut {
        /// The socket.
        path: String,
    },
    /// Extended attributes that the format cannot hold.
    XattrsLost {
        /// The file.
        path: String,
        /// The attributes.
        names: Vec<String>,
    },
    /// The format cannot represent a hard link to a file that is not regular.
    LinkSplit {
        /// The path of the link.
        path: String,
    },
    /// A file whose name means in this format that another one is deleted.
    MeansDeletion {
        /// The file.
        path: String,
    },
}

impl Warning {
    /// Returns one readable line; of a long list, only the first names.
    pub fn brief(&self) -> String {
        const MAX_NAMES: usize = 5;
        match self {
            Warning::XattrsLost { path, names }
                if list::shown(names.len(), MAX_NAMES) < names.len() =>
            {
                let some = list::joined(names.iter().cloned(), MAX_NAMES);
                let keep = lost_xattrs::formats_for(names);
                format!("/{path}: the format cannot hold its attributes {some}: {keep} them")
            }
            warning => warning.to_string(),
        }
    }
}

/// Writes the warning in full.
impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warning::SocketLeftOut { path } => {
                write!(f, "/{path}: left out: tar does not support sockets")
            }
            Warning::XattrsLost { path, names } => {
                let (keep, s, them) = match names.len() {
                    1 => (lost_xattrs::formats_for(names), "", "it"),
                    _ => (lost_xattrs::formats_for(names), "s", "them"),
                };
                let names = names.join(", ");
                write!(f, "/{path}: the format cannot hold its attribute{s} {names}: {keep} {them}")
            }
            Warning::LinkSplit { path } => {
                write!(f, "/{path}: unpacks as a separate file, not as a hard link")
            }
            Warning::MeansDeletion { path } => {
                write!(
                    f,
                    "/{path}: tar unpacks a file, but a program that reads the tar as a layer treats \
                     the name as a deletion; cpio and squashfs distinguish the two"
                )
            }
        }
    }
}

/// The result of a seal.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Entries in the archive.
    pub entries: usize,
    /// Entries by change and by type.
    pub counts: Counts,
    /// Bytes of file content.
    pub content: u64,
    /// Bytes of the archive.
    pub size: u64,
    /// SHA-256 of the archive.
    pub sha256: [u8; 32],
    /// Content that the archive lacks.
    pub warnings: Vec<Warning>,
    /// Whether the reader of standard output closed it early, which is not an error. The size and
    /// the digest are then those of the bytes written, and no manifest was written.
    pub reader_left: bool,
}

/// Writes `delta` as an archive to `archive` and, if requested, its manifest.
///
/// # Errors
/// Returns [`SealError`]. Outputs that are files then do not exist.
pub fn seal<C: Contents>(
    delta: &Delta,
    contents: &C,
    options: &SealOptions,
    mut archive: Output,
    manifest: Option<(Output, ManifestInfo)>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, SealError> {
    let format = options.format;
    let level = format.level(options.level)?;
    let epoch = options.source_date_epoch.map(|epoch| u32::try_from(epoch).unwrap_or(u32::MAX));
    let delta = &*lost_xattrs::with_modes(delta, contents, format)?;
    let plan = ArchivePlan::new(delta, format::limits(format))?;
    let threads = options.threads.max(1);

    let mut sink = DigestingWriter::new(&mut archive);
    let root = plan.items.first().and_then(|item| Some(&item.object()?.attr));
    // The time of a squashfs image: the epoch, else the latest time in it, else 1970. The time of
    // the build would make the bytes differ.
    let times = || plan.items.iter().filter_map(ArchiveItem::object).map(|o| clamp(&o.attr, None));
    let time = epoch.or_else(|| Some(times().max().unwrap_or(0)));
    let new_job = || {
        let mut job = SealJob::new(&plan, contents, format, manifest.is_some());
        job.warnings.extend(lost_xattrs::hidden_warnings(delta));
        job
    };
    let mut write = |job: &mut SealJob<'_, C>, threads: usize| -> Result<(), JobError> {
        let encoder = Encoder::new(&mut sink, format, level.unwrap_or(0), threads, time, root)?;
        let writer = ArchiveWriter::new(encoder, format, epoch, plan.markers);
        let mut encoder = job.run(writer, threads.min(4), progress)?.finish()?;
        if let Some(image) = encoder.complete_image()? {
            let SealJob { digests, targets, .. } = &*job;
            SentContent { plan: &plan, digests, targets }.compare(image, threads)?;
        }
        Ok(encoder.finish()?.flush()?)
    };
    let mut job = new_job();
    let mut result = write(&mut job, threads);
    if let Err(JobError::Other(SealError::Damaged { path, .. })) = &result {
        tracing::warn!("mksquashfs wrote a damaged image, first at /{path}; writing it again");
        job = new_job();
        result = write(&mut job, 1);
    }
    let (size, sha256) = sink.finish();
    let reader_left = match result {
        Ok(()) => false,
        Err(JobError::Output(e))
            if e.kind() == io::ErrorKind::BrokenPipe && archive.may_close_early() =>
        {
            true
        }
        Err(JobError::Output(source)) => return Err(archive.error(source)),
        Err(JobError::Other(error)) => return Err(error),
    };
    let SealJob { warnings, digests, targets, .. } = job;
    let counts = manifest::counts(&plan);
    if !reader_left {
        let mut outputs = vec![archive];
        if let Some((mut out, info)) = manifest {
            let (digests, targets) = (&digests[..], &targets);
            let written = WrittenArchive {
                format,
                level,
                size,
                sha256,
                epoch,
                plan: &plan,
                digests,
                targets,
            };
            let result = written.write(&info, BufWriter::new(&mut out));
            result.map_err(|source| out.error(source))?;
            outputs.push(out);
        }
        output::commit(outputs)?;
    }
    Ok(Summary {
        entries: plan.items.len(),
        counts,
        content: plan.content,
        size,
        sha256,
        warnings,
        reader_left,
    })
}

/// An error that stops a job.
enum JobError {
    Output(io::Error),
    Other(SealError),
}

impl From<io::Error> for JobError {
    fn from(error: io::Error) -> Self {
        JobError::Output(error)
    }
}

impl From<SealError> for JobError {
    fn from(error: SealError) -> Self {
        JobError::Other(error)
    }
}

/// The state of writing an archive.
struct SealJob<'p, C> {
    plan: &'p ArchivePlan<'p>,
    contents: &'p C,
    format: Format,
    /// Whether to digest each file, for the manifest or to verify the archive.
    digest: bool,
    digests: Vec<Option<[u8; 32]>>,
    targets: BTreeMap<usize, Vec<u8>>,
    warnings: Vec<Warning>,
}

impl<'p, C: Contents> SealJob<'p, C> {
    fn new(plan: &'p ArchivePlan<'p>, contents: &'p C, format: Format, manifest: bool) -> Self {
        let split = plan.split_links.iter();
        let warnings = split
            .map(|&index| Warning::LinkSplit { path: path_text(&plan.items[index]) })
            .collect();
        let digests = vec![None; plan.items.len()];
        let digest = manifest || format == Format::Squashfs;
        SealJob { plan, contents, format, digest, digests, targets: BTreeMap::new(), warnings }
    }

    /// Writes all items to `archive`, without the end of the archive.
    fn run<W: Write>(
        &mut self,
        mut archive: ArchiveWriter<W>,
        readers: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ArchiveWriter<W>, JobError> {
        let ahead = ReadAhead::new(self.plan, self.contents, readers);
        std::thread::scope(|scope| {
            let mut feed = ahead.feed();
            let threads: Vec<_> = (0..readers).map(|_| scope.spawn(|| ahead.read())).collect();
            let result = self.write_items(&mut archive, &mut feed, progress);
            drop(feed);
            for thread in threads {
                // The feed has already reported a panic.
                let _ = thread.join();
            }
            result
        })?;
        Ok(archive)
    }

    fn write_items<W: Write>(
        &mut self,
        archive: &mut ArchiveWriter<W>,
        feed: &mut Feed<'_, '_, C>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), JobError> {
        let (entries_total, bytes_total) = (self.plan.items.len(), self.plan.content);
        let mut bytes = 0;
        for (index, item) in self.plan.items.iter().enumerate() {
            let mut report =
                |bytes| progress(Progress { entries: index, entries_total, bytes, bytes_total });
            report(bytes);
            if !self.write_header(index, item, archive)? {
                continue;
            }
            bytes = self.write_content(index, item, archive, feed, bytes, &mut report)?;
        }
        progress(Progress { entries: entries_total, entries_total, bytes, bytes_total });
        Ok(())
    }

    /// Writes the header of an item. Returns whether the item is in the archive.
    fn write_header<W: Write>(
        &mut self,
        index: usize,
        item: &ArchiveItem<'_>,
        archive: &mut ArchiveWriter<W>,
    ) -> Result<bool, JobError> {
        let Some(object) = item.object() else {
            archive.entry(item, b"", None, &[])?;
            return Ok(true);
        };
        let failed = |source| SealError::Read { path: path_text(item), source };
        let tar = format::is_tar(self.format);
        if tar && object.attr.kind == FileType::Socket {
            self.warnings.push(Warning::SocketLeftOut { path: path_text(item) });
            return Ok(false);
        }
        // squashfs images and our cpio archives use devices for deletions; the latter are marked.
        if self.format == Format::Tar && is_marker(item.path()) {
            self.warnings.push(Warning::MeansDeletion { path: path_text(item) });
        }
        let mut xattrs: Vec<Xattr> = Vec::new();
        let mut target = Vec::new();
        if item.first.is_none() {
            xattrs = self.contents.xattrs(object.ino).map_err(failed)?;
            if object.attr.kind == FileType::Symlink {
                target = self.contents.read_link(object.ino).map_err(failed)?;
                check_target(item, &target, object.attr.size)?;
            }
        }
        let carried = self.format.xattrs();
        let lost: Vec<Xattr> = xattrs.extract_if(.., |(name, _)| !carried.has(name)).collect();
        if !lost.is_empty() {
            let names = lost.iter().map(|(name, _)| escape(name).into_owned()).collect();
            self.warnings.push(Warning::XattrsLost { path: path_text(item), names });
        }
        let first = item.first.map(|first| self.plan.items[first].path());
        archive.entry(item, &target, first, &xattrs)?;
        if !target.is_empty() && self.digest {
            self.targets.insert(index, target);
        }
        Ok(true)
    }

    /// Writes an item's content and returns the updated total of bytes.
    fn write_content<W: Write>(
        &mut self,
        index: usize,
        item: &ArchiveItem<'_>,
        archive: &mut ArchiveWriter<W>,
        feed: &mut Feed<'_, '_, C>,
        mut bytes: u64,
        report: &mut dyn FnMut(u64),
    ) -> Result<u64, JobError> {
        static ZEROS: [u8; BATCH_BYTES] = [0; BATCH_BYTES];
        let regular = item.object().is_some_and(|object| object.attr.kind == FileType::Regular);
        if !regular || item.first.is_some() {
            return Ok(bytes);
        }
        let mut left = item.content();
        let mut digest = Sha256::new();
        while left > 0 {
            let data = match feed.next(index)? {
                Some(FileChunk::Data(data)) => data,
                Some(FileChunk::Zeros(length)) => &ZEROS[..length],
                None => {
                    let expected = item.content();
                    let short =
                        SealError::Short { path: path_text(item), expected, got: expected - left };
                    return Err(short.into());
                }
            };
            if self.digest {
                digest.update(data);
            }
            archive.data(data)?;
            left -= data.len() as u64;
            bytes += data.len() as u64;
            report(bytes);
        }
        if self.digest {
            self.digests[index] = Some(digest.finalize().into());
        }
        Ok(bytes)
    }
}

fn check_target(item: &ArchiveItem<'_>, target: &[u8], size: u64) -> Result<(), SealError> {
    if target.is_empty() || target.len() > PATH_LIMIT {
        let length = target.len() as u64;
        return Err(SealError::BadTarget { path: path_text(item), length, limit: PATH_LIMIT });
    }
    if target.len() as u64 != size {
        let got = target.len() as u64;
        return Err(SealError::Short { path: path_text(item), expected: size, got });
    }
    Ok(())
}

fn path_text(item: &ArchiveItem<'_>) -> String {
    escape(item.path()).into_owned()
}
