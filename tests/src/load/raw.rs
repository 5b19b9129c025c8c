//! Calls whose bytes are written by hand: HTTP/2 as it should be, and gRPC messages as they should not.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{self, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;

/// How an HTTP/2 connection of a hostile client begins.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// What the server may send on one stream before the client asks for more, in bytes.
    pub stream: u32,
    /// The same for the whole connection, in bytes.
    pub connection: u32,
}

impl Default for Windows {
    /// Those that clients have who say nothing.
    fn default() -> Self {
        Self { stream: 65_535, connection: 65_535 }
    }
}

/// Opens a connection. It does nothing unless the second part is polled.
///
/// # Errors
///
/// When nobody listens there, or who does speaks no HTTP/2.
pub async fn connect(
    address: &str,
    windows: Windows,
) -> io::Result<(SendRequest<Bytes>, client::Connection<TcpStream>)> {
    let stream = TcpStream::connect(address).await?;
    client::Builder::new()
        .initial_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .handshake(stream)
        .await
        .map_err(io::Error::other)
}

/// Begins a gRPC call with further headers.
///
/// # Errors
///
/// When the connection is gone.
pub async fn begin(
    connection: &SendRequest<Bytes>,
    path: &str,
    headers: &[(&'static str, &'static str)],
) -> Result<(client::ResponseFuture, SendStream<Bytes>), h2::Error> {
    let mut request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("the parts of tests are valid");
    connection.clone().ready().await?.send_request(request, false)
}

/// A message with its prefix (gRPC over HTTP/2, `Length-Prefixed-Message`).
pub fn framed(message: &impl Message) -> Bytes {
    let mut bytes = prefix(0, u32::try_from(message.encoded_len()).expect("messages of tests are short"));
    message.encode(&mut bytes).expect("there is room");
    bytes.freeze()
}

/// The prefix of a message: whether it is compressed, and how long it claims to be.
pub fn prefix(compressed: u8, length: u32) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(5);
    bytes.put_u8(compressed);
    bytes.put_u32(length);
    bytes
}

/// The gRPC status that answers a call, from its headers or its trailers; none when the connection ended without one.
pub async fn status(response: client::ResponseFuture) -> Option<i32> {
    let response = response.await.ok()?;
    if let Some(code) = code(response.headers()) {
        return Some(code);
    }
    let mut body = response.into_body();
    drain(&mut body).await;
    code(&body.trailers().await.ok()??)
}

async fn drain(body: &mut RecvStream) {
    while let Some(Ok(bytes)) = body.data().await {
        // What was promised is given back at once; a failure shows in the trailers.
        let _ = body.flow_control().release_capacity(bytes.len());
    }
}

fn code(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Sends bytes as fast as the server takes them, to the end or until it takes no more.
pub async fn send_all(stream: &mut SendStream<Bytes>, bytes: impl Iterator<Item = Bytes>) {
    send(stream, bytes).await;
    // A stream that the server has closed already needs no end.
    let _ = stream.send_data(Bytes::new(), true);
}

/// The same without an end: the server waits for more.
pub async fn send(stream: &mut SendStream<Bytes>, bytes: impl Iterator<Item = Bytes>) {
    for mut piece in bytes {
        while !piece.is_empty() {
            stream.reserve_capacity(piece.len());
            let Some(Ok(capacity)) = std::future::poll_fn(|context| stream.poll_capacity(context)).await else {
                return;
            };
            if stream.send_data(piece.split_to(capacity.min(piece.len())), false).is_err() {
                return;
            }
        }
    }
}
