//! Rules of digest functions: every one that is listed works everywhere.

use muster_model::digest::DigestFunction;
use muster_proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, FindMissingBlobsRequest, batch_update_blobs_request,
};
use tonic::Code;

use super::session::{Session, digest_with, function_number};
use super::{Answer, Check, Finding, checks, named, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "functions/sha256", "DigestFunction.SHA256":
        "blobs go in and come out by SHA-256, when it is listed" => sha256;
    Must "functions/blake3", "DigestFunction.BLAKE3":
        "blobs go in and come out by BLAKE3, when it is listed" => blake3;
    Must "functions/sha256-without-a-word", "FindMissingBlobsRequest.digest_function":
        "a request that names no function means SHA-256 by the length of its hashes" => unnamed;
    Must "functions/blake3-in-names", "ContentAddressableStorage":
        "resource names of BLAKE3 blobs hold the function's name" => blake3_in_names;
];

fn offered(session: &Session, function: DigestFunction) -> Answer {
    session.cache_capabilities()?;
    match session.functions().contains(&function) {
        true => Ok(()),
        false => Err(Finding::NotOffered(format!("{} is not listed in digest_functions", function.name()))),
    }
}

/// Uploads, asks for and reads one blob; `number` is what the requests say the function is.
async fn round_trip(session: &Session, function: DigestFunction, number: i32) -> Answer {
    let bytes = session.bytes(1000);
    let digest = digest_with(function, &bytes);
    let instance_name = session.instance();
    let one = batch_update_blobs_request::Request { digest: Some(digest.clone()), data: bytes.clone(), compressor: 0 };
    let update =
        BatchUpdateBlobsRequest { instance_name: instance_name.clone(), requests: vec![one], digest_function: number };
    let responses = session.cas().batch_update_blobs(update).await?.into_inner().responses;
    let codes = responses.iter().map(|one| Code::from(one.status.clone().unwrap_or_default().code)).collect::<Vec<_>>();
    require!(codes == [Code::Ok], "BatchUpdateBlobs answered {}", named(&codes));
    let find = FindMissingBlobsRequest {
        instance_name: instance_name.clone(),
        blob_digests: vec![digest.clone()],
        digest_function: number,
    };
    let missing = session.cas().find_missing_blobs(find).await?.into_inner().missing_blob_digests;
    require!(missing.is_empty(), "the blob is missing after its upload");
    let read = BatchReadBlobsRequest {
        instance_name,
        digests: vec![digest],
        acceptable_compressors: Vec::new(),
        digest_function: number,
    };
    let responses = session.cas().batch_read_blobs(read).await?.into_inner().responses;
    require!(responses.len() == 1 && responses[0].data == bytes, "other bytes came back");
    Ok(())
}

async fn sha256(session: &Session) -> Answer {
    offered(session, DigestFunction::Sha256)?;
    round_trip(session, DigestFunction::Sha256, function_number(DigestFunction::Sha256)).await
}

async fn blake3(session: &Session) -> Answer {
    offered(session, DigestFunction::Blake3)?;
    round_trip(session, DigestFunction::Blake3, function_number(DigestFunction::Blake3)).await
}

async fn unnamed(session: &Session) -> Answer {
    offered(session, DigestFunction::Sha256)?;
    // An instance may have another default; then nothing can be told from a length of 32 bytes, which both functions make.
    if session.instance().rsplit('/').next() == Some("blake3") {
        return Err(Finding::NotOffered("the instance's own function is BLAKE3".into()));
    }
    round_trip(session, DigestFunction::Sha256, 0).await
}

async fn blake3_in_names(session: &Session) -> Answer {
    offered(session, DigestFunction::Blake3)?;
    let bytes = session.bytes(1000);
    let Digest { hash, size_bytes } = digest_with(DigestFunction::Blake3, &bytes);
    let name = format!("{}uploads/{}/blobs/blake3/{hash}/{size_bytes}", session.prefix(), session.upload_id());
    session.write(&name, &[(0, bytes.clone(), true)]).await?;
    let name = format!("{}blobs/blake3/{hash}/{size_bytes}", session.prefix());
    let read = session.read(&name, 0, 0).await?;
    require!(read == bytes, "other bytes came back");
    let other = format!("{}blobs/blake3/{}/{size_bytes}", session.prefix(), session.unknown_digest(1000).hash);
    super::refused(session.read(&other, 0, 0).await, &[Code::NotFound], "a blob that is not there")
}
