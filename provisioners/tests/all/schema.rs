//! The JSON schemas in `docs/` agree with the parser.
//!
//! - Schema and parser have the same keys for each mapping. The keys of the parser are taken from
//!   its message about an unknown key.
//! - The parser accepts all examples in a schema.
//! - Values of other types that the parser accepts are valid in the schema.
//! - The examples and the library are valid in the schemas.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{chain, write_files};
use provisioners::{Image, Project, Provisioner};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value, json};

/// A key that is not similar to any other.
const UNKNOWN: &str = "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq";

fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The kind of a file.
#[derive(Clone, Copy, PartialEq)]
enum File {
    Project,
    Image,
    Provisioner,
}

impl File {
    fn schema(self) -> Value {
        schema(match self {
            File::Project | File::Image => "overcoat.schema.json",
            File::Provisioner => "provisioner.schema.json",
        })
    }

    /// Reads a file with this content, which is written as JSON, a subset of YAML.
    fn read(self, folder: &Path, content: &Value) -> Result<(), String> {
        let file = |name: &str| {
            let path = folder.join(name);
            fs::write(&path, content.to_string()).unwrap();
            path
        };
        match self {
            File::Project => Project::load(&file("overcoat.yml")).map(drop),
            File::Image => Image::load(&file("image.yml")).map(drop),
            File::Provisioner => {
                file("provisioner.yml");
                Provisioner::load(folder).map(drop)
            }
        }
        .map_err(|error| chain(&error))
    }
}

/// A mapping in a file, and its definition in a schema.
struct Mapping {
    /// The JSON pointer of its definition.
    at: &'static str,
    file: File,
    /// The required keys.
    least: Value,
    /// Returns the content of a file with the mapping.
    around: fn(Value) -> Value,
}

fn mappings() -> Vec<Mapping> {
    use File::*;
    let mapping = |at, file, least, around| Mapping { at, file, least, around };
    vec![
        mapping("/$defs/project", Project, json!({"images": {"a": {"base": "./b"}}}), |it| it),
        mapping(
            "/$defs/overlay",
            Project,
            json!({"base": "./b"}),
            |it| json!({"images": {"a": it}}),
        ),
        mapping("/$defs/overlay", Image, json!({"base": "./b"}), |it| it),
        mapping(
            "/$defs/base",
            Project,
            json!({"kind": "base"}),
            |it| json!({"release": "x", "images": {"a": it}}),
        ),
        mapping("/$defs/base", Image, json!({"kind": "base", "release": "x"}), |it| it),
        mapping(
            "/$defs/initrd",
            Project,
            json!({"kind": "initrd", "base": "./b"}),
            |it| json!({"images": {"a": it}}),
        ),
        mapping(
            "/$defs/initrd",
            Image,
            json!({"kind": "initrd", "base": "./b", "output": "x"}),
            |it| it,
        ),
        mapping("/$defs/cleanup", Image, json!({}), |it| json!({"base": "./b", "cleanup": it})),
        mapping("/$defs/check", Image, json!({}), |it| json!({"base": "./b", "check": it})),
        mapping(
            "/$defs/skip",
            Image,
            json!({"lint": "safe/setuid", "reason": "because"}),
            |it| json!({"base": "./b", "check": {"skip": [it]}}),
        ),
        mapping(
            "/$defs/budget",
            Image,
            json!({}),
            |it| json!({"base": "./b", "check": {"budget": it}}),
        ),
        mapping(
            "/$defs/package",
            Image,
            json!({"name": "lshw"}),
            |it| json!({"kind": "base", "release": "x", "packages": [it]}),
        ),
        mapping("", Provisioner, json!({}), |it| it),
        mapping("/$defs/step", Provisioner, json!({}), |it| json!({"steps": [it]})),
        mapping(
            "/$defs/package",
            Provisioner,
            json!({"name": "ab"}),
            |it| json!({"packages": [it]}),
        ),
        mapping("/$defs/removal", Provisioner, json!({"name": "ab"}), |it| json!({"purge": [it]})),
        mapping("/$defs/group", Provisioner, json!({"name": "ab"}), |it| json!({"groups": [it]})),
        mapping("/$defs/user", Provisioner, json!({"name": "ab"}), |it| json!({"users": [it]})),
        mapping(
            "/$defs/attribute",
            Provisioner,
            json!({}),
            |it| json!({"attributes": {"/etc/x": it}}),
        ),
        mapping(
            "/$defs/script",
            Provisioner,
            json!({"path": "scripts/10-enable.sh"}),
            |it| json!({"scripts": [it]}),
        ),
        mapping("/$defs/services", Provisioner, json!({}), |it| json!({"services": it})),
        mapping("/$defs/cleanup", Provisioner, json!({}), |it| json!({"cleanup": it})),
    ]
}

