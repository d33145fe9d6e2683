//! Lints of the archive itself: what of it will be unpacked, by whom, and as what.
//!
//! They look at the image's own bytes, for the reader of layers refuses or sets right what is wrong
//! with them.

mod ledger;
mod lints;
mod parse;
mod stream;

use fs_model::FileType;

use super::context::{CheckContext, Image};
use super::{Finding, Findings, Lint, Pass, Severity, PassError};
use crate::seal::manifest::hex;
use crate::seal::path::escape;

use ledger::{Fault, Ledger};
pub(super) use lints::UNREADABLE;
use lints::*;
use parse::{Met, Parser};
use stream::{Compression, Sink, Trouble};

/// What a newc header can say of a size.
const NEWC_LIMIT: u64 = 1 << 32;

/// What is said of something else.
const NO_ARCHIVE: &str = "what it begins with is no header of a newc archive (a tar is none)";

/// The fields of a gzip header that the kernel does not pass over (RFC 1952, 2.3.1).
const FIELDS: [(u8, &str); 3] = [(2, "FHCRC"), (4, "FEXTRA"), (16, "FCOMMENT")];

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

/// Reads the judged archives from their first byte to their last.
fn archives(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for (_, image) in context.checked() {
        let Some(bytes) = &image.bytes else {
            if let Some(error) = &image.refused {
                findings.push(Finding::new(&UNREADABLE, &image.name, None, error.kind.to_string()));
            }
            continue;
        };
        let bytes = (**bytes).as_ref();
        if bytes.starts_with(b"hsqs") {
            if let Some(error) = &image.refused {
                findings.push(Finding::new(&UNREADABLE, &image.name, None, error.kind.to_string()));
            }
            continue;
        }
        let mut faults = scan(bytes);
        // Whatever the reader does not take is told, if not by what was found above.
        let told = faults.iter().any(|fault| fault.severity == Severity::Error);
        if let Some(error) = &image.refused
            && !told
        {
            let (path, message) = (None, error.kind.to_string());
            faults.push(Fault { lint: &UNREADABLE, severity: Severity::Error, path, message });
        }
        for Fault { lint, severity, path, message } in faults {
            let finding = Finding::new(lint, &image.name, path.as_deref(), message);
            findings.push(finding.severity(severity));
        }
    }
    Ok(())
}

/// What is wrong with an archive.
fn scan(image: &[u8]) -> Vec<Fault> {
    let mut scan =
        Scan { parser: Parser::new(), ledger: Ledger::new(), member: false, zstd: false };
    let result = stream::read(image, &mut scan);
    scan.finish(result)
}

struct Scan {
    parser: Parser,
    ledger: Ledger,
    /// Whether a compressed member has been read.
    member: bool,
    zstd: bool,
}

impl Scan {
    fn met(ledger: &mut Ledger, met: Met) {
        match met {
            Met::Entry(entry) => ledger.entry(entry),
            Met::Trailer => ledger.end_of_archive(),
            Met::Junk if ledger.last.is_none() && ledger.archives() == 0 => {
                ledger.fault(&UNREADABLE, None, NO_ARCHIVE);
            }
            Met::Junk => ledger.fault(
                &JUNK,
                None,
                "within the compressed data, after an archive's end, stands something that is none",
            ),
            Met::NoHeader(magic) => {
                let what = match &magic {
                    b"070707" => "it is of the old portable cpio format (odc)".to_owned(),
                    _ => match &ledger.last {
                        Some(last) => format!(
                            "there is no header after /{}: was that a file of 4 GiB or more?",
                            escape(&last.name)
                        ),
                        None => NO_ARCHIVE.to_owned(),
                    },
                };
                ledger.fault(&UNREADABLE, None, what);
            }
        }
    }

    /// What there is to say at the end of a member in which an archive has not ended.
    fn next_begins(&mut self, what: &str) {
        if self.parser.within() {
            let of = if self.zstd { "zstd frame" } else { "gzip member" };
            let message = format!("its {of} ends in the middle of an archive, and {what} follows");
            self.ledger.fault(&SEVERAL_MEMBERS, None, message);
        }
    }

