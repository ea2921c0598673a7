//! Tests of the parts together: storage alone, then whole groups.

mod group;
mod hostile;
mod snapshots;
mod storage;
