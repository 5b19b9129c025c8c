//! `Status`: what the fleet and its cache are doing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use muster_cache::{BlobEntry, CollectGoal, DivergentRecord, PageRequest, RecordEntry, StoreError, UseOrder};
use muster_model::limits::LISTED_ENTRIES_MAX;
use muster_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use super::stopping;
use crate::actions::Actions;
use crate::counters::Counters;
use crate::reapi::unknown_operation;
use crate::scheduler_task::Input;
use crate::storage::{self, Storage};

/// The service.
pub(crate) struct StatusService {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) storage: Storage,
    pub(crate) counters: Arc<Counters>,
    pub(crate) room: Arc<Actions>,
}

#[tonic::async_trait]
impl v1::status_server::Status for StatusService {
    async fn fleet_status(
        &self,
        _request: Request<v1::FleetStatusRequest>,
    ) -> Result<Response<v1::FleetStatusResponse>, Status> {
        let (sender, answer) = oneshot::channel();
        self.inputs.send(Input::StatusAsked(sender)).await.map_err(|_| stopping())?;
        Ok(Response::new(answer.await.map_err(|_| stopping())?))
    }

    async fn show_action(
        &self,
        request: Request<v1::ShowActionRequest>,
    ) -> Result<Response<v1::ShowActionResponse>, Status> {
        let name = request.into_inner().operation;
        self.room.show(&name).map(Response::new).ok_or_else(|| unknown_operation(&name))
    }

    async fn cache_stats(
        &self,
        _request: Request<v1::CacheStatsRequest>,
    ) -> Result<Response<v1::CacheStatsResponse>, Status> {
        let mut stats = self.storage.stats().await?;
        stats.kinds = self.counters.to_wire();
        (stats.protocols, stats.clients) = self.counters.traffic_to_wire();
        Ok(Response::new(stats))
    }

    async fn list_blobs(
        &self,
        request: Request<v1::ListCacheRequest>,
    ) -> Result<Response<v1::ListBlobsResponse>, Status> {
        let page = self.storage.disk.list_blobs(page_request(&request.into_inner())?).await.map_err(refused)?;
        let now = SystemTime::now();
        let blob = |entry: &BlobEntry| v1::CachedBlob {
            digest: Some((&entry.digest).into()),
            unused_ms: age_ms(now, entry.used),
            leased: entry.leased,
            results: entry.records,
        };
        let blobs = page.blobs.iter().map(blob).collect();
        Ok(Response::new(v1::ListBlobsResponse { blobs, next: page.next, total: page.total }))
    }

    async fn list_results(
        &self,
        request: Request<v1::ListCacheRequest>,
    ) -> Result<Response<v1::ListResultsResponse>, Status> {
        let page = self.storage.disk.list_records(page_request(&request.into_inner())?).await.map_err(refused)?;
        let now = SystemTime::now();
        let result = |entry: &RecordEntry| v1::CachedResult {
            key: entry.key.hex(),
            outcome: Some((&entry.outcome).into()),
            bytes: entry.payload_bytes,
            blobs: entry.references,
            unused_ms: age_ms(now, entry.used),
            divergent: entry.divergent,
        };
        let results = page.records.iter().map(result).collect();
        Ok(Response::new(v1::ListResultsResponse { results, next: page.next, total: page.total }))
    }

    async fn list_divergent(
        &self,
        request: Request<v1::ListDivergentRequest>,
    ) -> Result<Response<v1::ListDivergentResponse>, Status> {
        let page = self.storage.disk.list_divergent(request.into_inner().from).await.map_err(refused)?;
        let now = SystemTime::now();
        let result = |record: &DivergentRecord| v1::DivergentResult {
            key: record.key.hex(),
            first: Some((&record.first).into()),
            outcome: Some((&record.outcome).into()),
            bytes: record.payload.len() as u64,
            blobs: record.references.len() as u64,
            times: record.times,
            seen_ms: age_ms(now, record.seen),
        };
        let results = page.records.iter().map(result).collect();
        Ok(Response::new(v1::ListDivergentResponse { results, next: page.next }))
    }

    async fn collect_cache(
        &self,
        request: Request<v1::CollectCacheRequest>,
    ) -> Result<Response<v1::CollectCacheResponse>, Status> {
        let request = request.into_inner();
        let goal = CollectGoal {
            charged_bytes_max: request.target_bytes,
            unused_for: request.unused_ms.map(Duration::from_millis),
        };
        if goal == CollectGoal::default() {
            return Err(Status::invalid_argument("neither target_bytes nor unused_ms is set"));
        }
        let disk = &self.storage.disk;
        let before = disk.stats().await.map_err(refused)?;
        let collected = if request.dry_run { disk.foresee(goal).await } else { disk.collect(goal).await };
        let collected = collected.map_err(refused)?;
        Ok(Response::new(v1::CollectCacheResponse {
            blobs: collected.blobs,
            bytes: collected.bytes,
            results: collected.records,
            charged_before_bytes: before.charged_bytes,
            charged_bytes: collected.charged_bytes,
            capacity_bytes: before.capacity_bytes,
            leased_blobs: collected.leased_blobs,
            leased_bytes: collected.leased_bytes,
            lease_ms: u64::try_from(self.storage.lease_time.as_millis()).unwrap_or(u64::MAX),
        }))
    }
}

fn refused(error: StoreError) -> Status {
    storage::status(&error)
}

/// The page that a client asks for.
fn page_request(request: &v1::ListCacheRequest) -> Result<PageRequest, Status> {
    let order = match v1::UseOrder::try_from(request.order) {
        Ok(v1::UseOrder::OldestFirst) => UseOrder::OldestFirst,
        Ok(v1::UseOrder::NewestFirst) => UseOrder::NewestFirst,
        Ok(v1::UseOrder::Unspecified) | Err(_) => {
            return Err(Status::invalid_argument("order: must be OLDEST_FIRST or NEWEST_FIRST"));
        }
    };
    let limit = if request.limit == 0 { LISTED_ENTRIES_MAX } else { request.limit as usize };
    Ok(PageRequest { order, from: request.from, limit })
}

fn age_ms(now: SystemTime, then: SystemTime) -> u64 {
    u64::try_from(now.duration_since(then).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
