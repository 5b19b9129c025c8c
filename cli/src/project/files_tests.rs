use super::*;

fn project(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = fs::canonicalize(directory.path()).expect("it exists");
    for (name, content) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, content).expect("written");
    }
    (directory, root)
}

fn names(layer: &LayerBuilder, root: &Path) -> Vec<String> {
    let relative = |path: PathBuf| path.strip_prefix(root).expect("below the root").display().to_string();
    let mut names: Vec<String> = layer.sources(|_| true).into_iter().map(|(path, _)| relative(path)).collect();
    names.sort();
    names
}

#[test]
fn a_package_is_what_git_would_keep_without_its_neighbours() {
    let (_directory, root) = project(&[
        (".gitignore", "/ignored\n*.log\n"),
        (".git/config", ""),
        (".cargo/config.toml", ""),
        ("src/lib.rs", ""),
        ("src/debug.log", ""),
        ("ignored/file", ""),
        ("member/Cargo.toml", ""),
        ("fixtures/Cargo.toml", ""),
    ]);
    let mut layer = LayerBuilder::new("package");
    add_package(&mut layer, &root, &[root.join("member")]).expect("it can be walked");
    assert_eq!(names(&layer, &root), [".cargo/config.toml", ".gitignore", "fixtures/Cargo.toml", "src/lib.rs"]);
}

#[test]
fn a_repository_that_ignores_the_whole_package_does_not_empty_it() {
    let (_directory, root) = project(&[
        (".gitignore", "/build\n*.log\n"),
        (".git/config", ""),
        ("build/package/src/lib.rs", ""),
        ("kept/package/src/lib.rs", ""),
        ("kept/package/x.log", ""),
    ]);
    for (package, expected) in [("build/package", vec!["src/lib.rs"]), ("kept/package", vec!["src/lib.rs"])] {
        let mut layer = LayerBuilder::new("package");
        add_package(&mut layer, &root.join(package), &[]).expect("it can be walked");
        assert_eq!(names(&layer, &root.join(package)), expected);
    }
}

#[test]
fn data_brings_ignored_files_and_files_from_elsewhere() {
    let (_directory, root) = project(&[
        ("project/.gitignore", "*.bin\n"),
        ("project/data/one.bin", ""),
        ("project/data/deep/two.bin", ""),
        ("project/data/deep/three.txt", ""),
        ("shared/four.json", ""),
        ("whole/five", ""),
    ]);
    let mut layer = LayerBuilder::new("data");
    let globs = ["data/**/*.bin", "../shared/*.json", "../whole", "nothing/*"].map(str::to_owned);
    let unmatched = add_data(&mut layer, &root.join("project"), &globs).expect("it can be walked");
    assert_eq!(unmatched, ["nothing/*"]);
    let expected = ["project/data/deep/two.bin", "project/data/one.bin", "shared/four.json", "whole/five"];
    assert_eq!(names(&layer, &root), expected);
}

#[test]
fn a_path_is_joined_without_looking_at_the_files() {
    assert_eq!(lexical_join(Path::new("/a/b"), "./../c/./d"), PathBuf::from("/a/c/d"));
    assert_eq!(lexical_join(Path::new("/a/b"), "/x"), PathBuf::from("/x"));
}
