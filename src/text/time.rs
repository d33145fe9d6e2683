//! Formatting of times in UTC.

/// Formats a time in seconds since 1970, to the minute: `2023-11-14 22:13`, with `between` instead
/// of the space.
pub(crate) fn minute(seconds: i64, between: &str) -> String {
    let (days, minutes) = (seconds.div_euclid(86400), seconds.rem_euclid(86400) / 60);
    // Days are counted from 1 March of the year 0, so that a leap day is the last of a year. An era
    // has 400 years. 1970 begins 719,468 days later.
    let day = days + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + i64::from(month >= 10), (month + 2) % 12 + 1);
    let (hour, minute) = (minutes / 60, minutes % 60);
    format!("{year:04}-{month:02}-{date:02}{between}{hour:02}:{minute:02}")
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
        // Images can contain any time.
        minute(i64::MIN, " ");
        minute(i64::MAX, " ");
    }
}
