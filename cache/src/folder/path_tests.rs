//! T2.9: paths that are made to lead elsewhere, through every door that takes one. Nothing outside is made, read, changed or removed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use muster_model::{DigestFunction, limits};
use muster_proto::reapi;
use prost::Message;

use super::tests::{Kept, run};
use super::*;
use crate::tree::{Directory, stays_inside};

const CANARY: &str = "canary";

/// At least two hundred strings, hostile ones and harmless ones that look like them.
fn corpus() -> Vec<String> {
    let climbs = ["..", "../", "./..", "a/..", "a/../..", "a/b/../../..", "...", "..\\..", "%2e%2e", "‥", "․․", "．．"];
    let targets = ["outside/canary", "etc/passwd", "proc/self/environ", "tmp"];
    let mut paths: Vec<String> = Vec::new();
    for climb in climbs {
        for count in [1, 2, 8] {
            let climbing = vec![climb; count].join("/");
            paths.push(climbing.clone());
            paths.extend(targets.iter().map(|target| format!("{climbing}/{target}")));
        }
    }
    for root in ["/", "//", "///", "/./", "/../", "\\", "C:\\", "C:/", "\\\\host\\share\\", "~/", "file:///"] {
        paths.push(root.to_owned());
        paths.extend(targets.iter().map(|target| format!("{root}{target}")));
    }
    let single =
        ["", ".", "./", "a/", "a//b", "a/./b", "/a", "a/b/", " ", ".. ", " ..", "..a", "a..", ".a", "\n", "\u{202e}"];
    paths.extend(single.map(str::to_owned));
    for control in ["\0", "a\0", "\0a", "../\0", "a\0/../b", "outside/canary\0.txt", "a\u{7f}", "a\r\n"] {
        paths.push(control.to_owned());
    }
    for length in [limits::NAME_BYTES_MAX, limits::NAME_BYTES_MAX + 1, limits::PATH_BYTES_MAX, 4096, 10_000] {
        paths.push("x".repeat(length));
        paths.push("../".repeat(length / 3));
        paths.push("a/".repeat(length / 2));
    }
    paths.push(vec!["d"; limits::TREE_DEPTH_MAX].join("/"));
    paths.push(vec!["d"; limits::TREE_DEPTH_MAX + 1].join("/"));
    paths.sort();
    paths.dedup();
    paths
}

/// By the standard library's reading of it, a path that stays where it is put and is spelled in one way only.
fn is_clean(path: &str) -> bool {
    let parts: Vec<Component<'_>> = Path::new(path).components().collect();
    let names: Option<Vec<&str>> = parts
        .iter()
        .map(|part| match part {
            Component::Normal(name) => name.to_str().filter(|name| name.len() <= limits::NAME_BYTES_MAX),
            _ => None,
        })
        .collect();
    let is_spelled = names.is_some_and(|names| names.join("/") == path);
    let fits = path.len() <= limits::PATH_BYTES_MAX && parts.len() <= limits::TREE_DEPTH_MAX;
    !path.is_empty() && is_spelled && fits && !path.contains('\0')
}

/// A place with a canary outside of everything that the tests make.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/canary"), CANARY).unwrap();
        fs::create_dir_all(folder.path().join("job/a/b")).unwrap();
        Self { folder }
    }

    fn job(&self) -> PathBuf {
        self.folder.path().join("job")
    }

    /// Every path outside `inside`, with the bytes of files. The directory above everything is looked at by its names.
    fn outside(&self, inside: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut pending = vec![self.folder.path().to_path_buf()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path == self.folder.path().join(inside) {
                    continue;
                }
                let kind = path.symlink_metadata().unwrap().file_type();
                if kind.is_dir() {
                    pending.push(path.clone());
                }
                let bytes = if kind.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                found.insert(path, bytes);
            }
        }
        found
    }

    /// Takes a path of the job and says whether the canary came with it.
    fn take(&self, path: &str) -> (Result<Option<Taken>, FolderError>, bool) {
        let mut copies = Copies::new(self.folder.path().join("copies"), DigestFunction::Sha256, u64::MAX);
        let folder = Folder::open(&self.job()).unwrap();
        let taken = take(&folder, Path::new(path), &TakeRules::default(), &mut 0, &mut copies);
        let has_canary = Kept::of(&copies).0.values().any(|bytes| bytes.starts_with(CANARY.as_bytes()));
        (taken, has_canary)
    }
}

#[test]
fn t2_9_the_corpus_is_large_and_mixed() {
    let corpus = corpus();
    assert!(corpus.len() >= 200, "{}", corpus.len());
    let clean = corpus.iter().filter(|path| is_clean(path)).count();
    assert!(clean >= 10 && corpus.len() - clean >= 140, "{clean} of {}", corpus.len());
}

#[test]
fn t2_9_names_in_directories() {
    let digest = reapi::Digest::from(digest_of(CANARY));
    for name in corpus() {
        let kinds = [
            reapi::Directory {
                files: vec![reapi::FileNode { name: name.clone(), digest: Some(digest.clone()), ..Default::default() }],
                ..Default::default()
            },
            reapi::Directory {
                directories: vec![reapi::DirectoryNode { name: name.clone(), digest: Some(digest.clone()) }],
                ..Default::default()
            },
            reapi::Directory {
                symlinks: vec![reapi::SymlinkNode { name: name.clone(), target: "x".into(), ..Default::default() }],
                ..Default::default()
            },
        ];
        for message in kinds {
            let decoded = Directory::decode(DigestFunction::Sha256, &message.encode_to_vec());
            let is_name = is_clean(&name) && !name.contains('/');
            assert_eq!(decoded.is_ok(), is_name, "{name:?}");
        }
    }
}

