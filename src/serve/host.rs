//! The host name by which a client reached the server. It is inserted into scripts and a page.

use std::borrow::Cow;
use std::net::SocketAddr;

use hyper::Request;
use hyper::Version;
use hyper::header::HOST;

/// Maximum length of a host name with its port.
const MAX_HOST_LENGTH: usize = 261;

/// The reason why a request is rejected.
pub(super) type Refused = &'static str;

/// Returns the host, with the port if the client sent one. Without a Host header, which HTTP/1.0
/// does not require, it is the local address of the connection.
pub(super) fn host<B>(request: &Request<B>, local: SocketAddr) -> Result<Cow<'_, str>, Refused> {
    let mut named = request.headers().get_all(HOST).iter();
    let header = match (named.next(), named.next()) {
        (_, Some(_)) => return Err("more than one Host header"),
        (None, None) if request.version() >= Version::HTTP_11 => return Err("missing Host header"),
        (header, None) => header.map(|value| value.to_str().map_err(|_| "invalid Host header")),
    };
    let name = match (request.uri().authority(), header.transpose()?) {
        // RFC 9112, section 3.2.2: an absolute target takes precedence over the header.
        (Some(authority), _) => Cow::from(authority.as_str()),
        (None, Some(name)) if !name.is_empty() => name.into(),
        (None, _) => local.to_string().into(),
    };
    if is_valid(&name) { Ok(name) } else { Err("invalid Host header") }
}

/// Whether `name` is a host name or an address, with or without a port. User names, spaces and
/// characters with a meaning in iPXE, in a kernel command line or in HTML are rejected.
fn is_valid(name: &str) -> bool {
    let (host, port) = match name.strip_prefix('[') {
        Some(rest) => {
            let Some((address, rest)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match (rest, rest.strip_prefix(':')) {
                ("", _) => return name.len() <= MAX_HOST_LENGTH,
                (_, Some(port)) => ("ipv6", Some(port)),
                _ => return false,
            }
        }
        None => match name.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (name, None),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let number =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    name.len() <= MAX_HOST_LENGTH
        && !host.is_empty()
        && host.bytes().all(plain)
        && port.is_none_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_addresses_are_valid_hosts() {
        for name in [
            "boot",
            "boot.example.org",
            "boot.example.org:80",
            "127.0.0.1:8080",
            "a_b-c:1",
            "[::1]",
            "[::1]:8080",
            "[2001:db8::1]:65535",
        ] {
            assert!(is_valid(name), "{name}");
        }
        for name in [
            "",
            ":80",
            "a:",
            "a:b",
            "a:70000",
            "a:+1",
            "a b",
            "a/b",
            "a\\b",
            "user@host",
            "${net0/ip}",
            "a\"b",
            "<b>",
            "a&b",
            "a'b",
            "[::1",
            "[x]",
            "[::1]x",
            "[::1]:",
            "a:1:2",
            "a,b",
            "ä",
        ] {
            assert!(!is_valid(name), "{name}");
        }
        assert!(!is_valid(&"a".repeat(300)));
    }
}
