//! Values of the host that a program may have read from a lent file and written to another file,
//! and paths that exist during the build only.

use std::collections::{HashMap, HashSet};

use fs_model::FileType;
use memchr::memmem;

use super::host::Host;
use super::{SCRATCH_DIR, content};
use crate::root::mounted_tree::MountedTree;
use crate::text::escape::escape;

/// Maximum size of a file that is searched for values, in bytes.
pub(super) const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Minimum length of a value: a file may contain shorter words by chance.
const MIN_VALUE_BYTES: usize = 6;

/// The options with which systemd-resolved writes `resolv.conf` on any machine.
const USUAL_OPTIONS: [&str; 2] = ["options edns0 trust-ad", "options edns0"];

/// Variables that name a proxy.
const PROXIES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
];

/// Variables that list hosts without a proxy.
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// Directories in which distributions keep the certificates of authorities, one file each.
const AUTHORITIES: [&str; 4] = [
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
    "/etc/ca-certificates/trust-source/anchors",
];

/// A value of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) value: String,
    /// The role of the value on the host, with an article.
    what: &'static str,
    kind: TraceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TraceKind {
    Plain,
    /// Warnings do not contain the value.
    Secret,
    /// A setting of apt, of which warnings contain only the name.
    Setting,
    /// Files of packages may contain the value by chance, as an example.
    Address,
    /// The start of paths in the scratch directory.
    ScratchPath,
}

impl Trace {
    fn new(value: &str, what: &'static str) -> Option<Self> {
        Trace::of_kind(TraceKind::Plain, value, what)
    }

    fn of_kind(kind: TraceKind, value: &str, what: &'static str) -> Option<Self> {
        (value.len() >= MIN_VALUE_BYTES).then(|| Trace { value: value.to_owned(), what, kind })
    }

    /// Whether a text file with this content contains the value as a whole word. A secret may be a
    /// part of a word, and a scratch path in any file.
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
            if matches!(self.kind, TraceKind::Secret | TraceKind::ScratchPath) {
                return true;
            }
            let before = at.checked_sub(1).and_then(|at| content.get(at));
            let after = content.get(at + self.value.len());
            // A name within a longer one ends with a dot, and so does a sentence.
            !part_of_word(before.filter(|b| **b != b'.'))
                && !part_of_word(after.filter(|b| !matches!(b, b'.' | b':')))
        };
        // No file contains such a path by chance, so archives and databases are searched, too.
        let is_searched = self.kind == TraceKind::ScratchPath || !content.contains(&0);
        memmem::find_iter(content, self.value.as_bytes()).any(is_whole) && is_searched
    }
}

/// The values of a host, and of a sandbox, that should not be in an image.
#[derive(Debug)]
pub(super) struct Traces {
    values: Vec<Trace>,
    /// The [keys](content::key) of the certificates that the host added to those of its
    /// distribution.
    certificates: HashSet<String>,
}

