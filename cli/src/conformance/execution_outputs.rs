//! Rules of what an action leaves behind.

use muster_proto::reapi::{ActionResult, Directory, DirectoryNode, FileNode, Tree, command};
use prost::Message;

use super::jobs::{self, Job};
use super::session::Session;
use super::{Answer, Check, Finding, broken, checks, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "outputs/file", "Command.output_paths":
        "a file is returned with its bytes in the store, under the path that was asked for" => file;
    Must "outputs/executable", "OutputFile.is_executable":
        "an executable file is returned as one, and another is not" => executable;
    Must "outputs/directory", "ActionResult.output_directories":
        "a directory is returned as a Tree whose directories and files are in the store" => directory;
    Must "outputs/empty-directory", "ActionResult.output_directories":
        "an empty directory is returned" => empty_directory;
    Must "outputs/symlink", "ActionResult.output_symlinks":
        "a symbolic link is returned as a link, whatever it points to" => symlink;
    Must "outputs/symlink-in-directory", "Tree":
        "a symbolic link inside a directory stays one" => symlink_in_directory;
    Must "outputs/missing", "ActionResult.output_files":
        "an output that was not made is left out, and that is no error" => missing;
    Must "outputs/unlisted", "Command.output_paths":
        "what nobody asked for is not returned" => unlisted;
    Must "outputs/parents", "Command.output_paths":
        "directories leading up to an output are there before the command runs" => parents;
    Must "outputs/input-overwritten", "Command.output_paths":
        "an input that the command writes to is returned as it is afterwards, and stays what it was in the store" => overwritten;
    Must "outputs/of-failed-command", "ActionResult":
        "a command that fails leaves outputs too" => of_failed;
    Must "outputs/before-2.1", "Command.output_files":
        "output_files and output_directories of clients before 2.1 are honoured" => before_2_1;
    Must "outputs/symlink-before-2.1", "ActionResult.output_file_symlinks":
        "symbolic links are where clients before 2.1 look for them" => symlink_before_2_1;
    Must "outputs/directory-format", "Command.output_directory_format":
        "TREE_AND_DIRECTORY has both digests, and they agree" => directory_format;
    Should "outputs/directory-root-stored", "OutputDirectory.root_directory_digest":
        "DIRECTORY_ONLY stores each directory by itself" => directory_only;
    Should "outputs/tree-is-stable", "Tree.children":
        "the same directory made twice is the same Tree" => stable;
];

async fn file(session: &Session) -> Answer {
    let result = Job::shell(session, "echo made > a; echo too > b").outputs(&["a", "b"]).result(session).await?;
    require!(result.output_files.len() == 2, "{} files are returned", result.output_files.len());
    for file in &result.output_files {
        let expected = if file.path == "a" { "made\n" } else { "too\n" };
        let bytes = jobs::output(session, &file.contents, file.digest.as_ref()).await?;
        require!(bytes == expected.as_bytes(), "{} is {:?}", file.path, String::from_utf8_lossy(&bytes));
    }
    Ok(())
}

async fn executable(session: &Session) -> Answer {
    let script = "echo x > plain; echo x > tool; chmod 644 plain; chmod 755 tool";
    let result = Job::shell(session, script).outputs(&["plain", "tool"]).result(session).await?;
    let is = |path: &str| result.output_files.iter().find(|file| file.path == path).map(|file| file.is_executable);
    require!(is("tool") == Some(true), "is_executable of tool is {:?}", is("tool"));
    require!(is("plain") == Some(false), "is_executable of plain is {:?}", is("plain"));
    Ok(())
}

/// The Tree of the one directory of a result.
async fn tree(session: &Session, result: &ActionResult) -> Result<Tree, Finding> {
    let [directory] = &result.output_directories[..] else {
        broken!("{} directories are returned", result.output_directories.len())
    };
    let Some(digest) = &directory.tree_digest else { broken!("tree_digest is not set") };
    let bytes = session.read(&session.read_name(digest), 0, 0).await?;
    Tree::decode(bytes).map_err(|error| Finding::Broken(format!("the Tree can't be decoded: {error}")))
}

/// A directory of a Tree by the node that names it.
fn child<'a>(session: &Session, tree: &'a Tree, node: &DirectoryNode) -> Option<&'a Directory> {
    tree.children.iter().find(|child| Some(session.digest(&child.encode_to_vec())) == node.digest)
}

