//! Expectations, and the shell scripts that test them. The scripts use coreutils and grep only, and
//! for packages, services and accounts the programs that every root with them has.

use super::quoted;
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode};

/// The keys that say what an expectation is about.
const KINDS: [&str; 7] = ["file", "package", "service", "port", "user", "group", "command"];

/// Functions of all scripts.
const PRELUDE: &str = "fail() { printf '%s\\n' \"$*\"; exit 1; }\n\
    same() { [ \"$2\" = \"$3\" ] || fail \"$1 is $2, not $3\"; }\n";

/// Parses an expectation. Returns its description, its script, and whether it needs a booted
/// machine.
pub(super) fn parse(
    node: &YamlNode,
    fields: &Fields<'_>,
) -> Result<(String, String, bool), Box<Mistake>> {
    // A file has a group, too.
    let is_kind =
        |kind: &&str| node.get(kind).is_some() && (*kind != "group" || node.get("file").is_none());
    let kinds: Vec<&str> = KINDS.into_iter().filter(is_kind).collect();
    let help = format!("write one of the keys {}", KINDS.join(", "));
    let kind = match kinds[..] {
        [kind] => kind,
        [] => return Err(node.mistake_with_help("the expectation is about nothing", help)),
        _ => {
            let problem = format!("the expectation has the keys {}", kinds.join(" and "));
            return Err(node.mistake_with_help(problem, help));
        }
    };
    let mut script = PRELUDE.to_owned();
    let mut needs_boot = false;
    let subject = match kind {
        "file" => file(fields, &mut script)?,
        "package" => package(fields, &mut script)?,
        "service" => service(fields, &mut script, &mut needs_boot)?,
        "port" => {
            needs_boot = true;
            port(fields, &mut script)?
        }
        "user" => user(fields, &mut script)?,
        "group" => group(fields, &mut script)?,
        _ => command(fields, &mut script)?,
    };
    Ok((format!("{kind} {subject}"), script, needs_boot))
}

/// Reads the number of a node.
pub(super) fn number(node: &YamlNode) -> Result<u64, Box<Mistake>> {
    node.text("a number")?
        .parse()
        .map_err(|_| node.mistake("expected a number that is not negative"))
}

/// Reads the subject of an expectation.
fn subject(fields: &Fields<'_>, kind: &'static str) -> Result<String, Box<Mistake>> {
    let node = fields.require(kind, "")?;
    let text = node.text("text")?;
    match text.is_empty() || text.contains(['\n', '\0']) {
        true => Err(node.mistake("expected text of one line")),
        false => Ok(text.to_owned()),
    }
}

/// Reads a text or a list of texts.
fn texts(fields: &Fields<'_>, key: &'static str) -> Result<Vec<String>, Box<Mistake>> {
    let Some(node) = fields.get(key) else { return Ok(Vec::new()) };
    node.list()?.iter().map(|node| node.text("text").map(str::to_owned)).collect()
}

fn file(fields: &Fields<'_>, script: &mut String) -> Result<String, Box<Mistake>> {
    let path = subject(fields, "file")?;
    let word = quoted(&path);
    script.push_str(&format!("p={word}\n"));
    if fields.bool("exists")? == Some(false) {
        script.push_str("[ ! -e \"$p\" ] && [ ! -L \"$p\" ] || fail \"$p exists\"\n");
        return Ok(format!("{path} does not exist"));
    }
    script.push_str("[ -e \"$p\" ] || [ -L \"$p\" ] || fail \"$p does not exist\"\n");
    if let Some(node) = fields.get("type") {
        let (test, what) = match node.text("a type")? {
            "file" => ("-f", "a regular file"),
            "directory" => ("-d", "a directory"),
            "link" => ("-L", "a symbolic link"),
            _ => {
                return Err(node.mistake_with_help("unknown type", "write file, directory or link"));
            }
        };
        script.push_str(&format!("[ {test} \"$p\" ] || fail \"$p is not {what}\"\n"));
    }
    if let Some(node) = fields.get("mode") {
        let text = node.text("an octal mode")?;
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
        let mode = mode.ok_or_else(|| {
            node.mistake_with_help("invalid mode", "write it in quotes: mode: \"0644\"")
        })?;
        let check = format!("same \"mode of $p\" \"$(stat -Lc %a \"$p\")\" {mode:o}\n");
        script.push_str(&check);
    }
    for (key, format) in [("owner", "%U"), ("group", "%G")] {
        if let Some(name) = fields.text(key)? {
            let name = quoted(&name);
            let check = format!("same \"{key} of $p\" \"$(stat -Lc {format} \"$p\")\" {name}\n");
            script.push_str(&check);
        }
    }
    if let Some(target) = fields.text("target")? {
        let target = quoted(&target);
        script.push_str(&format!("same \"target of $p\" \"$(readlink \"$p\")\" {target}\n"));
    }
    for text in texts(fields, "contains")? {
        let text = quoted(&text);
        script.push_str(&format!(
            "grep -qF -e {text} \"$p\" || fail \"$p does not contain\" {text}\n"
        ));
    }
    for pattern in texts(fields, "matches")? {
        let pattern = quoted(&pattern);
        let check =
            format!("grep -qE -e {pattern} \"$p\" || fail \"no line of $p matches\" {pattern}\n");
        script.push_str(&check);
    }
    Ok(path)
}