    fn finish(mut self, result: Result<(), Trouble>) -> Vec<Fault> {
        let within_entry = self.parser.within_entry();
        let (lost, within) = (self.parser.is_lost(), self.parser.within());
        let after = match &self.ledger.last {
            Some(last) => format!(", after /{}", escape(&last.name)),
            None => String::new(),
        };
        match result {
            Ok(()) if within_entry => {
                let message = format!("it is cut off in the middle of an entry{after}");
                self.ledger.fault(&UNREADABLE, None, message);
            }
            Ok(()) if within => {
                self.ledger.fault(&NO_TRAILER, None, format!("it ends without a trailer{after}"));
            }
            Ok(()) if !lost && self.ledger.archives() == 0 => {
                self.ledger.fault(&UNREADABLE, None, "there is no archive in it");
            }
            Ok(()) => {}
            Err(Trouble::Unknown(what)) => {
                self.ledger.fault(
                    &UNREADABLE,
                    None,
                    format!("it is {what}, which is not read here"),
                );
            }
            Err(Trouble::Damaged(what, why)) => {
                let message = format!("the {what} stream is damaged or cut off{after}: {why}");
                self.ledger.fault(&UNREADABLE, None, message);
            }
            Err(Trouble::Junk(at)) => {
                let message = format!("from byte {at} on it is nothing that is known{after}");
                self.ledger.fault(&JUNK, None, message);
            }
            Err(Trouble::TooMuch) if lost => {}
            Err(Trouble::TooMuch) => {
                self.ledger.fault(&UNREADABLE, None, "it holds more than 16 GiB");
            }
        }
        if self.ledger.archives() > 1 {
            let message = format!("{} archives follow each other in it", self.ledger.archives());
            self.ledger.fault(&SEVERAL_ARCHIVES, None, message);
        }
        self.ledger.finish()
    }
}

impl Sink for Scan {
    fn member(&mut self, compression: Compression) {
        if self.member {
            self.next_begins("another one");
        }
        self.member = true;
        self.zstd = compression == Compression::Zstd;
        if let Compression::Gzip { flags } = compression
            && FIELDS.iter().any(|(flag, _)| flags & flag != 0)
        {
            let fields = FIELDS.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name);
            let message =
                format!("its gzip header has {}", fields.collect::<Vec<_>>().join(" and "));
            self.ledger.fault(&GZIP_HEADER, None, message);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        let Scan { parser, ledger, .. } = self;
        parser.feed(bytes, false, &mut |met| Scan::met(ledger, met));
        !parser.is_lost()
    }

    fn end_of_member(&mut self) {}

    fn plain(&mut self, bytes: &[u8]) -> usize {
        if self.member {
            self.next_begins("a part that is not compressed");
        }
        let Scan { parser, ledger, .. } = self;
        let taken = parser.feed(bytes, true, &mut |met| Scan::met(ledger, met));
        if taken == 0 && parser.within() && !parser.within_entry() {
            ledger.fault(&NO_TRAILER, None, "something else follows without a trailer before it");
            ledger.end_of_archive();
            parser.reset();
        }
        taken
    }

    fn within(&self) -> bool {
        self.parser.within()
    }
}

/// Files of overlays that are directories, which are still to be archived.
fn sizes(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for (layer, image) in context.checked().filter(|(_, image)| image.bytes.is_none()) {
        for own in context.own_entries(layer)? {
            if let Some(attr) = own.attr.filter(|attr| attr.kind == FileType::Regular)
                && attr.size >= NEWC_LIMIT
            {
                let message =
                    format!("a file of {} bytes; newc has no room for 4 GiB or more", attr.size);
                findings.add(&SIZE_LIMIT, &image.name, &own.path, message);
            }
        }
    }
    Ok(())
}

/// Whether the manifest beside an archive is that of this archive.
fn manifests(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for (_, image) in context.checked() {
        let (Some(bytes), Some(manifest)) = (&image.bytes, &image.manifest) else { continue };
        if let Some(message) = other_archive(image, (**bytes).as_ref(), manifest) {
            findings.push(Finding::new(&MANIFEST, &image.name, None, message));
        }
    }
    Ok(())
}

fn other_archive(_: &Image, bytes: &[u8], manifest: &[u8]) -> Option<String> {
    use sha2::Digest;
    let manifest: serde_json::Value = match serde_json::from_slice(manifest) {
        Ok(manifest) => manifest,
        Err(error) => return Some(format!("the manifest beside it is none: {error}")),
    };
    let archive = &manifest["archive"];
    if archive["size"].as_u64() == Some(bytes.len() as u64)
        && archive["sha256"].as_str() == Some(&hex(&sha2::Sha256::digest(bytes)))
    {
        return None;
    }
    Some("the manifest beside it is that of another archive".to_owned())
}

#[cfg(test)]
mod tests;
