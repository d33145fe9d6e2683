//! Secrets: by the names of the files that hold them, and by what they look like.
//!
//! Only what is brought is read, and of each file no more than [`MOST`]: secrets are short, and stand
//! in small files.

use memchr::memmem;

use super::lints::{CREDENTIALS, HISTORY, HOST_KEY, PRIVATE_KEY, TOKEN};
use super::of_package;
use crate::check::context::CheckContext;
use crate::check::{Finding, Findings, Severity, PassError};

/// Larger files are no configuration files.
const MOST: u64 = 256 << 10;

/// Whether content holds credentials.
type Holds = fn(&[u8]) -> bool;

/// Files that are there to hold credentials, in somebody's home or elsewhere, by the ends of their
/// paths, and what of their content says that they do.
const CREDENTIAL_FILES: [(&[u8], Holds); 24] = [
    (b"/.netrc", is_netrc),
    (b"/.docker/config.json", |content| has(content, b"\"auth\"")),
    (b"/.aws/credentials", |content| is_set(content, &[b"aws_secret_access_key"])),
    (b"/.kube/config", |content| has(content, b"-data:")),
    (b"/.git-credentials", has_url_password),
    (b"/.git/config", has_url_password),
    (b"/.pgpass", |content| has(content, b":")),
    (b"/.my.cnf", |content| is_set(content, &[b"password"])),
    (b"/.npmrc", |content| has(content, b"_authToken")),
    (b"/.pypirc", |content| is_set(content, &[b"password"])),
    (b"/.s3cfg", |content| is_set(content, &[b"secret_key", b"secret_access_key"])),
    (b"/.curlrc", is_curlrc),
    (b"/.config/rclone/rclone.conf", |content| is_set(content, RCLONE)),
    (b"/.config/gcloud/credentials.db", |_| true),
    (b"/.config/gh/hosts.yml", |content| has(content, b"oauth_token")),
    (b"/.azure/msal_token_cache.json", |_| true),
    (b"/.config/gcloud/application_default_credentials.json", |_| true),
    (b"/.vault-token", |_| true),
    (b"/etc/kubernetes/admin.conf", |content| has(content, b"-data:")),
    (b"/etc/krb5.keytab", |_| true),
    (b"/etc/munge/munge.key", |_| true),
    (b"/etc/fstab", is_fstab),
    (b"/etc/ppp/chap-secrets", is_ppp),
    (b"/etc/ppp/pap-secrets", is_ppp),
];

/// The same, by how their paths begin.
const CREDENTIAL_DIRS: [(&[u8], Holds); 8] = [
    (b"/etc/NetworkManager/system-connections/", |content| {
        is_set(content, &[b"psk", b"password", b"private-key-password"])
    }),
    (b"/etc/wpa_supplicant", |content| is_set(content, &[b"psk", b"password"])),
    (b"/etc/wireguard/", |content| is_set(content, &[b"privatekey", b"presharedkey"])),
    (b"/etc/systemd/network/", |content| is_set(content, &[b"privatekey", b"presharedkey"])),
    (b"/etc/bind/rndc.key", |content| is_set(content, &[b"secret"])),
    (b"/.gnupg/private-keys-v1.d/", |_| true),
    (b"/etc/apt/auth.conf", is_netrc),
    (b"/etc/apt/sources.list", has_url_password),
];

/// The keys of rclone's configuration that are secret, of its many backends.
const RCLONE: &[&[u8]] =
    &[b"pass", b"password", b"secret_access_key", b"client_secret", b"token", b"key"];

const HISTORIES: [&[u8]; 12] = [
    b".bash_history",
    b".zsh_history",
    b".ash_history",
    b".sh_history",
    b".history",
    b".python_history",
    b".mysql_history",
    b".psql_history",
    b".lesshst",
    b".viminfo",
    b"fish_history",
    b".node_repl_history",
];

/// What the headers of private keys say between the dashes (RFC 7468; OpenSSH and PGP have their
/// own).
const KEYS: [&[u8]; 8] = [
    b"PRIVATE KEY",
    b"RSA PRIVATE KEY",
    b"EC PRIVATE KEY",
    b"DSA PRIVATE KEY",
    b"ENCRYPTED PRIVATE KEY",
    b"OPENSSH PRIVATE KEY",
    b"PGP PRIVATE KEY BLOCK",
    b"SSH2 ENCRYPTED PRIVATE KEY",
];

/// Tokens: whose they are, how they begin, and how many characters of what kind follow.
struct Form {
    whose: &'static str,
    begins: &'static [u8],
    follow: std::ops::RangeInclusive<usize>,
    of: fn(u8) -> bool,
}

const fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

const fn word_or_dash(byte: u8) -> bool {
    word(byte) || byte == b'-'
}

const fn upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

const FORMS: [Form; 13] = [
    Form { whose: "AWS", begins: b"AKIA", follow: 16..=16, of: upper },
    Form { whose: "AWS", begins: b"ASIA", follow: 16..=16, of: upper },
    Form { whose: "GitHub", begins: b"ghp_", follow: 36..=36, of: word },
    Form { whose: "GitHub", begins: b"gho_", follow: 36..=36, of: word },
    Form { whose: "GitHub", begins: b"ghu_", follow: 36..=36, of: word },
    Form { whose: "GitHub", begins: b"ghs_", follow: 36..=36, of: word },
    Form { whose: "GitHub", begins: b"github_pat_", follow: 82..=82, of: word },
    Form { whose: "GitLab", begins: b"glpat-", follow: 20..=60, of: word_or_dash },
    Form { whose: "Slack", begins: b"xoxb-", follow: 30..=100, of: word_or_dash },
    Form { whose: "Slack", begins: b"xoxp-", follow: 30..=100, of: word_or_dash },
    Form { whose: "Stripe", begins: b"sk_live_", follow: 24..=99, of: word },
    Form { whose: "npm", begins: b"npm_", follow: 36..=36, of: word },
    Form { whose: "PyPI", begins: b"pypi-AgEIcHlwaS5vcmc", follow: 50..=250, of: word_or_dash },
];

pub(super) fn secrets(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        if !node.is_file() || node.attr.size == 0 {
            continue;
        }
        let (layer, path, name) = (context.layer_name(node), &node.path[..], node.name());
        if is_host_key(path) {
            findings.add(&HOST_KEY, layer, path, "a host key, the same on every machine");
            continue;
        }
        if HISTORIES.contains(&name) {
            findings.add(&HISTORY, layer, path, format!("{} bytes of it", node.attr.size));
        }
        if node.attr.size > MOST {
            continue;
        }
        let content = view.head(node, MOST as usize)?;
        // What is compiled has its source, and of scripts many hold what they need.
        if content.starts_with(b"\x7fELF") {
            continue;
        }
        if credentials(path, &content) {
            findings.add(&CREDENTIALS, layer, path, "credentials stand in it");
        }
        // What others ship to be tried with is no secret, and what is compiled has its source.
        if path.starts_with(b"usr/share/doc/") || path.ends_with(b".pyc") || is_test(path) {
            continue;
        }
        if let Some(kind) = private_key(&content) {
            let message = format!("it holds one ({kind})");
            of_package(context, &PRIVATE_KEY, node, message, findings)?;
        }
        if [&b".p12"[..], b".pfx"].iter().any(|end| name.ends_with(end)) {
            let finding =
                Finding::new(&PRIVATE_KEY, layer, Some(path), "it may hold one (PKCS #12)");
            findings.push(finding.severity(Severity::Warning));
        }
        if let Some(whose) = token(&content) {
            let message = format!("it holds what looks like a token of {whose}");
            of_package(context, &TOKEN, node, message, findings)?;
        }
    }
    Ok(())
}

fn is_host_key(path: &[u8]) -> bool {
    let name = path.strip_prefix(b"etc/ssh/").or(path.strip_prefix(b"etc/dropbear/"));
    name.is_some_and(|name| {
        let ssh = name.starts_with(b"ssh_host_") && name.ends_with(b"_key");
        ssh || name.starts_with(b"dropbear_") && name.ends_with(b"_host_key")
    })
}

fn is_test(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/')
        .any(|name| matches!(name, b"test" | b"tests" | b"testdata" | b"examples"))
}

/// Whether this is a file that is there to hold credentials, and holds some.
fn credentials(path: &[u8], content: &[u8]) -> bool {
    let rooted = [b"/", path].concat();
    let mut files = CREDENTIAL_FILES.iter().filter(|(file, _)| rooted.ends_with(file));
    let mut dirs = CREDENTIAL_DIRS.iter().filter(|(dir, _)| has(&rooted, dir));
    files.any(|(_, holds)| holds(content)) || dirs.any(|(_, holds)| holds(content))
}

/// The lines that are no comments.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = content.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.starts_with(b"#") && !line.starts_with(b";"))
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// Whether a line gives one of the keys a value: `key = value`, `key value`, `key=value`.
fn is_set(content: &[u8], keys: &[&[u8]]) -> bool {
    lines(content).any(|line| keys.iter().any(|key| value(line, key).is_some_and(is_secret)))
}

