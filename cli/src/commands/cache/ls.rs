//! `muster cache ls`: what the cache holds, by last use or by size.

use std::collections::HashSet;
use std::hash::Hash;

use clap::{Args, ValueEnum};
use muster_model::Digest;
use muster_model::limits::LISTED_ENTRIES_MAX;
use muster_proto::v1::{
    CachedBlob, CachedDigest, CachedResult, DivergentResult, ListCacheRequest, ListDivergentRequest, UseOrder,
};
use serde_json::{Value, json};

use super::super::fleet_access::{AskArguments, ask};
use super::super::{Format, answer, answer_json};
use crate::client::{Client, refusal};
use crate::error::{ExpectedError, FleetError};
use crate::table::{Align, Table};
use crate::text;

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Bytes, by their digests.
    Blobs,
    /// Results of actions and cases, and entries of HTTP caches, by their keys.
    Results,
    /// Results that came for a key whose first result was another one.
    Divergent,
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// What was used last.
    Newest,
    /// What would be evicted first.
    Oldest,
    /// What takes the most room. Every entry is looked at for it.
    Largest,
}

impl Sort {
    fn words(self) -> &'static str {
        match self {
            Self::Newest => "newest first",
            Self::Oldest => "oldest first",
            Self::Largest => "largest first",
        }
    }
}

/// `muster cache ls`
#[derive(Debug, Args)]
pub(in crate::commands) struct LsArguments {
    /// What to list
    #[arg(value_name = "KIND", default_value = "blobs")]
    kind: Kind,
    /// What comes first
    #[arg(long, value_name = "ORDER", default_value = "newest")]
    sort: Sort,
    /// How many
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All of them, however many there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

/// One page of entries: they, where the next page starts, and how many there are in all.
type Page<T> = (Vec<T>, Option<u64>, u64);

/// What was found, in the order that was asked for.
#[derive(Debug)]
struct Found<T> {
    entries: Vec<T>,
    total: u64,
}

/// Something that is listed.
trait Entry {
    /// What is the same when an entry comes twice because it was used between two pages.
    type Identity: Hash + Eq;

    fn identity(&self) -> Self::Identity;
    /// In bytes.
    fn size(&self) -> u64;
}

impl Entry for CachedBlob {
    type Identity = String;

    fn identity(&self) -> String {
        digest_text(self.digest.as_ref())
    }

    fn size(&self) -> u64 {
        self.digest
            .as_ref()
            .and_then(|cached| cached.digest.as_ref())
            .map_or(0, |digest| digest.size_bytes.max(0) as u64)
    }
}

impl Entry for CachedResult {
    type Identity = String;

    fn identity(&self) -> String {
        self.key.clone()
    }

    fn size(&self) -> u64 {
        self.bytes
    }
}

impl LsArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let limit = if self.all { usize::MAX } else { self.limit as usize };
        let (page, object) = ask(&self.ask, true, async |client| {
            Ok(match self.kind {
                Kind::Blobs => {
                    let found = gather(self.sort, limit, async |request| blobs(&client, request).await).await?;
                    (blobs_page(&found, self.sort), blobs_object(&found))
                }
                Kind::Results => {
                    let found = gather(self.sort, limit, async |request| results(&client, request).await).await?;
                    (results_page(&found, self.sort), results_object(&found))
                }
                Kind::Divergent => {
                    let found = in_order(divergent(&client).await?, self.sort, limit);
                    (divergent_page(&found, self.sort), divergent_object(&found))
                }
            })
        })
        .await?;
        match self.ask.format {
            Format::Human => answer(&page),
            Format::Json => answer_json(&object),
        }
    }
}

async fn blobs(client: &Client, request: ListCacheRequest) -> Result<Page<CachedBlob>, FleetError> {
    let answer =
        client.status().list_blobs(request).await.map_err(refusal(client.url(), "list its blobs"))?.into_inner();
    Ok((answer.blobs, answer.next, answer.total))
}

async fn results(client: &Client, request: ListCacheRequest) -> Result<Page<CachedResult>, FleetError> {
    let answer =
        client.status().list_results(request).await.map_err(refusal(client.url(), "list its results"))?.into_inner();
    Ok((answer.results, answer.next, answer.total))
}

async fn divergent(client: &Client) -> Result<Vec<DivergentResult>, FleetError> {
    let mut all = Vec::new();
    let mut from = None;
    loop {
        let answer = client.status().list_divergent(ListDivergentRequest { from }).await;
        let page = answer.map_err(refusal(client.url(), "list its divergent results"))?.into_inner();
        all.extend(page.results);
        from = page.next;
        if from.is_none() {
            return Ok(all);
        }
    }
}

