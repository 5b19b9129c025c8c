//! Remote assets (Remote Asset API, version 1): content by URI and qualifiers, from what clients pushed.
//!
//! Nothing is fetched from anywhere else: the coordinator makes no connection to a host that a request names, so a URI that nobody pushed is
//! NOT_FOUND. The qualifier `checksum.sri` (W3C, "Subresource Integrity", with `sha256`, `sha384` or `sha512`) is checked against the content; every
//! other qualifier, and that one of a directory, is part of the name. A later push of a name replaces the earlier one, because a URI may come to mean other content.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt;
use muster_cache::{ActionCache, ActionRecord, Blob, BlobStore, StoreError};
use muster_model::key::{ActionKey, named_entry_key};
use muster_model::limits::{ASSET_NAME_BYTES_MAX, ASSET_NAMES_MAX};
use muster_model::{Digest, DigestFunction};
use muster_proto::asset::fetch_server::Fetch;
use muster_proto::asset::push_server::Push;
use muster_proto::asset::{self, Qualifier};
use muster_proto::{reapi, rpc, v1};
use prost::Message;
use tonic::{Request, Response, Status};

use super::errors::status_of;
use super::instance::{Instance, of_request, required_digest};
use super::results::references_of;
use crate::counters::Counters;
use crate::traffic::{Protocol, client_of};

/// The qualifier that says what the content hashes to.
const CHECKSUM: &str = "checksum.sri";
/// When an entry was pushed, in seconds since 1970.
const PUSHED: &str = "pushed";
/// When an entry ends, in seconds since 1970.
const EXPIRES: &str = "expires";

/// The services.
#[derive(Clone)]
pub struct AssetService {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) actions: Arc<dyn ActionCache>,
    pub(super) counters: Arc<Counters>,
    /// Clients may push.
    pub(super) clients_write_results: bool,
}

impl fmt::Debug for AssetService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AssetService")
    }
}

/// What a URI leads to.
#[derive(Clone, Copy, Debug)]
enum Form {
    Blob,
    Directory,
}

/// The names under which something is pushed or looked for.
struct Names<'a> {
    form: Form,
    instance: &'a Instance,
    function: DigestFunction,
    uris: &'a [String],
    qualifiers: &'a [Qualifier],
}

impl Names<'_> {
    fn check(&self) -> Result<(), Status> {
        if self.uris.is_empty() {
            return Err(Status::invalid_argument("uris: at least one is needed"));
        }
        if self.uris.len() > ASSET_NAMES_MAX || self.qualifiers.len() > ASSET_NAMES_MAX {
            return Err(Status::invalid_argument(format!("uris, qualifiers: at most {ASSET_NAMES_MAX} of each")));
        }
        let parts = self.qualifiers.iter().flat_map(|qualifier| [&qualifier.name, &qualifier.value]);
        if self.uris.iter().chain(parts).any(|text| text.len() > ASSET_NAME_BYTES_MAX) {
            return Err(Status::invalid_argument(format!(
                "uris, qualifiers: at most {ASSET_NAME_BYTES_MAX} bytes each"
            )));
        }
        Ok(())
    }

    fn keys(&self) -> Vec<ActionKey> {
        let mut qualifiers: Vec<_> = self
            .qualifiers
            .iter()
            .filter(|qualifier| !(matches!(self.form, Form::Blob) && qualifier.name == CHECKSUM))
            .map(|qualifier| (qualifier.name.as_str(), qualifier.value.as_str()))
            .collect();
        qualifiers.sort_unstable();
        let scope = serde_json::json!([format!("{:?}", self.form), self.instance.name(), self.function.name()]);
        let name = |uri: &String| serde_json::json!([uri, qualifiers]).to_string();
        self.uris
            .iter()
            .map(|uri| named_entry_key(Protocol::RemoteAsset.name(), &scope.to_string(), &name(uri)))
            .collect()
    }
}

/// What a fetch asks for beside names.
struct Wanted<'a> {
    oldest_seconds: i64,
    checksum: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    fn of(oldest: Option<&prost_types::Timestamp>, qualifiers: &'a [Qualifier]) -> Self {
        let checksum = qualifiers.iter().find(|qualifier| qualifier.name == CHECKSUM);
        Self {
            oldest_seconds: oldest.map_or(i64::MIN, |oldest| oldest.seconds),
            checksum: checksum.map(|checksum| checksum.value.as_str()),
        }
    }
}

