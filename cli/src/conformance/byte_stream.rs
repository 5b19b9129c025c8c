//! Rules of the ByteStream service, with the resource names of the Remote Execution API.

use bytes::Bytes;
use muster_proto::bytestream::{QueryWriteStatusRequest, QueryWriteStatusResponse, WriteRequest};
use muster_proto::reapi::Digest;
use tonic::{Code, Status};

use super::session::{Session, parts};
use super::{Answer, Check, Finding, broken, checks, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "byte-stream/write-stores", "ByteStream.Write":
        "a blob written in one message is stored, and committed_size is its size" => write_stores;
    Must "byte-stream/write-in-parts", "WriteRequest.write_offset":
        "a blob may come in any number of messages of any length, empty ones too" => write_in_parts;
    Must "byte-stream/write-large", "ByteStream.Write":
        "a blob above the size of a message comes back byte for byte" => write_large;
    Must "byte-stream/write-empty-blob", "ContentAddressableStorage":
        "the empty blob can be written" => write_empty;
    Must "byte-stream/write-metadata-in-name", "ContentAddressableStorage":
        "what follows the size in a resource name is the client's own affair" => write_metadata;
    Must "byte-stream/write-what-is-there", "ContentAddressableStorage":
        "a write of a blob that is there ends at once, without error, with the whole size" => write_present;
    Must "byte-stream/write-wrong-hash", "ContentAddressableStorage":
        "data that does not match its digest is INVALID_ARGUMENT, and is not stored" => write_wrong_hash;
    Must "byte-stream/write-too-short", "ContentAddressableStorage":
        "data that is finished before its size is INVALID_ARGUMENT" => write_too_short;
    Must "byte-stream/write-too-long", "ContentAddressableStorage":
        "data that goes beyond its size is INVALID_ARGUMENT" => write_too_long;
    Must "byte-stream/write-wrong-offset", "WriteRequest.write_offset":
        "an offset that does not continue what was sent is an error" => write_wrong_offset;
    Must "byte-stream/write-malformed-name", "ContentAddressableStorage":
        "a resource name of another form is INVALID_ARGUMENT" => write_malformed_name;
    Must "byte-stream/write-concurrently", "ContentAddressableStorage":
        "the same blob may be uploaded several times at once" => write_concurrently;
    Must "byte-stream/status-of-complete", "QueryWriteStatusResponse.complete":
        "the status of a finished write is complete, with its size" => status_complete;
    Must "byte-stream/status-of-unknown", "ByteStream.QueryWriteStatus":
        "the status of a write that nobody began is NOT_FOUND, or nothing committed" => status_unknown;
    Should "byte-stream/resume", "QueryWriteStatusResponse.committed_size":
        "a write whose stream ended early goes on at committed_size" => resume;
    Must "byte-stream/read-whole", "ByteStream.Read":
        "without offset and limit the whole blob is read" => read_whole;
    Must "byte-stream/read-offset", "ReadRequest.read_offset":
        "reading begins at the offset" => read_offset;
    Must "byte-stream/read-limit", "ReadRequest.read_limit":
        "no more is read than the limit; a limit beyond the end is no error" => read_limit;
    Must "byte-stream/read-at-end", "ReadRequest.read_offset":
        "an offset at the end reads nothing" => read_at_end;
    Must "byte-stream/read-beyond-end", "ReadRequest.read_offset":
        "an offset beyond the end, or below zero, is OUT_OF_RANGE" => read_beyond_end;
    Must "byte-stream/read-negative-limit", "ReadRequest.read_limit":
        "a limit below zero is an error" => read_negative_limit;
    Must "byte-stream/read-not-found", "ByteStream.Read":
        "a blob that is not there is NOT_FOUND" => read_not_found;
    Must "byte-stream/read-empty-blob", "ContentAddressableStorage":
        "the empty blob can be read though nobody wrote it" => read_empty;
    Must "byte-stream/read-malformed-name", "ContentAddressableStorage":
        "a resource name of another form is INVALID_ARGUMENT" => read_malformed_name;
];

/// Whether the store has exactly these bytes under this digest.
async fn stored(session: &Session, digest: &Digest, bytes: &Bytes) -> Answer {
    let read = session.read(&session.read_name(digest), 0, 0).await?;
    require!(read == bytes, "{} bytes were written, and {} other ones came back", bytes.len(), read.len());
    Ok(())
}

async fn written(session: &Session, bytes: Bytes, messages: &[(i64, Bytes, bool)]) -> Answer {
    let digest = session.digest(&bytes);
    let committed = session.write(&session.write_name(&digest), messages).await?;
    require!(committed == digest.size_bytes, "committed_size is {committed} of {}", digest.size_bytes);
    stored(session, &digest, &bytes).await
}

async fn write_stores(session: &Session) -> Answer {
    let bytes = session.bytes(100_000);
    written(session, bytes.clone(), &[(0, bytes, true)]).await
}