fn value<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(key.len())?;
    let value = rest.trim_ascii_start();
    let value = value.strip_prefix(b"=").unwrap_or(value).trim_ascii_start();
    (start.eq_ignore_ascii_case(key) && value.len() < rest.len()).then_some(value)
}

/// Whether a value is one, and not left empty or for somebody to fill in: `<password>`, `${SECRET}`,
/// `{{ secret }}`, `@SECRET@`, `***`.
fn is_secret(value: &[u8]) -> bool {
    let quotes = |byte: &u8| b"\"';".contains(byte) || byte.is_ascii_whitespace();
    let start = value.iter().position(|byte| !quotes(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !quotes(byte)).map_or(start, |last| last + 1);
    let value = &value[start..end];
    let within = |open: &[u8], close: &[u8]| value.starts_with(open) && value.ends_with(close);
    let left_open = within(b"<", b">")
        || within(b"${", b"}")
        || within(b"$(", b")")
        || within(b"{{", b"}}")
        || within(b"@", b"@");
    !left_open && value.iter().any(|byte| !b"*.-xX".contains(byte))
}

/// `machine HOST login NAME password SECRET`, over one or several lines (netrc(5), apt_auth.conf(5)).
fn is_netrc(content: &[u8]) -> bool {
    let mut words = lines(content).flat_map(words);
    let mut of_password = || words.find(|word| *word == b"password").and_then(|_| words.next());
    std::iter::from_fn(&mut of_password).any(is_secret)
}

/// Whether a URL has a password: `https://name:password@host`.
fn has_url_password(content: &[u8]) -> bool {
    const SCHEME: &[u8] = b"://";
    lines(content).any(|line| {
        memmem::find_iter(line, SCHEME).any(|at| {
            let rest = &line[at + SCHEME.len()..];
            let ends = |byte: &u8| b"/\"'?# \t".contains(byte);
            let end = rest.iter().position(ends).unwrap_or(rest.len());
            let Some(host) = rest[..end].iter().rposition(|&byte| byte == b'@') else {
                return false;
            };
            let colon = rest[..host].iter().position(|&byte| byte == b':');
            colon.is_some_and(|colon| is_secret(&rest[colon + 1..host]))
        })
    })
}

/// `user = name:password`, `-u name:password` (curl(1)).
fn is_curlrc(content: &[u8]) -> bool {
    const KEYS: [&[u8]; 6] = [b"user", b"--user", b"-u", b"proxy-user", b"--proxy-user", b"-U"];
    let password = |value: &[u8]| {
        let colon = value.iter().position(|&byte| byte == b':');
        colon.is_some_and(|colon| is_secret(&value[colon + 1..]))
    };
    lines(content).any(|line| KEYS.iter().any(|key| value(line, key).is_some_and(password)))
}

/// `client server secret` (pppd(8)).
fn is_ppp(content: &[u8]) -> bool {
    lines(content).any(|line| words(line).nth(2).is_some_and(is_secret))
}

/// A password among the options of a mount (mount.cifs(8)).
fn is_fstab(content: &[u8]) -> bool {
    const KEYS: [&[u8]; 2] = [b"password", b"pass"];
    lines(content).filter_map(|line| words(line).nth(3)).any(|options| {
        options
            .split(|&byte| byte == b',')
            .any(|option| KEYS.iter().any(|key| value(option, key).is_some_and(is_secret)))
    })
}

fn has(content: &[u8], what: &[u8]) -> bool {
    memmem::find(content, what).is_some()
}

/// What kind of private key stands in the content: with its body and its end, not as words in a
/// program.
fn private_key(content: &[u8]) -> Option<String> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    if content.starts_with(b"PuTTY-User-Key-File-") && has(content, b"\nPrivate-Lines:") {
        return Some("PuTTY".to_owned());
    }
    let mut rest = content;
    while let Some(at) = memmem::find(rest, BEGIN) {
        rest = &rest[at + BEGIN.len()..];
        let Some(kind) = KEYS.iter().find(|kind| rest.starts_with(&[kind, &b"-----"[..]].concat()))
        else {
            continue;
        };
        let body = &rest[kind.len() + 5..];
        let end = [b"-----END ", &kind[..], b"-----"].concat();
        let Some(end) = memmem::find(body, &end) else { continue };
        if is_body(&body[..end]) {
            return Some(String::from_utf8_lossy(kind).into_owned());
        }
    }
    None
}