impl AssetService {
    /// The first of the names that leads to what is wanted: which URI it is, and the content.
    async fn find(&self, names: &Names<'_>, wanted: &Wanted<'_>) -> Result<(String, Digest), Status> {
        names.check()?;
        let checksum = wanted.checksum.map(Checksum::parse).transpose()?;
        let records = self.actions.get(&names.keys()).await.map_err(|error| status_of(&error))?;
        for (uri, record) in names.uris.iter().zip(records) {
            let Some(digest) = record.and_then(|record| usable(record, names.function, wanted)) else { continue };
            let matches = match &checksum {
                Some(checksum) => {
                    let blob = self.store.get(&digest).await.map_err(|error| status_of(&error))?;
                    checksum.matches(blob).await.map_err(|error| status_of(&error))?
                }
                None => true,
            };
            if matches {
                return Ok((uri.clone(), digest));
            }
        }
        Err(Status::not_found("nobody pushed this content, and nothing is fetched from elsewhere"))
    }

    async fn push(
        &self,
        names: &Names<'_>,
        digest: Digest,
        blobs: &[reapi::Digest],
        directories: &[reapi::Digest],
        expires: Option<prost_types::Timestamp>,
    ) -> Result<(), Status> {
        if !self.clients_write_results {
            return Err(Status::permission_denied("only the coordinator stores results here (action_cache_writes)"));
        }
        names.check()?;
        let references = references_of(&*self.store, names.function, blobs, directories).await;
        let references = references.map_err(|error| error.status())?;
        let mut attributes = BTreeMap::from([(PUSHED, now_seconds())]);
        attributes.extend(expires.map(|expires| (EXPIRES, expires.seconds)));
        let property = |(key, seconds): (&str, i64)| v1::Property { key: key.into(), value: seconds.to_string() };
        let entry =
            v1::NamedEntry { digest: Some(digest.into()), attributes: attributes.into_iter().map(property).collect() };
        let payload = entry.encode_to_vec();
        let record = |key: ActionKey| {
            // All contents of a name are equally right, so the outcome is the name's.
            let outcome = Digest::of(&key.0);
            (key, ActionRecord { payload: payload.clone().into(), references: references.clone(), outcome })
        };
        let records = names.keys().into_iter().map(record).collect();
        self.actions.put(records).await.map_err(|error| status_of(&error))?;
        Ok(())
    }
}

/// The content of a record that is neither over nor older than wanted.
fn usable(record: ActionRecord, function: DigestFunction, wanted: &Wanted<'_>) -> Option<Digest> {
    let entry = v1::NamedEntry::decode(record.payload).ok()?;
    let seconds = |key: &str| {
        let attribute = entry.attributes.iter().find(|attribute| attribute.key == key)?;
        attribute.value.parse::<i64>().ok()
    };
    let over = seconds(EXPIRES).is_some_and(|expires| expires <= now_seconds());
    let old = seconds(PUSHED).is_none_or(|pushed| pushed < wanted.oldest_seconds);
    if over || old { None } else { entry.digest?.to_model(function).ok() }
}

fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// A checksum in the form of Subresource Integrity.
enum Checksum {
    Sha256(Vec<u8>),
    Sha384(Vec<u8>),
    Sha512(Vec<u8>),
}

impl Checksum {
    fn parse(text: &str) -> Result<Self, Status> {
        let refused =
            || Status::invalid_argument("qualifiers: checksum.sri must be sha256-, sha384- or sha512- and base64");
        let (function, hash) = text.split_once('-').ok_or_else(refused)?;
        let hash = BASE64_STANDARD.decode(hash).map_err(|_| refused())?;
        match (function, hash.len()) {
            ("sha256", 32) => Ok(Self::Sha256(hash)),
            ("sha384", 48) => Ok(Self::Sha384(hash)),
            ("sha512", 64) => Ok(Self::Sha512(hash)),
            _ => Err(refused()),
        }
    }

    async fn matches(&self, blob: Blob) -> Result<bool, StoreError> {
        let digest = *blob.digest();
        match self {
            Self::Sha256(hash) if digest.function == DigestFunction::Sha256 => Ok(hash[..] == digest.hash),
            Self::Sha256(hash) => hashes_to::<sha2::Sha256>(blob, hash).await,
            Self::Sha384(hash) => hashes_to::<sha2::Sha384>(blob, hash).await,
            Self::Sha512(hash) => hashes_to::<sha2::Sha512>(blob, hash).await,
        }
    }
}

