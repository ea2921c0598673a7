//! The SDK's errors as exceptions of `cairn.errors`.

use cairn_client::source::SourceError;
use cairn_client::{ClientError, ErrorKind, Refusal};
use pyo3::prelude::*;

/// The exception for an error. `cairn.errors` chooses the class by the word.
pub(crate) fn exception(py: Python<'_>, error: &ClientError) -> PyErr {
    let text = error.to_string();
    make(py, word(error), &text, error.hint().as_deref())
}

/// The exception for an argument that cannot be, such as a malformed address.
pub(crate) fn invalid(py: Python<'_>, error: &dyn std::fmt::Display) -> PyErr {
    make(py, "invalid", &error.to_string(), None)
}

fn make(py: Python<'_>, word: &str, text: &str, hint: Option<&str>) -> PyErr {
    let made = py
        .import("cairn.errors")
        .and_then(|module| module.call_method1("of_word", (word, text, hint)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// What a caller can do about it. The same words are in `cairn.errors`.
fn word(error: &ClientError) -> &'static str {
    match error {
        ClientError::Timeout { .. } => return "deadline",
        ClientError::UploadOver { .. } => return "fenced",
        ClientError::Source(SourceError::NotFound { .. }) => return "not-found",
        ClientError::Refused(Refusal::StepExists { .. }) => return "step-exists",
        ClientError::Refused(
            Refusal::Fenced { .. }
            | Refusal::RolledBack { .. }
            | Refusal::OtherJob { .. }
            | Refusal::OtherRun { .. },
        ) => return "fenced",
        ClientError::Refused(Refusal::NotAllowed { .. } | Refusal::BadToken(_)) => return "denied",
        ClientError::Refused(Refusal::Quarantined { .. }) => return "quarantined",
        _ => {}
    }
    match error.kind() {
        ErrorKind::Retry => "busy",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::NotFound => "not-found",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Denied => "denied",
        ErrorKind::Damaged => "damaged",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Local => "local",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Protocol => "protocol",
        _ => "other",
    }
}
