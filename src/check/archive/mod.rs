//! Lints (`archive/…`) of the archive: which unpackers read it, and with which result.
//!
//! They read the bytes of the image, because the layer reader rejects or corrects faulty archives.

mod entry_relations;
mod lints;
mod parse;
mod stream;

use fs_model::FileType;
use fs_model::layer::tar::is_tar;

use super::context::{CheckContext, UNREADABLE};
use super::{Finding, Findings, Lint, Pass, PassError, Severity};
use crate::text::digest::sha256_hex;
use crate::text::escape::escape;

use entry_relations::{ArchiveFault, EntryRelations};
use lints::*;
use parse::{NewcEvent, NewcParser};
use stream::{Compression, Sink, StreamError};

/// The first file size that a newc header cannot express.
const NEWC_SIZE_LIMIT: u64 = 1 << 32;

/// Message for input that does not begin with a newc header.
const NOT_NEWC: &str = "it does not begin with a newc header (a tar archive does not either)";

/// Flags and names of the gzip header fields that the kernel does not skip (RFC 1952, 2.3.1).
const GZIP_FIELDS: [(u8, &str); 3] = [(2, "FHCRC"), (4, "FEXTRA"), (16, "FCOMMENT")];

pub(super) static PASSES: &[Pass] = &[
    Pass {
        lints: &[
            &UNREADABLE,
            &NO_TRAILER,
            &JUNK,
            &SEVERAL_MEMBERS,
            &SEVERAL_ARCHIVES,
            &GZIP_HEADER,
            &MISSING_PARENT,
            &ORDER,
            &DUPLICATE_NAME,
            &ABSOLUTE_NAME,
            &DOTDOT_NAME,
            &DROPPED,
            &CHECKSUM,
            &SHARED_INODE,
            &SPLIT_LINK,
            &THROUGH_LINK,
            &WHITEOUT_NAME,
            &NO_ROOT,
        ],
        run: archives,
    },
    Pass { lints: &[&SIZE_LIMIT], run: sizes },
    Pass { lints: &[&MANIFEST], run: manifests },
];

/// Reads the checked archives completely.
fn archives(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for (_, image) in context.checked() {
        let Some(bytes) = &image.bytes else {
            if let Some(error) = &image.open_error {
                findings.push(Finding::new(&UNREADABLE, &image.name, None, error.kind.to_string()));
            }
            continue;
        };
        let bytes = (**bytes).as_ref();
        // The other lints are about newc archives.
        if bytes.starts_with(b"hsqs") || is_tar(bytes) {
            if let Some(error) = &image.open_error {
                findings.push(Finding::new(&UNREADABLE, &image.name, None, error.kind.to_string()));
            }
            continue;
        }
        let mut faults = scan(bytes);
        // An image that the layer reader rejects always has an error.
        let has_error = faults.iter().any(|fault| fault.severity == Severity::Error);
        if let Some(error) = &image.open_error
            && !has_error
        {
            let (path, message) = (None, error.kind.to_string());
            faults.push(ArchiveFault {
                lint: &UNREADABLE,
                severity: Severity::Error,
                path,
                message,
            });
        }
        for ArchiveFault { lint, severity, path, message } in faults {
            let finding = Finding::new(lint, &image.name, path.as_deref(), message);
            findings.push(finding.severity(severity));
        }
    }
    Ok(())
}

/// Returns the faults of an archive.
fn scan(image: &[u8]) -> Vec<ArchiveFault> {
    let mut scan = ArchiveScan {
        parser: NewcParser::new(),
        relations: EntryRelations::new(),
        member: false,
        zstd: false,
    };
    let result = stream::read(image, &mut scan);
    scan.finish(result)
}

struct ArchiveScan {
    parser: NewcParser,
    relations: EntryRelations,
    /// Whether a compressed member has been read.
    member: bool,
    /// Whether the last member was a zstd frame.
    zstd: bool,
}

impl ArchiveScan {
    fn on_event(relations: &mut EntryRelations, event: NewcEvent) {
        match event {
            NewcEvent::Entry(entry) => relations.entry(entry),
            NewcEvent::Trailer => relations.end_of_archive(),
            NewcEvent::Junk if relations.last.is_none() && relations.archives() == 0 => {
                relations.fault(&UNREADABLE, None, NOT_NEWC);
            }
            NewcEvent::Junk => relations.fault(
                &JUNK,
                None,
                "unknown data after the cpio trailer, inside the compressed stream",
            ),
            NewcEvent::NoHeader(magic) => {
                let what = match &magic {
                    b"070707" => {
                        "it is in the old portable cpio format (odc), which is not supported"
                            .to_owned()
                    }
                    _ => match &relations.last {
                        Some(last) => format!(
                            "no header after /{}; this happens after a file of 4 GiB or more",
                            escape(&last.name)
                        ),
                        None => NOT_NEWC.to_owned(),
                    },
                };
                relations.fault(&UNREADABLE, None, what);
            }
        }
    }

