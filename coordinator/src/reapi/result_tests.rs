//! Results and assets: the cache's word.

use std::time::Duration;

use bytes::Bytes;
use muster_cache::{Blob, BlobStore, digest_of};
use muster_model::limits::BLOB_LEASE_TIME;
use muster_model::{Digest, DigestFunction};
use muster_proto::asset::fetch_client::FetchClient;
use muster_proto::asset::push_client::PushClient;
use muster_proto::asset::{FetchBlobRequest, FetchDirectoryRequest, PushBlobRequest, PushDirectoryRequest, Qualifier};
use muster_proto::reapi::action_cache_client::ActionCacheClient;
use muster_proto::reapi::{
    self, ActionResult, Directory, DirectoryNode, ExecutedActionMetadata, FileNode, OutputDirectory, OutputFile, Tree,
};
use muster_proto::rpc;
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::tests::{Fleet, fleet_with};

async fn put(fleet: &Fleet, bytes: impl Into<Bytes>) -> Digest {
    let bytes = bytes.into();
    let digest = digest_of(DigestFunction::Sha256, &bytes);
    fleet.disk.put_blob(&digest, Blob::from_bytes_of(digest, bytes).unwrap()).await.unwrap();
    digest
}

fn absent(bytes: &[u8]) -> Digest {
    digest_of(DigestFunction::Sha256, bytes)
}

fn file(name: &str, digest: Digest) -> FileNode {
    FileNode { name: name.into(), digest: Some(digest.into()), ..FileNode::default() }
}

async fn get(fleet: &Fleet, instance: &str) -> Result<ActionResult, Status> {
    let request = reapi::GetActionResultRequest {
        instance_name: instance.into(),
        action_digest: Some(absent(b"action").into()),
        inline_stdout: true,
        inline_output_files: vec!["out".into()],
        ..Default::default()
    };
    Ok(ActionCacheClient::new(fleet.channel.clone()).get_action_result(request).await?.into_inner())
}

async fn update(fleet: &Fleet, instance: &str, result: &ActionResult) -> Result<ActionResult, Status> {
    let request = reapi::UpdateActionResultRequest {
        instance_name: instance.into(),
        action_digest: Some(absent(b"action").into()),
        action_result: Some(result.clone()),
        ..Default::default()
    };
    Ok(ActionCacheClient::new(fleet.channel.clone()).update_action_result(request).await?.into_inner())
}

/// A result with everything a result can point at, and the digests of all that.
async fn whole_result(fleet: &Fleet) -> (ActionResult, Vec<Digest>) {
    let (out, stdout, in_tree) =
        (put(fleet, vec![1; 20_000]).await, put(fleet, &b"said"[..]).await, put(fleet, vec![2; 20_000]).await);
    let in_directory = put(fleet, vec![3; 20_000]).await;
    let child = Directory { files: vec![file("deep", in_tree)], ..Directory::default() };
    let nodes = vec![DirectoryNode { name: "child".into(), digest: Some(absent(&child.encode_to_vec()).into()) }];
    let tree = Tree { root: Some(Directory { directories: nodes, ..Directory::default() }), children: vec![child] };
    let tree = put(fleet, tree.encode_to_vec()).await;
    let leaf = Directory { files: vec![file("leaf", in_directory)], ..Directory::default() };
    let leaf = put(fleet, leaf.encode_to_vec()).await;
    let nodes = vec![DirectoryNode { name: "leaf".into(), digest: Some(leaf.into()) }];
    let root = put(fleet, Directory { directories: nodes, ..Directory::default() }.encode_to_vec()).await;
    let result = ActionResult {
        output_files: vec![OutputFile { path: "out".into(), digest: Some(out.into()), ..OutputFile::default() }],
        output_directories: vec![OutputDirectory {
            path: "directory".into(),
            tree_digest: Some(tree.into()),
            root_directory_digest: Some(root.into()),
            ..OutputDirectory::default()
        }],
        stdout_digest: Some(stdout.into()),
        ..ActionResult::default()
    };
    (result, vec![out, stdout, in_tree, in_directory, tree, leaf, root])
}

