//! A small client of the Remote Execution API: it uploads actions and listens to their operations.

use std::time::Duration;

use bytes::Bytes;
use muster_proto::longrunning::operations_client::OperationsClient;
use muster_proto::longrunning::{Operation, operation};
use muster_proto::reapi::action_cache_client::ActionCacheClient;
use muster_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use muster_proto::reapi::execution_client::ExecutionClient;
use muster_proto::reapi::{self, Digest, ExecuteOperationMetadata, ExecuteResponse};
use muster_proto::rpc;
use prost::Message;
use sha2::Digest as _;
use tonic::codec::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// The SHA-256 digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> Digest {
    let hash = sha2::Sha256::digest(bytes);
    let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Digest { hash, size_bytes: i64::try_from(bytes.len()).expect("fits") }
}

/// An action as a test describes it: a shell script over files.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The command with its outputs and variables.
    pub command: reapi::Command,
    /// Files of the input root: path of one or two parts, content, executable.
    pub files: Vec<(String, String, bool)>,
    /// The action without its digests.
    pub action: reapi::Action,
}

impl Script {
    /// `/bin/sh -c` of a text.
    pub fn new(text: &str) -> Self {
        let arguments = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        let variable =
            |name: &str, value: &str| reapi::command::EnvironmentVariable { name: name.into(), value: value.into() };
        let environment_variables = vec![variable("PATH", "/usr/bin:/bin")];
        Self {
            command: reapi::Command { arguments, environment_variables, ..reapi::Command::default() },
            ..Self::default()
        }
    }

    /// The same with declared outputs.
    pub fn outputs(mut self, paths: &[&str]) -> Self {
        self.command.output_paths = paths.iter().map(|path| (*path).to_owned()).collect();
        self
    }

    /// The same with a file in its input root.
    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.push((path.to_owned(), content.to_owned(), false));
        self
    }

    /// The same with a platform property.
    pub fn property(mut self, name: &str, value: &str) -> Self {
        let property = reapi::platform::Property { name: name.into(), value: value.into() };
        self.action.platform.get_or_insert_default().properties.push(property);
        self
    }

    /// The same with a timeout.
    pub fn timeout(mut self, seconds: i64) -> Self {
        self.action.timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        self
    }

    /// The same with bytes that make its digest its own.
    pub fn salt(mut self, salt: impl AsRef<[u8]>) -> Self {
        self.action.salt = Bytes::copy_from_slice(salt.as_ref());
        self
    }

    /// Every blob of it, the digest of the action first.
    pub fn blobs(&self) -> (Digest, Vec<Bytes>) {
        let mut blobs = Vec::new();
        let mut keep = |bytes: Vec<u8>| {
            let digest = digest_of(&bytes);
            blobs.push(Bytes::from(bytes));
            digest
        };
        let mut root = reapi::Directory::default();
        let mut below: std::collections::BTreeMap<&str, reapi::Directory> = Default::default();
        for (path, content, is_executable) in &self.files {
            let (folder, name) =
                path.split_once('/').map_or((None, path.as_str()), |(folder, name)| (Some(folder), name));
            let digest = Some(keep(content.clone().into_bytes()));
            let node =
                reapi::FileNode { name: name.into(), digest, is_executable: *is_executable, node_properties: None };
            match folder {
                Some(folder) => below.entry(folder).or_default().files.push(node),
                None => root.files.push(node),
            }
        }
        for (name, mut directory) in below {
            directory.files.sort_by(|left, right| left.name.cmp(&right.name));
            let digest = Some(keep(directory.encode_to_vec()));
            root.directories.push(reapi::DirectoryNode { name: name.into(), digest });
        }
        root.files.sort_by(|left, right| left.name.cmp(&right.name));
        let action = reapi::Action {
            command_digest: Some(keep(self.command.encode_to_vec())),
            input_root_digest: Some(keep(root.encode_to_vec())),
            ..self.action.clone()
        };
        let action = keep(action.encode_to_vec());
        (action, blobs)
    }
}

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Remote {
    channel: Channel,
    /// Sent with every request that names one.
    pub instance: String,
    /// Sent as `RequestMetadata` with every Execute.
    pub metadata: reapi::RequestMetadata,
}

/// What an operation came to.
#[derive(Clone, Debug)]
pub struct Executed {
    /// Its name.
    pub name: String,
    /// The stages that were told, without repetitions.
    pub stages: Vec<reapi::execution_stage::Value>,
    /// The answer.
    pub response: ExecuteResponse,
}

