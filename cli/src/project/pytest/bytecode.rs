//! Byte code for sources that are going to be staged.
//!
//! Python checks byte code against the modification time of its source, and a staged file has none of its own: every start of every interpreter
//! would compile everything again. So sources are compiled here, into byte code that is checked by hash or not at all (PEP 552), and kept by
//! the content and the path of the source. pytest rewrites the assertions of test modules and keeps byte code of its own, which it checks
//! against the hash of the source from version 9.2 on, and before that against its modification time: that of every staged file,
//! [`LAYER_FILE_TIME`].

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use muster_model::spec::LAYER_FILE_TIME;

use super::interpreter::Interpreter;
use crate::project::ProjectError;
use crate::project::layer::LayerBuilder;
use crate::project::preparation::Preparation;

/// How byte code is checked when it is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Against the hash of the source: for the project's own files, which a test may write.
    Hash,
    /// Not at all: for what is installed.
    Never,
    /// By pytest, as its version does: for test modules with their assertions rewritten.
    ByPytest,
}

impl Check {
    /// The word for it, in keys and to the compiling script.
    fn name(self) -> &'static str {
        match self {
            Self::Hash => "checked",
            Self::Never => "unchecked",
            Self::ByPytest => "pytest",
        }
    }

    /// Whether there should be such byte code of a source.
    fn is_for(self, source: &Path) -> bool {
        is_worth_compiling(source) && (self != Self::ByPytest || is_test_module(source))
    }
}

/// The version that understands byte code checked by hash (PEP 552).
const VERSION_MIN: (u32, u32, u32) = (3, 7, 0);
/// Sources given to one compiling process at least.
const SOURCES_PER_PROCESS_MIN: usize = 50;

/// Adds byte code for every source in the layer that compiles.
pub(super) fn add(
    layer: &mut LayerBuilder,
    interpreter: &Interpreter,
    check: Check,
    preparation: &Preparation,
) -> Result<(), ProjectError> {
    let (Some(tag), true) = (&interpreter.cache_tag, interpreter.version >= VERSION_MIN) else { return Ok(()) };
    let compiler = match (check, &interpreter.pytest) {
        (Check::ByPytest, None) => return Ok(()),
        (Check::ByPytest, Some(version)) => format!("{tag}-pytest-{version}"),
        (Check::Hash | Check::Never, _) => tag.clone(),
    };
    let sources = layer.sources(|source| check.is_for(source));
    let digests = preparation.digests(&sources)?;
    let mut planned = Vec::with_capacity(sources.len());
    for ((source, _), digest) in sources.iter().zip(digests) {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026-11 python byte code v3");
        let (major, minor, patch) = interpreter.version;
        hasher.update(format!("{compiler} {major}.{minor}.{patch} {} {digest} ", check.name()).as_bytes());
        hasher.update(source.as_os_str().as_encoded_bytes());
        let name = hasher.finalize().to_hex();
        let output = preparation.cache_directory().join("bytecode").join(&name[..2]).join(&name[2..]);
        planned.push((source.clone(), output));
    }
    let missing: Vec<&(PathBuf, PathBuf)> = planned.iter().filter(|(_, output)| !output.exists()).collect();
    compile(&missing, interpreter, check)?;
    for (source, output) in &planned {
        let (Some(directory), Some(stem)) = (source.parent(), source.file_stem().and_then(|stem| stem.to_str())) else {
            continue;
        };
        // An interpreter that could not write its byte code is slower, not wrong.
        let Ok(metadata) = fs::metadata(output) else { continue };
        if metadata.len() > 0 {
            layer.add_file(&directory.join("__pycache__").join(format!("{stem}.{compiler}.pyc")), output, metadata)?;
        }
    }
    Ok(())
}

/// The names that pytest collects by itself (its documentation, `python_files`); of others it rewrites the assertions when it meets them.
fn is_test_module(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem == "conftest" || stem.starts_with("test_") || stem.ends_with("_test")
}

/// The standard library's tests of itself are a third of it, and nobody imports them.
fn is_worth_compiling(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "py")
        && path.to_str().is_some_and(|path| !path.contains("/lib2to3/tests/") && !is_own_test(path))
}

fn is_own_test(path: &str) -> bool {
    let mut parts = path.split('/').skip_while(|part| !part.starts_with("python3"));
    parts.nth(1) == Some("test")
}

fn compile(missing: &[&(PathBuf, PathBuf)], interpreter: &Interpreter, check: Check) -> Result<(), ProjectError> {
    if missing.is_empty() {
        return Ok(());
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let share = missing.len().div_ceil(processors).max(SOURCES_PER_PROCESS_MIN);
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            missing.chunks(share).map(|chunk| scope.spawn(move || compile_some(chunk, interpreter, check))).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}

fn compile_some(chunk: &[&(PathBuf, PathBuf)], interpreter: &Interpreter, check: Check) -> Result<(), ProjectError> {
    let not_run = |source| ProjectError::Start {
        program: interpreter.executable.display().to_string(),
        hint: "see whether the interpreter works by itself".into(),
        source,
    };
    // pytest is among what is installed; nothing else needs that, and without it the start is quicker.
    let bare: &[&str] = if check == Check::ByPytest { &[] } else { &["-S", "-E"] };
    let mut child = Command::new(&interpreter.executable)
        .args(bare)
        .args(["-c", include_str!("compile.py"), check.name(), &LAYER_FILE_TIME.as_secs().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(not_run)?;
    if let Some(mut input) = child.stdin.take() {
        for (source, output) in chunk {
            let line = serde_json::json!([source.to_str(), output.to_str()]);
            if writeln!(input, "{line}").is_err() {
                break;
            }
        }
    }
    child.wait().map_err(not_run)?;
    Ok(())
}
