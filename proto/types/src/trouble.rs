//! What keeps a node from its work, in words.

use std::time::Duration;

use crate::wire::NodeTrouble;

impl NodeTrouble {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// One sentence: what does not answer, and for how long. Empty where nothing is wrong.
    pub fn text(&self) -> String {
        let rows = [
            (self.log_late_ms, "a write to the log has not ended for"),
            (self.segments_late_ms, "an operation on a segment file has not ended for"),
            (self.accept_late_ms, "no connection could be accepted for"),
        ];
        let said = rows.iter().filter(|(ms, _)| *ms > 0).map(|(ms, what)| {
            let age = Duration::from_secs(Duration::from_millis(*ms).as_secs());
            format!("{what} {age:?}")
        });
        said.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_says_what_does_not_answer_and_for_how_long() {
        let none = NodeTrouble::default();
        assert!(none.is_none() && none.text().is_empty());
        let trouble = NodeTrouble { log_late_ms: 12_345, accept_late_ms: 7_000, ..none };
        assert_eq!(
            trouble.text(),
            "a write to the log has not ended for 12s; no connection could be accepted for 7s"
        );
    }
}
