//! Gradle's build cache (Gradle user manual, "HTTP build cache backend"), configured as `http://HOST:PORT/cache/`: 413 for an entry that is too large.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;

use super::Call;
use super::answer::Refused;
use super::entries::Entries;
use crate::traffic::Protocol;

/// The type that Gradle asks for.
const ARTIFACT: &str = "application/vnd.gradle.build-cache-artifact.v1";

pub(super) async fn answer(call: Call<'_>, body: Body, key: &str) -> Result<Response, Refused> {
    Entries { protocol: Protocol::Gradle, scope: "" }.answer(call, body, key, ARTIFACT, StatusCode::OK).await
}
