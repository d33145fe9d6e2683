//! Parses a YAML file into nodes with their positions.
//!
//! A file has one document. Aliases are expanded, with a limit on the number of nodes. Duplicate
//! keys and tags other than `!!str` are rejected, except in files of Ansible, whose keys `<<` add
//! the entries of other mappings.

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
pub(crate) struct YamlDocument {
    source: Arc<YamlSource>,
    /// The top node; null for an empty file.
    pub(crate) root: YamlNode,
}

/// The text of a file, to show the line of a mistake.
#[derive(Debug)]
pub(crate) struct YamlSource {
    path: PathBuf,
    text: String,
}

/// A position in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct YamlSpan {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    /// In characters, on this line.
    pub(crate) width: usize,
}

/// A value and its position.
#[derive(Debug, Clone)]
pub(crate) struct YamlNode {
    source: Arc<YamlSource>,
    /// The path of keys to this value.
    key: Arc<str>,
    pub(crate) span: YamlSpan,
    pub(crate) tag: YamlTag,
    pub(crate) value: YamlValue,
}

/// The tag of a value in a file of Ansible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum YamlTag {
    /// No tag, or one that does not change how templates in the value are treated.
    Other,
    /// `!unsafe`: texts in the value are not templates.
    Unsafe,
    /// `!vault`: the text is encrypted.
    Vault,
}

/// The value of a node.
#[derive(Debug, Clone)]
pub(crate) enum YamlValue {
    /// A scalar. If `plain`, it has no quotes and may be a number, truth value or null.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<YamlNode>),
    /// A mapping in the order of the file.
    Map(Vec<(YamlKey, YamlNode)>),
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct YamlKey {
    pub(crate) name: String,
    pub(crate) span: YamlSpan,
}

impl YamlDocument {
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
        Self::parse_with(path, text, false)
    }

    /// Parses the text of a file as Ansible does: values may have tags such as `!vault`, and the
    /// last of several equal keys counts.
    pub(crate) fn parse_ansible(path: &Path, text: String) -> Result<Self, ConfigError> {
        Self::parse_with(path, text, true)
    }

    fn parse_with(path: &Path, text: String, ansible: bool) -> Result<Self, ConfigError> {
        let source = Arc::new(YamlSource { path: path.to_owned(), text });
        let mut builder = YamlBuilder {
            source: Arc::clone(&source),
            parser: Parser::new_from_str(&source.text),
            anchors: HashMap::new(),
            nodes: 0,
            ansible,
        };
        let root = builder.document()?;
        Ok(Self { source: Arc::clone(&source), root })
    }

    /// Returns the directory of the file. Paths in the file are relative to it.
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

impl YamlSource {
    fn mistake(
        &self,
        span: YamlSpan,
        key: &str,
        problem: String,
        help: Option<String>,
    ) -> Box<Mistake> {
        Box::new(Mistake {
            file: self.path.clone(),
            line: span.line,
            column: span.column,
            key: key.to_owned(),
            problem,
            help,
            source_line: self.text.lines().nth(span.line - 1).unwrap_or("").to_owned(),
            width: span.width,
        })
    }
}

impl YamlNode {
    /// Returns a mistake in this value.
    pub(crate) fn mistake(&self, problem: impl Into<String>) -> Box<Mistake> {
        self.source.mistake(self.span, &self.key, problem.into(), None)
    }

    /// Returns a mistake in this value, and how to fix it.
    pub(crate) fn mistake_with_help(
        &self,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) -> Box<Mistake> {
        self.source.mistake(self.span, &self.key, problem.into(), Some(help.into()))
    }

    /// Returns whether the value is written as a list.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.value, YamlValue::List(_))
    }

    /// Returns a mistake in a key of this mapping.
    pub(crate) fn key_mistake(
        &self,
        key: &YamlKey,
        problem: impl Into<String>,
        help: Option<String>,
    ) -> Box<Mistake> {
        self.source.mistake(key.span, &join(&self.key, &key.name), problem.into(), help)
    }

