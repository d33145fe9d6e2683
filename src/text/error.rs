//! Errors as text.

use std::error::Error;

/// Formats an error and its chain of sources as one message. No error of this
/// program repeats its source in its own message.
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
