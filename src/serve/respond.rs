//! From a request to its response.
//!
//! Only names that were known before there were requests lead to a file; the path of a request is
//! decoded once and looked up, and takes part in nothing else.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::access::{Access, Observer};
use super::artifact::{Artifact, Version};
use super::body::{Body, Pool};
use super::boot::{lines, menu};
use super::catalogue::Catalogue;
use super::conditions::Answer;
use super::current::Current;
use super::entity::{Entity, PLAIN, problem};
use super::host::host;
use super::index::index;
use super::page::{POLICY, page};
use crate::seal::manifest::hex;

const HTML: &str = "text/html; charset=utf-8";

/// What requests are answered from.
pub(super) struct Site {
    pub(super) current: Current,
    pub(super) pool: Arc<Pool>,
    /// Who is told of each response.
    pub(super) observer: Option<Observer>,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").finish_non_exhaustive()
    }
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Resource<'a> {
    Page,
    Index,
    /// The script that boots the default, or asks.
    Default,
    /// The script of the image of this name.
    Script(&'a str),
    /// A file, perhaps.
    File(&'a str),
}

/// What is made when it is asked for, or why it is not.
type Text = Result<(&'static str, String), Problem>;

/// A status and what to say.
type Problem = (StatusCode, String);

/// Answers a request; what goes wrong is an answer too.
pub(super) async fn respond<B>(
    site: &Site,
    request: &Request<B>,
    peer: SocketAddr,
    local: SocketAddr,
) -> Response<Body> {
    let access = Access::begin(request.method(), request.uri(), peer, site.observer.clone());
    let mut response = match answer(site, request, local).await {
        Ok(response) => response,
        Err((status, text)) => problem(status, &text),
    };
    if has_body(request.headers()) {
        // It is not read, so nothing can come after it.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if request.method() == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    let status = response.status();
    response.body_mut().log(access, status);
    response
}

async fn answer<B>(
    site: &Site,
    request: &Request<B>,
    local: SocketAddr,
) -> Result<Response<Body>, Problem> {
    let get = request.method() == Method::GET;
    if !get && request.method() != Method::HEAD {
        let text = "the boot server can be asked with GET and HEAD alone";
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, text);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    if has_body(request.headers()) {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "requests have no body here".to_owned()));
    }
    let host = host(request, local).map_err(|why| (StatusCode::BAD_REQUEST, why.to_owned()))?;
    let nothing = || (StatusCode::NOT_FOUND, "there is nothing of that name".to_owned());
    let path = decoded(request.uri().path()).ok_or_else(nothing)?;
    let resource = resource(&path).ok_or_else(nothing)?;
    let known = site.current.known();
    let catalogue = match resource {
        Resource::File(name) if known.by_name.contains_key(name) => known,
        _ => site.current.read().await,
    };
    let server = catalogue.url.clone().unwrap_or_else(|| format!("http://{host}"));
    let (kind, text) = match resource {
        Resource::File(name) => {
            let file = *catalogue.by_name.get(name).ok_or_else(nothing)?;
            return site.file(&catalogue.files[file], request.headers(), get).await;
        }
        Resource::Page => (HTML, page(&catalogue, &versions(&catalogue).await?, &server)),
        Resource::Index => {
            ("application/json", index(&catalogue, &versions(&catalogue).await?, &server))
        }
        Resource::Default => match catalogue.default {
            Some(image) => script(&catalogue, image, &server).await?,
            None => (PLAIN, menu(&catalogue, &server)),
        },
        Resource::Script(name) => {
            let images = &catalogue.images;
            let image = images.iter().position(|image| image.name == name).ok_or_else(nothing)?;
            script(&catalogue, image, &server).await?
        }
    };
    Ok(site.text(kind, text, request.headers(), get))
}

fn resource(path: &str) -> Option<Resource<'_>> {
    Some(match path.strip_prefix('/')? {
        "" => Resource::Page,
        "index.json" => Resource::Index,
        "boot.ipxe" => Resource::Default,
        path => match path.strip_prefix("boot/").and_then(|name| name.strip_suffix(".ipxe")) {
            Some(name) => Resource::Script(name),
            None => Resource::File(path),
        },
    })
}

impl Site {
    /// Gets to know all files, so that nobody has to wait for that.
    pub(super) async fn learn(&self) {
        for artifact in &self.current.known().files {
            // Who asks for it is told.
            let _ = artifact.version().await;
        }
    }

