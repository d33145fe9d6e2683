//! Lints of secrets, which are recognised by file names and by their form.
//!
//! Only files of checked layers are read, and only files up to [`MAX_FILE_SIZE`]: secrets are in
//! small files.

use memchr::memmem;

use super::lints::{CREDENTIALS, HISTORY, HOST_KEY, PRIVATE_KEY, TOKEN};
use crate::check::context::CheckContext;
use crate::check::{Finding, Findings, PassError, Severity};

/// Maximum size of a file that is read: configuration files are smaller.
const MAX_FILE_SIZE: u64 = 256 << 10;

/// Returns whether the content of a file has credentials.
type HasCredentials = fn(&[u8]) -> bool;

/// Credentials files by the end of their path, with a check of the content.
const CREDENTIAL_FILES: [(&[u8], HasCredentials); 24] = [
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

/// Credentials files by a part of their path, with a check of the content.
const CREDENTIAL_DIRS: [(&[u8], HasCredentials); 8] = [
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

/// Keys of rclone's configuration that are secret, for all of its backends.
const RCLONE: &[&[u8]] =
    &[b"pass", b"password", b"secret_access_key", b"client_secret", b"token", b"key"];

const HISTORY_FILES: [&[u8]; 12] = [
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

/// Labels of private keys in PEM headers (RFC 7468; OpenSSH and PGP define their own).
const KEY_LABELS: [&[u8]; 8] = [
    b"PRIVATE KEY",
    b"RSA PRIVATE KEY",
    b"EC PRIVATE KEY",
    b"DSA PRIVATE KEY",
    b"ENCRYPTED PRIVATE KEY",
    b"OPENSSH PRIVATE KEY",
    b"PGP PRIVATE KEY BLOCK",
    b"SSH2 ENCRYPTED PRIVATE KEY",
];

/// Form of the tokens of a service: a prefix, and a number of characters of a class.
struct TokenForm {
    service: &'static str,
    prefix: &'static [u8],
    length: std::ops::RangeInclusive<usize>,
    class: fn(u8) -> bool,
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

const TOKEN_FORMS: [TokenForm; 13] = [
    TokenForm { service: "AWS", prefix: b"AKIA", length: 16..=16, class: upper },
    TokenForm { service: "AWS", prefix: b"ASIA", length: 16..=16, class: upper },
    TokenForm { service: "GitHub", prefix: b"ghp_", length: 36..=36, class: word },
    TokenForm { service: "GitHub", prefix: b"gho_", length: 36..=36, class: word },
    TokenForm { service: "GitHub", prefix: b"ghu_", length: 36..=36, class: word },
    TokenForm { service: "GitHub", prefix: b"ghs_", length: 36..=36, class: word },
    TokenForm { service: "GitHub", prefix: b"github_pat_", length: 82..=82, class: word },
    TokenForm { service: "GitLab", prefix: b"glpat-", length: 20..=60, class: word_or_dash },
    TokenForm { service: "Slack", prefix: b"xoxb-", length: 30..=100, class: word_or_dash },
    TokenForm { service: "Slack", prefix: b"xoxp-", length: 30..=100, class: word_or_dash },
    TokenForm { service: "Stripe", prefix: b"sk_live_", length: 24..=99, class: word },
    TokenForm { service: "npm", prefix: b"npm_", length: 36..=36, class: word },
    TokenForm {
        service: "PyPI",
        prefix: b"pypi-AgEIcHlwaS5vcmc",
        length: 50..=250,
        class: word_or_dash,
    },
];

pub(super) fn secrets(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        if !node.is_file() || node.attr.size == 0 {
            continue;
        }
        let (layer, path, name) = (context.layer_name(node), &node.path[..], node.name());
        if is_host_key(path) {
            findings.add(&HOST_KEY, layer, path, "the same host key on every machine");
            continue;
        }
        if HISTORY_FILES.contains(&name) {
            findings.add(&HISTORY, layer, path, format!("{} bytes", node.attr.size));
        }
        if node.attr.size > MAX_FILE_SIZE {
            continue;
        }
        let content = view.head(node, MAX_FILE_SIZE as usize)?;
        // Matches in ELF files are mostly false positives.
        if content.starts_with(b"\x7fELF") {
            continue;
        }
        // Packages have functions and examples with words such as `psk=`.
        let has_credentials = credentials(path, &content) && !context.is_packaged(node)?;
        if has_credentials {
            findings.add(&CREDENTIALS, layer, path, "it contains credentials");
        } else if credentials(path, &without_comment_marks(&content))
            && !context.is_packaged(node)?
        {
            let message = "it contains credentials in a comment";
            let finding = Finding::new(&CREDENTIALS, layer, Some(path), message);
            findings.push(finding.severity(Severity::Warning));
        }
        // Keys in documentation and tests are examples; byte code has a source file.
        if path.starts_with(b"usr/share/doc/") || path.ends_with(b".pyc") || is_test(path) {
            continue;
        }
        if let Some(kind) = private_key(&content) {
            let message = format!("it contains a private key ({kind})");
            context.add_unless_packaged(&PRIVATE_KEY, node, message, findings)?;
        }
        if [&b".p12"[..], b".pfx"].iter().any(|end| name.ends_with(end)) {
            let finding =
                Finding::new(&PRIVATE_KEY, layer, Some(path), "it may contain one (PKCS #12)");
            findings.push(finding.severity(Severity::Warning));
        }
        if let Some(service) = token(&content) {
            let message = format!("it contains what looks like a token of {service}");
            context.add_unless_packaged(&TOKEN, node, message, findings)?;
        }
        let is_site = SITE_DIRS.iter().any(|dir| path.starts_with(dir))
            && !path.starts_with(b"var/lib/dpkg/");
        if is_site && !context.is_packaged(node)? {
            if has_url_token(&content) {
                findings.add(&TOKEN, layer, path, "it contains a URL with a token");
            } else if has_url_password(&content) && !has_credentials {
                findings.add(&CREDENTIALS, layer, path, "it contains a URL with a password");
            }
        }
    }
    Ok(())
}

/// Directories with the files of a site, in which URLs are searched for passwords and tokens.
const SITE_DIRS: [&[u8]; 7] =
    [b"etc/", b"home/", b"opt/", b"root/", b"srv/", b"usr/local/", b"var/lib/"];

/// Words for passwords in examples.
const EXAMPLES: [&[u8]; 6] = [b"password", b"passwd", b"pass", b"secret", b"changeme", b"pwd"];

/// Returns the content with commented-out lines as lines of their own right, without examples.
fn without_comment_marks(content: &[u8]) -> Vec<u8> {
    let uncommented = |line: &[u8]| {
        let text = line.trim_ascii();
        let marks = text.iter().take_while(|byte| b"#;".contains(byte)).count();
        let text = text[marks..].trim_ascii_start();
        let last = text.rsplit(|byte| b"=: \t\"'".contains(byte)).find(|word| !word.is_empty());
        let is_example = last
            .is_some_and(|last| EXAMPLES.iter().any(|example| last.eq_ignore_ascii_case(example)));
        if is_example { Vec::new() } else { text.to_vec() }
    };
    content.split(|&byte| byte == b'\n').map(uncommented).collect::<Vec<_>>().join(&b'\n')
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

/// Returns whether this is a credentials file that has credentials.
fn credentials(path: &[u8], content: &[u8]) -> bool {
    let rooted = [b"/", path].concat();
    let mut files = CREDENTIAL_FILES.iter().filter(|(file, _)| rooted.ends_with(file));
    let mut dirs = CREDENTIAL_DIRS.iter().filter(|(dir, _)| has(&rooted, dir));
    files.any(|(_, check)| check(content)) || dirs.any(|(_, check)| check(content))
}

/// Returns the lines without comments.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = content.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.starts_with(b"#") && !line.starts_with(b";"))
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// Returns whether a line sets one of the keys: `key = value`, `key value`, `key=value`.
fn is_set(content: &[u8], keys: &[&[u8]]) -> bool {
    lines(content).any(|line| keys.iter().any(|key| value(line, key).is_some_and(is_secret)))
}

fn value<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(key.len())?;
    let value = rest.trim_ascii_start();
    let value = value.strip_prefix(b"=").unwrap_or(value).trim_ascii_start();
    (start.eq_ignore_ascii_case(key) && value.len() < rest.len()).then_some(value)
}

/// Returns whether a value is a secret, and neither empty nor a placeholder: `<password>`,
/// `${SECRET}`, `{{ secret }}`, `@SECRET@`, `***`.
fn is_secret(value: &[u8]) -> bool {
    let quotes = |byte: &u8| b"\"';".contains(byte) || byte.is_ascii_whitespace();
    let start = value.iter().position(|byte| !quotes(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !quotes(byte)).map_or(start, |last| last + 1);
    let value = &value[start..end];
    let within = |open: &[u8], close: &[u8]| value.starts_with(open) && value.ends_with(close);
    let is_placeholder = within(b"<", b">")
        || within(b"${", b"}")
        || within(b"$(", b")")
        || within(b"{{", b"}}")
        || within(b"@", b"@");
    !is_placeholder && value.iter().any(|byte| !b"*.-xX".contains(byte))
}

/// Recognises `machine HOST login NAME password SECRET`, on one or several lines (netrc(5),
/// apt_auth.conf(5)).
fn is_netrc(content: &[u8]) -> bool {
    let mut words = lines(content).flat_map(words);
    let mut of_password = || words.find(|word| *word == b"password").and_then(|_| words.next());
    std::iter::from_fn(&mut of_password).any(is_secret)
}

/// Returns whether a URL has a password: `https://name:password@host`.
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

/// Names of parameters whose values are tokens.
const TOKEN_PARAMETERS: [&[u8]; 6] =
    [b"token=", b"access_token=", b"private_token=", b"api_key=", b"apikey=", b"auth_token="];

/// Returns whether a URL has a token as a parameter: `https://host/path?token=…`.
fn has_url_token(content: &[u8]) -> bool {
    /// Shorter values may be names.
    const MIN_TOKEN: usize = 16;
    lines(content).filter(|line| has(line, b"://")).any(|line| {
        let starts = memchr::memchr2_iter(b'?', b'&', line);
        starts.map(|at| &line[at + 1..]).any(|parameter| {
            let value = TOKEN_PARAMETERS.iter().find_map(|name| parameter.strip_prefix(*name));
            let value = value.unwrap_or_default();
            let length = value.iter().take_while(|byte| word_or_dash(**byte)).count();
            let value = &value[..length];
            let distinct = value.iter().collect::<std::collections::BTreeSet<_>>().len();
            length >= MIN_TOKEN && distinct > 7 && value.iter().any(u8::is_ascii_digit)
        })
    })
}

/// Recognises `user = name:password`, `-u name:password` (curl(1)).
fn is_curlrc(content: &[u8]) -> bool {
    const KEYS: [&[u8]; 6] = [b"user", b"--user", b"-u", b"proxy-user", b"--proxy-user", b"-U"];
    let password = |value: &[u8]| {
        let colon = value.iter().position(|&byte| byte == b':');
        colon.is_some_and(|colon| is_secret(&value[colon + 1..]))
    };
    lines(content).any(|line| KEYS.iter().any(|key| value(line, key).is_some_and(password)))
}

/// Recognises `client server secret` (pppd(8)).
fn is_ppp(content: &[u8]) -> bool {
    lines(content).any(|line| words(line).nth(2).is_some_and(is_secret))
}

/// Recognises a password in mount options (mount.cifs(8)).
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

/// Returns the kind of private key in the content. The key must have a body and an end line, so
/// that a program that mentions the header does not match.
fn private_key(content: &[u8]) -> Option<String> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    if content.starts_with(b"PuTTY-User-Key-File-") && has(content, b"\nPrivate-Lines:") {
        return Some("PuTTY".to_owned());
    }
    let mut rest = content;
    while let Some(at) = memmem::find(rest, BEGIN) {
        rest = &rest[at + BEGIN.len()..];
        let Some(kind) =
            KEY_LABELS.iter().find(|kind| rest.starts_with(&[kind, &b"-----"[..]].concat()))
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

/// Returns whether the lines are the body of a key: base64 after optional headers.
fn is_body(body: &[u8]) -> bool {
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    // JSON escapes line breaks.
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

/// Returns whether the content has an AWS secret access key, which is recognised by the variable's
/// name.
fn has_aws_secret(content: &[u8]) -> bool {
    const NAME: &[u8] = b"AWS_SECRET_ACCESS_KEY";
    memmem::find_iter(content, NAME).any(|at| {
        let rest = content[at + NAME.len()..].trim_ascii_start();
        let Some(value) = rest.strip_prefix(b"=").or(rest.strip_prefix(b":")) else { return false };
        let value = value.trim_ascii_start();
        let value = value.strip_prefix(b"\"").or(value.strip_prefix(b"'")).unwrap_or(value);
        let in_class = |byte: &u8| byte.is_ascii_alphanumeric() || b"/+".contains(byte);
        let length = value.iter().take(41).take_while(|byte| in_class(byte)).count();
        length == 40 && !has(&value[..40], b"EXAMPLE")
    })
}

/// Returns the service of a token in the content.
fn token(content: &[u8]) -> Option<&'static str> {
    if has_aws_secret(content) {
        return Some("AWS");
    }
    let boundary = |byte: Option<&u8>| byte.is_none_or(|byte| !word_or_dash(*byte));
    for form in &TOKEN_FORMS {
        let mut at = 0;
        let prefix = form.prefix;
        while let Some(found) = memmem::find(&content[at..], prefix) {
            let start = at + found;
            let rest = &content[start + prefix.len()..];
            // One character too many is enough; reading on would be quadratic.
            let limit = rest.len().min(form.length.end() + 1);
            let length = rest[..limit].iter().take_while(|byte| (form.class)(**byte)).count();
            let before = start.checked_sub(1).and_then(|before| content.get(before));
            let random =
                || rest[..length].iter().collect::<std::collections::BTreeSet<_>>().len() > 7;
            if form.length.contains(&length)
                && boundary(before)
                && boundary(rest.get(length))
                && random()
                && !has(&rest[..length], b"EXAMPLE")
            {
                return Some(form.service);
            }
            at = start + prefix.len();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_recognised_by_their_form() {
        assert_eq!(token(b"key = AKIAIOSFODNN7ABCDEFG\n"), Some("AWS"));
        assert_eq!(token(b"AKIAIOSFODNN7EXAMPLE"), None, "the documentation's example");
        assert_eq!(token(b"AKIAXXXXXXXXXXXXXXXX"), None, "a placeholder");
        assert_eq!(token(b"xAKIAIOSFODNN7ABCDEFG"), None, "within a word");
        assert_eq!(token(b"AKIAIOSFODNN7ABCDEFGH"), None, "too long");
        assert_eq!(token(b"t=ghp_abcdefghijklmnopqrstuvwxyz0123456789"), Some("GitHub"));
    }

    #[test]
    fn private_key_needs_a_body() {
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
