//! Secrets: by the names of the files that hold them, and by what they look like.
//!
//! Only what is brought is read, and of each file no more than [`MOST`]: secrets are short, and stand
//! in small files.

use memchr::memmem;

use super::lints::{CREDENTIALS, HISTORY, HOST_KEY, PRIVATE_KEY, TOKEN};
use super::of_package;
use crate::check::context::Context;
use crate::check::{Findings, Stopped};
use crate::look::Node;

/// Larger files are no configuration files.
const MOST: u64 = 256 << 10;

/// Files that hold credentials, in somebody's home or elsewhere, and what of their content says that
/// they do.
const CREDENTIAL_FILES: [(&[u8], &[u8]); 13] = [
    (b"/.netrc", b"password"),
    (b"/.docker/config.json", b"\"auth\""),
    (b"/.aws/credentials", b"aws_secret_access_key"),
    (b"/.kube/config", b"-data:"),
    (b"/.git-credentials", b"://"),
    (b"/.pgpass", b":"),
    (b"/.my.cnf", b"password"),
    (b"/.npmrc", b"_authToken"),
    (b"/.pypirc", b"password"),
    (b"/.config/gcloud/credentials.db", b""),
    (b"/.config/gh/hosts.yml", b"oauth_token"),
    (b"/.azure/msal_token_cache.json", b""),
    (b"/.vault-token", b""),
];

const HISTORIES: [&[u8]; 10] = [
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

pub(super) fn secrets(context: &Context<'_>, findings: &mut Findings<'_>) -> Result<(), Stopped> {
    let view = &context.roots()?.view;
    for brought in &context.difference()?.brought {
        let node = &brought.node;
        if !node.is_file() || node.attr.size == 0 {
            continue;
        }
        let (layer, path, name) = (context.layer(node), &node.path[..], node.name());
        if is_host_key(path) {
            findings.add(&HOST_KEY, layer, path, "a host key, the same on every machine");
            continue;
        }
        if HISTORIES.contains(&name) {
            findings.add(&HISTORY, layer, path, format!("{} bytes of it", node.attr.size));
        }
        if node.attr.size > MOST || is_program(node) {
            continue;
        }
        let content = view.head(node, MOST as usize)?;
        if let Some((file, _)) = credentials(path, &content) {
            let what = String::from_utf8_lossy(file).trim_start_matches('/').to_owned();
            findings.add(&CREDENTIALS, layer, path, format!("a {what} with credentials in it"));
        }
        // What others ship to be tried with is no secret, and what is compiled has its source.
        if path.starts_with(b"usr/share/doc/") || path.ends_with(b".pyc") || is_test(path) {
            continue;
        }
        if let Some(kind) = private_key(&content) {
            of_package(context, &PRIVATE_KEY, node, format!("it holds one ({kind})"), findings)?;
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

fn is_program(node: &Node) -> bool {
    node.attr.mode & 0o111 != 0 && node.path.windows(4).any(|window| window == b"bin/")
}

fn is_test(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|name| matches!(name, b"test" | b"tests" | b"examples"))
}

fn credentials(path: &[u8], content: &[u8]) -> Option<(&'static [u8], &'static [u8])> {
    let rooted = [b"/", path].concat();
    CREDENTIAL_FILES
        .into_iter()
        .find(|(file, says)| rooted.ends_with(file) && (says.is_empty() || has(content, says)))
}

fn has(content: &[u8], what: &[u8]) -> bool {
    memmem::find(content, what).is_some()
}

/// What kind of private key stands in the content: with its body and its end, not as words in a
/// program.
fn private_key(content: &[u8]) -> Option<String> {
    const BEGIN: &[u8] = b"-----BEGIN ";
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

/// Whose token stands in the content.
fn token(content: &[u8]) -> Option<&'static str> {
    let boundary = |byte: Option<&u8>| byte.is_none_or(|byte| !word_or_dash(*byte));
    for form in &FORMS {
        let mut at = 0;
        let begins = form.begins;
        while let Some(found) = memmem::find(&content[at..], begins) {
            let start = at + found;
            let rest = &content[start + begins.len()..];
            let length = rest.iter().take_while(|byte| (form.of)(**byte)).count();
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
