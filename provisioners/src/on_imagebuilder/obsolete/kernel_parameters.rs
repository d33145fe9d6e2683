//! Scripts that reset the machine, depending on kernel parameters that `overcoat boot` does not
//! send.

use std::path::Path;

use super::Obsolete;

/// Parameters that `overcoat boot` sends.
const SENT_PARAMETERS: [&str; 8] = [
    "BASEFS",
    "BASEFS_SHA256",
    "BOOTIF",
    "OVERLAYFS",
    "OVERLAYFS_SHA256",
    "boot",
    "console",
    "initrd",
];

/// Programs that end a machine.
const ENDING_PROGRAMS: [&str; 4] = ["halt", "poweroff", "reboot", "shutdown"];

/// Words before the program of a command.
const LEADING_WORDS: [&str; 7] = ["do", "else", "exec", "nohup", "sudo", "then", "!"];

/// Words in a line with a pattern of another program than the shell.
const PATTERN_WORDS: [&str; 8] = ["=~", "awk", "case", "egrep", "grep", "match", "search", "sed"];

/// Searches a script that is copied to machines.
pub(super) fn search_script(file: &Path, text: &str, found: &mut Vec<Obsolete>) {
    let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    if !lines().any(|(_, line)| line.contains("/proc/cmdline")) {
        return;
    }
    let Some((index, _)) = lines().find(|(_, line)| ends_machine(line)) else { return };
    let mut parameters: Vec<&str> = Vec::new();
    for name in lines().flat_map(|(_, line)| parameters_in(line)) {
        if !parameters.contains(&name) {
            parameters.push(name);
        }
    }
    let all = parameters.len();
    parameters.retain(|name| !SENT_PARAMETERS.contains(name));
    if all > 0 && parameters.is_empty() {
        return;
    }
    let values: Vec<String> = parameters.iter().map(|name| format!("{name}=VALUE")).collect();
    let values = match values.as_slice() {
        [] => "PARAMETERS".to_owned(),
        [one] => one.clone(),
        several => format!("'{}'", several.join(" ")),
    };
    let names: Vec<String> = parameters.iter().map(|name| format!("`{name}=`")).collect();
    let reason = match names.as_slice() {
        [] => "the kernel command line".to_owned(),
        names => format!(
            "{} of the kernel command line, which `overcoat boot` does not send",
            names.join(" and ")
        ),
    };
    // systemd runs this script by a unit, which a kernel parameter switches off.
    let without = match file.file_name().is_some_and(|name| name == "rc.local") {
        true => ", or without the script by `--append systemd.mask=rc-local.service`",
        false => "",
    };
    let text = format!(
        "may reset the machine, depending on {reason}: boot with `overcoat boot NAME --append \
         {values}`{without}"
    );
    found.push(Obsolete::new(index + 1, text, None));
}

/// Returns whether a line of a script resets the machine or switches it off.
fn ends_machine(line: &str) -> bool {
    let is_mark = |c: char| !c.is_ascii_alphanumeric();
    if line.contains("sysrq-trigger") {
        return line.split(is_mark).any(|word| matches!(word, "b" | "c" | "o"));
    }
    line.split([';', '|', '&', '`', '(', ')', '{', '}']).any(|command| {
        let words: Vec<&str> = command
            .split_whitespace()
            .skip_while(|word| LEADING_WORDS.contains(word))
            .map(|word| word.rsplit('/').next().unwrap_or(word))
            .collect();
        match words.as_slice() {
            ["ipmitool", rest @ ..] => {
                rest.contains(&"power")
                    && ["cycle", "off", "reset"].iter().any(|w| rest.contains(w))
            }
            ["systemctl", rest @ ..] => rest.iter().any(|word| ENDING_PROGRAMS.contains(word)),
            ["init" | "telinit", level, ..] => matches!(*level, "0" | "6"),
            [program, ..] => ENDING_PROGRAMS.contains(program),
            [] => false,
        }
    })
}

