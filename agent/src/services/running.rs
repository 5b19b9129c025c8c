//! One service: its place, its program, its readiness, its end.

use std::path::PathBuf;
use std::sync::Arc;

use muster_environment::{
    Collector, Environment, EnvironmentError, EnvironmentSpec, Exit, ExitStatus, KillReason, KillSwitch, OutputChunk,
    SharedNetwork, StagedLayer,
};
use muster_model::limits;
use muster_model::platform::EngineImage;
use muster_model::service::{CloneMode, DATABASE_DEFAULT, Probe, ServiceSpec};
use muster_model::spec::CommandSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::error::ServiceError;
use super::log::Log;
use super::postgres::Client;

/// Chunks of output between an environment and the log.
const OUTPUT_CHUNKS: usize = 16;
/// How long one probe may take before it counts as failed.
const PROBE_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(1);
/// The user that PostgreSQL is greeted as: that of every sandbox, whose name `initdb` takes.
pub(super) const USER: &str = "muster";

/// Where services of one set live.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) environment: Arc<dyn Environment>,
    pub(super) network: SharedNetwork,
    pub(super) with_base: bool,
    /// The target's Docker image, which takes the place of a base.
    pub(super) image: Option<EngineImage>,
}

impl Home {
    /// What a program of a service is run in.
    pub(super) fn spec(&self, service: &ServiceSpec, layers: &[StagedLayer], arguments: &[String]) -> EnvironmentSpec {
        let or_default = |wanted: u64, default| if wanted == 0 { default } else { wanted };
        let wanted = service.limits;
        let processes = or_default(wanted.processes.into(), limits::ENVIRONMENT_PROCESSES_DEFAULT.into());
        EnvironmentSpec {
            with_base: self.with_base && service.with_base,
            image: service.image.clone().or_else(|| self.image.clone().filter(|_| service.with_base)),
            layers: layers.to_vec(),
            command: CommandSpec { arguments: arguments.to_vec(), ..service.command.clone() },
            variables: Default::default(),
            memory_bytes: or_default(wanted.memory_bytes, limits::ENVIRONMENT_MEMORY_BYTES_DEFAULT),
            processes: u32::try_from(processes).unwrap_or(u32::MAX),
            // Only the end of it is kept.
            output_bytes: or_default(wanted.output_bytes, u64::MAX),
            profile: wanted.profile,
            collect: Vec::new(),
            collector: None,
            network: Some(self.network.clone()),
        }
    }

    /// Runs a program to its end, and what it wrote into a log.
    pub(super) async fn run(
        &self,
        spec: EnvironmentSpec,
        log: &Log,
        switch: KillSwitch,
    ) -> Result<Exit, EnvironmentError> {
        let prepared = self.environment.prepare(spec).await?;
        let (sender, output) = mpsc::channel(OUTPUT_CHUNKS);
        tokio::join!(self.environment.run(prepared, sender, switch), record(output, log)).0
    }
}

async fn record(mut output: mpsc::Receiver<OutputChunk>, log: &Log) {
    while let Some(chunk) = output.recv().await {
        log.write(&chunk.bytes);
    }
}

/// How a program ended, in words.
pub(super) fn how(exit: &Exit) -> String {
    match (exit.killed, exit.status) {
        (Some(KillReason::Memory), _) => "it passed its memory".to_owned(),
        (Some(KillReason::Output), _) => "it wrote too much".to_owned(),
        (Some(KillReason::Processes), _) => "it wanted too many processes".to_owned(),
        (Some(KillReason::Requested), _) => "it was killed".to_owned(),
        (None, ExitStatus::Code(code)) => format!("exit code {code}"),
        (None, ExitStatus::Signal(signal)) => format!("signal {signal}"),
    }
}

/// Kills a program when it goes, also with a future that is given up.
pub(super) struct Killer(pub(super) KillSwitch);

impl Drop for Killer {
    fn drop(&mut self) {
        self.0.pull();
    }
}

