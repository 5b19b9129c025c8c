//! The pytest suite: one target, with its interpreter, what is installed, and the project's files.

mod bytecode;
mod interpreter;
mod memory;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use muster_model::spec::{CommandSpec, FrameworkKind, Layer, TargetSpec};

use self::bytecode::Check;
use self::interpreter::Interpreter;
use super::elf::add_libraries;
use super::layer::LayerBuilder;
use super::preparation::Preparation;
use super::{ProjectError, Suite, base, files};

/// Where programs are looked for after the interpreter's own directory; what `login(1)` gives an ordinary user on Debian, with `sbin`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Describes the suite as one target.
pub(super) fn describe(suite: &Suite, preparation: &mut Preparation) -> Result<(), ProjectError> {
    let interpreter = Interpreter::find(suite, preparation.cache_directory())?;
    let layers = [
        interpreter_layer(suite, &interpreter, preparation)?,
        installed_layer(suite, &interpreter, preparation)?,
        Some(package_layer(suite, &interpreter, preparation)?),
        preparation.data_layer(suite)?,
    ];
    let mut variables = suite.plan.settings.environment_variables.clone();
    variables.entry("PYTHONDONTWRITEBYTECODE".into()).or_insert_with(|| "1".into());
    if let Some(programs) = interpreter.executable.parent() {
        variables.entry("PATH".into()).or_insert_with(|| format!("{}:{PATH}", programs.display()));
    }
    if let Some(directory) = &interpreter.user_base {
        // Otherwise it is looked for below a home directory, and the environment has one of its own.
        variables.entry("PYTHONUSERBASE".into()).or_insert_with(|| directory.display().to_string());
    }
    if interpreter.is_virtual() {
        variables.entry("VIRTUAL_ENV".into()).or_insert_with(|| interpreter.prefix.display().to_string());
    }
    let own = suite.directory.strip_prefix(&suite.root).unwrap_or(&suite.directory);
    let place = if own.as_os_str().is_empty() { Path::new(".") } else { own };
    let services = preparation.services(suite)?;
    preparation.add_target(TargetSpec {
        name: format!("{} (pytest)", place.display()),
        suite: suite.name.clone(),
        framework: FrameworkKind::Pytest,
        command: CommandSpec {
            arguments: std::iter::once(interpreter.executable.display().to_string())
                .chain(suite.plan.settings.arguments.iter().cloned())
                .collect(),
            environment: variables.into_iter().collect(),
            working_directory: suite.directory.display().to_string(),
        },
        layers: layers.into_iter().flatten().collect(),
        requirements: suite.requirements(),
        limits: suite.limits(),
        shards: 0,
        policy: suite.policy(),
        services,
    });
    Ok(())
}

/// The program, the standard library, and the shared libraries of both; None when the base has all of it.
fn interpreter_layer(
    suite: &Suite,
    interpreter: &Interpreter,
    preparation: &mut Preparation,
) -> Result<Option<Layer>, ProjectError> {
    let mut layer = LayerBuilder::new("interpreter");
    let base = suite.requirements().base;
    let is_in_base = |path: &Path| base::is_shown(&base, path);
    for program in [&interpreter.executable, &interpreter.base_executable] {
        layer.add_resolved(program, &is_in_base)?;
    }
    let program = fs::canonicalize(&interpreter.base_executable).unwrap_or_else(|_| interpreter.executable.clone());
    for directory in interpreter.standard_library.iter().filter(|directory| !is_in_base(directory)) {
        // What is installed there is another layer, which changes more often; in a virtual environment it is not seen at all.
        let installed = ["site-packages", "dist-packages"].map(|name| directory.join(name));
        add_installed(&mut layer, directory, &installed)?;
    }
    add_libraries(&mut layer, Some(&program), &is_in_base)?;
    finish(layer, interpreter, Check::Never, preparation)
}

/// What is installed: the virtual environment, or the site-packages, and the directories that `.pth` files and editable installs name.
fn installed_layer(
    suite: &Suite,
    interpreter: &Interpreter,
    preparation: &mut Preparation,
) -> Result<Option<Layer>, ProjectError> {
    let mut layer = LayerBuilder::new("libraries");
    let base = suite.requirements().base;
    let is_in_base = |path: &Path| base::is_shown(&base, path);
    let mut trees: Vec<&PathBuf> = interpreter.site_packages.iter().chain(&interpreter.path).collect();
    if interpreter.is_virtual() {
        trees.push(&interpreter.prefix);
    }
    trees.sort();
    trees.dedup();
    let is_elsewhere = |path: &Path| {
        let is_site = interpreter.site_packages.iter().any(|site| path.starts_with(site));
        let is_standard = interpreter.standard_library.iter().any(|library| path.starts_with(library)) && !is_site;
        let is_prefix = interpreter.is_virtual() && path.starts_with(&interpreter.prefix);
        is_in_base(path) || is_standard || (path.starts_with(&suite.directory) && !is_site && !is_prefix)
    };
    let mut done: Option<&Path> = None;
    for tree in trees {
        if is_elsewhere(tree) || done.is_some_and(|done| tree.starts_with(done)) {
            continue;
        }
        add_installed(&mut layer, tree, &[])?;
        done = Some(tree);
    }
    for directory in interpreter.editable.iter().filter(|directory| !is_elsewhere(directory)) {
        files::add_package(&mut layer, directory, std::slice::from_ref(&interpreter.prefix))?;
    }
    add_libraries(&mut layer, None, &is_in_base)?;
    finish(layer, interpreter, Check::Never, preparation)
}

/// The project's own files.
fn package_layer(
    suite: &Suite,
    interpreter: &Interpreter,
    preparation: &mut Preparation,
) -> Result<Layer, ProjectError> {
    let mut layer = LayerBuilder::new("package");
    let mut excluded = vec![suite.directory.join(".pytest_cache")];
    if interpreter.is_virtual() {
        excluded.push(interpreter.prefix.clone());
    }
    files::add_package_without(&mut layer, &suite.directory, &excluded, &["__pycache__"])?;
    bytecode::add(&mut layer, interpreter, Check::Hash, preparation)?;
    if !has_assertion_hook(&suite.directory) {
        bytecode::add(&mut layer, interpreter, Check::ByPytest, preparation)?;
    }
    preparation.finish_layer(layer)
}

/// Whether the project may ask pytest to rewrite assertions in another way (its documentation, `enable_assertion_pass_hook`).
fn has_assertion_hook(directory: &Path) -> bool {
    let files =
        ["pytest.ini", ".pytest.ini", "pyproject.toml", "setup.cfg", "tox.ini"].map(|name| directory.join(name));
    let says = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("enable_assertion_pass_hook"));
    files.iter().any(says)
}

fn finish(
    mut layer: LayerBuilder,
    interpreter: &Interpreter,
    check: Check,
    preparation: &mut Preparation,
) -> Result<Option<Layer>, ProjectError> {
    if layer.is_empty() {
        return Ok(None);
    }
    bytecode::add(&mut layer, interpreter, check, preparation)?;
    preparation.finish_layer(layer).map(Some)
}

/// Adds a directory of installed files as it is, without what only a compiler or another start of the interpreter would read.
fn add_installed(layer: &mut LayerBuilder, directory: &Path, excluded: &[PathBuf]) -> Result<(), ProjectError> {
    files::add_tree_without(layer, directory, |path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        name == b"__pycache__"
            || name.ends_with(b".a")
            || name.ends_with(b".o")
            || excluded.iter().any(|excluded| excluded == path)
    })
}

#[cfg(test)]
#[path = "pytest_tests.rs"]
mod tests;
