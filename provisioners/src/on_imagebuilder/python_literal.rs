//! Values of an inventory in INI format, which Ansible reads as literals of Python: `False`, `5`,
//! `None`, `['a', 'b']`. All other values are text.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use crate::variables::Variable;

/// Maximum nesting depth of lists and mappings.
const MAX_DEPTH: usize = 64;

/// Reads a value. A tuple or set is a list here, and a number beyond 64 bits is text.
///
/// Complex numbers and names of characters (`\N{…}`) are not read: their literals stay text.
pub(super) fn value(text: &str) -> Variable {
    literal(text).unwrap_or_else(|| Variable::Text(text.to_owned()))
}

/// Returns the value of a text that is a literal.
fn literal(text: &str) -> Option<Variable> {
    let mut parser =
        LiteralParser { rest: text.trim_start_matches([' ', '\t']).chars().peekable() };
    let first = parser.literal(0)?;
    let value = match parser.skip(',') {
        // A tuple needs no parentheses.
        true => {
            let mut items = vec![first];
            items.extend(parser.items(None, 0)?);
            Variable::List(items)
        }
        false => first,
    };
    parser.is_at_end().then_some(value)
}

/// Reads literals from a text.
struct LiteralParser<'a> {
    rest: Peekable<Chars<'a>>,
}

