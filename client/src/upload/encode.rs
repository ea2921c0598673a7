//! The form in which a segment is sent.

use bytes::Bytes;
use cairn_host::seam::{Env, Lane};
use cairn_types::form::{Codecs, Encoded, Form};

/// The bytes in the form that the segment's record wants (`None`: raw) or, where this build cannot
/// make exactly that one, raw: nodes take both (decision 0016).
pub(super) async fn encode(env: &Env, form: Option<Form>, bytes: &Bytes) -> Encoded {
    let Some(form) = form else { return Encoded::raw(bytes) };
    let raw = bytes.clone();
    let work = move || Codecs::KNOWN.encode(form.codec(), &raw);
    match env.blocking(Lane::Client, work).await {
        Ok(encoded) if encoded.blocks.form() == form => encoded,
        Ok(encoded) => {
            let made = encoded.blocks.form();
            tracing::debug!(%form, %made, "another encoder made the record: sent as raw");
            Encoded::raw(bytes)
        }
        Err(error) => {
            tracing::debug!(%form, %error, "sent as raw");
            Encoded::raw(bytes)
        }
    }
}
