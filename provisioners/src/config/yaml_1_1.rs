//! Unquoted scalars by the rules of YAML 1.1 as PyYAML implements them, which reads the files of
//! Ansible.
//!
//! `tests::scalars_have_the_values_of_pyyaml` compares them with PyYAML itself.

/// The value of an unquoted scalar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar11 {
    /// Null.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A whole number beyond 64 bits, in decimal digits.
    LongInteger(String),
    /// Another number.
    Float(f64),
    /// A time or day, in the form in which Python writes it.
    Time(String),
    /// Text, and scalars that PyYAML rejects, such as `=` and days that do not exist.
    Text,
}

/// Returns the value of an unquoted scalar.
pub(crate) fn resolve(text: &str) -> Scalar11 {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar11::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Scalar11::Bool(true);
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar11::Bool(false);
        }
        _ => {}
    }
    let number = float(text).map(Scalar11::Float).or_else(|| integer(text));
    number.or_else(|| time(text).map(Scalar11::Time)).unwrap_or(Scalar11::Text)
}

/// Writes a number without an exponent, which YAML 1.1 and 1.2 read differently.
pub(crate) fn float_text(value: f64) -> String {
    let text = value.to_string();
    if value.is_finite() && !text.contains('.') { format!("{text}.0") } else { text }
}

/// Splits a number at its sign; returns whether it is negative.
fn split_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Returns whether a text is not empty and has only these characters and underscores.
fn is_digits(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(|c| c == '_' || allowed(c))
}

/// Returns whether a text is a decimal number, possibly with underscores after the first digit.
fn is_decimal(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit()) && is_digits(text, |c| c.is_ascii_digit())
}

/// Splits a number of base 60, such as `12:30`, at its colons; returns `None` if it is not one.
fn sexagesimal(text: &str) -> Option<(&str, Vec<&str>)> {
    let (first, rest) = text.split_once(':')?;
    let rest: Vec<&str> = rest.split(':').collect();
    let is_part = |part: &&str| match part.as_bytes() {
        [one] => one.is_ascii_digit(),
        [ten, one] => (b'0'..=b'5').contains(ten) && one.is_ascii_digit(),
        _ => false,
    };
    (is_decimal(first) && rest.iter().all(is_part)).then_some((first, rest))
}

fn integer(text: &str) -> Option<Scalar11> {
    let (is_negative, digits) = split_sign(text);
    let plain = |digits: &str| digits.replace('_', "");
    let number = if let Some(digits) = digits.strip_prefix("0b") {
        is_digits(digits, |c| matches!(c, '0' | '1'))
            .then(|| i128::from_str_radix(&plain(digits), 2).ok())?
    } else if let Some(digits) = digits.strip_prefix("0x") {
        is_digits(digits, |c| c.is_ascii_hexdigit())
            .then(|| i128::from_str_radix(&plain(digits), 16).ok())?
    } else if digits.len() > 1 && digits.starts_with('0') {
        is_digits(digits, |c| matches!(c, '0'..='7'))
            .then(|| i128::from_str_radix(&plain(digits), 8).ok())?
    } else if is_decimal(digits) {
        let digits = plain(digits);
        let number = digits.parse().ok();
        if number.is_none() {
            let sign = if is_negative { "-" } else { "" };
            return Some(Scalar11::LongInteger(format!("{sign}{digits}")));
        }
        number
    } else {
        let (first, rest) = sexagesimal(digits)?;
        rest.into_iter().try_fold(plain(first).parse::<i128>().ok()?, |number, part| {
            number.checked_mul(60)?.checked_add(part.parse().ok()?)
        })
    }?;
    let number = if is_negative { -number } else { number };
    Some(match i64::try_from(number) {
        Ok(number) => Scalar11::Integer(number),
        Err(_) => Scalar11::LongInteger(number.to_string()),
    })
}

