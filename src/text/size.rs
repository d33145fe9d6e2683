//! Formatting of sizes.

use bytesize::ByteSize;

/// Formats a number of bytes for people, in decimal units.
pub(crate) fn size_text(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{:.1}", ByteSize(bytes).display().si()),
        _ => format!("{:.2}", ByteSize(bytes).display().si()),
    }
}

#[cfg(test)]
mod tests {
    use super::size_text;

    #[test]
    fn sizes_have_decimal_units() {
        assert_eq!(size_text(999), "999 bytes");
        assert_eq!(size_text(1000), "1.0 kB");
        assert_eq!(size_text(1_234_567), "1.23 MB");
        assert_eq!(size_text(12_345_678_901), "12.35 GB");
    }
}
