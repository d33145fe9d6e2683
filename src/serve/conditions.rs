//! Conditional and range requests: RFC 9110, sections 13 and 14.
//!
//! A single range is answered with that part, several ranges with the whole content, as a server
//! may. Invalid fields are ignored.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use hyper::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};

/// The validators of a content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validators<'a> {
    /// Its strong entity tag, with the quotation marks.
    pub(super) etag: &'a str,
    /// `None` for generated content.
    pub(super) modified: Option<SystemTime>,
    pub(super) size: u64,
}

/// The kind of response to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestOutcome {
    /// The whole content.
    Whole,
    /// This byte range, which is not empty.
    Part(Range<u64>),
    /// The range is not satisfiable.
    Unsatisfiable,
    /// The client has the current content.
    NotModified,
    /// A precondition failed.
    Failed,
}

/// Evaluates the conditions and the range of a request. Ranges apply to GET only.
pub(super) fn evaluate(headers: &HeaderMap, get: bool, of: Validators<'_>) -> RequestOutcome {
    let date = |name: HeaderName| {
        let text = headers.get(name)?.to_str().ok()?;
        let date = httpdate::parse_http_date(text).ok()?;
        of.modified.map(|modified| (date, whole_seconds(modified)))
    };
    if headers.contains_key(IF_MATCH) {
        if !matches(headers, IF_MATCH, of.etag, false) {
            return RequestOutcome::Failed;
        }
    } else if date(IF_UNMODIFIED_SINCE).is_some_and(|(date, modified)| modified > date) {
        return RequestOutcome::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if matches(headers, IF_NONE_MATCH, of.etag, true) {
            return RequestOutcome::NotModified;
        }
    } else if date(IF_MODIFIED_SINCE).is_some_and(|(date, modified)| modified <= date) {
        return RequestOutcome::NotModified;
    }
    if get && if_range(headers, of) { range(headers, of.size) } else { RequestOutcome::Whole }
}

/// Whether a list of entity tags contains this one. `weak` selects the weak comparison.
fn matches(headers: &HeaderMap, name: HeaderName, etag: &str, weak: bool) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|list| {
        list.split(',').map(str::trim).any(|tag| {
            let tag = if weak { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
            tag == "*" || tag == etag
        })
    })
}

/// Whether `If-Range` allows the range: the client's partial content is of this version.
fn if_range(headers: &HeaderMap, of: Validators<'_>) -> bool {
    let Some(value) = headers.get(IF_RANGE) else { return true };
    let Ok(text) = value.to_str().map(str::trim) else { return false };
    if text.ends_with('"') {
        return text == of.etag;
    }
    let (Ok(date), Some(modified)) = (httpdate::parse_http_date(text), of.modified) else {
        return false;
    };
    // The content can change twice within one second.
    let settled = SystemTime::now().duration_since(modified).is_ok_and(|age| age.as_secs() > 0);
    date == whole_seconds(modified) && settled
}

fn range(headers: &HeaderMap, size: u64) -> RequestOutcome {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return RequestOutcome::Whole };
    let Ok(text) = value.to_str() else { return RequestOutcome::Whole };
    let Some((unit, set)) = text.split_once('=') else { return RequestOutcome::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return RequestOutcome::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return RequestOutcome::Whole };
    let (first, last) = match (position(first), position(last)) {
        (Some(RangeBound::At(first)), Some(RangeBound::At(last))) if first > last => {
            return RequestOutcome::Whole;
        }
        (Some(RangeBound::At(first)), Some(RangeBound::At(last))) => {
            (first, last.saturating_add(1))
        }
        (Some(RangeBound::At(first)), Some(RangeBound::Open)) => (first, size),
        (Some(RangeBound::Open), Some(RangeBound::At(0))) => return RequestOutcome::Unsatisfiable,
        (Some(RangeBound::Open), Some(RangeBound::At(length))) => {
            (size.saturating_sub(length), size)
        }
        _ => return RequestOutcome::Whole,
    };
    if first >= size {
        RequestOutcome::Unsatisfiable
    } else {
        RequestOutcome::Part(first..last.min(size))
    }
}

enum RangeBound {
    /// Empty.
    Open,
    At(u64),
}

/// Parses a byte position. Numbers that do not fit are clamped to `u64::MAX`.
fn position(text: &str) -> Option<RangeBound> {
    match text {
        "" => Some(RangeBound::Open),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(RangeBound::At(digits.parse().unwrap_or(u64::MAX)))
        }
        _ => None,
    }
}

