//! Errors of the command line, with their hints.

use std::fs;

use crate::image_fixture::archives;
use crate::snapshot::{self, Transcript, program};

/// Runs these command lines in a folder with images and other files, and compares their outputs
/// with a snapshot.
fn assert_snapshot(name: &str, lines: &[&str]) {
    let folder = archives();
    let file = |name: &str| folder.path().join(name);
    let archive = fs::read(file("base.cpio")).unwrap();
    fs::write(file("cut.cpio"), &archive[..300]).unwrap();
    fs::write(file("empty"), "").unwrap();
    fs::write(file("notes.txt"), "text\n").unwrap();
    fs::create_dir(file("folder")).unwrap();
    fs::write(file("folder/file"), "").unwrap();
    let mut transcript = Transcript::new(folder.path());
    for line in lines {
        assert_ne!(transcript.run(program(), line).code, 0, "{line}");
    }
    let _settings = snapshot::bind("command_line");
    insta::assert_snapshot!(name, transcript.text());
}

#[test]
fn unknown_commands_and_options_get_suggestions() {
    assert_snapshot(
        "unknown_names",
        &[
            "biuld",
            "frobnicate",
            "build --forse",
            "man biuld",
            "completions tcsh",
            "schema projects",
        ],
    );
}

#[test]
fn missing_arguments_are_named() {
    assert_snapshot(
        "missing_arguments",
        &["ls", "run base.cpio", "extract base.cpio", "diff base.cpio", "inspect base.cpio"],
    );
}

#[test]
fn invalid_values_are_answered_with_the_valid_ones() {
    assert_snapshot(
        "invalid_values",
        &[
            "run base.cpio --network bridge -- true",
            "run base.cpio --upper-size 1 -- true",
            "build --level high",
            "boot --memory much",
            "serve --listen here",
        ],
    );
}

#[test]
fn files_that_are_no_images_are_named_with_the_reason() {
    assert_snapshot(
        "no_images",
        &[
            "ls nothing.squashfs",
            "ls notes.txt",
            "ls empty",
            "ls cut.cpio",
            "ls --offset 3 base.cpio",
            "run notes.txt -- true",
        ],
    );
}

#[test]
fn paths_of_the_machine_and_paths_in_images_are_told_apart() {
    assert_snapshot(
        "paths",
        &[
            "ls base.cpio /etc",
            "ls base.cpio etc/motd",
            "ls :etc",
            "cat base.cpio over.cpio :etc/issue",
            "cat base.cpio :etc/none :etc",
            "stat base.cpio :etc/motd/more",
        ],
    );
}

#[test]
fn outputs_need_a_known_format() {
    assert_snapshot(
        "formats",
        &[
            "extract base.cpio -o out.zip",
            "extract base.cpio -C notes.txt",
            "run base.cpio --save out.zip -- true",
            "run base.cpio --save out.cpio.gz --level 99 -- true",
            "run base.cpio --save none/out.cpio.gz -- true",
        ],
    );
}

#[test]
fn missing_projects_and_image_files_are_reported() {
    assert_snapshot(
        "projects",
        &[
            "build",
            "build nothing",
            "build nothing.yml",
            "build notes.txt",
            "boot",
            "serve",
            "check",
            "import folder",
        ],
    );
}

#[test]
fn folders_without_a_mount_are_reported() {
    assert_snapshot(
        "mounts",
        &[
            "seal folder -o out.cpio.gz",
            "umount folder",
            "mount base.cpio nowhere",
            "mount base.cpio notes.txt",
        ],
    );
}
