//! HTTP/2 flow control of either side.

/// What one side of a connection takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Unread bytes of one stream, and of the connection.
    pub stream_bytes: u32,
    pub connection_bytes: u32,
    /// Largest DATA frame.
    pub frame_bytes_max: u32,
}

/// A client has few connections: a fast link between racks stays full, and one slow reader does
/// not stop the others. A frame holds a whole block.
pub const CLIENT: Windows =
    Windows { stream_bytes: 8 << 20, connection_bytes: 32 << 20, frame_bytes_max: 1 << 20 };

/// A node has many: a segment does not wait for window updates on a fast network, and 48 streams of
/// them stay within memory, because handlers read as fast as the disk takes. A frame holds a piece
/// of 256 KiB: fewer, larger frames cost less processor time.
pub const SERVER: Windows =
    Windows { stream_bytes: 4 << 20, connection_bytes: 16 << 20, frame_bytes_max: 256 << 10 };

/// Streams of one connection at once; beyond it the caller queues on its own side.
pub const CONNECTION_STREAMS_MAX: u32 = 256;