impl Executed {
    /// The result.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn result(&self) -> &reapi::ActionResult {
        self.response.result.as_ref().unwrap_or_else(|| panic!("a result: {:?}", self.response))
    }

    /// The code of the response's status.
    pub fn code(&self) -> Code {
        Code::from(self.response.status.as_ref().map_or(0, |status| status.code))
    }

    /// The words of the response's status.
    pub fn said(&self) -> &str {
        self.response.status.as_ref().map_or("", |status| &status.message)
    }

    /// The subjects of the missing blobs that the status names.
    ///
    /// # Panics
    ///
    /// When the status has other details than one `PreconditionFailure` of missing blobs.
    pub fn missing(&self) -> Vec<String> {
        let status = self.response.status.clone().unwrap_or_default();
        let [detail] = &status.details[..] else { panic!("exactly one detail: {status:?}") };
        assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
        let failure = rpc::PreconditionFailure::decode(detail.value.as_slice()).expect("a failure");
        assert!(failure.violations.iter().all(|violation| violation.r#type == "MISSING"));
        failure.violations.into_iter().map(|violation| violation.subject).collect()
    }
}

impl Remote {
    /// Connects to a server that may still be starting.
    ///
    /// # Panics
    ///
    /// When it does not answer for half a minute.
    pub async fn connect(url: &str) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL").tcp_nodelay(true);
        for _ in 0..300 {
            if let Ok(channel) = endpoint.connect().await {
                return Self { channel, instance: String::new(), metadata: reapi::RequestMetadata::default() };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{url} does not answer");
    }

    /// The content-addressed store.
    pub fn storage(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
    }

    /// The execution service.
    pub fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel.clone()).max_decoding_message_size(16 * 1024 * 1024)
    }

    /// The operations.
    pub fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone())
    }

    /// The action cache.
    pub fn action_cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel.clone())
    }

    /// Uploads blobs.
    ///
    /// # Panics
    ///
    /// When one is refused.
    pub async fn upload(&self, blobs: impl IntoIterator<Item = Bytes>) {
        let requests = blobs.into_iter().map(|data| reapi::batch_update_blobs_request::Request {
            digest: Some(digest_of(&data)),
            data,
            ..Default::default()
        });
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests: requests.collect(),
            ..Default::default()
        };
        let response = self.storage().batch_update_blobs(request).await.expect("an upload").into_inner();
        for part in response.responses {
            assert_eq!(part.status.unwrap_or_default().code, 0, "{:?}", part.digest);
        }
    }

    /// Reads a blob.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub async fn read(&self, digest: &Digest) -> Bytes {
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: vec![digest.clone()],
            ..Default::default()
        };
        let response = self.storage().batch_read_blobs(request).await.expect("an answer").into_inner();
        let [part] = &response.responses[..] else { panic!("one part") };
        assert_eq!(part.status.clone().unwrap_or_default().code, 0, "{digest:?}");
        part.data.clone()
    }

    /// Uploads everything of an action.
    pub async fn prepare(&self, script: &Script) -> Digest {
        let (digest, blobs) = script.blobs();
        self.upload(blobs).await;
        digest
    }

    /// A request to execute an action.
    pub fn request(&self, digest: &Digest) -> reapi::ExecuteRequest {
        reapi::ExecuteRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(digest.clone()),
            ..Default::default()
        }
    }

    /// Begins an execution.
    ///
    /// # Errors
    ///
    /// What the server says to the call itself.
    pub async fn begin(&self, request: reapi::ExecuteRequest) -> Result<Streaming<Operation>, Status> {
        let mut request = Request::new(request);
        let metadata = tonic::metadata::MetadataValue::from_bytes(&self.metadata.encode_to_vec());
        request.metadata_mut().insert_bin("build.bazel.remote.execution.v2.requestmetadata-bin", metadata);
        Ok(self.execution().execute(request).await?.into_inner())
    }

    /// Listens again.
    ///
    /// # Errors
    ///
    /// What the server says to the call itself.
    pub async fn wait(&self, name: &str) -> Result<Streaming<Operation>, Status> {
        let request = reapi::WaitExecutionRequest { name: name.to_owned() };
        Ok(self.execution().wait_execution(request).await?.into_inner())
    }

    /// Executes an action that was uploaded, to its end.
    ///
    /// # Panics
    ///
    /// When the stream ends without an answer.
    pub async fn execute(&self, digest: &Digest) -> Executed {
        let stream = self.begin(self.request(digest)).await.expect("a stream");
        finish(stream).await
    }

    /// Uploads and executes.
    pub async fn run(&self, script: &Script) -> Executed {
        let digest = self.prepare(script).await;
        self.execute(&digest).await
    }

    /// Cancels an operation.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub async fn cancel(&self, name: &str) -> Result<(), Status> {
        let request = muster_proto::longrunning::CancelOperationRequest { name: name.to_owned() };
        self.operations().cancel_operation(request).await.map(drop)
    }
}

/// The stage of an operation.
///
/// # Panics
///
/// When it has no metadata.
pub fn stage_of(operation: &Operation) -> reapi::execution_stage::Value {
    let metadata = operation.metadata.as_ref().expect("metadata");
    ExecuteOperationMetadata::decode(metadata.value.as_slice()).expect("of an execution").stage()
}

/// Listens to an operation to its end.
///
/// # Panics
///
/// When the stream ends before it, or the answer is an error of the operation itself.
pub async fn finish(mut stream: Streaming<Operation>) -> Executed {
    let mut stages = Vec::new();
    let mut name = String::new();
    while let Some(operation) = stream.message().await.expect("a stream that goes on") {
        assert!(name.is_empty() || name == operation.name, "one stream is one operation");
        name.clone_from(&operation.name);
        let stage = stage_of(&operation);
        if stages.last() != Some(&stage) {
            stages.push(stage);
        }
        if !operation.done {
            continue;
        }
        let Some(operation::Result::Response(response)) = operation.result else { panic!("a response") };
        assert_eq!(response.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse");
        let response = ExecuteResponse::decode(response.value.as_slice()).expect("a response");
        return Executed { name, stages, response };
    }
    panic!("the stream ended before its operation did");
}
