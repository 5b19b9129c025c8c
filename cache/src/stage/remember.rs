//! Trees of an earlier process.

use std::fs;
use std::path::Path;

use muster_model::{Digest, DigestFunction};

use super::trees::{Above, Figures, Form, Name, Staged, Trees};
use crate::StoreError;

/// The name of a tree's directory.
pub(super) fn directory_name(root: &Digest) -> String {
    match root.function {
        DigestFunction::Blake3 => root.hex(),
        DigestFunction::Sha256 => format!("sha256-{}", root.hex()),
    }
}

/// What is written beside a tree, so that a later process knows what it is.
pub(super) fn figures_text(root: &Digest, figures: Figures, above: Option<Above>) -> String {
    let own = format!("{} {} {}", root.size_bytes, figures.nodes, figures.bytes);
    match above {
        Some(Above { base, hides }) => {
            format!("{own} {} {} {}\n", base.size_bytes, directory_name(&base), u8::from(hides))
        }
        None => format!("{own}\n"),
    }
}

/// Takes over the trees in `folder`, which are of `form`; what is not whole is removed.
pub(super) fn remember(folder: &Path, form: Form, trees: &mut Trees) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::file("list", folder))? {
        let path = entry.map_err(StoreError::file("list", folder))?.path();
        let is_known = match remembered(&path) {
            Some((root, figures, above)) if above.is_some() == (form == Form::Delta) => {
                trees.adopt(Name { root, form }, Staged::new(figures, above, None))
            }
            _ => false,
        };
        if !is_known {
            fs::remove_dir_all(&path).map_err(StoreError::file("remove", &path))?;
        }
    }
    Ok(())
}

/// What the name and the figures of a tree's directory say.
fn remembered(path: &Path) -> Option<(Digest, Figures, Option<Above>)> {
    let text = fs::read_to_string(path.join("figures")).ok()?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let number = |index: usize| words.get(index)?.parse::<u64>().ok();
    let root = parse(path.file_name()?.to_str()?, number(0)?)?;
    let figures = Figures { nodes: number(1)?, bytes: number(2)? };
    let above = match words.len() {
        3 => None,
        6 => Some(Above { base: parse(words[4], number(3)?)?, hides: number(5)? != 0 }),
        _ => return None,
    };
    Some((root, figures, above))
}

fn parse(name: &str, size_bytes: u64) -> Option<Digest> {
    let (function, hex) = match name.strip_prefix("sha256-") {
        Some(hex) => (DigestFunction::Sha256, hex),
        None => (DigestFunction::Blake3, name),
    };
    Digest::parse(function, hex, size_bytes).ok()
}

/// Empties what holds nothing that is whole, and everything when the machine was started since.
pub(super) fn clear(directory: &Path) -> Result<(), StoreError> {
    remove_below(&directory.join("partial"))?;
    if !is_same_boot(directory)? {
        remove_below(&directory.join("trees"))?;
        remove_below(&directory.join("deltas"))?;
        note_boot(directory)?;
    }
    Ok(())
}

/// Whether the trees were made since the machine started.
fn is_same_boot(directory: &Path) -> Result<bool, StoreError> {
    let path = directory.join("BOOT");
    match (fs::read_to_string(&path), boot()) {
        (Ok(noted), Some(boot)) => Ok(noted == boot),
        (Err(error), _) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::file("read", &path)(error)),
        _ => Ok(false),
    }
}

fn note_boot(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join("BOOT");
    fs::write(&path, boot().unwrap_or_default()).map_err(StoreError::file("write", &path))
}

/// What tells this boot of the machine from others (Linux, `random(4)`).
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

fn remove_below(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::file("list", folder))? {
        let path = entry.map_err(StoreError::file("list", folder))?.path();
        fs::remove_dir_all(&path).map_err(StoreError::file("remove", &path))?;
    }
    Ok(())
}
