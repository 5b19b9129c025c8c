//! One attempt: what an agent is asked to do, and what it says became of it.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::outcome::{Fault, Verdict};
use crate::platform::Requirements;
use crate::{CaseIndex, Digest, Epoch, RunId, TargetIndex};

/// What an attempt is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// List the target's cases.
    Discover,
    /// Run these cases of the target.
    Cases {
        /// In the order to run them; the names travel beside them in [`Assignment::case_names`].
        cases: Vec<CaseIndex>,
        /// Every case in a process and an environment of its own, one after the other.
        alone: bool,
    },
    /// Run an action of the Remote Execution API.
    Action,
}

/// A lease on one attempt, as an agent receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The fencing number, which names the attempt.
    pub epoch: Epoch,
    /// What is to be done.
    pub task: Task,
}

impl Assignment {
    /// The slots that it takes of its agent; at least 1.
    pub fn slots(&self) -> u32 {
        match &self.task {
            Task::Shard(task) => task.slots.max(1),
            Task::Action(_) => 1,
        }
    }
}

/// What an agent is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Cases of a target, or their discovery.
    Shard(ShardTask),
    /// An action of the Remote Execution API.
    Action(ActionTask),
}

/// An action of the Remote Execution API, as an agent is asked to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionTask {
    /// The digest of the encoded `Action`. Its function is that of every digest of the action and of its result.
    pub action: Digest,
    /// The encoded `Action`, which the agent checks against the digest.
    pub encoded_action: Vec<u8>,
    /// The encoded `Command` that the action names, which the agent checks likewise.
    pub encoded_command: Vec<u8>,
    /// Wall-clock time of the program.
    pub timeout: Duration,
    /// What the action needs, with its base pinned.
    pub requirements: Requirements,
}

/// Cases of a target, or their discovery, as an agent is asked to run them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardTask {
    /// The run it belongs to.
    pub run: RunId,
    /// The target within the run.
    pub target: TargetIndex,
    /// The blob that holds the encoded target (`muster.v1.TargetSpec`).
    pub target_spec: Digest,
    /// What to do.
    pub work: Work,
    /// The names of `work`'s cases, in its order.
    pub case_names: Vec<String>,
    /// Wall-clock time of each case, or of the discovery.
    pub case_timeout: Duration,
    /// The slots that it takes; 0 is one.
    pub slots: u32,
}

/// Where an attempt is on its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Received; not started, so it can be recalled.
    Waiting,
    /// Inputs are being fetched and staged.
    Fetching,
    /// The environment is there and the program runs.
    Running,
    /// The environment is gone and what the program made is being uploaded. It is in no slot any more.
    Uploading,
    /// Over; the report is in the spool until acknowledged.
    Finished,
}

impl Stage {
    /// The name used on the wire and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Fetching => "fetching",
            Self::Running => "running",
            Self::Uploading => "uploading",
            Self::Finished => "finished",
        }
    }
}

/// What an agent says that an attempt is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptStatus {
    /// Which attempt.
    pub epoch: Epoch,
    /// Where it is.
    pub stage: Stage,
    /// The case under way, as a position in the assignment's list of cases.
    pub running: Option<u32>,
}

/// What an attempt said of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseReport {
    /// The case.
    pub case: CaseIndex,
    /// What the test said.
    pub verdict: Verdict,
    /// How long it ran.
    pub duration: Duration,
    /// A reason in one line: a panic's message, a skip's reason; may be empty.
    pub message: String,
    /// What it wrote, for verdicts other than passed; cut to [`crate::limits::CASE_OUTPUT_BYTES_MAX`].
    pub output: String,
    /// A sanitizer or a race detector spoke: never retried.
    pub never_retry: bool,
    /// It left processes behind when it ended.
    pub leaked: bool,
    /// Files that it wrote outside of its own places, in a process that ran it alone; at most [`crate::limits::STRAYS_TOLD_MAX`].
    pub strays: Vec<String>,
}

