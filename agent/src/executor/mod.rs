//! Carries out one attempt: inputs, environments, the framework's reading of the output.
//!
//! Architecture Invariant: whether an attempt is run, killed or reported is decided by the machine; here it is done.

mod action;
mod observers;
mod process;

use std::sync::Arc;
use std::time::Duration;

use muster_environment::{Environment, EnvironmentError, KillSwitch};
use muster_frameworks::{DiscoveryError, DiscoveryOutput, Framework, FrameworkCommand, Shard, framework};
use muster_model::attempt::{Assignment, AttemptReport, AttemptResult, CaseReport, ShardTask, Stage, Task, Work};
use muster_model::limits;
use muster_model::outcome::{Fault, FaultKind};
use muster_model::platform::{Offer, Requirements};
use muster_model::spec::{FrameworkKind, TargetSpec};
use muster_model::{CaseIndex, Epoch};
use tokio::sync::mpsc;

use crate::clock::{Chance, Clock};
use crate::error_text::chain;
use crate::inputs::{Inputs, StagedInputs};
use crate::services::{Lease, ServiceError, Services};
use action::ActionAttempt;
pub(crate) use action::ActionFolders;
use observers::{CaseObserver, Recorder};
use process::{Account, Place, Process, Strays};

/// What happened to an attempt on its way.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It reached a stage.
    Stage(Epoch, Stage),
    /// A case began, as a position in the assignment.
    Case(Epoch, u32),
    /// Its environment is gone, and what it made is about to be uploaded.
    EnvironmentGone(Epoch),
}

/// Everything that attempts share.
pub(crate) struct Executor {
    pub(crate) inputs: Arc<dyn Inputs>,
    pub(crate) environments: Vec<Arc<dyn Environment>>,
    pub(crate) services: Arc<Services>,
    pub(crate) offer: Offer,
    pub(crate) folders: ActionFolders,
    pub(crate) clock: Clock,
    pub(crate) chance: Arc<Chance>,
    pub(crate) progress: mpsc::Sender<Progress>,
}

/// Cases that may have begun before the machine has heard of the first of them.
const CASES_UNHEARD: usize = 16;

impl Executor {
    /// Carries it out. Nothing comes back when `withdrawn` was pulled.
    pub(crate) async fn execute(
        &self,
        assignment: &Assignment,
        waited: Duration,
        withdrawn: &KillSwitch,
    ) -> Option<AttemptReport> {
        let epoch = assignment.epoch;
        let mut account = Account::default();
        account.timings.waited = waited;
        let (cases, mut begun) = mpsc::channel(CASES_UNHEARD);
        let telling = async {
            while let Some(position) = begun.recv().await {
                let _ = self.progress.send(Progress::Case(epoch, position)).await;
            }
        };
        let result = match &assignment.task {
            Task::Shard(task) => {
                let attempt = Attempt { executor: self, epoch, task, withdrawn, cases };
                tokio::join!(attempt.run(&mut account), telling).0
            }
            Task::Action(task) => ActionAttempt { executor: self, epoch, task, withdrawn }.run(&mut account).await,
        };
        if withdrawn.is_pulled() {
            return None;
        }
        let result = result.unwrap_or_else(AttemptResult::Fault);
        Some(AttemptReport { epoch, result, timings: account.timings, usage: account.usage })
    }

    fn environment(&self, requirements: &Requirements) -> Result<Arc<dyn Environment>, Fault> {
        self.offer
            .satisfies(requirements)
            .map_err(|lack| fault(FaultKind::Environment, format!("this agent lacks {lack}")))?;
        let wanted = requirements.environment;
        let found = self.environments.iter().find(|environment| environment.kind() == wanted);
        found.cloned().ok_or_else(|| {
            fault(FaultKind::Environment, format!("this agent lacks a working {} environment", wanted.name()))
        })
    }
}

/// One attempt under way.
struct Attempt<'a> {
    executor: &'a Executor,
    epoch: Epoch,
    task: &'a ShardTask,
    withdrawn: &'a KillSwitch,
    cases: mpsc::Sender<u32>,
}