/// Creates a folder with the files that the examples in the schemas name.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let provisioner = "variables: {lldp_interval: 30, servers: []}\n";
    let files = [
        ("provisioners/site/provisioner.yml", provisioner),
        ("vars/site.yml", "provisioner: provisioners/site\nlldp_interval: 5\n"),
        ("files/etc/x", ""),
        ("scripts/10-enable.sh", ""),
        ("debs/local.deb", ""),
        ("rootfs.tar.zst", ""),
    ];
    write_files(dir.path(), &files);
    dir
}

/// Returns `mapping` with another entry.
fn with(mapping: &Value, key: &str, value: Value) -> Value {
    let mut mapping = mapping.clone();
    mapping.as_object_mut().unwrap().insert(key.to_owned(), value);
    mapping
}

#[test]
fn schema_and_parser_have_the_same_keys() {
    let dir = folder();
    for mapping in mappings() {
        let file = (mapping.around)(with(&mapping.least, UNKNOWN, json!(1)));
        let message = mapping.file.read(dir.path(), &file).expect_err("an unknown key");
        let (_, keys) = message
            .split_once("help: valid keys are ")
            .unwrap_or_else(|| panic!("{}: {message}", mapping.at));
        let of_parser: BTreeSet<&str> = keys.trim().split(", ").collect();
        let schema = mapping.file.schema();
        let properties = schema.pointer(mapping.at).unwrap()["properties"].as_object().unwrap();
        let of_schema: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(of_parser, of_schema, "{}", mapping.at);
    }
}

#[test]
fn all_mappings_of_the_schemas_are_tested() {
    for name in ["overcoat.schema.json", "provisioner.schema.json"] {
        let schema = schema(name);
        let mut closed = BTreeSet::new();
        let of_root = Map::from_iter([(String::new(), schema.clone())]);
        let definitions = schema["$defs"].as_object().unwrap();
        for (key, value) in of_root.iter().chain(definitions) {
            if value.get("additionalProperties") == Some(&json!(false)) {
                closed.insert(if key.is_empty() { String::new() } else { format!("/$defs/{key}") });
            }
        }
        let seen: BTreeSet<String> = mappings()
            .iter()
            .filter(|mapping| (mapping.file == File::Provisioner) == name.starts_with("prov"))
            .map(|mapping| mapping.at.to_owned())
            .collect();
        assert_eq!(seen, closed, "{name}");
    }
}

#[test]
fn parser_accepts_examples_of_the_schemas() {
    let dir = folder();
    let mut tried = 0;
    for mapping in mappings() {
        let schema = mapping.file.schema();
        let definition = schema.pointer(mapping.at).unwrap();
        for (key, property) in definition["properties"].as_object().unwrap() {
            if property == false {
                continue;
            }
            let property = resolved(&schema, property);
            let examples = property["examples"].as_array();
            let examples = examples.unwrap_or_else(|| panic!("{}: {key}: no examples", mapping.at));
            for example in examples {
                let content = with(&least(&mapping, key), key, example.clone());
                let file = (mapping.around)(content);
                let read = mapping.file.read(dir.path(), &file);
                assert_eq!(read, Ok(()), "{}: {key}: {example}", mapping.at);
                let mut wrong = Vec::new();
                check(&schema, &schema, &file, "", &mut wrong);
                assert_eq!(wrong, [] as [String; 0], "{file}");
                tried += 1;
            }
        }
    }
    assert!(tried > 150, "{tried}");
}

/// Returns the entries that a mapping needs so that `key` is valid.
fn least(mapping: &Mapping, key: &str) -> Value {
    let mut least = mapping.least.clone();
    match (mapping.at, key) {
        ("/$defs/project", "variables") => {
            let image = json!({"base": "./b", "provisioner": "provisioners/site"});
            least = json!({"images": {"a": image}});
        }
        ("" | "/$defs/step", "recommends" | "loop" | "when") => least = json!({"packages": ["ab"]}),
        ("/$defs/base", "from") => {
            least.as_object_mut().unwrap().remove("release");
        }
        ("/$defs/overlay" | "/$defs/base" | "/$defs/initrd", "variables") => {
            least = with(&least, "provisioner", json!("provisioners/site"));
        }
        _ => {}
    }
    least
}

