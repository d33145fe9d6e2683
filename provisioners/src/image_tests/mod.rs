//! Tests that travel with a provisioner or a project: they run in the root of an image, or in a
//! machine that booted it.
//!
//! The directory `tests` of a provisioner contains shell scripts (`NAME.sh`) and lists of
//! expectations (`NAME.yml`, in the manner of goss). Scripts in `tests/booted` and expectations
//! with `booted: true` run in the machine only. Each test becomes one shell script, so that the
//! same runs in both places.

mod expectation;

use std::path::{Path, PathBuf};

use crate::config::{ConfigError, Fields, YamlDocument, YamlNode};
use crate::evaluate::Evaluator;
use crate::folder::{Folder, FolderItemKind};
use crate::image::Image;
use crate::variables::Variables;

/// Directory of a provisioner's tests.
const TESTS: &str = "tests";
/// Subdirectory of the tests that run in a machine.
const BOOTED: &str = "booted";
/// Default of the time that a test may take, in seconds.
const TIME_OUT: u64 = 30;
/// Maximum of that time: a day.
const MAX_TIME_OUT: u64 = 24 * 60 * 60;
/// Maximum size of a script in bytes. The kernel passes arguments of up to 128 KiB.
const MAX_SCRIPT_BYTES: usize = 96 << 10;
/// Shells that a script may name in its first line.
const SHELLS: [&str; 5] = ["sh", "bash", "dash", "ksh", "zsh"];

/// A test of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTest {
    /// Its name, which begins with that of the provisioner: `discovery: file /etc/discovery.conf`.
    pub name: String,
    /// The file that contains it, for messages.
    pub file: PathBuf,
    /// The line of an expectation in the file.
    pub line: Option<usize>,
    /// Whether it runs in a booted machine only.
    pub booted: bool,
    /// Seconds that it may take.
    pub time_out: u64,
    /// The shell that runs the script.
    pub shell: String,
    /// The script. Its exit code is 0 if the test passes; otherwise its output says why.
    pub script: String,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
}

impl ImageTest {
    /// Returns the script after lines that export its environment.
    pub fn with_exports(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.environment {
            // Names are those of variables, which are words.
            text.push_str(&format!("export {name}={}\n", quoted(value)));
        }
        text + &self.script
    }
}

/// Returns text as one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Image {
    /// Returns the tests of the image's provisioners, and those of its settings of checks.
    ///
    /// # Errors
    /// Fails if a provisioner or a test cannot be read or has a mistake.
    pub fn tests(&self) -> Result<Vec<ImageTest>, ConfigError> {
        let mut tests = Vec::new();
        for provisioner in self.load_provisioners()? {
            let folder = provisioner.folder();
            if folder.is_dir(Path::new(TESTS)) {
                let variables = self.variables_over(provisioner.variables());
                let source =
                    TestSource { owner: provisioner.name(), folder, variables: &variables };
                source.read_directory(Path::new(TESTS), &mut tests)?;
            }
        }
        let variables = self.variables_over(&Variables::accepting_any());
        for path in &self.check.tests {
            let dir = path.parent().unwrap_or(Path::new(""));
            let folder = Folder::from_host(dir);
            let name = Path::new(path.file_name().unwrap_or_default());
            let source = TestSource { owner: "project", folder: &folder, variables: &variables };
            match folder.is_dir(name) {
                true => source.read_directory(name, &mut tests)?,
                false => source.read_file(name, false, &mut tests)?,
            }
        }
        Ok(tests)
    }
}

/// A directory of tests, and the variables for them.
struct TestSource<'a> {
    owner: &'a str,
    folder: &'a Folder,
    variables: &'a Variables,
}

impl TestSource<'_> {
    fn read_directory(&self, dir: &Path, tests: &mut Vec<ImageTest>) -> Result<(), ConfigError> {
        for item in self.folder.walk(dir)? {
            let below = item.path.strip_prefix(dir).unwrap_or(&item.path);
            let is_booted = below.starts_with(BOOTED);
            let is_direct = below.components().count() == 1 + usize::from(is_booted);
            if is_direct && matches!(item.kind, FolderItemKind::File { .. }) {
                self.read_file(&item.path, is_booted, tests)?;
            }
        }
        Ok(())
    }

    /// Reads a file of tests. Other files, such as data of the tests, are skipped.
    fn read_file(
        &self,
        path: &Path,
        booted: bool,
        tests: &mut Vec<ImageTest>,
    ) -> Result<(), ConfigError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sh") => tests.push(self.script(path, booted)?),
            Some("yml" | "yaml") => {
                let bytes = self.folder.read(path)?.into_owned();
                let file = self.folder.display_path(path);
                let document = YamlDocument::from_bytes(&file, bytes)?;
                let list = Evaluator::new(self.variables).render(&document.root)?;
                for node in list.list()? {
                    tests.push(self.expectation(node, &file, booted)?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn script(&self, path: &Path, booted: bool) -> Result<ImageTest, ConfigError> {
        let file = self.folder.display_path(path);
        let invalid = |why: &str| ConfigError::Read {
            path: file.clone(),
            source: std::io::Error::other(why.to_owned()),
        };
        let bytes = self.folder.read(path)?.into_owned();
        if bytes.len() > MAX_SCRIPT_BYTES {
            return Err(invalid("a script of a test has at most 96 KiB"));
        }
        let script = String::from_utf8(bytes).map_err(|_| invalid("the script is not UTF-8"))?;
        let first = script.lines().next().unwrap_or_default();
        let named = first.strip_prefix("#!").map(|line| {
            let words = line.split(['/', ' ', '\t']);
            words.rev().find(|word| SHELLS.contains(word))
        });
        let shell = match named {
            None => SHELLS[0],
            Some(Some(shell)) => shell,
            Some(None) => {
                return Err(invalid("tests are shell scripts: the first line names no shell"));
            }
        };
        Ok(ImageTest {
            name: format!("{}: {}", self.owner, path.file_stem().unwrap_or_default().display()),
            file,
            line: None,
            booted,
            time_out: TIME_OUT,
            shell: shell.to_owned(),
            script,
            environment: self.variables.environment().collect(),
        })
    }

    fn expectation(
        &self,
        node: &YamlNode,
        file: &Path,
        booted: bool,
    ) -> Result<ImageTest, ConfigError> {
        let fields = Fields::new(node, "an expectation")?;
        let (summary, script, needs_boot) = expectation::parse(node, &fields)?;
        let name = fields.text("name")?.unwrap_or(summary);
        let is_booted = fields.bool("booted")?;
        let time_out = match fields.get("time_out") {
            Some(node) => match expectation::number(node)? {
                seconds @ 1..=MAX_TIME_OUT => seconds,
                _ => {
                    let problem = format!("expected 1 to {MAX_TIME_OUT} seconds");
                    return Err(node.mistake(problem).into());
                }
            },
            None => TIME_OUT,
        };
        fields.get(crate::evaluate::WHEN_KEY);
        fields.finish()?;
        if needs_boot && is_booted == Some(false) {
            let problem = "ports and running services exist only in a booted machine";
            return Err(node.mistake_with_help(problem, "remove `booted: false`").into());
        }
        Ok(ImageTest {
            name: format!("{}: {name}", self.owner),
            file: file.to_owned(),
            line: Some(node.span.line),
            booted: is_booted.unwrap_or(booted || needs_boot),
            time_out,
            shell: SHELLS[0].to_owned(),
            script,
            environment: self.variables.environment().collect(),
        })
    }
}