/// Truncates a time to whole seconds, the precision of HTTP dates.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"abc\"";

    fn outcome(headers: &[(HeaderName, &str)], size: u64) -> RequestOutcome {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        let modified = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500));
        evaluate(&map, true, Validators { etag: ETAG, modified, size })
    }

    #[test]
    fn ranges_are_clamped_to_the_content() {
        for (range, answer) in [
            ("bytes=0-0", RequestOutcome::Part(0..1)),
            ("bytes=0-99", RequestOutcome::Part(0..100)),
            ("bytes=0-100", RequestOutcome::Part(0..100)),
            ("bytes=99-", RequestOutcome::Part(99..100)),
            ("bytes=-1", RequestOutcome::Part(99..100)),
            ("bytes=-1000", RequestOutcome::Part(0..100)),
            ("Bytes=5-9", RequestOutcome::Part(5..10)),
            ("bytes=1-99999999999999999999999999", RequestOutcome::Part(1..100)),
            ("bytes=0-18446744073709551615", RequestOutcome::Part(0..100)),
            ("bytes=100-", RequestOutcome::Unsatisfiable),
            ("bytes=99999999999999999999999999-", RequestOutcome::Unsatisfiable),
            ("bytes=-0", RequestOutcome::Unsatisfiable),
        ] {
            assert_eq!(outcome(&[(RANGE, range)], 100), answer, "{range}");
        }
        assert_eq!(outcome(&[(RANGE, "bytes=0-")], 0), RequestOutcome::Unsatisfiable);
    }

    #[test]
    fn invalid_and_multiple_ranges_are_ignored() {
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
            assert_eq!(outcome(&[(RANGE, range)], 100), RequestOutcome::Whole, "{range}");
        }
        let twice = [(RANGE, "bytes=0-1"), (RANGE, "bytes=2-3")];
        assert_eq!(outcome(&twice, 100), RequestOutcome::Whole);
    }

    #[test]
    fn entity_tags_take_precedence_over_dates() {
        let (at, before, after) = (
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:19 GMT",
            "Tue, 14 Nov 2023 22:13:21 GMT",
        );
        let range = (RANGE, "bytes=0-1");
        let part = RequestOutcome::Part(0..2);
        for (headers, answer) in [
            (vec![(IF_NONE_MATCH, ETAG)], RequestOutcome::NotModified),
            (vec![(IF_NONE_MATCH, "\"x\", W/\"abc\"")], RequestOutcome::NotModified),
            (vec![(IF_NONE_MATCH, "*")], RequestOutcome::NotModified),
            (vec![(IF_NONE_MATCH, "\"x\"")], RequestOutcome::Whole),
            (vec![(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, after)], RequestOutcome::Whole),
            (vec![(IF_MODIFIED_SINCE, at)], RequestOutcome::NotModified),
            (vec![(IF_MODIFIED_SINCE, before)], RequestOutcome::Whole),
            (vec![(IF_MODIFIED_SINCE, "yesterday")], RequestOutcome::Whole),
            (vec![(IF_MATCH, ETAG)], RequestOutcome::Whole),
            (vec![(IF_MATCH, "W/\"abc\"")], RequestOutcome::Failed),
            (vec![(IF_MATCH, "\"x\"")], RequestOutcome::Failed),
            (vec![(IF_UNMODIFIED_SINCE, before)], RequestOutcome::Failed),
            (vec![(IF_UNMODIFIED_SINCE, at)], RequestOutcome::Whole),
            (vec![(IF_RANGE, ETAG), range.clone()], part.clone()),
            (vec![(IF_RANGE, "W/\"abc\""), range.clone()], RequestOutcome::Whole),
            (vec![(IF_RANGE, "\"x\""), range.clone()], RequestOutcome::Whole),
            (vec![(IF_RANGE, at), range.clone()], part),
            (vec![(IF_RANGE, after), range.clone()], RequestOutcome::Whole),
            (vec![(IF_RANGE, "nonsense"), range.clone()], RequestOutcome::Whole),
        ] {
            assert_eq!(outcome(&headers, 100), answer, "{headers:?}");
        }
    }

    #[test]
    fn ranges_apply_to_get_only() {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, "bytes=0-1".parse().unwrap());
        let of = Validators { etag: ETAG, modified: None, size: 100 };
        assert_eq!(evaluate(&headers, false, of), RequestOutcome::Whole);
    }
}
