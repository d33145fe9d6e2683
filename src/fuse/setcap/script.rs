//! Detects a fallback for a failing `setcap` in a shell script: a branch that sets the set-user-id
//! bit instead.
//!
//! Debian's packages of `ping`, `arping`, `mtr`, `fping`, `dumpcap` and others use one of these:
//!
//! ```sh
//! if setcap cap_net_raw+ep $PROGRAM; then chmod u-s $PROGRAM; else chmod u+s $PROGRAM; fi
//! if ! setcap cap_net_raw+ep /usr/bin/mtr-packet; then chmod u+s /usr/bin/mtr-packet; fi
//! setcap cap_sys_ptrace+ep apps.plugin || chmod 4754 apps.plugin
//! ```
//!
//! The script is only split into words and operators. An unknown form counts as no fallback: the
//! capability is accepted, and its loss is reported.

/// Maximum size of a script, in bytes.
pub(super) const MAX_SCRIPT_BYTES: usize = 256 << 10;
/// Maximum number of `setcap` commands examined in a script.
const MAX_CALLS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `;`, a newline, `&&`, `||`, `|`, `&`, `(`, `)`, `;;`.
    Operator(&'static str),
}

/// Words that begin or end a compound command at the position of a command.
const KEYWORDS: [&str; 15] = [
    "if", "then", "elif", "else", "fi", "while", "until", "for", "do", "done", "case", "esac", "{",
    "}", "!",
];
/// Programs that run the command in their arguments.
const WRAPPERS: [&str; 6] = ["command", "exec", "env", "sudo", "nice", "eatmydata"];

/// Returns whether the `setcap` with the arguments `argv` has a fallback in `script`.
pub(super) fn has_fallback(script: &str, argv: &[&str]) -> bool {
    let tokens = split(script);
    let calls = (0..tokens.len()).filter(|&at| is_setcap(&tokens, at)).take(MAX_CALLS);
    let mut of_this_call = calls.filter(|&at| may_be(&tokens[at..], argv)).peekable();
    of_this_call.peek().is_some()
        && of_this_call.all(|at| failing_branch(&tokens, at).is_some_and(sets_user_id))
}

