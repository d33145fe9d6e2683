//! Parses a YAML file into nodes with their positions.
//!
//! A file has one document. Aliases are expanded, with a limit on the number of nodes. Duplicate
//! keys and tags other than `!!str` are rejected.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};

use super::error::{ConfigError, Mistake};

/// Maximum number of nodes in a file after the expansion of aliases.
const MAX_NODES: usize = 100_000;
/// Maximum nesting depth of lists and mappings.
const MAX_DEPTH: usize = 64;

/// A parsed file.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    source: Arc<Source>,
    /// The top node; null for an empty file.
    pub(crate) root: Node,
}

/// The text of a file, to show the line of a mistake.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    text: String,
}

/// A position in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// In characters, on this line.
    pub(crate) width: usize,
}

/// A value and its position.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    source: Arc<Source>,
    /// The path of keys to this value.
    key: Arc<str>,
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// The value of a node.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// A scalar. If `plain`, it has no quotes and may be a number, truth value or null.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) place: Place,
}

impl Document {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::from_bytes(path, std::fs::read(path).map_err(|e| ConfigError::read(path, e))?)
    }

    /// Parses the content of a file; messages name it `path`.
    pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ConfigError> {
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(path, text),
            Err(e) => {
                let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count();
                let mistake = Mistake {
                    file: path.to_owned(),
                    line,
                    column: 1,
                    key: String::new(),
                    problem: "this line is not UTF-8".into(),
                    help: None,
                    source_line: String::new(),
                    width: 1,
                };
                Err(Box::new(mistake).into())
            }
        }
    }

    /// Parses the text of a file; messages name it `path`.
    pub(crate) fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        let source = Arc::new(Source { path: path.to_owned(), text });
        let mut builder = Builder {
            source: Arc::clone(&source),
            parser: Parser::new_from_str(&source.text),
            anchors: HashMap::new(),
            nodes: 0,
        };
        let root = builder.document()?;
        Ok(Self { source: Arc::clone(&source), root })
    }

    /// Returns the folder of the file. Paths in the file are relative to it.
    pub(crate) fn folder(&self) -> &Path {
        match self.source.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.source.path
    }
}

impl Source {
    fn mistake(
        &self,
        place: Place,
        key: &str,
        problem: String,
        help: Option<String>,
    ) -> Box<Mistake> {
        Box::new(Mistake {
            file: self.path.clone(),
            line: place.line,
            column: place.column,
            key: key.to_owned(),
            problem,
            help,
            source_line: self.text.lines().nth(place.line - 1).unwrap_or("").to_owned(),
            width: place.width,
        })
    }
}

impl Node {
    /// Returns a mistake in this value.
    pub(crate) fn wrong(&self, problem: impl Into<String>) -> Box<Mistake> {
        self.source.mistake(self.place, &self.key, problem.into(), None)
    }

    /// Returns a mistake in this value, and how to fix it.
    pub(crate) fn wrong_with(
        &self,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) -> Box<Mistake> {
        self.source.mistake(self.place, &self.key, problem.into(), Some(help.into()))
    }

    /// Returns a mistake in a key of this mapping.
    pub(crate) fn wrong_key(
        &self,
        key: &Key,
        problem: impl Into<String>,
        help: Option<String>,
    ) -> Box<Mistake> {
        self.source.mistake(key.place, &join(&self.key, &key.name), problem.into(), help)
    }

    /// Returns whether this is null: an empty scalar, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Returns the kind of this value for messages.
    pub(crate) fn what(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { text, plain: true } if parse_bool(text).is_some() => "true or false",
            Value::Scalar { text, plain: true } if text.parse::<f64>().is_ok() => "a number",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Returns the value of a key of this mapping, and the mapping without the key.
    pub(crate) fn without(&self, name: &str) -> (Option<Node>, Node) {
        let mut rest = self.clone();
        let mut taken = None;
        if let Value::Map(entries) = &mut rest.value
            && let Some(at) = entries.iter().position(|(key, _)| key.name == name)
        {
            taken = Some(entries.remove(at).1).filter(|node| !node.is_null());
        }
        (taken, rest)
    }

    /// Returns the text of a scalar that is not empty, regardless of its type. `wanted` describes
    /// the expected value in messages.
    pub(crate) fn text(&self, wanted: &str) -> Result<&str, Box<Mistake>> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() && !text.is_empty() => Ok(text),
            _ => Err(self.wrong(format!("expected {wanted}, found {}", self.what()))),
        }
    }

    /// Returns a truth value.
    pub(crate) fn bool(&self) -> Result<bool, Box<Mistake>> {
        let Value::Scalar { text, plain } = &self.value else {
            return Err(self.wrong(format!("expected true or false, found {}", self.what())));
        };
        match (parse_bool(text), text.to_lowercase().as_str()) {
            (Some(value), _) if *plain => Ok(value),
            (_, "yes" | "on") => Err(self.wrong_with("expected true or false", "write `true`")),
            (_, "no" | "off") => Err(self.wrong_with("expected true or false", "write `false`")),
            _ => Err(self.wrong(format!("expected true or false, found {}", self.what()))),
        }
    }

    /// Returns another value with the position of this one.
    pub(crate) fn with(&self, value: Value) -> Self {
        Self { value, ..self.clone() }
    }

    /// Returns the value of a key, if this is a mapping with that key.
    pub(crate) fn at(&self, name: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// Returns the nodes of a list. A scalar is treated as a list with one element.
    pub(crate) fn list(&self) -> Result<&[Node], Box<Mistake>> {
        match &self.value {
            Value::List(nodes) => Ok(nodes),
            Value::Scalar { .. } if !self.is_null() => Ok(std::slice::from_ref(self)),
            _ => Err(self.wrong(format!("expected a list, found {}", self.what()))),
        }
    }
}

