//! The environment of commands inside.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every command gets. `LC_ALL` is not set, so that a command can choose by `LANG`.
const FIXED: [(&str, &str); 7] = [
    ("PATH", PATH),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("LANG", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    // systemctl changes files and talks to nobody. The Debian helpers around it look for
    // /run/systemd/system, which is not there, and ask policy-rc.d.
    ("SYSTEMD_OFFLINE", "1"),
];

/// What is the host's business: how the terminal works, how the network is reached, which time a
/// reproducible build has.
const KEPT: [&str; 14] = [
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

/// The usual environment of a command inside, in the order of the names.
///
/// Of the host's environment only what is named above is kept: the rest would make the result
/// depend on who builds it, and where.
pub fn default_environment(
    host: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let mut environment: BTreeMap<OsString, OsString> =
        FIXED.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let kept = |name: &OsStr| KEPT.iter().any(|kept| name == *kept);
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
