//! The mind's promises, told as stories and searched for counterexamples.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod chance;
mod world;

mod deleting;
mod registering;
mod repairing;
mod staging;
mod uploading;
mod voting;

mod generated;
