//! Shell sessions as a document shows them: indented blocks, commands, and what they print.
//!
//! ```text
//!     $ cairn ls                      a command; a comment after it belongs to it
//!     CHECKPOINT  STATE      FILES    what it prints, up to the next command
//! ```
//!
//! Some of what a command prints differs from run to run. [`differs`] says which: everything else
//! has to be as it is written.

/// One indented block of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The heading above it, without its hashes.
    pub section: String,
    /// Without the indentation.
    pub lines: Vec<String>,
}

/// A command, and the lines that are shown below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    pub shown: Vec<String>,
}

const INDENT: &str = "    ";
const PROMPT: &str = "$ ";

/// The indented blocks of a Markdown text, in order. An indented line right below a paragraph
/// continues that paragraph, and is no block.
pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut section, mut is_open, mut after_blank) = (String::new(), false, true);
    for line in markdown.lines() {
        match line.strip_prefix(INDENT) {
            Some(text) if is_open => {
                let last = blocks.last_mut().expect("a block is open");
                // The blank lines within a block are part of it.
                last.lines.extend((0..usize::from(after_blank)).map(|_| String::new()));
                last.lines.push(text.to_owned());
            }
            Some(text) if after_blank => {
                blocks.push(Block { section: section.clone(), lines: vec![text.to_owned()] });
                is_open = true;
            }
            _ if line.trim().is_empty() => {}
            _ => {
                is_open = false;
                if line.starts_with('#') {
                    section = line.trim_start_matches('#').trim().to_owned();
                }
            }
        }
        after_blank = line.trim().is_empty();
    }
    blocks
}

impl Block {
    pub fn is_session(&self) -> bool {
        self.lines.iter().any(|line| line.starts_with(PROMPT))
    }

    /// The commands of a session, each with what is shown below it.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for line in &self.lines {
            match (line.strip_prefix(PROMPT), steps.last_mut()) {
                (Some(command), _) => {
                    steps.push(Step { command: command.to_owned(), shown: Vec::new() });
                }
                (None, Some(step)) => step.shown.push(line.clone()),
                (None, None) => panic!("{line:?} is shown before the first command"),
            }
        }
        steps
    }

    /// The commands of a block without prompts: comments left out, continued lines put together.
    pub fn commands(&self) -> Vec<String> {
        let mut commands: Vec<String> = Vec::new();
        let mut is_continued = false;
        for line in &self.lines {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let text = line.strip_suffix('\\').unwrap_or(line);
            match commands.last_mut() {
                Some(last) if is_continued => last.push_str(text),
                _ => commands.push(text.to_owned()),
            }
            is_continued = line.ends_with('\\');
        }
        commands
    }
}

/// Where a run printed something else than is shown: `None` if it did not. Blank lines and the
/// width of columns do not count. A shown line that ends in `...` goes on in any way.
pub fn differs(shown: &[String], printed: &str) -> Option<String> {
    let shown: Vec<&str> = shown.iter().map(String::as_str).filter(|it| !it.is_empty()).collect();
    let printed: Vec<&str> = printed.lines().filter(|it| !it.trim().is_empty()).collect();
    if shown.len() != printed.len() {
        return Some(format!("{} lines are shown, {} printed", shown.len(), printed.len()));
    }
    let pairs = shown.into_iter().zip(printed);
    pairs
        .filter(|(shown, printed)| !is_as_shown(shown, printed))
        .map(|(shown, printed)| format!("shown:   {shown}\n  printed: {printed}"))
        .next()
}

fn is_as_shown(shown: &str, printed: &str) -> bool {
    let (shown, mut printed) = (stable(shown), stable(printed));
    match shown.split_last() {
        Some((last, shown)) if last == "..." => {
            printed.truncate(shown.len());
            shown == printed
        }
        _ => shown == printed,
    }
}

