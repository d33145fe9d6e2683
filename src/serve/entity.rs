//! Response headers of a content.

use std::ops::Range;
use std::time::SystemTime;

use headers::{ETag, HeaderMapExt, LastModified};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::ResponseBody;
use super::conditions::{RequestOutcome, Validators, evaluate};

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

/// The headers and validators of a content, built once and used for each response.
#[derive(Debug)]
pub(super) struct Entity {
    /// The headers of all its responses.
    headers: HeaderMap,
    etag: ETag,
    modified: Option<SystemTime>,
    pub(super) size: u64,
}

impl Entity {
    /// Creates the entity of a content with this digest. Generated content has no `modified` time.
    pub(super) fn new(
        kind: &'static str,
        sha256: &str,
        size: u64,
        modified: Option<SystemTime>,
    ) -> Self {
        let quoted = format!("\"{sha256}\"");
        let etag: ETag = quoted.parse().expect("quoted hexadecimal digits are an entity tag");
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.typed_insert(etag.clone());
        if let Some(modified) = modified {
            headers.typed_insert(LastModified::from(modified));
        }
        // It can be rebuilt at any time: clients must revalidate.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let nosniff = HeaderValue::from_static("nosniff");
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        Entity { headers, etag, modified, size }
    }

    /// Returns the outcome for a request with these headers.
    pub(super) fn outcome(&self, asked: &HeaderMap, get: bool) -> RequestOutcome {
        let &Entity { ref etag, modified, size, .. } = self;
        evaluate(asked, get, Validators { etag, modified, size })
    }

    /// Builds the response. `body` creates the body for a byte range.
    pub(super) fn response(
        &self,
        outcome: RequestOutcome,
        body: impl FnOnce(Range<u64>) -> ResponseBody,
    ) -> Response<ResponseBody> {
        let size = self.size;
        let (status, range) = match outcome {
            RequestOutcome::Whole => (StatusCode::OK, 0..size),
            RequestOutcome::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            RequestOutcome::NotModified => {
                let mut response = Response::new(ResponseBody::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                self.headers.clone_into(response.headers_mut());
                response.headers_mut().remove(header::CONTENT_TYPE);
                return response;
            }
            RequestOutcome::Failed => {
                return problem(
                    StatusCode::PRECONDITION_FAILED,
                    "the content does not match the precondition",
                );
            }
            RequestOutcome::Unsatisfiable => {
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                let mut response = problem(status, "the range is outside of the content");
                let range = value(&format!("bytes */{size}"));
                response.headers_mut().insert(header::CONTENT_RANGE, range);
                return response;
            }
        };
        let mut headers = self.headers.clone();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            headers.insert(header::CONTENT_RANGE, value(&range));
        }
        let mut response = Response::new(body(range));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Converts a value that the server generated. It consists of characters that headers allow.
fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Builds an error response with this text.
pub(super) fn problem(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let text = format!("{text}\n");
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(ResponseBody::text(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PLAIN));
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
