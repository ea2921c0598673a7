//! The Cairn server.

pub mod disk;
