//! Bazel's HTTP cache (Bazel user manual, "Remote Caching", "HTTP caching protocol"): `/ac/{hash}` holds encoded `ActionResult`s, `/cas/{hash}` blobs.
//! moon uses the same paths below an instance's name.
//!
//! A result is kept only with everything that it points at, and answered only while all of that is here, as over gRPC. The hash is of the
//! instance's default function.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use muster_model::Digest;
use muster_model::digest::parse_hex;
use muster_model::limits::{BLOB_BYTES_MAX, MESSAGE_BYTES_MAX};
use muster_proto::reapi::ActionResult;
use prost::Message;

use super::Call;
use super::answer::{self, OCTETS, Refused};
use super::receive::{content_length, store, whole};
use crate::reapi::action_cache::{find, store_result};
use crate::reapi::instance::Instance;
use crate::traffic::Protocol;

const METHODS: &str = "GET, HEAD, PUT";

pub(super) async fn answer(
    call: Call<'_>,
    body: Body,
    instance: &[&str],
    kind: &str,
    hash: &str,
) -> Result<Response, Refused> {
    let instance = Instance::parse(&instance.join("/")).map_err(|error| Refused::Invalid(error.to_string()))?;
    let hash = parse_hex(hash).map_err(|error| Refused::Invalid(error.to_string()))?;
    let put = match *call.method() {
        Method::GET | Method::HEAD => false,
        Method::PUT => true,
        _ => return Err(Refused::Method(METHODS)),
    };
    match (kind, put) {
        ("ac", false) => read_result(&call, &instance, hash).await,
        ("ac", true) => write_result(&call, body, &instance, hash).await,
        (_, false) => read_blob(&call, &instance, hash).await,
        (_, true) => write_blob(&call, body, &instance, hash).await,
    }
}

/// The digest of an action whose size these paths do not have.
fn action(instance: &Instance, hash: [u8; 32]) -> Digest {
    Digest { function: instance.default_function(), hash, size_bytes: 0 }
}

async fn read_result(call: &Call<'_>, instance: &Instance, hash: [u8; 32]) -> Result<Response, Refused> {
    let meter = call.caches.meter(Protocol::BazelHttp, call.parts);
    let found = find(&*call.caches.store, instance, &action(instance, hash)).await?;
    meter.lookup(found.is_some());
    let bytes = found.ok_or(Refused::NotFound)?.encode_to_vec();
    meter.read(bytes.len() as u64);
    Ok(answer::with_type(StatusCode::OK, OCTETS, bytes))
}

async fn write_result(call: &Call<'_>, body: Body, instance: &Instance, hash: [u8; 32]) -> Result<Response, Refused> {
    let meter = call.caches.meter(Protocol::BazelHttp, call.parts);
    if !call.caches.clients_write_results {
        return Err(Refused::Forbidden);
    }
    let bytes = whole(call.caches, body, MESSAGE_BYTES_MAX).await?;
    meter.written(bytes.len() as u64);
    let result = ActionResult::decode(bytes)
        .map_err(|error| Refused::Invalid(format!("the body is no ActionResult: {error}")))?;
    let caches = call.caches;
    store_result(&*caches.store, &*caches.store, instance, &action(instance, hash), &result).await?;
    Ok(answer::empty(StatusCode::OK))
}

async fn read_blob(call: &Call<'_>, instance: &Instance, hash: [u8; 32]) -> Result<Response, Refused> {
    let meter = call.caches.meter(Protocol::BazelHttp, call.parts);
    let found = call.caches.store.resolve(instance.default_function(), hash).await?;
    meter.lookup(found.is_some());
    let blob = call.caches.store.get_blob(&found.ok_or(Refused::NotFound)?).await?;
    Ok(answer::blob(blob, call.method() == Method::HEAD, OCTETS, &meter))
}

async fn write_blob(call: &Call<'_>, body: Body, instance: &Instance, hash: [u8; 32]) -> Result<Response, Refused> {
    let meter = call.caches.meter(Protocol::BazelHttp, call.parts);
    let size_bytes = content_length(call)?.ok_or(Refused::LengthRequired)?;
    if size_bytes > BLOB_BYTES_MAX {
        return Err(Refused::TooLarge);
    }
    let digest = Digest { function: instance.default_function(), hash, size_bytes };
    store(call.caches, body, digest).await?;
    meter.written(size_bytes);
    Ok(answer::empty(StatusCode::OK))
}