impl Attempt<'_> {
    async fn run(self, account: &mut Account) -> Result<AttemptResult, Fault> {
        let epoch = self.epoch;
        let _ = self.executor.progress.send(Progress::Stage(epoch, Stage::Fetching)).await;
        let began = self.executor.clock.now();
        let staged = tokio::select! {
            staged = self.stage() => staged,
            () = self.withdrawn.pulled() => Err(fault(FaultKind::Returned, "withdrawn".to_owned())),
        };
        account.timings.transfer = self.executor.clock.now().since(began);
        let (target, inputs) = staged?;
        account.usage.fetched_bytes = inputs.fetched_bytes;
        account.usage.reused_bytes = inputs.reused_bytes;
        let mut place = Place {
            environment: self.executor.environment(&target.requirements)?,
            target,
            layers: inputs.layers.clone(),
            network: None,
            variables: Vec::new(),
        };
        let mut lease = self.lease(&place, account).await?;
        place.network = lease.as_ref().map(|lease| lease.set.network());
        let _ = self.executor.progress.send(Progress::Stage(epoch, Stage::Running)).await;
        let mut result = self.work(place, &mut lease, account).await;
        if let Some(lease) = lease {
            // What tests said while a service was dying is not their own word.
            if let Err(error) = lease.set.check(" while tests ran") {
                result = Err(service_fault(&error));
            }
            self.executor.services.give_back(lease);
        }
        // The layers must not go before the last environment over them has gone.
        drop(inputs);
        result
    }

    async fn stage(&self) -> Result<(Arc<TargetSpec>, StagedInputs), Fault> {
        let of = |error| fault(FaultKind::Inputs, chain(&error));
        let target = self.executor.inputs.target(&self.task.target_spec).await.map_err(of)?;
        let staged = self.executor.inputs.stage(&target.layers).await.map_err(of)?;
        Ok((target, staged))
    }

    /// The target's services, ready; none when it has none.
    async fn lease(&self, place: &Place, account: &mut Account) -> Result<Option<Lease>, Fault> {
        if place.target.services.is_empty() {
            return Ok(None);
        }
        let began = self.executor.clock.now();
        let Executor { services, inputs, .. } = self.executor;
        let leased = tokio::select! {
            leased = services.lease(place.environment.clone(), &**inputs, &place.target) => leased,
            () = self.withdrawn.pulled() => return Err(fault(FaultKind::Returned, "withdrawn".to_owned())),
        };
        account.timings.environment += self.executor.clock.now().since(began);
        leased.map(Some).map_err(|error| service_fault(&error))
    }

    /// A place with fresh clones of the services.
    async fn renewed(&self, place: &Place, lease: &mut Option<Lease>, account: &mut Account) -> Result<Place, Fault> {
        let mut place = place.clone();
        if let Some(lease) = lease {
            let began = self.executor.clock.now();
            place.variables = lease.set.renew().await.map_err(|error| service_fault(&error))?;
            account.timings.environment += self.executor.clock.now().since(began);
        }
        Ok(place)
    }

    async fn work(
        &self,
        place: Place,
        lease: &mut Option<Lease>,
        account: &mut Account,
    ) -> Result<AttemptResult, Fault> {
        let framework = framework(place.target.framework);
        match &self.task.work {
            Work::Discover => {
                let place = self.renewed(&place, lease, account).await?;
                self.discover(framework, &place, account).await
            }
            Work::Cases { cases, alone } => {
                let named: Vec<(CaseIndex, String)> =
                    cases.iter().copied().zip(self.task.case_names.iter().cloned()).collect();
                if *alone || place.target.framework == FrameworkKind::Command {
                    self.run_alone(framework, &place, lease, &named, account).await
                } else {
                    let place = self.renewed(&place, lease, account).await?;
                    self.run_together(framework, &place, &named, account).await
                }
            }
            Work::Action => Err(fault(FaultKind::Protocol, "an action is not a shard of a target".to_owned())),
        }
    }

    async fn discover(
        &self,
        framework: &dyn Framework,
        place: &Place,
        account: &mut Account,
    ) -> Result<AttemptResult, Fault> {
        let nonce = self.executor.chance.nonce();
        let mut outputs = Vec::new();
        for command in framework.discovery_commands(&place.target, &nonce) {
            let prepared = place.prepare(command, None).await.map_err(environment_fault)?;
            let mut recorder = Recorder::default();
            let ending = self.process(place, &mut recorder).run(prepared, account).await.map_err(environment_fault)?;
            outputs.push(DiscoveryOutput { standard: recorder.standard, error: recorder.error, ending });
            if self.withdrawn.is_pulled() {
                break;
            }
        }
        match framework.read_discovery(&place.target, &nonce, &outputs) {
            Ok(cases) => Ok(AttemptResult::Discovered { cases }),
            Err(DiscoveryError::Project(message)) => Ok(AttemptResult::DiscoveryFailed { message }),
            Err(DiscoveryError::Protocol(message)) => Err(fault(FaultKind::Protocol, message)),
        }
    }

    /// One environment and one process for all of them.
    async fn run_together(
        &self,
        framework: &dyn Framework,
        place: &Place,
        named: &[(CaseIndex, String)],
        account: &mut Account,
    ) -> Result<AttemptResult, Fault> {
        let nonce = self.executor.chance.nonce();
        let shard = Shard { target: &place.target, cases: named, nonce: &nonce };
        let is_company = named.len() > 1;
        // Of a file nobody can say which case of several wrote it.
        let strays = Strays::default();
        let watched = (!is_company).then_some(&strays);
        let prepared = place.prepare(framework.run_command(&shard), watched).await.map_err(environment_fault)?;
        let mut observer = CaseObserver::new(framework.reader(&shard), 0);
        let ending = self.process(place, &mut observer).run(prepared, account).await.map_err(environment_fault)?;
        let leaked = ending.leaked;
        let mut summary = observer.finish(self.executor.clock.now(), ending);
        if !is_company {
            mark_leaks(&mut summary.reports, leaked, &strays.take());
        }
        Ok(AttemptResult::Ran {
            reports: summary.reports,
            interruption: summary.interruption,
            leaked_in_company: leaked && is_company,
        })
    }

    /// An environment and a process for each, one after the other. The next place is made while a case runs, unless there are services: then
    /// each case gets clones of its own, and those of the last one have to go first.
    async fn run_alone(
        &self,
        framework: &dyn Framework,
        place: &Place,
        lease: &mut Option<Lease>,
        named: &[(CaseIndex, String)],
        account: &mut Account,
    ) -> Result<AttemptResult, Fault> {
        let mut all = Vec::with_capacity(named.len());
        let mut interruption = None;
        let nonces: Vec<String> = named.iter().map(|_| self.executor.chance.nonce()).collect();
        let shard = |position: usize| Shard {
            target: &place.target,
            cases: &named[position..=position],
            nonce: &nonces[position],
        };
        // One after the other they are noted, and taken.
        let strays = Strays::default();
        let prepare = |place: Place, position: usize| {
            let command: FrameworkCommand = framework.run_command(&shard(position));
            let strays = strays.clone();
            tokio::spawn(async move { place.prepare(command, Some(&strays)).await })
        };
        let mut next = None;
        for position in 0..named.len() {
            let preparing = match next.take() {
                Some(preparing) => preparing,
                None => prepare(self.renewed(place, lease, account).await?, position),
            };
            let prepared = match preparing.await {
                Ok(prepared) => prepared.map_err(environment_fault)?,
                Err(error) => return Err(fault(FaultKind::Environment, error.to_string())),
            };
            if self.withdrawn.is_pulled() {
                break;
            }
            next = (lease.is_none() && position + 1 < named.len()).then(|| prepare(place.clone(), position + 1));
            // A shard of one case begins with position 0; the assignment knows it under another.
            let mut observer = CaseObserver::new(framework.reader(&shard(position)), position as u32);
            let ended = self.process(place, &mut observer).run(prepared, account).await;
            let ending = match ended {
                Ok(ending) => ending,
                Err(error) => {
                    drain(next).await;
                    return Err(environment_fault(error));
                }
            };
            let leaked = ending.leaked;
            let mut summary = observer.finish(self.executor.clock.now(), ending);
            mark_leaks(&mut summary.reports, leaked, &strays.take());
            all.append(&mut summary.reports);
            interruption = interruption.or(summary.interruption);
        }
        drain(next).await;
        Ok(AttemptResult::Ran { reports: all, interruption, leaked_in_company: false })
    }

    fn process<'a, O>(&'a self, place: &'a Place, observer: &'a mut O) -> Process<'a, O> {
        let given = self.task.case_timeout;
        let default = match self.task.work {
            Work::Discover => limits::DISCOVERY_TIMEOUT,
            Work::Cases { .. } | Work::Action => limits::CASE_TIMEOUT_DEFAULT,
        };
        Process {
            environment: &*place.environment,
            clock: self.executor.clock,
            case_timeout: if given.is_zero() { default } else { given },
            withdrawn: self.withdrawn,
            cases: &self.cases,
            observer,
            limits: place.target.limits,
        }
    }
}

/// A place that was made and is not needed goes before its attempt ends.
async fn drain(
    preparing: Option<tokio::task::JoinHandle<Result<Box<dyn muster_environment::Prepared>, EnvironmentError>>>,
) {
    if let Some(preparing) = preparing {
        drop(preparing.await);
    }
}

fn mark_leaks(reports: &mut [CaseReport], leaked: bool, strays: &[String]) {
    for report in reports {
        report.leaked = leaked;
        report.strays = strays.to_vec();
    }
}

pub(crate) fn fault(kind: FaultKind, message: String) -> Fault {
    Fault { kind, message }
}

fn service_fault(error: &ServiceError) -> Fault {
    fault(FaultKind::Environment, chain(error))
}

fn environment_fault(error: EnvironmentError) -> Fault {
    let kind = match error {
        EnvironmentError::Start { .. } => FaultKind::Start,
        _ => FaultKind::Environment,
    };
    fault(kind, chain(&error))
}
