//! Images that do not begin at the first byte of a file: an offset, block devices, SIF files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::stage::{BOTH_USERS, Finished, Stage, Who, finish};

/// Creates a squashfs image with one file, `alpha`.
fn image(stage: &Stage) -> Vec<u8> {
    stage.sh("mkdir -p t && echo one >t/alpha && chmod 755 t && \
              mksquashfs t t.squashfs -all-root -noappend -quiet -no-progress");
    fs::read(stage.path("t.squashfs")).unwrap()
}

fn overcoat(stage: &Stage, who: Who, arguments: &[&str]) -> Finished {
    finish(stage.overcoat(who).args(arguments))
}

/// Writes a file with `before` zero bytes, followed by the image.
fn inside(stage: &Stage, name: &str, before: usize, image: &[u8]) -> PathBuf {
    stage.write(name, [&vec![0; before], image].concat())
}

#[test]
fn offset_selects_an_image_in_every_command() {
    let stage = Stage::new();
    let image = image(&stage);
    let file = inside(&stage, "disk.img", 32_768, &image);
    let base = file.to_str().unwrap();
    for who in BOTH_USERS {
        let run = |arguments: &[&str]| overcoat(&stage, who, arguments);
        for at in ["32768", "0x8000", "32K"] {
            let named = format!("{base}@{at}");
            assert_eq!(run(&["ls", &named]).ok().text(), "alpha\n", "{at}");
            assert_eq!(run(&["ls", "--offset", at, base]).ok().text(), "alpha\n", "{at}");
        }
        let named = format!("{base}@32768");
        assert_eq!(run(&["cat", &named, ":/alpha"]).ok().text(), "one\n");
        run(&["du", "--ram", &named]).ok();
        run(&["diff", &named, "--to", &stage.path("t.squashfs").display().to_string()]).ok();
        run(&["check", "--only", "lean", &named]).ok();
        run(&["extract", &named, "-C", "out"]).ok();
        assert_eq!(fs::read(stage.out(who).join("out/alpha")).unwrap(), b"one\n");
        // The output would overwrite the layer.
        let save = ["run", "--save", base, "--format", "cpio", &named, "--", "true"];
        run(&save).code(2).stderr_has(&["disk.img", "layer"]);
    }
    let folder = stage.path("mounted");
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    overcoat(&stage, Who::Root, &["mount", "--offset", "32768", base, folder]).ok();
    assert_eq!(fs::read(Path::new(folder).join("alpha")).unwrap(), b"one\n");
    overcoat(&stage, Who::Root, &["umount", folder]).ok();
}

#[test]
fn image_files_accept_offsets_and_detect_changed_files() {
    let stage = Stage::new();
    let image = image(&stage);
    inside(&stage, "disk.img", 5_000, &image);
    stage.write("taken.yml", "kind: base\nfrom: disk.img@5000\noutput: user/taken.squashfs\n");
    stage.write("over.yml", "base: disk.img@5000\noutput: user/over.cpio\n");
    let project = "output: user/build\nimages:\n  taken: {kind: base, from: disk.img@5000}\n  \
                   over: {base: disk.img@5000}\n";
    stage.write("overcoat.yml", project);
    let who = Who::Unprivileged;
    let file = |name: &str| stage.path(name).display().to_string();
    overcoat(&stage, who, &["base", &file("taken.yml")]).ok();
    assert_eq!(
        overcoat(&stage, who, &["ls", "taken.squashfs"]).ok().text(),
        "alpha\ndev\nproc\nrun\nsys\ntmp\n"
    );
    overcoat(&stage, who, &["build", &file("over.yml")]).ok();
    let build =
        || overcoat(&stage, who, &["build", "--project", &file("overcoat.yml")]).ok().stderr;
    assert!(build().contains("2 built"));
    assert!(build().contains("2 up to date"));
    inside(&stage, "disk.img", 5_000, &[&image[..], b"more"].concat());
    let second = build();
    assert!(second.contains("1 up to date, 1 built"), "{second}");
    stage.write("wrong.yml", "kind: base\nfrom: none.img@5000\noutput: user/wrong.squashfs\n");
    overcoat(&stage, who, &["base", &file("wrong.yml")]).code(2).stderr_has(&["none.img@5000"]);
}