    /// Reports an archive that has not ended when the next part of the image begins.
    fn begin_part(&mut self, next: &str) {
        if self.parser.within() {
            let part = if self.zstd { "zstd frame" } else { "gzip member" };
            let message = format!("a {part} ends inside an archive, and {next} follows");
            self.relations.fault(&SEVERAL_MEMBERS, None, message);
        }
    }

    fn finish(mut self, result: Result<(), StreamError>) -> Vec<ArchiveFault> {
        let within_entry = self.parser.within_entry();
        let (lost, within) = (self.parser.is_lost(), self.parser.within());
        let after = match &self.relations.last {
            Some(last) => format!(", after /{}", escape(&last.name)),
            None => String::new(),
        };
        match result {
            Ok(()) if within_entry => {
                let message = format!("it is truncated inside an entry{after}");
                self.relations.fault(&UNREADABLE, None, message);
            }
            Ok(()) if within => {
                self.relations.fault(
                    &NO_TRAILER,
                    None,
                    format!("it ends without a trailer{after}"),
                );
            }
            Ok(()) if !lost && self.relations.archives() == 0 => {
                self.relations.fault(&UNREADABLE, None, "it contains no archive");
            }
            Ok(()) => {}
            Err(StreamError::Unknown(what)) => {
                self.relations.fault(
                    &UNREADABLE,
                    None,
                    format!("it is {what}, which is not supported"),
                );
            }
            Err(StreamError::Damaged(what, why)) => {
                let message = format!("the {what} stream is damaged or truncated{after}: {why}");
                self.relations.fault(&UNREADABLE, None, message);
            }
            Err(StreamError::Junk(at)) => {
                let message = format!("unknown data from byte {at} on{after}");
                self.relations.fault(&JUNK, None, message);
            }
            Err(StreamError::TooMuch) if lost => {}
            Err(StreamError::TooMuch) => {
                self.relations.fault(&UNREADABLE, None, "it unpacks to more than 16 GiB");
            }
        }
        if self.relations.archives() > 1 {
            let message = format!("it contains {} archives", self.relations.archives());
            self.relations.fault(&SEVERAL_ARCHIVES, None, message);
        }
        self.relations.finish()
    }
}

impl Sink for ArchiveScan {
    fn member(&mut self, compression: Compression) {
        if self.member {
            self.begin_part("another one");
        }
        self.member = true;
        self.zstd = compression == Compression::Zstd;
        if let Compression::Gzip { flags } = compression
            && GZIP_FIELDS.iter().any(|(flag, _)| flags & flag != 0)
        {
            let fields =
                GZIP_FIELDS.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name);
            let message =
                format!("its gzip header has {}", fields.collect::<Vec<_>>().join(" and "));
            self.relations.fault(&GZIP_HEADER, None, message);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        let ArchiveScan { parser, relations, .. } = self;
        parser.feed(bytes, false, &mut |event| ArchiveScan::on_event(relations, event));
        !parser.is_lost()
    }

    fn end_of_member(&mut self) {}

    fn plain(&mut self, bytes: &[u8]) -> usize {
        if self.member {
            self.begin_part("an uncompressed part");
        }
        let ArchiveScan { parser, relations, .. } = self;
        let consumed =
            parser.feed(bytes, true, &mut |event| ArchiveScan::on_event(relations, event));
        if consumed == 0 && parser.within() && !parser.within_entry() {
            relations.fault(&NO_TRAILER, None, "other data follows without a trailer before it");
            relations.end_of_archive();
            parser.reset();
        }
        consumed
    }

    fn within(&self) -> bool {
        self.parser.within()
    }
}

/// Finds files that are too large for an archive in overlays that are directories.
fn sizes(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for (layer, image) in context.checked().filter(|(_, image)| image.bytes.is_none()) {
        for own in context.own_entries(layer)? {
            if let Some(attr) = own.attr.filter(|attr| attr.kind == FileType::Regular)
                && attr.size >= NEWC_SIZE_LIMIT
            {
                let message =
                    format!("the file has {} bytes; newc supports less than 4 GiB", attr.size);
                findings.add(&SIZE_LIMIT, &image.name, &own.path, message);
            }
        }
    }
    Ok(())
}

/// Checks that the manifest next to an archive belongs to it.
fn manifests(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for (_, image) in context.checked() {
        let (Some(bytes), Some(manifest)) = (&image.bytes, &image.manifest) else { continue };
        if let Some(message) = manifest_mismatch((**bytes).as_ref(), manifest) {
            findings.push(Finding::new(&MANIFEST, &image.name, None, message));
        }
    }
    Ok(())
}

fn manifest_mismatch(bytes: &[u8], manifest: &[u8]) -> Option<String> {
    let manifest: serde_json::Value = match serde_json::from_slice(manifest) {
        Ok(manifest) => manifest,
        Err(error) => return Some(format!("cannot parse its manifest: {error}")),
    };
    let archive = &manifest["archive"];
    if archive["size"].as_u64() == Some(bytes.len() as u64)
        && archive["sha256"].as_str() == Some(&sha256_hex(bytes))
    {
        return None;
    }
    Some("its manifest has the size or digest of another archive".to_owned())
}

#[cfg(test)]
mod tests;
