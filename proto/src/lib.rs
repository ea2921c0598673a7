//! Cairn's messages, services and stored forms, and the seams both sides of the wire share.

pub mod seam;

/// Generated messages, clients and servers.
#[allow(clippy::large_enum_variant, reason = "generated; the large variant is sent once a stream")]
pub mod wire {
    tonic::include_proto!("cairn.v1");
}