async fn directory(session: &Session) -> Answer {
    let script = "mkdir -p out/deep/er; echo 1 > out/one; echo 2 > out/deep/er/two; chmod 755 out/deep/er/two";
    let result = Job::shell(session, script).outputs(&["out"]).result(session).await?;
    let tree = tree(session, &result).await?;
    let root = tree.root.clone().unwrap_or_default();
    let names: Vec<_> = root.files.iter().map(|file| &file.name).collect();
    require!(names == ["one"], "the files of the root are {names:?}");
    let mut at = &root;
    for name in ["deep", "er"] {
        let node = at.directories.iter().find(|node| node.name == name);
        let Some(next) = node.and_then(|node| child(session, &tree, node)) else {
            broken!("{name} is not a child of the Tree, by its digest")
        };
        at = next;
    }
    let Some(two) = at.files.first() else { broken!("deep/er is empty") };
    require!(two.is_executable, "deep/er/two is not executable");
    let bytes = jobs::output(session, &[], two.digest.as_ref()).await?;
    require!(bytes == b"2\n", "deep/er/two is {:?}", String::from_utf8_lossy(&bytes));
    Ok(())
}

async fn empty_directory(session: &Session) -> Answer {
    let result = Job::shell(session, "mkdir out").outputs(&["out"]).result(session).await?;
    let tree = tree(session, &result).await?;
    require!(tree.root.unwrap_or_default() == Directory::default(), "it is not empty");
    Ok(())
}

async fn symlink(session: &Session) -> Answer {
    let script = "echo x > file; ln -s file link; ln -s nowhere dangling; mkdir dir; ln -s dir to-dir";
    let result = Job::shell(session, script).outputs(&["dangling", "link", "to-dir"]).result(session).await?;
    let mut links: Vec<_> =
        result.output_symlinks.iter().map(|link| (link.path.as_str(), link.target.as_str())).collect();
    links.sort_unstable();
    let expected = [("dangling", "nowhere"), ("link", "file"), ("to-dir", "dir")];
    require!(links == expected, "output_symlinks are {links:?}");
    require!(result.output_files.is_empty(), "{} files are returned, too", result.output_files.len());
    Ok(())
}

async fn symlink_in_directory(session: &Session) -> Answer {
    let result = Job::shell(session, "mkdir out; echo x > out/file; ln -s file out/link").outputs(&["out"]);
    let root = tree(session, &result.result(session).await?).await?.root.unwrap_or_default();
    let links: Vec<_> = root.symlinks.iter().map(|link| (link.name.as_str(), link.target.as_str())).collect();
    require!(links == [("link", "file")], "the links of the root are {links:?}");
    Ok(())
}

async fn missing(session: &Session) -> Answer {
    let result = Job::shell(session, "echo x > made").outputs(&["made", "not-made"]).result(session).await?;
    let paths: Vec<_> = result.output_files.iter().map(|file| &file.path).collect();
    require!(paths == ["made"], "the files are {paths:?}");
    Ok(())
}

async fn unlisted(session: &Session) -> Answer {
    let result =
        Job::shell(session, "echo x > made; echo x > other; mkdir dir").outputs(&["made"]).result(session).await?;
    let paths: Vec<_> = result.output_files.iter().map(|file| &file.path).collect();
    require!(paths == ["made"] && result.output_directories.is_empty(), "the files are {paths:?}");
    Ok(())
}

async fn parents(session: &Session) -> Answer {
    let result = Job::shell(session, "echo x > deep/er/made").outputs(&["deep/er/made"]).result(session).await?;
    let paths: Vec<_> = result.output_files.iter().map(|file| &file.path).collect();
    require!(result.exit_code == 0 && paths == ["deep/er/made"], "exit code {}, files {paths:?}", result.exit_code);
    Ok(())
}

async fn overwritten(session: &Session) -> Answer {
    let mut job = Job::shell(session, "echo after > in").outputs(&["in"]);
    let before = session.bytes(20);
    let digest = session.upload(before.clone()).await?;
    job.root.files = vec![FileNode { name: "in".into(), digest: Some(digest.clone()), ..Default::default() }];
    let result = job.result(session).await?;
    // A server may keep inputs from being written to; then the command fails, and the input is what it was.
    if result.exit_code == 0 {
        let [file] = &result.output_files[..] else { broken!("{} files are returned", result.output_files.len()) };
        let bytes = jobs::output(session, &file.contents, file.digest.as_ref()).await?;
        require!(bytes == b"after\n", "the output is {:?}", String::from_utf8_lossy(&bytes));
    }
    let kept = session.read(&session.read_name(&digest), 0, 0).await?;
    require!(kept == before, "the input has changed in the store");
    Ok(())
}

