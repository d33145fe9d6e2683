//! What responses say of what they have: the fields of their heads.

use std::ops::Range;
use std::time::SystemTime;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::Body;
use super::conditions::{Answer, Validators, judge};

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

/// A content, as it is described. It is made once for a content, not for each response.
#[derive(Debug)]
pub(super) struct Entity {
    /// What all responses say that have it.
    headers: HeaderMap,
    etag: String,
    modified: Option<SystemTime>,
    pub(super) size: u64,
}

impl Entity {
    /// That of a content of this digest; what is made when it is asked for has no time.
    pub(super) fn new(
        kind: &'static str,
        sha256: &str,
        size: u64,
        modified: Option<SystemTime>,
    ) -> Self {
        let etag = format!("\"{sha256}\"");
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::ETAG, value(&etag));
        if let Some(modified) = modified {
            headers.insert(header::LAST_MODIFIED, value(&httpdate::fmt_http_date(modified)));
        }
        // It may be built anew at any time: ask whether it was.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let nosniff = HeaderValue::from_static("nosniff");
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        Entity { headers, etag, modified, size }
    }

    /// What to answer who asks with these.
    pub(super) fn answer(&self, asked: &HeaderMap, get: bool) -> Answer {
        let &Entity { ref etag, modified, size, .. } = self;
        judge(asked, get, Validators { etag, modified, size })
    }

    /// The response, with `body` as that of a range, if it has one.
    pub(super) fn response(
        &self,
        answer: Answer,
        body: impl FnOnce(Range<u64>) -> Body,
    ) -> Response<Body> {
        let size = self.size;
        let (status, range) = match answer {
            Answer::Whole => (StatusCode::OK, 0..size),
            Answer::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Answer::NotModified => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                self.headers.clone_into(response.headers_mut());
                response.headers_mut().remove(header::CONTENT_TYPE);
                return response;
            }
            Answer::Failed => return problem(StatusCode::PRECONDITION_FAILED, "it is not that"),
            Answer::Unsatisfiable => {
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                let mut response = problem(status, "it has no such bytes");
                let told = value(&format!("bytes */{size}"));
                response.headers_mut().insert(header::CONTENT_RANGE, told);
                return response;
            }
        };
        let mut headers = self.headers.clone();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        if status == StatusCode::PARTIAL_CONTENT {
            let told = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            headers.insert(header::CONTENT_RANGE, value(&told));
        }
        let mut response = Response::new(body(range));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// What the server itself makes has digits, dates and the like in it, which are all allowed.
fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A response that says what is the matter.
pub(super) fn problem(status: StatusCode, text: &str) -> Response<Body> {
    let text = format!("{text}\n");
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PLAIN));
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
