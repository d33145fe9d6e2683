//! Checks that opening any bytes as a tar archive results in a layer or an error, and that all
//! methods of the layer work for all objects, as in `cpio`.
//!
//! Blocks that look like headers get a valid checksum first, because mutations would not find one.
#![no_main]

mod walk;

use std::sync::Arc;

use fs_model::layer::Limits;
use fs_model::layer::tar::TarLayer;
use fs_model::tar::BLOCK_SIZE;

libfuzzer_sys::fuzz_target!(|bytes: Vec<u8>| {
    let mut bytes = bytes;
    for block in bytes.chunks_exact_mut(BLOCK_SIZE) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    let limits = Limits { memory: 16 << 20 };
    if let Ok(layer) = TarLayer::open("fuzz", Arc::new(bytes), limits) {
        walk::walk(&layer);
    }
});
