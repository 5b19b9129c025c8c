//! The name of the user that programs run as.

use std::fs;
use std::path::Path;

use muster_cache::tree::{Node, TreeBuilder};
use muster_model::Digest;

use super::ImageError;
use crate::project::{BlobSet, BlobSource};

/// Files that name users and groups, and the line that names the sandbox's.
const FILES: [(&str, &str); 2] =
    [("etc/passwd", "muster:x:1000:1000:muster:/home/muster:/bin/sh\n"), ("etc/group", "muster:x:1000:\n")];
/// A file that is larger names somebody already, or is none of these.
const BYTES_MAX: u64 = 1024 * 1024;

/// Adds the sandbox's user and group to an image that names others, for programs that ask who they are. One that has the name or the number
/// already stays as it is.
pub(super) fn name_user(tree: &mut TreeBuilder, blobs: &mut BlobSet) -> Result<(), ImageError> {
    for (path, line) in FILES {
        let Some(Node::File { digest, executable }) = tree.leaf(path).cloned() else { continue };
        let Some(BlobSource::File(kept)) = blobs.get(&digest) else { continue };
        if digest.size_bytes > BYTES_MAX {
            continue;
        }
        let mut content = read(kept)?;
        if !is_named(&content) {
            if !content.is_empty() && !content.ends_with(b"\n") {
                content.push(b'\n');
            }
            content.extend_from_slice(line.as_bytes());
            let named = Digest::of(&content);
            blobs.insert(named, BlobSource::Bytes(content.into()));
            tree.remove(path).map_err(ImageError::tree(path))?;
            tree.insert_file(path, named, executable).map_err(ImageError::tree(path))?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs::read(path).map_err(|source| ImageError::Keep { path: path.to_owned(), source })
}

/// Whether a line has the name or the number, the first and the third of its fields (`passwd(5)`, `group(5)`).
fn is_named(content: &[u8]) -> bool {
    content.split(|byte| *byte == b'\n').any(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        fields.next() == Some(b"muster") || fields.nth(1) == Some(b"1000")
    })
}