/// Whether lines are those of a key: base64, and what headers there are before it.
fn is_body(body: &[u8]) -> bool {
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    // Within JSON the ends of lines are written with a backslash.
    let text = String::from_utf8_lossy(body).replace("\\n", "\n");
    let mut lines = text.lines().map(|line| line.trim().as_bytes()).filter(|line| !line.is_empty());
    let mut long = false;
    let fits = lines.all(|line| {
        let is_base64 = line.iter().all(base64);
        long |= is_base64 && line.len() >= 40;
        let header = line.iter().position(|&byte| byte == b':');
        is_base64 || header.is_some_and(|at| line[..at].iter().all(|&byte| word_or_dash(byte)))
    });
    fits && long
}

/// Whether the secret half of a key of AWS stands in the content, which has no form of its own.
fn has_aws_secret(content: &[u8]) -> bool {
    const NAME: &[u8] = b"AWS_SECRET_ACCESS_KEY";
    memmem::find_iter(content, NAME).any(|at| {
        let rest = content[at + NAME.len()..].trim_ascii_start();
        let Some(value) = rest.strip_prefix(b"=").or(rest.strip_prefix(b":")) else { return false };
        let value = value.trim_ascii_start();
        let value = value.strip_prefix(b"\"").or(value.strip_prefix(b"'")).unwrap_or(value);
        let of = |byte: &u8| byte.is_ascii_alphanumeric() || b"/+".contains(byte);
        let length = value.iter().take(41).take_while(|byte| of(byte)).count();
        length == 40 && !has(&value[..40], b"EXAMPLE")
    })
}

/// Whose token stands in the content.
fn token(content: &[u8]) -> Option<&'static str> {
    if has_aws_secret(content) {
        return Some("AWS");
    }
    let boundary = |byte: Option<&u8>| byte.is_none_or(|byte| !word_or_dash(*byte));
    for form in &FORMS {
        let mut at = 0;
        let begins = form.begins;
        while let Some(found) = memmem::find(&content[at..], begins) {
            let start = at + found;
            let rest = &content[start + begins.len()..];
            // No further than it takes to see that it is too long.
            let most = rest.len().min(form.follow.end() + 1);
            let length = rest[..most].iter().take_while(|byte| (form.of)(**byte)).count();
            let before = start.checked_sub(1).and_then(|before| content.get(before));
            let random =
                || rest[..length].iter().collect::<std::collections::BTreeSet<_>>().len() > 7;
            if form.follow.contains(&length)
                && boundary(before)
                && boundary(rest.get(length))
                && random()
                && !has(&rest[..length], b"EXAMPLE")
            {
                return Some(form.whose);
            }
            at = start + begins.len();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_known_by_their_form_and_words_are_not() {
        assert_eq!(token(b"key = AKIAIOSFODNN7ABCDEFG\n"), Some("AWS"));
        assert_eq!(token(b"AKIAIOSFODNN7EXAMPLE"), None, "of the documentation");
        assert_eq!(token(b"AKIAXXXXXXXXXXXXXXXX"), None, "a placeholder");
        assert_eq!(token(b"xAKIAIOSFODNN7ABCDEFG"), None, "within a word");
        assert_eq!(token(b"AKIAIOSFODNN7ABCDEFGH"), None, "longer");
        assert_eq!(token(b"t=ghp_abcdefghijklmnopqrstuvwxyz0123456789"), Some("GitHub"));
    }

    #[test]
    fn a_private_key_has_a_body() {
        let body = "MIIEpAIBAAKCAQEA3Tz2mr7SZiAMfQyuvBjM9Oi9o5dtLyOuHgYkvHS8xYoxhzLr\n".repeat(3);
        let key =
            format!("x\n-----BEGIN RSA PRIVATE KEY-----\n{body}-----END RSA PRIVATE KEY-----");
        assert_eq!(private_key(key.as_bytes()).as_deref(), Some("RSA PRIVATE KEY"));
        let json = format!("{{\"private_key\": \"{}\"}}", key.replace('\n', "\\n"));
        assert!(private_key(json.as_bytes()).is_some());
        let program = "BEGIN = '-----BEGIN RSA PRIVATE KEY-----'\nif line == BEGIN:\n  \
                       read(THE_REST_OF_THIS_VERY_LONG_NAME_OF_SOMETHING)\n\
                       END = '-----END RSA PRIVATE KEY-----'\n";
        assert_eq!(private_key(program.as_bytes()), None);
        let words = b"starts with \"-----BEGIN RSA PRIVATE KEY-----\" and ends with";
        assert_eq!(private_key(words), None);
        let public = format!("-----BEGIN PUBLIC KEY-----\n{body}");
        assert_eq!(private_key(public.as_bytes()), None);
    }
}
