//! Formatting of times in UTC.

use jiff::Timestamp;

/// Formats a time in seconds since 1970, to the minute: `2023-11-14 22:13`, with `between` instead
/// of the space. Images can contain any time: those before the year -9999 or after 9999 are
/// formatted as seconds, `@253402300800`, as `date` reads them.
pub(crate) fn minute(seconds: i64, between: &str) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) => format!("{}{between}{}", time.strftime("%Y-%m-%d"), time.strftime("%H:%M")),
        Err(_) => format!("@{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted() {
        for (seconds, text) in [
            (-1, "1969-12-31 23:59"),
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (951_868_800, "2000-03-01 00:00"),
            (1_700_000_000, "2023-11-14 22:13"),
            (1_735_689_599, "2024-12-31 23:59"),
            (4_107_542_400, "2100-03-01 00:00"),
        ] {
            assert_eq!(minute(seconds, " "), text);
        }
        assert_eq!(minute(i64::MIN, " "), "@-9223372036854775808");
        assert_eq!(minute(i64::MAX, " "), "@9223372036854775807");
    }
}
