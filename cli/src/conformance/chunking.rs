//! Rules of SplitBlob and SpliceBlob.

use bytes::Bytes;
use muster_proto::reapi::{
    Digest, SpliceBlobRequest, SpliceBlobResponse, SplitBlobRequest, SplitBlobResponse, chunking_function,
};
use tonic::{Code, Status};

use super::session::Session;
use super::{Answer, Check, Finding, checks, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "chunking/split", "ContentAddressableStorage.SplitBlob":
        "the chunks, joined in their order, are the blob" => split;
    Must "chunking/split-is-stored", "ContentAddressableStorage.SplitBlob":
        "the chunks are in the store" => split_is_stored;
    Should "chunking/split-by-content", "ContentAddressableStorage.SplitBlob":
        "blobs that share most of their content share most of their chunks" => by_content;
    Must "chunking/split-small", "ChunkingFunction.FAST_CDC_2020":
        "a blob below four times the average chunk, 2 MiB, is a chunk by itself" => split_small;
    Must "chunking/split-not-found", "ContentAddressableStorage.SplitBlob":
        "a blob that is not there is NOT_FOUND" => split_not_found;
    Must "chunking/splice", "ContentAddressableStorage.SpliceBlob":
        "chunks that are there are joined to a blob" => splice;
    Must "chunking/splice-wrong-digest", "ContentAddressableStorage.SpliceBlob":
        "chunks that join to other bytes than the digest says are INVALID_ARGUMENT, and nothing is stored" => splice_wrong;
    Must "chunking/splice-missing-chunk", "ContentAddressableStorage.SpliceBlob":
        "a chunk that is not there is NOT_FOUND" => splice_missing;
];

fn splits(session: &Session) -> Answer {
    match session.cache_capabilities()?.split_blob_support {
        true => Ok(()),
        false => Err(Finding::NotOffered("split_blob_support is false".into())),
    }
}

fn splices(session: &Session) -> Answer {
    match session.cache_capabilities()?.splice_blob_support {
        true => Ok(()),
        false => Err(Finding::NotOffered("splice_blob_support is false".into())),
    }
}

async fn ask(session: &Session, digest: &Digest) -> Result<SplitBlobResponse, Status> {
    let request = SplitBlobRequest {
        instance_name: session.instance(),
        blob_digest: Some(digest.clone()),
        digest_function: session.function_number(),
        chunking_function: chunking_function::Value::FastCdc2020.into(),
    };
    Ok(session.cas().split_blob(request).await?.into_inner())
}

async fn join(session: &Session, blob: Digest, chunks: Vec<Digest>) -> Result<SpliceBlobResponse, Status> {
    let request = SpliceBlobRequest {
        instance_name: session.instance(),
        blob_digest: Some(blob),
        chunk_digests: chunks,
        digest_function: session.function_number(),
        chunking_function: chunking_function::Value::Unknown.into(),
    };
    Ok(session.cas().splice_blob(request).await?.into_inner())
}

/// A blob that is large enough to be split.
async fn large(session: &Session) -> Result<(Bytes, Digest), Finding> {
    let bytes = session.bytes(6 << 20);
    let digest = session.upload(bytes.clone()).await?;
    Ok((bytes, digest))
}

async fn split(session: &Session) -> Answer {
    splits(session)?;
    let (bytes, digest) = large(session).await?;
    let chunks = ask(session, &digest).await?.chunk_digests;
    require!(chunks.len() > 1, "6 MiB are {} chunks", chunks.len());
    let mut joined = Vec::new();
    for chunk in &chunks {
        joined.extend(session.read(&session.read_name(chunk), 0, 0).await?);
    }
    require!(joined == bytes, "{} chunks join to {} other bytes", chunks.len(), joined.len());
    Ok(())
}

async fn split_is_stored(session: &Session) -> Answer {
    splits(session)?;
    let (_, digest) = large(session).await?;
    let chunks = ask(session, &digest).await?.chunk_digests;
    let missing = session.missing(&chunks).await?;
    require!(missing.is_empty(), "{} of {} are missing", missing.len(), chunks.len());
    Ok(())
}

async fn by_content(session: &Session) -> Answer {
    splits(session)?;
    let (bytes, digest) = large(session).await?;
    let shifted = session.upload([&session.bytes(1000), &bytes[..]].concat().into()).await?;
    let (first, second) = (ask(session, &digest).await?.chunk_digests, ask(session, &shifted).await?.chunk_digests);
    let shared = second.iter().filter(|chunk| first.contains(chunk)).count();
    require!(shared * 2 > second.len(), "1000 bytes before 6 MiB leave {shared} chunks of {}", second.len());
    Ok(())
}

async fn split_small(session: &Session) -> Answer {
    splits(session)?;
    let bytes = session.bytes((2 << 20) - 1);
    let digest = session.upload(bytes).await?;
    let answer = ask(session, &digest).await?;
    if answer.chunking_function != i32::from(chunking_function::Value::FastCdc2020) {
        return Err(Finding::NotOffered(format!("the function is {}", answer.chunking_function)));
    }
    require!(answer.chunk_digests == [digest], "it is {} chunks", answer.chunk_digests.len());
    Ok(())
}

async fn split_not_found(session: &Session) -> Answer {
    splits(session)?;
    refused(ask(session, &session.unknown_digest(4 << 20)).await, &[Code::NotFound], "it")
}

/// Bytes whose two halves are in the store.
async fn halves(session: &Session) -> Result<(Bytes, [Digest; 2]), Finding> {
    let bytes = session.bytes(300_000);
    let first = session.upload(bytes.slice(..100_000)).await?;
    let second = session.upload(bytes.slice(100_000..)).await?;
    Ok((bytes, [first, second]))
}

async fn splice(session: &Session) -> Answer {
    splices(session)?;
    let (bytes, chunks) = halves(session).await?;
    let digest = session.digest(&bytes);
    let answered = join(session, digest.clone(), chunks.to_vec()).await?.blob_digest;
    require!(answered.as_ref() == Some(&digest), "the answer is {answered:?}");
    let read = session.read(&session.read_name(&digest), 0, 0).await?;
    require!(read == bytes, "other bytes came back");
    Ok(())
}

async fn splice_wrong(session: &Session) -> Answer {
    splices(session)?;
    let (bytes, [first, second]) = halves(session).await?;
    let digest = session.digest(&bytes);
    let answer = join(session, digest.clone(), vec![second, first]).await;
    refused(answer, &[Code::InvalidArgument], "it")?;
    let missing = session.missing(std::slice::from_ref(&digest)).await?;
    require!(missing == [digest], "it is there afterwards");
    Ok(())
}

async fn splice_missing(session: &Session) -> Answer {
    splices(session)?;
    let (_, [first, _]) = halves(session).await?;
    let lost = session.bytes(100);
    let answer = join(session, session.unknown_digest(100_100), vec![first, session.digest(&lost)]).await;
    refused(answer, &[Code::NotFound], "it")
}
