//! Clients that take connections and give nothing.

mod support;

use std::io::ErrorKind;

use muster_model::limits::CONNECTIONS_PER_PEER_MAX;
use muster_proto::reapi::GetCapabilitiesRequest;
use muster_proto::reapi::capabilities_client::CapabilitiesClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Waits until the other side has closed.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest).await {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_those_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = support::start(folder.path()).await;
    let channel = support::connect(&coordinator).await;
    let mut client = CapabilitiesClient::new(channel);
    client.get_capabilities(GetCapabilitiesRequest::default()).await.unwrap();
    let mut held = Vec::new();
    for _ in 1..CONNECTIONS_PER_PEER_MAX {
        let mut stream = TcpStream::connect(coordinator.address()).await.unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(stream.read_u8().await.is_ok());
        held.push(stream);
    }
    let mut one_more = TcpStream::connect(coordinator.address()).await.unwrap();
    assert!(is_closed(&mut one_more).await);
    client.get_capabilities(GetCapabilitiesRequest::default()).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = support::start(folder.path()).await;
    let mut silent = TcpStream::connect(coordinator.address()).await.unwrap();
    let mut slow = TcpStream::connect(coordinator.address()).await.unwrap();
    slow.write_all(b"GET /status HTTP/1.1\r\nHost: ").await.unwrap();
    assert!(is_closed(&mut silent).await && is_closed(&mut slow).await);
    coordinator.shutdown().await;
}
