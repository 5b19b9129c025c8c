//! A prepared run in the making: what the suites' modules add to.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use muster_model::platform::{BaseRequest, EnvironmentKind};
use muster_model::service::ServiceSpec;
use muster_model::spec::{CommandSpec, EnvironmentLimits, Layer, TargetSpec};
use muster_model::{Digest, limits};

use super::config::cases::CaseSettings;
use super::config::environments::ServiceSettings;
use super::elf::add_libraries;
use super::images::{ImageReference, KnownImage};
use super::layer::LayerBuilder;
use super::stat_cache::{StatCache, Wanted};
use super::{NotRun, PreparedRun, ProjectError, Suite, base, files};

/// Collects targets, blobs and notices.
pub(crate) struct Preparation {
    root: PathBuf,
    cache_directory: PathBuf,
    cache: StatCache,
    run: PreparedRun,
    data_layers: HashMap<String, Option<Layer>>,
    images: HashMap<String, KnownImage>,
}

impl Preparation {
    /// Begins; `cache_directory` is that of [`super::PrepareOptions`]. Each project has a stat cache of its own, so that a large one does not
    /// make a small one slow.
    pub(crate) fn new(root: &Path, cache_directory: &Path, images: HashMap<String, KnownImage>) -> Self {
        let name = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
        let cache = StatCache::open(cache_directory.join("stat").join(&name[..32]));
        Self {
            root: root.to_owned(),
            cache_directory: cache_directory.to_owned(),
            cache,
            run: PreparedRun::default(),
            data_layers: HashMap::new(),
            images,
        }
    }

    /// Where things that cost time may be kept; an absolute path.
    pub(crate) fn cache_directory(&self) -> &Path {
        &self.cache_directory
    }

    /// The digests of files, in their order.
    pub(crate) fn digests(&self, files: &[(PathBuf, Metadata)]) -> Result<Vec<Digest>, ProjectError> {
        let wanted: Vec<Wanted<'_>> = files.iter().map(|(path, metadata)| Wanted { path, metadata }).collect();
        self.cache.digests(&wanted)
    }

    /// Adds a target.
    pub(crate) fn add_target(&mut self, target: TargetSpec) {
        self.run.targets.push(target);
    }

    /// How many targets there are.
    pub(crate) fn target_count(&self) -> usize {
        self.run.targets.len()
    }

    /// Puts an image under everything of the targets from number `first` on, and its variables under theirs.
    pub(crate) fn put_image_under(&mut self, first: usize, image: &KnownImage) {
        for target in self.run.targets.iter_mut().skip(first) {
            target.layers.insert(0, image_layer(image.root));
            image.add_variables(&mut target.command.environment);
        }
    }

    /// Gives the cases with resources of their own targets of their own, for each of the targets from number `first` on. They are of the same
    /// program, so that what is known of one is known of all: its cases, and the results of each.
    pub(crate) fn split_by_cases(&mut self, first: usize, patterns: &[CaseSettings]) {
        for position in first..self.run.targets.len() {
            let mut except: Vec<String> = Vec::new();
            for settings in patterns {
                let target = &self.run.targets[position];
                let mut part = settings.applied_to(target);
                part.name = format!("{} [{}]", target.name, settings.pattern);
                part.policy.only = Some(settings.pattern.clone());
                part.policy.except.clone_from(&except);
                except.push(settings.pattern.clone());
                self.run.targets.push(part);
            }
            self.run.targets[position].policy.except = except;
        }
    }

    /// Tells the user something.
    pub(crate) fn notice(&mut self, sentence: String) {
        if !self.run.notices.contains(&sentence) {
            self.run.notices.push(sentence);
        }
    }

    /// Names something that does not run.
    pub(crate) fn name_not_run(&mut self, not_run: NotRun) {
        self.notice(format!("{} not run: {}; hint: {}", not_run.what, not_run.why, not_run.hint));
        self.run.not_run.push(not_run);
    }

    /// Hashes a layer's files and adds its blobs.
    pub(crate) fn finish_layer(&mut self, mut layer: LayerBuilder) -> Result<Layer, ProjectError> {
        for sentence in layer.take_left_out() {
            self.notice(format!("left out: {sentence}"));
        }
        layer.finish(&self.cache, &mut self.run.blobs)
    }

    /// The layer of what the suite's `data` adds, with the libraries that shared objects among it need; None when it adds nothing.
    pub(crate) fn data_layer(&mut self, suite: &Suite) -> Result<Option<Layer>, ProjectError> {
        if let Some(layer) = self.data_layers.get(&suite.name) {
            return Ok(layer.clone());
        }
        let mut layer = LayerBuilder::new("data");
        for glob in files::add_data(&mut layer, &self.root, &suite.plan.settings.data)? {
            self.notice(format!("data `{glob}` of suite {} matches nothing", suite.name));
        }
        let base = suite.requirements().base;
        add_libraries(&mut layer, None, &|path| base::is_shown(&base, path))?;
        let layer = if layer.is_empty() { None } else { Some(self.finish_layer(layer)?) };
        self.data_layers.insert(suite.name.clone(), layer.clone());
        Ok(layer)
    }

