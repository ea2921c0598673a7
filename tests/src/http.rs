//! One HTTP/1.1 request, as a probe, a scraper or a web page makes it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A node that takes longer is asked again by the caller.
const PATIENCE: Duration = Duration::from_secs(5);

/// Status line, headers and body; what went wrong, if anything did.
pub fn get(address: SocketAddr, path: &str) -> String {
    send(address, &format!("GET {path}"), &["host: node"], b"")
}

/// The same with any method, headers and body.
pub fn send(address: SocketAddr, line: &str, headers: &[&str], body: &[u8]) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (headers, length) = (headers.join("\r\n"), body.len());
        let head = format!(
            "{line} HTTP/1.1\r\n{headers}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_else(|error| format!("no answer: {error}"))
}
