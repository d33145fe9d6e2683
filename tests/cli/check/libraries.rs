//! The search of libraries.

use super::programs::programs;
use super::{Pair, base};
use crate::support::newc::Archive;

/// Returns lint and path, and the message, of each finding in an overlay.
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

/// A program with a search directory for `libother.so.1` of its own.
fn vendor(overlay: &mut Archive) {
    overlay.program("opt/a/bin/tool", &programs().vendor_program);
    overlay.file("opt/a/lib/libother.so.1", &programs().other_library);
}

#[test]
fn library_in_the_rpath_of_another_program_is_not_found() {
    let made = programs();
    assert_eq!(found(vendor), []);
    let reported = found(|overlay| {
        vendor(overlay);
        overlay.program("usr/local/bin/b", &made.other_program);
    });
    assert_eq!(reported.len(), 1, "{reported:#?}");
    assert_eq!(reported[0].0, "works/elf-library /usr/local/bin/b");
    // The same applies to libraries that the program loads; the vendor's program finds the library.
    let reported = found(|overlay| {
        vendor(overlay);
        overlay.file("usr/lib/libmore.so.1", &made.more_library);
        overlay.program("usr/local/bin/c", &made.more_program);
        overlay.program("opt/a/bin/more", &made.vendor_more_program);
    });
    assert_eq!(reported.len(), 1, "{reported:#?}");
    assert_eq!(reported[0].0, "works/elf-library /usr/local/bin/c");
    let message = "it loads /usr/lib/libmore.so.1, which needs libother.so.1";
    assert!(reported[0].1.starts_with(message), "{reported:#?}");
}

#[test]
fn library_with_a_loader_uses_the_rpath_of_its_users() {
    let reported = found(|overlay| {
        vendor(overlay);
        overlay.program("opt/a/bin/more", &programs().vendor_more_program);
        overlay.program("opt/a/lib/libmore.so.1", &programs().more_library_that_runs);
    });
    assert_eq!(reported, []);
}

/// OpenJDK 17: `java` loads libjvm.so by its path, and then libjava.so, which needs libjvm.so and
/// does not find it by itself.
#[test]
fn openjdk_libraries_are_found() {
    let made = programs();
    let reported = found(|overlay| {
        overlay.program("usr/lib/jvm/bin/java", &made.java);
        overlay.file("usr/lib/jvm/lib/libjli.so", &made.libjli);
        overlay.file("usr/lib/jvm/lib/libjava.so", &made.libjava);
        overlay.file("usr/lib/jvm/lib/libnet.so", &made.libnet);
        overlay.file("usr/lib/jvm/lib/server/libjvm.so", &made.libjvm);
        overlay.file("usr/lib/jvm/lib/server/libjsig.so", &made.libjsig);
    });
    assert_eq!(reported, []);
}

#[test]
fn uncached_copy_is_skipped_if_another_one_is_found() {
    let made = programs();
    let mut base = base();
    base.file("usr/lib/libother.so.1", &made.other_library);
    base.program("usr/bin/other", &made.other_program);
    let copy = |overlay: &mut Archive| {
        overlay.file("opt/lib/libother.so.1", &made.other_library);
        overlay.program("usr/bin/more", &made.other_program);
    };
    assert_eq!(found_over(&base, copy), []);
    let reported = found(copy);
    assert_eq!(reported.len(), 1, "{reported:#?}");
    assert_eq!(reported[0].0, "works/linker-cache /usr/bin/more");
}

/// A linker's cache with this path.
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
fn cache_that_hides_a_newer_one_is_reported() {
    let made = programs();
    let mut base = base();
    base.file("opt/lib/libother.so.1", &made.other_library);
    base.program("usr/bin/other", &made.other_program);
    base.file("etc/ld.so.cache", cache("/opt/lib/libother.so.1"));
    let reported = found_over(&base, |overlay| {
        overlay.file("etc/ld.so.cache", super::empty_cache());
    });
    assert_eq!(reported.len(), 1, "{reported:#?}");
    assert_eq!(reported[0].0, "works/linker-cache /usr/bin/other");
    let reported = found_over(&base, |overlay| {
        overlay.file("etc/ld.so.cache", [cache("/opt/lib/libother.so.1"), vec![0]].concat());
    });
    assert_eq!(reported, []);
}

#[test]
fn truncated_library_is_reported() {
    let library = &programs().library;
    let reported = found(|overlay| {
        overlay.file("usr/lib/libdemo.so.1.0", &library[..1000]);
    });
    let damaged = "works/elf-damaged /usr/lib/libdemo.so.1.0";
    assert!(reported.iter().any(|(at, _)| at == damaged), "{reported:#?}");
    // A separate debug file.
    let reported = found(|overlay| {
        overlay.file("opt/libdemo.so.1.debug", &library[..1000]);
    });
    assert_eq!(reported, []);
}