/// Returns the names in patterns of a line: `${line##*NAME=}`, `NAME=*)`, `grep -o 'NAME=…'`.
fn parameters_in(line: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
    let has_program = PATTERN_WORDS.iter().any(|word| line.contains(word));
    let names = line.match_indices('=').filter_map(|(at, _)| {
        let before = &line[..at];
        let name = &before[before.trim_end_matches(is_part).len()..];
        let mark = before[..before.len() - name.len()].chars().next_back();
        let next = line[at + 1..].chars().next();
        let is_pattern = match mark {
            Some('*' | '^' | '/' | '#') => true,
            Some('\'' | '"') => has_program,
            _ => next == Some('*') || has_program && next == Some('['),
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic());
        (is_name && is_pattern).then_some(name)
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines and texts of the problems of a script.
    fn search(name: &str, text: &str) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        search_script(Path::new(name), text, &mut found);
        found.into_iter().map(|found| (found.line, found.text)).collect()
    }

    #[test]
    fn scripts_that_reset_the_machine_name_the_parameters_that_they_read() {
        let script =
            |read: &str, end: &str| format!("#!/bin/sh\nL=$(cat /proc/cmdline)\n{read}\n{end}\n");
        let end = "echo b | sudo tee /proc/sysrq-trigger";
        for read in [
            "A=${L##*API_CB=}\nA=\"${A%% *}\"",
            "for w in $L; do case $w in API_CB=*) A=${w#*=} ;; esac; done",
            "grep -o 'API_CB=[^ ]*' /proc/cmdline",
            "tr ' ' '\\n' </proc/cmdline | grep ^API_CB=",
            "A=$(sed 's/.*API_CB=\\([^ ]*\\).*/\\1/' /proc/cmdline)",
            "grep -oP API_CB=[^ ]* /proc/cmdline",
            "B=${L##*BOOTIF=}; A=${L##*API_CB=}; A=${L##*API_CB=}",
        ] {
            let wanted = "may reset the machine, depending on `API_CB=` of the kernel command line, \
                          which `overcoat boot` does not send: boot with `overcoat boot NAME \
                          --append API_CB=VALUE`";
            let found = search("start", &script(read, end));
            let line = script(read, "").lines().count();
            assert_eq!(found, [(line, wanted.to_owned())], "{read}");
        }
        let two = script("A=${L##*API_CB=}; B=${L##*SYSLOGSERVER=}", "/sbin/reboot -f");
        let found = &search("rc.local", &two)[0].1;
        let wanted = "`overcoat boot NAME --append 'API_CB=VALUE SYSLOGSERVER=VALUE'`, or without \
                      the script by `--append systemd.mask=rc-local.service`";
        assert!(found.ends_with(wanted), "{found}");
        let wanted = "depending on the kernel command line: boot with `overcoat boot NAME --append \
                      PARAMETERS`";
        assert!(search("x", &script("", "reboot"))[0].1.ends_with(wanted));
        for end in [
            "[ -e /x ] || poweroff",
            "if x; then systemctl reboot; fi",
            "ipmitool -I open chassis power cycle ;;",
            "echo o >/proc/sysrq-trigger",
            "(sleep 5; shutdown -r now)",
            "init 6",
        ] {
            assert_eq!(search("x", &script("A=${L##*API_CB=}", end)).len(), 1, "{end}");
        }
    }

    #[test]
    fn other_scripts_have_no_problem() {
        for text in [
            // Other parameters are sent.
            "L=$(cat /proc/cmdline)\nB=${L##*BOOTIF=}\nreboot\n",
            "A=${L##*API_CB=}\nreboot\n",
            "L=$(cat /proc/cmdline)\nA=${L##*API_CB=}\n",
            "L=$(cat /proc/cmdline)\n# reboot\necho s >/proc/sysrq-trigger\n",
            "L=$(cat /proc/cmdline)\necho 'not a reboot'\nlogger reboot\n",
        ] {
            assert_eq!(search("rc.local", text), [], "{text}");
        }
    }
}