fn digest_of(text: &str) -> muster_model::Digest {
    crate::digest_of(DigestFunction::Sha256, text.as_bytes())
}

#[test]
fn t2_9_declared_outputs_and_working_directories() {
    let place = Place::new();
    symlink("../outside", place.job().join("way")).unwrap();
    symlink("../outside/canary", place.job().join("a/link")).unwrap();
    let before = place.outside("job");
    for path in corpus() {
        let command = reapi::Command { arguments: vec!["true".into()], ..reapi::Command::default() };
        let output = reapi::Command { output_paths: vec![path.clone()], ..command.clone() };
        let directory = reapi::Command { working_directory: path.clone(), ..command };
        let is_allowed = path.is_empty() || is_clean(&path);
        assert_eq!(output.check().is_ok(), is_allowed, "{path:?}");
        assert_eq!(directory.check().is_ok(), is_allowed, "{path:?}");
        // The walk does not rely on the check.
        let (_, has_canary) = place.take(&path);
        assert!(!has_canary, "{path:?}");
        for through in [format!("way/{path}"), format!("a/link/{path}"), format!("way/../{path}")] {
            let (taken, has_canary) = place.take(&through);
            let is_own = path.split('/').all(|part| matches!(part, "" | "."));
            assert!(!has_canary && (is_own || !matches!(taken, Ok(Some(Taken::File(_))))), "{through:?}");
        }
    }
    assert_eq!(place.outside("job"), before);
}

/// What a client downloads: a tree whose links lead anywhere, laid out, taken again and removed.
#[test]
fn t2_9_targets_of_links_and_a_clients_download() {
    for target in corpus() {
        let place = Place::new();
        let link = |name: &str| reapi::SymlinkNode { name: name.into(), target: target.clone(), ..Default::default() };
        // A link beside a directory and files whose names sort around it: whoever follows it would write through it.
        let inner = reapi::Directory { symlinks: vec![link("m")], ..reapi::Directory::default() }.encode_to_vec();
        let file = |name: &str| reapi::FileNode {
            name: name.into(),
            digest: Some(digest_of("bytes").into()),
            ..Default::default()
        };
        let directory = crate::digest_of(DigestFunction::Sha256, &inner);
        let root = reapi::Directory {
            files: vec![file("a"), file("z")],
            directories: vec![reapi::DirectoryNode { name: "d".into(), digest: Some(directory.into()) }],
            symlinks: vec![link("m")],
            ..reapi::Directory::default()
        }
        .encode_to_vec();
        let root_digest = crate::digest_of(DigestFunction::Sha256, &root);
        let kept =
            Kept([(root_digest, root.into()), (directory, inner.into()), (digest_of("bytes"), "bytes".into())].into());
        let is_target = !target.is_empty() && target.len() <= limits::PATH_BYTES_MAX && !target.contains('\0');
        let Ok(content) = run(kept.content(root_digest)) else {
            assert!(!is_target, "{target:?}");
            continue;
        };
        assert!(is_target, "{target:?}");
        let before = place.outside("download");
        let download = place.folder.path().join("download");
        let strict = run(lay_out(&content, &kept, &download, LinkRule::Inside));
        assert_eq!(strict.is_ok(), stays_inside("m", &target), "{target:?}");
        if strict.is_ok() {
            leads_nowhere_else(&download, &download.join("m"));
            leads_nowhere_else(&download, &download.join("d/m"));
            fs::remove_dir_all(&download).unwrap();
        } else {
            assert!(!download.exists(), "{target:?}");
        }
        run(lay_out(&content, &kept, &download, LinkRule::Keep)).unwrap();
        assert_eq!(fs::read_link(download.join("m")).unwrap(), Path::new(&target));
        let mut copies = Copies::new(place.folder.path().join("copies"), DigestFunction::Sha256, u64::MAX);
        let folder = Folder::open(&download).unwrap();
        let again = take(&folder, Path::new(""), &TakeRules::default(), &mut 0, &mut copies);
        assert!(matches!(again, Ok(Some(Taken::Directory(tree))) if tree.root == root_digest), "{target:?}");
        fs::remove_dir_all(&download).unwrap();
        assert_eq!(place.outside("download"), before, "{target:?}");
    }
}

fn leads_nowhere_else(root: &Path, link: &Path) {
    // A link to nothing has no place; one to something has one inside.
    if let Ok(place) = fs::canonicalize(link) {
        assert!(place.starts_with(fs::canonicalize(root).unwrap()), "{} is outside", place.display());
    }
}

#[test]
fn a_link_that_climbs_through_another_is_not_inside() {
    for (path, target, is_inside) in [
        ("a", "b", true),
        ("a", "..", false),
        ("d/a", "..", true),
        ("d/a", "../..", false),
        ("d/e/a", "../../x", true),
        ("d/a", "x/..", false),
        ("a", "./b/./c", true),
        ("a", "/b", false),
        ("d/a", ".././../x", false),
    ] {
        assert_eq!(stays_inside(path, target), is_inside, "{path} -> {target}");
    }
    // Each of the two alone looks harmless: together they lead out.
    assert!(stays_inside("d/up", "..") && !stays_inside("out", "d/up/.."));
}
