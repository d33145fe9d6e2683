//! Results of the tests of images, as TAP for people and programs, and as JUnit's XML.

use std::fmt::Write as _;

use provisioners::ImageTest;
use serde_json::{Value, json};

use crate::vm::image_tests::TestResult;

/// Returns a test's position: its file, and the line of an expectation.
fn position(test: &ImageTest) -> String {
    let file = test.file.display();
    test.line.map_or(file.to_string(), |line| format!("{file}:{line}"))
}

/// Returns the results as TAP, version 14.
pub(crate) fn tap(tests: &[ImageTest], results: &[Option<TestResult>]) -> String {
    let mut text = format!("TAP version 14\n1..{}\n", tests.len());
    for (index, (test, result)) in tests.iter().zip(results).enumerate() {
        let name = test.name.replace('\\', "\\\\").replace('#', "\\#");
        let number = index + 1;
        let (reason, output) = match result {
            Some(TestResult { code: 0, .. }) => {
                let _ = writeln!(text, "ok {number} - {name}");
                continue;
            }
            Some(result) => (format!("exit code {}", result.code), result.output.as_str()),
            None => ("it did not run".to_owned(), ""),
        };
        let _ = writeln!(text, "not ok {number} - {name}");
        let _ = writeln!(text, "  ---\n  at: {:?}\n  reason: {reason}", position(test));
        if !output.is_empty() {
            text.push_str("  output: |\n");
            output.lines().for_each(|line| _ = writeln!(text, "    {line}"));
        }
        text.push_str("  ...\n");
    }
    text
}

/// Returns the results as JUnit's XML.
pub(crate) fn junit(suite: &str, tests: &[ImageTest], results: &[Option<TestResult>]) -> String {
    let passed = |result: &&Option<TestResult>| result.as_ref().is_some_and(|r| r.code == 0);
    let failures = results.len() - results.iter().filter(passed).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" \
         failures=\"{failures}\">\n",
        xml(suite),
        tests.len()
    );
    for (test, result) in tests.iter().zip(results) {
        let (owner, name) = test.name.split_once(": ").unwrap_or(("", &test.name));
        let _ = write!(text, "  <testcase classname=\"{}\" name=\"{}\"", xml(owner), xml(name));
        let (reason, output) = match result {
            Some(TestResult { code: 0, .. }) => {
                text.push_str("/>\n");
                continue;
            }
            Some(result) => (format!("exit code {}", result.code), result.output.as_str()),
            None => ("it did not run".to_owned(), ""),
        };
        let _ = writeln!(
            text,
            ">\n    <failure message=\"{}: {reason}\">{}</failure>\n  </testcase>",
            xml(&position(test)),
            xml(output)
        );
    }
    text.push_str("</testsuite>\n");
    text
}

/// Returns the results for JSON reports.
pub(crate) fn json(tests: &[ImageTest], results: &[Option<TestResult>]) -> Value {
    let each = tests.iter().zip(results).map(|(test, result)| {
        json!({
            "name": test.name,
            "file": test.file.display().to_string(),
            "line": test.line,
            "passed": result.as_ref().is_some_and(|result| result.code == 0),
            "code": result.as_ref().map(|result| result.code),
            "output": result.as_ref().map(|result| &result.output),
        })
    });
    each.collect()
}

/// Escapes text for XML 1.0, in which control characters cannot be written.
fn xml(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            c if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_written_as_tap_and_junit() {
        let test = |name: &str, line| ImageTest {
            name: name.to_owned(),
            file: "tests/all.yml".into(),
            line,
            booted: true,
            time_out: 30,
            shell: "sh".into(),
            script: String::new(),
            environment: Vec::new(),
        };
        let tests = [test("a: file /x", Some(1)), test("a: #2 <&\"", Some(3)), test("b: up", None)];
        let failed = TestResult { code: 3, output: "one\ntwo & <three>\n".to_owned() };
        let results = [Some(TestResult { code: 0, output: String::new() }), Some(failed), None];
        let expected = "TAP version 14\n1..3\nok 1 - a: file /x\nnot ok 2 - a: \\#2 <&\"\n  ---\n  \
                        at: \"tests/all.yml:3\"\n  reason: exit code 3\n  output: |\n    one\n    \
                        two & <three>\n  ...\nnot ok 3 - b: up\n  ---\n  at: \"tests/all.yml\"\n  \
                        reason: it did not run\n  ...\n";
        assert_eq!(tap(&tests, &results), expected);
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"disc\" \
            tests=\"3\" failures=\"2\">\n  <testcase classname=\"a\" name=\"file /x\"/>\n  \
            <testcase classname=\"a\" name=\"#2 &lt;&amp;&quot;\">\n    \
            <failure message=\"tests/all.yml:3: exit code 3\">one&#10;two &amp; &lt;three&gt;&#10;\
            </failure>\n  </testcase>\n  <testcase classname=\"b\" name=\"up\">\n    \
            <failure message=\"tests/all.yml: it did not run\"></failure>\n  </testcase>\n\
            </testsuite>\n";
        assert_eq!(junit("disc", &tests, &results), expected);
    }
}
