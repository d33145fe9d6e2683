//! What the upper costs in memory. One test to a process, so that nobody else's memory is counted.

use fs_model::tree::{NewNode, TreeOptions, XattrSupport};
use fs_model::{Ino, Tree};

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Makes `count` files with `content` in directories of 500; what one costs, in bytes.
fn cost_of_a_file(tree: &Tree, top: &[u8], count: u64, content: &[u8]) -> u64 {
    let before = resident();
    let top = tree.make(Ino::ROOT, top, &NewNode::directory(0o755, 0, 0)).unwrap().ino;
    let mut dir = top;
    for n in 0..count {
        if n % 500 == 0 {
            let name = format!("{:08}", n / 500);
            dir = tree.make(top, name.as_bytes(), &NewNode::directory(0o755, 0, 0)).unwrap().ino;
        }
        let name = format!("{n:08}");
        let file = tree.make(dir, name.as_bytes(), &NewNode::file(0o644, 0, 0)).unwrap().ino;
        tree.write(file, 0, content).unwrap();
        // As when the kernel has forgotten it.
        tree.forget(file, 1);
    }
    (resident() - before) / count
}

/// Directory entry included; the name has 8 bytes.
#[test]
fn a_file_of_the_upper_costs_400_bytes_and_its_data_and_name_at_most() {
    let tree = Tree::new(
        Vec::new(),
        TreeOptions { upper_limit: Some(u64::MAX), xattrs: XattrSupport::None },
    )
    .unwrap();
    let empty = cost_of_a_file(&tree, b"empty", 200_000, b"");
    let small = cost_of_a_file(&tree, b"small", 100_000, &[7; 100]);
    println!("an empty file: {empty} bytes; one of 100 bytes: {small} bytes");
    assert!(empty <= 400 + 8, "{empty} bytes");
    assert!(small <= 400 + 8 + 112, "{small} bytes");
    // What is charged against the limit is what it costs, about.
    let charged = tree.usage().used / 300_000;
    assert!(charged >= empty * 3 / 4 && charged <= small * 5 / 4, "{charged} bytes are charged");
}
