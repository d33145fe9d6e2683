//! Memory use of the upper. The only test of its process, so that no other memory is counted.

use fs_model::tree::{MknodArgs, TreeOptions, XattrSupport};
use fs_model::{Ino, Tree};

/// Returns the resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Creates `count` files with `content` in directories of 500. Returns the memory for each file in
/// bytes.
fn cost_of_a_file(tree: &Tree, top: &[u8], count: u64, content: &[u8]) -> u64 {
    let before = resident();
    let top = tree.mknod(Ino::ROOT, top, &MknodArgs::directory(0o755, 0, 0)).unwrap().ino;
    let mut dir = top;
    for n in 0..count {
        if n % 500 == 0 {
            let name = format!("{:08}", n / 500);
            dir = tree.mknod(top, name.as_bytes(), &MknodArgs::directory(0o755, 0, 0)).unwrap().ino;
        }
        let name = format!("{n:08}");
        let file = tree.mknod(dir, name.as_bytes(), &MknodArgs::file(0o644, 0, 0)).unwrap().ino;
        tree.write(file, 0, content).unwrap();
        // As after the kernel has forgotten it.
        tree.forget(file, 1);
    }
    (resident() - before) / count
}

/// Includes the directory entry. The name has 8 bytes.
#[test]
fn file_in_the_upper_uses_at_most_400_bytes_beside_data_and_name() {
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
    // The memory charged against the limit is close to the real use.
    let charged = tree.usage().used / 300_000;
    assert!(charged >= empty * 3 / 4 && charged <= small * 5 / 4, "{charged} bytes are charged");
}