/// Splits a script into words and operators, without comments and here-documents.
fn split(script: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut heredocs: Vec<(String, bool)> = Vec::new();
    let mut rest = script.chars().peekable();
    while let Some(c) = rest.next() {
        let end = |word: &mut Option<String>, tokens: &mut Vec<Token>| {
            tokens.extend(word.take().map(Token::Word));
        };
        let two = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>, next| {
            rest.next_if_eq(&next).is_some()
        };
        match c {
            '\\' => match rest.next() {
                Some('\n') | None => {}
                Some(c) => word.get_or_insert_default().push(c),
            },
            '\'' => {
                let quoted = word.get_or_insert_default();
                quoted.extend(rest.by_ref().take_while(|&c| c != '\''));
            }
            '"' => {
                let quoted = word.get_or_insert_default();
                while let Some(c) = rest.next().filter(|&c| c != '"') {
                    match c {
                        '\\' => quoted.extend(rest.next()),
                        c => quoted.push(c),
                    }
                }
            }
            '$' if rest.peek() == Some(&'(') => {
                // A substitution is part of the word. Commands in it are not examined.
                let quoted = word.get_or_insert_default();
                quoted.push('$');
                let mut depth = 0;
                for c in rest.by_ref() {
                    depth += i32::from(c == '(') - i32::from(c == ')');
                    if depth == 0 {
                        break;
                    }
                }
            }
            '#' if word.is_none() => while rest.next_if(|&c| c != '\n').is_some() {},
            ' ' | '\t' => end(&mut word, &mut tokens),
            '\n' => {
                end(&mut word, &mut tokens);
                tokens.push(Token::Operator("\n"));
                for (delimiter, indented) in heredocs.drain(..) {
                    skip_heredoc(&mut rest, &delimiter, indented);
                }
            }
            '<' if two(&mut rest, '<') => {
                end(&mut word, &mut tokens);
                let indented = two(&mut rest, '-');
                while rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
                let mut delimiter = String::new();
                while let Some(c) = rest.next_if(|c| !c.is_whitespace() && !";&|()".contains(*c)) {
                    if !"'\"\\".contains(c) {
                        delimiter.push(c);
                    }
                }
                heredocs.push((delimiter, indented));
            }
            // Redirections: a descriptor number before the operator is dropped.
            '<' | '>' => {
                if word.as_ref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
                    word = None;
                }
                end(&mut word, &mut tokens);
                two(&mut rest, '>');
                two(&mut rest, '&');
                while rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
                while rest.next_if(|c| !c.is_whitespace() && !";&|()".contains(*c)).is_some() {}
            }
            ';' | '&' | '|' | '(' | ')' => {
                end(&mut word, &mut tokens);
                tokens.push(Token::Operator(match c {
                    ';' if two(&mut rest, ';') => ";;",
                    ';' => ";",
                    '&' if two(&mut rest, '&') => "&&",
                    '&' => "&",
                    '|' if two(&mut rest, '|') => "||",
                    '|' => "|",
                    '(' => "(",
                    _ => ")",
                }));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    tokens.extend(word.map(Token::Word));
    tokens
}

fn skip_heredoc(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    delimiter: &str,
    indented: bool,
) {
    while rest.peek().is_some() {
        let line: String = rest.by_ref().take_while(|&c| c != '\n').collect();
        let line = if indented { line.trim_start_matches('\t') } else { &line };
        if line == delimiter {
            return;
        }
    }
}

fn word(token: Option<&Token>) -> Option<&str> {
    match token? {
        Token::Word(word) => Some(word),
        Token::Operator(_) => None,
    }
}

fn keyword(tokens: &[Token], at: usize) -> Option<&str> {
    word(tokens.get(at)).filter(|word| KEYWORDS.contains(word) && begins_command(tokens, at))
}

/// Whether a command can begin with this token.
fn begins_command(tokens: &[Token], at: usize) -> bool {
    for before in tokens[..at].iter().rev() {
        let Token::Word(word) = before else { return true };
        let word = word.as_str();
        let passed = KEYWORDS.contains(&word) && word != "for" && word != "case"
            || WRAPPERS.contains(&word)
            || is_assignment(word);
        if !passed {
            return false;
        }
    }
    true
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

fn base_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// Whether the token is `setcap` as a command, by name or by a variable with such a name.
fn is_setcap(tokens: &[Token], at: usize) -> bool {
    let Some(word) = word(tokens.get(at)) else { return false };
    let named = base_name(word) == "setcap"
        || word.starts_with('$') && word.to_ascii_lowercase().contains("setcap");
    named && begins_command(tokens, at)
}

/// Whether a command can have these arguments. An expansion matches anything.
fn may_be(command: &[Token], argv: &[&str]) -> bool {
    let words: Vec<&str> = command.iter().map_while(|token| word(Some(token))).collect();
    let is_open = |word: &str| word.contains(['$', '`', '*', '?', '[', '~']);
    if words.iter().any(|word| is_open(word)) {
        return true;
    }
    words.get(1..) == argv.get(1..)
}

/// Returns the tokens that run when the command at `at` fails, if the script checks its status.
fn failing_branch(tokens: &[Token], at: usize) -> Option<&[Token]> {
    let end = (at..tokens.len()).find(|&i| matches!(tokens[i], Token::Operator(_)))?;
    let mut i = end;
    // `a && b || c`: `c` runs when either fails.
    while tokens.get(i) == Some(&Token::Operator("&&")) {
        i = (i + 1..tokens.len()).find(|&i| matches!(tokens[i], Token::Operator(_)))?;
    }
    if tokens.get(i) == Some(&Token::Operator("||")) {
        return Some(list(tokens, i + 1));
    }
    if let Some(condition) = condition(tokens, at) {
        let negated = (condition + 1..at).any(|i| keyword(tokens, i) == Some("!"));
        return branch(tokens, end, if negated { "then" } else { "else" });
    }
    // `setcap …; if [ $? -ne 0 ]; …`
    let next = (end..tokens.len()).find(|&i| matches!(tokens[i], Token::Word(_)))?;
    let mut asked = tokens[next..].iter().map_while(|token| word(Some(token)));
    asked.any(|word| word.contains("$?")).then(|| match keyword(tokens, next) {
        Some("if") => closing(tokens, next).map_or(&tokens[next..], |end| &tokens[next..end]),
        _ => list(tokens, next),
    })
}

/// Finds the `if` or `elif` with the command at `at` in its condition.
fn condition(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0;
    for i in (0..at).rev() {
        match keyword(tokens, i) {
            Some("fi" | "done" | "esac" | "}") => depth += 1,
            Some("if" | "while" | "until" | "for" | "case" | "{") if depth > 0 => depth -= 1,
            Some("if" | "elif") if depth == 0 => return Some(i),
            Some("then" | "else" | "do" | "{") if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Returns the change of the nesting depth at the token.
fn nesting(tokens: &[Token], at: usize) -> i32 {
    match (keyword(tokens, at), &tokens[at]) {
        (Some("if" | "while" | "until" | "for" | "case" | "{"), _) => 1,
        (Some("fi" | "done" | "esac" | "}"), _) => -1,
        (None, Token::Operator("(")) => 1,
        (None, Token::Operator(")")) => -1,
        _ => 0,
    }
}

/// Finds the end of the compound command that begins at `at`.
fn closing(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0;
    (at..tokens.len()).find(|&i| {
        depth += nesting(tokens, i);
        depth == 0
    })
}

/// Returns the branch `which` of the `if` with `from` in its condition.
fn branch<'t>(tokens: &'t [Token], from: usize, which: &str) -> Option<&'t [Token]> {
    let mut depth = 0;
    let mut begin = None;
    for i in from..tokens.len() {
        if depth == 0
            && let Some(keyword @ ("then" | "elif" | "else" | "fi")) = keyword(tokens, i)
        {
            match begin {
                Some(begin) => return Some(&tokens[begin..i]),
                // `elif` also runs when the condition fails.
                None if keyword == which || keyword == "elif" && which == "else" => {
                    begin = Some(i + 1);
                }
                None if keyword == "fi" => return None,
                None => {}
            }
            if keyword == "elif" && which == "else" {
                // Its condition and branches, up to the end.
                let end = (i..tokens.len()).find(|&i| keyword_is_end(tokens, i));
                return Some(&tokens[i + 1..end.unwrap_or(tokens.len())]);
            }
        }
        depth += nesting(tokens, i);
    }
    None
}

fn keyword_is_end(tokens: &[Token], at: usize) -> bool {
    keyword(tokens, at) == Some("fi")
}

/// Returns the commands from `at` to the end of their list.
fn list(tokens: &[Token], at: usize) -> &[Token] {
    let begin = (at..tokens.len()).find(|&i| tokens[i] != Token::Operator("\n"));
    let begin = begin.unwrap_or(tokens.len());
    let mut depth = 0;
    let end = (begin..tokens.len()).find(|&i| {
        let ended =
            depth == 0 && matches!(tokens[i], Token::Operator("\n" | ";" | ";;" | "&" | ")"));
        depth += nesting(tokens, i);
        ended || depth < 0
    });
    &tokens[begin..end.unwrap_or(tokens.len())]
}

/// Whether the commands set a set-user-id or set-group-id bit and the script continues.
fn sets_user_id(commands: &[Token]) -> bool {
    let mut sets = false;
    for (at, token) in commands.iter().enumerate() {
        let Some(name) = word(Some(token)).filter(|_| begins_command(commands, at)) else {
            continue;
        };
        let arguments: Vec<&str> =
            commands[at + 1..].iter().map_while(|token| word(Some(token))).collect();
        match base_name(name) {
            "chmod" | "dpkg-statoverride" | "install" => {
                sets |= arguments.iter().any(|argument| is_set_id(argument));
            }
            "exit" | "return" if arguments.first().is_some_and(|code| *code != "0") => {
                return false;
            }
            _ => {}
        }
    }
    sets
}

/// Whether a mode in the syntax of `chmod` has a set-id bit: `u+s`, `u=rwxs,g=rx`, `4755`.
fn is_set_id(mode: &str) -> bool {
    if mode.len() >= 4 && mode.chars().all(|c| c.is_digit(8)) {
        return u32::from_str_radix(mode, 8).is_ok_and(|mode| mode & 0o6000 != 0 && mode <= 0o7777);
    }
    mode.split(',').any(|clause| {
        clause.split_once(['+', '=']).is_some_and(|(who, rights)| {
            who.chars().all(|c| "ugoa".contains(c))
                && rights.contains('s')
                && rights.chars().all(|c| "rwxXst".contains(c))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fallback(script: &str) -> bool {
        has_fallback(script, &["setcap", "cap_net_raw+ep", "/usr/bin/tool"])
    }

    /// From packages of Debian 12: iputils-ping, mtr-tiny, wireshark-common, netdata-core, fping.
    #[test]
    fn fallbacks_of_debian_maintainer_scripts_are_found() {
        for script in [
            "set -e\nPROGRAM=$(dpkg-divert --truename /bin/ping)\nif [ \"$1\" = configure ]; then\n\
             # If we have setcap installed\nif command -v setcap > /dev/null; then\n\
             if setcap cap_net_raw+ep $PROGRAM; then\nchmod u-s $PROGRAM\nelse\n\
             echo \"Setcap failed on $PROGRAM, falling back to setuid\" >&2\n\
             chmod u+s $PROGRAM\nfi\nelse\nchmod u+s $PROGRAM\nfi\nfi\n",
            "if command -v setcap > /dev/null; then\n\
             if ! setcap cap_net_raw+ep /usr/bin/tool; then\n\
             echo \"falling back\" >&2\nchmod u+s /usr/bin/tool\nfi\nelse\nexit 1\nfi\nexit 0\n",
            "if ! setcap cap_net_raw,cap_net_admin=eip $PROGRAM; then\n\
             db_input high wireshark-common/setcap-failed || true\ndb_go\n\
             chmod u=rwxs,g=rx,o=r $PROGRAM\nfi\n",
            "case \"$1\" in\nconfigure)\nsetcap cap_net_raw+ep /usr/bin/tool || \\\n\
             \tchmod 4754 /usr/bin/tool\nchmod 2750 /var/log/netdata\n;;\n*)\nexit 1\n;;\nesac\n",
            "case \"$1\" in\n(configure)\nif [ \"$(uname -s)\" = \"Linux\" ]; then\n\
             if ! setcap cap_net_raw+ep /usr/bin/tool; then\necho \"WARNING: 'setcap' failed\" 1>&2\n\
             if dpkg-statoverride --list /usr/bin/tool > /dev/null; then\n\
             if dpkg-statoverride --list /usr/bin/tool | fgrep -q 4755; then\necho no\nelse\n\
             echo no\nfi\nelse\ndpkg-statoverride --update --add root root 4755 /usr/bin/tool\nfi\n\
             fi\nfi\n;;\nesac\n",
        ] {
            assert!(fallback(script), "{script}");
        }
    }

    #[test]
    fn fallbacks_in_other_forms_are_found() {
        for script in [
            "setcap cap_net_raw+ep /usr/bin/tool || chmod u+s /usr/bin/tool",
            "/sbin/setcap cap_net_raw+ep /usr/bin/tool 2>/dev/null || { echo no; chmod 04755 t; }",
            "setcap cap_net_raw+ep /usr/bin/tool && echo yes || chmod u+s /usr/bin/tool",
            "(setcap cap_net_raw+ep \"$1\" || chmod ug+s \"$1\")",
            "if [ -x /sbin/setcap ] && setcap cap_net_raw+ep $1; then :; else chmod +s $1; fi",
            "if false; then :; elif setcap cap_net_raw+ep $1\nthen :\nelse\nchmod u+s $1\nfi",
            "if setcap cap_net_raw+ep $1; then :; elif true; then chmod u+s $1; fi",
            "SETCAP=$(which setcap)\n\"$SETCAP\" cap_net_raw+ep $1 || install -m 4755 $1 $2",
            "setcap cap_net_raw+ep $1\nif [ $? -ne 0 ]; then\nchmod u+s $1\nfi",
            "cat <<E\nsetcap cap_net_raw+ep $1\nE\nsetcap cap_net_raw+ep $1 || chmod u+s $1",
            "setcap cap_chown+ep /bin/other\nsetcap cap_net_raw+ep /usr/bin/tool || chmod u+s x",
        ] {
            assert!(fallback(script), "{script}");
        }
    }

    #[test]
    fn scripts_that_require_setcap_have_no_fallback() {
        for script in [
            "",
            "set -e\nsetcap cap_net_raw+ep /usr/bin/tool\n",
            "set -e; chmod u+s /bin/other; setcap cap_net_raw+ep /usr/bin/tool; chmod u+s /bin/third",
            "setcap cap_net_raw+ep /usr/bin/tool || exit 1",
            "setcap cap_net_raw+ep /usr/bin/tool || { chmod u+s x; exit 1; }",
            "setcap cap_net_raw+ep /usr/bin/tool || true; chmod u+s /bin/other",
            "if ! setcap cap_net_raw+ep /usr/bin/tool; then echo failed >&2; exit 1; fi\nchmod u+s x",
            "if setcap cap_net_raw+ep /usr/bin/tool; then chmod u+s x; else exit 3; fi",
            "if command -v setcap; then setcap cap_net_raw+ep $1; else chmod u+s $1; fi",
            "# setcap cap_net_raw+ep /usr/bin/tool || chmod u+s /usr/bin/tool\nsetcap cap_net_raw+ep $1",
            "echo setcap cap_net_raw+ep /usr/bin/tool || chmod u+s x",
            "setcap cap_net_raw+ep /usr/bin/tool || chmod 755 /usr/bin/tool",
            "setcap cap_chown+ep /bin/other || chmod u+s /bin/other; setcap cap_net_raw+ep /usr/bin/tool",
            "cat <<'E'\nsetcap cap_net_raw+ep $1 || chmod u+s $1\nE\nsetcap cap_net_raw+ep $1",
        ] {
            assert!(!fallback(script), "{script}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in "([a-z]{1,6}|if|then|else|fi|setcap|chmod|u\\+s|\\||&|;|\\(|\\)|\\{|\\}|!|'|\"|\\\\|\\$|<<E|\n| ){0,60}") {
            let _ = fallback(&text);
        }
    }
}
