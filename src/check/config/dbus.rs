//! Policies of the system bus: dbus-daemon(1).

use roxmltree::{Document, ParsingOptions};

use super::files::files_in;
use super::inspector::{Inspector, shown};
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::StackView;

pub(super) static DBUS_POLICY: Lint = Lint {
    name: "config/dbus-policy",
    severity: Severity::Error,
    summary: "a policy of D-Bus that the bus ignores",
    why: "The bus ignores a file that is not well-formed XML, and a policy for a user or group \
          that does not exist. A service then cannot get its name on the bus, or its clients \
          cannot call it (\"Access denied\").",
    fix: "correct the file, or create the account",
};

/// Maximum size of a file: the reader compares all attributes of an element with each other.
const MAX_SIZE: u64 = 64 << 10;

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let mut inspector = Inspector::new(view, faults);
    let accounts = inspector.accounts()?;
    for dir in ["etc/dbus-1/system.d", "usr/share/dbus-1/system.d"] {
        for (name, node) in files_in(view, dir)? {
            if !name.ends_with(".conf") || node.attr.size > MAX_SIZE {
                continue;
            }
            let file = inspector.open(node)?;
            // Entities can expand to any size. D-Bus uses none.
            if file.text.contains("<!ENTITY") {
                continue;
            }
            let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
            let document = match Document::parse_with_options(&file.text, options) {
                Ok(document) => document,
                Err(error) => {
                    let line = usize::try_from(error.pos().row).unwrap_or_default();
                    let message = format!("it is not well-formed XML: {error}");
                    inspector.add(Fault::new(&DBUS_POLICY, &file.node, message).line(line));
                    continue;
                }
            };
            for node in document.descendants() {
                let is_rule = ["policy", "allow", "deny"].contains(&node.tag_name().name());
                for (key, database) in [("user", "etc/passwd"), ("group", "etc/group")] {
                    let Some(name) = node.attribute(key).filter(|name| is_rule && *name != "*")
                    else {
                        continue;
                    };
                    let lacks = match key {
                        "user" => accounts.lacks_user(name),
                        _ => accounts.lacks_group(name),
                    };
                    // The position costs a pass through the text.
                    if lacks && !inspector.is_full() {
                        let position = document.text_pos_at(node.range().start);
                        let line = usize::try_from(position.row).unwrap_or_default();
                        let message = format!("unknown {key} {}", shown(name));
                        let fault = Fault::new(&DBUS_POLICY, &file.node, message).line(line);
                        let fault = fault.severity(Severity::Warning);
                        inspector.add(fault.cause(database.as_bytes()));
                    }
                }
            }
        }
    }
    Ok(())
}
