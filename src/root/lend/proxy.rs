//! Programs that detect apt's proxy (`Acquire::http::Proxy-Auto-Detect`), run on the host.
//!
//! apt runs such a program for each host that it fetches from, with a URL as its argument. The
//! program prints a proxy, or `DIRECT` (apt.conf(5), apt-transport-http(1)). The image does not
//! have the program, so it runs here and its output is passed on.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::host::AptSetting;

/// The name of the setting, and an older name that apt also accepts.
const AUTO_DETECT: [&str; 2] = ["proxy-auto-detect", "proxyautodetect"];
/// Time limit of a program.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Maximum output of a program, in bytes.
const MAX_OUTPUT_BYTES: u64 = 4096;
/// Maximum number of URLs for which one program runs.
const MAX_SOURCES: usize = 16;

/// Replaces the programs among `settings`; see [`Host::resolve_proxies`](super::Host).
pub(super) fn resolve(settings: &mut Vec<AptSetting>, sources: &[String]) -> Vec<String> {
    // The newer name takes precedence, in any order.
    let mut programs: BTreeMap<String, (usize, String)> = BTreeMap::new();
    settings.retain(|setting| {
        let Some((method, rank)) = auto_detect(&setting.key) else { return true };
        let known = programs.get(&method).map(|(rank, _)| *rank);
        if known.is_none_or(|known| rank <= known) {
            programs.insert(method, (rank, setting.value.clone()));
        }
        false
    });
    let mut warnings = Vec::new();
    for (method, (_, program)) in programs {
        match ask_all(&method, &program, sources) {
            Ok(proxies) => settings.extend(proxies),
            Err(reason) => warnings.push(format!(
                "apt on this host detects its {method} proxy with `{program}`, which {reason}: \
                 packages are fetched without it; set the proxy with `apt_proxy`"
            )),
        }
    }
    warnings
}

/// Returns the method that a setting configures a program for, and the rank of the setting's name.
fn auto_detect(key: &str) -> Option<(String, usize)> {
    let key = key.to_ascii_lowercase();
    let mut parts = key.split("::");
    let (acquire, method, name) = (parts.next()?, parts.next()?, parts.next()?);
    let rank = AUTO_DETECT.iter().position(|known| *known == name)?;
    (acquire == "acquire" && parts.next().is_none()).then(|| (method.to_owned(), rank))
}

fn ask_all(method: &str, program: &str, sources: &[String]) -> Result<Vec<AptSetting>, String> {
    let prefix = format!("{method}://");
    let host = |url: &str| url[prefix.len()..].split(['/', ':']).next().unwrap_or("").to_owned();
    let urls = sources.iter().filter(|url| url.starts_with(&prefix)).take(MAX_SOURCES);
    let general = ask(program, &format!("{prefix}deb.debian.org/"))?;
    let mut proxies = Vec::new();
    for url in urls {
        let proxy = ask(program, url)?;
        if proxy != general {
            // Without its own setting, the host would get the general proxy.
            let value = proxy.unwrap_or_else(|| "DIRECT".to_owned());
            proxies.push(AptSetting {
                key: format!("Acquire::{method}::Proxy::{}", host(url)),
                value,
            });
        }
    }
    if let Some(value) = general {
        proxies.insert(0, AptSetting { key: format!("Acquire::{method}::Proxy"), value });
    }
    Ok(proxies)
}

/// Returns the proxy that `program` prints for `url`, if any.
fn ask(program: &str, url: &str) -> Result<Option<String>, String> {
    let mut child = Command::new(program)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot be run ({error})"))?;
    let Some(stdout) = child.stdout.take() else { return Err("has no output".to_owned()) };
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.take(MAX_OUTPUT_BYTES).read_to_string(&mut text);
        // The receiver may have stopped waiting.
        let _ = sender.send(read.map(|_| text));
    });
    let output = receiver.recv_timeout(TIME_LIMIT);
    if output.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| format!("was lost ({error})"))?;
    let text = match output {
        Err(_) => return Err(format!("did not end within {} seconds", TIME_LIMIT.as_secs())),
        Ok(Err(_)) => return Err("does not print text".to_owned()),
        Ok(Ok(_)) if !status.success() => return Err(format!("failed ({status})")),
        Ok(Ok(text)) => text,
    };
    let proxy = text.lines().next().unwrap_or("").trim();
    if proxy.is_empty() || proxy.eq_ignore_ascii_case("DIRECT") {
        return Ok(None);
    }
    if proxy.contains(['"', ';']) || !proxy.contains("://") {
        return Err(format!("printed {proxy:?}, which is not a proxy's URL"));
    }
    Ok(Some(proxy.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(folder: &tempfile::TempDir, name: &str, script: &str) -> String {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn resolved(settings: &[(&str, &str)], sources: &[&str]) -> (Vec<String>, Vec<String>) {
        let setting = |(key, value): &(&str, &str)| AptSetting {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        let mut settings: Vec<AptSetting> = settings.iter().map(setting).collect();
        let sources: Vec<String> = sources.iter().map(|url| (*url).to_owned()).collect();
        let warnings = resolve(&mut settings, &sources);
        (settings.iter().map(AptSetting::line).collect(), warnings)
    }

    #[test]
    fn program_is_replaced_by_its_output_in_every_spelling() {
        let folder = tempfile::tempdir().unwrap();
        let detect = program(&folder, "detect", "echo http://cache:3142/");
        for key in [
            "Acquire::http::Proxy-Auto-Detect",
            "Acquire::http::ProxyAutoDetect",
            "acquire::HTTP::proxy-auto-detect",
        ] {
            let (lines, warnings) = resolved(&[(key, &detect)], &["http://deb.debian.org/debian"]);
            assert_eq!(lines, ["Acquire::http::Proxy \"http://cache:3142/\";"]);
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }

    #[test]
    fn hosts_with_another_proxy_get_their_own_setting() {
        let folder = tempfile::tempdir().unwrap();
        let detect = program(
            &folder,
            "detect",
            "case $1 in *inside*) echo DIRECT ;; *far*) echo http://far:1/ ;; *) echo http://a:2/ ;; esac",
        );
        let sources = ["http://inside.example/debian", "http://far.example:80/x", "https://inside"];
        let (lines, _) = resolved(&[("Acquire::http::Proxy-Auto-Detect", &detect)], &sources);
        assert_eq!(
            lines,
            [
                "Acquire::http::Proxy \"http://a:2/\";",
                "Acquire::http::Proxy::inside.example \"DIRECT\";",
                "Acquire::http::Proxy::far.example \"http://far:1/\";",
            ]
        );
    }

    #[test]
    fn failing_program_is_left_out_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let fails = program(&folder, "fails", "exit 3");
        let odd = program(&folder, "odd", "echo 'x\"; DPkg::Pre-Invoke {\"id\";};'");
        for program in [fails.as_str(), odd.as_str(), "/not/there"] {
            let (lines, warnings) = resolved(&[("Acquire::http::ProxyAutoDetect", program)], &[]);
            assert!(lines.is_empty(), "{lines:?}");
            assert!(warnings[0].contains(program), "{warnings:?}");
        }
    }
}
