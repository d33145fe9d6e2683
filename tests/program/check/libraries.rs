//! Where libraries are found, and where they are not though they are there.

use super::archive::Archive;
use super::programs::programs;
use super::{Pair, base};

/// Lint and path of what is found in an overlay, and what it says.
fn found(make: impl FnOnce(&mut Archive)) -> Vec<(String, String)> {
    found_over(&base(), make)
}

fn found_over(base: &Archive, make: impl FnOnce(&mut Archive)) -> Vec<(String, String)> {
    let mut overlay = Archive::new();
    make(&mut overlay);
    let found = Pair::new(base, &overlay.gzip()).findings(&["--only", "works"]);
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    found
        .iter()
        .map(|f| ([text(f, "lint"), text(f, "path")].join(" "), text(f, "message")))
        .collect()
}

/// A program that looks for `libother.so.1` in its own place.
fn vendor(overlay: &mut Archive) {
    overlay.program("opt/a/bin/tool", &programs().vendor_program);
    overlay.file("opt/a/lib/libother.so.1", &programs().other_library);
}

#[test]
fn a_library_in_the_place_of_another_program_is_not_found() {
    let made = programs();
    assert_eq!(found(vendor), []);
    let told = found(|overlay| {
        vendor(overlay);
        overlay.program("usr/local/bin/b", &made.other_program);
    });
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].0, "works/elf-library /usr/local/bin/b");
    // Nor for a library that the program loads; the vendor's program finds it for the same one.
    let told = found(|overlay| {
        vendor(overlay);
        overlay.file("usr/lib/libmore.so.1", &made.more_library);
        overlay.program("usr/local/bin/c", &made.more_program);
        overlay.program("opt/a/bin/more", &made.vendor_more_program);
    });
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].0, "works/elf-library /usr/local/bin/c");
    let message = "it loads /usr/lib/libmore.so.1, which needs libother.so.1";
    assert!(told[0].1.starts_with(message), "{told:#?}");
}

#[test]
fn a_library_that_can_be_run_is_loaded_by_those_that_have_its_place() {
    let told = found(|overlay| {
        vendor(overlay);
        overlay.program("opt/a/bin/more", &programs().vendor_more_program);
        overlay.program("opt/a/lib/libmore.so.1", &programs().more_library_that_runs);
    });
    assert_eq!(told, []);
}

/// OpenJDK 17: `java` loads libjvm.so by its path, and then libjava.so, which needs it and would not
/// find it by itself.
#[test]
fn libraries_that_a_virtual_machine_loads_one_after_the_other_are_found() {
    let made = programs();
    let told = found(|overlay| {
        overlay.program("usr/lib/jvm/bin/java", &made.java);
        overlay.file("usr/lib/jvm/lib/libjli.so", &made.libjli);
        overlay.file("usr/lib/jvm/lib/libjava.so", &made.libjava);
        overlay.file("usr/lib/jvm/lib/libnet.so", &made.libnet);
        overlay.file("usr/lib/jvm/lib/server/libjvm.so", &made.libjvm);
        overlay.file("usr/lib/jvm/lib/server/libjsig.so", &made.libjsig);
    });
    assert_eq!(told, []);
}

#[test]
fn a_copy_that_the_cache_does_not_have_is_no_fault_where_another_one_is_found() {
    let made = programs();
    let mut base = base();
    base.file("usr/lib/libother.so.1", &made.other_library);
    base.program("usr/bin/other", &made.other_program);
    let copy = |overlay: &mut Archive| {
        overlay.file("opt/lib/libother.so.1", &made.other_library);
        overlay.program("usr/bin/more", &made.other_program);
    };
    assert_eq!(found_over(&base, copy), []);
    let told = found(copy);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].0, "works/linker-cache /usr/bin/more");
}

/// A linker's cache that has this path.
fn cache(path: &str) -> Vec<u8> {
    let mut cache = super::empty_cache();
    cache[20] = 1;
    let mut entry = [0; 24];
    entry[8] = 48 + 24;
    cache.extend(entry);
    cache.extend(path.as_bytes());
    cache.push(0);
    cache
}

#[test]
fn a_cache_that_hides_a_newer_one_of_the_base_is_found() {
    let made = programs();
    let mut base = base();
    base.file("opt/lib/libother.so.1", &made.other_library);
    base.program("usr/bin/other", &made.other_program);
    base.file("etc/ld.so.cache", cache("/opt/lib/libother.so.1"));
    let told = found_over(&base, |overlay| {
        overlay.file("etc/ld.so.cache", super::empty_cache());
    });
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0].0, "works/linker-cache /usr/bin/other");
    let told = found_over(&base, |overlay| {
        overlay.file("etc/ld.so.cache", [cache("/opt/lib/libother.so.1"), vec![0]].concat());
    });
    assert_eq!(told, []);
}

#[test]
fn a_library_that_is_cut_off_is_found() {
    let library = &programs().library;
    let told = found(|overlay| {
        overlay.file("usr/lib/libdemo.so.1.0", &library[..1000]);
    });
    let damaged = "works/elf-damaged /usr/lib/libdemo.so.1.0";
    assert!(told.iter().any(|(at, _)| at == damaged), "{told:#?}");
    // What is kept of a program apart from it.
    let told = found(|overlay| {
        overlay.file("opt/libdemo.so.1.debug", &library[..1000]);
    });
    assert_eq!(told, []);
}