#[test]
fn error_lists_the_images_inside_a_file() {
    let stage = Stage::new();
    let image = image(&stage);
    let sized = image.len();
    // Not aligned to a sector, and after a magic number without a superblock.
    let elf = [b"\x7fELF\x02\x01\x01\0AI\x02".as_slice(), &[0; 90], b"hsqs", &[0; 1013]].concat();
    let app = stage.write("app", [&elf[..], &image].concat());
    let list = |path: &Path| overcoat(&stage, Who::Unprivileged, &["ls", path.to_str().unwrap()]);
    let named = format!("{}@{}", app.display(), elf.len());
    list(&app).code(2).stderr_has(&["an AppImage", &elf.len().to_string(), &named]);
    assert_eq!(list(Path::new(&named)).ok().text(), "alpha\n");

    let two = stage.write("two", [&[1; 512][..], &image, &image].concat());
    let second = (512 + sized).to_string();
    list(&two).code(2).stderr_has(&["bytes 512, ", &second, &format!("{}@512", two.display())]);

    // The suggested name must not exist.
    stage.write("two@512", "another file");
    list(&two).code(2).stderr_has(&[&format!("use {}@0512", two.display())]);
    assert_eq!(list(&stage.path("two@0512")).ok().text(), "alpha\n");

    for (name, content) in [
        ("text", b"hsqs is a magic number".to_vec()),
        ("cut", [&[0; 512], &image[..120]].concat()),
        ("magic", b"hsqs".repeat(100_000)),
    ] {
        let file = stage.write(name, [&b" "[..], &content].concat());
        list(&file).code(2).stderr_has(&[name, "not a squashfs image"]);
    }
    let beyond = stage.path("app@100000000");
    list(&beyond).code(2).stderr_has(&["app", "beyond the end of the file"]);
}

#[test]
fn block_device_is_read_or_error_suggests_a_copy() {
    let stage = Stage::new();
    let image = image(&stage);
    inside(&stage, "disk.img", 32_768, &image);
    let attach = |options: &str| {
        let device = stage.sh(&format!("losetup {options} -rf --show disk.img"));
        device.trim().to_owned()
    };
    let (partition, disk) = (attach("-o 32768"), attach(""));
    let at = |who, path: &str| overcoat(&stage, who, &["ls", path]);
    let found = [
        at(Who::Root, &partition),
        at(Who::Root, &format!("{disk}@32768")),
        at(Who::Root, &disk),
        at(Who::Unprivileged, &partition),
    ];
    stage.sh(&format!("losetup -d {partition} {disk}"));
    let [partition, named, disk, unprivileged] = found;
    assert_eq!(partition.ok().text(), "alpha\n");
    assert_eq!(named.ok().text(), "alpha\n");
    disk.code(2).stderr_has(&["at byte 32768"]);
    unprivileged.code(2).stderr_has(&["block device", "sudo dd if=/dev/loop"]);
}

/// Creates a SIF file with one partition, in the layout of apptainer's `pkg/sif`.
fn sif(system: u32, image: &[u8]) -> Vec<u8> {
    let mut file = b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\x0001\x0002\0".to_vec();
    file.resize(88, 0);
    // Number of used descriptors; offset and size of the descriptors; offset and size of the data.
    let (table, slots, data) = (4096_u64, 48_u64, 40_960_u64);
    for number in [slots, table, slots * 585, data, image.len() as u64] {
        file.extend(number.to_le_bytes());
    }
    file.resize(4096, 0);
    file.extend(0x4004_u32.to_le_bytes());
    file.push(1);
    [1, 0xf000_0001, 0_u32].iter().for_each(|id| file.extend(id.to_le_bytes()));
    let size = image.len() as u64;
    [data, size, size, 0, 0, 0, 0].iter().for_each(|number| file.extend(number.to_le_bytes()));
    file.extend([0; 128]);
    [system, 2].iter().for_each(|number| file.extend(number.to_le_bytes()));
    file.resize(data as usize, 0);
    file.extend(image);
    file
}

#[test]
fn sif_root_is_read_and_other_file_systems_are_named() {
    let stage = Stage::new();
    let image = image(&stage);
    stage.write("image.sif", sif(1, &image));
    stage.write("ext3.sif", sif(2, b"ext3"));
    stage.write("secret.sif", sif(5, b"LUKS"));
    stage.write("cut.sif", &sif(1, &image)[..41_000]);
    stage.write("taken.yml", "kind: base\nfrom: image.sif\noutput: user/taken.squashfs\n");
    let who = Who::Unprivileged;
    let run = |arguments: &[&str]| {
        let folder = stage.path("").display().to_string();
        let arguments = arguments.iter().map(|word| word.replace("STAGE/", &folder));
        finish(stage.overcoat(who).args(arguments))
    };
    assert_eq!(run(&["cat", "STAGE/image.sif", ":/alpha"]).ok().text(), "one\n");
    run(&["base", "STAGE/taken.yml"]).ok();
    assert_eq!(run(&["ls", "taken.squashfs"]).ok().text(), "alpha\ndev\nproc\nrun\nsys\ntmp\n");
    run(&["ls", "STAGE/ext3.sif"]).code(2).stderr_has(&["ext3.sif", "is ext3", "--sandbox"]);
    run(&["ls", "STAGE/secret.sif"]).code(2).stderr_has(&["secret.sif", "encrypted", "--sandbox"]);
    run(&["ls", "STAGE/cut.sif"]).code(2).stderr_has(&["cut.sif", "damaged SIF file"]);
}