impl Traces {
    /// Collects the name servers, search domains, proxies and certificates of `host`, and the
    /// scratch directory.
    pub(super) fn from_host(host: &Host) -> Self {
        let mut values = Vec::new();
        if let Some(resolver) = host.resolver() {
            for line in &resolver.lines {
                let Some(address) = line.strip_prefix("nameserver").map(str::trim) else {
                    if !USUAL_OPTIONS.contains(&line.as_str()) {
                        values.extend(Trace::new(line, "the options of the resolver"));
                    }
                    continue;
                };
                // A resolver on the machine itself has the same address on all machines.
                if !address.starts_with("127.") {
                    let (without_scope, _) = address.split_once('%').unwrap_or((address, ""));
                    values.extend(Trace::new(without_scope, "the address of a name server"));
                }
            }
            let domains = resolver.search.iter().flat_map(|search| search.split_whitespace());
            values.extend(domains.filter_map(|domain| Trace::new(domain, "a search domain")));
        }
        let variables = PROXIES.iter().filter_map(|name| host.variable(name));
        let settings = host.apt_settings();
        let proxies = settings.iter().filter(|s| s.is_proxy()).map(|s| s.value.as_str());
        for proxy in proxies.chain(variables) {
            let authority = proxy.split("://").last().unwrap_or("").trim_end_matches('/');
            let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
            if !host.starts_with('/') && !host.eq_ignore_ascii_case("DIRECT") {
                let (name, _) = host.rsplit_once(':').unwrap_or((host, ""));
                values.extend(Trace::new(host, "the address of a proxy"));
                values.extend(Trace::new(name, "the address of a proxy"));
            }
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            values.extend(Trace::new(name, "the user of a proxy"));
            let password = Trace::of_kind(TraceKind::Secret, password, "the password of a proxy");
            values.extend(password);
        }
        let excluded = NO_PROXY.iter().filter_map(|name| host.variable(name));
        for name in excluded.flat_map(|names| names.split([',', ' '])) {
            if name != "localhost" && !name.starts_with("127.") {
                values.extend(Trace::new(name.trim_start_matches('.'), "an entry of no_proxy"));
            }
        }
        for address in host.addresses() {
            values.extend(Trace::of_kind(TraceKind::Address, address, "an address"));
        }
        for path in host.private_paths() {
            values.extend(Trace::new(path, "a path"));
        }
        for setting in settings.iter().filter(|setting| !setting.is_default()) {
            if setting.names_server() {
                values.extend(Trace::new(&setting.key, "the name of a setting of apt"));
            }
            // The parts of a proxy are values of their own, and files are in the scratch directory.
            if setting.is_proxy() {
                continue;
            }
            if setting.value.len() >= MIN_VALUE_BYTES && !setting.names_file() {
                values.extend(Trace::new(&setting.value, "a setting of apt"));
            } else if !setting.names_server() {
                // As `apt-config dump` prints it.
                let (kind, what) = (TraceKind::Setting, "a setting of apt");
                values.extend(Trace::of_kind(kind, &setting.line(), what));
            }
        }
        let scratch = format!("{SCRATCH_DIR}/");
        values.extend(Trace::of_kind(TraceKind::ScratchPath, &scratch, "a path"));
        values.sort_unstable_by(|a, b| a.value.cmp(&b.value));
        values.dedup_by(|a, b| a.value == b.value);
        let certificates = host.own_certificates();
        let certificates = certificates.iter().flat_map(|text| content::certificates(text));
        Traces { values, certificates: certificates.map(|pem| content::key(&pem)).collect() }
    }

    /// Prepares a search of the files of an image.
    pub(super) fn search<'a>(
        &'a self,
        mounted_tree: &'a MountedTree,
        is_input: &'a dyn Fn(&str) -> bool,
    ) -> TraceSearch<'a> {
        TraceSearch {
            traces: self,
            mounted_tree,
            is_input,
            known: HashMap::new(),
            certificates: None,
        }
    }
}

/// A search for values of the host in the files of an image.
pub(super) struct TraceSearch<'a> {
    traces: &'a Traces,
    mounted_tree: &'a MountedTree,
    is_input: &'a dyn Fn(&str) -> bool,
    /// For each value found: whether it is in the user's input.
    known: HashMap<&'a str, bool>,
    /// The certificates to report: all but those that the image has in a directory for authorities,
    /// where a provisioner puts them on purpose. Read when the first certificate is found.
    certificates: Option<HashSet<String>>,
}

impl<'a> TraceSearch<'a> {
    /// Searches the name of an object, which is the end of `path`.
    pub(super) fn in_name(&mut self, path: &[u8], warnings: &mut Vec<String>) {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        self.report(path, "its name", name, warnings);
    }

    /// Searches the target of a symbolic link.
    pub(super) fn in_target(&mut self, path: &[u8], target: &[u8], warnings: &mut Vec<String>) {
        self.report(path, "its target", target, warnings);
    }

