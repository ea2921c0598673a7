//! One file per verb: its arguments, its run, its printing.

pub mod bench;
pub mod demo;
pub mod dev;
pub mod get;
pub mod key;
pub mod ls;
pub mod node;
pub mod put;
pub mod rm;
pub mod show;
pub mod status;
pub mod version;
