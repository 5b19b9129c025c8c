//! What a person is told when something that can be expected went wrong: one sentence, its causes, and the next thing to type.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use muster_agent::AgentError;
use muster_model::limits::OPERATION_KEPT_TIME;
use muster_model::platform::EnvironmentKind;
use muster_proto::code_name;

use crate::cache_error::CacheError;
use crate::exit_code::ExitCode;
use crate::image::ImageError;
use crate::project::ProjectError;
use crate::text;

/// Everything that a command can end in besides an answer. Each variant is a family with its exit code.
#[derive(Debug, thiserror::Error)]
pub enum ExpectedError {
    /// The project can't be prepared.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// The fleet can't be asked, or refuses.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The embedded fleet can't be started.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The cache can't answer.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// An image can't be imported.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A report can't be written.
    #[error("cannot write {what}")]
    Report {
        /// A path or a stream.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output's or another stream's own kind of failure: nobody reads it any more. Nothing is said then.
    #[error("nobody reads the output")]
    BrokenPipe,
    /// Cancelled before there was a run to cancel.
    #[error("cancelled")]
    Cancelled,
}

/// Why a fleet did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The address makes no sense.
    #[error("`{url}` is not the address of a coordinator")]
    Address {
        /// As it was typed.
        url: String,
    },
    /// Nobody answers there.
    #[error("cannot reach the coordinator at {url}")]
    Unreachable {
        /// Where.
        url: String,
        /// What the connection said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The address of a server makes no sense.
    #[error("`{url}` is not the address of a server")]
    ServerAddress {
        /// As it was typed.
        url: String,
    },
    /// No server answers there.
    #[error("cannot reach the server at {url}")]
    ServerUnreachable {
        /// Where.
        url: String,
        /// What the connection said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No conformance check has such a name.
    #[error("no check's name contains {}", filters.iter().map(|words| format!("`{words}`")).collect::<Vec<_>>().join(" or "))]
    NoSuchCheck {
        /// As they were typed.
        filters: Vec<String>,
    },
    /// Nobody answers at the default address, and no data is kept on this machine.
    #[error("no coordinator at {url}, and no runs are recorded in {}", data.display())]
    NoFleet {
        /// The default address.
        url: String,
        /// The embedded fleet's directory.
        data: PathBuf,
    },
    /// It can't run this: a property is missing on every agent, or a limit was passed. The message is the coordinator's.
    #[error("the fleet cannot run this")]
    Precondition {
        /// What it said.
        message: String,
        /// The kind of environment that was asked for.
        environment: EnvironmentKind,
    },
    /// There is no such run.
    #[error("there is no run {run}")]
    NoSuchRun {
        /// Its number.
        run: u64,
    },
    /// There is no such operation, or not any more.
    #[error("there is no operation {operation}")]
    NoSuchOperation {
        /// As it was typed.
        operation: String,
    },
    /// No image has that name.
    #[error("no image is named {name}")]
    NoSuchImage {
        /// As it was typed, or as muster.toml has it.
        name: String,
    },
    /// The newest run was asked for, and there is none.
    #[error("no run is recorded yet")]
    NoRuns,
    /// It refused a request.
    #[error("the coordinator refused to {action}")]
    Refused {
        /// What was asked, as an infinitive.
        action: &'static str,
        /// Its answer.
        source: Box<tonic::Status>,
    },
    /// A blob could not be sent.
    #[error("cannot upload what the tests need")]
    Upload {
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The connection was lost in the middle of a run and did not come back.
    #[error("lost the coordinator at {url} in the middle of run {run}, and it did not come back within {} s", patience.as_secs())]
    Lost {
        /// Where.
        url: String,
        /// Which run.
        run: u64,
        /// How long it was waited for.
        patience: Duration,
        /// The last thing it said.
        source: Box<tonic::Status>,
    },
    /// It broke the protocol.
    #[error("the coordinator's answer makes no sense")]
    Protocol {
        /// What is wrong with it.
        message: String,
    },
}

/// Why the embedded fleet did not start.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// There is no home directory to keep data in.
    #[error("no directory for the embedded fleet's data: neither XDG_DATA_HOME nor HOME is set")]
    NoHome,
    /// Another process has the directory.
    #[error("{} is in use by another muster", data.display())]
    Busy {
        /// The directory.
        data: PathBuf,
    },
    /// A file of it can't be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A part of it did not start.
    #[error("the embedded {part} did not start")]
    Start {
        /// `coordinator`, `base` or `agent-N`.
        part: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ExpectedError {
    /// The number that the process leaves with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Project(ProjectError::NoProject { .. } | ProjectError::NoSuite { .. }) => ExitCode::NothingToRun,
            Self::Project(_) => ExitCode::ProjectFailed,
            Self::Fleet(FleetError::Address { .. } | FleetError::ServerAddress { .. }) => ExitCode::Usage,
            Self::Fleet(FleetError::NoSuchCheck { .. }) => ExitCode::NothingToRun,
            Self::Fleet(_) | Self::Embedded(_) => ExitCode::FleetFault,
            Self::Cache(error) => error.exit_code(),
            Self::Image(_) => ExitCode::Usage,
            Self::Report { .. } | Self::BrokenPipe => ExitCode::ReportFailed,
            Self::Cancelled => ExitCode::Cancelled,
        }
    }

    /// Why, from the nearest cause to the farthest; a cause that only repeats what was said is left out.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        match self {
            Self::Fleet(FleetError::Precondition { message, .. }) => causes.push(without_hints(message)),
            Self::Fleet(FleetError::Protocol { message }) => causes.push(message.clone()),
            Self::Fleet(FleetError::NoSuchOperation { .. }) => causes.push(format!(
                "it is forgotten {} after its end at the latest, and when the coordinator is started again",
                text::duration(OPERATION_KEPT_TIME)
            )),
            Self::Project(ProjectError::BuildFailed { output, .. }) if !output.is_empty() => {
                causes.push(output.trim_end().to_owned());
            }
            _ => {}
        }
        let mut said = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            // A status shows its code and metadata; people want its words.
            let status = cause
                .downcast_ref::<tonic::Status>()
                .or(cause.downcast_ref::<Box<tonic::Status>>().map(|status| &**status));
            let words = status.map_or_else(|| cause.to_string(), status_words);
            if !said.contains(&words) {
                causes.push(words.clone());
            }
            said = words;
            next = cause.source();
        }
        causes
    }

    /// The next things to type, without `hint:`.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Project(error) => error.hint().into_iter().collect(),
            Self::Fleet(error) => error.hints(),
            Self::Cache(error) => error.hints(),
            Self::Image(error) => vec![error.hint().to_owned()],
            Self::Embedded(error) => error.hints(&self.causes()),
            Self::Report { .. } => vec!["name a file in a directory that is there and can be written to".into()],
            Self::BrokenPipe | Self::Cancelled => Vec::new(),
        }
    }

    /// A report that can't be written to `what`.
    pub fn report(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| match source.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Report { what, source },
        }
    }

    /// The whole message as it is written to standard error: `error:`, `cause:` lines, `hint:` lines.
    pub fn render(&self) -> String {
        let mut message = format!("error: {}\n", text::escape_line(&self.to_string()));
        for cause in self.causes() {
            message.push_str(&format!("  cause: {}\n", text::escape_block(&cause).replace('\n', "\n         ")));
        }
        for hint in self.hints() {
            message.push_str(&format!("  hint: {}\n", text::escape_line(&hint)));
        }
        message
    }
}

