//! Runs the tests of images in a machine: one shell script for all of them, and its output.
//!
//! For each test the script prints `ok NUMBER` or `not ok NUMBER CODE`, and after a failure the
//! test's output, in which each line begins with `# `.

use provisioners::ImageTest;

use crate::text::escape::plain;

/// Maximum bytes of a test's output.
const MAX_OUTPUT_BYTES: usize = 16 << 10;

/// Runs one test: number, limit in seconds, shell, script.
const RUN: &str = r#"run() {
  n=$1 limit=$2
  shift 2
  if command -v timeout >/dev/null; then
    o=$(timeout -k 5 "$limit" "$1" -c "$2" 2>&1 </dev/null); c=$?
    [ "$c" != 124 ] || o="$o
it did not end within $limit seconds"
  else
    o=$("$1" -c "$2" 2>&1 </dev/null); c=$?
  fi
  if [ "$c" = 0 ]; then
    echo "ok $n"
  else
    echo "not ok $n $c"
    printf '%s\n' "$o" | head -c 16384 | while IFS= read -r l || [ -n "$l" ]; do
      printf '# %s\n' "$l"
    done
  fi
}
"#;

/// Returns the script that runs the tests.
pub(crate) fn script(tests: &[ImageTest]) -> String {
    let mut script = RUN.to_owned();
    for (index, test) in tests.iter().enumerate() {
        script.push_str(&format!(
            "run {} {} {} {}\n",
            index + 1,
            test.time_out,
            quoted(&test.shell),
            quoted(&test.with_exports())
        ));
    }
    script
}

/// Returns text as one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The result of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestResult {
    /// The exit code; 0 if the test passed.
    pub(crate) code: u32,
    /// The output of a test that failed.
    pub(crate) output: String,
}

/// The results of tests, from the script's output.
#[derive(Debug, Default)]
pub(crate) struct TestResults {
    /// Received bytes that are not parsed yet.
    rest: Vec<u8>,
    results: Vec<Option<TestResult>>,
    /// The test whose output follows.
    current: Option<usize>,
}

impl TestResults {
    /// Creates the results of `count` tests, none of which has run.
    pub(crate) fn new(count: usize) -> Self {
        TestResults { results: vec![None; count], ..TestResults::default() }
    }

    /// Parses output of the script.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = memchr::memchr(b'\n', &self.rest) {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(&String::from_utf8_lossy(&line));
        }
        if self.rest.len() > MAX_OUTPUT_BYTES {
            self.rest.clear();
        }
    }

    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(text) = line.strip_prefix("# ") {
            if let Some(Some(result)) = self.current.and_then(|at| self.results.get_mut(at))
                && result.output.len() < MAX_OUTPUT_BYTES
            {
                result.output.push_str(&plain(text));
                result.output.push('\n');
            }
            return;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let (number, code) = match words[..] {
            ["ok", number] => (number, Some(0)),
            ["not", "ok", number, code] => (number, code.parse().ok()),
            _ => return,
        };
        let Some(index) = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1))
        else {
            return;
        };
        if let Some(result @ None) = self.results.get_mut(index) {
            *result = Some(TestResult { code: code.unwrap_or(1), output: String::new() });
            self.current = Some(index);
        }
    }

    /// Returns the result of each test; `None` for a test that has not run.
    pub(crate) fn results(&self) -> &[Option<TestResult>] {
        &self.results
    }

    /// Returns whether all tests ran and passed.
    pub(crate) fn passed(&self) -> bool {
        self.results.iter().flatten().filter(|result| result.code == 0).count()
            == self.results.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(script: &str) -> ImageTest {
        ImageTest {
            name: "a".into(),
            file: "a.sh".into(),
            line: None,
            booted: true,
            time_out: 1,
            shell: "sh".into(),
            script: script.to_owned(),
            environment: vec![("OVERCOAT_VAR_a".into(), "it's\n\"$5\"".into())],
        }
    }

    #[test]
    fn script_reports_each_test_whatever_it_prints() {
        let tests = [
            test("true"),
            test("[ \"$OVERCOAT_VAR_a\" = \"it's\n\\\"\\$5\\\"\" ] || exit 9"),
            test("echo ok 4; echo 'not ok 1 5'; printf 'end\\033[31m'; exit 3"),
            test("sleep 60"),
            test("read -r x || exit 7"),
            test("exec no-such-program"),
        ];
        let output =
            std::process::Command::new("sh").args(["-c", &script(&tests)]).output().unwrap();
        for part in [1, 7, 100_000] {
            let mut results = TestResults::new(tests.len());
            output.stdout.chunks(part).for_each(|bytes| results.take(bytes));
            let codes: Vec<u32> =
                results.results().iter().map(|result| result.as_ref().unwrap().code).collect();
            assert_eq!(codes, [0, 0, 3, 124, 7, 127]);
            let third = results.results()[2].as_ref().unwrap();
            assert_eq!(
                third.output,
                "ok 4\nnot ok 1 5\nend\u{fffd}[31m\n".replace('\u{fffd}', "\\x1b")
            );
            let fourth = &results.results()[3].as_ref().unwrap().output;
            assert!(fourth.ends_with("it did not end within 1 seconds\n"), "{fourth}");
            assert!(!results.passed());
        }
    }

    #[test]
    fn missing_results_are_not_passed() {
        let mut results = TestResults::new(2);
        results.take(b"ok 1\nok 3\nok 0\nok x\n");
        assert_eq!(results.results()[1], None);
        assert!(!results.passed());
        results.take(b"ok 2\n");
        assert!(results.passed());
    }
}