/// The words of a line, with a name in place of what differs from run to run.
fn stable(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut stable: Vec<String> = Vec::new();
    for (place, word) in words.iter().copied().enumerate() {
        let before = place.checked_sub(1).map_or("", |place| words[place]);
        let after = words.get(place + 1).copied().unwrap_or_default();
        let is_number = word.parse::<f64>().is_ok();
        let varies = match (before, after) {
            // How long it took, and how fast that was.
            (_, "s,") if is_number => Some("SECONDS"),
            (_, after) if is_number && after.ends_with("/s") => Some("RATE"),
            (before, _) if before.parse::<f64>().is_ok() && word.ends_with("B/s") => Some("UNIT"),
            // What Raft counts, and who leads.
            ("term" | "index" | "node", _) if is_number => Some("NUMBER"),
            ("cluster", _) if word.len() == 8 && is_hex(word) => Some("ID"),
            _ if word == "leader" || word == "voter" => Some("ROLE"),
            _ if is_moment(word) => Some("MOMENT"),
            _ if is_address(word) => Some("ADDRESS"),
            _ => None,
        };
        stable.push(varies.unwrap_or(word).to_owned());
    }
    // A node's row ends with what its disk has free. Nodes get their ids in the order in which they
    // join.
    if stable.iter().any(|it| it == "ADDRESS") && words[0].parse::<u64>().is_ok() {
        stable.truncate(stable.len().saturating_sub(2));
        let by_order = |it: &&mut String| it.starts_with("rack") || it.starts_with("host");
        stable.iter_mut().filter(by_order).for_each(|word| word.truncate(4));
    }
    stable
}

fn is_hex(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `2026-11-21T19:56:15Z`
fn is_moment(word: &str) -> bool {
    let shape: String = word.chars().map(|it| if it.is_ascii_digit() { '0' } else { it }).collect();
    shape == "0000-00-00T00:00:00Z"
}

fn is_address(word: &str) -> bool {
    word.parse::<std::net::SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn blocks_and_their_commands_are_found() {
        let text = "# One\n\nwords:\n\n    $ a   # why\n    printed\n\n    more\n    $ b\n\n## Two\n\
                    * item\n    goes on\n\n    c \\\n        --flag\n    # comment\n    d\n";
        let blocks = blocks(text);
        assert_eq!(blocks.len(), 2, "{blocks:?}");
        assert_eq!((blocks[0].section.as_str(), blocks[1].section.as_str()), ("One", "Two"));
        assert!(blocks[0].is_session() && !blocks[1].is_session());
        let shown = lines(&["printed", "", "more"]);
        let first = Step { command: "a   # why".to_owned(), shown };
        assert_eq!(blocks[0].steps(), [first, Step { command: "b".to_owned(), shown: vec![] }]);
        assert_eq!(blocks[1].commands(), ["c --flag", "d"]);
    }

    #[test]
    fn what_varies_may_differ_and_nothing_else() {
        let shown = lines(&["committed a@1: 3 of 3 replicas", "4.8 MiB sent; 0.1 s, 57.5 MiB/s"]);
        assert_eq!(
            differs(&shown, "committed a@1: 3 of 3 replicas\n4.8 MiB sent; 2.0 s, 7 KiB/s"),
            None
        );
        for other in [
            "committed a@1: 2 of 3 replicas\n4.8 MiB sent; 0.1 s, 57.5 MiB/s",
            "committed a@1: 3 of 3 replicas\n4.9 MiB sent; 0.1 s, 57.5 MiB/s",
            "committed a@1: 3 of 3 replicas",
        ] {
            assert!(differs(&shown, other).is_some(), "{other}");
        }
        let shown = lines(&["cluster 59b5b5d2  leader node 1 at 127.0.0.1:7400  term 1  index 49"]);
        let same = "cluster 01234567  leader node 3 at 127.0.0.1:28001  term 2  index 7\n";
        assert_eq!(differs(&shown, same), None);
        let shown =
            lines(&["1  up  leader  rack1  host1  127.0.0.1:7400  2  4.8 MiB  100 GiB  9.9 GiB"]);
        let row = |state: &str, data: &str| {
            format!(
                "1  {state}  voter  rack2  host2  127.0.0.1:28000  2  {data} MiB  100 GiB  1.0 TiB"
            )
        };
        assert_eq!(differs(&shown, &row("up", "4.8")), None);
        assert!(differs(&shown, &row("down", "4.8")).is_some());
        assert!(differs(&shown, &row("up", "4.7")).is_some());
        let shown = lines(&["restored a@1: 2 files; ..."]);
        assert_eq!(differs(&shown, "restored a@1: 2 files; 4.8 MiB fetched"), None);
        assert!(differs(&shown, "restored a@1: 3 files; 4.8 MiB fetched").is_some());
    }
}
