//! What a sandbox needs of the host as files: names, certificates, package sources' access.
//!
//! Plain data: the owner of the tree shows the entries as scratch entries, over what the base has
//! (the entry replaces what is at its path, a symbolic link as well) and never in a delta. What
//! cannot be read on the host is left out: a build without a network needs none of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::plan::{Network, Plan};
use super::privilege::find_program;

/// A file that is shown inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScratchFile {
    /// The path from the root, without a leading slash. Missing directories above it are scratch
    /// entries too, of mode 0755.
    pub path: PathBuf,
    /// Its content.
    pub content: Vec<u8>,
    /// Its permission bits; root owns it.
    pub mode: u32,
    /// When it is shown.
    pub when: When,
}

/// When a scratch file is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Whatever the base has at its path.
    Always,
    /// When the base has nothing at its path.
    Missing,
}

/// The host, as far as it matters here.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    apt_settings: String,
}

const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Where distributions keep the certificates they trust.
const BUNDLES: [&str; 4] =
    [BUNDLE, "etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/ca-bundle.pem", "etc/ssl/cert.pem"];

/// Variables that name a bundle of certificates.
const BUNDLE_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "CURL_CA_BUNDLE"];

impl Host {
    /// This host. Takes about 10 ms where there is `apt-config`, for it is asked.
    pub fn current() -> Self {
        Host {
            root: "/".into(),
            environment: std::env::vars_os().collect(),
            apt_settings: apt_config(),
        }
    }

    /// This host, but that packages are fetched through `proxy`, if one is given.
    #[must_use]
    pub fn through(mut self, proxy: Option<&str>) -> Self {
        if let Some(proxy) = proxy {
            let other = |line: &&str| !line.split_once(" \"").is_some_and(|(key, _)| is_proxy(key));
            let mut settings: Vec<String> =
                self.apt_settings.lines().filter(other).map(str::to_owned).collect();
            for method in ["http", "https"] {
                let key = format!("Acquire::{method}::Proxy");
                settings.push(AptSetting { key, value: proxy.to_owned() }.line());
            }
            self.apt_settings = settings.join("\n");
        }
        self
    }

    /// The files that a sandbox of this plan is to show.
    pub fn scratch_files(&self, plan: &Plan) -> Vec<ScratchFile> {
        let mut files = vec![
            text("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755, When::Always),
            text("etc/hosts", &hosts(&plan.hostname), 0o644, When::Missing),
        ];
        let apt = parse_apt_settings(&self.apt_settings);
        files.push(text("etc/apt/apt.conf.d/zz-overcoat", &apt_conf(&apt), 0o644, When::Always));
        if plan.network == Network::Host {
            // A symbolic link on the host (systemd-resolved) is followed here.
            files.extend(self.copy("etc/resolv.conf", "etc/resolv.conf", 0o644, When::Always));
            files.extend(self.certificates());
            files.extend(self.apt_key_files(&apt));
        }
        files
    }

    /// The host's settings of how packages are fetched, each as a line of an apt configuration:
    /// for an apt that runs on this host, but does not read its configuration.
    pub fn apt_options(&self) -> Vec<String> {
        parse_apt_settings(&self.apt_settings).iter().map(AptSetting::line).collect()
    }

    fn copy(&self, from: &str, to: &str, mode: u32, when: When) -> Option<ScratchFile> {
        let content = fs::read(self.root.join(from.trim_start_matches('/'))).ok()?;
        Some(ScratchFile { path: to.trim_start_matches('/').into(), content, mode, when })
    }

    /// The host's certificates: where the base has none, and in place of the base's when the host
    /// trusts some of its own, as behind a proxy that opens connections.
    fn certificates(&self) -> Option<ScratchFile> {
        let named = BUNDLE_VARIABLES
            .iter()
            .find_map(|name| self.environment.get(OsStr::new(name))?.to_str())
            .map(str::to_owned);
        let own = named.is_some() || self.has_own_certificates();
        let when = if own { When::Always } else { When::Missing };
        named
            .iter()
            .map(String::as_str)
            .chain(BUNDLES)
            .find_map(|bundle| self.copy(bundle, BUNDLE, 0o644, when))
    }

    fn has_own_certificates(&self) -> bool {
        ["usr/local/share/ca-certificates", "etc/pki/ca-trust/source/anchors"].iter().any(|dir| {
            fs::read_dir(self.root.join(dir)).is_ok_and(|mut entries| entries.next().is_some())
        })
    }

    /// Certificates and keys that the host's apt settings name.
    fn apt_key_files(&self, settings: &[AptSetting]) -> Vec<ScratchFile> {
        let names_file =
            |key: &str| ["::CaInfo", "::SslCert", "::SslKey"].iter().any(|end| key.ends_with(end));
        settings
            .iter()
            .filter(|setting| names_file(&setting.key) && setting.value.starts_with('/'))
            .filter(|setting| setting.value.trim_start_matches('/') != BUNDLE)
            .filter_map(|setting| self.copy(&setting.value, &setting.value, 0o600, When::Missing))
            .collect()
    }
}

fn text(path: &str, content: &str, mode: u32, when: When) -> ScratchFile {
    ScratchFile { path: path.into(), content: content.into(), mode, when }
}

fn hosts(hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
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

#[derive(Debug, Clone, PartialEq, Eq)]
struct AptSetting {
    key: String,
    value: String,
}

impl AptSetting {
    fn line(&self) -> String {
        format!("{} \"{}\";", self.key, self.value)
    }
}

/// Everything about a way to fetch is the host's: proxies, time-outs, certificates.
const APT_METHODS: [&str; 4] = ["http", "https", "ftp", "socks"];

/// And so is what it takes for a valid answer: a mirror's snapshot, a clock that is off.
const APT_SINGLE: [&str; 11] = [
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

/// The settings to pass on, from what `apt-config dump` prints: `Key "value";` a line.
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
            // A program of the host that would tell the proxy is not in the image.
            let program = key.to_ascii_lowercase().contains("proxy-auto");
            let wanted = is(&APT_METHODS) || is(&APT_SINGLE) && parts.next().is_none();
            (wanted && !program)
                .then(|| AptSetting { key: key.to_owned(), value: value.to_owned() })
        })
        .collect()
}

