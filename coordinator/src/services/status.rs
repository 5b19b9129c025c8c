//! `Status`: what the fleet and its cache are doing.

use std::sync::Arc;

use muster_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use super::stopping;
use crate::actions::Actions;
use crate::counters::Counters;
use crate::scheduler_task::Input;
use crate::storage::Storage;

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
        let shown = self.room.show(&name);
        shown
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("operation {name:?} is not known, or was forgotten")))
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
}
