use std::collections::HashMap;

use bytes::Bytes;
use muster_cache::{Blob, DiskConfig, digest_of};
use muster_model::limits::CHUNK_BYTES_MAX;
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi::{ActionResult, OutputFile};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::*;

struct Fixture {
    folder: tempfile::TempDir,
    disk: Arc<DiskStore>,
    counters: Arc<Counters>,
    address: std::net::SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn fixture(clients_write_results: bool) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    // Without leases, so that a test can fill the store until something goes.
    let lease_time = std::time::Duration::ZERO;
    let config = DiskConfig { capacity_bytes: 64 << 20, lease_time, ..DiskConfig::new(folder.path().join("server")) };
    let disk = DiskStore::open(config).unwrap();
    let counters = Arc::new(Counters::default());
    let incoming = folder.path().join("incoming");
    let caches = HttpCaches::new(disk.clone(), counters.clone(), incoming, clients_write_results).unwrap();
    let mut routes = Routes::default();
    caches.add_to(&mut routes);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().accept_http1(true).add_routes(routes);
    let server = tokio::spawn(async move {
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    Fixture { folder, disk, counters, address, server }
}

struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Bytes,
}

impl Fixture {
    /// One request of HTTP/1.1, as a client without a library would write it.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !headers.iter().any(|(name, _)| ["Content-Length", "Transfer-Encoding"].contains(name)) {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        // A server that refuses early may close before it has everything.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Answer { status, headers, body: Bytes::copy_from_slice(&answer[end + 4..]) }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    async fn put(&self, path: &str, body: &[u8]) -> u16 {
        self.send("PUT", path, &[], body).await.status
    }
}

fn hash(bytes: &[u8]) -> String {
    digest_of(DigestFunction::Sha256, bytes).hex()
}

