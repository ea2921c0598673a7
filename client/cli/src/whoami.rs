//! What this process and its user are called where others read it: in uploads, refs and holds.

/// Of a host's name, characters.
const HOST_CHARS_MAX: usize = 48;
/// Of a user's name, characters.
const USER_CHARS_MAX: usize = 48;

/// This process, for another one that meets its upload.
pub fn process() -> String {
    format!("process {} on {}", std::process::id(), host())
}

/// The user of this process, for people: `ana@trainer-7`.
pub fn user() -> String {
    let named = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let named = named.filter(|it| !it.is_empty() && !it.contains(char::is_control));
    let user: String = match named {
        Some(name) => name.chars().take(USER_CHARS_MAX).collect(),
        None => format!("uid{}", rustix::process::getuid().as_raw()),
    };
    format!("{user}@{}", host())
}

fn host() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    host.chars().take(HOST_CHARS_MAX).collect()
}
