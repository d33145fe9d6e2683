//! Compiles the library into the program: generates a table of all files below `library/`, with
//! their execute bits, and of all symbolic links, in the order of `Folder::walk`.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() {
    let variable = |name: &str| PathBuf::from(env::var_os(name).expect("set by cargo"));
    let library = variable("CARGO_MANIFEST_DIR").join("library");
    println!("cargo::rerun-if-changed={}", library.display());
    let table = table(&library).expect("cannot read library/");
    fs::write(variable("OUT_DIR").join("library.rs"), table).expect("cannot write to OUT_DIR");
}

/// Returns the table of all directories in `library` as a Rust expression. It is empty if `library`
/// does not exist.
pub(crate) fn table(library: &Path) -> io::Result<String> {
    let mut text = String::from("&[\n");
    for name in names(library)? {
        let folder = library.join(&name);
        if folder.is_dir() {
            let _ = writeln!(text, "LibraryFolder {{ name: {name:?}, entries: &[");
            walk(&folder, "", &mut text)?;
            text.push_str("] },\n");
        }
    }
    text.push_str("]\n");
    Ok(text)
}

fn walk(folder: &Path, above: &str, text: &mut String) -> io::Result<()> {
    for name in names(folder)? {
        let path = folder.join(&name);
        let inside = if above.is_empty() { name } else { format!("{above}/{name}") };
        let meta = fs::symlink_metadata(&path)?;
        let _ = write!(text, "LibraryEntry {{ path: {inside:?}, content: ");
        if meta.is_dir() {
            text.push_str("LibraryContent::Directory },\n");
            walk(&path, &inside, text)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&path)?;
            let _ = writeln!(text, "LibraryContent::Symlink({:?}) }},", utf8(&target)?);
        } else {
            let executable = meta.permissions().mode() & 0o100 != 0;
            let (path, bytes) = (utf8(&path)?, "bytes: include_bytes!");
            let _ = writeln!(
                text,
                "LibraryContent::File {{ {bytes}({path:?}), executable: {executable} }} }},"
            );
        }
    }
    Ok(())
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = entries
        .map(|entry| Ok(utf8(Path::new(&entry?.file_name()))?.to_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn utf8(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))
}
