//! Rules of the Remote Asset services.

use muster_proto::asset::fetch_client::FetchClient;
use muster_proto::asset::push_client::PushClient;
use muster_proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, PushBlobRequest, PushDirectoryRequest, Qualifier,
};
use muster_proto::code_name;
use muster_proto::reapi::{Digest, Directory};
use tonic::{Code, Status};

use super::session::Session;
use super::{Answer, Check, Finding, checks, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "asset/fetch-unknown", "Fetch.FetchBlob":
        "a URI that nobody pushed and nobody can fetch is NOT_FOUND" => fetch_unknown;
    Must "asset/push-blob", "Push.PushBlob":
        "a blob that was pushed is fetched by its URI" => push_blob;
    Must "asset/qualifiers", "FetchBlobRequest.qualifiers":
        "qualifiers are part of what an asset is known by" => qualifiers;
    Must "asset/any-uri", "FetchBlobRequest.uris":
        "any one of several URIs is enough" => any_uri;
    Must "asset/push-directory", "Push.PushDirectory":
        "a directory that was pushed is fetched by its URI" => push_directory;
    Must "asset/without-uri", "FetchBlobRequest.uris":
        "a request without a URI is INVALID_ARGUMENT" => without_uri;
];

macro_rules! client {
    ($kind:ident, $session:expr) => {{
        $session.cache_capabilities()?;
        let (channel, signature) = $session.transport();
        $kind::with_interceptor(channel, signature)
    }};
}

fn uri(session: &Session) -> String {
    // A name that resolves nowhere (RFC 6761, section 6.4).
    format!("https://conformance.invalid/{}", session.word())
}

fn qualifier(value: &str) -> Vec<Qualifier> {
    vec![Qualifier { name: "conformance".into(), value: value.into() }]
}

async fn push(session: &Session, uri: &str, qualifiers: Vec<Qualifier>) -> Result<Digest, Finding> {
    let digest = session.upload(session.bytes(100)).await?;
    let request = PushBlobRequest {
        instance_name: session.instance(),
        uris: vec![uri.to_owned()],
        qualifiers,
        blob_digest: Some(digest.clone()),
        digest_function: session.function_number(),
        ..PushBlobRequest::default()
    };
    client!(PushClient, session).push_blob(request).await.map_err(Finding::of_optional)?;
    Ok(digest)
}

async fn fetch(
    session: &Session,
    uris: Vec<String>,
    qualifiers: Vec<Qualifier>,
) -> Result<Result<FetchBlobResponse, Status>, Finding> {
    let request = FetchBlobRequest {
        instance_name: session.instance(),
        uris,
        qualifiers,
        digest_function: session.function_number(),
        ..FetchBlobRequest::default()
    };
    match client!(FetchClient, session).fetch_blob(request).await {
        Ok(response) => {
            let response = response.into_inner();
            let status = response.status.clone().unwrap_or_default();
            match Code::from(status.code) {
                Code::Ok => Ok(Ok(response)),
                code => Ok(Err(Status::new(code, status.message))),
            }
        }
        Err(status) if status.code() == Code::Unimplemented => Err(Finding::of_optional(status)),
        Err(status) => Ok(Err(status)),
    }
}

async fn fetch_unknown(session: &Session) -> Answer {
    refused(fetch(session, vec![uri(session)], Vec::new()).await?, &[Code::NotFound], "it")
}

async fn push_blob(session: &Session) -> Answer {
    let uri = uri(session);
    let digest = push(session, &uri, Vec::new()).await?;
    let response = fetch(session, vec![uri.clone()], Vec::new()).await??;
    require!(response.blob_digest == Some(digest), "it is {:?}", response.blob_digest);
    require!(response.uri == uri, "the URI is {}", response.uri);
    Ok(())
}

async fn qualifiers(session: &Session) -> Answer {
    let uri = uri(session);
    let one = push(session, &uri, qualifier("one")).await?;
    let response = fetch(session, vec![uri.clone()], qualifier("one")).await??;
    require!(response.blob_digest == Some(one), "it is {:?}", response.blob_digest);
    let other = fetch(session, vec![uri], qualifier("another")).await?;
    refused(other, &[Code::NotFound, Code::InvalidArgument], "another qualifier")
}

async fn any_uri(session: &Session) -> Answer {
    let known = uri(session);
    let digest = push(session, &known, Vec::new()).await?;
    let response = fetch(session, vec![uri(session), known.clone()], Vec::new()).await??;
    require!(response.blob_digest == Some(digest), "it is {:?}", response.blob_digest);
    require!(response.uri == known, "the URI is {}", response.uri);
    Ok(())
}

async fn push_directory(session: &Session) -> Answer {
    let uri = uri(session);
    let node =
        muster_proto::reapi::FileNode { name: session.word(), digest: Some(session.digest(b"")), ..Default::default() };
    let root = session.upload_message(&Directory { files: vec![node], ..Directory::default() }).await?;
    let request = PushDirectoryRequest {
        instance_name: session.instance(),
        uris: vec![uri.clone()],
        root_directory_digest: Some(root.clone()),
        digest_function: session.function_number(),
        ..PushDirectoryRequest::default()
    };
    client!(PushClient, session).push_directory(request).await.map_err(Finding::of_optional)?;
    let request = FetchDirectoryRequest {
        instance_name: session.instance(),
        uris: vec![uri],
        digest_function: session.function_number(),
        ..FetchDirectoryRequest::default()
    };
    let fetched =
        client!(FetchClient, session).fetch_directory(request).await.map_err(Finding::of_optional)?.into_inner();
    let status = fetched.status.unwrap_or_default();
    require!(status.code == 0, "the status is {}: {}", code_name(Code::from(status.code)), status.message);
    require!(fetched.root_directory_digest == Some(root), "it is {:?}", fetched.root_directory_digest);
    Ok(())
}

async fn without_uri(session: &Session) -> Answer {
    refused(fetch(session, Vec::new(), Vec::new()).await?, &[Code::InvalidArgument], "it")
}
