//! Which files a case sees: those of its own package that git would not ignore, and what `data` adds.

use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use globset::GlobBuilder;
use ignore::gitignore::GitignoreBuilder;
use ignore::{DirEntry, WalkBuilder};

use super::ProjectError;
use super::error::file_error;
use super::layer::LayerBuilder;

/// Adds everything below `root` that no `.gitignore` excludes, hidden files included. Left out: `.git`, and every directory of `excluded`
/// (other packages of the workspace, build output).
///
/// The files of a git repository that lie above `root` count too, unless they ignore `root` itself: whoever runs tests there does not mean
/// an empty package.
pub(crate) fn add_package(layer: &mut LayerBuilder, root: &Path, excluded: &[PathBuf]) -> Result<(), ProjectError> {
    add_package_without(layer, root, excluded, &[])
}

/// As [`add_package`], without anything that has one of these names.
pub(crate) fn add_package_without(
    layer: &mut LayerBuilder,
    root: &Path,
    excluded: &[PathBuf],
    names: &'static [&'static str],
) -> Result<(), ProjectError> {
    layer.add_directory(root)?;
    let excluded: HashSet<PathBuf> = excluded.iter().filter(|path| path.as_path() != root).cloned().collect();
    let walk = WalkBuilder::new(root)
        .hidden(false)
        .ignore(false)
        .require_git(false)
        .parents(parents_apply(root))
        .follow_links(false)
        .filter_entry(move |entry| {
            let name = entry.file_name();
            name != ".git" && !excluded.contains(entry.path()) && !names.iter().any(|excluded| name == *excluded)
        })
        .build();
    for entry in walk {
        add(layer, entry)?;
    }
    Ok(())
}

/// Adds everything at and below `path`.
pub(crate) fn add_everything(layer: &mut LayerBuilder, path: &Path) -> Result<(), ProjectError> {
    add_tree(layer, path).map(|_| ())
}

/// Adds everything at and below `path`, links not followed, but for what is excluded and everything below that.
pub(crate) fn add_tree_without(
    layer: &mut LayerBuilder,
    path: &Path,
    is_excluded: impl Fn(&Path) -> bool,
) -> Result<(), ProjectError> {
    let mut walk = vec![path.to_owned()];
    while let Some(path) = walk.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(file_error("look at", path)(error)),
        };
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).map_err(file_error("list", &path))? {
                let entry = entry.map_err(file_error("list", &path))?.path();
                if !is_excluded(&entry) {
                    walk.push(entry);
                }
            }
        }
        layer.add_entry(&path, metadata)?;
    }
    Ok(())
}

/// `relative` seen from `directory`, with `.` and `..` taken out of the text.
pub(crate) fn lexical_join(directory: &Path, relative: &str) -> PathBuf {
    let mut joined = PathBuf::new();
    for component in directory.join(relative).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                joined.pop();
            }
            component => joined.push(component),
        }
    }
    joined
}

/// Adds what the globs match, ignored files included; a glob that matches a directory means everything below it. Returns the globs that
/// match nothing.
pub(crate) fn add_data(layer: &mut LayerBuilder, root: &Path, globs: &[String]) -> Result<Vec<String>, ProjectError> {
    let mut unmatched = Vec::new();
    for text in globs {
        let (start, pattern) = split(root, text);
        let found = match &pattern {
            None => add_tree(layer, &start)?,
            Some(pattern) => add_matching(layer, &start, pattern)?,
        };
        if !found {
            unmatched.push(text.clone());
        }
    }
    Ok(unmatched)
}

/// The part of a glob that is a plain path, from the root and with `..` taken back, and the rest.
fn split(root: &Path, glob: &str) -> (PathBuf, Option<String>) {
    let mut start = root.to_owned();
    let mut parts = glob.split('/').peekable();
    while let Some(part) = parts.peek() {
        match *part {
            part if part.contains(['*', '?', '[', '{', '\\']) => break,
            "" if start == root && glob.starts_with('/') => start = PathBuf::from("/"),
            "" | "." => {}
            ".." => {
                start.pop();
            }
            part => start.push(part),
        }
        parts.next();
    }
    let rest: Vec<&str> = parts.collect();
    (start, (!rest.is_empty()).then(|| rest.join("/")))
}

fn add_tree(layer: &mut LayerBuilder, path: &Path) -> Result<bool, ProjectError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(false);
    }
    for entry in everything(path) {
        add(layer, entry)?;
    }
    Ok(true)
}

fn add_matching(layer: &mut LayerBuilder, start: &Path, pattern: &str) -> Result<bool, ProjectError> {
    let Ok(glob) = GlobBuilder::new(pattern).literal_separator(true).build() else { return Ok(false) };
    let matcher = glob.compile_matcher();
    let mut found = false;
    if !start.is_dir() {
        return Ok(false);
    }
    for entry in everything(start) {
        let Ok(entry) = entry else {
            add(layer, entry)?;
            continue;
        };
        let relative = entry.path().strip_prefix(start).unwrap_or(entry.path());
        // A directory that matches brings what is below it.
        if relative.ancestors().any(|path| !path.as_os_str().is_empty() && matcher.is_match(path)) {
            found = true;
            add(layer, Ok(entry))?;
        }
    }
    Ok(found)
}

fn everything(path: &Path) -> ignore::Walk {
    WalkBuilder::new(path).standard_filters(false).follow_links(false).build()
}

fn add(layer: &mut LayerBuilder, entry: Result<DirEntry, ignore::Error>) -> Result<(), ProjectError> {
    let entry = match entry {
        Ok(entry) => entry,
        Err(error) => {
            let path = path_of(&error).unwrap_or_default();
            let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other("the walk failed"));
            // A file that went away while we looked is not there, and that is all there is to say.
            if source.kind() == std::io::ErrorKind::NotFound {
                return Ok(());
            }
            return Err(ProjectError::File { action: "look at", path, source });
        }
    };
    match fs::symlink_metadata(entry.path()) {
        Ok(metadata) => layer.add_entry(entry.path(), metadata),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(file_error("look at", entry.path())(error)),
    }
}

fn path_of(error: &ignore::Error) -> Option<PathBuf> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path.clone()),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        _ => None,
    }
}

/// Whether the ignore files above `root` count: there is a git repository around it, and it does not ignore `root` itself.
fn parents_apply(root: &Path) -> bool {
    let Some(repository) = root.ancestors().find(|directory| directory.join(".git").exists()) else { return false };
    let above = root.ancestors().skip(1).take_while(|directory| directory.starts_with(repository));
    !above.into_iter().any(|directory| {
        let mut builder = GitignoreBuilder::new(directory);
        builder.add(directory.join(".gitignore"));
        builder.build().is_ok_and(|rules| rules.matched_path_or_any_parents(root, true).is_ignore())
    })
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
