//! Trees above trees.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use muster_model::DigestFunction;
use proptest::prelude::*;

use super::*;
use crate::digest_of;
use crate::tree::{Directory, Entry, Node};

/// A tree as a test says it: files with their bytes, links, directories.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    File { bytes: Vec<u8>, executable: bool },
    Symlink(String),
    Directory(Items),
}

type Items = BTreeMap<String, Item>;

/// The root, and the blobs of everything.
fn encode(function: DigestFunction, items: &Items, blobs: &mut HashMap<Digest, Bytes>) -> Digest {
    let mut add = |bytes: Bytes| {
        let digest = digest_of(function, &bytes);
        blobs.insert(digest, bytes);
        digest
    };
    let mut directories = Vec::new();
    let mut entries = Vec::new();
    for (name, item) in items {
        let node = match item {
            Item::File { bytes, executable } => {
                Node::File { digest: add(bytes.clone().into()), executable: *executable }
            }
            Item::Symlink(target) => Node::Symlink(target.clone()),
            Item::Directory(items) => {
                directories.push((name, items));
                continue;
            }
        };
        entries.push(Entry { name: name.clone(), node });
    }
    for (name, items) in directories {
        let node = Node::Directory(encode(function, items, blobs));
        entries.push(Entry { name: name.clone(), node });
    }
    let bytes = Directory::new(entries).unwrap().encode();
    let digest = digest_of(function, &bytes);
    blobs.insert(digest, bytes);
    digest
}

/// What a program would see of directories that are overlaid (Linux, `overlayfs.rst`, "whiteouts and opaque directories").
fn overlay(directories: &[PathBuf]) -> Items {
    let mut items = Items::new();
    for directory in directories {
        lay_above(&mut items, directory);
    }
    items
}

fn lay_above(items: &mut Items, directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let (name, path) = (entry.file_name().into_string().unwrap(), entry.path());
        let metadata = entry.metadata().unwrap();
        let kind = metadata.file_type();
        if kind.is_char_device() {
            assert_eq!(metadata.rdev(), 0);
            items.remove(&name);
        } else if kind.is_symlink() {
            items.insert(name, Item::Symlink(fs::read_link(&path).unwrap().to_str().unwrap().to_owned()));
        } else if kind.is_file() {
            let executable = metadata.mode() & 0o111 != 0;
            items.insert(name, Item::File { bytes: fs::read(&path).unwrap(), executable });
        } else {
            if !matches!(items.get(&name), Some(Item::Directory(_))) {
                items.insert(name.clone(), Item::Directory(Items::new()));
            }
            let Some(Item::Directory(inner)) = items.get_mut(&name) else { unreachable!() };
            lay_above(inner, &path);
        }
    }
}

/// A world whose origin knows everything that was encoded.
struct Fleet {
    world: World,
    origin: Origin,
}

impl Fleet {
    fn new() -> Self {
        let world = world(1 << 26);
        let origin = Origin { store: world.store.clone(), blobs: HashMap::new(), asked: AtomicUsize::new(0) };
        Self { world, origin }
    }

    /// A stager that compares small trees too.
    fn stager(&self) -> Arc<Stager> {
        let mut stager = self.world.stager();
        let rule = DeltaRule { base_nodes_min: 0, nodes_percent_max: 50 };
        Arc::get_mut(&mut stager).unwrap().delta_rule = rule;
        stager
    }

    fn encode(&mut self, items: &Items) -> Digest {
        encode(DigestFunction::Sha256, items, &mut self.origin.blobs)
    }

    async fn stage(&self, stager: &Arc<Stager>, root: &Digest, ground: Ground) -> StagedTree {
        self.origin.asked.store(0, Ordering::Relaxed);
        stager.stage(root, ground, &self.origin).await.unwrap()
    }
}

fn file(bytes: &str) -> Item {
    Item::File { bytes: bytes.into(), executable: false }
}

/// A tree of `width` directories with `width` files each.
fn wide(width: usize) -> Items {
    let files = |directory: usize| {
        let files = (0..width).map(|number| (format!("file{number}"), file(&format!("{directory}/{number}"))));
        Item::Directory(files.collect())
    };
    (0..width).map(|directory| (format!("directory{directory:03}"), files(directory))).collect()
}

fn inside<'a>(items: &'a mut Items, name: &str) -> &'a mut Items {
    match items.get_mut(name) {
        Some(Item::Directory(items)) => items,
        other => panic!("no directory: {other:?}"),
    }
}

