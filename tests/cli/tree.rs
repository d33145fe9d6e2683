//! `tree`, which draws the directories of images.

use crate::image_fixture::{SMALL, layers, overcoat};
use crate::support::stage::{Stage, Who};

#[test]
fn tree_draws_trees() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let tree =
        |rest: &[&str]| overcoat(&stage, Who::Root, "tree", &[&base, &over], rest).ok().text();
    assert_eq!(
        tree(&["--layers", ":etc"]),
        "/etc\n\
         |-- group  [base.squashfs]\n\
         |-- issue  [over.cpio.gz]  (deleted: file, 5 bytes in base.squashfs)\n\
         |-- motd  [over.cpio.gz]  (hides file, 14 bytes in base.squashfs)\n\
         `-- passwd  [base.squashfs]\n\n1 directory, 3 files\n"
    );
    assert_eq!(tree(&["-L1", "-d"]), "/\n|-- etc\n`-- usr\n\n3 directories\n");
}
