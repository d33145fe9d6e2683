//! The host's network access: name servers, certificates, and how apt fetches packages.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::content::PEM_BEGIN;
use super::proxy;
use crate::sandbox::find_program;

/// Maximum size of a host file that is lent, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The directory of the first of the [`BUNDLES`].
pub(super) const BUNDLE_DIR: &str = "/etc/ssl/certs";

/// The certificate bundles of the distributions.
pub(super) const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Variables that name a bundle of certificates for a program or a language.
pub(super) const BUNDLE_VARIABLES: [&str; 10] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
];

/// The variable that names the trust store of Java programs.
pub(super) const JAVA_OPTIONS: &str = "JAVA_TOOL_OPTIONS";
const JAVA_TRUST_STORE: &str = "-Djavax.net.ssl.trustStore=";

/// The parts of the host that a root needs.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    apt_settings: Vec<AptSetting>,
    addresses: Vec<String>,
}

/// The host's name servers and search domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolver {
    /// The `nameserver` and `options` lines of `resolv.conf`.
    pub(super) lines: Vec<String>,
    /// The search domains for short names, separated by spaces.
    pub(super) search: Option<String>,
}

/// The certificates of the authorities that the host trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificates {
    /// In PEM.
    pub(super) pem: Vec<u8>,
    /// Whether the host trusts its own authorities, such as that of a proxy that decrypts
    /// connections. Then a root needs them even if it has certificates.
    pub(super) are_own: bool,
}

/// Java's trust store on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JavaTrust {
    /// The content of the store.
    pub(super) store: Vec<u8>,
    /// The variable's other options for the store.
    pub(super) options: Vec<String>,
}

impl Host {
    /// Returns this host. Runs `apt-config`, if installed, which takes about 10 ms.
    pub fn current() -> Self {
        Host {
            root: "/".into(),
            environment: std::env::vars_os().collect(),
            apt_settings: parse_apt_settings(&apt_config()),
            addresses: addresses(),
        }
    }

    /// Fetches packages through `proxy`, if given, instead of the host's proxies.
    #[must_use]
    pub fn with_proxy(mut self, proxy: Option<&str>) -> Self {
        if let Some(proxy) = proxy {
            self.apt_settings.retain(|setting| !setting.is_proxy());
            for method in ["http", "https"] {
                let key = format!("Acquire::{method}::Proxy");
                self.apt_settings.push(AptSetting { key, value: proxy.to_owned() });
            }
        }
        self
    }

    /// Replaces the programs that detect apt's proxies by the proxies that they print for
    /// `sources`, which are URLs. Returns a warning for each program that failed.
    pub fn resolve_proxies(&mut self, sources: &[String]) -> Vec<String> {
        proxy::resolve(&mut self.apt_settings, sources)
    }

    /// Returns the host's settings for fetching packages as lines of an apt configuration, for an
    /// apt that runs on this host but does not read its configuration.
    pub fn apt_options(&self) -> Vec<String> {
        self.apt_settings.iter().map(AptSetting::line).collect()
    }

    pub(super) fn apt_settings(&self) -> &[AptSetting] {
        &self.apt_settings
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Reads a file of the host; `None` if it cannot be read or is too large.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let path = self.at(path);
        let metadata = fs::metadata(&path).ok()?;
        (metadata.is_file() && metadata.len() <= MAX_FILE_BYTES).then(|| fs::read(&path).ok())?
    }