/// Parses a truth value of YAML 1.2, in which `yes` and `on` are text.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn join(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}

/// Builds nodes from the parser's events.
struct Builder<'a> {
    source: Arc<Source>,
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, Box<Mistake>> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                _ if root.is_some() => {
                    return Err(self.wrong(
                        place(span),
                        "",
                        "the file has a second document; only one is allowed",
                    ));
                }
                event => root = Some(self.node(event, span, "", 0)?),
            }
        }
        Ok(root.unwrap_or_else(|| Node {
            source: Arc::clone(&self.source),
            key: "".into(),
            place: Place { line: 1, column: 1, width: 1 },
            value: Value::Scalar { text: String::new(), plain: true },
        }))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Box<Mistake>> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            None => Ok((Event::StreamEnd, Span::empty(Marker::new(0, 1, 0)))),
            Some(Err(e)) => Err(self.wrong(place(Span::empty(*e.marker())), "", e.info())),
        }
    }

    fn node(
        &mut self,
        event: Event<'a>,
        span: Span,
        key: &str,
        depth: usize,
    ) -> Result<Node, Box<Mistake>> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.wrong(place(span), key, "too many values in one file"));
        }
        if depth > MAX_DEPTH {
            return Err(self.wrong(place(span), key, "nested too deeply"));
        }
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(self.wrong(place(span), key, "the alias is inside its own anchor"));
                };
                self.nodes += count(&node);
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let mut plain = style == ScalarStyle::Plain;
                if let Some(tag) = tag {
                    if !(tag.is_yaml_core_schema() && tag.suffix == "str") {
                        return Err(self.wrong(place(span), key, format!("unknown tag {tag}")));
                    }
                    plain = false;
                }
                (Value::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(anchor, None) => {
                let mut nodes = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break (Value::List(nodes), anchor),
                        (event, span) => {
                            let key = format!("{key}[{}]", nodes.len());
                            nodes.push(self.node(event, span, &key, depth + 1)?);
                        }
                    }
                }
            }
            Event::MappingStart(anchor, None) => (self.mapping(key, depth)?, anchor),
            Event::SequenceStart(_, Some(tag)) | Event::MappingStart(_, Some(tag)) => {
                return Err(self.wrong(place(span), key, format!("unknown tag {tag}")));
            }
            _ => return Err(self.wrong(place(span), key, "unexpected end of the file")),
        };
        let node =
            Node { source: Arc::clone(&self.source), key: key.into(), place: place(span), value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, key: &str, depth: usize) -> Result<Value, Box<Mistake>> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let name = match event {
                Event::MappingEnd => return Ok(Value::Map(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.wrong(place(span), key, "a key must be a scalar")),
            };
            let here = join(key, &name);
            if let Some((first, _)) = entries.iter().find(|(k, _)| k.name == name) {
                let problem = format!("duplicate key; the first is on line {}", first.place.line);
                return Err(self.wrong(place(span), &here, problem));
            }
            let (event, value_span) = self.next()?;
            let mut node = self.node(event, value_span, &here, depth + 1)?;
            if node.is_null() {
                node.place = place(span);
            }
            entries.push((Key { name, place: place(span) }, node));
        }
    }

    fn wrong(&self, place: Place, key: &str, problem: impl Into<String>) -> Box<Mistake> {
        let problem = problem.into();
        let help = problem
            .contains("tab")
            .then(|| "indent with spaces; YAML does not allow tabs".to_owned());
        self.source.mistake(place, key, problem, help)
    }
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 1,
        Value::List(nodes) => 1 + nodes.iter().map(count).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, n)| count(n)).sum::<usize>(),
    }
}

fn place(span: Span) -> Place {
    let (line, column) = (span.start.line().max(1), span.start.col() + 1);
    let width = if span.end.line() == span.start.line() {
        span.end.col().saturating_sub(span.start.col()).max(1)
    } else {
        usize::MAX
    };
    Place { line, column, width }
}
