//! `cat`, which prints files of images.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use crate::image_fixture::{layers, overcoat};
use crate::support::stage::{BOTH_USERS, Stage};

#[test]
fn cat_prints_files_unchanged_and_accepts_a_closed_pipe() {
    let stage = Stage::new();
    let script = "head -c 30000000 /dev/urandom >base/big; echo first >base/first; mkdir base/dir";
    let (base, _) = layers(&stage, script);
    let big = stage.path("layers/base/big");
    for who in BOTH_USERS {
        let cat = |rest: &[&str]| overcoat(&stage, who, "cat", &[&base], rest);
        let both = cat(&[":first", ":big"]).ok().stdout;
        assert!(both == [&b"first\n"[..], &fs::read(&big).unwrap()].concat());
        assert_eq!(cat(&[":none", ":first"]).code(1).text(), "first\n");
        cat(&[":dir"]).code(2).stderr_has(&["/dir: cannot print a directory"]);
        let mut command = stage.overcoat(who);
        let mut child = command
            .args(["cat".as_ref(), base.as_os_str(), ":big".as_ref()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut some = [0; 4096];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        assert!(child.wait().unwrap().success());
    }
}
