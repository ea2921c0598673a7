//! The mind's promises, told as stories and searched for counterexamples.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod chance;
mod world;

mod auditing;
mod deleting;
mod draining;
mod labelling;
mod listing;
mod marks;
mod open_ended;
mod progress;
mod registering;
mod repairing;
mod restoring;
mod retention;
mod staging;
mod subjects;
mod trash;
mod upgrading;
mod uploading;
mod usage;
mod voting;
mod watching;

mod generated;
