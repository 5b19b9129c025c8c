//! F3, of results: what is kept of an action's result leads only to blobs that are there, and keeping it again changes nothing.
#![no_main]

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use arbitrary::Arbitrary;
use async_trait::async_trait;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use muster_cache::{Blob, BlobStore, StoreError};
use muster_coordinator::reapi::results::record_of;
use muster_fuzz::{Name, WireDigest, WireDirectory};
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi::{self, ActionResult};
use prost::Message;

#[derive(Arbitrary, Debug)]
struct Input {
    files: Vec<(Name, Content)>,
    directories: Vec<(Name, Trees)>,
    links: Vec<(Name, String)>,
    stdout: Option<Content>,
    stderr: Vec<u8>,
    exit_code: i32,
}

/// What a digest stands for.
#[derive(Arbitrary, Debug)]
enum Content {
    /// A blob that is there.
    There(u8),
    /// Whatever a peer may send.
    Sent(WireDigest),
}

/// An output directory in one or both of its forms.
#[derive(Arbitrary, Debug)]
struct Trees {
    tree: Option<Nested>,
    root: Option<Nested>,
    /// Directories that the `Tree` has and nothing leads to.
    unreachable: Vec<WireDirectory>,
    /// Of its directories, one that it lacks.
    lacks: Option<u8>,
    /// Bytes instead of the message.
    bytes: Option<Vec<u8>>,
}

/// A directory with those in it.
#[derive(Arbitrary, Debug)]
struct Nested {
    files: Vec<(Name, Content)>,
    directories: Vec<(Name, Nested)>,
}

#[derive(Default)]
struct Memory(Mutex<HashMap<Digest, Bytes>>);

impl Memory {
    fn keep(&self, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.0.lock().expect("nobody panics inside").insert(digest, bytes);
        digest
    }

    fn digest(&self, content: &Content) -> Option<reapi::Digest> {
        match content {
            Content::There(byte) => Some(self.keep(Bytes::from(vec![*byte])).into()),
            Content::Sent(digest) => digest.to_wire(),
        }
    }

    /// The messages of a directory and all below it, itself last.
    fn nested(&self, nested: &Nested, all: &mut Vec<reapi::Directory>) -> Digest {
        let mut message = reapi::Directory::default();
        for (name, content) in &nested.files {
            let (name, digest) = (name.0.clone(), self.digest(content));
            message.files.push(reapi::FileNode { name, digest, ..Default::default() });
        }
        for (name, nested) in &nested.directories {
            let digest = Some(self.nested(nested, all).into());
            message.directories.push(reapi::DirectoryNode { name: name.0.clone(), digest });
        }
        message.files.sort_by(|one, other| one.name.cmp(&other.name));
        message.directories.sort_by(|one, other| one.name.cmp(&other.name));
        let digest = Digest::of(&message.encode_to_vec());
        all.push(message);
        digest
    }
}

#[async_trait]
impl BlobStore for Memory {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let blobs = self.0.lock().expect("nobody panics inside");
        let missing: BTreeSet<_> = digests.iter().filter(|digest| !blobs.contains_key(digest)).copied().collect();
        Ok(missing.into_iter().collect())
    }

    async fn get(&self, digest: &Digest) -> Result<Blob, StoreError> {
        let bytes = self.0.lock().expect("nobody panics inside").get(digest).cloned();
        bytes.map(Blob::from_bytes).ok_or(StoreError::NotFound(*digest))
    }

    async fn put(&self, digest: &Digest, blob: Blob) -> Result<(), StoreError> {
        let bytes = blob.into_bytes(digest.size_bytes).await?;
        self.keep(bytes);
        Ok(())
    }
}

fuzz_target!(|input: Input| {
    let store = Memory::default();
    let result = input.to_wire(&store);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let Ok(record) = record_of(&store, DigestFunction::Blake3, &result).await else { return };
        let missing = store.find_missing(&record.references).await.expect("memory can be asked");
        assert!(missing.is_empty(), "{missing:?} are kept and not there");
        let kept = ActionResult::decode(&record.payload[..]).expect("what is kept is a result");
        let again = record_of(&store, DigestFunction::Blake3, &kept).await.expect("what is kept can be kept");
        assert_eq!(again.payload, record.payload, "keeping is a fixed point");
        assert_eq!(again.outcome, record.outcome);
        let set = |references: Vec<Digest>| references.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(set(again.references), set(record.references));
    });
});

impl Input {
    fn to_wire(&self, store: &Memory) -> ActionResult {
        let mut result = ActionResult { exit_code: self.exit_code, ..Default::default() };
        for (path, content) in &self.files {
            let digest = store.digest(content);
            result.output_files.push(reapi::OutputFile { path: path.0.clone(), digest, ..Default::default() });
        }
        for (path, trees) in &self.directories {
            result.output_directories.push(trees.to_wire(&path.0, store));
        }
        for (path, target) in &self.links {
            let (path, target) = (path.0.clone(), target.clone());
            result.output_symlinks.push(reapi::OutputSymlink { path, target, ..Default::default() });
        }
        result.stdout_digest = self.stdout.as_ref().and_then(|content| store.digest(content));
        result.stderr_raw = self.stderr.clone().into();
        result
    }
}

impl Trees {
    fn to_wire(&self, path: &str, store: &Memory) -> reapi::OutputDirectory {
        let mut output = reapi::OutputDirectory { path: path.to_owned(), ..Default::default() };
        if let Some(tree) = &self.tree {
            let mut all = Vec::new();
            store.nested(tree, &mut all);
            let root = all.pop();
            if let Some(position) = self.lacks
                && usize::from(position) < all.len()
            {
                all.remove(position.into());
            }
            all.extend(self.unreachable.iter().map(WireDirectory::to_wire));
            let message = reapi::Tree { root, children: all }.encode_to_vec();
            output.tree_digest = Some(store.keep(self.bytes.clone().unwrap_or(message).into()).into());
        }
        if let Some(root) = &self.root {
            let mut all = Vec::new();
            let digest = store.nested(root, &mut all);
            for message in all {
                store.keep(message.encode_to_vec().into());
            }
            output.root_directory_digest = Some(digest.into());
        }
        output
    }
}
