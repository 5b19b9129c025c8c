//! The connection that checks share: clients, capabilities, bytes nobody has seen before, and the few things that every check does.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use muster_model::digest::{Digest as ModelDigest, DigestFunction, hex};
use muster_model::limits;
use muster_proto::bytestream::byte_stream_client::ByteStreamClient;
use muster_proto::bytestream::{ReadRequest, WriteRequest};
use muster_proto::code_name;
use muster_proto::reapi::action_cache_client::ActionCacheClient;
use muster_proto::reapi::capabilities_client::CapabilitiesClient;
use muster_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use muster_proto::reapi::execution_client::ExecutionClient;
use muster_proto::reapi::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, CacheCapabilities, Digest, ExecutionCapabilities,
    FindMissingBlobsRequest, GetCapabilitiesRequest, RequestMetadata, ServerCapabilities, ToolDetails,
    batch_update_blobs_request, digest_function,
};
use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::Finding;

/// The header in which a client says who it is (`RequestMetadata`).
const METADATA_HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// How a call is made to look: as one of this program, in this run.
#[derive(Clone)]
pub(super) struct Signature(MetadataValue<tonic::metadata::Binary>);

impl Interceptor for Signature {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert_bin(METADATA_HEADER, self.0.clone());
        Ok(request)
    }
}

type Signed = InterceptedService<Channel, Signature>;

/// What a run of checks was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instance that is asked; may be empty.
    pub instance: String,
    /// What blobs are made from.
    pub seed: u64,
    /// Platform properties of every action.
    pub properties: Vec<(String, String)>,
}

/// A server that is being asked.
pub struct Session {
    channel: Channel,
    signature: Signature,
    pub(super) options: Options,
    /// Its capabilities; what it said instead when it gave none.
    pub(super) capabilities: Result<ServerCapabilities, Status>,
    /// The function that digests are made with where a check is not about functions.
    pub(super) function: DigestFunction,
    blobs: AtomicU64,
}

impl Session {
    /// Asks for the capabilities, which everything else follows.
    pub async fn open(channel: Channel, options: Options) -> Self {
        let details =
            ToolDetails { tool_name: "muster conformance".into(), tool_version: env!("CARGO_PKG_VERSION").into() };
        let metadata = RequestMetadata {
            tool_details: Some(details),
            tool_invocation_id: uuid(options.seed, 0),
            ..RequestMetadata::default()
        };
        let signature = Signature(MetadataValue::from_bytes(&metadata.encode_to_vec()));
        let mut session = Self {
            channel,
            signature,
            options,
            capabilities: Err(Status::unknown("not asked")),
            function: DigestFunction::Sha256,
            blobs: AtomicU64::new(0),
        };
        session.capabilities = session.ask_capabilities(&session.options.instance).await;
        // The one that the server lists first: where a request can't name its function, that is the one it means.
        if let Some(first) = session.functions().first() {
            session.function = *first;
        }
        session
    }

    pub(super) async fn ask_capabilities(&self, instance: &str) -> Result<ServerCapabilities, Status> {
        let request = GetCapabilitiesRequest { instance_name: instance.to_owned() };
        let mut client = CapabilitiesClient::with_interceptor(self.channel.clone(), self.signature.clone());
        Ok(client.get_capabilities(request).await?.into_inner())
    }

