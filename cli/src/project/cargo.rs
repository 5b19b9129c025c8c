//! The cargo suite: each test binary is a target.
//!
//! Every target sees its binary, the package's programs (`CARGO_BIN_EXE_*`), the libraries that no base has, and its own package's files, with
//! the variables that `cargo test` would set.

mod build;
mod configuration;
mod harness;
mod messages;
mod selection;

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use muster_model::spec::{CommandSpec, FrameworkKind, Layer, TargetSpec};

use self::build::Build;
use self::messages::{Artifact, Package};
use super::elf::Libraries;
use super::error::file_error;
use super::layer::LayerBuilder;
use super::preparation::Preparation;
use super::{BuildOutput, NotRun, ProjectError, Suite, base, files};

/// Builds the suite's tests. The rest needs no cargo: see [`describe`].
pub(super) async fn build(suite: &Suite, output: BuildOutput) -> Result<Built, ProjectError> {
    let build = build::build(&suite.directory, &suite.plan.cargo_arguments, output).await?;
    let variables = configuration::variables(&suite.directory, &suite.plan.cargo_arguments)?;
    Ok(Built { build, variables })
}

/// A suite whose tests are built.
pub(super) struct Built {
    build: Build,
    /// What cargo's configuration sets for every test.
    variables: BTreeMap<String, String>,
}

/// Describes every test binary as a target, and names what does not run.
pub(super) fn describe(suite: &Suite, built: &Built, preparation: &mut Preparation) -> Result<(), ProjectError> {
    let workspace = Workspace::new(built);
    let mut packages: HashMap<String, PackageParts> = HashMap::new();
    let mut libraries: HashMap<Vec<PathBuf>, Libraries> = HashMap::new();
    for artifact in &built.build.artifacts {
        let (true, Some(executable)) = (artifact.profile.test, &artifact.executable) else { continue };
        if !packages.contains_key(&artifact.package_id) {
            let parts = workspace.parts(suite, artifact, preparation)?;
            packages.insert(artifact.package_id.clone(), parts);
        }
        let Some(parts) = packages.get(&artifact.package_id) else { continue };
        let target = workspace.target(suite, artifact, executable, parts, &mut libraries, preparation)?;
        preparation.add_target(target);
    }
    for package in selection::packages_with_unrun_doctests(suite, &built.build.metadata) {
        preparation.name_not_run(NotRun {
            suite: suite.name.clone(),
            what: format!("{} (doctests)", package.name),
            why: "documentation tests need the compiler, which agents do not have".into(),
            hint: format!("cargo test --doc -p {}", package.name),
        });
    }
    Ok(())
}

/// What the targets of one package share.
struct PackageParts {
    package: Package,
    package_layer: Layer,
    data_layer: Option<Layer>,
    variables: BTreeMap<String, String>,
    programs: Vec<(String, PathBuf)>,
    out_directories: Vec<PathBuf>,
    harness: harness::Harness,
}

struct Workspace<'a> {
    build: &'a Build,
    variables: &'a BTreeMap<String, String>,
    packages: HashMap<&'a str, &'a Package>,
    linked_directories: Vec<PathBuf>,
    opened_libraries: Vec<PathBuf>,
    toolchain: OnceCell<Vec<PathBuf>>,
}

impl<'a> Workspace<'a> {
    fn new(built: &'a Built) -> Self {
        let build = &built.build;
        let packages = build.metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
        let mut linked_directories: Vec<PathBuf> = build
            .build_scripts
            .iter()
            .flat_map(|script| &script.linked_paths)
            .map(|path| PathBuf::from(path.split_once('=').map_or(path.as_str(), |(_, path)| path)))
            .filter(|path| path.starts_with(&build.metadata.target_directory))
            .collect();
        linked_directories.sort();
        linked_directories.dedup();
        let opened_libraries = shared_libraries(&linked_directories);
        let variables = &built.variables;
        Self { build, variables, packages, linked_directories, opened_libraries, toolchain: OnceCell::new() }
    }

