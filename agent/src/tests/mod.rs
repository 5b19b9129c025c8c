//! A real agent, a real stream, real programs; the coordinator is scripted.

mod coordinator;
mod stories;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_cache::{StoreError, UploadSource};
use muster_environment::{HostConfig, HostEnvironment};
use muster_model::attempt::{Assignment, ShardTask, Task, Work};
use muster_model::platform::{EnvironmentKind, Offer, Requirements};
use muster_model::spec::{CommandSpec, EnvironmentLimits, FrameworkKind, Layer, TargetPolicy, TargetSpec};
use muster_model::{CaseIndex, Epoch};
use muster_model::{Digest, RunId, TargetIndex};

use crate::data::DataDirectory;
use crate::inputs::{InputError, Inputs, StagedInputs};
use crate::offers::Offered;
use crate::{Agent, Config};
use coordinator::Coordinator;

/// Targets that need no layers.
#[derive(Default)]
struct Known(HashMap<Digest, Arc<TargetSpec>>);

#[async_trait]
impl Inputs for Known {
    async fn target(&self, digest: &Digest) -> Result<Arc<TargetSpec>, InputError> {
        self.0.get(digest).cloned().ok_or_else(|| InputError::Store {
            what: "target".to_owned(),
            source: muster_cache::StoreError::NotFound(*digest),
        })
    }

    async fn stage(&self, _layers: &[Layer]) -> Result<StagedInputs, InputError> {
        Ok(StagedInputs { layers: Vec::new(), fetched_bytes: 1, reused_bytes: 2, trees: Vec::new() })
    }

    async fn tree(&self, _root: &Digest, _mount_path: &str) -> Result<StagedInputs, InputError> {
        Ok(StagedInputs { layers: Vec::new(), fetched_bytes: 1, reused_bytes: 2, trees: Vec::new() })
    }

    async fn upload(&self, _blobs: Vec<(Digest, UploadSource)>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// An agent under test, its coordinator, and a folder for its programs.
struct World {
    coordinator: Coordinator,
    folder: tempfile::TempDir,
    slots: u32,
    scripts: Vec<String>,
    /// Targets that are not scripts.
    extra: Vec<TargetSpec>,
}

impl World {
    /// Target number n is shell script number n, in which `$FOLDER` is the world's folder.
    async fn new(slots: u32, scripts: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Written into the script, because a host environment moves paths in variables that begin with /tmp.
        let path = folder.path().to_str().unwrap();
        let scripts = scripts.iter().map(|script| script.replace("$FOLDER", path)).collect();
        Self { coordinator: Coordinator::start().await, folder, slots, scripts, extra: Vec::new() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn start_agent(&self) -> Agent {
        let config = Config { slots: self.slots, ..Config::new(&self.coordinator.url, self.path().join("data")) };
        let endpoint = crate::agent::endpoint(&config.coordinator).unwrap();
        let data = DataDirectory::open(&config.data).unwrap();
        let host = HostEnvironment::new(HostConfig::new(data.environments().unwrap())).unwrap();
        let offer =
            Offer { environments: vec![EnvironmentKind::Host], properties: config.properties(), ..Offer::default() };
        let offered = Offered { environments: vec![Arc::new(host)], offer, owner: None };
        let targets = (0..self.scripts.len())
            .map(|index| self.target(index))
            .chain(self.extra.clone())
            .map(|target| (digest(&target), Arc::new(target)));
        let inputs = Arc::new(Known(targets.collect()));
        Agent::launch(&config, endpoint, data, offered, inputs).unwrap()
    }

    fn target(&self, index: usize) -> TargetSpec {
        TargetSpec {
            name: format!("target-{index}"),
            suite: "command".to_owned(),
            framework: FrameworkKind::ExitCode,
            command: CommandSpec {
                arguments: ["/bin/sh", "-c", &self.scripts[index]].map(str::to_owned).to_vec(),
                environment: Vec::new(),
                working_directory: "/".to_owned(),
            },
            layers: Vec::new(),
            requirements: Requirements { environment: EnvironmentKind::Host, ..Requirements::default() },
            limits: EnvironmentLimits::default(),
            shards: 0,
            policy: TargetPolicy::default(),
            services: Vec::new(),
        }
    }

    fn assignment(&self, epoch: u64, index: usize, work: Work) -> Assignment {
        let case_names = match &work {
            Work::Discover | Work::Action => Vec::new(),
            Work::Cases { cases, .. } => cases.iter().map(|case| format!("case-{case}")).collect(),
        };
        let task = ShardTask {
            run: RunId(1),
            target: TargetIndex(0),
            target_spec: digest(&self.target(index)),
            work,
            case_names,
            case_timeout: Duration::from_secs(60),
            slots: 0,
        };
        Assignment { epoch: Epoch(epoch), task: Task::Shard(task) }
    }

    /// The same with another task.
    fn changed(mut assignment: Assignment, change: impl FnOnce(&mut ShardTask)) -> Assignment {
        let Task::Shard(task) = &mut assignment.task else { panic!("a shard") };
        change(task);
        assignment
    }

    /// One case of the script.
    fn case(&self, epoch: u64, index: usize) -> Assignment {
        self.assignment(epoch, index, Work::Cases { cases: vec![CaseIndex(0)], alone: false })
    }

    /// Several cases, each in a process of its own.
    fn alone(&self, epoch: u64, index: usize, count: u32) -> Assignment {
        self.assignment(epoch, index, Work::Cases { cases: (0..count).map(CaseIndex).collect(), alone: true })
    }
}

fn digest(target: &TargetSpec) -> Digest {
    Digest::of(format!("{target:?}").as_bytes())
}
