//! The HTTP caches, beside gRPC on one port: Bazel's, ccache's, sccache's, Gradle's, Turborepo's and Nx's. One file each.
//!
//! | path | protocol |
//! |---|---|
//! | `/[{instance}/]ac/{hash}`, `/[{instance}/]cas/{hash}`, `/status` | Bazel, moon |
//! | `/ccache/…` | ccache |
//! | `/sccache/…` | sccache |
//! | `/cache/{key}` | Gradle |
//! | `/v8/artifacts…` | Turborepo |
//! | `/v1/cache/{hash}` | Nx |
//!
//! What a client names itself is kept as an action-cache record that points at one blob, in a scope of its protocol: it is answered only while the
//! blob is there, and a second different content under a name does not replace the first (see [`muster_cache::Recorded`]). Where a protocol has
//! DELETE (ccache, sccache), whoever may write may take an entry out, and the next content is the first again.
//!
//! Architecture Invariant: no part of a path becomes a path in a file system; names are hashed into keys.

mod answer;
mod bazel;
mod ccache;
mod entries;
mod gradle;
mod nx;
mod path;
mod receive;
mod sccache;
mod turborepo;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use muster_cache::{DiskStore, StoreError};
use tonic::service::Routes;

use crate::budget::UploadBudget;
use crate::counters::Counters;
use crate::traffic::{Meter, Protocol, client_name};
use answer::Refused;
use path::Path;

/// What the HTTP caches need.
#[derive(Clone)]
pub(crate) struct HttpCaches {
    /// Blobs and records.
    store: Arc<DiskStore>,
    /// What is carried and found is counted here.
    counters: Arc<Counters>,
    /// A folder for bodies whose digest is not known before their end; see [`Self::new`].
    incoming: Arc<PathBuf>,
    /// The memory for uploads, which the services of the Remote Execution API share.
    pub(crate) budget: UploadBudget,
    clients_write_results: bool,
}

impl fmt::Debug for HttpCaches {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HttpCaches")
    }
}

impl HttpCaches {
    /// Caches over a store. `incoming` is theirs alone: it is made, and what a dead process left in it is deleted.
    ///
    /// # Errors
    ///
    /// [`StoreError::File`] when the folder can't be made or emptied.
    pub(crate) fn new(
        store: Arc<DiskStore>,
        counters: Arc<Counters>,
        incoming: PathBuf,
        clients_write_results: bool,
    ) -> Result<Self, StoreError> {
        let emptied = std::fs::create_dir_all(&incoming)
            .and_then(|()| std::fs::read_dir(&incoming)?.try_for_each(|entry| std::fs::remove_file(entry?.path())));
        emptied.map_err(|source| StoreError::File { action: "empty", path: incoming.clone(), source })?;
        Ok(Self {
            store,
            counters,
            incoming: Arc::new(incoming),
            budget: UploadBudget::default(),
            clients_write_results,
        })
    }

    /// Answers every request whose path is no gRPC service's.
    pub(crate) fn add_to(self, routes: &mut Routes) {
        let router = std::mem::take(routes.axum_router_mut());
        *routes.axum_router_mut() = serve_others(router, self);
    }

    /// Counts a request.
    fn meter(&self, protocol: Protocol, parts: &Parts) -> Meter {
        let agent = parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        self.counters.meter(protocol, &client_name(agent))
    }

    async fn answer(&self, request: Request) -> Result<Response, Refused> {
        let (parts, body) = request.into_parts();
        let path = Path::parse(parts.uri.path(), parts.uri.query())?;
        let segments: Vec<&str> = path.segments().collect();
        let call = Call { caches: self, parts: &parts, path: &path };
        match segments.as_slice() {
            ["status"] => Ok(answer::json(&serde_json::json!({ "status": "ok" }))),
            ["v8", "artifacts", rest @ ..] => turborepo::answer(call, body, rest).await,
            ["v1", "cache", hash] => nx::answer(call, body, hash).await,
            ["cache", key] => gradle::answer(call, body, key).await,
            ["ccache", rest @ ..] => ccache::answer(call, body, rest).await,
            ["sccache", rest @ ..] => sccache::answer(call, body, rest).await,
            [instance @ .., kind @ ("ac" | "cas"), hash] => bazel::answer(call, body, instance, kind, hash).await,
            _ => Err(Refused::NotFound),
        }
    }
}

/// One request to a cache, without its body.
#[derive(Clone, Copy)]
struct Call<'a> {
    caches: &'a HttpCaches,
    parts: &'a Parts,
    path: &'a Path,
}

impl Call<'_> {
    fn method(&self) -> &Method {
        &self.parts.method
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

fn serve_others(router: Router, caches: HttpCaches) -> Router {
    router.fallback(move |request: Request| {
        let caches = caches.clone();
        async move {
            if is_grpc(request.headers().get(CONTENT_TYPE)) {
                return answer::grpc_unimplemented();
            }
            let head = request.method() == Method::HEAD;
            match caches.answer(request).await {
                Ok(response) => response,
                Err(refused) => refused.response(head),
            }
        }
    })
}

fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests;
