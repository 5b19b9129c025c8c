//! Rules of compressed blobs, with zstd.

use bytes::Bytes;
use muster_proto::code_name;
use muster_proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest, batch_update_blobs_request, compressor,
};
use tonic::Code;

use super::session::Session;
use super::{Answer, Check, Finding, broken, checks, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "compression/write", "ContentAddressableStorage":
        "a blob written to compressed-blobs/zstd is stored as what it expands to" => write;
    Must "compression/write-wrong-hash", "ContentAddressableStorage":
        "what expands to other bytes than the digest says is INVALID_ARGUMENT" => write_wrong_hash;
    Must "compression/write-no-zstd", "ContentAddressableStorage":
        "what is no zstd data is INVALID_ARGUMENT" => write_no_zstd;
    Must "compression/write-what-is-there", "ContentAddressableStorage":
        "a compressed write of a blob that is there ends with committed_size -1, or with what was sent" => write_present;
    Must "compression/write-unknown-compressor", "CacheCapabilities.supported_compressors":
        "a compressor that is not listed is INVALID_ARGUMENT" => write_unknown;
    Must "compression/read", "ContentAddressableStorage":
        "a blob read from compressed-blobs/zstd expands to its bytes" => read;
    Must "compression/read-offset", "ReadRequest.read_offset":
        "an offset counts bytes of the blob, not of its compressed form" => read_offset;
    Must "compression/read-limit", "ReadRequest.read_limit":
        "a limit on a compressed read is INVALID_ARGUMENT" => read_limit;
    Must "compression/read-not-found", "ByteStream.Read":
        "a compressed read of a blob that is not there is NOT_FOUND" => read_not_found;
    Must "compression/batch-update", "BatchUpdateBlobsRequest.Request.compressor":
        "blobs of a batch may be compressed" => batch_update;
    Must "compression/batch-update-wrong-hash", "BatchUpdateBlobsRequest.Request.compressor":
        "what expands to other bytes than the digest says is INVALID_ARGUMENT" => batch_update_wrong_hash;
    Must "compression/batch-read", "BatchReadBlobsRequest.acceptable_compressors":
        "a batch is read plain, or in a form that the request accepts" => batch_read;
];

fn zstd_number() -> i32 {
    compressor::Value::Zstd.into()
}

fn offered(session: &Session) -> Answer {
    match session.cache_capabilities()?.supported_compressors.contains(&zstd_number()) {
        true => Ok(()),
        false => Err(Finding::NotOffered("ZSTD is not listed in supported_compressors".into())),
    }
}

fn offered_in_batches(session: &Session) -> Answer {
    match session.cache_capabilities()?.supported_batch_update_compressors.contains(&zstd_number()) {
        true => Ok(()),
        false => Err(Finding::NotOffered("ZSTD is not listed in supported_batch_update_compressors".into())),
    }
}

/// Bytes that shrink: the same thousand again and again.
fn compressible(session: &Session, repeats: usize) -> Bytes {
    session.bytes(1000).repeat(repeats).into()
}

fn compress(bytes: &[u8]) -> Result<Bytes, Finding> {
    let packed = zstd::encode_all(bytes, 0);
    packed.map(Bytes::from).map_err(|error| Finding::Broken(format!("cannot compress: {error}")))
}

fn expand(bytes: &[u8]) -> Result<Vec<u8>, Finding> {
    zstd::decode_all(bytes).map_err(|error| Finding::Broken(format!("the answer is no zstd data: {error}")))
}

fn write_name(session: &Session, digest: &Digest, compressor: &str) -> String {
    let (prefix, upload) = (session.prefix(), session.upload_id());
    format!("{prefix}uploads/{upload}/compressed-blobs/{compressor}/{}", session.name_of(digest))
}

fn read_name(session: &Session, digest: &Digest) -> String {
    format!("{}compressed-blobs/zstd/{}", session.prefix(), session.name_of(digest))
}

async fn write(session: &Session) -> Answer {
    offered(session)?;
    let bytes = compressible(session, 3000);
    let digest = session.digest(&bytes);
    let packed = compress(&bytes)?;
    let (half, sent) = (packed.len() / 2, packed.len() as i64);
    let messages = [(0, packed.slice(..half), false), (half as i64, packed.slice(half..), true)];
    let committed = session.write(&write_name(session, &digest, "zstd"), &messages).await?;
    require!(committed == sent || committed == -1, "committed_size is {committed} of {sent} bytes that were sent");
    let read = session.read(&session.read_name(&digest), 0, 0).await?;
    require!(read == bytes, "{} bytes were written, and {} other ones came back", bytes.len(), read.len());
    Ok(())
}

async fn refused_write(session: &Session, digest: &Digest, compressor: &str, data: Bytes) -> Answer {
    let answer = session.write(&write_name(session, digest, compressor), &[(0, data, true)]).await;
    refused(answer, &[Code::InvalidArgument], "it")?;
    refused(session.read(&session.read_name(digest), 0, 0).await, &[Code::NotFound], "reading it afterwards")
}

async fn write_wrong_hash(session: &Session) -> Answer {
    offered(session)?;
    refused_write(session, &session.unknown_digest(1000), "zstd", compress(&session.bytes(1000))?).await
}

