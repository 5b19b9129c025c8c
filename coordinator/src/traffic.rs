//! Who uses the cache: counts by protocol and by client program.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use muster_model::limits::{CLIENT_NAME_BYTES_MAX, CLIENTS_COUNTED_MAX};
use muster_proto::{reapi, v1};
use prost::Message;
use tonic::metadata::MetadataMap;

/// Under which all programs are counted that came after the limit, or that do not say who they are.
const OTHER: &str = "other";
/// The header in which clients of the Remote Execution API say who they are.
const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// A protocol of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The Remote Execution API.
    RemoteExecution,
    /// The Remote Asset API.
    RemoteAsset,
    /// Bazel's HTTP cache.
    BazelHttp,
    /// ccache's HTTP storage.
    Ccache,
    /// sccache's WebDAV storage.
    Sccache,
    /// Gradle's build cache.
    Gradle,
    /// Turborepo's remote cache.
    Turborepo,
    /// Nx's remote cache.
    Nx,
}

impl Protocol {
    const ALL: [Self; 8] = [
        Self::RemoteExecution,
        Self::RemoteAsset,
        Self::BazelHttp,
        Self::Ccache,
        Self::Sccache,
        Self::Gradle,
        Self::Turborepo,
        Self::Nx,
    ];

    /// The name used on the wire, in the ledger and in keys.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RemoteExecution => "remote_execution",
            Self::RemoteAsset => "remote_asset",
            Self::BazelHttp => "bazel_http",
            Self::Ccache => "ccache",
            Self::Sccache => "sccache",
            Self::Gradle => "gradle",
            Self::Turborepo => "turborepo",
            Self::Nx => "nx",
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    requests: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Tally {
    fn to_wire(&self, name: &str) -> v1::TrafficStats {
        v1::TrafficStats {
            name: name.into(),
            requests: self.requests.load(Ordering::Relaxed),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
        }
    }
}

/// All counts.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    protocols: [Arc<Tally>; Protocol::ALL.len()],
    clients: Mutex<BTreeMap<Box<str>, Arc<Tally>>>,
}

impl Traffic {
    /// Counts a request, and gives what counts its results.
    pub(crate) fn meter(&self, protocol: Protocol, client: &str) -> Meter {
        let meter = Meter([self.protocols[protocol as usize].clone(), self.client(client)]);
        meter.add(|tally| &tally.requests, 1);
        meter
    }

    fn client(&self, name: &str) -> Arc<Tally> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = clients.get(name) {
            return tally.clone();
        }
        let name = if clients.len() < CLIENTS_COUNTED_MAX { name } else { OTHER };
        clients.entry(name.into()).or_default().clone()
    }

    /// Protocols that were used, and clients.
    pub(crate) fn to_wire(&self) -> (Vec<v1::TrafficStats>, Vec<v1::TrafficStats>) {
        let protocols =
            Protocol::ALL.into_iter().map(|protocol| self.protocols[protocol as usize].to_wire(protocol.name()));
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        (
            protocols.filter(|stats| stats.requests > 0).collect(),
            clients.iter().map(|(name, tally)| tally.to_wire(name)).collect(),
        )
    }

    /// What the ledger keeps.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, &AtomicU64)> {
        Protocol::ALL.into_iter().flat_map(|protocol| {
            let (tally, name) = (&*self.protocols[protocol as usize], protocol.name());
            [
                (format!("{name}.requests"), &tally.requests),
                (format!("{name}.hits"), &tally.hits),
                (format!("{name}.misses"), &tally.misses),
                (format!("{name}.bytes_read"), &tally.bytes_read),
                (format!("{name}.bytes_written"), &tally.bytes_written),
            ]
        })
    }
}

/// Counts for the protocol and the client of one request.
#[derive(Clone, Debug)]
pub(crate) struct Meter([Arc<Tally>; 2]);

impl Meter {
    /// Counts what was there and what was not.
    pub(crate) fn lookups(&self, hits: u64, misses: u64) {
        self.add(|tally| &tally.hits, hits);
        self.add(|tally| &tally.misses, misses);
    }

    /// Counts one lookup.
    pub(crate) fn lookup(&self, hit: bool) {
        self.lookups(u64::from(hit), u64::from(!hit));
    }

    /// Counts bytes that the client read.
    pub(crate) fn read(&self, bytes: u64) {
        self.add(|tally| &tally.bytes_read, bytes);
    }

    /// Counts bytes that the client wrote.
    pub(crate) fn written(&self, bytes: u64) {
        self.add(|tally| &tally.bytes_written, bytes);
    }

    fn add(&self, counter: impl Fn(&Tally) -> &AtomicU64, count: u64) {
        for tally in &self.0 {
            counter(tally).fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// The program that made a call: what it says in its request metadata, or else its user agent.
pub(crate) fn client_of(metadata: &MetadataMap) -> String {
    let said = metadata.get_bin(REQUEST_METADATA).and_then(|value| value.to_bytes().ok());
    let tool =
        said.and_then(|bytes| reapi::RequestMetadata::decode(bytes).ok()?.tool_details).map(|tool| tool.tool_name);
    let agent = || metadata.get("user-agent").and_then(|agent| agent.to_str().ok());
    match tool.filter(|tool| !tool.is_empty()) {
        Some(tool) => client_name(Some(&tool)),
        None => client_name(agent()),
    }
}

/// The program of a user agent: what stands before its version, if it is a name.
pub(crate) fn client_name(agent: Option<&str>) -> String {
    let name = agent.unwrap_or_default().split(['/', ' ']).next().unwrap_or_default();
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte));
    if name.is_empty() || name.len() > CLIENT_NAME_BYTES_MAX || !plain { OTHER.into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataValue;

    #[test]
    fn a_client_is_who_it_says_or_else_its_user_agent() {
        let mut metadata = MetadataMap::new();
        assert_eq!(client_of(&metadata), "other");
        metadata.insert("user-agent", "grpc-java-netty/1.33 (x)".parse().unwrap());
        assert_eq!(client_of(&metadata), "grpc-java-netty");
        let tool_details = Some(reapi::ToolDetails { tool_name: "bazel".into(), tool_version: "4.2.3".into() });
        let said = reapi::RequestMetadata { tool_details, ..reapi::RequestMetadata::default() };
        metadata.insert_bin(REQUEST_METADATA, MetadataValue::from_bytes(&said.encode_to_vec()));
        assert_eq!(client_of(&metadata), "bazel");
        for agent in ["", "a\nb", "\u{1b}[31m", &"x".repeat(CLIENT_NAME_BYTES_MAX + 1)] {
            assert_eq!(client_name(Some(agent)), "other");
        }
    }

    #[test]
    fn clients_past_the_limit_are_counted_together() {
        let traffic = Traffic::default();
        for number in 0..2 * CLIENTS_COUNTED_MAX {
            traffic.meter(Protocol::Nx, &format!("client{number}")).lookup(true);
        }
        let (protocols, clients) = traffic.to_wire();
        assert_eq!(clients.len(), CLIENTS_COUNTED_MAX + 1);
        let other = clients.iter().find(|client| client.name == OTHER).unwrap();
        assert_eq!((other.requests, other.hits), (100, 100));
        assert_eq!((protocols.len(), protocols[0].hits), (1, 200));
    }
}