    /// Searches the content of a file.
    pub(super) fn in_content(&mut self, path: &[u8], content: &[u8], warnings: &mut Vec<String>) {
        self.report(path, "it", content, warnings);
        if self.traces.certificates.is_empty()
            || memmem::find(content, content::PEM_BEGIN.as_bytes()).is_none()
        {
            return;
        }
        let (traces, mounted_tree) = (self.traces, self.mounted_tree);
        let wanted = self.certificates.get_or_insert_with(|| {
            let of_image = authorities(mounted_tree);
            traces.certificates.difference(&of_image).cloned().collect()
        });
        let text = String::from_utf8_lossy(content);
        if content::certificates(&text).iter().any(|pem| wanted.contains(&content::key(pem))) {
            warnings.push(format!(
                "/{}: it contains a certificate that was added on this host; unless a provisioner \
                 wrote the file, the image depends on the host",
                escape(path)
            ));
        }
    }

    fn report(&mut self, path: &[u8], part: &str, content: &[u8], warnings: &mut Vec<String>) {
        let of_package = path.starts_with(b"usr/") && !path.starts_with(b"usr/local/");
        for trace in &self.traces.values {
            if trace.kind == TraceKind::Address && of_package || !trace.is_in(content) {
                continue;
            }
            let is_input = self.known.entry(&trace.value);
            if *is_input.or_insert_with(|| (self.is_input)(&trace.value)) {
                continue;
            }
            let value = match trace.kind {
                TraceKind::Secret => trace.what.to_owned(),
                TraceKind::Setting => {
                    let (name, _) = trace.value.split_once(' ').unwrap_or((&trace.value, ""));
                    format!("{name}, {}", trace.what)
                }
                TraceKind::ScratchPath => {
                    warnings.push(format!(
                        "/{}: {part} contains {}, which exists during the build only: a program \
                         stored a variable, a setting or the name of a script; remove it in a step",
                        escape(path),
                        escape(scratch_path(content, &trace.value))
                    ));
                    continue;
                }
                _ => format!("{}, {}", trace.value, trace.what),
            };
            warnings.push(format!(
                "/{}: {part} contains {value} of this host; unless a provisioner wrote it, the image \
                 depends on the host",
                escape(path)
            ));
        }
    }
}

/// Returns the first path in `content` that begins with `start`, which the content contains.
fn scratch_path<'a>(content: &'a [u8], start: &str) -> &'a [u8] {
    let path = &content[memmem::find(content, start.as_bytes()).unwrap_or(0)..];
    let in_path = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+@".contains(byte);
    let end = path.iter().position(|byte| !in_path(byte)).unwrap_or(path.len());
    &path[..end]
}

/// Returns the keys of the certificates in the image's directories for authorities. A directory or
/// file that cannot be read is left out.
fn authorities(mounted_tree: &MountedTree) -> HashSet<String> {
    let mut keys = HashSet::new();
    let mut dirs: Vec<Vec<u8>> = AUTHORITIES.iter().map(|dir| dir.as_bytes().to_vec()).collect();
    while let Some(dir) = dirs.pop() {
        for (name, kind) in mounted_tree.list(&dir).unwrap_or_default() {
            let path = [&dir, b"/".as_slice(), &name].concat();
            match kind {
                FileType::Directory => dirs.push(path),
                FileType::Regular => {
                    let content = mounted_tree.read(&path).ok().flatten().unwrap_or_default();
                    let text = String::from_utf8_lossy(&content);
                    keys.extend(content::certificates(&text).iter().map(|pem| content::key(pem)));
                }
                _ => {}
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::fake_host;
    use super::*;

    #[test]
    fn values_are_found_as_whole_words_in_text() {
        let traces = Traces::from_host(&fake_host().host).values;
        let values: Vec<&str> = traces.iter().map(|trace| trace.value.as_str()).collect();
        assert_eq!(
            values,
            [
                "/.overcoat/",
                "192.0.2.1",
                "Acquire::Check-Valid-Until \"false\";",
                "Acquire::http::Proxy::mirror.example",
                "Acquire::https::example.org::CaInfo",
                "builder.example",
                "cache:3142"
            ]
        );
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