impl LiteralParser<'_> {
    fn skip_blanks(&mut self) {
        while self.rest.next_if(|c| matches!(c, ' ' | '\t' | '\x0c')).is_some() {}
    }

    /// Skips a character and the blanks before it.
    fn skip(&mut self, wanted: char) -> bool {
        self.skip_blanks();
        self.rest.next_if_eq(&wanted).is_some()
    }

    /// Returns whether only blanks and a comment follow.
    fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest.peek().is_none_or(|c| *c == '#')
    }

    fn literal(&mut self, depth: usize) -> Option<Variable> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_blanks();
        let first = *self.rest.peek()?;
        match first {
            '[' => {
                self.rest.next();
                Some(Variable::List(self.items(Some(']'), depth + 1)?))
            }
            '(' => {
                self.rest.next();
                self.parenthesised(depth + 1)
            }
            '{' => {
                self.rest.next();
                self.mapping_or_set(depth + 1)
            }
            '+' | '-' => {
                self.rest.next();
                self.skip_blanks();
                let number = self.number()?;
                if first == '+' {
                    return Some(number);
                }
                Some(match number {
                    Variable::Integer(number) => Variable::Integer(number.checked_neg()?),
                    Variable::Float(number) => Variable::Float(-number),
                    // The positive number has more than 64 bits.
                    Variable::Text(digits) if digits == "9223372036854775808" => {
                        Variable::Integer(i64::MIN)
                    }
                    Variable::Text(digits) => Variable::Text(format!("-{digits}")),
                    _ => return None,
                })
            }
            c if c.is_ascii_digit() || c == '.' => self.number(),
            '\'' | '"' => self.strings(String::new()),
            _ => {
                let name = self.word();
                match (name.as_str(), self.rest.peek().copied()) {
                    ("True", _) => Some(Variable::Bool(true)),
                    ("False", _) => Some(Variable::Bool(false)),
                    ("None", _) => Some(Variable::Null),
                    (_, Some('\'' | '"')) => self.strings(name),
                    ("set", _) if self.skip('(') && self.skip(')') => {
                        Some(Variable::List(Vec::new()))
                    }
                    _ => None,
                }
            }
        }
    }

    /// Returns the literals up to a closing bracket, or else to the end.
    fn items(&mut self, close: Option<char>, depth: usize) -> Option<Vec<Variable>> {
        let mut items = Vec::new();
        loop {
            let is_end = match close {
                Some(close) => self.skip(close),
                None => self.is_at_end(),
            };
            if is_end {
                return Some(items);
            }
            items.push(self.literal(depth)?);
            if !self.skip(',') {
                let is_end = match close {
                    Some(close) => self.skip(close),
                    None => self.is_at_end(),
                };
                return is_end.then_some(items);
            }
        }
    }

    /// Reads a tuple, or a literal in parentheses.
    fn parenthesised(&mut self, depth: usize) -> Option<Variable> {
        if self.skip(')') {
            return Some(Variable::List(Vec::new()));
        }
        let first = self.literal(depth)?;
        if self.skip(',') {
            let mut items = vec![first];
            items.extend(self.items(Some(')'), depth)?);
            return Some(Variable::List(items));
        }
        self.skip(')').then_some(first)
    }

    fn mapping_or_set(&mut self, depth: usize) -> Option<Variable> {
        let mut entries = BTreeMap::new();
        let mut items = Vec::new();
        while !self.skip('}') {
            let is_first = entries.is_empty() && items.is_empty();
            if !is_first && !self.skip(',') {
                return None;
            }
            if self.skip('}') {
                break;
            }
            let key = self.literal(depth)?;
            let is_pair = self.skip(':');
            match key {
                Variable::List(_) | Variable::Map(_) => return None,
                key if is_pair && items.is_empty() => {
                    let name = match key {
                        Variable::Text(text) => text,
                        other => other.to_string(),
                    };
                    entries.insert(name, self.literal(depth)?);
                }
                key if !is_pair && entries.is_empty() => items.push(key),
                _ => return None,
            }
        }
        Some(match items.is_empty() {
            true => Variable::Map(entries),
            false => Variable::List(items),
        })
    }

    /// Returns the letters, digits and underscores that follow.
    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
            word.push(c);
        }
        word
    }

    fn number(&mut self) -> Option<Variable> {
        let mut text = self.word();
        let lower = text.to_ascii_lowercase();
        let radix = [("0x", 16), ("0o", 8), ("0b", 2)];
        let radix = radix.iter().find_map(|(p, radix)| Some((lower.strip_prefix(p)?, *radix)));
        if let Some((digits, radix)) = radix {
            // An underscore may follow the prefix.
            let digits = without_underscores(digits.strip_prefix('_').unwrap_or(digits))?;
            let number = i128::from_str_radix(&digits, radix).ok()?;
            return Some(integer(number));
        }
        let mut is_float = false;
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'_')
            && self.rest.next_if_eq(&'.').is_some()
        {
            is_float = true;
            text.push('.');
            text.push_str(&self.word());
        }
        if text.ends_with(['e', 'E'])
            && let Some(sign) = self.rest.next_if(|c| matches!(c, '+' | '-'))
        {
            text.push(sign);
            text.push_str(&self.word());
        }
        is_float |= text.contains(['e', 'E']);
        let (number, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text.as_str(), None),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let part = |part: &str| match part {
            "" => Some(String::new()),
            part => without_underscores(part).filter(|p| p.bytes().all(|b| b.is_ascii_digit())),
        };
        let (whole, fraction) = (part(whole)?, part(fraction)?);
        if !is_float {
            // Python rejects a number with leading zeros, unless it is zero.
            let is_zero = whole.bytes().all(|b| b == b'0');
            return match whole.parse::<i128>() {
                _ if whole.starts_with('0') && !is_zero => None,
                Ok(number) => Some(integer(number)),
                Err(_) => Some(Variable::Text(whole)),
            };
        }
        let exponent = match exponent {
            Some(exponent) => {
                let (sign, digits) = match exponent.strip_prefix('-') {
                    Some(digits) => ("-", digits),
                    None => ("", exponent.strip_prefix('+').unwrap_or(exponent)),
                };
                format!("e{sign}{}", part(digits).filter(|digits| !digits.is_empty())?)
            }
            None => String::new(),
        };
        format!("0{whole}.{fraction}0{exponent}").parse().ok().map(Variable::Float)
    }

    /// Reads one or more strings, which Python joins. `prefix` is that of the first one.
    fn strings(&mut self, prefix: String) -> Option<Variable> {
        let mut text = String::new();
        let (mut prefix, mut kind) = (prefix.to_ascii_lowercase(), None);
        loop {
            let (is_raw, is_bytes) = match prefix.as_str() {
                "" | "u" => (false, false),
                "r" => (true, false),
                "b" => (false, true),
                "br" | "rb" => (true, true),
                _ => return None,
            };
            if *kind.get_or_insert(is_bytes) != is_bytes {
                return None;
            }
            self.string(is_raw, is_bytes, &mut text)?;
            self.skip_blanks();
            match self.rest.peek() {
                Some(c) if c.is_alphabetic() => {
                    prefix = self.word().to_ascii_lowercase();
                    if !matches!(self.rest.peek(), Some('\'' | '"')) {
                        return None;
                    }
                }
                Some('\'' | '"') => prefix.clear(),
                _ => return Some(Variable::Text(text)),
            }
        }
    }

    fn string(&mut self, is_raw: bool, is_bytes: bool, text: &mut String) -> Option<()> {
        let quote = self.rest.next()?;
        let mut is_triple = false;
        if self.rest.next_if_eq(&quote).is_some() {
            if self.rest.next_if_eq(&quote).is_none() {
                return Some(());
            }
            is_triple = true;
        }
        loop {
            match self.rest.next()? {
                c if c == quote && !is_triple => return Some(()),
                c if c == quote => {
                    let mut count = 1;
                    while count < 3 && self.rest.next_if_eq(&quote).is_some() {
                        count += 1;
                    }
                    if count == 3 {
                        return Some(());
                    }
                    text.extend(std::iter::repeat_n(quote, count));
                }
                '\\' if is_raw => {
                    text.push('\\');
                    text.push(self.rest.next()?);
                }
                '\\' => self.escape(is_bytes, text)?,
                c if is_bytes && !c.is_ascii() => return None,
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, is_bytes: bool, text: &mut String) -> Option<()> {
        let c = self.rest.next()?;
        let width = match c {
            'x' => 2,
            'u' if !is_bytes => 4,
            'U' if !is_bytes => 8,
            'N' if !is_bytes => return None,
            _ => 0,
        };
        if width > 0 {
            let mut number = 0;
            for _ in 0..width {
                number = number * 16 + self.rest.next()?.to_digit(16)?;
            }
            text.push(char::from_u32(number)?);
            return Some(());
        }
        if let Some(digit) = c.to_digit(8) {
            let mut number = digit;
            for _ in 0..2 {
                let Some(digit) = self.rest.next_if(|c| c.is_digit(8)) else { break };
                number = number * 8 + digit.to_digit(8)?;
            }
            text.push(char::from_u32(number)?);
            return Some(());
        }
        let plain = match c {
            '\\' | '\'' | '"' => c,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            other => {
                text.push('\\');
                other
            }
        };
        text.push(plain);
        Some(())
    }
}

fn integer(number: i128) -> Variable {
    match i64::try_from(number) {
        Ok(number) => Variable::Integer(number),
        Err(_) => Variable::Text(number.to_string()),
    }
}

/// Returns digits without the underscores between them; `None` if one is elsewhere.
fn without_underscores(digits: &str) -> Option<String> {
    let is_valid = !digits.is_empty() && digits.split('_').all(|part| !part.is_empty());
    is_valid.then(|| digits.replace('_', ""))
}

/// Splits the definition of a host at blanks as a shell does, up to a comment. Quotes and
/// backslashes are removed. Returns `None` if a quote is not closed.
pub(super) fn shell_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '#' => break,
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(rest.next()?),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next()? {
                        '"' => break,
                        '\\' => {
                            let c = rest.next()?;
                            if !matches!(c, '"' | '\\') {
                                word.push('\\');
                            }
                            word.push(c);
                        }
                        c => word.push(c),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// Writes the value of each line as Ansible's parser of inventories in INI format does, and the
    /// words of the line.
    const PYTHON: &str = r##"
import ast, json, shlex, sys, warnings
warnings.simplefilter("ignore")
def plain(value):
    if isinstance(value, (list, tuple)): return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)): return sorted(plain(item) for item in value)
    if isinstance(value, dict): return {key_text(k): plain(v) for k, v in value.items()}
    if isinstance(value, bytes): return value.decode("latin-1")
    if isinstance(value, int) and not -2**63 <= value < 2**63: return str(value)
    return value
