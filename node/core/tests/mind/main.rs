//! The mind's promises, told as stories and searched for counterexamples.

mod chance;

mod generated;

mod world;