#[test]
fn values_accepted_by_the_parser_are_valid_in_the_schemas() {
    let dir = folder();
    // Values of types that few keys accept.
    let probes = [
        json!({"q": 1}),
        json!([["q"]]),
        json!([{"q": 1}]),
        json!(["ab"]),
        json!(true),
        json!("{{ q }}"),
    ];
    let mut taken = 0;
    for mapping in mappings() {
        let schema = mapping.file.schema();
        let properties = &schema.pointer(mapping.at).unwrap()["properties"];
        for key in properties.as_object().unwrap().keys() {
            let kind = &resolved(&schema, &properties[key])["type"];
            let text = *kind == json!("string") || *kind == json!(["string", "number"]);
            let switch = resolved(&schema, &properties[key]).to_string().contains("boolean");
            for probe in &probes {
                // A key for text accepts any scalar.
                let scalar = !probe.is_object() && !probe.is_array();
                // The value of a loop is checked when the plan is made.
                let later = key == "loop" && !probe.is_array();
                if later || scalar && (text || probe.is_boolean() && !switch) {
                    continue;
                }
                let file = (mapping.around)(with(&least(&mapping, key), key, probe.clone()));
                if mapping.file.read(dir.path(), &file).is_err() {
                    continue;
                }
                let mut wrong = Vec::new();
                check(&schema, &schema, &file, "", &mut wrong);
                assert_eq!(wrong, [] as [String; 0], "{}: {key}: {file}", mapping.at);
                taken += 1;
            }
        }
    }
    assert!(taken > 100, "{taken}");
}

#[test]
fn examples_and_library_are_valid_in_the_schemas() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    yaml_files(&here.join("../examples"), &mut files);
    yaml_files(&here.join("library"), &mut files);
    let (mut provisioners, mut others) = (0, 0);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap();
        let content = yaml(&text);
        let schema = if name == "provisioner.yml" {
            provisioners += 1;
            schema("provisioner.schema.json")
        } else if content.get("images").is_some() || content.get("output").is_some() {
            others += 1;
            schema("overcoat.schema.json")
        } else {
            continue;
        };
        let mut wrong = Vec::new();
        check(&schema, &schema, &content, "", &mut wrong);
        assert_eq!(wrong, [] as [String; 0], "{}", file.display());
    }
    assert!(provisioners >= 5 && others >= 2, "{provisioners} {others}");
}

/// Editors report these mistakes by the schema.
#[test]
fn mistakes_are_invalid_in_the_schemas() {
    let overcoat = schema("overcoat.schema.json");
    let provisioner = schema("provisioner.schema.json");
    for (schema, text, wanted) in [
        (&overcoat, "bse: x", "base"),
        (&overcoat, "images: {}", "images"),
        (&overcoat, "images: {a: {kind: overlay, release: x, base: ./b}}", "release"),
        (&overcoat, "images: {a: {kind: bas, base: ./b}}", "kind"),
        (&overcoat, "kind: base\nfrom: x.tar\nrelease: bookworm", "release"),
        (&overcoat, "base: x\nformat: zip", "format"),
        (&overcoat, "base: x\ncleanup: {docs: yes}", "docs"),
        (&overcoat, "base: x\nvariables: {a-b: 1}", "a-b"),
        (&overcoat, "kind: initrd\nbase: x\nformat: cpio", "format"),
        (&provisioner, "steps: [{scripts: x}]", "scripts"),
        (&provisioner, "users: [{uid: 5}]", "users"),
        (&provisioner, "recommends: yes", "recommends"),
    ] {
        let mut wrong = Vec::new();
        check(schema, schema, &yaml(text), "", &mut wrong);
        assert!(wrong.iter().any(|w| w.contains(wanted)), "{text}: {wrong:?}");
    }
}

fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() && !path.ends_with("files") {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yml") {
            found.push(path);
        }
    }
}

/// Resolves a `$ref`.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).expect(reference),
        None => schema,
    }
}