fn status_words(status: &tonic::Status) -> String {
    match (status.message(), status.code()) {
        ("", code) => format!("{}, without a word", code_name(code)),
        (message, _) => message.to_owned(),
    }
}

impl FleetError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Address { .. } => vec!["write it as http://HOST:7420".into()],
            Self::Unreachable { url, .. } => vec![
                format!("is it running? on its machine: muster coordinator start --listen {}", listen_address(url)),
                "leave out --fleet to run on this machine alone".into(),
            ],
            Self::ServerAddress { .. } => vec!["write it as grpc://HOST:PORT".into()],
            Self::ServerUnreachable { .. } => vec!["is it running, and without TLS?".into()],
            Self::NoSuchCheck { .. } => vec!["muster conformance --list URL shows every check".into()],
            Self::NoFleet { .. } => vec![
                "muster test runs a project's tests on this machine and records the run".into(),
                "--fleet http://HOST:7420 (or MUSTER_FLEET) asks a coordinator elsewhere".into(),
            ],
            Self::Precondition { message, environment } => precondition_hints(message, *environment),
            Self::NoSuchImage { name } => {
                vec![
                    format!("muster image import --name {name} ARCHIVE"),
                    "muster image ls shows those that there are".into(),
                ]
            }
            Self::NoSuchRun { .. } => vec!["muster runs list".into()],
            Self::NoSuchOperation { .. } => vec![
                "muster fleet status shows operations that run and wait".into(),
                "muster runs list shows runs, which have numbers".into(),
            ],
            Self::NoRuns => vec!["muster test".into()],
            Self::Lost { run, url, .. } => vec![
                "the run goes on when the coordinator is back".into(),
                format!("muster runs show {run} --fleet {url}"),
            ],
            Self::Upload { .. } | Self::Refused { .. } | Self::Protocol { .. } => Vec::new(),
        }
    }
}

