//! What an environment is made from, and what became of it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use muster_model::platform::EngineImage;
use muster_model::spec::{CommandSpec, Profile};
use tokio::sync::watch;

use crate::SharedNetwork;
use crate::collect::Remains;

/// A layer that is a directory on this machine now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedLayer {
    /// The directory; never written to. A character device with the number 0/0 in it hides the name from the layers beneath, as in every
    /// overlay.
    pub directory: PathBuf,
    /// The absolute path that it is shown at; `/` is usual. Several may be shown at one path.
    pub mount_path: PathBuf,
}

/// Everything that a place is made from.
#[derive(Clone, Debug)]
pub struct EnvironmentSpec {
    /// Whether the machine's base is under the layers.
    pub with_base: bool,
    /// The Docker image under the layers, instead of a base; only in containers.
    pub image: Option<EngineImage>,
    /// Mounted in order, later ones above earlier ones; all writable to the program, thrown away afterwards.
    pub layers: Vec<StagedLayer>,
    /// The program.
    pub command: CommandSpec,
    /// What it sees beside the variables of its command.
    pub variables: Variables,
    /// Memory with its tmpfs, in bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Standard output and standard error together, in bytes; more kills the program.
    pub output_bytes: u64,
    /// The system calls that are left; nothing on a bare host, where all are.
    pub profile: Profile,
    /// Absolute paths of files to read back when everything inside is dead; missing ones are left out, links are not followed.
    pub collect: Vec<PathBuf>,
    /// Takes what else is wanted, after that.
    pub collector: Option<Collector>,
    /// The network that it shares with other places; one of its own otherwise.
    pub network: Option<SharedNetwork>,
}

/// Which variables a program sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variables {
    /// Those that programs expect to be there (`HOME`, `PATH` and the like), and its command's, which win.
    #[default]
    WithDefaults,
    /// Its command's and no others.
    Exact,
}

/// Looks at the files of an environment when everything inside is dead and nothing is cleaned yet. Called once, on a thread that may block,
/// however the program ended; what it finds it keeps to itself. The environment is cleaned when it returns.
#[derive(Clone)]
pub struct Collector(Arc<dyn Fn(&Remains<'_>) + Send + Sync>);

impl Collector {
    /// One that does `look`.
    pub fn new(look: impl Fn(&Remains<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    pub(crate) fn look(&self, remains: &Remains<'_>) {
        (self.0)(remains);
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Collector").finish_non_exhaustive()
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Descriptor 1.
    Standard,
    /// Descriptor 2.
    Error,
}

/// Some bytes that the program wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    /// Where.
    pub stream: OutputStream,
    /// What.
    pub bytes: Vec<u8>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// It died of this signal.
    Signal(u8),
}

/// Why the driver killed a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// The caller pulled the [`KillSwitch`].
    Requested,
    /// The environment passed its memory and the kernel killed one of its processes for it, the program itself or another.
    Memory,
    /// It wrote more than it may.
    Output,
    /// It wanted more processes and threads at one time than it may have. Only where control groups count them: elsewhere it is merely refused.
    Processes,
}

/// What a program used. Zero where the machine can't tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceUsage {
    /// Peak memory, in bytes.
    pub memory_peak_bytes: u64,
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Bytes written, to files, pipes and terminals, by the program and all that it started. Of one that was killed in a sandbox, what was
    /// seen of those that still lived and the dead that they had waited for, and at least the output that was read.
    pub written_bytes: u64,
    /// Most processes and threads at one time. It is looked at ten times in a second and at the end, so that a shorter rise may be missed unless
    /// it is the highest that the slot has had.
    pub processes_peak: u32,
    /// Processes and threads that were started; of a program that was killed at least so many, and on a bare host nothing.
    pub processes_created: u64,
}

/// What became of a program and its place.
#[derive(Clone, Debug)]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// Why the driver killed it, if it did.
    pub killed: Option<KillReason>,
    /// Processes that were still there when the program had ended by itself.
    pub leaked_processes: u32,
    /// The files asked for, as far as they exist and keep the limit.
    pub collected: Vec<(PathBuf, Vec<u8>)>,
    /// From the start of the program to its end.
    pub execution: Duration,
    /// Cleaning up.
    pub cleaning: Duration,
    /// What it used.
    pub usage: ResourceUsage,
}

/// What a driver found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Weaknesses that do not stop it, one sentence each: no memory limit, for example.
    pub notes: Vec<String>,
}

/// A switch that kills a program, pulled from anywhere, any number of times.
#[derive(Clone, Debug)]
pub struct KillSwitch {
    sender: Arc<watch::Sender<bool>>,
}

impl Default for KillSwitch {
    fn default() -> Self {
        Self { sender: Arc::new(watch::Sender::new(false)) }
    }
}

impl KillSwitch {
    /// Kills.
    pub fn pull(&self) {
        self.sender.send_replace(true);
    }

    /// Whether it was pulled.
    pub fn is_pulled(&self) -> bool {
        *self.sender.borrow()
    }

    /// Waits until it is pulled.
    pub async fn pulled(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives as long as `self`, so the wait can only end with the value.
        let _ = receiver.wait_for(|pulled| *pulled).await;
    }
}
