//! Versions of kernel images.

/// Returns the version of a kernel image, as printed by `uname -r`: from the header of a bzImage
/// (`Documentation/arch/x86/boot.rst`), or from the banner of an uncompressed image.
pub(super) fn kernel_version(image: &[u8]) -> Option<String> {
    let word = |text: &[u8]| {
        let end = text.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(text.len());
        String::from_utf8(text[..end.min(256)].to_vec()).ok().filter(|word| !word.is_empty())
    };
    if image.get(0x202..0x206) == Some(b"HdrS") {
        let pointer = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
        return word(image.get(usize::from(pointer) + 0x200..)?);
    }
    const BANNER: &[u8] = b"Linux version ";
    let at = image.windows(BANNER.len()).position(|window| window == BANNER)?;
    word(&image[at + BANNER.len()..])
}
