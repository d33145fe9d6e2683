//! Conditional and range requests: RFC 9110, sections 13 and 14.
//!
//! A single range is answered with that part, several ranges with the whole content, as a server
//! may. Invalid fields are ignored.

use std::ops::Range;
use std::time::SystemTime;

use headers::{
    ETag, HeaderMap, HeaderMapExt, IfMatch, IfModifiedSince, IfNoneMatch, IfRange,
    IfUnmodifiedSince,
};
use http_range_header::{RangeUnsatisfiableError, parse_range_header};
use hyper::header::RANGE;

/// The validators of a content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validators<'a> {
    /// Its strong entity tag.
    pub(super) etag: &'a ETag,
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
    let fails = match headers.typed_get::<IfMatch>() {
        Some(tags) => !tags.precondition_passes(of.etag),
        None => {
            let date = headers.typed_get::<IfUnmodifiedSince>();
            date.zip(of.modified).is_some_and(|(date, time)| !date.precondition_passes(time))
        }
    };
    if fails {
        return RequestOutcome::Failed;
    }
    let current = match headers.typed_get::<IfNoneMatch>() {
        Some(tags) => !tags.precondition_passes(of.etag),
        None => {
            let date = headers.typed_get::<IfModifiedSince>();
            date.zip(of.modified).is_some_and(|(date, time)| !date.is_modified(time))
        }
    };
    if current {
        return RequestOutcome::NotModified;
    }
    if get && if_range(headers, of) { range(headers, of.size) } else { RequestOutcome::Whole }
}

/// Whether `If-Range` allows the range: the client's partial content is of this version.
fn if_range(headers: &HeaderMap, of: Validators<'_>) -> bool {
    let condition = match headers.typed_try_get::<IfRange>() {
        Ok(None) => return true,
        Ok(Some(condition)) => condition,
        Err(_) => return false,
    };
    // The content can change twice within one second, the precision of HTTP dates.
    let settled = |time: &SystemTime| {
        SystemTime::now().duration_since(*time).is_ok_and(|age| age.as_secs() > 0)
    };
    // RFC 9110, section 13.1.5: a date must be that of the content, `IfRange::is_modified` also
    // accepts later ones.
    condition == IfRange::etag(of.etag.clone())
        || of.modified.filter(settled).is_some_and(|time| condition == IfRange::date(time))
}

fn range(headers: &HeaderMap, size: u64) -> RequestOutcome {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return RequestOutcome::Whole };
    let ranges = value.to_str().ok().and_then(|text| parse_range_header(text).ok());
    let Some(ranges) = ranges.filter(|ranges| ranges.len() == 1) else {
        return RequestOutcome::Whole;
    };
    match ranges.validate(size).as_deref() {
        Ok([range]) => RequestOutcome::Part(*range.start()..*range.end() + 1),
        Ok(_) => RequestOutcome::Whole,
        Err(RangeUnsatisfiableError::Unsatisfiable) => RequestOutcome::Unsatisfiable,
        Err(_) => RequestOutcome::Whole,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::header::{
        HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    };

    use super::*;

    const ETAG: &str = "\"abc\"";

    fn outcome(headers: &[(HeaderName, &str)], size: u64) -> RequestOutcome {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        let modified = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500));
        let etag = ETAG.parse().unwrap();
        evaluate(&map, true, Validators { etag: &etag, modified, size })
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
        let etag = ETAG.parse().unwrap();
        let of = Validators { etag: &etag, modified: None, size: 100 };
        assert_eq!(evaluate(&headers, false, of), RequestOutcome::Whole);
    }
}