async fn hashes_to<H: sha2::Digest>(blob: Blob, hash: &[u8]) -> Result<bool, StoreError> {
    let mut hasher = H::new();
    let mut chunks = blob.into_stream();
    while let Some(chunk) = chunks.next().await {
        hasher.update(&chunk?);
    }
    Ok(hasher.finalize()[..] == *hash)
}

#[tonic::async_trait]
impl Fetch for AssetService {
    async fn fetch_blob(
        &self,
        request: Request<asset::FetchBlobRequest>,
    ) -> Result<Response<asset::FetchBlobResponse>, Status> {
        let meter = self.counters.meter(Protocol::RemoteAsset, &client_of(request.metadata()));
        let request = request.into_inner();
        let (instance, function) = of_request(&request.instance_name, request.digest_function)?;
        let (uris, qualifiers) = (&request.uris[..], &request.qualifiers[..]);
        let names = Names { form: Form::Blob, instance: &instance, function, uris, qualifiers };
        let wanted = Wanted::of(request.oldest_content_accepted.as_ref(), qualifiers);
        let found = self.find(&names, &wanted).await;
        meter.lookup(found.is_ok());
        let (uri, digest) = found?;
        Ok(Response::new(asset::FetchBlobResponse {
            status: Some(rpc::Status::default()),
            uri,
            qualifiers: request.qualifiers,
            expires_at: None,
            blob_digest: Some(digest.into()),
            digest_function: request.digest_function,
        }))
    }

    async fn fetch_directory(
        &self,
        request: Request<asset::FetchDirectoryRequest>,
    ) -> Result<Response<asset::FetchDirectoryResponse>, Status> {
        let meter = self.counters.meter(Protocol::RemoteAsset, &client_of(request.metadata()));
        let request = request.into_inner();
        let (instance, function) = of_request(&request.instance_name, request.digest_function)?;
        let (uris, qualifiers) = (&request.uris[..], &request.qualifiers[..]);
        let names = Names { form: Form::Directory, instance: &instance, function, uris, qualifiers };
        let wanted = Wanted::of(request.oldest_content_accepted.as_ref(), &[]);
        let found = self.find(&names, &wanted).await;
        meter.lookup(found.is_ok());
        let (uri, digest) = found?;
        Ok(Response::new(asset::FetchDirectoryResponse {
            status: Some(rpc::Status::default()),
            uri,
            qualifiers: request.qualifiers,
            expires_at: None,
            root_directory_digest: Some(digest.into()),
            digest_function: request.digest_function,
        }))
    }
}

#[tonic::async_trait]
impl Push for AssetService {
    async fn push_blob(
        &self,
        request: Request<asset::PushBlobRequest>,
    ) -> Result<Response<asset::PushBlobResponse>, Status> {
        self.counters.meter(Protocol::RemoteAsset, &client_of(request.metadata()));
        let request = request.into_inner();
        let (instance, function) = of_request(&request.instance_name, request.digest_function)?;
        let digest = required_digest("blob_digest", request.blob_digest.as_ref(), function)?;
        let mut blobs = request.references_blobs;
        blobs.push(digest.into());
        let (uris, qualifiers) = (&request.uris[..], &request.qualifiers[..]);
        let names = Names { form: Form::Blob, instance: &instance, function, uris, qualifiers };
        self.push(&names, digest, &blobs, &request.references_directories, request.expire_at).await?;
        Ok(Response::new(asset::PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<asset::PushDirectoryRequest>,
    ) -> Result<Response<asset::PushDirectoryResponse>, Status> {
        self.counters.meter(Protocol::RemoteAsset, &client_of(request.metadata()));
        let request = request.into_inner();
        let (instance, function) = of_request(&request.instance_name, request.digest_function)?;
        let digest = required_digest("root_directory_digest", request.root_directory_digest.as_ref(), function)?;
        let mut directories = request.references_directories;
        directories.push(digest.into());
        let (uris, qualifiers) = (&request.uris[..], &request.qualifiers[..]);
        let names = Names { form: Form::Directory, instance: &instance, function, uris, qualifiers };
        self.push(&names, digest, &request.references_blobs, &directories, request.expire_at).await?;
        Ok(Response::new(asset::PushDirectoryResponse {}))
    }
}