#[tokio::test]
async fn t2_14_a_result_that_lost_a_blob_is_a_miss_and_can_be_stored_again() {
    // Without leases, so that blobs can be evicted at once.
    let fleet = fleet_with(true, Duration::ZERO).await;
    let (result, references) = whole_result(&fleet).await;
    for lost in references.iter().copied() {
        whole_result(&fleet).await;
        update(&fleet, "", &result).await.unwrap();
        assert!(get(&fleet, "").await.is_ok());
        // Everything but one blob is used again and again while the store fills, so that blob goes.
        let kept: Vec<Digest> = references.iter().copied().filter(|digest| *digest != lost).collect();
        for number in 0..70_u32 {
            put(&fleet, number.to_le_bytes().repeat(1 << 18)).await;
            assert_eq!(fleet.disk.find_missing(&kept).await.unwrap(), []);
        }
        assert_eq!(fleet.disk.find_missing(&[lost]).await.unwrap(), [lost]);
        assert_eq!(get(&fleet, "").await.unwrap_err().code(), Code::NotFound, "without {lost}");
        let refused = update(&fleet, "", &result).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        let details = rpc::Status::decode(refused.details()).unwrap().details;
        let failure = rpc::PreconditionFailure::decode(&details[0].value[..]).unwrap();
        assert_eq!(details[0].type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
        let subject = format!("blobs/{}/{}", lost.hex(), lost.size_bytes);
        assert_eq!((failure.violations[0].r#type.as_str(), &failure.violations[0].subject), ("MISSING", &subject));
    }
}

#[tokio::test]
async fn instances_have_results_of_their_own_and_answers_have_what_is_wanted_inline() {
    let fleet = fleet_with(true, BLOB_LEASE_TIME).await;
    assert_eq!(get(&fleet, "").await.unwrap_err().code(), Code::NotFound);
    let (mut result, _) = whole_result(&fleet).await;
    result.output_files[0].contents = Bytes::from_static(b"not kept: the digest is");
    update(&fleet, "one", &result).await.unwrap();
    assert_eq!(get(&fleet, "two").await.unwrap_err().code(), Code::NotFound);
    let found = get(&fleet, "one").await.unwrap();
    assert_eq!(found.stdout_raw, b"said"[..]);
    assert_eq!(found.output_files[0].contents, vec![1; 20_000]);
    assert_eq!(found.output_directories, result.output_directories);
}

#[tokio::test]
async fn t2_16_another_result_of_an_action_is_kept_beside_the_first() {
    let fleet = fleet_with(true, BLOB_LEASE_TIME).await;
    let (first, _) = whole_result(&fleet).await;
    update(&fleet, "", &first).await.unwrap();
    let mut later = first.clone();
    later.execution_metadata = Some(ExecutedActionMetadata { worker: "elsewhere".into(), ..Default::default() });
    assert_eq!(update(&fleet, "", &later).await.unwrap(), later);
    assert_eq!(fleet.disk.stats().await.unwrap().divergent_results, 0);
    let other = ActionResult { exit_code: 1, ..ActionResult::default() };
    assert_eq!(update(&fleet, "", &other).await.unwrap().exit_code, 0);
    assert_eq!(get(&fleet, "").await.unwrap().exit_code, 0);
    assert_eq!(fleet.disk.stats().await.unwrap().divergent_results, 1);
}

#[tokio::test]
async fn results_that_make_no_sense_or_are_not_allowed_are_refused() {
    let fleet = fleet_with(true, BLOB_LEASE_TIME).await;
    let no_digest = OutputFile { path: "out".into(), ..OutputFile::default() };
    let no_tree = put(&fleet, &b"\xff\xff"[..]).await;
    let directory =
        OutputDirectory { path: "d".into(), tree_digest: Some(no_tree.into()), ..OutputDirectory::default() };
    for result in [
        ActionResult { output_files: vec![no_digest], ..ActionResult::default() },
        ActionResult { output_directories: vec![OutputDirectory::default()], ..ActionResult::default() },
        ActionResult { output_directories: vec![directory], ..ActionResult::default() },
    ] {
        assert_eq!(update(&fleet, "", &result).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let closed = fleet_with(false, BLOB_LEASE_TIME).await;
    let refused = update(&closed, "", &ActionResult::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn who_asked_is_counted() {
    let fleet = fleet_with(true, BLOB_LEASE_TIME).await;
    update(&fleet, "", &ActionResult::default()).await.unwrap();
    let tool_details = Some(reapi::ToolDetails { tool_name: "bazel".into(), tool_version: "7".into() });
    let said = reapi::RequestMetadata { tool_details, ..Default::default() }.encode_to_vec();
    for action in [&b"action"[..], b"another"] {
        let action_digest = Some(absent(action).into());
        let mut request = Request::new(reapi::GetActionResultRequest { action_digest, ..Default::default() });
        let name = "build.bazel.remote.execution.v2.requestmetadata-bin";
        request.metadata_mut().insert_bin(name, MetadataValue::from_bytes(&said));
        let _ = ActionCacheClient::new(fleet.channel.clone()).get_action_result(request).await;
    }
    let (protocols, clients) = fleet.counters.traffic_to_wire();
    assert_eq!((protocols[0].name.as_str(), protocols[0].requests, protocols[0].hits), ("remote_execution", 3, 1));
    let bazel = clients.iter().find(|client| client.name == "bazel").unwrap();
    assert_eq!((bazel.requests, bazel.hits, bazel.misses), (2, 1, 1));
}

fn qualifier(name: &str, value: &str) -> Qualifier {
    Qualifier { name: name.into(), value: value.into() }
}

#[tokio::test]
async fn a_pushed_blob_is_fetched_by_its_uri_qualifiers_and_checksum() {
    let fleet = fleet_with(true, BLOB_LEASE_TIME).await;
    let fetch = async |uri: &str, qualifiers: Vec<Qualifier>| {
        let request = FetchBlobRequest { uris: vec!["x:no".into(), uri.into()], qualifiers, ..Default::default() };
        Ok::<_, Status>(FetchClient::new(fleet.channel.clone()).fetch_blob(request).await?.into_inner())
    };
    let push = async |digest: Digest, qualifiers: Vec<Qualifier>| {
        let blob_digest = Some(digest.into());
        let request = PushBlobRequest { uris: vec!["x:a".into()], qualifiers, blob_digest, ..Default::default() };
        PushClient::new(fleet.channel.clone()).push_blob(request).await
    };
    assert_eq!(fetch("x:a", vec![]).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(push(absent(b"absent"), vec![]).await.unwrap_err().code(), Code::FailedPrecondition);
    let digest = put(&fleet, &b"Hello, world."[..]).await;
    push(digest, vec![qualifier("b", "2"), qualifier("a", "1")]).await.unwrap();
    let named = || vec![qualifier("a", "1"), qualifier("b", "2")];
    let found = fetch("x:a", named()).await.unwrap();
    assert_eq!((found.uri.as_str(), found.blob_digest), ("x:a", Some(digest.into())));
    assert_eq!(fetch("x:a", vec![]).await.unwrap_err().code(), Code::NotFound);
    let (right, wrong) = (format!("sha256-{}", base64_of(&digest.hash)), format!("sha256-{}", base64_of(&[0; 32])));
    for (checksum, code) in [
        (right.as_str(), None),
        (wrong.as_str(), Some(Code::NotFound)),
        ("md5-AAAA", Some(Code::InvalidArgument)),
        ("sha256-x", Some(Code::InvalidArgument)),
    ] {
        let mut qualifiers = named();
        qualifiers.push(qualifier("checksum.sri", checksum));
        let code_found = fetch("x:a", qualifiers).await.err().map(|status| status.code());
        assert_eq!(code_found, code, "{checksum}");
    }
    let later = put(&fleet, &b"later"[..]).await;
    push(later, named()).await.unwrap();
    assert_eq!(fetch("x:a", named()).await.unwrap().blob_digest, Some(later.into()));
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

#[tokio::test]
async fn a_pushed_directory_comes_with_everything_below_it() {
    let fleet = fleet_with(true, BLOB_LEASE_TIME).await;
    let leaf = absent(b"leaf");
    let root = Directory { files: vec![file("leaf", leaf)], ..Directory::default() };
    let root = put(&fleet, root.encode_to_vec()).await;
    let push = PushDirectoryRequest {
        uris: vec!["x:d".into()],
        root_directory_digest: Some(root.into()),
        ..Default::default()
    };
    let mut client = PushClient::new(fleet.channel.clone());
    assert_eq!(client.push_directory(push.clone()).await.unwrap_err().code(), Code::FailedPrecondition);
    put(&fleet, &b"leaf"[..]).await;
    client.push_directory(push).await.unwrap();
    let fetch = FetchDirectoryRequest { uris: vec!["x:d".into()], ..Default::default() };
    let found = FetchClient::new(fleet.channel.clone()).fetch_directory(fetch).await.unwrap().into_inner();
    assert_eq!(found.root_directory_digest, Some(root.into()));
}