    pub(super) fn cas(&self) -> ContentAddressableStorageClient<Signed> {
        ContentAddressableStorageClient::with_interceptor(self.channel.clone(), self.signature.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
    }

    pub(super) fn byte_stream(&self) -> ByteStreamClient<Signed> {
        ByteStreamClient::with_interceptor(self.channel.clone(), self.signature.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
    }

    pub(super) fn action_cache(&self) -> ActionCacheClient<Signed> {
        ActionCacheClient::with_interceptor(self.channel.clone(), self.signature.clone())
    }

    pub(super) fn execution(&self) -> ExecutionClient<Signed> {
        ExecutionClient::with_interceptor(self.channel.clone(), self.signature.clone())
    }

    /// For services that only one file asks.
    pub(super) fn transport(&self) -> (Channel, Signature) {
        (self.channel.clone(), self.signature.clone())
    }

    pub(super) fn instance(&self) -> String {
        self.options.instance.clone()
    }

    /// The store's capabilities.
    pub(super) fn cache_capabilities(&self) -> Result<&CacheCapabilities, Finding> {
        let capabilities = self.capabilities.as_ref().map_err(|status| Finding::from(status.clone()))?;
        let missing = || Finding::NotOffered("GetCapabilities has no cache_capabilities".into());
        capabilities.cache_capabilities.as_ref().ok_or_else(missing)
    }

    /// The execution service's capabilities, if it is switched on.
    pub(super) fn execution_capabilities(&self) -> Result<&ExecutionCapabilities, Finding> {
        let capabilities = self.capabilities.as_ref().map_err(|status| Finding::from(status.clone()))?;
        match &capabilities.execution_capabilities {
            Some(execution) if execution.exec_enabled => Ok(execution),
            Some(_) => Err(Finding::NotOffered("exec_enabled is false".into())),
            None => Err(Finding::NotOffered("GetCapabilities has no execution_capabilities".into())),
        }
    }

    /// The digest functions that the server lists and this program can compute.
    pub(super) fn functions(&self) -> Vec<DigestFunction> {
        let listed = self.cache_capabilities().map(|cache| cache.digest_functions.clone()).unwrap_or_default();
        let known = |number: &i32| match digest_function::Value::try_from(*number) {
            Ok(digest_function::Value::Sha256) => Some(DigestFunction::Sha256),
            Ok(digest_function::Value::Blake3) => Some(DigestFunction::Blake3),
            _ => None,
        };
        listed.iter().filter_map(known).collect()
    }

    /// The largest total of a batch in bytes; what the server leaves open is limited by gRPC's own message size.
    pub(super) fn batch_bytes_max(&self) -> usize {
        let said = self.cache_capabilities().map_or(0, |cache| cache.max_batch_total_size_bytes);
        usize::try_from(said).ok().filter(|bytes| *bytes > 0).unwrap_or(limits::BATCH_BYTES_MAX)
    }

    /// Bytes that no server has seen: from the seed and how many were made before.
    pub(super) fn bytes(&self, size: usize) -> Bytes {
        let number = self.blobs.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.options.seed.to_le_bytes()).update(&number.to_le_bytes());
        let mut bytes = vec![0; size];
        hasher.finalize_xof().fill(&mut bytes);
        bytes.into()
    }

    /// A word that occurs nowhere else in the run.
    pub(super) fn word(&self) -> String {
        hex(&self.bytes(8))
    }

    /// A name for an upload.
    pub(super) fn upload_id(&self) -> String {
        uuid(self.options.seed, self.blobs.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn digest(&self, bytes: &[u8]) -> Digest {
        digest_with(self.function, bytes)
    }

    /// The digest of bytes that are uploaded nowhere.
    pub(super) fn unknown_digest(&self, size: usize) -> Digest {
        self.digest(&self.bytes(size))
    }

    /// The function's number for requests.
    pub(super) fn function_number(&self) -> i32 {
        function_number(self.function)
    }

    /// Stores a blob the short way when it fits, the long way when it does not.
    pub(super) async fn upload(&self, bytes: Bytes) -> Result<Digest, Finding> {
        let digest = self.digest(&bytes);
        if bytes.len() <= self.batch_bytes_max() {
            let statuses = self.update(vec![(digest.clone(), bytes)]).await?;
            match statuses[..] {
                [Code::Ok] => Ok(digest),
                ref other => {
                    Err(Finding::Broken(format!("BatchUpdateBlobs answered {other:?} for a blob and its digest")))
                }
            }
        } else {
            let name = self.write_name(&digest);
            self.write(&name, &parts(&bytes)).await?;
            Ok(digest)
        }
    }

    pub(super) async fn upload_message(&self, message: &impl Message) -> Result<Digest, Finding> {
        self.upload(message.encode_to_vec().into()).await
    }

    /// BatchUpdateBlobs: the statuses in the order of the requests.
    pub(super) async fn update(&self, blobs: Vec<(Digest, Bytes)>) -> Result<Vec<Code>, Status> {
        let asked: Vec<Digest> = blobs.iter().map(|(digest, _)| digest.clone()).collect();
        let requests = blobs
            .into_iter()
            .map(|(digest, data)| batch_update_blobs_request::Request { digest: Some(digest), data, compressor: 0 })
            .collect();
        let request = BatchUpdateBlobsRequest {
            instance_name: self.instance(),
            requests,
            digest_function: self.function_number(),
        };
        let mut responses = self.cas().batch_update_blobs(request).await?.into_inner().responses;
        if responses.len() != asked.len() {
            return Err(Status::internal(format!("{} responses to {} requests", responses.len(), asked.len())));
        }
        let mut codes = Vec::new();
        for digest in asked {
            // The order of responses is not promised, and a digest may have been asked for twice.
            let Some(found) = responses.iter().position(|response| response.digest.as_ref() == Some(&digest)) else {
                return Err(Status::internal(format!("no response for {}", digest.hash)));
            };
            codes.push(Code::from(responses.swap_remove(found).status.unwrap_or_default().code));
        }
        Ok(codes)
    }

    /// BatchReadBlobs of one blob.
    pub(super) async fn read_one(&self, digest: &Digest) -> Result<Bytes, Finding> {
        let request = BatchReadBlobsRequest {
            instance_name: self.instance(),
            digests: vec![digest.clone()],
            acceptable_compressors: Vec::new(),
            digest_function: self.function_number(),
        };
        let mut responses = self.cas().batch_read_blobs(request).await?.into_inner().responses;
        let Some(response) = responses.pop().filter(|_| responses.is_empty()) else {
            return Err(Finding::Broken("BatchReadBlobs did not answer one digest with one response".into()));
        };
        let status = response.status.unwrap_or_default();
        match Code::from(status.code) {
            Code::Ok => Ok(response.data),
            code => Err(Finding::Broken(format!("BatchReadBlobs answered {}: {}", code_name(code), status.message))),
        }
    }

    /// FindMissingBlobs.
    pub(super) async fn missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Status> {
        let request = FindMissingBlobsRequest {
            instance_name: self.instance(),
            blob_digests: digests.to_vec(),
            digest_function: self.function_number(),
        };
        Ok(self.cas().find_missing_blobs(request).await?.into_inner().missing_blob_digests)
    }

    /// `[instance/]`, as resource names begin.
    pub(super) fn prefix(&self) -> String {
        match self.options.instance.as_str() {
            "" => String::new(),
            instance => format!("{instance}/"),
        }
    }

    /// The resource name under which a blob is read.
    pub(super) fn read_name(&self, digest: &Digest) -> String {
        format!("{}blobs/{}", self.prefix(), self.name_of(digest))
    }

    /// A resource name, with an upload of its own, under which a blob is written.
    pub(super) fn write_name(&self, digest: &Digest) -> String {
        format!("{}uploads/{}/blobs/{}", self.prefix(), self.upload_id(), self.name_of(digest))
    }

    /// `[function/]hash/size`: the function is only written where its hashes could not be told from another's.
    pub(super) fn name_of(&self, digest: &Digest) -> String {
        let function = match self.function {
            DigestFunction::Sha256 => "",
            DigestFunction::Blake3 => "blake3/",
        };
        format!("{function}{}/{}", digest.hash, digest.size_bytes)
    }

    /// ByteStream.Write: messages of `(write_offset, data, finish_write)`; answers the committed size.
    pub(super) async fn write(&self, name: &str, messages: &[(i64, Bytes, bool)]) -> Result<i64, Status> {
        let name = name.to_owned();
        let requests: Vec<_> = messages
            .iter()
            .enumerate()
            .map(|(index, (offset, data, finish))| WriteRequest {
                resource_name: if index == 0 { name.clone() } else { String::new() },
                write_offset: *offset,
                finish_write: *finish,
                data: data.clone(),
            })
            .collect();
        Ok(self.byte_stream().write(tokio_stream::iter(requests)).await?.into_inner().committed_size)
    }

    /// ByteStream.Read, to its end.
    pub(super) async fn read(&self, name: &str, offset: i64, limit: i64) -> Result<Bytes, Status> {
        let request = ReadRequest { resource_name: name.to_owned(), read_offset: offset, read_limit: limit };
        let mut stream = self.byte_stream().read(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(response) = stream.next().await {
            bytes.extend_from_slice(&response?.data);
        }
        Ok(bytes.into())
    }
}

/// A large blob as the messages of a write.
pub(super) fn parts(bytes: &Bytes) -> Vec<(i64, Bytes, bool)> {
    const PART: usize = 1 << 20;
    let count = bytes.len().div_ceil(PART);
    let part = |index: usize| {
        let from = index * PART;
        (from as i64, bytes.slice(from..bytes.len().min(from + PART)), index + 1 == count)
    };
    (0..count).map(part).collect()
}

/// The digest of `bytes` as requests have it.
pub(super) fn digest_with(function: DigestFunction, bytes: &[u8]) -> Digest {
    let hash = match function {
        DigestFunction::Sha256 => hex(&Sha256::digest(bytes)),
        DigestFunction::Blake3 => ModelDigest::of(bytes).hex(),
    };
    Digest { hash, size_bytes: i64::try_from(bytes.len()).unwrap_or(i64::MAX) }
}

pub(super) fn function_number(function: DigestFunction) -> i32 {
    match function {
        DigestFunction::Sha256 => digest_function::Value::Sha256.into(),
        DigestFunction::Blake3 => digest_function::Value::Blake3.into(),
    }
}

/// A version 4 UUID (RFC 9562, section 5.4) whose random bits come from the seed and a number.
fn uuid(seed: u64, number: u64) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("muster conformance upload");
    hasher.update(&seed.to_le_bytes()).update(&number.to_le_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_has_a_random_uuid_of_version_4() {
        let name = uuid(7, 1);
        assert_eq!(name.len(), 36);
        assert_eq!(&name[14..15], "4", "{name}");
        assert!(matches!(&name[19..20], "8" | "9" | "a" | "b"), "{name}");
        assert_ne!(name, uuid(7, 2));
        assert_ne!(name, uuid(8, 1));
    }

    #[test]
    fn digests_are_the_published_ones() {
        let empty = digest_with(DigestFunction::Sha256, b"");
        assert_eq!(empty.hash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(digest_with(DigestFunction::Blake3, b"").hash, ModelDigest::empty().hex());
    }
}
