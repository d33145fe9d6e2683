//! Reports in SARIF 2.1.0, the format of code scanning services.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{CheckReport, Finding, Severity, lint_index, lints};

/// URL of the SARIF schema.
pub(crate) const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// Returns the reports as a SARIF log with one run.
pub(crate) fn log(reports: &[CheckReport]) -> Value {
    let rules: Vec<Value> = lints()
        .map(|lint| {
            json!({
                "id": lint.name,
                "name": camel(lint.name),
                "shortDescription": { "text": lint.summary },
                "fullDescription": { "text": lint.why },
                "help": { "text": format!("{}\n\nFix: {}.", lint.why, lint.fix) },
                "defaultConfiguration": { "level": level(lint.severity) },
                "properties": { "tags": [lint.group()] },
            })
        })
        .collect();
    let mut results = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for report in reports {
        let findings = report.findings.iter().map(|finding| (finding, None));
        let suppressed = report.suppressed.iter().map(|s| (&s.finding, Some(s.reason.as_str())));
        for (finding, reason) in findings.chain(suppressed) {
            // A number distinguishes several findings of a lint at one path.
            let fingerprint = fingerprint(report, finding);
            let count = seen.entry(fingerprint.clone()).or_default();
            *count += 1;
            results.push(result(report, finding, reason, &format!("{fingerprint}:{count}")));
        }
    }
    let notifications: Vec<Value> = reports
        .iter()
        .flat_map(|report| &report.not_run)
        .map(|not_run| {
            let text = format!("{} could not run: {}", not_run.lints.join(", "), not_run.reason);
            json!({ "level": "warning", "message": { "text": text } })
        })
        .collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "overcoat",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "informationUri": "https://github.com/overcoat/overcoat",
                "rules": rules,
            } },
            "invocations": [{
                "executionSuccessful": true,
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
            "columnKind": "utf16CodeUnits",
        }],
    })
}

fn result(
    report: &CheckReport,
    finding: &Finding,
    reason: Option<&str>,
    fingerprint: &str,
) -> Value {
    let location = |layer: &String| {
        let mut location = json!({
            "physicalLocation": { "artifactLocation": { "uri": uri(layer) } },
        });
        if let Some(path) = finding.shown_path() {
            let logical = json!([{ "fullyQualifiedName": path, "kind": "resource" }]);
            location["logicalLocations"] = logical;
        }
        location
    };
    let locations: Vec<Value> =
        [&finding.layer].into_iter().chain(&finding.others).map(location).collect();
    let at = finding.shown_place().map(|path| format!("{path}: ")).unwrap_or_default();
    let text = format!("{at}{}. Fix: {}.", finding.message, finding.fix);
    let mut result = json!({
        "ruleId": finding.lint.name,
        "ruleIndex": lint_index(finding.lint),
        "level": level(finding.severity),
        "message": { "text": text },
        "locations": locations,
        "partialFingerprints": { "overcoat/v1": fingerprint },
        "properties": { "image": report.name },
    });
    if let Some(line) = finding.line {
        result["properties"]["line"] = line.into();
    }
    if let Some(bytes) = finding.saves {
        result["properties"]["saves"] = bytes.into();
    }
    if let Some(reason) = reason {
        result["suppressions"] = json!([{ "kind": "external", "justification": reason }]);
    }
    result
}

fn level(severity: Severity) -> &'static str {
    severity.word()
}

/// Returns an identifier of a finding that is stable between runs. It excludes the message, which
/// may contain numbers that change.
fn fingerprint(report: &CheckReport, finding: &Finding) -> String {
    let path = finding.shown_path().unwrap_or_default();
    let text = format!("{}\n{}\n{path}", report.name, finding.lint.name);
    crate::text::digest::sha256_hex(text.as_bytes())
}

/// Returns a path as a relative or absolute URI reference (RFC 3986).
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/+,@".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Returns `works/elf-library` as `WorksElfLibrary`.
fn camel(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    name.split(['/', '-']).map(word).collect()
}
