//! Cairn's messages, services and stored forms, and the seams both sides of the wire share.

pub mod seam;

/// Generated messages, clients and servers.
pub mod wire {
    tonic::include_proto!("cairn.v1");
}
