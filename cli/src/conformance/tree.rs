//! Rules of ContentAddressableStorage.GetTree.

use futures_util::StreamExt;
use muster_proto::reapi::{Digest, Directory, DirectoryNode, FileNode, GetTreeRequest, GetTreeResponse};
use prost::Message;
use tonic::{Code, Status};

use super::session::Session;
use super::{Answer, Check, Finding, broken, checks, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "tree/whole", "ContentAddressableStorage.GetTree":
        "every directory below the root, and the root itself, is returned" => whole;
    Must "tree/pages", "GetTreeRequest.page_size":
        "no response holds more directories than the page size" => pages;
    Must "tree/page-token", "GetTreeRequest.page_token":
        "a token from a response answers what follows it" => page_token;
    Must "tree/root-not-found", "ContentAddressableStorage.GetTree":
        "a root that is not in the store is NOT_FOUND" => root_not_found;
    Must "tree/part-missing", "ContentAddressableStorage.GetTree":
        "when a part of the tree is missing, the rest is returned" => part_missing;
    Must "tree/root-not-a-directory", "GetTreeRequest.root_digest":
        "a root that is no Directory message is an error" => not_a_directory;
];

/// What answers a request: every response of the stream.
async fn ask(
    session: &Session,
    root: &Digest,
    page_size: i32,
    page_token: &str,
) -> Result<Vec<GetTreeResponse>, Status> {
    let request = GetTreeRequest {
        instance_name: session.instance(),
        root_digest: Some(root.clone()),
        page_size,
        page_token: page_token.to_owned(),
        digest_function: session.function_number(),
    };
    let mut stream = session.cas().get_tree(request).await?.into_inner();
    let mut responses = Vec::new();
    while let Some(response) = stream.next().await {
        responses.push(response?);
    }
    Ok(responses)
}

fn directories(responses: &[GetTreeResponse]) -> Vec<Vec<u8>> {
    let all = responses.iter().flat_map(|response| &response.directories);
    let mut encoded: Vec<_> = all.map(Message::encode_to_vec).collect();
    encoded.sort();
    encoded
}

/// A tree of a root, ten directories below it, and one below each of those; uploaded but for one of the ten if `gap` says so.
struct Planted {
    root: Digest,
    uploaded: Vec<Vec<u8>>,
}

async fn plant(session: &Session, gap: bool) -> Result<Planted, Finding> {
    let node = |name: &str, digest| DirectoryNode { name: name.into(), digest: Some(digest) };
    let mut uploaded = Vec::new();
    let mut root = Directory::default();
    for index in 0..10 {
        let file = FileNode { name: session.word(), digest: Some(session.digest(b"")), ..FileNode::default() };
        let leaf = Directory { files: vec![file], ..Directory::default() };
        let leaf_digest = session.upload_message(&leaf).await?;
        let middle = Directory { directories: vec![node("leaf", leaf_digest)], ..Directory::default() };
        let left_out = gap && index == 5;
        let digest = match left_out {
            true => session.digest(&middle.encode_to_vec()),
            false => session.upload_message(&middle).await?,
        };
        if !left_out {
            uploaded.extend([leaf.encode_to_vec(), middle.encode_to_vec()]);
        }
        root.directories.push(node(&format!("middle-{index}"), digest));
    }
    let digest = session.upload_message(&root).await?;
    uploaded.push(root.encode_to_vec());
    uploaded.sort();
    Ok(Planted { root: digest, uploaded })
}

async fn whole(session: &Session) -> Answer {
    let planted = plant(session, false).await?;
    let found = directories(&ask(session, &planted.root, 0, "").await?);
    require!(found == planted.uploaded, "{} directories came back of {}", found.len(), planted.uploaded.len());
    Ok(())
}

async fn pages(session: &Session) -> Answer {
    let planted = plant(session, false).await?;
    let responses = ask(session, &planted.root, 4, "").await?;
    let longest = responses.iter().map(|response| response.directories.len()).max().unwrap_or(0);
    require!(longest <= 4, "{longest} directories came in one response");
    let found = collect(session, &planted.root, 4).await?;
    require!(found == planted.uploaded, "{} directories came back of {}", found.len(), planted.uploaded.len());
    Ok(())
}

/// Everything, following tokens for as long as a stream ends in one.
async fn collect(session: &Session, root: &Digest, page_size: i32) -> Result<Vec<Vec<u8>>, Finding> {
    let mut all = Vec::new();
    let mut token = String::new();
    for _ in 0..100 {
        let responses = ask(session, root, page_size, &token).await?;
        all.extend(directories(&responses));
        token = responses.last().map(|last| last.next_page_token.clone()).unwrap_or_default();
        if token.is_empty() {
            all.sort();
            return Ok(all);
        }
    }
    Err(Finding::Broken("a hundred pages did not reach the end of 21 directories".into()))
}

async fn page_token(session: &Session) -> Answer {
    let planted = plant(session, false).await?;
    let first = ask(session, &planted.root, 4, "").await?;
    let Some(response) = first.first().filter(|response| !response.next_page_token.is_empty()) else {
        return Err(Finding::NotOffered("the first response of several has no next_page_token".into()));
    };
    let mut found = directories(&first[..1]);
    for response in ask(session, &planted.root, 4, &response.next_page_token).await? {
        found.extend(directories(&[response]));
    }
    found.sort();
    require!(found == planted.uploaded, "together {} directories came back of {}", found.len(), planted.uploaded.len());
    Ok(())
}

async fn root_not_found(session: &Session) -> Answer {
    refused(ask(session, &session.unknown_digest(100), 0, "").await, &[Code::NotFound], "it")
}

async fn part_missing(session: &Session) -> Answer {
    let planted = plant(session, true).await?;
    let found = directories(&ask(session, &planted.root, 0, "").await?);
    require!(found == planted.uploaded, "{} directories came back of {}", found.len(), planted.uploaded.len());
    Ok(())
}

async fn not_a_directory(session: &Session) -> Answer {
    // A field number 0, which no message has.
    let mut bytes = session.bytes(100).to_vec();
    bytes[0] = 0;
    let digest = session.upload(bytes.into()).await?;
    match ask(session, &digest, 0, "").await {
        Ok(responses) => broken!("it was answered with {} directories", directories(&responses).len()),
        Err(_) => Ok(()),
    }
}