/// Whether an apt setting says which proxy is used, for one host or for all.
fn is_proxy(key: &str) -> bool {
    let parts: Vec<String> = key.split("::").map(str::to_ascii_lowercase).collect();
    parts[0] == "acquire" && parts.iter().any(|part| part.starts_with("proxy"))
}

fn apt_conf(settings: &[AptSetting]) -> String {
    let mut conf = String::from(
        "// The host's way to its package sources, shown by overcoat and in no overlay.\n\
         // One user fetches: another one need not exist, or reach the files.\n\
         APT::Sandbox::User \"root\";\n",
    );
    for setting in settings {
        conf.push_str(&setting.line());
        conf.push('\n');
    }
    conf
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Privilege;
    use std::path::{Component, Path};

    const DUMP: &str = r#"APT "";
APT::Architecture "amd64";
Acquire "";
Acquire::AllowInsecureRepositories "0";
Acquire::cdrom::mount "/media/cdrom/";
Acquire::http::Proxy "http://cache:3142";
Acquire::http::Proxy-Auto-Detect "/usr/bin/auto-apt-proxy";
Acquire::https::example.org::CaInfo "/etc/ours.pem";
Acquire::https::Verify-Peer "";
Acquire::Check-Valid-Until "false";
Acquire::Languages:: "none";
Acquire::IndexTargets::deb::Packages "x";
"#;

    fn host(name: &str) -> Host {
        let root =
            std::env::temp_dir().join(format!("overcoat-host-{name}-{}", std::process::id()));
        for dir in ["etc/ssl/certs", "run", "usr/local/share/ca-certificates"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join(BUNDLE), "bundle").unwrap();
        fs::write(root.join("run/resolv"), "nameserver 192.0.2.1\n").unwrap();
        std::os::unix::fs::symlink("../run/resolv", root.join("etc/resolv.conf")).unwrap();
        fs::write(root.join("etc/ours.pem"), "ours").unwrap();
        Host { root, environment: BTreeMap::new(), apt_settings: DUMP.to_owned() }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            if self.root != Path::new("/") {
                let _ = fs::remove_dir_all(&self.root);
            }
        }
    }

    fn find<'a>(files: &'a [ScratchFile], path: &str) -> Option<&'a ScratchFile> {
        files.iter().find(|file| file.path == Path::new(path))
    }

    #[test]
    fn access_to_the_network_comes_from_the_host() {
        let host = host("network");
        let plan = Plan::new(Privilege::Root);
        let files = host.scratch_files(&plan);
        let clean =
            |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        assert!(files.iter().all(|file| clean(&file.path)));
        let resolv = find(&files, "etc/resolv.conf").unwrap();
        assert_eq!(resolv.content, b"nameserver 192.0.2.1\n");
        assert_eq!(find(&files, "etc/ours.pem").unwrap().content, b"ours");
        assert_eq!(find(&files, "usr/sbin/policy-rc.d").unwrap().mode, 0o755);
        assert_eq!(find(&files, BUNDLE).unwrap().when, When::Missing);
        let without = host.scratch_files(&Plan { network: Network::None, ..plan });
        assert_eq!(find(&without, "etc/resolv.conf"), None);
    }

    #[test]
    fn a_proxy_that_is_named_takes_the_place_of_the_hosts() {
        let host = host("proxy").through(Some("http://ours:3142"));
        let options = host.apt_options().join("\n");
        assert!(options.contains("Acquire::http::Proxy \"http://ours:3142\";"), "{options}");
        assert!(options.contains("Acquire::https::Proxy \"http://ours:3142\";"), "{options}");
        assert!(!options.contains("http://cache:3142"), "{options}");
        assert!(options.contains("Acquire::Check-Valid-Until"), "{options}");
    }

    #[test]
    fn certificates_of_the_hosts_own_replace_the_bases() {
        let host = host("own");
        let ours = host.root.join("usr/local/share/ca-certificates/ours.crt");
        fs::write(ours, "x").unwrap();
        let files = host.scratch_files(&Plan::new(Privilege::Root));
        assert_eq!(find(&files, BUNDLE).unwrap().when, When::Always);
    }

    #[test]
    fn apt_settings_that_are_the_hosts_pass() {
        let settings = parse_apt_settings(DUMP);
        let keys: Vec<&str> = settings.iter().map(|setting| setting.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "Acquire::AllowInsecureRepositories",
                "Acquire::http::Proxy",
                "Acquire::https::example.org::CaInfo",
                "Acquire::Check-Valid-Until"
            ]
        );
        let conf = apt_conf(&settings);
        assert!(conf.contains("\nAcquire::http::Proxy \"http://cache:3142\";\n"), "{conf}");
        assert!(conf.contains("APT::Sandbox::User \"root\";"), "{conf}");
    }
}
