//! Stored blobs as files elsewhere, without copying: hard links.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use muster_model::Digest;

use super::index::Row;
use super::layout::Form;
use super::{DiskStore, Lease, is_empty};
use crate::StoreError;
use crate::blob::copy_verified;

/// Locks that keep two threads from making the same file, by the first byte of the hash.
const STRIPES: usize = 64;
/// Blobs looked for in one question.
const LOOKS_MAX: usize = 1024;

/// Which files were hashed by this process, on their way in or before their first link, and which forms of them are linked.
#[derive(Debug)]
pub(super) struct Verified {
    files: Mutex<HashMap<Digest, Forms>>,
    stripes: [Mutex<()>; STRIPES],
}

#[derive(Clone, Copy, Debug, Default)]
struct Forms {
    plain: bool,
    executable: bool,
}

impl Forms {
    fn get(&mut self, form: Form) -> &mut bool {
        match form {
            Form::Plain => &mut self.plain,
            Form::Executable => &mut self.executable,
        }
    }
}

impl Default for Verified {
    fn default() -> Self {
        Self { files: Mutex::default(), stripes: [const { Mutex::new(()) }; STRIPES] }
    }
}

impl Verified {
    pub(super) fn insert(&self, digest: Digest) {
        self.files().entry(digest).or_default();
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.files().remove(digest);
    }

    fn forms(&self, digest: &Digest) -> Option<Forms> {
        self.files().get(digest).copied()
    }

    fn files(&self) -> MutexGuard<'_, HashMap<Digest, Forms>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stripe(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.stripes[usize::from(digest.hash[0]) % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskStore {
    /// Makes a stored blob appear at `destination`, which must not exist, as a file that nobody writes to: mode 0644, or 0755 if
    /// `executable`, owned by the configured owner. Blocks.
    ///
    /// The file is a hard link of the stored one, or a copy where that is on another file system or the blob is kept in a pack. Its
    /// bytes were hashed since this process started: on their way in, or here at the first link. Hold a [`Lease`] of the blob while links
    /// to it are used, so that its room is accounted for.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] when the blob is not here, [`StoreError::Corrupt`] when it does not verify.
    pub fn link_file(&self, digest: &Digest, destination: &Path, executable: bool) -> Result<(), StoreError> {
        let form = Form::of(executable);
        if is_empty(digest) {
            return self.write_file(&[], destination, form);
        }
        if self.verified.forms(digest).is_some_and(|mut forms| *forms.get(form)) {
            match self.link_form(digest, destination, form) {
                Err(StoreError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                done => return done,
            }
        }
        self.link_slowly(digest, destination, form)
    }

    /// [`Self::link_file`] for many: (digest, destination, executable).
    ///
    /// # Errors
    ///
    /// The first one's.
    pub fn link_files(&self, files: &[(Digest, PathBuf, bool)]) -> Result<(), StoreError> {
        for files in files.chunks(LOOKS_MAX) {
            // Small blobs are in packs: one question for all of them.
            let mut seen = HashSet::new();
            let small: Vec<Digest> = files
                .iter()
                .map(|file| file.0)
                .filter(|digest| {
                    digest.size_bytes <= self.packed_bytes_max && !is_empty(digest) && seen.insert(*digest)
                })
                .collect();
            let packed = self.read_packed(small)?;
            for (digest, destination, executable) in files {
                match packed.get(digest) {
                    Some(bytes) => self.write_file(bytes, destination, Form::of(*executable))?,
                    None => self.link_file(digest, destination, *executable)?,
                }
            }
        }
        Ok(())
    }

    /// The verified bytes of those blobs that are kept in packs.
    fn read_packed(&self, asked: Vec<Digest>) -> Result<HashMap<Digest, Bytes>, StoreError> {
        if asked.is_empty() {
            return Ok(HashMap::new());
        }
        let places = self.locate_blocking(&asked)?;
        let mut found = HashMap::new();
        for (digest, row) in asked.into_iter().zip(places) {
            if let Some(Row { place: Some(place), .. }) = row {
                found.insert(digest, self.read_pack_again(&digest, place)?);
            }
        }
        Ok(found)
    }

    /// Writes a small blob's bytes, which were checked, to `destination` as [`Self::link_file`] would.
    fn write_file(&self, bytes: &[u8], destination: &Path, form: Form) -> Result<(), StoreError> {
        let file = self.layout.files().create(destination).map_err(StoreError::file("create", destination))?;
        file.write_at(bytes, 0).map_err(StoreError::file("write", destination))?;
        self.layout.seal(&*file, destination, form)
    }

    /// Asks the index, and makes the file of the form if there is none yet.
    fn link_slowly(&self, digest: &Digest, destination: &Path, form: Form) -> Result<(), StoreError> {
        let (asked, handle) = (*digest, self.index.clone());
        let (row, _lease) = self.index.call_blocking(move |index| {
            let row = index.find(&asked)?.ok_or(StoreError::NotFound(asked))?;
            index.hold(&[asked])?;
            Ok((row, Lease { index: handle, digests: vec![asked] }))
        })?;
        if let Some(place) = row.place {
            let bytes = self.read_pack_again(digest, place)?;
            return self.write_file(&bytes, destination, form);
        }
        self.make_form(digest, form)?;
        self.link_form(digest, destination, form)
    }

    /// Verifies the stored file once and makes it exist in `form`.
    fn make_form(&self, digest: &Digest, form: Form) -> Result<(), StoreError> {
        let _stripe = self.verified.stripe(digest);
        let path = self.layout.blob_path(digest, form);
        let other_path = self.layout.blob_path(digest, form.other());
        if self.verified.forms(digest).is_none() {
            for present in [&path, &other_path] {
                self.verify(digest, present)?;
            }
        }
        if !self.exists(&path)? {
            let linked = match self.layout.files().look(&other_path) {
                Ok(look) => look.links > 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let lost = *digest;
                    self.index.call_blocking(move |index| index.forget_if_missing(&lost))?;
                    return Err(StoreError::NotFound(*digest));
                }
                Err(error) => return Err(StoreError::file("look at", &other_path)(error)),
            };
            let other_is_used = self.verified.forms(digest).is_some_and(|mut forms| *forms.get(form.other()));
            if linked || other_is_used {
                self.copy_form(digest, form, &other_path)?;
            } else {
                // Nobody uses the other form: the one file changes over, and nothing is copied.
                self.layout.convert(digest, form)?;
            }
        }
        *self.verified.files().entry(*digest).or_default().get(form) = true;
        Ok(())
    }

