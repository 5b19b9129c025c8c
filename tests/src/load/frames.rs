//! HTTP/2 frames written by hand (RFC 9113), for clients that do what no library does.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What every client begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest frame that is read; no server may send a longer one unasked.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// Numbers of frame types (RFC 9113, section 6).
pub mod kind {
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// The flag of an acknowledgement.
pub const ACKNOWLEDGED: u8 = 1;
/// The flag of a stream's last frame of one direction.
pub const END_STREAM: u8 = 1;
/// The flag of the last frame of a block of headers.
pub const END_HEADERS: u8 = 4;

/// The error of a peer that was asked to be calm (RFC 9113, section 7).
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// What they mean depends on the kind.
    pub flags: u8,
    /// Zero for the connection itself.
    pub stream: u32,
    /// What follows the header of nine bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The frame as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(9 + self.payload.len());
        let length = u32::try_from(self.payload.len()).expect("frames of tests are short");
        bytes.extend_from_slice(&length.to_be_bytes()[1..]);
        bytes.extend_from_slice(&[self.kind, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// For a GOAWAY, the error that it names.
    pub fn goaway_error(&self) -> Option<u32> {
        let error = self.payload.get(4..8).filter(|_| self.kind == kind::GOAWAY)?;
        error.try_into().ok().map(u32::from_be_bytes)
    }
}

/// Opens a connection and says hello with no settings of its own.
///
/// # Errors
///
/// When nobody listens there.
pub async fn connect(address: &str) -> io::Result<(Reader, OwnedWriteHalf)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let hello = Frame { kind: kind::SETTINGS, flags: 0, stream: 0, payload: Vec::new() };
    writer.write_all(&[PREFACE, &hello.encode()].concat()).await?;
    Ok((Reader(reader), writer))
}

/// What the server sends.
#[derive(Debug)]
pub struct Reader(OwnedReadHalf);

impl Reader {
    /// The next frame; none when the connection has ended, however it did.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).await.ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        assert!(length <= FRAME_BYTES_MAX, "the server sent a frame of {length} bytes");
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        Some(Frame { kind: header[3], flags: header[4], stream, payload })
    }

    /// Reads to the end of the connection, and gives what passed `wanted`.
    pub async fn collect(mut self, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut found = Vec::new();
        while let Some(frame) = self.next().await {
            found.extend(Some(frame).filter(&wanted));
        }
        found
    }
}

/// The headers of a gRPC call as an HPACK block that uses no table but the static one (RFC 7541, appendix A).
pub fn call_headers(path: &str) -> Vec<u8> {
    // :method POST, :scheme http; then :path, :authority, content-type and te as literals without indexing.
    let mut block = vec![0x83, 0x86, 0x04];
    text(&mut block, path);
    block.push(0x01);
    text(&mut block, "localhost");
    block.extend_from_slice(&[0x0f, 31 - 15]);
    text(&mut block, "application/grpc");
    block.push(0x00);
    text(&mut block, "te");
    text(&mut block, "trailers");
    block
}

/// A header with a new name, added to the dynamic table.
pub fn indexed_header(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0x40);
    text(block, name);
    text(block, value);
}

/// A string without Huffman coding (RFC 7541, section 5.2).
fn text(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 128);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(text.as_bytes());
}