    /// Returns whether this is null: an empty scalar, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, YamlValue::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Returns the kind of this value for messages.
    pub(crate) fn kind_name(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            YamlValue::Scalar { text, plain: true } if parse_bool(text).is_some() => {
                "true or false"
            }
            YamlValue::Scalar { text, plain: true } if text.parse::<f64>().is_ok() => "a number",
            YamlValue::Scalar { .. } => "text",
            YamlValue::List(_) => "a list",
            YamlValue::Map(_) => "a mapping",
        }
    }

    /// Returns the value of a key of this mapping, and the mapping without the key.
    pub(crate) fn without(&self, name: &str) -> (Option<YamlNode>, YamlNode) {
        let mut rest = self.clone();
        let mut taken = None;
        if let YamlValue::Map(entries) = &mut rest.value
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
            YamlValue::Scalar { text, .. } if !self.is_null() && !text.is_empty() => Ok(text),
            _ => Err(self.mistake(format!("expected {wanted}, found {}", self.kind_name()))),
        }
    }

    /// Returns a truth value.
    pub(crate) fn bool(&self) -> Result<bool, Box<Mistake>> {
        let YamlValue::Scalar { text, plain } = &self.value else {
            return Err(self.mistake(format!("expected true or false, found {}", self.kind_name())));
        };
        match (parse_bool(text), text.to_lowercase().as_str()) {
            (Some(value), _) if *plain => Ok(value),
            (_, "yes" | "on") => {
                Err(self.mistake_with_help("expected true or false", "write `true`"))
            }
            (_, "no" | "off") => {
                Err(self.mistake_with_help("expected true or false", "write `false`"))
            }
            _ => Err(self.mistake(format!("expected true or false, found {}", self.kind_name()))),
        }
    }

    /// Returns another value with the position of this one.
    pub(crate) fn with_value(&self, value: YamlValue) -> Self {
        Self { value, ..self.clone() }
    }

    /// Returns the value of a key, if this is a mapping with that key.
    pub(crate) fn get(&self, name: &str) -> Option<&YamlNode> {
        let YamlValue::Map(entries) = &self.value else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// Returns the nodes of a list. A scalar is treated as a list with one element.
    pub(crate) fn list(&self) -> Result<&[YamlNode], Box<Mistake>> {
        match &self.value {
            YamlValue::List(nodes) => Ok(nodes),
            YamlValue::Scalar { .. } if !self.is_null() => Ok(std::slice::from_ref(self)),
            _ => Err(self.mistake(format!("expected a list, found {}", self.kind_name()))),
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
struct YamlBuilder<'a> {
    source: Arc<YamlSource>,
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, YamlNode>,
    nodes: usize,
    /// Whether tags and equal keys are accepted.
    ansible: bool,
}

impl<'a> YamlBuilder<'a> {
    fn document(&mut self) -> Result<YamlNode, Box<Mistake>> {
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
                    return Err(self.mistake(
                        yaml_span(span),
                        "",
                        "the file has a second document; only one is allowed",
                    ));
                }
                event => root = Some(self.node(event, span, "", 0)?),
            }
        }
        Ok(root.unwrap_or_else(|| YamlNode {
            source: Arc::clone(&self.source),
            key: "".into(),
            span: YamlSpan { line: 1, column: 1, width: 1 },
            tag: YamlTag::Other,
            value: YamlValue::Scalar { text: String::new(), plain: true },
        }))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Box<Mistake>> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            None => Ok((Event::StreamEnd, Span::empty(Marker::new(0, 1, 0)))),
            Some(Err(e)) => Err(self.mistake(yaml_span(Span::empty(*e.marker())), "", e.info())),
        }
    }

    fn node(
        &mut self,
        event: Event<'a>,
        span: Span,
        key: &str,
        depth: usize,
    ) -> Result<YamlNode, Box<Mistake>> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.mistake(yaml_span(span), key, "too many values in one file"));
        }
        if depth > MAX_DEPTH {
            return Err(self.mistake(yaml_span(span), key, "nested too deeply"));
        }
        let tag = tag_of(&event);
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(self.mistake(
                        yaml_span(span),
                        key,
                        "the alias is inside its own anchor",
                    ));
                };
                self.nodes += count(&node);
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let mut plain = style == ScalarStyle::Plain;
                if let Some(tag) = tag {
                    if !(self.ansible || tag.is_yaml_core_schema() && tag.suffix == "str") {
                        return Err(self.mistake(
                            yaml_span(span),
                            key,
                            format!("unknown tag {tag}"),
                        ));
                    }
                    plain = false;
                }
                (YamlValue::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(_, Some(tag)) | Event::MappingStart(_, Some(tag))
                if !self.ansible =>
            {
                return Err(self.mistake(yaml_span(span), key, format!("unknown tag {tag}")));
            }
            Event::SequenceStart(anchor, _) => {
                let mut nodes = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break (YamlValue::List(nodes), anchor),
                        (event, span) => {
                            let key = format!("{key}[{}]", nodes.len());
                            nodes.push(self.node(event, span, &key, depth + 1)?);
                        }
                    }
                }
            }
            Event::MappingStart(anchor, _) => (self.mapping(key, depth)?, anchor),
            _ => return Err(self.mistake(yaml_span(span), key, "unexpected end of the file")),
        };
        let mut node = YamlNode {
            source: Arc::clone(&self.source),
            key: key.into(),
            span: yaml_span(span),
            tag,
            value,
        };
        if tag == YamlTag::Unsafe {
            mark_unsafe(&mut node);
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, key: &str, depth: usize) -> Result<YamlValue, Box<Mistake>> {
        let mut entries: Vec<(YamlKey, YamlNode)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let name = match event {
                Event::MappingEnd if self.ansible => return Ok(YamlValue::Map(merged(entries))),
                Event::MappingEnd => return Ok(YamlValue::Map(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.mistake(yaml_span(span), key, "a key must be a scalar")),
            };
            let here = join(key, &name);
            let earlier = entries.iter().position(|(k, _)| k.name == name);
            if let Some(first) = earlier.filter(|_| !self.ansible) {
                let line = entries[first].0.span.line;
                let problem = format!("duplicate key; the first is on line {line}");
                return Err(self.mistake(yaml_span(span), &here, problem));
            }
            let (event, value_span) = self.next()?;
            let mut node = self.node(event, value_span, &here, depth + 1)?;
            if node.is_null() {
                node.span = yaml_span(span);
            }
            if let Some(first) = earlier {
                entries.remove(first);
            }
            entries.push((YamlKey { name, span: yaml_span(span) }, node));
        }
    }

    fn mistake(&self, span: YamlSpan, key: &str, problem: impl Into<String>) -> Box<Mistake> {
        let problem = problem.into();
        let help = problem
            .contains("tab")
            .then(|| "indent with spaces; YAML does not allow tabs".to_owned());
        self.source.mistake(span, key, problem, help)
    }
}

