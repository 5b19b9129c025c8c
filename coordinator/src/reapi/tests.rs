use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use muster_cache::tree::TreeBuilder;
use muster_cache::{
    Blob, DiskConfig, DiskStore, Fetch, Ground, ReadThrough, RemoteStore, Stager, StoreError, UploadSource, digest_of,
};
use muster_model::limits::{BATCH_BYTES_MAX, BLOB_LEASE_TIME, CHUNK_BYTES_MAX};
use muster_model::{Digest, DigestFunction};
use muster_proto::bytestream::byte_stream_client::ByteStreamClient;
use muster_proto::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use muster_proto::v1::KindStats;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Server};

use super::*;

pub(super) struct Fleet {
    folder: tempfile::TempDir,
    pub(super) disk: Arc<DiskStore>,
    pub(super) counters: Arc<Counters>,
    pub(super) channel: Channel,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn fleet() -> Fleet {
    fleet_with(true, BLOB_LEASE_TIME).await
}

pub(super) async fn fleet_with(clients_write_results: bool, lease_time: Duration) -> Fleet {
    let folder = tempfile::tempdir().unwrap();
    let config = DiskConfig { capacity_bytes: 64 << 20, lease_time, ..DiskConfig::new(folder.path().join("server")) };
    let disk = DiskStore::open(config).unwrap();
    let counters = Arc::new(Counters::default());
    let services = CacheServices {
        store: disk.clone(),
        actions: disk.clone(),
        counters: counters.clone(),
        budget: UploadBudget::default(),
        executes: false,
        clients_write_results,
    };
    let mut routes = RoutesBuilder::default();
    services.add_to(&mut routes);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_routes(routes.routes());
    let server = tokio::spawn(async move {
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Fleet { folder, disk, counters, channel, server }
}

impl Fleet {
    pub(super) fn remote(&self) -> RemoteStore {
        RemoteStore::new(self.channel.clone())
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the coordinator's store is.
    pub(super) fn server_folder(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    /// Where an agent's store is.
    pub(super) fn local_folder(&self) -> PathBuf {
        self.folder.path().join("local")
    }

    pub(super) fn local(&self) -> Arc<DiskStore> {
        DiskStore::open(DiskConfig::new(self.local_folder())).unwrap()
    }

    fn kind(&self, name: &str) -> KindStats {
        self.counters.to_wire().into_iter().find(|kind| kind.kind == name).unwrap()
    }
}

/// Sizes around every threshold of the wire and the disk.
fn blobs() -> Vec<Bytes> {
    let sizes =
        [1, 4096, 4097, CHUNK_BYTES_MAX - 161, CHUNK_BYTES_MAX + 1, BATCH_BYTES_MAX, BATCH_BYTES_MAX + 1, 5 << 20];
    sizes.into_iter().enumerate().map(|(number, size)| vec![number as u8; size].into()).collect()
}

async fn keeps_the_contract(store: &dyn BlobStore) {
    for bytes in blobs() {
        for function in [DigestFunction::Blake3, DigestFunction::Sha256] {
            let digest = digest_of(function, &bytes);
            assert_eq!(store.find_missing(&[digest, digest]).await.unwrap(), [digest]);
            let absent = match store.get(&digest).await {
                Ok(blob) => blob.into_bytes(u64::MAX).await.map(|_| ()),
                Err(error) => Err(error),
            };
            assert!(matches!(absent, Err(StoreError::NotFound(missing)) if missing == digest), "{absent:?}");
            let mut wrong = bytes.to_vec();
            wrong[0] ^= 1;
            for wrong in [wrong, bytes[1..].to_vec(), [&bytes[..], b"x"].concat(), Vec::new()] {
                let blob = Blob::from_stream(digest, stream::iter([Ok(wrong.into())]));
                let refused = store.put(&digest, blob).await;
                assert!(matches!(refused, Err(StoreError::Mismatch { .. })), "{refused:?}");
            }
            assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
            for _ in 0..2 {
                store.put(&digest, Blob::from_bytes_of(digest, bytes.clone()).unwrap()).await.unwrap();
            }
            assert_eq!(store.find_missing(&[digest]).await.unwrap(), []);
            let read = store.get(&digest).await.unwrap().into_bytes(u64::MAX).await.unwrap();
            assert_eq!(read, bytes);
        }
    }
    assert_eq!(store.find_missing(&[Digest::empty()]).await.unwrap(), []);
    assert!(store.get(&Digest::empty()).await.unwrap().into_bytes(0).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_disk_keeps_the_contract() {
    let fleet = fleet().await;
    keeps_the_contract(&*fleet.local()).await;
}

#[tokio::test]
async fn the_wire_keeps_the_contract() {
    keeps_the_contract(&fleet().await.remote()).await;
}

#[tokio::test]
async fn reading_through_keeps_the_contract() {
    let fleet = fleet().await;
    keeps_the_contract(&ReadThrough::new(fleet.local(), fleet.remote())).await;
}

#[tokio::test]
async fn a_second_upload_sends_nothing_and_is_counted_as_saved() {
    let fleet = fleet().await;
    let blobs: Vec<Bytes> =
        (0..2000_u32).map(|number| number.to_le_bytes().repeat(100).into()).chain(blobs()).collect();
    let bytes = blobs.iter().map(|blob| blob.len() as u64).sum::<u64>();
    let offered = || blobs.iter().map(|bytes| (Digest::of(bytes), UploadSource::Bytes(bytes.clone())));
    let first = fleet.remote().upload_missing(offered().chain(offered())).await.unwrap();
    assert_eq!((first.uploaded_blobs, first.uploaded_bytes, first.reused_blobs), (blobs.len() as u64, bytes, 0));
    let second = fleet.remote().upload_missing(offered()).await.unwrap();
    assert_eq!((second.uploaded_blobs, second.reused_bytes), (0, bytes));
    let kind = fleet.kind("blob_upload");
    assert_eq!((kind.hits, kind.misses), (blobs.len() as u64, blobs.len() as u64));
    assert_eq!((kind.bytes_saved, kind.bytes_transferred), (bytes, bytes));
}

#[tokio::test]
async fn a_file_that_changed_since_it_was_hashed_is_not_uploaded() {
    let fleet = fleet().await;
    let path = fleet.folder.path().join("file");
    for bytes in [Bytes::from_static(b"small"), vec![1; 4 << 20].into()] {
        std::fs::write(&path, &bytes).unwrap();
        let digest = Digest::of(&bytes);
        std::fs::write(&path, [&bytes[1..], b"x"].concat()).unwrap();
        let refused = fleet.remote().upload_missing([(digest, UploadSource::File(path.clone()))]).await;
        assert!(matches!(refused, Err(StoreError::Mismatch { .. })), "{refused:?}");
        assert_eq!(fleet.disk.find_missing(&[digest]).await.unwrap(), [digest]);
    }
}

#[tokio::test]
async fn what_two_ask_for_at_once_is_fetched_once() {
    let fleet = fleet().await;
    let digests: Vec<Digest> = {
        let mut digests = Vec::new();
        for bytes in blobs() {
            digests.push(Digest::of(&bytes));
            fleet.disk.put_blob(&Digest::of(&bytes), Blob::from_bytes(bytes)).await.unwrap();
        }
        digests
    };
    let store = ReadThrough::new(fleet.local(), fleet.remote());
    let calls = (0..4).map(|_| store.fetch_all(&digests));
    let stats = futures_util::future::try_join_all(calls).await.unwrap();
    let bytes = digests.iter().map(|digest| digest.size_bytes).sum::<u64>();
    assert_eq!(stats.iter().map(|stats| stats.fetched_bytes).sum::<u64>(), bytes);
    assert_eq!(stats.iter().map(|stats| stats.reused_bytes).sum::<u64>(), bytes * 3);
    assert_eq!(fleet.kind("blob_download").bytes_transferred, bytes);
}

#[tokio::test]
async fn an_interrupted_upload_goes_on_where_it_stopped() {
    let fleet = fleet().await;
    let bytes: Bytes = vec![3; 3 << 20].into();
    let digest = Digest::of(&bytes);
    let name = format!("uploads/one/blobs/blake3/{}/{}", digest.hex(), digest.size_bytes);
    let mut client = ByteStreamClient::new(fleet.channel.clone());
    let request = |start: usize, end: usize, finish_write| WriteRequest {
        resource_name: name.clone(),
        write_offset: start as i64,
        finish_write,
        data: bytes.slice(start..end),
    };
    let query = || QueryWriteStatusRequest { resource_name: name.clone() };
    assert_eq!(client.query_write_status(query()).await.unwrap_err().code(), Code::NotFound);
    let half = 1 << 20;
    let part = client.write(stream::iter([request(0, half, false)])).await.unwrap().into_inner();
    assert_eq!(part.committed_size, half as i64);
    let status = client.query_write_status(query()).await.unwrap().into_inner();
    assert_eq!((status.committed_size, status.complete), (half as i64, false));
    let wrong = client.write(stream::iter([request(0, half, false)])).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let rest = [request(half, 2 * half, false), request(2 * half, bytes.len(), true)];
    let whole = client.write(stream::iter(rest)).await.unwrap().into_inner();
    assert_eq!(whole.committed_size, bytes.len() as i64);
    let status = client.query_write_status(query()).await.unwrap().into_inner();
    assert_eq!((status.committed_size, status.complete), (bytes.len() as i64, true));
    assert_eq!(fleet.disk.get_blob(&digest).await.unwrap().into_bytes(u64::MAX).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_window_of_a_blob_can_be_read() {
    let fleet = fleet().await;
    let bytes: Bytes = (0..3 << 20).map(|number: u32| (number % 251) as u8).collect::<Vec<u8>>().into();
    let digest = Digest::of(&bytes);
    fleet.disk.put_blob(&digest, Blob::from_bytes(bytes.clone())).await.unwrap();
    let mut client = ByteStreamClient::new(fleet.channel.clone());
    let size = bytes.len() as i64;
    for (read_offset, read_limit) in
        [(0, 0), (1, 10), (size - 1, 0), (size, 0), (CHUNK_BYTES_MAX as i64 - 1, 2), (0, size + 1)]
    {
        let request = ReadRequest { resource_name: resource::print_read(&digest), read_offset, read_limit };
        let mut answer = client.read(request).await.unwrap().into_inner();
        let mut read = Vec::new();
        while let Some(part) = answer.next().await {
            read.extend_from_slice(&part.unwrap().data);
        }
        let end = if read_limit == 0 { size } else { size.min(read_offset + read_limit) };
        assert_eq!(read, bytes[read_offset as usize..end as usize], "{read_offset} {read_limit}");
    }
    for (read_offset, read_limit, code) in
        [(-1, 0, Code::OutOfRange), (size + 1, 0, Code::OutOfRange), (0, -1, Code::InvalidArgument)]
    {
        let request = ReadRequest { resource_name: resource::print_read(&digest), read_offset, read_limit };
        assert_eq!(client.read(request).await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_full_store_says_so() {
    let fleet = fleet().await;
    let digest = Digest { size_bytes: 65 << 20, ..Digest::of(b"x") };
    let endless = stream::iter((0..65).map(|_| Ok(Bytes::from(vec![0; 1 << 20]))));
    let remote = fleet.remote();
    let put = remote.put(&digest, Blob::from_stream(digest, endless));
    match tokio::time::timeout(Duration::from_secs(60), put).await.unwrap() {
        Err(StoreError::Remote(status)) => assert_eq!(status.code(), Code::ResourceExhausted),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_tree_travels_from_a_client_to_an_agents_directory() {
    let fleet = fleet().await;
    let mut builder = TreeBuilder::new();
    let file = Bytes::from_static(b"#!/bin/sh\n");
    builder.insert_file("/bin/run", Digest::of(&file), true).unwrap();
    builder.insert_file("/data/copy", Digest::of(&file), false).unwrap();
    builder.insert_symlink("/data/link", "../bin/run").unwrap();
    let tree = builder.finish().unwrap();
    let directories = tree.directories.iter().map(|(digest, bytes)| (*digest, UploadSource::Bytes(bytes.clone())));
    let files = [(Digest::of(&file), UploadSource::Bytes(file.clone()))];
    fleet.remote().upload_missing(directories.chain(files)).await.unwrap();
    let local = fleet.local();
    let stager = Stager::open(local.clone(), fleet.folder.path().join("staged")).unwrap();
    let store = ReadThrough::new(local, fleet.remote());
    let first = stager.stage(&tree.root, Ground::Bare, &store).await.unwrap();
    assert_eq!(first.stats().fetched_blobs, 4);
    assert_eq!(std::fs::read(first.directories()[0].join("data/link")).unwrap(), file);
    let second = stager.stage(&tree.root, Ground::Bare, &store).await.unwrap();
    assert_eq!((second.directories(), second.stats().fetched_blobs), (first.directories(), 0));
}
