//! What a disk holds after a cut of power: everything that was synced, and of the rest whatever a [`Survival`] says.
//!
//! A file's bytes are durable with its own sync, its name with the sync of the folder. A rename is two changes of names, which may survive
//! apart and in any order: harsher than a journalling file system is. Of writes that were not synced any may survive, without those before
//! them, and the last one may be torn at a multiple of 512 bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Change, ModelFiles};

const SECTOR_BYTES: usize = 512;

/// What survives of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survival {
    Nothing,
    /// As when only the process ends.
    Everything,
    /// Writes, but no names.
    Contents,
    /// Names, but no writes: files that are empty or old.
    Names,
    /// Any of it, by a seed; the last write of each file torn.
    Some(u64),
}

/// A disk, and what is on its way to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    names: BTreeMap<PathBuf, usize>,
    contents: HashMap<usize, Arc<Vec<u8>>>,
    pending_names: Vec<(PathBuf, Option<usize>)>,
    pending_writes: BTreeMap<usize, Vec<Pending>>,
}

#[derive(Clone, Debug)]
enum Pending {
    Write(u64, Arc<Vec<u8>>),
    SetLength(u64),
}

impl Image {
    /// Takes one more change.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Link(path, file) => self.pending_names.push((path.clone(), Some(*file))),
            Change::Unlink(path) => self.pending_names.push((path.clone(), None)),
            Change::Rename(from, to, file) => {
                self.pending_names.push((to.clone(), Some(*file)));
                self.pending_names.push((from.clone(), None));
            }
            Change::Write(file, offset, bytes) => {
                let write = Pending::Write(*offset, Arc::new(bytes.clone()));
                self.pending_writes.entry(*file).or_default().push(write);
            }
            Change::SetLength(file, length) => {
                self.pending_writes.entry(*file).or_default().push(Pending::SetLength(*length));
            }
            Change::Sync(file) => {
                for pending in self.pending_writes.remove(file).unwrap_or_default() {
                    pending.write(Arc::make_mut(self.contents.entry(*file).or_default()), None);
                }
            }
            Change::SyncFolder(folder) => {
                let (synced, pending) = std::mem::take(&mut self.pending_names)
                    .into_iter()
                    .partition(|(path, _)| path.parent() == Some(folder));
                self.pending_names = pending;
                for (path, file) in Vec::from_iter::<Vec<(PathBuf, Option<usize>)>>(synced) {
                    set_name(&mut self.names, path, file);
                }
            }
        }
    }

    /// The disk after a cut of power, in a machine that starts again.
    pub(crate) fn cut(&self, survival: Survival, folder: &Path) -> ModelFiles {
        let mut random = Random(match survival {
            Survival::Some(seed) => seed,
            _ => 1,
        });
        let mut names = self.names.clone();
        let mut pending: Vec<&(PathBuf, Option<usize>)> = match survival {
            Survival::Everything | Survival::Names => self.pending_names.iter().collect(),
            Survival::Some(_) => self.pending_names.iter().filter(|_| random.coin()).collect(),
            Survival::Nothing | Survival::Contents => Vec::new(),
        };
        if matches!(survival, Survival::Some(_)) {
            for position in (1..pending.len()).rev() {
                pending.swap(position, random.below(position + 1));
            }
        }
        for (path, file) in pending {
            set_name(&mut names, path.clone(), *file);
        }
        let mut contents: HashMap<usize, Vec<u8>> = HashMap::new();
        for file in names.values().copied().collect::<BTreeSet<_>>() {
            contents.insert(file, self.content(file, survival, &mut random));
        }
        start(folder, &names, contents)
    }

    fn content(&self, file: usize, survival: Survival, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.contents.get(&file).map(|bytes| bytes.to_vec()).unwrap_or_default();
        let pending = self.pending_writes.get(&file).map(Vec::as_slice).unwrap_or_default();
        for (position, write) in pending.iter().enumerate() {
            match survival {
                Survival::Everything | Survival::Contents => write.write(&mut bytes, None),
                Survival::Nothing | Survival::Names => {}
                Survival::Some(_) if position + 1 == pending.len() => {
                    write.write(&mut bytes, Some(random.below(9) * SECTOR_BYTES));
                }
                Survival::Some(_) if random.coin() => write.write(&mut bytes, None),
                Survival::Some(_) => {}
            }
        }
        bytes
    }
}

impl Pending {
    /// Does it, or its first bytes only.
    fn write(&self, content: &mut Vec<u8>, torn: Option<usize>) {
        match self {
            Self::Write(offset, bytes) => {
                let start = *offset as usize;
                let bytes = &bytes[..bytes.len().min(torn.unwrap_or(usize::MAX))];
                if content.len() < start + bytes.len() {
                    content.resize(start + bytes.len(), 0);
                }
                content[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Self::SetLength(length) => content.resize(*length as usize, 0),
        }
    }
}

fn set_name(names: &mut BTreeMap<PathBuf, usize>, path: PathBuf, file: Option<usize>) {
    match file {
        Some(file) => drop(names.insert(path, file)),
        None => drop(names.remove(&path)),
    }
}

/// A model that holds these files, moved from `folder` to its own.
fn start(folder: &Path, names: &BTreeMap<PathBuf, usize>, contents: HashMap<usize, Vec<u8>>) -> ModelFiles {
    let files = ModelFiles::new();
    let own = files.folder();
    {
        let mut state = files.0.lock();
        let mut numbers = HashMap::new();
        for (file, bytes) in contents {
            numbers.insert(file, state.contents.len());
            state.contents.push(bytes);
        }
        for (path, file) in names {
            let path = own.join(path.strip_prefix(folder).unwrap_or(path));
            state.folders.extend(path.ancestors().skip(1).map(Path::to_path_buf));
            state.names.insert(path, numbers[file]);
        }
        state.changes.clear();
    }
    files
}

/// xorshift64*, seeded: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled" (2016).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = if self.0 == 0 { 0x9e37_79b9_7f4a_7c15 } else { self.0 };
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 33) as usize) % bound
    }

    fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}
