//! Answers, and every way of refusing.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use muster_cache::{Blob, StoreError, Trouble};
use muster_model::limits::{HTTP_PATH_BYTES_MAX, NAMED_ENTRY_BYTES_MAX};

use crate::reapi::results::ResultError;
use crate::traffic::Meter;

/// The type of bytes that mean nothing to us.
pub(super) const OCTETS: &str = "application/octet-stream";
/// UNIMPLEMENTED (google.rpc.Code).
const GRPC_UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// There is nothing under the name.
    #[error("there is no such entry")]
    NotFound,
    /// The path is too long.
    #[error("a path has at most {HTTP_PATH_BYTES_MAX} bytes")]
    PathLength,
    /// The path is no list of names.
    #[error("the path is not valid")]
    Path,
    /// The instance's name, a hash or a body is not valid.
    #[error("{0}")]
    Invalid(String),
    /// The path does not know the method.
    #[error("the methods here are {0}")]
    Method(&'static str),
    /// The body is too big.
    #[error("an entry has at most {NAMED_ENTRY_BYTES_MAX} bytes")]
    TooLarge,
    /// The body must say its length.
    #[error("Content-Length is missing")]
    LengthRequired,
    /// The body came too slowly.
    #[error("{0}")]
    TooSlow(String),
    /// The body broke off.
    #[error("the body broke off")]
    Broken,
    /// Too many bodies at once.
    #[error("{0}")]
    Busy(String),
    /// Clients may not write here.
    #[error("only the coordinator stores results here (action_cache_writes)")]
    Forbidden,
    /// Another content is there, and stays.
    #[error("there is an entry of another content under this name")]
    Conflict,
    /// A result can't be kept.
    #[error("{0}")]
    Result(#[from] ResultError),
    /// The store said no.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A body can't be written to disk.
    #[error("the coordinator can't keep the body")]
    Disk(#[from] std::io::Error),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::PathLength => StatusCode::URI_TOO_LONG,
            Self::Path | Self::Invalid(_) | Self::Broken => StatusCode::BAD_REQUEST,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Conflict | Self::Result(ResultError::Missing(_)) => StatusCode::CONFLICT,
            Self::Result(ResultError::Store(error)) | Self::Store(error) => store_status(error),
            Self::Result(_) => StatusCode::BAD_REQUEST,
            Self::Disk(error) if error.kind() == std::io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer. One to HEAD has no body.
    pub(super) fn response(self, head: bool) -> Response {
        let status = self.status();
        if status.is_server_error() {
            static FAILED: Trouble = Trouble::new();
            let error = &self as &dyn std::error::Error;
            FAILED.tell(|untold| tracing::error!(error, untold, "an HTTP cache failed"));
        }
        // Paths and causes are for the operator.
        let said = match status {
            StatusCode::INTERNAL_SERVER_ERROR => "the coordinator's store failed; its log says why\n".into(),
            StatusCode::INSUFFICIENT_STORAGE => "the coordinator's store is full; try again later\n".into(),
            _ => format!("{self}\n"),
        };
        let mut response =
            with_type(status, "text/plain; charset=utf-8", if head { Body::empty() } else { said.into() });
        match self {
            Self::Method(methods) => drop(response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods))),
            Self::Busy(_) => drop(response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => {}
        }
        response
    }
}

fn store_status(error: &StoreError) -> StatusCode {
    match error {
        StoreError::NotFound(_) | StoreError::Corrupt(_) => StatusCode::NOT_FOUND,
        StoreError::Mismatch { .. } => StatusCode::BAD_REQUEST,
        StoreError::Limit { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        error if error.is_full() => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Closed => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An answer of a type.
pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A document.
pub(super) fn json(value: &serde_json::Value) -> Response {
    with_type(StatusCode::OK, "application/json", value.to_string())
}

/// A blob as a body, streamed; only its head for HEAD. A blob that turns out not to verify breaks the connection off before its end.
pub(super) fn blob(blob: Blob, head: bool, content_type: &'static str, meter: &Meter) -> Response {
    let size = blob.digest().size_bytes;
    let body = if head {
        Body::empty()
    } else {
        meter.read(size);
        Body::from_stream(blob.into_stream())
    };
    let mut response = with_type(StatusCode::OK, content_type, body);
    response.headers_mut().insert(CONTENT_LENGTH, size.into());
    response
}

/// Adds a header, if its value can be one.
pub(super) fn add_header(response: &mut Response, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        response.headers_mut().insert(name, value);
    }
}

/// What a gRPC client is told of a service that is not here.
pub(super) fn grpc_unimplemented() -> Response {
    let mut response = with_type(StatusCode::OK, "application/grpc", Body::empty());
    response.headers_mut().insert("grpc-status", GRPC_UNIMPLEMENTED);
    response
}
