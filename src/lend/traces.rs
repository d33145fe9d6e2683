//! Values of the host that a program may have read from a lent file and written to another file.

use memchr::memmem;

use super::host::Host;

/// Maximum size of a file that is searched for values, in bytes.
pub(super) const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Minimum length of a value: a file may contain shorter words by chance.
const MIN_VALUE_BYTES: usize = 6;

/// A value of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) value: String,
    /// The role of the value on the host, with an article.
    pub(super) what: &'static str,
}

impl Trace {
    fn new(value: &str, what: &'static str) -> Option<Self> {
        (value.len() >= MIN_VALUE_BYTES).then(|| Trace { value: value.to_owned(), what })
    }

    /// Whether a text file with this content contains the value as a whole word.
    pub(super) fn is_in(&self, content: &[u8]) -> bool {
        if content.len() as u64 > MAX_TEXT_BYTES {
            return false;
        }
        let part_of_word = |byte: Option<&u8>| {
            byte.is_some_and(|b| {
                b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':')
            })
        };
        let is_whole = |at: usize| {
            let before = at.checked_sub(1).and_then(|at| content.get(at));
            let after = content.get(at + self.value.len());
            // A name within a longer one ends with a dot, and so does a sentence.
            !part_of_word(before.filter(|b| **b != b'.'))
                && !part_of_word(after.filter(|b| !matches!(b, b'.' | b':')))
        };
        memmem::find_iter(content, self.value.as_bytes()).any(is_whole) && !content.contains(&0)
    }
}

/// Returns the name servers, search domains and proxies of `host`.
pub(super) fn from_host(host: &Host) -> Vec<Trace> {
    let mut traces = Vec::new();
    if let Some(resolver) = host.resolver() {
        for line in &resolver.lines {
            let address = line.strip_prefix("nameserver").map_or("", str::trim);
            // A resolver on the machine itself has the same address on all machines.
            if !address.starts_with("127.") {
                traces.extend(Trace::new(address, "the address of a name server"));
            }
        }
        let domains = resolver.search.iter().flat_map(|search| search.split_whitespace());
        traces.extend(domains.filter_map(|domain| Trace::new(domain, "a search domain")));
    }
    let variables = [
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "FTP_PROXY",
        "ALL_PROXY",
    ];
    let proxies = host.apt_settings().iter().filter(|s| s.is_proxy()).map(|s| s.value.as_str());
    for proxy in proxies.chain(variables.iter().filter_map(|name| host.variable(name))) {
        let authority = proxy.split("://").last().unwrap_or("").trim_end_matches('/');
        let authority = authority.rsplit('@').next().unwrap_or("");
        if !authority.starts_with('/') && !authority.eq_ignore_ascii_case("DIRECT") {
            traces.extend(Trace::new(authority, "the address of a proxy"));
        }
    }
    traces.sort_unstable_by(|a, b| a.value.cmp(&b.value));
    traces.dedup_by(|a, b| a.value == b.value);
    traces
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::fake_host;
    use super::*;

    #[test]
    fn values_are_found_as_whole_words_in_text() {
        let traces = from_host(&fake_host().host);
        let values: Vec<&str> = traces.iter().map(|trace| trace.value.as_str()).collect();
        assert_eq!(values, ["192.0.2.1", "builder.example", "cache:3142"]);
        let found = |content: &[u8]| traces.iter().any(|trace| trace.is_in(content));
        for content in
            ["192.0.2.1", "dns=192.0.2.1;", "vm.builder.example.\n", "http://cache:3142/"]
        {
            assert!(found(content.as_bytes()), "{content}");
        }
        for content in ["192.0.2.11", "3192.0.2.1", "mybuilder.example", "builder.example-x"] {
            assert!(!found(content.as_bytes()), "{content}");
        }
        assert!(!found(b"192.0.2.1\0"));
    }
}