fn float(text: &str) -> Option<f64> {
    let (is_negative, unsigned) = split_sign(text);
    let signed = |number: f64| if is_negative { -number } else { number };
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Some(signed(f64::INFINITY));
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(f64::NAN);
    }
    let (whole, rest) = unsigned.split_once('.')?;
    let (fraction, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let has_exponent_sign = |exponent: &str| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    if exponent.is_some_and(|exponent| !has_exponent_sign(exponent)) {
        return None;
    }
    let is_fraction = fraction.is_empty() || is_digits(fraction, |c| c.is_ascii_digit());
    if let Some((first, rest)) = sexagesimal(whole) {
        if exponent.is_some() || !is_fraction {
            return None;
        }
        // The last part has the fraction. Python adds the parts in this order.
        let parts = [first].into_iter().chain(rest).map(|part| part.replace('_', ""));
        let mut parts: Vec<String> = parts.collect();
        if let Some(last) = parts.last_mut() {
            last.push_str(&format!(".{}", fraction.replace('_', "")));
        }
        let mut base = 1.0;
        let mut number = 0.0;
        for part in parts.iter().rev() {
            number += part.parse::<f64>().ok()? * base;
            base *= 60.0;
        }
        return Some(signed(number));
    }
    let is_number = match whole {
        // A sign before the point is not allowed.
        "" => unsigned == text && is_decimal(fraction),
        _ => is_decimal(whole) && is_fraction,
    };
    is_number.then(|| unsigned.replace('_', "").parse().ok().map(signed))?
}

/// Returns a day or a time in the form in which Python writes it.
fn time(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (year, rest) = digits(bytes, 4, 4)?;
    let (month, rest) = digits(rest.strip_prefix(b"-")?, 1, 2)?;
    let (day, rest) = digits(rest.strip_prefix(b"-")?, 1, 2)?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year == 0 || !(1..=days).contains(&day) {
        return None;
    }
    let date = format!("{year:04}-{month:02}-{day:02}");
    if rest.is_empty() {
        // A day alone has two digits for each part.
        return (date == text).then_some(date);
    }
    let blanks = |bytes: &[u8]| bytes.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let rest = match rest.first()? {
        b'T' | b't' => &rest[1..],
        _ => Some(&rest[blanks(rest)..]).filter(|after| after.len() < rest.len())?,
    };
    let (hour, rest) = digits(rest, 1, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(b":")?, 2, 2)?;
    let (second, rest) = digits(rest.strip_prefix(b":")?, 2, 2)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut time = format!("{date} {hour:02}:{minute:02}:{second:02}");
    let rest = match rest.strip_prefix(b".") {
        Some(rest) => {
            let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let fraction: String = rest[..count.min(6)].iter().map(|b| char::from(*b)).collect();
            if fraction.bytes().any(|b| b != b'0') {
                time.push_str(&format!(".{fraction:0<6}"));
            }
            &rest[count..]
        }
        None => rest,
    };
    if rest.is_empty() {
        return Some(time);
    }
    let zone = &rest[blanks(rest)..];
    let Some(sign) = zone.first().filter(|b| matches!(b, b'+' | b'-')) else {
        return (zone == b"Z").then(|| format!("{time}+00:00"));
    };
    let (hours, rest) = digits(&zone[1..], 1, 2)?;
    let minutes = match rest {
        [] => 0,
        rest => digits(rest.strip_prefix(b":")?, 2, 2).filter(|(_, rest)| rest.is_empty())?.0,
    };
    let offset = hours * 60 + minutes;
    if offset >= 24 * 60 {
        return None;
    }
    let sign = if offset == 0 { '+' } else { char::from(*sign) };
    Some(format!("{time}{sign}{:02}:{:02}", offset / 60, offset % 60))
}