    /// Reads blobs, in every form that they have, so that those which do not verify are quarantined. Blocks.
    ///
    /// # Errors
    ///
    /// What the file system or the index says; never for a blob that does not verify or is not here.
    pub(crate) fn quarantine_rotted(&self, digests: &[Digest]) -> Result<(), StoreError> {
        for digests in digests.chunks(LOOKS_MAX) {
            for (digest, row) in digests.iter().zip(self.locate_blocking(digests)?) {
                let read = match row {
                    None => Ok(()),
                    Some(Row { place: Some(place), .. }) => self.read_pack_again(digest, place).map(drop),
                    Some(Row { place: None, .. }) => [Form::Plain, Form::Executable]
                        .into_iter()
                        .try_for_each(|form| self.verify(digest, &self.layout.blob_path(digest, form))),
                };
                match read {
                    Err(StoreError::Corrupt(_) | StoreError::NotFound(_)) => {}
                    read => read?,
                }
            }
        }
        Ok(())
    }

    fn verify(&self, digest: &Digest, path: &Path) -> Result<(), StoreError> {
        let file = match self.layout.files().open(path, false) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(StoreError::file("open", path))?,
        };
        match copy_verified(&*file, path, *digest, |_| Ok(())) {
            Err(StoreError::Mismatch { .. }) => {
                (self.on_corrupt(*digest, None))();
                Err(StoreError::Corrupt(*digest))
            }
            done => done,
        }
    }

    fn copy_form(&self, digest: &Digest, form: Form, from: &Path) -> Result<(), StoreError> {
        let mut partial = self.layout.create_incoming()?;
        let file = self.layout.files().open(from, false).map_err(StoreError::file("open", from))?;
        copy_verified(&*file, from, *digest, |bytes| partial.write(bytes))?;
        self.layout.seal(&**partial.file(), partial.path(), form)?;
        let copied = *digest;
        self.index.call_blocking(move |index| index.add_copy(&copied))?;
        self.layout.publish(digest, form, partial)
    }

    fn exists(&self, path: &Path) -> Result<bool, StoreError> {
        match self.layout.files().look(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::file("look at", path)(error)),
        }
    }

    fn link_form(&self, digest: &Digest, destination: &Path, form: Form) -> Result<(), StoreError> {
        let path = self.layout.blob_path(digest, form);
        let files = self.layout.files();
        match files.hard_link(&path, destination) {
            Ok(()) => Ok(()),
            // Another file system, or an inode that has all the links it can have.
            Err(error) if matches!(error.kind(), ErrorKind::CrossesDevices | ErrorKind::TooManyLinks) => {
                let file = files.open(&path, false).map_err(StoreError::file("open", &path))?;
                let copy = files.create(destination).map_err(StoreError::file("create", destination))?;
                let mut written = 0;
                copy_verified(&*file, &path, *digest, |bytes| {
                    copy.write_at(bytes, written).map_err(StoreError::file("write", destination))?;
                    written += bytes.len() as u64;
                    Ok(())
                })?;
                self.layout.seal(&*copy, destination, form)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(StoreError::file("link", &path)(error)),
            Err(error) => Err(StoreError::file("link a stored file to", destination)(error)),
        }
    }
}