async fn write_in_parts(session: &Session) -> Answer {
    let bytes = session.bytes(200_000);
    let part = |from: usize, to: usize, finish| (from as i64, bytes.slice(from..to), finish);
    let messages = [
        part(0, 1, false),
        part(1, 1, false),
        part(1, 70_001, false),
        part(70_001, 200_000, false),
        part(200_000, 200_000, true),
    ];
    written(session, bytes.clone(), &messages).await
}

async fn write_large(session: &Session) -> Answer {
    let bytes = session.bytes((9 << 20) + 1);
    written(session, bytes.clone(), &parts(&bytes)).await
}

async fn write_empty(session: &Session) -> Answer {
    written(session, Bytes::new(), &[(0, Bytes::new(), true)]).await
}

async fn write_metadata(session: &Session) -> Answer {
    let bytes = session.bytes(1000);
    let digest = session.digest(&bytes);
    let name = format!("{}/bazel-out/k8 fastbuild/a.o", session.write_name(&digest));
    session.write(&name, &[(0, bytes.clone(), true)]).await?;
    stored(session, &digest, &bytes).await
}

async fn write_present(session: &Session) -> Answer {
    let bytes = session.bytes(100_000);
    let digest = session.upload(bytes.clone()).await?;
    // Only the beginning is sent, and the write is left open: whoever has the blob has no need of the rest.
    let begun = WriteRequest {
        resource_name: session.write_name(&digest),
        write_offset: 0,
        finish_write: false,
        data: bytes.slice(..1000),
    };
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    sender.send(begun).await.map_err(|_| Finding::Broken("the request was not read".into()))?;
    let mut client = session.byte_stream();
    let answer = client.write(tokio_stream::wrappers::ReceiverStream::new(requests)).await?;
    drop(sender);
    let committed = answer.into_inner().committed_size;
    require!(committed == digest.size_bytes, "committed_size is {committed} of {}", digest.size_bytes);
    Ok(())
}

/// Whether a write is refused and leaves nothing behind.
async fn refused_write(session: &Session, digest: &Digest, messages: &[(i64, Bytes, bool)]) -> Answer {
    let answer = session.write(&session.write_name(digest), messages).await;
    refused(answer, &[Code::InvalidArgument], "it")?;
    refused(session.read(&session.read_name(digest), 0, 0).await, &[Code::NotFound], "reading it afterwards")
}

async fn write_wrong_hash(session: &Session) -> Answer {
    refused_write(session, &session.unknown_digest(1000), &[(0, session.bytes(1000), true)]).await
}

async fn write_too_short(session: &Session) -> Answer {
    let bytes = session.bytes(1000);
    refused_write(session, &session.digest(&bytes), &[(0, bytes.slice(..999), true)]).await
}

async fn write_too_long(session: &Session) -> Answer {
    let bytes = session.bytes(1001);
    let digest = session.digest(&bytes[..1000]);
    refused_write(session, &digest, &[(0, bytes.slice(..500), false), (500, bytes.slice(500..), true)]).await
}

async fn write_wrong_offset(session: &Session) -> Answer {
    let bytes = session.bytes(1000);
    let digest = session.digest(&bytes);
    let messages = [(0, bytes.slice(..500), false), (400, bytes.slice(500..), true)];
    let answer = session.write(&session.write_name(&digest), &messages).await;
    require!(answer.is_err(), "it was answered OK");
    Ok(())
}

async fn write_malformed_name(session: &Session) -> Answer {
    let bytes = session.bytes(10);
    let digest = session.digest(&bytes);
    let names = [
        format!("{}uploads/{}/blobs/{}", session.prefix(), session.upload_id(), digest.hash),
        format!("{}uploads/{}/blobs/{}/many", session.prefix(), session.upload_id(), digest.hash),
        format!("{}uploads/{}/{}/{}", session.prefix(), session.upload_id(), digest.hash, digest.size_bytes),
        session.read_name(&digest),
        String::new(),
    ];
    for name in names {
        let answer = session.write(&name, &[(0, bytes.clone(), true)]).await;
        refused(answer, &[Code::InvalidArgument], &format!("a write to `{name}`"))?;
    }
    Ok(())
}

async fn write_concurrently(session: &Session) -> Answer {
    let bytes = session.bytes(500_000);
    let digest = session.digest(&bytes);
    let messages = [(0, bytes.slice(..250_000), false), (250_000, bytes.slice(250_000..), true)];
    let names: Vec<_> = (0..4).map(|_| session.write_name(&digest)).collect();
    let writes = names.iter().map(|name| session.write(name, &messages));
    for committed in futures_util::future::join_all(writes).await {
        let committed = committed?;
        require!(committed == digest.size_bytes, "committed_size is {committed} of {}", digest.size_bytes);
    }
    stored(session, &digest, &bytes).await
}

