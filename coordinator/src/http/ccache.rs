//! ccache's HTTP storage (ccache manual, "HTTP storage backend"), configured as `http://HOST:PORT/ccache`. Its three layouts lead to the same entry:
//! the segments of a path are one key, however it is cut. DELETE takes an entry out that ccache finds to be wrong.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::Call;
use super::answer::{self, OCTETS, Refused};
use super::entries::Entries;
use crate::traffic::Protocol;

pub(super) async fn answer(call: Call<'_>, body: Body, segments: &[&str]) -> Result<Response, Refused> {
    let name = segments.concat();
    if name.is_empty() {
        return Err(Refused::NotFound);
    }
    let entries = Entries { protocol: Protocol::Ccache, scope: "" };
    match *call.method() {
        Method::DELETE => {
            // Gone is gone: any other answer than success counts as a failure of the storage, and two may find the same entry.
            entries.remove(&call, &name).await?;
            Ok(answer::empty(StatusCode::NO_CONTENT))
        }
        Method::GET | Method::HEAD | Method::PUT => {
            entries.answer(call, body, &name, OCTETS, StatusCode::CREATED).await
        }
        _ => Err(Refused::Method("GET, HEAD, PUT, DELETE")),
    }
}
