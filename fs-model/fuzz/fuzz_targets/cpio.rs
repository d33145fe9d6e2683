//! Checks that opening any bytes as a cpio archive results in a layer or an error, and that all
//! methods of the layer work for all objects: names are sorted, valid and can be looked up, and
//! content has the size in the attributes. No panic, no hang, and no more memory than allowed.
#![no_main]

mod walk;

use std::sync::Arc;

use fs_model::layer::Limits;
use fs_model::layer::cpio::CpioLayer;

libfuzzer_sys::fuzz_target!(|bytes: Vec<u8>| {
    let limits = Limits { memory: 16 << 20 };
    if let Ok(layer) = CpioLayer::open("fuzz", Arc::new(bytes), limits) {
        walk::walk(&layer);
    }
});
