//! HTTP/2 flow control of both sides.

/// Receive limits of one side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Unread bytes of one stream, and of the connection.
    pub stream_bytes: u32,
    pub connection_bytes: u32,
    /// Largest DATA frame.
    pub frame_bytes_max: u32,
}

/// A client has few connections. A fast link between racks stays full, and one slow reader does not
/// stop the others. A frame holds a whole block.
pub const CLIENT: Windows =
    Windows { stream_bytes: 8 << 20, connection_bytes: 32 << 20, frame_bytes_max: 1 << 20 };

/// A node has many connections. A segment does not wait for window updates on a fast network. 48
/// streams of segments fit in memory, because handlers read as fast as the disk writes. A frame
/// holds a piece of 256 KiB: fewer, larger frames cost less processor time.
pub const SERVER: Windows =
    Windows { stream_bytes: 4 << 20, connection_bytes: 16 << 20, frame_bytes_max: 256 << 10 };

/// Streams of one connection at once. Above it the caller queues on its own side.
pub const CONNECTION_STREAMS_MAX: u32 = 256;
