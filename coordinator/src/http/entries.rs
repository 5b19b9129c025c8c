//! Entries under names that clients chose.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use muster_cache::{ActionCache, ActionRecord, Blob, Recorded};
use muster_model::Digest;
use muster_model::key::{ActionKey, named_entry_key};
use muster_model::limits::NAMED_ENTRY_BYTES_MAX;
use muster_proto::v1;
use prost::Message;

use super::answer::{self, Refused};
use super::receive::{Received, content_length, receive};
use super::{Call, HttpCaches};
use crate::traffic::Protocol;

/// The entries of one scope of one protocol.
#[derive(Clone, Copy)]
pub(super) struct Entries<'a> {
    pub(super) protocol: Protocol,
    pub(super) scope: &'a str,
}

/// An entry that was found. Its content stays for the store's lease time.
pub(super) struct Entry {
    pub(super) digest: Digest,
    pub(super) attributes: Vec<v1::Property>,
}

impl Entries<'_> {
    fn key(&self, name: &str) -> ActionKey {
        named_entry_key(self.protocol.name(), self.scope, name)
    }

    /// The entries of names, in their order.
    pub(super) async fn find(&self, caches: &HttpCaches, names: &[&str]) -> Result<Vec<Option<Entry>>, Refused> {
        let keys: Vec<ActionKey> = names.iter().map(|name| self.key(name)).collect();
        let records = ActionCache::get(&*caches.store, &keys).await?;
        let entry = |record: ActionRecord| {
            let entry = v1::NamedEntry::decode(record.payload).ok()?;
            let digest = Digest::try_from(entry.digest.as_ref()?).ok()?;
            Some(Entry { digest, attributes: entry.attributes })
        };
        Ok(records.into_iter().map(|record| record.and_then(entry)).collect())
    }

    /// Stores an entry. A content that is there already stays: see [`Recorded::Divergent`].
    pub(super) async fn put(
        &self,
        caches: &HttpCaches,
        name: &str,
        blob: Blob,
        attributes: Vec<v1::Property>,
    ) -> Result<Recorded, Refused> {
        let digest = *blob.digest();
        caches.store.put_blob(&digest, blob).await?;
        let entry = v1::NamedEntry { digest: Some(digest.into()), attributes };
        let record = ActionRecord { payload: entry.encode_to_vec().into(), references: vec![digest], outcome: digest };
        let recorded = ActionCache::put(&*caches.store, vec![(self.key(name), record)]).await?;
        let recorded = recorded.into_iter().next().unwrap_or(Recorded::Stored);
        if let Recorded::Divergent { .. } = recorded {
            tracing::warn!(protocol = self.protocol.name(), name, "another content of an entry is kept as divergent");
        }
        Ok(recorded)
    }

    /// Answers GET and HEAD.
    pub(super) async fn read(
        &self,
        call: &Call<'_>,
        name: &str,
        content_type: &'static str,
    ) -> Result<Response, Refused> {
        let meter = call.caches.meter(self.protocol, call.parts);
        let found = self.find(call.caches, &[name]).await?.pop().flatten();
        meter.lookup(found.is_some());
        let entry = found.ok_or(Refused::NotFound)?;
        let blob = call.caches.store.get_blob(&entry.digest).await?;
        let mut response = answer::blob(blob, call.method() == Method::HEAD, content_type, &meter);
        for attribute in &entry.attributes {
            answer::add_header(&mut response, &attribute.key, &attribute.value);
        }
        Ok(response)
    }

    /// Takes the body of a PUT. The answer to it is the protocol's.
    pub(super) async fn write(
        &self,
        call: &Call<'_>,
        body: Body,
        name: &str,
        attributes: Vec<v1::Property>,
    ) -> Result<Recorded, Refused> {
        let meter = call.caches.meter(self.protocol, call.parts);
        if !call.caches.clients_write_results {
            return Err(Refused::Forbidden);
        }
        if content_length(call)?.is_some_and(|length| length > NAMED_ENTRY_BYTES_MAX) {
            return Err(Refused::TooLarge);
        }
        let Received { blob, place } = receive(call.caches, body, NAMED_ENTRY_BYTES_MAX).await?;
        meter.written(blob.digest().size_bytes);
        let recorded = self.put(call.caches, name, blob, attributes).await?;
        drop(place);
        Ok(recorded)
    }

    /// Takes an entry out, with what is kept as divergent from it: whether it was there. Its content stays for whoever was told of it.
    pub(super) async fn remove(&self, call: &Call<'_>, name: &str) -> Result<bool, Refused> {
        call.caches.meter(self.protocol, call.parts);
        if !call.caches.clients_write_results {
            return Err(Refused::Forbidden);
        }
        let removed = call.caches.store.remove_records(&[self.key(name)]).await?;
        Ok(removed.records > 0)
    }

    /// Answers GET, HEAD and PUT as most protocols want them.
    pub(super) async fn answer(
        &self,
        call: Call<'_>,
        body: Body,
        name: &str,
        content_type: &'static str,
        stored: StatusCode,
    ) -> Result<Response, Refused> {
        match *call.method() {
            Method::GET | Method::HEAD => self.read(&call, name, content_type).await,
            Method::PUT => {
                self.write(&call, body, name, Vec::new()).await?;
                Ok(answer::empty(stored))
            }
            _ => Err(Refused::Method("GET, HEAD, PUT")),
        }
    }
}
