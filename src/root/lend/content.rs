//! The content of a lent file, made from the image's own lines and those of the host.
//!
//! Lent lines of `resolv.conf`, `hosts` and `apt.conf` end with [blanks](LINE_END). Readers ignore
//! them, and a tool that adds a line unless the file already has it (Ansible's `lineinfile`) finds
//! that it does not.

use super::lent_block::{LINE_END, LentBlock};

/// The first and last line of a certificate in PEM.
pub(super) const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";

/// The content of a lent file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LentContent {
    pub(super) content: Vec<u8>,
    pub(super) block: LentBlock,
}

impl LentContent {
    /// Returns the offset in the content at which the lent lines end.
    pub(super) fn lent_end(&self) -> u64 {
        let start = memchr::memmem::find(&self.content, &self.block.shown);
        start.map_or(self.content.len(), |start| start + self.block.shown.len()) as u64
    }
}

/// Puts `lines` before those of the image.
pub(super) fn prepended(number: usize, lines: &[u8], own: Option<&[u8]>) -> LentContent {
    let block = LentBlock::new("#", number, lines, own);
    LentContent { content: [&block.shown, own.unwrap_or_default()].concat(), block }
}

/// Puts `lines` after those of the image. Comments begin with `comment`.
pub(super) fn appended(
    comment: &str,
    number: usize,
    lines: &[u8],
    own: Option<&[u8]>,
) -> LentContent {
    let mut block = LentBlock::new(comment, number, lines, own);
    let own = own.unwrap_or_default();
    // The end of the lent file is like that of the own one: programs look whether a line ends there
    // before they append one.
    if !own.is_empty() && !own.ends_with(b"\n") {
        block.shown.insert(0, b'\n');
        block.shown.pop();
    }
    LentContent { content: [own, &block.shown].concat(), block }
}

/// A `systemd-detect-virt` that reports a container. Hooks of kernels and boot loaders run this
/// program, and leave the hardware alone in a container.
const DETECT_VIRT: &[u8] = b"quiet= vm=
for option; do
  case $option in
  -q | --quiet) quiet=y ;;
  -v | --vm) vm=y ;;
  -r | --chroot) exit 0 ;;
  --private-users) exit 1 ;;
  esac
done
[ \"$vm\" ] && { [ \"$quiet\" ] || echo none; exit 1; }
[ \"$quiet\" ] || echo container-other
";

/// A program that forbids starting services, as run by `invoke-rc.d`.
pub(super) fn policy(number: usize) -> LentContent {
    program(number, b"exit 101\n")
}

/// The program `systemd-detect-virt`, for an image that lacks it.
pub(super) fn detect_virt(number: usize) -> LentContent {
    program(number, DETECT_VIRT)
}

fn program(number: usize, body: &[u8]) -> LentContent {
    let mut block = LentBlock::new("#", number, body, None);
    block.shown.splice(..0, b"#!/bin/sh\n".iter().copied());
    LentContent { content: block.shown.clone(), block }
}

/// `/etc/hosts` in which `hostname` resolves; `None` if it already does.
pub(super) fn hosts(number: usize, hostname: &str, own: Option<&[u8]>) -> Option<LentContent> {
    let text = own.map(String::from_utf8_lossy);
    let known = |name: &str| {
        text.iter().flat_map(|text| text.lines()).any(|line| {
            let line = line.split('#').next().unwrap_or("");
            line.split_whitespace().skip(1).any(|word| word.eq_ignore_ascii_case(name))
        })
    };
    let mut lines = String::new();
    if !known("localhost") {
        for names in ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"] {
            lines.extend([names, LINE_END]);
        }
    }
    if !known(hostname) && !hostname.eq_ignore_ascii_case("localhost") {
        // The full name is first and the short one second, as Debian's installer writes them.
        match hostname.split_once('.') {
            Some((short, _)) => lines += &format!("127.0.1.1\t{hostname} {short}{LINE_END}"),
            None => lines += &format!("127.0.1.1\t{hostname}{LINE_END}"),
        }
    }
    (!lines.is_empty()).then(|| appended("#", number, lines.as_bytes(), own))
}

/// A bundle with the certificates of `host` that the image lacks; `None` if it lacks none.
pub(super) fn bundle(number: usize, host: &[u8], own: Option<&[u8]>) -> Option<LentContent> {
    let own_text = own.map(String::from_utf8_lossy);
    let known: Vec<String> =
        own_text.iter().flat_map(|text| certificates(text)).map(|pem| key(&pem)).collect();
    let host = String::from_utf8_lossy(host);
    let mut seen = Vec::new();
    let mut lines = String::new();
    for pem in certificates(&host) {
        let key = key(&pem);
        if !known.contains(&key) && !seen.contains(&key) {
            lines.push_str(&pem);
            lines.push('\n');
            seen.push(key);
        }
    }
    (!lines.is_empty()).then(|| appended("#", number, lines.as_bytes(), own))
}

/// Returns the certificates in `text`, each with its first and last line.
pub(super) fn certificates(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(PEM_BEGIN) {
        let Some(length) = rest[at..].find(PEM_END) else { break };
        let end = at + length + PEM_END.len();
        found.push(rest[at..end].replace('\r', ""));
        rest = &rest[end..];
    }
    found
}

/// Returns a certificate's encoded bytes without line breaks.
pub(super) fn key(pem: &str) -> String {
    let body = pem.trim_start_matches(PEM_BEGIN).trim_end_matches(PEM_END);
    body.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lent: &LentContent) -> &str {
        std::str::from_utf8(&lent.content).unwrap()
    }

    #[test]
    fn host_name_resolves() {
        assert!(text(&hosts(0, "node", None).unwrap()).contains("127.0.0.1\tlocalhost   "));
        let own = b"127.0.0.1 localhost\n# 127.0.1.1 node";
        let lent = hosts(0, "node", Some(own)).unwrap();
        assert!(text(&lent).starts_with("127.0.0.1 localhost\n# 127.0.1.1 node\n"));
        assert!(text(&lent).contains("127.0.1.1\tnode   "));
        assert!(!text(&lent).contains("::1"));
        let lent = hosts(0, "node.lab.example", Some(own)).unwrap();
        assert!(text(&lent).contains("127.0.1.1\tnode.lab.example node   "));
        assert_eq!(hosts(0, "NODE", Some(b"127.0.0.1 localhost node\n")), None);
    }

    #[test]
    fn bundle_gets_only_missing_certificates() {
        let pem = |body: &str| format!("{PEM_BEGIN}\n{body}\n{PEM_END}\n");
        let own = format!("# Own\n{}", pem("AAAA\nBB"));
        let host = format!("{}\n{}{}", pem("AAAABB"), pem("CC"), pem("CC"));
        let lent = bundle(0, host.as_bytes(), Some(own.as_bytes())).unwrap();
        assert!(text(&lent).starts_with(&own));
        assert_eq!(text(&lent).matches(PEM_BEGIN).count(), 2);
        assert_eq!(bundle(0, pem("AAAABB").as_bytes(), Some(own.as_bytes())), None);
        assert_eq!(bundle(0, b"no certificate", None), None);
    }
}