fn package(fields: &Fields<'_>, script: &mut String) -> Result<String, Box<Mistake>> {
    let name = subject(fields, "package")?;
    let installed = fields.bool("installed")? != Some(false);
    script.push_str(&format!(
        "n={}\n\
         if command -v dpkg-query >/dev/null; then\n\
         \x20 v=$(dpkg-query -W -f '${{db:Status-Status}} ${{Version}}' \"$n\" 2>/dev/null) || v=\n\
         \x20 case $v in 'installed '*) v=${{v#installed }} ;; *) v= ;; esac\n\
         elif command -v rpm >/dev/null; then\n\
         \x20 v=$(rpm -q --qf '%{{VERSION}}-%{{RELEASE}}' \"$n\" 2>/dev/null) || v=\n\
         elif command -v apk >/dev/null; then\n\
         \x20 v=$(apk list -I \"$n\" 2>/dev/null | head -n 1)\n\
         else\n\
         \x20 fail 'no package manager is installed'\n\
         fi\n",
        quoted(&name)
    ));
    if !installed {
        script.push_str("[ -z \"$v\" ] || fail \"$n $v is installed\"\n");
        return Ok(format!("{name} is not installed"));
    }
    script.push_str("[ -n \"$v\" ] || fail \"$n is not installed\"\n");
    if let Some(version) = fields.text("version")? {
        let version = quoted(&version);
        script.push_str(&format!("same \"version of $n\" \"$v\" {version}\n"));
    }
    Ok(name)
}

fn service(
    fields: &Fields<'_>,
    script: &mut String,
    needs_boot: &mut bool,
) -> Result<String, Box<Mistake>> {
    let name = subject(fields, "service")?;
    script.push_str(&format!("n={}\n", quoted(&name)));
    let (enabled, running) = (fields.bool("enabled")?, fields.bool("running")?);
    let check_enabled = |expected: bool| {
        let (test, what) =
            if expected { ("enabled", "not enabled") } else { ("disabled", "enabled") };
        let states = match test {
            "enabled" => "enabled|enabled-runtime|alias|static|generated|indirect",
            _ => "disabled|masked|masked-runtime|not-found|''",
        };
        format!(
            "s=$(systemctl is-enabled \"$n\" 2>/dev/null) || :\n\
             case $s in {states}) ;; *) fail \"$n is {what} (${{s:-unknown}})\" ;; esac\n"
        )
    };
    match enabled {
        Some(expected) => script.push_str(&check_enabled(expected)),
        None if running.is_none() => script.push_str(&check_enabled(true)),
        None => {}
    }
    if let Some(expected) = running {
        *needs_boot = true;
        // A service that was just started may need a moment.
        script.push_str(&format!(
            "i=0\n\
             while s=$(systemctl is-active \"$n\") || :; do\n\
             \x20 case $s in activating|reloading|deactivating) ;; *) break ;; esac\n\
             \x20 i=$((i+1)); [ $i -lt 20 ] || break\n\
             \x20 sleep 1\n\
             done\n\
             {}\n",
            match expected {
                true =>
                    "[ \"$s\" = active ] || { systemctl --no-pager status \"$n\" 2>&1 | \
                         head -n 20; fail \"$n is $s\"; }",
                false => "[ \"$s\" != active ] || fail \"$n is running\"",
            }
        ));
    }
    Ok(name)
}

