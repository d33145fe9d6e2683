//! The compiled library: it equals `library/`, and all its provisioners are valid.

#[path = "../../build.rs"]
#[allow(dead_code, reason = "the table of the crate has more than the tests use")]
mod build;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::{chain, write_files};
use provisioners::{Folder, Plan, Provisioner, library};

#[test]
fn table_has_content_execute_bits_and_links_in_walk_order() {
    let dir = tempfile::tempdir().unwrap();
    let files =
        [("b/files/x.y", "1"), ("b/files/x/run*", "2"), ("a/provisioner.yml", ""), ("R", "")];
    write_files(dir.path(), &files);
    symlink("../to", dir.path().join("b/files/link")).unwrap();
    let table = build::table(dir.path()).unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let file = |path: &str, executable: bool| {
        format!(
            "LibraryContent::File {{ bytes: include_bytes!({:?}), executable: {executable} }}",
            at(path)
        )
    };
    let wanted = [
        "&[".to_owned(),
        r#"LibraryFolder { name: "a", entries: &["#.to_owned(),
        format!(
            r#"LibraryEntry {{ path: "provisioner.yml", content: {} }},"#,
            file("a/provisioner.yml", false)
        ),
        "] },".to_owned(),
        r#"LibraryFolder { name: "b", entries: &["#.to_owned(),
        r#"LibraryEntry { path: "files", content: LibraryContent::Directory },"#.to_owned(),
        r#"LibraryEntry { path: "files/link", content: LibraryContent::Symlink("../to") },"#
            .to_owned(),
        r#"LibraryEntry { path: "files/x", content: LibraryContent::Directory },"#.to_owned(),
        format!(
            r#"LibraryEntry {{ path: "files/x/run", content: {} }},"#,
            file("b/files/x/run", true)
        ),
        format!(
            r#"LibraryEntry {{ path: "files/x.y", content: {} }},"#,
            file("b/files/x.y", false)
        ),
        "] },".to_owned(),
        "]".to_owned(),
    ];
    assert_eq!(table.lines().collect::<Vec<_>>(), wanted);
}

#[test]
fn compiled_library_equals_the_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("library");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .map_or_else(
            |_| Vec::new(),
            |entries| entries.flatten().filter(|e| e.path().is_dir()).collect(),
        )
        .into_iter()
        .map(|e: fs::DirEntry| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(library().map(|(name, _)| name).eq(names.iter().map(String::as_str)));
    for (name, _) in library() {
        let inside = Folder::named(&format!("library:{name}"), Path::new("/")).unwrap();
        let inside = Provisioner::load_from(&inside).unwrap_or_else(|e| panic!("{}", chain(&e)));
        let beside = Provisioner::load(&folder.join(name)).unwrap();
        assert_eq!(
            inside.inputs().unwrap(),
            beside.inputs().unwrap(),
            "{name}: cargo does not notice a chmod: touch the file"
        );
    }
}

/// This includes that no script runs outside, which is not possible for library provisioners.
#[test]
fn all_library_provisioners_are_valid() {
    for (name, description) in library() {
        let folder = Folder::named(&format!("library:{name}"), Path::new("/")).unwrap();
        let loaded = Provisioner::load_from(&folder).unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert!(description.is_some_and(|text| !text.is_empty()), "{name} has a description");
        Plan::new(&[loaded]).unwrap_or_else(|e| panic!("{name}: {}", chain(&e)));
    }
}
