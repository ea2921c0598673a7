//! Tests of the parts together: storage alone, then whole groups.

mod group;
mod snapshots;
mod storage;
