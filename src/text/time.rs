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

/// Formats how long ago a time in seconds since 1970 was: `just now`, `5 min ago`, `3 h ago`,
/// `2 days ago`. A time in the future is `just now`.
pub(crate) fn ago(seconds: i64) -> String {
    ago_at(seconds, Timestamp::now().as_second())
}

fn ago_at(seconds: i64, now: i64) -> String {
    let minutes = now.saturating_sub(seconds).max(0) / 60;
    match (minutes, minutes / 60, minutes / 60 / 24) {
        (0, ..) => "just now".to_owned(),
        (_, 0, _) => format!("{minutes} min ago"),
        (_, hours, 0 | 1) => format!("{hours} h ago"),
        (.., days) => format!("{days} days ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        for (age, text) in [
            (-5, "just now"),
            (59, "just now"),
            (60, "1 min ago"),
            (3599, "59 min ago"),
            (3600, "1 h ago"),
            (48 * 3600 - 1, "47 h ago"),
            (48 * 3600, "2 days ago"),
            (400 * 24 * 3600, "400 days ago"),
        ] {
            assert_eq!(ago_at(1_700_000_000, 1_700_000_000 + age), text);
        }
        assert_eq!(ago_at(i64::MAX, i64::MIN), "just now");
    }

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