async fn write_no_zstd(session: &Session) -> Answer {
    offered(session)?;
    let bytes = session.bytes(1000);
    refused_write(session, &session.digest(&bytes), "zstd", bytes).await
}

async fn write_present(session: &Session) -> Answer {
    offered(session)?;
    let bytes = compressible(session, 100);
    let digest = session.upload(bytes.clone()).await?;
    let packed = compress(&bytes)?;
    let sent = packed.len() as i64;
    let committed = session.write(&write_name(session, &digest, "zstd"), &[(0, packed, true)]).await?;
    require!(committed == -1 || committed == sent, "committed_size is {committed}, and {sent} bytes were sent");
    Ok(())
}

async fn write_unknown(session: &Session) -> Answer {
    let listed = &session.cache_capabilities()?.supported_compressors;
    let unlisted = [(compressor::Value::Brotli, "brotli"), (compressor::Value::Deflate, "deflate")];
    let Some((_, name)) = unlisted.into_iter().find(|(value, _)| !listed.contains(&i32::from(*value))) else {
        return Err(Finding::NotOffered("every compressor is listed".into()));
    };
    let bytes = session.bytes(100);
    refused_write(session, &session.digest(&bytes), name, bytes).await
}

async fn read(session: &Session) -> Answer {
    offered(session)?;
    let bytes = compressible(session, 3000);
    let digest = session.upload(bytes.clone()).await?;
    let read = expand(&session.read(&read_name(session, &digest), 0, 0).await?)?;
    require!(read == bytes, "{} bytes were uploaded, and {} other ones came back", bytes.len(), read.len());
    let empty = expand(&session.read(&read_name(session, &session.digest(b"")), 0, 0).await?)?;
    require!(empty.is_empty(), "the empty blob expands to {} bytes", empty.len());
    Ok(())
}

async fn read_offset(session: &Session) -> Answer {
    offered(session)?;
    let bytes = compressible(session, 100);
    let digest = session.upload(bytes.clone()).await?;
    let read = expand(&session.read(&read_name(session, &digest), 70_001, 0).await?)?;
    require!(read == bytes[70_001..], "{} bytes came back, not the 29999 from 70001 on", read.len());
    Ok(())
}

async fn read_limit(session: &Session) -> Answer {
    offered(session)?;
    let digest = session.upload(session.bytes(1000)).await?;
    refused(session.read(&read_name(session, &digest), 0, 10).await, &[Code::InvalidArgument], "it")
}

async fn read_not_found(session: &Session) -> Answer {
    offered(session)?;
    refused(session.read(&read_name(session, &session.unknown_digest(10)), 0, 0).await, &[Code::NotFound], "it")
}

/// Uploads one compressed blob in a batch, and answers its status.
async fn update(session: &Session, digest: &Digest, data: Bytes) -> Result<Code, Finding> {
    let one = batch_update_blobs_request::Request { digest: Some(digest.clone()), data, compressor: zstd_number() };
    let request = BatchUpdateBlobsRequest {
        instance_name: session.instance(),
        requests: vec![one],
        digest_function: session.function_number(),
    };
    let responses = session.cas().batch_update_blobs(request).await?.into_inner().responses;
    match &responses[..] {
        [one] => Ok(Code::from(one.status.clone().unwrap_or_default().code)),
        several => broken!("{} responses to one request", several.len()),
    }
}

async fn batch_update(session: &Session) -> Answer {
    offered_in_batches(session)?;
    let bytes = compressible(session, 100);
    let digest = session.digest(&bytes);
    let code = update(session, &digest, compress(&bytes)?).await?;
    require!(code == Code::Ok, "the status is {}", code_name(code));
    let read = session.read_one(&digest).await?;
    require!(read == bytes, "other bytes came back");
    Ok(())
}

async fn batch_update_wrong_hash(session: &Session) -> Answer {
    offered_in_batches(session)?;
    let digest = session.unknown_digest(1000);
    let code = update(session, &digest, compress(&session.bytes(1000))?).await?;
    require!(code == Code::InvalidArgument, "the status is {}", code_name(code));
    let missing = session.missing(std::slice::from_ref(&digest)).await?;
    require!(missing == [digest], "it is there afterwards");
    Ok(())
}

async fn batch_read(session: &Session) -> Answer {
    offered(session)?;
    let bytes = compressible(session, 100);
    let digest = session.upload(bytes.clone()).await?;
    for acceptable in [vec![], vec![zstd_number()]] {
        let request = BatchReadBlobsRequest {
            instance_name: session.instance(),
            digests: vec![digest.clone()],
            acceptable_compressors: acceptable.clone(),
            digest_function: session.function_number(),
        };
        let responses = session.cas().batch_read_blobs(request).await?.into_inner().responses;
        let [response] = &responses[..] else { broken!("{} responses to one digest", responses.len()) };
        let plain = response.compressor == 0;
        require!(plain || acceptable.contains(&response.compressor), "it is in form {}", response.compressor);
        let data = if plain { response.data.to_vec() } else { expand(&response.data)? };
        require!(data == bytes, "other bytes came back, in form {}", response.compressor);
    }
    Ok(())
}