#[tokio::test]
async fn every_small_protocol_keeps_an_entry_and_is_counted() {
    let fixture = fixture(true).await;
    let big: Vec<u8> = (0..3 * CHUNK_BYTES_MAX).map(|number| (number % 251) as u8).collect();
    for (path, stored, protocol) in [
        ("/ccache/ab/cdef", 201, "ccache"),
        ("/sccache/a/b/c/abcdef", 201, "sccache"),
        ("/cache/0123abcd", 200, "gradle"),
        ("/v8/artifacts/0123?teamId=t&slug=s", 202, "turborepo"),
        ("/v1/cache/0123", 200, "nx"),
    ] {
        assert_eq!(fixture.get(path).await.status, 404, "{path}");
        assert_eq!(fixture.send("HEAD", path, &[], b"").await.status, 404, "{path}");
        assert_eq!(fixture.put(path, &big).await, stored, "{path}");
        let found = fixture.get(path).await;
        assert_eq!((found.status, found.body.len()), (200, big.len()), "{path}");
        assert_eq!(found.body, big, "{path}");
        let head = fixture.send("HEAD", path, &[], b"").await;
        assert_eq!((head.status, head.headers["content-length"].parse()), (200, Ok(big.len())), "{path}");
        assert_eq!(fixture.put(path, &big).await, stored, "{path}");
        let refused = fixture.send("PATCH", path, &[], b"").await;
        assert_eq!((refused.status, refused.headers["allow"].contains("PUT")), (405, true), "{path}");
        let (protocols, _) = fixture.counters.traffic_to_wire();
        let stats = protocols.iter().find(|stats| stats.name == protocol).unwrap();
        assert_eq!((stats.hits, stats.misses, stats.bytes_written), (2, 2, 2 * big.len() as u64), "{path}");
        assert_eq!(stats.bytes_read, big.len() as u64, "{path}");
    }
    let left: Vec<_> = std::fs::read_dir(fixture.folder.path().join("incoming")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn the_first_content_under_a_name_stays() {
    let fixture = fixture(true).await;
    for (path, again) in [("/ccache/key", 201), ("/cache/key", 200), ("/v1/cache/key", 409)] {
        fixture.put(path, b"first").await;
        assert_eq!(fixture.put(path, b"second").await, again);
        assert_eq!(fixture.get(path).await.body, b"first"[..]);
    }
    assert_eq!(fixture.disk.stats().await.unwrap().divergent_results, 3);
}

#[tokio::test]
async fn an_entry_is_deleted_where_the_protocol_has_that() {
    let fixture = fixture(true).await;
    let delete = async |path: &str| fixture.send("DELETE", path, &[], b"").await.status;
    for (path, again) in [("/ccache/ab/cdef", 204), ("/sccache/a/b/key", 404)] {
        assert_eq!(delete(path).await, again, "{path}");
        fixture.put(path, b"unreadable").await;
        fixture.put(path, b"divergent").await;
        let lease = fixture.disk.lease(&[Digest::of(b"unreadable")]).await.unwrap();
        assert_eq!(delete(path).await, 204, "{path}");
        assert_eq!(fixture.get(path).await.status, 404, "{path}");
        assert_eq!(fixture.disk.list_divergent(None).await.unwrap().records, [], "{path}");
        // Whoever was told of the content before still gets it.
        assert!(fixture.disk.get_blob(&Digest::of(b"unreadable")).await.is_ok());
        drop(lease);
        assert_eq!(delete(path).await, again, "{path}");
        fixture.put(path, b"good").await;
        assert_eq!(fixture.get(path).await.body, b"good"[..], "{path}");
    }
    assert_eq!(delete("/sccache/a/").await, 405);
    for path in ["/cache/key", "/v8/artifacts/key", "/v1/cache/key", &format!("/cas/{}", hash(b""))] {
        assert_eq!(delete(path).await, 405, "{path}");
    }
    let closed = self::fixture(false).await;
    for path in ["/ccache/a", "/sccache/a"] {
        assert_eq!(closed.send("DELETE", path, &[], b"").await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn the_layouts_of_ccache_lead_to_one_entry() {
    let fixture = fixture(true).await;
    assert_eq!(fixture.put("/ccache/ab/cdef", b"object").await, 201);
    assert_eq!(fixture.get("/ccache/abcdef").await.body, b"object"[..]);
}

#[tokio::test]
async fn where_only_the_coordinator_writes_clients_read() {
    let fixture = fixture(false).await;
    for path in ["/ccache/a", "/sccache/a", "/cache/a", "/v8/artifacts/a", "/v1/cache/a", &format!("/ac/{}", hash(b""))]
    {
        assert_eq!(fixture.put(path, b"").await, 403, "{path}");
        assert_eq!(fixture.get(path).await.status, 404, "{path}");
    }
    assert_eq!(fixture.put(&format!("/cas/{}", hash(b"blob")), b"blob").await, 200);
}

#[tokio::test]
async fn bazel_keeps_results_only_with_their_blobs() {
    let fixture = fixture(true).await;
    for instance in ["", "/team/main"] {
        let (output, blob) = (b"output".as_slice(), format!("{instance}/cas/{}", hash(b"output")));
        let action = format!("{instance}/ac/{}", hash(b"action"));
        let file = OutputFile {
            path: "out".into(),
            digest: Some(digest_of(DigestFunction::Sha256, output).into()),
            ..OutputFile::default()
        };
        let result = ActionResult { output_files: vec![file], ..ActionResult::default() }.encode_to_vec();
        if instance.is_empty() {
            assert_eq!(fixture.get(&blob).await.status, 404);
            assert_eq!(fixture.put(&action, &result).await, 409);
        }
        assert_eq!(fixture.get(&action).await.status, 404);
        assert_eq!(fixture.put(&blob, output).await, 200);
        assert_eq!(fixture.get(&blob).await.body, output);
        assert_eq!(fixture.put(&action, &result).await, 200);
        assert_eq!(fixture.get(&action).await.body, result);
    }
    assert_eq!(fixture.put(&format!("/ac/{}", hash(b"x")), b"\xff").await, 400);
    assert_eq!(fixture.get("/status").await.status, 200);
}

#[tokio::test]
async fn a_blob_is_verified_before_it_is_there() {
    let fixture = fixture(true).await;
    let path = format!("/cas/{}", hash(b"right"));
    assert_eq!(fixture.put(&path, b"wrong").await, 400);
    assert_eq!(fixture.get(&path).await.status, 404);
    let chunked = fixture.send("PUT", &path, &[("Transfer-Encoding", "chunked")], b"0\r\n\r\n").await;
    assert_eq!(chunked.status, 411);
    for path in ["/cas/abc", "/cas/", "/ac/../cas/x", "/%2e%2e/etc/passwd", "/blobs/ac/abc", "/nothing/here"] {
        let status = fixture.get(path).await.status;
        assert!([400, 404].contains(&status), "{path}: {status}");
    }
    let huge = fixture.send("PUT", "/cache/key", &[("Content-Length", "99999999999")], b"").await;
    assert_eq!(huge.status, 413);
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing() {
    let fixture = fixture(true).await;
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    let size = 4 * CHUNK_BYTES_MAX;
    let head = format!("PUT /cache/key HTTP/1.1\r\nHost: cache\r\nContent-Length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![1; size / 2]).await.unwrap();
    drop(stream);
    let incoming = fixture.folder.path().join("incoming");
    // The server sees the end of the connection when it does: the next request is answered in any case.
    for _ in 0..1000 {
        if std::fs::read_dir(&incoming).unwrap().count() == 0 && fixture.get("/cache/key").await.status == 404 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the body is still there");
}

#[tokio::test]
async fn turborepo_gets_back_what_it_sent_beside_the_artifact_and_only_its_team_does() {
    let fixture = fixture(true).await;
    let path = "/v8/artifacts/abc?teamId=team_a&slug=a";
    let headers = [("x-artifact-duration", "1234"), ("x-artifact-tag", "Tc0BmHvJYMIYJ62/zx87YqO0Flxk+5Ovip25NY825CQ=")];
    assert_eq!(fixture.send("PUT", path, &headers, b"artifact").await.status, 202);
    let found = fixture.get(path).await;
    assert_eq!(found.headers["x-artifact-duration"], "1234");
    assert_eq!(found.headers["x-artifact-tag"], headers[1].1);
    assert_eq!(fixture.get("/v8/artifacts/abc?teamId=team_b&slug=a").await.status, 404);
    assert_eq!(fixture.get("/v8/artifacts/status").await.body, br#"{"status":"enabled"}"#[..]);
    let question =
        fixture.send("POST", "/v8/artifacts?teamId=team_a&slug=a", &[], br#"{"hashes":["abc","def"]}"#).await;
    let answer: serde_json::Value = serde_json::from_slice(&question.body).unwrap();
    assert_eq!(answer["abc"]["size"], 8);
    assert_eq!(answer["abc"]["taskDurationMs"], 1234);
    assert!(answer["def"].is_null());
    let events = br#"[{"sessionId":"x","source":"REMOTE","event":"HIT","hash":"abc","duration":1}]"#;
    assert_eq!(fixture.send("POST", "/v8/artifacts/events", &[], events).await.status, 200);
    assert_eq!(fixture.send("POST", "/v8/artifacts", &[], b"no json").await.status, 400);
}

#[tokio::test]
async fn webdav_clients_find_collections_and_entries() {
    let fixture = fixture(true).await;
    let question = br#"<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>"#;
    let find = async |path: &str| fixture.send("PROPFIND", path, &[("Depth", "0")], question).await;
    let collection = find("/sccache/a/b/").await;
    assert_eq!(collection.status, 207);
    assert!(String::from_utf8_lossy(&collection.body).contains("<D:collection/>"));
    assert_eq!(fixture.send("MKCOL", "/sccache/a/", &[], b"").await.status, 201);
    assert_eq!(find("/sccache/a/b/key").await.status, 404);
    assert_eq!(fixture.put("/sccache/a/b/key", b"object").await, 201);
    let entry = String::from_utf8(find("/sccache/a/b/key").await.body.to_vec()).unwrap();
    assert!(entry.contains("<D:getcontentlength>6</D:getcontentlength>"), "{entry}");
}

#[tokio::test]
async fn an_entry_dies_with_its_content() {
    let fixture = fixture(true).await;
    assert_eq!(fixture.put("/cache/key", &[7; 100_000]).await, 200);
    let digest = Digest::of(&[7; 100_000]);
    assert_eq!(fixture.get("/cache/key").await.status, 200);
    for number in 0..80_u8 {
        let bytes = Bytes::from(vec![number; 1 << 20]);
        fixture.disk.put_blob(&Digest::of(&bytes), Blob::from_bytes(bytes)).await.unwrap();
    }
    let missing = muster_cache::BlobStore::find_missing(&*fixture.disk, &[digest]).await.unwrap();
    assert_eq!(missing, [digest]);
    assert_eq!(fixture.get("/cache/key").await.status, 404);
}