    fn parts(
        &self,
        suite: &Suite,
        artifact: &Artifact,
        preparation: &mut Preparation,
    ) -> Result<PackageParts, ProjectError> {
        let package = self.packages.get(artifact.package_id.as_str()).map_or_else(
            || Package::outside_workspace(&artifact.package_id, &artifact.manifest_path),
            |package| (*package).clone(),
        );
        let root = package.root().to_owned();
        let mut layer = LayerBuilder::new("package");
        let members = self.build.metadata.packages.iter().map(|member| member.root().to_owned());
        let mut excluded: Vec<PathBuf> = members.filter(|member| !root.starts_with(member)).collect();
        excluded.push(self.build.metadata.target_directory.clone());
        excluded.extend(self.build.metadata.build_directory.clone());
        files::add_package(&mut layer, &root, &excluded)?;
        let package_layer = preparation.finish_layer(layer)?;
        let data_layer = preparation.data_layer(suite)?;

        let of_package = |id: &str| id == artifact.package_id;
        let mut variables = self.variables.clone();
        variables.extend(package.variables());
        let mut out_directories = Vec::new();
        for script in self.build.build_scripts.iter().filter(|script| of_package(&script.package_id)) {
            variables.extend(script.env.iter().cloned());
            if let Some(directory) = script.out_dir.as_ref().filter(|directory| directory.is_dir()) {
                variables.insert("OUT_DIR".into(), directory.display().to_string());
                out_directories.push(directory.clone());
            }
        }
        let is_program = |artifact: &&Artifact| artifact.target.kind() == "bin" && !artifact.profile.test;
        let own = self.build.artifacts.iter().filter(|artifact| of_package(&artifact.package_id));
        let programs = own
            .filter(is_program)
            .filter_map(|artifact| Some((artifact.target.name.clone(), artifact.executable.clone()?)))
            .collect();
        let harness = harness::Harness::read(&package.manifest_path)?;
        Ok(PackageParts { package, package_layer, data_layer, variables, programs, out_directories, harness })
    }

    fn target(
        &self,
        suite: &Suite,
        artifact: &Artifact,
        executable: &Path,
        parts: &PackageParts,
        libraries: &mut HashMap<Vec<PathBuf>, Libraries>,
        preparation: &mut Preparation,
    ) -> Result<TargetSpec, ProjectError> {
        let kind = artifact.target.kind();
        let mut programs = vec![executable.to_owned()];
        let mut variables = parts.variables.clone();
        let mut binary = LayerBuilder::new("binary");
        if matches!(kind, "test" | "bench") {
            for (name, program) in &parts.programs {
                variables.insert(format!("CARGO_BIN_EXE_{name}"), program.display().to_string());
                programs.push(program.clone());
            }
            if let Some(directory) = self.temporary_directory(executable) {
                binary.add_directory(&directory)?;
                variables.insert("CARGO_TARGET_TMPDIR".into(), directory.display().to_string());
            }
        }
        for program in &programs {
            let metadata = fs::metadata(program).map_err(file_error("look at", program))?;
            binary.add_file(program, program, metadata)?;
        }
        for directory in &parts.out_directories {
            files::add_everything(&mut binary, directory)?;
        }
        let mut search = self.search_directories(executable);
        let (library_layer, used) = match self.library_layer(suite, &programs, &search, libraries, preparation) {
            // The tests of a procedural macro, and what is built with `-C prefer-dynamic`.
            Err(ProjectError::Library { .. }) => {
                search.extend(self.toolchain_directories(suite).iter().cloned());
                self.library_layer(suite, &programs, &search, libraries, preparation)?
            }
            found => found?,
        };
        let path = search.iter().filter(|directory| used.contains(directory)).map(|path| path.display().to_string());
        let path: Vec<String> = path.collect();
        if !path.is_empty() {
            variables.insert("LD_LIBRARY_PATH".into(), path.join(":"));
        }
        variables.extend(suite.plan.settings.environment_variables.clone());
        let is_libtest = parts.harness.is_used(kind, &artifact.target.name);
        let name = match kind {
            "lib" => format!("{} (lib)", parts.package.name),
            kind => format!("{} ({kind} {})", parts.package.name, artifact.target.name),
        };
        let layers = [Some(preparation.finish_layer(binary)?), library_layer, Some(parts.package_layer.clone())];
        Ok(TargetSpec {
            name,
            suite: suite.name.clone(),
            framework: if is_libtest { FrameworkKind::Libtest } else { FrameworkKind::ExitCode },
            command: CommandSpec {
                arguments: std::iter::once(executable.display().to_string())
                    .chain(suite.plan.settings.arguments.iter().cloned())
                    .collect(),
                environment: variables.into_iter().collect(),
                working_directory: parts.package.root().display().to_string(),
            },
            layers: layers.into_iter().flatten().chain(parts.data_layer.clone()).collect(),
            requirements: suite.requirements(),
            limits: suite.limits(),
            shards: 0,
            policy: suite.policy(),
            services: preparation.services(suite)?,
        })
    }

