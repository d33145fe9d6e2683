//! Answers requests.
//!
//! The path of a request is percent-decoded once and looked up among the names of the catalogue. It
//! has no other use.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::access::{Access, AccessObserver};
use super::artifact::{Artifact, ArtifactVersion};
use super::body::{ChunkPool, ResponseBody};
use super::catalogue::Catalogue;
use super::conditions::RequestOutcome;
use super::current_catalogue::CurrentCatalogue;
use super::entity::{Entity, PLAIN, problem};
use super::host::host;
use super::index::index;
use super::ipxe::{boot_commands, menu};
use super::page::{POLICY, page};
use crate::text::digest::sha256_hex;

const HTML: &str = "text/html; charset=utf-8";

/// The data that requests are answered from.
pub(super) struct Site {
    pub(super) current: CurrentCatalogue,
    pub(super) pool: Arc<ChunkPool>,
    /// Called for each response.
    pub(super) observer: Option<AccessObserver>,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").finish_non_exhaustive()
    }
}

/// The resource that a path names.
#[derive(Debug, PartialEq, Eq)]
enum Resource<'a> {
    Page,
    Index,
    /// The script that boots the default image, or the menu.
    Default,
    /// The script of the image with this name.
    Script(&'a str),
    /// A file, if the catalogue has one of this name.
    File(&'a str),
}

/// Generated content with its media type, or the error response.
type RenderedText = Result<(&'static str, String), Problem>;

/// The status and the text of an error response.
type Problem = (StatusCode, String);

/// Answers a request. Failures become error responses.
pub(super) async fn respond<B>(
    site: &Site,
    request: &Request<B>,
    peer: SocketAddr,
    local: SocketAddr,
) -> Response<ResponseBody> {
    let access = Access::begin(request.method(), request.uri(), peer, site.observer.clone());
    let mut response = match answer(site, request, local).await {
        Ok(response) => response,
        Err((status, text)) => problem(status, &text),
    };
    if has_body(request.headers()) {
        // The body is not read, so the connection cannot be used for another request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if request.method() == Method::HEAD {
        *response.body_mut() = ResponseBody::empty();
    }
    let status = response.status();
    response.body_mut().log(access, status);
    response
}

async fn answer<B>(
    site: &Site,
    request: &Request<B>,
    local: SocketAddr,
) -> Result<Response<ResponseBody>, Problem> {
    let get = request.method() == Method::GET;
    if !get && request.method() != Method::HEAD {
        let text = "the boot server accepts GET and HEAD only";
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, text);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    if has_body(request.headers()) {
        return Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            "the boot server does not accept request bodies".to_owned(),
        ));
    }
    let host = host(request, local).map_err(|why| (StatusCode::BAD_REQUEST, why.to_owned()))?;
    let nothing = || (StatusCode::NOT_FOUND, "not found".to_owned());
    let path = percent_decode_str(request.uri().path()).decode_utf8().map_err(|_| nothing())?;
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
        Resource::Page => {
            let page = page(&catalogue, &versions(&catalogue).await?, &server);
            let bug = |error| {
                tracing::error!("cannot render the page: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, "cannot render the page".to_owned())
            };
            (HTML, page.map_err(bug)?)
        }
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
    /// Determines the versions of all files, so that requests do not wait for digests.
    pub(super) async fn hash_artifacts(&self) {
        for artifact in &self.current.known().files {
            // An error is reported to the client that requests the file.
            let _ = artifact.version().await;
        }
    }

    /// Returns the script of the default image, for a machine that uses the URL `server`.
    ///
    /// # Errors
    /// Fails if there is no default, or it cannot be booted.
    pub(super) async fn default_script(&self, server: &str) -> Result<String, String> {
        let catalogue = self.current.known();
        let image = catalogue.default.ok_or("there is no default image")?;
        let script = script(&catalogue, image, server).await;
        script.map(|(_, text)| text).map_err(|(_, why)| why)
    }

    async fn file(
        &self,
        artifact: &Arc<Artifact>,
        asked: &HeaderMap,
        get: bool,
    ) -> Result<Response<ResponseBody>, Problem> {
        let unreadable = |error| unreadable(artifact, &error);
        // The file can be replaced after its version was determined: retry a few times.
        for _ in 0..8 {
            let Some(version) = artifact.version().await.map_err(unreadable)? else {
                return Err((
                    StatusCode::NOT_FOUND,
                    format!("{} has not been built yet", artifact.name),
                ));
            };
            let entity = &version.entity;
            let outcome = entity.outcome(asked, get);
            if !get || !matches!(outcome, RequestOutcome::Whole | RequestOutcome::Part(_)) {
                return Ok(entity.response(outcome, |_| ResponseBody::empty()));
            }
            if let Some(content) = &version.content {
                return Ok(
                    entity.response(outcome, |range| ResponseBody::text(slice(content, range)))
                );
            }
            if let Some(opened) = artifact.open(&version).map_err(unreadable)? {
                return Ok(
                    entity.response(outcome, |range| ResponseBody::file(opened, range, &self.pool))
                );
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
    ) -> Response<ResponseBody> {
        let sha256 = sha256_hex(text.as_bytes());
        let entity = Entity::new(kind, &sha256, text.len() as u64, None);
        let text = Bytes::from(text);
        let outcome = entity.outcome(asked, get);
        let mut response =
            entity.response(outcome, |range| ResponseBody::text(slice(&text, range)));
        if kind == HTML {
            let policy = HeaderValue::from_static(POLICY);
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            let none = HeaderValue::from_static("no-referrer");
            response.headers_mut().insert(header::REFERRER_POLICY, none);
        }
        // The text contains the host name of the request.
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Host"));
        response
    }
}

/// Returns the script that boots an image.
async fn script(catalogue: &Catalogue, image: usize, server: &str) -> RenderedText {
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
    let commands = boot_commands(catalogue, boot, &versions, server).map_err(|why| not(&why))?;
    Ok((PLAIN, commands.script(image)))
}

/// Returns the versions of all files.
async fn versions(catalogue: &Catalogue) -> Result<Vec<Option<Arc<ArtifactVersion>>>, Problem> {
    let mut versions = Vec::with_capacity(catalogue.files.len());
    for artifact in &catalogue.files {
        versions.push(version(artifact).await?);
    }
    Ok(versions)
}

async fn version(artifact: &Arc<Artifact>) -> Result<Option<Arc<ArtifactVersion>>, Problem> {
    artifact.version().await.map_err(|error| unreadable(artifact, &error))
}

fn unreadable(artifact: &Artifact, error: &io::Error) -> Problem {
    tracing::warn!("cannot read {}: {error}", artifact.path.display());
    let status = match error.kind() {
        io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{} cannot be read", artifact.name))
}

/// Returns a subrange of the bytes.
fn slice(bytes: &Bytes, range: Range<u64>) -> Bytes {
    let index = |at| usize::try_from(at).unwrap_or(usize::MAX);
    bytes.slice(index(range.start)..index(range.end))
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}
