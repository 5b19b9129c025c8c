//! Rules of the ContentAddressableStorage service for blobs that fit a message.

use bytes::Bytes;
use muster_proto::code_name;
use muster_proto::reapi::{BatchReadBlobsRequest, Digest};
use tonic::{Code, Status};

use super::session::Session;
use super::{Answer, Check, Finding, broken, checks, named, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "cas/missing-lists-absent", "FindMissingBlobsResponse.missing_blob_digests":
        "blobs that are not in the store are listed" => missing_lists_absent;
    Must "cas/missing-omits-present", "FindMissingBlobsResponse.missing_blob_digests":
        "blobs that are in the store are not listed" => missing_omits_present;
    Must "cas/missing-empty-blob", "ContentAddressableStorage":
        "the empty blob is always there, whether it was uploaded or not" => missing_empty_blob;
    Must "cas/missing-of-nothing", "FindMissingBlobsRequest.blob_digests":
        "asking for no blob at all is answered with none" => missing_of_nothing;
    Must "cas/size-is-part-of-digest", "Digest":
        "a hash with another size is another digest: it is refused or missing, never there" => size_is_part_of_digest;
    Must "cas/malformed-hash", "Digest.hash":
        "a hash that is not lower-case hexadecimal is refused or missing, never there" => malformed_hash;
    Must "cas/update-stores", "ContentAddressableStorage.BatchUpdateBlobs":
        "each blob of a batch is stored and has a status of its own" => update_stores;
    Must "cas/update-again", "ContentAddressableStorage.BatchUpdateBlobs":
        "uploading what is there already succeeds" => update_again;
    Must "cas/update-empty-blob", "ContentAddressableStorage":
        "the empty blob can be uploaded like any other" => update_empty_blob;
    Must "cas/update-wrong-hash", "ContentAddressableStorage.BatchUpdateBlobs":
        "data that does not match its digest is INVALID_ARGUMENT, and is not stored" => update_wrong_hash;
    Must "cas/update-wrong-size", "ContentAddressableStorage.BatchUpdateBlobs":
        "the right hash with the wrong size is INVALID_ARGUMENT" => update_wrong_size;
    Must "cas/update-independent", "ContentAddressableStorage.BatchUpdateBlobs":
        "blobs of a batch succeed or fail independently" => update_independent;
    Must "cas/update-too-much", "ContentAddressableStorage.BatchUpdateBlobs":
        "a batch above the stated limit is INVALID_ARGUMENT" => update_too_much;
    Clients "cas/update-full-batch", "CacheCapabilities.max_batch_total_size_bytes":
        "a batch of exactly the stated limit is taken" => update_full_batch;
    Must "cas/read-returns", "ContentAddressableStorage.BatchReadBlobs":
        "blobs come back byte for byte, one response for each digest" => read_returns;
    Must "cas/read-not-found", "ContentAddressableStorage.BatchReadBlobs":
        "a blob that is not there is NOT_FOUND in its own status, and the others are answered" => read_not_found;
    Must "cas/read-empty-blob", "ContentAddressableStorage":
        "the empty blob can be read though nobody uploaded it" => read_empty_blob;
    Must "cas/read-too-much", "ContentAddressableStorage.BatchReadBlobs":
        "reading more than the stated limit at once is INVALID_ARGUMENT" => read_too_much;
];

async fn missing_lists_absent(session: &Session) -> Answer {
    let absent = [session.unknown_digest(1), session.unknown_digest(100)];
    let missing = session.missing(&absent).await?;
    require!(absent.iter().all(|digest| missing.contains(digest)), "{} of 2 are listed", missing.len());
    Ok(())
}

async fn missing_omits_present(session: &Session) -> Answer {
    let present = session.upload(session.bytes(100)).await?;
    let absent = session.unknown_digest(100);
    let missing = session.missing(&[present.clone(), absent.clone(), present]).await?;
    require!(missing == [absent], "{missing:?}");
    Ok(())
}

async fn missing_empty_blob(session: &Session) -> Answer {
    let missing = session.missing(&[session.digest(b"")]).await?;
    require!(missing.is_empty(), "the empty blob is listed");
    Ok(())
}