async fn of_failed(session: &Session) -> Answer {
    let result = Job::shell(session, "echo x > made; exit 1").outputs(&["made"]).result(session).await?;
    require!(result.output_files.len() == 1, "{} files are returned", result.output_files.len());
    Ok(())
}

#[expect(deprecated, reason = "clients before 2.1 know no other fields")]
async fn before_2_1(session: &Session) -> Answer {
    let mut job = Job::shell(session, "echo x > dir/file; mkdir out; echo y > out/inner");
    job.command.output_files = vec!["dir/file".into()];
    job.command.output_directories = vec!["out".into()];
    let result = job.result(session).await?;
    let paths: Vec<_> = result.output_files.iter().map(|file| &file.path).collect();
    require!(paths == ["dir/file"], "the files are {paths:?}");
    let tree = tree(session, &result).await?;
    require!(tree.root.unwrap_or_default().files.len() == 1, "the directory is another one");
    Ok(())
}

#[expect(deprecated, reason = "clients before 2.1 know no other fields")]
async fn symlink_before_2_1(session: &Session) -> Answer {
    let mut job = Job::shell(session, "echo x > file; ln -s file link");
    job.command.output_files = vec!["file".into(), "link".into()];
    let result = job.result(session).await?;
    let links: Vec<_> =
        result.output_file_symlinks.iter().map(|link| (link.path.as_str(), link.target.as_str())).collect();
    require!(links == [("link", "file")], "output_file_symlinks are {links:?}");
    Ok(())
}

async fn formatted(session: &Session, format: command::OutputDirectoryFormat) -> Result<ActionResult, Finding> {
    let mut job = Job::shell(session, "mkdir -p out/in; echo x > out/in/file").outputs(&["out"]);
    job.command.output_directory_format = format.into();
    let result = job.result(session).await?;
    let first = result.output_directories.first();
    if first.is_some_and(|directory| directory.root_directory_digest.is_none()) {
        return Err(Finding::NotOffered("root_directory_digest is not set: the format is taken for TREE_ONLY".into()));
    }
    Ok(result)
}

async fn directory_format(session: &Session) -> Answer {
    let result = formatted(session, command::OutputDirectoryFormat::TreeAndDirectory).await?;
    let root = tree(session, &result).await?.root.unwrap_or_default();
    let expected = Some(session.digest(&root.encode_to_vec()));
    let said = &result.output_directories[0].root_directory_digest;
    require!(*said == expected, "root_directory_digest is {said:?}, the Tree's root {expected:?}");
    Ok(())
}

async fn directory_only(session: &Session) -> Answer {
    let result = formatted(session, command::OutputDirectoryFormat::DirectoryOnly).await?;
    let Some(digest) = &result.output_directories[0].root_directory_digest else { broken!("it is not set") };
    let bytes = jobs::output(session, &[], Some(digest)).await?;
    let root = Directory::decode(&bytes[..]).map_err(|error| Finding::Broken(format!("the root: {error}")))?;
    let Some(inner) = root.directories.first() else { broken!("the root has no directory") };
    let inner = jobs::output(session, &[], inner.digest.as_ref()).await?;
    require!(Directory::decode(&inner[..]).is_ok_and(|inner| inner.files.len() == 1), "the inner one is another one");
    Ok(())
}

async fn stable(session: &Session) -> Answer {
    let script =
        "mkdir -p out/b out/a out/c; for f in 3 1 2; do echo $f > out/$f; echo $f > out/a/$f; echo $f > out/b/$f; done";
    let first = Job::shell(session, script).outputs(&["out"]).result(session).await?;
    let second = Job::shell(session, script).outputs(&["out"]).result(session).await?;
    let digest = |result: &ActionResult| result.output_directories.first().and_then(|one| one.tree_digest.clone());
    require!(
        digest(&first).is_some() && digest(&first) == digest(&second),
        "{:?}, then {:?}",
        digest(&first),
        digest(&second)
    );
    Ok(())
}
