//! Nx's remote cache (Nx documentation, "Self-Host the Remote Cache", OpenAPI description): `/v1/cache/{hash}`. 404 for no record, 403 where clients may
//! not write, 409 for a record that would replace another one. A bearer token is accepted and means nothing.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use muster_cache::Recorded;

use super::Call;
use super::answer::{self, OCTETS, Refused};
use super::entries::Entries;
use crate::traffic::Protocol;

pub(super) async fn answer(call: Call<'_>, body: Body, hash: &str) -> Result<Response, Refused> {
    let entries = Entries { protocol: Protocol::Nx, scope: "" };
    match *call.method() {
        Method::GET | Method::HEAD => entries.read(&call, hash, OCTETS).await,
        Method::PUT => match entries.write(&call, body, hash, Vec::new()).await? {
            Recorded::Stored | Recorded::Refreshed => Ok(answer::empty(StatusCode::OK)),
            Recorded::Divergent { .. } => Err(Refused::Conflict),
        },
        _ => Err(Refused::Method("GET, HEAD, PUT")),
    }
}