/// Asks page by page for what is wanted; no more than that is kept.
async fn gather<T: Entry>(
    sort: Sort,
    limit: usize,
    mut page: impl AsyncFnMut(ListCacheRequest) -> Result<Page<T>, FleetError>,
) -> Result<Found<T>, FleetError> {
    let order = if sort == Sort::Newest { UseOrder::NewestFirst } else { UseOrder::OldestFirst };
    let mut entries: Vec<T> = Vec::new();
    let mut seen = HashSet::new();
    let mut from = None;
    loop {
        let wanted = if sort == Sort::Largest { LISTED_ENTRIES_MAX } else { limit - entries.len() };
        let request = ListCacheRequest { order: order.into(), from, limit: wanted.min(LISTED_ENTRIES_MAX) as u32 };
        let (more, next, total) = page(request).await?;
        entries.extend(more.into_iter().filter(|entry| seen.insert(entry.identity())));
        if sort == Sort::Largest {
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.size()));
            entries.truncate(limit);
        }
        from = next;
        if from.is_none() || (sort != Sort::Largest && entries.len() >= limit) {
            return Ok(Found { entries, total });
        }
    }
}

fn in_order(mut entries: Vec<DivergentResult>, sort: Sort, limit: usize) -> Found<DivergentResult> {
    let total = entries.len() as u64;
    match sort {
        Sort::Newest => entries.sort_by_key(|result| result.seen_ms),
        Sort::Oldest => entries.sort_by_key(|result| std::cmp::Reverse(result.seen_ms)),
        Sort::Largest => entries.sort_by_key(|result| std::cmp::Reverse(result.bytes)),
    }
    entries.truncate(limit);
    Found { entries, total }
}

fn digest_text(digest: Option<&CachedDigest>) -> String {
    digest.and_then(|digest| Digest::try_from(digest).ok()).map_or_else(|| "?".into(), |digest| digest.to_string())
}

/// The table, or words for an empty one; then how much of all it is.
fn table_page<T>(found: &Found<T>, sort: Sort, [one, many]: [&str; 2], table: &Table) -> String {
    if found.entries.is_empty() {
        return format!("no {many}\n");
    }
    let mut page = table.render();
    let total = found.total.max(found.entries.len() as u64);
    page.push_str(&format!("\n{} of {}, {}", found.entries.len(), text::counted(total, one, many), sort.words()));
    if total > found.entries.len() as u64 {
        page.push_str("; --limit N shows more, --all shows all");
    }
    page.push('\n');
    page
}

fn blobs_page(found: &Found<CachedBlob>, sort: Sort) -> String {
    let mut table = Table::new(&[
        ("digest", Align::Left),
        ("size", Align::Right),
        ("unused for", Align::Right),
        ("results", Align::Right),
        ("leased", Align::Left),
    ]);
    for blob in &found.entries {
        table.row([
            digest_text(blob.digest.as_ref()),
            text::size(blob.size()),
            text::whole_seconds(blob.unused_ms),
            blob.results.to_string(),
            if blob.leased { "leased".into() } else { String::new() },
        ]);
    }
    table_page(found, sort, ["blob", "blobs"], &table)
}

fn results_page(found: &Found<CachedResult>, sort: Sort) -> String {
    let mut table = Table::new(&[
        ("key", Align::Left),
        ("size", Align::Right),
        ("unused for", Align::Right),
        ("blobs", Align::Right),
        ("divergent", Align::Right),
    ]);
    for result in &found.entries {
        table.row([
            text::escape_line(&result.key),
            text::size(result.bytes),
            text::whole_seconds(result.unused_ms),
            result.blobs.to_string(),
            result.divergent.to_string(),
        ]);
    }
    table_page(found, sort, ["result", "results"], &table)
}

fn divergent_page(found: &Found<DivergentResult>, sort: Sort) -> String {
    let mut table = Table::new(&[
        ("key", Align::Left),
        ("times", Align::Right),
        ("last seen ago", Align::Right),
        ("size", Align::Right),
        ("came to", Align::Left),
        ("first came to", Align::Left),
    ]);
    for result in &found.entries {
        table.row([
            text::escape_line(&result.key),
            result.times.to_string(),
            text::whole_seconds(result.seen_ms),
            text::size(result.bytes),
            digest_text(result.outcome.as_ref()),
            digest_text(result.first.as_ref()),
        ]);
    }
    table_page(found, sort, ["divergent result", "divergent results"], &table)
}

fn blobs_object(found: &Found<CachedBlob>) -> Value {
    let blob = |blob: &CachedBlob| {
        json!({
            "digest": digest_text(blob.digest.as_ref()),
            "bytes": blob.size(),
            "unused_ms": blob.unused_ms,
            "leased": blob.leased,
            "results": blob.results,
        })
    };
    json!({"blobs": found.entries.iter().map(blob).collect::<Vec<_>>(), "total": found.total})
}

fn results_object(found: &Found<CachedResult>) -> Value {
    let result = |result: &CachedResult| {
        json!({
            "key": result.key,
            "outcome": digest_text(result.outcome.as_ref()),
            "bytes": result.bytes,
            "unused_ms": result.unused_ms,
            "blobs": result.blobs,
            "divergent": result.divergent,
        })
    };
    json!({"results": found.entries.iter().map(result).collect::<Vec<_>>(), "total": found.total})
}