    pub(super) fn resolver(&self) -> Option<Resolver> {
        // Follows a symbolic link on the host (systemd-resolved).
        let text = String::from_utf8_lossy(&self.read("etc/resolv.conf")?).into_owned();
        let mut resolver = Resolver { lines: Vec::new(), search: None };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver" | "options") => resolver.lines.push(line.trim().to_owned()),
                // The last of several lines counts.
                Some("search" | "domain") => {
                    let domains = words.collect::<Vec<_>>().join(" ");
                    resolver.search = (!domains.is_empty()).then_some(domains);
                }
                _ => {}
            }
        }
        Some(resolver)
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(OsStr::new(name))?.to_str().filter(|value| !value.is_empty())
    }

    pub(super) fn certificates(&self) -> Option<Certificates> {
        let mut named: Vec<&str> =
            BUNDLE_VARIABLES.iter().filter_map(|name| self.variable(name)).collect();
        named.sort_unstable();
        named.dedup();
        let system = || BUNDLES.iter().find_map(|bundle| self.read(bundle));
        let mut pem = Vec::new();
        for bundle in named.iter().filter_map(|path| self.read(path)) {
            pem.extend_from_slice(&bundle);
            pem.push(b'\n');
        }
        let are_own = !pem.is_empty() || self.has_own_certificates();
        if pem.is_empty() || self.has_own_certificates() {
            pem.extend_from_slice(&system().unwrap_or_default());
        }
        (!pem.is_empty()).then_some(Certificates { pem, are_own })
    }

    /// Returns the addresses of the host's network interfaces, without those that all hosts have.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Returns the user's home directory and the working directory. A directory in `/`, such as
    /// `/root`, is left out: many hosts have it.
    pub(super) fn private_paths(&self) -> impl Iterator<Item = &str> {
        let paths = [self.variable("HOME"), self.variable("PWD")].into_iter().flatten();
        let paths = paths.map(|path| path.trim_end_matches('/'));
        paths.filter(|path| path.matches('/').count() > 1)
    }

    fn has_own_certificates(&self) -> bool {
        self.own_certificate_files().next().is_some()
    }

    fn own_certificate_files(&self) -> impl Iterator<Item = PathBuf> {
        ["usr/local/share/ca-certificates", "etc/pki/ca-trust/source/anchors"]
            .iter()
            .filter_map(|dir| fs::read_dir(self.at(dir)).ok())
            .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
    }

    /// Returns the files of certificates that the host trusts in addition to those of its
    /// distribution. A variable may also name a bundle of them all, which is left out.
    pub(super) fn own_certificates(&self) -> Vec<String> {
        /// More certificates than a site has authorities.
        const MAX_OWN: usize = 20;
        let files = self.own_certificate_files().filter_map(|path| fs::read(path).ok());
        let named = BUNDLE_VARIABLES.iter().filter_map(|name| self.read(self.variable(name)?));
        let texts = files.chain(named).map(|pem| String::from_utf8_lossy(&pem).into_owned());
        texts.filter(|text| text.matches(PEM_BEGIN).count() <= MAX_OWN).collect()
    }

    pub(super) fn java_trust(&self) -> Option<JavaTrust> {
        let (mut store, mut options) = (None, Vec::new());
        for word in self.variable(JAVA_OPTIONS)?.split_whitespace() {
            match word.strip_prefix(JAVA_TRUST_STORE) {
                Some(path) => store = self.read(path),
                None if word.starts_with("-Djavax.net.ssl.trustStore") => {
                    options.push(word.to_owned());
                }
                None => {}
            }
        }
        Some(JavaTrust { store: store?, options })
    }
}

impl JavaTrust {
    /// Returns the value of [`JAVA_OPTIONS`] for a store at `path`.
    pub(super) fn variable(&self, path: &str) -> String {
        let mut words = vec![format!("{JAVA_TRUST_STORE}{path}")];
        words.extend_from_slice(&self.options);
        words.join(" ")
    }
}

/// Returns the IP and hardware addresses of all interfaces but the loopback one.
fn addresses() -> Vec<String> {
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        if interface.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let Some(address) = interface.address else { continue };
        if let Some(ip) = address.as_sockaddr_in() {
            found.push(ip.ip().to_string());
        } else if let Some(ip) = address.as_sockaddr_in6() {
            found.push(ip.ip().to_string());
        } else if let Some(bytes) = address.as_link_addr().and_then(|link| link.addr()) {
            let is_set = bytes.iter().any(|&byte| byte != 0 && byte != 0xff);
            found.extend(is_set.then(|| bytes.map(|byte| format!("{byte:02x}")).join(":")));
        }
    }
    found
}

fn apt_config() -> String {
    let Some(program) = find_program("apt-config") else { return String::new() };
    Command::new(program)
        .arg("dump")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

/// A setting of apt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AptSetting {
    pub(super) key: String,
    pub(super) value: String,
}

impl AptSetting {
    pub(super) fn line(&self) -> String {
        format!("{} \"{}\";", self.key, self.value)
    }

    /// Whether the setting names a proxy, for one host or for all.
    pub(super) fn is_proxy(&self) -> bool {
        self.key.split("::").skip(1).any(|part| part.to_ascii_lowercase().starts_with("proxy"))
    }

    /// Whether apt has this setting on each host.
    pub(super) fn is_default(&self) -> bool {
        self.value == "0" && self.key.starts_with("Acquire::Allow")
    }

    /// Whether the name contains that of a server.
    pub(super) fn names_server(&self) -> bool {
        self.key.split("::").any(|part| part.contains('.'))
    }

    /// Whether the value is a file of the host.
    pub(super) fn names_file(&self) -> bool {
        const ENDS: [&str; 3] = ["::cainfo", "::sslcert", "::sslkey"];
        let key = self.key.to_ascii_lowercase();
        ENDS.iter().any(|end| key.ends_with(end)) && self.value.starts_with('/')
    }
}

/// Fetch methods whose settings are passed on: proxies, time-outs, certificates.
const APT_METHODS: [&str; 4] = ["http", "https", "ftp", "socks"];

/// Settings that depend on the host's mirrors and clock.
const APT_SINGLE_SETTINGS: [&str; 11] = [
    "Retries",
    "ForceIPv4",
    "ForceIPv6",
    "Check-Valid-Until",
    "Check-Date",
    "Max-ValidTime",
    "Min-ValidTime",
    "Max-FutureTime",
    "AllowInsecureRepositories",
    "AllowWeakRepositories",
    "AllowDowngradeToInsecureRepositories",
];

