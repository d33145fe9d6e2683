//! The environment of commands in a sandbox.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of every command. `LC_ALL` is not set, so that a command can choose a locale by
/// `LANG`.
const DEFAULT_VARIABLES: [(&str, &str); 7] = [
    ("PATH", PATH),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("LANG", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    // systemctl changes files and does not contact systemd. Debian's helpers for it check
    // /run/systemd/system, which is missing, and ask policy-rc.d.
    ("SYSTEMD_OFFLINE", "1"),
];

/// Variables kept from the host: terminal, proxies, and the time of a reproducible build.
const KEPT_HOST_VARIABLES: [&str; 14] = [
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "SOURCE_DATE_EPOCH",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Returns the default environment of a command inside, sorted by name.
///
/// Only the variables listed above are kept from the host's environment: the others would make the
/// result depend on the user and the machine.
pub fn default_environment(
    host: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let mut environment: BTreeMap<OsString, OsString> =
        DEFAULT_VARIABLES.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let kept = |name: &OsStr| KEPT_HOST_VARIABLES.iter().any(|kept| name == *kept);
    environment.extend(host.into_iter().filter(|(name, _)| kept(name)));
    environment.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_pass_and_secrets_do_not() {
        let host = [
            ("https_proxy", "http://p:3128"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("PATH", "/home/me/bin"),
            ("LC_ALL", "de_DE.UTF-8"),
            ("SOURCE_DATE_EPOCH", "1700000000"),
            ("TERM", "xterm"),
        ];
        let environment =
            default_environment(host.map(|(name, value)| (name.into(), value.into())));
        let get = |name: &str| {
            environment.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.to_str())
        };
        assert_eq!(get("https_proxy"), Some("http://p:3128"));
        assert_eq!(get("SOURCE_DATE_EPOCH"), Some("1700000000"));
        assert_eq!(get("TERM"), Some("xterm"));
        assert_eq!(get("PATH"), Some(PATH));
        assert_eq!(get("AWS_SECRET_ACCESS_KEY"), None);
        assert_eq!(get("LC_ALL"), None);
        assert!(environment.is_sorted());
    }
}