/// A service that runs. Killed when dropped.
pub(super) struct Running {
    pub(super) service: Arc<ServiceSpec>,
    pub(super) layers: Vec<StagedLayer>,
    log: Log,
    killer: Killer,
    /// How it ended, once it has.
    ended: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    ///
    /// With its log, when it ends before or is late.
    pub(super) async fn start(
        home: &Home,
        service: &Arc<ServiceSpec>,
        layers: Vec<StagedLayer>,
    ) -> Result<Self, ServiceError> {
        let awaited = match &service.ready {
            Probe::Log(text) => Some(text.clone()),
            _ => None,
        };
        let (log, switch) = (Log::awaiting(awaited), KillSwitch::default());
        let (ending, ended) = watch::channel(None);
        let task = {
            let (home, log, switch) = (home.clone(), log.clone(), switch.clone());
            let spec = home.spec(service, &layers, &service.command.arguments);
            tokio::spawn(async move {
                let ended = match home.run(spec, &log, switch).await {
                    Ok(exit) => how(&exit),
                    Err(error) => crate::error_text::chain(&error),
                };
                ending.send_replace(Some(ended));
            })
        };
        let mut running = Self { service: service.clone(), layers, log, killer: Killer(switch), ended, task };
        running.wait(home).await?;
        Ok(running)
    }

    async fn wait(&mut self, home: &Home) -> Result<(), ServiceError> {
        let (service, log, layers) = (self.service.clone(), self.log.clone(), self.layers.clone());
        let probing = async {
            loop {
                let probe = tokio::time::timeout(PROBE_TIME_MAX, probe(home, &service, &log, &layers));
                if probe.await.unwrap_or(false) {
                    return;
                }
                tokio::time::sleep(service.interval).await;
            }
        };
        let mut ended = self.ended.clone();
        tokio::select! {
            // A program that is dead is not ready, whoever answers in its place.
            biased;
            _ = ended.wait_for(Option::is_some) => {}
            () = probing => return self.check(" before it was ready"),
            () = tokio::time::sleep(self.service.deadline) => {
                let (service, deadline) = (self.service.name.clone(), self.service.deadline);
                return Err(ServiceError::NotReady { service, deadline, log: self.log.tail() });
            }
        }
        self.check(" before it was ready")
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// How it ended.
    pub(super) fn check(&self, when: &'static str) -> Result<(), ServiceError> {
        let ended = self.ended.borrow().clone();
        match ended {
            Some(how) => {
                let (service, log) = (self.service.name.clone(), self.log.tail());
                Err(ServiceError::Ended { service, when, how, log })
            }
            None => Ok(()),
        }
    }

    /// Kills it and waits until nothing of it is left.
    pub(super) async fn stop(self) {
        let Self { killer, task, .. } = self;
        drop(killer);
        if let Err(error) = task.await {
            tracing::error!(%error, "a service failed inside the agent");
        }
    }
}

async fn probe(home: &Home, service: &ServiceSpec, log: &Log, layers: &[StagedLayer]) -> bool {
    match &service.ready {
        Probe::Log(_) => log.has_seen(),
        // A server of PostgreSQL's accepts connections before it can do anything with them.
        Probe::Tcp(port) if service.clone == CloneMode::TemplateDatabase => greet(home, *port).await.is_ok(),
        Probe::Tcp(port) => home.network.connect(*port).await.is_ok(),
        Probe::Http { port, path } => get(home, *port, path).await.is_ok_and(|status| (200..400).contains(&status)),
        Probe::Exec(arguments) => {
            let killer = Killer(KillSwitch::default());
            let spec = home.spec(service, layers, arguments);
            let exit = home.run(spec, &Log::default(), killer.0.clone()).await;
            exit.is_ok_and(|exit| exit.killed.is_none() && exit.status == ExitStatus::Code(0))
        }
    }
}

/// A connection to the database that is always there.
pub(super) async fn greet(home: &Home, port: u16) -> std::io::Result<Client> {
    Client::greet(home.network.connect(port).await?, USER, DATABASE_DEFAULT).await
}

/// The status of an answer (RFC 9112, section 4).
async fn get(home: &Home, port: u16, path: &str) -> std::io::Result<u16> {
    let mut stream = home.network.connect(port).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut answer).await?;
    let text = std::str::from_utf8(&answer).unwrap_or_default();
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..)).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other("it does not speak HTTP"))
}

/// A specification for a setup: its data directory is where it works, and is taken when it is dead.
pub(super) fn setup_spec(
    home: &Home,
    service: &ServiceSpec,
    layers: &[StagedLayer],
    collector: Collector,
) -> EnvironmentSpec {
    let mut spec = home.spec(service, layers, &service.setup);
    spec.command.working_directory.clone_from(&service.data);
    spec.collector = Some(collector);
    spec.collect = Vec::<PathBuf>::new();
    spec
}