fn divergent_object(found: &Found<DivergentResult>) -> Value {
    let result = |result: &DivergentResult| {
        json!({
            "key": result.key,
            "first": digest_text(result.first.as_ref()),
            "outcome": digest_text(result.outcome.as_ref()),
            "bytes": result.bytes,
            "blobs": result.blobs,
            "times": result.times,
            "seen_ms_ago": result.seen_ms,
        })
    };
    json!({"divergent": found.entries.iter().map(result).collect::<Vec<_>>(), "total": found.total})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u8, size: usize, unused_ms: u64) -> CachedBlob {
        let digest = Digest::of(&vec![number; size]);
        CachedBlob { digest: Some((&digest).into()), unused_ms, leased: number == 1, results: u64::from(number) }
    }

    /// A cache of five blobs that answers two at a time; the oldest is used after the first page, and comes again.
    async fn listed(sort: Sort, limit: usize) -> Found<CachedBlob> {
        let sizes = [100, 4000, 20, 70_000, 300];
        let all: Vec<CachedBlob> = (0..).zip(sizes).map(|(number, size)| blob(number, size, 1000)).collect();
        let found = gather(sort, limit, async |request: ListCacheRequest| {
            let mut order = all.clone();
            if request.order == i32::from(UseOrder::NewestFirst) {
                order.reverse();
            } else {
                order.push(all[0].clone());
            }
            let start = request.from.unwrap_or(0) as usize;
            let end = (start + (request.limit as usize).min(2)).min(order.len());
            let next = (end < order.len()).then_some(end as u64);
            Ok((order[start..end].to_vec(), next, 5))
        });
        found.await.unwrap()
    }

    #[tokio::test]
    async fn pages_come_together_in_every_order() {
        let sizes =
            async |sort, limit| -> Vec<u64> { listed(sort, limit).await.entries.iter().map(Entry::size).collect() };
        assert_eq!(sizes(Sort::Oldest, usize::MAX).await, [100, 4000, 20, 70_000, 300]);
        assert_eq!(sizes(Sort::Oldest, 3).await, [100, 4000, 20]);
        assert_eq!(sizes(Sort::Newest, 3).await, [300, 70_000, 20]);
        assert_eq!(sizes(Sort::Largest, 3).await, [70_000, 4000, 300]);
        assert_eq!(sizes(Sort::Largest, usize::MAX).await.len(), 5);
    }

    #[test]
    fn each_kind_is_a_table() {
        let found = Found { entries: vec![blob(1, 4000, 61_000), blob(2, 3, 90_000_000)], total: 1204 };
        insta::assert_snapshot!(blobs_page(&found, Sort::Newest), @r"
        digest                                                                           size   unused for  results  leased
        blake3:f403d140430e8102996776c9a75ad5739041ff4c38c9fe3e61aa3e7f3b1c8908/4000  3.9 KiB   1 min 01 s        1  leased
        blake3:ca680cdd1e0778044a702461b658bf50378a6555ae495c5e3c349507bbef3008/3         3 B  25 h 00 min        2

        2 of 1204 blobs, newest first; --limit N shows more, --all shows all
        ");
        let outcome = |text: &[u8]| Some((&Digest::of(text)).into());
        let result = CachedResult {
            key: "ab".repeat(32),
            outcome: outcome(b"x"),
            bytes: 812,
            blobs: 3,
            unused_ms: 2400,
            divergent: 1,
        };
        insta::assert_snapshot!(results_page(&Found { entries: vec![result], total: 1 }, Sort::Oldest), @r"
        key                                                                size  unused for  blobs  divergent
        abababababababababababababababababababababababababababababababab  812 B         2 s      3          1

        1 of 1 result, oldest first
        ");
        let other = DivergentResult {
            key: "ab".repeat(32),
            first: outcome(b"x"),
            outcome: outcome(b"y"),
            bytes: 812,
            blobs: 3,
            times: 2,
            seen_ms: 2400,
        };
        let older = DivergentResult { seen_ms: 9000, bytes: 9, ..other.clone() };
        let first = |sort| in_order(vec![other.clone(), older.clone()], sort, 1).entries[0].bytes;
        assert_eq!([first(Sort::Newest), first(Sort::Oldest), first(Sort::Largest)], [812, 9, 812]);
        insta::assert_snapshot!(divergent_page(&Found { entries: vec![other], total: 1 }, Sort::Largest), @r"
        key                                                               times  last seen ago   size  came to                                                                    first came to
        abababababababababababababababababababababababababababababababab      2            2 s  812 B  blake3:08112a9e334ce73042b531c25668cf5cb12a1ee040a4326afeac065461079a06/1  blake3:3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5/1

        1 of 1 divergent result, largest first
        ");
        assert_eq!(blobs_page(&Found { entries: Vec::new(), total: 0 }, Sort::Newest), "no blobs\n");
    }
}
