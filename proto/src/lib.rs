//! Cairn's messages, services and stored forms, and the seams both sides of the wire share.

pub mod seam;
