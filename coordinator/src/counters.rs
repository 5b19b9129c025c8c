//! Counters of what the cache saved, kept in the ledger from start to start.

use std::sync::atomic::{AtomicU64, Ordering};

use muster_proto::v1;

use crate::traffic::{Meter, Protocol, Traffic};

/// What was looked up or carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Blobs that clients offered.
    BlobUpload,
    /// Blobs that agents needed.
    BlobDownload,
    /// Results of cases.
    CaseResult,
    /// Lists of cases.
    Discovery,
}

impl Kind {
    /// Every kind, in the order of reports.
    pub const ALL: [Self; 4] = [Self::BlobUpload, Self::BlobDownload, Self::CaseResult, Self::Discovery];

    /// The name used on the wire and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::BlobUpload => "blob_upload",
            Self::BlobDownload => "blob_download",
            Self::CaseResult => "case_result",
            Self::Discovery => "discovery",
        }
    }
}

#[derive(Debug, Default)]
struct KindCounters {
    hits: AtomicU64,
    misses: AtomicU64,
    bytes_saved: AtomicU64,
    bytes_transferred: AtomicU64,
}

/// Counts since the ledger was made.
#[derive(Debug, Default)]
pub struct Counters {
    kinds: [KindCounters; 4],
    traffic: Traffic,
}

impl Counters {
    fn kind(&self, kind: Kind) -> &KindCounters {
        &self.kinds[kind as usize]
    }

    /// Counts what was there and what was not.
    pub fn add_lookups(&self, kind: Kind, hits: u64, misses: u64) {
        self.kind(kind).hits.fetch_add(hits, Ordering::Relaxed);
        self.kind(kind).misses.fetch_add(misses, Ordering::Relaxed);
    }

    /// Counts bytes that did not travel because they were there, and bytes that did.
    pub fn add_bytes(&self, kind: Kind, saved: u64, transferred: u64) {
        self.kind(kind).bytes_saved.fetch_add(saved, Ordering::Relaxed);
        self.kind(kind).bytes_transferred.fetch_add(transferred, Ordering::Relaxed);
    }

    /// What counts a request of a client.
    pub(crate) fn meter(&self, protocol: Protocol, client: &str) -> Meter {
        self.traffic.meter(protocol, client)
    }

    /// Protocols and clients, as the status service shows them.
    pub(crate) fn traffic_to_wire(&self) -> (Vec<v1::TrafficStats>, Vec<v1::TrafficStats>) {
        self.traffic.to_wire()
    }

    /// As the status service shows them.
    pub(crate) fn to_wire(&self) -> Vec<v1::KindStats> {
        let stats = Kind::ALL.map(|kind| {
            let counters = self.kind(kind);
            v1::KindStats {
                kind: kind.name().into(),
                hits: counters.hits.load(Ordering::Relaxed),
                misses: counters.misses.load(Ordering::Relaxed),
                bytes_saved: counters.bytes_saved.load(Ordering::Relaxed),
                bytes_transferred: counters.bytes_transferred.load(Ordering::Relaxed),
            }
        });
        stats.into()
    }

    fn named(&self) -> impl Iterator<Item = (String, &AtomicU64)> {
        let kinds = Kind::ALL.into_iter().flat_map(|kind| {
            let (counters, name) = (self.kind(kind), kind.name());
            [
                (format!("{name}.hits"), &counters.hits),
                (format!("{name}.misses"), &counters.misses),
                (format!("{name}.bytes_saved"), &counters.bytes_saved),
                (format!("{name}.bytes_transferred"), &counters.bytes_transferred),
            ]
        });
        kinds.chain(self.traffic.named())
    }

    /// As the ledger keeps them.
    pub(crate) fn to_rows(&self) -> Vec<(String, u64)> {
        self.named().map(|(name, counter)| (name, counter.load(Ordering::Relaxed))).collect()
    }

    /// Continues from the ledger's rows.
    pub(crate) fn restore<E>(&self, mut row: impl FnMut(&str) -> Result<u64, E>) -> Result<(), E> {
        for (name, counter) in self.named() {
            counter.store(row(&name)?, Ordering::Relaxed);
        }
        Ok(())
    }
}