/// Why some of an attempt's cases have no verdict although the fleet did nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The process died: of a signal, or (0) by leaving without a word.
    Crashed {
        /// The signal's number, or 0.
        signal: u8,
    },
    /// A case passed its wall-clock time.
    TimedOut,
    /// The environment passed its memory.
    MemoryExceeded,
    /// The environment wrote too much.
    OutputExceeded,
    /// The environment wanted too many processes and threads at one time.
    ProcessesExceeded,
    /// What it wrote contradicts itself or its exit status; no line of it is believed for the cases left open.
    Contradicted,
}

/// How long the parts of an attempt took, by the agent's own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From receipt to the start of the work.
    pub waited: Duration,
    /// Fetching and staging the inputs.
    pub transfer: Duration,
    /// Making and cleaning the environment.
    pub environment: Duration,
    /// From the start of the program to its end.
    pub execution: Duration,
}

/// What an attempt used. Zero where the machine can't tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Peak memory, in bytes.
    pub memory_peak_bytes: u64,
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Bytes written to files, pipes and terminals.
    pub written_bytes: u64,
    /// Most processes and threads that one of its environments had at one time, as far as they were seen.
    pub processes_peak: u32,
    /// Processes and threads that were started in all of its environments together.
    pub processes_created: u64,
    /// Bytes fetched for it.
    pub fetched_bytes: u64,
    /// Bytes that it needed and that were there already.
    pub reused_bytes: u64,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// Discovery worked: the names in order, and whether each is ignored unless asked for.
    Discovered {
        /// Every case of the target.
        cases: Vec<DiscoveredCase>,
    },
    /// The cases were run.
    Ran {
        /// One report for each case that has a verdict; no case twice.
        reports: Vec<CaseReport>,
        /// Why others have none, and the case that was running then.
        interruption: Option<(Interruption, Option<CaseIndex>)>,
        /// The process left others behind when it ended, with several cases in it.
        leaked_in_company: bool,
    },
    /// Discovery ran and failed in a way that is the project's own (an import error): its words.
    DiscoveryFailed {
        /// What the framework wrote.
        message: String,
    },
    /// An action was run to an end, whichever.
    ActionRan(ActionReport),
    /// The fleet's fault.
    Fault(Fault),
}

/// How an action's program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionEnding {
    /// It exited with this code.
    Exited {
        /// What the program returned; 127 and 126 too when there is no such program, or none that can be started.
        code: i32,
    },
    /// It died of this signal.
    Signalled {
        /// The signal's number.
        signal: u8,
    },
    /// It passed its wall-clock time and was killed.
    TimedOut,
    /// It passed its memory and was killed.
    MemoryExceeded,
    /// It wrote more than it may and was killed.
    OutputExceeded,
    /// It wanted more processes and threads at one time than it may have, and was killed.
    ProcessesExceeded,
    /// What it left at the places of its outputs can't be an output.
    OutputsRefused,
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionReport {
    /// How its program ended.
    pub ending: ActionEnding,
    /// The encoded `ActionResult`; its blobs are in the coordinator's store. Partial when the program was killed.
    pub result: Vec<u8>,
    /// One sentence for people where `ending` needs one; empty otherwise.
    pub message: String,
    /// Collecting and uploading the outputs.
    pub upload: Duration,
    /// From the start of the work to this report, by the agent's own clock.
    pub elapsed: Duration,
}

/// One case as discovery found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredCase {
    /// The framework's own name for it: a path, a node id.
    pub name: String,
    /// Not run unless asked for (`#[ignore]`).
    pub ignored: bool,
}

/// A finished attempt, kept in the agent's spool until acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptReport {
    /// Which attempt.
    pub epoch: Epoch,
    /// How it ended.
    pub result: AttemptResult,
    /// How long its parts took.
    pub timings: Timings,
    /// What it used.
    pub usage: Usage,
}
