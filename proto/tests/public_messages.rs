//! Our declarations against the published ones: the crates `bazel-remote-apis` (messages and services) and `tonic-types` (error details).
//!
//! Every message is filled in by its descriptor, each field with a value that only its own type can carry. Both sides read those bytes, must show
//! the same fields by the same names in the same order with the same values, and must write bytes that the other side reads as the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bazel_remote_apis::build::bazel::remote::asset::v1 as their_asset;
use bazel_remote_apis::build::bazel::remote::execution::v2 as their_reapi;
use bazel_remote_apis::build::bazel::semver as their_semver;
use bazel_remote_apis::google::{bytestream as their_bytestream, longrunning as their_longrunning, rpc as their_rpc};
use muster_proto::{asset, bytestream, longrunning, reapi, rpc, semver};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use tonic::body::Body;
use tonic::codegen::http;
use tonic_types::pb as their_details;

/// Packages whose messages are public ones.
const PACKAGES: [&str; 6] = [
    "build.bazel.remote.asset.v1",
    "build.bazel.remote.execution.v2",
    "build.bazel.semver",
    "google.bytestream",
    "google.longrunning",
    "google.rpc",
];
/// One more than the highest number of any enumeration, so that an unknown number is among the values.
const ENUM_NUMBERS: i32 = 12;

fn pool() -> DescriptorPool {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("reapi");
    let files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| format!("reapi/{}", entry.unwrap().file_name().to_str().unwrap()))
        .collect();
    let descriptors = protox::compile(files, [env!("CARGO_MANIFEST_DIR")]).unwrap();
    DescriptorPool::from_file_descriptor_set(descriptors).unwrap()
}

/// A message with a value in every field; of each `oneof` the member that `number` chooses, and `number` in every enumeration.
fn filled(message: &MessageDescriptor, number: i32) -> DynamicMessage {
    let mut filled = DynamicMessage::new(message.clone());
    for field in message.fields() {
        if let Some(choice) = field.containing_oneof()
            && choice.fields().nth(number as usize % choice.fields().len()) != Some(field.clone())
        {
            continue;
        }
        let value = if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            let key = MapKey::String(field.name().to_owned());
            Value::Map([(key, value(&entry.map_entry_value_field(), number))].into())
        } else if field.is_list() {
            Value::List(vec![value(&field, number), value(&field, number)])
        } else {
            value(&field, number)
        };
        filled.set_field(&field, value);
    }
    filled
}

/// A value that no other type of the same wire form would read as the same.
fn value(field: &FieldDescriptor, number: i32) -> Value {
    let own = field.number();
    match field.kind() {
        Kind::Int32 => Value::I32(-(own as i32)),
        Kind::Int64 => Value::I64(-(1 << 40) - i64::from(own)),
        Kind::Uint32 => Value::U32(u32::MAX - own),
        Kind::Uint64 => Value::U64(u64::MAX - u64::from(own)),
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String(format!("text of {}", field.name())),
        Kind::Bytes => Value::Bytes(b"bytes"[..].into()),
        Kind::Enum(_) => Value::EnumNumber(number),
        Kind::Message(message) => Value::Message(filled(&message, number)),
        kind => panic!("{} has the type {kind:?}, for which there is no value here", field.full_name()),
    }
}

/// What a message shows of itself, with bytes and wrapped numbers written in one way.
fn shown(message: &impl Debug) -> String {
    let shown = format!("{message:?}").replace("[98, 121, 116, 101, 115]", "b\"bytes\"");
    shown.replace("UInt32Value { value: 4294967294 }", "4294967294")
}

/// What generated messages of either side can do.
trait Published: Message + Default + PartialEq + Debug {}

impl<T: Message + Default + PartialEq + Debug> Published for T {}

