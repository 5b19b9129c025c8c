//! Turborepo's remote cache (Turborepo documentation, "Remote Caching", OpenAPI description of the self-hosted API), below `/v8/artifacts`. Entries are
//! apart by team: the query's `teamId` and `slug`. A bearer token is accepted and means nothing.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use muster_model::limits::{ENTRIES_ASKED_MAX, MESSAGE_BYTES_MAX};
use muster_proto::v1::Property;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, OCTETS, Refused};
use super::entries::{Entries, Entry};
use super::{Call, receive};
use crate::traffic::Protocol;

/// How long the task took, in milliseconds.
const DURATION: &str = "x-artifact-duration";
/// The client's own signature of the artifact.
const TAG: &str = "x-artifact-tag";

pub(super) async fn answer(call: Call<'_>, body: Body, segments: &[&str]) -> Result<Response, Refused> {
    // Neither part of a team's name can hold a slash that is not escaped here.
    let scope = json!([call.path.query("teamId"), call.path.query("slug")]).to_string();
    let entries = Entries { protocol: Protocol::Turborepo, scope: &scope };
    match (call.method(), segments) {
        (&Method::GET, ["status"]) => Ok(answer::json(&json!({ "status": "enabled" }))),
        (&Method::POST, ["events"]) => {
            // What clients count is counted here already.
            receive::whole(call.caches, body, MESSAGE_BYTES_MAX).await?;
            Ok(answer::empty(StatusCode::OK))
        }
        (&Method::POST, []) => query(call, body, &entries).await,
        (&Method::GET | &Method::HEAD, [hash]) => entries.read(&call, hash, OCTETS).await,
        (&Method::PUT, [hash]) => write(call, body, &entries, hash).await,
        (_, [] | ["events"]) => Err(Refused::Method("POST")),
        (_, [_]) => Err(Refused::Method("GET, HEAD, PUT")),
        _ => Err(Refused::NotFound),
    }
}

async fn write(call: Call<'_>, body: Body, entries: &Entries<'_>, hash: &str) -> Result<Response, Refused> {
    let attributes = [DURATION, TAG].into_iter().filter_map(|name| {
        let value = call.header(name)?.to_owned();
        Some(Property { key: name.into(), value })
    });
    let attributes = attributes.collect();
    let url = call.parts.uri.path().to_owned();
    entries.write(&call, body, hash, attributes).await?;
    let mut response = answer::with_type(StatusCode::ACCEPTED, "application/json", Body::empty());
    *response.body_mut() = json!({ "urls": [url] }).to_string().into();
    Ok(response)
}

#[derive(Deserialize)]
struct Question {
    hashes: Vec<String>,
}

async fn query(call: Call<'_>, body: Body, entries: &Entries<'_>) -> Result<Response, Refused> {
    let meter = call.caches.meter(Protocol::Turborepo, call.parts);
    let body = receive::whole(call.caches, body, MESSAGE_BYTES_MAX).await?;
    let question: Question = serde_json::from_slice(&body)
        .map_err(|error| Refused::Invalid(format!("the body is no question for hashes: {error}")))?;
    if question.hashes.len() > ENTRIES_ASKED_MAX {
        return Err(Refused::Invalid(format!("more than {ENTRIES_ASKED_MAX} hashes")));
    }
    let names: Vec<&str> = question.hashes.iter().map(String::as_str).collect();
    let found = entries.find(call.caches, &names).await?;
    let hits = found.iter().flatten().count();
    meter.lookups(hits as u64, (found.len() - hits) as u64);
    let answers: BTreeMap<&str, Value> = names.into_iter().zip(found.iter().map(described)).collect();
    Ok(answer::json(&json!(answers)))
}

fn described(entry: &Option<Entry>) -> Value {
    let Some(entry) = entry else { return Value::Null };
    let attribute = |name| entry.attributes.iter().find(|attribute| attribute.key == name);
    let duration = attribute(DURATION).and_then(|attribute| attribute.value.parse::<u64>().ok());
    json!({
        "size": entry.digest.size_bytes,
        "taskDurationMs": duration.unwrap_or(0),
        "tag": attribute(TAG).map(|attribute| &attribute.value),
    })
}