fn listen_address(url: &str) -> String {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').map_or("7420", |(_, port)| port);
    format!("0.0.0.0:{port}")
}

/// The words by which a kernel that allows no user namespaces is known in an agent's or a coordinator's message.
const NAMESPACE_WORDS: [&str; 3] = ["user namespace", "unprivileged_userns", "max_user_namespaces"];

/// A peer's message may end in hints of its own.
fn hint_line(line: &str) -> Option<&str> {
    line.strip_prefix("hint: ")
}

fn without_hints(message: &str) -> String {
    message.lines().filter(|line| hint_line(line).is_none()).collect::<Vec<_>>().join("\n")
}

fn precondition_hints(message: &str, environment: EnvironmentKind) -> Vec<String> {
    let lacks_sandbox =
        message.contains("working sandbox environment") || NAMESPACE_WORDS.iter().any(|words| message.contains(words));
    if lacks_sandbox && environment == EnvironmentKind::Sandbox {
        return vec![
            "allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=65536 \
             (Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0)"
                .into(),
            "or run without isolation from the host: muster test --environment host".into(),
        ];
    }
    let given: Vec<String> = message.lines().filter_map(hint_line).map(str::to_owned).collect();
    if !given.is_empty() {
        return given;
    }
    if message.contains("blobs are missing") {
        return vec![
            "an image that was evicted is stored again by: muster image import ARCHIVE; with --name it is kept".into(),
        ];
    }
    let mut hints = vec!["muster fleet status shows what the agents offer".into()];
    if message.contains("base ") {
        hints.push("--base NAME asks for a base that they have, --base none for no base at all".into());
    }
    if message.contains("property ") {
        hints.push("start an agent with that label: muster agent start --label KEY=VALUE".into());
    }
    hints
}

impl EmbeddedError {
    fn hints(&self, causes: &[String]) -> Vec<String> {
        match self {
            Self::NoHome | Self::File { .. } => vec!["--data DIR names another directory".into()],
            Self::Busy { .. } => vec!["wait for it, or use another directory: --data DIR".into()],
            Self::Start { source, .. } => {
                match causes.iter().any(|cause| NAMESPACE_WORDS.iter().any(|w| cause.contains(w))) {
                    true => precondition_hints("working sandbox environment", EnvironmentKind::Sandbox),
                    false => source.downcast_ref::<AgentError>().and_then(AgentError::hint).into_iter().collect(),
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