    /// The script of the default, for somebody who reaches the server at the URL `server`.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn default_script(&self, server: &str) -> Result<String, String> {
        let catalogue = self.current.known();
        let image = catalogue.default.ok_or("there is no default")?;
        let script = script(&catalogue, image, server).await;
        script.map(|(_, text)| text).map_err(|(_, why)| why)
    }

    async fn file(
        &self,
        artifact: &Arc<Artifact>,
        asked: &HeaderMap,
        get: bool,
    ) -> Result<Response<Body>, Problem> {
        let unreadable = |error| unreadable(artifact, &error);
        // It can be replaced between two looks; not for ever.
        for _ in 0..8 {
            let Some(version) = artifact.version().await.map_err(unreadable)? else {
                return Err((
                    StatusCode::NOT_FOUND,
                    format!("{} was not built yet", artifact.name),
                ));
            };
            let entity = &version.entity;
            let answer = entity.answer(asked, get);
            if !get || !matches!(answer, Answer::Whole | Answer::Part(_)) {
                return Ok(entity.response(answer, |_| Body::empty()));
            }
            if let Some(content) = &version.content {
                return Ok(entity.response(answer, |range| Body::text(slice(content, range))));
            }
            if let Some(opened) = artifact.open(&version).map_err(unreadable)? {
                return Ok(entity.response(answer, |range| Body::file(opened, range, &self.pool)));
            }
        }
        Err((StatusCode::SERVICE_UNAVAILABLE, format!("{} is being replaced", artifact.name)))
    }

    fn text(
        &self,
        kind: &'static str,
        text: String,
        asked: &HeaderMap,
        get: bool,
    ) -> Response<Body> {
        let sha256 = hex(&Sha256::digest(&text));
        let entity = Entity::new(kind, &sha256, text.len() as u64, None);
        let text = Bytes::from(text);
        let answer = entity.answer(asked, get);
        let mut response = entity.response(answer, |range| Body::text(slice(&text, range)));
        if kind == HTML {
            let policy = HeaderValue::from_static(POLICY);
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            let none = HeaderValue::from_static("no-referrer");
            response.headers_mut().insert(header::REFERRER_POLICY, none);
        }
        // It has the name by which it was asked for in it.
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Host"));
        response
    }
}

/// The script that boots an image.
async fn script(catalogue: &Catalogue, image: usize, server: &str) -> Text {
    let image = &catalogue.images[image];
    let not =
        |why: &str| (StatusCode::NOT_FOUND, format!("{} cannot be booted: {why}", image.name));
    let boot = match &image.boot {
        Some(Ok(boot)) => boot,
        Some(Err(why)) => return Err(not(why)),
        None => return Err(not("it is an initrd")),
    };
    let mut versions = vec![None; catalogue.files.len()];
    for file in boot.files() {
        versions[file] = version(&catalogue.files[file]).await?;
    }
    let lines = lines(catalogue, boot, &versions, server).map_err(|why| not(&why))?;
    Ok((PLAIN, lines.script(image)))
}

/// What is known of all files.
async fn versions(catalogue: &Catalogue) -> Result<Vec<Option<Arc<Version>>>, Problem> {
    let mut versions = Vec::with_capacity(catalogue.files.len());
    for artifact in &catalogue.files {
        versions.push(version(artifact).await?);
    }
    Ok(versions)
}

async fn version(artifact: &Arc<Artifact>) -> Result<Option<Arc<Version>>, Problem> {
    artifact.version().await.map_err(|error| unreadable(artifact, &error))
}

fn unreadable(artifact: &Artifact, error: &io::Error) -> Problem {
    tracing::warn!("cannot read {}: {error}", artifact.path.display());
    let status = match error.kind() {
        io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{} cannot be read now", artifact.name))
}

/// These of the bytes, of which they are a part.
fn slice(bytes: &Bytes, range: Range<u64>) -> Bytes {
    let place = |at| usize::try_from(at).unwrap_or(usize::MAX);
    bytes.slice(place(range.start)..place(range.end))
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

/// A path without its percent signs; nothing if it is not text.
fn decoded(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(path.into());
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_decoded_once() {
        for (path, text) in [
            ("/a", Some("/a")),
            ("/%61%2B%c3%a4", Some("/a+ä")),
            ("/%252e", Some("/%2e")),
            ("/%2e%2E/", Some("/../")),
            ("/%00", Some("/\0")),
            ("/%", None),
            ("/%4", None),
            ("/%zz", None),
            ("/%+1", None),
            ("/%ff", None),
        ] {
            assert_eq!(decoded(path).as_deref(), text, "{path}");
        }
    }
}