    /// The directory that cargo promises to integration tests as `CARGO_TARGET_TMPDIR`; it lies beside the profile's directory.
    fn temporary_directory(&self, executable: &Path) -> Option<PathBuf> {
        let metadata = &self.build.metadata;
        let roots = [metadata.build_directory.as_ref(), Some(&metadata.target_directory)];
        let known = roots.into_iter().flatten().map(|root| root.join("tmp")).find(|path| path.is_dir());
        known.or_else(|| executable.ancestors().skip(1).map(|path| path.join("tmp")).find(|path| path.is_dir()))
    }

    /// The layer of the libraries that no base has, and the directories that libraries were found in.
    fn library_layer(
        &self,
        suite: &Suite,
        programs: &[PathBuf],
        search: &[PathBuf],
        libraries: &mut HashMap<Vec<PathBuf>, Libraries>,
        preparation: &mut Preparation,
    ) -> Result<(Option<Layer>, Vec<PathBuf>), ProjectError> {
        let base = suite.requirements().base;
        let is_in_base = |path: &Path| base::is_shown(&base, path);
        let finder = libraries.entry(search.to_owned()).or_insert_with(|| Libraries::new(search.to_owned()));
        let mut layer = LayerBuilder::new("libraries");
        let mut used = Vec::new();
        for object in programs.iter().chain(&self.opened_libraries) {
            let closure = match finder.closure(object) {
                // What is only perhaps opened may be there for another machine.
                Err(ProjectError::Library { .. } | ProjectError::Program { .. })
                    if self.opened_libraries.contains(object) =>
                {
                    continue;
                }
                closure => closure?,
            };
            let own = self.opened_libraries.contains(object).then(|| object.clone());
            for path in closure.paths.into_iter().chain(own) {
                used.extend(path.parent().map(Path::to_owned));
                layer.add_resolved(&path, &is_in_base)?;
            }
        }
        let layer = if layer.is_empty() { None } else { Some(preparation.finish_layer(layer)?) };
        Ok((layer, used))
    }

    /// Where the toolchain keeps its own shared libraries, which cargo adds to the search path; asked at most once.
    fn toolchain_directories(&self, suite: &Suite) -> &[PathBuf] {
        self.toolchain.get_or_init(|| ask_toolchain(&suite.directory))
    }

    /// Where `cargo test` would let the dynamic linker look first, in its order.
    fn search_directories(&self, executable: &Path) -> Vec<PathBuf> {
        let mut search = self.linked_directories.clone();
        let own = executable.parent().into_iter();
        search.extend(own.flat_map(|directory| [Some(directory), directory.parent()]).flatten().map(Path::to_owned));
        search
    }
}

/// The shared libraries that lie directly in the directories: those a build script made are opened by name while tests run, which no header
/// tells.
fn shared_libraries(directories: &[PathBuf]) -> Vec<PathBuf> {
    let entries = directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let is_library = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"));
    let mut libraries: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_library).collect();
    libraries.retain(|path| path.is_file());
    libraries.sort();
    libraries
}

/// Where the toolchain keeps its own shared libraries; nowhere when the compiler does not answer.
fn ask_toolchain(directory: &Path) -> Vec<PathBuf> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = std::process::Command::new(compiler);
    command.args(["--print", "target-libdir", "--print", "sysroot"]).current_dir(directory);
    let Ok(answer) = command.stdin(std::process::Stdio::null()).output() else { return Vec::new() };
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let mut lines = answer.lines().map(PathBuf::from);
    let libraries = lines.next();
    libraries.into_iter().chain(lines.next().map(|sysroot| sysroot.join("lib"))).collect()
}

#[cfg(test)]
#[path = "cargo_tests.rs"]
mod tests;
