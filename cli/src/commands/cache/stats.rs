//! `muster cache stats`: what the cache holds, and what it saved.

use clap::Args;
use muster_proto::v1::{CacheStatsRequest, CacheStatsResponse, KindStats};
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
    page
}

fn object(stats: &CacheStatsResponse) -> Value {
    let kind = |kind: &KindStats| {
        let asked = kind.hits.saturating_add(kind.misses);
        json!({
            "kind": kind.kind,
            "hits": kind.hits,
            "misses": kind.misses,
            "hit_rate": (asked > 0).then(|| kind.hits as f64 / asked as f64),
            "bytes_saved": kind.bytes_saved,
            "bytes_transferred": kind.bytes_transferred,
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
            ..CacheStatsResponse::default()
        }
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
        ");
    }

    #[test]
    fn a_rate_of_nothing_is_null() {
        let object = object(&stats());
        assert_eq!(object["kinds"][2]["hit_rate"], Value::Null);
        assert_eq!(object["kinds"][1]["hit_rate"], 1.0);
    }
}