fn item() -> impl Strategy<Value = Item> {
    let leaf = prop_oneof![
        (proptest::collection::vec(any::<u8>(), 0..4), any::<bool>())
            .prop_map(|(bytes, executable)| Item::File { bytes, executable }),
        "[a-z./]{1,3}".prop_map(Item::Symlink),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        proptest::collection::btree_map("[a-d]{1}", inner, 0..4).prop_map(Item::Directory)
    })
}

fn items() -> impl Strategy<Value = Items> {
    proptest::collection::btree_map("[a-d]{1}", item(), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever two trees are, the second one staged after the first is the second one, on either ground; on shared ground nothing is hidden.
    #[test]
    fn any_tree_staged_after_any_other_is_itself(first in items(), second in items(), shared in any::<bool>()) {
        let ground = if shared { Ground::Shared } else { Ground::Bare };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut fleet = Fleet::new();
        let roots = [fleet.encode(&first), fleet.encode(&second)];
        let mut stager = fleet.stager();
        Arc::get_mut(&mut stager).unwrap().delta_rule.nodes_percent_max = 1000;
        runtime.block_on(async {
            let one = fleet.stage(&stager, &roots[0], ground).await;
            let other = fleet.stage(&stager, &roots[1], ground).await;
            prop_assert_eq!(overlay(one.directories()), first);
            prop_assert_eq!(overlay(other.directories()), second.clone());
            if shared {
                // A base beneath is seen wherever the whole tree, made elsewhere, would let it be seen.
                let base = fleet.world.folder.path().join("base");
                for name in ["a", "b", "c", "d"] {
                    for inner in ["a", "b", "c", "d"] {
                        fs::create_dir_all(base.join(name).join(inner)).unwrap();
                        fs::write(base.join(name).join(inner).join("a"), "base").unwrap();
                    }
                }
                let alone = Fleet { world: world(1 << 26), origin: fleet.origin };
                let origin = Origin { store: alone.world.store.clone(), ..alone.origin };
                let whole = alone.world.stager().stage(&roots[1], ground, &origin).await.unwrap();
                prop_assert_eq!(whole.directories().len(), 1);
                let seen = |directories: &[PathBuf]| overlay(&[std::slice::from_ref(&base), directories].concat());
                prop_assert_eq!(seen(other.directories()), seen(whole.directories()));
            }
            Ok(())
        })?;
    }
}

/// Only what is worth it.
#[tokio::test]
async fn small_trees_are_made_whole() {
    let mut fleet = Fleet::new();
    let mut tree = wide(10);
    let first = fleet.encode(&tree);
    tree.insert("new".into(), file("new"));
    let second = fleet.encode(&tree);
    let stager = fleet.world.stager();
    let base = fleet.stage(&stager, &first, Ground::Bare).await;
    let other = fleet.stage(&stager, &second, Ground::Bare).await;
    assert_eq!((base.directories().len(), other.directories().len()), (1, 1));
}

#[tokio::test]
async fn a_changed_file_is_a_delta_and_nothing_else_is_read_or_made() {
    let mut fleet = Fleet::new();
    let mut tree = wide(30);
    let first = fleet.encode(&tree);
    inside(&mut tree, "directory007").insert("file3".into(), file("changed"));
    let second = fleet.encode(&tree);
    let stager = fleet.stager();
    let base = fleet.stage(&stager, &first, Ground::Shared).await;
    let changed = fleet.stage(&stager, &second, Ground::Shared).await;
    assert_eq!(changed.directories().len(), 2);
    assert_eq!(changed.directories()[0], base.directories()[0]);
    assert_eq!(overlay(changed.directories()), tree);
    // The root, the directory, the file: each asked for once.
    assert_eq!(fleet.origin.asked.load(Ordering::Relaxed), 3);
    let delta = overlay(&changed.directories()[1..]);
    let expected = Items::from([("file3".into(), file("changed"))]);
    assert_eq!(delta, Items::from([("directory007".into(), Item::Directory(expected))]));
    let again = fleet.stage(&stager, &second, Ground::Bare).await;
    assert_eq!(again.directories(), changed.directories());
    assert_eq!(fleet.origin.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_delta_lies_above_a_whole_tree_and_what_has_grown_is_made_whole() {
    let mut fleet = Fleet::new();
    let mut tree = wide(20);
    let first = fleet.encode(&tree);
    let stager = fleet.stager();
    let base = fleet.stage(&stager, &first, Ground::Bare).await;
    let mut lengths = Vec::new();
    for directory in 0..20 {
        let files = inside(&mut tree, &format!("directory{directory:03}"));
        files.values_mut().for_each(|item| *item = file(&format!("changed {directory}")));
        let root = fleet.encode(&tree);
        let staged = fleet.stage(&stager, &root, Ground::Bare).await;
        assert_eq!(overlay(staged.directories()), tree);
        lengths.push(staged.directories().len());
    }
    assert!(lengths.iter().all(|length| *length <= 2));
    assert!(lengths.contains(&1), "{lengths:?}");
    assert!(lengths.iter().filter(|length| **length == 2).count() > 10, "{lengths:?}");
    drop(base);
}

#[tokio::test]
async fn what_is_gone_is_hidden_on_bare_ground_only() {
    let mut fleet = Fleet::new();
    let mut tree = wide(10);
    let first = fleet.encode(&tree);
    tree.remove("directory003");
    inside(&mut tree, "directory004").remove("file1");
    let second = fleet.encode(&tree);
    let stager = fleet.stager();
    drop(fleet.stage(&stager, &first, Ground::Bare).await);
    let bare = fleet.stage(&stager, &second, Ground::Bare).await;
    assert_eq!((bare.directories().len(), overlay(bare.directories())), (2, tree.clone()));
    let shared = fleet.stage(&stager, &second, Ground::Shared).await;
    assert_eq!((shared.directories().len(), overlay(shared.directories())), (1, tree.clone()));
    let again = fleet.stage(&stager, &second, Ground::Bare).await;
    assert_eq!(again.directories(), shared.directories(), "a whole tree is the better one");
}

#[tokio::test]
async fn a_base_stays_while_a_delta_needs_it() {
    let mut fleet = Fleet::new();
    let mut tree = wide(10);
    let first = fleet.encode(&tree);
    inside(&mut tree, "directory001").insert("file1".into(), file("changed"));
    let second = fleet.encode(&tree);
    let stager = fleet.stager();
    drop(fleet.stage(&stager, &first, Ground::Bare).await);
    let delta = fleet.stage(&stager, &second, Ground::Bare).await;
    assert!(!stager.evict_unused().await.unwrap(), "both are needed");
    assert_eq!(overlay(delta.directories()), tree);
    let folders: Vec<PathBuf> = delta.directories().to_vec();
    let figures = stager.trees().figures();
    assert_eq!((figures.nodes, figures.bytes), (111 + 2, 300 + 7));
    drop(delta);
    assert!(stager.evict_unused().await.unwrap());
    assert!(folders[0].exists() && !folders[1].exists(), "the delta goes first");
    assert!(stager.evict_unused().await.unwrap());
    assert!(!folders[0].exists());
    let figures = stager.trees().figures();
    assert_eq!((figures.nodes, figures.bytes), (0, 0));
    assert!(!stager.evict_unused().await.unwrap());
}

#[tokio::test]
async fn deltas_stay_over_restarts_with_their_bases() {
    let mut fleet = Fleet::new();
    let mut tree = wide(10);
    let first = fleet.encode(&tree);
    tree.remove("directory009");
    let second = fleet.encode(&tree);
    let stager = fleet.stager();
    drop(fleet.stage(&stager, &first, Ground::Bare).await);
    drop(fleet.stage(&stager, &second, Ground::Bare).await);
    drop(stager);
    let stager = fleet.stager();
    let again = fleet.stage(&stager, &second, Ground::Bare).await;
    assert_eq!((again.directories().len(), overlay(again.directories())), (2, tree));
    assert_eq!(fleet.origin.asked.load(Ordering::Relaxed), 0);
    assert!(!stager.evict_unused().await.unwrap(), "both are needed");
    assert_eq!(fleet.stage(&stager, &second, Ground::Shared).await.directories().len(), 1, "it hides");
    let base = again.directories()[0].parent().unwrap().to_path_buf();
    drop((again, stager));
    fs::remove_dir_all(base).unwrap();
    drop(fleet.stager());
    let deltas = fleet.world.folder.path().join("staged/deltas");
    assert_eq!(fs::read_dir(deltas).unwrap().count(), 0, "a delta without its base is nothing");
}

#[test]
fn directories_in_memory_are_bounded() {
    let kept = directories::Directories::default();
    let entry = |number: usize| Entry { name: format!("{number:06}"), node: Node::Symlink("x".into()) };
    let directory = Arc::new(Directory::new((0..10_000).map(entry).collect()).unwrap());
    let limit = muster_model::limits::DIRECTORY_ENTRIES_KEPT_MAX;
    let digest = |number: usize| Digest::of(&number.to_le_bytes());
    for number in 0..3 * limit / 10_000 {
        kept.find(&[digest(0)]);
        kept.keep(&HashMap::from([(digest(number), directory.clone())]));
        assert!(kept.entries() <= limit);
    }
    let last = 3 * limit / 10_000 - 1;
    let (known, unknown) = kept.find(&[digest(0), digest(1), digest(last)]);
    assert_eq!(unknown, [digest(1)], "what is used stays");
    assert_eq!(known.len(), 2);
}
