//! `muster cache gc`: makes room by hand, before the cache has to.

use std::time::Duration;

use clap::Args;
use muster_coordinator::Size;
use muster_proto::v1::{CollectCacheRequest, CollectCacheResponse};
use serde_json::{Value, json};

use super::super::fleet_access::{AskArguments, ask};
use super::super::{Format, answer, answer_json};
use crate::client::refusal;
use crate::error::ExpectedError;
use crate::text;

/// `muster cache gc`
#[derive(Debug, Args)]
pub(in crate::commands) struct GcArguments {
    /// Evict what was not used for longest until everything takes at most this: bytes, or a number with KiB, MiB, GiB or TiB
    #[arg(long, value_name = "SIZE", required_unless_present = "older_than")]
    to: Option<Size>,
    /// Evict what was not used for this long: 30m, 12h, 7d
    #[arg(long, value_name = "DURATION", value_parser = text::parse_duration)]
    older_than: Option<Duration>,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

impl GcArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let request = CollectCacheRequest {
            target_bytes: self.to.map(|size| size.0),
            unused_ms: self.older_than.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            dry_run: self.dry_run,
        };
        let collected = ask(&self.ask, true, async |client| {
            let answer = client.status().collect_cache(request).await;
            Ok(answer.map_err(refusal(client.url(), "evict from its cache"))?.into_inner())
        })
        .await?;
        match self.ask.format {
            Format::Human => answer(&page(&request, &collected)),
            Format::Json => answer_json(&object(&request, &collected)),
        }
    }
}

/// Whether the cache takes no more than was asked for.
fn is_reached(request: &CollectCacheRequest, collected: &CollectCacheResponse) -> bool {
    request.target_bytes.is_none_or(|target| collected.charged_bytes <= target)
}

fn page(request: &CollectCacheRequest, collected: &CollectCacheResponse) -> String {
    let [evicted, takes] =
        if request.dry_run { ["would evict", "the cache would take"] } else { ["evicted", "the cache takes"] };
    let mut page = format!(
        "{evicted} {}, {}, and {}\n{takes} {} of {}; it took {} before\n",
        text::counted(collected.blobs, "blob", "blobs"),
        text::size(collected.bytes),
        text::counted(collected.results, "result", "results"),
        text::size(collected.charged_bytes),
        text::size(collected.capacity_bytes),
        text::size(collected.charged_before_bytes),
    );
    if collected.leased_blobs > 0 {
        page.push_str(&format!(
            "kept whatever their age: {}, with up to {}, that clients or agents use or were told of\n",
            text::counted(collected.leased_blobs, "leased blob", "leased blobs"),
            text::size(collected.leased_bytes),
        ));
    }
    if !is_reached(request, collected) {
        page.push_str("note: that is more than --to asked for\n");
        if collected.leased_blobs > 0 {
            let time = text::estimate(Duration::from_millis(collected.lease_ms));
            page.push_str(&format!("  hint: a lease ends {time} after its last use: run it again then\n"));
        }
    }
    page
}

fn object(request: &CollectCacheRequest, collected: &CollectCacheResponse) -> Value {
    json!({
        "dry_run": request.dry_run,
        "evicted_blobs": collected.blobs,
        "evicted_bytes": collected.bytes,
        "evicted_results": collected.results,
        "charged_before_bytes": collected.charged_before_bytes,
        "charged_bytes": collected.charged_bytes,
        "capacity_bytes": collected.capacity_bytes,
        "leased_blobs": collected.leased_blobs,
        "leased_bytes": collected.leased_bytes,
        "reached": is_reached(request, collected),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_and_what_stays_is_said() {
        let request = CollectCacheRequest { target_bytes: Some(1 << 20), unused_ms: None, dry_run: false };
        let collected = CollectCacheResponse {
            blobs: 12,
            bytes: 350 << 20,
            results: 1,
            charged_before_bytes: 353 << 20,
            charged_bytes: 2 << 20,
            capacity_bytes: 10 << 30,
            leased_blobs: 3,
            leased_bytes: 2 << 20,
            lease_ms: 1_200_000,
        };
        insta::assert_snapshot!(page(&request, &collected), @r"
        evicted 12 blobs, 350.0 MiB, and 1 result
        the cache takes 2.0 MiB of 10.0 GiB; it took 353.0 MiB before
        kept whatever their age: 3 leased blobs, with up to 2.0 MiB, that clients or agents use or were told of
        note: that is more than --to asked for
          hint: a lease ends 20 min 00 s after its last use: run it again then
        ");
        assert_eq!(object(&request, &collected)["reached"], false);
        let request = CollectCacheRequest { target_bytes: None, unused_ms: Some(1), dry_run: true };
        let collected = CollectCacheResponse { leased_blobs: 0, ..collected };
        insta::assert_snapshot!(page(&request, &collected), @r"
        would evict 12 blobs, 350.0 MiB, and 1 result
        the cache would take 2.0 MiB of 10.0 GiB; it took 353.0 MiB before
        ");
        assert_eq!(object(&request, &collected)["reached"], true);
    }
}