fn compare<Ours: Published, Theirs: Published>(name: &str) {
    let message = pool().get_message_by_name(name).unwrap_or_else(|| panic!("{name} is not declared"));
    for number in 0..ENUM_NUMBERS {
        let bytes = filled(&message, number).encode_to_vec();
        let ours = Ours::decode(&bytes[..]).unwrap();
        let theirs = Theirs::decode(&bytes[..]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(shown(&ours), shown(&theirs), "{name}");
        assert_eq!(Theirs::decode(&ours.encode_to_vec()[..]).unwrap(), theirs, "{name}");
        assert_eq!(Ours::decode(&theirs.encode_to_vec()[..]).unwrap(), ours, "{name}");
    }
}

macro_rules! compare_all {
    ($compared:ident, $package:literal, $ours:ident, $theirs:ident, $($name:ident)*) => {$(
        let name = concat!($package, ".", stringify!($name));
        compare::<$ours::$name, $theirs::$name>(name);
        $compared.insert(name.to_owned());
    )*};
}

#[test]
fn every_message_is_the_published_one() {
    let mut compared = BTreeSet::new();
    compare_all!(compared, "build.bazel.semver", semver, their_semver, SemVer);
    compare_all!(compared, "google.bytestream", bytestream, their_bytestream,
        ReadRequest ReadResponse WriteRequest WriteResponse QueryWriteStatusRequest QueryWriteStatusResponse);
    compare_all!(compared, "google.longrunning", longrunning, their_longrunning,
        Operation GetOperationRequest ListOperationsRequest ListOperationsResponse CancelOperationRequest
        DeleteOperationRequest WaitOperationRequest);
    compare_all!(compared, "google.rpc", rpc, their_rpc, Status);
    compare_all!(compared, "google.rpc", rpc, their_details,
        RetryInfo DebugInfo PreconditionFailure BadRequest RequestInfo ResourceInfo Help LocalizedMessage);
    compare_all!(compared, "build.bazel.remote.asset.v1", asset, their_asset,
        Qualifier FetchBlobRequest FetchBlobResponse FetchDirectoryRequest FetchDirectoryResponse PushBlobRequest
        PushBlobResponse PushDirectoryRequest PushDirectoryResponse);
    compare_all!(compared, "build.bazel.remote.execution.v2", reapi, their_reapi,
        Action Command Platform Directory NodeProperty NodeProperties FileNode DirectoryNode SymlinkNode Digest
        ExecutedActionMetadata ActionResult OutputFile Tree OutputDirectory OutputSymlink ExecutionPolicy
        ResultsCachePolicy ExecuteRequest LogFile ExecuteResponse ExecutionStage ExecuteOperationMetadata
        WaitExecutionRequest GetActionResultRequest UpdateActionResultRequest FindMissingBlobsRequest
        FindMissingBlobsResponse BatchUpdateBlobsRequest BatchUpdateBlobsResponse BatchReadBlobsRequest
        BatchReadBlobsResponse GetTreeRequest GetTreeResponse SplitBlobRequest SplitBlobResponse SpliceBlobRequest
        SpliceBlobResponse GetCapabilitiesRequest ServerCapabilities DigestFunction ChunkingFunction
        ActionCacheUpdateCapabilities PriorityCapabilities SymlinkAbsolutePathStrategy Compressor CacheCapabilities
        FastCdc2020Params RepMaxCdcParams ExecutionCapabilities ToolDetails RequestMetadata);
    let declared: BTreeSet<String> = pool()
        .all_messages()
        .filter(|message| message.parent_message().is_none() && PACKAGES.contains(&message.package_name()))
        .map(|message| message.full_name().to_owned())
        .collect();
    assert_eq!(declared, compared);
}

/// A channel that only remembers which paths were called.
#[derive(Clone, Default)]
struct Paths(Arc<Mutex<BTreeSet<String>>>);

impl tower_service::Service<http::Request<Body>> for Paths {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.lock().unwrap().insert(request.uri().path().to_owned());
        let mut response = http::Response::new(Body::empty());
        response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("12"));
        std::future::ready(Ok(response))
    }
}

/// Calls methods of a published client; a stream of requests is a stream of nothing.
macro_rules! call_all {
    ($paths:ident, $client:path, $($method:ident)* $(; $streaming:ident)?) => {{
        use $client as Client;
        let mut client = Client::new($paths.clone());
        $(let _ = client.$method(tonic::Request::new(Default::default())).await;)*
        $(let _ = client.$streaming(tokio_stream::empty()).await;)?
    }};
}

#[tokio::test]
async fn every_method_has_the_published_path() {
    let paths = Paths::default();
    call_all!(paths, their_reapi::execution_client::ExecutionClient, execute wait_execution);
    call_all!(paths, their_reapi::action_cache_client::ActionCacheClient, get_action_result update_action_result);
    call_all!(paths, their_reapi::content_addressable_storage_client::ContentAddressableStorageClient,
        find_missing_blobs batch_update_blobs batch_read_blobs get_tree split_blob splice_blob);
    call_all!(paths, their_reapi::capabilities_client::CapabilitiesClient, get_capabilities);
    call_all!(paths, their_bytestream::byte_stream_client::ByteStreamClient, read query_write_status; write);
    call_all!(paths, their_longrunning::operations_client::OperationsClient,
        list_operations get_operation delete_operation cancel_operation wait_operation);
    call_all!(paths, their_asset::fetch_client::FetchClient, fetch_blob fetch_directory);
    call_all!(paths, their_asset::push_client::PushClient, push_blob push_directory);
    let declared: BTreeSet<String> = pool()
        .services()
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            service.methods().map(move |method| format!("/{name}/{}", method.name())).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(*paths.0.lock().unwrap(), declared);
}