    /// The services of the suite's environment.
    pub(crate) fn services(&mut self, suite: &Suite) -> Result<Vec<ServiceSpec>, ProjectError> {
        let settings = &suite.plan.settings;
        if !settings.services.is_empty() && settings.environment == Some(EnvironmentKind::Host) {
            return Err(ProjectError::Services { suite: suite.name.clone() });
        }
        settings.services.iter().map(|service| self.service(suite, service)).collect()
    }

    fn service(&mut self, suite: &Suite, service: &ServiceSettings) -> Result<ServiceSpec, ProjectError> {
        let mut layer = LayerBuilder::new("data");
        for glob in files::add_data(&mut layer, &self.root, &service.data)? {
            self.notice(format!("data `{glob}` of service {} matches nothing", service.name));
        }
        let image = service.image.as_ref().map(|image| image.resolve(&self.images)).transpose()?.flatten();
        let engine_image = match (&service.image, suite.plan.settings.environment) {
            (Some(ImageReference::Engine(image)), Some(EnvironmentKind::Docker)) => Some(image.clone()),
            _ => None,
        };
        let is_own = image.is_some() || engine_image.is_some();
        let base = if is_own { BaseRequest::None } else { suite.requirements().base };
        add_libraries(&mut layer, None, &|path| base::is_shown(&base, path))?;
        let mut layers: Vec<Layer> = image.iter().map(|image| image_layer(image.root)).collect();
        if !layer.is_empty() {
            layers.push(self.finish_layer(layer)?);
        }
        let pairs = |pairs: &BTreeMap<String, String>| pairs.clone().into_iter().collect::<Vec<_>>();
        let mut environment = pairs(&service.environment_variables);
        let mut arguments = service.command.clone();
        let mut working_directory = service.directory.clone();
        if let Some(image) = &image {
            image.add_variables(&mut environment);
            if arguments.is_empty() {
                arguments.clone_from(&image.command);
            }
            if working_directory.is_empty() && image.working_directory.starts_with('/') {
                working_directory.clone_from(&image.working_directory);
            }
        }
        if arguments.is_empty() {
            return Err(ProjectError::NoCommand { service: service.name.clone() });
        }
        if working_directory.is_empty() {
            working_directory = "/tmp".to_owned();
        }
        Ok(ServiceSpec {
            name: service.name.clone(),
            command: CommandSpec { arguments, environment, working_directory },
            with_base: !is_own,
            image: engine_image,
            layers,
            setup: service.setup.clone(),
            data: service.directory.clone(),
            ready: service.ready.clone(),
            deadline: service.deadline,
            interval: service.interval,
            after: service.after.clone(),
            clone: service.clone,
            export: pairs(&service.export),
            limits: EnvironmentLimits {
                memory_bytes: service.memory_bytes,
                processes: service.processes,
                profile: suite.limits().profile,
                ..EnvironmentLimits::default()
            },
        })
    }

    /// Everything, in order; the stat cache is written back.
    pub(crate) fn finish(mut self) -> Result<PreparedRun, ProjectError> {
        if self.run.targets.len() > limits::TARGETS_PER_RUN_MAX {
            let what = "the number of targets".to_owned();
            return Err(ProjectError::Limit { what, limit: limits::TARGETS_PER_RUN_MAX as u64 });
        }
        if let Err(error) = self.cache.save() {
            self.notice(format!("what was hashed will be hashed again: the stat cache can't be written: {error}"));
        }
        self.run.targets.sort_by(|one, other| (&one.suite, &one.name).cmp(&(&other.suite, &other.name)));
        make_names_unique(&mut self.run.targets);
        Ok(self.run)
    }
}

fn image_layer(root: Digest) -> Layer {
    Layer { root, mount_path: "/".into(), purpose: "image".into() }
}

/// Two suites may hold the same target; then the suite tells them apart, and where that is not enough, their order.
fn make_names_unique(targets: &mut [TargetSpec]) {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for target in targets.iter() {
        *counts.entry(target.name.clone()).or_default() += 1;
    }
    let mut seen: HashMap<String, usize> = HashMap::new();
    for target in targets.iter_mut().filter(|target| counts.get(&target.name).is_some_and(|count| *count > 1)) {
        let name = format!("{}: {}", target.suite, target.name);
        let count = seen.entry(name.clone()).or_default();
        *count += 1;
        target.name = if *count == 1 { name } else { format!("{name} #{count}") };
    }
}
