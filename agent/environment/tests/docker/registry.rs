//! A registry on loopback with one image of one layer, which it gives to whoever asks by digest (OCI Distribution Specification, "Pulling").

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Content by digest, with its type.
type Blobs = Vec<(String, &'static str, Vec<u8>)>;

/// Serves an image whose only layer is an archive, until this process ends; gives its name with its digest.
///
/// # Panics
///
/// When no port is free.
pub(crate) fn serve(layer: Vec<u8>, variable: &str) -> String {
    let layer_digest = digest(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":[{variable:?}]}},"rootfs":{{"type":"layers","diff_ids":[{layer_digest:?}]}},"history":[{{"created":"2000-01-01T00:00:00Z"}}]}}"#
    );
    let described = |kind: &str, content: &[u8]| {
        format!(r#"{{"mediaType":{kind:?},"size":{},"digest":{:?}}}"#, content.len(), digest(content))
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":{MANIFEST:?},"config":{},"layers":[{}]}}"#,
        described(CONFIG, config.as_bytes()),
        described(LAYER, &layer)
    );
    let own = digest(manifest.as_bytes());
    let blobs: Blobs = vec![
        (own.clone(), MANIFEST, manifest.into_bytes()),
        (digest(config.as_bytes()), CONFIG, config.into_bytes()),
        (layer_digest, LAYER, layer),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("a port");
    let blobs = Arc::new(blobs);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let blobs = blobs.clone();
            // A client that goes away is no concern of ours.
            std::thread::spawn(move || drop(answer(stream, &blobs)));
        }
    });
    format!("{address}/small@{own}")
}

fn answer(mut stream: TcpStream, blobs: &Blobs) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let found = blobs.iter().find(|(digest, ..)| path.ends_with(digest.as_str()));
    let (status, kind, digest, content) = match found {
        Some((digest, kind, content)) => ("200 OK", *kind, digest.as_str(), content.as_slice()),
        None if path == "/v2/" => ("200 OK", "application/json", "", &b"{}"[..]),
        None => ("404 Not Found", "application/json", "", &b"{}"[..]),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\nContent-Length: {}\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\nConnection: close\r\n\r\n",
        content.len()
    )?;
    if method != "HEAD" {
        stream.write_all(content)?;
    }
    Ok(())
}

fn digest(content: &[u8]) -> String {
    let mut command =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    command.stdin.take().expect("is piped").write_all(content).expect("it reads");
    let output = command.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stdout).expect("text");
    format!("sha256:{}", text.split(' ').next().unwrap_or_default())
}
