//! What of a content a request is to be answered with: RFC 9110, sections 13 and 14.
//!
//! One range is answered with that part; several are answered with the whole, as a server may.
//! What cannot be understood is passed over, as if it were not there.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use hyper::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};

/// By what a content is told from others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validators<'a> {
    /// Its strong entity tag, in quotation marks.
    pub(super) etag: &'a str,
    /// Nothing for what is made when it is asked for.
    pub(super) modified: Option<SystemTime>,
    pub(super) size: u64,
}

/// What to answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// All of it.
    Whole,
    /// These bytes; there is at least one.
    Part(Range<u64>),
    /// That there are no such bytes.
    Unsatisfiable,
    /// That who asks has it already.
    NotModified,
    /// That it is not what who asks wants to have.
    Failed,
}

/// Judges the conditions and the range of a request; a range counts for GET alone.
pub(super) fn judge(headers: &HeaderMap, get: bool, of: Validators<'_>) -> Answer {
    let date = |name: HeaderName| {
        let text = headers.get(name)?.to_str().ok()?;
        let date = httpdate::parse_http_date(text).ok()?;
        of.modified.map(|modified| (date, whole_seconds(modified)))
    };
    if headers.contains_key(IF_MATCH) {
        if !matches(headers, IF_MATCH, of.etag, false) {
            return Answer::Failed;
        }
    } else if date(IF_UNMODIFIED_SINCE).is_some_and(|(date, modified)| modified > date) {
        return Answer::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if matches(headers, IF_NONE_MATCH, of.etag, true) {
            return Answer::NotModified;
        }
    } else if date(IF_MODIFIED_SINCE).is_some_and(|(date, modified)| modified <= date) {
        return Answer::NotModified;
    }
    if get && if_range(headers, of) { range(headers, of.size) } else { Answer::Whole }
}

/// Whether a list of entity tags has this one; a weak one is the same only if that will do.
fn matches(headers: &HeaderMap, name: HeaderName, etag: &str, weak: bool) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|list| {
        list.split(',').map(str::trim).any(|tag| {
            let tag = if weak { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
            tag == "*" || tag == etag
        })
    })
}

/// Whether the range counts: who asks has a part of this content.
fn if_range(headers: &HeaderMap, of: Validators<'_>) -> bool {
    let Some(value) = headers.get(IF_RANGE) else { return true };
    let Ok(text) = value.to_str().map(str::trim) else { return false };
    if text.ends_with('"') {
        return text == of.etag;
    }
    let (Ok(date), Some(modified)) = (httpdate::parse_http_date(text), of.modified) else {
        return false;
    };
    // Within a second there may have been two contents.
    let settled = SystemTime::now().duration_since(modified).is_ok_and(|age| age.as_secs() > 0);
    date == whole_seconds(modified) && settled
}

fn range(headers: &HeaderMap, size: u64) -> Answer {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Answer::Whole };
    let Ok(text) = value.to_str() else { return Answer::Whole };
    let Some((unit, set)) = text.split_once('=') else { return Answer::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Answer::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Answer::Whole };
    let (first, last) = match (position(first), position(last)) {
        (Some(Place::At(first)), Some(Place::At(last))) if first > last => return Answer::Whole,
        (Some(Place::At(first)), Some(Place::At(last))) => (first, last.saturating_add(1)),
        (Some(Place::At(first)), Some(Place::Open)) => (first, size),
        (Some(Place::Open), Some(Place::At(0))) => return Answer::Unsatisfiable,
        (Some(Place::Open), Some(Place::At(length))) => (size.saturating_sub(length), size),
        _ => return Answer::Whole,
    };
    if first >= size { Answer::Unsatisfiable } else { Answer::Part(first..last.min(size)) }
}

enum Place {
    /// Nothing is said.
    Open,
    At(u64),
}

/// Digits; more than there are bytes in the world is as good as the most that fits.
fn position(text: &str) -> Option<Place> {
    match text {
        "" => Some(Place::Open),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(Place::At(digits.parse().unwrap_or(u64::MAX)))
        }
        _ => None,
    }
}

