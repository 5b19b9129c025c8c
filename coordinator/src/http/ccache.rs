//! ccache's HTTP storage (ccache manual, "HTTP storage backend"), configured as `http://HOST:PORT/ccache`. Its three layouts lead to the same entry:
//! the segments of a path are one key, however it is cut.

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;

use super::Call;
use super::answer::{OCTETS, Refused};
use super::entries::Entries;
use crate::traffic::Protocol;

pub(super) async fn answer(call: Call<'_>, body: Body, segments: &[&str]) -> Result<Response, Refused> {
    let name = segments.concat();
    if name.is_empty() {
        return Err(Refused::NotFound);
    }
    Entries { protocol: Protocol::Ccache, scope: "" }.answer(call, body, &name, OCTETS, StatusCode::CREATED).await
}
