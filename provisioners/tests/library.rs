//! The library in the program: that it is what lies in `library/`, and that all of it can be used.

#[path = "../build.rs"]
#[allow(dead_code)]
mod build;
mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::{chain, write_files};
use provisioners::{Folder, Plan, Provisioner, library};

#[test]
fn the_table_has_content_executable_bits_and_links_in_the_order_of_a_walk() {
    let dir = tempfile::tempdir().unwrap();
    let files =
        [("b/files/x.y", "1"), ("b/files/x/run*", "2"), ("a/provisioner.yml", ""), ("R", "")];
    write_files(dir.path(), &files);
    symlink("../to", dir.path().join("b/files/link")).unwrap();
    let table = build::table(dir.path()).unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let file = |path: &str, executable: bool| {
        format!(
            "Content::File {{ bytes: include_bytes!({:?}), executable: {executable} }}",
            at(path)
        )
    };
    let wanted = [
        "&[".to_owned(),
        r#"Book { name: "a", entries: &["#.to_owned(),
        format!(
            r#"Entry {{ path: "provisioner.yml", content: {} }},"#,
            file("a/provisioner.yml", false)
        ),
        "] },".to_owned(),
        r#"Book { name: "b", entries: &["#.to_owned(),
        r#"Entry { path: "files", content: Content::Directory },"#.to_owned(),
        r#"Entry { path: "files/link", content: Content::Symlink("../to") },"#.to_owned(),
        r#"Entry { path: "files/x", content: Content::Directory },"#.to_owned(),
        format!(r#"Entry {{ path: "files/x/run", content: {} }},"#, file("b/files/x/run", true)),
        format!(r#"Entry {{ path: "files/x.y", content: {} }},"#, file("b/files/x.y", false)),
        "] },".to_owned(),
        "]".to_owned(),
    ];
    assert_eq!(table.lines().collect::<Vec<_>>(), wanted);
}

#[test]
fn the_program_has_what_lies_in_the_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("library");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .map(|entries| entries.flatten().filter(|e| e.path().is_dir()).collect())
        .unwrap_or_else(|_| Vec::new())
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
            "{name}: after a chmod, touch it"
        );
    }
}

/// Loading one refuses what a provisioner of the library can't do: run outside.
#[test]
fn all_of_the_library_can_be_used_as_it_is() {
    for (name, description) in library() {
        let folder = Folder::named(&format!("library:{name}"), Path::new("/")).unwrap();
        let loaded = Provisioner::load_from(&folder).unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert!(description.is_some_and(|text| !text.is_empty()), "{name} says what it does");
        Plan::new(&[loaded]).unwrap_or_else(|e| panic!("{name}: {}", chain(&e)));
    }
}
