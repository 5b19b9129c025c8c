//! `muster cache stats`: what the cache holds, and what it saved.

use clap::Args;
use muster_proto::v1::{CacheStatsRequest, CacheStatsResponse, KindStats, TrafficStats};
use serde_json::{Value, json};

use super::super::fleet_access::{AskArguments, ask};
use super::super::{Format, answer, answer_json};
use crate::client::refusal;
use crate::error::ExpectedError;
use crate::table::{Align, Table};
use crate::text;

/// `muster cache stats`
#[derive(Debug, Args)]
pub(in crate::commands) struct StatsArguments {
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

impl StatsArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let stats = ask(&self.ask, true, async |client| {
            let answer = client.status().cache_stats(CacheStatsRequest {}).await;
            Ok(answer.map_err(refusal(client.url(), "show its cache"))?.into_inner())
        })
        .await?;
        match self.ask.format {
            Format::Human => answer(&page(&stats)),
            Format::Json => answer_json(&object(&stats)),
        }
    }
}

fn page(stats: &CacheStatsResponse) -> String {
    let mut page = format!(
        "{} blobs, {} of {} ({})\n{} cached results\n{} blobs evicted, {}\n\n",
        stats.blobs,
        text::size(stats.bytes),
        text::size(stats.capacity_bytes),
        text::percent(stats.bytes, stats.capacity_bytes),
        stats.action_results,
        stats.evicted_blobs,
        text::size(stats.evicted_bytes),
    );
    let mut table = Table::new(&[
        ("kind", Align::Left),
        ("hits", Align::Right),
        ("misses", Align::Right),
        ("hit rate", Align::Right),
        ("not transferred", Align::Right),
        ("transferred", Align::Right),
    ]);
    for kind in &stats.kinds {
        table.row([
            text::escape_line(&kind.kind).replace('_', " "),
            kind.hits.to_string(),
            kind.misses.to_string(),
            text::percent(kind.hits, kind.hits.saturating_add(kind.misses)),
            text::size(kind.bytes_saved),
            text::size(kind.bytes_transferred),
        ]);
    }
    page.push_str(&table.render());
    for (head, traffic) in [("protocol", &stats.protocols), ("client", &stats.clients)] {
        if !traffic.is_empty() {
            page.push('\n');
            page.push_str(&traffic_table(head, traffic).render());
        }
    }
    page
}

/// Who asked for how much: the counts of protocols or of clients.
fn traffic_table(head: &'static str, traffic: &[TrafficStats]) -> Table {
    let mut table = Table::new(&[
        (head, Align::Left),
        ("requests", Align::Right),
        ("hits", Align::Right),
        ("misses", Align::Right),
        ("hit rate", Align::Right),
        ("read", Align::Right),
        ("written", Align::Right),
    ]);
    for one in traffic {
        // A client's name may have underscores of its own.
        let name = text::escape_line(&one.name);
        table.row([
            if head == "protocol" { name.replace('_', " ") } else { name },
            one.requests.to_string(),
            one.hits.to_string(),
            one.misses.to_string(),
            text::percent(one.hits, one.hits.saturating_add(one.misses)),
            text::size(one.bytes_read),
            text::size(one.bytes_written),
        ]);
    }
    table
}

/// A rate from 0 to 1; nothing when nothing was asked for.
fn rate(hits: u64, misses: u64) -> Option<f64> {
    let asked = hits.saturating_add(misses);
    (asked > 0).then(|| hits as f64 / asked as f64)
}

fn object(stats: &CacheStatsResponse) -> Value {
    let kind = |kind: &KindStats| {
        json!({
            "kind": kind.kind,
            "hits": kind.hits,
            "misses": kind.misses,
            "hit_rate": rate(kind.hits, kind.misses),
            "bytes_saved": kind.bytes_saved,
            "bytes_transferred": kind.bytes_transferred,
        })
    };
    let traffic = |head: &str, traffic: &TrafficStats| {
        json!({
            head: traffic.name,
            "requests": traffic.requests,
            "hits": traffic.hits,
            "misses": traffic.misses,
            "hit_rate": rate(traffic.hits, traffic.misses),
            "bytes_read": traffic.bytes_read,
            "bytes_written": traffic.bytes_written,
        })
    };
    json!({
        "blobs": stats.blobs,
        "bytes": stats.bytes,
        "capacity_bytes": stats.capacity_bytes,
        "action_results": stats.action_results,
        "evicted_blobs": stats.evicted_blobs,
        "evicted_bytes": stats.evicted_bytes,
        "kinds": stats.kinds.iter().map(kind).collect::<Vec<_>>(),
        "protocols": stats.protocols.iter().map(|one| traffic("protocol", one)).collect::<Vec<_>>(),
        "clients": stats.clients.iter().map(|one| traffic("client", one)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> CacheStatsResponse {
        let kind = |kind: &str, hits, misses, bytes_saved, bytes_transferred| KindStats {
            kind: kind.into(),
            hits,
            misses,
            bytes_saved,
            bytes_transferred,
        };
        CacheStatsResponse {
            blobs: 1204,
            bytes: 350 << 20,
            capacity_bytes: 10 << 30,
            action_results: 860,
            kinds: vec![
                kind("blob_upload", 1100, 104, 300 << 20, 50 << 20),
                kind("case_result", 860, 0, 0, 0),
                kind("discovery", 0, 0, 0, 0),
            ],
            protocols: vec![traffic("remote_execution", 310, 1100, 104), traffic("ccache", 12, 0, 0)],
            clients: vec![traffic("bazel", 310, 1100, 104), traffic("my_tool", 12, 0, 0)],
            ..CacheStatsResponse::default()
        }
    }

    fn traffic(name: &str, requests: u64, hits: u64, misses: u64) -> TrafficStats {
        TrafficStats { name: name.into(), requests, hits, misses, bytes_read: hits << 20, bytes_written: misses << 10 }
    }

    #[test]
    fn the_page_reads_like_a_table() {
        insta::assert_snapshot!(page(&stats()), @r"
        1204 blobs, 350.0 MiB of 10.0 GiB (3 %)
        860 cached results
        0 blobs evicted, 0 B

        kind         hits  misses  hit rate  not transferred  transferred
        blob upload  1100     104      91 %        300.0 MiB     50.0 MiB
        case result   860       0     100 %              0 B          0 B
        discovery       0       0         -              0 B          0 B

        protocol          requests  hits  misses  hit rate     read    written
        remote execution       310  1100     104      91 %  1.1 GiB  104.0 KiB
        ccache                  12     0       0         -      0 B        0 B

        client   requests  hits  misses  hit rate     read    written
        bazel         310  1100     104      91 %  1.1 GiB  104.0 KiB
        my_tool        12     0       0         -      0 B        0 B
        ");
        let unused = CacheStatsResponse { protocols: Vec::new(), clients: Vec::new(), ..stats() };
        assert!(!page(&unused).contains("requests"), "a cache that nobody asked has no empty tables");
    }

    #[test]
    fn a_rate_of_nothing_is_null() {
        let object = object(&stats());
        assert_eq!(object["kinds"][2]["hit_rate"], Value::Null);
        assert_eq!(object["kinds"][1]["hit_rate"], 1.0);
        assert_eq!(object["protocols"][1]["hit_rate"], Value::Null);
        assert_eq!(
            (&object["clients"][0]["client"], &object["clients"][0]["requests"]),
            (&"bazel".into(), &310.into())
        );
    }
}
