//! The library of ready-made provisioners. They are compiled into the program, so a copy of it on
//! another machine has them too, and their files are never written to disk.

use crate::folder::Folder;
use crate::library_files;
use crate::provisioner::Provisioner;

/// Returns name and description of the ready-made provisioners, ordered by name.
pub fn library() -> impl Iterator<Item = (&'static str, Option<String>)> {
    library_files::folders().iter().map(|folder| {
        let loaded = Provisioner::load_from(&Folder::from_library(folder)).ok();
        (folder.name, loaded.and_then(|p| p.description().map(str::to_owned)))
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::folder::{FolderItemKind, without_dots};
    use crate::library_files::{LibraryContent, LibraryEntry, LibraryFolder};
    use crate::steps::scripts::LIBRARY_SCRIPT_OUTSIDE;

    macro_rules! library_folder {
        ($yaml:expr) => {{
            static FOLDER: LibraryFolder = LibraryFolder {
                name: "demo",
                entries: &[
                    LibraryEntry { path: "files", content: LibraryContent::Directory },
                    LibraryEntry { path: "files/etc", content: LibraryContent::Directory },
                    LibraryEntry { path: "files/etc/link", content: LibraryContent::Symlink("x") },
                    file("files/etc/x.j2", "{{ colour }}\n", false),
                    file("files/run", "#!/bin/sh\n", true),
                    LibraryEntry { path: "files-more", content: LibraryContent::Directory },
                    file("provisioner.yml", $yaml, false),
                    LibraryEntry { path: "scripts", content: LibraryContent::Directory },
                    file("scripts/a", "true\n", false),
                ],
            };
            Folder::from_library(&FOLDER)
        }};
    }

    const fn file(path: &'static str, text: &'static str, executable: bool) -> LibraryEntry {
        LibraryEntry { path, content: LibraryContent::File { bytes: text.as_bytes(), executable } }
    }

    #[test]
    fn library_folder_reads_like_host_folder() {
        let library = library_folder!(
            "variables: {colour: red}\nfiles: ./files\nscripts: [scripts/a]\npackages: [x-y]"
        );
        let dir = tempfile::tempdir().unwrap();
        for item in library.walk(Path::new("")).unwrap() {
            let path = dir.path().join(&item.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match &item.kind {
                FolderItemKind::Directory => fs::create_dir(&path).unwrap(),
                FolderItemKind::Symlink(to) => std::os::unix::fs::symlink(to, &path).unwrap(),
                FolderItemKind::File { executable } => {
                    fs::write(&path, library.read(&item.path).unwrap()).unwrap();
                    let mode = if *executable { 0o700 } else { 0o600 };
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                }
                FolderItemKind::Other => unreachable!(),
            }
        }
        let host = Folder::from_host(dir.path());
        for path in ["", "files", "./files", "files/etc"] {
            let walk = |folder: &Folder| {
                let items = folder.walk(&without_dots(Path::new(path))).unwrap();
                items.into_iter().map(|item| (item.path, item.kind)).collect::<Vec<_>>()
            };
            assert_eq!(walk(&library), walk(&host), "{path}");
            assert!(library.is_dir(Path::new(path)) && host.is_dir(Path::new(path)));
        }
        let load = |folder| Provisioner::load_from(folder).unwrap();
        let (library, host) = (load(&library), load(&host));
        assert_eq!(library.name(), "demo");
        assert!(library.steps().eq(host.steps()));
        assert_eq!(library.inputs().unwrap(), host.inputs().unwrap());
        assert_eq!(library.inputs().unwrap().len(), 5);
    }

    #[test]
    fn messages_contain_library_path() {
        let mistake =
            Provisioner::load_from(&library_folder!("fils: files\n")).unwrap_err().to_string();
        assert!(
            mistake.starts_with("library:demo/provisioner.yml:1:1: fils: unknown key"),
            "{mistake}"
        );
        let template = Provisioner::load_from(&library_folder!("files: files\n")).unwrap();
        let error = crate::Plan::new(&[template]).unwrap_err();
        let text = error.source().unwrap().to_string();
        assert!(text.starts_with("library:demo/files/etc/x.j2:1: `colour` is undefined"), "{text}");
        let missing = library_folder!("x").read(Path::new("nothing")).unwrap_err();
        assert_eq!(missing.path, Path::new("library:demo/nothing"));
        for outside in ["../demo/provisioner.yml", "/etc/passwd", "files/../provisioner.yml"] {
            assert!(!library_folder!("x").is_file(Path::new(outside)), "{outside}");
        }
    }

    #[test]
    fn library_script_with_outside_is_rejected() {
        let yaml = "scripts: [{path: scripts/a, outside: true}]\n";
        let error = Provisioner::load_from(&library_folder!(
            "scripts: [{path: scripts/a, outside: true}]\n"
        ));
        assert!(error.unwrap_err().to_string().contains(LIBRARY_SCRIPT_OUTSIDE), "{yaml}");
    }
}
