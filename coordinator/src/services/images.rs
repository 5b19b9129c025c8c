//! `Images`: names for root file systems.

use std::sync::Arc;

use muster_proto::v1;
use tonic::{Request, Response, Status};

use crate::clock::Clock;
use crate::images::Images;

/// The service.
pub(crate) struct ImagesService {
    pub(crate) images: Arc<Images>,
    pub(crate) clock: Clock,
}

#[tonic::async_trait]
impl v1::images_server::Images for ImagesService {
    async fn name_image(
        &self,
        request: Request<v1::NameImageRequest>,
    ) -> Result<Response<v1::NameImageResponse>, Status> {
        let image = request.into_inner().image.ok_or_else(|| Status::invalid_argument("there is no image"))?;
        self.images.name(image, self.clock.unix_ms()).await.map(Response::new)
    }

    async fn list_images(
        &self,
        _request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        Ok(Response::new(v1::ListImagesResponse { images: self.images.list().await? }))
    }

    async fn show_image(&self, request: Request<v1::ShowImageRequest>) -> Result<Response<v1::Image>, Status> {
        self.images.show(&request.into_inner().name).await.map(Response::new)
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Result<Response<v1::Image>, Status> {
        self.images.remove(&request.into_inner().name).await.map(Response::new)
    }
}