/// Parses the settings to pass on from the output of `apt-config dump`: lines of `Key "value";`.
fn parse_apt_settings(dump: &str) -> Vec<AptSetting> {
    dump.lines()
        .filter_map(|line| {
            let (key, value) = line.strip_suffix("\";")?.split_once(" \"")?;
            let mut parts = key.split("::");
            if !parts.next()?.eq_ignore_ascii_case("Acquire") || value.is_empty() {
                return None;
            }
            let second = parts.next()?;
            let is = |list: &[&str]| list.iter().any(|name| name.eq_ignore_ascii_case(second));
            let wanted = is(&APT_METHODS) || is(&APT_SINGLE_SETTINGS) && parts.next().is_none();
            wanted.then(|| AptSetting { key: key.to_owned(), value: value.to_owned() })
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const DUMP: &str = r#"APT "";
APT::Architecture "amd64";
Acquire "";
Acquire::AllowInsecureRepositories "0";
Acquire::cdrom::mount "/media/cdrom/";
Acquire::http::Proxy "http://cache:3142";
Acquire::http::Proxy::mirror.example "DIRECT";
Acquire::https::example.org::CaInfo "/etc/ours.pem";
Acquire::https::Verify-Peer "";
Acquire::Check-Valid-Until "false";
Acquire::Languages:: "none";
Acquire::IndexTargets::deb::Packages "x";
"#;

    /// A host with its files in a temporary directory.
    pub(crate) struct FakeHost {
        pub(crate) host: Host,
        _folder: tempfile::TempDir,
    }

    pub(crate) fn fake_host() -> FakeHost {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        for dir in ["etc/ssl/certs", "run", "usr/local/share/ca-certificates"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join(&BUNDLES[0][1..]), "system\n").unwrap();
        let resolv = "search builder.example lab\nnameserver 192.0.2.1\noptions edns0\n";
        fs::write(root.join("run/resolv"), resolv).unwrap();
        std::os::unix::fs::symlink("../run/resolv", root.join("etc/resolv.conf")).unwrap();
        fs::write(root.join("etc/ours.pem"), "ours").unwrap();
        let apt_settings = parse_apt_settings(DUMP);
        FakeHost {
            host: Host { root, environment: BTreeMap::new(), apt_settings, addresses: Vec::new() },
            _folder: folder,
        }
    }

    #[test]
    fn name_servers_and_search_domains_are_separate() {
        let resolver = fake_host().host.resolver().unwrap();
        assert_eq!(resolver.lines, ["nameserver 192.0.2.1", "options edns0"]);
        assert_eq!(resolver.search.as_deref(), Some("builder.example lab"));
    }

    #[test]
    fn given_proxy_replaces_all_proxies_of_the_host() {
        let options =
            fake_host().host.with_proxy(Some("http://ours:3142")).apt_options().join("\n");
        assert!(options.contains("Acquire::http::Proxy \"http://ours:3142\";"), "{options}");
        assert!(options.contains("Acquire::https::Proxy \"http://ours:3142\";"), "{options}");
        assert!(!options.contains("cache:3142") && !options.contains("DIRECT"), "{options}");
        assert!(options.contains("Acquire::Check-Valid-Until"), "{options}");
    }

    #[test]
    fn certificates_are_own_when_the_host_adds_or_names_some() {
        let mut fake = fake_host();
        let system = fake.host.certificates().unwrap();
        assert_eq!((system.pem.as_slice(), system.are_own), (&b"system\n"[..], false));
        let named = fake.host.root.join("named.pem");
        fs::write(&named, "named").unwrap();
        fake.host.environment.insert("REQUESTS_CA_BUNDLE".into(), "/named.pem".into());
        let named = fake.host.certificates().unwrap();
        assert_eq!((named.pem.as_slice(), named.are_own), (&b"named\n"[..], true));
        fs::write(fake.host.root.join("usr/local/share/ca-certificates/x.crt"), "x").unwrap();
        assert_eq!(fake.host.certificates().unwrap().pem, b"named\nsystem\n");
    }

    #[test]
    fn only_settings_about_fetching_are_passed_on() {
        let keys: Vec<String> = parse_apt_settings(DUMP).into_iter().map(|s| s.key).collect();
        assert_eq!(
            keys,
            [
                "Acquire::AllowInsecureRepositories",
                "Acquire::http::Proxy",
                "Acquire::http::Proxy::mirror.example",
                "Acquire::https::example.org::CaInfo",
                "Acquire::Check-Valid-Until"
            ]
        );
    }

    #[test]
    fn trust_store_is_found_in_java_options() {
        let mut fake = fake_host();
        let options = "-Xmx1g -Djavax.net.ssl.trustStore=/etc/ours.pem \
                       -Djavax.net.ssl.trustStorePassword=x";
        fake.host.environment.insert(JAVA_OPTIONS.into(), options.into());
        let trust = fake.host.java_trust().unwrap();
        assert_eq!(trust.store, b"ours");
        assert_eq!(
            trust.variable("/x"),
            "-Djavax.net.ssl.trustStore=/x -Djavax.net.ssl.trustStorePassword=x"
        );
    }
}