/// Validates `value` and adds the problems to `wrong`. Implements the keywords that the schemas
/// use.
fn check(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let keywords = match schema {
        Value::Bool(true) => return,
        Value::Bool(false) => return wrong.push(format!("{at}: not allowed")),
        schema => schema.as_object().unwrap(),
    };
    let fits = |schema: &Value| {
        let mut wrong = Vec::new();
        check(root, schema, value, at, &mut wrong);
        wrong.is_empty()
    };
    let entries = value.as_object();
    for (keyword, argument) in keywords {
        let ok = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "examples" | "default"
            | "then" | "else" => true,
            "$ref" => {
                check(root, resolved(root, schema), value, at, wrong);
                true
            }
            "type" => match argument {
                Value::Array(types) => types.iter().any(|kind| is(value, kind.as_str().unwrap())),
                kind => is(value, kind.as_str().unwrap()),
            },
            "enum" => argument.as_array().unwrap().contains(value),
            "const" => argument == value,
            "anyOf" => argument.as_array().unwrap().iter().any(&fits),
            "if" => {
                let branch = if fits(argument) { "then" } else { "else" };
                if let Some(branch) = keywords.get(branch) {
                    check(root, branch, value, at, wrong);
                }
                true
            }
            "dependentSchemas" => {
                for (key, schema) in argument.as_object().unwrap() {
                    if value.get(key).is_some() {
                        check(root, schema, value, at, wrong);
                    }
                }
                true
            }
            "required" => {
                for key in argument.as_array().unwrap().iter().map(|key| key.as_str().unwrap()) {
                    if entries.is_some_and(|entries| !entries.contains_key(key)) {
                        wrong.push(format!("{at}: {key} is missing"));
                    }
                }
                true
            }
            "properties" => {
                for (key, value) in entries.into_iter().flatten() {
                    if let Some(schema) = argument.get(key) {
                        check(root, schema, value, &format!("{at}/{key}"), wrong);
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = keywords.get("properties").and_then(Value::as_object);
                for (key, value) in entries.into_iter().flatten() {
                    if known.is_none_or(|known| !known.contains_key(key)) {
                        check(root, argument, value, &format!("{at}/{key}"), wrong);
                    }
                }
                true
            }
            "propertyNames" => {
                for key in entries.into_iter().flatten().map(|(key, _)| key) {
                    check(root, argument, &json!(key), &format!("{at}/{key}"), wrong);
                }
                true
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, argument, value, &format!("{at}/{index}"), wrong);
                }
                true
            }
            "minProperties" => entries.is_none_or(|e| e.len() as u64 >= argument.as_u64().unwrap()),
            "minimum" => value.as_i64().is_none_or(|n| n >= argument.as_i64().unwrap()),
            "uniqueItems" => value.as_array().is_none_or(|items| {
                items.iter().enumerate().all(|(index, item)| !items[..index].contains(item))
            }),
            "pattern" => {
                value.as_str().is_none_or(|text| matches(argument.as_str().unwrap(), text))
            }
            other => panic!("unknown keyword {other}"),
        };
        if !ok {
            wrong.push(format!("{at}: {keyword}: {value}"));
        }
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        other => panic!("unknown type {other}"),
    }
}

/// Matches the patterns that the schemas use.
fn matches(pattern: &str, text: &str) -> bool {
    let all = |first: fn(char) -> bool, rest: fn(char) -> bool| {
        text.starts_with(first) && text.chars().all(rest)
    };
    match pattern {
        "^[A-Za-z_][A-Za-z0-9_]*$" => {
            all(|c| c.is_ascii_alphabetic() || c == '_', |c| c.is_ascii_alphanumeric() || c == '_')
        }
        "^[A-Za-z0-9_+][A-Za-z0-9._+-]*$" => all(
            |c| c.is_ascii_alphanumeric() || "_+".contains(c),
            |c| c.is_ascii_alphanumeric() || "._+-".contains(c),
        ),
        "^/" => text.starts_with('/'),
        "\\{[{%#]" => ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark)),
        other => panic!("unknown pattern {other}"),
    }
}

/// Converts YAML 1.2 to JSON.
fn yaml(text: &str) -> Value {
    let mut parser = Parser::new_from_str(text);
    let mut open: Vec<(Value, Option<String>)> = Vec::new();
    loop {
        let (event, _) = parser.next_event().expect("a document").expect("YAML");
        let value = match event {
            Event::Scalar(text, style, ..) => {
                if let Some((Value::Object(_), key @ None)) = open.last_mut() {
                    *key = Some(text.into_owned());
                    continue;
                }
                let plain = style == ScalarStyle::Plain;
                let json = plain.then(|| serde_json::from_str(&text).ok()).flatten();
                json.unwrap_or_else(|| json!(text.into_owned()))
            }
            Event::SequenceStart(..) => {
                open.push((json!([]), None));
                continue;
            }
            Event::MappingStart(..) => {
                open.push((json!({}), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().unwrap().0,
            Event::StreamEnd => return json!({}),
            _ => continue,
        };
        match open.last_mut() {
            None => return value,
            Some((Value::Array(items), _)) => items.push(value),
            Some((Value::Object(entries), key)) => {
                entries.insert(key.take().unwrap(), value);
            }
            Some(_) => unreachable!("only lists and mappings are open"),
        }
    }
}
