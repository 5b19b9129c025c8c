//! As much of PostgreSQL's protocol (version 3.0, "Frontend/Backend Protocol") as making and dropping databases takes.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The version in a startup message: 3.0.
const PROTOCOL_VERSION: u32 = 196_608;
/// One message of the server's that is read here, in bytes; ours bring no rows.
const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// A connection that is ready for a query.
pub(super) struct Client {
    stream: TcpStream,
}

impl Client {
    /// Greets the server as `user`, which it must trust.
    ///
    /// # Errors
    ///
    /// What the server said, or that it closed the connection or asks for a password.
    pub(super) async fn greet(mut stream: TcpStream, user: &str, database: &str) -> io::Result<Self> {
        let mut body = PROTOCOL_VERSION.to_be_bytes().to_vec();
        for text in ["user", user, "database", database, ""] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        stream.write_all(&message(None, &body)).await?;
        let mut client = Self { stream };
        client.until_ready().await?;
        Ok(client)
    }

    /// Runs one statement.
    ///
    /// # Errors
    ///
    /// What the server said.
    pub(super) async fn execute(&mut self, statement: &str) -> io::Result<()> {
        let body = [statement.as_bytes(), &[0]].concat();
        self.stream.write_all(&message(Some(b'Q'), &body)).await?;
        self.until_ready().await
    }

    async fn until_ready(&mut self) -> io::Result<()> {
        let mut refusal = None;
        loop {
            let kind = match self.stream.read_u8().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(refusal.unwrap_or(error));
                }
                kind => kind?,
            };
            let length = self.stream.read_u32().await?;
            if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
                return Err(io::Error::other("it does not speak PostgreSQL's protocol"));
            }
            let mut body = vec![0; length as usize - 4];
            self.stream.read_exact(&mut body).await?;
            match kind {
                b'Z' => return refusal.map_or(Ok(()), Err),
                b'E' => refusal = Some(io::Error::other(sentence(&body))),
                // AuthenticationOk is a zero; everything else asks for something.
                b'R' if body != [0; 4] => {
                    return Err(io::Error::other("it asks for a password; let it trust everybody"));
                }
                _ => {}
            }
        }
    }
}

/// The primary message of an error: the field `M` ("Error and Notice Message Fields").
fn sentence(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0).filter_map(|field| field.split_first());
    let mut found =
        fields.filter(|(kind, _)| **kind == b'M').map(|(_, text)| String::from_utf8_lossy(text).into_owned());
    found.next().unwrap_or_else(|| "an error without words".to_owned())
}

fn message(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    kind.into_iter().chain(length.to_be_bytes()).chain(body.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A server that says these bytes to whoever comes.
    async fn answered(bytes: &'static [u8]) -> io::Result<Client> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let (mut server, _) = listener.accept().await?;
        server.write_all(bytes).await?;
        server.shutdown().await?;
        Client::greet(stream, "user", "database").await
    }

    #[tokio::test]
    async fn a_server_that_is_starting_up_is_not_ready_and_says_so() {
        let said = b"E\0\0\0\x26SFATAL\0C57P03\0Mit is starting up\0\0";
        let error = answered(said).await.err().expect("not ready");
        assert_eq!(error.to_string(), "it is starting up");
    }

    #[tokio::test]
    async fn nonsense_and_passwords_are_refused() {
        assert!(answered(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.is_err());
        let error = answered(b"R\0\0\0\x08\0\0\0\x03").await.err().expect("it wants a password");
        assert!(error.to_string().contains("password"));
        assert!(answered(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await.is_ok());
    }
}
