//! squashfs outputs: mksquashfs's image has the content that it was sent, or gets no name.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::support::stage::{EACH_PRIVILEGE, EPOCH, Finished, Stage, Who, finish};

const BLOCK: usize = 128 << 10;

/// Creates a directory with files that begin with the same blocks, some with other last blocks.
fn similar_files(stage: &Stage) {
    let random = |length: usize| {
        let mut bytes = vec![0; length];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        bytes
    };
    let common = [random(8 * BLOCK), random(8 * BLOCK)];
    for number in 0..60 {
        let length = number * 34567 % (8 * BLOCK);
        let mut content = common[number % 2][..length].to_owned();
        if number % 3 == 0 {
            let end = length % BLOCK;
            content.truncate(length - end);
            content.extend(random(end));
        }
        stage.write(format!("similar/{number}"), content);
    }
}

/// Saves a root with these files as a squashfs image, with a directory before others in `PATH`.
fn save(stage: &Stage, output: &Path, path: &str) -> Finished {
    let mut command = stage.overcoat(Who::Root);
    command.arg("run").arg(stage.debian()).arg("--bind");
    command.arg(format!("{}:/mnt:ro", stage.path("similar").display()));
    command.arg("--save").arg(output).args(["--", "cp", "-r", "/mnt", "/similar"]);
    let path = format!("{path}:{}", std::env::var("PATH").unwrap());
    finish(command.env("PATH", path).env("SOURCE_DATE_EPOCH", EPOCH))
}

fn assert_content(stage: &Stage, image: &Path) {
    let script = format!(
        "rm -rf read; unsquashfs -quiet -no-progress -dest read '{}' >/dev/null
         diff -r similar read/similar",
        image.display()
    );
    stage.sh(&script);
}

/// mksquashfs 4.5.1 with its default for tar damages every second such image.
#[test]
fn files_that_begin_with_the_same_blocks_are_intact_and_reproducible() {
    let stage = Stage::new();
    similar_files(&stage);
    let images = ["a.squashfs", "b.squashfs", "c.squashfs", "d.squashfs"].map(|name| {
        let image = stage.out(Who::Root).join(name);
        let stderr = save(&stage, &image, "").ok().stderr;
        assert!(!stderr.contains("damaged"), "{stderr}");
        assert_content(&stage, &image);
        fs::read(image).unwrap()
    });
    assert!(images.iter().all(|image| *image == images[0]), "the images differ");
}

/// Puts a `mksquashfs` into the directory `bin` that damages its image while `condition` is true.
fn damaging_mksquashfs(stage: &Stage, damage: &str, condition: &str) -> String {
    let script = format!(
        "mkdir -p bin; rm -f damaged
         cat >bin/mksquashfs <<'END'
#!/bin/sh
'{real}' \"$@\" || exit
{condition} || exit 0
: >'{mark}'
{damage}
END
         chmod 755 bin/mksquashfs",
        real = stage.sh("command -v mksquashfs").trim(),
        mark = stage.path("damaged").display(),
    );
    stage.sh(&script);
    stage.path("bin").display().to_string()
}

#[test]
fn damaged_image_is_written_again_or_not_at_all() {
    let stage = Stage::new();
    similar_files(&stage);
    let good = stage.out(Who::Root).join("good.squashfs");
    save(&stage, &good, "").ok();
    let good = fs::read(good).unwrap();
    let first = format!("[ ! -e '{}' ]", stage.path("damaged").display());
    let write = |position: &str| {
        format!(
            "printf 0123456789abcdef | dd of=\"$2\" bs=1 seek={position} conv=notrunc status=none"
        )
    };
    // A stored data block, the tables at the end, and the superblock's magic number.
    let middle = write("$(($(stat -Lc %s \"$2\") / 2))");
    let end = write("$(($(stat -Lc %s \"$2\") - 4200))");
    for damage in [middle, end, write("0"), "truncate -s 4096 \"$2\"".to_owned()] {
        let path = damaging_mksquashfs(&stage, &damage, &first);
        let image = stage.out(Who::Root).join("again.squashfs");
        save(&stage, &image, &path).ok().stderr_has(&["damaged image", "writing it again"]);
        assert!(fs::read(&image).unwrap() == good, "{damage}");
        fs::remove_file(image).unwrap();

        let path = damaging_mksquashfs(&stage, &damage, "true");
        let image = stage.out(Who::Root).join("never.squashfs");
        save(&stage, &image, &path).code(2).stderr_has(&["damaged image twice", "--format tar"]);
        assert!(!image.exists(), "{damage}");
    }
    let names: Vec<_> = stage.files(Who::Root);
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("never")), "{names:?}");
}

/// With `-tailends`, `lseek` with SEEK_DATA fails with EIO in files that end with a fragment after
/// a hole.
#[test]
fn kernel_reads_sparse_files_with_short_ends() {
    let stage = Stage::new();
    for who in EACH_PRIVILEGE {
        let script = "for size in 131072 262144 400000; do
                truncate -s $size /srv/$size; echo x >>/srv/$size; done
            echo y >/srv/f; chmod 4755 /srv/f; truncate -s 300000 /srv/hole";
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--save", "sparse.squashfs"]);
        finish(command.args(["--", "sh", "-euc", script])).ok();
        let image = stage.out(who).join("sparse.squashfs");
        let read = stage.sh(&format!(
            "mkdir -p mounted copied; mount -o loop,ro '{}' mounted
             cp --sparse=auto mounted/srv/* copied; cmp_all() {{ for f in mounted/srv/*; do
               cmp $f copied/${{f##*/}}; stat -c '%n %s %a' $f; tail -c 2 $f | tr '\\0' 0; done; }}
             cmp_all; umount mounted; rm -r copied",
            image.display()
        ));
        let wanted = "mounted/srv/131072 131074 644\nx\nmounted/srv/262144 262146 644\nx\n\
                      mounted/srv/400000 400002 644\nx\nmounted/srv/f 2 4755\ny\n\
                      mounted/srv/hole 300000 644\n00";
        assert_eq!(read, wanted, "{who:?}");
    }
}