/// Reads a number of this many digits at the start of a text.
fn digits(text: &[u8], least: usize, most: usize) -> Option<(u32, &[u8])> {
    let count = text.iter().take(most).take_while(|b| b.is_ascii_digit()).count();
    let number = text[..count].iter().fold(0, |number, b| number * 10 + u32::from(b - b'0'));
    (count >= least).then(|| (number, &text[count..]))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// Writes the value that PyYAML gives to each scalar, which are one per line.
    const PYYAML: &str = r#"
import datetime, sys, yaml
for line in sys.stdin.read().split("\n"):
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, line, (True, False))
    try:
        value = loader.construct_object(yaml.ScalarNode(tag, line))
    except (ValueError, OverflowError, yaml.YAMLError):
        print("text")
        continue
    if value is None: print("null")
    elif isinstance(value, bool): print("bool", str(value).lower())
    elif isinstance(value, int) and -2**63 <= value < 2**63: print("integer", value)
    elif isinstance(value, int): print("long", value)
    elif isinstance(value, float): print("float", value.hex() if value == value else "nan")
    elif isinstance(value, (datetime.date, datetime.datetime)): print("time", value)
    else: print("text")
"#;

    /// Scalars of all forms, and forms that differ from them in one part.
    fn scalars() -> Vec<String> {
        let mut scalars: Vec<String> = "
            y Y n N yes Yes YES yEs no No NO nO on On ON oN off Off OFF oFF true True TRUE tRUE
            false False FALSE fALSE null Null NULL nULL ~ none None nil = << < <<< ! & * - + . .. _
            __ -_ +_ 0_ 0__ _0 -0_ 1_ 1__0 -1_0 +1_0 1_000 1_000_000 1_000.5 1_0.5_0 1,000 00 000
            0755 -0755 +0755 0_7 07_ 08 09 -08 0789 0o22 0O22 -0o7 0o 0b 0b_ 0b1 0b11 0b1_1 0b12
            -0b11 +0b1 0B1 0x 0x_ 0x1f 0x_1f 0x1F 0X1F -0x1f +0xff 0xfg 0x1_f 0xffffffffffffffff
            7e4 7E4 7e+4 7.0e4 7.0e+4 7.0E-4 7.e+4 7.e4 .5e+4 .5e4 1e3 1e-3 1.5e 1.5e+ 1.5e+_1 1.
            1.5 -1.5 +1.5 -1. +1. .5 -.5 +.5 ._5 .5_ .5_0 0.0 -0.0 0. 00.5 01.5 1._ 1._5 1.5. 1.5.2
            .inf .Inf .INF .iNF -.inf +.inf +.Inf .nan .NaN .NAN .Nan -.nan +.nan inf nan Infinity
            1:30 22:22 12:30:45 -1:30 +1:30 1:60 1:5 1:05 1:005 1: :1 0:30 00:30 01:30 1_0:30 1:3_0
            1:30: 1::30 8080:80 190:20:30 190:20:30.15 190:20:30. 1:30.5 -1:30.5 0:30.5 1:30.5_5
            1:60.5 1:30.5e+1 1_0:30.5 1:30._ 52:54:00:12:34:56 1:1:1:1:1:1:1:1:1:1:1:1:1
            2020-01-01 2020-1-1 2020-13-01 2020-02-30 2020-02-29 2021-02-29 1900-02-29 2000-02-29
            0000-01-01 0001-01-01 9999-12-31 2020-01-01x 20-01-01 2020-01-1 2020-00-01 2020-01-00
            2020-01-01T00:00:00 2020-01-01t1:02:03 2020-1-1T1:02:03 2020-01-01T1:2:3 2020-01-01T
            2020-01-01T24:00:00 2020-01-01T23:60:00 2020-01-01T23:59:60 2020-01-01T10:20:30.
            2020-01-01T10:20:30.5 2020-01-01T10:20:30.000 2020-01-01T10:20:30.123456789
            2020-01-01T10:20:30.0000009 2020-01-01T10:20:30Z 2020-01-01T10:20:30z
            2020-01-01T10:20:30+1 2020-01-01T10:20:30-05 2020-01-01T10:20:30+05:30
            2020-01-01T10:20:30-00:00 2020-01-01T10:20:30-0:30 2020-01-01T10:20:30+24:00
            2020-01-01T10:20:30+23:59 2020-01-01T10:20:30+23:99 2020-01-01T10:20:30+5:3
            2020-01-01T10:20:30.1Z 2020-02-30T10:20:30 2020-01-01Z 2020-01-01T10:20
            9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809
            123456789012345678901234567890 -123456789012345678901234567890123456789012345678901
            0777777777777777777777777 1_000_000_000_000_000_000_000 1e400 1.0e+400 1.0e-400
            0.1 0.30000000000000004 1.10 22.04 6.1.0-28 v1 1a a1 0a 0xg -- ++1 +-1 --1 1- 1+ +
            192.168.0.1 10:00:5e:00:53:01 127.0.0.1:8080 %d @x a:b 1:a a:1 1/2 1% $5 #x
        "
        .split_whitespace()
        .map(str::to_owned)
        .collect();
        for text in ["", "a b", "1 2", "2020-01-01 10:20:30", "2020-01-01  \t10:20:30 -5"] {
            scalars.push(text.to_owned());
        }
        for text in ["2020-01-01 10:20:30.25 Z", "2020-01-01 10:20", "2020-01-01 ", "1:30 "] {
            scalars.push(text.to_owned());
        }
        for sign in ["", "-", "+"] {
            for prefix in ["", "0", "0b", "0o", "0x", "1_", "1:", "."] {
                for digits in ["0", "1", "8", "10", "59", "60", "1.5", "1.", "1e5", "1.e+5", "f"] {
                    scalars.push(format!("{sign}{prefix}{digits}"));
                }
            }
        }
        scalars
    }

    #[test]
    fn scalars_have_the_values_of_pyyaml() {
        let scalars = scalars();
        // Ansible has PyYAML in the Python of the system.
        let mut python = Command::new("/usr/bin/python3")
            .args(["-c", PYYAML])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut input = python.stdin.take().expect("a pipe");
        input.write_all(scalars.join("\n").as_bytes()).unwrap();
        drop(input);
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "python3-yaml is installed");
        let output = String::from_utf8(output.stdout).unwrap();
        let wanted: Vec<&str> = output.lines().collect();
        assert_eq!(wanted.len(), scalars.len());
        assert!(scalars.len() > 400);
        for (text, wanted) in scalars.iter().zip(wanted) {
            let found = match resolve(text) {
                Scalar11::Null => "null".to_owned(),
                Scalar11::Bool(value) => format!("bool {value}"),
                Scalar11::Integer(value) => format!("integer {value}"),
                Scalar11::LongInteger(value) => format!("long {value}"),
                Scalar11::Float(value) => format!("float {}", hex(value)),
                Scalar11::Time(value) => format!("time {value}"),
                Scalar11::Text => "text".to_owned(),
            };
            assert_eq!(found, wanted, "{text:?}");
        }
    }

    /// Returns a number as Python's `float.hex` does.
    fn hex(value: f64) -> String {
        let sign = if value.is_sign_negative() { "-" } else { "" };
        let bits = value.to_bits();
        let exponent = i64::try_from(bits >> 52 & 0x7ff).unwrap();
        let fraction = bits & ((1 << 52) - 1);
        match value {
            _ if value.is_nan() => "nan".to_owned(),
            _ if value.is_infinite() => format!("{sign}inf"),
            _ if value == 0.0 => format!("{sign}0x0.0p+0"),
            _ => format!("{sign}0x1.{fraction:013x}p{:+}", exponent - 1023),
        }
    }

    #[test]
    fn numbers_are_written_without_exponents() {
        for (value, text) in [(1e16, "10000000000000000.0"), (1.0, "1.0"), (1e-7, "0.0000001")] {
            assert_eq!(float_text(value), text);
            assert_eq!(resolve(text), Scalar11::Float(value));
        }
    }
}
