//! A refusal as a gRPC status: reads answer with it where commands answer with a reply.

use cairn_types::command::Refusal;
use prost::Message;
use tonic::{Code, Status};

use cairn_types::convert::{ConvertError, refusal_from_wire, refusal_to_wire};
use cairn_types::wire;

/// A status that carries the refusal whole, in its details.
pub fn refusal_status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NoSuchCheckpoint { .. }
        | Refusal::UnknownCheckpoint(_)
        | Refusal::UnknownNode(_) => Code::NotFound,
        Refusal::Malformed(_) => Code::InvalidArgument,
        _ => Code::FailedPrecondition,
    };
    let details = refusal_to_wire(refusal).encode_to_vec();
    Status::with_details(code, refusal.to_string(), details.into())
}

/// A message that is no value: the caller's fault.
pub fn invalid(error: ConvertError) -> Status {
    match error {
        ConvertError::FutureCommand { .. } => Status::unimplemented(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}

/// The refusal a status carries, if it carries one.
pub fn refusal_of(status: &Status) -> Option<Refusal> {
    if status.details().is_empty() {
        return None;
    }
    let message = wire::Refusal::decode(status.details()).ok()?;
    refusal_from_wire(message).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_as_a_status() {
        let refusal =
            Refusal::NoSuchCheckpoint { namespace: "run".into(), selector: "latest".into() };
        let status = refusal_status(&refusal);
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(refusal_of(&status), Some(refusal));
        assert_eq!(refusal_of(&Status::not_found("nothing")), None);
    }
}
