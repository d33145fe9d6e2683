//! Archives that no current writer makes, each compared with GNU tar.

mod attributes;
mod headers;
mod members;
mod sparse;

use std::fs;

use crate::raw::Archive;
use crate::snapshot::{
    Snapshot, as_layer, assert_same_layer, by_gnu_tar, by_overcoat, differences,
};
use crate::{is_root, memory_dir};

/// The expected outcome.
enum Wanted {
    /// The files that GNU tar extracts, and no notes.
    Same,
    /// The files that GNU tar extracts, and a note with this text.
    Noted(&'static str),
    /// An error with this text; GNU tar fails too.
    Refused(&'static str),
    /// An error with this text; GNU tar succeeds, because it ignores damage or makes an object that
    /// a base cannot have.
    Stricter(&'static str),
    /// Other files than GNU tar extracts, for the reason given.
    #[expect(dead_code, reason = "for the reader")]
    Other(&'static str),
}

use Wanted::{Noted, Other, Refused, Same, Stricter};

/// Compares each archive with GNU tar, where that can be run, and gives what overcoat made of them.
fn check(cases: Vec<(&str, Vec<u8>, Wanted)>) -> Vec<Option<Snapshot>> {
    let dir = memory_dir();
    let has_reference = is_root();
    let mut snapshots = Vec::new();
    for (index, (name, archive, wanted)) in cases.into_iter().enumerate() {
        let path = dir.path().join("archive");
        fs::write(&path, &archive).unwrap();
        let expected =
            has_reference.then(|| by_gnu_tar(&path, &dir.path().join(index.to_string())));
        let found = by_overcoat(&archive);
        let notes = found.as_ref().map_or(Vec::new(), |(_, notes)| notes.clone());
        match wanted {
            Same | Noted(_) => {
                let (found, _) = found.as_ref().unwrap_or_else(|error| panic!("{name}: {error}"));
                if let Some(expected) = &expected {
                    let expected =
                        expected.as_ref().unwrap_or_else(|e| panic!("{name}: GNU tar: {e}"));
                    let differences = differences(expected, found);
                    assert!(differences.is_empty(), "{name}: {differences}");
                }
            }
            Refused(part) | Stricter(part) => {
                let error = found.as_ref().err().unwrap_or_else(|| panic!("{name} was taken"));
                assert!(error.contains(part), "{name}: {error}");
                let is_stricter = matches!(wanted, Stricter(_));
                if let Some(expected) = expected {
                    assert_eq!(expected.is_ok(), is_stricter, "{name}: GNU tar: {expected:?}");
                }
            }
            Other(_) => {
                let (found, _) = found.as_ref().unwrap_or_else(|error| panic!("{name}: {error}"));
                if let Some(Ok(expected)) = &expected {
                    assert!(!differences(expected, found).is_empty(), "{name}: it is the same");
                }
            }
        }
        match (&wanted, &found) {
            (Same, Ok((found, _))) => assert_same_layer(name, &archive, found),
            (Refused(_), _) => assert!(as_layer(&archive).is_err(), "{name}: a layer"),
            _ => {}
        }
        match wanted {
            Noted(part) => {
                assert!(notes.iter().any(|note| note.contains(part)), "{name}: {notes:?}")
            }
            Same => assert!(notes.is_empty(), "{name}: {notes:?}"),
            _ => {}
        }
        snapshots.push(found.ok().map(|(snapshot, _)| snapshot));
    }
    snapshots
}

fn new() -> Archive {
    Archive::new()
}
