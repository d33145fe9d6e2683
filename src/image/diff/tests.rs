//! Tests with host directories as layers.

use std::os::unix::fs::{PermissionsExt, symlink};

use fs_model::layer::{LayerDirEntry, LayerEntry, LayerIno};
use fs_model::{Attr, LayerError, Time};
use tempfile::TempDir;

use super::*;

struct Layers {
    old: TempDir,
    new: TempDir,
}

impl Layers {
    fn new() -> Layers {
        Layers { old: tempfile::tempdir().unwrap(), new: tempfile::tempdir().unwrap() }
    }

    /// Compares the overlay on the base with the base.
    fn overlay(&self, options: DiffOptions) -> Vec<String> {
        let new =
            StackView::open(&[self.old.path().to_owned(), self.new.path().to_owned()]).unwrap();
        diff_lines(&new.lowest(1).unwrap(), &new, options)
    }

    /// Compares the two directories as separate stacks.
    fn apart(&self, options: DiffOptions) -> Vec<String> {
        let (old, new) =
            open(&[self.old.path().to_owned()], &[self.new.path().to_owned()]).unwrap();
        diff_lines(&old, &new, options)
    }
}

fn diff_lines(old: &StackView, new: &StackView, options: DiffOptions) -> Vec<String> {
    let mut lines = Vec::new();
    let diff = Diff::new(old, new, options);
    diff.changes::<LookError>(&mut |change| {
        let path = String::from_utf8_lossy(change.path()).into_owned();
        let removed = match change.removed.entries {
            0 => String::new(),
            entries => format!(" -{entries}:{}", change.removed.bytes),
        };
        let link = change.link.as_ref().map(|link| format!(" ={}", String::from_utf8_lossy(link)));
        let what = change.what;
        lines.push(format!(
            "{} {path} {what}{removed}{}",
            change.kind.word(),
            link.unwrap_or_default()
        ));
        Ok(WalkControl::Into)
    })
    .unwrap();
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

fn write(dir: &TempDir, path: &str, content: &str) {
    let path = dir.path().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[test]
fn overlay_differs_only_by_its_own_changes() {
    let layers = Layers::new();
    for path in ["etc/kept", "etc/same", "etc/more", "etc/mode", "usr/deep/er/file"] {
        write(&layers.old, path, "old");
    }
    write(&layers.new, "etc/same", "old");
    write(&layers.new, "etc/more", "more");
    write(&layers.new, "etc/mode", "old");
    write(&layers.new, "etc/added/file", "new");
    let mode = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(layers.new.path().join("etc/mode"), mode).unwrap();
    let changes = layers.overlay(DiffOptions::default());
    assert_eq!(
        changes,
        [
            "added etc/added",
            "added etc/added/file",
            "changed etc/mode mode",
            "changed etc/more content"
        ]
    );
    let only = |paths: &[&str]| DiffOptions {
        paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
        ..DiffOptions::default()
    };
    assert_eq!(
        layers.overlay(only(&["/etc/added/file", "etc/more"])),
        ["added etc/added/file", "changed etc/more content"]
    );
    assert_eq!(layers.overlay(only(&["etc/added/file", "etc/", "etc/more"])).len(), 4);
    assert!(layers.overlay(only(&["usr", "none/at/all"])).is_empty());
}

#[test]
fn deleted_directory_is_one_change_by_default() {
    let layers = Layers::new();
    write(&layers.old, "usr/deep/file", "12345");
    write(&layers.old, "usr/deep/er/file", "123");
    write(&layers.old, "was/file", "1");
    write(&layers.new, "was", "now a file");
    std::fs::create_dir(layers.new.path().join("usr")).unwrap();
    let all = DiffOptions { within_deleted: true, ..DiffOptions::default() };
    assert_eq!(
        layers.apart(DiffOptions::default()),
        ["deleted usr/deep  -3:8", "changed was type -1:1"]
    );
    assert_eq!(
        layers.apart(all),
        [
            "deleted usr/deep  -3:8",
            "deleted usr/deep/er",
            "deleted usr/deep/er/file",
            "deleted usr/deep/file",
            "changed was type -1:1",
            "deleted was/file"
        ]
    );
}

#[test]
fn changed_hard_links_are_reported() {
    let layers = Layers::new();
    write(&layers.old, "a", "x");
    std::fs::hard_link(layers.old.path().join("a"), layers.old.path().join("b")).unwrap();
    write(&layers.old, "c", "y");
    write(&layers.new, "a", "x");
    write(&layers.new, "b", "x");
    write(&layers.new, "c", "z");
    std::fs::hard_link(layers.new.path().join("c"), layers.new.path().join("d")).unwrap();
    assert_eq!(
        layers.apart(DiffOptions::default()),
        ["changed a links", "changed b links", "changed c content,links", "added d  =c"]
    );
}

#[test]
fn targets_and_contents_of_equal_size_are_compared() {
    let layers = Layers::new();
    symlink("one", layers.old.path().join("link")).unwrap();
    symlink("two", layers.new.path().join("link")).unwrap();
    write(&layers.old, "file", &"a".repeat(700_000));
    write(&layers.new, "file", &("a".repeat(699_999) + "b"));
    assert_eq!(
        layers.apart(DiffOptions::default()),
        ["changed file content", "changed link target"]
    );
}

#[test]
fn identical_stacks_are_equal_without_being_read() {
    let layers = Layers::new();
    write(&layers.old, "unreadable/file", "x");
    let paths = [layers.old.path().to_owned()];
    let (old, new) = open(&paths, &paths).unwrap();
    // Listing the removed directory would fail.
    std::fs::remove_dir_all(layers.old.path().join("unreadable")).unwrap();
    assert!(diff_lines(&old, &new, DiffOptions::default()).is_empty());
}

/// A damaged image: a directory that contains itself, or directories with two names each.
#[derive(Debug)]
enum Knot {
    Endless,
    Doubling,
}

impl Layer for Knot {
    fn name(&self) -> &str {
        "knot"
    }

    fn root(&self) -> LayerIno {
        LayerIno(0)
    }

    fn attr(&self, _: LayerIno) -> Result<Attr, LayerError> {
        Ok(Attr::new(FileType::Directory, 0o755, Time::from_secs(0)))
    }

    fn lookup(&self, dir: LayerIno, name: &[u8]) -> Result<Option<LayerEntry>, LayerError> {
        let listed = self.read_dir(dir)?;
        Ok(listed.into_iter().find(|listed| *listed.name == *name).map(|listed| listed.entry))
    }

    fn read_dir(&self, dir: LayerIno) -> Result<Vec<LayerDirEntry>, LayerError> {
        let (names, below): (&[&[u8]], u64) = match self {
            Knot::Endless => (&[b"again"], 1),
            Knot::Doubling if dir.0 < 60 => (&[b"one", b"two"], dir.0 + 1),
            Knot::Doubling => (&[], 0),
        };
        let entry = LayerEntry::Object { ino: LayerIno(below), kind: FileType::Directory };
        Ok(names.iter().map(|&name| LayerDirEntry { name: name.into(), entry }).collect())
    }

    fn read_at(&self, _: LayerIno, _: u64, _: &mut [u8]) -> Result<usize, LayerError> {
        Ok(0)
    }

    fn read_link(&self, _: LayerIno) -> Result<Vec<u8>, LayerError> {
        Ok(Vec::new())
    }

    fn xattrs(&self, _: LayerIno) -> Result<Vec<fs_model::layer::Xattr>, LayerError> {
        Ok(Vec::new())
    }
}

#[test]
fn directory_with_several_parents_is_an_error_in_every_walk() {
    let layers = Layers::new();
    let empty = StackView::open(&[layers.old.path().to_owned()]).unwrap();
    for (knot, entries) in [(Knot::Endless, 2), (Knot::Doubling, 120)] {
        let view = StackView::new(vec![Arc::new(knot)]).unwrap();
        let error = Diff::new(&empty, &view, DiffOptions::default())
            .changes::<LookError>(&mut |_| Ok(WalkControl::Into))
            .unwrap_err();
        assert!(error.to_string().contains(": knot: damaged"), "{error}");
        assert!(
            Diff::new(&view, &empty, DiffOptions::default())
                .changes::<LookError>(&mut |_| Ok(WalkControl::Into))
                .is_err()
        );
        let root = view.root().unwrap();
        assert!(crate::image::view::usage::by_directory(&view, &root, 9).is_err());
        assert!(view.walk_layered(&root, |_, _| Ok::<_, LookError>(WalkControl::Into)).is_err());
        assert_eq!(crate::image::view::usage::memory(&view, 0).unwrap().entries, entries);
        let all = crate::image::extract::ExtractSelection::default();
        let out = layers.new.path().join("out");
        assert!(
            crate::image::extract::folder::extract(&view, &all, &out, false, &|| false).is_err()
        );
        assert_eq!(std::fs::read_dir(layers.new.path()).unwrap().count(), 0, "nothing is left");
    }
}

#[test]
fn opaque_directory_is_reported_as_replaced() {
    let layers = Layers::new();
    write(&layers.old, "srv/one", "1");
    write(&layers.old, "srv/two", "2");
    write(&layers.new, "srv/one", "1");
    let flags = rustix::fs::XattrFlags::empty();
    let srv = layers.new.path().join("srv");
    rustix::fs::lsetxattr(srv, "user.overlay.opaque", b"y", flags).unwrap();
    assert_eq!(layers.overlay(DiffOptions::default()), ["changed srv replaced", "deleted srv/two"]);
    assert_eq!(layers.apart(DiffOptions::default()), ["deleted srv/two"]);
}
