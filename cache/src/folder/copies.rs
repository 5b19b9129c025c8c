//! Bytes of files that somebody else made, copied and hashed, until they are stored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use muster_model::limits::{CHUNK_BYTES_MAX, OUTPUT_MEMORY_BYTES_MAX};
use muster_model::{Digest, DigestFunction};

use super::FolderError;
use crate::UploadSource;
use crate::hash::Hasher;

/// Files of at most this many bytes are kept in memory while there is room.
const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// Fresh copies of files, named by what they hash to. The directory that they are in goes with them.
#[derive(Debug)]
pub struct Copies {
    directory: PathBuf,
    is_made: bool,
    function: DigestFunction,
    blobs: HashMap<Digest, UploadSource>,
    files: usize,
    memory_bytes: usize,
    bytes: u64,
    bytes_max: u64,
}

impl Copies {
    /// None yet. `directory` must not exist; it is made when it is needed, for nobody else. At most `bytes_max` bytes are copied.
    pub fn new(directory: PathBuf, function: DigestFunction, bytes_max: u64) -> Self {
        Self {
            directory,
            is_made: false,
            function,
            blobs: HashMap::new(),
            files: 0,
            memory_bytes: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Every blob, each once.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, UploadSource)> + '_ {
        self.blobs.iter().map(|(digest, source)| (*digest, source.clone()))
    }

    /// Adds bytes in memory.
    pub fn add(&mut self, bytes: Bytes) -> Digest {
        let digest = crate::digest_of(self.function, &bytes);
        self.blobs.entry(digest).or_insert(UploadSource::Bytes(bytes));
        digest
    }

    pub(super) fn function(&self) -> DigestFunction {
        self.function
    }

    /// Copies a file of about `size_bytes`; `path` is for messages.
    pub(super) fn copy(&mut self, mut file: File, size_bytes: u64, path: &Path) -> Result<Digest, FolderError> {
        // A file with holes may say any size.
        self.check(size_bytes)?;
        let room = OUTPUT_MEMORY_BYTES_MAX - self.memory_bytes;
        let digest = if size_bytes <= SMALL_BYTES_MAX.min(room as u64) {
            let mut bytes = Vec::with_capacity(size_bytes as usize);
            (&mut file).take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(FolderError::file("read", path))?;
            if bytes.len() as u64 > SMALL_BYTES_MAX { self.pour(bytes, file, path)? } else { self.keep(bytes) }
        } else {
            self.pour(Vec::new(), file, path)?
        };
        self.check(digest.size_bytes)?;
        self.bytes += digest.size_bytes;
        Ok(digest)
    }

    fn check(&self, more_bytes: u64) -> Result<(), FolderError> {
        if self.bytes.saturating_add(more_bytes) > self.bytes_max {
            return Err(FolderError::Limit { what: "the size of all files", limit: self.bytes_max });
        }
        Ok(())
    }

    fn keep(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = crate::digest_of(self.function, &bytes);
        if let Entry::Vacant(slot) = self.blobs.entry(digest) {
            self.memory_bytes += bytes.len();
            slot.insert(UploadSource::Bytes(bytes.into()));
        }
        digest
    }

    /// Copies what was read already and the rest into a new file.
    fn pour(&mut self, begun: Vec<u8>, mut file: File, path: &Path) -> Result<Digest, FolderError> {
        if !self.is_made {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&self.directory)
                .map_err(FolderError::file("create", &self.directory))?;
            self.is_made = true;
        }
        let copy_path = self.directory.join(self.files.to_string());
        self.files += 1;
        let mut copy = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&copy_path)
            .map_err(FolderError::file("create", &copy_path))?;
        let mut hasher = Hasher::new(self.function);
        let mut buffer = begun;
        let mut count = buffer.len();
        if buffer.is_empty() {
            buffer.resize(CHUNK_BYTES_MAX, 0);
            count = file.read(&mut buffer).map_err(FolderError::file("read", path))?;
        }
        while count > 0 {
            hasher.update(&buffer[..count]);
            self.check(hasher.size_bytes())?;
            copy.write_all(&buffer[..count]).map_err(FolderError::file("write", &copy_path))?;
            count = file.read(&mut buffer).map_err(FolderError::file("read", path))?;
        }
        let digest = hasher.digest();
        match self.blobs.entry(digest) {
            Entry::Vacant(slot) => {
                slot.insert(UploadSource::File(copy_path));
            }
            Entry::Occupied(_) => fs::remove_file(&copy_path).map_err(FolderError::file("remove", &copy_path))?,
        }
        Ok(digest)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        if self.is_made
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            tracing::warn!(%error, directory = %self.directory.display(), "cannot remove copies of outputs");
        }
    }
}
