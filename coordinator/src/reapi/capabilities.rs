//! What an instance can do.

use muster_model::DigestFunction;
use muster_model::limits::{BATCH_BYTES_MAX, BLOB_BYTES_MAX, CHUNKING_AVERAGE_BYTES};
use muster_proto::reapi::capabilities_server::Capabilities;
use muster_proto::reapi::{
    self, CacheCapabilities, ExecutionCapabilities, compressor, digest_function, symlink_absolute_path_strategy,
};
use muster_proto::semver::SemVer;
use tonic::{Request, Response, Status};

use super::instance::Instance;

/// The oldest version whose clients are served.
const LOW_VERSION: (i32, i32) = (2, 0);
/// The newest version whose messages are known.
const HIGH_VERSION: (i32, i32) = (2, 12);

/// The service.
#[derive(Clone, Copy, Debug)]
pub struct CapabilitiesService {
    /// Actions are executed.
    pub(super) executes: bool,
    /// Clients may store results of their own.
    pub(super) clients_write_results: bool,
}

#[tonic::async_trait]
impl Capabilities for CapabilitiesService {
    async fn get_capabilities(
        &self,
        request: Request<reapi::GetCapabilitiesRequest>,
    ) -> Result<Response<reapi::ServerCapabilities>, Status> {
        let name = request.into_inner().instance_name;
        let instance =
            Instance::parse(&name).map_err(|error| Status::invalid_argument(format!("instance_name: {error}")))?;
        Ok(Response::new(self.of(&instance)))
    }
}

impl CapabilitiesService {
    fn of(self, instance: &Instance) -> reapi::ServerCapabilities {
        let functions = functions(instance);
        reapi::ServerCapabilities {
            cache_capabilities: Some(self.cache(functions.clone())),
            execution_capabilities: Some(self.execution(functions)),
            deprecated_api_version: None,
            low_api_version: Some(version(LOW_VERSION)),
            high_api_version: Some(version(HIGH_VERSION)),
        }
    }

    fn cache(self, digest_functions: Vec<i32>) -> CacheCapabilities {
        let zstd = vec![compressor::Value::Zstd.into()];
        CacheCapabilities {
            digest_functions,
            action_cache_update_capabilities: Some(reapi::ActionCacheUpdateCapabilities {
                update_enabled: self.clients_write_results,
            }),
            cache_priority_capabilities: None,
            max_batch_total_size_bytes: BATCH_BYTES_MAX as i64,
            // Targets are kept verbatim and never followed by the coordinator; what they point to exists only in the sandbox.
            symlink_absolute_path_strategy: symlink_absolute_path_strategy::Value::Allowed.into(),
            supported_compressors: zstd.clone(),
            supported_batch_update_compressors: zstd,
            max_cas_blob_size_bytes: BLOB_BYTES_MAX.cast_signed(),
            split_blob_support: true,
            splice_blob_support: true,
            fast_cdc_2020_params: Some(reapi::FastCdc2020Params {
                avg_chunk_size_bytes: CHUNKING_AVERAGE_BYTES as u64,
                seed: 0,
            }),
            rep_max_cdc_params: None,
        }
    }

    fn execution(self, digest_functions: Vec<i32>) -> ExecutionCapabilities {
        let range = reapi::priority_capabilities::PriorityRange { min_priority: i32::MIN, max_priority: i32::MAX };
        ExecutionCapabilities {
            digest_function: digest_functions[0],
            exec_enabled: self.executes,
            execution_priority_capabilities: Some(reapi::PriorityCapabilities { priorities: vec![range] }),
            supported_node_properties: Vec::new(),
            digest_functions,
        }
    }
}

/// Every function, the instance's default first: clients that choose take the first that they know.
fn functions(instance: &Instance) -> Vec<i32> {
    let (sha256, blake3) = (digest_function::Value::Sha256.into(), digest_function::Value::Blake3.into());
    match instance.default_function() {
        DigestFunction::Sha256 => vec![sha256, blake3],
        DigestFunction::Blake3 => vec![blake3, sha256],
    }
}

fn version((major, minor): (i32, i32)) -> SemVer {
    SemVer { major, minor, patch: 0, prerelease: String::new() }
}