/// Adds the entries of the mappings in the key `<<` that a mapping lacks, as YAML 1.1 does.
fn merged(mut entries: Vec<(YamlKey, YamlNode)>) -> Vec<(YamlKey, YamlNode)> {
    let is_mapping = |node: &YamlNode| matches!(node.value, YamlValue::Map(_));
    let Some(at) = entries.iter().position(|(key, node)| {
        key.name == "<<"
            && match &node.value {
                YamlValue::List(nodes) => nodes.iter().all(is_mapping),
                _ => is_mapping(node),
            }
    }) else {
        return entries;
    };
    let (_, node) = entries.remove(at);
    let nodes = match node.value {
        YamlValue::List(nodes) => nodes,
        _ => vec![node],
    };
    for node in nodes {
        let YamlValue::Map(more) = node.value else { continue };
        for (key, node) in more {
            if entries.iter().all(|(other, _)| other.name != key.name) {
                entries.push((key, node));
            }
        }
    }
    entries
}

fn tag_of(event: &Event<'_>) -> YamlTag {
    let (Event::Scalar(_, _, _, Some(tag))
    | Event::SequenceStart(_, Some(tag))
    | Event::MappingStart(_, Some(tag))) = event
    else {
        return YamlTag::Other;
    };
    match (tag.handle.as_str(), tag.suffix.as_str()) {
        ("!", "unsafe") => YamlTag::Unsafe,
        ("!", "vault" | "vault-encrypted") => YamlTag::Vault,
        _ => YamlTag::Other,
    }
}

fn mark_unsafe(node: &mut YamlNode) {
    node.tag = YamlTag::Unsafe;
    match &mut node.value {
        YamlValue::Scalar { .. } => {}
        YamlValue::List(nodes) => nodes.iter_mut().for_each(mark_unsafe),
        YamlValue::Map(entries) => entries.iter_mut().for_each(|(_, node)| mark_unsafe(node)),
    }
}

fn count(node: &YamlNode) -> usize {
    match &node.value {
        YamlValue::Scalar { .. } => 1,
        YamlValue::List(nodes) => 1 + nodes.iter().map(count).sum::<usize>(),
        YamlValue::Map(entries) => 1 + entries.iter().map(|(_, n)| count(n)).sum::<usize>(),
    }
}

fn yaml_span(span: Span) -> YamlSpan {
    let (line, column) = (span.start.line().max(1), span.start.col() + 1);
    let width = if span.end.line() == span.start.line() {
        span.end.col().saturating_sub(span.start.col()).max(1)
    } else {
        usize::MAX
    };
    YamlSpan { line, column, width }
}