fn port(fields: &Fields<'_>, script: &mut String) -> Result<String, Box<Mistake>> {
    let node = fields.require("port", "")?;
    let port = number(node)?;
    let port = u16::try_from(port).map_err(|_| node.mistake("a port is at most 65535"))?;
    let protocol = fields.get("protocol");
    let (files, state, word) = match protocol.map(|node| node.text("a protocol")).transpose()? {
        None | Some("tcp") => ("/proc/net/tcp /proc/net/tcp6", "0A", "tcp"),
        Some("udp") => ("/proc/net/udp /proc/net/udp6", "07", "udp"),
        Some(_) => {
            let node = protocol.unwrap_or(node);
            return Err(node.mistake_with_help("unknown protocol", "write tcp or udp"));
        }
    };
    let listening = fields.bool("listening")? != Some(false);
    // Local address, remote address, state (proc_net_tcp of the kernel's documentation).
    let line = format!("^ *[0-9]*: [0-9A-F]*:{port:04X} [0-9A-F]*:0000 {state} ");
    let (test, problem) = match listening {
        true => ("||", "no program listens on"),
        false => ("&&", "a program listens on"),
    };
    script.push_str(&format!(
        "grep -qs '{line}' {files} {test} fail '{problem} {word} port {port}'\n{}",
        if listening { "" } else { ":\n" }
    ));
    Ok(format!("{port}/{word}"))
}

fn user(fields: &Fields<'_>, script: &mut String) -> Result<String, Box<Mistake>> {
    let name = subject(fields, "user")?;
    let word = quoted(&name);
    script.push_str(&format!("n={word}\nl=$(getent passwd \"$n\" 2>/dev/null) || l=\n"));
    if fields.bool("exists")? == Some(false) {
        script.push_str("[ -z \"$l\" ] || fail \"$n exists\"\n");
        return Ok(format!("{name} does not exist"));
    }
    script.push_str(
        "[ -n \"$l\" ] || fail \"$n does not exist\"\n\
         IFS=: read -r _ _ uid gid _ home shell <<END\n$l\nEND\n",
    );
    for (key, variable) in [("uid", "uid"), ("gid", "gid")] {
        if let Some(node) = fields.get(key) {
            let id = number(node)?;
            script.push_str(&format!("same \"{key} of $n\" \"${variable}\" {id}\n"));
        }
    }
    for (key, variable) in [("home", "home"), ("shell", "shell")] {
        if let Some(value) = fields.text(key)? {
            let value = quoted(&value);
            script.push_str(&format!("same \"{key} of $n\" \"${variable}\" {value}\n"));
        }
    }
    for group in texts(fields, "groups")? {
        let word = quoted(&group);
        script.push_str(&format!(
            "id -nG \"$n\" | tr ' ' '\\n' | grep -qxF -e {word} || fail \"$n is not in group\" {word}\n"
        ));
    }
    Ok(name)
}

fn group(fields: &Fields<'_>, script: &mut String) -> Result<String, Box<Mistake>> {
    let name = subject(fields, "group")?;
    script.push_str(&format!("n={}\nl=$(getent group \"$n\" 2>/dev/null) || l=\n", quoted(&name)));
    if fields.bool("exists")? == Some(false) {
        script.push_str("[ -z \"$l\" ] || fail \"group $n exists\"\n");
        return Ok(format!("{name} does not exist"));
    }
    script.push_str("[ -n \"$l\" ] || fail \"group $n does not exist\"\n");
    if let Some(node) = fields.get("gid") {
        let id = number(node)?;
        script.push_str(&format!(
            "IFS=: read -r _ _ gid _ <<END\n$l\nEND\nsame \"gid of $n\" \"$gid\" {id}\n"
        ));
    }
    Ok(name)
}

fn command(fields: &Fields<'_>, script: &mut String) -> Result<String, Box<Mistake>> {
    let command = fields.require("command", "")?.text("a command")?.to_owned();
    let code = fields.get("exit").map(number).transpose()?.unwrap_or(0);
    let word = quoted(&command);
    // `x` keeps the line feeds at the end of the output.
    script.push_str(&format!(
        "o=$(sh -c {word} 2>&1 </dev/null; printf 'x%s' $?)\nc=${{o##*x}}\no=${{o%x*}}\n\
         [ \"$c\" = {code} ] || fail \"$o\nexit code $c, not {code}\"\n"
    ));
    for text in texts(fields, "output")? {
        let text = quoted(&text);
        script.push_str(&format!(
            "case $o in *{text}*) ;; *) fail \"$o\nthe output does not contain\" {text} ;; esac\n"
        ));
    }
    let first = command.lines().next().unwrap_or_default();
    Ok(first.to_owned())
}