/// The status of a write. Servers may do without: nothing in the specification asks for the method.
async fn status(session: &Session, name: &str) -> Result<Result<QueryWriteStatusResponse, Status>, Finding> {
    let request = QueryWriteStatusRequest { resource_name: name.to_owned() };
    match session.byte_stream().query_write_status(request).await {
        Ok(status) => Ok(Ok(status.into_inner())),
        Err(status) if status.code() == Code::Unimplemented => Err(Finding::of_optional(status)),
        Err(status) => Ok(Err(status)),
    }
}

async fn status_complete(session: &Session) -> Answer {
    let bytes = session.bytes(1000);
    let name = session.write_name(&session.digest(&bytes));
    session.write(&name, &[(0, bytes, true)]).await?;
    let status = status(session, &name).await??;
    require!(status.complete && status.committed_size == 1000, "{status:?}");
    Ok(())
}

async fn status_unknown(session: &Session) -> Answer {
    match status(session, &session.write_name(&session.unknown_digest(1000))).await? {
        Ok(status) => {
            require!(!status.complete && status.committed_size == 0, "{status:?}");
            Ok(())
        }
        refusal => refused(refusal, &[Code::NotFound], "it"),
    }
}

async fn resume(session: &Session) -> Answer {
    let bytes = session.bytes(100_000);
    let digest = session.digest(&bytes);
    let name = session.write_name(&digest);
    // The stream ends without finish_write, as it does when a connection is lost.
    let _cut_off = session.write(&name, &[(0, bytes.slice(..60_000), false)]).await;
    let begun = status(session, &name).await??;
    require!(!begun.complete, "it is complete: {begun:?}");
    let offset = usize::try_from(begun.committed_size).unwrap_or(usize::MAX);
    require!(
        offset > 0 && offset <= 60_000,
        "of 60000 bytes that were sent, committed_size is {}",
        begun.committed_size
    );
    let committed = session.write(&name, &[(begun.committed_size, bytes.slice(offset..), true)]).await?;
    require!(committed == digest.size_bytes, "committed_size is {committed} of {}", digest.size_bytes);
    stored(session, &digest, &bytes).await
}

/// A blob that is there, and the name to read it by.
async fn present(session: &Session) -> Result<(Bytes, String), Finding> {
    let bytes = session.bytes(100_000);
    let digest = session.upload(bytes.clone()).await?;
    Ok((bytes, session.read_name(&digest)))
}

/// Whether reading answers a part of the blob.
async fn reads(session: &Session, offset: i64, limit: i64, from: usize, to: usize) -> Answer {
    let (bytes, name) = present(session).await?;
    let read = session.read(&name, offset, limit).await?;
    require!(read == bytes[from..to], "offset {offset}, limit {limit}: {} bytes, not {from} to {to}", read.len());
    Ok(())
}

async fn read_whole(session: &Session) -> Answer {
    reads(session, 0, 0, 0, 100_000).await
}

async fn read_offset(session: &Session) -> Answer {
    reads(session, 1, 0, 1, 100_000).await?;
    reads(session, 99_999, 0, 99_999, 100_000).await
}

async fn read_limit(session: &Session) -> Answer {
    reads(session, 0, 1, 0, 1).await?;
    reads(session, 70_000, 10_000, 70_000, 80_000).await?;
    reads(session, 70_000, 30_001, 70_000, 100_000).await
}

async fn read_at_end(session: &Session) -> Answer {
    reads(session, 100_000, 0, 100_000, 100_000).await
}

async fn read_beyond_end(session: &Session) -> Answer {
    let (_, name) = present(session).await?;
    refused(session.read(&name, 100_001, 0).await, &[Code::OutOfRange], "an offset of 100001 in 100000 bytes")?;
    refused(session.read(&name, -1, 0).await, &[Code::OutOfRange], "an offset of -1")
}

async fn read_negative_limit(session: &Session) -> Answer {
    let (_, name) = present(session).await?;
    let answer = session.read(&name, 0, -1).await;
    require!(answer.is_err(), "it was answered OK");
    Ok(())
}

async fn read_not_found(session: &Session) -> Answer {
    let name = session.read_name(&session.unknown_digest(1000));
    refused(session.read(&name, 0, 0).await, &[Code::NotFound], "it")
}

async fn read_empty(session: &Session) -> Answer {
    let read = session.read(&session.read_name(&session.digest(b"")), 0, 0).await?;
    require!(read.is_empty(), "it has {} bytes", read.len());
    Ok(())
}

async fn read_malformed_name(session: &Session) -> Answer {
    let (_, name) = present(session).await?;
    let (without_size, _) = name.rsplit_once('/').unwrap_or_default();
    let names = [without_size.to_owned(), format!("{without_size}/many"), format!("{without_size}/-1"), String::new()];
    for name in names {
        match session.read(&name, 0, 0).await {
            Ok(bytes) => broken!("`{name}` was answered with {} bytes", bytes.len()),
            refusal => refused(refusal, &[Code::InvalidArgument], &format!("`{name}`"))?,
        }
    }
    Ok(())
}