/// A time as HTTP can say it.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"abc\"";

    fn asked(headers: &[(HeaderName, &str)], size: u64) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        let modified = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500));
        judge(&map, true, Validators { etag: ETAG, modified, size })
    }

    #[test]
    fn a_range_is_what_it_says_within_the_content() {
        for (range, answer) in [
            ("bytes=0-0", Answer::Part(0..1)),
            ("bytes=0-99", Answer::Part(0..100)),
            ("bytes=0-100", Answer::Part(0..100)),
            ("bytes=99-", Answer::Part(99..100)),
            ("bytes=-1", Answer::Part(99..100)),
            ("bytes=-1000", Answer::Part(0..100)),
            ("Bytes=5-9", Answer::Part(5..10)),
            ("bytes=1-99999999999999999999999999", Answer::Part(1..100)),
            ("bytes=0-18446744073709551615", Answer::Part(0..100)),
            ("bytes=100-", Answer::Unsatisfiable),
            ("bytes=99999999999999999999999999-", Answer::Unsatisfiable),
            ("bytes=-0", Answer::Unsatisfiable),
        ] {
            assert_eq!(asked(&[(RANGE, range)], 100), answer, "{range}");
        }
        assert_eq!(asked(&[(RANGE, "bytes=0-")], 0), Answer::Unsatisfiable);
    }

    #[test]
    fn what_is_no_range_is_passed_over() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=9-5",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1",
            "bytes=1--2",
            "bytes=0x1-2",
            "lines=1-2",
            "bytes=0-1,3-4",
            "bytes=0-0,0-0,0-0",
        ] {
            assert_eq!(asked(&[(RANGE, range)], 100), Answer::Whole, "{range}");
        }
        let twice = [(RANGE, "bytes=0-1"), (RANGE, "bytes=2-3")];
        assert_eq!(asked(&twice, 100), Answer::Whole);
    }

    #[test]
    fn conditions_are_judged_by_the_tag_and_then_by_the_time() {
        let (at, before, after) = (
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:19 GMT",
            "Tue, 14 Nov 2023 22:13:21 GMT",
        );
        let range = (RANGE, "bytes=0-1");
        let part = Answer::Part(0..2);
        for (headers, answer) in [
            (vec![(IF_NONE_MATCH, ETAG)], Answer::NotModified),
            (vec![(IF_NONE_MATCH, "\"x\", W/\"abc\"")], Answer::NotModified),
            (vec![(IF_NONE_MATCH, "*")], Answer::NotModified),
            (vec![(IF_NONE_MATCH, "\"x\"")], Answer::Whole),
            (vec![(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, after)], Answer::Whole),
            (vec![(IF_MODIFIED_SINCE, at)], Answer::NotModified),
            (vec![(IF_MODIFIED_SINCE, before)], Answer::Whole),
            (vec![(IF_MODIFIED_SINCE, "yesterday")], Answer::Whole),
            (vec![(IF_MATCH, ETAG)], Answer::Whole),
            (vec![(IF_MATCH, "W/\"abc\"")], Answer::Failed),
            (vec![(IF_MATCH, "\"x\"")], Answer::Failed),
            (vec![(IF_UNMODIFIED_SINCE, before)], Answer::Failed),
            (vec![(IF_UNMODIFIED_SINCE, at)], Answer::Whole),
            (vec![(IF_RANGE, ETAG), range.clone()], part.clone()),
            (vec![(IF_RANGE, "W/\"abc\""), range.clone()], Answer::Whole),
            (vec![(IF_RANGE, "\"x\""), range.clone()], Answer::Whole),
            (vec![(IF_RANGE, at), range.clone()], part),
            (vec![(IF_RANGE, after), range.clone()], Answer::Whole),
            (vec![(IF_RANGE, "nonsense"), range.clone()], Answer::Whole),
        ] {
            assert_eq!(asked(&headers, 100), answer, "{headers:?}");
        }
    }

    #[test]
    fn a_range_counts_for_get_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, "bytes=0-1".parse().unwrap());
        let of = Validators { etag: ETAG, modified: None, size: 100 };
        assert_eq!(judge(&headers, false, of), Answer::Whole);
    }
}
