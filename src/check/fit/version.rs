//! Versions of Debian packages in their order (deb-version(7)).

use std::cmp::Ordering;

/// Compares two versions as dpkg does.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (a_epoch, a_upstream, a_revision) = split(a);
    let (b_epoch, b_upstream, b_revision) = split(b);
    a_epoch
        .cmp(&b_epoch)
        .then_with(|| part(a_upstream.as_bytes(), b_upstream.as_bytes()))
        .then_with(|| part(a_revision.as_bytes(), b_revision.as_bytes()))
}

fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch.parse().unwrap_or(0), upstream, revision)
}

/// What is no digit, and then a number, by turns.
fn part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (a_text, a_rest) = take(a, |byte| !byte.is_ascii_digit());
        let (b_text, b_rest) = take(b, |byte| !byte.is_ascii_digit());
        for at in 0..a_text.len().max(b_text.len()) {
            match order(a_text.get(at)).cmp(&order(b_text.get(at))) {
                Ordering::Equal => {}
                other => return other,
            }
        }
        let (a_digits, a_after) = take(a_rest, |byte| byte.is_ascii_digit());
        let (b_digits, b_after) = take(b_rest, |byte| byte.is_ascii_digit());
        let (a_number, b_number) = (strip(a_digits), strip(b_digits));
        match a_number.len().cmp(&b_number.len()).then_with(|| a_number.cmp(b_number)) {
            Ordering::Equal => {}
            other => return other,
        }
        (a, b) = (a_after, b_after);
    }
    Ordering::Equal
}

fn take(text: &[u8], is: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|&byte| !is(byte)).unwrap_or(text.len()))
}

fn strip(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().position(|&byte| byte != b'0').unwrap_or(digits.len())..]
}

/// A tilde before the end, the end before letters, letters before all else.
fn order(byte: Option<&u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_that_dpkg_has_them_in() {
        let rising = [
            "0~~",
            "0~~a",
            "0~",
            "0",
            "1.0~rc1",
            "1.0",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1+deb12u1",
            "1.0-2",
            "1.0a",
            "1.0+dfsg-1",
            "1.9",
            "1.10",
            "2.36-9+deb12u9",
            "2.36-9+deb12u10",
            "1:0.1",
        ];
        for (index, one) in rising.iter().enumerate() {
            for (other_index, other) in rising.iter().enumerate() {
                assert_eq!(compare(one, other), index.cmp(&other_index), "{one} {other}");
            }
        }
        assert_eq!(compare("1.0-1", "0:1.00-01"), Ordering::Equal);
    }
}