async fn missing_of_nothing(session: &Session) -> Answer {
    let missing = session.missing(&[]).await?;
    require!(missing.is_empty(), "{missing:?}");
    Ok(())
}

/// Whether a digest that names no blob is refused or missing.
async fn never_there(session: &Session, digest: Digest) -> Answer {
    match session.missing(std::slice::from_ref(&digest)).await {
        Ok(missing) => require!(missing.contains(&digest), "FindMissingBlobs says that {digest:?} is there"),
        Err(status) => invalid(&status, "FindMissingBlobs")?,
    }
    match session.read(&session.read_name(&digest), 0, 0).await {
        Ok(bytes) => broken!("Read answered {} bytes", bytes.len()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => invalid(&status, "Read"),
    }
}

fn invalid(status: &Status, what: &str) -> Answer {
    refused(Err::<(), _>(status.clone()), &[Code::InvalidArgument], what)
}

async fn size_is_part_of_digest(session: &Session) -> Answer {
    let present = session.upload(session.bytes(100)).await?;
    never_there(session, Digest { size_bytes: 99, ..present.clone() }).await?;
    never_there(session, Digest { size_bytes: 101, ..present.clone() }).await?;
    never_there(session, Digest { size_bytes: -1, ..present }).await
}

async fn malformed_hash(session: &Session) -> Answer {
    let present = session.upload(session.bytes(100)).await?;
    let upper = present.hash.to_uppercase();
    // A hash of digits alone reads the same in both cases.
    if upper != present.hash {
        never_there(session, Digest { hash: upper, ..present.clone() }).await?;
    }
    never_there(session, Digest { hash: present.hash[..40].to_owned(), ..present.clone() }).await?;
    never_there(session, Digest { hash: format!("../{}", &present.hash[3..]), ..present }).await
}

async fn update_stores(session: &Session) -> Answer {
    let blobs: Vec<_> = [1, 1000, 100_000].map(|size| session.bytes(size)).into();
    let digests: Vec<_> = blobs.iter().map(|bytes| session.digest(bytes)).collect();
    let codes = session.update(digests.iter().cloned().zip(blobs).collect()).await?;
    require!(codes == [Code::Ok; 3], "the statuses are {}", named(&codes));
    let missing = session.missing(&digests).await?;
    require!(missing.is_empty(), "{} of 3 are missing afterwards", missing.len());
    Ok(())
}

async fn update_again(session: &Session) -> Answer {
    let bytes = session.bytes(100);
    let digest = session.upload(bytes.clone()).await?;
    let codes = session.update(vec![(digest, bytes)]).await?;
    require!(codes == [Code::Ok], "the status is {}", named(&codes));
    Ok(())
}

async fn update_empty_blob(session: &Session) -> Answer {
    let codes = session.update(vec![(session.digest(b""), Bytes::new())]).await?;
    require!(codes == [Code::Ok], "the status is {}", named(&codes));
    Ok(())
}

/// A batch of one that has to be refused, for itself or as a whole.
async fn refused_and_not_stored(session: &Session, digest: Digest, data: Bytes) -> Answer {
    match session.update(vec![(digest.clone(), data)]).await {
        Ok(codes) => require!(codes == [Code::InvalidArgument], "the status is {}", named(&codes)),
        Err(status) => invalid(&status, "the request")?,
    }
    never_there(session, digest).await
}

async fn update_wrong_hash(session: &Session) -> Answer {
    refused_and_not_stored(session, session.unknown_digest(100), session.bytes(100)).await
}

async fn update_wrong_size(session: &Session) -> Answer {
    let bytes = session.bytes(100);
    let digest = Digest { size_bytes: 99, ..session.digest(&bytes) };
    refused_and_not_stored(session, digest, bytes).await
}

async fn update_independent(session: &Session) -> Answer {
    let good = session.bytes(100);
    let digest = session.digest(&good);
    let codes = session.update(vec![(session.unknown_digest(50), session.bytes(50)), (digest.clone(), good)]).await?;
    require!(codes == [Code::InvalidArgument, Code::Ok], "the statuses are {}", named(&codes));
    let missing = session.missing(&[digest]).await?;
    require!(missing.is_empty(), "the good one is missing afterwards");
    Ok(())
}

/// What a batch of [`batch`] has beside its data, at most: some seventy bytes for each of its digests.
const BATCH_OVERHEAD: usize = 4096;

/// Blobs that are together `total` bytes, none above a quarter of a mebibyte.
fn batch(session: &Session, total: usize) -> Vec<(Digest, Bytes)> {
    const PART: usize = 256 * 1024;
    let sizes = (0..total.div_ceil(PART)).map(|index| PART.min(total - index * PART));
    sizes.map(|size| session.bytes(size)).map(|bytes| (session.digest(&bytes), bytes)).collect()
}

fn stated_limit(session: &Session) -> Result<usize, Finding> {
    match usize::try_from(session.cache_capabilities()?.max_batch_total_size_bytes) {
        Ok(0) => Err(Finding::NotOffered("max_batch_total_size_bytes is 0: no limit".into())),
        Ok(limit) => Ok(limit),
        Err(_) => Err(Finding::Broken("max_batch_total_size_bytes is negative".into())),
    }
}

async fn update_too_much(session: &Session) -> Answer {
    let limit = stated_limit(session)?;
    match session.update(batch(session, limit + 1)).await {
        // A message past gRPC's own limit, 4 MiB unless a server changes it, is refused before the service sees it.
        Err(status) if limit + BATCH_OVERHEAD > 4 << 20 => {
            refused(Err::<(), _>(status), &[Code::InvalidArgument, Code::ResourceExhausted, Code::OutOfRange], "it")
        }
        Err(status) => invalid(&status, "it"),
        Ok(codes) if codes.iter().all(|code| *code == Code::InvalidArgument) => Ok(()),
        Ok(codes) => {
            broken!("{} of {} blobs are OK", codes.iter().filter(|code| **code == Code::Ok).count(), codes.len())
        }
    }
}

async fn update_full_batch(session: &Session) -> Answer {
    let blobs = batch(session, stated_limit(session)?);
    let count = blobs.len();
    let codes = session.update(blobs).await?;
    require!(codes == vec![Code::Ok; count], "the statuses are {}", named(&codes));
    Ok(())
}

async fn read_returns(session: &Session) -> Answer {
    for size in [1, 1000, 100_000] {
        let bytes = session.bytes(size);
        let digest = session.upload(bytes.clone()).await?;
        let read = session.read_one(&digest).await?;
        require!(read == bytes, "{size} bytes came back as {} other ones", read.len());
    }
    Ok(())
}

async fn read_not_found(session: &Session) -> Answer {
    let bytes = session.bytes(100);
    let (present, absent) = (session.upload(bytes.clone()).await?, session.unknown_digest(100));
    let request = BatchReadBlobsRequest {
        instance_name: session.instance(),
        digests: vec![absent.clone(), present.clone()],
        acceptable_compressors: Vec::new(),
        digest_function: session.function_number(),
    };
    let responses = session.cas().batch_read_blobs(request).await?.into_inner().responses;
    require!(responses.len() == 2, "{} responses to 2 digests", responses.len());
    for response in responses {
        let code = Code::from(response.status.unwrap_or_default().code);
        if response.digest.as_ref() == Some(&absent) {
            require!(code == Code::NotFound, "the absent one is {}", code_name(code));
        } else {
            require!(code == Code::Ok && response.data == bytes, "the present one is {}", code_name(code));
        }
    }
    Ok(())
}

async fn read_empty_blob(session: &Session) -> Answer {
    let read = session.read_one(&session.digest(b"")).await?;
    require!(read.is_empty(), "it has {} bytes", read.len());
    Ok(())
}

async fn read_too_much(session: &Session) -> Answer {
    let limit = stated_limit(session)?;
    let mut digests = Vec::new();
    for (_, bytes) in batch(session, limit + 1) {
        digests.push(session.upload(bytes).await?);
    }
    let request = BatchReadBlobsRequest {
        instance_name: session.instance(),
        digests,
        acceptable_compressors: Vec::new(),
        digest_function: session.function_number(),
    };
    match session.cas().batch_read_blobs(request).await {
        Err(status) => invalid(&status, "it"),
        Ok(answer) => broken!("{} blobs came back", answer.into_inner().responses.len()),
    }
}
