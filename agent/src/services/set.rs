//! The services of one environment, running in one network.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use muster_environment::{Collector, Environment, KillSwitch, SharedNetwork, StagedLayer};
use muster_model::key::service_data_key;
use muster_model::platform::BaseRequest;
use muster_model::service::{CloneMode, DATABASE_DEFAULT, ServiceSpec};
use muster_model::spec::TargetSpec;

use super::data::{DataFolder, DataFolders};
use super::error::ServiceError;
use super::log::Log;
use super::running::{Home, Killer, Running, greet, how, setup_spec};
use crate::inputs::{Inputs, StagedInputs};

/// Services that run, in the order of their start. Killed when dropped.
pub(crate) struct Set {
    home: Home,
    members: Vec<Member>,
    /// Databases that were made, for their names.
    databases: u64,
    /// Directories under the services' environments.
    _inputs: Vec<StagedInputs>,
}

struct Member {
    running: Running,
    /// The clone in use; empty for none.
    database: String,
    /// Somebody may have written there since it was started.
    is_used: bool,
    _data: Option<Arc<DataFolder>>,
}

impl Set {
    /// Starts the services of a target, each when those are ready that it waits for.
    ///
    /// # Errors
    ///
    /// The first one that failed; nothing is left behind.
    pub(super) async fn start(
        environment: Arc<dyn Environment>,
        inputs: &dyn Inputs,
        folders: &Arc<DataFolders>,
        target: &TargetSpec,
    ) -> Result<Self, ServiceError> {
        let base = &target.requirements.base;
        let network = environment.network().await;
        let network = network.map_err(|source| ServiceError::Environment { service: "network".to_owned(), source })?;
        let home = Home { environment, network, with_base: base.shows_base(), image: base.image().cloned() };
        let mut set = Self { home, members: Vec::new(), databases: 0, _inputs: Vec::new() };
        let mut waiting: Vec<Arc<ServiceSpec>> = target.services.iter().cloned().map(Arc::new).collect();
        while !waiting.is_empty() {
            let is_ready = |name: &String| set.members.iter().any(|member| member.running.service.name == *name);
            let (now, later): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|service| service.after.iter().all(is_ready));
            // The order was checked when the target came in: at least one is always free to start.
            let starting = now.iter().map(|service| set.member(inputs, folders, base, service));
            for (member, staged) in futures_util::future::try_join_all(starting).await? {
                set.members.push(member);
                set._inputs.push(staged);
            }
            if now.is_empty() {
                break;
            }
            waiting = later;
        }
        Ok(set)
    }

    async fn member(
        &self,
        inputs: &dyn Inputs,
        folders: &Arc<DataFolders>,
        base: &BaseRequest,
        service: &Arc<ServiceSpec>,
    ) -> Result<(Member, StagedInputs), ServiceError> {
        let staged = inputs.stage(&service.layers).await;
        let staged =
            staged.map_err(|error| ServiceError::Inputs { service: service.name.clone(), source: Box::new(error) })?;
        let mut layers = staged.layers.clone();
        let data =
            if service.setup.is_empty() { None } else { Some(self.data(folders, base, service, &layers).await?) };
        layers.extend(data.as_ref().map(|data| data.layer()));
        let running = Running::start(&self.home, service, layers).await?;
        Ok((Member { running, database: String::new(), is_used: false, _data: data }, staged))
    }

    /// The data of a service: what its setup made before, or makes now.
    async fn data(
        &self,
        folders: &Arc<DataFolders>,
        base: &BaseRequest,
        service: &ServiceSpec,
        layers: &[StagedLayer],
    ) -> Result<Arc<DataFolder>, ServiceError> {
        let key = service_data_key(base, service);
        if let Some(folder) = folders.find(key) {
            return Ok(folder);
        }
        let kept = |source| ServiceError::Data { service: service.name.clone(), source };
        let folder = folders.make().map_err(kept)?;
        let taken = Arc::new(Mutex::new(None));
        let collector = {
            let (folders, folder, taken, data) = (folders.clone(), folder.clone(), taken.clone(), service.data.clone());
            Collector::new(move |remains| {
                let result = folders.take(&folder, remains, Path::new(&data));
                *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            })
        };
        let (log, killer) = (Log::default(), Killer(KillSwitch::default()));
        let spec = setup_spec(&self.home, service, layers, collector);
        let running = tokio::time::timeout(service.deadline, self.home.run(spec, &log, killer.0.clone()));
        let failed = |how: String| ServiceError::Setup { service: service.name.clone(), how, log: log.tail() };
        let Ok(ended) = running.await else {
            return Err(failed(format!("it takes more than {} ms", service.deadline.as_millis())));
        };
        let exit = ended.map_err(|source| ServiceError::Environment { service: service.name.clone(), source })?;
        if exit.killed.is_some() || exit.status != muster_environment::ExitStatus::Code(0) {
            return Err(failed(how(&exit)));
        }
        let result = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.unwrap_or_else(|| Err(std::io::Error::other("nobody looked at it"))).map_err(kept)?;
        folders.keep(key, folder.clone());
        Ok(folder)
    }

    /// The names of the services, in the order of their start.
    pub(super) fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.running.service.name.clone()).collect()
    }

    /// The network that tests have to be in.
    pub(crate) fn network(&self) -> SharedNetwork {
        self.home.network.clone()
    }

    /// Gives every service that can be cloned a fresh clone, and says by which variables they are found.
    ///
    /// # Errors
    ///
    /// A service that has ended, or that gives no clone.
    pub(crate) async fn renew(&mut self) -> Result<Vec<(String, String)>, ServiceError> {
        let mut variables = Vec::new();
        self.drop_clones().await?;
        for member in &mut self.members {
            let service = member.running.service.clone();
            if let (CloneMode::TemplateDatabase, Some(port)) = (service.clone, service.ready.port()) {
                self.databases += 1;
                let name = format!("muster_{}", self.databases);
                member.database.clone_from(&name);
                let made = async {
                    let mut client = greet(&self.home, port).await?;
                    client.execute(&format!("CREATE DATABASE {name} TEMPLATE template1 STRATEGY FILE_COPY")).await
                };
                let database = |source| ServiceError::Database { service: service.name.clone(), source };
                made.await.map_err(database)?;
            }
            member.is_used = true;
            let database = if member.database.is_empty() { DATABASE_DEFAULT } else { &member.database };
            variables
                .extend(service.export.iter().map(|(name, value)| (name.clone(), service.expand(value, database))));
        }
        Ok(variables)
    }

    /// Makes everything that can be cloned as it was in the beginning: drops databases, starts services anew that were used.
    ///
    /// # Errors
    ///
    /// What is broken.
    pub(super) async fn drop_clones(&mut self) -> Result<(), ServiceError> {
        self.check("")?;
        let mut members = Vec::with_capacity(self.members.len());
        for mut member in std::mem::take(&mut self.members) {
            let service = member.running.service.clone();
            let name = std::mem::take(&mut member.database);
            if let (false, Some(port)) = (name.is_empty(), service.ready.port()) {
                let dropped = async {
                    let mut client = greet(&self.home, port).await?;
                    client.execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await
                };
                let database = |source| ServiceError::Database { service: service.name.clone(), source };
                dropped.await.map_err(database)?;
            }
            if service.clone == CloneMode::CopyOnWrite && member.is_used {
                let layers = member.running.layers.clone();
                member.running.stop().await;
                member.running = Running::start(&self.home, &service, layers).await?;
                member.is_used = false;
            }
            members.push(member);
        }
        self.members = members;
        Ok(())
    }

    /// Whether every service still runs.
    ///
    /// # Errors
    ///
    /// The one that does not.
    pub(crate) fn check(&self, when: &'static str) -> Result<(), ServiceError> {
        self.members.iter().try_for_each(|member| member.running.check(when))
    }

    /// Kills the services, the last one first, and waits until nothing of them is left.
    pub(super) async fn stop(self) {
        for member in self.members.into_iter().rev() {
            member.running.stop().await;
        }
    }
}
