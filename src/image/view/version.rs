//! Compares Debian versions: deb-version(7), *Sorting algorithm*.

use std::cmp::Ordering;

/// Compares two versions as dpkg does. Invalid versions are ordered, too.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (split(a), split(b));
    number(a.0.as_bytes())
        .cmp(&number(b.0.as_bytes()))
        .then_with(|| part(a.1.as_bytes(), b.1.as_bytes()))
        .then_with(|| part(a.2.as_bytes(), b.2.as_bytes()))
}

/// Splits a version into epoch, upstream version and revision.
fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Compares alternately the longest prefixes without digits and with digits only.
fn part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (word_a, word_b) =
            (until(&mut a, u8::is_ascii_digit), until(&mut b, u8::is_ascii_digit));
        let order = word(word_a, word_b);
        let not_digit = |byte: &u8| !byte.is_ascii_digit();
        let (number_a, number_b) = (until(&mut a, not_digit), until(&mut b, not_digit));
        let order = order.then_with(|| number(number_a).cmp(&number(number_b)));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Removes and returns the prefix before the first byte for which `end` is true.
fn until<'a>(text: &mut &'a [u8], end: impl Fn(&u8) -> bool) -> &'a [u8] {
    let (taken, rest) = text.split_at(text.iter().position(end).unwrap_or(text.len()));
    *text = rest;
    taken
}

/// Compares two non-digit parts: a tilde sorts before the end, letters after it, and all other
/// bytes after the letters.
fn word(a: &[u8], b: &[u8]) -> Ordering {
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(&byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(&byte) => i32::from(byte) + 256,
    };
    let weights = |at| weight(a.get(at)).cmp(&weight(b.get(at)));
    (0..a.len().max(b.len())).map(weights).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// Returns a key that orders decimal numbers of any length.
fn number(digits: &[u8]) -> Number<'_> {
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    let digits = &digits[zeros..];
    Number { length: digits.len(), digits }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Number<'a> {
    length: usize,
    digits: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_dpkg_sorts_them() {
        let versions = [
            "1.0",
            "1.0-0",
            "1.0-1",
            "1.0~rc1",
            "1.0~~",
            "1.0+b1",
            "1.0a",
            "1:0.1",
            "0:1.0",
            "1.10",
            "1.9",
            "1.010",
            "2.36-9+deb12u10",
            "2.36-9+deb12u9",
            "2.36-9",
            "20230101-1~bpo11+1",
            "1.0-1.1",
            "1.0-1-1",
            "123456789012345678901234567890",
            "99999999999999999999999",
        ];
        for (index, a) in versions.iter().enumerate() {
            for b in &versions[index..] {
                let dpkg = |relation| {
                    let command = std::process::Command::new("dpkg")
                        .args(["--compare-versions", a, relation, b])
                        .status();
                    command.unwrap().success()
                };
                let order = match (dpkg("lt"), dpkg("gt")) {
                    (true, false) => Ordering::Less,
                    (false, true) => Ordering::Greater,
                    _ => Ordering::Equal,
                };
                assert_eq!(compare(a, b), order, "{a} {b}");
            }
        }
    }
}
