//! sccache's WebDAV storage (sccache documentation, "WebDAV"), configured as `http://HOST:PORT/sccache`: as much of WebDAV (RFC 4918) as it uses.
//!
//! Collections are only names: each is there already, so that a client that asks before it writes need not make any.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;

use super::answer::{self, OCTETS, Refused};
use super::entries::Entries;
use super::{Call, receive};
use crate::traffic::Protocol;

/// A PROPFIND's body, in bytes; what it asks for is answered in the same way whatever it says.
const QUESTION_BYTES_MAX: usize = 64 * 1024;
const METHODS: &str = "GET, HEAD, PUT, DELETE, PROPFIND, MKCOL";
/// The time of everything: none is kept, and WebDAV clients want one.
const MODIFIED: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

pub(super) async fn answer(call: Call<'_>, body: Body, segments: &[&str]) -> Result<Response, Refused> {
    let is_collection = call.path.is_collection || segments.is_empty();
    let name = segments.join("/");
    match call.method().as_str() {
        "PROPFIND" => find_properties(call, body, &name, is_collection).await,
        "MKCOL" => Ok(answer::empty(StatusCode::CREATED)),
        _ if is_collection => Err(Refused::Method("PROPFIND, MKCOL")),
        "GET" | "HEAD" | "PUT" => entries().answer(call, body, &name, OCTETS, StatusCode::CREATED).await,
        // RFC 4918, section 9.6: what is not there can't be deleted.
        "DELETE" if entries().remove(&call, &name).await? => Ok(answer::empty(StatusCode::NO_CONTENT)),
        "DELETE" => Err(Refused::NotFound),
        _ => Err(Refused::Method(METHODS)),
    }
}

fn entries() -> Entries<'static> {
    Entries { protocol: Protocol::Sccache, scope: "" }
}

async fn find_properties(call: Call<'_>, body: Body, name: &str, is_collection: bool) -> Result<Response, Refused> {
    let href = escape(call.parts.uri.path());
    let properties = if is_collection {
        "<D:resourcetype><D:collection/></D:resourcetype>".to_owned()
    } else {
        let found = entries().find(call.caches, &[name]).await?.pop().flatten().ok_or(Refused::NotFound)?;
        format!("<D:resourcetype/><D:getcontentlength>{}</D:getcontentlength>", found.digest.size_bytes)
    };
    debug_assert_ne!(call.method(), Method::GET);
    receive::whole(call.caches, body, QUESTION_BYTES_MAX).await?;
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>{href}</D:href><D:propstat><D:prop>\
         {properties}<D:getlastmodified>{MODIFIED}</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>\
         </D:multistatus>"
    );
    Ok(answer::with_type(StatusCode::MULTI_STATUS, "application/xml; charset=utf-8", document))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