def key_text(key):
    return key if isinstance(key, str) else json.dumps(plain(key))
for line in sys.stdin.read().split("\n"):
    try:
        value = ast.literal_eval(line)
    except (ValueError, SyntaxError):
        value = line
    # JSON has no form for these, and a template writes them as they are here.
    if isinstance(value, (complex, type(...))): value = line
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        words = None
    print(json.dumps([plain(value), words], sort_keys=True))
"##;

    #[test]
    fn values_and_words_are_those_of_python() {
        let values = r#"yes|no|True|False|None|true|false|null|TRUE|5|-5|+5|--5|- 5|-True|010|00|0_0|0
            |1_000|1__0|_1|1_|0x1f|0X_1f|0o17|0b11|0b12|0xg|017|1.5|-1.5|.5|5.|1e5|1E-5|1e|1.e+5|01.5|1_0.5
            |1._5|1j|1+2j|1+2|1-2|10.0.0.1|1:30|7e4|9223372036854775807|9223372036854775808
            |-9223372036854775808|-9223372036854775809|"a b"|'a b'|"a"b|"a" "b"|"a" u'b'|r"a\n"|b"a"|b"a" "b"
            |f"a"|"a\n\t\\\"\x41\101\u00e4\q"|"unclosed|'''a'b'''|"" ""|""""a"""|a=b|a#b|a #b
            |5 # five|[1] # y|["x","y"]|['x', "y",]|[1, [2, (3,)], {}]|[1 2]|[1,,2]|[|]|[]|()|(1)|(1,)|(1, 2)
            |80,443|80,|,|{"a": 1}|{'a': {'b': [None]}}|{1: 2, 2: 3,}|{1, 2}|{}|{"a"}|{"a" 1}|{"a": 1 "b": 2}
            |{[]: 1}x|set()|set([1])|a.b|a b|/tmp/x|http://x/y|{{ var }}|"{{ var }}"|['{{ a }}', 'b']
            |x ansible_connection=chroot base_only=yes|h a="b c" d='e "f"' g=h\ i|h a="b\"c\d"|h a=b#c|h # c
            |h a=[1,2]|h a='unclosed|0.1|1e400|"é"|b"é"|é|...|Ellipsis|-"a"|not True|1 if 1 else 2
            |"a"  |  5|(  5  )|"a" + "b"|[True, False, None]|{True: 1}|{"k": "v", "k": "w"}|-0|-0.0|0777"#;
        let values: Vec<&str> =
            values.split('|').map(|value| value.trim_end_matches(['\n', ' '])).collect();
        assert!(values.len() > 130, "{}", values.len());
        let mut python = Command::new("/usr/bin/python3")
            .args(["-c", PYTHON])
            .env("PYTHONIOENCODING", "utf-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut input = python.stdin.take().expect("a pipe");
        input.write_all(values.join("\n").as_bytes()).unwrap();
        drop(input);
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success());
        let output = String::from_utf8(output.stdout).unwrap();
        let wanted: Vec<&str> = output.lines().collect();
        assert_eq!(wanted.len(), values.len());
        for (text, wanted) in values.iter().zip(wanted) {
            // JSON has no infinite numbers.
            let wanted = wanted.replace("Infinity", "null");
            let wanted: serde_json::Value = serde_json::from_str(&wanted).unwrap();
            let found = serde_json::json!([value(text), shell_words(text)]);
            assert_eq!(found, wanted, "{text:?}");
        }
    }
}
