//! The mind's promises, told as stories and searched for counterexamples.

mod chance;
mod world;

mod deleting;
mod registering;
mod repairing;
mod staging;
mod uploading;
mod voting;

mod generated;
